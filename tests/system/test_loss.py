# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing is lost at the default size; what is lost is counted exactly, and shown where."""

import os
import re
import signal
import time

import ftrace
import readertext
from harness import params, say
from vm import BUILD, COUNTED, VM, Reader

VALUE = 424242  # as in tests/guest/counted.bpf.c
CALLS = 60000


@params('6.12', thorough=['6.1'])
def test_none_at_default_size(kernel):
    """All events of a busy guest, the reader on its default policy."""
    script = '''
agent_start || exit 1
workload mix 10 2
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, memory='1G') as vm:
        vm.start()
        reader = Reader(vm, '--view', 'summary')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        for line in reader.out().splitlines():
            say(line)
        received = int(re.search(r'^received +(\d+)', reader.out(), re.M)[1])
        assert received > 200000
        assert re.search(r'overwritten 0, dropped 0, corrupt 0,', reader.out())
        assert float(re.search(r'^sched_switch .* ([\d.]+)$', reader.out(), re.M)[1]) <= 24
        agent = re.search(r'^agent .*?([\d.]+) % of a CPU', reader.out(), re.M)
        assert float(agent[1]) < 1, agent[0]  # 0.3 on a quiet machine; one that does not idle takes far more


def exact(policy, kernel, mode='auto', attached='direct', make=VM, before=''):
    """
    A tiny ring and a stopped reader. ftrace records the same events beside it: numbered calls, and
    the forks, execs and renames that are always traced. So what was produced on each CPU is known
    without asking the ring, and so is which records are missing, and where.
    """
    script = before + ftrace.SHELL + f'''
agent_start --events none --bpf /counted.bpf.o --buffer 64K --policy {policy} --mode {mode} || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
ftrace_on raw_syscalls/sys_enter sched/sched_process_fork sched/sched_process_exec task/task_rename
workload count 1 {VALUE}
echo READY
sleep 4
workload count {CALLS} {VALUE}
echo COUNTED
sleep 6
workload count 1000 {VALUE}
sleep 1
ftrace_off
agent_stop
ftrace_dump
'''
    cpus = 2
    with make(script, kernel=kernel, cpus=cpus, add=[COUNTED], memory='1G', disk_mib=64) as vm:
        vm.start()
        reader = Reader(vm)
        vm.wait_for('READY')
        reader.wait_for(attached)
        reader.wait_for(' counted: number=0', where='out')
        reader.signal(signal.SIGSTOP)
        vm.wait_for('COUNTED', timeout=180)
        time.sleep(1)
        reader.signal(signal.SIGCONT)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        theirs, stats = ftrace.read_dump(vm.disk)
        for cpu in range(cpus):
            assert stats[cpu]['overrun'] == '0'
            produced = [key(e) for _, e in theirs[cpu] if e[0] != 'sys_enter' or e[3] == VALUE]
            compare(cpu, produced, ours(reader.out_path, cpu))


@params(('discard', '6.12'), ('overwrite', '6.1'), thorough=[('overwrite', '6.12'), ('discard', '6.1')])
def test_exact(policy, kernel):
    exact(policy, kernel)


@params('6.12', thorough=['6.1'])
def test_skipped_by_kernel(kernel):
    """
    What the kernel skips before a program runs is reported as lost too: here, exactly one inner
    call for each that is recorded. A kprobe's are counted from 6.7 on; before, that is said.
    """
    calls = 5000
    recursing = os.path.join(BUILD, 'tests', 'recursing.bpf.o')
    script = f'''
agent_start --events none --bpf /recursing.bpf.o || exit 1
workload count {calls} {VALUE}
sleep 2
agent_stop
'''
    with VM(script, kernel=kernel, cpus=1, add=[recursing]) as vm:
        vm.start()
        reader = Reader(vm, '-o', 'text:' + vm.dir + '/text')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        out = reader.out() + reader.err()
        recorded = int(re.search(r'^deleted +(\d+)', out, re.M)[1])
        line = re.search(r'^skipped +(.*)$', out, re.M)[1]
        say(f'{recorded} recorded; skipped: {line}')
        assert recorded == calls
        assert re.search(r'\b%d\b' % calls, line), line
        with open(vm.dir + '/text', encoding='utf-8') as f:
            told = [int(n) for n in re.findall(r'^--- (\d+) calls of recursing/on_delete were skipped',
                                               f.read(), re.M)]
        assert sum(told) == calls, told
        assert re.search(r'^lost +%d .*skipped %d' % (calls, calls), out, re.M), out
        assert ('not counted' in line) == (kernel == '6.1'), line


def key(event):
    return ('counted', event[4]) if event[0] == 'sys_enter' else event


def ours(path, cpu):
    """What the reader showed of one CPU: keys of records, and numbers for loss markers."""
    id_of = {'counted': 'number', 'sched_process_fork': 'child_tid', 'sched_process_exec': 'tid',
             'task_rename': 'tid'}
    for _, c, rest in readertext.lines(path):
        if c != cpu:
            continue
        gap = readertext.LOST.search(rest)
        if gap:
            yield int(gap['n'])
            continue
        m = readertext.EVENT.match(rest)
        name = m['event']
        yield (name, int(re.match(r'\d+', readertext.value(m['fields'], id_of[name]))[0]))


def compare(cpu, produced, shown):
    """Each record shown must be the next one produced, but for as many as the markers say."""
    at, received, lost, gaps, pending = None, 0, 0, 0, 0
    for item in shown:
        if isinstance(item, int):
            pending += item
            gaps += 1
            continue
        if at is None:  # before ftrace was on
            if item not in produced[:50]:
                pending = gaps = 0
                continue
            at = produced.index(item)
            first, pending = at, 0
        else:
            at += 1 + pending
        if at >= len(produced):  # after it was off
            break
        assert produced[at] == item, \
            f'CPU {cpu}: shown {item} behind {pending} lost; produced there: {produced[at]}'
        received += 1
        lost += pending
        pending = 0
    total = min(at + 1, len(produced)) - first
    say(f'CPU {cpu}: produced {total} = received {received} + lost {lost}; {gaps} gaps, each marked '
        f'where it is')
    assert received + lost == total
    assert total > CALLS and lost > CALLS // 2 and gaps > 0

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What host-reader shows is what ftrace recorded in the same guest at the same time."""

import re

import ftrace
import readertext
from harness import params, say
from vm import VM, Reader

BEGIN, END = 777001, 777002
SECONDS = 12
RATE = 240  # rounds a second and pair: about 10,000 events a second and CPU

SCRIPT = ftrace.SHELL + f'''
agent_start --events sched_switch,sys_enter $AGENT || exit 1
ftrace_on sched/sched_switch raw_syscalls/sys_enter
workload mark {BEGIN}
workload mix {SECONDS} 2 {RATE}
workload mark {END}
ftrace_off
agent_stop || exit 1
ftrace_dump
'''


def ours(path):
    """{cpu: [(time, event tuple)]} as ftrace.read_dump() gives them."""
    events = {}
    lost = 0
    for time, cpu, rest in readertext.lines(path):
        if readertext.LOST.search(rest):
            lost += 1
            continue
        m = readertext.EVENT.match(rest)
        fields = m['fields']
        if m['event'] == 'sched_switch':
            prev = re.fullmatch(r'(\d+)\((.*)\)', readertext.value(fields, 'prev_tid'))
            next_ = re.fullmatch(r'(\d+)\((.*)\)', readertext.value(fields, 'next_tid'))
            event = ('sched_switch', prev[2], int(prev[1]),
                     int(readertext.value(fields, 'prev_prio')),
                     readertext.value(fields, 'prev_state'), next_[2], int(next_[1]),
                     int(readertext.value(fields, 'next_prio')))
        elif m['event'] == 'sys_enter':
            nr = re.match(r'-?\d+', readertext.value(fields, 'nr'))[0]
            args = readertext.value(fields, 'args').strip('[]').split(',')
            tid = re.match(r'\d+', readertext.value(fields, 'tid'))[0]
            event = ('sys_enter', int(tid), int(nr)) + tuple(int(a, 0) for a in args)
        else:
            continue
        events.setdefault(cpu, []).append((time / 1e9, event))
    return events, lost


def same(x, y):
    """
    Equal, but for one race that no two observers can win: a task that ends is a zombie (Z) until
    its parent has reaped it (X), which may happen between ftrace's look and ours.
    """
    if x == y:
        return True
    return x[0] == y[0] == 'sched_switch' and {x[4], y[4]} == {'Z', 'X'} and \
        x[:4] + x[5:] == y[:4] + y[5:]


def between_marks(events):
    """What lies between the two marks on one CPU, marks included."""
    def mark(value):
        return [i for i, (_, e) in enumerate(events)
                if e[0] == 'sys_enter' and e[2] == 121 and e[3] == value]
    first, last = mark(BEGIN), mark(END)
    assert len(first) == 1 and len(last) == 1, f'marks: {first} {last}'
    return events[first[0]:last[0] + 1]


def compare(kernel, cpus, agent='', make=VM, before=''):
    """Gives the reader's summary."""
    with make(f"AGENT='{agent}'\n" + before + SCRIPT, kernel=kernel, cpus=cpus, memory='1536M', disk_mib=512) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=400)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        theirs, stats = ftrace.read_dump(vm.disk)
        mine, lost = ours(reader.out_path)
        assert lost == 0, 'events were lost'
        for cpu in range(cpus):
            assert stats[cpu]['overrun'] == '0', 'ftrace lost events: larger buffer needed'
            a, b = between_marks(mine[cpu]), between_marks(theirs[cpu])
            for i, (x, y) in enumerate(zip(a, b)):
                assert same(x[1], y[1]), f'CPU {cpu}, event {i}: we {x}, ftrace {y}'
            assert len(a) == len(b), f'CPU {cpu}: {len(a)} events, ftrace {len(b)}'
            span = a[-1][0] - a[0][0]
            apart = sorted(abs(x[0] - y[0]) for x, y in zip(a, b))
            switches = sum(e[1][0] == 'sched_switch' for e in a)
            say(f'CPU {cpu}: {len(a)} events ({switches} sched_switch, {len(a) - switches} sys_enter) '
                f'in {span:.1f} s, all equal; times apart: median '
                f'{apart[len(apart) // 2] * 1e6:.1f} us, p99 {apart[len(apart) * 99 // 100] * 1e6:.1f} us')
            assert len(a) >= 50000, 'too few events for the comparison'
            assert span >= 10
        return reader.err()


@params(('6.1', 2), ('6.12', 1), thorough=[('6.1', 1), ('6.1', 4), ('6.12', 4)])
def test_truth(kernel, cpus):
    compare(kernel, cpus)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Hypercalls, upcalls and stolen time in a Xen PV dom0: events are the kernel's tracepoints' and counters', views what
Python makes of the events.
"""

import collections
import json
import os
import re
import subprocess

import ftrace
from harness import params, say
from marks import BEGIN, END, Span
from test_drivers import XenVM
from vm import READER, Reader

BEGIN_RQ, END_RQ = 777003, 777004
MARKS = BEGIN, END, BEGIN_RQ, END_RQ
NONE = 255  # in arrays of operations

# ftrace's events that ours are compared with: our fields, and a pattern of its text.
BESIDE = {
    'xen_mc_batch': (('mode',), r'.*LAZY_(\w+)'),
    'xen_mc_issue': (('mode',), r'.*LAZY_(\w+)'),
    'xen_mc_entry': (('op', 'op.name'), r'op (\d+)\((\w+)\)'),
    'xen_mc_extend_args': (('op', 'op.name', 'bytes', 'result.name'), r'extending op (\d+)\((\w+)\) by (\d+) bytes res (\w+)'),
    'xen_mc_flush': (('calls', 'arg_bytes', 'callbacks'), r'flushing (\d+) hypercalls, (\d+) arg bytes, (\d+) callbacks'),
}
FUNCTIONS = {'xen_evtchn_do_upcall': 'xen_upcall', 'handle_irq_for_port': 'xen_event_channel'}
RESULTS = {'OK': 'extended', 'BAD_OP': 'other_op', 'NO_SPACE': 'no_space'}
MODES = {'NONE': '0', 'MMU': '1', 'CPU': '2'}

SCRIPT = ftrace.SHELL + f'''
counts() {{ # NAME
	sed "s/^/$1 /" /proc/interrupts
	grep '^cpu[0-9]' /proc/stat | sed "s/^/$1 stat /"
}}
spin() {{ # two virtual CPUs, one that is real
	workload spin $1 &
	first=$!
	workload spin $1
	wait $first
}}
guest-agent --events help | sed 's/^/HELP /'
agent_start --events sys_enter,hypercalls,steal || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
echo '{' '.join(FUNCTIONS)}' > $T/set_ftrace_filter
echo function > $T/current_tracer
ftrace_on raw_syscalls/sys_enter {' '.join('xen/' + name for name in BESIDE)}
sleep 1
counts OUTER0
workload mark {BEGIN}
counts INNER0
for i in $(seq 30); do /bin/true; done
dd if=/dev/zero of=/tmp/zeros bs=64k count=32 2> /dev/null
spin 3
counts INNER1
workload mark {END}
counts OUTER1
ftrace_off
agent_stop || exit 1
ftrace_dump
echo nop > $T/current_tracer
agent_start --events sys_enter,steal__rq || exit 1
counts RQ-OUTER0
workload mark {BEGIN_RQ}
counts RQ-INNER0
spin 2
counts RQ-INNER1
workload mark {END_RQ}
counts RQ-OUTER1
agent_stop || exit 1
agent_start --events xen_mc_entry,xen_mc_flush --stack 'xen_mc_*' || exit 1
for i in 1 2 3 4 5; do /bin/true; done
sleep 1
agent_stop || exit 1
'''


class SlowXenVM(XenVM):
    """
    With one CPU for two virtual ones, so that they take each other's time. Without xsave: what Xen saves by it from one
    and restores to the other does not survive QEMU 7.2's emulation, and programs' memory gets corrupted.
    """

    def __init__(self, script, kernel):
        super().__init__(script, kernel)
        self.command[self.command.index('-smp') + 1] = '1'
        self.command[self.command.index('-cpu') + 1] += ',-xsave,-avx,-avx2,-f16c,-fma,-pku'


def fields_of(event, names):
    return [str(event['fields'].get(name)) for name in names]


def ours_of(events):
    """{cpu: [(time, name, values)]}, with marks."""
    found = collections.defaultdict(list)
    for e in events:
        name, values = e['event'], []
        if name == 'sys_enter' and e['fields']['nr'] == 121:
            name, values = 'mark', [e['fields']['args'][0]]
        elif name in BESIDE:
            values = fields_of(e, BESIDE[name][0])
        elif name not in FUNCTIONS.values():
            continue
        found[e['cpu']].append((e['time'], name, values))
    return found


LINE = re.compile(r'^.*-\d+\s+\[\d+\]\s+\S+\s+(?P<time>[\d.]+): (?:(?P<event>\w+): (?P<rest>.*)|(?P<function>\w+) <-.*)$')


def theirs_of(path):
    found = collections.defaultdict(list)
    for cpu, line in ftrace.complete_lines(path):
        m = LINE.match(line)
        assert m, line
        time = int(m['time'].replace('.', '')) * 1000
        if m['function']:
            found[cpu].append((time, FUNCTIONS[m['function']], []))
        elif m['event'] == 'sys_enter':
            call = ftrace.SYS_ENTER.match(m['rest'])
            found[cpu].append((time, 'mark', [int(call[2].split(',')[0], 16)]))
        else:
            text = re.match(BESIDE[m['event']][1], m['rest'].strip())
            assert text, line
            values = [RESULTS.get(v, MODES.get(v, v)) for v in text.groups()]
            found[cpu].append((time, m['event'], values))
    return found


def compare_with_ftrace(events, path):
    mine, theirs = ours_of(events), theirs_of(path)
    spans = [Span(mine[cpu], theirs[cpu]) for cpu in range(2)]
    count = {}
    for name in (*BESIDE, *FUNCTIONS.values()):
        count[name] = 0
        for cpu, span in enumerate(spans):
            if name == 'xen_mc_flush':
                # An interrupt that comes while the flush of a task is recorded, and flushes itself: the kernel skips it.
                least, most = span.missing(name, f'CPU {cpu}')
                n = len(span.of(name)[0])
                assert least <= n / 500, f'{least} of {n} flushes are missing'
                count[name] += n
            else:
                count[name] += span.compare(name, lambda x, y: x == y, f'CPU {cpu}')
    say('as ftrace: ' + ', '.join(f'{name} {n}' for name, n in count.items()))
    assert all(n for name, n in count.items() if name != 'xen_mc_extend_args'), count


def table(console, when, pattern):
    return {m[1]: m for m in re.finditer(rf'^{when} +{pattern}', console, re.M)}


def marked(events, cpu, mark):
    return next(e['time'] for e in events if e['cpu'] == cpu and e['event'] == 'sys_enter' and
                e['fields']['nr'] == 121 and e['fields']['args'][0] == mark)


INTERRUPT = r'(\w+): +(\d+) +(\d+) +(.*?)\s*$'


def compare_with_interrupts(events, console):
    """
    Event channels are the kernel's interrupts: not fewer than between its inner readings, not more than between the
    outer. It does not show its count of upcalls (HYP) in PV guests: that they are as many as ftrace has is shown above,
    in its place. They take no less time than the event channels that are handled in them.
    """
    of = {when: table(console, when, INTERRUPT) for when in ('OUTER0', 'INNER0', 'INNER1', 'OUTER1')}
    for rows in of.values():
        assert 'NMI' in rows and 'HYP' not in rows, rows.keys()

    def bounds(irq, cpu):
        def value(when):
            return int(of[when][irq][2 + cpu]) if irq in of[when] else 0
        return value('INNER1') - value('INNER0'), value('OUTER1') - value('OUTER0')

    def ours(cpu, name):
        at = [marked(events, cpu, mark) for mark in (BEGIN, END)]
        return [e['fields'] for e in events if e['cpu'] == cpu and e['event'] == name and at[0] <= e['time'] <= at[1]]

    types, irqs = collections.Counter(), 0
    for cpu in range(2):
        upcalls = ours(cpu, 'xen_upcall')
        channels = ours(cpu, 'xen_event_channel')
        handled = sum(u['channels'] for u in upcalls)
        assert abs(handled - len(channels)) <= 2, (handled, len(channels))
        within, ns = sum(c['ns'] for c in channels), sum(u['ns'] for u in upcalls)
        assert 0 < within <= ns, (within, ns)
        say(f'CPU {cpu}: {len(upcalls)} upcalls, {ns / 1e6:.3f} ms, {within / 1e6:.3f} ms of that in {len(channels)} event '
            'channels')
        for irq, n in collections.Counter(c['irq'] for c in channels).items():
            least, most = bounds(str(irq), cpu)
            assert least <= n <= most, f'irq {irq}: {n}, {least} to {most}'
            irqs += 1
        for c in channels:
            text = of['OUTER1'][str(c['irq'])][4]
            want = {'-virq': 'virq', '-ipi': 'ipi', '-event': 'evtchn', 'pirq': 'pirq'}
            kind = next(v for k, v in want.items() if k in text)
            assert c['type.name'] == kind and c['name'] in text, (c, text)
            types[kind] += 1
    say(f'{irqs} interrupts as /proc/interrupts counts them: {dict(types)}')
    assert types['virq'] and types['ipi']


def compare_steal(events, console, prefix, marks):
    """/proc/stat has hundredths of a second, of what the ticks accounted for: likewise."""
    readings = [table(console, prefix + when, r'stat cpu(\d+) (.*)$') for when in ('INNER0', 'INNER1', 'OUTER0', 'OUTER1')]
    for cpu in range(2):
        begin, end = (marked(events, cpu, mark) for mark in marks)
        ours = sum(e['fields']['stolen_ns'] for e in events if e['event'] == 'steal' and e['fields']['cpu'] == cpu and
                   begin <= e['time'] <= end) / 1e9
        stolen = [int(of[str(cpu)][2].split()[7]) / 100 for of in readings]
        least, most = stolen[1] - stolen[0], stolen[3] - stolen[2]
        say(f'CPU {cpu}: {ours:.3f} s stolen, /proc/stat {least:.2f} to {most:.2f}')
        assert least - 0.03 <= ours <= most + 0.03 and least > 0.3 and least > 0.6 * most


def check_composition(events):
    """What a flush says that is in it was queued since the flush before on its CPU, in this order."""
    nr = other = 0
    for cpu in range(2):
        begin, end = (marked(events, cpu, mark) for mark in (BEGIN, END))
        queued = None
        for e in events:
            if e['cpu'] != cpu or not begin <= e['time'] <= end:
                continue
            if e['event'] == 'xen_mc_entry' and queued is not None:
                queued.append(e['fields']['op'])
            elif e['event'] == 'xen_mc_flush':
                if queued is not None:
                    nr += 1
                    other += [op for op in e['fields']['op'] if op != NONE] != queued
                queued = []
    say(f'{nr} flushes, all but {other} of what was queued just before')
    assert nr > 1000 and other <= nr / 500


def view(name, source):
    run = subprocess.run([READER, '--view', name, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def check_hypercalls(events, shown):
    flushes = [e['fields'] for e in events if e['event'] == 'xen_mc_flush']
    full = [f for f in flushes if f['calls']]
    assert shown['flushes']['count'] == len(full) and shown['flushes']['ns'] == sum(f['ns'] for f in full)
    assert shown['empty_flushes']['count'] == len(flushes) - len(full)
    assert shown['calls'] == sum(f['calls'] for f in full) and shown['unknown'] == 0 and shown['no_room'] == 0
    assert shown['most_calls'] == max(f['calls'] for f in full)
    calls, queued, batches, upcalls = (collections.Counter() for _ in range(4))
    times = collections.Counter()
    for f in full:
        ops = sorted(op for op in f['op'] if op != NONE)
        assert len(ops) == f['calls'], f
        calls.update(ops)
        batches[tuple(sorted(collections.Counter(ops).items()))] += 1
        times[tuple(sorted(collections.Counter(ops).items()))] += f['ns']
    queued.update(e['fields']['op'] for e in events if e['event'] == 'xen_mc_entry')
    numbers = {o['operation']: o['number'] for o in shown['operations']}
    assert {o['number']: o['calls'] for o in shown['operations'] if o['calls']} == dict(calls)
    assert {o['number']: o['queued'] for o in shown['operations']} == dict(queued)
    got = {tuple(sorted((numbers[c['operation']], c['calls']) for c in b['calls'])): (b['flushes'], b['ns'])
           for b in shown['batches']}
    assert got == {k: (n, times[k]) for k, n in batches.items()}
    upcalls.update(e['fields'].get('tid.comm', '<...>') for e in events if e['event'] == 'xen_upcall')
    assert shown['upcalls']['count'] == sum(upcalls.values())
    assert sum(t['count'] for t in shown['upcalls_by_task']) == sum(upcalls.values())
    assert sum(c['count'] for c in shown['channels']) == sum(e['event'] == 'xen_event_channel' for e in events)
    say(f'{shown["calls"]} hypercalls, {len(got)} kinds of batches, {len(shown["upcalls_by_task"])} tasks with upcalls, '
        f'{len(shown["channels"])} event channels')


def check_folded(events, text):
    stacks = collections.Counter()
    for e in events:
        frames = e['fields'].get('callstack_kernel') if e['event'] == 'xen_mc_entry' else None
        if frames:
            names = [f['symbol'] if 'symbol' in f else hex(f['address']) for f in reversed(frames)]
            stacks[';'.join(names + [e['fields']['op.name']])] += 1
    got = {line.rpartition(' ')[0]: int(line.rpartition(' ')[2]) for line in text.splitlines()}
    assert got == dict(stacks) and len(got) > 5, (list(got.items())[:3], list(stacks.items())[:3])
    assert all('xen_' in line for line in got)
    say(f'{len(got)} stacks, of {sum(got.values())} hypercalls')


def check_steal(events, shown):
    of = collections.defaultdict(list)
    for e in events:
        if e['event'] == 'steal':
            of[e['fields']['cpu']].append(e['fields'])
    for cpu in shown['vcpus']:
        mine = [f['stolen_ns'] for f in of[cpu['vcpu']] if f['stolen_ns']]
        assert cpu['count'] == len(mine) and cpu['recorded_ns'] == sum(mine) == cpu['stolen_ns'], cpu
        assert cpu['max_ns'] == max(mine) and sum(o['count'] for o in cpu['octaves']) == len(mine)
        assert 0 < cpu['stolen_ns'] < cpu['observed_ns']
    assert len(shown['vcpus']) == 2


@params('6.1')
def test_xen(kernel):
    with SlowXenVM(SCRIPT, kernel) as vm:
        vm.start()
        raw, out = os.path.join(vm.dir, 'raw'), os.path.join(vm.dir, 'out.json')
        reader = Reader(vm, '-o', f'raw:{raw}', '-o', f'json:{out}', '-o', 'text', '--view', 'hypercalls:json')
        status = vm.finish(timeout=330)
        assert reader.stop() == 0, reader.err()
        console = vm.console()
        assert status == 0, console[-3000:]
        assert 'left out' not in console and 'HELP       xen_mc_batch xen_mc_issue' in console, console[-3000:]
        with open(out, encoding='utf-8') as f:
            events = [json.loads(line) for line in f]
        assert not any('lost' in e for e in events), [e for e in events if 'lost' in e][:3]
        events = [e for e in events if 'event' in e and 'fields' in e]
        compare_with_ftrace(events, vm.disk)
        compare_with_interrupts(events, console)
        compare_steal(events, console, '', (BEGIN, END))
        compare_steal(events, console, 'RQ-', (BEGIN_RQ, END_RQ))
        check_composition(events)
        live = reader.out()
        source = f'file:{raw}'
        assert live == view('hypercalls:json', source)
        check_hypercalls(events, json.loads(live))
        check_folded(events, view('hypercalls:folded', source))
        check_steal(events, json.loads(view('steal:json', source)))
        for name, head in (('hypercalls', 'HYPERCALL'), ('steal', 'Stolen ms')):
            text = view(name, source)
            assert head in text, text
            say('\n' + '\n'.join(text.splitlines()[:40]))

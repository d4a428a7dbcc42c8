# SPDX-License-Identifier: LGPL-2.1-or-later
"""Filters, in the guest and in the reader: ftrace with the same filter records the same events."""

import os
import re
import subprocess

import ftrace
import readertext
from harness import params, say
from test_truth import ours, same
from vm import AGENT, COUNTED, READER, VM, Reader

VALUE = 424242  # as in tests/guest/counted.bpf.c
MARK = 778000
GETPGID, GETPPID = 121, 110

# Ours; ftrace's for sched_switch and for sys_enter ('0': none but the marks).
CASES = [
    ('prev_tid != 0 && next_prio <= 120', 'prev_pid != 0 && next_prio <= 120', '0'),
    ('prev_prio > -1 && next_tid == 0', 'prev_prio > -1 && next_pid == 0', '0'),
    ('next_tid & 1 && prev_state == S', 'next_pid & 1 && prev_state == 1', '0'),
    ('comm == workload', 'COMM == "workload"', 'COMM == "workload"'),
    ('tid > 100 && comm == w* && !(pid == 1)', 'common_pid > 100 && COMM ~ "w*"',
     'common_pid > 100 && COMM ~ "w*"'),
    ('!(comm != workload) && cpu != 0', 'COMM == "workload" && CPU != 0',
     'COMM == "workload" && CPU != 0'),
    (f'nr == {GETPPID} || nr > 0x100 && nr <= 300', '0', f'id == {GETPPID} || id > 256 && id <= 300'),
    # sys_enter has neither: a comparison is false there, what negates it true
    ('child_tid == 1 || !(prev_tid & 0xffffffff)', 'prev_pid == 0', 'id >= 0'),
]


def case_script(i, agent, switch, enter):
    never = 'prev_pid == -2'
    return f'''
agent_start --events sched_switch,sys_enter {agent} || exit 1
echo '{never if switch == '0' else switch}' > $T/events/sched/sched_switch/filter || exit 1
echo '{f'id == {GETPGID}' if enter == '0' else f'id == {GETPGID} || ({enter})'}' \
	> $T/events/raw_syscalls/sys_enter/filter || exit 1
{'echo 1 > $T/tracing_on' if i else 'ftrace_on sched/sched_switch raw_syscalls/sys_enter'}
workload mark {MARK + 2 * i}
workload mix 2 2 100
workload mark {MARK + 2 * i + 1}
ftrace_off
agent_stop || exit 1
'''


def part(events, i):
    """What lies between case @i's marks on one CPU."""
    at = [[k for k, (_, e) in enumerate(events)
           if e[0] == 'sys_enter' and e[2] == GETPGID and e[3] == mark]
          for mark in (MARK + 2 * i, MARK + 2 * i + 1)]
    assert len(at[0]) == len(at[1]) == 1, f'marks of case {i}: {at}'
    return events[at[0][0]:at[1][0] + 1]


def compare(vm, reader, cases):
    theirs, stats = ftrace.read_dump(vm.disk)
    mine, lost = ours(reader.out_path)
    assert lost == 0, 'events were lost'
    for i, case in enumerate(cases):
        counts = {'sched_switch': 0, 'sys_enter': 0}
        for cpu in range(vm.cpus):
            assert stats[cpu]['overrun'] == '0', 'ftrace lost events'
            a, b = part(mine[cpu], i), part(theirs[cpu], i)
            for k, (x, y) in enumerate(zip(a, b)):
                assert same(x[1], y[1]), f'{case[0]}: CPU {cpu}, event {k}: we {x}, ftrace {y}'
            assert len(a) == len(b), f'{case[0]}: CPU {cpu}: {len(a)} events, ftrace {len(b)}'
            for _, e in a:
                counts[e[0]] += 1
        say(f'{case[0]}: equal, {counts}')
        wanted = [name for name, filter in zip(('sched_switch', 'sys_enter'), case[1:]) if filter != '0']
        if 'cpu != 0' not in case[0] or vm.cpus > 1:
            assert all(counts[name] >= 20 for name in wanted), counts


@params(('6.1', 2), thorough=[('6.12', 2)])
def test_guest(kernel, cpus):
    """Compiled into the guest's programs."""
    script = ftrace.SHELL
    for i, (filter_, switch, enter) in enumerate(CASES):
        script += case_script(i, f"--filter '({filter_}) || nr == {GETPGID}'", switch, enter)
    script += 'ftrace_dump\n'
    with VM(script, kernel=kernel, cpus=cpus, memory='1536M', disk_mib=512) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=400)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        # Nothing but what matches came: the reader had nothing to leave out, but names' events.
        filtered = re.search(r'^filtered +(\d+)', reader.err(), re.M)
        received = int(re.search(r'^received +(\d+)', reader.err(), re.M)[1])
        shown = len(list(readertext.lines(reader.out_path)))
        assert shown + int(filtered[1]) == received, (shown, filtered[0], received)
        assert re.search(r"filter '\(prev_tid .*\) \|\| nr == 121': applied in the guest; here for: "
                         r'sched_process_fork, task_rename, sched_process_exec$',
                         reader.err(), re.M), reader.err()
        compare(vm, reader, CASES)


@params('6.1', thorough=['6.12'])
def test_reader(kernel):
    """Applied by the reader, to a guest that records everything: text with more than a beginning."""
    mine = f'comm == *[m-p]rkl?a* && prev_prio <= 120 || nr == {GETPGID}'
    theirs = 'COMM ~ "*orkloa*" && prev_prio <= 120'
    script = ftrace.SHELL + case_script(0, '', theirs, '0') + 'ftrace_dump\n'
    with VM(script, kernel=kernel, cpus=2, memory='1536M', disk_mib=512) as vm:
        vm.start()
        reader = Reader(vm, '--filter', mine, '-o', 'text', '-o', f'json:{vm.dir}/out.json',
                        '-o', f'ctf:{vm.dir}/ctf')
        status = vm.finish(timeout=400)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        compare(vm, reader, [(mine, theirs, '0')])
        received = int(re.search(r'^received +(\d+)', reader.err(), re.M)[1])
        filtered = int(re.search(r'^filtered +(\d+)', reader.err(), re.M)[1])
        shown = len(list(readertext.lines(reader.out_path)))
        with open(f'{vm.dir}/out.json', encoding='utf-8') as f:
            lines = sum('"event":' in line for line in f)
        ctf = subprocess.run(['babeltrace2', f'{vm.dir}/ctf'], stdout=subprocess.PIPE, text=True,
                             check=True).stdout
        switches = reader.out().count(' sched_switch: ')
        say(f'{received} received, {shown} shown as text, {lines} as JSON; {switches} switches')
        assert shown + filtered == received and filtered > shown > 0 and lines == shown
        assert ctf.count(' sched_switch: ') == switches > 0


@params('6.12', thorough=['6.1'])
def test_room(kernel):
    """
    A tracer of one's own, a ring of 64 KiB, no reader until the end: what does not match takes no
    room, so that nothing is overwritten. A pattern that cannot be compiled is left to the reader.
    """
    script = f'''
agent_start --events none --bpf /counted.bpf.o --buffer 64K --mode direct \
	--filter 'number & 1 && number >= 59800 && tid == pid' || exit 1
workload count 60000 {VALUE}
echo COUNTED
sleep 3
agent_stop || exit 1
agent_start --events syscalls:sys_enter_openat,sched_switch --bpf /counted.bpf.o \
	--filter 'comm == *lo?d && prev_tid > 0 || number == 7' || exit 1
workload count 10 {VALUE}
sleep 1
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, add=[COUNTED + ':/']) as vm:
        vm.start()
        vm.wait_for('COUNTED')
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        numbers = {0: [], 1: []}
        others = []
        for _, cpu, rest in readertext.lines(reader.out_path):
            assert not readertext.LOST.search(rest), rest
            m = readertext.EVENT.match(rest)
            if m['event'] == 'counted':
                numbers[cpu].append(int(readertext.value(m['fields'], 'number')))
            else:
                others.append(m)
        for cpu in numbers:
            assert numbers[cpu] == list(range(59801, 60000, 2)) + [7], numbers[cpu][-120:]
        console = vm.console()
        say(re.search(r'--filter: .*left|--filter: .*', console)[0])
        assert re.search(r'--filter: applied here to 2 events; by host-reader to '
                         r'.*more than a beginning', console), console[-2000:]
        # of names' events and the others, those whose task's name matched
        assert others and all('workload' in m['task'] for m in others), others[:3]
        assert all(m['event'] == 'sched_switch' for m in others), others
        say(f'200 of 120000 records, one of 20, and {len(others)} by name')


@params('6.1', thorough=['6.12'])
def test_stacks(kernel):
    """Records with stacks that do not say their task: as many as ftrace has, and of that task only."""
    script = ftrace.SHELL + '''
agent_start --events sched --stack sched_waking --filter 'comm == workload' || exit 1
echo 'COMM == "workload"' > $T/events/sched/sched_waking/filter || exit 1
ftrace_on sched/sched_waking
workload mix 1 1 100
ftrace_off
agent_stop || exit 1
ftrace_dump
'''
    with VM(script, kernel=kernel, cpus=2, disk_mib=64) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        lines, _ = ftrace.read_lines(vm.disk)
        theirs = sum(' sched_waking: ' in line for of_cpu in lines.values() for line in of_cpu)
        ours_ = len(re.findall(r' sched_waking: .*\n        \S', reader.out()))
        say(f'{ours_} with stacks, ftrace {theirs}')
        assert ours_ == theirs > 50


@params('6.12', thorough=['6.1'])
def test_successors(kernel):
    """The session of a killed agent goes on under its successor's filter, or under none."""
    script = '''
next() { # agent's options
	kill -KILL $agent
	wait $agent
	rm /tmp/agent.log
	sleep 0.5
	echo "AT $(cut -d ' ' -f 1 /proc/uptime)"
	agent_start --events sched_switch "$@" || exit 1
	sleep 1
}
agent_start --events sched_switch --filter 'prev_tid == 1 && prev_tid == 2' || exit 1
sleep 1
next
next --filter 'prev_tid == 0'
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        second, third = (float(t) * 1e9 for t in re.findall(r'^AT ([\d.]+)', vm.console(), re.M))
        assert vm.console().count('session adopted') == 1, vm.console()[-3000:]
        assert re.search(r'1 session$', reader.err(), re.M), reader.err()
        parts = {1: [], 2: [], 3: []}
        for time, _, rest in readertext.lines(reader.out_path):
            m = readertext.EVENT.match(rest)
            if m and m['event'] == 'sched_switch':
                idle = readertext.value(m['fields'], 'prev_tid').startswith('0(')
                parts[1 if time < second else 2 if time < third else 3].append(idle)
        say({part: len(idle) for part, idle in parts.items()}, 'switches under the three')
        assert not parts[1]
        assert any(parts[2]) and not all(parts[2])
        assert parts[3] and all(parts[3])


BAD = [
    ('prev_tid == && cpu < 2', "column 13: expected a value after '=='\n  prev_tid == && cpu < 2\n"
                               '              ^\n'),
    ('', 'column 1: the filter is empty'),
    ('(' * 65 + '1' + ')' * 65, 'column 65: nested deeper than 64'),
    ('1' + ' ' * 4096, 'column 4097: longer than 4096 bytes'),
    ('||'.join(['1'] * 600), 'more than 1000 terms'),
    ('comm = bash', "column 6: '=' is no operator; equality is '=='"),
    ('tid == 99999999999999999999', 'column 8: the number does not fit into 64 bits'),
]


def test_refused():
    for program, rest in ((READER, ['local:/nowhere']), (AGENT, [])):
        name = os.path.basename(program)
        for text, message in BAD:
            r = subprocess.run([program, '--filter', text, *rest], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=20)
            assert r.returncode == 2, (text, r)
            assert f'{name}: --filter: column ' in r.stderr and message in r.stderr, r.stderr
            assert r.stderr.splitlines()[-1].endswith('^'), r.stderr
        r = subprocess.run([program, '--filter', '1', '--filter', '2', *rest],
                           stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=20)
        assert r.returncode == 2 and 'given twice' in r.stderr, r


@params('6.1')
def test_unknown(kernel):
    """Names that no event has: the agent refuses, the reader says so and goes on."""
    script = r'''
guest-agent --events sched --filter 'cpu < 2 && prev_tdi == 0' > /tmp/out 2>&1
echo "STATUS $?"
sed 's/^/SAID /' /tmp/out
guest-agent --events sched --filter 'prev_tid == "0*"' > /tmp/out 2>&1
echo "STATUS $?"
sed 's/^/SAID /' /tmp/out
agent_start --events sched || exit 1
sleep 1
agent_stop
'''
    with VM(script, kernel=kernel) as vm:
        vm.start()
        reader = Reader(vm, '--filter', 'prev_tdi == 0')
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0
        console = vm.console()
        assert console.count('STATUS 1\n') == 2, console[-3000:]
        assert "SAID guest-agent: --filter: column 12: no event that is recorded has a field " \
               "'prev_tdi'\nSAID   cpu < 2 && prev_tdi == 0\nSAID              ^\n" in console, console
        assert 'column 10: a number is compared with text' in console
        assert "host-reader: --filter: column 1: no event that is recorded has a field 'prev_tdi'\n" \
               '  prev_tdi == 0\n  ^\n' in reader.err(), reader.err()
        assert re.search(r'^received +[1-9]', reader.err(), re.M) and not reader.out()

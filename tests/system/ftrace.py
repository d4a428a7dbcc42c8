# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's own record of the same events: ftrace's buffers, dumped to the guest's disk."""

import re

# Shell functions for guest scripts.
SHELL = '''
T=/sys/kernel/tracing
ftrace_on() { # events...
	echo mono > $T/trace_clock
	echo 65536 > $T/buffer_size_kb
	for e in "$@"; do echo 1 > $T/events/$e/enable; done
	echo 1 > $T/tracing_on
}
ftrace_off() { echo 0 > $T/tracing_on; }
ftrace_dump() { # to /dev/vda
	{
		for d in $T/per_cpu/cpu*; do
			echo "### CPU ${d##*cpu}"
			cat $d/trace
			echo "### STATS"
			cat $d/stats
		done
		echo "### END"
	} > /dev/vda
	sync
}
'''

LINE = re.compile(r'^\s*(?P<comm>.+)-(?P<tid>\d+)\s+\[(?P<cpu>\d+)\]\s+\S+\s+(?P<time>[\d.]+): '
                  r'(?P<event>\w+): (?P<rest>.*)$')
SWITCH = re.compile(r'prev_comm=(.*) prev_pid=(\d+) prev_prio=(-?\d+) prev_state=(\S+) ==> '
                    r'next_comm=(.*) next_pid=(\d+) next_prio=(-?\d+)')
FORK = re.compile(r'.* child_pid=(\d+)$')
EXEC = re.compile(r'filename=.* pid=(\d+) old_pid=\d+$')
RENAME = re.compile(r'pid=(\d+) .* newcomm=(.*) oom_score_adj')
SYS_ENTER = re.compile(r'NR (-?\d+) \((.*)\)')


def parse_event(m):
    """(event, fields...) of one line, or None for events that the tests do not compare."""
    if m['event'] == 'sched_switch':
        s = SWITCH.match(m['rest'])
        return ('sched_switch', s[1], int(s[2]), int(s[3]), s[4], s[5], int(s[6]), int(s[7]))
    if m['event'] == 'sys_enter':
        s = SYS_ENTER.match(m['rest'])
        args = tuple(int(a, 16) for a in s[2].split(', '))
        return ('sys_enter', int(m['tid']), int(s[1])) + args
    if m['event'] == 'sched_process_fork':
        return ('sched_process_fork', int(FORK.match(m['rest'])[1]))
    if m['event'] == 'sched_process_exec':
        return ('sched_process_exec', int(EXEC.match(m['rest'])[1]))
    if m['event'] == 'task_rename':
        s = RENAME.match(m['rest'])
        return ('task_rename', int(s[1]))
    return None


def read_lines(path):
    """{cpu: [line of an event]} and {cpu: statistics} of a disk that ftrace_dump() wrote."""
    lines, stats = {}, {}
    cpu, in_stats = None, False
    with open(path, encoding='utf-8', errors='replace') as f:
        for line in f:
            if line.startswith('### END'):
                return lines, stats
            if line.startswith('### CPU'):
                cpu, in_stats = int(line.split()[2]), False
                lines[cpu], stats[cpu] = [], {}
            elif line.startswith('### STATS'):
                in_stats = True
            elif in_stats:
                key, value = line.split(':', 1)
                stats[cpu][key.strip()] = value.strip()
            elif not line.startswith('#'):
                lines[cpu].append(line)
    raise RuntimeError(f'{path}: the dump is not complete')


def complete_lines(path):
    """(cpu, line) of each event; ftrace must have lost none."""
    lines, stats = read_lines(path)
    for cpu in lines:
        assert stats[cpu]['overrun'] == '0', 'ftrace lost events'
    return [(cpu, line) for cpu in lines for line in lines[cpu]]


def read_dump(path):
    """{cpu: [(time, event tuple)]} and {cpu: statistics}."""
    lines, stats = read_lines(path)
    events = {cpu: [] for cpu in lines}
    for cpu, of_cpu in lines.items():
        for line in of_cpu:
            m = LINE.match(line)
            event = parse_event(m) if m else None
            if event:
                events[cpu].append((float(m['time']), event))
    return events, stats

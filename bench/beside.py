# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Debian's tracers in a machine that tests boot, beside which ours are measured: shell functions that let a workload run
once under each, the programs, and what is made of interleaved rounds.
"""

import statistics

from vm import tool

# Whoever uses it defines result(), which prints RESULT WORKLOAD TRACER NS: the workload $w ran once, by the program
# $run, which prints its ns. $events: SYSTEM:NAME ...; $line: a basic regular expression of what these tracers show of
# the workload's events. COUNT WORKLOAD TRACER EVENTS is said of these, BYTES WORKLOAD TRACER BYTES EVENTS of all.
SHELL = r'''
export PATH=$PATH:/usr/bin
T=/sys/kernel/tracing
OUT=/dev/shm/recorded
mkdir -p /var $OUT
ln -sf /run /var/run
echo root:x:0:0:root:/root:/bin/sh > /etc/passwd
echo root:x:0: > /etc/group
failed() { echo "FAILED: $*"; cat /tmp/log; exit 1; }
nothing() { result nothing; }
# Reading all symbols, of which none is asked for, would take perf and trace-cmd longest, before and after the workload.
without_symbols() { mount --bind /dev/null /proc/kallsyms; }
with_symbols() { umount /proc/kallsyms; }
selected() { # OPTION: in front of each event
	for e in $events; do printf "%s %s\n" $1 $e; done
}
switch_events() { # 0 or 1
	for e in $events; do echo $1 > $T/events/${e%:*}/${e#*:}/enable || failed ftrace; done
}
ftrace() {
	echo 4096 > $T/buffer_size_kb
	echo > $T/trace
	switch_events 1
	echo 1 > $T/tracing_on
	result ftrace
	echo 0 > $T/tracing_on
	switch_events 0
	echo "COUNT $w ftrace $(grep -c "$line" $T/trace)"
	cat $T/per_cpu/cpu*/stats | awk -v "of=BYTES $w ftrace" '
		$1 == "bytes:" { bytes += $2 } $1 == "entries:" { n += $2 } END { print of, bytes, n }'
	echo > $T/trace
}
perf_record() {
	without_symbols
	rm -f /tmp/ctl /tmp/ack
	mkfifo /tmp/ctl /tmp/ack
	perf record -a -BN $(selected -e) -m 4M -D -1 --control fifo:/tmp/ctl,/tmp/ack -o $OUT/perf > /tmp/log 2>&1 &
	pid=$!
	timeout 30 sh -c 'echo enable > /tmp/ctl; read -r ack < /tmp/ack' || failed perf record
	result perf
	kill -INT $pid
	wait $pid
	perf script -F comm,tid,time,event,trace -i $OUT/perf 2> /tmp/log > $OUT/text || failed perf script
	with_symbols
	echo "COUNT $w perf $(grep -c "$line" $OUT/text)"
	rm -f $OUT/*
}
trace_cmd() {
	without_symbols
	trace-cmd record -b 4096 $(selected -e) -o $OUT/dat \
		sh -c "sleep 0.2; echo RESULT $w trace-cmd \$($run)" > /tmp/log 2>&1 || failed trace-cmd record
	grep ^RESULT /tmp/log
	bytes=$(sed -n 's/.* bytes in size (\([0-9]*\) uncompressed)$/\1/p' /tmp/log | awk '{ n += $1 } END { print n }')
	trace-cmd report -i $OUT/dat 2> /tmp/log > $OUT/text || failed trace-cmd report
	with_symbols
	echo "COUNT $w trace-cmd $(grep -c "$line" $OUT/text)"
	shown=$(for e in $events; do printf '%s' "| ${e#*:}: "; done)
	echo "BYTES $w trace-cmd $bytes $(grep -cE "${shown#|}" $OUT/text)"
	rm -f $OUT/*
}
'''
FUNCTIONS = {'perf': 'perf_record', 'trace-cmd': 'trace_cmd'}  # of those that are not called as their function
# As `vm` has it of one machine: time is then the instructions that it executes.
INSTRUCTIONS = ['--accel', 'tcg', '--tcg-thread', 'single', '--', '-icount', 'shift=0']


def programs():
    """What is to be added to the machine."""
    at = tool('fetch-tracers.sh').splitlines()[-1]
    return [f'{at}/usr:/usr', f'{at}/lib64:/lib64']


def rows(rounds, base):
    """(name, rounds, median, by base, beyond base): the latter two of each round, as rounds are interleaved."""
    for name, values in rounds.items():
        pairs = list(zip(values, rounds[base]))
        yield (name, values, statistics.median(values), statistics.median(v / b for v, b in pairs),
               statistics.median(v - b for v, b in pairs))


def as_lines(rounds, **params):
    """The same as dicts, for JSON."""
    return [dict(params, case=t, rounds=r, median=median, of_nothing=ratio, added=added)
            for t, r, median, ratio, added in rows(rounds, 'nothing')]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of functions: counts and durations against function_graph in the same guest, views against the events."""

import collections
import json
import os
import re
import subprocess

from harness import params, say
from vm import READER, VM, Reader

CALLS = 200
NESTS = 150

# Of a task that calls getpgid: each is called by the one before.
CHAIN = ('__x64_sys_getpgid', 'do_getpgid', 'find_task_by_vpid')

REFUSED = (
    ('function:*', 'can be traced at a time'),
    ('function:no_such_function', 'the kernel has no such function'),
    ('function:ftrace_caller', 'cannot trace it'),
    ('function:x:y', 'that is function:GLOB'),
    ('function:/bin/nothing:x', 'cannot read the file: No such file'),
    ('function:/run.sh:x', 'is no program or library'),
    ('function:/bin/workload:no_such', 'the file has no such function'),
)

# One boot, several agents, one behind the other: what each is for is told by the functions that it records.
SCRIPT = f'''
refused() {{
	guest-agent --events "$1" > /tmp/refused 2>&1
	[ $? = 2 ] || echo "NOT REFUSED: $1"
	grep -q "$2" /tmp/refused || {{ echo "REFUSED OTHERWISE: $1"; cat /tmp/refused; }}
}}
cp "$0" /run.sh
{"".join(f"refused '{events}' '{what}'{chr(10)}" for events, what in REFUSED)}
T=/sys/kernel/tracing
echo '{" ".join(CHAIN)} hrtimer_interrupt' | tr ' ' '\\n' > $T/set_ftrace_filter
echo mono > $T/trace_clock
echo 16384 > $T/buffer_size_kb
echo 1 > $T/options/funcgraph-tail
echo 1 > $T/options/funcgraph-proc
echo 0 > $T/options/funcgraph-irqs 2> /dev/null
echo function_graph > $T/current_tracer
agent_start -v --events '{",".join(f"function:{f}" for f in CHAIN)},function:do_exit,function:hrtimer_interrupt' || exit 1
workload count {CALLS} 7
for i in 1 2 3 4 5; do /bin/true; done
sleep 1.1
agent_stop || exit 1
cat $T/trace > /tmp/graph
echo nop > $T/current_tracer
grep workloa /tmp/graph > /dev/vda
agent_start --events function:hrtimer_nanosleep --filter 'ns > 200000000 && comm == "sleep"' || exit 1
for i in 1 2 3 4 5; do sleep 0.01; done
for i in 1 2 3; do sleep 0.3; done
for i in 1 2 3; do # as long, under another name
	busybox sleep 0.3 &
	sleep 0.1
	echo "SLEEPS $(cat /proc/$!/comm)"
	wait $!
done
agent_stop || exit 1
agent_start -v --events 'function:/bin/workload:nest_*' || exit 1
workload nest {NESTS} 7
sleep 0.5
agent_stop || exit 1
sync
'''

# It cuts tasks' names.
LEAF = re.compile(r'workloa-\d+ .*?([\d.]+) us +\| +(\w+)\(\);')
TAIL = re.compile(r'workloa-\d+ .*?([\d.]+) us +\| +\} /\* (\w+) \*/')


def graph_of(path):
    """{cpu: {function: [ns]}} that function_graph has of the workload."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    with open(path, encoding='ascii', errors='replace') as f:
        for line in f.read().split('\0')[0].splitlines():
            m = LEAF.search(line) or TAIL.search(line)
            if m:
                found[int(line.split(')')[0])][m[2]].append(float(m[1]) * 1e3)
    return found


def events_of(path, name):
    with open(path, encoding='utf-8') as f:
        found = [e for e in map(json.loads, f) if e.get('event') == name]
    for e in found:
        e['fields']['function'] = e['fields']['function.name']
    return found


def check_graph(calls, theirs, cpus):
    """Counts are equal, and what is within another call does not take longer than that, whoever measures."""
    for cpu in range(cpus):
        ours = collections.defaultdict(list)
        for e in calls:
            if e['cpu'] == cpu and e['comm'] == 'workload' and e['fields']['function'] in CHAIN:
                ours[e['fields']['function']].append(e['fields'])
        for depth, function in enumerate(CHAIN):
            mine, want = ours[function], theirs[cpu][function]
            assert len(mine) == len(want) == CALLS, (cpu, function, len(mine), len(want))
            assert all(f['depth'] == depth and not f['interrupt'] for f in mine), mine[0]
        for outer, inner in zip(CHAIN, CHAIN[1:]):
            for i in range(CALLS):
                a, b = ours[outer][i]['ns'], ours[inner][i]['ns']
                assert b <= a, f'{inner} takes {b} ns within {outer}, of {a} ns'
                assert theirs[cpu][inner][i] <= a + 1000, (outer, inner, i)
                assert b <= theirs[cpu][outer][i] + 1000, (outer, inner, i)


def check_entries(calls):
    """A call's end less its duration lies within its caller's."""
    waiting, late = collections.defaultdict(dict), 0
    for e in calls:
        f = e['fields']
        if f['interrupt']:
            continue
        begin = e['time'] - f['ns']
        of_task = waiting[f['tid']]
        inner = of_task.pop(f['depth'] + 1, None)
        # the record's time is that of the room it gets, a little behind the end, unless an interrupt came between them
        assert inner is None or inner >= begin - 10000000, (f, inner, begin)
        late += inner is not None and inner < begin - 200000
        of_task[f['depth']] = begin
    assert late <= 0.01 * len(calls), (late, len(calls))


def view(source, form, *options):
    run = subprocess.run([READER, '--view', form, *options, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def check_tables(source, calls, user):
    """What the views make of a capture is what Python makes of the events."""
    want = collections.defaultdict(list)
    for e in calls + user:
        want[e['fields']['function']].append(e['fields']['ns'])
    outermost = sum(e['fields']['ns'] for e in calls + user if not e['fields']['depth'])
    table = json.loads(view(source, 'functions:json'))
    assert table['calls'] == sum(map(len, want.values())) and table['outermost_ns'] == outermost
    assert {f['function']: (f['calls'], f['ns'], f['min_ns'], f['max_ns']) for f in table['functions']} == \
        {name: (len(ns), sum(ns), min(ns), max(ns)) for name, ns in want.items()}
    assert sum(f['self_ns'] for f in table['functions']) == outermost
    graph = {r['root']: {f['function']: f for f in r['called']} for r in table['graph']}
    one = graph['kernel'][CHAIN[0]]
    for function in CHAIN[1:]:
        assert one['calls'] == len(want[CHAIN[0]]) and one['ns'] == one['self_ns'] + one['called'][0]['ns']
        one = one['called'][0]
        assert one['function'] == function
    assert 'hrtimer_interrupt' in graph['interrupts'], graph.keys()
    folded = dict(line.rsplit(' ', 1) for line in view(source, 'functions:folded').splitlines())
    assert folded['kernel;' + ';'.join(CHAIN)] == str(one['self_ns'])
    assert 'programs;nest_outer;nest_middle;nest_inner' in folded and sum(map(int, folded.values())) == outermost
    page = view(source, 'functions')
    say(page)
    rows = re.findall(r'^(\w+) +(\d+) +[\d.]+ +([\d.]+)% +([\d.]+)% +([\d.]+)%', page.split('MOST CALLS')[1], re.M)
    assert [(name, int(n)) for name, n, *_ in rows] == \
        sorted(((name, len(ns)) for name, ns in want.items()), key=lambda r: (-r[1], -sum(want[r[0]])))
    for name, n, share, time, _ in rows:
        assert abs(float(share) - 100 * int(n) / table['calls']) < 0.01
        assert abs(float(time) - 100 * sum(want[name]) / outermost) < 0.01
    say(view(source, 'functions:graph'))


@params(('6.1', 2), ('6.12', 1))
def test_functions(kernel, cpus):
    with VM(SCRIPT, kernel=kernel, cpus=cpus, disk_mib=16) as vm:
        vm.start()
        reader = Reader(vm, '-o', f'json:{vm.dir}/json', '-o', f'raw:{vm.dir}/raw', '-o', f'ctf:{vm.dir}/ctf',
                        '--view', 'functions', '-o', f'text:{vm.dir}/page')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        console = vm.console()
        assert status == 0 and 'REFUSED' not in console, console[-3000:]
        how = 'function_session' if kernel == '6.12' else 'function_entry'
        assert re.search(rf'{how}: attached to {len(CHAIN) + 2} functions', console), console[-3000:]
        assert re.search(r'^lost .*overwritten 0, dropped 0, corrupt 0,', reader.err(), re.M), reader.err()
        assert '--filter: applied here to 1 event' in console, console[-3000:]
        found = events_of(os.path.join(vm.dir, 'json'), 'function')
        calls = [e for e in found if e['fields']['function'] != 'hrtimer_nanosleep']
        check_graph(calls, graph_of(vm.disk), cpus)
        check_entries(calls)
        assert any(e['fields']['interrupt'] for e in calls if e['fields']['function'] == 'hrtimer_interrupt')
        # do_exit never returns: the next task on its stack finds that out, and is not deeper for it
        assert not [e for e in found if e['fields']['function'] == 'do_exit']
        skipped = sum(int(n) for n in re.findall(r'^skipped +by the kernel: (\d+)', reader.err(), re.M))
        say('calls that did not return:', skipped)
        assert 0 < skipped < 60, reader.err()
        slept = [e for e in found if e['fields']['function'] == 'hrtimer_nanosleep']
        assert len(re.findall(r'^SLEEPS busybox$', console, re.M)) == 3, console[-3000:]
        assert len(slept) == 3 and all(3e8 <= e['fields']['ns'] < 1e9 and e['comm'] == 'sleep' for e in slept), slept
        user = events_of(os.path.join(vm.dir, 'json'), 'user_function')
        assert collections.Counter((e['fields']['function'], e['fields']['depth']) for e in user) == \
            {('nest_outer', 0): NESTS, ('nest_middle', 1): NESTS, ('nest_inner', 2): NESTS}
        shown = subprocess.run(['babeltrace2', vm.dir + '/ctf'], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True, check=True).stdout
        # (as babeltrace2 has enumerations)
        assert len(re.findall(r' function: .*"do_getpgid"', shown)) == \
            sum(e['fields']['function'] == 'do_getpgid' for e in calls), shown[:2000]
        with open(os.path.join(vm.dir, 'page'), encoding='utf-8') as f:
            assert 'nest_inner' in f.read()
        check_tables(f'file:{vm.dir}/raw', found, user)

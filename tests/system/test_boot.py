# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest's boot: taken over by the agent, and read by the host in guest memory; against the guest's own tracefs."""

import bisect
import collections
import json
import os
import re
import subprocess
import time

import pftext
from harness import params, say
from vm import READER, VM, Reader

EVENTS = 'initcall:*,module:*,sched:sched_process_fork,sched:sched_process_exec,sched:sched_process_exit'
RUNS = 5  # programs that are begun once the agent records

# What was there before the agent came: it empties the buffer. Its files are as large as the disk is.
TAKE_OVER = f'''
T=/sys/kernel/tracing
echo 0 > $T/tracing_on
cat $T/trace > /tmp/truth
echo 1 > $T/tracing_on
agent_start -v --events boot || exit 1
for i in $(seq {RUNS}); do /bin/true; done
sleep 0.5
agent_stop || exit 1
cat $T/tracing_on $T/set_event > /tmp/after
[ "$(cat /tmp/after)" = 0 ] || {{ echo "IT GOES ON"; cat /tmp/after; }}
cat /tmp/truth > /dev/vda
sync
'''

LINE = re.compile(r'^ *(.+)-(\d+) +\[(\d+)\] \S+ +(\d+)\.(\d+): (\w+): (.*)$', re.M)


def truth_of(text):
    """[(microseconds, CPU, task, event, fields)] of a trace file, in its order."""
    return [(int(m[4]) * 1000000 + int(m[5]), int(m[3]), int(m[2]), m[6], m[7]) for m in LINE.finditer(text)]


def read_truth(path):
    with open(path, encoding='ascii', errors='replace') as f:
        return truth_of(f.read().split('\0')[0])


def view(form, source, *options):
    run = subprocess.run([READER, '--view', form, *options, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


def check_levels(boot, truth, unnamed=0):
    """Levels in their order, the initcalls of each, and how long each took, as ftrace has them; UNNAMED have no name."""
    levels = [(t, fields.split('=')[1]) for t, _, _, event, fields in truth if event == 'initcall_level']
    assert [name for _, name in levels][:3] == ['console', 'early', 'pure'], levels
    assert [x['level'] for x in boot['levels']] == [name for _, name in levels]
    # The kernel's own are called by its first tasks, before they begin a program.
    first = next(t for t, _, task, event, _ in truth if event == 'sched_process_exec' and task == 1)
    begun, want, took = {}, collections.Counter(), {}
    for t, _, _, event, fields in truth:
        name = re.match(r'func=(\S+?)\+0x', fields)
        if event == 'initcall_start':
            begun[fields.split()[0]] = t
            at = bisect.bisect_right(levels, (t, '\xff')) - 1
            if t < first:
                want[levels[at][1]] += 1
        elif event == 'initcall_finish' and t < first:
            took.setdefault(name[1], []).append(t - begun[fields.split()[0]])
    assert {x['level']: x['initcalls'] for x in boot['levels']} == {name: want[name] for _, name in levels}
    assert sum(want.values()) > 300, want
    ours = collections.defaultdict(list)
    for i in boot['initcalls']:
        if 'level' in i:
            ours[i['function']].append(i['ns'] // 1000)
    # names are C's identifiers here, and the trace file's times are in microseconds
    theirs = {re.sub(r'\W', '_', name): ns for name, ns in took.items()}
    odd = sorted(ours.keys() - theirs.keys())
    assert len(odd) <= unnamed and all(name.startswith('0x') for name in odd), odd[:20]
    assert sum(map(len, ours.values())) == sum(map(len, theirs.values()))
    for name in ours.keys() & theirs.keys():
        for a, b in zip(sorted(ours[name]), sorted(theirs[name])):
            assert abs(a - b) <= 2, (name, a, b)
    say('initcalls:', dict(want))


def check_records(events, truth):
    """
    One by one: the same event, CPU and time, from where the kernel's clock goes on: until then it stands at 0. So does ours,
    which is CLOCK_MONOTONIC, until that begins, which on a busy machine is seconds later.
    """
    mine = collections.defaultdict(list)
    for e in events:
        mine[e['cpu'], e['event']].append(e['time'] / 1000)
    theirs = collections.defaultdict(list)
    for t, cpu, _, event, _ in truth:
        theirs[cpu, event].append(t)
    going = [(t, cpu, event) for t, cpu, _, event, _ in truth if t > 0]
    t, cpu, event = going[len(going) // 2]
    offset = sorted(mine[cpu, event])[theirs[cpu, event].index(t)] - t
    for key, times in theirs.items():
        assert len(mine[key]) >= len(times), (key, len(mine[key]), len(times))
        for a, b in zip(sorted(mine[key]), times):
            assert abs(a - max(b + offset, 0)) <= 3 or b == 0 and a <= max(0, offset) + 3, (key, a, b, offset)
    return {key: len(times) for key, times in theirs.items()}


def check_track(path, truth, unnamed=0):
    """In Perfetto: levels one behind the other, in each its initcalls, then user space; times are ftrace's. As above."""
    parts = []  # (name, when, [[function, when, how long]]), in microseconds
    for t, _, task, event, fields in truth:
        if event == 'initcall_level':
            parts.append((fields.split('=')[1], t, []))
        elif event == 'initcall_start':
            parts[-1][2].append([re.sub(r'\W', '_', re.match(r'func=(\S+?)\+0x', fields)[1]), t, None])
        elif event == 'initcall_finish':
            parts[-1][2][-1][2] = t - parts[-1][2][-1][1]
        elif event == 'sched_process_exec' and task == 1:
            parts.append(('user space', t, []))
            break
    (machine,) = pftext.Trace(path).machines.values()
    names, found = {name for name, _, _ in parts}, []
    for s in machine.slices['boot']:
        assert s.end is not None, s
        if s.what in names:
            assert not found or found[-1][0].end == s.begin, (found[-1][0], s)
            found.append((s, []))
        else:
            assert found[-1][0].begin <= s.begin and s.end <= found[-1][0].end, (found[-1][0], s)
            found[-1][1].append(s)
    assert [s.what for s, _ in found] == [name for name, _, _ in parts] and parts[-1][0] == 'user space', found
    assert not found[-1][1], found[-1][1][:5]  # of modules
    begin, odd = found[-1][0].begin / 1000 - parts[-1][1], 0

    def same(s, t):
        # until the kernel's clock goes it stands at 0
        return abs(s.begin / 1000 - t - begin) <= 3 or t == 0 and s.begin / 1000 <= max(0, begin) + 3

    for (level, calls), (name, t, want) in zip(found, parts):
        assert same(level, t) and len(calls) == len(want), (name, len(calls), len(want), level, t)
        for s, (function, t, us) in zip(calls, want):
            odd += s.what != function
            assert s.what == function or s.what.startswith('0x'), (s, function)
            assert same(s, t) and abs((s.end - s.begin) / 1000 - us) <= 2, (s, function, t, us)
    assert odd <= unnamed, odd
    say(f'track: {len(found)} parts, {sum(len(calls) for _, calls in found)} initcalls')


def check_ctf(path, truth):
    """In CTF as many of each event as ftrace has, by babeltrace2. Returns what is beyond, and what it warns of."""
    run = subprocess.run(['babeltrace2', path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True)
    shown = collections.Counter(re.findall(r'^\[.*?\] .*?(\w+): \{', run.stdout, re.M))
    want = collections.Counter(event for _, _, _, event, _ in truth)
    assert want and not want - shown, (want, shown)
    return {name: n for name, n in (shown - want).items() if not name.startswith('lttng_statedump_')}, run.stderr


@params(('6.1', 2), ('6.12', 1))
def test_take_over(kernel, cpus):
    with VM(TAKE_OVER, kernel=kernel, cpus=cpus, disk_mib=16,
            append=f'trace_event={EVENTS} trace_buf_size=4M trace_clock=local') as vm:
        vm.start()
        reader = Reader(vm, '-o', f'json:{vm.dir}/json', '-o', f'raw:{vm.dir}/raw', '-o', f'ctf:{vm.dir}/ctf',
                        '-o', f'perfetto:{vm.dir}/pf', '--view', 'boot:json', '-o', f'text:{vm.dir}/page')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        console = vm.console()
        assert status == 0 and 'IT GOES ON' not in console, console[-3000:]
        said = re.search(r'the boot: (\d+) events taken over from \S+; 0 were overwritten', console)
        assert said, console[-3000:]
        truth = read_truth(vm.disk)
        with open(os.path.join(vm.dir, 'json'), encoding='utf-8') as f:
            events = [e for e in map(json.loads, f) if 'event' in e]
        counts = check_records(events, truth)
        say('events of the boot:', said[1], 'in the trace file:', sum(counts.values()))
        # and it went on live, from there
        execs = [e for e in events if e['event'] == 'sched_process_exec']
        assert sum(e['fields']['filename'] == '/bin/true' for e in execs) >= RUNS, [e['fields'] for e in execs]
        assert execs[0]['fields']['comm'] and all(e['comm'] == e['fields']['comm'] for e in execs)
        with open(os.path.join(vm.dir, 'page'), encoding='utf-8') as f:
            boot = json.loads(f.read())
        check_levels(boot, truth)
        assert boot['nr_programs'] == len(execs) and boot['user'] == \
            min(e['time'] for e in execs if e['fields']['tid'] == 1)
        assert [m['module'] for m in boot['modules']] == \
            [fields.split()[0] for _, _, _, event, fields in truth if event == 'module_load']
        # a capture says the same
        again = json.loads(view('boot:json', f'file:{vm.dir}/raw'))
        assert {k: again[k] for k in ('levels', 'initcalls', 'modules', 'programs')} == \
            {k: boot[k] for k in ('levels', 'initcalls', 'modules', 'programs')}
        say(view('boot', f'file:{vm.dir}/raw'))
        check_track(f'{vm.dir}/pf', truth)
        more, _ = check_ctf(f'{vm.dir}/ctf', truth)
        assert 'initcall_level' not in more, more


# What the host needs to know of this kernel, from any boot of it.
DESCRIBE = '''
T=/sys/kernel/tracing
cat $T/events/initcall/*/format $T/events/sched/sched_process_*/format $T/events/sched/sched_switch/format > /dev/vda
grep -E ' [tT] ' /proc/kallsyms > /dev/vdb
sync
'''

RING_AT, RING_SIZE, RING_RESERVED = '0x18000000', '8M', '16M'
RING = (f'memmap={RING_RESERVED}${RING_AT} trace_instance=boot_map@{RING_AT}:{RING_SIZE},initcall,'
        'sched:sched_process_fork,sched:sched_process_exec,sched:sched_switch')

IN_RING = '''
T=/sys/kernel/tracing/instances/boot_map
sleep 1
echo 0 > $T/tracing_on
cat $T/trace > /dev/vda
sync
echo TRUTH-WRITTEN
sleep 1000
'''


def save(disk, path):
    with open(disk, 'rb') as f, open(path, 'wb') as to:
        to.write(f.read().rstrip(b'\0'))
    return path


def test_ring():
    """Stock kernel, no agent, no device: the host reads it from the beginning, and after the guest was killed."""
    with VM(DESCRIBE, kernel='6.12', cpus=1, regions=0, disk_mib=16, disks=2) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        directory = vm.dir
        formats, symbols = save(vm.disks[0], '/dev/shm/htrace-formats'), save(vm.disks[1], '/dev/shm/htrace-symbols')
    try:
        read_ring(formats, symbols)
    finally:
        os.remove(formats)
        os.remove(symbols)
    assert not os.path.exists(directory) or os.environ.get('HTRACE_KEEP')


def read_ring(formats, symbols):
    with VM(IN_RING, kernel='6.12', cpus=2, regions=0, disk_mib=16, append=RING) as vm:
        with open(vm.ram, 'wb') as f:
            f.truncate(512 << 20)
        vm.command += ['--ram', vm.ram]
        source = f'bootring:{vm.ram},at={RING_AT},size={RING_SIZE},formats={formats},symbols={symbols}'
        live = Reader(source, '-o', f'json:{vm.dir}/json', '-o', f'ctf:{vm.dir}/ctf', '-o', f'perfetto:{vm.dir}/pf', '--view', 'boot:json', '-o', f'text:{vm.dir}/page')
        live.wait_for('waiting for a guest')
        vm.start()
        vm.wait_for('GUEST-UP')
        # live: what the kernel's part of the boot was is here before user space has done much
        end = time.time() + 5
        while time.time() < end and not os.path.getsize(vm.dir + '/json'):
            time.sleep(0.05)
        assert os.path.getsize(vm.dir + '/json'), live.err()
        vm.wait_for('TRUTH-WRITTEN')
        time.sleep(0.5)
        assert live.stop() == 0, live.err()
        vm.qemu.kill()  # what is in memory stays
        vm.qemu.wait()
        truth = read_truth(vm.disk)
        late = json.loads(view('boot:json', source, '--duration', '2', '-o', f'json:{vm.dir}/late', '-o', 'text'))
        for path in ('json', 'late'):
            with open(os.path.join(vm.dir, path), encoding='utf-8') as f:
                events = [e for e in map(json.loads, f) if 'event' in e]
            counts = check_records(events, truth)
            assert len(events) == len(truth), (path, len(events), len(truth))
        say('events:', len(truth), {event: n for (cpu, event), n in counts.items() if not cpu})
        with open(os.path.join(vm.dir, 'page'), encoding='utf-8') as f:
            boot = json.loads(f.read())
        check_levels(boot, truth, unnamed=10)
        check_levels(late, truth, unnamed=10)
        check_track(f'{vm.dir}/pf', truth, unnamed=10)
        assert check_ctf(f'{vm.dir}/ctf', truth) == ({}, '')
        said = live.err().split('--- summary')[0]
        assert 'are left out' not in said and 'overwr' not in said, said

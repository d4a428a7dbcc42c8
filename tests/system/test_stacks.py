# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stacks of events, and profiles: against ftrace's stacks and the kernel's counters."""

import collections
import contextlib
import json
import os
import re
import shutil
import subprocess

import ftrace
import readertext
from harness import params, say
from vm import BUILD, VM, WORKLOAD, Reader

FRAME = re.compile(r'^        (?P<what>\S.*)$')
SYMBOL = re.compile(r'^(?P<name>.+)\+0x(?P<offset>[0-9a-f]+)(?: \[(?P<module>\w+)\])?$')
USER = re.compile(r'^(0x[0-9a-f]+$|(\[vdso\]|[\w.-]+|build-id:[0-9a-f]{12})\+0x[0-9a-f]+$)')

# What of ftrace's stack comes before the function that the tracepoint is in.
FTRACE_OWN = re.compile(r'^(trace_event_|__traceiter_|ftrace_|__ftrace_|trace_buffer|event_trigger)')


def text_stacks(path, event):
    """(cpu, task, fields, [frame]) of each such event of a text output."""
    found, frames = [], None
    with open(path, encoding='utf-8') as f:
        for line in f:
            m = readertext.LINE.match(line)
            frame = FRAME.match(line.rstrip('\n'))
            if m:
                e = readertext.EVENT.match(m['rest'])
                frames = None
                if e and e['event'] == event:
                    frames = []
                    found.append((int(m['cpu']), e['task'], e['fields'], frames))
            elif frame and frames is not None:
                frames.append(frame['what'])
    return found


def names(frames):
    return [SYMBOL.match(f)['name'] if SYMBOL.match(f) else f for f in frames]


def ftrace_stacks(path):
    """{cpu: [((prev, next), [name])]} of sched_switch."""
    lines, stats = ftrace.read_lines(path)
    stacks = {cpu: [] for cpu in lines}
    for cpu, of_cpu in lines.items():
        assert stats[cpu]['overrun'] == '0', 'ftrace lost events'
        frames = None
        for line in of_cpu:
            m = ftrace.LINE.match(line)
            if line.startswith(' => '):
                frames.append(line[4:].strip())
            elif '<stack trace>' in line:
                continue
            elif m:
                e = ftrace.parse_event(m)
                frames = []
                if e and e[0] == 'sched_switch':
                    stacks[cpu].append(((e[2], e[6]), frames))
    return stacks


def without_tracer(frames):
    while frames and FTRACE_OWN.match(frames[0]):
        frames = frames[1:]
    # the place where a kernel thread begins
    return [f for f in frames if f not in ('0xffffffffffffffff', '0')]


@params(('6.1', 'direct', ''), ('6.12', 'relay', ''),
        thorough=[('6.12', 'direct', ''), ('6.1', 'relay', ''), ('6.12', 'direct', 'filtered'), ('6.1', 'direct', 'filtered')])
def test_kernel(kernel, mode, filtered):
    kernel_stacks(kernel, mode, filtered)


def kernel_stacks(kernel, mode, filtered, make=VM, before=''):
    """Every task switch's kernel stack is what ftrace has for the same one."""
    same_filter = """echo 'COMM == "workload"' > $T/events/sched/sched_switch/filter || exit 1"""
    script = before + ftrace.SHELL + f'''
echo 1 > $T/options/stacktrace
{same_filter if filtered else ''}
ftrace_on sched/sched_switch
agent_start --mode {mode} --events sched_switch --stack sched_switch \\
	{"--filter 'comm == workload'" if filtered else ''} || exit 1
workload mix 1 1 100
sleep 0.5
agent_stop
ftrace_off
ftrace_dump
'''
    with make(script, kernel=kernel, disk_mib=64, private_ram=mode == 'relay') as vm:
        vm.start()
        reader = Reader(vm)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        if filtered:
            assert '--filter: applied here to 1 event' in vm.console(), vm.console()[-3000:]
        theirs = ftrace_stacks(vm.disk)
        ours = collections.defaultdict(list)
        for cpu, _, fields, frames in text_stacks(reader.out_path, 'sched_switch'):
            key = tuple(int(re.match(r'\d+', readertext.value(fields, f))[0])
                        for f in ('prev_tid', 'next_tid'))
            ours[cpu].append((key, frames))
        assert sum(map(len, ours.values())) > 200, reader.err()[-2000:]
        same = 0
        for cpu, mine in ours.items():
            keys, all_keys = [k for k, _ in mine], [k for k, _ in theirs[cpu]]
            at = next((i for i in range(len(all_keys) - len(keys) + 1)
                       if all_keys[i:i + len(keys)] == keys), None)
            assert at is not None, 'the sequence of task switches is not in ftrace\'s'
            for (_, frames), (key, want) in zip(mine, theirs[cpu][at:]):
                got, want = names(frames), without_tracer(want)
                assert got[:len(want)] == want, f'{key}: {got}, ftrace has {want}'
                # what follows is the program's
                assert all(USER.match(f) for f in frames[len(want):]), frames
                same += 1
        summary = reader.err()
        recorded = int(re.search(r'^htrace_stack\s+(\d+)', summary, re.M)[1])
        say(f'{same} kernel stacks equal ftrace\'s; {recorded} records of stacks; such as:')
        for frame in max((f for m in ours.values() for _, f in m), key=len)[:12]:
            say('    ' + frame)
        assert 'not recorded here' not in reader.out()
        assert re.search(r'^lost +0 ', summary, re.M), summary


@contextlib.contextmanager
def home(path):
    """host-reader finds files by build-id below $HOME."""
    old = os.environ.get('HOME')
    os.environ['HOME'] = path
    try:
        yield
    finally:
        if old is None:
            del os.environ['HOME']
        else:
            os.environ['HOME'] = old


def build_id(path):
    notes = subprocess.run(['readelf', '-n', path], stdout=subprocess.PIPE, text=True, check=True)
    return re.search(r'Build ID: ([0-9a-f]+)', notes.stdout)[1]


def put_by_id(dir, path):
    """As perf's cache has them."""
    hex_id = build_id(path)
    place = os.path.join(dir, '.debug', '.build-id', hex_id[:2], hex_id[2:])
    os.makedirs(place)
    shutil.copy(path, os.path.join(place, 'elf'))
    return hex_id


def function_at(path, offset):
    """By readelf's account: the function that byte `offset` of the file lies in."""
    out = subprocess.run(['readelf', '-lsW', path], stdout=subprocess.PIPE, text=True,
                         check=True).stdout
    for m in re.finditer(r'^ +LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+)', out, re.M):
        start, address, size = (int(x, 16) for x in m.groups())
        if start <= offset < start + size:
            offset += address - start
            break
    for m in re.finditer(r'^ +\d+: (\w{16}) +(\d+) FUNC +\w+ +\w+ +\d+ (\S+)', out, re.M):
        if int(m[1], 16) <= offset < int(m[1], 16) + int(m[2]):
            return m[3]
    return None


@params('6.12', thorough=['6.1'])
def test_user(kernel):
    """Functions of a program, by a file with its build-id on the host; and without one."""
    script = '''
agent_start --events sys_enter --stack sys_enter || exit 1
workload spin 0.7 # so that the agent sees the file
workload nest 2000 4242424
sleep 0.5
agent_stop
'''
    for with_file in (True, False):
        with VM(script, kernel=kernel) as vm, home(vm.dir):
            if with_file:
                put_by_id(vm.dir, WORKLOAD)
            vm.start()
            reader = Reader(vm, '--output', 'text', '--output', 'json:' + vm.dir + '/json',
                            '--output', 'ctf:' + vm.dir + '/ctf')
            assert vm.finish() == 0, vm.console()[-3000:]
            assert reader.stop() == 0, reader.err()
            calls = [frames for _, _, fields, frames in text_stacks(reader.out_path, 'sys_enter')
                     if 'args=[0x40bbf8,' in fields]
            assert len(calls) == 2000, len(calls)
            user = calls[-1]
            while user and not user[0].startswith(('nest_inner', 'workload+', 'build-id:')):
                user = user[1:]
            for frame in calls[-1]:
                say('    ' + frame)
            if with_file:
                assert [f.split('+')[0] for f in user[:3]] == ['nest_inner', 'nest_middle',
                                                               'nest_outer'], user
                assert all(re.fullmatch(r'\w+\+0x[0-9a-f]+ \(workload\)', f) for f in user[:3])
            else:
                assert all(re.fullmatch(r'workload\+0x[0-9a-f]+', f) for f in user[:3]), user
                assert [function_at(WORKLOAD, int(f.split('0x')[1], 16)) for f in user[:3]] == \
                    ['nest_inner', 'nest_middle', 'nest_outer'], user
            check_json(vm.dir + '/json', with_file)
            check_ctf(vm.dir + '/json', vm.dir + '/ctf')
            stacks = int(re.search(r'^htrace_stack\s+(\d+)', reader.err(), re.M)[1])
            events = int(re.search(r'^sys_enter\s+(\d+)', reader.err(), re.M)[1])
            found = different_stacks(vm.dir + '/json')
            say(f'{events} events, {found} different stacks in {stacks} records')
            # once, and again with each second that it is seen in
            assert stacks <= 3 * found and found < events / 5, 'stacks are not recorded once'


def different_stacks(path):
    """The kernel's, and those of programs."""
    found = set()
    with open(path, encoding='ascii') as f:
        for line in f:
            fields = json.loads(line).get('fields', {})
            found |= {(name, json.dumps(fields[name])) for name in fields if name.startswith('callstack_')}
    return len(found)


def check_json(path, with_file):
    """The last call's frames as objects."""
    with open(path, encoding='utf-8') as f:
        calls = [e for e in map(json.loads, f) if e.get('event') == 'sys_enter'
                 and e['fields']['args'][0] == 4242424]
    fields = calls[-1]['fields']
    assert len(calls) == 2000
    kernel, user = fields['callstack_kernel'], fields['callstack_user']
    assert any(f['symbol'] == 'do_syscall_64' for f in kernel), kernel
    assert all(f['address'] >> 63 for f in kernel)
    for frame, name in zip(user, ('nest_inner', 'nest_middle', 'nest_outer')):
        assert frame['file'] == 'workload' and frame['build_id'] == build_id(WORKLOAD), frame
        assert function_at(WORKLOAD, frame['file_offset']) == name, frame
        assert frame.get('symbol') == (name if with_file else None), frame


def check_ctf(json_path, ctf_path):
    """Both outputs have the same addresses; in CTF with the tracer's own frames."""
    shown = subprocess.run(['babeltrace2', ctf_path], stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, check=True).stdout
    theirs = []
    for line in shown.splitlines():
        if ' syscall_entry_getpgid:' in line and '0x40BBF8' in line:
            stacks = [[int(a, 16) for a in re.findall(r'\] = (0x[0-9A-F]+)', m)]
                      for m in re.findall(r' callstack_\w+ = \[ (.*?) \]', line)]
            theirs.append(stacks)
    with open(json_path, encoding='utf-8') as f:
        ours = [[[frame['address'] for frame in e['fields'][s]]
                 for s in ('callstack_kernel', 'callstack_user')]
                for e in map(json.loads, f) if e.get('event') == 'sys_enter'
                and e['fields']['args'][0] == 4242424]
    assert len(ours) == len(theirs) == 2000, (len(ours), len(theirs))
    for (kernel, user), (ctf_kernel, ctf_user) in zip(ours, theirs):
        assert user == ctf_user
        assert kernel == ctf_kernel[-len(kernel):] and len(ctf_kernel) - len(kernel) < 8


@params(('6.1', 2), thorough=[('6.12', 1), ('6.1', 1)])
def test_profile(kernel, cpus):
    """As many samples as the kernel ran the program; a function that computes is on top."""
    hz, seconds = 200, 4
    script = f'''
sysctl -w kernel.bpf_stats_enabled=1 >/dev/null || echo 1 > /proc/sys/kernel/bpf_stats_enabled
agent_start --events profile:{hz} || exit 1
sleep 1 # or a CPU that is busy all the time would have no idle samples
workload mark 111
workload spin {seconds}
workload mark 222
cat /proc/$agent/fdinfo/* | awk '$1 == "prog_type:" {{ type = $2 }} $1 == "run_cnt:" && type == 7 {{ print "RUNS", $2 }}'
agent_stop
'''
    with VM(script, kernel=kernel, cpus=cpus) as vm, home(vm.dir):
        put_by_id(vm.dir, WORKLOAD)
        vm.start()
        reader = Reader(vm)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        runs = int(re.search(r'^RUNS (\d+)', vm.console(), re.M)[1])
        samples = text_stacks(reader.out_path, 'profile')
        times = [t for t, _, rest in readertext.lines(reader.out_path) if ' profile: ' in rest]
        elapsed = (times[-1] - times[0]) / 1e9
        per_cpu = collections.Counter(cpu for cpu, _, _, _ in samples)
        say(f'{len(samples)} samples, {runs} runs so far before the end; '
            f'{len(samples) / elapsed / cpus:.1f} a second and CPU')
        # Between looking at the counter and the end the last few are taken.
        assert runs <= len(samples) <= runs + hz * cpus, (len(samples), runs)
        # Without load beside it is HZ to a hundredth; an emulated CPU that waits for its turn on
        # the host misses timers. Never are there too many.
        assert 0.1 * hz < len(samples) / elapsed / cpus < 1.03 * hz
        assert sorted(per_cpu) == list(range(cpus)), per_cpu
        spin = [frames for _, task, _, frames in samples if task.startswith('workload-')]
        top = collections.Counter(frames[0].split('+')[0] if frames else '-' for frames in spin)
        say(f'of {len(spin)} samples of workload: {top.most_common(4)}')
        assert len(spin) > 0.1 * hz * seconds
        assert top['spin_here'] > 0.8 * len(spin), top.most_common(8)
        busy = next(f for f in spin if f[0].startswith('spin_here'))
        assert [f.split('+')[0] for f in busy[:2]] == ['spin_here', 'main'] or \
            [f.split('+')[0] for f in busy[:3]] == ['spin_here', 'spin', 'main'], busy
        idle = [names(f) for _, task, _, f in samples if task.startswith('swapper/')]
        assert sum('do_idle' in f for f in idle) > 0.9 * len(idle) > 0, idle[:5]


@params('6.12', thorough=['6.1'])
def test_modules(kernel):
    """A module that comes after the agent has names too; and a session that is taken over."""
    script = '''
module=$(find / -name 'virtio_blk.ko*' | head -n 1)
rmmod virtio_blk || exit 3
published() {
	grep -c 'symbols published' /tmp/agent.log
}
agent_start --verbose --events block:block_rq_issue --stack 'block:*' || exit 1
before=$(published)
insmod $module || exit 4
for i in $(seq 300); do
	[ $(published) -gt $before ] && break
	sleep 0.1
done
dd if=/dev/vda of=/dev/null bs=4096 count=4 2>/dev/null
sleep 0.5
kill -KILL $agent
wait $agent
rm -f /tmp/agent.log
guest-agent --events block:block_rq_issue 2>&1 | sed 's/^/OTHER /'
agent_start --events block:block_rq_issue --stack '*issue' || exit 5
echo 1 > /proc/sys/vm/drop_caches
dd if=/dev/vda of=/dev/null bs=4096 count=4 skip=100 2>/dev/null
sleep 0.5
agent_stop
'''
    with VM(script, kernel=kernel, disk_mib=8) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert status == 0, f'{status}: {vm.console()[-3000:]}'
        assert reader.stop() == 0, reader.err()
        reads = [frames for _, task, _, frames in text_stacks(reader.out_path, 'block_block_rq_issue')
                 if task.startswith('dd-') or any('ksys_read' in f for f in frames)]
        assert 'adopted' in vm.console(), vm.console()[-2000:]
        assert re.search(r'^OTHER .*exists already with other fields', vm.console(), re.M)
        assert re.search(r'^OTHER .*start the agent as it was', vm.console(), re.M)
        assert len(reads) >= 2, reader.out()[-3000:]
        for frames in (reads[0], reads[-1]):
            for frame in frames[:8]:
                say('    ' + frame)
            assert any(re.match(r'virtio_queue_rqs?\+0x[0-9a-f]+ \[virtio_blk\]', f)
                       or re.match(r'virtblk_\w+\+0x[0-9a-f]+ \[virtio_blk\]', f)
                       for f in frames), frames
            assert 'ksys_read' in names(frames), frames


@params('6.12', thorough=['6.1'])
def test_custom(kernel):
    """A tracer of one's own: fentry, kprobe, and where the context is not known."""
    script = '''
agent_start --events none --bpf /stacks.bpf.o --stack 'by_*' || exit 1
sh -c 'exec < /run.sh'
sleep 0.5
agent_stop
'''
    with VM(script, kernel=kernel,
            add=[os.path.join(BUILD, 'tests', 'stacks.bpf.o') + ':/']) as vm:
        vm.start()
        reader = Reader(vm, '--output', 'text', '--output', 'json:' + vm.dir + '/json')
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        for event in ('by_fentry', 'by_kprobe', 'by_task'):
            found = [f for _, task, _, f in text_stacks(reader.out_path, event)]
            assert found, reader.err()[-2000:]
            for frame in found[-1]:
                say(f'    {event}: {frame}')
            kernel_names = names(found[-1])
            assert kernel_names[0] == 'do_sys_openat2', found[-1]
            assert kernel_names[1] in ('__x64_sys_openat', '__x64_sys_open'), found[-1]
            assert 'do_syscall_64' in kernel_names, found[-1]
        assert not any(f for _, _, _, f in text_stacks(reader.out_path, 'without'))
        with open(vm.dir + '/json', encoding='utf-8') as f:
            events = [json.loads(line) for line in f]
        fields = next(e['fields'] for e in events if e.get('event') == 'by_fentry')
        assert fields['tail'] == 'twelve bytes', fields


@params('6.1', thorough=['6.12'])
def test_late_reader(kernel):
    """Overwritten definitions come back: a second after the first event, all stacks are known."""
    script = '''
agent_start --mode direct --buffer 64K --events sched_switch --stack sched_switch || exit 1
workload mix 6 2 300 &
sleep 2
echo GO
wait %2
agent_stop
'''
    with VM(script, kernel=kernel) as vm:
        vm.start()
        vm.wait_for('GO\n', timeout=60)
        reader = Reader(vm)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        before = int(re.search(r'^before +(\d+)', reader.err(), re.M)[1])
        first, late, early, known = None, 0, 0, 0
        with open(reader.out_path, encoding='utf-8') as f:
            for line in f:
                m = readertext.LINE.match(line)
                if m:
                    time = int(m['time'].replace('.', ''))
                    first = first or time
                elif 'not recorded here' in line:
                    late += time - first > 1.2e9
                    early += 1
                else:
                    known += 1
        say(f'{before} events overwritten before; {early} stacks not known at first; '
            f'{known} frames')
        assert before > 500, 'nothing was overwritten'
        assert late == 0 and known > 1000, (early, late, known)


REFUSED = [
    ('--events profile', r'profile needs a frequency: profile:HZ', 2),
    ('--events profile:', r'profile:: the frequency is a number from 1 to 10000', 2),
    ('--events profile:0', r'profile:0: the frequency is a number from 1 to 10000', 2),
    ('--events profile:x', r'profile:x: the frequency is a number from 1 to 10000', 2),
    ('--events profile:10001', r'profile:10001: the frequency is a number from 1 to 10000', 2),
    ('--events profile:-5', r'profile:-5: the frequency is a number', 2),
    ('--events profile:99,profile:100', r'profile is there twice', 2),
    ('--stack sched_swich', r"no event that is traced matches 'sched_swich'; there are "
                            r'.*sched_switch', 2),
    ('--stack nothing_like_it', r"no event that is traced matches 'nothing_like_it'$", 2),
    ('--events irq --stack sched_waking', r"'sched_waking' is not traced; name it in --events", 2),
    ("--stack ''", r'--stack: the list is empty', 2),
    ('--stack', r'--stack needs a value', 2),
    ('--stack htrace_stack', r"no event that is traced matches 'htrace_stack'", 2),
]


def test_refused():
    """What is said, and the exit status; and a kernel that hides its symbols."""
    script = ''.join(f'''
guest-agent {args} > /tmp/out 2>&1
echo "STATUS {i} $?"
sed 's/^/SAID {i} /' /tmp/out
''' for i, (args, _, _) in enumerate(REFUSED)) + '''
guest-agent --events help | grep profile:HZ
echo 0 > /proc/sys/kernel/perf_event_max_sample_rate 2>/dev/null
echo 100 > /proc/sys/kernel/perf_event_max_sample_rate
guest-agent --events profile:5000 2>&1 | sed 's/^/RATE /'
echo 100000 > /proc/sys/kernel/perf_event_max_sample_rate
echo 2 > /proc/sys/kernel/kptr_restrict
agent_start --events sched_switch --stack sched_switch || exit 1
sleep 1
agent_stop
'''
    with VM(script, kernel='6.1') as vm:
        vm.start()
        reader = Reader(vm)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        console = vm.console()
        for i, (args, text, status) in enumerate(REFUSED):
            said = re.findall(rf'^SAID {i} (.*)$', console, re.M)
            assert len(said) == 1 and re.search(text, said[0]), (args, said)
            assert f'STATUS {i} {status}\n' in console, (args, said)
            say(f'{args}: {said[0]}')
        assert 'profile:HZ' in console
        assert re.search(r'^RATE .*profile:5000: .*perf_event_max_sample_rate', console, re.M), \
            console[-3000:]
        assert 'the kernel hides its symbols' in console, console[-2000:]
        stack = [f for _, _, _, f in text_stacks(reader.out_path, 'sched_switch') if f][0]
        assert re.fullmatch(r'0xffffffff[0-9a-f]{8}', stack[0]), stack

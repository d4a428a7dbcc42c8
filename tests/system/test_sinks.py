# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All outputs of one run of host-reader say the same, record by record, loss at its place: text, JSON,
and CTF as babeltrace2 reads it.
"""

import collections
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time

import ctftext
import readertext
from harness import params, say
from vm import BUILD, COUNTED, READER, VM, Reader

VALUE = 424242  # as in tests/guest/counted.bpf.c


def bytes_of(text):
    """The bytes of a guest's text as the text output shows it, all but plain ASCII as \\xNN."""
    return re.sub(rb'\\x(..)', lambda m: bytes([int(m[1], 16)]), text.encode('ascii'))


def plain(text):
    return bytes_of(text).decode(errors='replace')


def no_duplicates(pairs):
    assert len({k for k, _ in pairs}) == len(pairs), pairs
    return dict(pairs)


def json_lines(path):
    with open(path, encoding='ascii') as f:
        for line in f:
            yield json.loads(line, object_pairs_hook=no_duplicates)


def number(text):
    return int(re.match(r'-?\w+', text)[0], 0)


def same_field(text, fields, name):
    """Does `text` of the text output mean what `fields` has under `name`?"""
    value = fields[name]
    meaning = fields.get(name + '.name')
    if isinstance(value, bool):
        return text == str(value).lower()
    if isinstance(value, str):
        exact = fields.get(name + '.bytes')
        return plain(text) == value and (bytes_of(text).hex() == exact or not exact)
    if isinstance(value, list):
        return [number(t) for t in text.strip('[]').split(',')] == value
    named = re.fullmatch(r'(-?\d+)\((.*)\)', text)
    if named:
        return int(named[1]) == value and plain(named[2]) == (meaning or '<...>')
    return text == meaning or number(text) == value


def compare_text(text_path, json_path):
    """Record by record; the records, and the number of events and of loss lines."""
    records = list(json_lines(json_path))
    lines = list(readertext.lines(text_path))
    timed = [r for r in records if 'time' in r]
    assert len(timed) == len(lines), (len(timed), len(lines))
    losses = 0
    for (t, cpu, rest), r in zip(lines, timed):
        assert (t, cpu) == (r['time'], r['cpu']), (rest, r)
        lost = readertext.LOST.search(rest)
        if lost:
            losses += 1
            kinds = {k: r[k] for k in ('overwritten', 'dropped', 'corrupt', 'unfinished') if r[k]}
            assert int(lost['n']) == r['lost'] == sum(kinds.values()), (rest, r)
            assert lost['how'] == ', '.join(f'{k} {v}' for k, v in kinds.items()), (rest, r)
            continue
        m = readertext.EVENT.match(rest)
        assert m['event'] == r['event'], (rest, r)
        task = '-'
        if 'tid' in r:
            task = f'{r.get("comm", "<...>")}-{r["tid"]}'
        assert plain(m['task'].strip()) == task, (rest, r)
        assert rest.endswith(' (unverified)') == r.get('unverified', False), (rest, r)
        for name in r['fields']:
            if '.' not in name:
                text = readertext.value(m['fields'], name)
                assert same_field(text, r['fields'], name), (name, text, r)
    return timed, len(lines) - losses, losses


# Names of tasks that LTTng has in these events, and the fields that hold the tasks.
COMMS = {
    'sched_switch': {'prev_comm': 'prev_tid', 'next_comm': 'next_tid'},
    'sched_waking': {'comm': 'tid'},
    'sched_wakeup': {'comm': 'tid'},
    'sched_wakeup_new': {'comm': 'tid'},
    'sched_process_fork': {'parent_comm': 'parent_tid'},
    'sched_process_exit': {'comm': 'tid'},
    'signal_generate': {'comm': 'pid'},
}


def ctf_event(r):
    """What LTTng calls the event of a JSON record."""
    prefix = {'sys_enter': 'syscall_entry_', 'sys_exit': 'syscall_exit_'}.get(r['event'])
    return prefix + r['fields'].get('nr.name', 'unknown') if prefix else r['event']


def ctf_text(text):
    """CTF has text as the text output shows it, and no string that is empty."""
    return '' if text == r'\x00' else plain(text)


def same_text(ctf, fields, name):
    exact = fields.get(name + '.bytes')
    return ctf_text(ctf) == fields[name] and (bytes_of(ctf).hex() == exact or not exact)


def same_value(ctf, value):
    """A value without a name: an element of an array."""
    if isinstance(value, list):
        return len(ctf) == len(value) and all(map(same_value, ctf, value))
    if isinstance(value, dict):
        return not ctf_differences(ctf, value)
    if isinstance(value, str):
        return ctf_text(ctf) == value
    return ctf == value or (value >= 1 << 31 and ctf == value - (1 << 32))


def ctf_differences(ctf, fields):
    """Names of JSON's fields that CTF has differently, or not at all."""
    different = []
    for name, value in fields.items():
        if '.' in name:
            continue
        there = ctf.get(name)
        if isinstance(there, ctftext.Enum):
            labels = fields.get(name + '.name', '<unknown>')
            same = there == value and labels in there.labels
        elif isinstance(value, str) and isinstance(there, str):
            same = same_text(there, fields, name)
        else:
            same = there is not None and same_value(there, value)
        if not same:
            different.append((name, value, there))
    return different


def ctf_additions(c, r):
    """What CTF has and JSON has not has to follow from it."""
    fields, comms = r['fields'], COMMS.get(r['event'], {})
    for name, value in c.fields.items():
        if name in fields:
            continue
        if name in comms:
            assert ctf_text(value) == fields.get(comms[name] + '.name', '<...>'), (name, c.fields, r)
        elif re.search(r'_length_*$', name):
            assert value == len(fields[re.sub(r'_length_*$', '', name)]), (name, c.fields, r)
        else: # an argument of a system call
            assert r['event'] == 'sys_enter' and value % (1 << 32) in \
                {a % (1 << 32) for a in fields['args']}, (name, c.fields, r)


def compare_record(c, r, offset):
    assert c.time - offset == r['time'], (c.time - offset, r)
    assert c.event == ctf_event(r), (c.event, r)
    assert c.context['tid'] == r.get('tid', -1), (c.context, r)
    assert ctf_text(c.context['procname']) == r.get('comm', '<...>'), (c.context, r)
    if 'raw' in r:
        assert bytes(c.fields['raw']).hex() == r['raw'], (c.fields, r)
        return
    assert not ctf_differences(c.fields, r['fields']), (ctf_differences(c.fields, r['fields']), r)
    ctf_additions(c, r)


def compare_losses(losses, records, offset):
    """Each at its place: since the ring's last record, and until it was noticed."""
    expected, last = [], {}
    for r in records:
        if 'lost' in r:
            begin = last.get(r['cpu'], min(x['time'] for x in records))
            expected.append((r['cpu'], r['lost'], begin, r['time']))
        last[r['cpu']] = r['time']
    assert sorted(expected) == sorted((x.cpu, x.lost, x.begin - offset, x.end - offset)
                                      for x in losses), (expected, losses)


def split_sessions(records):
    """Those of each session; a note stands between them."""
    sessions = [[]]
    for r in records:
        if r.get('note', '').startswith('new session'):
            sessions.append([])
        elif 'time' in r:
            sessions[-1].append(r)
    return [s for s in sessions if s]


def compare_ctf(ctf_path, json_path):
    """Record by record; the number of events, and of lost ones. Records of each ring are in order."""
    sessions = split_sessions(json_lines(json_path))
    traces = ctftext.traces(ctf_path)
    assert len(traces) == len(sessions), (traces, len(sessions))
    events = lost = 0
    for trace, records in zip(traces, sessions):
        offset = ctftext.offset(trace)
        found, losses = ctftext.read(trace)
        rings = collections.defaultdict(lambda: ([], []))
        for c in found:
            if not c.event.startswith('lttng_statedump_') and c.event != 'htrace_note':
                rings[c.packet['cpu_id'], c.packet.get('unverified', 0) == 1][0].append(c)
        for r in records:
            if 'event' in r:
                rings[r['cpu'], r.get('unverified', False)][1].append(r)
        for ring, (there, here) in rings.items():
            assert len(there) == len(here), (ring, len(there), len(here))
            for c, r in zip(there, here):
                compare_record(c, r, offset)
            events += len(here)
        compare_losses(losses, records, offset)
        lost += sum(x.lost for x in losses)
    return events, lost


def compare_all(paths):
    """The records, and the numbers of events and of loss lines."""
    text, js, ctf = paths
    records, events, losses = compare_text(text, js)
    there, lost = compare_ctf(ctf, js)
    assert there == events and lost == sum(r.get('lost', 0) for r in records), (there, events)
    ctftext.read(ctf) # all traces together, too
    return records, events, losses


def outputs(dir):
    """Options for text, JSON and CTF in one run, and where they are."""
    paths = [os.path.join(dir, 'out.' + kind) for kind in ('text', 'json', 'ctf')]
    options = []
    for path in paths:
        options += ['-o', path.rsplit('.', 1)[1] + ':' + path]
    return options, paths


def ctf_tasks(trace):
    """What the state dump at the trace's beginning says: {tid: (pid, name)}."""
    records, _ = ctftext.read(trace)
    names = [c.event for c in records]
    start, end = names.index('lttng_statedump_start'), names.index('lttng_statedump_end')
    dump = [c for c in records[start + 1:end] if c.event == 'lttng_statedump_process_state']
    return {c.fields['tid']: (c.fields['pid'], c.fields['name']) for c in dump}


def check_arguments(records, console):
    """System calls' arguments by name are those that the guest's kernel calls so; which were seen."""
    kernels = dict(re.findall(r'^FORMAT sys_enter_(\w+) (.*)$', console, re.M))
    seen = set()
    for c in records:
        call = c.event.removeprefix('syscall_entry_')
        if c.event == call or call not in kernels:
            continue
        for name in set(c.fields) - {'tid', 'nr', 'args'}:
            arg = c.fields['args'][kernels[call].split().index(name)]
            value = c.fields[name]
            assert value in (arg, arg % (1 << 32), arg - (1 << 64)) or \
                value == arg % (1 << 32) - (1 << 32), (name, c.fields)
            seen.add(f'{call}.{name}')
    return seen


@params('6.12', thorough=['6.1'])
def test_same(kernel):
    """Every built-in event, names that a guest makes up, the agent started twice."""
    script = r'''
mount -t tracefs none /sys/kernel/tracing
awk '/^name:/ { printf "\nFORMAT %s", $2; nr = 0 }
	/field:/ { sub(/;.*/, ""); if (++nr > 5) printf " %s", $NF }
	END { print "" }' /sys/kernel/tracing/events/syscalls/sys_enter_*/format
agent_start || exit 1
workload mix 3 1 200
workload name "$(printf 'a"\\\\\377\303\251\033[1m')"
sleep 1
agent_stop || exit 1
sleep 1
agent_start --events sched,irq,timer,workqueue,signal,net,mm,module || exit 1
workload mix 1 1 50
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2) as vm:
        vm.start()
        options, paths = outputs(vm.dir)
        reader = Reader(vm, *options)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        records, events, losses = compare_all(paths)
        assert losses == 0 and events > 5000, (events, losses)
        assert {'sched_switch', 'sched_waking', 'sched_wakeup', 'sched_process_fork',
                'sched_process_exec', 'sched_process_exit', 'task_rename', 'sys_enter',
                'sys_exit', 'irq_softirq_entry', 'timer_hrtimer_start', 'timer_expire_entry',
                'workqueue_execute_start', 'signal_generate',
                'x86_exceptions_page_fault_user'} <= {r['event'] for r in records}
        assert any('comm.bytes' in r['fields'] for r in records if r['event'] == 'task_rename')
        notes = [r['note'] for r in json_lines(paths[1]) if 'note' in r]
        assert len(notes) == 1 and notes[0].startswith('new session'), notes
        first = ctftext.traces(paths[2])[0]
        tasks = ctf_tasks(first)
        assert tasks[1] == (1, 'init') and tasks[2] == (2, 'kthreadd'), tasks
        assert 0 not in tasks and len(tasks) > 20, tasks
        release = re.search(r'kernel_release = "(.*)";', ctftext.metadata(first))[1]
        assert release.startswith(kernel), release
        seen = check_arguments(ctftext.read(first)[0], vm.console())
        assert {'read.fd', 'read.count', 'openat.dfd', 'openat.flags', 'mprotect.len'} <= seen, seen
        say(f'{events} events, text, JSON and CTF agree in each; {len(tasks)} tasks at the '
            f'beginning; a note between the sessions; {len(seen)} arguments of system calls')


def lossy_script(policy):
    """For a guest with a tiny ring; the reader is stopped between READY and COUNTED."""
    return f'''
agent_start --events none --bpf /counted.bpf.o --buffer 64K --policy {policy} || exit 1
workload count 1 {VALUE}
echo READY
sleep 4
workload count 30000 {VALUE}
echo COUNTED
sleep 4
workload count 1000 {VALUE}
sleep 1
agent_stop
'''


def lose(vm, reader):
    """To the end of such a guest."""
    vm.wait_for('READY')
    reader.wait_for('direct')
    time.sleep(1)
    reader.signal(signal.SIGSTOP)
    vm.wait_for('COUNTED')
    time.sleep(1)
    reader.signal(signal.SIGCONT)
    status = vm.finish()
    assert reader.stop() == 0, reader.err()
    assert status == 0, vm.console()[-2000:]


@params('discard', thorough=['overwrite'])
def test_same_with_loss(policy):
    """A tiny ring and a stopped reader: what is lost stands at the same place in each output."""
    with VM(lossy_script(policy), kernel='6.12', cpus=2, add=[COUNTED]) as vm:
        vm.start()
        options, paths = outputs(vm.dir)
        reader = Reader(vm, *options)
        lose(vm, reader)
        records, events, losses = compare_all(paths)
        lost = sum(r.get('lost', 0) for r in records)
        kind = 'overwritten' if policy == 'overwrite' else 'dropped'
        assert losses >= 2 and lost > 30000 and sum(r.get(kind, 0) for r in records) == lost, \
            (losses, lost)
        say(f'{events} events, {lost} lost in {losses} places, the same in text, JSON and CTF')


KINDS = os.path.join(BUILD, 'tests', 'kinds.bpf.o')


@params('6.1', thorough=['6.12'])
def test_every_kind(kernel):
    """A tracer of one's own with every kind of field, some of them called as CTF's keywords are."""
    script = f'''
agent_start --events sched --bpf /kinds.bpf.o || exit 1
workload count 300 {VALUE}
sleep 1
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, add=[KINDS + ':/']) as vm:
        vm.start()
        options, paths = outputs(vm.dir)
        reader = Reader(vm, *options)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert compare_ctf(paths[2], paths[1])[1] == 0
        kinds = [r['fields'] for r in json_lines(paths[1]) if r['event'] == 'kinds']
        assert len(kinds) == 600 and any(f['color.name'] == 'GREEN' for f in kinds), len(kinds)
        found, _ = ctftext.read(ctftext.traces(paths[2])[0])
        one = next(c.fields for c in found if c.event == 'kinds' and c.fields['octet'] == 7)
        assert one['grid'] == [[-3, 4, 11], [18, 25, 32]] and one['points'][1] == {'x': 8, 'y': -8}
        assert one['both'] == {'word': 7 * 65537 + 1, 'halves': {'low': 8, 'high': 7}}, one['both']
        assert one['nested'] == {'value': 7, 'inner': {'innermost': 7}} and one['five'] == -7, one
        assert one['color'].labels == ['GREEN'] and one['unnamed'].labels == ['<unknown>']
        assert bytes_of(one['rest']) == 'rést"\\\n'.encode() and one['empty'] == r'\x00', one
        frames = {len(c.fields['frames']) for c in found if c.event == 'event'}
        assert frames == {0, 1, 2, 3}, frames
        say(f'{len(kinds)} records; one as babeltrace2 has it: {one}')


def test_any_end():
    """Readers that are interrupted, or killed, whenever it is: what they wrote can be read."""
    script = r'''
agent_start || exit 1
echo READY
workload mix 60 1 &
sleep 55
kill $!
agent_stop
'''
    chance = random.Random(4)
    with VM(script, kernel='6.1', cpus=2) as vm:
        vm.start()
        vm.wait_for('READY')
        events = 0
        for i, how in enumerate([signal.SIGINT, signal.SIGKILL] * 2):
            with tempfile.TemporaryDirectory(dir='/dev/shm') as dir:
                options, paths = outputs(dir)
                reader = Reader(vm, *options, name=f'reader{i}')
                time.sleep(chance.uniform(0, 0.3) if i < 2 else chance.uniform(0.3, 1.5))
                reader.signal(how)
                status = reader.process.wait(30)
                if how == signal.SIGINT and os.path.exists(paths[2]):
                    # before it has its handler, a signal ends it as any process
                    assert status == 0 or not os.listdir(paths[2]), (status, reader.err())
                    if status == 0 and os.listdir(paths[2]):
                        assert '--- summary of' in reader.err(), reader.err()
                        events += compare_all(paths)[1]
                if how == signal.SIGKILL:
                    assert status == -signal.SIGKILL
                    for trace in ctftext.traces(paths[2]) if os.path.exists(paths[2]) else []:
                        events += len(ctftext.read(trace)[0])
        assert events > 2000, events
        say(f'{events} events of four readers that came to their ends at any time')


def test_dead_guest():
    """What a dead guest left is marked in each output."""
    script = f'''
agent_start --bpf /counted.bpf.o || exit 1
echo READY
sleep 3
workload count 5000 {VALUE}
echo COUNTED
sleep 60
'''
    with VM(script, kernel='6.1', cpus=2, add=[COUNTED]) as vm:
        vm.start()
        options, paths = outputs(vm.dir)
        reader = Reader(vm, *options)
        vm.wait_for('READY')
        reader.wait_for('direct')
        time.sleep(1)
        reader.signal(signal.SIGSTOP)
        vm.wait_for('COUNTED')
        time.sleep(0.5)
        vm.qemu.kill()
        vm.qemu.wait()
        time.sleep(1)
        reader.signal(signal.SIGCONT)
        reader.wait_for('silent')
        reader.wait_for('marked unverified')
        assert reader.stop() == 0, reader.err()
        records, _, _ = compare_all(paths)
        unverified = sum(r.get('unverified', False) for r in records)
        assert unverified >= 10000, (unverified, reader.err())
        say(f'{unverified} of {len(records)} records are unverified, the same in each output')


def test_two_guests():
    """One output of two machines: a trace of each, and babeltrace2 merges them by their clocks."""
    script = r'''
hostname NAME
agent_start || exit 1
workload mix 3 1 50
sleep 1
agent_stop
'''
    with VM(script.replace('NAME', 'one'), kernel='6.1') as one, \
         VM(script.replace('NAME', 'two'), kernel='6.1') as two:
        one.start()
        two.start()
        path = os.path.join(one.dir, 'out.ctf')
        reader = Reader(one, '-o', 'ctf:' + path, f'ivshmem:{two.region}')
        assert one.finish() == 0 and two.finish() == 0
        assert reader.stop() == 0, reader.err()
        traces = ctftext.traces(path)
        hosts = [re.search(r'hostname = "(.*)";', ctftext.metadata(t))[1] for t in traces]
        assert sorted(hosts) == ['one', 'two'], hosts
        merged, _ = ctftext.read(path)
        assert len(merged) == sum(len(ctftext.read(t)[0]) for t in traces) > 2000, len(merged)
        times = [c.time for c in merged]
        assert times == sorted(times)
        begins = [ctftext.read(t)[0][0].time for t in traces]
        assert abs(begins[0] - begins[1]) < 60e9, begins
        say(f'{len(merged)} events of two machines; they began {abs(begins[0] - begins[1]) / 1e9:.3f} '
            's apart')


def test_full_disk_ctf():
    """The error is said once, and what fitted can be read."""
    script = '''
agent_start || exit 1
workload mix 3 1
agent_stop
'''
    with VM(script, kernel='6.1') as vm, tempfile.TemporaryDirectory() as small:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=512k', 'none', small], check=True)
        try:
            vm.start()
            reader = Reader(vm, '-o', f'ctf:{small}/out')
            status = vm.finish()
            assert status == 0, vm.console()[-2000:]
            assert reader.process.wait(20) == 1
            events = len(ctftext.read(f'{small}/out')[0])
        finally:
            subprocess.run(['umount', small], check=True)
        errors = [x for x in reader.err().splitlines() if 'No space left' in x]
        assert len(errors) == 1 and f'{small}/out' in errors[0], reader.err()
        assert 'received' in reader.err(), 'no summary'
        say(f'{errors[0]}; {events} events can be read')
        assert events > 1000, events


def test_directories():
    """A directory that is not empty stays as it is; one that was made for nothing goes again."""
    def run(*args):
        return subprocess.run([READER, *args, 'local:/dev/shm/htrace-there-is-none'],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, timeout=20)

    with tempfile.TemporaryDirectory() as dir:
        full, empty, new = (os.path.join(dir, name) for name in ('full', 'empty', 'new'))
        os.mkdir(full)
        os.mkdir(empty)
        with open(os.path.join(full, 'metadata'), 'w', encoding='ascii') as f:
            f.write('mine')
        before = os.stat(full).st_mtime_ns
        refused = run('-o', 'ctf:' + full)
        assert refused.returncode == 1, refused
        assert refused.stderr == f'host-reader: cannot write to {full}: Directory not empty; give a ' \
            'new directory or an empty one\n', refused.stderr
        assert os.stat(full).st_mtime_ns == before and os.listdir(full) == ['metadata']
        for path in (empty, new):
            assert run('-o', 'ctf:' + path).returncode == 1
        assert os.listdir(empty) == [] and not os.path.exists(new)
        a_file = run('-o', f'ctf:{full}/metadata')
        assert a_file.returncode == 1 and 'Not a directory' in a_file.stderr, a_file
        for wrong, why in ((['-o', 'ctf'], 'names no directory'), (['-o', 'ctf:'], 'names no directory'),
                           (['--view', 'summary', '-o', 'ctf:' + new], 'the summary|summary is text')):
            usage = run(*wrong)
            assert usage.returncode == 2 and re.search(why, usage.stderr), usage
        assert not os.path.exists(new)
        say(refused.stderr.strip())

# SPDX-License-Identifier: LGPL-2.1-or-later
"""host-reader ctl: commands for a running agent, one at a time, done once, within what the guest allows."""

import collections
import json
import os
import signal
import struct
import subprocess
import time

import ftrace
from guestlike import Stage
from harness import params, say
from test_snapshot import snapshots, wait_for_snapshot
from vm import READER, VM, Reader

TAKEN, EVENTS, ALL = 1, 2, 31
SCHEMA = 96  # in the superblock: where it is
DONE, FAILED, DENIED, INVALID, LOST = range(5)
GETPGID = 121
PATIENT = ('--timeout', '60')  # in an emulated guest that loads programs


def ctl(path, *command, options=()):
    """(exit status, what it said on both outputs)"""
    run = subprocess.run([READER, 'ctl', *options, path, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         text=True, timeout=90)
    return run.returncode, run.stdout + run.stderr


def done(path, *command, options=()):
    status, text = ctl(path, *command, options=options)
    assert status == 0, (command, status, text)
    return text


def refused(path, *command, status=1, why='', options=()):
    got, text = ctl(path, *command, options=options)
    assert got == status and why in text, (command, got, text)
    assert text.isprintable() or all(line.isprintable() for line in text.splitlines()), text


def answer(guest, status, text=b'', following=0):
    guest.do(f'a {status} {following} {text.hex()}')


def test_usage():
    with Stage() as stage:
        path = stage.guest().path
        for bad in ((), (path,), (path, 'frobnicate'), (path, 'list', 'x'), (path, 'enable'), (path, 'filter', 'a', 'b'),
                    ('--timeout', '0', path, 'list'), ('--what', path, 'list'), (path, 'enable', 'x' * 5000)):
            run = subprocess.run([READER, 'ctl', *bad], stderr=subprocess.PIPE, text=True)
            assert run.returncode == 2 and run.stderr.startswith('host-reader: '), (bad, run)
        refused('kvm', 'list', why='no source')
        refused(stage.path('none'), 'list', why='No such file')
        refused(path, 'list', why='too old')
        with open(stage.path('empty'), 'wb') as f:
            f.truncate(1 << 20)
        refused(stage.path('empty'), 'list', why='no agent')
        with open(stage.path('foreign'), 'wb') as f:
            f.write(b'something else' * 100000)
        refused(stage.path('foreign'), 'flush', why='no agent')
        with open(stage.path('empty'), 'rb') as f:
            assert not any(f.read()), 'a region without an agent was written to'


def test_answers():
    """Beside a reader, and without one; every status; what is hostile comes out harmless."""
    with Stage() as stage:
        guest = stage.guest()
        guest.do(f'k {TAKEN | EVENTS}')
        for source in (guest.path, 'local:' + guest.path, 'ivshmem:' + guest.path + ',trusted'):
            assert done(source, 'disable', 'a b').strip() == 'disable a b'
        reader = stage.reader('-o', 'json:' + stage.path('json'))
        guest.do('w 0 100')
        assert json.loads(done(guest.path, 'flush', options=['--json'])) == {'status': 'done', 'text': 'flush'}
        guest.do('w 0 100')
        nasty = b'\x1b[2J"\\\t\n\xff</script>'
        for status, exit_status, name in ((FAILED, 1, 'failed'), (DENIED, 3, 'denied'), (INVALID, 1, 'invalid')):
            answer(guest, status, nasty)
            refused(guest.path, 'flush', status=exit_status, why=r'\x1b[2J\x22\x5c')
            answer(guest, status, nasty)
            code, text = ctl(guest.path, 'flush', options=['--json'])
            assert code == exit_status and json.loads(text)['status'] == name and '\x1b' not in text, text
        answer(guest, LOST, b'')
        refused(guest.path, 'flush', status=4, why='not known')
        answer(guest, 77, b'x')
        refused(guest.path, 'flush', status=4, why='no sense')
        guest.close()
        refused(guest.path, 'list', why='ended')
        assert reader.stop() == 0, reader.err()
        with open(stage.path('json'), encoding='ascii') as f:
            numbers = [json.loads(line)['fields']['number'] for line in f if '"fields"' in line]
        assert numbers == list(range(200)), 'the reader beside was disturbed'


def test_list():
    with Stage() as stage:
        guest = stage.guest()
        guest.do(f'k {ALL}')
        lines = (b'sched_switch\tstate=on\tallowed=1\tsample=4\tskipped=12\tfilter=prev_tid != 0 && cpu < 2\n'
                 b'\x1b]0;evil\x07\tstate=on\x1b[31m\tallowed=junk\tsample=-1\tskipped=1e9\truns=00\tnew=1\t=\tx\n\n'
                 b'long' * 1 + b'\tstate=off')
        answer(guest, DONE, lines)
        first, evil, last = json.loads(done(guest.path, 'list', options=['--json']))['events']
        assert first == {'event': 'sched_switch', 'state': 'on', 'allowed': True, 'sample': 4, 'skipped': 12,
                         'filter': 'prev_tid != 0 && cpu < 2'}, first
        assert evil['event'] == r'\x1b]0;evil\x07' and set(evil) == {'event', 'state'}, evil
        assert last == {'event': 'long', 'state': 'off'}, last
        answer(guest, DONE, lines)
        text = done(guest.path, 'list')
        assert all(line.isprintable() for line in text.splitlines()) and len(text.splitlines()) == 4, text
        # In parts; and one whose parts do not come to an end.
        answer(guest, DONE, b'a\tstate=on\n', 7)
        assert [e['event'] for e in json.loads(done(guest.path, 'list', options=['--json']))['events']] == \
            ['a', 'list 7'], 'the second part was not asked for'


def test_several():
    """Each gets the answer to its own command; one that is killed waiting does not stop the next."""
    with Stage() as stage:
        guest = stage.guest()
        guest.do(f'k {ALL}')
        guest.do('d 100')
        running = [subprocess.Popen([READER, 'ctl', guest.path, 'disable', f'number-{i}'], stdout=subprocess.PIPE,
                                    text=True) for i in range(8)]
        for i, process in enumerate(running):
            assert process.communicate(timeout=30)[0].strip() == f'disable number-{i}'
        guest.do('d 700')
        killed = subprocess.Popen([READER, 'ctl', guest.path, 'enable', 'killed'])
        time.sleep(0.3)
        killed.kill()
        killed.wait()
        assert done(guest.path, 'flush').strip() == 'flush'
        guest.do('d 3000')
        refused(guest.path, 'flush', status=4, why='in time', options=['--timeout', '0.3'])
        refused(guest.path, 'flush', why='before this one', options=['--timeout', '0.3'])
        guest.process.send_signal(signal.SIGSTOP)
        refused(guest.path, 'flush', why='heartbeat')
        guest.process.send_signal(signal.SIGCONT)
        guest.do('d 0')
        time.sleep(3)
        assert done(guest.path, 'flush').strip() == 'flush'


def test_snapshot():
    """The reader's; who has no flight recorder is left alone."""
    with Stage() as stage:
        guest = stage.guest()
        refused(guest.path, 'snapshot', why='no host-reader reads it')
        plain = stage.reader('-o', 'json:/dev/null')
        refused(guest.path, 'snapshot', why='no flight recorder')
        assert plain.stop() == 0, plain.err()
        reader = stage.reader('--snapshot', '64K', '-o', 'json:' + stage.path('json'))
        guest.do('w 0 500')
        time.sleep(0.5)
        done('local:' + guest.path, 'snapshot')
        wait_for_snapshot(reader, 1)
        guest.close()
        assert reader.stop() == 0, reader.err()
        (found,) = snapshots(stage.path('json'))
        assert found[5] == {0: list(range(500))}, found


# ------------------------------------------------------------------------------------------ a real guest

def guest_now(vm):
    """CLOCK_MONOTONIC of the guest, in seconds, when its heart beat next."""
    with open(vm.region, 'rb') as f:
        def look():
            f.seek(80)
            guest = struct.unpack('<Q', f.read(8))[0]
            f.seek(guest + 16)
            return struct.unpack('<QQ', f.read(16))
        beat, _ = look()
        end = time.time() + 20
        while True:
            now, mono = look()
            if now != beat:
                return mono / 1e9
            assert time.time() < end, 'no heartbeat'
            time.sleep(0.01)


def told(path):
    """[(event, are records missing?)] as readers are told, one after another."""
    with open(path, 'rb') as f:
        f.seek(SCHEMA)
        at, _ = struct.unpack('<QQ', f.read(16))
        f.seek(at)
        _, length = struct.unpack('<QI52x', f.read(64))
        entries = f.read(length)
    names, filters, at = {}, [], 0
    while at < length:
        kind, _, size, number, flags = struct.unpack_from('<HHIII', entries, at)
        if kind == 2:
            names[number] = entries[at + 24:at + 88].split(b'\0')[0].decode()
        elif kind == 3 and number:
            filters.append((names[number], bool(flags & 1)))
        at += size
    return filters


def told_of(filters, event):
    return [missing for name, missing in filters if name == event]


def ours(path):
    """{CPU: [(time, event, fields)]}"""
    events = {}
    with open(path, encoding='ascii') as f:
        for o in map(json.loads, f):
            assert 'lost' not in o, o
            if 'event' in o:
                events.setdefault(o['cpu'], []).append((o['time'] / 1e9, o['event'], o['fields']))
    return events


def tid(value):
    return value['tid'] if isinstance(value, dict) else value


def between(events, name, start, end):
    return sum(1 for cpu in events for t, event, *_ in events[cpu] if event == name and start < t < end)


class Traced(VM):
    def ctl(self, *command, **more):
        return ctl(self.region, *command, **more)

    def state(self):
        """What the list says, without its counts."""
        events = json.loads(done(self.region, 'list', options=['--json']))['events']
        return {e['event']: (e['state'], e['sample'], e['filter']) for e in events}


@params('6.1', thorough=['6.12'])
def test_guest(kernel):
    """Switched at run time: what ftrace has of the same events, but for when they were off."""
    script = ftrace.SHELL + '''
ftrace_on sched/sched_switch sched/sched_wakeup raw_syscalls/sys_enter signal/signal_generate
agent_start --verbose --events sched_switch,sys_enter --allow ALLOW || exit 1
echo TRACING
until grep -q 'command: disable the_end' /tmp/agent.log; do workload pace 200 1 4242 > /tmp/paced; done
ftrace_off
agent_stop || exit 1
ftrace_dump
'''
    with Traced(script.replace('ALLOW', 'events'), kernel=kernel, cpus=2, memory='1024M', disk_mib=256) as vm:
        vm.start()
        out = os.path.join(vm.dir, 'out.json')
        reader = Reader(vm, '-o', 'json:' + out)
        vm.wait_for('TRACING')
        before = vm.state()
        assert before['sched_switch'] == before['sys_enter'] == ('on', 1, ''), before
        assert before['sched_process_fork'][0] == 'kept', before
        for command in (('filter', 'sys_enter: nr == 1'), ('sample', 'sys_enter: 1/2'), ('flush',)):
            refused(vm.region, *command, status=3, why='does not allow')
        for command in (('disable', 'sched_process_fork'), ('disable', 'sched_switch,nonsense'), ('disable', 'no_*'),
                        ('enable', 'no_such_event'), ('enable', 'profile:10'), ('disable', ',')):
            refused(vm.region, *command, status=1, options=PATIENT)
        assert vm.state() == before, 'a refused command changed something'
        marks = [guest_now(vm)]
        start = time.time()
        done(vm.region, 'disable', 'sched_switch', options=PATIENT)
        took = [time.time() - start]
        marks.append(guest_now(vm))
        assert vm.state()['sched_switch'][0] == 'off'
        time.sleep(1)
        marks.append(guest_now(vm))
        done(vm.region, 'enable', 'sched_switch', options=PATIENT)
        marks.append(guest_now(vm))
        start = time.time()
        count = len(told(vm.region))
        done(vm.region, 'enable', 'sched_wakeup,signal:signal_generate', options=PATIENT)
        took.append(time.time() - start)
        # What nobody picked is exchanged with it: missing for a while, and whole again.
        filters = told(vm.region)
        for event in ('sched_switch', 'sched_process_fork', 'sched_process_exec', 'task_rename'):
            assert told_of(filters[count:], event) == [True, False], filters[count:]
        for event in ('sys_enter', 'sched_wakeup', 'signal_signal_generate'):
            assert not any(told_of(filters[count:], event)), filters[count:]
        marks.append(guest_now(vm))
        time.sleep(1)
        marks.append(guest_now(vm))
        state = {n: v[0] for n, v in vm.state().items() if v[0] != 'kept'}
        assert state == {'sched_switch': 'on', 'sys_enter': 'on', 'sched_wakeup': 'on', 'signal:signal_generate': 'on'}, state
        refused(vm.region, 'disable', 'the_end', options=PATIENT)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        say(f'disable took {took[0]:.2f} s, loading two more events {took[1]:.2f} s; marks {marks}')
        check_guest(vm, ours(out), marks)


def theirs(vm):
    events = {}
    for cpu, line in ftrace.complete_lines(vm.disk):
        m = ftrace.LINE.match(line)
        if m:
            events.setdefault(cpu, []).append((float(m['time']), m['event'], m['rest']))
    return events


def check_guest(vm, mine, marks):
    kernel = theirs(vm)
    on, off, off_end, on_again, more, more_end = marks
    for name, start, end in (('sched_switch', off, off_end), ('sched_wakeup', 0, on_again)):
        there = between(kernel, name, start, end)
        say(f'{name} off: {between(mine, name, start, end)} of {there}')
        assert between(mine, name, start, end) == 0 and there > 50, (name, there)
    first = min(events[0][0] for events in mine.values())
    for name, start, end in (('sched_switch', first + 0.1, on), ('sys_enter', first + 0.1, more_end),
                             ('sched_switch', more, more_end), ('sched_wakeup', more, more_end)):
        a, b = between(mine, name, start, end), between(kernel, name, start, end)
        say(f'{name} on: {a}, ftrace {b}')
        # At the edges clocks are read apart. Wakeups come nested in others, of which the kernel skips some.
        if a < b - 4:
            have = collections.Counter(int(t * 1000) for c in mine for t, e, _ in mine[c] if e == name and start < t < end)
            want = collections.Counter(int(t * 1000) for c in kernel for t, e, *_ in kernel[c] if e == name and start < t < end)
            say('missing, by ms:', sorted((want - have).items())[:40], 'all', sum((want - have).values()))
        least = b - 4 - (b // 30 if name == 'sched_wakeup' else 0)
        assert least <= a <= b + 4 and b > 50, (name, a, b)
    for cpu, events in mine.items():
        # Nothing is there twice, and nothing that ftrace has not: the order of one CPU's switches is its own.
        switches = [tid(f['next_tid']) for t, event, f in events if event == 'sched_switch' and t < more_end]
        all_of_them = [int(ftrace.SWITCH.match(rest)[6]) for _, event, rest in kernel[cpu] if event == 'sched_switch']
        at = iter(all_of_them)
        assert all(s in at for s in switches), f'CPU {cpu}: switches that ftrace does not have'


@params('6.12')
def test_guest_filter(kernel):
    """Filters and sampling at run time; --compress and a session's own filter stay in force."""
    script = ftrace.SHELL + '''
ftrace_on raw_syscalls/sys_enter sched/sched_switch
agent_start --verbose --events sched_switch,sys_enter --compress --allow all || exit 1
echo TRACING
until grep -q 'command: disable the_end' /tmp/agent.log; do workload pace 200 1 4242 > /tmp/paced; done
ftrace_off
agent_stop || exit 1
ftrace_dump
'''
    with Traced(script, kernel=kernel, cpus=2, memory='1024M', disk_mib=256) as vm:
        vm.start()
        out = os.path.join(vm.dir, 'out.json')
        reader = Reader(vm, '-o', 'json:' + out)
        vm.wait_for('TRACING')
        before = vm.state()
        for command in (('filter', 'sys_enter: nr =='), ('filter', 'sys_enter: no_such_field == 1'),
                        ('filter', 'sys_enter nr == 1'), ('filter', "sched_switch: comm == '*a?b'"),
                        ('sample', 'sys_enter: 1/0'), ('sample', 'sys_enter: 2'), ('sample', 'sched_process_fork: 1/2')):
            refused(vm.region, *command, options=PATIENT)
        assert vm.state() == before, 'a refused command changed something'
        done(vm.region, 'flush')
        done(vm.region, 'filter', f'sys_enter: nr == {GETPGID}', options=PATIENT)
        marks = [guest_now(vm)]
        for event in ('sys_enter', 'compat_sys_enter'):
            assert told_of(told(vm.region), event) == [True], told(vm.region)
        time.sleep(1)
        marks.append(guest_now(vm))
        done(vm.region, 'sample', 'sched_switch: 1/4', options=PATIENT)
        done(vm.region, 'filter', 'sys_enter:', options=PATIENT)
        marks.append(guest_now(vm))
        time.sleep(2)
        marks.append(guest_now(vm))
        assert vm.state()['sched_switch'][1] == 4 and vm.state()['sys_enter'] == ('on', 1, ''), vm.state()
        done(vm.region, 'sample', 'sched_switch: 1/1', options=PATIENT)
        marks.append(guest_now(vm))
        time.sleep(0.5)
        marks.append(guest_now(vm))
        for event in ('sched_switch', 'sys_enter', 'compat_sys_enter', 'sched_process_fork'):
            assert told_of(told(vm.region), event)[-1] is False, told(vm.region)
        check_substitute(vm)
        refused(vm.region, 'disable', 'the_end', options=PATIENT)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        check_filter(ours(out), theirs(vm), marks)


def check_substitute(vm):
    """An event that one of several programs records: what is said of it holds for that one."""
    status, text = vm.ctl('enable', 'steal', options=PATIENT)
    if status:
        say(f'no stolen time in this kernel: {text}')
        return
    done(vm.region, 'sample', 'steal: 1/10', options=PATIENT)
    assert vm.state()['steal'][:2] == ('on', 10), vm.state()
    assert told_of(told(vm.region), 'steal') == [True], told(vm.region)
    done(vm.region, 'sample', 'steal: 1/1', options=PATIENT)
    assert vm.state()['steal'][:2] == ('on', 1) and told_of(told(vm.region), 'steal') == [True, False]


def check_filter(mine, kernel, marks):
    filtered, filtered_end, sampled, sampled_end, whole, whole_end = marks
    calls = [f['nr'] for cpu in mine for t, event, f in mine[cpu] if event == 'sys_enter' and
             filtered < t < filtered_end]
    wanted = sum(rest.startswith(f'NR {GETPGID} ') for cpu in kernel for t, event, rest in kernel[cpu]
                 if event == 'sys_enter' and filtered < t < filtered_end)
    say(f'filtered: {len(calls)} calls, of {set(map(str, calls))}; ftrace has {wanted}')
    assert len(set(map(str, calls))) == 1 and abs(len(calls) - wanted) <= 4 and wanted > 20
    a, b = between(mine, 'sched_switch', sampled, sampled_end), between(kernel, 'sched_switch', sampled, sampled_end)
    say(f'1/4 sampled: {a} of {b} switches')
    assert b > 200 and abs(a - b / 4) < 6 * (b * 3 / 16) ** 0.5, (a, b)
    for name, start, end in (('sys_enter', sampled, sampled_end), ('sched_switch', whole, whole_end)):
        a, b = between(mine, name, start, end), between(kernel, name, start, end)
        say(f'{name} whole: {a}, ftrace {b}')
        assert abs(a - b) <= 4 and b > 50, (name, a, b)

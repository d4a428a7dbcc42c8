# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that fall silent: why, what they left, and how they come back."""

import contextlib
import json
import mmap
import os
import re
import signal
import socket
import struct
import time

import clocks
import ctftext
import gdbstub
import pftext
from guestlike import Stage
from harness import say
from test_capture import replay
from test_module import RINGSETS
from vm import COUNTED, VM, Reader


def numbers(path):
    """{CPU: [(number, unverified)]}, and the notes."""
    found, notes = {}, []
    with open(path, encoding='ascii') as f:
        for item in map(json.loads, f):
            if 'fields' in item:
                found.setdefault(item['cpu'], []).append((item['fields']['number'],
                                                          item.get('unverified', False)))
            elif 'note' in item:
                notes.append(item['note'])
    return found, notes


def sure(numbers):
    return [(n, False) for n in numbers]


def test_stopped():
    """Its process is stopped, and goes on: nothing is doubtful. Then it runs without a heartbeat."""
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('-o', 'json:' + out)
        time.sleep(1.2)
        guest.do('w 0 100')
        guest.stand_still(reader)
        guest.do('w 0 100')
        guest.do('b 0')
        reader.wait_for('silent for .* it runs: its agent is stopped')
        guest.do('b 1')
        reader.wait_for('is back', count=2)
        guest.do('b 0')
        guest.do('s 2600')
        reader.wait_for('silent for .* runs all the time')
        guest.do('b 1')
        reader.wait_for('is back', count=3)
        guest.close()
        assert reader.stop() == 0, reader.err()
        found, notes = numbers(out)
        assert found[0][:200] == sure(range(200)), found[0][:200]
        assert [n.split(':')[0][:12] for n in notes] == ['guest silent', 'the guest is'] * 3, notes
        say(*notes)


def test_killed():
    """
    Killed in the midst of records: what is committed comes as ever, what can be delimited behind the
    hole is marked, and the rest is counted.
    """
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('-o', 'json:' + out)
        time.sleep(1.2)
        guest.do('w 0 100')
        time.sleep(0.3)  # they are read
        guest.do('x 0 50')  # within a block
        guest.do('w 1 7')
        time.sleep(0.3)
        begun = time.time()
        guest.kill()
        reader.wait_for('silent for .* process that ran it is gone')
        reader.wait_for('of the silent guest were read')
        took = time.time() - begun
        assert took < 2, f'that it is gone was seen after {took} s only'
        assert reader.stop() == 0, reader.err()
        found, _ = numbers(out)
        assert found[0][:100] == sure(range(100)) and found[1] == sure(range(7)), found
        assert found[0][100:] == [(n, True) for n in range(100, 151)], found[0][100:]
        assert '16 bytes, of processes that died' in reader.err(), reader.err()
        say(f'{len(found[0])} of CPU 0, 51 of them marked')


def test_handed_over():
    """The process that ran it is gone, but its heart beats: another one runs it, and it is read on."""
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('-o', 'json:' + out)
        time.sleep(1.2)
        for i in range(2):
            guest.do('w 0 100')
            time.sleep(0.3)
            guest.do('h')
            reader.wait_for('silent for .* process that ran it is gone', count=i + 1)
            reader.wait_for('is back, after', count=i + 1)
            time.sleep(1.5)  # who runs it now is looked for again
        guest.do('w 0 100')
        time.sleep(0.5)
        assert reader.err().count('is gone') == 2, reader.err()
        guest.ask('c')
        reader.wait_for('ended the session')
        assert reader.stop() == 0, reader.err()
        found, _ = numbers(out)
        assert found[0][-300:] == sure(range(300)), found[0][-300:]


def test_found_dead():
    """A reader that comes when all is over reads the file that is left; what it left open, at its end."""
    with Stage() as stage:
        guest = stage.guest(policy='discard')
        guest.do('w 0 300')
        guest.do('x 1 20')
        guest.kill()
        for attempt in range(2):  # reading changes nothing
            out = stage.path(f'json{attempt}')
            reader = stage.reader('-o', 'json:' + out)
            reader.wait_for('silent')
            time.sleep(0.3)
            assert reader.stop() == 0, reader.err()
            found, _ = numbers(out)
            if attempt:  # what was committed was consumed; what was not, nobody can
                assert 0 not in found, found
            else:
                assert found[0] == [(n, True) for n in range(300)], found
            assert found[1] == [(n, True) for n in range(21)], found
        assert os.path.getsize(stage.path('region'))


def test_pretends():
    """A guest whose heartbeat goes back all the time gets a session at most twice a second; then it is read on."""
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('-o', 'json:' + out)
        time.sleep(1.2)
        guest.do('w 0 100')
        time.sleep(0.5)
        with open(stage.path('region'), 'r+b') as f:
            region = mmap.mmap(f.fileno(), 0)
        at = struct.unpack_from('<Q', region, 80)[0] + 16  # guest area: its heartbeat
        begun, beat = time.time(), 1 << 20
        while time.time() - begun < 4:
            beat -= 1
            struct.pack_into('<Q', region, at, beat)
            if beat % 50 == 0:  # it rises, too
                struct.pack_into('<Q', region, at, beat + 7)
            time.sleep(0.002)
        took = time.time() - begun
        time.sleep(2)
        guest.do('w 0 100')
        time.sleep(1.5)
        assert guest.process.poll() is None
        guest.close()
        reader.wait_for('ended the session')
        assert reader.stop() == 0, reader.err()
        found, notes = numbers(out)
        back = [n for n in notes if 'set back' in n]
        say(f'{len(back)} sessions in {took:.1f} s')
        assert 1 <= len(back) <= 2 * (took + 2) + 1, notes
        assert found[0][:100] == sure(range(100)) and found[0][-100:] == sure(range(100, 200)), found[0]


def test_loaded_slowly():
    """
    Rings go back long before the heartbeat does, as of a guest that is being loaded, and one that stands still: nothing is
    broken, and when the heartbeat has gone back, too, it is known why. If that never does, they are broken once it runs.
    """
    for all_of_it in True, False:
        with Stage() as stage:
            guest = stage.guest()
            out = stage.path('json')
            reader = stage.reader('-o', 'json:' + out)
            time.sleep(1.2)
            with open(stage.path('region'), 'r+b') as f:
                region = mmap.mmap(f.fileno(), 0)
            rings, = struct.unpack_from('<Q', region, RINGSETS + 40)
            guest.do('w 0 100')
            guest.process.send_signal(signal.SIGSTOP)
            saved = region[:]
            guest.process.send_signal(signal.SIGCONT)
            guest.do('w 0 200')
            guest.do('w 1 10')
            time.sleep(0.5)
            guest.process.send_signal(signal.SIGSTOP)
            region[rings:] = saved[rings:]
            reader.wait_for('silent for .* process that runs it is stopped')
            time.sleep(0.3)
            assert 'broken' not in reader.err(), reader.err()
            if all_of_it:
                region[:rings] = saved[:rings]
            guest.process.send_signal(signal.SIGCONT)
            reader.wait_for('set back to an earlier state' if all_of_it else 'ring 0 is broken')
            if all_of_it:
                reader.wait_for('new session')
            guest.do('w 0 50')
            guest.close()
            reader.wait_for('ended the session')
            assert reader.stop() == 0, reader.err()
            found, notes = numbers(out)
            assert found[1] == sure(range(10)), found[1]
            assert found[0] == sure(range(350 if all_of_it else 300)), (len(found[0]), notes)
            assert ('given up' in reader.err()) != all_of_it and ('set back' in reader.err()) == all_of_it, reader.err()


class Qmp:
    """QEMU's monitor."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.file = self.socket.makefile('r')
        self.next()
        self.do('qmp_capabilities')

    def next(self):
        return json.loads(self.file.readline())

    def do(self, command, **arguments):
        self.socket.sendall(json.dumps({'execute': command, 'arguments': arguments}).encode())
        while True:
            answer = self.next()
            assert 'error' not in answer, (command, answer)
            if 'return' in answer:
                return answer['return']

    def job(self, command, **arguments):
        """One that is done some time; then it is dismissed."""
        self.do(command, **{'job-id': 'job'}, **arguments)
        while True:
            job = self.do('query-jobs')[0]
            if job['status'] == 'concluded':
                break
            time.sleep(0.05)
        assert 'error' not in job, (command, job)
        self.do('job-dismiss', id='job')

    def disk(self, path):
        """An image that snapshots can be kept in."""
        self.job('blockdev-create', options={'driver': 'file', 'filename': path, 'size': 0})
        self.do('blockdev-add', **{'driver': 'file', 'node-name': 'file', 'filename': path})
        self.job('blockdev-create', options={'driver': 'qcow2', 'file': 'file', 'size': 1 << 30})
        self.do('blockdev-add', **{'driver': 'qcow2', 'node-name': 'disk', 'file': 'file'})

    def state(self, what):
        self.job(what, tag='state', vmstate='disk', devices=['disk'])


ROUND = 500  # records of `counted` each
ROUNDS = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
i=0
while :; do
	workload count {ROUND} 424242
	i=$((i + 1))
	echo ROUND $i
	sleep 0.3
done
'''


def follow(numbers, what):
    """Each follows the one before, in its round or in the next one."""
    off = [(a, b) for a, b in zip(numbers, numbers[1:]) if b != (a + 1) % ROUND]
    assert not off, (what, off)


def counted(path):
    """[note or [(number, unverified)]] in their order."""
    found = [[]]
    with open(path, encoding='ascii') as f:
        for item in map(json.loads, f):
            if 'note' in item:
                found += [item['note'], []]
            elif item.get('event') == 'counted':
                found[-1].append((item['fields']['number'], item.get('unverified', False)))
    return found


def flat(parts):
    return [n for p in parts if not isinstance(p, str) for n, _ in p]


def index_of(parts, what, start=0):
    """Of the note that begins with it."""
    return next(i for i, p in enumerate(parts) if i >= start and isinstance(p, str) and p.startswith(what))


def check_parts(parts):
    """
    Nothing is missing until it is set back, and then it goes on behind what it had recorded when its state was
    saved, in the first pause: no record twice, and none left out.
    """
    paused, back = index_of(parts, 'guest silent'), index_of(parts, 'the guest was set back')
    reset = index_of(parts, 'restarted: ', back)
    silent = index_of(parts, 'guest silent', back)
    saved, before = flat(parts[:paused]), flat(parts[:back])
    after, anew = flat(parts[back:silent]), flat(parts[reset:])
    follow(before, 'before')
    follow(after, 'after it was set back')
    follow(anew, 'after the reset')
    say(f'{len(saved)} records until its state was saved, {len(before)} until it was loaded, {len(after)} then, '
        f'{len(anew)} after a reset')
    assert len(before) > len(saved) > ROUND and len(after) > ROUND and len(anew) > ROUND
    assert after[0] == (saved[-1] + 1) % ROUND, (saved[-1], before[-1], after[0])
    assert anew[0] == 0, anew[0]
    return anew


def more_rounds(vm, more):
    vm.wait_for('ROUND', count=vm.console().count('ROUND') + more)


def silences(qmp, vm, reader, out):
    """All that befalls it: {what: when}."""
    when = {}
    vm.wait_for('ROUND 3')
    reader.wait_for('from now on direct|; direct')
    clocks.wait_for(out)
    time.sleep(1)
    when['stop'] = clocks.When(qmp.do, 'stop')
    reader.wait_for('silent for .* paused')
    qmp.state('snapshot-save')
    when['cont'] = clocks.When(qmp.do, 'cont')
    reader.wait_for('is back, after .* paused')
    clocks.wait_for(out, what='clock: a step of +')
    more_rounds(vm, 3)
    when['load'] = clocks.When(qmp.state, 'snapshot-load')
    time.sleep(0.3)
    qmp.do('cont')
    reader.wait_for('set back to an earlier state')
    reader.wait_for('new session')
    more_rounds(vm, 3)
    clocks.wait_for(out, count=2)
    when['reset'] = clocks.When(qmp.do, 'system_reset')
    reader.wait_for('restarted: ', timeout=120)
    more_rounds(vm, 3)
    clocks.wait_for(out, count=3)
    time.sleep(1)
    qmp.do('inject-nmi')
    reader.wait_for('silent for .* panic', timeout=30)
    return when


def check_clock(path, when, began, ended):
    """
    The pause is marked as the step that it was, once. Then, and in the earlier state, and after the reset, times are
    the host's: each is one at which the guest ran, but for the bound that is stated of it.
    """
    ran = [[(began, when['stop'].done), (when['cont'].asked, when['load'].done)],
           [(when['load'].asked, when['reset'].done)], [(when['reset'].asked, ended)]]
    sessions = clocks.sessions(path)
    assert len(sessions) == len(ran), [s[-1] for s in sessions]
    for session, spans in zip(sessions, ran):
        sure, bound = clocks.until_doubt(session)
        times = [e['time'] for e in sure if e.get('event') == 'counted']
        doubtful = sum(e.get('event') == 'counted' for e in session) - len(times)
        off = max(min(max(a - t, t - b, 0) for a, b in spans) for t in times)
        say(f'{len(times)} times within {bound} ns, and {off} ns from when it ran at most; {doubtful} doubtful;',
            *[n['note'] for n in session if n.get('note', '').startswith('clock: ')])
        assert off <= bound and doubtful <= len(times) / 10, (off, bound, doubtful)
    steps = [[n['note'] for n in s if clocks.is_step(n)] for s in sessions]
    assert [len(s) for s in steps] == [1, 0, 0], steps
    by = float(re.search(r'a step of ([+-][\d.]+) s', steps[0][0])[1]) * 1e9
    slack = clocks.until_doubt(sessions[0])[1]
    assert when['cont'].asked - when['stop'].done - slack <= by <= when['cont'].done - when['stop'].asked + slack, by


def test_lives():
    """
    A guest with direct placement is paused, set back to the state that it was in then, reset, felled by a panic,
    and killed; what it leaves in the file of its RAM is read afterwards.
    """
    with VM(ROUNDS, kernel='6.1', memory='256M', add=[COUNTED], reboot=True,
            append='unknown_nmi_panic=1 panic=0') as vm:
        qmp_path = os.path.join(vm.dir, 'qmp')
        vm.command += ['--ram', vm.ram, '--qmp', qmp_path, '--tcg-thread', 'single', '--',
                       '-global', 'ivshmem-plain.master=on']  # else QEMU does not save it
        began = time.monotonic_ns()
        vm.start()
        out, text = os.path.join(vm.dir, 'json'), os.path.join(vm.dir, 'text')
        ctf, raw = os.path.join(vm.dir, 'ctf'), os.path.join(vm.dir, 'raw')
        perfetto = os.path.join(vm.dir, 'pf')
        reader = Reader(vm, '--clock', '-o', 'json:' + out, '-o', 'text:' + text, '-o', 'ctf:' + ctf, '-o', 'raw:' + raw,
                        '-o', 'perfetto:' + perfetto)
        qmp = Qmp(qmp_path)
        qmp.disk(os.path.join(vm.dir, 'disk'))
        when = silences(qmp, vm, reader, out)
        vm.qemu.kill()
        vm.qemu.wait()
        time.sleep(1)
        assert reader.stop() == 0, reader.err()
        said = [re.sub('^host-reader: [^:]*: ', '', x) for x in reader.err().splitlines()
                if re.search('silent|back|broken|corrupt|session|restarted', x)]
        say(*said)
        assert 'given up' not in reader.err() and re.search(r'^lost +0 ', reader.err(), re.M), reader.err()
        parts = counted(out)
        notes = [p for p in parts if isinstance(p, str)]
        after = check_parts(parts)
        check_clock(out, when, began, time.monotonic_ns())
        # the same marks everywhere
        with open(text, encoding='ascii') as f:
            lines = f.read()
        assert all(f'--- {n} ---' in lines for n in notes), notes
        traced = [r.fields['text'] for t in ctftext.traces(ctf) for r in ctftext.read(t)[0]
                  if r.event == 'htrace_note']
        boots = [re.search(r'htrace_boot_id = "([-0-9a-f]{36})"', ctftext.metadata(t))[1] for t in ctftext.traces(ctf)]
        assert len(boots) == 3 and boots[0] == boots[1] != boots[2], boots  # from the start, set back, restarted
        own = [n for n in notes if not n.startswith(('clock begins', 'clock ends'))]
        assert sorted(traced) == sorted(own), (traced, notes)
        first = [next(r.fields['text'] for r in ctftext.read(t)[0] if r.event == 'htrace_note') for t in ctftext.traces(ctf)[1:]]
        assert [n.split(': ')[0] for n in first] == ['new session', 'restarted'], first
        shown = pftext.marks(perfetto)
        assert sorted(shown) == sorted(notes), (shown, notes)
        replayed = []
        for name in sorted(os.listdir(raw)):  # one of each session
            replay(os.path.join(raw, name), '--clock', '-o', 'json:' + out + '2')
            replayed += counted(out + '2')
        assert flat(replayed) == flat(parts), 'the captures give something else'
        assert [p for p in replayed if isinstance(p, str) and not p.startswith(('clock begins', 'clock ends'))] == own, replayed
        # what is left when all is over
        late = Reader(vm, '-o', 'json:' + out + '3', ram=vm.ram, name='late')
        late.wait_for('of the silent guest were read')
        assert late.stop() == 0, late.err()
        left = [n for p in counted(out + '3') if not isinstance(p, str) for n in p]
        assert all(doubt for _, doubt in left)
        assert [n for n, _ in left] == after[len(after) - len(left):] and len(left) >= 1000, len(left)
        say(f'{len(left)} records were still in the file of the RAM, marked')


def test_hung():
    """A guest whose CPU is caught in the kernel, with interrupts off: it is told, nothing is lost, and after a reset it goes on."""
    with VM(ROUNDS, kernel='6.1', memory='256M', add=[COUNTED], reboot=True) as vm:
        qmp_path, gdb = os.path.join(vm.dir, 'qmp'), os.path.join(vm.dir, 'gdb')
        vm.command += ['--ram', vm.ram, '--qmp', qmp_path, '--', '-gdb', f'unix:{gdb},server=on,wait=off']
        vm.start()
        out = os.path.join(vm.dir, 'json')
        reader = Reader(vm, '-o', 'json:' + out)
        vm.wait_for('ROUND 3')
        reader.wait_for('from now on direct|; direct')
        at = gdbstub.hang(gdb)
        reader.wait_for('silent for .* all the time: it hangs', timeout=30)
        assert 'panic' not in vm.console().lower()
        rounds = len(re.findall(r'ROUND \d+', vm.console()))
        Qmp(qmp_path).do('system_reset')
        reader.wait_for('restarted: ', timeout=120)
        vm.wait_for(r'ROUND 2\b', count=2)
        time.sleep(1)
        assert reader.stop() == 0, reader.err()
        parts = counted(out)
    reset = index_of(parts, 'restarted: ', index_of(parts, 'guest silent'))
    before, anew = flat(parts[:reset]), flat(parts[reset:])
    say(f'caught at {at:#x} after {rounds} rounds; {len(before)} records of them, {len(anew)} after the reset')
    follow(before, 'before')
    follow(anew, 'after the reset')
    assert rounds * ROUND <= len(before) <= (rounds + 1) * ROUND and len(anew) >= 2 * ROUND and anew[0] == 0
    assert not any(doubt for p in parts[reset:] if not isinstance(p, str) for _, doubt in p)


def check_migrated(here, there, when):
    """
    What a region of each side said. Both have what was recorded before the guest moved, at times apart by how long it stood
    still: that it did is noted here, behind its last record and for good, and there, where nobody can know of it, its clock is
    begun anew, before its first one, and right from then on.
    """
    moves, moved, ended = when
    marks = [[re.match(r'\w+:? \w+', e['note'])[0] for e in side if 'note' in e] for side in (here, there)]
    marks = [[m for m in of if m != 'clock: times'] for of in marks]  # that were further off than was known
    assert marks == [['clock begins', 'guest silent', 'clock ends'], ['clock begins', 'clock ends']], marks
    silent = next(i for i, e in enumerate(here) if e.get('note', '').startswith('guest silent'))
    begun = next(i for i, e in enumerate(there) if e.get('note', '').startswith('clock begins'))
    assert not any(e.get('event') == 'counted' for e in here[silent:] + there[:begun]), (silent, begun)
    bounds = [clocks.claimed([e for e in side if e.get('clock')]) for side in (here, there)]
    before, after = ([(e['fields']['number'], e['time']) for e in side if e.get('event') == 'counted'] for side in (here, there))
    # Each round counts from 0. The other region has what was in memory, and what came behind.
    for side in before, after:
        assert len(side) >= 6 * ROUND and all(b == (a + 1) % ROUND for (a, _), (b, _) in zip(side, side[1:])), len(side)
    assert len(after) >= len(before) + 5 * ROUND, (len(before), len(after))
    apart = [b - a for (m, a), (n, b) in zip(before, after) if m == n]
    late = [t for _, t in after[-4 * ROUND:]]
    say(f'{len(before)} records here within {bounds[0]} ns, {len(after)} there within {bounds[1]} ns; {len(apart)} of both, '
        f'{min(apart)} to {max(apart)} ns apart, which the guest stood still for')
    assert len(apart) == len(before) and max(apart) - min(apart) <= 2 * sum(bounds), (len(apart), bounds)
    assert -sum(bounds) <= min(apart) and max(apart) <= moved - moves + sum(bounds), (apart[0], moved - moves)
    assert all(moved - bounds[1] <= t <= ended + bounds[1] for t in late), (moved, late[0], late[-1], ended, bounds)


def test_migrated():
    """A guest that moves to another QEMU: both regions in one reader; it goes on in the other one, at right times."""
    with contextlib.ExitStack() as stack:
        vms = [stack.enter_context(VM(ROUNDS, kernel='6.1', memory='256M', add=[COUNTED])) for _ in range(2)]
        for vm in vms:
            vm.command += ['--ram', vm.ram, '--qmp', os.path.join(vm.dir, 'qmp'), '--tcg-thread', 'single', '--',
                           '-global', 'ivshmem-plain.master=on']
        here, there = vms
        there.command += ['-incoming', f'unix:{there.dir}/in']
        for vm in vms:
            vm.start()
        out = os.path.join(here.dir, 'json')
        reader = Reader(f'ivshmem:{here.region},ram={here.ram}', '--clock', '-o', 'json:' + out,
                        f'ivshmem:{there.region},ram={there.ram}')
        here.wait_for('ROUND 6')
        clocks.wait_for(out, here.region)
        qmp = Qmp(os.path.join(here.dir, 'qmp'))
        moves = time.monotonic_ns()
        qmp.do('migrate', uri=f'unix:{there.dir}/in')
        while (status := qmp.do('query-migrate')['status']) not in ('completed', 'failed'):
            time.sleep(0.05)
        assert status == 'completed', status
        moved = time.monotonic_ns()
        last = max(map(int, re.findall(r'ROUND (\d+)', here.console())))
        there.wait_for(f'ROUND {last + 6}')
        clocks.wait_for(out, there.region)
        time.sleep(1)
        assert reader.stop() == 0, reader.err()
        ended = time.monotonic_ns()
        say(*[line for line in reader.err().splitlines()
              if re.search('silent|back|session|shown as|line|asked|given up', line)])
        with open(out, encoding='ascii') as f:
            found = [json.loads(line) for line in f]
    of = {vm: [e for e in found if e['source'] == vm.region] for vm in vms}
    for vm in vms:
        say(*[(e['note'], e.get('bound')) for e in of[vm] if 'note' in e])
    check_migrated(of[here], of[there], (moves, moved, ended))

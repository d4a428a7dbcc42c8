# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that fall silent: why, what they left, and how they come back."""

import json
import os
import re
import signal
import socket
import time

import ctftext
from guestlike import Stage
from harness import say
from test_capture import replay
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
        guest.process.send_signal(signal.SIGSTOP)
        reader.wait_for('silent for .* process that runs it is stopped')
        guest.process.send_signal(signal.SIGCONT)
        reader.wait_for('is back, after .* paused')
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


ROUND = 500  # records of `counted` each


def rounds(records, what):
    """How many there are, each whole and in order; the first and the last may be in part."""
    starts = [i for i, n in enumerate(records) if n == 0]
    for i, at in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else len(records)
        part = records[at:end]
        assert part == list(range(len(part))), (what, part[:3], part[-3:])
        assert len(part) == ROUND or end == len(records), f'{what}: a round of {len(part)} records'
    return len(starts)


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


def test_lives():
    """
    A guest with direct placement is paused, felled by a panic, and killed;
    what it leaves in the file of its RAM is read afterwards.
    """
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
i=0
while :; do
	workload count {ROUND} 424242
	i=$((i + 1))
	echo ROUND $i
	sleep 0.3
done
'''
    with VM(script, kernel='6.1', memory='256M', add=[COUNTED],
            append='unknown_nmi_panic=1 panic=0') as vm:
        qmp_path = os.path.join(vm.dir, 'qmp')
        vm.command += ['--ram', vm.ram, '--qmp', qmp_path, '--tcg-thread', 'single']
        vm.start()
        out, text = os.path.join(vm.dir, 'json'), os.path.join(vm.dir, 'text')
        ctf, raw = os.path.join(vm.dir, 'ctf'), os.path.join(vm.dir, 'raw')
        reader = Reader(vm, '-o', 'json:' + out, '-o', 'text:' + text, '-o', 'ctf:' + ctf, '-o', 'raw:' + raw)
        qmp = Qmp(qmp_path)
        vm.wait_for('ROUND 3')
        reader.wait_for('from now on direct|; direct')
        time.sleep(1)
        qmp.do('stop')
        reader.wait_for('silent for .* paused')
        qmp.do('cont')
        reader.wait_for('is back, after .* paused')
        vm.wait_for(r'ROUND 8')
        qmp.do('inject-nmi')
        reader.wait_for('silent for .* panic', timeout=30)
        vm.qemu.kill()
        vm.qemu.wait()
        time.sleep(1)
        assert reader.stop() == 0, reader.err()
        said = [re.sub('^host-reader: [^:]*: ', '', x) for x in reader.err().splitlines()
                if re.search('silent|back|broken|corrupt', x)]
        say(*said)
        assert 'given up' not in reader.err() and re.search(r'^lost +0 ', reader.err(), re.M), reader.err()
        parts = counted(out)
        notes = [p for p in parts if isinstance(p, str)]
        after = [n for p in parts if not isinstance(p, str) for n, _ in p]
        told = rounds(after, 'all')
        say(f'{told} rounds')
        assert told >= 7, told
        assert not any(doubt for p in parts if not isinstance(p, str) for _, doubt in p)
        # the same marks everywhere
        with open(text, encoding='ascii') as f:
            lines = f.read()
        assert all(f'--- {n} ---' in lines for n in notes), notes
        traced = [r.fields['text'] for t in ctftext.traces(ctf) for r in ctftext.read(t)[0]
                  if r.event == 'htrace_note']
        assert traced == [n for n in notes if not n.startswith('new session: ')], (traced, notes)
        replay(raw, '-o', 'json:' + out + '2')
        assert counted(out + '2') == parts, 'the capture gives something else'
        # what is left when all is over
        late = Reader(vm, '-o', 'json:' + out + '3', ram=vm.ram, name='late')
        late.wait_for('of the silent guest were read')
        assert late.stop() == 0, late.err()
        left = [n for p in counted(out + '3') if not isinstance(p, str) for n in p]
        assert all(doubt for _, doubt in left)
        assert [n for n, _ in left] == after[len(after) - len(left):] and len(left) >= 1000, len(left)
        say(f'{len(left)} records were still in the file of the RAM, marked')

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The flight recorder: nothing goes out but by snapshots, and these hold the last of each ring."""

import json
import mmap
import os
import re
import signal
import struct
import subprocess
import time

import ctftext
import pftext
from guestlike import Stage
from harness import no_landlock, params, say
from test_capture import replay
from test_dead import Qmp
from vm import COUNTED, READER, VM, Reader

RECORD = 16          # bytes in the ring of what guestlike writes
KEEP = 64 << 10      # that --snapshot is told to hold of a ring
SLACK = 4096 + 2048  # a block more may be held; and what a batch takes beside its records
NOTE = re.compile(r'snapshot (\d+), asked for by (.*): (\d+) events that came within .*, (\d+) lost '
                  r'among them; before them (\d+) were not kept, and (\d+) lost; taken at 2\d{3}-')


def snapshots(path):
    """Of each snapshot: (why, events told, lost, passed, passed lost, {CPU: numbers})."""
    found = []
    with open(path, encoding='ascii') as f:
        for item in map(json.loads, f):
            note = NOTE.match(item.get('note', ''))
            if note:
                assert int(note[1]) == len(found) + 1, note[0]
                found.append((note[2], *map(int, note.groups()[2:]), {}))
            elif 'fields' in item:
                assert found, f'outside of a snapshot: {item}'
                found[-1][-1].setdefault(item['cpu'], []).append(item['fields']['number'])
    for why, events, _, _, _, numbers in found:
        assert events == sum(map(len, numbers.values())), (why, events)
    return found


def is_run(numbers, end):
    """Without a gap until @end."""
    return numbers == list(range(numbers[0], end))


def wait_for_snapshot(reader, nr, count=1):
    reader.wait_for(f'snapshot {nr}, .* written', count=count)


@params('overwrite', 'discard')
def test_signal(policy):
    """All that is held, or the last of it; the same in every output, and from a capture."""
    with Stage() as stage:
        guest = stage.guest(policy=policy, kib=256)
        out = stage.path('json')
        reader = stage.reader('--snapshot', '64K', '-o', 'json:' + out, '-o', 'ctf:' + stage.path('ctf'),
                              '-o', 'raw:' + stage.path('raw'), '-o', 'text:' + stage.path('text'), '--stats', '1')
        guest.do('w 0 1000')
        guest.do('w 1 10')
        time.sleep(0.5)
        with open(out, 'rb') as f:
            assert not f.read(), 'something was written without a snapshot'
        reader.signal(signal.SIGUSR1)
        wait_for_snapshot(reader, 1)
        guest.do('r 20000 1500')  # slow enough to be read
        time.sleep(0.2)
        reader.signal(signal.SIGUSR1)
        wait_for_snapshot(reader, 2)
        guest.do('w 1 3')
        guest.close()
        assert reader.stop() == 0, reader.err()
        assert no_landlock() or 'files: those of the outputs (Landlock' in reader.err(), reader.err()
        first, second = snapshots(out)
        assert first[0] == 'SIGUSR1' and first[2:5] == (0, 0, 0), first
        assert first[5] == {0: list(range(1000)), 1: list(range(10))}, 'not all, or not in order'
        for cpu, end in (0, 21000), (1, 20010):
            numbers = second[5][cpu]
            assert is_run(numbers, end), f'CPU {cpu}: {numbers[:3]} ... {numbers[-3:]}, {len(numbers)}'
            # what a batch takes beside its records counts, so many small ones hold less of them
            assert 1000 <= len(numbers) <= (KEEP + SLACK) / RECORD, len(numbers)
        assert second[2] == second[4] == 0 and second[1] + second[3] == 40000, second[:5]
        say(f'{policy}: {first[1]} and then the last {second[1]} events, {second[3]} told as not kept')
        lists = [(e['cpu'], e['fields']['number']) for e in map(json.loads, open(out, encoding='ascii'))
                 if 'fields' in e]
        records, losses = ctftext.read(stage.path('ctf'))
        assert not losses and [(int(r.packet['cpu_id']), int(r.fields['number'])) for r in records
                               if r.event == 'counted'] == lists
        notes = [json.loads(line)['note'] for line in open(out, encoding='ascii') if 'note' in line]
        assert [r.fields['text'] for r in records if r.event == 'htrace_note'] == notes
        with open(stage.path('text'), encoding='ascii') as f:
            assert len(re.findall('counted: number', f.read())) == len(lists)
        replay(stage.path('raw'), '-o', 'json:' + stage.path('again'))
        with open(stage.path('again'), encoding='ascii') as a, open(out, encoding='ascii') as b:
            assert a.read() == b.read(), 'the capture gives something else'


def test_event():
    """An event with a condition asks for it; what came before it is there, and those between two are not."""
    with Stage() as stage:
        guest = stage.guest(kib=1024)
        out = stage.path('json')
        reader = stage.reader('--snapshot', '64K:count* if number == 9000 || number == 29000', '-o',
                              'json:' + out)
        guest.do('w 0 9001')
        wait_for_snapshot(reader, 1)
        guest.do('w 0 19999')
        time.sleep(0.5)
        guest.do('w 0 1')
        wait_for_snapshot(reader, 2)
        guest.do('w 0 5')
        guest.close()
        assert reader.stop() == 0, reader.err()
        first, second = snapshots(out)
        for found, end in (first, 9001), (second, 29001):
            assert re.match(r'counted on CPU 0 at \d+\.\d{9}$', found[0]), found[0]
            assert is_run(found[5][0], end) and len(found[5][0]) > 3000, (found[:5], found[5][0][-1])
            say(f'{found[0]}: {found[1]} events up to it, {found[3]} before were not kept')
        assert first[1] + first[3] == 9001 and second[1] + second[3] == 20000


def test_running():
    """Producers go on all the while: each snapshot has no gap, and all of them account for everything."""
    with Stage() as stage:
        guest = stage.guest(kib=256)
        out = stage.path('json')
        reader = stage.reader('--snapshot', '64K', '-o', 'json:' + out)
        guest.ask('f 3000')
        for nr in range(1, 6):
            reader.signal(signal.SIGUSR1)
            wait_for_snapshot(reader, nr)
            time.sleep(0.2)
        guest.answer()
        time.sleep(0.3)
        reader.signal(signal.SIGUSR1)
        wait_for_snapshot(reader, 6)
        guest.close()
        assert reader.stop() == 0, reader.err()
        found = snapshots(out)
        latest = {0: -1, 1: -1}
        for _, _, lost, _, _, numbers in found:
            for cpu, n in numbers.items():
                assert n[0] > latest[cpu] and n == sorted(set(n)), 'an event twice, or out of order'
                latest[cpu] = n[-1]
            gaps = sum(n[-1] - n[0] + 1 - len(n) for n in numbers.values())
            assert gaps <= lost, f'{gaps} are missing, and {lost} were told as lost'
        total = sum(sum(f[1:5]) for f in found)
        assert total == sum(latest.values()) + 2, (total, latest)
        said = re.search(r'^received +(\d+)', reader.err(), re.M)
        say(f'{total} events: {sum(f[1] for f in found)} in {len(found)} snapshots, {said[1]} received')


def test_death():
    """Its silence asks for one; so does a session's end without a word; a proper end does not."""
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('--snapshot', '64K', '-o', 'json:' + out)
        guest.do('w 0 100')
        time.sleep(0.3)
        guest.kill()
        wait_for_snapshot(reader, 1)
        guest = stage.guest()  # takes the file over
        reader.wait_for('CPUs', count=2)
        guest.do('w 1 7')
        guest.close()
        time.sleep(0.5)
        assert reader.stop() == 0, reader.err()
        found = snapshots(out)
        assert len(found) == 1 and found[0][0] == "the guest's silence", found
        assert found[0][5] == {0: list(range(100))}, found


def back_to(region, beat):
    """Let the guest's heartbeat go back, and rise again, as that of one whose earlier state is loaded."""
    at = struct.unpack_from('<Q', region, 80)[0] + 16  # guest area: its heartbeat
    struct.pack_into('<Q', region, at, beat)


@params('taken over', 'taken over when it stood still', 'set back')
def test_sudden_end(how):
    """
    What was held goes out, also when the session is over by then, and marks of what befell it too; and all of that, as
    it is in the other outputs, is what the raw capture gives again.
    """
    with Stage() as stage:
        guest = stage.guest()
        out, again, raw = (stage.path(name) for name in ('json', 'again', 'raw'))
        reader = stage.reader('--snapshot', '64K', '-o', 'json:' + out, '-o', 'raw:' + raw)
        time.sleep(1.2)
        guest.do('w 0 100')
        guest.stand_still(reader)
        guest.do('w 1 50')
        time.sleep(0.3)
        if how == 'set back':
            with open(stage.path('region'), 'r+b') as f, mmap.mmap(f.fileno(), 0) as region:
                back_to(region, 1)
            reader.wait_for('set back to an earlier state')
        else:
            if how != 'taken over':
                guest.process.send_signal(signal.SIGSTOP)
                reader.wait_for('silent for .* process that runs it is stopped', count=2)
            guest.kill()
            guest = stage.guest()  # takes the file over
        wait_for_snapshot(reader, 1)
        reader.wait_for('new session: ')
        guest.do('w 0 10')
        guest.kill()
        wait_for_snapshot(reader, 1, count=2)
        assert reader.stop() == 0, reader.err()
        notes, found = read_recorded(out)
        begin = ['snapshot 1, ', 'guest silent for ', 'the guest is back, after ']
        begin += {'taken over': [], 'set back': ['the guest was set back']}.get(how, ['guest silent for '])
        assert all(n.startswith(b) for n, b in zip(notes, begin)), notes
        between = notes[len(begin):next(i for i, n in enumerate(notes) if n.startswith('new session: '))]
        assert set(n.split(':')[-1] for n in between) <= {' the process that ran it is gone', 'the process that ran it is gone'}, notes
        who, told, lost, events = found[0]
        assert who in (['its return to an earlier state'] if how == 'set back' else
                       ['the sudden end of its session', "the guest's death", "the guest's silence"]), who
        assert told == len(events) == 150 and not lost, (told, len(events), lost)
        replay(raw, '-o', 'json:' + again)
        notes_again, found_again = read_recorded(again)
        assert steady(notes_again) == steady(notes), (notes_again, notes)
        assert found_again == found, 'the capture gives something else'


ROUND = 500  # records of `counted`, on each CPU
LONG, AT = 800, 22  # and in this round; it is one that only the first boot gets to
GUEST = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
i=0
while :; do
	i=$((i + 1))
	[ $i = {AT} ] && workload count {LONG} 424242 || workload count {ROUND} 424242
	echo ROUND $i
	sleep 0.3
done
'''


def read_recorded(path):
    """(notes, [(who asked for the snapshot, events told, lost, events)]), of several sessions."""
    notes, found = [], []
    with open(path, encoding='ascii') as f:
        for item in map(json.loads, f):
            note = NOTE.match(item.get('note', ''))
            if 'note' in item:
                notes.append(item['note'])
            if note:
                found.append((note[2], int(note[3]), int(note[4]), []))
            elif 'event' in item:
                found[-1][-1].append(item)
    return notes, found


def check_snapshot(who, told, lost, events):
    """All that it says is there, and of the workload's numbers none is missing."""
    numbers = [e['fields']['number'] for e in events if e['event'] == 'counted']
    assert told == len(events) and not lost and len(numbers) > ROUND, (who, told, lost, len(events), len(numbers))
    ends = (ROUND - 1, LONG - 1)
    assert all(b == a + 1 or (b == 0 and a in ends) for a, b in zip(numbers, numbers[1:])), who
    say(f'{who}: {told} events, {len(numbers)} of the workload without a gap')


def steady(notes):
    """Without those of clocks, which come when they are known better."""
    return [n for n in notes if not n.startswith('clock: ')]


def test_guest():
    """
    Of a guest with direct placement, one of whose events asks for a snapshot, and which is paused, reset and felled by a
    panic: there is a snapshot of the last of its rings each time. They and what befell it are marked alike in all outputs.
    """
    with VM(GUEST, kernel='6.1', memory='256M', add=[COUNTED], reboot=True,
            append='unknown_nmi_panic=1 panic=0') as vm:
        qmp_path = os.path.join(vm.dir, 'qmp')
        vm.command += ['--ram', vm.ram, '--qmp', qmp_path, '--tcg-thread', 'single']
        vm.start()
        out, text, pf, ctf, raw = (os.path.join(vm.dir, name) for name in ('json', 'text', 'pf', 'ctf', 'raw'))
        reader = Reader(vm, '--snapshot', f'64K:count* if number == {LONG - 1} && cpu == 0', '-o', 'json:' + out,
                        '-o', 'text:' + text, '-o', 'perfetto:' + pf, '-o', 'ctf:' + ctf, '-o', 'raw:' + raw)
        qmp = Qmp(qmp_path)
        vm.wait_for('ROUND 12')
        reader.wait_for('from now on direct|; direct')
        reader.signal(signal.SIGUSR1)
        wait_for_snapshot(reader, 1)
        vm.wait_for(f'ROUND {AT}')
        wait_for_snapshot(reader, 2)
        qmp.do('stop')
        reader.wait_for('silent for .* paused')
        qmp.do('cont')
        reader.wait_for('is back, after .* paused')
        vm.wait_for(f'ROUND {AT + 2}')
        qmp.do('system_reset')
        reader.wait_for('vCPUs; ', count=2)
        time.sleep(4)
        qmp.do('inject-nmi')
        reader.wait_for('silent for .*(hangs, or is in a panic|agent is stopped)')
        time.sleep(2)
        vm.qemu.kill()
        vm.qemu.wait()
        time.sleep(1)
        assert reader.stop() == 0, reader.err()
        notes, found = read_recorded(out)
        # A reset is noticed as silence, or sooner, by what takes the memory then.
        assert found[0][0] == 'SIGUSR1' and found[-1][0] == "the guest's silence", [f[:3] for f in found]
        assert re.fullmatch(r'counted on CPU 0 at \d+\.\d{9}', found[1][0]), found[1][:3]
        assert [e['fields'].get('number') for e in found[1][3]].count(LONG - 1) == 1, found[1][0]
        assert {f[0] for f in found[2:-1]} <= {"the guest's silence", 'the loss of its rings', 'the sudden end of its session'}, \
            [f[:3] for f in found]
        for snapshot in found:
            check_snapshot(*snapshot)
        marks = [n for n in steady(notes) if not NOTE.match(n)]
        say(*marks)
        assert 'paused' in marks[0] and 'is back' in marks[1] and marks[-1].startswith('guest silent'), marks
        assert sum(m.startswith('restarted: ') for m in marks) == 1, marks
        # the same in the other outputs, and from the capture
        assert pftext.marks(pf) == notes
        with open(text, encoding='ascii') as f:
            assert re.findall('^--- (.*) ---$', f.read(), re.M) == notes
        traced = [r.fields['text'].replace("\\'", "'") for t in ctftext.traces(ctf) for r in ctftext.read(t)[0]
                  if r.event == 'htrace_note']
        assert traced == notes, (traced, notes)
        replay(raw, '-o', 'json:' + out + '2', '-o', 'perfetto:' + pf + '2')
        notes_again, found_again = read_recorded(out + '2')
        assert steady(notes_again) == steady(notes), (notes_again, notes)
        for snapshot, again in zip(found, found_again):
            # names of tasks may be missing in it: they came with what was not kept
            assert [(e['event'], e['fields'].get('number')) for e in again[3]] == \
                [(e['event'], e['fields'].get('number')) for e in snapshot[3]]
        again = steady(pftext.marks(pf + '2'))
        assert again == steady(notes), again
        # the session that began so, by itself: it is told, and first
        first = next(n for n in steady(notes) if n.startswith('restarted: '))
        replay(os.path.join(raw, 'source1-session2'), '-o', 'json:' + out + '3')
        alone = steady(read_recorded(out + '3')[0])
        assert alone == steady(notes)[steady(notes).index(first):], (alone, notes)


REFUSED = {
    'no event': (['--snapshot', '4M:'], 'which event'),
    'no power of two': (['--snapshot', '3M'], 'no power of two'),
    'too small': (['--snapshot', '1K'], 'no power of two'),
    'too large': (['--snapshot', '2G'], 'no power of two'),
    'a wrong condition': (['--snapshot', 'sched_switch if prev_tid =='], '--snapshot: column'),
    'twice': (['--snapshot', '4M', '--snapshot', '4M'], 'given twice'),
    'with a view': (['--snapshot', '4M', '--view', 'summary'], 'leave one of them out'),
}


def test_refused():
    for what, (args, why) in REFUSED.items():
        run = subprocess.run([READER, *args, 'local:/nowhere'], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 2 and why in run.stderr, (what, run.returncode, run.stderr)

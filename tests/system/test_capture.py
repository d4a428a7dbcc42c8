# SPDX-License-Identifier: LGPL-2.1-or-later
"""The raw capture: read back it gives what was shown live, and babeltrace2 reads the same in it."""

import json
import os
import re
import signal
import subprocess
import time

import ctftext
from harness import params, say
from test_sinks import lose, lossy_script
from vm import BUILD, COUNTED, READER, VM, Reader

VALUE = 424242  # as in tests/guest/counted.bpf.c


def replay(capture, *args, status=0):
    """host-reader file:CAPTURE; what it says."""
    run = subprocess.run([READER, *args, f'file:{capture}'], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == status, (run.returncode, run.stderr[-3000:])
    return run.stderr


def contents(path):
    with open(path, 'rb') as f:
        return f.read()


def outputs(directory, name):
    text, js = os.path.join(directory, name + '.text'), os.path.join(directory, name + '.json')
    return ['-o', f'text:{text}', '-o', f'json:{js}'], text, js


def json_lines(path):
    with open(path, encoding='ascii') as f:
        return [json.loads(line) for line in f]


def babeltrace(path):
    """{(time on the source's clock, CPU): [(event, fields)]} and events discarded; no other word."""
    run = subprocess.run(['babeltrace2', '--clock-cycles', '--no-delta', path],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    lost = 0
    for line in run.stderr.decode().splitlines():
        m = re.match(r'WARNING: Tracer (?:may have )?discarded (\d+) events?', line)
        assert m, f'babeltrace2 says: {run.stderr.decode()[:3000]}'
        lost += int(m[1])
    assert run.returncode == 0
    records = {}
    for line in run.stdout.decode('utf-8', 'surrogateescape').splitlines():
        m = re.match(r'^\[(\d+)\] (?:.* )?([\w#]+): (\{.*\})$', line)
        assert m, line
        packet, *_, fields = ctftext.Parser(m[3]).structs()
        assert packet.get('unverified', 0) in (0, 1)
        records.setdefault((int(m[1]), packet['cpu_id']), []).append((m[2], fields))
    return records, lost


def same_value(value, json_value, exact):
    if isinstance(json_value, bool):
        return value == int(json_value)
    if isinstance(json_value, str) and exact:
        return value.encode('utf-8', 'surrogateescape') == bytes.fromhex(exact)
    return value == json_value


def same_fields(fields, record):
    """Do CTF's fields say what JSON's do?"""
    plain = {k: v for k, v in record['fields'].items() if '.' not in k}
    return fields.keys() == plain.keys() and all(
        same_value(fields[k], v, record['fields'].get(k + '.bytes')) for k, v in plain.items())


def compare_ctf(capture, js):
    """Each event of the JSON output, its time, CPU and fields, is in the capture, and no others."""
    records, discarded = babeltrace(capture)
    lost = 0
    for r in json_lines(js):
        lost += r.get('lost', 0)
        if 'event' not in r:
            continue
        there = records.get((r['time'], r['cpu']), [])
        match = [i for i, (event, fields) in enumerate(there)
                 if event == r['event'] and same_fields(fields, r)]
        assert match, (r, there)
        del there[match[0]]
    left = {k: v for k, v in records.items() if v}
    assert not left, list(left.items())[:5]
    assert discarded == lost, (discarded, lost)


def table(text):
    """What a summary says of events and rings."""
    return re.search(r'\nevent  .*', text, re.S)[0]


def compare_replay(directory, capture, text, js, live):
    """Byte for byte, the summary's counts, and again from a capture of the capture."""
    options, text2, js2 = outputs(directory, 'again')
    again = os.path.join(directory, 'capture2')
    said = replay(capture, *options, '-o', f'raw:{again}')
    assert contents(text) == contents(text2) and contents(js) == contents(js2)
    assert table(said) == table(live), (said, live)
    options, text3, js3 = outputs(directory, 'third')
    assert table(replay(again, *options)) == table(live)
    assert contents(text) == contents(text3) and contents(js) == contents(js3)


@params('6.1', thorough=['6.12'])
def test_same(kernel):
    """Every built-in event, names that a guest makes up, the agent started twice."""
    script = r'''
agent_start || exit 1
workload mix 3 1 200
workload name "$(printf 'a"\\\\\377\303\251\033[1m')"
sleep 1
agent_stop || exit 1
sleep 1
agent_start --events sched,irq,timer,signal,block,mm || exit 1
workload mix 1 1 50
sleep 3
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2) as vm:
        vm.start()
        options, text, js = outputs(vm.dir, 'live')
        capture = os.path.join(vm.dir, 'capture')
        traces = [os.path.join(vm.dir, name) for name in ('live.ctf', 'again.ctf')]
        reader = Reader(vm, *options, '-o', f'raw:{capture}', '-o', f'ctf:{traces[0]}')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert sorted(os.listdir(capture)) == ['source1-session1', 'source1-session2']
        replay(capture, '-o', f'ctf:{traces[1]}')
        shown = [subprocess.run(['babeltrace2', '--clock-cycles', '--no-delta', path], check=True,
                                stdout=subprocess.PIPE).stdout for path in traces]
        assert shown[0] == shown[1] and len(shown[0]) > 1000
        compare_replay(vm.dir, capture, text, js, reader.err())
        compare_ctf(capture, js)
        events = [r for r in json_lines(js) if 'event' in r]
        assert len(events) > 5000 and any('comm.bytes' in r['fields'] for r in events)
        sizes = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(capture) for f in fs)
        say(f'{len(events)} events, the same live, from the capture, from its capture, and in '
            f'babeltrace2; {sizes / len(events):.1f} bytes an event on disk')


@params('overwrite', thorough=['discard'])
def test_same_with_loss(policy):
    """A tiny ring and a stopped reader; what is shown live is chosen, what is captured is not."""
    with VM(lossy_script(policy), kernel='6.12', cpus=2, add=[COUNTED]) as vm:
        vm.start()
        options, text, js = outputs(vm.dir, 'live')
        capture = os.path.join(vm.dir, 'capture')
        reader = Reader(vm, *options, '--events', 'sched_*', '-o', f'raw:{capture}')
        lose(vm, reader)
        assert all(r['event'].startswith('sched_') for r in json_lines(js) if 'event' in r)
        replay(capture, '--events', 'sched_*', '-o', f'text:{text}2')
        assert contents(text) == contents(text + '2')
        options, text, js = outputs(vm.dir, 'all')
        said = replay(capture, *options)
        assert table(said) == table(reader.err())
        compare_replay(vm.dir, capture, text, js, said)
        compare_ctf(capture, js)
        records = json_lines(js)
        lost = sum(r.get('lost', 0) for r in records)
        losses = sum('lost' in r for r in records)
        events = sum('event' in r for r in records)
        received = int(re.search(r'\nreceived +(\d+)', reader.err())[1])
        assert events == received and losses >= 1 and lost > 10000, (events, received, lost)
        say(f'{events} events, {lost} lost in {losses} places, the same live and from the capture')


def test_same_after_reboot():
    """A guest that restarts under its agent, calls that the kernel skipped: notes, silence, marks."""
    recursing = os.path.join(BUILD, 'tests', 'recursing.bpf.o')
    script = f'''
if ! dd if=/dev/vda bs=1 count=6 2>/dev/null | grep -q SECOND; then
	agent_start --events sched --bpf /recursing.bpf.o || exit 1
	workload count 2000 {VALUE}
	printf SECOND > /dev/vda
	sync
	sleep 2
	kill -STOP $agent
	workload count 3000 {VALUE}
	sleep 5
	reboot -f
fi
agent_start --events sched || exit 1
workload mix 1 1 50
sleep 1
agent_stop
'''
    with VM(script, cpus=2, add=[recursing], disk_mib=1, reboot=True) as vm:
        vm.start()
        options, text, js = outputs(vm.dir, 'live')
        capture = os.path.join(vm.dir, 'capture')
        reader = Reader(vm, *options, '-o', f'raw:{capture}')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert len(os.listdir(capture)) == 2
        compare_replay(vm.dir, capture, text, js, reader.err())
        compare_ctf(capture, js)
        records = json_lines(js)
        notes = [r['note'] for r in records if 'note' in r]
        unverified = sum('unverified' in r for r in records)
        assert any('skipped by the kernel' in n for n in notes), notes
        assert any(n.startswith('restarted') for n in notes), notes
        assert 'guest silent' in reader.err(), reader.err()
        said = replay(capture, '-o', 'text:/dev/null')
        assert 'guest silent' in said and 'restarted: ' in said, said
        say(f'{len(records)} lines, {unverified} unverified, {len(notes)} notes, the same twice')


def test_killed():
    """SIGKILL: what was written can be read; while it is written, too."""
    script = '''
agent_start || exit 1
echo READY
workload mix 20 1 200
sleep 100
'''
    with VM(script, kernel='6.12', cpus=2) as vm:
        vm.start()
        capture = os.path.join(vm.dir, 'capture')
        options, text, js = outputs(vm.dir, 'live')
        reader = Reader(vm, *options, '-o', f'raw:{capture}')
        vm.wait_for('READY')
        reader.wait_for('direct')
        time.sleep(4)
        said = replay(capture, '-o', f'json:{js}1')
        assert 'has no end; it was read up to its last complete packets' in said, said
        time.sleep(1)
        reader.signal(signal.SIGKILL)
        reader.process.wait()
        said = replay(capture, '-o', f'json:{js}2')
        assert 'has no end' in said, said
        first, second = json_lines(js + '1'), json_lines(js + '2')
        assert 100 < len(first) < len(second), (len(first), len(second))
        # Pieces of the last moment may be missing on a ring; nothing before.
        until = second[-1]['time'] - 10**9
        shown = [r for r in json_lines(text.replace('.text', '.json') + '2') if r['time'] < until]
        live = []
        with open(js, encoding='ascii') as f:
            for line in f:
                if line.endswith('}\n'):
                    live.append(json.loads(line))
        assert shown == [r for r in live if r.get('time', until) < until]
        # It was not in the midst of a packet, most likely; a capture of the capture is whole.
        whole = os.path.join(vm.dir, 'whole')
        replay(capture, '-o', f'raw:{whole}')
        compare_ctf(whole, js + '2')
        say(f'{len(second)} events in the capture of a reader that was killed')


def test_odd_records():
    """Records that no honest guest makes, from a unit test: babeltrace2 gets over them."""
    directory = os.path.join('/dev/shm', f'htrace-odd-{os.getpid()}')
    os.mkdir(directory)
    try:
        kept = os.path.join(directory, 'capture')
        subprocess.run([os.path.join(BUILD, 'tests', 'test_capture')], check=True,
                       stdout=subprocess.DEVNULL, env=dict(os.environ, HTRACE_TEST_KEEP=kept))
        run = subprocess.run(['babeltrace2', kept], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, errors='replace', check=False)
        assert run.returncode == 0 and not run.stderr, run.stderr
        events = re.findall(r' ([\w#]+): \{ (?:cpu_id|ring) = 0', run.stdout)
        assert events == ['plain', 'plain', 'event#999', 'plain', 'plain', 'text', 'text', 'stack',
                          'plain', 'plain', 'odd', 'odd', 'odd', 'odd'], run.stdout
    finally:
        subprocess.run(['rm', '-rf', directory], check=True)


def test_refused():
    """A directory with something in it is left alone; something else is no capture."""
    directory = os.path.join('/dev/shm', f'htrace-refused-{os.getpid()}')
    os.mkdir(directory)
    try:
        kept = os.path.join(directory, 'mine')
        with open(kept, 'w', encoding='utf-8') as f:
            f.write('mine')
        run = subprocess.run([READER, '-o', f'raw:{directory}', f'file:{directory}'],
                             stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 1 and 'give a new directory or an empty one' in run.stderr
        assert os.listdir(directory) == ['mine'] and contents(kept) == b'mine'
        run = subprocess.run([READER, f'file:{directory}'], stderr=subprocess.PIPE, text=True,
                             check=False)
        assert run.returncode == 1 and 'there is no session in capture' in run.stderr
        run = subprocess.run([READER, '-o', 'raw', f'file:{directory}'], stderr=subprocess.PIPE,
                             text=True, check=False)
        assert run.returncode == 2 and 'names no directory' in run.stderr, run.stderr
    finally:
        subprocess.run(['rm', '-rf', directory], check=True)

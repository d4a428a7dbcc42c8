# SPDX-License-Identifier: LGPL-2.1-or-later
"""All outputs of one run of host-reader say the same, record by record, loss at its place."""

import json
import os
import re
import signal
import time

import readertext
from harness import say
from vm import COUNTED, VM, Reader

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
            kinds = {k: r[k] for k in ('overwritten', 'dropped', 'corrupt') if r[k]}
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


def outputs(vm):
    """Options for text and JSON in one run, and where they are."""
    text, js = os.path.join(vm.dir, 'out.text'), os.path.join(vm.dir, 'out.json')
    return ['-o', f'text:{text}', '-o', f'json:{js}'], text, js


def test_same():
    """Every built-in event, names that a guest makes up, the agent started twice."""
    script = r'''
agent_start || exit 1
workload mix 3 1 200
workload name "$(printf 'a"\\\\\377\303\251\033[1m')"
sleep 1
agent_stop || exit 1
sleep 1
agent_start --events sched || exit 1
workload mix 1 1 50
agent_stop
'''
    with VM(script, kernel='6.12', cpus=2) as vm:
        vm.start()
        options, text, js = outputs(vm)
        reader = Reader(vm, *options)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        records, events, losses = compare_text(text, js)
        assert losses == 0 and events > 5000, (events, losses)
        assert {'sched_switch', 'sched_waking', 'sched_wakeup', 'sched_process_fork',
                'sched_process_exec', 'sched_process_exit', 'task_rename', 'sys_enter',
                'sys_exit'} <= {r['event'] for r in records}
        assert any('comm.bytes' in r['fields'] for r in records if r['event'] == 'task_rename')
        notes = [r['note'] for r in json_lines(js) if 'note' in r]
        assert len(notes) == 1 and notes[0].startswith('new session'), notes
        say(f'{events} events, text and JSON agree in each; a note between the sessions')


def test_same_with_loss():
    """A tiny ring and a stopped reader: what is lost stands at the same place in each output."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o --buffer 64K || exit 1
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
    with VM(script, kernel='6.12', cpus=2, add=[COUNTED]) as vm:
        vm.start()
        options, text, js = outputs(vm)
        reader = Reader(vm, *options)
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
        records, events, losses = compare_text(text, js)
        lost = sum(r.get('lost', 0) for r in records)
        assert losses >= 2 and lost > 30000, (losses, lost)
        say(f'{events} events, {lost} lost in {losses} places, the same in text and JSON')

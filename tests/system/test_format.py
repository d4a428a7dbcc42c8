# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/format.md is enough to write another implementation from: byhand.py is one. host-reader reads
what it wrote, and it reads what the library wrote."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager

import byhand
from byhand import (BOOL, CHAR, CLOSING, DISCARD, HEX, IVSHMEM, LOCAL, OVERWRITE, PER_CPU,
                    PER_THREAD, RUNNING, STRUCT, TID, UNION, VSHMEM, GuestSpace, Memory, Region,
                    RingSet, SchemaWriter)
from harness import params, say
from vm import BUILD, TOP, Reader

SESSION = 0xfeedfacecafef00d
T0 = 7_000_000_000_123  # of the first record; its low half is not small
STEP = 1000
NUMBERS, SHAPES, TAIL, TICK, LATE = 1, 70, 300, 60000, 9


def schema_entries():
    """One of each type, as the document has them."""
    s = SchemaWriter()
    u8, u16, u32, u64 = (s.integer(n) for n in (1, 2, 4, 8))
    s16, s64 = s.integer(2, signed=True), s.integer(8, signed=True)
    u128, hex32 = s.integer(16), s.integer(4, hint=HEX)
    s.unknown()
    numbers = s.record(STRUCT, 'numbers', 48, [
        ('a', u8, 0, 0), ('b', s16, 16, 0), ('c', hex32, 32, 0), ('d', s64, 64, 0),
        ('e', u64, 128, 0), ('tid', s.integer(4, hint=TID), 192, 0), ('wide', u128, 256, 0)])
    s.event(NUMBERS, numbers, 'numbers')
    level = s.enum(4, True, {'LOW': -1, 'HIGH': 0x7fffffff}, 'level')
    pair = s.record(STRUCT, 'pair', 2, [('x', u8, 0, 0), ('y', u8, 8, 0)])
    either = s.record(UNION, 'either', 4, [('word', u32, 0, 0), ('bytes', s.array(u8, 1, 4), 0, 0)])
    shapes = s.record(STRUCT, 'shapes', 48, [
        ('level', level, 0, 0), ('low', u16, 32, 3), ('mid', s16, 35, 7), ('top', u16, 42, 6),
        ('on', s.integer(1, hint=BOOL), 48, 0), ('letter', s.integer(1, hint=CHAR), 56, 0),
        ('list', s.array(u16, 2, 3), 64, 0), ('pairs', s.array(pair, 2, 2), 112, 0),
        ('either', either, 160, 0), ('name', s.string(8), 192, 0), ('one', pair, 256, 0),
        ('text', s.string(0), 384, 0)])
    s.event(SHAPES, shapes, 'shapes')
    tail = s.record(STRUCT, 'tail', 2, [('nr', u16, 0, 0), ('rest', s.array(u16, 2, 0), 16, 0)])
    s.event(TAIL, tail, 'tail')
    s.event(TICK, s.record(STRUCT, 'tick', 8, [('seq', u64, 0, 0)]), 'tick')
    return s


def numbers(tid, comm):
    payload = struct.pack('<BxhIqQI4x', 255, -2, 0xdeadbeef, -1 << 63, (1 << 64) - 1, tid) + \
        bytes(range(16))
    fields = {'a': 255, 'b': -2, 'c': 0xdeadbeef, 'd': -1 << 63, 'e': (1 << 64) - 1, 'tid': tid,
              'tid.name': comm, 'wide': '0x0f0e0d0c0b0a09080706050403020100'}
    text = f'a=255 b=-2 c=0xdeadbeef d=-9223372036854775808 e=18446744073709551615 ' \
        f'tid={tid}({comm}) wide=0x0f0e0d0c0b0a09080706050403020100'
    return NUMBERS, payload, fields, text


def shapes():
    bits = 5 | (-3 & 0x7f) << 3 | 33 << 10
    payload = struct.pack('<iHBB3H4BxxI8s2B14x', -1, bits, 1, ord('q'), 1, 2, 65535, 9, 8, 7, 6,
                          0x04030201, b'eight...', 11, 12)
    # "pairs" begin at bit 112, the union at bit 160: two bytes lie between
    fields = {'level': -1, 'level.name': 'LOW', 'low': 5, 'mid': -3, 'top': 33, 'on': True,
              'letter': ord('q'), 'list': [1, 2, 65535],
              'pairs': [{'x': 9, 'y': 8}, {'x': 7, 'y': 6}],
              'either': {'word': 0x04030201, 'bytes': [1, 2, 3, 4]}, 'name': 'eight...',
              'one': {'x': 11, 'y': 12}, 'text': 'to the end'}
    text = "level=LOW low=5 mid=-3 top=33 on=true letter='q' list=[1,2,65535] " \
        'pairs=[{x=9 y=8},{x=7 y=6}] either={word=67305985 bytes=[1,2,3,4]} name="eight..." ' \
        'one={x=11 y=12} text="to the end"'
    return SHAPES, payload + b'to the end\0', fields, text


def tail(values):
    assert len(values) % 4 == 3, 'else there is padding, which is shown as elements'
    return (TAIL, struct.pack(f'<{len(values) + 1}H', len(values), *values),
            {'nr': len(values), 'rest': values},
            f'nr={len(values)} rest=[{",".join(map(str, values))}]')


def tick(seq):
    return TICK, struct.pack('<Q', seq), {'seq': seq}, f'seq={seq}'


class Scene:
    """A region by hand, what was pushed into it, and what a reader has to show of that."""

    def __init__(self, path, placement):
        if placement == VSHMEM:
            # three pages of 16 KiB, not side by side; the first ring's data lie in two of them
            space = GuestSpace(Memory(path + '.ram', 64 << 20), [(700, 1), (300, 2)], 14)
            discard = RingSet(VSHMEM, DISCARD, PER_CPU, 2, 7, 12, 9, 320, 14336, 0, 0, 20480)
            more = {'runs': (458752, 65536), 'page_shift': 14, 'space': space}
            placement = IVSHMEM
        else:
            discard = RingSet(placement, DISCARD, PER_CPU, 2, 7, 12, 9, 320, 896, 0, 393216, 8192)
            more = {}
        overwrite = RingSet(placement, OVERWRITE, PER_THREAD, 1, 1023, 11, 9, 256, 512, 0,
                            393216 + 2 * 8192, 4096)
        self.schema = schema_entries()
        # the names before the guest header, and gaps: areas lie wherever the superblock says
        self.region = Region.create(
            path, 1 << 20, SESSION, [discard, overwrite], guest=(327680, 9472),
            schema=(262144, 65536), names=(196608, 4096), schema_entries=self.schema.entries,
            task_names=[(0, 42, 40, b'first'), (T0, 43, 43, b'sixteen bytes ok')], nr_cpus=2, **more)
        self.cpu = [self.region.ring(0, 0), self.region.ring(0, 1)]
        self.thread = self.region.ring(1, 0)
        self.now = T0
        self.expected = {'cpu 0': [], 'cpu 1': [], 'ring 0': []}
        self.seq = 0

    def consumed(self, *rings):
        """Has the reader read all that is in these rings (of the discard policy)?"""
        for ring in rings:
            self.region.forward(ring)
        return all(ring.consumed() == ring.head() for ring in rings)

    def place(self, ring):
        return 'ring 0' if ring is self.thread else f'cpu {ring.index}'

    def push(self, ring, event, time=None, shown=None):
        """Expected as shown (at a time, if another one than it was written with)."""
        id, payload, fields, text = event
        self.now += STEP
        time = self.now if time is None else time
        if not ring.push(id, payload, time, self.region.mem.load(self.region.schema[0])):
            return False
        name = {NUMBERS: 'numbers', SHAPES: 'shapes', TAIL: 'tail', TICK: 'tick', LATE: 'late'}[id]
        self.expected[self.place(ring)].append((shown or time, name, fields, text))
        return True

    def ticks(self, ring, n):
        """How many of n were dropped."""
        dropped = 0
        for _ in range(n):
            self.seq += 1
            dropped += not self.push(ring, tick(self.seq))
        return dropped

    def lose(self, ring, **how):
        self.expected[self.place(ring)].append(how)

    def forget(self, ring, n):
        """The oldest n are overwritten: not expected any more."""
        del self.expected[self.place(ring)][:n]


@contextmanager
def heartbeat(region):
    stop = threading.Event()

    def run():
        while not stop.wait(0.05):
            region.beat(time.monotonic_ns())
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_until(what, condition, timeout=20):
    end = time.time() + timeout
    while not condition():
        assert time.time() < end, f'not within {timeout} s: {what}'
        time.sleep(0.01)


def shown_as_json(path):
    """Per place: (time, event, fields) or loss, in order; and the notes."""
    found, notes = {}, []
    with open(path, encoding='utf-8') as f:
        for line in f:
            o = json.loads(line)
            if 'note' in o:
                notes.append(o['note'])
                continue
            place = f'cpu {o["cpu"]}' if 'cpu' in o else f'ring {o["ring"]}'
            found.setdefault(place, []).append(
                (o['time'], o['event'], o.get('fields', o)) if 'event' in o else
                {k: o[k] for k in ('overwritten', 'dropped', 'corrupt', 'unfinished') if o[k]})
    return found, notes


def expected_json(scene):
    return {place: [x if isinstance(x, dict) else x[:3] for x in items]
            for place, items in scene.expected.items()}


def expected_text(scene):
    """Lines as the text output has them, without the task."""
    lines = []
    for place, items in scene.expected.items():
        where = f'[00{place[-1]}]' if place.startswith('cpu') else '[ring 000]'
        for x in items:
            if isinstance(x, dict):
                n, how = sum(x.values()), ', '.join(f'{k} {v}' for k, v in x.items())
                lines.append(f'{where} --- {n} event{"s" if n > 1 else ""} lost ({how}) ---')
            else:
                at, name, _, text = x
                lines.append(f'{at // 10**9}.{at % 10**9:09d} {where} {name}: {text}')
    return sorted(lines)


def shown_as_text(path):
    lines = []
    with open(path, encoding='utf-8') as f:
        for line in f:
            stamp, rest = line.strip().split(' ', 1)
            where, rest = rest[:rest.index(']') + 1], rest[rest.index(']') + 2:]
            if rest.startswith('---'):
                lines.append(f'{where} {rest}')
            else:  # the task's name ends before the event's
                at = rest.index(': ')
                event = rest[:at].split()[-1]
                lines.append(f'{stamp} {where} {event}{rest[at:]}')
    return sorted(lines)


def before_reader(s):
    """What lies there when the reader comes: events of all types, a full ring, one gone round."""
    a, _ = s.cpu
    assert s.push(a, numbers(42, 'first')) and s.push(a, shapes()) and s.push(a, tail([1, 2, 3]))
    assert s.push(a, tail(list(range(31)))), 'an event of several hundred bytes'
    dropped = s.ticks(a, 400)
    assert dropped > 100 and s.cpu[0].head() == 8 * 512 - (512 - a.head() % 512) % 512
    # the last block is still open: what was dropped since is told when the ring is drained
    s.lose(a, dropped=dropped)
    s.ticks(s.thread, 500)
    kept = sum(1 for _ in s.thread.read()[0])
    s.forget(s.thread, 500 - kept)
    say(f'before the reader: {dropped} dropped, {500 - kept} overwritten')


def with_reader(s):
    """Written while it reads: block borders with padding, both forms of time, late commits."""
    a, b = s.cpu
    for n in (3, 7, 19, 27, 31, 11):  # up to 64 bytes: borders fall anywhere
        for _ in range(50):
            assert s.push(b, tail(list(range(n))))
            wait_until('the reader consumes', lambda: s.consumed(b))
    assert b.head() > 2 * b.ring, 'the ring is to go round'
    # 2^31 - 1 after the base is short, one more is extended; then a step back in time
    while not 0 < b.head() % b.block < b.block - 200:
        assert not s.ticks(b, 1)
    assert s.push(b, shapes())
    base = b.mem.load(b.desc(b.head() - 1) + 32)
    for delta, step in ((1 << 31) - 1, 16), (1 << 31, 24), (1 << 33, 24):
        head = b.head()
        s.seq += 1
        assert s.push(b, tick(s.seq), base + delta) and b.head() - head == step
    s.now = base + (1 << 33) + STEP
    back = s.now - 5000
    s.seq += 1
    assert s.push(b, tick(s.seq), back, shown=base + (1 << 33))  # raised to the one before
    # committed out of order: nothing is shown until both are
    first = a.reserve(*tick(1_000_001)[:2], s.now + 10)
    second = a.reserve(*tick(1_000_002)[:2], s.now + 20)
    a.commit(second)
    time.sleep(0.1)
    assert not s.consumed(a)
    a.commit(first)
    for seq, at in (1_000_001, 10), (1_000_002, 20):
        _, _, fields, text = tick(seq)
        s.expected['cpu 0'].append((s.now + at, 'tick', fields, text))
    # an event that was not in the schema when the reader came
    s.region.add_schema(late_entries(s.schema))
    s.now += 100
    assert s.push(a, (LATE, struct.pack('<Q', 5), {'v': 5}, 'v=5'))


def late_entries(schema):
    """What another generation adds."""
    there = len(schema.entries)
    u64 = schema.integer(8)
    schema.event(LATE, schema.record(STRUCT, 'late', 8, [('v', u64, 0, 0)]), 'late')
    return schema.entries[there:]


def while_it_sleeps(s, reader):
    """Overwritten and dropped while the reader does not run: exact, and at their places."""
    a = s.cpu[0]
    wait_until('the reader is idle', lambda: s.consumed(a))
    time.sleep(0.3)  # the overwrite ring's positions are the reader's own
    reader.signal(signal.SIGSTOP)
    before = len(s.expected['ring 0'])
    s.ticks(s.thread, 300)
    kept = len(s.thread.read()[0])
    del s.expected['ring 0'][before:-kept]
    s.expected['ring 0'].insert(before, {'overwritten': 300 - kept})
    s.lost_while_asleep = s.ticks(a, 300)
    assert s.lost_while_asleep > 50
    s.lose(a, dropped=s.lost_while_asleep)
    reader.signal(signal.SIGCONT)
    wait_until('the reader catches up', lambda: s.consumed(a))
    s.ticks(a, 3)


@params(('local', LOCAL), ('ivshmem', IVSHMEM), ('ivshmem', VSHMEM))
def test_written_by_hand(source, placement):
    """host-reader shows what was written from the document alone: values, times, loss."""
    dir = tempfile.mkdtemp(prefix='htrace-format-', dir='/dev/shm')
    try:
        path, as_json, as_text = (os.path.join(dir, x) for x in ('region', 'json', 'text'))
        s = Scene(path, placement)
        s.region.set_state(RUNNING)
        before_reader(s)
        with heartbeat(s.region):
            ram = f',ram={path}.ram' if placement == VSHMEM else ''
            reader = Reader(f'{source}:{path}{ram}', '-o', 'json:' + as_json, '-o', 'text:' + as_text)
            wait_until('the reader attaches', lambda: s.region.host()['state'] == 2)
            host = s.region.host()
            assert (host['magic'], host['major'], host['session']) == \
                (byhand.HOST_MAGIC, 1, SESSION), host
            if placement == VSHMEM:
                assert host['verified'] == SESSION and host['reason'] == 0, host
            wait_until('all is read', lambda: s.consumed(*s.cpu))
            with_reader(s)
            while_it_sleeps(s, reader)
            beats = s.region.host()['heartbeat']
            time.sleep(1.5)
            assert s.region.host()['heartbeat'] > beats, 'at least once a second'
            s.region.set_state(CLOSING)
            wait_until('the reader has drained it', lambda: s.region.host()['drained'] == SESSION)
            s.region.release()
            assert reader.stop() == 0, reader.err()
        assert s.region.host()['state'] == 4, 'the reader ended properly'
        found, notes = shown_as_json(as_json)
        want = expected_json(s)
        for place in want:
            for i, (f, w) in enumerate(zip(found[place], want[place])):
                assert f == w, f'{place}, line {i}:\n{f}\nnot\n{w}'
            assert len(found[place]) == len(want[place]), f'{place}: {found[place][-3:]}'
        assert not notes, notes
        text = shown_as_text(as_text)
        assert text == expected_text(s), [x for x in zip(text, expected_text(s)) if x[0] != x[1]][:3]
        say(f'{len(text)} lines, each as text and as JSON')
        assert '2 rings of 4 KiB in blocks of 512 bytes' in reader.err(), reader.err()
        assert ', kernel 1.2.3-by-hand, 2 ' in reader.err(), reader.err()
    finally:
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(dir)


def mixed(seq):
    """The fields of tests/guest/writer.c's record number seq."""
    word = seq * 2654435761 & 0xffffffff
    return {'seq': seq, 'level': -1 if seq % 2 else 0x7fffffff, 'low': seq & 7,
            'mid': seq % 128 - 64, 'top': seq & 0x3fffff, 'list': [seq, seq + 1, seq + 2],
            'pairs': [{'x': seq & 255, 'y': 1}, {'x': seq + 1 & 255, 'y': 2}], 'small': -seq,
            'either': {'word': word, 'bytes': list(word.to_bytes(4, 'little'))},
            'name': f'n{seq}'.encode(), 'text': bytes([97 + seq % 26]) * (seq % 100)}


def as_json_has_it(fields):
    """Texts decoded; what an enumerator is called is told beside."""
    out = {}
    for name, v in fields.items():
        out[name] = v.decode() if isinstance(v, bytes) else v
        if name == 'level':
            out['level.name'] = 'LOW' if v == -1 else 'HIGH'
    return out


@params('discard', 'overwrite')
def test_read_by_hand(policy):
    """What the library wrote is read from the document alone: each record, what became of the
    others; host-reader shows the same at the same times."""
    dir = tempfile.mkdtemp(prefix='htrace-format-', dir='/dev/shm')
    try:
        path, as_json = os.path.join(dir, 'region'), os.path.join(dir, 'json')
        begin = time.monotonic_ns()
        written = subprocess.run([os.path.join(BUILD, 'tests', 'writer'), path, policy, '600'],
                                 stdout=subprocess.PIPE, text=True, check=True).stdout
        end = time.monotonic_ns()
        accepted = [[int(line.split()[1]) for line in written.splitlines() if line[0] == str(i)]
                    for i in range(3)]
        region = Region(path)
        schema = region.read_schema()
        assert region.sets[0].policy == {'discard': DISCARD, 'overwrite': OVERWRITE}[policy]
        assert region.sets[0].nr_rings == 3 and len(region.sets) == 1
        decoded, extended = {}, 0
        for i in range(3):
            ring = region.ring(0, i)
            records, before, dropped = ring.read()
            attempts = 600 + 60 * i
            assert len(records) + before + dropped == attempts, (len(records), before, dropped)
            kept = [schema.decode(id, payload) for id, _, payload in records]
            seqs = [fields['seq'] for _, fields in kept]
            assert seqs == accepted[i][-len(seqs):] and len(accepted[i]) == attempts - dropped
            assert (before > 0, dropped > 0) == (policy == 'overwrite', policy == 'discard')
            for name, fields in kept:
                assert name == 'mixed' and fields == mixed(fields['seq']), fields
            times = [t for _, t, _ in records]
            assert times == sorted(times)
            times = [region.ns(t) for t in times]
            assert begin < times[0] and times[-1] < end
            extended += ring.extended
            decoded[f'ring {i}'] = [(t, name, as_json_has_it(f))
                                    for t, (name, f) in zip(times, kept)]
            say(f'ring {i}: {len(records)} records, {before} overwritten, {dropped} dropped')
        assert extended > 0 or policy == 'overwrite', 'no time was written in full'
        reader = Reader(f'local:{path}', '-o', 'json:' + as_json)
        wait_until('host-reader shows all', lambda: os.path.exists(as_json) and
                   sum('"event"' in line for line in open(as_json, encoding='utf-8')) ==
                   sum(map(len, decoded.values())))
        assert reader.stop() == 0, reader.err()
        found, _ = shown_as_json(as_json)
        for place, items in decoded.items():
            events = [x for x in found[place] if not isinstance(x, dict)]
            assert [e[1:] for e in events] == [i[1:] for i in items], place
            # both converted from ticks, and the reader had samples of its own
            off = max(abs(e[0] - i[0]) for e, i in zip(events, items))
            assert off <= (0 if region.clock_id == 1 else 5000), (place, off)
            say(f'{place}: times differ by {off} ns at most')
    finally:
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(dir)


# Structs that lie in shared memory, by where docs/memory-ordering.md has their words; the schema's entries are
# bytes that do not change once they are announced, those of stacks and of what a host tells are records'.
SHARED = {
    'Rings': ['ring', 'block'],
    "The guest's words": ['super', 'ringset', 'area', 'guest', 'clock_sample', 'prog', 'names', 'name', 'runs', 'run',
                          'anchor', 'beacon', 'schema_area', 'reply'],
    "The host's words": ['host', 'control'],
}


def test_orders():
    """docs/memory-ordering.md says of each field of the shared structs who writes and who reads it, on both machines."""
    with open(os.path.join(TOP, 'libhtrace', 'include', 'htrace', 'abi.h'), encoding='utf-8') as f:
        abi = re.sub(r'/\*.*?\*/', '', f.read(), flags=re.S)
    with open(os.path.join(TOP, 'docs', 'memory-ordering.md'), encoding='utf-8') as f:
        words = f.read().split('## The words')[1].split('## The arguments')[0]
    sections = dict(part.split('\n', 1) for part in words.split('\n### ')[1:])
    structs = dict(re.findall(r'^struct htrace_(\w+) \{\n(.*?)^\};', abi, re.M | re.S))
    places = [(title, name) for title, names in SHARED.items() for name in names] + [('Rings', 'host_ring')]
    unknown = {s for s in structs if not re.match('schema_(?!area)|stack|told_|switch$', s)} - {name for _, name in places}
    assert not unknown, f'shared or not? {unknown}'
    missing, fields = [], 0
    for title, name in places:
        rows = '\n'.join(row.split('|')[1] for row in sections[title].splitlines() if row.startswith('|'))
        said = set(re.findall(r'\w+', rows))
        for field in re.findall(r'\b(\w+)(?:\[\w+\])?[,;]', structs[name]):
            if not re.fullmatch(r'(reserved|pad)\d*', field):
                fields += 1
                if field not in said:
                    missing.append(f'{name}.{field}')
    assert not missing, f'docs/memory-ordering.md has no word of {missing}'
    rows = [row.split('|')[1:-1] for row in words.splitlines() if re.match(r'\| (?!word)', row)]
    assert len(rows) > 30 and fields > 90, (len(rows), fields)
    for row in rows:  # a word's second reader has the word's name and writer in the row before
        assert len(row) == 5 and all(cell.strip() for cell in row[2:]), row
    say(f'{fields} fields in {len(rows)} rows')


def test_bpf_adds():
    """Each atomic add of the BPF programs is a fetch_add: one whose result nobody uses is relaxed on arm64."""
    objdump = shutil.which('llvm-objdump')
    assert objdump, "no llvm-objdump: Debian's package llvm has it"
    ordered = 0
    for name in sorted(os.listdir(os.path.join(BUILD, 'bpf'))):
        if not name.endswith('.bpf.o'):
            continue
        text = subprocess.run([objdump, '-d', os.path.join(BUILD, 'bpf', name)], check=True,
                              stdout=subprocess.PIPE, text=True).stdout
        plain = [line for line in text.splitlines() if re.search(r'\block \*\(', line)]
        assert not plain, f'{name}: {plain[0]}'
        ordered += text.count('atomic_fetch_add(')
    say(f'{ordered} adds')
    assert ordered > 100, 'adds are not found: is their notation another one?'

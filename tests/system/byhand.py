# SPDX-License-Identifier: LGPL-2.1-or-later
"""Another implementation of docs/format.md, written from that document alone: no header, no library.

Makes regions and writes records into them as a producer does, and reads what is in one. Words of
the document are used for names. If something here had to be looked up in the C sources, the
document would have to be mended.
"""

import mmap
import os
import struct

U32, U64 = (1 << 32) - 1, (1 << 64) - 1
GRANULE = 65536
HOST, HOST_RINGS, AREAS = GRANULE, 2 * GRANULE, 3 * GRANULE
LOCAL, IVSHMEM, VSHMEM = 1, 2, 3
DISCARD, OVERWRITE = 1, 2
PER_CPU, PER_THREAD = 1, 2
RUNNING, CLOSING, CLOSED = 1, 2, 3
MAGIC, HOST_MAGIC = b'HTRACE01', b'HTRHST01'
STATES = [1, 2, 4, 9, 3, 6, 13, 10, 5, 11, 7, 15, 14, 12, 8]  # codes of the states 1, 2, 4...


def round_up(n, to):
    return (n + to - 1) // to * to


class Memory:
    """A shared file. Words are loaded and stored whole, in the order of the calls."""

    def __init__(self, path, size=None):
        with open(path, 'r+b' if size is None else 'w+b') as f:
            if size is not None:
                f.truncate(size)
            self.map = mmap.mmap(f.fileno(), 0)
        self.size = len(self.map)
        self.u64, self.u32 = memoryview(self.map).cast('Q'), memoryview(self.map).cast('I')

    def load(self, off):
        return self.u64[off // 8]

    def store(self, off, value):
        self.u64[off // 8] = value & U64

    def load32(self, off):
        return self.u32[off // 4]

    def store32(self, off, value):
        self.u32[off // 4] = value

    def bytes(self, off, n):
        return self.map[off:off + n]

    def write(self, off, data):
        self.map[off:off + len(data)] = data


class GuestSpace:
    """Page runs side by side: what the rings of a VSHMEM set lie in. The guest's RAM is a file whose
    offsets are guest-physical addresses."""

    def __init__(self, ram, runs, page_shift):
        self.ram, self.runs, self.page = ram, runs, 1 << page_shift
        self.pages = [gpfn + i << page_shift for gpfn, nr in runs for i in range(nr)]

    def gpa(self, off):
        return self.pages[off // self.page] + off % self.page

    def load(self, off):
        return self.ram.load(self.gpa(off))

    def store(self, off, value):
        self.ram.store(self.gpa(off), value)

    def store32(self, off, value):
        self.ram.store32(self.gpa(off), value)

    def parts(self, off, n):
        """(guest-physical address, length) of what lies in one page each."""
        while n:
            here = min(n, self.page - off % self.page)
            yield self.gpa(off), here
            off, n = off + here, n - here

    def bytes(self, off, n):
        return b''.join(self.ram.bytes(at, here) for at, here in self.parts(off, n))

    def write(self, off, data):
        done = 0
        for at, here in self.parts(off, len(data)):
            self.ram.write(at, data[done:done + here])
            done += here


class RingSet:
    """Rings of one geometry."""

    FORMAT = '<10I2Q'

    def __init__(self, placement, policy, kind, nr_rings, first_slot, ring_shift, block_shift,
                 desc_off, data_off, relays, off, stride):
        self.fields = (placement, policy, kind, nr_rings, first_slot, ring_shift, block_shift,
                       desc_off, data_off, relays, off, stride)
        self.placement, self.policy, self.kind, self.nr_rings = placement, policy, kind, nr_rings
        self.first_slot, self.off, self.stride = first_slot, off, stride
        self.ring, self.block = 1 << ring_shift, 1 << block_shift
        self.desc_off, self.data_off = desc_off, data_off


class Ring:
    """One ring image, in a region or in guest memory: the places of its words, and both halves of
    the protocol."""

    def __init__(self, mem, rs, i):
        self.mem, self.set, self.index = mem, rs, i
        self.ring, self.block = rs.ring, rs.block
        self.at = rs.off + i * rs.stride
        self.host_at = HOST_RINGS + 64 * (rs.first_slot + i)  # of the region
        self.consumed_at = self.at + 128 if rs.placement == VSHMEM else self.host_at
        self.extended = 0  # records read whose time is in full

    def head(self):
        return self.mem.load(self.at)

    def dropped(self):
        return self.mem.load(self.at + 64)

    def refused(self):
        return self.mem.load(self.at + 72)

    def consumed(self):
        return self.mem.load(self.consumed_at)

    def desc(self, pos):
        return self.at + self.set.desc_off + 64 * (pos % self.ring // self.block)

    def data(self, pos):
        return self.at + self.set.data_off + pos % self.ring

    # ----------------------------------------------------------------------------- producer

    def drop(self):
        self.mem.store(self.at + 64, self.dropped() + 1)

    def free(self, b, beg):
        """events_before for the opener, or None."""
        if self.set.policy == DISCARD and beg + self.block - self.consumed() > self.ring:
            return None
        total = beg // self.ring * self.block
        c, before = self.mem.load(b), self.mem.load(b + 40)
        if c & U32 != total & U32:
            return None
        return before + (((((c - total) & U64) >> 32) - before) & U32)

    def open_block(self, b, pos, beg, now, events_before, generation):
        for off, value in (32, now), (40, events_before), (48, beg):
            self.mem.store(b + off, value)
        self.mem.store32(b + 56, generation & U32)
        if pos != beg:
            o = self.desc(pos)
            self.mem.store(self.data(pos), 0xffff | (pos & U32) << 32)
            for off, value in (8, pos), (16, now), (24, self.dropped()):
                self.mem.store(o + off, value)
            self.mem.store(o, self.mem.load(o) + beg - pos)

    def reserve(self, id, payload, now, generation=1):
        """Stores header and payload; what commit() takes, or None if the record was dropped."""
        if len(payload) > min(self.block - 24, 65512):
            self.mem.store(self.at + 72, self.refused() + 1)
            return self.drop()
        body = round_up(len(payload), 8)
        pos = beg = self.head()
        b = self.desc(pos)
        ext = not -(1 << 30) <= now - self.mem.load(b + 32) < 1 << 31
        length = 8 + (8 if ext else 0) + body
        left = self.block - pos % self.block
        opens = pos % self.block == 0 or left < length + 8
        if opens:
            beg = round_up(pos, self.block)
            b, ext, length = self.desc(beg), False, 8 + body
            events_before = self.free(b, beg)
            if events_before is None:
                return self.drop()
        self.mem.store(self.at, beg + length)
        if opens:
            self.open_block(b, pos, beg, now, events_before, generation)
        self.mem.store(self.data(beg), id | (length | ext) << 16 | (now & U32) << 32)
        if ext:
            self.mem.store(self.data(beg) + 8, now)
        self.mem.write(self.data(beg) + (16 if ext else 8), payload)
        return b, (1 << 32) + length

    def commit(self, slot):
        b, add = slot
        self.mem.store(b, self.mem.load(b) + add)

    def push(self, id, payload, now, generation=1):
        """True if the record is in the ring."""
        slot = self.reserve(id, payload, now, generation)
        if slot:
            self.commit(slot)
        return slot is not None

    # ------------------------------------------------------------------------------- reader

    def records(self, beg, end, base):
        """(position, id, time, payload) of each record."""
        pos, basis = beg, None
        while pos < end:
            header = self.mem.load(self.data(pos))
            id, length, low = header & 0xffff, header >> 16 & 0xfff8, header >> 32
            flags = header >> 16 & 7
            if flags & 4:
                length, basis = self.packed(pos, header, basis)
                id, time, payload = basis
                yield pos, id, time, payload
                pos += length
                continue
            assert 1 <= id <= 60000, f'{id} {flags} at {pos}'
            hdr = 16 if flags & 1 else 8
            assert hdr <= length <= end - pos, f'{length} bytes at {pos}'
            if flags & 1:
                self.extended += 1
                time = self.mem.load(self.data(pos) + 8)
            else:
                delta = (low - base) & U32
                time = base + (delta - (1 << 32) if delta >> 31 else delta)
            payload = self.mem.bytes(self.data(pos) + hdr, length - hdr)
            if flags & 2:
                assert len(payload) >= 16
                basis = id, time, payload
            yield pos, id, time, payload
            pos += length

    def packed(self, pos, word, basis):
        """Of the packed record at pos: its length, and (id, time, payload), which is the next one's basis."""
        assert basis, f'a packed record without a basis at {pos}'
        id, time, before = basis
        _, tid, _, prio = struct.unpack_from('<IIhh', before)
        code, distance = word & 15, word >> 35
        state = 1 << STATES.index(code) if code else 0
        next_tid = word >> 12 & 63 | (word >> 19 & 0xffff) << 6
        far = distance == (1 << 29) - 1
        time = self.mem.load(self.data(pos) + 8) if far else time + distance
        payload = struct.pack('<IIhhI', tid, next_tid, prio, (word >> 4 & 255) - 1, state)
        return 16 if far else 8, (id, time, payload)

    def read(self):
        """All that a reader which starts now finds: (records, before, dropped)."""
        h, found, before, dropped, last = self.head(), [], 0, 0, 0
        start = max(0, (h - 1) // self.block * self.block - (self.ring - self.block)) if h else 0
        for beg in range(start, h, self.block):
            complete = h - beg >= self.block
            b, n = self.desc(beg), self.block if complete else h - beg
            total = beg // self.ring * self.block + n
            commit, end, _, closed_dropped, base, events_before, its_beg = \
                (self.mem.load(b + 8 * i) for i in range(7))
            assert commit & U32 == total & U32, f'the block at {beg} is not committed'
            assert its_beg == beg
            if complete:
                assert beg < end <= beg + self.block - 8 and end % 8 == 0
                assert self.mem.load(self.data(end)) == 0xffff | (end & U32) << 32
                dropped = closed_dropped
            else:
                end = h
            here = list(self.records(beg, end, base))
            assert len(here) == ((((commit - total) & U64) >> 32) - events_before) & U32
            before += events_before
            for _, id, time, payload in here:
                last = max(time, last)
                found.append((id, last, payload))
        assert self.dropped() >= dropped
        return found, before, self.dropped()


# ------------------------------------------------------------------------------------- schema

INT, ENUM, ARRAY, STRING, STRUCT, UNION = range(1, 7)
NONE, HEX, POINTER, TID, SYSCALL, BOOL, CHAR, TASK_STATE = range(8)


def name64(name):
    return name.encode().ljust(64, b'\0')


class SchemaWriter:
    """Entries in order; the methods return a type's number."""

    def __init__(self):
        self.entries, self.types = b'', 0

    def type(self, kind, size, hint=NONE, signed=False, ref=0, nr=0, name='', rest=b''):
        self.types += 1
        self.entries += struct.pack('<HHIIHBBIIII', 1, 0, 96 + len(rest), self.types, kind, hint,
                                    int(signed), size, ref, nr, 0) + name64(name) + rest
        return self.types

    def integer(self, size, signed=False, hint=NONE, name=''):
        return self.type(INT, size, hint, signed, name=name)

    def enum(self, size, signed, values, name=''):
        rest = b''.join(struct.pack('<q', v) + name64(n) for n, v in values.items())
        return self.type(ENUM, size, signed=signed, nr=len(values), name=name, rest=rest)

    def array(self, element, element_size, nr):
        return self.type(ARRAY, nr * element_size, ref=element, nr=nr)

    def string(self, size):
        return self.type(STRING, size)

    def record(self, kind, name, size, members):
        """members: (name, type, bit_off, bit_size)"""
        rest = b''.join(struct.pack('<IIII', t, off, bits, 0) + name64(n)
                        for n, t, off, bits in members)
        return self.type(kind, size, nr=len(members), name=name, rest=rest)

    def event(self, id, type, name):
        self.entries += struct.pack('<HHIIIII', 2, 0, 88, id, type, 0, 0) + name64(name)

    def unknown(self):
        """An entry of a kind that no reader knows."""
        self.entries += struct.pack('<HHIQ', 77, 0, 16, U64)


def c_name(data):
    return data.split(b'\0')[0].decode()


class Schema:
    """Entries, read: types by number, events by id."""

    def __init__(self, data):
        self.types, self.events, at = {}, {}, 0
        while at < len(data):
            kind, _, length = struct.unpack_from('<HHI', data, at)
            entry = data[at:at + length]
            assert length % 8 == 0 and len(entry) == length
            if kind == 1:
                number, what, hint, flags, size, ref, nr = struct.unpack_from('<IHBBIII', entry, 8)
                assert number == len(self.types) + 1
                rest = entry[96:]
                self.types[number] = {
                    'kind': what, 'hint': hint, 'signed': flags & 1, 'size': size, 'ref': ref,
                    'nr': nr, 'name': c_name(entry[32:96]),
                    'values': [(struct.unpack_from('<q', rest, 72 * i)[0],
                                c_name(rest[72 * i + 8:72 * i + 72])) for i in range(nr)]
                    if what == ENUM else None,
                    'members': [(*struct.unpack_from('<III', rest, 80 * i),
                                 c_name(rest[80 * i + 16:80 * i + 80])) for i in range(nr)]
                    if what in (STRUCT, UNION) else None}
            elif kind == 2:
                id, type = struct.unpack_from('<II', entry, 8)
                self.events[id] = (c_name(entry[24:88]), type)
            at += length

    def value(self, number, data, bit_off=0, bit_size=0):
        """A type's value, as Python has it; enumerators, structs as (name, value)... as dicts."""
        t, at = self.types[number], bit_off // 8
        kind, size = t['kind'], t['size']
        if kind in (INT, ENUM):
            bits = bit_size or 8 * size
            whole = int.from_bytes(data[at:at + (8 if bit_size else size)], 'little')
            v = whole >> bit_off % 8 & (1 << bits) - 1
            return v - (1 << bits) if t['signed'] and v >> bits - 1 else v
        if kind == STRING:
            return data[at:at + size if size else None].split(b'\0')[0]
        if kind == ARRAY:
            one = self.types[t['ref']]['size']
            nr = t['nr'] or (len(data) - at) // one
            return [self.value(t['ref'], data, 8 * (at + one * i)) for i in range(nr)]
        return {name: self.value(type, data, bit_off + off, bits)
                for type, off, bits, name in t['members']}

    def decode(self, id, payload):
        name, type = self.events[id]
        return name, self.value(type, payload)


# ------------------------------------------------------------------------------------- region

class Region:
    """A region: made by create(), or found in a file by opening it."""

    def __init__(self, path, space=None):
        mem, self.space = Memory(path), space
        self.mem = mem
        raw = mem.bytes(0, 368)
        assert raw[:8] == MAGIC
        (self.major, self.minor, self.super_size, self.size, self.session) = \
            struct.unpack_from('<HHIQQ', raw, 8)
        self.boot_id = raw[32:48]
        (self.required, self.optional, self.clock_id, self.page_shift, self.nr_cpus,
         nr_ringsets) = struct.unpack_from('<QQIIII', raw, 48)
        assert (self.major, self.size) == (1, mem.size) and self.session and nr_ringsets <= 4
        self.guest, self.schema, self.names, self.runs = \
            (struct.unpack_from('<QQ', raw, at) for at in (80, 96, 112, 128))
        self.sets = [RingSet(*struct.unpack_from(RingSet.FORMAT, raw, 144 + 56 * i))
                     for i in range(nr_ringsets)]
        self.beats = mem.load(self.guest[0] + 16)

    @staticmethod
    def create(path, size, session, sets, guest, schema, names, schema_entries, task_names, nr_cpus,
               runs=(0, 0), page_shift=12, space=None):
        """guest, schema, names, runs are areas: offset, length. The magic comes last."""
        mem = Memory(path, size)
        mem.write(0, struct.pack('<8sHHIQQ16sQQIIII', bytes(8), 1, 0, 368, size, session,
                                 bytes(range(16)), 0, 0, 1, page_shift, nr_cpus, len(sets)) +
                  struct.pack('<8Q', *guest, *schema, *names, *runs) +
                  b''.join(struct.pack(RingSet.FORMAT, *s.fields) for s in sets))
        for s in sets:
            where = space if s.placement == VSHMEM else mem
            for i in range(s.nr_rings):
                at = s.off + i * s.stride
                where.write(at, bytes(s.data_off))
                where.write(at + s.data_off, b'\xa5' * s.ring)  # may be anything
                where.write(at + 200, struct.pack('<II', i, i))
        mem.write(guest[0] + 32, struct.pack('<I', 50))
        mem.write(guest[0] + 4, struct.pack('<IQ', os.getpid(), 1))
        mem.write(guest[0] + 128, b'1.2.3-by-hand')
        mem.write(guest[0] + 192, b'x' * 64)  # not terminated
        mem.write(schema[0], struct.pack('<QI', 1, len(schema_entries)))
        mem.write(schema[0] + 64, schema_entries)
        mem.write(names[0], struct.pack('<QII', 2, len(task_names), 0))
        mem.write(names[0] + 64, b''.join(struct.pack('<QII16s', time, tid, tgid, comm)
                                          for time, tid, tgid, comm in task_names))
        if space:
            Region.anchor(mem, sets, runs[0], space)
        mem.write(0, MAGIC)
        return Region(path, space)

    @staticmethod
    def anchor(mem, sets, at, space):
        """Page runs, and the nonces at the beginning and the end of each image."""
        s = next(s for s in sets if s.placement == VSHMEM)
        anchors = []
        for i in range(s.nr_rings):
            for off in s.off + i * s.stride + 192, s.off + (i + 1) * s.stride - 8:
                nonce = int.from_bytes(os.urandom(8), 'little') | 1
                space.store(off, nonce)
                anchors.append((space.gpa(off), nonce))
        mem.write(at, struct.pack('<IIQ', len(anchors), len(space.runs), len(space.pages)))
        mem.write(at + 64, b''.join(struct.pack('<QQ', *x) for x in anchors + space.runs))

    def ns(self, time):
        """What a time of the region's clock is in CLOCK_MONOTONIC: by a line through the two clock
        samples around it, or next to it."""
        if self.clock_id == 1:
            return time
        head = self.mem.load(self.guest[0] + 64)
        at = [self.guest[0] + 256 + 32 * (i % 64) for i in range(max(0, head - 64), head)]
        points = [(self.mem.load(a), self.mem.load(a + 8)) for a in at]
        later = next((i for i, (ticks, _) in enumerate(points) if ticks > time), len(points) - 1)
        (t0, ns0), (t1, ns1) = points[max(later, 1) - 1], points[max(later, 1)]
        return ns0 + (time - t0) * (ns1 - ns0) // (t1 - t0)

    def add_schema(self, entries):
        """Another generation: entries, then bytes, then generation."""
        at = self.schema[0]
        there = self.mem.load32(at + 8)
        self.mem.write(at + 64 + there, entries)
        self.mem.store32(at + 8, there + len(entries))
        self.mem.store(at, self.mem.load(at) + 1)

    def ring(self, nr_set, i):
        s = self.sets[nr_set]
        return Ring(self.space if s.placement == VSHMEM else self.mem, s, i)

    def forward(self, ring):
        """The agent's part for a ring in guest memory: the host's position, while it is ours."""
        if ring.set.placement == VSHMEM and self.host()['session'] == self.session:
            ring.mem.store(ring.consumed_at, self.mem.load(ring.host_at))

    def release(self):
        """Closed: all nonces are cleared first."""
        for s in self.sets:
            for i in range(s.nr_rings if s.placement == VSHMEM else 0):
                self.space.store(s.off + i * s.stride + 192, 0)
                self.space.store(s.off + (i + 1) * s.stride - 8, 0)
        self.set_state(CLOSED)

    def set_state(self, state):
        self.mem.store32(self.guest[0], state)

    def beat(self, now):
        self.beats += 1
        self.mem.store(self.guest[0] + 24, now)
        self.mem.store(self.guest[0] + 16, self.beats)

    def read_schema(self):
        return Schema(self.mem.bytes(self.schema[0] + 64, self.mem.load32(self.schema[0] + 8)))

    # -------------------------------------------------------------------------- host's words

    def host(self):
        magic, major, state, session, verified, reason = \
            struct.unpack('<8sIIQQI', self.mem.bytes(HOST, 36))
        return {'magic': magic, 'major': major, 'state': state, 'session': session,
                'verified': verified, 'reason': reason, 'heartbeat': self.mem.load(HOST + 40),
                'drained': self.mem.load(HOST + 56)}

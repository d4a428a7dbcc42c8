# SPDX-License-Identifier: LGPL-2.1-or-later
"""Traces of host-reader's ctf output, as babeltrace2 reads them."""

import functools
import os
import re
import struct
import subprocess
import tempfile

LINE = re.compile(r'^\[(\d+)\.(\d{9})\] (.*?) ?([\w#]+): (\{.*\})$')
LOST = re.compile(r'^WARNING: Tracer discarded (\d+) events? between \[(\d+)\.(\d{9})\] and '
                  r'\[(\d+)\.(\d{9})\] in trace .* within stream "(.*)" \(stream class ID: \d+, '
                  r'stream ID: \d+\)\.$')
TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\[\d+\]|0x[0-9A-Fa-f]+|-?\d+|<unknown>|\w+|[{}\[\](),:=])')
NUMBER = re.compile(r'(\w+) = (0x[0-9A-Fa-f]+|-?\d+)')
ESCAPES = {'n': '\n', 't': '\t', 'r': '\r', 'a': '\a', 'b': '\b', 'f': '\f', 'v': '\v', 'e': '\x1b'}


class Enum(int):
    """The number, and in `labels` what it stands for."""
    labels = ()


class Parser:
    """The structs of one line, as dicts, lists, numbers and strings."""

    def __init__(self, text):
        self.tokens = TOKEN.findall(text)
        self.at = 0

    def take(self, *expected):
        token = self.tokens[self.at]
        assert not expected or token in expected, (expected, token, self.tokens)
        self.at += 1
        return token

    def peek(self):
        return self.tokens[self.at] if self.at < len(self.tokens) else None

    def value(self):
        token = self.peek()
        if token == '{':
            return self.struct()
        if token == '[':
            return self.list()
        if token == '(':
            return self.enum()
        self.take()
        if token.startswith('"'):
            return re.sub(r'\\(.)', lambda m: ESCAPES.get(m[1], m[1]), token[1:-1])
        return int(token, 0)

    def struct(self):
        fields = {}
        self.take('{')
        while self.peek() != '}':
            name = self.take()
            self.take('=')
            assert name not in fields, name
            fields[name] = self.value()
            if self.peek() == ',':
                self.take()
        self.take('}')
        return fields

    def list(self):
        values = []
        self.take('[')
        while self.peek() != ']':
            self.take(f'[{len(values)}]')
            self.take('=')
            values.append(self.value())
            if self.peek() == ',':
                self.take()
        self.take(']')
        return values

    def enum(self):
        self.take('(')
        labels = [self.take()]
        while self.peek() == ',':
            self.take()
            labels.append(self.take())
        self.take(':')
        self.take('container')
        self.take('=')
        value = Enum(self.value())
        value.labels = [label.strip('"') for label in labels]
        self.take(')')
        return value

    def structs(self):
        found = [self.struct()]
        while self.peek() == ',':
            self.take()
            found.append(self.struct())
        assert self.peek() is None, self.tokens[self.at:]
        return found


class Record:
    """
    One event: its time on the trace's clock (ns since the epoch), its CPU or ring, its fields: taken apart when they are asked
    for, as that takes long.
    """

    def __init__(self, seconds, ns, event, text):
        self.time = int(seconds) * 10**9 + int(ns)
        self.event = event
        self.text = text

    @functools.cached_property
    def structs(self):
        packet, *context, fields = Parser(self.text).structs()
        return packet, context[0] if context else {}, fields

    packet = property(lambda self: self.structs[0])
    context = property(lambda self: self.structs[1])
    fields = property(lambda self: self.structs[2])

    def numbers(self):
        """Its fields that are one, where none is a struct or a list: sooner."""
        return {k: int(v, 0) for k, v in NUMBER.findall(self.text, self.text.rindex('{'))}


class Loss:
    """Lost events, and between which times."""

    def __init__(self, m):
        self.lost = int(m[1])
        self.begin = int(m[2]) * 10**9 + int(m[3])
        self.end = int(m[4]) * 10**9 + int(m[5])
        self.cpu = int(re.search(r'/(?:cpu|ring)(\d+)(_\d+)?(?:-vcpu)?$', m[6])[1])


def read(path, limit=None):
    """
    (records, losses); whatever else babeltrace2 has to say is a failure. It reads all; of the
    records only the first @limit are given.
    """
    run = subprocess.run(['babeltrace2', '--clock-seconds', '--no-delta', path],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    losses = []
    for line in run.stderr.splitlines():
        m = LOST.match(line)
        assert m, f'babeltrace2 says: {run.stderr[:3000]}'
        losses.append(Loss(m))
    assert run.returncode == 0, run.stderr
    records = []
    for line in run.stdout.splitlines()[:limit]:
        m = LINE.match(line)
        assert m, line
        records.append(Record(m[1], m[2], m[4], m[5]))
    return records, losses


PACKET = struct.Struct('<I16sI6Q')  # header and context, as far as all streams have them


def packets(stream):
    """Of a stream's file, as its bytes have them: [(begin, end)], ns of the trace's clock without its offset."""
    with open(stream, 'rb') as f:
        data = f.read()
    found, at = [], 0
    while at < len(data):
        magic, _, _, begin, end, content, size, seq, _ = PACKET.unpack_from(data, at)
        assert magic == 0xc1fc1fc1 and seq == len(found) and content <= size and not size % 8, (stream, at)
        found.append((begin, end))
        at += size // 8
    assert at == len(data), stream
    return found


def as_written(trace, stream):
    """Records of one stream in the order in which its file has them: nothing is there to be sorted in."""
    with tempfile.TemporaryDirectory(prefix='htrace-stream-', dir='/dev/shm') as dir:
        for name in 'metadata', stream:
            os.symlink(os.path.join(os.path.abspath(trace), name), os.path.join(dir, name))
        return read(dir)[0]


def streams(trace):
    return sorted(f for f in os.listdir(trace)
                  if f != 'metadata' and os.path.getsize(os.path.join(trace, f)))


def check_order(trace):
    """In each of its files: packets one behind the other, and records within, none before the one before it."""
    records = 0
    for stream in streams(trace):
        bounds, then = packets(os.path.join(trace, stream)), offset(trace)
        assert all(begin <= end for begin, end in bounds), stream
        assert all(a[1] <= b[0] for a, b in zip(bounds, bounds[1:])), stream
        times = [r.time - then for r in as_written(trace, stream)]
        assert all(a <= b for a, b in zip(times, times[1:])), stream
        assert not times or bounds[0][0] <= times[0] and times[-1] <= bounds[-1][1], stream
        records += len(times)
    return records


def traces(path):
    """The directories of a ctf output's traces, first one first."""
    return sorted((os.path.join(path, d) for d in os.listdir(path)),
                  key=lambda d: int(d.rsplit('-', 1)[1]))


def metadata(trace):
    with open(os.path.join(trace, 'metadata'), encoding='ascii') as f:
        return f.read()


def offset(trace):
    """From the guest's clock to the trace's, in ns."""
    m = re.search(r'offset_s = (\d+);\s*offset = (\d+);', metadata(trace))
    return int(m[1]) * 10**9 + int(m[2])


def source(trace):
    return re.search(r'htrace_source = "(.*?)";', metadata(trace))[1]


def clock_bound(trace):
    """
    Within how many ns its times are the host's, as its environment and its clock's precision say alike; None: that is
    said not to be known. Where they are just the host's, neither is there.
    """
    text = metadata(trace)
    stated, precision = (re.search(what, text, re.M) for what in (r'^\thtrace_clock_bound_ns = (\d+);$', r'^\tprecision = (\d+);$'))
    assert 'htrace_clock = "host"' in text and (stated and stated[1]) == (precision and precision[1]), text[:2000]
    if 'htrace_clock_bound = "unknown"' in text:
        assert not stated, text[:2000]
        return None
    return int(stated[1]) if stated else 0

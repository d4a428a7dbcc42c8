# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reader left behind: numbered records in its JSON, its CTF and its raw capture."""

import json
import os
import re
import struct
import subprocess

LOST = re.compile(r'WARNING: Tracer (?:may have )?discarded ')
KINDS = 'overwritten', 'dropped', 'corrupt', 'unfinished'


class Wrong(AssertionError):
    """An output does not hold what the producers wrote."""


class Unreadable(AssertionError):
    """A file that was opened before the fault cannot be read."""


class Format:
    """What the records are like, and in which other events they lie."""

    def __init__(self, json_record, ctf_record, take, others='lttng_statedump_|htrace_note'):
        self.json, self.ctf = re.compile(json_record), re.compile(ctf_record)
        self.take = take  # (who wrote it, its number), or None: nobody writes such
        self.others = re.compile(others)


def take_tracer(seq, life, thread, check):
    """By tracer.c."""
    right = check == (seq * 0x9e3779b97f4a7c15) % 2**64 ^ life << 32 ^ thread
    return ((life, thread), seq) if right else None


TRACER = Format(r'"event":"record","fields":\{"seq":(\d+),"life":(\d+),"thread":(\d+),"check":(\d+)(?:,"text":"")?\}',
                r' record: .*\{ seq = (\d+), life = (\d+), thread = (\d+), check = (\d+)(?:, text = "")? \}$', take_tracer)
# By counted.bpf.c, of what `workload steady` calls. A CPU's are in order; who calls may move to another. Names
# of tasks come beside them.
COUNTED = Format(r'"cpu":(\d+),.*"event":"counted".*"fields":\{"number":(\d+)\}',
                 r' counted: \{ cpu_id = (\d+).*\{ number = (\d+) \}$',
                 lambda cpu, number: ((number >> 32, cpu), number & 0xffffffff),
                 r'lttng_statedump_|htrace_note|sched_process_(fork|exec|exit)|task_rename')


class Records:
    """{who wrote them: numbers, in the order in which they stand}, each checked."""

    def __init__(self, what, form):
        self.what = what
        self.form = form
        self.streams = {}
        self.nr = 0

    def add(self, m):
        taken = self.form.take(*map(int, m.groups()))
        if not taken:
            raise Wrong(f'{self.what}: nobody wrote this: {m[0]}')
        who, seq = taken
        stream = self.streams.setdefault(who, [])
        if stream and seq == stream[-1]:
            raise Wrong(f'{self.what}: {who}: {seq} is there twice')
        if stream and seq < stream[-1]:
            raise Wrong(f'{self.what}: {who}: {seq} after {stream[-1]}')
        stream.append(seq)
        self.nr += 1

    def join(self, others):
        """Of the same writers, from beside them."""
        for who, seqs in others.streams.items():
            stream = self.streams.setdefault(who, [])
            if not set(stream).isdisjoint(seqs):
                raise Wrong(f'{self.what}: {who}: some are there twice')
            stream += seqs
            stream.sort()
        self.nr += others.nr

    def other(self, line):
        if not self.form.others.search(line):
            raise Wrong(f'{self.what}: nobody wrote this: {line}')


def read_json(path, form):
    """(records, {source: {kind of loss: events}}). The last line may be cut off."""
    records, lost = Records(path, form), {}
    with open(path, encoding='ascii') as f:
        for line in f:
            if not line.endswith('}\n'):
                if f.read(1):
                    raise Wrong(f'{path}: in the midst of it: {line}')
                break
            m = form.json.search(line)
            if m:
                records.add(m)
                continue
            o = json.loads(line)
            if 'lost' in o:
                of = lost.setdefault(o.get('source'), dict.fromkeys(KINDS, 0))
                for kind in KINDS:
                    of[kind] += o[kind]
            elif 'note' not in o:
                records.other(line)
    return records, lost


def opened(path):
    """Did the reader come so far as to declare a trace there?"""
    return any('metadata' in files for _, _, files in os.walk(path))


def streams(path):
    """Files of a raw capture's streams."""
    return [os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names
            if re.match(r'(set\d+-)?(cpu|ring)\d+', name)]


def begun(path):
    """Does a raw capture have packets?"""
    return any(os.path.getsize(stream) for stream in streams(path))


MAGIC, SIZES = 0xC1FC1FC1, 40  # of a packet's header: its first word, and where its content's size and its own are, in bits
LENT = 16384  # bytes of a packet's records: so many at least are written without a copy


def cut_off(path, direct=False):
    """
    A process that is killed in write(2) writes a part of it: the last packet of a raw capture's stream may be
    incomplete, and babeltrace2 refuses such. How many there are; and how many large packets. (In -o ctf: there is none.) @direct: by one that
    wrote past the page cache; there the first header of what was under way may be missing.
    """
    nr = large = 0
    for stream in streams(path):
        with open(stream, 'rb') as f:
            size, at = os.fstat(f.fileno()).st_size, 0
            while at < size:
                f.seek(at)
                header = f.read(SIZES + 16)
                if len(header) < SIZES + 16:
                    break
                magic = struct.unpack_from('<I', header)[0]
                if not magic and direct:  # what is behind it is there, it is not
                    break
                if magic != MAGIC:
                    raise Wrong(f'{stream}: no packet begins at {at}')
                content, whole_size = struct.unpack_from('<2Q', header, SIZES)
                if at + whole_size // 8 > size:
                    break
                large += content // 8 >= LENT
                at += whole_size // 8
            nr += at < size
    return nr, large


def replay(reader, path, *to):
    """What host-reader reads of a raw capture, to these outputs."""
    run = subprocess.run([reader, *(arg for output in to for arg in ('-o', output)), f'file:{path}'],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if run.returncode:
        raise Unreadable(f'{path}: {run.stderr}')


def whole(reader, path, copy):
    """A raw capture of the same without what is cut off, as the man page tells users to make one."""
    replay(reader, path, f'raw:{copy}')
    return copy


def unpack(path):
    """How many files of a raw capture were compressed, and are not any more."""
    names = [os.path.join(directory, name) for directory, _, names in os.walk(path) for name in names
             if name.endswith('.zst') and not name.startswith('.')]
    if names:
        subprocess.run(['zstd', '-q', '-d', '-f', '--rm', *names], check=True)
    return len(names)


def parts(path):
    """Directories of a raw capture that went on in several, in their order, and each source's."""
    def place(name):
        m = re.match(r'source(\d+)-session(\d+)(?:\.(\d+))?$', name)
        return [int(n or 1) for n in m.groups()]
    return [os.path.join(path, name) for name in sorted(os.listdir(path), key=place)]


def read_ctf(path, form):
    """
    Of ctf:DIR and raw:DIR, as babeltrace2 reads them. What is unverified is in a stream of its own, so that
    where a clock was set back, and times stand still, nothing says how it lies to the others.
    """
    records = Records(path, form)
    read_ctf_to(records, path)
    return records


def read_parts(path, form):
    """Likewise, of one that went on in several directories: each by itself, one behind the other."""
    records = Records(path, form)
    for part in parts(path):
        read_ctf_to(records, part)
    return records


def read_ctf_to(records, path):
    if not opened(path):
        return
    form, unverified = records.form, Records(path, records.form)
    run = subprocess.run(['babeltrace2', '--no-delta', path], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False)
    bad = [line for line in run.stderr.splitlines() if not LOST.match(line)]
    if run.returncode or bad:
        raise Unreadable(f'{path}: babeltrace2 ended with {run.returncode}: {bad[:10]}')
    for line in run.stdout.splitlines():
        m = form.ctf.search(line)
        if not m:
            records.other(line)
        elif 'unverified = 1' in line:
            unverified.add(m)
        else:
            records.add(m)
    records.join(unverified)


def summary(said, path):
    """Numbers of the source's summary: received, lost, before."""
    part = re.search(rf'^--- summary of {re.escape(path)} ---\n(.*?)(?=^--- summary|\Z)', said, re.S | re.M)
    if not part:
        raise Wrong(f'no summary of {path}:\n{said[-3000:]}')
    return {name: int(re.search(rf'^{name} +(\d+)', part[1], re.M)[1])
            for name in ('received', 'lost', 'before')}

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reader left behind: tracer.c's records in its JSON, its CTF and its raw capture."""

import json
import os
import re
import subprocess

RECORD = re.compile(r'"event":"record","fields":\{"seq":(\d+),"life":(\d+),"thread":(\d+),"check":(\d+)\}')
CTF_RECORD = re.compile(r' record: .*\{ seq = (\d+), life = (\d+), thread = (\d+), check = (\d+) \}$')
LOST = re.compile(r'WARNING: Tracer (?:may have )?discarded ')
KINDS = 'overwritten', 'dropped', 'corrupt', 'unfinished'


class Wrong(AssertionError):
    """An output does not hold what the producers wrote."""


class Unreadable(AssertionError):
    """A file that was opened before the fault cannot be read."""


class Records:
    """{(life, thread): numbers, in the order in which they stand}, each checked."""

    def __init__(self, what):
        self.what = what
        self.streams = {}
        self.nr = 0

    def add(self, m):
        seq, life, thread, check = map(int, m.groups())
        if check != (seq * 0x9e3779b97f4a7c15) % 2**64 ^ life << 32 ^ thread:
            raise Wrong(f'{self.what}: nobody wrote this: {m[0]}')
        stream = self.streams.setdefault((life, thread), [])
        if stream and seq <= stream[-1]:
            raise Wrong(f'{self.what}: life {life}, thread {thread}: {seq} after {stream[-1]}')
        stream.append(seq)
        self.nr += 1


def read_json(path):
    """(records, {source: {kind of loss: events}}). The last line may be cut off."""
    records, lost = Records(path), {}
    with open(path, encoding='ascii') as f:
        for line in f:
            if not line.endswith('}\n'):
                if f.read(1):
                    raise Wrong(f'{path}: in the midst of it: {line}')
                break
            m = RECORD.search(line)
            if m:
                records.add(m)
                continue
            o = json.loads(line)
            if 'lost' in o:
                of = lost.setdefault(o.get('source'), dict.fromkeys(KINDS, 0))
                for kind in KINDS:
                    of[kind] += o[kind]
    return records, lost


def opened(path):
    """Did the reader come so far as to declare a trace there?"""
    return any('metadata' in files for _, _, files in os.walk(path))


def read_ctf(path):
    """Of ctf:DIR and raw:DIR, as babeltrace2 reads them."""
    records = Records(path)
    if not opened(path):
        return records
    run = subprocess.run(['babeltrace2', '--no-delta', path], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False)
    bad = [line for line in run.stderr.splitlines() if not LOST.match(line)]
    if run.returncode or bad:
        raise Unreadable(f'{path}: babeltrace2 ended with {run.returncode}: {bad[:10]}')
    for line in run.stdout.splitlines():
        m = CTF_RECORD.search(line)
        if not m and ' lttng_statedump_' in line:
            continue
        if not m:
            raise Wrong(f'{path}: {line}')
        records.add(m)
    return records


def summary(said, path):
    """Numbers of the source's summary: received, lost, before."""
    part = re.search(rf'^--- summary of {re.escape(path)} ---\n(.*?)(?=^--- summary|\Z)', said, re.S | re.M)
    if not part:
        raise Wrong(f'no summary of {path}:\n{said[-3000:]}')
    return {name: int(re.search(rf'^{name} +(\d+)', part[1], re.M)[1])
            for name in ('received', 'lost', 'before')}

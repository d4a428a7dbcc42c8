# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with a reader, its disk, and what can happen to them."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

import outputs
from outputs import Wrong
from vm import READER

DISK = 64 << 20
PAUSE = 0.02, 0.12                 # between two faults
STOPPED = 0.05, 0.35
HELD = 2.0                         # a reader that is killed has written all that it read before that
READER_ENDS = 'kill reader', 'full disk', 'directory removed'


class Reader:
    """One life of host-reader, and what it left."""

    def __init__(self, host, sources):
        nr = len(host.readers)
        self.dir = os.path.join(host.disk, f'reader{nr}')
        os.mkdir(self.dir)
        self.err_path = os.path.join(host.dir, f'reader{nr}.err')
        self.form = host.form
        self.kinds = host.kinds
        self.lent = host.lent  # None: there is JSON; else how the raw capture is written, which is all there is
        self.replayed = os.path.join(host.dir, f'reader{nr}')
        self.gone = False     # its directories are
        self.truncated = 0    # of its sources
        self.killed = self.failed = False
        self.skipped = {}     # {who: numbers that are missing between those in the JSON}
        self.ended_at = 0     # when it was killed, or failed
        self.moved = None     # where its raw capture's files are then
        self.parts = self.packed = self.large = 0  # of it, with files that were compressed; packets as if lent
        self.cut_off = 0      # streams of the raw capture whose last packet is incomplete
        with open(self.err_path, 'wb') as err:
            to = [arg for kind in (*(('json',) if self.lent is None else ()), *self.kinds)
                  for arg in ('-o', f'{kind}:{self.path(kind)}{self.lent or ""}')]
            self.process = subprocess.Popen(
                [READER, *to, *sources], stdin=subprocess.DEVNULL, stdout=err, stderr=err)

    def path(self, kind):
        return os.path.join(self.dir, kind)

    def err(self):
        with open(self.err_path, encoding='ascii') as f:
            return f.read()

    def wait_for(self, text, seconds=20):
        end = time.time() + seconds
        while text not in self.err():
            if time.time() > end or self.process.poll() is not None:
                raise Wrong(f'the reader did not say {text!r}:\n{self.err()[-3000:]}')
            time.sleep(0.005)

    def alive(self, after):
        if self.process.poll() is not None:
            raise Wrong(f'after {after} the reader ended with {self.process.returncode}:\n'
                        f'{self.err()[-3000:]}')

    def end(self, status):
        """SIGINT; @status are those that it may have."""
        self.process.send_signal(signal.SIGINT)
        if self.process.wait(20) not in status:
            raise Wrong(f'the reader ended with {self.process.returncode}:\n{self.err()[-3000:]}')

    def put_away(self, kind):
        """Its directory goes, with all that is in it; what it has open it may go on writing to."""
        path, to = self.path(kind), self.path(kind) + '.removed'
        while os.path.exists(path):  # it may put more there meanwhile
            for directory, _, names in os.walk(path, topdown=False):
                kept = os.path.join(to, os.path.relpath(directory, path))
                os.makedirs(kept, exist_ok=True)
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(os.path.join(directory, name), os.path.join(kept, name))
                with contextlib.suppress(OSError):
                    os.rmdir(directory)
        self.moved = to

    def read_lent(self):
        """
        As read(), of a raw capture alone: as host-reader replays it, which finds nothing else than babeltrace2 does.
        """
        path = self.moved or self.path('raw')
        ended = self.killed or self.failed
        if ended and not outputs.begun(path):  # that early
            return {}, {}
        outputs.replay(READER, path, f'json:{self.replayed}.json')
        records, lost = outputs.read_json(f'{self.replayed}.json', self.form)
        self.skipped = skipped(records)
        self.packed = outputs.unpack(path)
        self.cut_off, self.large = outputs.cut_off(path, 'direct' in self.lent)
        self.parts = len(outputs.parts(path))
        if self.large and 'without a copy' not in self.err() or self.cut_off and not ended:
            raise Wrong(f'{path}: {self.cut_off} streams are cut off, {self.large} packets are large:\n'
                        f'{self.err()[-3000:]}')
        other = (outputs.read_ctf(outputs.whole(READER, path, f'{self.replayed}.whole'), self.form) if self.cut_off
                 else outputs.read_parts(path, self.form))
        if other.streams != records.streams:
            raise Wrong(f'{path}: babeltrace2 finds {other.nr} records in it, host-reader {records.nr}')
        return {who: set(seqs) for who, seqs in records.streams.items()}, lost

    def read(self):
        """
        ({who: numbers that any of the outputs has}, losses of the JSON); of a reader that ended by itself all
        have the same.
        """
        if self.lent is not None:
            return self.read_lent()
        if not os.path.exists(self.path('json')):  # killed that early
            return {}, {}
        records, lost = outputs.read_json(self.path('json'), self.form)
        found = {who: set(seqs) for who, seqs in records.streams.items()}
        self.skipped = skipped(records)
        for kind in () if self.gone else self.kinds:
            path = self.path(kind)
            cut_off = outputs.cut_off(path)[0] if self.killed and kind == 'raw' else 0
            self.cut_off += cut_off
            other = outputs.read_ctf(outputs.whole(READER, path, path + '.whole') if cut_off else path, self.form)
            if not self.killed and not self.failed and other.streams != records.streams:
                raise Wrong(f'{self.path(kind)} has {other.nr} records, the JSON {records.nr}')
            for who, seqs in other.streams.items():
                found.setdefault(who, set()).update(seqs)
        return found, lost


def skipped(records):
    return {who: seqs[-1] - seqs[0] + 1 - len(seqs) for who, seqs in records.streams.items()}


def join(found, more, what, ended):
    """
    Adds @more to @found, {who: numbers} both; how many were there already. Under discard, that can be but the last
    ones of a reader that @ended before it could say that it had written them.
    """
    again = 0
    for who, seqs in more.items():
        there = found.setdefault(who, set())
        twice = there & seqs
        again += len(twice)
        if twice and not (ended and max(there) in twice and min(seqs) in twice):
            raise Wrong(f'{what}: {who}: {len(twice)} were delivered twice, {min(twice)} to {max(twice)}')
        there |= seqs
    return again


class Host:
    """@rng decides; sources() says what its readers read, @form what that is."""

    def __init__(self, rng, form):
        self.rng = rng
        self.form = form
        self.dir = tempfile.mkdtemp(prefix='htrace-faults-', dir='/dev/shm')
        self.disk = os.path.join(self.dir, 'disk')
        self.readers = []
        self.reader = None
        self.kinds = 'ctf', 'raw'  # of outputs, beside the JSON
        self.lent = None
        self.log = []  # faults

    def sources(self):
        raise NotImplementedError

    def start_reader(self):
        self.reader = Reader(self, self.sources())
        self.readers.append(self.reader)

    def do(self, fault):
        self.log.append(fault)
        getattr(self, 'do_' + fault.replace(' ', '_'))()
        self.reader.alive(fault)

    def do_kill_reader(self):
        self.reader.process.kill()
        self.reader.process.wait()
        self.reader.killed = True
        self.reader.ended_at = time.monotonic()
        time.sleep(self.rng.choice([0, 0, self.rng.uniform(0, 0.1)]))
        self.start_reader()

    def stop(self, process):
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(*STOPPED))
        process.send_signal(signal.SIGCONT)

    def do_stop_reader(self):
        self.stop(self.reader.process)

    def reader_fails(self, why, optional=False):
        """It says why, and ends; another one comes."""
        try:
            status = self.reader.process.wait(3 if optional else 20)
        except subprocess.TimeoutExpired as e:
            if not optional:
                raise Wrong(f'the reader goes on, though {why}') from e
            self.reader.end((0, 1))
            status = self.reader.process.returncode
        said = self.reader.truncated or re.search(why, self.reader.err())
        if status not in ((0, 1) if optional else (1,)) or (status and not said):
            raise Wrong(f'the reader ended with {status}:\n{self.reader.err()[-3000:]}')
        self.reader.failed = True
        self.reader.ended_at = time.monotonic()
        self.start_reader()

    def do_full_disk(self):
        filler = os.path.join(self.disk, 'filler')
        with open(filler, 'wb', buffering=0) as f, contextlib.suppress(OSError):
            while f.write(bytes(1 << 20)):
                pass
        self.reader.wait_for('No space left', 20)
        self.reader.process.wait(20)
        os.unlink(filler)
        self.reader_fails('No space left')

    def do_directory_removed(self):
        if self.lent is not None:
            self.reader.put_away('raw')
        for kind in self.kinds:
            while os.path.exists(self.reader.path(kind)):  # the reader may put more there meanwhile
                shutil.rmtree(self.reader.path(kind), ignore_errors=True)
        self.reader.gone = self.lent is None
        time.sleep(self.rng.uniform(0.1, 0.3))
        if self.reader.process.poll() is None:
            self.reader.process.send_signal(signal.SIGINT)
        self.reader_fails('cannot write|No such file', optional=True)

    def do_directory_moved(self):
        self.reader.wait_for('rings of')  # it has opened them
        os.rename(self.reader.dir, self.reader.dir + '.moved')
        self.reader.dir += '.moved'

    def open(self):
        os.mkdir(self.disk)
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={DISK}', 'none', self.disk], check=True)

    def close(self):
        for r in self.readers:
            if r.process.poll() is None:
                r.process.kill()
                r.process.wait()
        if os.environ.get('HTRACE_KEEP'):
            return
        subprocess.run(['umount', '-l', self.disk], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.dir, ignore_errors=True)

    def attempt(self, play):
        """What was wrong with what @play() did, or None."""
        try:
            self.open()
            play()
            return None
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            said = [line for r in self.readers for line in r.err().splitlines()
                    if line.startswith('host-reader')]
            return f'{self.name} ({", ".join(self.log)}): {type(e).__name__}: {e}\n' + '\n'.join(said[-20:])
        finally:
            self.close()

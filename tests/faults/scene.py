# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A tracer of user space, its agent and its reader, to whom things happen at random moments.

What the producers say that they did is held against what the reader's outputs say, JSON, CTF and raw capture
alike. A scene is of one of two kinds, so that the account can be exact:

- one reader sees all: whatever dies beside it, delivered + lost = produced, by the loss lines of its output;
- readers come and go: the rings' processes are not killed, and the last reader's summary has all that was ever
  produced, received + lost + before = produced.
"""

import bisect
import contextlib
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import outputs
from outputs import Unreadable, Wrong
from vm import BUILD, READER

TRACER = os.path.join(BUILD, 'tests', 'tracer')
LIVES, THREADS, DID = 1024, 2, 64  # as in tracer.c
ALONE = 512                        # lives of those whose file is truncated
REGION = 2 << 20
DISK = 64 << 20
PAUSE = 0.02, 0.12                 # between two faults
STOPPED = 0.05, 0.35
ABSENT = 2.3                       # of an agent that is missed: the reader thinks that the guest died

# Of one hundred faults; READER_ENDS: those that end the reader.
FAULTS = {
    'kill reader': 15, 'kill agent': 10, 'kill workload': 15,
    'stop reader': 10, 'stop agent': 6, 'stop workload': 6,
    'full disk': 8, 'directory removed': 6, 'directory moved': 6,
    'file truncated': 9, 'clock jump': 9,
}
READER_ENDS = 'kill reader', 'full disk', 'directory removed'
ONE_READER = 'kill workload', 'directory moved'


class Reader:
    """One life of host-reader, and what it left."""

    def __init__(self, scene, nr, victims):
        self.dir = os.path.join(scene.disk, f'reader{nr}')
        os.mkdir(self.dir)
        self.err_path = os.path.join(scene.dir, f'reader{nr}.err')
        self.gone = False     # its directories are
        self.truncated = 0
        self.killed = self.failed = False
        sources = [scene.region] + [v.region for v in victims]
        self.victims = list(victims)
        with open(self.err_path, 'wb') as err:
            self.process = subprocess.Popen(
                [READER, '-o', f'json:{self.path("json")}', '-o', f'ctf:{self.path("ctf")}',
                 '-o', f'raw:{self.path("raw")}', *(f'local:{s}' for s in sources)],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err)

    def path(self, kind):
        return os.path.join(self.dir, kind)

    def err(self):
        with open(self.err_path, encoding='ascii') as f:
            return f.read()

    def wait_for(self, text, seconds=10):
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

    def read(self):
        """(records, losses) of the JSON; the others agree with it as far as can be."""
        if not os.path.exists(self.path('json')):  # killed that early
            return outputs.Records(self.dir), {}
        records, lost = outputs.read_json(self.path('json'))
        for kind in () if self.gone else ('ctf', 'raw'):
            other = outputs.read_ctf(self.path(kind))
            if not self.killed and not self.failed and other.streams != records.streams:
                raise Wrong(f'{self.path(kind)} has {other.nr} records, the JSON {records.nr}')
        return records, lost


class Victim:
    """A small tracer beside the others, whose file will be truncated."""

    def __init__(self, scene, life):
        self.life = life
        self.region = os.path.join(scene.dir, f'alone{life}')
        self.process = scene.spawn('alone', self.region, scene.truth_path, str(life))
        self.cut = False

    def end(self):
        self.process.terminate()
        self.process.wait(10)


class Scene:
    def __init__(self, seed, nr, faults):
        self.rng = random.Random(f'{seed}/{nr}')
        self.name = f'scene {nr}'
        self.faults = faults
        self.one_reader = not any(f in READER_ENDS for f in faults)
        self.policy = 'discard' if nr % 2 else 'overwrite'
        self.clock = self.rng.choice(['best', 'monotonic'])
        self.dir = tempfile.mkdtemp(prefix='htrace-faults-', dir='/dev/shm')
        self.disk = os.path.join(self.dir, 'disk')
        self.region = os.path.join(self.dir, 'region')
        self.truth_path = os.path.join(self.dir, 'truth')
        self.processes, self.readers, self.victims = [], [], []
        self.life = self.next_victim = 0
        self.shifted = False
        self.log = []       # faults, and what was produced when each began
        self.snapshots = []

    # ------------------------------------------------------------------------------- processes

    def spawn(self, *args):
        p = subprocess.Popen([TRACER, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.processes.append(p)
        return p

    def start_agent(self):
        self.agent = self.spawn('agent', self.region, self.policy, self.clock)
        if self.agent.stdout.readline() != b'ready\n':
            raise Wrong('the agent did not start')

    def start_worker(self, seconds=0):
        self.shifted = seconds != 0
        self.worker = self.spawn('work', self.region, self.truth_path, str(self.life), str(seconds))
        self.life += 1

    def end_worker(self):
        self.worker.terminate()
        if self.worker.wait(10):
            raise Wrong(f'the workload ended with {self.worker.returncode}')

    def start_reader(self):
        """With as many victims as there will be need of before it ends."""
        need = 0
        for fault in self.faults[self.at:]:
            if fault in READER_ENDS:
                break
            need += fault == 'file truncated'
        for v in self.victims:
            v.end()
        self.victims = [Victim(self, ALONE + self.next_victim + i) for i in range(need)]
        self.next_victim += need
        for v in self.victims:
            if v.process.stdout.readline() != b'ready\n':
                raise Wrong('a tracer did not start')
        self.reader = Reader(self, len(self.readers), self.victims)
        self.readers.append(self.reader)

    # ------------------------------------------------------------------------------ what happens

    def do_kill_reader(self):
        self.reader.process.kill()
        self.reader.process.wait()
        self.reader.killed = True
        time.sleep(self.rng.choice([0, 0, self.rng.uniform(0, 0.1)]))
        self.start_reader()

    def do_kill_agent(self):
        self.agent.kill()
        self.agent.wait()
        if self.rng.random() < 0.1:
            time.sleep(ABSENT)
        self.start_agent()

    def do_kill_workload(self):
        if self.shifted:  # in another time namespace: nobody here can tell that it died
            self.end_worker()
            self.start_worker()
            time.sleep(self.rng.uniform(*PAUSE))
        self.worker.kill()
        self.worker.wait()
        self.start_worker()

    def stop(self, process):
        process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(*STOPPED))
        process.send_signal(signal.SIGCONT)

    def do_stop_reader(self):
        self.stop(self.reader.process)

    def do_stop_agent(self):
        self.stop(self.agent)

    def do_stop_workload(self):
        self.stop(self.worker)

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
        for kind in 'ctf', 'raw':
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.reader.path(kind))
        self.reader.gone = True
        time.sleep(self.rng.uniform(0.1, 0.3))
        if self.reader.process.poll() is None:
            self.reader.process.send_signal(signal.SIGINT)
        self.reader_fails('cannot write|No such file', optional=True)

    def do_directory_moved(self):
        self.reader.wait_for('rings of')  # it has opened them
        os.rename(self.reader.dir, self.reader.dir + '.moved')
        self.reader.dir += '.moved'

    def do_file_truncated(self):
        v = next(v for v in self.victims if not v.cut)
        v.cut = True
        size = self.rng.choice([0, 0, self.rng.randrange(REGION // 8), 4096 * self.rng.randrange(16)])
        self.reader.wait_for(f'{v.region}: ')
        time.sleep(self.rng.uniform(0, 0.05))
        os.truncate(v.region, size)
        self.reader.wait_for(f'{v.region}: the file was truncated')
        self.reader.truncated += 1

    def do_clock_jump(self):
        seconds = self.rng.randint(1, 3600)
        back = min(seconds, int(time.clock_gettime(time.CLOCK_MONOTONIC)) // 2)
        self.end_worker()
        self.start_worker(self.rng.choice([seconds, -back]))

    def play(self):
        subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={DISK}', 'none', self.disk], check=True)
        self.at = 0
        self.start_agent()
        self.start_reader()
        if self.one_reader:
            self.reader.wait_for('rings of')
        self.start_worker()
        for self.at, fault in enumerate(self.faults, 1):
            time.sleep(self.rng.uniform(*PAUSE))
            self.log.append(fault)
            self.snapshots.append(self.truth())
            getattr(self, 'do_' + fault.replace(' ', '_'))()
            self.reader.alive(fault)
        time.sleep(self.rng.uniform(*PAUSE))
        self.end()

    def end(self):
        self.end_worker()
        self.snapshots.append(self.truth())
        for v in self.victims:
            v.end()
        self.reader.wait_for('rings of')
        if self.rng.random() < 0.5:  # by the agent: the reader drains and lets go
            self.agent.terminate()
            self.agent.wait(20)
        else:
            time.sleep(0.2)  # it reads when it has seen that the agent lives
        self.reader.end((1,) if self.reader.truncated else (0,))

    # ------------------------------------------------------------------------------ the account

    def truth(self):
        """{(life, thread): (begun, done, dropped)}"""
        with open(self.truth_path, 'rb') as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
            return {(i // THREADS, i % THREADS): struct.unpack_from('<3Q', m, i * DID)
                    for i in range(LIVES * THREADS) if m[i * DID:i * DID + 8] != bytes(8)}

    def account(self):
        """
        What became of the records of all who shared the region: by_fault(), and how many were committed
        and not dropped, but had been read by a reader that ended before it wrote them.
        """
        truth = {who: did for who, did in self.truth().items() if who[0] < ALONE}
        begun, done, dropped = (sum(did[i] for did in truth.values()) for i in range(3))
        found, again, lost = {}, 0, 0
        for r in self.readers:
            records, losses = r.read()
            lost += sum(losses.get(self.region, losses.get(None, {})).values())
            for who, seqs in records.streams.items():
                if who[0] >= ALONE:
                    continue
                if seqs[-1] >= truth[who][0]:
                    raise Wrong(f'{r.dir}: {who} never began record {seqs[-1]}')
                before = len(found.setdefault(who, set()))
                found[who].update(seqs)
                again += before + len(seqs) - len(found[who])
        delivered = sum(map(len, found.values()))
        last = outputs.summary(self.reader.err(), self.region)
        if self.one_reader:
            told = delivered + lost
            if last['received'] != delivered or last['lost'] != lost or last['before']:
                raise Wrong(f'the summary says {last}, the output {delivered} and {lost} lost')
        else:
            told = last['received'] + last['lost'] + last['before']
        if not done <= told <= begun:
            raise Wrong(f'{done} to {begun} were produced, {told} are told of: {last}, {delivered} '
                        f'delivered, {lost} in loss lines')
        if self.policy == 'discard' and again:
            raise Wrong(f'{again} records were delivered twice')
        kept = done - dropped - delivered if self.policy == 'discard' and not self.one_reader else 0
        return self.by_fault(found), kept

    def by_fault(self, found):
        """[(fault, records produced until the next one began, delivered of them)]"""
        result = []
        sorted_ = {who: sorted(seqs) for who, seqs in found.items()}
        for fault, at, then in zip(self.log, self.snapshots, self.snapshots[1:]):
            produced = delivered = 0
            for who, (_, until, _) in then.items():
                if who[0] >= ALONE:
                    continue
                since = at.get(who, (0, 0, 0))[1]
                seqs = sorted_.get(who, [])
                produced += until - since
                delivered += bisect.bisect_left(seqs, until) - bisect.bisect_left(seqs, since)
            result.append((fault, produced, delivered))
        return result

    def run(self):
        """(account() or None, faults that were done, what was wrong or None)"""
        try:
            os.mkdir(self.disk)
            with open(self.truth_path, 'wb') as f:
                f.truncate(LIVES * THREADS * DID)
            self.play()
            return self.account(), self.log, None
        except (Wrong, Unreadable, subprocess.TimeoutExpired) as e:
            said = [line for r in self.readers for line in r.err().splitlines() if line.startswith('host-reader')]
            return None, self.log, f'{self.name} ({self.policy}, {self.clock}; {", ".join(self.log)}): ' \
                                   f'{type(e).__name__}: {e}\n' + '\n'.join(said[-20:])
        finally:
            for p in self.processes + [r.process for r in self.readers]:
                if p.poll() is None:
                    p.kill()
                    p.wait()
                if p.stdout:
                    p.stdout.close()
            subprocess.run(['umount', '-l', self.disk], check=False, stderr=subprocess.DEVNULL)
            if not os.environ.get('HTRACE_KEEP'):
                shutil.rmtree(self.dir, ignore_errors=True)

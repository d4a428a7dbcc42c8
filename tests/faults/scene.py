# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A tracer of user space, its agent and its reader, to whom things happen at random moments.

What the producers say that they did is held against what the reader's outputs say, JSON, CTF and raw capture
alike. A scene is of one of two kinds, so that the account can be exact:

- one reader sees all: whatever dies beside it, delivered + lost = produced, by the loss lines of its output;
- readers come and go: the rings' processes are not killed, and the last reader's summary has all that was ever
  produced, received + lost + before = produced; what it received is in its outputs.

Of each reader, however it ended: what is missing among that which it delivered it counted, before what came after.
So what a reader that was killed had read, and not written, can only be what would have come next. It is nothing
where there is a raw capture (two of three pairs of scenes), as what is not there stays in the rings; else it was
produced within HELD seconds.

In each third pair of scenes there is nothing but a raw capture, which is written without a copy, in one of the ways of
LENT by turns, and judged by what host-reader makes of it and babeltrace2 finds in it.
"""

import bisect
import mmap
import os
import random
import signal
import struct
import subprocess
import threading
import time

import outputs
from host import HELD, PAUSE, READER_ENDS, Host, join
from outputs import Wrong
from vm import BUILD

TRACER = os.path.join(BUILD, 'tests', 'tracer')
LIVES, THREADS, DID = 1024, 2, 64  # as in tracer.c
ALONE = 512                        # lives of those whose file is truncated
REGION = 2 << 20
ABSENT = 2.3                       # of an agent that is missed: the reader thinks that the guest died

# Of one hundred faults.
FAULTS = {
    'kill reader': 15, 'kill agent': 10, 'kill workload': 15,
    'stop reader': 10, 'stop agent': 6, 'stop workload': 6,
    'full disk': 8, 'directory removed': 6, 'directory moved': 6,
    'file truncated': 9, 'clock jump': 9,
}
# How a raw capture is written without a copy. What is kept is more than there is.
LENT = '', ',rotate=4M,keep=1G', ',direct', ',rotate=4M,keep=1G,direct,zstd'
ONE_READER = 'kill workload', 'directory moved'


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


class Scene(Host):
    def __init__(self, seed, nr, faults):
        super().__init__(random.Random(f'{seed}/{nr}'), outputs.TRACER)
        self.faults = faults
        self.one_reader = not any(f in READER_ENDS for f in faults)
        self.policy = 'discard' if nr % 2 else 'overwrite'
        self.lent = LENT[nr // 6 % len(LENT)] if nr // 2 % 3 == 2 else None
        self.kinds = (('ctf',), ('ctf', 'raw'), ('raw',))[nr // 2 % 3]
        self.clock = self.rng.choice(['best', 'monotonic'])
        how = '+'.join(self.kinds) if self.lent is None else f'lent to raw{self.lent}'
        self.name = f'scene {nr}, {self.policy}, {how}, clock {self.clock}'
        self.region = os.path.join(self.dir, 'region')
        self.truth_path = os.path.join(self.dir, 'truth')
        self.processes, self.victims = [], []
        self.life = self.next_victim = self.at = 0
        self.shifted = False
        self.snapshots = []  # what was produced when each fault began
        self.paces = []      # (when, how many were produced by then)

    # ------------------------------------------------------------------------------- processes

    def spawn(self, *args):
        size = () if self.lent is None else ('large',)
        p = subprocess.Popen([TRACER, *size, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
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
        if self.worker.wait(10) not in (0, -signal.SIGTERM):  # the latter: it had not begun
            raise Wrong(f'the workload ended with {self.worker.returncode}')

    def sources(self):
        """Beside the others as many victims as there will be need of before this reader ends."""
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
        trusted = '' if self.lent is None else ',trusted'
        return [f'local:{region}{trusted}' for region in [self.region] + [v.region for v in self.victims]]

    # ------------------------------------------------------------------------------ what happens

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

    def do_stop_agent(self):
        self.stop(self.agent)

    def do_stop_workload(self):
        self.stop(self.worker)

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

    def watch(self, until):
        while not until.wait(0.1):
            self.paces.append((time.monotonic(), sum(did[1] for did in self.truth().values())))

    def held(self, at):
        """At most so many can have been read, and not written, by a reader that ended then."""
        before = [nr for when, nr in self.paces if when < at - HELD]
        until = [nr for when, nr in self.paces if when > at]
        return (until[0] if until else self.paces[-1][1]) - (before[-1] if before else 0)

    def play(self):
        with open(self.truth_path, 'wb') as f:
            f.truncate(LIVES * THREADS * DID)
        done = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(done,))
        watcher.start()
        try:
            self.play_faults()
        finally:
            done.set()
            watcher.join()

    def play_faults(self):
        self.start_agent()
        self.start_reader()
        if self.one_reader:
            self.reader.wait_for('rings of')
        self.start_worker()
        for self.at, fault in enumerate(self.faults, 1):
            time.sleep(self.rng.uniform(*PAUSE))
            self.snapshots.append(self.truth())
            self.do(fault)
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
        and not dropped, but had been read by a reader that ended before it wrote them; how many were
        delivered by it and, since it could not say so any more, by the next; streams that it left cut off.
        """
        truth = {who: did for who, did in self.truth().items() if who[0] < ALONE}
        begun, done, dropped = (sum(did[i] for did in truth.values()) for i in range(3))
        found, again, lost, ended = {}, 0, 0, False
        for r in self.readers:
            records, losses = r.read()
            told = sum(losses.get(self.region, losses.get(None, {})).values())
            skipped = sum(nr for who, nr in r.skipped.items() if who[0] < ALONE)
            if skipped > told:  # whatever ended it: what was lost stands before what came after
                raise Wrong(f'{r.dir}: {skipped} are missing among what was delivered, {told} are told of')
            lost += told
            records = {who: seqs for who, seqs in records.items() if who[0] < ALONE}
            for who, seqs in records.items():
                if max(seqs) >= truth[who][0]:
                    raise Wrong(f'{r.dir}: {who} never began record {max(seqs)}')
            if self.policy == 'discard':
                again += join(found, records, r.dir, ended)
            for who, seqs in records.items():  # a flight recorder has the same for each reader
                found.setdefault(who, set()).update(seqs)
            ended = r.killed or r.failed
        delivered = sum(map(len, found.values()))
        last = outputs.summary(self.reader.err(), self.region)
        if self.one_reader:
            told = delivered + lost
            if last['received'] != delivered or last['lost'] != lost or last['before']:
                raise Wrong(f'the summary says {last}, the output {delivered} and {lost} lost')
        else:
            if last['received'] != sum(map(len, records.values())):
                raise Wrong(f'the summary says {last}, the output has {sum(map(len, records.values()))}')
            told = last['received'] + last['lost'] + last['before']
        if not done <= told <= begun:
            raise Wrong(f'{done} to {begun} were produced, {told} are told of: {last}, {delivered} '
                        f'delivered, {lost} in loss lines')
        kept = done - dropped - delivered if self.policy == 'discard' and not self.one_reader else 0
        held = sum(self.held(r.ended_at) for r in self.readers
                   if r.gone or (r.killed or r.failed) and 'raw' not in self.kinds)
        if kept > held:
            raise Wrong(f'{kept} were read and not written by readers that ended, of {held} that can be')
        return self.by_fault(found), kept, again, sum(r.cut_off for r in self.readers)

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

    def of_lent(self):
        """How many captures without a copy, the ones of readers that died or failed, their large packets, and so on."""
        return [len(self.readers), sum(r.killed or r.failed for r in self.readers),
                *(sum(getattr(r, name) for r in self.readers) for name in ('large', 'parts', 'packed', 'cut_off'))]

    def close(self):
        for p in self.processes:
            if p.poll() is None:
                p.kill()
                p.wait()
            p.stdout.close()
        super().close()

    def run(self):
        """(account(), and of_lent(), or None, faults that were done, what was wrong or None)"""
        result = []

        def play():
            self.play()
            result.append((*self.account(), None if self.lent is None else self.of_lent()))

        why = self.attempt(play)
        return result[0] if not why else None, self.log, why

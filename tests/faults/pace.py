# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a workload is while its reader stands still, against while it reads."""

import os
import signal
import shutil
import statistics
import subprocess
import tempfile
import threading
import time

from outputs import Wrong
from scene import TRACER
from vm import READER

# A workload that waited for its reader would be slower by orders of magnitude. The medians of pairs differ by a few
# hundredths, whatever else the machine does; in an emulated guest, by more.
MARGIN = {'overwrite': 1.3, 'discard': 1.3, 'in the guest': 1.5}
HOW = 'running', 'slow', 'stopped'
TURN = 0.0005  # of a slow reader: it stands still as long as it runs


def ratio(running, other):
    """(median, least and largest) of what the rounds, which lie side by side in time, differ by."""
    ratios = sorted(s / r for r, s in zip(running, other))
    return statistics.median(ratios), ratios[0], ratios[-1]


def judge(what, unit, took, say):
    """@took: {HOW: [ns a record]}"""
    for how in HOW[1:]:
        middle, least, most = ratio(took['running'], took[how])
        say(f'{what}: reader running {statistics.median(took["running"]):.{unit}} ns, {how} '
            f'{statistics.median(took[how]):.{unit}} ns a record; {how} / running {middle:.2f} '
            f'({least:.2f} ... {most:.2f} of {len(took[how])} rounds each)')
        assert middle < MARGIN[what], f'{what}: the workload waits for its reader: {took}'


class Pacer:
    """Has @process, a reader, run, stand still, or do so by turns; at the end it runs."""

    def __init__(self, process, how, turn=TURN):
        self.process, self.how, self.turn = process, how, turn
        self.done = threading.Event()
        self.thread = threading.Thread(target=self.by_turns)

    def by_turns(self):
        while not self.done.is_set():
            for sig in signal.SIGSTOP, signal.SIGCONT:
                self.process.send_signal(sig)
                self.done.wait(self.turn)

    def __enter__(self):
        if self.how == 'slow':
            self.thread.start()
        elif self.how == 'stopped':
            self.process.send_signal(signal.SIGSTOP)

    def __exit__(self, *_):
        self.done.set()
        if self.how == 'slow':
            self.thread.join()
        self.process.send_signal(signal.SIGCONT)


def local(policy, rounds):
    """
    Medians of rounds, by turns: {HOW: [...]}, and of those the parts in which all was recorded, or all dropped; what
    the reader says of loss at the end.
    """
    d = tempfile.mkdtemp(prefix='htrace-pace-', dir='/dev/shm')
    region = os.path.join(d, 'region')
    took = {how: [] for how in (*HOW, 'recorded', 'dropped')}
    tracer = subprocess.Popen([TRACER, 'pace', region, policy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    reader = None
    try:
        if tracer.stdout.readline() != b'ready\n':
            raise Wrong('the tracer did not start')
        with open(os.path.join(d, 'err'), 'w+', encoding='ascii') as err:
            reader = subprocess.Popen([READER, '--view', 'summary', f'local:{region}'], stdout=err, stderr=err)
            time.sleep(0.3)
            for how in HOW * rounds:
                with Pacer(reader, how):
                    time.sleep(0.02)
                    tracer.stdin.write(b'.')
                    tracer.stdin.flush()
                    for kind, ns in zip((how, 'recorded', 'dropped'), tracer.stdout.readline().split()):
                        if int(ns):
                            took[kind].append(int(ns) / 100)
            time.sleep(0.1)
            reader.send_signal(signal.SIGINT)
            if reader.wait(20):
                raise Wrong(f'the reader ended with {reader.returncode}')
            err.seek(0)
            return took, err.read()
    finally:
        for p in filter(None, (tracer, reader)):
            p.kill()
            p.wait()
        tracer.stdin.close()
        tracer.stdout.close()
        shutil.rmtree(d, ignore_errors=True)

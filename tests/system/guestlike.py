# SPDX-License-Identifier: LGPL-2.1-or-later
"""A process that stands for a guest, and does as it is told (tests/guest/guestlike.c)."""

import os
import shutil
import signal
import subprocess
import tempfile
import time

from vm import BUILD, Reader

GUESTLIKE = os.path.join(BUILD, 'tests', 'guestlike')
RAMLIKE = os.path.join(BUILD, 'tests', 'qemu-system-guestlike')


class Guestlike:
    def start(self, where, policy, cpus, kib, **how):
        self.process = subprocess.Popen([GUESTLIKE, where, policy, str(cpus), str(kib)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1, **how)

    def __init__(self, path, policy='overwrite', cpus=2, kib=256):
        self.path = path
        self.start(path, policy, cpus, kib)
        end = time.time() + 10
        while not self.published():
            assert time.time() < end and self.process.poll() is None, 'no region'
            time.sleep(0.01)

    def published(self):
        try:
            with open(self.path, 'rb') as f:
                return f.read(8) == b'HTRACE01'
        except FileNotFoundError:
            return False

    def ask(self, command):
        self.process.stdin.write(command + '\n')
        self.process.stdin.flush()

    def answer(self):
        """How many records were dropped so far."""
        return int(self.process.stdout.readline())

    def do(self, command):
        self.ask(command)
        return self.answer()

    def close(self):
        """End the session properly."""
        self.ask('c')
        assert self.process.wait(20) == 0

    def stand_still(self, reader):
        """Until its reader has told that."""
        self.process.send_signal(signal.SIGSTOP)
        reader.wait_for('silent for .* process that runs it is stopped')
        self.process.send_signal(signal.SIGCONT)
        reader.wait_for('is back, after .* paused')

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Stage:
    """A directory in memory, guests in it, and what reads them."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='htrace-stage-', dir='/dev/shm')
        self.guests = []
        return self

    def __exit__(self, *_):
        for guest in self.guests:
            guest.kill()
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(self.dir, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.dir, name)

    def guest(self, name='region', **kind):
        self.guests.append(Guestlike(self.path(name), **kind))
        return self.guests[-1]

    def reader(self, *args, name='region'):
        reader = Reader('local:' + self.path(name), *args)
        reader.wait_for('CPUs')
        return reader

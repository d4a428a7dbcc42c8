# SPDX-License-Identifier: LGPL-2.1-or-later
"""host-reader serves ivshmem devices with a doorbell, and sleeps until a guest rings."""

import os
import re
import socket
import stat
import struct
import subprocess
import tempfile
import time

from harness import params, say
from test_module import LOAD, Guest
from vm import BUILD, Reader

THREADS = 3  # of devwriter


class Sock:
    """A path for a socket, in a directory of its own."""

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory(prefix='htrace-bell-', dir='/dev/shm')
        return os.path.join(self.dir.name, 'socket')

    def __exit__(self, *_):
        self.dir.cleanup()


def serve(path, *args, more=''):
    reader = Reader(f'doorbell:{path},size=16M{more}', *args)
    end = time.time() + 20
    while not os.path.exists(path):
        assert reader.process.poll() is None and time.time() < end, reader.err()
        time.sleep(0.01)
    return reader


def connect(path):
    """A client; what it is told: [(number, descriptor or None)]."""
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(10)
    s.connect(path)
    told = []
    while len(told) < 5:
        data, fds, _, _ = socket.recv_fds(s, 8, 1)
        if not data:
            break
        told.append((struct.unpack('<q', data)[0], fds[0] if fds else None))
    return s, told


def devices(vm, path):
    vm.command += ['--', '-chardev', f'socket,id=bell,path={path}',
                   '-device', 'ivshmem-doorbell,vectors=2,chardev=bell']
    return vm


def received(lines, mark=''):
    """What of each thread of devwriter was shown, by the lines that begin with @mark."""
    found = [[] for _ in range(THREADS)]
    for line in lines:
        number = re.search(r'numbered: thread=(\d+) number=(\d+)', line)
        if number and line.startswith(mark):
            found[int(number[1])].append(int(number[2]))
    return found


@params('6.12', thorough=['6.1'])
def test_guest(kernel):
    """
    A program in a guest wakes the reader, which gets every record; less often than there are records,
    and not at all while it is busy. Another guest comes to the socket when the first is gone, and a third
    is refused. The socket is the user's alone, and gone at the end.
    """
    count, many = 300, 100000
    script = LOAD + f'devwriter {count} 1000 || exit 1; devwriter {many} || exit 1\n'
    with Sock() as path, \
            Guest(script, kernel=kernel, cpus=2, regions=0,
                  add=[os.path.join(BUILD, 'tests', 'devwriter') + ':/bin/']) as vm:
        reader = serve(path, '--sync', 'doorbell', more=',ram=/dev/null')
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        devices(vm, path).start()
        reader.wait_for('a VM is connected')
        second, told = connect(path)
        assert not told, f'a second client was told {told}'
        second.close()
        reader.wait_for('another VM was refused')
        status = vm.finish()
        console = vm.console()
        assert status == 0, console[-3000:]
        reader.wait_for('the VM is disconnected')
        vm.start()  # the same guest, another QEMU
        reader.wait_for('a VM is connected', count=2)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        assert not os.path.exists(path)
        assert received(reader.out().splitlines()) == THREADS * [2 * (list(range(count)) + list(range(many)))], reader.err()
        rang = [int(re.search(r'devwriter: rang (\d+) times', c)[1]) for c in (console, vm.console())]
        woken = int(re.search(r'^woken +(\d+) times', reader.err(), re.M)[1])
        say(f'rang {rang} times for {THREADS * count} records each; woken {woken} times')
        assert all(0 < n <= THREADS * count for n in rang)
        # what rang last may have found the reader awake; nobody else's rings arrive
        assert sum(rang) - 2 * THREADS <= woken <= sum(rang)
        # the second program of each guest does not ring
        assert reader.err().count('its producers do not wake the reader') == 2, reader.err()


def test_hostile_guests():
    """
    A guest that rings all the time keeps the reader neither busy nor from another guest's records; one that
    is killed in the middle leaves what it had written, and its successor is served.
    """
    count = 1500
    add = [os.path.join(BUILD, 'tests', 'devwriter') + ':/bin/']
    with Sock() as path, Sock() as other, \
            Guest(LOAD + f'devwriter {count} 1000 flood || exit 1\n', cpus=2, regions=0, add=add) as loud, \
            Guest(LOAD + 'devwriter 1000000 1000\n', regions=0, add=add) as killed:
        reader = serve(path, f'doorbell:{other},size=16M,ram=/dev/null', '--sync', 'doorbell', more=',ram=/dev/null')
        devices(loud, path).start()
        devices(killed, other).start()
        deadline = time.time() + 120
        while reader.out().count(f'[{other}] ') < 1000 and time.time() < deadline:
            time.sleep(0.2)
        killed.qemu.kill()
        killed.qemu.wait()
        reader.wait_for('the VM is disconnected')
        assert loud.finish() == 0, loud.console()[-3000:]
        begun = reader.out().count(f'[{other}] ')
        killed.start()
        while reader.out().count(f'[{other}] ') < begun + 300 and time.time() < deadline:
            time.sleep(0.2)
        killed.qemu.kill()
        killed.qemu.wait()
        assert reader.stop() == 0, reader.err()
        lines = reader.out().splitlines()
        assert received(lines, f'[{path}] ') == THREADS * [list(range(count))], reader.err()
        for numbers in received(lines, f'[{other}] '):
            starts = [i for i, number in enumerate(numbers) if not number] + [len(numbers)]
            assert len(starts) == 3, starts  # two guests, each from its first record, without a gap
            assert numbers == list(range(starts[1])) + list(range(starts[2] - starts[1]))
        woken = max(int(n) for n in re.findall(r'^woken +(\d+) times', reader.err(), re.M))
        busy = float(re.search(r'^reader +([\d.]+) %', reader.err(), re.M)[1])
        say(f'rung {woken} times, {len(lines)} records, {busy} % of a CPU')
        assert woken > 10 * THREADS * count and busy < 60, reader.err()


def test_clients():
    """Who connects and says nothing is served, and harms nobody; who talks is disconnected; the next may come."""
    with Sock() as path:
        reader = serve(path)
        silent, told = connect(path)
        assert [number for number, _ in told] == [0, 1, -1, 0, 1], told
        memory, bell = told[2][1], told[3][1]
        assert os.fstat(memory).st_size == 16 << 20
        for shrink in (0, 32 << 20):
            try:
                os.ftruncate(memory, shrink)
            except PermissionError:
                continue
            raise AssertionError('the memory can be resized')
        os.eventfd_write(bell, 1)
        flood = [socket.socket(socket.AF_UNIX) for _ in range(50)]
        for s in flood:
            s.setblocking(False)
            try:
                s.connect(path)
            except BlockingIOError:
                pass
        reader.wait_for('another VM was refused')
        for s in flood:
            s.close()
        try:  # may be refused itself, if it says it too late
            silent.sendall(b'x' * 4096)
        except BrokenPipeError:
            pass
        reader.wait_for('is no VM.s ivshmem device: disconnected')
        time.sleep(0.5)
        third, told = connect(path)
        assert len(told) == 5, told
        third.close()
        assert reader.stop() == 0, reader.err()
        assert len(reader.err()) < 10000, 'clients fill logs'


def test_socket():
    """What is at the socket's path: a stale one is replaced, all else is refused and left alone."""
    with Sock() as path:
        first = serve(path)
        first.process.kill()
        first.process.wait()
        assert os.path.exists(path)
        second = serve(path)
        second.wait_for('waiting for a guest')
        third = Reader(f'doorbell:{path}')
        assert third.process.wait(20) == 1
        assert 'somebody listens to it' in third.err(), third.err()
        assert connect(path)[1]
        second.stop()
        assert not os.path.exists(path)
        with open(path, 'w', encoding='utf-8') as f:
            f.write('precious')
        other = Reader(f'doorbell:{path}')
        assert other.process.wait(20) == 1 and 'a file is there that is no socket' in other.err()
        with open(path, encoding='utf-8') as f:
            assert f.read() == 'precious'
        for source, says in ((f'doorbell:{path}{"x" * 200}', 'longer than the 107 bytes'),
                             (f'doorbell:{path}/none', 'cannot open region'),
                             (f'doorbell:{path}2,size=3M', 'a power of two from 1M on'),
                             (f'doorbell:{path}2,size=16777217T', 'a power of two from 1M on'),
                             (f'doorbell:{path}2,size=', 'a power of two from 1M on'),
                             (f'doorbell:{path}2,some=1', 'there are size=, ram=, pid=, console= and trusted'),
                             ('doorbell:', 'names no file')):
            bad = Reader(source)
            assert bad.process.wait(20) in (1, 2) and says in bad.err(), bad.err()


def test_local():
    """A local region's producer wakes host-reader, which would else look too late by a tenth of a second."""
    with tempfile.TemporaryDirectory(prefix='htrace-bell-', dir='/dev/shm') as d:
        path = os.path.join(d, 'region')
        with open(path, 'wb') as f:
            f.truncate(1 << 20)
        reader = Reader(f'local:{path}', '--sync', 'futex')
        reader.wait_for('waiting for a guest')
        run = subprocess.run([os.path.join(BUILD, 'tests', 'writer'), path, 'discard', '100'],
                             stdout=subprocess.PIPE, text=True, check=True)
        reader.wait_for('mixed: seq=100', where='out')
        assert reader.stop() == 0, reader.err()
        woken = int(re.search(r'^woken +(\d+) times', reader.err(), re.M)[1])
        say(f'woken {woken} times for {len(run.stdout.splitlines())} records')
        found = sorted(map(int, re.findall(r'mixed: seq=(\d+)', reader.out())))
        assert found == [int(line.split()[1]) for line in run.stdout.splitlines()], reader.out()[-500:]
        # the writer pauses once, for seconds: the reader sleeps then at least
        assert 0 < woken <= len(found), reader.err()

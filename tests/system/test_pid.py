# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests without a device: their regions are found in their memory, in their VMM's process."""

import collections
import contextlib
import json
import re
import subprocess
import time

import ftrace
from guestlike import RAMLIKE
from harness import Skip, add_huge_pages, params, say
from test_truth import BEGIN, END, between_marks, ours, same
from vm import READER, VM, Reader


@contextlib.contextmanager
def huge_pages(nr):
    """As many more as this machine gives, which may be none."""
    before = add_huge_pages(nr)
    try:
        yield
    finally:
        add_huge_pages(-nr if before is not None else 0)


class Ramlike:
    """A process that stands for a VMM with a guest (tests/guest/ramlike.h)."""

    def __init__(self, kind, cpus=2, kib=256, lit=True):
        self.process = subprocess.Popen([RAMLIKE, 'ram:' + kind, 'overwrite', str(cpus), str(kib)], text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=1)
        self.source = f'pid:{self.process.pid}'
        try:
            self.do('s 0')
        except ValueError:
            assert self.process.wait() == 77
            raise Skip('this machine has no huge pages left') from None
        if lit:
            self.do('l 0')

    def ask(self, command):
        self.process.stdin.write(command + '\n')
        self.process.stdin.flush()

    def do(self, command):
        self.ask(command)
        return int(self.process.stdout.readline())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def records(reader):
    """{ring: [numbers]}, how many were lost: of JSON."""
    numbers, lost = collections.defaultdict(list), 0
    for line in reader.out().splitlines():
        e = json.loads(line)
        if e.get('event') == 'counted':
            numbers[e['cpu']].append(e['fields']['number'])
        lost += e.get('lost', 0)
    return numbers, lost


@params('private', 'shared', 'scattered', 'huge')
def test_read(kind):
    """All records, in order, from the beginning to a proper end, by copies and by mapping."""
    with huge_pages(40 if kind == 'huge' else 0), Ramlike(kind) as guest:
        guest.do('w 0 1000')
        reader = Reader(guest.source, '-o', 'json')
        reader.wait_for('2 vCPUs')
        way = 'mapped from' if kind == 'shared' else 'copied from process'
        assert re.search(way, reader.err()), reader.err()
        guest.do('r 3000 600')
        guest.do('w 1 500')
        guest.ask('c')
        assert guest.process.wait(20) == 0
        reader.wait_for('the guest ended the session|is gone')
        assert reader.process.wait(20) == 0, reader.err()
        numbers, lost = records(reader)
        assert numbers[0] == list(range(4000)) and numbers[1] == list(range(3500)) and not lost, (
            {k: len(v) for k, v in numbers.items()}, lost, reader.err())
        say(re.search(r'looked through .*', reader.err())[0])


@params('private', 'shared')
def test_overwritten(kind):
    """Rings that are written faster than read: what is delivered is right, in order, and the rest is counted."""
    with Ramlike(kind, kib=64) as guest:
        reader = Reader(guest.source, '-o', 'json')
        reader.wait_for('2 vCPUs')
        guest.do('f 200')
        time.sleep(0.3)
        assert reader.stop() == 0
        numbers, lost = records(reader)
        for seen in numbers.values():
            assert seen == sorted(set(seen))
        gaps = sum(seen[-1] + 1 - len(seen) for seen in numbers.values())
        assert gaps == lost, (gaps, lost)
        assert lost, 'nothing was overwritten'
        say(f'{sum(map(len, numbers.values()))} records, {lost} lost')


def test_dead():
    """The process is killed: what was copied is there, and the reader ends by itself."""
    with Ramlike('private') as guest:
        reader = Reader(guest.source, '-o', 'json')
        reader.wait_for('2 vCPUs')
        guest.do('w 0 2000')
        time.sleep(0.3)
        guest.process.kill()
        assert reader.process.wait(20) == 0
        assert f'process {guest.process.pid}, which ran the VM, is gone' in reader.err(), reader.err()
        assert records(reader)[0][0] == list(range(2000))


@params(('outside', 'a page of its region lies outside guest RAM'), ('runs', 'a page run lies outside guest RAM'))
def test_refused(kind, why):
    """What the guest says of its pages leads out of its memory: nothing is read, and it is said why."""
    with Ramlike(kind) as guest:
        reader = Reader(guest.source, '-o', 'json')
        reader.wait_for(why)
        reader.stop()
        assert not reader.out()


def test_thousand():
    """Beacons that lead nowhere do not hide one that does, and cost little."""
    with Ramlike('private', lit=False) as guest:
        guest.do('l 1000')
        start = time.time()
        reader = Reader(guest.source, '-o', 'json')
        reader.wait_for('2 vCPUs')
        say(f'{time.time() - start:.2f} s')
        guest.do('w 0 10')
        time.sleep(0.3)
        assert reader.stop() == 0 and records(reader)[0][0] == list(range(10)), reader.err()


def test_stale():
    """A region whose agent is dead is not read; one that comes to life is."""
    with Ramlike('private') as guest:
        guest.do('b 0')
        reader = Reader(guest.source, '-o', 'json')
        reader.wait_for('none of the 1 region in guest RAM is one whose agent lives')
        guest.do('b 1')
        reader.wait_for('2 vCPUs')
        assert reader.stop() == 0


def test_list():
    """--list names it as a way to any VM."""
    with Ramlike('private', lit=False) as guest:
        run = subprocess.run([READER, '--list'], stdout=subprocess.PIPE, text=True, check=True)
        assert re.search(rf'^    host-reader {guest.source} ', run.stdout, re.M), run.stdout


def test_not_a_vm():
    """Processes that are none of VMs, or not there, are not looked into."""
    with subprocess.Popen(['sleep', '60']) as other:
        for pid, why in (other.pid, "is no virtual machine's"), (2 ** 22 - 1, 'there is no process'):
            run = subprocess.run([READER, f'pid:{pid}'], stderr=subprocess.PIPE, text=True, check=False)
            assert run.returncode == 1 and why in run.stderr, run.stderr
        other.kill()
    assert subprocess.run([READER, 'pid:x'], stderr=subprocess.DEVNULL, check=False).returncode == 2


GUEST = ftrace.SHELL + f'''
agent_start --events sched_switch,sys_enter --region ram || exit 1
echo AGENT-RUNS
sleep 3
ftrace_on sched/sched_switch raw_syscalls/sys_enter
workload mark {BEGIN}
workload mix 5 2 100
workload mark {END}
ftrace_off
agent_stop || exit 1
ftrace_dump
'''


@params((True, 'copied from process'), (False, 'mapped from'))
def test_truth(private, way):
    """A guest of QEMU's without any device of ours: what is shown is what ftrace recorded."""
    with VM(GUEST, regions=0, disk_mib=256, memory='1G', private_ram=private) as vm:
        vm.start()
        vm.wait_for('AGENT-RUNS')
        reader = Reader(f'pid:{vm.qemu.pid}')
        reader.wait_for(way)
        status = vm.finish()
        assert status == 0, vm.console()[-2000:]
        assert reader.process.wait(30) == 0, reader.err()
        theirs, _ = ftrace.read_dump(vm.disk)
        mine, lost = ours(reader.out_path)
        assert not lost, reader.err()
        a, b = between_marks(mine[0]), between_marks(theirs[0])
        for i, (x, y) in enumerate(zip(a, b)):
            assert same(x[1], y[1]), f'event {i}: we {x}, ftrace {y}'
        assert len(a) == len(b) > 5000, (len(a), len(b))
        say(f'{len(a)} events, all equal;', re.search(r'looked through .*?1 region', reader.err())[0])

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests without a device: their regions are found in their memory, in their VMM's process."""

import collections
import contextlib
import json
import re
import subprocess
import time

import ftrace
import nested
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


@params('private', 'shared', 'scattered', 'huge', 'hugeshared')
def test_read(kind):
    """All records, in order, from the beginning to a proper end, by copies and by mapping."""
    with huge_pages(40 if kind.startswith('huge') else 0), Ramlike(kind) as guest:
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


# Another VMM than QEMU, and its guest, both in L1: tests/guest/l2vmm.c, which begins when it is told that the reader is there.
SECOND = r'''
begin() { # KIND
	mkfifo /tmp/go-$1
	l2vmm -w -p 300000 ram:$1 6000 4 0 cpuid busy < /tmp/go-$1 > $out/$1.vmm 2>&1 &
	vmm=$!
	exec 3> /tmp/go-$1
	until grep -q 'beacon is lit' $out/$1.vmm; do
		kill -0 $vmm || { cat $out/$1.vmm; return 1; }
		sleep 0.05
	done
	host-reader -o json:$out/$1.json pid:$vmm 2> $out/$1.err &
	reader=$!
}
says() { # KIND TEXT
	until grep -q "$2" $out/$1.err; do
		kill -0 $reader $vmm || { cat $out/$1.err $out/$1.vmm; return 1; }
		sleep 0.05
	done
}
for kind in private shared; do
	begin $kind && says $kind '2 vCPUs' || exit 1
	host-reader --list > $out/$kind.list
	echo $vmm > $out/$kind.pid
	echo go >&3
	wait $vmm && wait $reader || { cat $out/$kind.vmm $out/$kind.err; exit 1; }
	exec 3>&-
done
for kind in outside runs; do
	begin $kind && says $kind 'lies outside guest RAM' || exit 1
	kill -INT $reader
	wait $reader
	kill -KILL $vmm
	wait $vmm
	exec 3>&-
done
true
'''


@params('6.12', thorough=['6.1'])
def test_second_vmm(kernel):
    """A real guest of KVM's, of a VMM that is not QEMU: its memory alone is looked through, and all of its records are there."""
    with nested.L1(SECOND, kernel) as vm:
        status, files = vm.run()
        assert status == 0, vm.console()[-3000:]
    for kind, way in ('private', 'copied from process'), ('shared', 'mapped from'):
        said = files[kind + '.err']
        assert way in said and re.search(r'^lost +0 ', said, re.M), said
        # 64 MiB, and none of what is the VMM's own, 32 MiB of which have a beacon in them, too
        assert 'looked through 0.06 GiB' in said and '1 region' in said, said
        pid = int(files[kind + '.pid'])
        assert re.search(rf'^{pid} .*: l2vmm, KVM, 2 vCPUs.*\n +.*\n(?:.*\n)? +host-reader pid:{pid} ', files[kind + '.list'], re.M), (
            files[kind + '.list'])
        accounts = nested.vmm(files[kind + '.vmm'])
        assert [a['work'] for a in accounts] == ['cpuid', 'busy'] and all(a['records'] == 24000 for a in accounts), accounts
        nr = nested.check_all([e for session in nested.events(files[kind + '.json']) for e in session], accounts)
        say(f'{kind}: {nr} records, {sum(a["exits"] for a in accounts)} exits;', re.search(r'looked through .*', said)[0])
    for kind, what in ('outside', 'a page of its region'), ('runs', 'a page run'):
        assert f'{what} lies outside guest RAM' in files[kind + '.err'], files[kind + '.err']
        assert not nested.events(files[kind + '.json'])[0], kind

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel module: builds for both kernels, binds, and takes what agent and programs tell it."""

import functools
import glob
import mmap
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time

from harness import params, say
from test_loss import exact
from test_stacks import kernel_stacks
from test_survival import numbers_of
from test_truth import compare
from vm import BUILD, COUNTED, TOP, VM, Reader, kernel_path, tool

KMOD = os.path.join(TOP, 'guest-agent', 'kmod')
HEADERS = os.path.join(TOP, 'libhtrace', 'include', 'htrace')
RINGSETS, HOST_RINGS = 144, 2 << 16  # htrace_super.ringset, HTRACE_HOST_RINGS_OFF
REMOVE = 'for d in /sys/bus/pci/devices/*; do grep -q 0x1110 $d/device && echo 1 > $d/remove; done'


@functools.lru_cache
def built(kernel):
    """
    The module for `kernel`, in a new directory, as `make` leaves it in what is installed for DKMS.
    Debug information is cut off: guests' memory is small.
    """
    work = tempfile.mkdtemp(prefix='htrace-kmod-', dir='/dev/shm')
    try:
        shutil.copytree(KMOD, work, dirs_exist_ok=True)
        os.makedirs(os.path.join(work, 'include', 'htrace'))
        for name in ('abi.h', 'ring.h'):
            shutil.copy(os.path.join(HEADERS, name), os.path.join(work, 'include', 'htrace'))
        vmlinuz = kernel_path(kernel)
        run = subprocess.run(['make', '-C', work, 'KDIR=' + tool('fetch-headers.sh', vmlinuz),
                              'BTF=' + vmlinuz],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert run.returncode == 0, run.stdout
        assert 'warning' not in run.stdout, run.stdout
        subprocess.run(['strip', '-g', os.path.join(work, 'htrace.ko')], check=True)
        with open(os.path.join(work, 'htrace.ko'), 'rb') as f:
            return f.read()
    finally:
        shutil.rmtree(work)


def build_by_dkms(kernel, sources):
    """The module for `kernel`, as DKMS makes it of `sources`, an installed /usr/src; in a tree of our own."""
    vmlinuz = kernel_path(kernel)
    release = os.path.basename(vmlinuz).removeprefix('vmlinuz-')
    conf, = glob.glob(os.path.join(sources, 'htrace-*', 'dkms.conf'))
    version = os.path.dirname(conf).rpartition('-')[2]
    with tempfile.TemporaryDirectory(prefix='htrace-dkms-', dir='/dev/shm') as tree:
        # sign_file: where it finds one, DKMS would make a key for this machine
        run = subprocess.run(['dkms', 'build', '-m', 'htrace', '-v', version, '-k', release,
                              '--kernelsourcedir', tool('fetch-headers.sh', vmlinuz), '--dkmstree', tree,
                              '--sourcetree', sources],
                             env=dict(os.environ, BTF=vmlinuz, sign_file='/none'),
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        log = run.stdout
        for path in glob.glob(tree + '/**/make.log', recursive=True):
            with open(path, encoding='utf-8') as f:
                log += f.read()
        assert run.returncode == 0 and 'warning' not in log, log
        module, = glob.glob(tree + '/**/module/htrace.ko', recursive=True)
        with open(module, 'rb') as f:
            return f.read()


@functools.lru_cache
def built_by_dkms(kernel):
    """Likewise of what meson installs."""
    with tempfile.TemporaryDirectory(prefix='htrace-dkms-', dir='/dev/shm') as to:
        run = subprocess.run(['meson', 'install', '-C', BUILD, '--no-rebuild', '--destdir', to],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert run.returncode == 0, run.stdout
        conf, = glob.glob(to + '/**/src/htrace-*/dkms.conf', recursive=True)
        return build_by_dkms(kernel, os.path.dirname(os.path.dirname(conf)))


class DoorbellServer(threading.Thread):
    """
    What an ivshmem-doorbell device connects to: gives it the memory, and is its peer 0. Counts what the
    guest rings, by vector.
    """

    def __init__(self, path, region, size=16 << 20, vectors=2):
        super().__init__(daemon=True)
        with open(region, 'wb') as f:
            f.truncate(size)
        self.region = region
        self.mine, self.guests = ([os.eventfd(0, os.EFD_NONBLOCK) for _ in range(vectors)]
                                  for _ in range(2))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.start()

    def run(self):
        self.client, _ = self.listener.accept()

        def send(number, fd=None):
            socket.send_fds(self.client, [struct.pack('<q', number)], [] if fd is None else [fd])

        send(0)  # version
        send(1)  # the guest's id
        with open(self.region, 'r+b') as f:
            send(-1, f.fileno())
        for peer, fds in ((0, self.mine), (1, self.guests)):
            for fd in fds:
                send(peer, fd)

    def rung(self, vector):
        try:
            return os.eventfd_read(self.mine[vector])
        except BlockingIOError:
            return 0


class Guest(VM):
    """A guest that has the module as /htrace.ko."""

    def __init__(self, script, kernel='6.12', module=None, add=(), **options):
        with tempfile.TemporaryDirectory(dir='/dev/shm') as work:
            path = os.path.join(work, 'htrace.ko')
            with open(path, 'wb') as f:
                f.write(module or built(kernel))
            super().__init__(script, kernel=kernel, add=[path, *add], **options)


@params('6.12', thorough=['6.1'])
def test_binds(kernel):
    """
    The one that DKMS builds. Loads and binds, says how memory is mapped; without a device it says what
    is missing; the device may come and go, and be taken from it.
    """
    script = f'''
insmod /htrace.ko || exit 1
ls /dev/htrace /sys/kernel/btf/htrace || exit 1
driver=/sys/bus/pci/drivers/htrace
device=$(basename $driver/0*)
{REMOVE}
test ! -e /dev/htrace || exit 1
echo 1 > /sys/bus/pci/rescan
ls /dev/htrace || exit 1
echo $device > $driver/unbind
test ! -e /dev/htrace || exit 1
echo $device > $driver/bind
ls /dev/htrace || exit 1
rmmod htrace || exit 1
{REMOVE}
echo NO DEVICE
insmod /htrace.ko && exit 1
echo 1 > /sys/bus/pci/rescan
insmod /htrace.ko device=0000:00:1e.0 && exit 1
insmod /htrace.ko device=$device || exit 1
dmesg | grep htrace
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
true
'''
    with Guest(script, kernel=kernel, module=built_by_dkms(kernel)) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        console = vm.console()
        mapped = re.findall(r'shared memory at \S+, mapped (.*);', console)
        say('; '.join(sorted(set(mapped))))
        # SeaBIOS puts BAR2 below 4 GiB and says that it is uncached there; the guest's kernel itself,
        # on rescanning, above
        assert len(mapped) == 4 and all(m.startswith('write-back') for m in mapped), mapped
        assert 'write-back although the firmware' in mapped[0] and mapped[1] == 'write-back'
        assert 'no ivshmem device in this machine; add one' in console.split('NO DEVICE')[1]
        assert 'there is no ivshmem device 0000:00:1e.0; 1 others' in console


def test_ovmf():
    """Under OVMF too, which puts BAR2 elsewhere, and whose word on it differs from SeaBIOS'."""
    script = 'insmod /htrace.ko || exit 1; dmesg | grep htrace; dmesg | grep EFI | head -3\n'
    with Guest(script, memory='1G') as vm:
        vm.command += ['--', '-bios', '/usr/share/ovmf/OVMF.fd']
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        assert 'EFI v' in vm.console(), 'not under OVMF'
        mapped = re.search(r'shared memory at (\S+), mapped (.*);', vm.console())
        say('at', *mapped.groups())
        assert mapped[2].startswith('write-back')


@params('6.12', thorough=['6.1'])
def test_two_devices(kernel):
    """
    The module has to be told which; a device that holds something else is not taken. In the one that it
    has bound, found among them, threads of a program push into one ring: by atomics, which its mapping
    bears.
    """
    count = 20000
    script = f'''
set -- $(grep -l 0x1110 /sys/bus/pci/devices/*/device)
first=$(basename $(dirname $1)) second=$(basename $(dirname $2))
insmod /htrace.ko && exit 1
dmesg | grep 'choose one with device='
insmod /htrace.ko device=$second || exit 1
test -e /sys/bus/pci/drivers/htrace/$second || exit 1
test ! -e /sys/bus/pci/drivers/htrace/$first || exit 1
rmmod htrace
echo READY
sleep 2
insmod /htrace.ko device=$first && exit 1
insmod /htrace.ko device=$second || exit 1
dmesg | grep "$first: the device holds something that is not libhtrace's" || exit 1
devwriter {count} || exit 1
rmmod htrace
'''
    with Guest(script, kernel=kernel, cpus=2, regions=2,
               add=[os.path.join(BUILD, 'tests', 'devwriter') + ':/bin/']) as vm:
        vm.start()
        vm.wait_for('READY')
        with open(vm.regions[0], 'r+b') as f:
            f.seek(8)
            f.write(b'foreign')
        reader = Reader(f'ivshmem:{vm.regions[1]},ram=/dev/null')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert '2 ivshmem devices' in vm.console()
        assert status == 0, vm.console()[-3000:]
        found = [[] for _ in range(3)]
        for thread, number in re.findall(r'numbered: thread=(\d+) number=(\d+)', reader.out()):
            found[int(thread)].append(int(number))
        assert found == 3 * [list(range(count))], reader.err()
        dropped, = re.findall(r'devwriter: (\d+) dropped', vm.console())
        say(f'{sum(map(len, found))} records of three threads, each once and in order; {dropped} pushed twice')


LOAD = 'insmod /htrace.ko || exit 1\n'


def test_without():
    """
    Without the module the device's memory is such that atomics do not work on it, also where the kernel
    maps it uncached only, because it does not offer write-combining; an agent relays into that.
    """
    script = '''
ls /sys/bus/pci/devices/*/resource2_wc && exit 1
devwriter 1 && exit 1
agent_start --events sched --mode relay || exit 1
sleep 2
agent_stop
'''
    with VM(script, append='nopat', add=[os.path.join(BUILD, 'tests', 'devwriter') + ':/bin/']) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        assert 'devwriter: a mapping that atomics work on failed' in vm.console()
        received, = re.findall(r'^received +(\d+)', reader.err(), re.M)
        say(f'{received} records by an uncached mapping')
        assert int(received) > 0


@params('6.12', thorough=['6.1'])
def test_device(kernel):
    """/dev/htrace: keeps the module while it is open; requests whose buffers are in its memory return;
    read-only and refused mappings."""
    script = LOAD + """
sleep 60 < /dev/htrace &
sleep 0.5
rmmod htrace && exit 1
kill $!
wait $!
devmap || exit 1
rmmod htrace || exit 1
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
true
"""
    devmap = os.path.join(BUILD, 'tests', 'devmap')
    with Guest(script, kernel=kernel, add=[devmap + ':/bin/']) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        assert 'devmap: all right' in vm.console()


# programs are freed a little after their agent has ended
UNLOAD = '''
for i in $(seq 50); do
	rmmod htrace 2>/dev/null && break
	sleep 0.1
done
test ! -e /sys/module/htrace || exit 1
'''
VALUE = 424242


@params('6.12', thorough=['6.1'])
def test_truth(kernel):
    """As truth, with the rings in the device's memory, written through htrace_write()."""
    compare(kernel, 2, '--mode module', make=Guest, before=LOAD)  # of one CPU: stacks below


# policies are ring.h's, the same in all kernels
@params(('discard', '6.1'), thorough=[('overwrite', '6.12')])
def test_exact(policy, kernel):
    """As loss.exact: under discard the module itself reads how far the host has read."""
    exact(policy, kernel, 'module', 'rings in the region', make=Guest, before=LOAD)


@params('6.12', thorough=['6.1'])
def test_in_use(kernel):
    """
    Not unloaded while an agent or its programs use it. An agent that is killed has a successor that
    goes on with the session. Nothing is missing.
    """
    script = LOAD + f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
sleep 1
workload count 20000 {VALUE}
grep 'module: the kernel module writes' /tmp/agent.log
rmmod htrace && exit 1
kill -KILL $agent
wait $agent 2>/dev/null
rm -f /tmp/agent.log
agent_start --events none --bpf /counted.bpf.o --mode module || exit 1
workload count 5000 {VALUE}
sleep 1
agent_stop
{UNLOAD}
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
agent_start --events none --bpf /counted.bpf.o || exit 1
sleep 2
workload count 1000 {VALUE}
agent_stop
'''
    with Guest(script, kernel=kernel, cpus=2, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-3000:]
        console = vm.console()
        assert len(re.findall('module: the kernel module writes into the region, mapped write-back',
                              console)) == 2, console[-2000:]
        assert 'session adopted from an earlier agent' in console
        found, unverified = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu] == list(range(20000)) + list(range(5000)) + list(range(1000)), \
                len(found[cpu])
        assert unverified == 0
        say(f'{sum(map(len, found.values()))} numbered calls, complete')


@params('6.1', thorough=['6.12'])
def test_other_way(kernel):
    """
    An agent that records through the module is killed, and its successor's programs cannot: each time a
    new session begins, another way. Then the module has one again.
    """
    calls = 2000
    script = LOAD + f'''
agent_kill() {{
	grep 'module: the kernel module writes' /tmp/agent.log || exit 1
	kill -KILL $agent
	wait $agent 2>/dev/null
	rm /tmp/agent.log
}}
agent_start --events sched || exit 1
agent_kill
agent_start --events raw_syscalls:sys_enter --buffer 1M || exit 1
sleep 2
workload count {calls} {VALUE}
agent_stop || exit 1
agent_start --events sched || exit 1
agent_kill
agent_start --events profile:99 --mode relay || exit 1
agent_stop || exit 1
agent_start --events sched || exit 1
agent_kill
agent_start --events sched || exit 1
agent_stop || exit 1
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
true
'''
    with Guest(script, kernel=kernel) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        console = vm.console()
        assert status == 0, console[-3000:]
        assert len(re.findall('which recorded through the kernel module, ends: these programs cannot',
                              console)) == 2, console[-3000:]
        assert len(re.findall('without the kernel module: raw_syscalls:sys_enter cannot', console)) == 1
        assert len(re.findall('tracing, session adopted .*, module: ', console)) == 1
        found = re.findall(rf'raw_syscalls_sys_enter: id=121 .*\b({VALUE}|{VALUE:#x})\b.*', reader.out())
        assert len(found) == calls, (len(found), reader.err())
        say(f'{len(found)} calls by name, behind a session of the module')


@params('6.1', thorough=['6.12'])
def test_removed(kernel):
    """The device goes while programs write into it, at full speed, three times."""
    script = LOAD + f'''
for i in 1 2 3; do
	agent_start --events sched,syscalls --mode module || exit 1
	workload mix 2 2 &
	work=$!
	sleep 1
	{REMOVE}
	wait $agent
	test $? = 1 || exit 1
	grep 'was removed while it was in use' /tmp/agent.log || exit 1
	kill $work 2>/dev/null
	wait $work
	rm /tmp/agent.log
	test ! -e /dev/htrace || exit 1
	echo 1 > /sys/bus/pci/rescan
	test -e /dev/htrace || exit 1
done
{UNLOAD}
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
true
'''
    with Guest(script, kernel=kernel, cpus=2) as vm:
        # Programs are switched while both CPUs are in them: beside each other, the emulator has CPUs
        # execute what another one has patched for ever (tools/README.md).
        vm.command += ['--tcg-thread', 'single']
        vm.start()
        status = vm.finish()
        assert status == 0, vm.console()[-3000:]


def scribble(region, seconds, seed):
    """
    Writes odd words over what the rings in `region` are written by: heads, block descriptors, and what
    the host says of them. Returns how often records were made behind an odd head.
    """
    rng = random.Random(seed)
    made = 0
    with open(region, 'r+b') as f, mmap.mmap(f.fileno(), 0) as m:
        _, _, _, nr, slot, _, _, desc, data, _, off, stride = struct.unpack_from('<10I2Q', m, RINGSETS)

        def put(at, *odd):
            odd += (0, 1, 7, 1 << 32, (1 << 62) + 8, 1 << 63, (1 << 64) - 1, rng.getrandbits(64))
            value = struct.pack('<Q', rng.choice(odd))
            m[at:at + 8] = value
            return value

        end = time.time() + seconds
        while time.time() < end:
            i = rng.randrange(nr)
            ring = off + i * stride
            for _ in range(20):
                put(ring + rng.randrange(desc, data, 8))
            put(HOST_RINGS + 64 * (slot + i), rng.getrandbits(24))
            near = rng.getrandbits(24)  # mostly into the middle of a block, where records just go on
            head = put(ring, near, near & ~7, near & ~7)
            time.sleep(0.001)
            made += m[ring:ring + 8] != head
    return made


@params(('6.12', 'overwrite'), thorough=[('6.1', 'discard')])
def test_scribbled(kernel, policy):
    """
    The host, or whoever may write the region's file there, writes what it likes over the rings. The
    guest's kernel takes no harm.
    """
    script = LOAD + f'''
agent_start --events sched,syscalls --policy {policy} --mode module || exit 1
echo READY
workload mix 5 2
agent_stop || exit 1
{UNLOAD}
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
true
'''
    with Guest(script, kernel=kernel, cpus=2) as vm:
        vm.start()
        vm.wait_for('READY')
        made = scribble(vm.region, 4, 1)
        status = vm.finish()
        assert status == 0, vm.console()[-3000:]
        say(f'{made} times records were made behind an odd head')
        assert made > 200


@params('6.1', thorough=['6.12'])
def test_refusals(kernel):
    """What is missing is said; mode auto then goes another way."""
    script = f'''
guest-agent --events none --bpf /counted.bpf.o --mode module && exit 1
insmod /none.ko && guest-agent --events none --bpf /counted.bpf.o --mode module && exit 1
rmmod htrace
insmod /foreign.ko && guest-agent --events none --bpf /counted.bpf.o --mode module && exit 1
agent_start --events none --bpf /counted.bpf.o || exit 1
agent_stop
rmmod htrace
echo FITS
insmod /htrace.ko || exit 1
guest-agent --events profile:99 --mode module && exit 1
guest-agent --events sched,raw_syscalls:sys_enter --mode module && exit 1
guest-agent --events sched --mode module --buffer 16M && exit 1
agent_start --events profile:99 || exit 1
agent_stop
agent_start --events sched --mode relay || exit 1
agent_stop
'''
    with tempfile.TemporaryDirectory(dir='/dev/shm') as work:
        foreign, none = (os.path.join(work, name) for name in ('foreign.ko', 'none.ko'))
        with open(foreign, 'wb') as f:
            f.write(built('6.12' if kernel == '6.1' else '6.1'))
        with open(none, 'wb') as f:
            f.write(built(kernel))
        for args in (['--dump-section', '.BTF=' + work + '/btf', foreign],
                     ['--remove-section=.BTF', none],
                     ['--add-section', '.BTF=' + work + '/btf', none, foreign]):
            subprocess.run(['objcopy', *args], check=True)
        vm = Guest(script, kernel=kernel, add=[COUNTED, foreign, none])
    with vm:
        vm.start()
        status = vm.finish()
        console = vm.console()
        assert status == 0, console[-3000:]
        foreign, fits = console.split('FITS')
        assert re.search('--mode module: /dev/htrace: No such file or directory; the kernel module '
                         'is not loaded', foreign), foreign[-3000:]
        # either the kernel refuses the module, or the agent sees that nobody could call it
        assert len(re.findall('the kernel does not take the functions for BPF programs|'
                              '--mode module: .*BTF', foreign)) >= 2, foreign[-3000:]
        for why in (r"--mode module: profile cannot record through the module \(of its program's type",
                    '--mode module: raw_syscalls:sys_enter cannot record through the module',
                    r'region .* \(16384 KiB\) is too small for 1 rings of 16384 KiB',
                    'without the kernel module: profile cannot record',
                    'relay: rings are copied into the region'):
            assert re.search(why, fits), (why, fits)
        for line in re.findall('.*BTF.*', foreign):
            say(line)


@params(('6.12', 'filtered'), thorough=[('6.1', '')])
def test_stacks(kernel, filtered):
    """As stacks.kernel; and a filter passes on its records through the module."""
    kernel_stacks(kernel, 'module', filtered, make=Guest, before=LOAD)


@params('6.12', thorough=['6.1'])
def test_doorbell(kernel):
    """
    With an ivshmem-doorbell device: BPF programs ring the host as often as they say, and each of the
    host's interrupts arrives.
    """
    calls, interrupts = 1000, 10
    script = LOAD + f'''
dmesg | grep htrace
agent_start --events none --bpf /doorbell.bpf.o --mode module || exit 1
sleep 1
workload count {calls} {VALUE}
echo RUNG
for i in $(seq {interrupts}); do
	echo WAITING $i
	dd if=/dev/htrace bs=8 count=1 2>/dev/null | od -A n -t u8
done < /dev/null
agent_stop
grep htrace /proc/interrupts
'''
    doorbell = os.path.join(BUILD, 'tests', 'doorbell.bpf.o')
    with Guest(script, kernel=kernel, regions=0, add=[doorbell]) as vm:
        path, region = os.path.join(vm.dir, 'doorbell'), os.path.join(vm.dir, 'region')
        server = DoorbellServer(path, region)
        vm.command += ['--', '-chardev', f'socket,id=htrace,path={path}',
                       '-device', 'ivshmem-doorbell,vectors=2,chardev=htrace']
        vm.start()
        reader = Reader('ivshmem:' + region + ',ram=/dev/null')
        vm.wait_for('RUNG')
        for i in range(1, interrupts + 1):
            vm.wait_for(f'(?m)^WAITING {i}$')
            time.sleep(0.2)
            os.eventfd_write(server.guests[i & 1], 1)
        status = vm.finish()
        rung = [server.rung(vector) for vector in range(2)]
        assert reader.stop() == 0, reader.err()
        console = vm.console()
        assert status == 0, console[-3000:]
        assert '2 interrupt vectors' in console, console[-3000:]
        results = re.findall(r'rung: number=(\d+) result=(-?\d+)', reader.out())
        assert results == [(str(i), '0') for i in range(calls)], reader.out()[:1000]
        assert rung == [calls // 2, calls // 2], rung
        counts = [int(n) for n in re.findall(r'^ +(\d+)$', console, re.M)]
        assert counts == list(range(1, interrupts + 1)), counts
        lines = re.findall(r'^ *\d+: +(\d+) .*htrace', console, re.M)
        say(f'rung {rung} times; interrupts {lines}')
        assert sum(map(int, lines)) == interrupts

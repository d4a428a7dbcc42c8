# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel module: builds for both kernels, binds, and takes what agent and programs tell it."""

import functools
import os
import re
import shutil
import subprocess
import tempfile

from harness import params, say
from vm import TOP, VM, kernel_path, tool

KMOD = os.path.join(TOP, 'guest-agent', 'kmod')
HEADERS = os.path.join(TOP, 'libhtrace', 'include', 'htrace')
REMOVE = 'for d in /sys/bus/pci/devices/*; do grep -q 0x1110 $d/device && echo 1 > $d/remove; done'


def build(kernel, btf=None):
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
                              'BTF=' + (btf or vmlinuz)],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert run.returncode == 0, run.stdout
        assert 'warning' not in run.stdout, run.stdout
        subprocess.run(['strip', '-g', os.path.join(work, 'htrace.ko')], check=True)
        with open(os.path.join(work, 'htrace.ko'), 'rb') as f:
            return f.read()
    finally:
        shutil.rmtree(work)


@functools.lru_cache
def built(kernel):
    return build(kernel)


class Guest(VM):
    """A guest that has the module as /htrace.ko."""

    def __init__(self, script, kernel='6.12', module=None, add=(), **options):
        with tempfile.TemporaryDirectory(dir='/dev/shm') as work:
            path = os.path.join(work, 'htrace.ko')
            with open(path, 'wb') as f:
                f.write(module or built(kernel))
            super().__init__(script, kernel=kernel, add=[path, *add], **options)


@params('6.1', '6.12')
def test_binds(kernel):
    """
    Loads and binds, says how memory is mapped; without a device it says what is missing; the device
    may come and go, and be taken from it.
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
    with Guest(script, kernel=kernel) as vm:
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


@params('6.1', '6.12')
def test_two_devices(kernel):
    """The module has to be told which; a device that holds something else is not taken."""
    script = '''
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
dmesg | grep "$first: the device holds something that is not libhtrace's"
'''
    with Guest(script, kernel=kernel, regions=2) as vm:
        vm.start()
        vm.wait_for('READY')
        with open(vm.regions[0], 'r+b') as f:
            f.seek(8)
            f.write(b'foreign')
        status = vm.finish()
        assert '2 ivshmem devices' in vm.console()
        assert status == 0, vm.console()[-2000:]

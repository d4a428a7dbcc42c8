# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A Linux guest on KVM, also where the machine has none: L1, a Debian guest whose processor offers virtualisation,
loads KVM and runs QEMU, which runs L2, another Debian guest with guest-agent in it. Everything between the two is real.
"""

import os
import tempfile

import nested
from vm import AGENT, BUILD, SHELL, WORKLOAD, kernel_path, tool

QEMU = '/usr/bin/qemu-system-x86_64'
FIRMWARE = 'bios-256k.bin', 'kvmvapic.bin', 'linuxboot_dma.bin'
FIRMWARE_DIRS = '/usr/share/qemu', '/usr/share/seabios'

# What L1's script can call, besides what nested.SHELL has.
LINUX = r'''
# A host-reader, as soon as it records exits: its options and sources, `kvm` among them.
reader_start() {
	host-reader "$@" 2> $out/err &
	reader=$!
	until grep -q 'rings of BPF programs on KVM' $out/err; do
		kill -0 $reader || { cat $out/err; return 1; }
		sleep 0.05
	done
}
reader_end() {
	kill -INT $reader
	wait $reader || { cat $out/err; return 1; }
}
# Until a guest has printed a line, at most $patience seconds: NAME WORD
patience=150
linux_says() {
	late=$(($(cut -d. -f1 /proc/uptime) + patience))
	until grep -q "$2" $out/$1.console 2>/dev/null; do
		kill -0 $qemu && [ $(cut -d. -f1 /proc/uptime) -lt $late ] || { cat $out/$1.log $out/$1.console; return 1; }
		sleep 0.2
	done
}
# Starts a guest; it runs its script as soon as it is up: NAME, its disk as QEMU's -drive has it, and the file of 16 MiB
# that is its region, if not /dev/shm/NAME; more options of QEMU's. $ram: its memory, as QEMU's -object has it.
linux_start() {
	dmesg -n 1
	: > $out/$1.console
	qemu-system-x86_64 -L /usr/share/qemu -M pc,usb=off,memory-backend=ram -name debug-threads=on -nodefaults -nographic -accel kvm -cpu host \
		-m L2_MEMORY -smp L2_CPUS -object ${ram:-memory-backend-memfd,share=on},id=ram,size=L2_MEMORY \
		-object memory-backend-file,id=region,size=16M,mem-path=${3:-/dev/shm/$1},share=on -device ivshmem-plain,memdev=region \
		-drive $2,if=none,id=disk -device virtio-blk-pci,drive=disk $4 \
		-kernel /l2/vmlinuz -initrd /l2/initrd -append "console=ttyS0 quiet panic=-1 L2_OPTIONS" -serial file:$out/$1.console \
		-no-reboot > $out/$1.log 2>&1 &
	qemu=$!
	eval qemu_$1=$qemu
}
# Until a guest has powered off: NAME; 0 if its script ended with 0.
linux_end() {
	eval wait \$qemu_$1 || { cat $out/$1.log; return 1; }
	grep -q 'htrace-vm: exit 0' $out/$1.console || { cat $out/$1.console; return 1; }
}
'''

# What L2's script can call, besides what vm.SHELL has.
GUEST = r'''
# Until the host has the rings themselves: guest-agent's options ...
traced() {
	agent_start "$@" || return 1
	until grep -q 'direct placement from now on' /tmp/agent.log; do
		kill -0 $agent || { cat /tmp/agent.log; return 1; }
		sleep 0.05
	done
	echo L2-TRACED
}
'''


CAUSES = os.path.join(BUILD, 'tests', 'causes')


class LinuxInL1(nested.L1):
    def __init__(self, script, guest, kernel='6.1', guest_kernel='6.1', guest_cpus=1, guest_memory='320M', guest_disk_mib=64,
                 modules=('virtio_blk',), guest_add=(), memory='1536M', disk_mib=256, guest_options='', **more):
        path = kernel_path(guest_kernel)
        shell = LINUX.replace('L2_MEMORY', guest_memory).replace('L2_CPUS', str(guest_cpus)).replace('L2_OPTIONS', guest_options)
        files = [QEMU + ':/bin/', *nested.libraries(QEMU), path + ':/l2/vmlinuz',
                 *(f'{d}/{f}:/usr/share/qemu/{f}' for f in FIRMWARE for d in FIRMWARE_DIRS if os.path.exists(f'{d}/{f}'))]
        with tempfile.TemporaryDirectory(dir='/dev/shm') as at:
            run, initrd = os.path.join(at, 'run.sh'), os.path.join(at, 'initrd')
            with open(run, 'w', encoding='utf-8') as f:
                f.write('#!/bin/sh\n' + SHELL + GUEST + guest)
            tool('make-initramfs.sh', '--kernel', path, '--run', run, '--add', AGENT + ':/bin/', '--add', WORKLOAD + ':/bin/',
                 *(word for f in (CAUSES + ':/bin/', *guest_add) for word in ('--add', f)),
                 *(word for m in modules for word in ('--module', m)), initrd)
            super().__init__(shell + script, kernel, add=[*files, initrd + ':/l2/initrd'], memory=memory, disk_mib=disk_mib, **more)
        path = os.path.join(self.dir, 'l2disk')
        with open(path, 'wb') as f:
            f.truncate(guest_disk_mib << 20)
        self.command += ['--disk', path]

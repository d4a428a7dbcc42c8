# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests for the system tests: the project's own tools/, driven from Python."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get('HTRACE_BUILD', os.path.join(TOP, 'build'))
READER = os.path.join(BUILD, 'host-reader', 'host-reader')
AGENT = os.path.join(BUILD, 'guest-agent', 'guest-agent')
WORKLOAD = os.path.join(BUILD, 'tests', 'workload')
COUNTED = os.path.join(BUILD, 'tests', 'counted.bpf.o')
TOOLS = os.path.join(TOP, 'tools')


def tool(name, *args):
    """Run one of tools/, give its output."""
    run = subprocess.run([os.path.join(TOOLS, name), *map(str, args)], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise RuntimeError(f'{name} {" ".join(map(str, args))}: {run.stderr.strip()}')
    return run.stdout.strip()


# Shell functions that every guest script has.
SHELL = """
agent_start() { # guest-agent's options; returns when it traces
	guest-agent "$@" 2>> /tmp/agent.log &
	agent=$!
	for i in $(seq 300); do
		grep -q 'guest-agent: tracing' /tmp/agent.log && return 0
		kill -0 $agent 2>/dev/null || break
		sleep 0.1
	done
	cat /tmp/agent.log
	return 1
}
agent_stop() {
	kill -TERM $agent
	wait $agent
	status=$?
	cat /tmp/agent.log
	rm -f /tmp/agent.log
	return $status
}
"""

_kernels = {}


def kernel_path(version):
    """The vmlinuz of 6.1, say, or of 6.1/generic: Debian's other flavour."""
    if version not in _kernels:
        number, _, flavour = version.partition('/')
        options = ['--flavour', flavour] if flavour else []
        _kernels[version] = tool('fetch-kernel.sh', *options, number).splitlines()[-1]
    return _kernels[version]


INT3 = r'Oops: int3|int3: 0000|soft lockup - CPU#\d+ stuck for \d+s! \[guest-agent|l2vmm: unexpected exit 8'


class EmulationFault(RuntimeError):
    """
    The guest did not boot, or stopped with "Oops: int3", or in the system call that has its kernel patch
    code. Under QEMU 7.2's emulation that happens to about one guest in a hundred, while another virtual
    CPU runs that code (see tools/README.md). It says nothing about what is tested, so the test is run again. Likewise
    where KVM in an emulated 6.12 says that the small guest (tests/guest/l2) has shut down by a triple fault, for which
    no cause was found: what a reader does is not seen by that guest's CPU.
    """


class VM:
    """One guest. `script` is shell code that it runs; its output and exit status come back."""

    source = None  # that is read: its region's, unless it says otherwise

    def __init__(self, script, kernel='6.12', cpus=1, memory='512M', regions=1, region_size='16M',
                 disk_mib=0, add=(), machine='q35', reboot=False, append='', disks=1,
                 modules=(), private_ram=False):
        self.dir = tempfile.mkdtemp(prefix='htrace-vm-', dir='/dev/shm')
        self.regions = [os.path.join(self.dir, f'region{i}') for i in range(regions)]
        self.region = self.regions[0] if regions else None
        self.ram = os.path.join(self.dir, 'ram')
        self.disks = [os.path.join(self.dir, f'disk{i}') for i in range(disks if disk_mib else 0)]
        self.disk = self.disks[0] if disk_mib else None
        self.console_path = os.path.join(self.dir, 'console')
        self.qemu = None
        self.cpus = cpus
        path = kernel_path(kernel)
        run = os.path.join(self.dir, 'run.sh')
        with open(run, 'w', encoding='utf-8') as f:
            f.write('#!/bin/sh\necho GUEST-UP\n' + SHELL + script)
        initrd = os.path.join(self.dir, 'initrd')
        args = ['--kernel', path, '--run', run, '--add', AGENT + ':/bin/', '--add', WORKLOAD + ':/bin/']
        for item in add:
            args += ['--add', item]
        for disk in self.disks:
            with open(disk, 'wb') as f:
                f.truncate(disk_mib << 20)
        for module in (['virtio_blk'] if self.disks else []) + list(modules):
            args += ['--module', module]
        tool('make-initramfs.sh', *args, initrd)
        self.command = [os.path.join(TOOLS, 'run-vm.sh'), '--kernel', path, '--initrd', initrd,
                        '--cpus', str(cpus), '--memory', memory, '--machine', machine,
                        '--region-size', region_size, '--console', self.console_path]
        for region in self.regions:
            self.command += ['--region', region]
        for disk in self.disks:
            self.command += ['--disk', disk]
        if append:
            self.command += ['--append', append]
        if private_ram:
            self.command += ['--private-ram']
        if not reboot:
            self.command += ['--no-reboot']

    def start(self):
        self.log = open(os.path.join(self.dir, 'qemu.log'), 'wb')
        self.qemu = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log,
                                     stderr=self.log)
        end = time.time() + 60
        while self.regions and time.time() < end:  # QEMU makes them
            if all(os.path.exists(r) and os.path.getsize(r) for r in self.regions):
                break
            if self.qemu.poll() is not None:
                with open(os.path.join(self.dir, 'qemu.log'), encoding='utf-8') as f:
                    raise RuntimeError('QEMU did not start: ' + f.read())
            time.sleep(0.02)
        return self

    def console(self):
        try:
            with open(self.console_path, 'rb') as f:
                text = f.read().decode('utf-8', 'replace')
        except FileNotFoundError:
            return ''
        return re.sub(r'\x1b[^a-zA-Z]*[a-zA-Z]', '', text.replace('\r', ''))

    def wait_for(self, text, timeout=120, count=1):
        """Until the console shows `text` (a regular expression) `count` times."""
        end = time.time() + timeout
        while time.time() < end:
            if len(re.findall(text, self.console())) >= count:
                return
            if self.qemu.poll() is not None and len(re.findall(text, self.console())) < count:
                break
            time.sleep(0.05)
        raise self.failure(f'guest did not print {text!r}')

    def failure(self, what):
        """The exception for a guest that did not do what it should."""
        console = self.console()
        emulated = 'GUEST-UP' not in console or re.search(INT3, console)
        kind = EmulationFault if emulated else RuntimeError
        return kind(f'{what}; its console:\n{console[-3000:]}')

    def finish(self, timeout=180):
        """Until the guest has powered off; its script's exit status."""
        try:
            self.qemu.wait(timeout)
        except subprocess.TimeoutExpired as e:
            raise self.failure('guest hangs') from e
        found = re.findall(r'htrace-vm: exit (\d+)', self.console())
        if not found:
            with open(os.path.join(self.dir, 'qemu.log'), encoding='utf-8') as f:
                raise self.failure(f'guest ended without a status: {f.read()}')
        return int(found[-1])

    def close(self):
        if self.qemu and self.qemu.poll() is None:
            self.qemu.kill()
            self.qemu.wait()
        if self.qemu:
            self.log.close()
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        # Whatever failed beside a guest that fell: the fall is why.
        console = self.console() if error else ''
        self.close()
        if error and re.search(INT3, console):
            raise EmulationFault(console[-3000:]) from error


class Reader:
    """A host-reader process with its output in files."""

    started = []  # by the test that runs

    @classmethod
    def clean_up(cls):
        """What a test left running or lying about."""
        for reader in cls.started:
            if reader.process.poll() is None:
                reader.process.kill()
                reader.process.wait()
            if reader.own_dir and not os.environ.get('HTRACE_KEEP'):
                shutil.rmtree(reader.dir, ignore_errors=True)
        cls.started.clear()

    def __init__(self, vm_or_source, *args, ram=None, name='reader', env=None, pass_fds=()):
        self.own_dir = not isinstance(vm_or_source, VM)
        if not self.own_dir:
            self.dir = vm_or_source.dir
            source = vm_or_source.source or f'ivshmem:{vm_or_source.region}' + (f',ram={ram}' if ram else '')
        else:
            self.dir = tempfile.mkdtemp(prefix='htrace-reader-', dir='/dev/shm')
            source = vm_or_source
        self.out_path = os.path.join(self.dir, name + '.out')
        self.err_path = os.path.join(self.dir, name + '.err')
        with open(self.out_path, 'wb') as out, open(self.err_path, 'wb') as err:
            self.process = subprocess.Popen([READER, *args, source], stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=err, env=dict(os.environ, **(env or {})),
                                            pass_fds=pass_fds)
        self.source = source
        Reader.started.append(self)

    def out(self):
        with open(self.out_path, encoding='utf-8') as f:
            return f.read()

    def err(self):
        with open(self.err_path, encoding='utf-8') as f:
            return f.read()

    def wait_for(self, text, timeout=60, where='err', count=1):
        end = time.time() + timeout
        while time.time() < end:
            if len(re.findall(text, getattr(self, where)())) >= count:
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f'host-reader did not print {text!r}:\n{self.err()[-3000:]}')

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, timeout=30):
        """SIGINT, and its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout)

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Events and sources beside the main road."""

import os
import re
import subprocess
import tempfile

import readertext
from harness import say
from vm import VM, Reader, kernel_path, tool


def test_compat_calls():
    """32-bit system calls are told from 64-bit ones of the same number."""
    script = '''
agent_start --events syscalls || exit 1
workload compat 500
sleep 1
agent_stop
'''
    with VM(script) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0 and status == 0, vm.console()[-2000:]
        calls = re.findall(r' compat_sys_enter: .* nr=20\b', reader.out())
        returns = re.findall(r' compat_sys_exit: .* nr=20\b', reader.out())
        say(f'{len(calls)} compat_sys_enter, {len(returns)} compat_sys_exit with number 20')
        assert len(calls) == len(returns) == 500


def test_selection():
    """--events of the reader shows some, and counts all."""
    script = '''
agent_start || exit 1
ls > /dev/null
sleep 1
agent_stop
'''
    with VM(script) as vm:
        vm.start()
        reader = Reader(vm, '--events', 'sched_process_*,task_rename')
        status = vm.finish()
        assert reader.stop() == 0 and status == 0, vm.console()[-2000:]
        shown = {readertext.EVENT.match(rest)['event'] for _, _, rest in readertext.lines(reader.out_path)}
        say(', '.join(sorted(shown)))
        assert shown == {'sched_process_fork', 'sched_process_exec', 'sched_process_exit', 'task_rename'}


def test_unknown_event():
    """Of an event that the guest does not record the reader says so at once, and what there is."""
    script = '''
agent_start || exit 1
echo READY
sleep 3
agent_stop
'''
    with VM(script) as vm:
        vm.start()
        reader = Reader(vm, '--events', 'sched_swich,sched_process_exec')
        vm.wait_for('READY')
        reader.wait_for("no event is called 'sched_swich'; there are .*sched_switch", timeout=3)
        status = vm.finish()
        assert reader.stop() == 0 and status == 0, vm.console()[-2000:]
        said = re.findall(r'.*no event is called.*', reader.err())
        assert len(said) == 1, said
        say(said[0])


def test_full_disk():
    """An output that cannot be written is said once, with what was read; the guest is not disturbed."""
    script = '''
agent_start || exit 1
workload mix 3 1
agent_stop
'''
    with VM(script) as vm, tempfile.TemporaryDirectory() as small:
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'none', small], check=True)
        try:
            vm.start()
            reader = Reader(vm, '-o', f'text:{small}/out')
            status = vm.finish()
            assert status == 0, vm.console()[-2000:]
            assert reader.process.wait(20) == 1
        finally:
            subprocess.run(['umount', small], check=True)
        errors = [x for x in reader.err().splitlines() if 'No space left' in x]
        say(errors[0] if errors else reader.err())
        assert len(errors) == 1
        assert 'received' in reader.err(), 'no summary'


def test_kernel_by_package_name():
    """tools/fetch-kernel.sh takes a version or a Debian package's name."""
    path = kernel_path('6.1')
    release = os.path.basename(path)[len('vmlinuz-'):]
    assert tool('fetch-kernel.sh', 'linux-image-' + release).splitlines()[-1] == path
    say(path)

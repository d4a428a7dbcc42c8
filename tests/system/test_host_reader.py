# SPDX-License-Identifier: LGPL-2.1-or-later
"""host-reader on bad input: one line that says what, why and what to do; exit codes as designed."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

from harness import params, say
from vm import READER, Reader


def run(*args, timeout=20):
    r = subprocess.run([READER, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                       stderr=subprocess.PIPE, text=True, timeout=timeout)
    return r.returncode, r.stdout, r.stderr


def make_file(path, size, content=b'', at=0):
    with open(path, 'wb') as f:
        f.truncate(size)
        f.seek(at)
        f.write(content)


def superblock(major=1):
    return b'HTRACE01' + major.to_bytes(2, 'little') + bytes(2)


REGIONS = {
    # name: (make, exit status, what the message must contain)
    'missing': (lambda p: None, 1, 'No such file'),
    'empty': (lambda p: make_file(p, 0), 1, 'too few'),
    'truncated': (lambda p: make_file(p, 5000, superblock()), 1, 'too few'),
    'garbage': (lambda p: make_file(p, 1 << 20, os.urandom(4096)), 1, 'something other'),
    'foreign': (lambda p: make_file(p, 1 << 20, b'LookingGlass', 64), 1, 'something other'),
    'too-new': (lambda p: make_file(p, 1 << 20, superblock(99)), 1, 'version 99'),
    'directory': (os.mkdir, 1, 'not a regular file'),
    'fifo': (os.mkfifo, 1, 'not a regular file'),
}


@params(*REGIONS)
def test_bad_region(kind):
    make, status, says = REGIONS[kind]
    dir = tempfile.mkdtemp()
    try:
        path = os.path.join(dir, 'region')
        make(path)
        before = open(path, 'rb').read() if os.path.isfile(path) else None
        code, out, err = run('--duration', '5', f'ivshmem:{path}')
        say(err.strip())
        assert code == status, code
        assert says.lower() in err.lower(), err
        assert out == '', out
        messages = [x for x in err.splitlines() if x.startswith('host-reader: ')]
        assert len(messages) == 1 and len(err.splitlines()) == 1, err
        if before is not None:
            assert open(path, 'rb').read() == before, 'the file was changed'
    finally:
        shutil.rmtree(dir)


def test_no_guest():
    """An all-zero region is waited for; if --duration ends before a guest came, that is a failure."""
    with tempfile.TemporaryDirectory() as dir:
        path = os.path.join(dir, 'region')
        make_file(path, 1 << 20)
        start = time.time()
        code, out, err = run('--duration', '1', f'ivshmem:{path}')
        say(err.strip().replace('\n', ' / '))
        assert code == 1 and 'waiting' in err.lower(), (code, err)
        assert 0.9 < time.time() - start < 10
        assert out == ''


def test_interrupted_while_waiting():
    with tempfile.TemporaryDirectory() as dir:
        path = os.path.join(dir, 'region')
        make_file(path, 1 << 20)
        reader = Reader(f'ivshmem:{path}')
        reader.wait_for('(?i)waiting')
        reader.signal(signal.SIGTERM)
        assert reader.process.wait(10) == 0


USAGE = {
    'no-source': [],
    'unknown-option': ['--frobnicate', 'local:/x'],
    'unknown-source': ['floppy:/dev/fd0'],
    'no-colon': ['/dev/shm/region'],
    'empty-path': ['ivshmem:'],
    'unknown-source-option': ['ivshmem:/x,rom=auto'],
    'unknown-view': ['--view', 'nothing', 'local:/x'],
    'unknown-sink': ['-o', 'papyrus:/x', 'local:/x'],
    'json-no-file': ['-o', 'json:', 'local:/x'],
    'unknown-sync': ['--sync', 'telepathy', 'local:/x'],
    'bad-sync-argument': ['--sync', 'timer:soon', 'local:/x'],
    'bad-duration': ['--duration', 'long', 'local:/x'],
    'negative-duration': ['--duration', '-1', 'local:/x'],
    'missing-value': ['--duration'],
    'summary-as-json': ['--view', 'summary', '-o', 'json:/tmp/x', 'local:/x'],
}


@params(*USAGE)
def test_usage(kind):
    code, out, err = run(*USAGE[kind])
    say(err.strip().replace('\n', ' / '))
    assert code == 2, (code, err)
    assert out == '' and err.startswith('host-reader: '), err


def test_unwritable_output():
    with tempfile.TemporaryDirectory() as dir:
        path = os.path.join(dir, 'region')
        make_file(path, 1 << 20)
        code, _, err = run('--duration', '2', '-o', f'text:{dir}/no/such/dir/out', f'ivshmem:{path}')
        say(err.strip())
        assert code == 1 and 'no/such/dir' in err, (code, err)
        assert open(path, 'rb').read() == bytes(1 << 20), 'the region was touched all the same'


def test_help_and_version():
    code, out, err = run('--help')
    assert code == 0 and err == '' and '--duration' in out and 'ivshmem:' in out
    code, out, err = run('--version')
    assert code == 0 and '0.1.0' in out
    say(out.strip())


FAKE = """
import mmap, sys, time
maps = []
for path in sys.argv[1].split(':'):
    with open(path, 'r+b') as f:
        maps.append(mmap.mmap(f.fileno(), 0))
print('ready', flush=True)
time.sleep(1000)
"""


def test_list():
    """Processes that call themselves QEMU, with the ways to write its command line, what they map, and names that lie."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as dir:
        qemu, odd = os.path.join(dir, 'qemu-system-x86_64'), os.path.join(dir, 'a,b')
        shutil.copy(os.path.realpath('/proc/self/exe'), qemu)
        paths = [os.path.join(dir, name) for name in ('ram', 'none')]
        make_file(paths[0], 32 << 20, os.urandom(4096))
        make_file(paths[1], 1 << 20)
        make_file(odd, 1 << 20, superblock(99))
        vms = {
            'plain': (['-name', 'guest=web,1,debug-threads=on'.replace(',1', ',,1'), '-object',
                       f'memory-backend-file,id=m,size=1M,share=on,mem-path={paths[1]}', '-device',
                       'ivshmem-plain,memdev=m'], [paths[0], paths[1]],
                      ['web,1: qemu-system-x86_64, emulated, 32 MiB of shared memory',
                       f'host-reader ivshmem:{paths[1]}    no guest-agent yet']),
            'json': (['-name', 'two', '--object', '{"qom-type":"memory-backend-file","id":"s","mem-path":"%s"}' % odd,
                      '-device', '{"driver":"ivshmem-plain","memdev":"s","bus":"pci.0"}'], [odd],
                     ['two: qemu', f'host-reader ivshmem:{odd.replace(",", ",,")}    not for us: ', 'version 99',
                      'its RAM is not shared']),
            'bell': (['-chardev', 'socket,path=/tmp/so,,cket,id=c', '-device', 'ivshmem-doorbell,vectors=1,chardev=c'],
                     [paths[1]], ['(no name)', 'host-reader doorbell:/tmp/so,,cket    has to serve']),
            'qmp': (['-qmp', 'unix:/tmp/a,,b.qmp,server=on,wait=off'], [paths[1]],
                    ['host-reader qmp:/tmp/a,,b.qmp    plugs in a device']),
            'monitor': (['-chardev', 'socket,id=m,path=its.qmp,server=on', '-mon', 'chardev=m,id=x,mode=control'],
                        [paths[1]], [f'host-reader qmp:{os.getcwd()}/its.qmp    plugs in']),
            'human': (['-chardev', 'socket,id=m,path=its.qmp', '-mon', 'chardev=m,mode=readline'], [paths[1]],
                      ['no ivshmem device, or none that can be seen']),
            'libvirt': (['-name', 'guest=db-1,debug-threads=on', '-chardev', 'socket,id=charmonitor,fd=28,server=on',
                         '-mon', 'chardev=charmonitor,id=monitor,mode=control'], [paths[1]],
                        ["<shmem name='db-1.htrace'>", 'virsh attach-device db-1 htrace.xml --live',
                         'host-reader ivshmem:/dev/shm/db-1.htrace', 'virsh detach-device db-1']),
            'libvirt, evil': (['-name', 'guest=$(reboot)', '-mon', 'chardev=charmonitor,mode=control'], [paths[1]],
                              ["<shmem name='NAME.htrace'>", 'virsh attach-device NAME htrace.xml']),
            'evil': (['-name', '\x1b[2J\n1 root: KVM', '-device', 'ivshmem-plain,memdev=nowhere', '-smp',
                       '3,sockets=1', '-object'], [paths[1]],
                     ['\\x1b[2J\\x0a1 root', ', 3 vCPUs', 'no ivshmem device, or none that can be seen']),
        }
        processes = {}
        try:
            for name, (arguments, maps, _) in vms.items():
                processes[name] = subprocess.Popen([qemu, '-c', FAKE, ':'.join(maps), *arguments],
                                                   stdout=subprocess.PIPE, text=True)
            for p in processes.values():
                assert p.stdout.readline() == 'ready\n'
            before = [open(p, 'rb').read() for p in (paths[1], odd)]
            status, out, err = run('--list')
            assert status == 0, err
            shown = {line.split()[0]: text for text in re.split(r'^(?=\d)', out, flags=re.M)[1:] for line in [text]}
            for name, (_, _, expect) in vms.items():
                text = shown[str(processes[name].pid)]
                say(text.rstrip().replace('\n', '\n     '))
                for part in expect:
                    assert part in text, f'{name}: no {part!r}'
            assert '\x1b' not in out and [open(p, 'rb').read() for p in (paths[1], odd)] == before
        finally:
            for p in processes.values():
                p.kill()
                p.communicate()
    assert all(str(p.pid) not in run('--list')[1].split() for p in processes.values())


def test_ended_at_once():
    """
    Who reads the first message may end the reader, also one that a shell began by `&`, which ignores SIGINT until it catches
    it. Here it cannot get rid of that message, which is about one of its sources, before it was signalled.
    """
    dir = tempfile.mkdtemp()
    reading, writing = os.pipe()
    try:
        region, other = (os.path.join(dir, name) for name in ('region', 'other'))
        make_file(region, 16 << 20)
        make_file(other, 16 << 20, b'x' * 4096)
        os.set_blocking(writing, False)
        try:
            while True:
                os.write(writing, b'x' * 4096)
        except BlockingIOError:
            os.set_blocking(writing, True)
        reader = subprocess.Popen([READER, f'local:{other}', f'local:{region}'], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.DEVNULL, stderr=writing,
                                  preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
        os.close(writing)
        try:
            end = time.time() + 20
            while time.time() < end:
                with open(f'/proc/{reader.pid}/syscall', encoding='ascii') as f:
                    if f.read().split()[:2] == ['1', '0x2']:  # write(2, ...
                        break
                time.sleep(0.01)
            else:
                raise AssertionError('it said nothing')
            reader.send_signal(signal.SIGINT)
            with open(reading, encoding='ascii', closefd=False) as f:
                said = f.read().lstrip('x')
            assert reader.wait(20) == 1 and '--- summary of' in said, (reader.returncode, said)
        finally:
            reader.kill()
    finally:
        os.close(reading)
        shutil.rmtree(dir)

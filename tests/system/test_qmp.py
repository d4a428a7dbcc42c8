# SPDX-License-Identifier: LGPL-2.1-or-later
"""qmp:SOCKET plugs a device into a VM that runs without one, and takes it out again, whatever happens."""

import glob
import json
import os
import re
import signal
import subprocess
import tempfile
import time

from fakeqmp import FakeQemu, Hostile
from guestlike import Stage
from harness import params, say
from test_dead import Qmp, counted, flat, follow
from test_sandbox import children, status
from vm import COUNTED, READER, VM, Reader


def left():
    """Files of regions that are there."""
    return set(glob.glob('/dev/shm/htrace-qmp-*'))


def run(path, *args, timeout=60):
    """A reader that is to end by itself: (exit status, what it said, seconds)."""
    begun = time.time()
    done = subprocess.run([READER, *args, f'qmp:{path}'], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=timeout)
    return done.returncode, done.stderr, time.time() - begun


def keeper(reader):
    return next(p for p in children(reader.process.pid) if open(f'/proc/{p}/comm').read() == 'reader-plug\n')


def test_in_and_out():
    """A device goes in as asked, is gone at the end, its file too; the monitor is another process' alone, confined."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('qmp')) as qemu:
        reader = Reader(f'qmp:{qemu.path}', '--stats', '1')
        reader.wait_for('plugged a device of 32 MiB')  # of six CPUs
        assert list(qemu.devices.values()) == [{'driver': 'ivshmem-plain', 'id': 'htrace', 'memdev': 'htrace-memory',
                                                'bus': 'pci.0'}]
        memory = qemu.objects['htrace-memory']
        assert memory['size'] == 32 << 20 and memory['share'] is True and [memory['mem_path']] == [*(left() - before)]
        reader.wait_for('sandbox: ')
        pid = keeper(reader)
        open_files = sorted(os.readlink(f'/proc/{pid}/fd/{n}') for n in os.listdir(f'/proc/{pid}/fd'))
        assert open_files[:3] == 3 * ['/dev/null'] and len(open_files) == 5, open_files
        its = status(pid)
        assert its['CapPrm'] == 0 and its['NoNewPrivs'] == 1, its
        assert reader.stop() == 0, reader.err()
        assert qemu.empty and left() == before
        assert [n for n, _ in qemu.done].count('device_del') == 1


def test_vm_ends():
    """The VM's end is the source's. Here its process lives on: then the device may be in it, and the file is kept."""
    with Stage() as stage:
        with FakeQemu(stage.path('qmp')) as qemu:
            reader = Reader(f'qmp:{qemu.path}')
            reader.wait_for('plugged')
        reader.wait_for('the connection to QEMU is gone')
        assert reader.process.wait(20) == 1
        assert 'no guest came' in reader.err() and 'could not be taken out' in reader.err(), reader.err()
    os.unlink(qemu.objects['htrace-memory']['mem_path'])


@params(('q35', {}, 'has no PCIe root port, and only there'),
        ('q35', {'a': {'taken': True}, 'b': {'hotplug': False}}, "none of the VM's 2 PCIe root ports is free"),
        ('virt', {'a': {'taken': True}}, "none of the VM's 1 PCIe root ports is free"))
def test_no_place(machine, ports, text):
    """What is missing, and how to add it."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('qmp'), f'pc-{machine}-7.2-machine', ports) as qemu:
        ret, said, _ = run(qemu.path)
        assert ret == 1 and text in said and '-device pcie-root-port,id=' in said and 'pref64-reserve' in said, said
        assert qemu.empty and left() == before and not [n for n, _ in qemu.done if n == 'object-add']


@params(({'a': {'taken': True, 'reserve': 1 << 30}, 'b': {}, 'c': {'reserve': 64 << 20}, 'd': {'reserve': 8 << 20}}, 'c',
         32, False),
        ({'a': {'reserve': 16 << 20}}, 'a', 16, True),
        ({'a': {}}, 'a', 2, True))
def test_ports(ports, bus, mib, told):
    """The free one with the most room, no more than that room, and what more would need."""
    with Stage() as stage, FakeQemu(stage.path('qmp'), 'pc-q35-7.2-machine', ports) as qemu:
        reader = Reader(f'qmp:{qemu.path}')
        reader.wait_for(f'plugged a device of {mib} MiB')
        assert qemu.devices['htrace']['bus'] == bus
        assert ('pref64-reserve=32M' in reader.err()) == told, reader.err()
        reader.stop()
        assert qemu.empty


def test_killed():
    """The next reader goes on with what one left that was killed, and takes it out; one beside it is refused."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('qmp')) as qemu:
        reader = Reader(f'qmp:{qemu.path}')
        reader.wait_for('plugged')
        ret, said, seconds = run(qemu.path)
        assert ret == 1 and 'another host-reader reads it' in said and seconds < 10, said
        reader.process.kill()
        reader.process.wait()
        time.sleep(0.3)
        assert 'htrace' in qemu.devices and len(left() - before) == 1
        second = Reader(f'qmp:{qemu.path}', name='second')
        second.wait_for('going on with the device that a host-reader before this one left')
        second.stop()
        assert qemu.empty and left() == before
        assert [n for n, _ in qemu.done].count('object-add') == 1


@params('file', 'device', 'other')
def test_leftovers(what):
    """What cannot be gone on with is taken out first: no file, no device, another file."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('qmp')) as qemu:
        reader = Reader(f'qmp:{qemu.path}')
        reader.wait_for('plugged')
        reader.process.kill()
        reader.process.wait()
        memory = qemu.objects['htrace-memory']
        if what == 'file':
            os.unlink(memory['mem_path'])
        elif what == 'device':
            del qemu.devices['htrace']
        else:
            memory['mem_path'] = '/etc/passwd'
        second = Reader(f'qmp:{qemu.path}', name='second')
        second.wait_for('plugged')
        assert qemu.objects['htrace-memory'] is not memory
        second.stop()
        assert qemu.empty and left() == before


def test_not_ours():
    """Devices and objects of our name that are something else stay, as does a file that is in the way."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('qmp')) as qemu:
        qemu.devices['htrace'] = {'driver': 'e1000', 'bus': 'x'}
        ret, said, _ = run(qemu.path)
        assert ret == 1 and "a device called 'htrace' that is not ours" in said, said
        qemu.devices.clear()
        qemu.objects['htrace-memory'] = {'qom_type': 'secret'}
        ret, said, _ = run(qemu.path)
        assert ret == 1 and "an object called 'htrace-memory' that is not ours" in said, said
        assert not [n for n, _ in qemu.done if n.endswith('del')] and left() == before


def test_guest_keeps_it():
    """A guest that does not eject: said, kept, and taken out by the next reader when it does."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('qmp'), ejects=False) as qemu:
        reader = Reader(f'qmp:{qemu.path}')
        reader.wait_for('plugged')
        assert reader.stop(timeout=40) == 0
        assert 'the guest does not give the device back' in reader.err() and len(left() - before) == 1, reader.err()
        second = Reader(f'qmp:{qemu.path}', name='second')
        second.wait_for('going on with')
        qemu.eject('htrace')
        second.wait_for('the device was taken out of the VM, not by us')
        assert second.process.wait(20) == 1  # by itself: nothing can come any more
        assert qemu.empty and left() == before


HOSTILE = {
    'silent': (b'', 1, 'nobody answers there'),
    'garbage': (b'\xff\x00HTTP/1.1 400 Bad Request\r\n', 1, 'what came is no QMP'),
    'long': (b'x' * 65536, None, 'a line of more than'),
    'deep': (b'[' * 200000 + b'\n', 1, 'what came is no QMP'),
    'other': (b'{"QMP": 5}\n', 1, 'what came is no QMP'),
    'lines': (b'{}\n' * 1000, None, 'what came is no QMP'),
    'events': (b'{"event": "A", "data": {"device": 7}}\n', None, 'QEMU does not answer'),
    'unasked': (b'{"return": {}}\n', 1, 'what came is no QMP'),
    'both': (b'{"return": {}, "error": {}, "id": 1}\n', 1, 'what came is no QMP'),
    'slow': (b' ', None, 'nobody answers there'),
}


@params(*HOSTILE)
def test_hostile(kind):
    """Whatever is said there: an error, in bounded time, and nothing left behind."""
    before = left()
    text, times, expected = HOSTILE[kind]
    with Stage() as stage, Hostile(stage.path('qmp'), text, times, 0.01 if kind == 'slow' else 0,
                                   greets=kind in ('events', 'unasked', 'both')):
        ret, said, seconds = run(stage.path('qmp'))
        say(f'{seconds:.1f} s: {said.strip()[-120:]}')
        assert ret == 1 and expected in said and seconds < 20, (said, seconds)
        assert left() == before


SPOILT = {
    'error': ({'device_add': {'error': {'class': 'GenericError', 'desc': 'no\x1b[2Jslot\n'}}}, r'no\\x1b[2Jslot\\x0a'),
    'wrong id': ({'qom-list': b'{"id": 99, "return": []}\n'}, 'what came is no QMP'),
    'types': ({'qom-list': {'return': [5, {'name': 7, 'type': []}, {}]}, 'qom-get': {'return': {'a': 'b'}},
               'query-hotpluggable-cpus': {'return': -1}}, 'has no PCIe root port'),
    'never': ({'object-add': None}, 'QEMU does not answer'),
}


@params(*SPOILT)
def test_spoilt(kind):
    """Answers that are wrong in the midst of it."""
    before = left()
    spoil, expected = SPOILT[kind]
    with Stage() as stage, FakeQemu(stage.path('qmp'), spoil=spoil) as qemu:
        ret, said, seconds = run(qemu.path)
        assert ret == 1 and expected.replace('\\\\', '\\') in said and seconds < 20, said
        assert left() == before and qemu.empty


def test_two():
    """Two VMs, one reader: each has its device and its keeper; one that ends is not the other's end."""
    before = left()
    with Stage() as stage, FakeQemu(stage.path('other')) as other:
        with FakeQemu(stage.path('qmp')) as qemu:
            reader = Reader(f'qmp:{qemu.path}', f'qmp:{other.path},size=1M')
            reader.wait_for('plugged a device', count=2)
            assert other.objects['htrace-memory']['size'] == 1 << 20 and len(left() - before) == 2
            qemu.eject('htrace')
            reader.wait_for('the device was taken out of the VM, not by us')
            time.sleep(0.5)
            assert reader.process.poll() is None and 'htrace' in other.devices
            assert reader.stop() == 0
            assert qemu.empty and other.empty and left() == before


def test_talks_on():
    """A monitor that talks without end costs the reader's process for it little, and its reader nothing."""
    with Stage() as stage, FakeQemu(stage.path('qmp')) as qemu:
        reader = Reader(f'qmp:{qemu.path}', '--stats', '1')
        reader.wait_for('sandbox: ')
        pid, begun = keeper(reader), time.time()
        while time.time() - begun < 3:
            for _ in range(100):
                qemu.event('X', device='y' * 500)
        with open(f'/proc/{pid}/stat', encoding='ascii') as f:
            cpu = sum(int(t) for t in f.read().rsplit(')', 1)[1].split()[11:13]) / os.sysconf('SC_CLK_TCK')
        say(f'{cpu:.2f} s of CPU in 3 s')
        assert cpu < 1.5
        reader.stop()
        assert qemu.empty


def test_wrong_sockets():
    """What is no monitor: said so, and how to get one."""
    with Stage() as stage:
        for path, text in ((stage.path('none'), '-qmp unix:SOCKET'), ('/dev/null', 'Connection refused'),
                           (stage.path('x' * 200), 'longer than')):
            if 'xxx' in path:
                open(path, 'w', encoding='ascii').close()
            ret, said, _ = run(path)
            assert ret == 1 and text in said, said
    for bad in ('size=3M', 'size=1', 'share=on'):
        done = subprocess.run([READER, f'qmp:x,{bad}'], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr


ROUND = 500  # as test_dead has it: records of `counted` each

GUEST = f"""
guest-agent --wait --events none --bpf /counted.bpf.o >> /tmp/agent.log 2>&1 &
agent=$!
echo BOOTED
shown=0
i=0
while kill -0 $agent; do
	said=$(wc -l < /tmp/agent.log)
	[ $said = $shown ] || tail -n +$((shown + 1)) /tmp/agent.log
	shown=$said
	if grep -E ': tracing|was removed' /tmp/agent.log | tail -n 1 | grep -q tracing; then
		workload count {ROUND} 424242 && i=$((i + 1)) && echo ROUND $i
	fi
	sleep 0.2
done
"""


def rounds(vm, more):
    """So many more of them."""
    last = max([0, *map(int, re.findall(r'ROUND (\d+)', vm.console()))])
    vm.wait_for(rf'ROUND {last + more}\b')


def check_complete(path, reader):
    """Every record from the session's first on."""
    numbers = flat(counted(path))
    follow(numbers, path)
    assert numbers[0] == 0 and len(numbers) > 3 * ROUND, (numbers[:3], len(numbers))
    assert re.search(r'^lost +0 ', reader.err(), re.M) and re.search(r'^before +0 ', reader.err(), re.M), reader.err()
    return len(numbers)


def objects(path):
    """What of ours QEMU has, by a monitor that is free."""
    qmp = Qmp(path)
    names = [o['name'] for at in ('/objects', '/machine/peripheral') for o in qmp.do('qom-list', path=at)]
    qmp.socket.close()
    return [n for n in names if n.startswith('htrace')]


@params(('pc', True, None), ('q35', False, ''), thorough=[('q35', False, ',pref64-reserve=64M')])
def test_guest(machine, private, port):
    """
    A guest that was booted without a device: traced, its reader killed, gone on with by a second one, the device taken
    out and another one plugged in, until QEMU is killed. Nothing is missing, and nothing stays.
    """
    before = left()
    with VM(GUEST, regions=0, machine=machine, private_ram=private, add=[COUNTED]) as vm:
        path = os.path.join(vm.dir, 'qmp')
        vm.command += ['--qmp', path]
        if port is not None:
            vm.command += ['--', '-device', f'pcie-root-port,id=port1,chassis=1{port}']
        vm.start()
        vm.wait_for('waiting for an ivshmem device')
        readers, outs = [], []

        def read():
            outs.append(os.path.join(vm.dir, f'json{len(outs)}'))
            readers.append(Reader(f'qmp:{path}', '-o', f'json:{outs[-1]}', name=f'reader{len(outs)}'))
            return readers[-1]

        first = read()
        first.wait_for('plugged a device of')
        vm.wait_for('guest-agent: tracing')
        rounds(vm, 4)
        first.process.kill()
        first.process.wait()
        rounds(vm, 2)
        second = read()
        second.wait_for('going on with the device')
        rounds(vm, 4)
        second.process.send_signal(signal.SIGINT)
        begun = time.time()
        assert second.process.wait(40) == 0, second.err()
        took = time.time() - begun
        assert left() == before and not objects(path), second.err()
        vm.wait_for('the ivshmem device was removed; waiting for the next one')
        third = read()
        third.wait_for('plugged a device of')
        vm.wait_for('guest-agent: tracing', count=2)
        rounds(vm, 4)
        time.sleep(1)
        vm.qemu.kill()
        vm.qemu.wait()
        assert third.process.wait(30) == 0, third.err()
        assert left() == before
        say(f'{machine}: {[check_complete(o, r) for o, r in zip(outs[1:], readers[1:])]} records; taken out in {took:.1f} s')


def test_no_guest():
    """QEMU without an operating system: what it lacks is said; what nobody ejects goes with a reset."""
    before = left()
    with tempfile.TemporaryDirectory(dir='/dev/shm') as here:
        path = os.path.join(here, 'qmp')

        def qemu(machine):
            process = subprocess.Popen(['qemu-system-x86_64', '-nodefaults', '-display', 'none', '-M', machine, '-accel',
                                        'tcg', '-m', '64M', '-qmp', f'unix:{path},server=on,wait=off'])
            while not os.path.exists(path):
                assert process.poll() is None
                time.sleep(0.05)
            return process

        with qemu('q35') as process:
            ret, said, _ = run(path)
            process.kill()
        assert ret == 1 and '(machine pc-q35-' in said and 'has no PCIe root port' in said, said
        os.unlink(path)
        with qemu('pc') as process:
            reader = Reader(f'qmp:{path}')
            reader.wait_for('plugged a device of 16 MiB')
            assert 'no process that can be seen' not in reader.err()
            assert reader.stop(timeout=40) == 0 and 'does not give the device back' in reader.err(), reader.err()
            assert objects(path) == ['htrace-memory', 'htrace']
            Qmp(path).do('system_reset')
            time.sleep(1)
            assert objects(path) == ['htrace-memory']
            second = Reader(f'qmp:{path}', name='second')
            second.wait_for('plugged a device of 16 MiB')
            process.kill()
            process.wait()
            second.wait_for('the connection to QEMU is gone')
            assert second.process.wait(20) == 1
        assert left() == before

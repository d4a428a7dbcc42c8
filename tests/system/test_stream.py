# SPDX-License-Identifier: LGPL-2.1-or-later
"""Sources `stream:`: what is sent where nothing can be shared is what would have been read."""

import collections
import json
import os
import random
import signal
import socket
import struct
import tarfile
import tempfile
import time

import test_loss
import test_truth
from guestlike import Guestlike
from harness import Skip, no_vsock_loopback, params, say
from nested import libraries
from streams import Line, Sender, free_port
from vm import READER, VM, Reader

CPUS = 2


class Scene:
    """A directory, a reader of one stream, and who sends."""

    def __enter__(self):
        self.dir = tempfile.TemporaryDirectory(prefix='htrace-stream-', dir='/dev/shm')
        self.line, self.senders = None, []
        return self

    def __exit__(self, *_):
        for sender in self.senders:
            sender.kill()
        if self.line:
            self.line.stop()
        self.dir.cleanup()

    def sender(self, where, **kind):
        self.senders.append(Sender(where, cpus=CPUS, **kind))
        return self.senders[-1]

    def by_line(self, **kind):
        self.line = Line(self.dir.name)
        return Reader('stream:' + self.line.paths['host'], '-o', 'json'), self.sender(self.line.paths['guest'], **kind)


def account(reader):
    """{cpu: [number, or ('lost', n)]} in the order of the JSON output."""
    found = {cpu: [] for cpu in range(CPUS)}
    for line in reader.out().splitlines():
        item = json.loads(line)
        if item.get('event') == 'counted':
            found[item['cpu']].append(item['fields']['number'])
        elif 'lost' in item:
            found[item['cpu']].append(('lost', item['lost']))
    return found


def exact(items, total):
    """
    Each number is there once, in order, or among the lost: those are told in their place, or the rest of them with a later
    loss, where the rings' words went by while they were sent. Gives how many were lost.
    """
    told = lost = 0
    last = -1
    for i, item in enumerate(items):
        if isinstance(item, tuple):
            lost += item[1]
            told += item[1]
            continue
        near = items[max(i - 3, 0):i + 3]
        assert item > last, f'{item} behind {last}: {near}'
        assert told <= item, f'{item}, of which {told} are told before it: {near}'
        last = item
        told += 1
    assert told == total, (told, total)
    return lost


def whole(reader, n):
    found = account(reader)
    for cpu in range(CPUS):
        assert found[cpu] == list(range(n)), (cpu, len(found[cpu]), found[cpu][:20], reader.err()[-2000:])


def tcp(scene, **kind):
    where = f'127.0.0.1:{free_port()}'
    return Reader('stream:' + where, '-o', 'json'), scene.sender(where, **kind)


def descriptor(scene, **kind):
    """A socket pair: FD on both sides."""
    ours, theirs = socket.socketpair()
    os.set_inheritable(ours.fileno(), True)
    os.set_inheritable(theirs.fileno(), True)
    reader = Reader(f'stream:{ours.fileno()}', '-o', 'json', pass_fds=[ours.fileno()])
    sender = scene.sender(str(theirs.fileno()), pass_fds=[theirs.fileno()], **kind)
    ours.close()
    theirs.close()
    return reader, sender


def terminal(scene, **kind):
    """A serial line: the reader has a pseudo terminal, as of QEMU's -serial pty."""
    host, guest = os.openpty()
    path = os.ttyname(guest)
    os.set_inheritable(host, True)
    reader = Reader('stream:' + path, '-o', 'json')
    sender = scene.sender(str(host), pass_fds=[host], **kind)
    os.close(host)
    reader.wait_for('stream|guest')
    os.close(guest)
    return reader, sender


def unix(scene, **kind):
    return scene.by_line(**kind)


WAYS = {f.__name__: f for f in (tcp, unix, descriptor, terminal)}


@params(('tcp', 'overwrite'), ('unix', 'overwrite'), ('descriptor', 'discard'), ('terminal', 'overwrite'))
def test_whole(way, policy):
    """All events, in order, each once, and the session ends properly; confined as ever."""
    with Scene() as scene:
        reader, sender = WAYS[way](scene, policy=policy, kib=1024)
        reader.wait_for('CPUs')
        for _ in range(10):
            for cpu in range(CPUS):
                sender.do(f'w {cpu} 2000')
            time.sleep(0.1)
        sender.close()
        if way != 'descriptor':
            reader.wait_for('ended the session|connection is over')
        assert reader.stop() == 0, reader.err()
        whole(reader, 20000)
        say(f'{CPUS * 20000} records, complete')


@params('overwrite', 'discard')
def test_reader_stops(policy):
    """
    Reader and receiver stand still while far more is produced than rings and sockets hold. The producer does not
    wait for them, and afterwards all is there or told as lost, exactly.
    """
    with Scene() as scene:
        reader, sender = tcp(scene, policy=policy, kib=64)
        reader.wait_for('CPUs')
        for cpu in range(CPUS):
            sender.do(f'w {cpu} 100')
        reader.wait_for('"number":99', where='out', count=CPUS)
        pids = [reader.process.pid] + children(reader.process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        begin = time.time()
        dropped = 0
        for _ in range(10):
            for cpu in range(CPUS):
                dropped = sender.do(f'w {cpu} 100000')
        took = time.time() - begin
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        time.sleep(1)
        for cpu in range(CPUS):
            dropped = sender.do(f'w {cpu} 10')
        time.sleep(1)
        sender.close()
        assert reader.stop() == 0, reader.err()
        found = account(reader)
        if policy == 'discard':  # what is dropped has no number
            lost = sum(i[1] for cpu in found for i in found[cpu] if isinstance(i, tuple))
            assert lost == dropped > 100000, (lost, dropped)
            for cpu in range(CPUS):
                numbers = [i for i in found[cpu] if not isinstance(i, tuple)]
                assert numbers == list(range(len(numbers)))
            assert sum(len(found[cpu]) for cpu in found) > 200
        else:
            lost = sum(exact(found[cpu], 1000110) for cpu in range(CPUS))
            assert dropped == 0 and lost > 1000000, (dropped, lost)
        assert took < 10, took
        say(f'{CPUS} x 1000110 calls in {took:.2f} s; {lost} lost, exactly')


def children(pid):
    """And theirs."""
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
        own = [int(p) for p in f.read().split()]
    return own + [grandchild for child in own for grandchild in children(child)]


def test_jam():
    """The line takes nothing for a while: no loss while rings hold it; then it goes on where it was."""
    with Scene() as scene:
        reader, sender = scene.by_line(kib=4096)
        reader.wait_for('CPUs')
        for cpu in range(CPUS):
            sender.do(f'w {cpu} 1000')
        reader.wait_for('"number":999', where='out', count=CPUS)
        scene.line.open = False
        for _ in range(30):
            for cpu in range(CPUS):
                sender.do(f'w {cpu} 1000')
            time.sleep(0.05)
        scene.line.open = True
        time.sleep(1)
        sender.close()
        assert reader.stop() == 0, reader.err()
        whole(reader, 31000)


@params(1, 2)
def test_reconnect(seed):
    """The line is cut again and again, in the midst of frames: each record is there once."""
    draw = random.Random(seed)
    with Scene() as scene:
        reader, sender = scene.by_line(kib=4096)
        reader.wait_for('CPUs')
        cuts = 8
        for _ in range(cuts):
            scene.line.cut_at = scene.line.carried + draw.randrange(1, 60000)
            for cpu in range(CPUS):
                sender.do(f'w {cpu} 2000')
            time.sleep(0.4)
        scene.line.cut_at = None
        time.sleep(4)
        sender.close()
        assert reader.stop() == 0, reader.err()
        whole(reader, 2000 * cuts)
        assert 'connection is over' in reader.err()
        say(f'{cuts} cuts, {scene.line.carried} bytes carried')


def test_reader_again():
    """A reader that ends, or is killed, and another one: what the rings hold, then on; discard: what the first left."""
    for policy in ('overwrite', 'discard'):
        with Scene() as scene:
            where = f'127.0.0.1:{free_port()}'
            first = Reader('stream:' + where, '-o', 'json', name='first')
            sender = scene.sender(where, policy=policy, kib=1024)
            first.wait_for('CPUs')
            for cpu in range(CPUS):
                sender.do(f'w {cpu} 5000')
            first.wait_for('"number":4999', where='out', count=CPUS)
            time.sleep(0.5)
            first.signal(signal.SIGKILL)
            first.process.wait()
            for cpu in range(CPUS):
                sender.do(f'w {cpu} 5000')
            second = Reader('stream:' + where, '-o', 'json', name='second')
            second.wait_for('CPUs')
            second.wait_for('"number":9999', where='out', count=CPUS)
            sender.close()
            assert second.stop() == 0, second.err()
            found = account(second)
            for cpu in range(CPUS):
                begin = found[cpu][0]
                assert found[cpu] == list(range(begin, 10000)), (policy, begin, len(found[cpu]))
                assert begin == 0 if policy == 'overwrite' else begin in range(4000, 5001), begin
            say(f'{policy}: the second reader begins with {found[0][0]}')


def test_next_agent():
    """A guest that is killed, and its next agent, at one reader: two sessions."""
    with Scene() as scene:
        reader, sender = tcp(scene)
        reader.wait_for('CPUs')
        sender.do('w 0 100')
        reader.wait_for('"number":99', where='out')
        sender.kill()
        where = reader.source.removeprefix('stream:')
        again = scene.sender(where)
        reader.wait_for('new session|restarted')
        again.do('w 1 50')
        reader.wait_for('"number":49', where='out', count=2)
        again.close()
        assert reader.stop() == 0, reader.err()
        found = account(reader)
        assert found == {0: list(range(100)), 1: list(range(50))}, found


def wait_listening(address):
    """Until /proc says so; connecting would be a guest."""
    want = f'0100007F:{address[1]:04X} 00000000:0000 0A'
    end = time.time() + 10
    while time.time() < end:
        with open('/proc/net/tcp', encoding='ascii') as f:
            if want in f.read():
                return
        time.sleep(0.02)
    raise RuntimeError('nobody listens')


def test_hostile():
    """Who sends what it should not is refused, once a second at most; the next one is served; memory stays bounded."""
    where = f'127.0.0.1:{free_port()}'
    address = ('127.0.0.1', int(where.split(':')[1]))
    reader = Reader('stream:' + where + ',size=4M', '-o', 'json')
    wait_listening(address)
    draw = random.Random(5)

    def ask(s):
        """The reader's nonce."""
        order = b''
        while len(order) < 48:
            order += s.recv(48 - len(order))
        return struct.unpack_from('<Q', order, 8)[0]

    def frame(kind, arg, data=b'', length=None, magic=0x46525448):
        return struct.pack('<IIQII', magic, kind, arg, len(data) if length is None else length, 0) + data

    def supers():
        yield b'\0' * 8
        yield struct.pack('<II', 1, 0) + b'HTRACE01' + bytes(520 - 16)
        yield struct.pack('<II', 99, 0) + bytes(1000)
        for _ in range(4):
            yield struct.pack('<II', 1, 0) + b'HTRACE01' + draw.randbytes(draw.randrange(100, 800) * 8)

    for data in list(supers()) + [None, None, b'x']:
        try:
            with socket.create_connection(address, timeout=10) as s:
                s.settimeout(10)
                nonce = ask(s)
                s.sendall(draw.randbytes(5000))
                if data is None:
                    s.sendall(frame(1, nonce, length=0xfffffff8))
                elif data == b'x':
                    s.sendall(frame(1, nonce) + frame(3, 0, bytes(4096)))
                else:
                    s.sendall(frame(1, nonce, data) + frame(3, 0, bytes(64)) + frame(3, 1 << 63, bytes(64)))
                s.settimeout(5)
                while s.recv(65536):
                    pass
        except ConnectionResetError:
            pass
    assert reader.err().count('is over') + reader.err().count('refused') >= 5, reader.err()
    with Scene() as scene:
        sender = scene.sender(where, kib=64)
        reader.wait_for('the guest|CPUs', timeout=20)
        reader.wait_for('need')
        sender.kill()
    assert reader.process.poll() is None
    reader.stop()


def shared_maps(pid):
    """What it has mapped that others have, too."""
    with open(f'/proc/{pid}/maps', encoding='utf-8') as f:
        lines = [line.split(maxsplit=5) for line in f]
    return [line[5].strip() if len(line) > 5 else '' for line in lines if line[1].endswith('s')]


def name_of(pid):
    with open(f'/proc/{pid}/comm', encoding='utf-8') as f:
        return f.read().strip()


def lives(pid):
    try:
        with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
            return f.read().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_alone():
    """
    Who receives has its own region's memory, and nothing else that its reader has mapped: no other guest's, no rings of
    an output's; who connects for it has none at all. Both are gone when their reader is, even one that does not listen.
    """
    with Scene() as scene:
        region = Guestlike(os.path.join(scene.dir.name, 'region'))
        scene.senders.append(region)
        reader = Reader(f'stream:{scene.dir.name}/socket', '-o', f'raw:{scene.dir.name}/capture',
                        f'ivshmem:{region.path}', f'stream:127.0.0.1:{free_port()}')
        reader.wait_for('CPUs')
        helpers = {pid: name_of(pid) for pid in children(reader.process.pid)}
        assert any(region.path in name for name in shared_maps(reader.process.pid))
        for pid, name in helpers.items():
            if name == 'reader-stream':
                assert shared_maps(pid) == ['/memfd:htrace-stream (deleted)'], shared_maps(pid)
            if name == 'reader-connect':
                assert not shared_maps(pid), shared_maps(pid)
        assert sorted(helpers.values()) == ['reader-connect', 'reader-connect', 'reader-finder', 'reader-stream',
                                            'reader-stream'], helpers
        for pid, name in helpers.items():
            if name == 'reader-stream':
                os.kill(pid, signal.SIGSTOP)
        reader.signal(signal.SIGKILL)
        reader.process.wait()
        end = time.time() + 10
        while any(map(lives, helpers)):
            assert time.time() < end, helpers
            time.sleep(0.02)


def test_refused():
    """Not the whole network, not what is no place; said so that one can go on."""
    for source, text in (('0.0.0.0:7000', 'ssh'), ('10.0.2.2:7000', 'ssh'), ('nothing', 'no descriptor'),
                         ('127.0.0.1:0', 'no address and port'), ('vsock:x:1', 'CID:PORT'), ('99', 'descriptor')):
        reader = Reader('stream:' + source)
        assert reader.process.wait(20) == 1, source
        assert text in reader.err(), (source, reader.err())


def test_vsock():
    """By vsock's loopback, where the kernel has it."""
    if no_vsock_loopback():
        raise Skip('the kernel has no vsock loopback')
    with Scene() as scene:
        reader = Reader('stream:vsock:1:17012', '-o', 'json')
        sender = scene.sender('vsock:1:17012')
        reader.wait_for('CPUs')
        for cpu in range(CPUS):
            sender.do(f'w {cpu} 5000')
        time.sleep(0.5)
        sender.close()
        assert reader.stop() == 0, reader.err()
        whole(reader, 5000)
        # Others fill nobody's messages.
        reader = Reader('stream:vsock:77:17013', '-o', 'json')
        reader.wait_for('stream')
        for _ in range(20):
            with socket.socket(socket.AF_VSOCK) as stranger:
                stranger.connect((1, 17013))
                stranger.settimeout(5)
                assert not stranger.recv(1)
        reader.stop()
        assert reader.err().count('was sent away') == 1, reader.err()


# ------------------------------------------------------------------------------------------- real guests

# Agent and reader in one guest, whose kernel connects them by vsock's loopback.
BY_VSOCK = r'''
out=/tmp/out
mkdir $out
host-reader stream:vsock:1:17012 -o json:$out/json 2> $out/err &
reader=$!
until grep -q 'vsock' $out/err; do
	kill -0 $reader || { cat $out/err; exit 1; }
	sleep 0.05
done
agent_start --verbose --region stream:vsock:1:17012 --events sys_enter --filter 'nr == 121' || exit 1
until grep -q 'CPUs' $out/err; do sleep 0.05; done
workload count CALLS 4242
agent_stop > $out/agent || exit 1
kill -INT $reader
wait $reader || { cat $out/err; exit 1; }
tar cf /dev/vda -C $out . && sync
'''


class SerialVM(VM):
    """No ivshmem device, no shared memory: a virtio-serial port, whose other end is a socket of QEMU's."""

    where = '/dev/htrace-port'

    def __init__(self, script, **options):
        options['modules'] = ['virtio_console']
        # udev would link it by its name; the number is that of the virtio device.
        super().__init__('ln -s /dev/vport*p1 /dev/htrace-port\n' + script, regions=0, private_ram=True, **options)
        path = os.path.join(self.dir, 'port')
        self.source = 'stream:' + path
        self.command += ['--', '-device', 'virtio-serial-pci', '-chardev',
                         f'socket,id=port,path={path},server=on,wait=off',
                         '-device', 'virtserialport,chardev=port,name=htrace']


class NetVM(VM):
    """Likewise, with a network of QEMU's own, in which the host is 10.0.2.2."""

    port = 0

    def __init__(self, script, **options):
        options['modules'] = ['virtio_net']
        super().__init__('ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up\n' + script, regions=0, private_ram=True,
                         **options)
        self.source = f'stream:127.0.0.1:{NetVM.port}'
        self.command += ['--', '-netdev', 'user,id=net0', '-device', 'virtio-net-pci,netdev=net0']


def machine(way):
    """Its class, and where its agent sends."""
    if way == 'serial':
        return SerialVM, SerialVM.where
    NetVM.port = free_port()
    return NetVM, f'10.0.2.2:{NetVM.port}'


def test_by_vsock():
    """A guest whose kernel has vsock's loopback: agent and reader in it, each call of the workload's once, in order."""
    calls, cpus = 20000, 2
    with VM(BY_VSOCK.replace('CALLS', str(calls)), kernel='6.1', cpus=cpus, regions=0, disk_mib=64,
            add=[READER + ':/bin/', *libraries(READER)], modules=['vsock_loopback']) as vm:
        vm.start()
        assert vm.finish(120) == 0, vm.console()[-3000:]
        with tarfile.open(vm.disk) as tar:
            files = {os.path.basename(m.name): tar.extractfile(m).read().decode() for m in tar if m.isfile()}
    found = collections.defaultdict(list)
    for e in map(json.loads, files['json'].splitlines()):
        assert 'lost' not in e, e
        if e.get('event') == 'sys_enter':
            value, number = e['fields']['args'][:2]
            assert value == 4242, e
            found[e['cpu']].append(number)
    assert found == {cpu: list(range(calls)) for cpu in range(cpus)}, {cpu: len(of) for cpu, of in found.items()}
    assert ' 0 events dropped' in files['agent'], files['agent']


@params(('serial', '6.12', 2), ('tcp', '6.1', 1))
def test_truth_by(way, kernel, cpus):
    """What ftrace recorded in the same guest, by a virtio-serial port and by TCP."""
    kind, where = machine(way)
    said = test_truth.compare(kernel, cpus, f'--buffer 16M --region stream:{where}', make=kind)
    assert 'stream: copied by the agent and sent' in said, said


@params(('serial', 'overwrite', '6.12'), thorough=[('serial', 'discard', '6.1')])
def test_exact_by(way, policy, kernel):
    """As loss.exact: a tiny ring, a reader that stands still; ftrace says what was produced."""
    kind, where = machine(way)
    test_loss.exact(policy, kernel, f'relay --region stream:{where}', 'stream: copied', make=kind)



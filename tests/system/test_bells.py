# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who rings the host's reader, and how often: a reader by hand, which is peer 0 of the guest's ivshmem-doorbell device,
says in the region's words when it wants to be woken.
"""

import mmap
import os
import re
import select
import struct
import threading
import time

from harness import params, say
from test_cost import load_bench
from test_module import HOST_RINGS, LOAD, RINGSETS, VALUE, DoorbellServer, Guest
from vm import COUNTED, VM

SYNC, NAMES_WANTED = ((1 << 16) + off for off in (36, 48))  # of htrace_host
GUEST, NAMES_SERVED = 80, 56  # htrace_super.guest, of htrace_guest
PAUSE = 0.3


class ByHand:
    """A reader's words, and the bells that it hears; positions are those of the first ring set."""

    def __init__(self, server):
        self.server = server
        self.file = open(server.region, 'r+b')
        self.mem = mmap.mmap(self.file.fileno(), 0)
        self.lock = threading.Lock()

    def session(self):
        """Of the region's rings: those that lie in it."""
        _, _, _, self.nr, self.slot, _, _, _, _, _, self.off, self.stride = \
            struct.unpack_from('<10I2Q', self.mem, RINGSETS)

    def put(self, at, form, value):
        size = struct.calcsize(form)
        self.mem[at:at + size] = struct.pack(form, value)

    def ask(self, vector):
        """None: to be woken no more."""
        self.put(SYNC, '<I', 0 if vector is None else 1 | vector << 8)

    def heads(self):
        return [self.get(self.off + i * self.stride) for i in range(self.nr)]

    def arm(self, positions):
        for i, position in enumerate(positions):
            self.put(HOST_RINGS + 64 * (self.slot + i) + 8, '<Q', position)
        with self.lock:  # a full fence
            pass

    def rung(self):
        return [self.server.rung(vector) for vector in range(len(self.server.mine))]

    def get(self, at):
        return struct.unpack_from('<Q', self.mem, at)[0]

    def answer(self):
        """Seconds until the agent has written its table of names, when it is interrupted for it."""
        served = self.get(GUEST) + NAMES_SERVED
        wanted = self.get(served) + 1
        self.put(NAMES_WANTED, '<Q', wanted)
        began = time.monotonic()
        os.eventfd_write(self.server.guests[0], 1)
        while self.get(served) != wanted:
            assert time.monotonic() - began < 10, 'no answer'
            time.sleep(0.001)
        return time.monotonic() - began

    def sleep_and_read(self, vector, is_over):
        """
        As a reader that sleeps whenever there is nothing to read. Gives how often it was woken, by how
        many bells, and how often a second look showed it that it must not sleep.
        """
        woken = bells = seen = 0
        while True:
            at = self.heads()
            self.arm(at)
            if self.heads() != at:
                seen += 1
                continue
            if select.select([self.server.mine[vector]], [], [], 3)[0]:
                woken += 1
                bells += self.server.rung(vector)
                continue
            assert self.heads() == at, f'nobody rang, at {at} after {woken} bells; now {self.heads()}'
            if is_over():
                return woken, bells, seen


def start(script, make, kernel, vectors=2):
    """A guest of two CPUs with an ivshmem-doorbell device, and its host's side."""
    vm = make(script, kernel=kernel, cpus=2, regions=0, add=[COUNTED])
    path, region = os.path.join(vm.dir, 'doorbell'), os.path.join(vm.dir, 'region')
    hand = ByHand(DoorbellServer(path, region, vectors=vectors))
    vm.command += ['--', '-chardev', f'socket,id=htrace,path={path}',
                   '-device', f'ivshmem-doorbell,vectors={vectors},chardev=htrace']
    return vm, hand


def session(mode):
    return f'''
agent_start --events none --bpf /counted.bpf.o --buffer 64K --mode {mode} || exit 1
echo READY {mode}
sleep 2
workload count 3000 {VALUE}
echo BUSY {mode}
sleep 2
workload pace 300 4 {VALUE}
echo PACED {mode}
sleep 5
workload count 100 {VALUE}
echo ASTRAY {mode}
sleep 1
echo LISTEN {mode}
{'sleep 9' if mode == 'module' else ''}
agent_stop || exit 1
'''


def check_session(vm, hand, mode):
    """A ring's record that passes where its reader sleeps rings, and no other does; the agent hears the host."""
    vm.wait_for(f'READY {mode}')
    hand.session()
    time.sleep(PAUSE)
    assert hand.rung() == [0, 0], 'without being asked'

    at = hand.heads()
    hand.arm(at)
    hand.ask(0)
    vm.wait_for(f'BUSY {mode}')
    time.sleep(PAUSE)
    rung, moved = hand.rung(), [new - old for new, old in zip(hand.heads(), at)]
    assert all(bytes_ > 3000 * 16 for bytes_ in moved), moved
    # programs ring for their own CPU's ring, the agent once for all
    assert rung[1] == 0 and (rung[0] == hand.nr if mode == 'module' else 1 <= rung[0] <= hand.nr), rung
    busy = rung[0]

    hand.ask(1)
    woken, bells, seen = hand.sleep_and_read(1, lambda: f'PACED {mode}' in vm.console())
    assert hand.rung()[0] == 0
    assert woken > 100 and bells <= (woken + seen) * hand.nr, (woken, bells, seen)

    hand.arm(hand.heads())
    hand.ask(9)  # the device has two vectors
    vm.wait_for(f'ASTRAY {mode}')
    time.sleep(PAUSE)
    assert hand.rung() == [0, 0]
    hand.ask(None)
    if mode == 'module':
        vm.wait_for(f'LISTEN {mode}')
        took = []
        for _ in range(6):
            took.append(hand.answer())
            time.sleep(1.1)  # the agent's own limit
        say(f'{mode}: interrupted, the agent answers in {", ".join(f"{1000 * s:.0f}" for s in sorted(took))} ms')
        assert sorted(took)[3] < 0.06, took  # by its heartbeat alone: any time up to 0.25
    say(f'{mode}: 6000 records past a busy reader, {busy} bells; '
        f'one that sleeps: woken {woken} times by {bells}, saw {seen} times that it must not sleep')


@params(('6.1', 'module'), ('6.12', 'module relay'), thorough=[('6.12', 'relay')])
def test_rings(kernel, modes):
    """The module's programs; the agent as relay, by the module or by the device's registers."""
    by_module = 'module' in modes
    script = (LOAD if by_module else '') + ''.join(map(session, modes.split())) + '''
dmesg | grep -E 'WARNING|BUG|Oops' && exit 1
true
'''
    vm, hand = start(script, Guest if by_module else VM, kernel)
    with vm:
        vm.start()
        for mode in modes.split():
            check_session(vm, hand, mode)
        assert vm.finish() == 0, vm.console()[-3000:]


def test_reader():
    """host-reader itself, by its policy: woken for what comes slowly, not for what comes fast, and nothing is missing."""
    bench = load_bench('doorbells')
    for rate, least, most in ((100, 0.5, 1.5), (1000000, 0, 0.02)):
        events, took, bells = bench.one('module', rate, 3, '6.12')
        say(f'{events / took:.0f} events/s: {bells} bells for {events}')
        assert least < bells / events < most


def test_direct():
    """
    BPF programs cannot ring, the agent does after the fact; and only where it is asked does it look. A session that
    had a doorbell does not go on without one.
    """
    looks = '''
looks() { # how often the agent wakes up in 3 seconds
	before=$(grep ^voluntary /proc/$agent/status | tr -dc 0-9)
	sleep 3
	echo LOOKS $1 $(($(grep ^voluntary /proc/$agent/status | tr -dc 0-9) - before))
}
'''
    script = looks + f'''
agent_start --events none --bpf /counted.bpf.o --mode direct || exit 1
looks quiet
echo READY
sleep 2
workload count 3000 {VALUE}
echo BUSY
sleep 2
looks asked
workload count 6000 {VALUE}
echo MORE
sleep 1
agent_stop || exit 1
agent_start --events none --bpf /counted.bpf.o --mode direct || exit 1
kill -KILL $agent
wait $agent 2>/dev/null
rm /tmp/agent.log
mount -o bind /dev/null $(dirname $(grep -l 0x1110 /sys/bus/pci/devices/*/device))/resource0 || exit 1
agent_start --events none --bpf /counted.bpf.o --mode direct || exit 1
agent_stop
'''
    vm, hand = start(script, VM, '6.12')
    with vm:
        vm.start()
        vm.wait_for('READY')
        hand.session()
        # Where heads are only the guest knows, but a record takes 16 bytes, or 24 in a block of 2 s ago.
        hand.arm(2 * [16 << 10])
        hand.ask(0)
        vm.wait_for('BUSY')
        time.sleep(PAUSE)
        first = hand.rung()
        hand.arm(2 * [100 << 10])
        vm.wait_for('MORE')
        time.sleep(PAUSE)
        second = hand.rung()
        assert vm.finish() == 0, vm.console()[-3000:]
        looks = dict(re.findall(r'^LOOKS (\w+) (\d+)', vm.console(), re.M))
        say(f'bells {first}, {second}; the agent looked {looks["quiet"]} times in 3 s, {looks["asked"]} when asked to')
        for rung in (first, second):
            assert 1 <= rung[0] <= 2 and rung[1] == 0, (first, second)
        assert re.search('no doorbell: cannot map .*/resource0: ', vm.console()), vm.console()[-2000:]
        assert 'the session of an earlier agent ends: it had a doorbell' in vm.console(), vm.console()[-2000:]
        assert 'adopted' not in vm.console()
        assert int(looks['quiet']) < 40 and 100 < int(looks['asked']) < 600, looks


def test_none():
    """ivshmem-plain: a reader that asks is told of in the guest, and nothing else happens."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o --mode relay || exit 1
echo READY
sleep 2
workload count 1000 {VALUE}
sleep 1
agent_stop
'''
    with VM(script, add=[COUNTED]) as vm:
        vm.start()
        vm.wait_for('READY')
        with open(vm.region, 'r+b') as f, mmap.mmap(f.fileno(), 0) as mem:
            struct.pack_into('<I', mem, SYNC, 1)
        assert vm.finish() == 0, vm.console()[-3000:]
        assert len(re.findall('asks to be woken, but there is no doorbell', vm.console())) == 1, vm.console()[-2000:]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a host tells its guest: the guest's own exits, as the kernel counts them, and nothing else."""

import base64
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time

import nested
from harness import params, say
from vm import AGENT, BUILD, READER, VM, Reader

TELLER = os.path.join(BUILD, 'tests', 'teller')
ROW = re.compile(r'^ *(\d+)  (\S+) +(\d+) +([\d.]+) +([\d.]+|-) +([\d.]+|-) +([\d.]+) +([\d.]+) +([\d.]+)$', re.M)
LINE = re.compile(r'^ *(\d+)\.(\d{9}) \[(\d{3})\] (\S+) +([\d.]+) +([\d.]+|-) +([\d.]+|-) +([\d.]+|-)$', re.M)
UNTOLD = 'the host does not tell this guest of its exits'


def table(text):
    """{vcpu: {exit: (exits, out ms, p50 us, p99 us, preempted ms, woken ms, asleep ms)}}"""
    found = {}
    for m in ROW.finditer(text[text.index('\nvCPU  exit'):]):
        found.setdefault(int(m[1]), {})[m[2]] = (int(m[3]), *(float(m[i].replace('-', 'nan')) for i in range(4, 10)))
    return found


def exits(text):
    """[(time in s, vcpu, exit, out us, preempted us, woken us, asleep us)] of the lines."""
    return [(int(m[1]) + int(m[2]) / 1e9, int(m[3]), m[4], *(float(m[i].replace('-', '0')) for i in range(5, 9)))
            for m in LINE.finditer(text)]


def follow(region, out, err):
    return subprocess.Popen([AGENT, '--follow-host', '--region', region], stdout=open(out, 'w', encoding='utf-8'),
                            stderr=open(err, 'w', encoding='utf-8'))


def read(path):
    with open(path, encoding='utf-8') as f:
        return f.read()


def wait_for(path, what, timeout=20):
    end = time.time() + timeout
    while time.time() < end:
        if re.search(what, read(path)):
            return
        time.sleep(0.05)
    raise RuntimeError(f'{what!r} did not come: {read(path)}')


class Place:
    """A directory with an empty region, and what follows it."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(dir='/dev/shm')
        self.region, self.out, self.err = (os.path.join(self.dir, n) for n in ('region', 'out', 'err'))
        with open(self.region, 'wb') as f:
            f.truncate(2 << 20)
        self.follower = None

    def follow(self):
        self.follower = follow(self.region, self.out, self.err)

    def stop(self):
        self.follower.send_signal(signal.SIGINT)
        return self.follower.wait(10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.follower and self.follower.poll() is None:
            self.follower.kill()
            self.follower.wait()
        shutil.rmtree(self.dir)


def told_part(region):
    """What the host may have told of: all of its page but the header."""
    with open(region, 'rb') as f:
        f.seek(65536)
        return f.read(65536)


def telling(part):
    return struct.unpack_from('<Q', part, 88)[0]


def test_off():
    """Unless the host switches it on nothing is told, and the guest says how it would be."""
    with Place() as p:
        p.follow()
        wait_for(p.err, UNTOLD + ': no host-reader is there; on the host, run host-reader --tell-guest')
        assert p.stop() == 1
        reader = Reader('ivshmem:' + p.region)
        while struct.unpack_from('<I', told_part(p.region), 12)[0] in (0, 4):  # the host's state: none, gone
            assert reader.process.poll() is None, reader.err()
            time.sleep(0.01)
        p.follow()
        wait_for(p.err, UNTOLD + '; it would if its host-reader were started with --tell-guest')
        assert p.stop() == 1 and read(p.out) == ''
        reader.stop()
        assert not any(told_part(p.region)[128:]) and telling(told_part(p.region)) == 0
        say(read(p.err))
    for more in (['--events', 'sched'], ['--mode', 'relay'], ['--stack', 'sched_switch'], ['--buffer', '64K']):
        run = subprocess.run([AGENT, '--follow-host', *more], stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 2 and 'goes with --region only' in run.stderr, run.stderr


def test_refused():
    """Without permission for BPF: said, and everything is read all the same."""
    err = nested.refused('--tell-guest')
    said = re.search(r'host-reader: guests cannot be told of their exits: .*', err)[0]
    say(said)
    assert re.search('(are you root|modprobe kvm).*; going on without', said), said


# As tests/guest/teller.c has them: exit, out, preempted, woken, asleep in us.
TOLD = {0: {'hlt': (200, 0, 30, 150), 'io': (12.3, 0, 0, 0)},
        1: {'ept_violation': (4.5, 0, 0, 0), 'external_interrupt': (100, 90, 0, 0)}}


def check_told(text, rounds, first, last):
    """All of what the teller told is there: each exit, and the table."""
    lines = exits(text)
    assert len(lines) == 4 * rounds, text[-3000:]
    for at, vcpu, name, *times in lines:
        assert tuple(times) == TOLD[vcpu][name], (vcpu, name, times)
        assert first - 0.1 < at < last + 0.1, (first, at, last)
    assert [t[0] for t in lines] == sorted(t[0] for t in lines)
    got = table(text)
    assert {v: set(r) for v, r in got.items()} == {v: set(r) for v, r in TOLD.items()}, text
    for vcpu, rows in TOLD.items():
        for name, (out, *parts) in rows.items():
            row = got[vcpu][name]
            assert row[0] == rounds and abs(row[1] - out * rounds / 1e3) < 0.001, (name, row)
            assert abs(row[2] - out) < out / 14 and abs(row[3] - out) < out / 14, (name, row)
            assert [round(x - p * rounds / 1e3, 3) for x, p in zip(row[4:], parts)] == [0, 0, 0], (name, row)


def test_followed():
    """Exits one by one as they come, by the guest's own clock, and the table; a host that stops, and one that dies."""
    with Place() as p:
        first = time.monotonic()
        p.follow()
        with subprocess.Popen([TELLER, p.region, '100'], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as teller:
            assert teller.stdout.readline() == b'teller: 100 of each\n'
            teller.stdin.close()
        wait_for(p.err, 'the host has stopped telling of exits')
        last = time.monotonic()
        with subprocess.Popen([TELLER, p.region, '5'], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as teller:
            teller.stdout.readline()
            time.sleep(0.3)
            teller.kill()
        wait_for(p.err, 'the host is silent')
        # One that comes after it, and tells nothing, says so.
        subprocess.run([READER, '--duration', '0.3', 'ivshmem:' + p.region], stderr=subprocess.PIPE, check=False)
        wait_for(p.err, r'(?s)(stopped telling.*){2}')
        assert p.stop() == 0
        parts = read(p.out).split('           time [cpu]')
        say(parts[1][:900], '...', parts[1][-1500:])
        assert len(parts) == 3 and parts[0] == '', read(p.out)
        check_told(parts[1], 100, first, last)
        check_told(parts[2], 5, last, time.monotonic())
        assert '*** ' not in read(p.out)


def test_garbage():
    """A host that writes anything there: what follows it says so, goes on, and shows what comes then."""
    with Place() as p, open(p.region, 'r+b', buffering=0) as f:
        f.seek(65536)
        f.write(b'HTRHST01' + struct.pack('<II', 1, 1) + bytes(72) + struct.pack('<Q', 1))
        p.follow()
        wait_for(p.out, 'preempted us')
        end, writes = time.time() + 3, 0
        while time.time() < end:
            at = 4096 + random.randrange(0, 36864 // 64) * 64
            f.seek(65536 + at)
            f.write(random.randbytes(random.choice((8, 64, 256))))
            f.seek(65536 + random.choice((88, 96)))  # telling, told_clock
            f.write(random.randbytes(8))
            writes += 1
        f.seek(65536 + 88)
        f.write(bytes(8))
        wait_for(p.err, 'the host has stopped telling')
        time.sleep(1.5)  # who began anew all the time is not followed before
        stops = read(p.err).count('the host has stopped telling')
        assert p.follower.poll() is None, read(p.err)
        said = len(read(p.err).splitlines())
        first = time.monotonic()
        with subprocess.Popen([TELLER, p.region, '20'], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as teller:
            teller.stdout.readline()
            teller.stdin.close()
        end = time.time() + 20
        while read(p.err).count('the host has stopped telling') == stops and time.time() < end:
            time.sleep(0.01)
        assert p.stop() == 0
        check_told(read(p.out).split('           time [cpu]')[-1], 20, first, time.monotonic())
        say(f'{writes} writes; {said} messages: {read(p.err)[:300]}')
        assert said < 30, read(p.err)


@params('6.12', thorough=['6.1'])
def test_bar(kernel):
    """Through a real device, in a real guest: what the host's side puts there is shown."""
    script = '''
guest-agent --follow-host > /tmp/out 2> /tmp/err &
agent=$!
until grep -q 'stopped telling' /tmp/err; do sleep 0.1; done
cat /proc/uptime
kill -INT $agent
wait $agent || { cat /tmp/err; exit 1; }
cat /tmp/out /tmp/err
'''
    with VM(script, kernel=kernel) as vm:
        vm.start()
        vm.wait_for('GUEST-UP')
        with subprocess.Popen([TELLER, vm.region, '300'], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as teller:
            teller.stdout.readline()
            time.sleep(3)
            teller.stdin.close()
        status = vm.finish()
        assert status == 0, vm.console()[-3000:]
        text = vm.console()
    last = float(re.search(r'^([\d.]+) [\d.]+$', text, re.M)[1])
    lost = sum(int(n) for n in re.findall(r'^\*\*\* (\d+) records', text, re.M))
    found, rows = exits(text), table(text)
    say(text[text.index('\nvCPU  exit'):][:1500])
    # The guest may come late to the ring, or be slow: but what it says is right.
    assert len(found) > 100 and all(tuple(t) == TOLD[v][name] for _, v, name, *t in found)
    assert all(0 < at < last for at, *_ in found), (found[-1], last)
    assert {v: {name: r[0] for name, r in reasons.items()} for v, reasons in rows.items()} == \
        {v: dict.fromkeys(reasons, 300) for v, reasons in TOLD.items()}, rows
    say(f'{len(found)} of 1200 exits one by one, {lost} records lost')


# ------------------------------------------------------------------------------------- real exits

NESTED = r'''
await() { # FILE PATTERN
	for i in $(seq 400); do
		grep -q "$2" $1 && return
		sleep 0.05
	done
	echo "no '$2' in $1:"
	cat $out/*.err $out/*.log
	exit 1
}
told=/dev/shm/told other=/dev/shm/other
# Process ids that are found in no record by chance.
echo 4194304 > /proc/sys/kernel/pid_max
echo 3735000 > /proc/sys/kernel/ns_last_pid
echo 'hist:keys=common_pid,exit_reason:size=2048' >> $T/events/kvm/kvm_exit/trigger || exit 1
# As steady(): what its programs change in the kernel's code is changed before there are VMs.
truncate -s 2M /dev/shm/none
host-reader --tell-guest ivshmem:/dev/shm/none 2> /tmp/none.err &
none=$!
await /tmp/none.err 'cannot be told of its exits yet'
kill -STOP $none

# Two VMs in one process: neither is told of the other, nor what virtual CPUs do beside its events.
timeout 20 l2vmm -w -2 /dev/shm/two 5 4 100 io > $out/two.vmm 2>&1 &
two=$!
until [ -s /dev/shm/two ]; do sleep 0.05; done
host-reader --tell-guest -o raw:/tmp/two.raw local:/dev/shm/two 2> $out/two.err &
two_reader=$!
await $out/two.err 'runs more than one VM, which would be told of each other'
await $out/two.err 'runs more than one VM: what virtual CPUs do is not told'
wait $two || { cat $out/two.vmm; exit 1; }
kill -INT $two_reader
wait $two_reader || { cat $out/two.err; exit 1; }
dd if=/dev/shm/two bs=65536 skip=1 count=2 2>/dev/null | base64 > $out/two.part

timeout 100 taskset 2 l2vmm -w $other 6000 4 100 cpuid busy > $out/other.vmm 2>&1 &
other_vmm=$!
timeout 100 taskset 2 l2vmm -w -s 300 $told 2000 4 100 io hlt vmcall > $out/told.vmm 2>&1 &
told_vmm=$!
until [ -s $told ] && [ -s $other ]; do sleep 0.05; done
guest-agent --follow-host --region $told > $out/told.out 2> $out/told.log &
told_agent=$!
guest-agent --follow-host --region $other > $out/other.out 2> $out/other.log &
other_agent=$!
cat /proc/uptime > $out/begin
host-reader -o json:/tmp/other.json local:$other 2> $out/other.err &
other_reader=$!
host-reader --tell-guest -o json:/tmp/told.json local:$told 2> $out/told.err &
told_reader=$!
pidof l2vmm host-reader guest-agent > $out/pids
wait $told_vmm || { cat $out/told.vmm; exit 1; }
wait $other_vmm || { cat $out/other.vmm; exit 1; }
await $out/told.err 'is gone'
cat /proc/uptime > $out/end
cat $T/events/kvm/kvm_exit/hist > $out/hist
kill -INT $other_reader $told_reader
wait $other_reader $told_reader || { cat $out/*.err; exit 1; }
await $out/told.log 'stopped telling'
kill -INT $told_agent $other_agent
wait $told_agent || { cat $out/told.log; exit 1; }
wait $other_agent && exit 1 # it was told nothing
kill -KILL $none
dd if=$told bs=65536 skip=1 count=2 2>/dev/null | base64 > $out/told.part
dd if=$other bs=65536 skip=1 count=2 2>/dev/null | base64 > $out/other.part
'''


def records(part):
    """Each record that the ring still holds, of the host's page @part: every byte of a block is one's, or padding."""
    ring, found = part[4096:], []
    head = struct.unpack_from('<Q', ring, 0)[0]
    block = max(0, (head - 1) // 2048 * 2048 - 14 * 2048) if head else 0
    while block < head:
        slot = block // 2048 % 16
        _, end, _, _, base, _, beg, _ = struct.unpack_from('<QQQQQQQQ', ring, 256 + 64 * slot)
        assert beg == block, (beg, block)
        if head - block <= 2048:
            end = head
        pos = block
        while pos < end:
            at = 4096 + pos % 32768
            ident, length, low = struct.unpack_from('<HHI', ring, at)
            assert not length & 7 and (ident, length) in ((1, 48), (2, 56)), (ident, length)
            reason, vcpu, isa, *times = struct.unpack_from('<IHH4Q', ring, at + 8)
            found.append((ident, vcpu, isa, reason, times, base & ~0xffffffff | low))
            pos += length
        block += 2048
    return found


def counted(text, threads):
    """{vcpu: {reason: count}} as the kernel counted them."""
    found = {}
    for m in re.finditer(r'common_pid:\s*(\d+), exit_reason:\s*(\d+) \} hitcount:\s*(\d+)', text):
        if int(m[1]) in threads:
            found.setdefault(threads[int(m[1])], {})[int(m[2])] = int(m[3])
    assert 'Dropped: 0' in text, text
    return found


def check_private(files, threads, reasons):
    """Nothing of who else runs on this host is in what the guest can see of the host's pages."""
    told, other, two = (base64.b64decode(files[name]) for name in ('told.part', 'other.part', 'two.part'))
    pids = {int(p) for p in re.findall(r'\d+', files['pids']) if int(p) > 3735000}  # of others: small numbers
    pids |= {a['tid'] for name in ('told.vmm', 'other.vmm') for a in nested.vmm(files[name])}
    assert len(pids) == 13, pids  # the reader and its finder, too
    for pid in pids:
        assert struct.pack('<I', pid) not in told + other, f'process id {pid} is in the region'
        assert str(pid).encode() not in told + other
    for name in (b'l2vmm', b'vcpu', b'host-reader', b'guest-agent'):
        assert name not in told + other, name
    # The other one is told nothing at all; this one its records, and nothing beside them.
    for part in other, two:
        assert not any(part[128:65536]) and telling(part) == 0
    assert not any(told[120:4096]) and not any(told[4096 + 4096 + 32768:65536])
    found = records(told)
    assert len(found) > 300
    for ident, vcpu, isa, reason, times, at in found:
        assert vcpu in threads.values() and isa == 2 and reason in reasons[vcpu], (vcpu, isa, reason)
        assert all(t < 100e9 for t in times) and sum(times[1:]) <= times[0] and at < 100e9, (times, at)
    say(f'{len(pids)} process ids are not in the region; {len(found)} records in the ring account for each of its bytes')


@params('6.1', thorough=['6.12'])
def test_nested(kernel):
    """
    Two VMs share a CPU, one is told: each exit that the kernel counted, the time that the scheduler says it waited.
    """
    with nested.L1(NESTED, kernel, one_thread=kernel == '6.12') as vm:
        status, files = vm.run()
        assert status == 0, vm.console()[-3000:]
    account = nested.vmm(files['told.vmm'])
    threads = {a['tid']: vcpu for vcpu, a in enumerate(account)}
    want = counted(files['hist'], threads)
    name_of = {v: k for k, v in nested.SVM.items()} | {0x81: 'vmmcall', 0x64: 'vintr'}
    got = table(files['told.out'])
    say(files['told.out'][files['told.out'].index('\nvCPU  exit'):])
    assert {v: {n: r[0] for n, r in rows.items()} for v, rows in got.items()} == \
        {v: {name_of[n]: c for n, c in rows.items()} for v, rows in want.items()}
    assert got[0]['io'][0] == account[0]['io'] == 2001 and got[1]['hlt'][0] == account[1]['hlt'] == 2000
    assert got[2]['vmmcall'][0] == account[2]['made'] == 2000
    # A VMM that sleeps 300 us in each of these.
    assert 2000 * 0.3 < got[0]['io'][6] and got[0]['io'][2] > 300, got[0]['io']
    for vcpu, rows in got.items():
        assert sum(r[0] for r in rows.values()) == account[vcpu]['exits'], (vcpu, account[vcpu])
        stolen = sum(r[4] + r[5] for r in rows.values())
        waited, ran = account[vcpu]['run_delay'] / 1e6, account[vcpu]['ns'] / 1e6
        out = sum(r[1] for r in rows.values())
        say(f'vCPU {vcpu}: stolen {stolen:.1f} ms, the scheduler says {waited:.1f}; out {out:.1f} of {ran:.1f} ms')
        # The scheduler's clock is read before its tracepoint: 40 us of emulation, at each of these sleeps.
        sleeps = 2001 if vcpu == 0 else 0
        assert 0.8 * waited - 5 < stolen < 1.05 * waited + 5 + 0.08 * sleeps, (vcpu, stolen, waited)
        assert stolen > 10 and stolen < out < 1.02 * ran, (vcpu, out, ran)
    lines = exits(files['told.out'])
    begin, end = (float(files[n].split()[0]) for n in ('begin', 'end'))
    assert len(lines) > 1000 and all(begin - 0.05 < t[0] < end + 0.05 for t in lines), (begin, lines[0], lines[-1], end)
    say(f'{len(lines)} of {sum(sum(c.values()) for c in want.values())} exits one by one')
    assert UNTOLD in files['other.log'] and files['other.out'] == '', files['other.log']
    check_private(files, threads, want)

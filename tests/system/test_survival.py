# SPDX-License-Identifier: LGPL-2.1-or-later
"""Start, stop, crash in any order: nothing committed is lost, nothing that is not ours is shown."""

import re
import signal
import time

import readertext
from harness import params, say
from vm import COUNTED, VM, Reader

VALUE = 424242


def numbers_of(path):
    """{cpu: [numbers of the `counted` records]}; any other event must be one the test expects."""
    found, unverified, strange = {}, 0, []
    for _, cpu, rest in readertext.lines(path):
        unverified += 'unverified' in rest
        m = readertext.EVENT.match(rest)
        if not m or readertext.LOST.search(rest):
            continue
        if m['event'] == 'counted':
            found.setdefault(cpu, []).append(int(readertext.value(m['fields'], 'number')))
        elif m['event'] not in ('sched_process_fork', 'sched_process_exec', 'task_rename'):
            strange.append(rest)
    assert not strange, f'decoded what nobody wrote: {strange[:5]}'
    return found, unverified


@params('6.12', thorough=['6.1'])
def test_agent_killed(kernel):
    """
    The agent dies by SIGKILL with a backlog, then other programs fill the guest's memory; a new
    agent adopts the pinned rings. All records arrive, in order, once, and nothing else.
    """
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
echo READY
sleep 3
workload count 20000 {VALUE}
kill -KILL $agent
wait $agent 2>/dev/null
echo KILLED
rm -f /tmp/agent.log
workload fill 200 1
workload fill 250 1
echo FILLED
agent_start --events none --bpf /counted.bpf.o || exit 1
echo AGAIN
workload count 5000 {VALUE}
sleep 2
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, memory='512M', add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        vm.wait_for('READY')
        reader.wait_for('direct')
        reader.signal(signal.SIGSTOP)  # so that there is a backlog
        vm.wait_for('AGAIN', timeout=120)
        reader.signal(signal.SIGCONT)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, unverified = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu] == list(range(20000)) + list(range(5000)), \
                f'CPU {cpu}: {len(found[cpu])} records'
            say(f'CPU {cpu}: 20000 records from before the kill and 5000 after it, in order, once')
        assert 'adopt' in vm.console().lower(), vm.console()
        assert unverified == 0


def test_agent_killed_reader_running():
    """The same while the reader runs: it drains, tells the silence, and goes on with the new agent."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 20000 {VALUE}
kill -KILL $agent
wait $agent 2>/dev/null
rm -f /tmp/agent.log
workload fill 300 5
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 5000 {VALUE}
sleep 2
agent_stop
'''
    with VM(script, cpus=1, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, _ = numbers_of(reader.out_path)
        assert found[0] == list(range(20000)) + list(range(5000)), len(found[0])
        assert 'silent' in reader.err(), reader.err()
        say([x for x in reader.err().splitlines() if 'silent' in x][0])


@params('after-the-agent', thorough=['before-the-agent'])
def test_guest_reboot(resume):
    """
    The guest restarts with a backlog unread, its memory is filled afterwards, and a new agent comes
    up. The reader, stopped meanwhile, looks again before or after that. The backlog may be lost,
    but whatever is shown was really recorded: the workload numbers its calls.
    """
    script = f'''
hostname guest
if ! dd if=/dev/vda bs=1 count=6 2>/dev/null | grep -q SECOND; then
	agent_start --events none --bpf /counted.bpf.o || exit 1
	echo BOOTED
	sleep 3
	workload count 30000 {VALUE}
	printf SECOND > /dev/vda
	sync
	echo REBOOTING
	sleep 1
	reboot -f
fi
workload fill 200
workload fill 300
echo FILLED
sleep 5
agent_start --events none --bpf /counted.bpf.o || exit 1
echo AGAIN
workload count 7000 {VALUE}
sleep 2
agent_stop
'''
    with VM(script, cpus=2, add=[COUNTED], disk_mib=1, reboot=True) as vm:
        vm.start()
        reader = Reader(vm)
        vm.wait_for('BOOTED')
        reader.wait_for('direct')
        time.sleep(1)
        reader.signal(signal.SIGSTOP)
        vm.wait_for('REBOOTING')
        vm.wait_for('FILLED' if resume == 'before-the-agent' else 'AGAIN', timeout=120)
        reader.signal(signal.SIGCONT)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, unverified = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu][-7000:] == list(range(7000)), 'the new session is not complete'
            old = found[cpu][:-7000]
            assert old == sorted(set(old)) and all(n < 30000 for n in old)
            say(f'CPU {cpu}: {len(old)} of the old session, then all 7000 of the new one')
        say(f'{unverified} lines marked unverified')
        for line in reader.err().splitlines() + reader.out().splitlines():
            if re.search('session|reboot|unread|silent|took back|corrupt|broken', line):
                say(line)


def test_reader_restarts():
    """The reader is killed and started again; agents come and go; in between each sees the rest."""
    script = f'''
for round in 1 2 3; do
	agent_start --events none --bpf /counted.bpf.o --policy discard || exit 1
	echo ROUND$round
	workload count 3000 {VALUE}
	sleep 3
	workload count 3000 {VALUE}
	sleep 2
	agent_stop || exit 1
done
'''
    with VM(script, cpus=1, add=[COUNTED]) as vm:
        vm.start()
        everything = []
        for i in range(1, 4):
            vm.wait_for(f'ROUND{i}')
            reader = Reader(vm, name=f'reader{i}')
            reader.wait_for('direct')
            time.sleep(1.5)
            reader.signal(signal.SIGKILL)
            reader.process.wait()
            second = Reader(vm, name=f'second{i}')
            second.wait_for('direct')
            if i < 3:
                vm.wait_for(f'ROUND{i + 1}', timeout=60)
                assert second.stop() == 0, second.err()
            everything.append((reader, second))
        status = vm.finish()
        assert everything[-1][1].stop() == 0
        assert status == 0, vm.console()[-2000:]
        for i, (first, second) in enumerate(everything):
            a = numbers_of(first.out_path)[0].get(0, [])
            b = numbers_of(second.out_path)[0].get(0, [])
            say(f'round {i + 1}: killed reader showed {len(a)}, its successor {len(b)}')
            both = list(range(3000)) * 2
            # The reader was killed 1.5 s after the first 3000: long enough to have written them.
            # Its successor goes on where `consumed` is; at most one block (4096 bytes, 256 records
            # of 16) can have been handed on by the ring and not yet have been written.
            assert a == both[:len(a)] and len(a) >= 3000 - 256, len(a)
            assert b == both[len(both) - len(b):] and len(b) >= 3000, len(b)


def test_vm_killed():
    """QEMU dies by SIGKILL and is started again on the same region: the same reader goes on."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 4000 {VALUE}
echo COUNTED
sleep 3
agent_stop
'''
    with VM(script, cpus=1, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        vm.wait_for('COUNTED')
        time.sleep(1)
        vm.qemu.kill()
        vm.qemu.wait()
        reader.wait_for('silent')
        vm.start()
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, _ = numbers_of(reader.out_path)
        assert found[0] == list(range(4000)) * 2, len(found[0])
        say('4000 records of each life of the VM')


HOSTILE = ['\\033[2J\\033[1;1H', 'a\\nb: c=d', '"quoted\\\\\\"', '../../../etc/x', '\\377\\200\\001']


def test_hostile_names():
    """What a guest calls its tasks and itself changes nothing on the host's terminal."""
    runs = '\n'.join(f"workload name \"$(printf '{name}')\"" for name in HOSTILE)
    script = f'''
hostname "$(printf 'evil\\033[31mhost\\n')"
agent_start --events sched || exit 1
{runs}
sleep 1
agent_stop
'''
    with VM(script, cpus=1) as vm:
        vm.start()
        reader = Reader(vm, '--stats', '0.5')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        for path in reader.out_path, reader.err_path:
            with open(path, 'rb') as f:
                bad = set(f.read()) - set(range(0x20, 0x7f)) - {0x0a}
            assert not bad, f'{path}: bytes {bad}'
        for shown in r'\x1b[2J\x1b[1;1H', r'a\x0ab: c=d', r'\xff\x80\x01':
            assert shown in reader.out(), shown
        for _, _, rest in readertext.lines(reader.out_path):
            assert readertext.EVENT.match(rest), rest
        assert re.search(r'\d+ events/s', reader.err()), 'no periodic statistics'
        say([x for x in reader.err().splitlines() if 'events/s' in x][1])


@params('spin', 'adaptive', 'timer:500', thorough=['adaptive:100', 'timer:20000'])
def test_sync_policies(policy):
    """The policy changes when records are read, never which."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 20000 {VALUE}
sleep 1
agent_stop
'''
    with VM(script, cpus=2, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm, '--sync', policy)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert numbers_of(reader.out_path)[0] == {0: list(range(20000)), 1: list(range(20000))}
        cpu = re.search(r'^reader +.*$', reader.err(), re.M)
        say(cpu[0] if cpu else '')


def test_high_memory():
    """Guest RAM above 4 GiB, where file offset and guest-physical address part."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o --buffer 16M || exit 1
workload count 5000 {VALUE}
sleep 1
agent_stop
'''
    with VM(script, cpus=2, memory='5G', add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, _ = numbers_of(reader.out_path)
        assert found == {0: list(range(5000)), 1: list(range(5000))}
        say('5 GiB guest: complete')


def test_pc_machine_and_named_ram():
    """i440fx, and ram=PATH given by hand."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 5000 {VALUE}
sleep 1
agent_stop
'''
    with VM(script, cpus=1, machine='pc', add=[COUNTED]) as vm:
        vm.command += ['--ram', vm.ram]
        vm.start()
        reader = Reader(vm, ram=vm.ram)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert numbers_of(reader.out_path)[0] == {0: list(range(5000))}

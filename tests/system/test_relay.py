# SPDX-License-Identifier: LGPL-2.1-or-later
"""The agent as relay: as true, as exact and as robust as the rings themselves."""

import os
import re
import signal
import time

import ftrace
import test_loss
from harness import params, say
from test_loss import exact
from test_survival import numbers_of
from test_truth import compare
from vm import BUILD, COUNTED, VM, Reader

VALUE = 424242


@params(('6.12', 2), thorough=[('6.1', 1), ('6.1', 2), ('6.12', 1)])
def test_truth(kernel, cpus):
    compare(kernel, cpus, '--mode relay')


@params(('overwrite', '6.12'), ('discard', '6.1'), thorough=[('discard', '6.12'), ('overwrite', '6.1')])
def test_exact(policy, kernel):
    """As loss.exact, with only the mirrors to read."""
    exact(policy, kernel, 'relay', 'relay')


@params(('6.1', 'auto', 'overwrite'), ('6.12', 'auto', 'discard'), thorough=[('6.12', 'relay', 'overwrite')])
def test_private_ram(kernel, mode, policy):
    """A guest whose RAM nobody can map: complete, and both sides say why it is relayed."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o --mode {mode} --policy {policy} || exit 1
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
bar=$(sed -n '3s/^0x0*\\([0-9a-f]*\\) .*/\\1/p' $(dirname $(grep -l 0x1110 /sys/bus/pci/devices/*/device))/resource)
echo "BAR at $bar: $(grep -i $bar /sys/kernel/debug/x86/pat_memtype_list)"
workload count 20000 {VALUE}
sleep 2
workload count 5000 {VALUE}
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, add=[COUNTED], private_ram=True) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, unverified = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu] == list(range(20000)) + list(range(5000)), len(found[cpu])
        assert unverified == 0
        # the kernel's account of how the device's memory is mapped
        bar = re.search(r'^BAR at [0-9a-f]+: (.*)$', vm.console(), re.M)[1]
        assert 'write-combining' in bar and 'uncached' not in bar, bar
        if mode == 'auto':
            assert "keeping to the agent's relay" in reader.err(), reader.err()
            assert 'relaying: the host cannot map' in vm.console(), vm.console()[-2000:]
        say(f'{sum(map(len, found.values()))} numbered calls, complete')


def test_larger_pages():
    """A host of 64 KiB pages (tests/unit/bigpages.c) and a guest of 4 KiB ones: its scattered pages
    cannot be mapped, both sides say so, and the relay is complete."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 20000 {VALUE}
sleep 2
workload count 5000 {VALUE}
agent_stop
'''
    with VM(script, kernel='6.1', cpus=2, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm, env={'LD_PRELOAD': os.path.join(BUILD, 'tests', 'bigpages.so'),
                                 'HTRACE_PAGE_SIZE': '65536'})
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, unverified = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu] == list(range(20000)) + list(range(5000)), len(found[cpu])
        assert unverified == 0
        assert "this host's pages of 64 KiB are too large" in reader.err(), reader.err()
        assert 'relaying: the host cannot map' in vm.console(), vm.console()[-2000:]
        say(re.search(r'.*too large.*', reader.err())[0])


@params(('6.12', 'discard'), thorough=[('6.1', 'overwrite'), ('6.12', 'overwrite')])
def test_hand_over(kernel, policy):
    """
    Calls are made all the time while readers come and go. The first finds the mirrors, and goes over
    to the rings; nothing is missing, nothing comes twice.
    """
    script = f'''
agent_start --events none --bpf /counted.bpf.o --policy {policy} || exit 1
workload count 2000 {VALUE}
echo READY
for i in $(seq 40); do workload count 3000 {VALUE}; done
sleep 2
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, memory='1G', region_size='64M', add=[COUNTED]) as vm:
        vm.start()
        vm.wait_for('READY')
        reader = Reader(vm)
        status = vm.finish(timeout=300)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert 'from now on direct' in reader.err(), reader.err()
        assert 'direct placement from now on' in vm.console(), vm.console()[-2000:]
        found, _ = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu] == list(range(2000)) + 40 * list(range(3000)), len(found[cpu])
        say(f'{sum(map(len, found.values()))} numbered calls across the hand-over, each once')


@params('6.12', thorough=['6.1'])
def test_agent_killed(kernel):
    """Killed in the midst of relaying with a backlog; another goes on with rings and mirrors."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o --mode relay || exit 1
echo READY
sleep 2
workload count 20000 {VALUE} &
sleep 0.3
kill -STOP $agent
wait %2 2>/dev/null || sleep 5
kill -KILL $agent
wait $agent 2>/dev/null
rm -f /tmp/agent.log
workload fill 200 1
agent_start --events none --bpf /counted.bpf.o --mode relay || exit 1
workload count 5000 {VALUE}
sleep 2
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, unverified = numbers_of(reader.out_path)
        for cpu in range(2):
            assert found[cpu] == list(range(20000)) + list(range(5000)), len(found[cpu])
        assert 'adopted' in vm.console(), vm.console()[-2000:]
        assert unverified == 0
        say('20000 calls from before the kill and 5000 after it on each CPU, in order, once')


@params('discard', thorough=['overwrite'])
def test_reader_killed(policy):
    """
    The reader is killed while the agent relays, and much more is recorded than rings hold. With
    discard its successor goes on behind the last record that the first one took, and between the two
    the loss is exact. A flight recorder's successor takes what is there: all from some record on.
    """
    script = ftrace.SHELL + f'''
agent_start --events none --bpf /counted.bpf.o --mode relay --buffer 64K --policy {policy} || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
ftrace_on raw_syscalls/sys_enter sched/sched_process_fork sched/sched_process_exec task/task_rename
workload count 1000 {VALUE}
echo READY
sleep 4
workload count {test_loss.CALLS} {VALUE}
echo FILLED
sleep 4
workload count 1000 {VALUE}
sleep 1
ftrace_off
agent_stop
ftrace_dump
'''
    with VM(script, cpus=2, add=[COUNTED], memory='1G', disk_mib=64) as vm:
        vm.start()
        first = Reader(vm, name='first')
        vm.wait_for('READY')
        first.wait_for('number=999', where='out', count=2)
        time.sleep(0.5)
        first.signal(signal.SIGKILL)
        first.process.wait()
        vm.wait_for('FILLED')
        second = Reader(vm, name='second')
        status = vm.finish()
        assert second.stop() == 0, second.err()
        assert status == 0, vm.console()[-2000:]
        theirs, stats = ftrace.read_dump(vm.disk)
        for cpu in range(2):
            assert stats[cpu]['overrun'] == '0'
            produced = [test_loss.key(e) for _, e in theirs[cpu]
                        if e[0] != 'sys_enter' or e[3] == VALUE]
            before, after = (list(test_loss.ours(r.out_path, cpu)) for r in (first, second))
            if policy == 'discard':
                test_loss.compare(cpu, produced, before + after)
                continue
            while after[-1] != produced[-1]:  # those behind ftrace's end
                after.pop()
            assert len(after) > 3000 and after == produced[-len(after):]
            say(f'CPU {cpu}: the last {len(after)} of {len(produced)}')


def test_back_to_relay():
    """A reader that has guest RAM, then one that is given a wrong file for it."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 3000 {VALUE}
echo READY
sleep 6
workload count 3000 {VALUE}
echo SECOND
sleep 6
agent_stop
'''
    with VM(script, cpus=1, add=[COUNTED]) as vm:
        vm.start()
        first = Reader(vm, name='first')
        vm.wait_for('READY')
        first.wait_for('from now on direct')
        time.sleep(1)
        assert first.stop() == 0
        second = Reader(vm, ram='/dev/zero', name='second')
        second.wait_for("keeping to the agent's relay")
        status = vm.finish()
        assert second.stop() == 0, second.err()
        assert status == 0, vm.console()[-2000:]
        assert numbers_of(first.out_path)[0][0] == list(range(3000))
        assert numbers_of(second.out_path)[0][0][-3000:] == list(range(3000))


def test_small_region():
    """No room for mirrors: direct only, and told; relay alone makes its rings fit."""
    script = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
sleep 2
workload count 1000 {VALUE}
agent_stop
agent_start --events none --bpf /counted.bpf.o --mode relay || exit 1
sleep 2
workload count 1000 {VALUE}
agent_stop
agent_start --events none --bpf /counted.bpf.o --mode relay --buffer 4M
true
'''
    with VM(script, cpus=2, add=[COUNTED], region_size='4M') as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        found, _ = numbers_of(reader.out_path)
        assert found == {cpu: 2 * list(range(1000)) for cpu in range(2)}
        assert re.search('no relay: region .* is too small', vm.console())
        assert re.search('relay: rings are copied', vm.console())
        assert re.search('too small for 2 rings of 4096 KiB', vm.console())

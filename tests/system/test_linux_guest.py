# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Linux guests with guest-agent, QEMU, KVM and host-reader with the source `kvm`, all of it real (nested_linux.py):
exits, the states of a virtual CPU beside its guest's events, and all sides' times on one clock. HTRACE_TIMELINE_SECONDS
makes the run of two guests longer than the test command's.
"""

import bisect
import collections
import json
import os
import re
import tarfile
import tempfile

import clocks
import nested_linux
import pftext
import test_capture
import test_host_disk
import test_kvm
import test_vcpus
import test_view_io
from harness import params, say
from test_cost import load_bench
from test_kvm import name_of
from vm import BUILD

CROWD = os.path.join(BUILD, 'tests', 'crowd')

NR_CAUSES, NR_READS = 200, 100
BORDER, SLEEP = 0x68747263, 0x68747264  # tests/guest/causes.c
WRITTEN = 0x68740000
TSC_DEADLINE = 0x6e0
LOCAL_TIMER = 0xec
ALONE = 20000  # ns
MAX_BOUND = 500  # ns, by the offset of its TSC that KVM tells, at a sample
OVERLOADED = 25000  # ns, between two, while the guest's agent waits for a CPU of a busy machine: causes are farther apart

SECONDS = int(os.environ.get('HTRACE_TIMELINE_SECONDS', '5'))  # of two guests
BURSTS = max(2, SECONDS // 15)  # each of NR_CAUSES

SCRIPT = r'''
I=$T/instances/kvm
mkdir $I
echo mono > $I/trace_clock
echo 16384 > $I/buffer_size_kb
for e in exit entry hypercall mmio pio msr inj_virq userspace_exit halt_poll_ns; do
	echo 1 > $I/events/kvm/kvm_$e/enable || exit 1
done
for e in sched/sched_switch block/block_bio_queue block/block_rq_issue block/block_rq_complete; do
	echo 1 > $I/events/$e/enable || exit 1
done
truncate -s 16M $region
reader_start -o json:$out/json -o raw:$out/raw kvm ivshmem:$region || exit 1
linux_start l2 file=/dev/vdb,format=raw,cache=none,aio=threads || exit 1
linux_says l2 L2-UP && host-reader --list > $out/list || exit 1
linux_says l2 L2-TRACED || { cat $out/err; exit 1; }
# Virtual CPU 0 has to share its CPU for a while.
for t in /proc/$qemu/task/*; do
	! grep -q '^CPU 0/KVM' $t/comm || taskset -p 1 ${t##*/} > /dev/null || exit 1
done
taskset 1 timeout 1 sh -c "echo \$\$ > $out/busy; while :; do :; done"
linux_end l2 || { cat $out/err; exit 1; }
echo 0 > $I/tracing_on
reader_end || exit 1
host-reader --clock --events none -o text:/dev/null file:$out/raw 2> $out/clock || { cat $out/clock; exit 1; }
cat $I/trace > $out/ftrace
cat $I/per_cpu/cpu*/stats > $out/ftrace.stats
'''

GUEST = rf'''
guest-agent --probe > /tmp/probe || exit 1
echo L2-UP
traced --events sched,syscalls,block,timer_hrtimer_start,virtio,steal,kvm_guest,irq_vectors:local_timer_entry --stack sched_process_exit || exit 1
for d in /sys/bus/pci/devices/*; do
	[ $(cat $d/vendor)$(cat $d/device) = 0x1af40x1110 ] || continue
	causes {NR_CAUSES} $d/resource0 || exit 1
done
dd if=/dev/vda of=/dev/null bs=4k count={NR_READS} iflag=direct 2> /dev/null || exit 1
agent_stop || exit 1
cat /tmp/probe
grep ' native_write_msr$' /proc/kallsyms
'''


# Two guests: only what belongs to pairs, as that may be ten minutes of it.
TWO = r'''
for g in a b; do truncate -s 16M /dev/shm/$g; done
reader_start --clock --events kvm_mmio,kvm_msr,kvm_inj_virq,sys_enter,timer_hrtimer_start,local_timer_entry,vring_interrupt \
	-o json:$out/json kvm ivshmem:/dev/shm/a ivshmem:/dev/shm/b || exit 1
for g in a b; do linux_start $g driver=null-co,size=64M || exit 1; done
for g in a b; do linux_end $g || { cat $out/err; exit 1; }; done
reader_end || exit 1
'''

TWO_GUEST = rf'''
traced --events sys_enter,timer_hrtimer_start,vring_interrupt,irq_vectors:local_timer_entry || exit 1
for d in /sys/bus/pci/devices/*; do
	[ $(cat $d/vendor)$(cat $d/device) = 0x1af40x1110 ] || continue
	{{ causes {BURSTS * NR_CAUSES} $d/resource0 {NR_CAUSES} {SECONDS * 1000 // BURSTS}; echo $? > /tmp/over; }} &
done
until [ -s /tmp/over ]; do
	dd if=/dev/vda of=/dev/null bs=4k count=10 iflag=direct 2> /dev/null || exit 1
	sleep 0.5
done
[ $(cat /tmp/over) = 0 ] && agent_stop || exit 1
'''


def written(host):
    """{number: when KVM saw that the guest writes it to a device's register} (causes.c)."""
    return {e['fields']['value'] - WRITTEN: e['time'] for e in host
            if e['event'] == 'kvm_mmio' and name_of(e['fields'], 'kind') == 'write' and e['fields']['value'] >> 16 == WRITTEN >> 16}


def check_exits(threads, text):
    """Each event of a virtual CPU's thread is the kernel's own; and the guest left guest mode as it was told to."""
    lines = [line for line in text.splitlines() if not (m := test_kvm.LINE.match(line)) or m['event'] == 'sched_switch'
             or m['event'] in test_kvm.PARTS]
    traced = test_kvm.of_ftrace('\n'.join(lines), threads)
    nr = sum(test_kvm.check_same(threads[tid], traced[tid]) for tid in threads)
    asked = sorted(n for tid in threads for n in written(threads[tid]))
    assert asked == list(range(1, NR_CAUSES + 1)), asked
    return nr


def check_states(guest, threads, least):
    """
    Each event of the guest was written while its virtual CPU ran, by what the host says of it; of at least such a part
    that is known. Known, of those only nearly; and the changes by virtual CPU.
    """
    all_changes, nr, out = {}, 0, 0
    for thread, host in threads.items():
        cpu = host[0]['fields']['vcpu_id']
        changes = all_changes[cpu] = test_vcpus.changes_of(host)
        steps = [c[0] for c in changes]
        known = [e for e in guest if e['cpu'] == cpu and e['vcpu']['state'] != 'unknown']
        for e in known:
            v, until = e['vcpu'], bisect.bisect_right(steps, e['time'])
            assert (v['thread'], v['id']) == (thread, cpu)
            assert (v['state'], v.get('why')) == test_vcpus.told(changes[until - 1]), (e, changes[until - 3:until + 2])
            assert test_vcpus.ran_near(changes[max(until - 9, 0):until + 9], e['time'], MAX_BOUND), \
                (e, changes[until - 3:until + 3])
        for e in known[::max(1, len(known) // 50)]:
            lost = test_vcpus.lost_until(changes[:bisect.bisect_right(steps, e['time'])], e['time'])
            assert (e['vcpu']['out_ns'], e['vcpu']['preempted_ns']) == lost, (e, lost)
        nr += len(known)
        out += sum(e['vcpu']['state'] != 'running' for e in known)
    assert nr >= least * len(guest) and out <= 0.001 * nr, (nr, out, len(guest))
    return nr, out, all_changes


def preempted(changes, since=0, until=1 << 63):
    return sum(max(min(end, until) - max(begin, since), 0) for (begin, state, _), (end, *_) in zip(changes, changes[1:])
               if state == 'preempted')


def check_steal(page, guest, changes):
    """
    What the guest was told is stolen is what the host took: KVM tells what its scheduler counts, which has in it what a
    thread waits after it was woken, too, of which the source says nothing; the guest asks at ticks.
    """
    for row in json.loads(page)['vcpus']:
        cpu = row['vcpu']
        steals = [e for e in guest if e['event'] == 'steal' and e['fields']['cpu'] == cpu]
        records = [e['fields']['stolen_ns'] for e in steals]
        assert row['stolen_ns'] == row['recorded_ns'] == sum(records) and row['count'] == sum(n > 0 for n in records), row
        took, told = preempted(changes[cpu], steals[0]['time']), row['host_told'] / (row['host_told'] + row['host_not_told'])
        times = [e['time'] for e in guest if e['cpu'] == cpu]
        between = preempted(changes[cpu], min(times), max(times))
        say(f'CPU {cpu}: {row["stolen_ns"] / 1e6:.3f} ms stolen, {row["count"]} times; preempted for {took / 1e6:.3f} ms, '
            f'of which the view has {row["host_preempted_ns"] / 1e6:.3f}, out for {row["host_out_ns"] / 1e6:.3f}')
        assert told > 0.5 and 0.5 * between <= row["host_preempted_ns"] <= 1.01 * between + 1e6, (told, between, row)
        if not cpu:  # that had to share
            assert 0.8 * took < row['stolen_ns'] < 2 * took, (took, row)


def check_takers(page, threads, busy):
    """
    By whom: each time from where the thread was switched out, able to run, to its next event. The program that virtual
    CPU 0 had to share with for a second is among them, beside what keeps the emulated machine going.
    """
    taken = {(row['vm'], row['vcpu']): row for row in json.loads(page)['taken']}
    for host in threads.values():
        took, cpu = collections.Counter(), host[0]['fields']['vcpu_id']
        for e, then in zip(host, host[1:]):
            if e['event'] == 'kvm_sched_out' and not e['fields']['prev_state'] & 0xff:
                took[e['fields']['next_tid'], e['fields']['next_comm']] += then['time'] - e['time']
        row = taken.pop((host[0]['fields']['vm'], cpu), {'by': [], 'ns': 0, 'others_ns': 0})
        assert {(k['tid'], k['comm']): k['ns'] for k in row['by']} == took and row['others_ns'] == 0, (cpu, row, took)
        assert row['ns'] == sum(took.values()), (cpu, row)
        say(f'CPU {cpu} was taken by {[(k["comm"], k["ns"]) for k in row["by"][:3]]}')
        if not cpu:
            assert sum(k['ns'] for k in row['by'] if k['tid'] == busy) > 20_000_000, (busy, row)
    assert not taken, taken


def check_tracks(capture, guest, changes, pid):
    """In Perfetto: tracks of virtual CPUs, that was preempted that had to share; and what the guest's CPUs ran."""
    path = capture + '.pf'
    test_capture.replay(capture, '--events', 'sched_switch', '-o', f'perfetto:{path}')
    trace = pftext.Trace(path)
    test_vcpus.same_slices(trace, changes, pid)
    lost = preempted(changes[0])
    assert lost > 50_000_000, lost
    (machine,) = [m for m in trace.machines.values() if m.kernel]
    for cpu in changes:
        switched = [e['fields']['next_tid'] for e in guest if e['event'] == 'sched_switch' and e['cpu'] == cpu]
        ran = [s.what for s in pftext.running(machine)[cpu]]
        assert len(switched) > 50 and collections.Counter(ran) - collections.Counter(switched) == {}, (cpu, len(switched), len(ran))
    say(f'virtual CPU 0 was preempted for {lost / 1e6:.1f} ms')


def in_order(what, pairs, bound):
    """Nothing comes before its cause by more than the bound. How far apart they are at least: a larger error would show."""
    apart = sorted(effect - cause for cause, effect in pairs)
    assert len(apart) >= 50 and apart[0] >= -bound, (what, len(apart), apart[:5])
    say(f'{what}: {len(apart)} pairs, {apart[0]} ns apart at least, {apart[len(apart) // 2]} mostly')
    return apart[0]


def calls(guest, option):
    """{(number, argument): time} of the guest's calls prctl(option, number, argument)."""
    return {tuple(e['fields']['args'][1:3]): e['time'] for e in guest
            if e['event'] == 'sys_enter' and e['fields'].get('nr.name') == 'prctl' and e['fields']['args'][0] == option}


def timers(guest, host):
    """
    (the guest starts a timer, the host sees its processor's timer set to that time). Which belong together is told by
    the time that is set, never by when: so of those times only which no other timer has, nearly.
    """
    due = {time for _, time in calls(guest, SLEEP)}
    every = sorted((e['fields']['softexpires'], e['time']) for e in guest if e['event'] == 'timer_hrtimer_start')
    alone = [this for before, this, after in zip(every, every[1:], every[2:]) if this[0] in due
             and this[0] - before[0] > 2 * ALONE and after[0] - this[0] > 2 * ALONE]
    set_to = sorted((e['fields']['value'], e['time']) for e in host
                    if e['event'] == 'kvm_msr' and e['fields']['write'] and e['fields']['msr'] == TSC_DEADLINE)
    # Ticks per ns, and what both counts begin at, by what is set next after many of them.
    by_time = sorted((at, value) for value, at in set_to)
    guess = [(expires, by_time[i][1]) for expires, at in alone if (i := bisect.bisect(by_time, (at, 0))) < len(by_time)]
    half = len(guess) // 2

    def fit(first):
        a, b = guess[first], guess[first + half]
        rate = (b[1] - a[1]) / (b[0] - a[0])
        begin = a[1] - rate * a[0]
        return sum(abs(value - rate * expires - begin) < ALONE * rate for expires, value in guess), rate, begin

    _, rate, begin = max(map(fit, range(0, half, half // 200 + 1)))
    found = []
    for expires, at in alone:
        first, last = (bisect.bisect(set_to, (rate * (expires + off) + begin, 0)) for off in (-ALONE, ALONE))
        if last - first == 1:
            found.append((at, set_to[first][1]))
    return found


def interrupts(guest, host, event, vector):
    """(the host injects an interrupt, the guest handles it): the first one that was injected since it handled one."""
    found = []
    for cpu in {e['fields']['vcpu_id'] for e in host}:
        injected = [e['time'] for e in host if e['event'] == 'kvm_inj_virq' and e['fields']['vector'] == vector
                    and e['fields']['vcpu_id'] == cpu]
        handled = [e['time'] for e in guest if e['event'] == event and e['cpu'] == cpu]
        if not injected:  # a queue of the disk has a vector and a CPU of its own
            continue
        for before, at in zip(handled, handled[1:]):
            since = injected[bisect.bisect_right(injected, before):bisect.bisect_right(injected, at + 1000000)]
            assert since, (event, cpu, at, 'nothing was injected since', before)
            found.append((since[0], at))
    return found


def check_causes(guest, host, bound, nr, busy):
    """
    What caused what, across the border, on the host's clock. The guest's disk is what injects most behind the cause of number
    @busy, but for timers.
    """
    call, seen, numbers = calls(guest, BORDER), written(host), range(1, nr + 1)
    in_order('system call, then the exit that it asks for', [(call[n, 0], seen[n]) for n in numbers], bound)
    in_order('exit, then the next system call', [(seen[n], call[n, 1]) for n in numbers], bound)
    in_order('timer started, then the exit that sets it', timers(guest, host), bound)
    in_order('timer interrupt injected, then its handler', interrupts(guest, host, 'local_timer_entry', LOCAL_TIMER), bound)
    vectors = collections.Counter(e['fields']['vector'] for e in host if e['event'] == 'kvm_inj_virq' and e['time'] > call[busy, 1])
    disk = max((v for v in vectors if v < LOCAL_TIMER), key=vectors.get)
    in_order("disk's interrupt injected, then its handler", interrupts(guest, host, 'vring_interrupt', disk), bound)


def check_disk(page, events, traced):
    """
    Requests of the guest's disk through QEMU, the host's disk and back: what the host did, as ftrace has it. Whoever has
    no virtual CPU yet is no VMM: QEMU tries how its disk takes unaligned reads before it has one.
    """
    requests, others = test_host_disk.of_ftrace(traced)
    first = min(time for time, _, event, _ in others if event in ('kvm_entry', 'kvm_exit'))
    want = [r for r in requests if r.asked > first]
    assert len(want) >= NR_READS, (len(want), len(requests))
    test_host_disk.check_disk(events, want)
    test_host_disk.check_host(page, events)
    (rows,) = [of for (_, kind), of in test_view_io.parse(page).items() if kind == 'read']
    assert rows['bytes'] == NR_READS * 4096, rows['bytes']
    for stage in test_view_io.STAGES:
        row = rows[stage]
        assert int(row['n']) + int(row['none']) + int(row['unknown']) == NR_READS, row[0]
        # Not known where the guest left guest mode for something else between the interrupt and its handler.
        assert stage == 'guest queue' or int(row['n']) >= 0.9 * NR_READS, row[0]
    say(page[:page.index('\n\n', page.index('STAGE'))])
    say(f'{len(requests) - len(want)} requests of QEMU were before its first virtual CPU')
    return len(want)


def check_places(page, host, console):
    """Where the guest was when it left, by its own kernel's name for it: its timer is set in native_write_msr()."""
    begin = int(re.search(r'^([0-9a-f]{16}) . native_write_msr\s*$', console, re.M)[1], 16)
    exits = [e['fields']['guest_rip'] for e in host if e['event'] == 'kvm_exit' and name_of(e['fields'], 'reason') == 'msr']
    (rip, nr), = collections.Counter(rip for rip in exits if 0 <= rip - begin < 64).most_common(1)
    row = re.search(rf'^.* (\d+) .* native_write_msr\+{rip - begin:#x}$', page, re.M)
    # An exit whose entry is not known is not counted.
    assert nr > NR_CAUSES and row and 0.95 * nr <= int(row[1]) <= nr, (nr, row and row[0], hex(begin), page[:3000])
    say(row[0].strip())


def check_told(vms, console, cpus):
    """The VM as the host sees it, and as it sees itself."""
    assert re.search(rf'^\d+ .*: qemu-system-x86_64, KVM, {cpus} vCPUs, 320 MiB of shared memory\n +host-reader ivshmem:/dev/shm/l2 ',
                     vms, re.M), vms
    console = console.replace('\r', '')
    assert re.search(r'^Runs on KVM \(QEMU\), Linux ', console, re.M), console
    for what in 'stolen time', 'async faults', 'region', 'direct':
        assert re.search(rf'^  {what} +yes ', console, re.M), (what, console)
    assert re.search(r'^  kvmclock +no +in use; ', console, re.M), console


@params(('6.1', 1), ('6.1', 2), ('6.12', 1), ('6.12', 2))
def test_timeline(kernel, cpus):
    """Of what a reader shows live, on a busy host much is not known of virtual CPUs yet: all is in the capture."""
    with tempfile.TemporaryDirectory() as at:
        with nested_linux.LinuxInL1(SCRIPT, GUEST, kernel, kernel, guest_cpus=cpus) as vm:
            vm.start()
            assert vm.finish(400) == 0, vm.console()[-3000:]
            with tarfile.open(vm.disk) as tar:
                tar.extractall(at)
        test_capture.replay(os.path.join(at, 'raw'), '-o', 'json:' + os.path.join(at, 'replayed'))
        test_capture.replay(os.path.join(at, 'raw'), '--view', 'io', '-o', 'text:' + os.path.join(at, 'page'))
        test_capture.replay(os.path.join(at, 'raw'), '--view', 'exits', '-o', 'text:' + os.path.join(at, 'exits'))
        test_capture.replay(os.path.join(at, 'raw'), '--view', 'steal:json', '-o', 'text:' + os.path.join(at, 'steal'))
        check_files(at, cpus)


def check_files(at, cpus):
    files = {}
    for name in 'json', 'replayed', 'err', 'clock', 'ftrace', 'ftrace.stats', 'list', 'l2.console', 'page', 'exits', 'steal', 'busy':
        with open(os.path.join(at, name), encoding='utf-8') as f:
            files[name] = f.read()
    assert len(re.findall(r'^lost +0 \(overwritten 0, dropped 0, corrupt 0', files['err'], re.M)) == 2, files['err']
    assert not re.search(r'overrun: [^0]', files['ftrace.stats'])
    check_told(files['list'], files['l2.console'], cpus)
    told = re.search(r"^shown as +the host's CLOCK_MONOTONIC, within \d+ ns \(by the offset of its TSC that KVM tells\)$",
                     files['clock'], re.M)
    assert told, files['clock']
    line = re.search(r'^line +it was ([\d.]+) s when the host\'s was ([\d.]+) s, .*; within (\d+) ns then$', files['clock'], re.M)
    bound = max(e['bound'] for e in map(json.loads, files['replayed'].splitlines()) if 'clock' in e)
    assert int(line[3]) <= MAX_BOUND and bound <= OVERLOADED, (bound, line[0])
    # Without a common clock: each machine's own begins when it starts.
    apart = float(line[2]) - float(line[1])
    assert apart > 1, line[0]
    say(f'within {line[3]} ns, {bound} at worst; the two CLOCK_MONOTONIC are {apart:.3f} s apart')
    live, events = (test_kvm.load(files[name]) for name in ('json', 'replayed'))
    host = sorted((e for e in events if e['source'] == 'kvm'), key=lambda e: e['time'])
    guest = [e for e in events if e['source'] != 'kvm']
    threads = test_kvm.by_thread([e for e in host if not e['event'].startswith('kvm_disk')])
    assert len(threads) == cpus, threads.keys()
    say(f'{check_exits(threads, files["ftrace"])} events of KVM as ftrace has them')
    check_places(files['exits'], host, files['l2.console'])
    nr = check_disk(files['page'], host, files['ftrace'])
    say(f'{nr} requests of QEMU to its disk as ftrace has them')
    for what, of, least in ('live', [e for e in live if e['source'] != 'kvm'], 0.1), ('again', guest, 0.99):
        known, out, changes = check_states(of, threads, least)
        say(f'{what}: {known} of {len(of)} events of the guest are known to lie in a time in which its virtual CPU ran, {out} only nearly')
    check_causes(guest, [e for e in host if not e['event'].startswith('kvm_disk')], bound, NR_CAUSES, NR_CAUSES)
    check_tracks(os.path.join(at, 'raw'), guest, changes, host[0]['fields']['vm'])
    check_steal(files['steal'], guest, changes)
    check_takers(files['steal'], threads, int(files['busy']))
    check_asked(guest, threads)


def check_asked(guest, threads):
    """
    What the guest's kernel says that it asks of KVM is what KVM was asked: behind each such event of a virtual CPU there
    is the hypercall, if any CPU was meant, and before each hypercall there is the event. By the hypercall's number. How many.
    """
    counts = {}
    for name, number in ('kvm_kick_cpu', 5), ('kvm_send_ipi', 10):
        asked = made = 0
        for host in threads.values():
            cpu = host[0]['fields']['vcpu_id']
            mine = [e['time'] for e in guest if e['cpu'] == cpu and e['event'] == name]
            calls = [e['time'] for e in host if e['event'] == 'kvm_hypercall' and e['fields']['nr'] == number]
            both = sorted([(t, True) for t in mine] + [(t, False) for t in calls if mine and mine[0] <= t <= mine[-1]])
            assert all(before[1] for before, e in zip(both, both[1:]) if not e[1]), (name, cpu, both[:20])
            asked, made = asked + len(mine), made + sum(not e[1] for e in both)
        say(f'{name}: {asked} events, {made} hypercalls behind them')
        counts[name] = made
    return counts


def load_pairs(path):
    """What pairs are made of, by source, in order, as little of each as there can be: it may be many."""
    events, bounds = collections.defaultdict(list), collections.defaultdict(list)
    with open(path, encoding='ascii') as f:
        for e in map(json.loads, f):
            if 'event' in e:
                vm = e['fields']['vm'] if e['source'] == 'kvm' else e['vcpu']['vm']
                events[e['source']].append({'event': e['event'], 'time': e['time'], 'cpu': e['cpu'], 'vm': vm, 'fields': e['fields']})
            elif 'clock' in e:
                bounds[e['source']].append(e['bound'])
    for of in events.values():
        of.sort(key=lambda e: e['time'])
    return events, bounds


def test_two_guests():
    """Two guests and the host, on one clock, for as long as one likes: what caused what is in order, of each guest."""
    long = SECONDS > 60
    with tempfile.TemporaryDirectory(dir='/var/tmp' if long else None) as at:
        with nested_linux.LinuxInL1(TWO, TWO_GUEST, guest_memory='256M', memory='3G' if long else '1536M',
                                    disk_mib=1024 if long else 256) as vm:
            vm.start()
            assert vm.finish(400 + SECONDS * 1.2) == 0, vm.console()[-3000:]
            with tarfile.open(vm.disk) as tar:
                tar.extractall(at)
        with open(os.path.join(at, 'err'), encoding='utf-8') as f:
            err = f.read()
        assert len(re.findall(r'^lost +0 \(overwritten 0, dropped 0, corrupt 0', err, re.M)) == 3, err
        then = [int(b) for b in re.findall(r'^line .*; within (\d+) ns then$', err, re.M)]
        assert len(then) == 2 and max(then) <= MAX_BOUND, err
        clocks.check_bounds(err, [MAX_BOUND] * 2, False)  # an emulated machine's agent is late at times
        events, bounds = load_pairs(os.path.join(at, 'json'))
    for name, within in zip('ab', then):
        path = f'/dev/shm/{name}'
        guest, bound = events[path], max(bounds[path])
        assert bound <= OVERLOADED, bounds[path]
        (vm,) = {e['vm'] for e in guest}
        host = [e for e in events['kvm'] if e['vm'] == vm]
        lasted = (guest[-1]['time'] - guest[0]['time']) / 1e9
        say(f'guest {name}: {len(guest)} events, {len(host)} of KVM, in {lasted:.1f} s; within {within} ns, {bound} at worst')
        assert lasted > SECONDS
        check_causes(guest, host, bound, BURSTS * NR_CAUSES, 1)


# A guest that polls before it halts: Debian's 6.12 for clouds has the governor for it, its 6.1 has not.
POLLS = r'''
truncate -s 16M $region
host-reader -o json:$out/json ivshmem:$region 2> $out/err &
reader=$!
linux_start l2 driver=null-co,size=64M && linux_end l2 || { cat $out/err; exit 1; }
reader_end || exit 1
'''

POLLING = r'''
T=/sys/kernel/tracing
[ $(cat /sys/devices/system/cpu/cpuidle/current_governor) = haltpoll ] || exit 1
echo 1 > $T/events/power/guest_halt_poll_ns/enable
traced --events kvm_guest || exit 1
for most in 100000000 1000; do # ns: of pauses shorter than that it polls ever longer, behind longer ones no more
	echo $most > /sys/module/haltpoll/parameters/guest_halt_poll_ns
	for i in $(seq 30); do usleep 20000; done
done
agent_stop || exit 1
echo 0 > $T/tracing_on
sed -n 's/.* guest_halt_poll_ns: /POLL /p' $T/trace
'''


def run_to_the_end(*args, **more):
    """The files that L1 left, by name."""
    with nested_linux.LinuxInL1(*args, **more) as vm:
        status, files = vm.run(300)
        assert status == 0, vm.console()[-3000:]
    return files


def test_halt_polling():
    """For how long the guest polls before it halts, each change of it as its own kernel traces it."""
    files = run_to_the_end(POLLS, POLLING, guest_kernel='6.12', guest_memory='256M', modules=(),
                           guest_options='cpuidle_haltpoll.force=1')
    events = [e['fields'] for e in map(json.loads, files['json'].splitlines()) if e.get('event') == 'guest_halt_poll_ns']
    polls = re.findall(r'^POLL halt_poll_ns (\d+) \((grow|shrink) (\d+)\)', files['l2.console'], re.M)
    ours = [(e['new_ns'], bool(e['grow']), e['old_ns']) for e in events]
    theirs = [(int(new), way == 'grow', int(old)) for new, way, old in polls]
    ways = collections.Counter(grow for _, grow, _ in ours)
    # The kernel's trace began before and ended later.
    assert any(ours == theirs[i:i + len(ours)] for i in range(len(theirs) - len(ours) + 1)), (ours[:5], theirs[:5])
    assert ways[True] >= 3 and ways[False] >= 3, (ways, ours[:20])
    say(f'{len(ours)} changes of how long it polls as ftrace has them ({len(theirs)}), {ways[True]} of them longer')


# L1's kernel traces what KVM was asked, or what it told.
KVM_TRACED = r'''
I=$T/instances/kvm
mkdir $I
echo 8192 > $I/buffer_size_kb
for e in kvm_hypercall kvm_async_pf_not_present kvm_async_pf_ready; do echo 1 > $I/events/kvm/$e/enable || exit 1; done
truncate -s 16M $region
reader_start -o json:$out/json kvm ivshmem:$region || exit 1
'''

TRACED_KVM = r'''
linux_end l2 || { cat $out/err; exit 1; }
echo 0 > $I/tracing_on
reader_end || exit 1
cat $I/trace > $out/ftrace
cat $I/per_cpu/cpu*/stats > $out/ftrace.stats
'''

ASKED = KVM_TRACED + r'''
linux_start l2 driver=null-co,size=64M
''' + TRACED_KVM

ASKING = r'''
traced --events kvm_kick_cpu,kvm_send_ipi || exit 1
crowd locks 4 || exit 1
agent_stop || exit 1
'''


def run_traced(*args, **more):
    """(The guest's events, the host's by thread, ftrace's text)"""
    files = run_to_the_end(*args, modules=(), guest_add=[CROWD + ':/bin/'], **more)
    assert len(re.findall(r'^lost +0 \(overwritten 0, dropped 0, corrupt 0', files['err'], re.M)) == 2, files['err']
    assert not re.search(r'overrun: [^0]', files['ftrace.stats'])
    say(*re.findall('CROWD .*', files['l2.console']))
    events = test_kvm.load(files['json'])
    threads = test_kvm.by_thread([e for e in events if e['source'] == 'kvm' and not e['event'].startswith('kvm_disk')])
    return [e for e in events if e['source'] != 'kvm'], threads, files['ftrace']


def test_asked():
    """Kicks and interrupts that a guest's kernel asks for by hypercalls. One for all CPUs but one would be the APIC's, without any."""
    guest, threads, ftrace = run_traced(ASKED, ASKING, guest_cpus=3, guest_options='no_ipi_broadcast=1')
    assert len(threads) == 3, threads.keys()
    for name, number in ('kvm_kick_cpu', 5), ('kvm_send_ipi', 10):
        ours = sum(e['event'] == 'kvm_hypercall' and e['fields']['nr'] == number for of in threads.values() for e in of)
        theirs = len(re.findall(rf' kvm_hypercall: nr 0x{number:x} ', ftrace))
        assert ours == theirs, (name, ours, theirs)
    made = check_asked(guest, threads)
    assert made['kvm_kick_cpu'] >= 3 and made['kvm_send_ipi'] >= 50, made


# Memory of QEMU's own, since a shared file's is fetched at once; swapped to a disk as soon as the guest has filled it.
SWAPPED = r'''
mkdir -p /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && echo +memory > /sys/fs/cgroup/cgroup.subtree_control || exit 1
mkdir /sys/fs/cgroup/vm
mkswap /dev/vdb > /dev/null && swapon /dev/vdb || exit 1
''' + KVM_TRACED + r'''
echo $$ > /sys/fs/cgroup/vm/cgroup.procs
ram=memory-backend-ram
linux_start l2 driver=null-co,size=64M
echo $$ > /sys/fs/cgroup/cgroup.procs
linux_says l2 FILLED || { cat $out/err; exit 1; }
echo 150M > /sys/fs/cgroup/vm/memory.reclaim || : # as much as there is
''' + TRACED_KVM

SWAPPING = r'''
agent_start --events 'kvm_async_pf_*' || exit 1
sleep 1
crowd pages 96 15 || exit 1
agent_stop || exit 1
'''


def test_async_faults():
    """Each page that KVM said it has not, the guest's task waits for, and it is woken when KVM says that it is there."""
    guest, _, ftrace = run_traced(SWAPPED, SWAPPING, guest_disk_mib=512)
    waits, wakes = ([(e['fields']['token'], e['time']) for e in sorted(guest, key=lambda e: e['time']) if e['event'] == name]
                    for name in ('kvm_async_pf_wait', 'kvm_async_pf_wake'))
    missing, ready = ([int(token, 16) for token in re.findall(rf' kvm_async_pf_{what}: token (0x[0-9a-f]+)', ftrace)]
                      for what in ('not_present', 'ready'))
    tokens = [token for token, _ in waits]
    say(f'{len(waits)} waits of {len(missing)} times that KVM has not the page, {len(wakes)} wakes of {len(ready)}')
    # KVM's began before, and ended later: what ends the agent is fetched, too.
    begin = missing.index(tokens[0])
    assert len(tokens) >= 500 and missing[begin:begin + len(tokens)] == tokens, (tokens[:5], missing[:5], len(missing))
    assert not collections.Counter(token for token, _ in wakes) - collections.Counter(ready)
    woken = dict(wakes)
    assert all(token in woken and woken[token] >= time for token, time in waits[:-20]), 'a wait without a wake'


# By virtio's socket, which the host's kernel serves (vhost): nothing is shared.
HOST_OF_VSOCK = r'''
host-reader -o json:$out/json stream:vsock:3:7000 2> $out/err &
reader=$!
linux_start l2 driver=null-co,size=64M '' '-device vhost-vsock-pci,guest-cid=3' && linux_end l2 || { cat $out/err; exit 1; }
reader_end || exit 1
'''

BY_VSOCK = r'''
agent_start --verbose --region stream:vsock:2:7000 --events sys_enter --filter 'nr == 121' || exit 1
for i in $(seq 300); do
	! grep -q 'the host is there' /tmp/agent.log || break
	sleep 0.1
done
workload count CALLS 4242
agent_stop || exit 1
'''


def test_vsock():
    """A guest sends its events to its host by virtio's socket: each call of the workload's is there, once, in order."""
    calls = 20000
    files = run_to_the_end(HOST_OF_VSOCK, BY_VSOCK.replace('CALLS', str(calls)), guest_memory='256M',
                           modules=('virtio_blk', 'vmw_vsock_virtio_transport'), host_modules=('vhost_vsock',))
    events = [json.loads(line) for line in files['json'].splitlines()]
    assert not any('lost' in e for e in events)
    args = [e['fields']['args'][:2] for e in events if e.get('event') == 'sys_enter']
    assert args == [[4242, number] for number in range(calls)], (len(args), args[:3], args[-3:])


def test_multiplication():
    """
    bench/multiplication, one short round: a hypercall of a guest's guest is one exit to its own hypervisor and several of
    that one's, among them the one that enters the guest again; a record that is read on this machine is none.
    """
    bench = load_bench('multiplication')
    found, traced = bench.measure('6.1', 1, 0.2)
    for (level, work), (run,) in found.items():
        exits = bench.each(traced[level, work], work)
        say(f'level {level}, {work}: {run["exits"]:.2f} exits right below, {exits:.2f} of the outer KVM, {run["ns"]} ns')
        if work == 'record':
            assert run['exits'] < 0.5 and exits < 2, (level, run, exits)
            continue
        assert run['exits'] >= 1 and len(bench.cycles(traced[level, work].exits)) == traced[level, work].n - 1, run
        alone = collections.Counter(bench.alone(traced[level, work]))
        assert alone, 'no hypercall without an interrupt before the next'
        if level == 1:
            assert set(alone) == {(bench.HYPERCALL,)}, alone
        else:
            assert all(of.count('vmrun') >= 1 and len(of) >= 3 for of in alone), alone
    for line in bench.sequences(traced):
        say(line)


# QEMU in a machine that is emulated itself falls now and then on a busy one, whatever is tested: tools/long-tests.sh has
# these run, a run of all tests has not. `nested`, `kvm` and `host_disk` are of guests that do not need it.
if not os.environ.get('HTRACE_LINUX_GUEST'):
    del test_timeline, test_two_guests, test_halt_polling, test_asked, test_async_faults, test_vsock, test_multiplication

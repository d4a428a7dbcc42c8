# SPDX-License-Identifier: LGPL-2.1-or-later
"""SOURCE kvm: a host's exits as the kernel's own tracing, the VMM and the guest have them."""

import collections
import itertools
import json
import os
import re
import statistics
import struct
import subprocess
import tarfile
import tempfile

import causes
import exitspage
import nested
import pftext
import test_vcpus
from harness import params, say
from test_capture import replay
from test_perfetto import same_instant
from vm import READER

WORKS = ['io', 'mmio', 'hlt', 'cpuid', 'vmcall', 'interrupt', 'read', 'mmioread', 'event']
OWN_WORKS = ['timer', 'interrupt', 'msr', 'read', 'mmioread']
ROUNDS = 400
# ns, with the offset of its TSC from KVM: of a guest's CLOCK_MONOTONIC, and of times that are the TSC's.
BOUNDS = {'mono': 500, 'tsc': 200}
# By how much more until the next sample, which a reader or agent that gets no CPU does not take: the clock may wander.
OVERLOADED = 9500

# One L2, which all look at: a reader of its region and KVM, one that aggregates, and the kernel's own trace.
SCRIPT = r'''
I=$T/instances/kvm
mkdir $I
echo mono > $I/trace_clock
echo 8192 > $I/buffer_size_kb
for e in exit entry hypercall mmio pio msr inj_virq userspace_exit halt_poll_ns; do
	echo 1 > $I/events/kvm/kvm_$e/enable || exit 1
done
echo 1 > $I/events/sched/sched_switch/enable
echo 0 > $I/tracing_on
begun() { # PID ERR
	until grep -q 'rings of BPF programs on KVM' $2; do
		kill -0 $1 || { cat $2; return 1; }
		sleep 0.05
	done
}
# Readers that are asked to end while they have much to show count what they leave out.
shown() {
	was=
	until [ "$was" = "$(ls -l $out/*.json)" ]; do
		was=$(ls -l $out/*.json)
		sleep 1
	done
}
# As if the kernel had no such tracepoint.
mkdir /tmp/none
hide() { # mount or umount, NAME
	for d in $T /sys/kernel/debug/tracing; do
		[ ! -d $d/events/kvm ] || case $1 in
		mount) mount --bind /tmp/none $d/events/kvm/$2 ;;
		*) umount $d/events/kvm/$2 ;;
		esac || return 1
	done
}
hide mount kvm_entry || exit 1
host-reader --duration 5 -o json:$out/none.json kvm 2> $out/none.err
[ $? = 1 ] || exit 1
hide umount kvm_entry && hide mount kvm_halt_poll_ns || exit 1
host-reader -o json:$out/other.json kvm,pid=1 2> $out/other.err &
other=$!
begun $other $out/other.err || exit 1
hide umount kvm_halt_poll_ns || exit 1
host-reader -o json:$out/all.json --view exits -o text:$out/all.page kvm 2> $out/all.err &
all=$!
begun $all $out/all.err || exit 1
timeout 110 l2vmm -w $region ROUNDS 4 100 WORKS > $out/l2.vmm 2>&1 &
vmm=$!
until [ -s $region ]; do sleep 0.05; done
host-reader -o json:$out/joined.json --view exits -o text:$out/joined.page kvm,pid=$vmm,aggregate 2> $out/joined.err &
joined=$!
begun $joined $out/joined.err || exit 1
echo 1 > $I/tracing_on
host-reader -o json:$out/both.json -o ctf:$out/ctf -o raw:$out/raw kvm,pid=$vmm local:$region 2> $out/both.err &
both=$!
renice -n -20 -p $both > /dev/null
wait $vmm || { cat $out/*.err; exit 1; }
echo 0 > $I/tracing_on
shown
kill -INT $all $joined $other $both
wait $all && wait $joined && wait $other && wait $both || { cat $out/*.err; exit 1; }
host-reader -o json:$out/again.json file:$out/raw 2> $out/again.err || { cat $out/again.err; exit 1; }
cat $I/trace > $out/ftrace
cat $I/per_cpu/cpu*/stats > $out/ftrace.stats
echo $vmm > $out/pid
rm -f $region
'''

# An L2 that is a machine of its own, with another TSC and local APICs: what its clock is here, KVM says.
OWN_SCRIPT = r'''
echo 2000000 > /sys/module/kvm/parameters/halt_poll_ns || exit 1
echo > $I/trace
echo 1 > $I/tracing_on
timeout 110 l2vmm -o CLOCK -b -s 4000 -w $region ROUNDS 4 100 OWN_WORKS > $out/own.vmm 2>&1 &
vmm=$!
until [ -s $region ]; do sleep 0.05; done
host-reader --clock -o json:$out/own.json -o raw:$out/own.raw kvm,pid=$vmm ivshmem:$region 2> $out/own.err &
own=$!
renice -n -20 -p $own > /dev/null
wait $vmm || { cat $out/own.err $out/own.vmm; exit 1; }
echo 0 > $I/tracing_on
shown
kill -INT $own
wait $own || { cat $out/own.err; exit 1; }
cat $I/trace > $out/own.ftrace
cat $I/per_cpu/cpu*/stats > $out/own.stats
echo $vmm > $out/own.pid
'''

LINE = re.compile(r'^\s*(?P<comm>.+)-(?P<tid>\d+)\s+\[(?P<cpu>\d+)\]\s+\S+\s+(?P<time>[\d.]+): (?P<event>\w+): (?P<rest>.*)$')
PARTS = {
    'kvm_exit': r'vcpu \d+ reason (.*?) rip (0x\w+) info1 (0x\w+) info2 (0x\w+)',
    'kvm_entry': r'vcpu \d+',
    'kvm_hypercall': r'nr (0x\w+) a0 (0x\w+) a1 (0x\w+) a2 (0x\w+) a3 (0x\w+)',
    'kvm_mmio': r'mmio (\S+) len (\d+) gpa (0x\w+) val (0x\w+)',
    'kvm_pio': r'pio_(read|write) at (0x\w+) size (\d+) count (\d+) val (0x\w+)',
    'kvm_inj_virq': r'(IRQ|Soft/INTn) (0x\w+)( \[reinjected\])?',
    'kvm_msr': r'msr_(read|write) (\w+) = (0x\w+)( \(#GP\))?',
    'kvm_halt_poll_ns': r'vcpu \d+: halt_poll_ns (\d+) \((grow|shrink) (\d+)\)',
    'kvm_userspace_exit': r'reason (\S+) \((\d+)\)',
}


def number(word):
    """As it stands, or the number that it is."""
    return int(word, 0) if word and re.fullmatch(r'0x[0-9a-fA-F]+|\d+', word) else word


def of_ftrace(text, threads):
    """{thread: [(time in us, event, values...)]} of ftrace's output."""
    found = collections.defaultdict(list)
    for line in text.splitlines():
        m = LINE.match(line)
        if not m:
            assert line.startswith('#') or not line, line
            continue
        time = round(float(m['time']) * 1e6)
        if m['event'] == 'sched_switch':
            s = re.search(r'prev_pid=(\d+) .* prev_state=(\S+) ==> .* next_pid=(\d+)', m['rest'])
            found[int(s[1])].append((time, 'kvm_sched_out', s[2], int(s[3])))
            found[int(s[3])].append((time, 'kvm_sched_in'))
        elif int(m['tid']) in threads:
            p = re.match(PARTS[m['event']], m['rest'])
            assert p, line
            found[int(m['tid'])].append((time, m['event'], *map(number, p.groups())))
    return {tid: found[tid] for tid in threads}


def name_of(f, field):
    return f.get(field + '.name', f[field])


def as_ftrace(e):
    """One of our events as of_ftrace() has it; None: ftrace has no such."""
    f, name = e['fields'], e['event']
    values = {
        'kvm_exit': lambda: (str(name_of(f, 'reason')).replace('_excp', ' excp'), f['guest_rip'], f['info1'], f['info2']),
        'kvm_entry': lambda: (),
        'kvm_hypercall': lambda: tuple(f[n] for n in ('nr', 'a0', 'a1', 'a2', 'a3')),
        'kvm_guest_event': lambda: (0x48540000 | f['id'], f['a'], f['b'], f['c'],
                                    f['sequence'] | f['part'] << 32 | f['length'] << 48),
        'kvm_mmio': lambda: (name_of(f, 'kind').replace('_', '-'), f['len'], f['gpa'], f['value']),
        'kvm_pio': lambda: ('write' if f['write'] else 'read', f['port'], f['size'], f['count'], f['value']),
        'kvm_inj_virq': lambda: ('Soft/INTn' if f['soft'] else 'IRQ', f['vector'],
                                 ' [reinjected]' if f['reinjected'] else None),
        'kvm_msr': lambda: ('write' if f['write'] else 'read', number(f'{f["msr"]:x}'), f['value'],
                            ' (#GP)' if f['fault'] else None),
        'kvm_halt_poll_ns': lambda: (f['new'], 'grow' if f['grow'] else 'shrink', f['old']),
        'kvm_userspace_exit': lambda: (name_of(f, 'reason'), f['reason']) if f['error'] >= 0 else
                                      ('restart' if f['error'] == -4 else 'error', -f['error']),
        'kvm_sched_out': lambda: (name_of(f, 'prev_state'), f['next_tid']),
        'kvm_sched_in': lambda: (),
    }
    theirs = 'kvm_hypercall' if name == 'kvm_guest_event' else name
    return (e['time'] // 1000, theirs, *values[name]()) if name in values else None


def load(text, source=''):
    """Events of a source, in order; nothing else may be there, but as what times are shown, and who had no CPU for its heart."""
    found = [e for e in map(json.loads, text.splitlines())
             if 'clock' not in e and not re.match('guest silent for|the guest is back', e.get('note', ''))]
    assert all('fields' in e for e in found), [e for e in found if 'fields' not in e][:3]
    return [e for e in found if e.get('source', '').startswith(source)]


def without_vcpus(text, source):
    """What is known of those when an event goes out depends on how far the other source is."""
    return [{k: v for k, v in e.items() if k != 'vcpu'} for e in load(text, source)]


def by_thread(found):
    """In order of time: a reader that was kept from reading for long may show a CPU's events behind another's."""
    threads = collections.defaultdict(list)
    for e in sorted(found, key=lambda e: e['time']):
        threads[e['fields']['tid']].append(e)
    return dict(threads)


def alive(found):
    """Without the switches of a thread that is ending, which depend on when each reader's program forgets it."""
    nr = len(found)
    while found[nr - 1]['event'].startswith('kvm_sched'):
        nr -= 1
    return found[:nr]


def losses(said):
    """What a reader's summary has of events that it did not get: the kernel may have skipped programs."""
    return re.findall('^(?:lost|skipped|unwritten|order) .*$', said, re.M)


def difference(got, want, said):
    """In words: how many of each kind there are, where they differ, and how it goes on there."""
    nr, theirs = (collections.Counter(t[1] for t in of) for of in (got, want))
    at = next((i for i, (g, w) in enumerate(zip(got, want)) if g[1:] != w[1:]), min(len(got), len(want)))
    around = slice(max(at - 3, 0), at + 5)
    return (f'{len(got)} events, of {len(want)} of ftrace; ours and ftrace\'s: '
            f'{({kind: (nr[kind], theirs[kind]) for kind in nr | theirs if nr[kind] != theirs[kind]})}; from {at} on, ours: '
            f'{got[around]}, ftrace\'s: {want[around]}; {losses(said)}')


def check_same(ours, theirs, said=''):
    """
    Each event is the kernel's, in its order and with its values; the time is of some instructions later, or of a long
    time if the emulator's CPU was given to another between the one's stamp and the other's. @said: by the reader.
    """
    got = [t for t in map(as_ftrace, ours) if t]
    want = theirs[next(i for i, t in enumerate(theirs) if t[1] == 'kvm_entry'):]  # not known for a vCPU before
    # A thread that has ended is no vCPU any more, and is switched some times nevertheless.
    assert [g[1:] for g in got] == [w[1:] for w in want[:len(got)]] and \
        all(t[1].startswith('kvm_sched') for t in want[len(got):]), difference(got, want, said)
    for g, w in zip(got, want):
        assert -1 <= g[0] - w[0] < 1000000, (g, w)
    later = statistics.quantiles((g[0] - w[0] for g, w in zip(got, want)), n=10)
    assert later[4] <= 30 and later[8] <= 300, later  # us; 1 to 4, and 4 to 10, where there is nothing else to do
    return len(want)


def out_times(events):
    """{reason: [us out of guest mode]} of (time, event, reason...) in the order in which they came."""
    times, out = collections.defaultdict(list), None
    for time, event, *values in events:
        if event == 'kvm_exit':
            out = (time, values[0])
        elif event == 'kvm_entry' and out:
            times[out[1]].append(time - out[0])
            out = None
    return times


def joined_times(found):
    """Likewise of what was aggregated."""
    times = out_times(t for t in map(as_ftrace, found) if t)
    for e in found:
        if e['fields'].get('exit_overhead_ns'):
            times[name_of(e['fields'], 'reason')].append(e['fields']['exit_overhead_ns'] / 1000)
    return times


def check_times(name, got, want, said=''):
    """
    Counts and times by reason. Both tracers hook the same tracepoints, one after the other: of an exit, however long,
    one has more than the other by what they take at the entry less what they take at the exit: 2 to 6 us. Of ten, one may
    have been interrupted, or have lost the emulator's CPU, between the one's stamp and the other's, and of few some more;
    where what ended guest mode is an interrupt, that is what comes between. With all of these, of all reasons together, the
    two have been within 2.3 % of each other.
    """
    nr, theirs = ({r: len(t) for r, t in of.items()} for of in (got, want))
    assert nr == theirs, (name, nr, theirs, losses(said))
    say(f'{name}: out of guest mode by us and ftrace:',
        ', '.join(f'{r} {nr[r]} times, {sum(got[r]) / 1e3:.1f} and {sum(want[r]) / 1e3:.1f} ms' for r in sorted(want)))
    ours, theirs = (sum(map(sum, of.values())) for of in (got, want))
    assert abs(ours - theirs) <= theirs / 20, (name, ours, theirs, losses(said))
    for reason in want:
        pairs = sorted(zip(got[reason], want[reason]), key=lambda p: abs(p[0] - p[1]))
        pairs = pairs[:max(len(pairs) - len(pairs) // 10 - 1, 0)]
        ours, theirs = (sum(p[i] for p in pairs) for i in (0, 1))
        each = 100 if reason == 'interrupt' else 15
        assert abs(ours - theirs) <= each * len(pairs) + 300, (name, reason, ours, theirs, len(pairs))


def check_purpose(account, counts):
    """What the guest was told to do, and what the VMM saw of it."""
    work, made = account['work'], account['made']
    assert account['io'] == (made if work in ('io', 'read') else 0) + 1, account
    assert counts['io'] == account['io'] + account['bells'], (account, counts)  # those end in the kernel
    assert counts['hlt'] == account['hlt'] + account['halts'] and account['hlt'] == (made if work == 'hlt' else 0)
    assert counts['msr'] == account['msrs'], (account, counts)
    assert not account['wrong'], account
    assert counts['cpuid'] == (made if work == 'cpuid' else 0)
    assert counts['hypercall'] == (made if work in ('vmcall', 'event') else 0)
    assert sum(counts.values()) == account['exits'], (account, counts)


def reasons(found):
    return collections.Counter(name_of(e['fields'], 'reason') for e in found
                               if e['event'] == 'kvm_exit' or 'exit_overhead_ns' in e['fields'])


def check_events(account, found):
    """
    What a guest said by hypercalls (tests/guest/l2/l2.c): each event once, numbered in order, with its values; what is no
    event of the channel is a hypercall like others.
    """
    events = [e['fields'] for e in found if e['event'] == 'kvm_guest_event']
    wrong = [e['fields'] for e in found if e['event'] in ('kvm_hypercall', 'hypercall')]
    if account['work'] != 'event':
        assert not events and not account['events'], account
        return
    want, sequence = [], 0
    mask = (1 << 64) - 1
    for n in range(ROUNDS):
        want.append((7, sequence, 24, 0, n, nested.l2_check(n, events[0]['vcpu_id']), n ^ mask))
        sequence += 1
        if n % 4 == 0:
            data = bytes((n + i) % 256 for i in range(60)).ljust(72, b'\0')
            want += [(65535, sequence, 60, part, *struct.unpack_from('<3Q', data, 24 * part)) for part in range(3)]
            sequence += 1
    assert [tuple(f[k] for k in ('id', 'sequence', 'length', 'part', 'a', 'b', 'c')) for f in events] == want
    assert sequence == account['events'] and account['made'] == len(events) + len(wrong), account
    assert [(f['nr'], f['a0'], f['a3'] >> 32) for f in wrong] == \
        [(0x48540009, n, 24 << 16 | 1) for n in range(0, ROUNDS, 4)], wrong[:3]
    say(f'{sequence} events of a guest by {account["made"]} hypercalls')


def check_joined(account, plain, joined):
    """The same events, some of them in one."""
    of = collections.defaultdict(list)
    for e in plain:
        of[e['event']].append(e['fields'])
    to = collections.defaultdict(list)
    for e in joined:
        to[e['event']].append(e['fields'])
    for one, part in ('hypercall', 'kvm_hypercall'), ('kvm_io', 'kvm_pio'), ('kvm_mmio_access', 'kvm_mmio'):
        parts = [p for p in of[part] if p.get('kind.name') != 'unsatisfied_read'] # whose answer has its kind
        assert not to[part] and len(to[one]) == len(parts), (one, account)
        for f, p in zip(to[one], parts):
            assert all(f[k] == v for k, v in p.items()), (f, p)
    assert len(to['kvm_mmio_access']) == account['mmio']
    assert to['kvm_guest_event'] == of['kvm_guest_event']
    rips = {'io': 'kvm_io'} if of['kvm_guest_event'] else {'io': 'kvm_io', 'hypercall': 'hypercall'}
    for reason, one in rips.items():
        assert [f['guest_rip'] for f in to[one]] == \
            [f['guest_rip'] for f in of['kvm_exit'] if name_of(f, 'reason') == reason], one
    for other in 'kvm_userspace_exit', 'kvm_inj_virq', 'kvm_sched_out', 'kvm_sched_in', 'kvm_vcpu':
        assert to[other] == of[other] or other.startswith('kvm_sched'), other
    ended = [f for name in ('hypercall', 'kvm_io', 'kvm_mmio_access', 'kvm_exited') for f in to[name]
             if not f['exit_overhead_ns']]
    assert len(ended) == 1 and name_of(ended[0], 'reason') == 'io'  # by which it said that it is done


def total(said):
    """(events, bytes) of a summary."""
    m = re.search(r'^total +(\d+) +[\d.]+ % +[\d.]+ +([\d.]+)$', said, re.M)
    return int(m[1]), round(int(m[1]) * float(m[2]))


def check_ctf(directory, found):
    """babeltrace2 reads the same from what was written as CTF, and from the capture."""
    counts = collections.Counter(e['event'] for e in found)
    for name in 'ctf', 'raw':
        at = os.path.join(directory, name)
        one = [os.path.join(at, d) for d in os.listdir(at) if d.startswith(('kvm', 'source1'))]
        text = subprocess.run(['babeltrace2', *one], stdout=subprocess.PIPE, text=True, check=True).stdout
        assert collections.Counter(re.findall(r' (kvm_\w+): ', text)) == counts, name
        assert re.search(r'kvm_exit:.* reason = \( "hlt" : container = 131192 \)', text), text[:500]


@params(('6.1', 'mono'), ('6.12', 'tsc'))
def test_truth(kernel, clock):
    """Plain and aggregated, beside another source and alone: as ftrace, the VMM and the guest have it."""
    script = (SCRIPT + OWN_SCRIPT).replace('ROUNDS', str(ROUNDS)).replace('CLOCK', clock)
    script = script.replace('OWN_WORKS', ' '.join(OWN_WORKS)).replace('WORKS', ' '.join(WORKS))
    with tempfile.TemporaryDirectory() as at, nested.L1(script, kernel) as vm:
        vm.start()
        assert vm.finish(280) == 0, vm.console()[-3000:]
        with tarfile.open(vm.disk) as tar:
            tar.extractall(at)
        files = {}
        for name in os.listdir(at):
            if os.path.isfile(os.path.join(at, name)):
                with open(os.path.join(at, name), encoding='utf-8') as f:
                    files[name] = f.read()
        seen = check_files(at, files) | check_own(at, files, BOUNDS[clock])
        assert seen >= set(PARTS) | {'kvm_sched_out', 'kvm_sched_in'}, seen


def check_files(at, files):
    for name in 'all', 'joined', 'both', 'other':
        assert len(re.findall(r'^lost +0 \(overwritten 0, dropped 0, corrupt 0', files[name + '.err'], re.M)) == \
            (2 if name == 'both' else 1), files[name + '.err']
    assert not re.search(r'overrun: [^0]', files['ftrace.stats'])
    said = 'host-reader: kvm,pid=1: this kernel does not have the tracepoints kvm_halt_poll_ns; their events are left out\n'
    assert files['other.err'].startswith(said), files['other.err']
    assert re.fullmatch(r"host-reader: cannot open source 'kvm': there is no tracepoint kvm_entry; is tracefs mounted, .*\n",
                        files['none.err']), files['none.err']
    accounts = {a['tid']: a for a in nested.vmm(files['l2.vmm'])}
    assert [a['work'] for a in accounts.values()] == WORKS
    plain = by_thread(load(files['all.json']))
    both = by_thread(load(files['both.json'], 'kvm'))
    joined = by_thread(load(files['joined.json']))
    traced = of_ftrace(files['ftrace'], accounts)
    assert plain.keys() == joined.keys() == both.keys() == accounts.keys() and not load(files['other.json'])
    nr = 0
    for cpu, (tid, account) in enumerate(accounts.items()):
        assert {e['fields']['vcpu_id'] for e in plain[tid]} == {cpu}
        assert {e['fields']['vm'] for e in plain[tid]} == {int(files['pid'])}
        assert {e['fields'].get('tid.name') for e in plain[tid]} == {f'vcpu{cpu}'}
        nr += check_same(plain[tid], traced[tid], files['all.err'])
        for one, other in itertools.zip_longest(alive(both[tid]), alive(plain[tid])):
            assert one and other and one['fields'] == other['fields'], (one, other)
        check_purpose(account, reasons(plain[tid]))
        check_purpose(account, reasons(joined[tid]))
        times = out_times(traced[tid])
        check_times(account['work'], out_times(t for t in map(as_ftrace, plain[tid]) if t), times, files['all.err'])
        check_times(account['work'] + ', aggregated', joined_times(joined[tid]), times, files['joined.err'])
        check_joined(account, plain[tid], joined[tid])
        check_events(account, plain[tid])
        check_events(account, joined[tid])
    nested.check_all(load(files['both.json'], '/dev'), list(accounts.values()))
    for source in 'kvm', '/dev':
        assert without_vcpus(files['again.json'], source) == without_vcpus(files['both.json'], source), source
    for name in 'all', 'joined':
        say(files[name + '.page'][:1800])
        exits = exitspage.check_page(files[name + '.page'], exitspage.of_json(load(files[name + '.json'])))
        # the last one, by which each said that it is done, has no entry
        assert exits == sum(a['exits'] for a in accounts.values()) - len(accounts), (name, exits)
    check_ctf(at, load(files['both.json'], 'kvm'))
    ran, changes = test_vcpus.check_guest(load(files['both.json']), list(accounts.values()), int(files['pid']))
    test_vcpus.check_slices(os.path.join(at, 'raw'), changes, int(files['pid']))
    say(f'{ran} events of the guest, written while its virtual CPUs ran')
    (events, size), (few, small) = total(files['all.err']), total(files['joined.err'])
    say(f'{nr} events as ftrace has them; {events} events of {size} bytes, aggregated {few} of {small}')
    assert few < 0.8 * events and small < 0.85 * size
    return {e['event'] for events in plain.values() for e in events}


def check_perfetto(at, guest, changes, pid):
    """Events of the guest and its virtual CPUs' slices lie on the one clock of their host, as JSON has them."""
    path = os.path.join(at, 'own.pf')
    replay(os.path.join(at, 'own.raw'), '-o', 'perfetto:' + path)
    trace = pftext.Trace(path)
    test_vcpus.same_slices(trace, changes, pid)
    (own,) = [m for m in trace.machines.values() if not any('vCPU' in track for track in m.slices)]
    for cpu in {e['cpu'] for e in guest}:
        records = [e for e in guest if e['cpu'] == cpu]
        instants = own.instants[f'CPU {cpu} events']
        assert len(instants) == len(records) and all(map(same_instant, instants, records)), cpu
    # Real time is one for all: how far the machines' clocks are behind it is the same.
    clocks = [{pftext.one(c, 'clock_id'): pftext.one(c, 'timestamp') for c in pftext.one(r, 'client_clocks')['clocks']}
              for m in trace.machines.values() for r in m.sync['synced_clocks']]
    assert len({c[1] - c[3] for c in clocks}) == 1, clocks


def check_own(at, files, limit):
    """A guest with a clock of its own: on the host's by KVM's word, between causes and effects of its host."""
    accounts = {a['tid']: a for a in nested.vmm(files['own.vmm'])}
    assert [a['work'] for a in accounts.values()] == OWN_WORKS
    found, pid = load(files['own.json']), int(files['own.pid'])
    guest = [e for e in found if e['source'].startswith('/dev')]
    threads = by_thread([e for e in found if e['source'].startswith('kvm')])
    traced = of_ftrace(files['own.ftrace'], accounts)
    assert threads.keys() == accounts.keys() and not re.search(r'overrun: [^0]', files['own.stats'])
    shown = re.search(r'^shown as +the host\'s CLOCK_MONOTONIC, within (\d+) ns \(by the offset of its TSC that KVM tells\)$',
                      files['own.err'], re.M)
    say(shown[0], *re.findall('^(?:line|bounds) .*$', files['own.err'], re.M))
    bound, own = int(shown[1]), causes.own_times(os.path.join(at, 'own.raw', 'source2-session1'))
    then = int(re.search(r'^line .*; within (\d+) ns then$', files['own.err'], re.M)[1])
    assert then <= limit and bound <= limit + OVERLOADED, files['own.err']
    nested.check_all(guest, list(accounts.values()))
    causes.check_times(guest, causes.true_times(files['own.vmm']), bound)
    causes.check_bells(guest, files['own.vmm'], bound)
    for cpu, (tid, account) in enumerate(accounts.items()):
        check_same(threads[tid], traced[tid], files['own.err'])
        check_purpose(account, reasons(threads[tid]))
        check_times(account['work'], out_times(t for t in map(as_ftrace, threads[tid]) if t), out_times(traced[tid]),
                    files['own.err'])
        nr, _ = causes.check(threads[tid], [e for e in guest if e['cpu'] == cpu], own[cpu], account['work'], bound)
        assert nr.get('l2_interrupt', 0) == account['irq_records'] and nr.get('l2_armed', 0) == account['armed'], nr
    ran, changes = test_vcpus.check_guest(found, list(accounts.values()), pid, bound)
    say(f'{ran} events of the guest, written while its virtual CPUs ran')
    check_perfetto(at, guest, changes, pid)
    return {e['event'] for events in threads.values() for e in events}


def test_refused():
    """What cannot be is said in a line, and other sources are read all the same."""
    for source, why in (('kvm,pid=0', "'0' is not a process id in source 'kvm,pid=0'"),
                        ('kvm,all', "unknown option 'all' in source 'kvm,all'; there are pid= and aggregate"),
                        ('kvmx', "unknown source 'kvmx'; sources are .* kvm and file:DIR")):
        run = subprocess.run([READER, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == 2 and re.fullmatch(f'host-reader: {why}\n', run.stderr), run.stderr
    said = nested.refused('kvm', status=1)
    refusal = re.search(r"^host-reader: cannot open source 'kvm': .*(modprobe kvm|is tracefs mounted|are you root).*$", said, re.M)
    assert refusal, said
    say(refusal[0])

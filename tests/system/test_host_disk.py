# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Requests to the host's disks that a VMM causes, and all stages of --view io: of a guest in a guest, whose disk is one
of L1's. Truth is what L1's own tracing has of them, and what Python makes of the JSON of the same run.
"""

import collections
import json
import os
import re
import statistics
import tarfile
import tempfile

import exitspage
import nested
import test_view_io
from harness import params, say
from test_kvm import LINE

ROUNDS = 100
SHIFT = 20488  # sectors: where L2's disk begins on L1's
ALONE = 40  # rounds of the first of two virtual CPUs, by which host-reader learns that
# How L2's disk works: in its exit; beside; for two virtual CPUs, whose requests are in flight together.
RUNS = {'exit': ('', 'disk'), 'beside': ('-t', 'disk'), 'two': (f'-t -l {ALONE}', 'disk disk')}
READ, WRITE, FLUSH = 4, 1, 256
PORT, SYSTEM_VECTORS = 0x14, 0xec

SCRIPT = r'''
I=$T/instances/disk
mkdir $I
echo mono > $I/trace_clock
echo 8192 > $I/buffer_size_kb
for e in kvm/kvm_exit kvm/kvm_entry kvm/kvm_pio kvm/kvm_inj_virq block/block_bio_queue block/block_rq_issue \
	block/block_rq_complete; do
	echo 1 > $I/events/$e/enable || exit 1
done
read_to() { # NAME SOURCE...
	to=$out/$1
	shift
	host-reader -o raw:$to.raw --view io -o text:$to.live "$@" 2> $to.err &
}
# From the capture: a reader that was kept from reading shows some events behind later ones.
replay() { # NAME
	host-reader -o json:$out/$1.json --view io -o text:$out/$1.page file:$out/$1.raw 2> $out/$1.replay
}
disk() { # NAME OPTIONS WORK...
	name=$1 options=$2
	shift 2
	l2vmm -w -d /dev/vdb -h SHIFT $options $region ROUNDS 0 100 "$@" > $out/$name.vmm 2>&1 &
	vmm=$!
	until [ -s $region ]; do sleep 0.05; done
	read_to $name.joined kvm,pid=$vmm,aggregate
	joined=$!
	until grep -q 'rings of BPF programs on KVM' $out/$name.joined.err; do
		kill -0 $joined || { cat $out/$name.joined.err; return 1; }
		sleep 0.05
	done
	read_to $name kvm,pid=$vmm local:$region
	reader=$!
	wait $vmm || { cat $out/$name.vmm $out/$name.err; return 1; }
	kill -INT $reader $joined
	wait $reader && wait $joined || { cat $out/$name.err $out/$name.joined.err; return 1; }
	rm -f $region
	replay $name && replay $name.joined
}
'''
END = r'''
cat $I/trace > $out/ftrace
cat $I/per_cpu/cpu*/stats > $out/ftrace.stats
'''

BLOCK = re.compile(r'(\d+),(\d+) (\w+) (?:(\d+) )?(?:\(.*?\) )?(\d+) \+ (\d+) (?:\S+,\d+,\d+ )?\[(.*)\]')


class Request:
    """One of L1's disk."""

    def __init__(self, kind, sector, nr, asked, issued=None, done=None, by=None):
        self.key, self.asked, self.issued, self.done, self.by = (kind, sector, nr * 512), asked, issued, done, by


def of_ftrace(text):
    """Requests in the order of their completion, and the other events [(time, thread, event, rest)]; times in us."""
    found, flying, events = [], {}, []
    for line in text.splitlines():
        m = LINE.match(line)
        if not m:
            assert line.startswith('#') or not line, line
            continue
        time = float(m['time']) * 1e6
        b = BLOCK.match(m['rest']) if m['event'].startswith('block') else None
        if not b:
            assert not m['event'].startswith('block'), line
            events.append((time, int(m['tid']), m['event'], m['rest']))
        elif (int(b[1]), int(b[2])) == (254, 16) and not b[3].startswith('FF'):  # the block layer's own flushes
            key = int(b[5]), int(b[6])
            if m['event'] == 'block_bio_queue':
                kind = FLUSH if b[3].startswith('F') else WRITE if 'W' in b[3] else READ
                flying.setdefault(key, []).append(Request(kind, *key, time, by=int(m['tid'])))
            elif m['event'] == 'block_rq_issue':
                r = next(r for r in flying[key] if r.issued is None)
                r.issued, r.worker = time, int(m['tid']) != r.by
            else:
                r = flying[key].pop(0)
                r.done = time
                found.append(r)
    assert not any(flying.values())
    return found, events


def kind_of(rwbs):
    return WRITE if rwbs & 1 else FLUSH if rwbs & 256 else READ


def close(pairs, what):
    """
    Times in us of two tracers: as far apart as what runs between their stamps, which is programs of two readers, tens
    of us where they are emulated; or as long as the emulator's CPU was given to another between both.
    """
    off = [abs(a - b) for a, b in pairs]
    assert len(off) > 9 and max(off) < 1e6, (what, off)
    later = statistics.quantiles(off, n=10)
    assert later[4] <= 100 and later[7] <= 500, (what, later)
    return later[4]


def check_disk(found, want):
    """Each request of the VMM's is ftrace's: what, whose, how long it waited and took, when it was done."""
    done = [e for e in found if e['event'] == 'kvm_disk_complete']
    assert all(e['fields']['dev'] == 254 << 20 | 16 and not e['fields']['error'] for e in done)
    by_key = collections.defaultdict(list)
    for r in want:
        by_key[(*r.key, r.by)].append(r)
    ours = collections.defaultdict(list)
    for e in done:
        f = e['fields']
        ours[(kind_of(f['rwbs']), f['sector'], f['bytes'], f['tid'])].append(e)
    differ = {k: (len(ours.get(k, ())), len(by_key.get(k, ()))) for k in ours.keys() | by_key.keys()}
    differ = {k: both for k, both in differ.items() if both[0] != both[1]}
    assert not differ, (len(ours), len(by_key), sorted(differ.items())[:20])
    pairs = [(e, r) for k in ours for e, r in zip(ours[k], by_key[k])]
    close([(e['time'] / 1e3, r.done) for e, r in pairs], 'done')
    close([(e['fields']['ns'] / 1e3, r.done - (r.issued or r.asked)) for e, r in pairs], 'took')
    close([(e['fields']['queue_ns'] / 1e3, (r.issued or r.asked) - r.asked) for e, r in pairs], 'waited')
    issues = [e for e in found if e['event'] == 'kvm_disk_issue']
    if issues:
        issued = sorted((r for r in want if r.issued), key=lambda r: r.issued)
        key = lambda e: (kind_of(e['fields']['rwbs']), e['fields']['sector'], e['fields']['bytes'])
        assert collections.Counter(map(key, issues)) == collections.Counter(r.key for r in issued)
        close([(e['time'] / 1e3, r.issued) for e, r in zip(issues, issued)], 'issued')
    return sum(r.worker for r in want if r.issued)


def covered(spans):
    """ns in which at least one of them is."""
    total, until = 0, 0
    for begin, end in sorted(spans):
        total += max(0, end - max(begin, until))
        until = max(until, end)
    return total


def kicks_of(events):
    """{vCPU: [(exit, entry, injected)]} of its writes to the disk's port; of (time, vCPU, event, what)."""
    found, exit_at, now = collections.defaultdict(list), {}, {}
    for time, cpu, event, what in events:
        k = now.get(cpu)
        if event == 'kvm_exit':
            exit_at[cpu] = time
        elif event == 'kvm_pio' and what == PORT:
            now[cpu] = [exit_at[cpu], None, None]
            found[cpu].append(now[cpu])
        elif event == 'kvm_entry' and k and not k[1]:
            k[1] = time
        elif event == 'kvm_inj_virq' and k and not k[2] and what < SYSTEM_VECTORS:
            k[2] = time
    return found


def spans_of(found):
    """As own_of() wants them, of all requests of the VMM's; times in ns."""
    return [(e['time'] - f['ns'] - f['queue_ns'], e['time'] - f['ns'], e['time'], kind_of(f['rwbs']), f['sector'], f['bytes'])
            for e in found if e['event'] == 'kvm_disk_complete' for f in [e['fields']]]


TOLD = 'block_rq_insert', 'block_rq_issue', 'virtqueue_notify', 'vring_interrupt', 'block_rq_complete'


def requests_of(found):
    """The guest's, by its CPU: times of what its driver told."""
    requests = collections.defaultdict(list)
    for e in found:
        if e['event'] not in TOLD:
            continue
        f, mine = e['fields'], requests[e['cpu']]
        if e['event'].startswith('block') and (not mine or 'complete' in mine[-1]):
            kind = next(name for bit, name in test_view_io.OPS if f['rwbs'] & bit)
            mine.append({'kind': kind, 'key': (f['sector'], f['rwbs']), 'bytes': f['bytes']})
        mine[-1][e['event'].rsplit('_', 1)[1]] = e['time']
    return requests


def overlap(a, b):
    return a is not b and a['issue'] < b['complete'] and b['issue'] < a['complete']


def asked_for(cpu, nr):
    """What L2's driver asks for, as l2/disk_driver.h has it: kind, sector, bytes."""
    turn, which = divmod(nr, 5)
    sector = 65536 + turn % 4 * 8 if which == 3 else turn * 128 % 32768 + cpu * 16384
    return ((READ, sector, 4096), (WRITE, sector, 8192), (READ, sector, 65536), (READ, sector, 4096), (FLUSH, 0, 0))[which]


def own_of(asked_for, spans, out, given):
    """
    Which of the host's [(asked, issued, done, kind, sector, bytes)] are of a request that left L2 at out, and whose
    interrupt was given then; others are in flight. None: that cannot be known.
    """
    kind, begin, nr = asked_for
    begin += SHIFT
    end, pieces, own = begin + nr // 512, [], []
    done = [s for s in spans if out <= s[2] <= given]
    for s in done:
        first, last = s[4], s[4] + s[5] // 512
        part = first < begin or last > end
        if s[3] == kind and first < end and last > begin and (s[0] >= out or part and s[1] >= out):
            pieces.append((max(first, begin), min(last, end)))
            own.append(s)
    pieces.sort()
    whole = [at for piece in pieces for at in piece]
    if done and (not pieces or [begin, *whole[1::2]] != [*whole[0::2], end]):
        return None
    return own


def stages_of(found):
    """
    {kind: {stage: [ns]}}, as the view should have it; of those that others were in flight with (virtual CPU, number):
    company, of which the disk is known, and unknown.
    """
    requests = requests_of(found)
    kicks = kicks_of((e['time'], e['fields']['vcpu_id'], e['event'], e['fields'].get('port', e['fields'].get('vector')))
                     for e in found if e['event'] in ('kvm_exit', 'kvm_entry', 'kvm_pio', 'kvm_inj_virq'))
    disk = spans_of(found)
    flat = [r for mine in requests.values() for r in mine]
    stages = collections.defaultdict(lambda: collections.defaultdict(list))
    odd = 0
    for cpu, mine in requests.items():
        assert len(mine) == len(kicks[cpu]) == ROUNDS
        for nr, (r, (out, entry, given)) in enumerate(zip(mine, kicks[cpu])):
            what = asked_for(cpu, nr)
            assert (r['kind'], r['key'][0], r['bytes']) == ({READ: 'read', WRITE: 'write', FLUSH: 'flush'}[what[0]], *what[1:])
            if any(overlap(r, o) and o['key'] == r['key'] for o in flat):
                odd += 1
                continue
            of = stages[r['kind']]
            of['bytes'].append(r['bytes'])
            of['total'].append(r['complete'] - r.get('insert', r['issue']))
            if 'insert' in r:
                of['guest queue'].append(r['issue'] - r['insert'])
            of['guest driver'].append(r['notify'] - r['issue'])
            of['kick exit'].append(entry - out)
            of['VMM with disk'].append(max(0, given - entry))
            of['completion'].append(r['complete'] - given)
            if any(overlap(r, o) for o in flat):
                mine_of_disk = own_of(what, disk, out, given)
                of['unknown' if mine_of_disk is None else 'company'].append((cpu, nr))
                if mine_of_disk is None:
                    continue
            else:
                mine_of_disk = [d for d in disk if out <= d[0] and d[2] <= given]
            asked = covered((max(d[0], out), d[2]) for d in mine_of_disk)
            at_disk = covered(d[1:3] for d in mine_of_disk)
            of['  VMM and KVM'].append(given - out - asked)
            if mine_of_disk:
                of['  host queue'].append(asked - at_disk)
                of['  host disk'].append(at_disk)
    return stages, odd


def check_row(row, ns, all_of_kind):
    assert int(row['n']) == len(ns), (row[0], len(ns))
    if not ns:
        return
    ns = sorted(ns)
    for name, value, slack in (('min', ns[0], 0), ('max', ns[-1], 0), ('mean', sum(ns) / len(ns), 0),
                               ('p50', ns[(len(ns) + 1) // 2 - 1], 1 / 32)):
        assert exitspage.close(row[name], value / 1e3, slack), (row[0], name, value)
    assert exitspage.close(row['tp'], 100 * sum(ns) / all_of_kind, 0), row[0]


def check_page(page, found, in_order):
    """
    What the page says of the guest's requests is what the events do. Returns how many it could tell the disk of, of
    which though others were in flight, and of which not. Where events were shown behind later ones it may know less of the host, and
    says of how many.
    """
    stages, odd = stages_of(found)
    known = (sum(len(of['  VMM and KVM']) for of in stages.values()),
             *([r for of in stages.values() for r in of[what]] for what in ('company', 'unknown')))
    if not in_order and len({e['cpu'] for e in found if e['event'] in TOLD}) > 1:
        return known  # also of its own CPUs
    rows = {kind: of for (_, kind), of in test_view_io.parse(page).items()}
    assert rows.keys() == stages.keys()
    for kind, of in stages.items():
        nr = len(of['total'])
        assert rows[kind]['bytes'] == sum(of['bytes']) and len(of['  VMM and KVM']) + len(of['unknown']) == nr
        for stage in test_view_io.STAGES:
            row = rows[kind][stage]
            if in_order or stage in ('guest queue', 'guest driver', 'total'):
                test_view_io.check_bars(rows[kind], stage, of[stage])
                check_row(row, of[stage], sum(of['total']))
            assert int(row['n']) + int(row['none']) + int(row['unknown']) == nr, row[0]
            unknown = len(of['unknown']) if stage[0] == ' ' else 0
            assert int(row['unknown']) == unknown or not in_order and int(row['unknown']) > unknown, row[0]
    assert sum(map(int, re.findall(r'^not counted: (\d+) ', page, re.M))) == odd
    return known


HOST_TITLE = re.compile(r'VM (\d+), host disk (\d+):(\d+), (\w+): (\d+) requests, (\d+) bytes')


def check_host(page, found):
    """What it says of the host's own disks: of all requests of the VMM's, whosever they are."""
    want = collections.defaultdict(lambda: ([], [], []))
    for e in found:
        if e['event'] == 'kvm_disk_complete':
            f = e['fields']
            for one, value in zip(want[{READ: 'read', WRITE: 'write', FLUSH: 'flush'}[kind_of(f['rwbs'])]],
                                  (f['bytes'], f['queue_ns'], f['ns'])):
                one.append(value)
    lines, got = page.splitlines(), {}
    for i, line in enumerate(lines):
        m = HOST_TITLE.match(line)
        if m:
            got[m[4]] = (int(m[5]), int(m[6]), lines[i + 2].split(), lines[i + 3].split())
    assert got.keys() == want.keys() and got, (got, want)
    for kind, (sizes, queue, disk) in want.items():
        assert got[kind][:2] == (len(sizes), sum(sizes)), kind
        for row, ns in zip(got[kind][2:], (queue, disk)):
            assert int(row[2]) == len(ns)
            assert all(exitspage.close(text, value / 1e3, 0) for text, value in
                       zip(row[4:7], (min(ns), max(ns), sum(ns) / len(ns)))), (kind, row)


WORDS = {'kvm_exit': r'', 'kvm_entry': r'', 'kvm_pio': r'pio_write at (0x\w+)', 'kvm_inj_virq': r'IRQ (0x\w+)'}


def both_kicks(found, events, tids):
    """As kicks_of(), by threads: ours and ftrace's; times in us."""
    ours = kicks_of((e['time'] / 1e3, e['fields']['tid'], e['event'], e['fields'].get('port', e['fields'].get('vector')))
                    for e in found if e['event'] in WORDS)
    theirs = kicks_of((time, tid, event, int((re.match(WORDS[event], rest) or [0, '0'])[1], 0) if WORDS[event] else 0)
                      for time, tid, event, rest in events if tid in tids)
    return ours, theirs


def check_stages(found, events, want, tids):
    """The stages of one virtual CPU's requests by the kernel's own trace, request by request."""
    ours, theirs = both_kicks(found, events, tids)
    assert ours.keys() == theirs.keys() == tids
    off = {}
    for tid in tids:
        pairs = list(zip(ours[tid], theirs[tid]))
        assert len(ours[tid]) == len(theirs[tid]) == ROUNDS
        off['kick exit'] = close([(a[1] - a[0], b[1] - b[0]) for a, b in pairs], 'kick exit')
        off['exit to interrupt'] = close([(a[2] - a[0], b[2] - b[0]) for a, b in pairs], 'exit to interrupt')
        spans = [(e['time'] / 1e3 - e['fields']['ns'] / 1e3, e['time'] / 1e3) for e in found
                 if e['event'] == 'kvm_disk_complete']
        disks = [(covered(s for s in spans if a[0] <= s[0] and s[1] <= a[2]),
                  covered((r.issued or r.asked, r.done) for r in want if b[0] <= r.asked and r.done <= b[2]))
                 for a, b in pairs]
        off['host disk'] = close(disks, 'host disk')
    return off


def check_company(found, events, want, tids, company, unknown):
    """
    Of requests that others were in flight with: what the view takes for one's own is what ftrace has at its sectors. What
    is not known asked for none there: flushes, and what the page cache had.
    """
    ours, theirs = both_kicks(found, events, tids)
    spans, pairs = [tuple(t / 1e3 for t in s[:3]) + s[3:] for s in spans_of(found)], []
    for cpu, tid in enumerate(tids):
        assert len(ours[tid]) == len(theirs[tid]) == ROUNDS
        for nr, (a, b) in enumerate(zip(ours[tid], theirs[tid])):
            kind, sector, size = asked_for(cpu, nr)
            there = [r for r in want if r.key == (kind, sector + SHIFT, size) and b[0] <= r.asked and r.done <= b[2]]
            by_cache = kind == FLUSH or nr % 5 == 3
            assert by_cache or len(there) == 1, (cpu, nr, there)
            assert (cpu, nr) not in unknown or kind == FLUSH or not there, (cpu, nr)
            if (cpu, nr) in company and not by_cache:
                own = own_of((kind, sector, size), spans, a[0], a[2])
                pairs.append((covered(s[1:3] for s in own), there[0].done - there[0].issued))
    return {'host disk': close(pairs, 'host disk in company'), 'requests': len(pairs)}


def load(text):
    """Events in the order of their times, and whether they were shown in it."""
    shown = [e for e in map(json.loads, text.splitlines()) if 'fields' in e]
    found = sorted(shown, key=lambda e: e['time'])
    return found, all(a['time'] == b['time'] for a, b in zip(shown, found))


@params('6.12', thorough=['6.1'])
def test_stages(kernel):
    runs = ''.join(f"disk {name} '{options}' {works} || exit 1\n" for name, (options, works) in RUNS.items())
    with tempfile.TemporaryDirectory() as at, nested.L1(SCRIPT.replace('ROUNDS', str(ROUNDS)).replace('SHIFT', str(SHIFT)) + runs + END, kernel,
                                                        disks=2) as vm:
        vm.start()
        assert vm.finish(170) == 0, vm.console()[-3000:]
        with tarfile.open(vm.disk) as tar:
            tar.extractall(at)
        workers = check_files(at)
        # 6.12 issues all of these where they are asked for.
        assert workers or kernel != '6.1', 'none was issued by a worker of the kernel'


def check_files(at):
    """How many requests another thread issued than asked for them."""
    files = {}
    for name in os.listdir(at):
        if os.path.isfile(os.path.join(at, name)):
            with open(os.path.join(at, name), encoding='utf-8') as f:
                files[name] = f.read()
    assert not re.search(r'overrun: [^0]', files['ftrace.stats'])
    requests, events = of_ftrace(files['ftrace'])
    workers = 0
    for name, (options, works) in RUNS.items():
        for file in name, name + '.joined':
            assert not re.search(r'^lost +[1-9]', files[file + '.err'], re.M), files[file + '.err']
        accounts = nested.vmm(files[name + '.vmm'])
        assert [a['made'] for a in accounts] == [ROUNDS] * len(works.split()) == [a['injected'] for a in accounts]
        tids = {a['tid'] for a in accounts}
        (found, in_order), (joined, _) = load(files[name + '.json']), load(files[name + '.joined.json'])
        if name == 'exit':
            say(files[name + '.page'][:1700])
            assert all(e['fields']['tid'] in tids for e in found if e['event'] == 'kvm_disk_issue')
        # What each run asked for: by its virtual CPU, or by the thread of its disk.
        threads = {e['fields']['tid'] for e in found if e['event'] == 'kvm_disk_complete'}
        want = [r for r in requests if r.by in threads]
        workers += check_disk(found, want)
        check_disk(joined, want)
        assert not any(e['event'] == 'kvm_disk_issue' for e in joined)
        known, company, unknown = check_page(files[name + '.page'], found, in_order)
        if len(accounts) == 1:
            assert known == ROUNDS
        else:
            assert len(company) >= ROUNDS // 2 and known >= ROUNDS * 3 // 2, (known, len(company), len(unknown))
        check_host(files[name + '.page'], found)
        check_host(files[name + '.joined.page'], joined)
        off = (check_company(found, events, want, [a['tid'] for a in accounts], company, unknown) if company else
               check_stages(found, events, want, tids))
        say(f'{name}: {len(want)} requests of the VMM as ftrace has them; disk told of {known} of the guest\'s, {len(company)} of them in company',
            off, '' if in_order else 'not in order')
    return workers

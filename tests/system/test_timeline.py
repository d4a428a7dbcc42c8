# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Two guests on KVM, machines of their own, and the host on one clock: what caused what across each border, in the order of
the times in the written files. The guests are tests/guest/l2's: HTRACE_TIMELINE_SECONDS makes the run longer than the test
command's.
"""

import collections
import json
import os
import re
import tarfile
import tempfile
import time

import causes
import clocks
import ctftext
import nested
from harness import say
from test_kvm import BOUNDS, OVERLOADED
from test_one_clock import BORDER, INFINITE
from vm import EmulationFault

SECONDS = int(os.environ.get('HTRACE_TIMELINE_SECONDS', '6'))
LONG = SECONDS > 60
APART_MS = 100 if LONG else 20  # timers and interrupts of a virtual CPU
LEAST = max(60, SECONDS)  # rounds, however busy the machine is
GUESTS = {'a': 'tsc', 'b': 'mono'}  # by which their records are stamped
SOURCES = ['kvm'] + [f'/dev/shm/{who}{name}' for name in GUESTS for who in ('', 'asker-')]
WORKS = ['answer', 'interrupt']
NEEDED = {'vm', 'vcpu_id', 'write', 'msr', 'value', 'reinjected', 'vector', 'seq', 'cpu', 'check', 'at', 'number'}

SCRIPT = rf'''
for g in a b; do
	truncate -s 4096 /tmp/mail-$g
	[ $g = a ] && clock=tsc || clock=mono
	timeout {SECONDS * 2 + 300} l2vmm -o $clock -b -i {APART_MS}000000 -m /tmp/mail-$g -w -e {SECONDS} \
		/dev/shm/$g {LEAST} 1 0 {' '.join(WORKS)} > $out/$g.vmm 2>&1 &
	eval vmm_$g=$!
done
border host /tmp/mail-a /dev/shm/asker-a monotonic 20000 &
asker_a=$!
border host /tmp/mail-b /dev/shm/asker-b monotonic 20000 &
asker_b=$!
until [ -s /dev/shm/a ] && [ -s /dev/shm/b ] && [ -s /dev/shm/asker-a ] && [ -s /dev/shm/asker-b ]; do
	kill -0 $vmm_a $vmm_b $asker_a $asker_b || {{ cat $out/*.vmm; exit 1; }}
	sleep 0.05
done
host-reader --clock --events kvm_exit,kvm_entry,kvm_msr,kvm_inj_virq,l2_record,l2_interrupt,l2_armed,l2_seen,ask,answer \
	-o json:$out/json -o ctf:$out/ctf -o raw:$out/raw \
	kvm ivshmem:/dev/shm/a ivshmem:/dev/shm/b local:/dev/shm/asker-a local:/dev/shm/asker-b 2> $out/err &
reader=$!
renice -n -20 -p $reader > /dev/null
wait $vmm_a && wait $vmm_b || {{ cat $out/err $out/*.vmm; exit 1; }}
kill -TERM $asker_a $asker_b
wait $asker_a && wait $asker_b || exit 1
kill -INT $reader
wait $reader || {{ cat $out/err; exit 1; }}
echo $vmm_a > $out/a.pid
echo $vmm_b > $out/b.pid
rm /dev/shm/*
'''


def event(source, name, time, fields, cpu):
    """No more of it than pairs are made of, as there may be ten minutes of them."""
    fields = {k: v for k, v in fields.items() if k in NEEDED}
    return {'source': source, 'event': name, 'time': time, 'cpu': cpu, 'fields': fields}


def of_json(path):
    """(events, {source: bounds stated, the last one at the end}), in the order in which the file has them."""
    events, bounds = [], collections.defaultdict(list)
    with open(path, encoding='ascii') as f:
        for e in map(json.loads, f):
            if 'fields' in e:
                events.append(event(e['source'], e['event'], e['time'], e['fields'], e.get('cpu')))
            elif e.get('clock'):
                assert e['clock'] == 'host', e
                bounds[e['source']].append(INFINITE if e['bound'] is None else e['bound'])
    return events, bounds


def of_ctf(path):
    """(events, {source: bound}) of the written traces; each of their files is in order as it is written."""
    events, bounds, in_order = [], {}, 0
    for trace in ctftext.traces(path):
        source, begin = ctftext.source(trace), ctftext.offset(trace)
        assert source not in bounds, source
        bounds[source] = ctftext.clock_bound(trace)
        for r in ctftext.read(trace)[0]:
            if not r.event.startswith('lttng_statedump'):
                fields = r.numbers()
                events.append(event(source, r.event, r.time - begin, fields, fields.get('cpu')))
        in_order += ctftext.check_order(trace)
    say(f'CTF: {in_order} records, each stream in order as written')
    assert in_order >= len(events) > 0
    return events, {source: INFINITE if bound is None else bound for source, bound in bounds.items()}


def same_times(one, other):
    """The same events at the same times in both files."""
    def by_source(events):
        found = collections.defaultdict(list)
        for e in events:
            found[e['source']].append((e['time'], e['event'], tuple(e['fields'].items())))
        return {source: sorted(of) for source, of in found.items()}
    one, other = by_source(one), by_source(other)
    assert one.keys() == other.keys() == set(SOURCES), (one.keys(), other.keys())
    for source, of in one.items():
        assert len(of) == len(other[source]), source
        for a, b in zip(of, other[source]):
            assert a == b, (source, a, b)


def check_guest(at, name, events, bound, what):
    """All pairs of one guest and the host."""
    with open(os.path.join(at, name + '.vmm'), encoding='utf-8') as f:
        text = f.read()
    with open(os.path.join(at, name + '.pid'), encoding='utf-8') as f:
        pid = int(f.read())
    accounts = nested.vmm(text)
    assert [a['work'] for a in accounts] == WORKS, text[-3000:]
    guest = [e for e in events if e['source'] == f'/dev/shm/{name}']
    host = [e for e in events if e['source'] == 'kvm' and e['fields']['vm'] == pid]
    asker = [e for e in events if e['source'] == f'/dev/shm/asker-{name}']
    lasted = (guest[-1]['time'] - guest[0]['time']) / 1e9
    say(f'{what}, guest {name} ({GUESTS[name]}): {len(guest)} records, {len(host)} events of KVM, {len(asker)} of who asks, '
        f'in {lasted:.1f} s')
    assert lasted > 0.9 * SECONDS, lasted
    nested.check_all(guest, accounts)
    own = causes.own_times(os.path.join(at, 'raw', f'source{2 + list(GUESTS).index(name)}-session1'))
    causes.check_bells(guest, text, bound)
    worst = 0
    for cpu, account in enumerate(accounts):
        nr, off = causes.check([e for e in host if e['fields']['vcpu_id'] == cpu], [e for e in guest if e['cpu'] == cpu], own[cpu],
                               account['work'], bound, asker)
        worst = max(worst, off)
        if account['work'] == 'answer':
            assert nr['l2_armed'] == nr['l2_interrupt'] == account['armed'] and nr['l2_seen'] >= LEAST / 2, (nr, account)
        irqs = account['injected'] + account['armed']
        assert nr['l2_interrupt'] == account['irq_records'] == irqs >= LEAST, (nr, account)
    # Its clock is 40 ppm fast: after 5 s it is off by 200 us, and the nearest pairs are nearer than that.
    assert worst > bound, ('uncorrected it would be in order, too', worst, bound)
    return guest, text


def check_clock(err, seconds):
    """
    Was the machine's second one? On a busy host its kernel may take its emulated TSC for one of a tenth of the frequency.
    """
    ran = max(float(s) for s in re.findall(r"^line .* when the host's was ([\d.]+) s,", err, re.M))
    if ran > 1.5 * seconds:
        raise EmulationFault(f'the machine took {seconds:.1f} s for {ran:.1f}')


def check_files(at, seconds):
    with open(os.path.join(at, 'err'), encoding='utf-8') as f:
        err = f.read()
    check_clock(err, seconds)
    assert len(re.findall(r'^lost +0 \(overwritten 0, dropped 0, corrupt 0', err, re.M)) == 1 + 2 * len(GUESTS), err
    assert len(re.findall(r'by the offset of its TSC that KVM tells\)$', err, re.M)) == len(GUESTS), err
    events, stated = of_json(os.path.join(at, 'json'))
    ctf, stated_in_ctf = of_ctf(os.path.join(at, 'ctf'))
    assert stated_in_ctf == {source: of[-1] for source, of in stated.items()}, (stated_in_ctf, stated)
    same_times(events, ctf)
    late = sum(map(int, re.findall(r'^order +(\d+) late', err, re.M)))
    clocks.check_order(events, SOURCES, max(b for of in stated.values() for b in of), late)
    for line in re.findall(r'^(?:shown as|line) .*$', err, re.M):
        say(line)
    clocks.check_bounds(err, [BOUNDS[clock] for clock in GUESTS.values()], SECONDS >= 300)
    then = [int(b) for b in re.findall(r'^line .*; within (\d+) ns then$', err, re.M)]
    for (name, clock), at_last in zip(GUESTS.items(), then):
        bound = max(stated[f'/dev/shm/{name}'] + stated.get(f'/dev/shm/asker-{name}', []))
        assert at_last <= BOUNDS[clock] and bound <= BOUNDS[clock] + OVERLOADED, (name, at_last, bound)
        guest, text = check_guest(at, name, sorted(events, key=lambda e: e['time']), bound, 'JSON')
        check_guest(at, name, ctf, bound, 'CTF')
        causes.check_times(guest, causes.true_times(text), bound)


def test_two_guests():
    """What each guest did, between what the host did before and behind it: bells, interrupts, timers, numbers in memory."""
    with tempfile.TemporaryDirectory(dir='/var/tmp' if LONG else None) as at:
        with nested.L1(SCRIPT, '6.12', add=[BORDER + ':/bin/'], memory='3G' if LONG else '1G',
                       disk_mib=1024 if LONG else 128) as vm:
            began = time.monotonic()
            vm.start()
            assert vm.finish(170 + 2 * SECONDS) == 0, vm.console()[-3000:]
            seconds = time.monotonic() - began
            with tarfile.open(vm.disk) as tar:
                tar.extractall(at)
        check_files(at, seconds)

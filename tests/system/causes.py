# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Causes and effects across the border of a guest in a guest (tests/guest/l2 with l2vmm's -o): what it recorded lies
between what its host did before, by which it came to run, and what the record's next instruction made the host do.
"""

import bisect
import collections
import itertools
import json
import re
import statistics
import tempfile

from harness import say
from test_capture import replay
from test_one_clock import error_of, nearest, uncorrected

EOI, LVT_ERROR, DEADLINE = 0x80b, 0x837, 0x6e0
VECTOR = 0x20
WANDER = 5e-7


def writes(msr):
    return lambda e: e['event'] == 'kvm_msr' and e['fields']['write'] and e['fields']['msr'] == msr


# How the exits that a guest makes on purpose are known among the host's events.
ON_PURPOSE = {
    'read': lambda e: e['event'] == 'kvm_pio' and not e['fields']['write'],
    'mmioread': lambda e: e['event'] == 'kvm_mmio' and e['fields']['kind.name'] == 'unsatisfied_read',
    'msr': writes(LVT_ERROR),
    'timer': writes(DEADLINE),
    'answer': writes(DEADLINE),
}


def around(host, is_it):
    """[(exit before, it, entry after)] of a virtual CPU's events, in the order of their times."""
    found, out, waiting = [], None, 0
    for e in host:
        if e['event'] == 'kvm_exit':
            out = e['time']
        elif e['event'] == 'kvm_entry':
            found[len(found) - waiting:] = [(*f[:2], e['time']) for f in found[len(found) - waiting:]]
            waiting = 0
        elif is_it(e):
            found.append((out, e, None))
            waiting += 1
    return found


def of_exits(host, guest, work):
    """
    {record: (host, guest, host)}: the entry behind the exit on purpose before, the record's time, the next one's exit.
    Also of the timers that were armed right before that. Of nearly all such exits there are records before them.
    """
    made = around(host, ON_PURPOSE[work])
    recorded = {e['fields']['value'] for e in guest if e['event'] == 'l2_record'} & set(range(len(made)))
    assert made and len(recorded) >= 0.9 * len(made), (work, len(recorded), len(made))
    entries = [next(e['time'] for e in host if e['event'] == 'kvm_entry')] + [m[2] for m in made]
    found = {}
    for e in guest:
        k = e['fields']['seq' if e['event'] == 'l2_armed' else 'value']
        if e['event'] in ('l2_record', 'l2_armed') and k < len(made):
            found[e['event'], e['fields']['seq']] = entries[k], e['time'], made[k][0]
        if e['event'] == 'l2_armed':  # the host was told what the record says
            assert made[k][1]['fields']['value'] == e['fields']['value'], (e, made[k])
    return found


def of_interrupts(host, guest):
    """{record: (host, guest, host)}: the injection, the handler, and the exit when that says that it is done."""
    injected = [e['time'] for e in host if e['event'] == 'kvm_inj_virq' and not e['fields']['reinjected']]
    assert {e['fields']['vector'] for e in host if e['event'] == 'kvm_inj_virq'} <= {VECTOR}
    ended = [out for out, *_ in around(host, writes(EOI))]
    assert len(injected) == len(ended), (len(injected), len(ended))
    return {('l2_interrupt', e['fields']['seq']): (injected[e['fields']['value'] - 1], e['time'],
                                                   ended[e['fields']['value'] - 1])
            for e in guest if e['event'] == 'l2_interrupt'}


def of_mail(asker, guest):
    """{record: (host, guest, host)}: a number asked in memory, seen by the guest, its answer seen by the host."""
    times = {(e['event'], e['fields']['number']): e['time'] for e in asker}
    seen = [(e['fields']['seq'], e['fields']['value'], e['time']) for e in guest if e['event'] == 'l2_seen']
    return {('l2_seen', seq): (times['ask', n], time, times['answer', n]) for seq, n, time in seen if ('answer', n) in times}


def of_timers(host):
    """[(host, host)]: the timer set, and the interrupt for it injected."""
    armed = [e['time'] for _, e, _ in around(host, ON_PURPOSE['timer'])]
    injected = [e['time'] for e in host if e['event'] == 'kvm_inj_virq' and not e['fields']['reinjected']]
    assert len(armed) == len(injected), (len(armed), len(injected))
    return list(zip(armed, injected))


def own_times(capture):
    """{virtual CPU: {(event, number): time}} of a guest's records, as its own machine has them."""
    times = collections.defaultdict(dict)
    with tempfile.TemporaryDirectory() as at:
        replay(capture, '-o', f'json:{at}/json')
        with open(f'{at}/json', encoding='ascii') as f:
            for e in map(json.loads, f):
                if 'fields' in e:
                    times[e['cpu']][e['event'], e['fields']['seq']] = e['time']
    return times


def true_times(text):
    """[(guest's clock, ns, ns by which that may be off)] as the VMM read both at one instant."""
    found = [tuple(map(int, m)) for m in re.findall(r'^l2own: (\d+) (\d+) (\d+)$', text, re.M)]
    khz = int(re.search(r' khz (\d+) ', text)[1])
    return [(its, ns, width * 1e6 / khz / 2 + 1) for its, ns, width in found]


def check_times(guest, points, bound):
    """Each time is where the VMM's own readings say that it is, but for @bound and for how exact those are."""
    at = [p[0] for p in points]
    errors, latest = [], collections.Counter()
    for e in guest:
        # An interrupt between the reading of the TSC and the reservation: its handler's record is before this one.
        ticks = latest[e['cpu']] = max(latest[e['cpu']], e['fields']['at'])
        i = min(max(bisect.bisect(at, ticks), 1), len(at) - 1)
        (its, ns, wrong), (its2, ns2, wrong2) = points[i - 1:i + 1]
        # CLOCK_MONOTONIC may be steered meanwhile
        slack = max(wrong, wrong2) + WANDER * (ns2 - ns) / 2
        true = ns + (ticks - its) * (ns2 - ns) // (its2 - its)
        errors.append((abs(e['time'] - true), slack))
    worst = max(errors)
    say(f'{len(errors)} times within {worst[0]} ns of what they were by the VMM\'s readings, which are right to '
        f'{statistics.median(s for _, s in errors):.0f} ns in the median; bound {bound} ns')
    assert all(error <= bound + slack for error, slack in errors), max(errors, key=lambda e: e[0] - e[1])
    assert statistics.median(s for _, s in errors) <= bound, 'the VMM had no CPU to read its clocks'


def check_bells(guest, text, bound):
    """What rang the doorbell was recorded before whom it woke was awake."""
    times = {(e['cpu'], e['fields']['at']): e['time'] for e in guest}
    woken = [tuple(map(int, m)) for m in re.findall(r'^l2own: woken (\d+) (\d+) (\d+)$', text, re.M)]
    took = [ns - times[cpu, at] for cpu, at, ns in woken]
    assert len(took) > 50, len(took)
    say(f'{len(took)} doorbells: awake {min(took)} ns behind the record at least, {statistics.median(took):.0f} in the median')
    assert min(took) >= -bound, min(took)


def check(host, guest, own, work, bound, asker=()):
    """
    Of one virtual CPU. @own: its records' times by its own CLOCK_MONOTONIC. @asker: who writes to its mailbox. Gives how many
    of what there were, and by how many ns that clock, set right at first, has the worst of them out of order.
    """
    found = of_interrupts(host, guest)
    found.update(of_mail(asker, guest))
    if work in ON_PURPOSE:
        found.update(of_exits(host, guest, work))
    if work in ('timer', 'answer'):
        timers = of_timers(host)
        # Armed, told to the host, expired, handled, before the next: one chain.
        assert all(a < b for a, b in itertools.pairwise(t for pair in timers for t in pair)), timers
        assert found['l2_armed', 0] and len(timers) == sum(e['event'] == 'l2_armed' for e in guest)
    kinds = collections.defaultdict(dict)
    for key, times in found.items():
        kinds[key[0]][key[1]] = times
    worst = 0
    for kind, times in kinds.items():
        error = error_of(times.values())
        off, seconds = uncorrected(times, {seq: own[kind, seq] for seq in times})
        worst = max(worst, off)
        first = min(times)
        apart = abs(own[kind, first] - times[first][1]) / 1e9
        say(f'{work}: {len(times)} {kind} between what the host did: {nearest(times.values())}, '
            f'bound {bound} ns; uncorrected: {apart:.3f} s apart, or, set right at first, out of order by {off:.0f} ns '
            f'after {seconds:.1f} s')
        assert error <= bound, (work, kind, error, bound)
    return {kind: len(times) for kind, times in kinds.items()}, worst

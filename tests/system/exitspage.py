# SPDX-License-Identifier: LGPL-2.1-or-later
"""What --view exits should say of events, and whether a page says it."""

import math
import re


class Truth:
    """
    Durations [(ns, asleep, waiting)] by (VM, vCPU or None for all, reason), [ns] by (VM, reason, RIP), and of each VM the
    ns that its vCPUs were in the guest.
    """

    def __init__(self):
        self.out, self.places, self.guest = {}, {}, {}
        self.open, self.off, self.spent, self.entered = {}, {}, {}, {}

    def event(self, time, what, vm, tid, vcpu, reason=None, rip=None, ns=None, preempted=None):
        """WHAT is an event's name; NS: of an exit that comes with its entry."""
        if what == 'kvm_exit':
            self.left(vm, tid, time)
            self.open[tid] = (time, reason, rip)
            self.spent[tid] = [0, 0]
        elif what == 'kvm_sched_out':
            self.off[tid] = (time, preempted)
        elif what == 'kvm_sched_in' and tid in self.off:
            since, waits = self.off.pop(tid)
            self.spent.setdefault(tid, [0, 0])[waits] += time - since
        elif what == 'kvm_entry':
            if tid in self.open:
                since, reason, rip = self.open.pop(tid)
                self.add(vm, tid, vcpu, reason, rip, time - since)
            self.entered[tid] = time
            self.spent[tid] = [0, 0]
        elif ns is not None:
            if ns:
                self.left(vm, tid, time - ns)
                self.entered[tid] = time
                self.add(vm, tid, vcpu, reason, rip, ns)
            self.spent[tid] = [0, 0]

    def left(self, vm, tid, time):
        if tid in self.entered:
            self.guest[vm] = self.guest.get(vm, 0) + time - self.entered.pop(tid)

    def add(self, vm, tid, vcpu, reason, rip, ns):
        for key in ((vm, vcpu, reason), (vm, None, reason)):
            self.out.setdefault(key, []).append((ns, *self.spent.get(tid, (0, 0))))
        self.places.setdefault((vm, reason, rip), []).append(ns)


def of_json(found):
    """The truth of events as the JSON output has them."""
    t = Truth()
    for e in found:
        f = e['fields']
        reason = f.get('reason.name', hex(f['reason']) if 'reason' in f else None)
        rip = f.get('guest_rip')
        t.event(e['time'], e['event'], f['vm'], f['tid'], f['vcpu_id'], reason, int(rip, 0) if isinstance(rip, str) else rip,
                f.get('exit_overhead_ns'), not f.get('prev_state', 1) & 0xff)
    return t


ROW = re.compile(r'(?P<reason>\S+) +(?P<n>\d+) +[\d.]+ +(?P<np>[\d.]+)% +(?P<tp>[\d.]+)% +(?P<min>[\d.]+) +(?P<max>[\d.]+) +'
                 r'(?P<mean>[\d.]+) +(?P<err>[\d.]+)% +(?P<p50>[\d.]+) +(?P<p99>[\d.]+) +(?P<p999>[\d.]+) +'
                 r'(?P<asleep>[\d.]+)% +(?P<waiting>[\d.]+)%$')


def bar_of(line):
    """(from which value on, how many) of a line of a histogram, or None."""
    bar = re.match(r'\[(\d+)([KMG]?), \S+ +(\d+) \|', line)
    return bar and (int(bar[1]) << {'': 0, 'K': 10, 'M': 20, 'G': 30}[bar[2]], int(bar[3]))


def bars_for(values):
    """{from which value on: how many} as a histogram has them, without empty lines."""
    logs = [max(v.bit_length(), 1) - 1 for v in values]
    return {1 << b if b else 0: logs.count(b) for b in logs}


def parse(page):
    """Rows by (VM, vCPU or None, reason), and bars by (VM, reason)."""
    rows, bars, where = {}, {}, None
    for line in page.splitlines():
        title = re.match(r'VM (\d+)[^,]*, (?:all vCPUs|vCPU (\d+))$', line)
        row, bar = ROW.match(line), bar_of(line)
        if title:
            where = (int(title[1]), None if title[2] is None else int(title[2]))
        elif re.match(r'\S+, ns:$', line):
            reason = line[:-5]
        elif row:
            assert (*where, row['reason']) not in rows, line
            rows[(*where, row['reason'])] = row
        elif bar:
            bars.setdefault((where[0], reason), {})[bar[0]] = bar[1]
    return rows, bars


def close(text, want, share=0.0):
    """A number with two digits behind the point."""
    return abs(float(text) - want) <= 0.0051 + share * want


def check_row(row, values, every):
    ns, n = sorted(v[0] for v in values), len(values)
    mean = sum(ns) / n
    error = math.sqrt(sum((v - mean) ** 2 for v in ns) / (n - 1) / n) / mean * 100 if n > 1 else 0
    assert int(row['n']) == n
    assert close(row['np'], 100 * n / len(every)) and close(row['tp'], 100 * sum(ns) / sum(v[0] for v in every))
    assert close(row['min'], ns[0] / 1e3) and close(row['max'], ns[-1] / 1e3), row[0]
    assert close(row['mean'], mean / 1e3) and close(row['err'], error), (row[0], mean, error)
    for name, share in (('p50', .5), ('p99', .99), ('p999', .999)):
        assert close(row[name], ns[math.ceil(share * n) - 1] / 1e3, 1 / 32), (row[0], name)
    for i, name in ((1, 'asleep'), (2, 'waiting')):
        assert close(row[name], 100 * sum(v[i] for v in values) / sum(ns)), (row[0], name)


TOTAL = re.compile(r"^VM (\d+)[^,]*, all vCPUs\n(?:.+\n)+?"
                   r"Total Samples:(\d+), Total events handled time:([\d.]+)us, ([\d.]+)% of the vCPUs' time\.$", re.M)


def check_totals(page, want):
    """What stands below each VM's table."""
    found = {int(vm): of for vm, *of in TOTAL.findall(page)}
    assert found.keys() == {k[0] for k in want.out}, found
    for vm, (nr, us, share) in found.items():
        ns = [v[0] for k, values in want.out.items() for v in values if k[:2] == (vm, None)]
        assert int(nr) == len(ns) and close(us, sum(ns) / 1e3), (vm, nr, us)
        assert close(share, 100 * sum(ns) / (sum(ns) + want.guest[vm])), (vm, share, want.guest[vm])


def check_page(page, want):
    """All of it; returns how many exits there are."""
    rows, bars = parse(page)
    several = {k[0] for k in want.out if k[1]}  # VMs of several vCPUs have a table for each
    mine = {k for k in want.out if k[1] is None or k[0] in several}
    assert {k for k in rows if k[2] != 'total'} == mine, mine ^ set(rows)
    for key in mine:
        every = [v for k, values in want.out.items() for v in values if k[:2] == key[:2]]
        check_row(rows[key], want.out[key], every)
        if key[1] is None:
            got = {low: n for low, n in bars[(key[0], key[2])].items() if n}
            assert got == bars_for([v[0] for v in want.out[key]]), (key, got)
    check_totals(page, want)
    for (vm, reason, rip), ns in want.places.items():
        if 20 * len(ns) >= len(want.out[(vm, None, reason)]) and len(ns) > 1:
            assert re.search(rf' {len(ns)} .* {sum(ns) / 1e3:.2f}  0x{rip:016x}$', page, re.M), (vm, reason, hex(rip))
    return sum(len(v) for k, v in want.out.items() if k[1] is None)


def octaves(row, unit='ns'):
    """As bars_for() has them."""
    return {o[f'from_{unit}']: o['count'] for o in row['octaves']}


def check_durations(row, values, unit='ns'):
    """Of JSON: counts, sums and bounds exactly."""
    values, n = sorted(values), len(values)
    assert (row['count'], row[f'sum_{unit}']) == (n, sum(values)), row
    if not n:
        return
    assert (row[f'min_{unit}'], row[f'max_{unit}']) == (values[0], values[-1]), row
    for name, share in (('p50', .5), ('p99', .99), ('p999', .999)):
        want = values[math.ceil(share * n) - 1]
        assert abs(row[f'{name}_{unit}'] - want) <= 1 + want / 32, (row, name, want)
    mean = sum(values) / n
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) / mean * 100 if n > 1 and mean else 0
    assert close(row['error_percent'], error), (row, error)


def check_reasons(reasons, want):
    """WANT: {reason: [(ns, asleep, waiting)]}."""
    found = {r.get('reason', hex(r['number'])): r for r in reasons}
    assert len(found) == len(reasons) and found.keys() == want.keys(), (found.keys(), want.keys())
    for reason, values in want.items():
        check_durations(found[reason], [v[0] for v in values])
        assert octaves(found[reason]) == bars_for([v[0] for v in values]), reason
        assert found[reason]['asleep_ns'] == sum(v[1] for v in values), reason
        assert found[reason]['preempted_ns'] == sum(v[2] for v in values), reason
    return found


def check_json(report, want):
    """All of --view exits:json; returns how many exits there are."""
    def of(vm, vcpu):
        return {k[2]: v for k, v in want.out.items() if k[:2] == (vm, vcpu)}
    assert report['view'] == 'exits' and {v['vm'] for v in report['vms']} == {k[0] for k in want.out}
    for vm in report['vms']:
        nr = vm['vm']
        found = check_reasons(vm['reasons'], of(nr, None))
        check_durations(vm, [v[0] for values in of(nr, None).values() for v in values])
        for reason, row in found.items():
            places = {int(p['rip'], 0): (p['count'], p['ns']) for p in row['places']}
            assert places == {k[2]: (len(v), sum(v)) for k, v in want.places.items() if k[:2] == (nr, reason)}, reason
        assert {v['vcpu'] for v in vm['vcpus']} == {k[1] for k in want.out if k[0] == nr} - {None}
        for vcpu in vm['vcpus']:
            check_reasons(vcpu['reasons'], of(nr, vcpu['vcpu']))
            assert sum(t['exits'] for t in vcpu['threads']) == sum(len(v) for v in of(nr, vcpu['vcpu']).values())
    return sum(vm['count'] for vm in report['vms'])

# SPDX-License-Identifier: LGPL-2.1-or-later
"""
--view exits, and what --view steal has of hosts: numbers of captures of hosts that never were, against what Python makes
of the same events.
"""

import collections
import fcntl
import json
import os
import pty
import random
import re
import struct
import subprocess
import tempfile
import termios

from exitspage import Truth, check_json, check_page, close, parse
from harness import params, say
from vm import BUILD, READER

HOSTCAPTURE = os.path.join(BUILD, 'tests', 'hostcapture')
HLT, IO, MSR = 0x1000c, 0x1001e, 0x10020
NAMES = {0x10001: 'EXTERNAL_INTERRUPT', HLT: 'HLT', 0x10012: 'VMCALL', IO: 'IO_INSTRUCTION', MSR: 'MSR_WRITE'}


def capture(dir, lines, rings):
    subprocess.run([HOSTCAPTURE, f'{dir}/cap', str(rings)], input='\n'.join(lines) + '\n', text=True, check=True)
    return f'file:{dir}/cap'


def view(*args, name='exits'):
    return subprocess.run([READER, '--view', name, *args], check=True, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE).stdout


SMALL = """\
0 1000000 entry 70 71 0
0 1010000 exit 70 71 0 0x1000c 0xffffffff81000010
0 1011000 out 70 71 0 1
1 1019000 in 70 71 0
1 1020000 entry 70 71 0
1 1050000 exit 70 71 0 0x10020 0xffffffff81000020
1 1051500 entry 70 71 0
1 1060000 whole 70 71 0 0x1001e 0x7c00 2500
2 1060500 exit 70 72 1 0x10020 0xffffffff81000020
2 1061000 entry 70 72 1
2 1061500 exit 70 72 1 0x10020 0xffffffff81000030
2 1062000 lost 9
2 1063000 entry 70 72 1
1 1070000 exit 70 71 0 0x7777 0
1 1071000 out 70 71 0 0x100
2 1171000 entry 70 72 1
"""

SMALL_PAGE = """\
exits of 1 VM in 0.000 s: 4
not counted: 1 out without end, 2 entries without an exit, 1 void for lost or late events
lost: 9 events of the host

VM 70, all vCPUs
EXIT            Samples Samples/s Samples%   Time%   Min us     Max us   Mean us      +-    p50 us    p99 us  p99.9 us  Asleep Waiting
HLT                   1    5848.0   25.00%  68.97%    10.00      10.00     10.00   0.00%     10.00     10.00     10.00  80.00%   0.00%
IO_INSTRUCTION        1    5848.0   25.00%  17.24%     2.50       2.50      2.50   0.00%      2.50      2.50      2.50   0.00%   0.00%
MSR_WRITE             2   11695.9   50.00%  13.79%     0.50       1.50      1.00  50.00%      0.50      1.50      1.50   0.00%   0.00%
total                 4   23391.8  100.00% 100.00%     0.50      10.00      3.62  59.69%      1.50      9.98      9.98  55.17%   0.00%
Total Samples:4, Total events handled time:14.50us, 20.42% of the vCPUs' time.

vCPU   Thread   Samples Samples/s    Guest     Host   Asleep  Waiting  At last
   0       71         3   17543.9   80.00%    8.57%   11.43%    0.00%  0x7777, waits 0.0 s
   1       72         1    5848.0   50.00%   50.00%    0.00%    0.00%  in the guest

EXIT                               Samples Of these       Time us  Where in the guest
HLT                                      1  100.00%         10.00  0xffffffff81000010
IO_INSTRUCTION                           1  100.00%          2.50  0x0000000000007c00
MSR_WRITE                                2  100.00%          2.00  0xffffffff81000020

HLT, ns:
[8K, 16K)                1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|

IO_INSTRUCTION, ns:
[2K, 4K)                 1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|

MSR_WRITE, ns:
[256, 512)               1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|
[512, 1K)                0 |                                        |
[1K, 2K)                 1 |@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@|

VM 70, vCPU 0
EXIT            Samples Samples/s Samples%   Time%   Min us     Max us   Mean us      +-    p50 us    p99 us  p99.9 us  Asleep Waiting
HLT                   1    5848.0   33.33%  71.43%    10.00      10.00     10.00   0.00%     10.00     10.00     10.00  80.00%   0.00%
IO_INSTRUCTION        1    5848.0   33.33%  17.86%     2.50       2.50      2.50   0.00%      2.50      2.50      2.50   0.00%   0.00%
MSR_WRITE             1    5848.0   33.33%  10.71%     1.50       1.50      1.50   0.00%      1.50      1.50      1.50   0.00%   0.00%

VM 70, vCPU 1
EXIT        Samples Samples/s Samples%   Time%   Min us     Max us   Mean us      +-    p50 us    p99 us  p99.9 us  Asleep Waiting
MSR_WRITE         1    5848.0  100.00% 100.00%     0.50       0.50      0.50   0.00%      0.50      0.50      0.50   0.00%   0.00%
"""


def test_whole():
    """All that a page has, of events whose numbers can be had by hand."""
    with tempfile.TemporaryDirectory() as dir:
        page = view(capture(dir, SMALL.splitlines(), 3))
    say(page)
    assert page == SMALL_PAGE


def test_json():
    """What is in no reason's numbers, and what each thread did, of the same events."""
    with tempfile.TemporaryDirectory() as dir:
        report = json.loads(view(capture(dir, SMALL.splitlines(), 3), name='exits:json'))
    say(json.dumps(report)[:1500])
    assert [report[k] for k in ('no_end', 'no_exit', 'no_entry', 'void', 'no_room', 'lost')] == [1, 2, 0, 1, 0, 9]
    assert (report['first'], report['last']) == (1000000, 1171000)
    (vm,) = report['vms']
    assert (vm['vm'], vm['count'], vm['sum_ns'], vm['asleep_ns'], vm['preempted_ns']) == (70, 4, 14500, 8000, 0)
    assert {r['reason']: r['sum_ns'] for r in vm['reasons']} == {'HLT': 10000, 'IO_INSTRUCTION': 2500, 'MSR_WRITE': 2000}
    first, second = vm['vcpus']
    assert first['threads'] == [{'thread': 71, 'exits': 3, 'guest_ns': 56000, 'out_ns': 14000, 'asleep_ns': 8000,
                                 'preempted_ns': 0, 'state': 'out', 'since': 1070000, 'number': 0x7777,
                                 'thread_state': 'waits'}]
    (thread,) = second['threads']
    assert (thread['thread'], thread['exits'], thread['guest_ns'], thread['out_ns'], thread['state']) == \
        (72, 1, 500, 500, 'guest')


def make_events(seed, lossless):
    """Events of three vCPUs of two VMs that wander over four CPUs, in order: (time, ring, text)."""
    r, events = random.Random(seed), []
    for vm, tid, vcpu in ((100, 101, 0), (100, 102, 1), (300, 301, 0)):
        t, ring = 1_000_000_000, r.randrange(4)
        for _ in range(2500):
            t += r.randrange(300, 20000)
            reason = r.choices([*NAMES, 0x7777], [5, 20, 3, 10, 60, 1])[0]
            rip = 0xffffffff81000000 + (r.choice([16, 32, 64]) if r.random() < .9 else r.randrange(10000))
            events.append((t, ring, 'exit', vm, tid, vcpu, reason, rip))
            if reason == HLT or r.random() < .05:
                t += r.randrange(300, 2000)
                state = 1 if reason == HLT else r.choice([0, 0x100])
                events.append((t, ring, 'out', vm, tid, vcpu, state, t % 5))
                t += int(r.expovariate(1 / 200000)) + 1
                ring = r.randrange(4)
                events.append((t, ring, 'in', vm, tid, vcpu))
            t += int(r.lognormvariate(7, 1.5)) + 1
            events.append((t, ring, 'entry', vm, tid, vcpu))
    events.sort()
    if lossless:
        return events
    for ring in range(4):  # each ring loses some stretches
        mine = [e for e in events if e[1] == ring]
        for _ in range(6):
            at = r.randrange(len(mine) - 60)
            lost = mine[at:at + r.randrange(1, 50)]
            if any(e[2] == 'lost' for e in lost + mine[at - 1:at]):
                continue
            events = [e for e in events if e not in set(lost)]
            # told with the ring's next event
            events.append((mine[at + len(lost)][0], ring, 'lost', len(lost)))
            mine = [e for e in mine if e not in set(lost)]
        events.sort(key=lambda e: (e[0], e[2] != 'lost'))
    return events


def lines_of(events):
    return [f'{e[1]} {e[0]} {e[2]} ' + ' '.join(map(str, e[3:])) for e in events]


def truth(events):
    """As Python makes it of them."""
    t = Truth()
    for e in events:
        time, what, who = e[0], e[2], e[3:6]
        if what == 'exit':
            t.event(time, 'kvm_exit', *who, NAMES.get(e[6], hex(e[6])), e[7])
        elif what == 'out':
            t.event(time, 'kvm_sched_out', *who, preempted=not e[6] & 0xff)
        elif what == 'in':
            t.event(time, 'kvm_sched_in', *who)
        elif what == 'entry':
            t.event(time, 'kvm_entry', *who)
    return t


def test_truth():
    """Counts, times, mean and error, percentiles, bars, places: all as Python has them."""
    events = make_events(1, True)
    with tempfile.TemporaryDirectory() as dir:
        source = capture(dir, lines_of(events), 4)
        page = view(source)
        say(page[:1500])
        check_page(page, truth(events))
        assert check_json(json.loads(view(source, name='exits:json')), truth(events)) == 7500
        assert 'not counted' not in page and 'lost' not in page
        # what stands beside it is as it would be without the view
        both = view('-o', f'text:{dir}/page', '-o', f'json:{dir}/events', source)
        assert both == '' and open(f'{dir}/page').read() == page
        assert sum('event' in json.loads(line) for line in open(f'{dir}/events')) == len(events)


@params('1', '2', '3')
def test_loss(seed):
    """Where events are missing no duration is made up: each that is counted was one, none is longer than any."""
    events = make_events(int(seed), False)
    everything = truth(make_events(int(seed), True)).out
    with tempfile.TemporaryDirectory() as dir:
        page = view(capture(dir, lines_of(events), 4))
    say(page[:600])
    rows, _ = parse(page)
    lost = sum(e[3] for e in events if e[2] == 'lost')
    assert f'lost: {lost} events of the host' in page
    assert re.search(r'not counted:.* \d+ void for lost or late events', page)
    total = {vm: sum(len(v) for k, v in everything.items() if k[:2] == (vm, None)) for vm in (100, 300)}
    for vm, n in total.items():
        got = int(rows[(vm, None, 'total')]['n'])
        assert n / 2 < got < n, (vm, got, n)
    wrong = 0
    for (vm, vcpu, reason), values in everything.items():
        row = rows.get((vm, vcpu, reason))
        if not row:
            continue
        ns = sorted(v[0] for v in values)
        assert int(row['n']) <= len(ns)
        # the longest and the shortest are of those that there were
        for name in ('min', 'max'):
            wrong += not any(close(row[name], v / 1e3, 1 / 16) for v in ns)
        assert float(row['mean']) * int(row['n']) <= sum(ns) / 1e3 + 0.01 * int(row['n']), (row[0], sum(ns))
    assert not wrong


def takers(events):
    """{(vm, vcpu): {thread: [ns]}}: each time from where a thread that could run on was switched out until it was back."""
    took, out = collections.defaultdict(lambda: collections.defaultdict(list)), {}
    for e in events:
        if e[2] == 'out' and not e[6] & 0xff:
            out[e[3:6]] = e
        elif e[2] == 'in' and e[3:6] in out:
            left = out.pop(e[3:6])
            took[e[3], e[5]][left[7]].append(e[0] - left[0])
    return took


@params('0', '1')
def test_takers(lossy):
    """Who took the CPUs of virtual CPUs; where events are missing it is less, of each, and never more."""
    seed = int(lossy) or 1
    want = takers(make_events(seed, True))
    with tempfile.TemporaryDirectory() as dir:
        report = json.loads(view(capture(dir, lines_of(make_events(seed, lossy == '0')), 4), name='steal:json'))
    taken = {(row['vm'], row['vcpu']): row for row in report['taken']}
    assert taken.keys() == want.keys() and len(taken) == 3 and report['vcpus'] == [], report
    assert [row['ns'] for row in report['taken']] == sorted((row['ns'] for row in taken.values()), reverse=True)
    everything = sum(sum(ns) for of in want.values() for ns in of.values())
    for key, row in taken.items():
        assert row['ns'] == sum(k['ns'] for k in row['by']) and row['others_count'] == 0, row
        assert [k['ns'] for k in row['by']] == sorted((k['ns'] for k in row['by']), reverse=True)
        for k in row['by']:
            ns = want[key][k['tid']]
            got, exact = (k['ns'], k['count'], k['max_ns']), (sum(ns), len(ns), max(ns))
            assert k['comm'] == f'task-{k["tid"]}' and all(a <= b for a, b in zip(got, exact)), (k, exact)
            assert lossy != '0' or got == exact, (k, exact)
    all_of_it = sum(row['ns'] for row in taken.values())
    say(f'{all_of_it} of {everything} ns')
    assert everything / 2 < all_of_it < everything if lossy != '0' else all_of_it == everything


def test_filtered():
    """Of what is aggregated a filter leaves exits of one kind, as those for one port, also where a vCPU changed its CPU meanwhile."""
    r, truth_of_one, events = random.Random(2), Truth(), []
    for i in range(500):
        time, rip, ns = 10 ** 9 + 20000 * i, r.choice((0x7c00, 0x7d00)), r.randrange(500, 5000)
        events.append((time, r.randrange(3), 'whole', 70, 71, 0, IO, rip, ns))
        if rip == 0x7c00:
            truth_of_one.event(time, 'kvm_io', 70, 71, 0, NAMES[IO], rip, ns)
    with tempfile.TemporaryDirectory() as dir:
        report = json.loads(view('--filter', 'guest_rip == 0x7c00', capture(dir, lines_of(events), 3), name='exits:json'))
    nr = check_json(report, truth_of_one)
    assert 200 < nr < 300 and not any(report[k] for k in ('no_end', 'no_exit', 'no_entry', 'void')), report


def read_all(fd):
    data = b''
    try:
        while True:
            piece = os.read(fd, 65536)
            if not piece:
                break
            data += piece
    except OSError:  # the other side is closed
        pass
    return data.decode()


def in_place(source, name, rows, columns):
    """Pages of a view, on a terminal of so much room, and beside it what it is elsewhere."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
    with subprocess.Popen([READER, '--view', name, '--stats', '0.1', source], stdout=theirs,
                          stderr=subprocess.PIPE, text=True) as reader:
        os.close(theirs)
        text = read_all(ours)
        reader.stderr.read()
        assert reader.wait() == 0
    os.close(ours)
    return text.replace('\r\n', '\n').split('\033[H')[1:], view(source, name=name)


def test_terminal():
    """In place: each page begins at the top, and has no more and no longer lines than there is room."""
    events, columns = [], 90
    for i in range(30):
        events += [(e[0] + i * 10 ** 9, *e[1:]) for e in make_events(i, True)]
    with tempfile.TemporaryDirectory() as dir:
        source = capture(dir, lines_of(events), 4)
        shown = [(*in_place(source, name, rows, columns), rows, what)
                 for name, rows, what in (('exits', 20, 'HLT'), ('steal', 10, 'TAKEN BY'))]
    for pages, plain, rows, what in shown:
        say(len(pages), 'pages;', repr(pages[-2][:300]))
        assert len(pages) >= 3
        for page in pages[:-1]:
            lines = page.rstrip('\033[J').split('\n')
            assert page.endswith('\033[J') and len(lines) <= rows
            assert all(line.endswith('\033[K') for line in lines[:-1])
            assert all(len(re.sub(r'\033\[\d*[A-Z]', '', line)) <= columns for line in lines)
        assert 'more lines, shown at the end' in pages[-2]
        assert what in pages[-2]
        # what stays is all of it
        assert len(pages[-1].splitlines()) == len(plain.splitlines())


USAGE = {
    'json-on-stdout': (['-o', 'json'], 'json:FILE'),
    'no-host': (['local:/x'], 'source kvm'),
}


@params(*USAGE)
def test_refused(kind):
    args, why = USAGE[kind]
    with tempfile.TemporaryDirectory() as dir:
        if kind != 'no-host':
            args = [*args, capture(dir, SMALL.splitlines(), 3)]
        r = subprocess.run([READER, '--view', 'exits', *args], text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, check=False)
    assert r.returncode == 2 and r.stdout == '' and why in r.stderr, r.stderr

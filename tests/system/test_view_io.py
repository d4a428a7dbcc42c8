# SPDX-License-Identifier: LGPL-2.1-or-later
"""--view io of a real guest: counts and bytes as its kernel has them, stages as Python has them from the same events."""

import collections
import json
import os
import re
import subprocess

import exitspage
from harness import params, say
from vm import READER, VM, Reader

SCRIPT = '''
agent_start --events block,virtio || exit 1
sync
sleep 1
echo "BEFORE $(grep ' vda ' /proc/diskstats)"
for i in 1 2 3; do
	dd if=/dev/vda of=/dev/null bs=64k count=64 skip=$((i * 64)) iflag=direct 2> /dev/null
	dd if=/dev/zero of=/dev/vda bs=4k count=128 seek=$((i * 4096)) conv=fsync 2> /dev/null
done
dd if=/dev/vda of=/dev/null bs=1M count=8 skip=32 2> /dev/null
sync
sleep 1
echo "AFTER $(grep ' vda ' /proc/diskstats)"
agent_stop || exit 1
'''

OPS = ((1, 'write'), (2, 'discard'), (256, 'flush'), (4, 'read'))
HOST_STAGES = ('kick exit', 'VMM with disk', '  host queue', '  host disk', '  VMM and KVM', 'completion')
STAGES = ('guest queue', 'guest driver', *HOST_STAGES, 'total')
ROW = re.compile(rf'(?P<stage>{"|".join(STAGES)}) +(?P<n>\d+) +'
                 r'(?:(?P<tp>[\d.]+)%|-) +(?P<min>\S+) +(?P<max>\S+) +(?P<mean>\S+) +(?P<err>[\d.]+|-)%? +(?P<p50>\S+) +'
                 r'(?P<p99>\S+) +(?P<p999>\S+) +(?P<none>\d+) +(?P<unknown>\d+)$')


def truth(found):
    """{(disk, kind): {stage: [ns]}}, bytes, and requests that were not told apart; from the JSON output."""
    flying, stages, size, odd = {}, {}, collections.defaultdict(list), 0
    for e in found:
        f, t = e['fields'], e['time']
        if e['event'] == 'virtqueue_notify' and f['name'].startswith('req'):
            for r in flying.values():
                if r.get('cpu') == e['cpu'] and 'notify' not in r:
                    r['notify'] = t
        if not e['event'].startswith('block_rq_'):
            continue
        kind = next((name for bit, name in OPS if f['rwbs'] & bit), 'other')
        key = (f['dev'], f['sector'] % (2**64 - 1), kind)
        r = flying.get(key)
        if e['event'] == 'block_rq_complete':
            flying.pop(key, None)
            if not r and kind == 'write' and not f['nr_sector']:
                continue  # asked for a flush
            if not r or 'issue' not in r or r.get('odd') or r['bytes'] != f['nr_sector'] * 512:
                odd += 1
                continue
            of = stages.setdefault((f['dev'], kind), collections.defaultdict(list))
            size[(f['dev'], kind)].append(r['bytes'])
            of['total'].append(t - r.get('insert', r['issue']))
            if 'insert' in r:
                of['guest queue'].append(r['issue'] - r['insert'])
            if 'notify' in r:
                of['guest driver'].append(r['notify'] - r['issue'])
        elif e['event'] == 'block_rq_insert':
            if r:
                r['odd'] = True
            else:
                flying[key] = {'insert': t}
        elif r and 'issue' in r:
            r['odd'] = True
        else:
            flying.setdefault(key, {}).update(issue=t, cpu=e['cpu'], bytes=f['bytes'])
    return stages, size, odd


def parse(page):
    """By disk and kind: stages' rows, sizes, and histograms without empty lines."""
    rows, where, bars = {}, None, None
    for line in page.splitlines():
        title = re.match(r'(?:.*, )?disk (\d+):(\d+), (\w+): (\d+) requests, (\d+) bytes', line)
        if title:
            where = (int(title[1]) << 20 | int(title[2]), title[3])
            rows[where] = {'bytes': int(title[5]), 'bars': {}}
        row = ROW.match(line)
        if row:
            rows[where][row['stage']] = row
        title, bar = re.match(r'(?:.*, )?disk (\d+):(\d+), (\w+), (?:(.*), ns|bytes):$', line), exitspage.bar_of(line)
        if line.endswith(('ns:', 'bytes:')):
            bars = {}  # of a host's disk
        if title:
            bars = rows[(int(title[1]) << 20 | int(title[2]), title[3])]['bars'].setdefault(title[4] or 'bytes', {})
        if bar and bar[1]:
            bars[bar[0]] = bar[1]
    return rows


def check_bars(rows, what, values):
    want = exitspage.bars_for(values) if any(values) else {}
    assert rows['bars'].get(what.strip(), {}) == want, (what, rows['bars'], want)


def check_page(page, found):
    want, size, odd = truth(found)
    rows = parse(page)
    assert rows.keys() == want.keys() and rows, (rows.keys(), want.keys())
    for key, stages in want.items():
        assert rows[key]['bytes'] == sum(size[key])
        check_bars(rows[key], 'bytes', size[key])
        n = len(stages['total'])
        for stage in ('guest queue', 'guest driver', 'total'):
            row, ns = rows[key][stage], sorted(stages[stage])
            assert int(row['n']) == len(ns) and int(row['n']) + int(row['none']) == n, (row[0], len(ns))
            check_bars(rows[key], stage, ns)
            if not ns:
                continue
            for name, value, slack in (('min', ns[0], 0), ('max', ns[-1], 0), ('mean', sum(ns) / len(ns), 0),
                                       ('p50', ns[(len(ns) + 1) // 2 - 1], 1 / 32)):
                assert exitspage.close(row[name], value / 1e3, slack), (row[0], name, value)
        for stage in HOST_STAGES:
            assert int(rows[key][stage]['n']) == 0, page
            assert stage == 'kick exit' or int(rows[key][stage]['unknown']) == n, page
    told = re.search(r'not counted: (\d+) that could not', page), re.search(r'not counted: (\d+) whose issue', page)
    assert sum(int(m[1]) for m in told if m) == odd
    return {key[1]: len(stages['total']) for key, stages in want.items()}, odd


def check_json(report, found):
    """Likewise of --view io:json, where counts and sums are exact."""
    want, size, odd = truth(found)
    disks = {(d['major'] << 20 | d['minor'], d['kind']): d for d in report['disks']}
    assert len(disks) == len(report['disks']) and disks.keys() == want.keys(), (disks.keys(), want.keys())
    for key, stages in want.items():
        exitspage.check_durations(disks[key]['size'], size[key], 'bytes')
        rows = {s['stage']: s for s in disks[key]['stages']}
        assert list(rows) == [s.strip() for s in STAGES]
        for stage in ('guest queue', 'guest driver', 'total'):
            exitspage.check_durations(rows[stage], stages[stage])
            assert exitspage.octaves(rows[stage]) == exitspage.bars_for(stages[stage])
            assert rows[stage]['count'] + rows[stage]['none'] == len(stages['total']) and not rows[stage]['unknown']
        assert all(rows[s.strip()]['count'] == 0 for s in HOST_STAGES)
    assert report['ambiguous'] + report['no_issue'] == odd and not report['host_disks'] and not report['lost']


@params('6.1', thorough=['6.12'])
def test_guest(kernel):
    with VM(SCRIPT, kernel=kernel, cpus=2, disk_mib=64) as vm:
        vm.start()
        reader = Reader(vm, '--view', 'io', '-o', f'text:{vm.dir}/page', '-o', f'json:{vm.dir}/json', '-o', f'raw:{vm.dir}/raw')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        with open(os.path.join(vm.dir, 'page'), encoding='utf-8') as f:
            page = f.read()
        with open(os.path.join(vm.dir, 'json'), encoding='utf-8') as f:
            found = [json.loads(line) for line in f]
        report = json.loads(subprocess.run([READER, '--view', 'io:json', '-o', f'json:{vm.dir}/again', f'file:{vm.dir}/raw'],
                                           check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout)
        with open(os.path.join(vm.dir, 'again'), encoding='utf-8') as f:
            check_json(report, [json.loads(line) for line in f])
        console = vm.console()
    say(page[:3500])
    assert all('fields' in e for e in found)
    assert 'stages on the host are not known' in page
    counts, odd = check_page(page, found)
    before, after = ([int(v) for v in re.search(rf'{w} +\d+ +\d+ vda (.*)', console)[1].split()] for w in ('BEFORE', 'AFTER'))
    kernels = [b - a for a, b in zip(before, after)]
    rows = parse(page)
    disk = next(key[0] for key in rows)
    say(counts, odd, kernels)
    assert counts['read'] == kernels[0] and rows[(disk, 'read')]['bytes'] == kernels[2] * 512
    assert rows[(disk, 'write')]['bytes'] == kernels[6] * 512 and counts['flush'] == kernels[15] and not odd
    assert 'not counted' not in page

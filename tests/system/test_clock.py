# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records that are stamped with the TSC, against clocks that their producers read around each: as
host-reader shows them live, after the tracer's death, after a reboot, and as babeltrace2 does."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager

import ctftext
from harness import params, say
from test_capture import contents, replay
from vm import BUILD, Reader

STAMPS = os.path.join(BUILD, 'tests', 'stamps')
EACH = 2000  # records of each of three producers
# CLOCK_REALTIME less CLOCK_MONOTONIC: two readings, one after the other; and NTP steers it.
OFFSET_NS = 1000


@contextmanager
def directory():
    dir = tempfile.mkdtemp(prefix='htrace-clock-', dir='/dev/shm')
    try:
        yield dir
    finally:
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(dir, ignore_errors=True)


def events(path):
    with open(path, encoding='ascii') as f:
        return [r for r in map(json.loads, f) if r.get('event') == 'stamp']


def clock_row(said):
    """Which clock, and the bound in ns, by a summary."""
    row = re.search(r'^clock +(.*)$', said, re.M)[1]
    bound = re.search(r', within (\d+) ns', row)
    return row, int(bound[1]) if bound else 0


def hold(found, bound, what, low='before', high='after'):
    """(time, fields): each between the readings around it, but for the bound."""
    assert len(found) == 3 * EACH, (what, len(found))
    slack = [max(f[low] - t, t - f[high]) for t, f in found]
    assert max(slack) <= bound, f'{what}: off by {max(slack)} ns, bound {bound}'
    say(f'{what}: {sum(s <= 0 for s in slack)} of {len(found)} records between their readings, '
        f'the others off by {max(slack)} ns at most, bound {bound} ns')


def by_json(path, bound, what):
    found = events(path)
    assert [r['time'] for r in found] == sorted(r['time'] for r in found)
    assert sorted({r['ring'] for r in found}) == [0, 1, 2]
    hold([(r['time'], r['fields']) for r in found], bound, what)


def by_babeltrace(path, bound, what):
    """On CLOCK_REALTIME, by another reader of CTF, which finds nothing to complain of."""
    records, losses = ctftext.read(path)
    assert not losses
    found = [(r.time, r.fields) for r in records if r.event == 'stamp']
    hold(found, bound + OFFSET_NS, what, 'real_before', 'real_after')


def is_published(path):
    try:
        with open(path, 'rb') as f:
            return f.read(8) == b'HTRACE01'
    except FileNotFoundError:
        return False


def read_all(dir, path):
    """All outputs that have times; what the reader said."""
    out = dir + '/json'
    reader = Reader('local:' + path, '-o', 'json:' + out, '-o', f'ctf:{dir}/ctf', '-o',
                    f'raw:{dir}/raw')
    for _ in range(1200):
        if os.path.exists(out) and contents(out).count(b'"event":"stamp"') == 3 * EACH:
            break
        time.sleep(0.05)
    assert reader.stop() == 0, reader.err()
    assert 'in ticks' not in reader.err(), reader.err()
    return reader.err()


@params(('best', 'live'), ('best', 'dead'), ('best', 'rebooted'), ('monotonic', 'dead'))
def test_between(clock, when):
    """Two threads, and a process that is killed; nobody beats a heart."""
    with directory() as dir:
        path, live = dir + '/region', when == 'live'
        command = [STAMPS, path, clock, str(EACH)] + (['5000'] if live else ['300', 'die'])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracer:
            used = tracer.stdout.readline().strip()
            while live and not is_published(path):
                time.sleep(0.01)
            said = read_all(dir, path) if live else ''
            assert tracer.wait() == 0 or not live
        if when == 'rebooted':  # the reader's own clocks tell nothing then
            with open(path, 'r+b') as f:
                f.seek(32)
                f.write(bytes(range(16)))
        if not live:
            said = read_all(dir, path)
        row, bound = clock_row(said)
        say(f'{used}: {row}')
        if used == 'TSC':
            assert re.match(r'TSC of \d+\.\d{6} MHz, shown as CLOCK_MONOTONIC, within', row), row
        else:
            assert row == 'CLOCK_MONOTONIC' and bound == 0, row
        by_json(dir + '/json', bound, 'JSON')
        by_babeltrace(dir + '/ctf', bound, 'babeltrace2 of ctf')
        by_babeltrace(dir + '/raw', bound, 'babeltrace2 of raw')  # a straight line through all
        again = replay(dir + '/raw', '-o', f'json:{dir}/again', '-o', f'raw:{dir}/raw2')
        assert clock_row(again) == (row, bound), again
        assert contents(dir + '/again') == contents(dir + '/json')
        replay(dir + '/raw2', '-o', f'json:{dir}/again2')
        assert contents(dir + '/again2') == contents(dir + '/json')


def test_no_samples():
    """A region of ticks without clock samples, of another machine: shown as ticks, and said so."""
    with directory() as dir:
        path = dir + '/region'
        if subprocess.run([STAMPS, path, 'best', str(EACH), '0', 'die'], stdout=subprocess.PIPE,
                          check=False, text=True).stdout.strip() != 'TSC':
            return say('the TSC of this machine is not invariant: nothing to show')
        with open(path, 'r+b') as f:
            f.seek(32)
            f.write(bytes(range(16)))
            f.seek(80)
            f.seek(int.from_bytes(f.read(8), 'little') + 64)  # clock_head
            f.write(bytes(8))
        reader = Reader('local:' + path, '-o', f'json:{dir}/json', '-o', f'raw:{dir}/raw')
        reader.wait_for('times are shown in ticks of the TSC: the region has no clock samples')
        time.sleep(0.5)
        assert reader.stop() == 0
        row, _ = clock_row(reader.err())
        assert row.startswith('TSC, shown in ticks: there are no samples'), row
        assert contents(dir + '/json').startswith(b'{"tsc":')
        replay(dir + '/raw', '-o', f'json:{dir}/again')
        assert contents(dir + '/again') == contents(dir + '/json')


def test_refused():
    """The TSC is asked for where it is not invariant."""
    with directory() as dir:
        run = subprocess.run([STAMPS, dir + '/region', 'tsc', '1', '0'], stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, check=False)
        with open('/sys/devices/system/clocksource/clocksource0/available_clocksource',
                  encoding='ascii') as f:
            offered = 'tsc' in f.read().split()
        assert run.stdout == 'TSC\n' if run.returncode == 0 else \
            'making the region failed' in run.stderr, run
        assert offered or run.returncode, 'not offered, and taken all the same'

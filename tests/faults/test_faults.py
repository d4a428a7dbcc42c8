# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dies, stops, fills up or goes away at random moments takes nothing along that was not counted."""

import concurrent.futures
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faults  # noqa: E402
import pace  # noqa: E402
from guest import BOOTS, PACED, TIMED, Guest  # noqa: E402
from harness import Skip, params, say  # noqa: E402
from outputs import LOST  # noqa: E402
from scene import LENT  # noqa: E402
from vm import BUILD  # noqa: E402

TIMES = 300
ROUNDS, ROUNDS_GUEST = 10, 4
ROUND = 200000  # as in tracer.c


def test_local():
    """Local rings; tests/faults/faults.py does it for longer."""
    times, wrong, ways = faults.run(random.randrange(1 << 31), TIMES, say)
    assert not wrong, '\n'.join(wrong)
    assert times == TIMES, times
    assert ways.keys() == set(LENT) and all(large for _, _, large, *_ in ways.values()), ways


def read_state(path):
    run = subprocess.run(['babeltrace2', path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    bad = [line for line in run.stderr.splitlines() if not LOST.match(line)]
    assert not run.returncode and not bad, f'{path}: babeltrace2 ended with {run.returncode}: {bad[:10]}'
    return run.stdout.count('\n')


def test_killed_in_a_write():
    """
    A CTF output as it is behind each page of each write (where a process that is killed in one stops), as the unit
    test has it: babeltrace2 reads all, and what it reads does not become less.
    """
    unit = os.path.join(BUILD, 'tests', 'test_sink_ctf')
    if not os.path.exists(unit):
        raise Skip('built without unit tests')
    with tempfile.TemporaryDirectory(dir='/dev/shm') as d, concurrent.futures.ThreadPoolExecutor(2) as pool:
        subprocess.run([unit], env=os.environ | {'HTRACE_STATES': d}, stdout=subprocess.DEVNULL, check=True)
        states = [os.path.join(d, name) for name in sorted(os.listdir(d), key=int)]
        events = list(pool.map(read_state, states))
    say(f'{len(states)} states, {events[0]} to {events[-1]} events')
    assert len(states) > 80 and events == sorted(events) and events[0] < 10 and events[-1] > 50, events


@params('discard', 'overwrite')
def test_slow_reader(policy):
    """
    A workload is not slower while its reader stands still, or does so by turns, nor by what is dropped then; what
    the reader missed meanwhile is counted.
    """
    took, said = pace.local(policy, ROUNDS)
    pace.judge(policy, '1f', took, say)
    if policy == 'discard':
        recorded, dropped = (statistics.median(took[kind]) for kind in ('recorded', 'dropped'))
        say(f'recorded: {recorded:.1f} ns, dropped: {dropped:.1f} ns')
        assert dropped < pace.MARGIN[policy] * recorded, took
    lost = int(re.search(r'^lost +(\d+)', said, re.M)[1])
    received = int(re.search(r'^received +(\d+)', said, re.M)[1])
    say(f'{received} records received, {lost} lost')
    assert received + lost == len(pace.HOW) * ROUNDS * ROUND and lost > ROUND, said


@params('discard', 'overwrite')
def test_slow_reader_of_guest(policy):
    """Likewise a task in a guest whose ring is full long before the end of a round."""
    guest = Guest(random.randrange(1 << 31), PACED[policy], ROUNDS_GUEST * len(pace.HOW))
    _, why = guest.run()
    assert not why, why
    pace.judge('in the guest', '0f', guest.timed, say)
    say(f'{guest.lost} records lost')
    assert guest.lost > TIMED * ROUNDS_GUEST / 2, guest.lost


@params(*range(len(BOOTS)))
def test_guest(nr):
    """A guest, its VMM and its reader; of the host's faults the guest's tally has what was produced meanwhile."""
    times, wrong = faults.run_guest(random.randrange(1 << 31), nr, say)
    assert not wrong, wrong[0]
    _, _, _, inside, outside, _ = BOOTS[nr]
    assert times == len(inside) + len(outside) + 1

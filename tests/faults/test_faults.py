# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dies, stops, fills up or goes away at random moments takes nothing along that was not counted."""

import os
import random
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import faults  # noqa: E402
import pace  # noqa: E402
from guest import BOOTS  # noqa: E402
from harness import params, say  # noqa: E402

TIMES = 300
PAIRS, PAIRS_GUEST = 10, 4
ROUND = 200000  # as in tracer.c


def test_local():
    """Local rings; tests/faults/faults.py does it for longer."""
    times, wrong = faults.run(random.randrange(1 << 31), TIMES, say)
    assert not wrong, '\n'.join(wrong)
    assert times == TIMES, times


@params('discard', 'overwrite')
def test_slow_reader(policy):
    """A workload is not slower while its reader stands still; what the reader missed meanwhile is counted."""
    took, said = pace.local(policy, PAIRS)
    pace.judge(policy, '1f', took['running'], took['stopped'], say)
    lost = int(re.search(r'^lost +(\d+)', said, re.M)[1])
    received = int(re.search(r'^received +(\d+)', said, re.M)[1])
    say(f'{received} records received, {lost} lost')
    assert received + lost == 2 * PAIRS * ROUND and lost > ROUND, said


@params(*range(len(BOOTS)))
def test_guest(nr):
    """A guest, its VMM and its reader; of the host's faults the guest's tally has what was produced meanwhile."""
    times, wrong, timed = faults.run_guest(random.randrange(1 << 31), nr, 0 if nr else 2 * PAIRS_GUEST, say)
    assert not wrong, wrong[0]
    if timed['stopped']:
        pace.judge('in the guest', '0f', timed['running'], timed['stopped'], say)
    _, _, _, inside, outside, _ = BOOTS[nr]
    assert times == len(inside) + len(outside) + 1

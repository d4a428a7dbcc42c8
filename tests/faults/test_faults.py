# SPDX-License-Identifier: LGPL-2.1-or-later
"""What dies, stops, fills up or goes away at random moments takes nothing along that was not counted."""

import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import local  # noqa: E402
from harness import say  # noqa: E402

TIMES = 300


def test_local():
    """Local rings; tests/faults/local.py does it for longer."""
    times, wrong = local.run(random.randrange(1 << 31), TIMES, say)
    assert not wrong, '\n'.join(wrong)
    assert times == TIMES, times

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ring at full speed: threads, signal handlers, killed processes, readers; with sanitizers."""

import os
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from builds import HANDLES, OWNERS, STRESS, WAKE, compile_test, outcome  # noqa: E402
from harness import params, say  # noqa: E402

RECORDS = {'plain': 120000, 'tsan': 20000, 'asan': 30000}  # of each producer
ROUNDS = {'plain': 300, 'tsan': 60, 'asan': 60}
WAKES = {'plain': 1000000, 'tsan': 100000, 'asan': 100000}
LIVES = {'plain': 3000, 'tsan': 400, 'asan': 400}


def passes(exe, *args):
    """The program finds nothing wrong, and says in one line what it did."""
    name = ' '.join(args)
    status, said = outcome(exe, *args)
    assert status == 0, f'{name}: exit {status}\n{said}'
    assert len(said.splitlines()) == 1, said
    say(f'{name}: {said.strip()}')


@params('plain', 'tsan', 'asan')
def test_ring(build):
    """Every record checks itself, the account adds up, no sanitizer says a word."""
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(STRESS, d, build)
        for mode in ('threads', 'signals', 'single', 'readers', 'killed'):
            for policy in ('discard', 'overwrite'):
                n = ROUNDS[build] if mode == 'killed' else RECORDS[build]
                passes(exe, mode, policy, str(n))


@params('plain', 'tsan', 'asan')
def test_borrowed(build):
    """The same of a reader that does not copy: what it took from a batch holds if the release says so."""
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(STRESS, d, build)
        for mode in ('threads', 'readers', 'killed'):
            for policy in ('discard', 'overwrite'):
                n = (ROUNDS[build] if mode == 'killed' else RECORDS[build]) // 3
                passes(exe, mode, policy, str(n), 'borrow')


@params('plain', 'tsan', 'asan')
def test_packed(build):
    """One of the producers switches tasks, which are packed: what is given out is what it said."""
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(STRESS, d, build)
        for mode in ('threads', 'signals', 'readers', 'killed'):
            for policy in ('discard', 'overwrite'):
                n = (ROUNDS[build] if mode == 'killed' else RECORDS[build]) // 3
                passes(exe, mode, policy, str(n), 'packed')


@params('plain', 'tsan', 'asan')
def test_owners(build):
    """Rings of processes that are killed anywhere: read, retired and used again, nothing unaccounted."""
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(OWNERS, d, build)
        for policy in ('discard', 'overwrite'):
            passes(exe, policy, str(LIVES[build]))


@params('plain', 'tsan', 'asan')
def test_wake(build):
    """A reader that sleeps until it is woken, without a bound: of so many records none is slept over."""
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(WAKE, d, build)
        for mode in ('alone', 'single', 'shared'):
            passes(exe, mode, str(WAKES[build]))


@params('plain', 'tsan', 'asan')
def test_handles(build):
    """A region's handle, on which threads take rings and give them back, while one beats and one reads."""
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(HANDLES, d, build)
        passes(exe, str(LIVES[build] * 2))

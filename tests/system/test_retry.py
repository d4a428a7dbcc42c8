# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests/run.py does with a test that fails: once more only if it had a guest, and not for ever."""

import contextlib
import io

import run as runner
from harness import say
from vm import VM


def outcome(guest, failures, unsteady=()):
    """Runs a test that fails so often, with or without a guest: (how often it ran, its results)."""
    results, runs = runner.Results(), []
    results.unsteady += unsteady
    before = VM.started

    def test():
        runs.append(1)
        VM.started += guest
        assert len(runs) > failures

    with contextlib.redirect_stdout(io.StringIO()):
        runner.run_system('some.test', test, (), results)
    VM.started = before
    return len(runs), results


def test_once_more():
    allowed = runner.UNSTEADY_ALLOWED
    for guest, failures, earlier, runs, passed, unsteady in (
            (False, 0, 0, 1, 1, 0), (False, 1, 0, 1, 0, 0), (True, 0, 0, 1, 1, 0), (True, 1, 0, 2, 1, 1),
            (True, 2, 0, 2, 0, 0), (True, 1, allowed - 1, 2, 1, 1), (True, 1, allowed, 1, 0, 0)):
        ran, results = outcome(guest, failures, ['x'] * earlier)
        got = ran, results.passed, len(results.unsteady) - earlier
        assert got == (runs, passed, unsteady), f'guest {guest}, {failures} failures after {earlier}: {got}'
        assert results.failed == 1 - passed and len(results.failures) == results.failed
    say(f'without a guest never, with one once, {allowed} in a run')

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tests/run.py does with a test that fails: once more, but for what looks for rare faults, and not for ever."""

import contextlib
import io
import os
import tempfile

import run as runner
from harness import say


def outcome(name, failures, unsteady=()):
    """Runs a test that fails so often: (how often it ran, its results)."""
    results, runs = runner.Results(), []
    results.unsteady += unsteady

    def test():
        runs.append(1)
        assert len(runs) > failures

    with contextlib.redirect_stdout(io.StringIO()):
        runner.run_system(name, test, (), results)
    return len(runs), results


def unit_outcome(label, failures, unsteady=()):
    """The same of a program of unit tests."""
    results = runner.Results()
    results.unsteady += unsteady
    with tempfile.TemporaryDirectory() as dir:
        runs, program = os.path.join(dir, 'runs'), os.path.join(dir, 'test_some')
        with open(program, 'w', encoding='ascii') as f:
            f.write(f'#!/bin/sh\necho >> {runs}\necho 1..1\n[ $(wc -l < {runs}) -gt {failures} ] || '
                    '{ echo "not ok 1 - it"; exit 1; }\necho "ok 1 - it"\n')
        os.chmod(program, 0o755)
        with contextlib.redirect_stdout(io.StringIO()):
            runner.run_unit(program, label, results)
        with open(runs, encoding='ascii') as f:
            return len(f.readlines()), results


def test_once_more():
    allowed = runner.UNSTEADY_ALLOWED
    for of, name in (outcome, 'some.test'), (unit_outcome, 'unit.'):
        for failures, earlier, runs, passed, unsteady in (
                (0, 0, 1, 1, 0), (1, 0, 2, 1, 1), (2, 0, 2, 0, 0), (1, allowed - 1, 2, 1, 1), (1, allowed, 1, 0, 0)):
            ran, results = of(name, failures, ['x'] * earlier)
            got = ran, results.passed, len(results.unsteady) - earlier
            assert got == (runs, passed, unsteady), f'{name}: {failures} failures after {earlier}: {got}'
            assert results.failed == 1 - passed and len(results.failures) == results.failed
    for name in runner.NEVER_AGAIN:
        ran, results = outcome(name + 'test', 1)
        assert (ran, results.passed, results.failed) == (1, 0, 1), name
    say(f'once, {allowed} in a run; {", ".join(runner.NEVER_AGAIN)} never')

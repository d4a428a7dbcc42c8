# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tracing costs the guest, side by side in one run: ratios, not times."""

import importlib.machinery
import importlib.util
import os

from harness import say
from vm import TOP


def load_bench(name):
    path = os.path.join(TOP, 'bench', name)
    loader = importlib.machinery.SourceFileLoader(name.replace('-', '_'), path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_guest_slowdown():
    """Direct placement must cost the workload less than a ring buffer drained by an agent."""
    bench = load_bench('guest-cost')
    results, agents = bench.measure(calls=50000, rounds=5)
    for line in bench.table(results, agents):
        say(line)
    assert all(len(r) == 5 for r in results.values())
    # The rounds are interleaved, so what else this machine does falls upon all ways of a round
    # alike: most rounds must agree.
    pairs = list(zip(results['nothing'], results['direct'], results['ringbuf, wake-ups']))
    assert sum(nothing < direct for nothing, direct, _ in pairs) > len(pairs) / 2, results
    assert sum(direct < ringbuf for _, direct, ringbuf in pairs) > len(pairs) / 2, results

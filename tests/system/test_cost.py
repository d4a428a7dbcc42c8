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
    # Each way's best round: what other work on this machine cannot have slowed down.
    best = {way: min(r) for way, r in results.items()}
    assert best['nothing'] < best['direct'] < best['ringbuf, wake-ups'], best

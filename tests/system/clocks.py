# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a reader says of the clocks of its sources: how near its times are to the host's, and where a clock stepped."""

import json
import os
import re
import time

from harness import say

OVERLOADED = ', on a machine that was overloaded'


class When:
    """When, by the host's CLOCK_MONOTONIC, QEMU was asked for something, and had done it."""

    def __init__(self, do, *args):
        self.asked = time.monotonic_ns()
        do(*args)
        self.done = time.monotonic_ns()


def is_step(record):
    """One that was found, not one that is suspected."""
    return re.match(r'clock: a step of [+-]', record.get('note', ''))


def wait_for(path, source=None, count=1, what='clock begins'):
    """Until as what times are shown is said in a JSON output, of so many sessions; or else WHAT of clocks."""
    def said():
        with open(path, encoding='ascii') as f:
            notes = [json.loads(line) for line in f if line.startswith('{"note":"' + what) and line.endswith('\n')]
        return sum(source in (None, n.get('source')) for n in notes)
    end = time.time() + 60
    while said() < count:
        assert time.time() < end, f'{what}: said {said()} times, not {count}'
        time.sleep(0.1)


def sessions(path):
    """[[note or event]] of each of a source's sessions, which end with what is claimed of their times."""
    found = [[]]
    with open(path, encoding='ascii') as f:
        for item in map(json.loads, f):
            found[-1].append(item)
            if item.get('note', '').startswith('clock ends'):
                found.append([])
    return found[:-1]


def claimed(session):
    """Within how many ns its times are the host's, which must be said in the end."""
    last = session[-1]
    assert last['clock'] == 'host' and last['bound'] is not None, last
    return last['bound']


def until_doubt(session):
    """
    What of a session its bound is claimed for: all of it, or, where it fell silent and its clock is not known to go on as
    it did, what is before that was said. And how many ns that is.
    """
    if session[-1]['bound'] is not None:
        return session, claimed(session)
    doubt = max(i for i, n in enumerate(session) if 'does not answer: ' in n.get('note', ''))
    before = session[:doubt]
    return before, [n['bound'] for n in before if n.get('bound') is not None][-1]


def busy():
    """Has this machine had too much to do? Then who should tell the time waits for a CPU."""
    return max(os.getloadavg()) > 3 * os.cpu_count()


def check_bounds(err, limits, asserted):
    """
    Of each source whose times were converted: of how many the reader claimed no more than so many ns when it showed them.
    All but one of a hundred, if that is ASSERTED: a machine that had no time for it shows nothing.
    """
    found = re.findall(r'^bounds +of (\d+) times: (.*)$', err, re.M)
    assert len(found) == len(limits), (limits, err)
    for (times, text), limit in zip(found, limits):
        shares = {int(ns): float(share) for share, ns in re.findall(r'([\d.]+) % within (\d+) ns', text)}
        said = f'{shares[limit]} % of {times} times within {limit} ns ({text}){OVERLOADED if busy() else ""}'
        say(said)
        assert not asserted or shares[limit] >= 99, said


def check_order(records, sources, slack, late):
    """
    One file has the RECORDS of all SOURCES in the order of their times, but for SLACK ns, and for what came when nobody
    waited for it any more, as where this machine had too much to do: no more than are LATE by the reader's own account,
    and few whatever that says. (Most of 8000 were 12 steps back and 325 records, where a reader stood still for 236 ms.)
    """
    assert {r['source'] for r in records} == set(sources), {r['source'] for r in records}
    times, latest, back, behind = [r['time'] for r in records], 0, [], 0
    for before, time in zip(times, times[1:]):
        latest = max(latest, before)
        behind += latest - time > slack
        if before - time > slack:
            back.append(before - time)
    found = (f'{len(times)} records of {len(sources)} sources in one order; {len(back)} steps back, by {max(back, default=0)} ns '
             f'at most, {behind} records behind later ones, {late} late{OVERLOADED if busy() else ""}')
    say(found)
    assert len(back) <= late and len(back) <= len(times) / 100 and behind <= len(times) / 10, found

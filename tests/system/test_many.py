# SPDX-License-Identifier: LGPL-2.1-or-later
"""One host-reader of many guests: one that floods it costs the others nothing, nor it more memory than stated."""

import json
import os
import re
import time

from guestlike import Stage
from harness import say
from vm import Reader

VMS = 16
RINGS = 8
KIB = 1024     # of the flood's rings
SMALL = 16     # of the others': full if they are not read for three quarters of a second
RATE = 1000    # records of 16 bytes a second of each ring of theirs
SECONDS = 3
# MEMORY in docs/man/host-reader.1, in KiB: of the process, of a source, of one that is behind, of a ring.
BASE, OF_SOURCE, BEHIND, OF_RING = 16 << 10, 4 << 10, 65 << 10, 4 + 24 * (KIB // 4) // 1024


def private(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        return int(re.search(r'RssAnon:\s+(\d+)', f.read())[1])


def test_flood():
    """15 guests of 8 CPUs each at a steady rate beside one that writes as fast as it can."""
    with Stage() as stage:
        names = [f'vm{i}' for i in range(VMS)]
        guests = [stage.guest(n, policy='discard', cpus=RINGS, kib=SMALL if i else KIB)
                  for i, n in enumerate(names)]
        out = stage.path('json')
        reader = Reader('local:' + stage.path(names[0]), '-o', 'json:' + out, '--filter',
                        f'number < {2 * RATE * SECONDS}', *('local:' + stage.path(n) for n in names[1:]))
        reader.wait_for('CPUs', count=VMS)
        idle = private(reader.process.pid)
        guests[0].ask(f'f {SECONDS * 1000}')
        for guest in guests[1:]:
            guest.ask(f'r {RATE * SECONDS} {SECONDS * 1000}')
        most, end = 0, time.time() + SECONDS
        while time.time() < end:
            most = max(most, private(reader.process.pid))
            time.sleep(0.05)
        dropped = [guest.answer() for guest in guests]
        assert not any(dropped[1:]), f'the others dropped {dropped[1:]}'
        assert dropped[0], 'the flood was none'
        for guest in guests:
            guest.ask('c')
        for guest in guests:
            assert guest.process.wait(30) == 0
        assert reader.stop() == 0, reader.err()
        found = {}
        with open(out, encoding='ascii') as f:
            for item in map(json.loads, f):
                if item.get('event') == 'counted':
                    found.setdefault((os.path.basename(item['source']), item['cpu']),
                                     []).append(item['fields']['number'])
                elif 'lost' in item:
                    assert item['source'].endswith('/vm0'), item
        for name in names[1:]:
            for cpu in range(RINGS):
                assert found[name, cpu] == list(range(RATE * SECONDS)), (name, cpu, len(found[name, cpu]))
        flood = int(re.search(r'summary of \S+/vm0 ---[\s\S]*?\nreceived +(\d+)', reader.err())[1])
        assert flood > 100000, flood
        bound = BASE + VMS * (OF_SOURCE + RINGS * OF_RING) + BEHIND
        say(f'{(VMS - 1) * RINGS * RATE * SECONDS} records of 15 guests, none lost, beside {flood} of one, '
            f'which dropped {dropped[0]}')
        say(f'memory: {idle} KiB idle, {most} KiB at most; stated for one that is behind: {bound} KiB')
        assert idle <= bound - BEHIND and most <= bound, (idle, most, bound)

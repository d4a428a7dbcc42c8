# SPDX-License-Identifier: LGPL-2.1-or-later
"""One host-reader of many guests: one that floods it costs the others nothing, nor it more memory than stated."""

import contextlib
import json
import os
import re
import time

from guestlike import Stage
from harness import say
from test_capture import replay
from vm import Reader

VMS = 16
RINGS = 8
KIB = 1024     # of the flood's rings
SMALL = 16     # of the others': full if they are not read for three quarters of a second
RATE = 1000    # records of 16 bytes a second of each ring of theirs
SECONDS = 3
COUNTS = re.compile(r'^received +(\d+)\nlost +(\d+)', re.M)
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
        raw, out = stage.path('raw'), stage.path('json')
        # All of it is shown: each line of the flood has to be waited for, and what waits is in memory.
        reader = Reader('local:' + stage.path(names[-1]), '-o', 'json:/dev/null', '-o', 'raw:' + raw,
                        *('local:' + stage.path(n) for n in names[:-1]))
        with contextlib.suppress(PermissionError):  # what else the machine does is not the question
            for process in [reader.process, *(guest.process for guest in guests)]:
                os.setpriority(os.PRIO_PROCESS, process.pid, -15)
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
        # The capture has the same, of each in a directory of its own.
        again = replay(raw, '-o', 'text:/dev/null')
        counts = [(int(received), int(lost)) for received, lost in COUNTS.findall(reader.err())]
        assert [(int(received), int(lost)) for received, lost in COUNTS.findall(again)] == counts, (counts, again)
        assert counts[1:] == [(RINGS * RATE * SECONDS, 0)] * (VMS - 1), counts
        replay(raw + '/source2-session1', *(f'file:{raw}/source{i}-session1' for i in range(3, VMS + 1)), '-o', 'json:' + out)
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
        flood, lost = counts[0]
        assert flood > 100000 and lost == dropped[0], (counts[0], dropped[0])
        bound = BASE + VMS * (OF_SOURCE + RINGS * OF_RING) + BEHIND
        say(f'{(VMS - 1) * RINGS * RATE * SECONDS} records of 15 guests, none lost, beside {flood} of one, '
            f'which dropped {dropped[0]}')
        say(f'memory: {idle} KiB idle, {most} KiB at most; stated for one that is behind: {bound} KiB')
        assert idle <= bound - BEHIND and most <= bound, (idle, most, bound)
        assert most > idle + BEHIND / 8, f'the flood was never behind: {idle}, {most}'

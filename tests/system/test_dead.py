# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that fall silent: why, what they left, and how they come back."""

import json
import os
import signal
import time

from guestlike import Stage
from harness import say


def numbers(path):
    """{CPU: [(number, unverified)]}, and the notes."""
    found, notes = {}, []
    with open(path, encoding='ascii') as f:
        for item in map(json.loads, f):
            if 'fields' in item:
                found.setdefault(item['cpu'], []).append((item['fields']['number'],
                                                          item.get('unverified', False)))
            elif 'note' in item:
                notes.append(item['note'])
    return found, notes


def sure(numbers):
    return [(n, False) for n in numbers]


def test_stopped():
    """Its process is stopped, and goes on: nothing is doubtful. Then it runs without a heartbeat."""
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('-o', 'json:' + out)
        time.sleep(1.2)
        guest.do('w 0 100')
        guest.process.send_signal(signal.SIGSTOP)
        reader.wait_for('silent for .* process that runs it is stopped')
        guest.process.send_signal(signal.SIGCONT)
        reader.wait_for('is back, after .* paused')
        guest.do('w 0 100')
        guest.do('b 0')
        reader.wait_for('silent for .* it runs: its agent is stopped')
        guest.do('b 1')
        reader.wait_for('is back', count=2)
        guest.do('b 0')
        guest.do('s 2600')
        reader.wait_for('silent for .* runs all the time')
        guest.do('b 1')
        reader.wait_for('is back', count=3)
        guest.close()
        assert reader.stop() == 0, reader.err()
        found, notes = numbers(out)
        assert found[0][:200] == sure(range(200)), found[0][:200]
        assert [n.split(':')[0][:12] for n in notes] == ['guest silent', 'the guest is'] * 3, notes
        say(*notes)


def test_killed():
    """
    Killed in the midst of records: what is committed comes as ever, what can be delimited behind the
    hole is marked, and the rest is counted.
    """
    with Stage() as stage:
        guest = stage.guest()
        out = stage.path('json')
        reader = stage.reader('-o', 'json:' + out)
        time.sleep(1.2)
        guest.do('w 0 100')
        time.sleep(0.3)  # they are read
        guest.do('x 0 50')  # within a block
        guest.do('w 1 7')
        time.sleep(0.3)
        begun = time.time()
        guest.kill()
        reader.wait_for('silent for .* process that ran it is gone')
        reader.wait_for('of the silent guest were read')
        took = time.time() - begun
        assert took < 2, f'that it is gone was seen after {took} s only'
        assert reader.stop() == 0, reader.err()
        found, _ = numbers(out)
        assert found[0][:100] == sure(range(100)) and found[1] == sure(range(7)), found
        assert found[0][100:] == [(n, True) for n in range(100, 151)], found[0][100:]
        assert '16 bytes, of processes that died' in reader.err(), reader.err()
        say(f'{len(found[0])} of CPU 0, 51 of them marked')


def test_found_dead():
    """A reader that comes when all is over reads the file that is left; what it left open, at its end."""
    with Stage() as stage:
        guest = stage.guest(policy='discard')
        guest.do('w 0 300')
        guest.do('x 1 20')
        guest.kill()
        for attempt in range(2):  # reading changes nothing
            out = stage.path(f'json{attempt}')
            reader = stage.reader('-o', 'json:' + out)
            reader.wait_for('silent')
            time.sleep(0.3)
            assert reader.stop() == 0, reader.err()
            found, _ = numbers(out)
            if attempt:  # what was committed was consumed; what was not, nobody can
                assert 0 not in found, found
            else:
                assert found[0] == [(n, True) for n in range(300)], found
            assert found[1] == [(n, True) for n in range(21)], found
        assert os.path.getsize(stage.path('region'))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a running reader has given up, as the kernel says it, and what goes on working."""

import os
import re
import subprocess
import time

import ctftext
from harness import Skip, no_landlock, no_seccomp, say
from test_hostile import SCRIBBLE, Place
from vm import READER

ASKED = ('CapEff', 'CapPrm', 'Seccomp', 'NoNewPrivs')


def status(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        return {m[1]: int(m[2], 16) for m in re.finditer(r'^(\w+):\s+([0-9a-f]+)$', f.read(), re.M) if m[1] in ASKED}


def children(pid):
    with open(f'/proc/{pid}/task/{pid}/children', encoding='ascii') as f:
        return [int(p) for p in f.read().split()]


class Running:
    """A reader of the good source, with what it says in a file."""

    def __init__(self, place, *args):
        self.err_path = place.path('err')
        with open(self.err_path, 'wb') as err:
            self.process = subprocess.Popen([READER, '--stats', '0.5', *args, f'local:{place.path("good")}'],
                                            stdout=subprocess.DEVNULL, stderr=err)
        place.peers.append(self.process)

    def err(self):
        with open(self.err_path, encoding='utf-8') as f:
            return f.read()

    def wait_for(self, text, timeout=20):
        end = time.time() + timeout
        while time.time() < end and not re.search(text, self.err()):
            time.sleep(0.05)
        assert re.search(text, self.err()), (text, self.err())

    def stop(self):
        self.process.terminate()
        return self.process.wait(20)


def start(place, seconds=20):
    place.path('good', 40 << 20)
    place.peers.append(subprocess.Popen([SCRIBBLE, 'good', place.path('good'), str(seconds), '500'],
                                        stdout=subprocess.DEVNULL))


def test_given_up():
    """By its status, its maps, and its finder's; outputs in directories go on; nothing is left behind."""
    with Place() as place:
        start(place)
        ctf = place.path('ctf')
        reader = Running(place, '-o', f'ctf:{ctf}', '-o', f'raw:{place.path("raw")}')
        reader.wait_for(r'events/s, [1-9]')
        pid = reader.process.pid
        say(re.search(r'sandbox: .*', reader.err())[0])
        finders = children(pid)
        assert len(finders) == 1, finders
        opened = sorted(os.readlink(f'/proc/{finders[0]}/fd/{n}') for n in os.listdir(f'/proc/{finders[0]}/fd'))
        assert opened[:3] == 3 * ['/dev/null'] and opened[3].startswith('socket:'), opened
        now = status(pid)
        assert 'capabilities: none' in reader.err() and now['CapEff'] == now['CapPrm'] == 0, now
        assert now['NoNewPrivs'] == 1, now
        finder = status(finders[0])
        assert finder['NoNewPrivs'] == 1 and bin(finder['CapPrm']).count('1') <= 5, finder
        if not no_seccomp():
            assert '(seccomp)' in reader.err() and now['Seccomp'] == finder['Seccomp'] == 2, (now, finder)
        assert no_landlock() or '(Landlock' in reader.err(), reader.err()
        with open(f'/proc/{pid}/maps', encoding='utf-8') as f:
            writable = [line.split()[0] for line in f if place.path('good') in line and 'w' in line.split()[1]]
        size = sum(int(r.split('-')[1], 16) - int(r.split('-')[0], 16) for r in writable)
        assert 0 < size <= 256 << 10, writable  # the host's part of it
        assert reader.stop() == 0, reader.err()
        assert not os.path.exists(f'/proc/{finders[0]}'), 'the finder is still there'
        traces = ctftext.traces(ctf)
        assert len(traces) == 1, traces
    if no_landlock() or no_seccomp():
        raise Skip('the kernel has no Landlock' if no_landlock() else 'the kernel has no seccomp filters')


def test_off():
    with Place() as place:
        start(place)
        reader = Running(place, '--no-sandbox', '-o', 'text:/dev/null')
        reader.wait_for(r'events/s, [1-9]')
        now = status(reader.process.pid)
        assert now['Seccomp'] == now['NoNewPrivs'] == 0 and not children(reader.process.pid), now
        if not os.geteuid():
            assert now['CapEff'], now
        assert 'sandbox' not in reader.err()
        assert reader.stop() == 0, reader.err()


def test_without_finder():
    """It goes on with what is open; what it would have to open it says that it cannot."""
    with Place() as place:
        start(place, 3)
        reader = Running(place, '-o', 'text:/dev/null')
        reader.wait_for(r'events/s, [1-9]')
        if not children(reader.process.pid):
            raise Skip('no sandbox in this build')
        os.kill(children(reader.process.pid)[0], 9)
        received = int(re.findall(r'(\d+) received', reader.err())[-1])
        time.sleep(1.2)
        assert int(re.findall(r'(\d+) received', reader.err())[-1]) > received
        reader.wait_for('ended the session')
        os.rename(place.path('good'), place.path('old'))
        place.path('good', 40 << 20)
        reader.wait_for('opens files for it is gone; start host-reader again')
        assert reader.process.wait(20) == 1, reader.err()

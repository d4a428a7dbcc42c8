# SPDX-License-Identifier: LGPL-2.1-or-later
"""How fast a workload is while its reader stands still, against while it reads."""

import os
import signal
import shutil
import statistics
import subprocess
import tempfile
import time

from outputs import Wrong
from scene import TRACER
from vm import READER

# A workload that waited for its reader would be slower by orders of magnitude. The medians of pairs differ by a few
# hundredths, whatever else the machine does; in an emulated guest, by more. A record that is dropped for want of room,
# which is what happens to most under discard while the reader stands still, costs half again as much as one that is
# recorded: it reads the clock twice.
MARGIN = {'overwrite': 1.3, 'discard': 2.0, 'in the guest': 1.5}


def ratio(running, stopped):
    """(median, least and largest) of what the pairs, which lie side by side in time, differ by."""
    ratios = sorted(s / r for r, s in zip(running, stopped))
    return statistics.median(ratios), ratios[0], ratios[-1]


def judge(what, unit, running, stopped, say):
    middle, least, most = ratio(running, stopped)
    say(f'{what}: reader running {statistics.median(running):.{unit}} ns, stopped '
        f'{statistics.median(stopped):.{unit}} ns a record; stopped / running {middle:.2f} '
        f'({least:.2f} ... {most:.2f} of {len(running)} pairs)')
    assert middle < MARGIN[what], f'{what}: the workload waits for its reader: {running}, {stopped}'


def local(policy, pairs):
    """Medians of rounds, by turns; what the reader says of loss at the end."""
    d = tempfile.mkdtemp(prefix='htrace-pace-', dir='/dev/shm')
    region = os.path.join(d, 'region')
    took = {'running': [], 'stopped': []}
    tracer = subprocess.Popen([TRACER, 'pace', region, policy], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    reader = None
    try:
        if tracer.stdout.readline() != b'ready\n':
            raise Wrong('the tracer did not start')
        with open(os.path.join(d, 'err'), 'w+', encoding='ascii') as err:
            reader = subprocess.Popen([READER, '--view', 'summary', f'local:{region}'], stdout=err, stderr=err)
            time.sleep(0.3)
            for i in range(2 * pairs):
                how = 'stopped' if i % 2 else 'running'
                reader.send_signal(signal.SIGSTOP if i % 2 else signal.SIGCONT)
                time.sleep(0.02)
                tracer.stdin.write(b'.')
                tracer.stdin.flush()
                took[how].append(int(tracer.stdout.readline()) / 100)
            reader.send_signal(signal.SIGCONT)
            time.sleep(0.1)
            reader.send_signal(signal.SIGINT)
            if reader.wait(20):
                raise Wrong(f'the reader ended with {reader.returncode}')
            err.seek(0)
            return took, err.read()
    finally:
        for p in filter(None, (tracer, reader)):
            p.kill()
            p.wait()
        tracer.stdin.close()
        tracer.stdout.close()
        shutil.rmtree(d, ignore_errors=True)

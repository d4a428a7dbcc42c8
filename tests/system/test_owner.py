# SPDX-License-Identifier: LGPL-2.1-or-later
"""Processes that trace themselves and are killed: their rings are read, retired, and used again."""

import json
import os
import re
import shutil
import subprocess
import tempfile

from harness import params, say
from vm import BUILD, READER, Reader

MORTAL = os.path.join(BUILD, 'tests', 'mortal')
LIVES = 30
KINDS = ('overwritten', 'dropped', 'corrupt', 'unfinished')


def check_records(path):
    """Each record is what its thread wrote, in order. (number of them, what was lost, per kind)."""
    last, lost, events = {}, dict.fromkeys(KINDS + ('uncommitted_bytes',), 0), 0
    with open(path, encoding='utf-8') as f:
        for line in f:
            o = json.loads(line)
            if 'lost' in o:
                assert o['lost'] == sum(o[k] for k in KINDS), o
                for k in lost:
                    lost[k] += o[k]
                continue
            f = o['fields']
            who = (f['life'], f['thread'])
            assert f['check'] == ((f['seq'] * 0x9e3779b97f4a7c15) % 2**64 ^ f['life'] << 32 ^ f['thread']), o
            assert f['seq'] > last.get(who, -1), (o, last[who])
            last[who] = f['seq']
            events += 1
    return events, lost, {life for life, _ in last}


def replay(capture, *options):
    return subprocess.run([READER, f'file:{capture}', *options], check=True, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout


@params('discard', 'overwrite')
def test_killed(policy):
    """More processes than rings, each killed: all that they did is read, or accounted for."""
    d = tempfile.mkdtemp(prefix='htrace-', dir='/dev/shm')
    region, js, text = (os.path.join(d, x) for x in ('region', 'out.json', 'out.text'))
    try:
        with subprocess.Popen([MORTAL, region, policy, str(LIVES)], stdout=subprocess.PIPE,
                              text=True) as mortal:
            while not os.path.exists(region):
                assert mortal.poll() is None
            reader = Reader(f'local:{region}', '-o', f'json:{js}', '-o', f'text:{text}',
                            '-o', f'ctf:{d}/ctf', '-o', f'raw:{d}/raw')
            attempts, done, holes = map(int, mortal.communicate(timeout=120)[0].split())
            assert mortal.returncode == 0
        # the last ones die in front of the end, too
        reader.wait_for(r'ring \d+: its process \d+ died', count=holes)
        assert reader.stop() == 0, reader.err()
        for line in reader.err().splitlines()[:3]:
            say(line)
        events, lost, lives = check_records(js)
        say(f'{attempts} records tried, {done} done: {events} read, {lost}')
        told = events + sum(lost[k] for k in KINDS)
        assert done <= told <= attempts, told
        assert lost['corrupt'] == 0 and events > done / 10
        assert lost['unfinished'] >= holes and lost['uncommitted_bytes'] >= 48 * holes
        assert lives == set(range(LIVES))
        died = re.findall(r'died; (\d+) events and (\d+) bytes are unfinished', reader.err())
        assert sum(int(x) for x, _ in died) == lost['unfinished'], died
        assert sum(int(x) for _, x in died) == lost['uncommitted_bytes'], died
        assert 'unfinished' in open(text, encoding='utf-8').read()
        # The same from the capture, and as many in CTF.
        again = replay(f'{d}/raw', '--view', 'summary')
        replay(f'{d}/raw', '-o', f'json:{js}2')
        with open(js, encoding='utf-8') as a, open(js + '2', encoding='utf-8') as b:
            assert a.read() == b.read(), 'the capture is not what was live'
        for line in again.splitlines():
            if re.match('lost|uncommitted', line):
                say(line)
        assert f'unfinished {lost["unfinished"]}, ' in again
        assert re.search(rf'^uncommitted +{lost["uncommitted_bytes"]} bytes', again, re.M)
        ctf = subprocess.run(['babeltrace2', f'{d}/ctf'], check=True, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
        assert len(re.findall('^.* record: ', ctf.stdout, re.M)) == events
        discarded = sum(map(int, re.findall(r'discarded (\d+) event', ctf.stderr)))
        assert discarded == sum(lost[k] for k in KINDS), (discarded, ctf.stderr[:500])
    finally:
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(d)

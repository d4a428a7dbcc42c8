# SPDX-License-Identifier: LGPL-2.1-or-later
"""bench/run: every benchmark runs, and what it measures by arrives whole. Times are not looked at."""

import json
import math
import os
import subprocess
import tempfile

from harness import params, say
from vm import BUILD, TOP

# What has to be there, by benchmark: cases, and the number of lines if all peers are installed.
EXPECTED = {
    'latency': ({'cache line', 'ring, spin', 'ring, adaptive', 'ring, timer:50', 'eventfd', 'pipe',
                 'UNIX socket'}, 7 * (3 * 4 + 2)),
    'push': ({'htrace', 'htrace single', 'ck_ring spsc', 'ck_ring mpsc', 'rte_ring spsc', 'rte_ring mpsc',
              'LTTng-UST'}, 2 * 3 * (6 + 4 + 3) + 2),
}


def run(*args, status=0):
    """(table, JSON)"""
    with tempfile.NamedTemporaryFile(dir='/dev/shm') as out:
        r = subprocess.run([os.path.join(TOP, 'bench', 'run'), '--build', BUILD, '--quick', '--json', out.name, *args],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert r.returncode == status, f'exit {r.returncode}\n{r.stdout}\n{r.stderr}'
        return r.stdout, json.load(out), r.stderr


@params('latency', 'push')
def test_runs(name):
    cases, lines = EXPECTED[name]
    table, results, _ = run(name)
    for line in results['results']:
        where = f'{line["case"]} {line["params"]}'
        assert line['bench'] == name and line['unit'] == 'ns' and line['checked'] is True, where
        assert line['rounds'] and all(math.isfinite(x) for x in line['rounds']), where
        assert line['min'] <= line['median'] <= line['max'], where
        # clocks of two cores are compared, so a message may seem to come early by what that is off
        assert line['min'] > (-1000 if name == 'latency' else 0), f'{where}: {line["rounds"]}'
    keys = [json.dumps([x['case'], x['params']]) for x in results['results'] + results['skipped']]
    assert len(set(keys)) == len(keys)
    assert {x['case'] for x in results['results'] + results['skipped']} == cases, table
    assert len(keys) == lines, f'{len(keys)} lines\n{table}'
    # all peers are packages that tools/install-deps.sh --tests installs; LTTng's daemon may not keep up
    for line in results['skipped']:
        assert line['case'] == 'LTTng-UST' and 'too busy' in line['skipped'], line
        say(f'{line["case"]}: {line["skipped"]}')
    assert results['limits'] and all(isinstance(x['met'], bool) and x['ratio'] > 0 for x in results['limits'])
    assert results['machine']['cpus'] == os.cpu_count()
    for line in table.splitlines()[1:3]:
        say(line)
    say(f'{len(results["results"])} cases, {len(results["limits"])} limits compared')


def test_refuses():
    """Names, and what a benchmark prints, are checked."""
    r = subprocess.run([os.path.join(TOP, 'bench', 'run'), 'nonsense'], stderr=subprocess.PIPE, text=True, check=False)
    assert r.returncode == 2 and "no benchmark 'nonsense'; there are: latency, push" in r.stderr, r.stderr
    good = {'bench': 'latency', 'case': 'x', 'params': {}, 'unit': 'ns', 'rounds': [1.0], 'checked': True}
    for change, status, says in [
            ({}, 0, ''),
            ({'skipped': 'no such thing'}, 0, ''),
            ({'checked': False, 'error': 'a number'}, 1, 'what was received is not what was sent: a number'),
            ({'rounds': []}, 1, 'no rounds'),
            (None, 1, 'not a line of JSON'),
            ('exit', 1, 'ended with status 3')]:
        with tempfile.TemporaryDirectory() as build:
            os.mkdir(build + '/bench')
            line = 'oops' if change is None else json.dumps(good | (change if isinstance(change, dict) else {}))
            with open(build + '/bench/latency', 'w', encoding='utf-8') as f:
                f.write(f"#!/bin/sh\necho '{line}'\nexit {3 if change == 'exit' else 0}\n")
            os.chmod(build + '/bench/latency', 0o755)
            table, results, err = run('--build', build, 'latency', status=status)
            assert says in err, err
            if not status:
                assert ('skipped: no such thing' in table) == ('skipped' in change), table
    table, _, _ = run('--build', '/nonexistent', 'latency')
    assert 'skipped: latency is not in /nonexistent/bench' in table, table

# SPDX-License-Identifier: LGPL-2.1-or-later
"""-o metrics:FILE, read by the Prometheus client's own parsers, of both of its formats."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from guestlike import Stage
from harness import say
from test_view import capture
from vm import READER, Reader

sys.path.append('/usr/lib/python3/dist-packages')  # Debian's, whatever python3 this is
from prometheus_client import parser as prometheus  # noqa: E402
from prometheus_client.openmetrics import parser as openmetrics  # noqa: E402


def read(path):
    """{sample's name: {labels: value}}, the same by both parsers; and the types."""
    with open(path, encoding='utf-8') as f:
        text = f.read()
    found, types = {}, {}
    for family in openmetrics.text_string_to_metric_families(text):
        types[family.name] = family.type
        for s in family.samples:
            of = found.setdefault(s.name, {})
            key = tuple(sorted(s.labels.items()))
            assert key not in of, f'{s.name}{key} is there twice'
            of[key] = s.value
    assert set(types.values()) <= {'counter', 'gauge'}  # a node exporter refuses the file for others
    plain = {}
    for family in prometheus.text_string_to_metric_families(text):
        for s in family.samples:
            plain.setdefault(s.name, {})[tuple(sorted(s.labels.items()))] = s.value
    assert plain == found
    return found, types


def of(samples, **labels):
    """The one value with these labels."""
    values = [v for key, v in samples.items() if labels.items() <= dict(key).items()]
    assert len(values) == 1, (labels, samples)
    return values[0]


def wait_until(path, condition, seconds=20):
    end = time.time() + seconds
    while True:
        if os.path.exists(path):
            found, _ = read(path)  # always whole
            if condition(found):
                return found
        assert time.time() < end, open(path, encoding='utf-8').read()
        time.sleep(0.05)


def check_summary(source, text):
    """What --view summary:json has of a source is what the summary says in words."""
    said = text.split(f'--- summary of {source["source"]} ---\n', 1)[1].split('--- summary of', 1)[0]
    names = re.findall(r'^(\S+) +(\d+) +[\d.]+ % +[\d.]+ +([\d.]+)$', said, re.M)
    events = [(e['event'], str(e['count']), f"{e['bytes'] / e['count']:.2f}") for e in source['events']]
    assert events == names[:-1] and sum(e['count'] for e in source['events']) == int(names[-1][1]) == source['received']
    rings = re.findall(r'^(\d+) +(\d+) +[\d.]+ +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$', said, re.M)
    keys = 'cpu', 'received', 'bytes', 'overwritten', 'dropped', 'corrupt', 'unverified'
    assert [tuple(str(r[k]) for k in keys) for r in source['rings']] == rings, (source['rings'], said)
    for line in ('received    {received}\n', 'order       {late} late in the merge, {backwards} backwards in',
                 'lost        {lost} (overwritten {overwritten}, dropped {dropped}, corrupt {corrupt}, '
                 'skipped {skipped})\n',
                 'before      {before} events were gone', f"duration    {source['attached_ns'] / 1e9:.3f} s attached",
                 '{buffer[policy]}, {buffer[nr_rings]} rings of ', '{hostname}, kernel {kernel}, {nr_cpus} CPUs\n'):
        assert line.format(**source) in said, (line.format(**source), said)
    return source


def read_pages(path):
    """Pages of --view summary:json."""
    with open(path, encoding='ascii') as f:
        pages = [json.loads(line) for line in f]
    assert all(page['view'] == 'summary' for page in pages)
    return pages


def check_pages(pages):
    """That followed one another while two sources were read: what they count does not fall."""
    assert len(pages) > 5
    for i in range(2):
        sources = [page['sources'][i] for page in pages]
        for key in ('received', 'lost', 'attached_ns', 'sessions', 'bytes'):
            assert sorted(s[key] for s in sources) == [s[key] for s in sources], key
        assert any(s['agent']['state'] == 'running' and s['state'] == 'reading' and s['received'] and
                   sum(e['count'] for e in s['events'] if e['event'] == 'counted') == s['received'] and
                   s['attached_ns'] > 1e8
                   for s in sources if s['sessions'])
        assert sources[-1]['agent']['state'] == 'closed' and sources[-1]['state'] == 'waiting'
        assert sources[-1]['backlog_bytes'] == 0


def check_capture(raw, live):
    """The same of a capture, but for what is of the reader itself."""
    run = subprocess.run([READER, '--view', 'summary:json', 'file:' + raw], check=True, stdin=subprocess.DEVNULL,
                         capture_output=True, text=True)
    page, = map(json.loads, run.stdout.splitlines())
    same = ('sessions', 'attached_ns', 'hostname', 'kernel', 'nr_cpus', 'placement', 'buffer', 'agent', 'received',
            'unverified', 'bytes', 'lost', 'overwritten', 'dropped', 'corrupt', 'unfinished', 'skipped', 'programs',
            'before', 'unread_bytes', 'backwards', 'events', 'rings')
    for was, again in zip(live['sources'], page['sources'], strict=True):
        assert again['kind'] == 'file' and again['state'] == 'done' and again['path'] == raw and 'sync' not in again
        assert [was[key] for key in same] == [again[key] for key in same], (was, again)


def test_numbers():
    """
    Of two sources: events by name, loss by reason, sessions: the same as the JSON output and the summary have; the
    summary as JSON has them, too, while they are read and at the end, and of their capture.
    """
    with Stage() as stage:
        first, second = stage.guest('a"b\\c\nd'), stage.guest('two', kib=64)
        path, out, page, raw = (stage.path(name) for name in ('htrace.prom', 'json', 'page', 'raw'))
        name = '/'.join((stage.dir, 'a\\x22b\\x5cc\\x0ad'))
        reader = Reader('local:' + first.path, '-o', f'metrics:{path}', '-o', 'json:' + out, '--stats', '0.2',
                        'local:' + second.path, '--view', 'summary:json', '-o', 'text:' + page, '-o', 'raw:' + raw)
        wait_until(path, lambda f: list(f['htrace_reading'].values()) == [1, 1])
        first.do('w 0 1000')
        first.do('w 1 500')
        wait_until(path, lambda f: of(f.get('htrace_events_total', {(('source', name), ('event', 'counted')): 0}),
                                      source=name, event='counted') == 1500)
        reader.signal(signal.SIGSTOP)
        second.do('w 0 20000')
        reader.signal(signal.SIGCONT)
        time.sleep(1)
        first.close()
        second.close()
        reader.wait_for('ended the session', count=2)
        assert reader.stop() == 0, reader.err()
        found, types = read(path)
        say(json.dumps({n: list(v.values()) for n, v in found.items()}))
        assert types['htrace_events'] == types['htrace_lost'] == 'counter' and types['htrace_build_info'] == 'gauge'
        pages = read_pages(page)
        check_pages(pages)
        shown = {s['source']: check_summary(s, reader.err()) for s in pages[-1]['sources']}
        check_capture(raw, pages[-1])
        with open(out, encoding='ascii') as f:
            events = [item for item in map(json.loads, f) if 'fields' in item]
        for source in (name, second.path):
            its = [e for e in events if e['source'] == (first.path if source is name else source)]
            assert shown[source]['received'] == len(its) and shown[source]['sessions'] == 1
            assert shown[source]['events'] == [{'event': 'counted', 'count': len(its), 'bytes': shown[source]['bytes']}]
            assert of(found['htrace_events_total'], source=source) == len(its) > 0
            assert of(found['htrace_sessions_total'], source=source) == 1
            assert of(found['htrace_reading'], source=source) == 0
            assert of(found['htrace_lost_total'], source=source, reason='dropped') == 0
        lost = of(found['htrace_lost_total'], source=second.path, reason='overwritten')
        assert lost == shown[second.path]['lost'] == shown[second.path]['overwritten']
        assert lost == 20000 - of(found['htrace_events_total'], source=second.path) > 0
        assert re.search(rf'^lost +{int(lost)} ', reader.err(), re.M), reader.err()
        assert sorted(n for n in os.listdir(stage.dir) if 'prom' in n) == ['htrace.prom']
        assert os.stat(path).st_mode & 0o777 == 0o644


# As test_view has them: an exit during which its thread could have run for 8 us, one by itself, one with an odd reason.
HOST = """\
0 1000000 entry 70 71 0
0 1010000 exit 70 71 0 0x1000c 0x10
0 1011000 out 70 71 0 0x100
0 1019000 in 70 71 0
0 1020000 entry 70 71 0
0 1060000 whole 70 71 0 0x1001e 0x7c00 2500
1 1060500 exit 80 81 1 0x7777 0x20
1 1061500 entry 80 81 1
1 1062000 exit 80 81 1 0x7777 0x20
1 1062500 entry 80 81 1
"""


def test_exits():
    """Of a host's capture: exits by process and reason, their time, and steal."""
    with Stage() as stage:
        source, path = capture(stage.dir, HOST.splitlines(), 2), stage.path('x.prom')
        subprocess.run([READER, '-o', f'metrics:{path}', source], check=True, stderr=subprocess.DEVNULL)
        found, types = read(path)
        say(json.dumps({n: [[dict(k), v] for k, v in f.items()] for n, f in found.items() if 'exit' in n or 'steal' in n}))
        for pid, reason, code, nr, ns in (('70', 'HLT', '0x1000c', 1, 10000), ('70', 'IO_INSTRUCTION', '0x1001e', 1, 2500),
                                          ('80', '0x7777', '0x7777', 2, 1500)):
            assert of(found['htrace_exits_total'], pid=pid, reason=reason, code=code) == nr
            assert abs(of(found['htrace_exit_seconds_total'], pid=pid, code=code) - ns / 1e9) < 1e-12
        assert len(found['htrace_exits_total']) == 3
        assert of(found['htrace_steal_seconds_total'], pid='70', vcpu='0', thread='71') == 8e-06
        assert of(found['htrace_steal_seconds_total'], pid='80', vcpu='1') == 0
        assert types['htrace_steal_seconds'] == 'counter'


def test_refused():
    """No directory, or no file: said at the start."""
    with Stage() as stage:
        guest = stage.guest()
        for path, text in ((stage.path('none/x.prom'), 'No such file'), (stage.dir + '/', 'Is a directory'),
                           (stage.dir, 'File exists')):
            run = subprocess.run([READER, '-o', f'metrics:{path}', '--duration', '0.1', 'local:' + guest.path],
                                 stdin=subprocess.DEVNULL, capture_output=True, text=True)
            assert run.returncode == 1 and text in run.stderr, (path, run.stderr)


def test_directory_goes():
    """While its directory is gone that is said once; the reader goes on, and so does the file where it was moved."""
    with Stage() as stage:
        guest = stage.guest()
        path, moved = stage.path('there'), stage.path('moved')
        os.mkdir(path)
        reader = stage.reader('-o', f'metrics:{path}/x.prom', '--stats', '0.1')
        wait_until(path + '/x.prom', lambda f: list(f['htrace_reading'].values()) == [1])
        os.rename(path, moved)
        os.unlink(moved + '/x.prom')
        wait_until(moved + '/x.prom', lambda f: True)
        shutil.rmtree(moved)
        reader.wait_for('cannot write metrics to .*/there/x.prom: No such file or directory; trying again')
        guest.do('w 0 10')
        time.sleep(1)
        assert reader.err().count('cannot write metrics') == 1
        guest.close()
        reader.wait_for('ended the session')
        assert reader.stop() == 1 and re.search(r'^received +10$', reader.err(), re.M), reader.err()

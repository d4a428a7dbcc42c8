# SPDX-License-Identifier: LGPL-2.1-or-later
"""A tracer that gives everything a hostile name: none reaches a terminal, a path or a trace's syntax."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time

import pftext
from harness import Skip, params, say
from vm import BUILD, READER

EVIL = os.path.join(BUILD, 'tests', 'evil')
SIZE = 8 << 20
PLAIN = set(range(0x20, 0x7f)) | {0x0a}
TEXTS = {
    'terminal': b'\x1b[2J\x1b]0;x\x07',
    'path': b'../../x',
    'syntax': b'"};\n}/*\\ \'a\r\t',
    'bytes': b'%s%n\xff\xc2\x9b\xe2\x80\xae~\x7f',
}
VIEWS = 'boot', 'boot:json', 'functions', 'functions:graph', 'functions:folded', 'functions:json', 'summary:json'
# A line of metrics, without what would end a label.
SERIES = r'(# [ -~]*|\w+(\{(\w+="[^"\\]*(\\\\[^"\\]*)*",?)*\})? [-+0-9.eInf]+( [0-9.]+)?)?'
SHOWN = {'terminal': r'\x1b[2J', 'path': '../../x', 'syntax': r'\x22};\x0a}/*', 'bytes': r'%s%n\xff\xc2\x9b'}


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def all_files(top):
    return sorted(os.path.relpath(os.path.join(d, f), top) for d, dirs, files in os.walk(top)
                  for f in [*files, *dirs])


def check_plain(data, what, also=b''):
    bad = set(data) - PLAIN - set(also)
    assert not bad, f'{what}: bytes {sorted(bad)}: {data[:300]}'


def check_strings(packet, what):
    for values in packet.values():
        for value in values:
            if isinstance(value, str):
                check_plain(value.encode('latin-1'), what)
            elif not isinstance(value, (int, bool)):
                check_strings(value, what)


def babeltrace(path):
    run = subprocess.run(['babeltrace2', path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout


class Place:
    """A directory that a reader runs in, two levels down, with all that it can write to."""

    def __init__(self):
        self.top = tempfile.mkdtemp(prefix='htrace-strings-', dir='/dev/shm')
        self.work = os.path.join(self.top, 'a', 'b')
        os.makedirs(self.work)
        self.peer = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.peer:
            self.peer.kill()
            self.peer.wait()
        shutil.rmtree(self.top, ignore_errors=True)

    def start(self, what, text):
        self.peer = subprocess.Popen([EVIL, 'region', what, text], cwd=self.work)
        end = time.time() + 10
        region = os.path.join(self.work, 'region')
        while time.time() < end and not (os.path.exists(region) and os.path.getsize(region) == SIZE):
            time.sleep(0.01)

    def reader(self, *args):
        run = subprocess.run([READER, *args], cwd=self.work, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, check=False, timeout=60)
        assert run.returncode == 0, (run.returncode, run.stderr[-2000:])
        check_plain(run.stdout, args)
        check_plain(run.stderr, args)
        return run

    def path(self, name):
        return os.path.join(self.work, name)


def check_outputs(place):
    """Of all kinds, and what comes of a capture later."""
    live = place.reader('--duration', '1.2', '--stats', '0.5', '-o', 'text:text', '-o', 'json:json', '-o', 'ctf:ctf',
                        '-o', 'raw:raw', '-o', 'perfetto:pf', '-o', 'metrics:metrics', 'local:region')
    later = place.reader('file:raw')
    place.reader('--view', 'summary', 'file:raw')
    views = {view: place.reader('--view', view, 'file:raw').stdout.decode('ascii') for view in VIEWS}
    for view in ('functions:json', 'boot:json', 'summary:json'):
        json.loads(views[view])
    for line in read(place.path('metrics')).decode('latin-1').split('\n'):
        assert re.fullmatch(SERIES, line), f'metrics: {line}'
    text = read(place.path('text'))
    check_plain(text, 'text')
    assert later.stdout == text, 'a capture shows something else'
    check_plain(read(place.path('json')), 'json')
    for line in read(place.path('json')).splitlines():
        json.loads(line)
    for packet in pftext.packets(read(place.path('pf'))):
        check_strings(packet, 'perfetto')
    found = all_files(place.top)
    for name in found:
        assert re.fullmatch(r'[A-Za-z0-9._/-]+', name) and name.startswith('a'), name
        assert name in ('a', 'a/b') or re.match(r'a/b/(region|text|json|pf|metrics|(ctf|raw)(/|$))', name), f'{name} was made'
        if os.path.basename(name) == 'metadata':
            check_plain(read(os.path.join(place.top, name)), name, b'\t')
    check_plain(babeltrace(place.path('ctf')), 'babeltrace2 ctf')
    # A capture's records are the guest's bytes; which of them babeltrace2 shows as they are is its own choice.
    check_plain(babeltrace(place.path('raw')), 'babeltrace2 raw', bytes(range(0x80, 0x100)))
    return live, text.decode('ascii'), views


@params(*TEXTS)
def test_texts(name):
    """Tasks, functions, files, programs, the guest itself, and what records say."""
    if not os.path.exists(EVIL):
        raise Skip('built without zlib')
    with Place() as place:
        place.start('texts', TEXTS[name])
        live, text, views = check_outputs(place)
        shown = SHOWN[name]
        for where, lines in (('a task', rf'-4711 +event_name'), ('a record', 'field_name'), ('a function', r'\+0x10'),
                             ('skipped calls', 'calls of')):
            assert any(shown[:6] in line and re.search(lines, line) for line in text.splitlines()), \
                f'{where} has no {shown}:\n{text[:2000]}'
        assert shown in live.stderr.decode('ascii').split('--- summary', 1)[1].split('placement', 1)[0], live.stderr
        source = json.loads(views['summary:json'])['sources'][0]
        for said in (source['hostname'], source['skipped_by'][0]['program']):
            assert said.encode('utf-8', 'surrogateescape')[:4] == TEXTS[name][:4], (said, TEXTS[name])
        assert views['boot'].count(shown[:6]) >= 4, \
            f'no level, function, module or program {shown}:\n{views["boot"]}'
        for kind, key in (('levels', 'level'), ('initcalls', 'function'), ('modules', 'module'), ('programs', 'path')):
            found = [step[key] for step in json.loads(views['boot:json'])[kind]]
            assert found and all(name.startswith(shown[:6]) for name in found), (kind, found, shown)
        assert 'value_name' in views['functions'] and 'value_name' in views['functions:folded'], views['functions']
        say([line for line in text.splitlines() if 'field_name' in line][3])


@params('event', 'field', 'type', 'value')
def test_names(what):
    """Names of the schema's have letters, digits and _ only: one that has others is refused as a whole."""
    if not os.path.exists(EVIL):
        raise Skip('built without zlib')
    name = list(TEXTS)[['event', 'field', 'type', 'value'].index(what)]
    with Place() as place:
        place.start(what, TEXTS[name])
        live, shown, views = check_outputs(place)
        assert 'is not allowed' in live.stderr.decode('ascii'), live.stderr
        assert SHOWN[name] not in shown, shown[:1000]
        for view in VIEWS:
            assert SHOWN[name] not in views[view], (view, views[view][:1000])

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Captures without a copy: the same as those with one, whatever happens to disk, reader and trust."""

import contextlib
import ctypes
import itertools
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time

from harness import no_landlock, params, say
from vm import BUILD, COUNTED, READER, VM, Reader

FLOOD = os.path.join(BUILD, 'tests', 'flood')
HEADER, TAIL, BATCH = 80, 72, 32
IO_URING_SETUP = 425


@contextlib.contextmanager
def directory():
    d = tempfile.mkdtemp(prefix='htrace-lend-', dir='/dev/shm')
    try:
        yield d
    finally:
        if os.path.ismount(d + '/small'):
            subprocess.run(['umount', d + '/small'], check=True)
        if not os.environ.get('HTRACE_KEEP'):
            shutil.rmtree(d)


def flood(region, policy, ring, threads, records, payload, mode, rate=0):
    return subprocess.Popen([FLOOD, region, policy, str(ring), '0', str(threads), str(records),
                             str(payload), str(rate), mode], stdout=subprocess.PIPE, text=True)


def wait_for_regions(d, *names):
    while not all(os.path.exists(f'{d}/{name}') for name in names):
        time.sleep(0.01)
    time.sleep(0.1)


def no_io_uring():
    """In the child: the system call is refused, as by a container's seccomp."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, IO_URING_SETUP), (6, 0, 0, 0x50000 | 1), (6, 0, 0, 0x7fff0000)]
    text = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *c) for c in code))
    program = ctypes.create_string_buffer(struct.pack('HxxxxxxP', len(code), ctypes.addressof(text)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0


def capture(source, path, *args, status=0, **how):
    """Until there is nothing more: what it said."""
    run = subprocess.run([READER, source, '-o', f'raw:{path}', *args], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False, timeout=120, **how)
    assert run.returncode == status, (run.returncode, run.stderr[-3000:])
    return run.stderr


def capture_of(producer, source, path, *args, **how):
    """Until @producer has ended, and all that it wrote is there: what each said."""
    with subprocess.Popen([READER, source, '-o', f'raw:{path}', *args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True, **how) as reader:
        made = producer.communicate(timeout=120)[0]
        time.sleep(0.5)
        reader.send_signal(signal.SIGINT)
        said = reader.communicate(timeout=120)[1]
    assert producer.returncode == 0 and reader.returncode == 0, (producer.returncode, reader.returncode, said[-3000:])
    return made, said


def option(way):
    return ',direct' if way == 'direct' else ''


def number(name, said):
    return int(re.search(rf'\n{name} +(\d+)', said)[1])


def babeltrace(path):
    run = subprocess.run(['babeltrace2', '--clock-cycles', '--no-delta', path], check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lost = sum(int(n) for n in re.findall(r'discarded (\d+) events?', run.stderr))
    assert all('discarded' in line for line in run.stderr.splitlines()), run.stderr[:2000]
    return run.stdout, lost


RECORD = re.compile(r'ring = (\d+) \}, \{ seq = (\d+), check = (\d+), rest = \[(.*?)\] \}')
REST = [', '.join(f' [{i}] = %d' for i in range(nr)).replace(',  ', ', ') + ' ' for nr in range(8)]


def records(path, fixed=0):
    """{ring: [seq]} by babeltrace2, of records whose fields are what flood writes, @fixed: words of the rest."""
    rings = {}
    for m in RECORD.finditer(babeltrace(path)[0]):
        seq = int(m[2])
        nr = fixed or seq % 7
        assert int(m[3]) == seq * 0x9e3779b97f4a7c15 % 2**64 and m[4] == REST[nr] % tuple(range(seq + 2, seq + 2 + nr)), m[0]
        rings.setdefault(int(m[1]), []).append(seq)
    return rings


def packets(path):
    """Sizes of bodies of each packet of a stream, whose packets must follow each other to its end."""
    with open(path, 'rb') as f:
        data = f.read()
    at, seq, lost, bodies = 0, 0, 0, []
    while at < len(data):
        magic, = struct.unpack_from('<I', data, at)
        content, size, nr, discarded = struct.unpack_from('<4Q', data, at + 40)
        assert magic == 0xc1fc1fc1 and nr == seq and discarded >= lost, (path, at)
        assert HEADER * 8 <= content <= size - 8 * (TAIL + BATCH) and at + size // 8 <= len(data), (path, at)
        bodies.append((content + 7) // 8 - HEADER)
        at, seq, lost = at + size // 8, seq + 1, discarded
    return bodies


def streams(path):
    d = os.path.join(path, 'source1-session1')
    return [os.path.join(d, name) for name in sorted(os.listdir(d)) if name.startswith('ring')]


@params('discard', 'overwrite', 'fixed')
def test_same(policy):
    """The same ring, read with a copy, without one (fixed: without a look), and where io_uring is refused."""
    fixed = policy == 'fixed'
    with directory() as d, tempfile.TemporaryDirectory(prefix='htrace-lend-', dir=BUILD) as disk:
        with flood(d + '/region', 'discard' if fixed else policy, 1 << 22, 2, 150000, 48 * fixed, 'fill') as f:
            f.communicate()
        ways = {'copied': ('', (), {}), 'not trusted': (',trusted', ('--copy',), {}),
                'lent': (',trusted', (), {}), 'refused': (',trusted', (), {'preexec_fn': no_io_uring}),
                'direct': (',trusted', (), {}), 'direct refused': (',trusted', (), {'preexec_fn': no_io_uring})}
        shown = {}
        for name, (suffix, args, how) in ways.items():
            shutil.copy(d + '/region', d + '/copy')
            raw, direct = f'{disk}/{name}', 'direct' in name
            said = capture(f'local:{d}/copy{suffix}', raw + ',direct' * direct, '--duration', '0.7', *args, **how)
            assert ('without a copy' in said) == (not 'cop' in name and name != 'not trusted'), said
            assert ('io_uring' in said) == (name in ('lent', 'direct')), said
            assert ('past the page cache' in said) == direct and 'the usual way' not in said, said
            for p in streams(raw): # what was reserved on the disk is given back
                assert os.stat(p).st_blocks * 512 < os.path.getsize(p) + 65536, (p, os.stat(p))
            if direct: # bodies begin with pages; they are not files' whose packets have no padding
                assert all(os.path.getsize(p) % 4096 == 4096 - HEADER for p in streams(raw)), raw
            unseen = re.search(r'not looked at\) +(\d+)', said)
            assert (int(unseen[1]) > 50000 if fixed and suffix and not args else not unseen), said
            json = f'{d}/json'
            subprocess.run([READER, f'file:{raw}', '-o', f'json:{json}'], check=True,
                           stderr=subprocess.DEVNULL)
            with open(json, encoding='ascii') as f:
                # In another order if a pass took so long that what had come went out before the rest.
                shown[name] = babeltrace(raw) + (sorted(f), number('received', said))
        for name in ways:
            assert shown[name] == shown['copied'], name
        say(f'{shown["lent"][3]} events, the same in {len(ways)} ways, by babeltrace2 and file:')


@params('lent', 'fixed', 'copied', 'refused')
def test_live(way):
    """Producers that fill the rings all the time: all of it is there, once, in order."""
    words = 2 * (way == 'fixed')
    with directory() as d:
        suffix, how = '' if way == 'copied' else ',trusted', {}
        if way == 'refused':
            how['preexec_fn'] = no_io_uring
        with flood(d + '/region', 'discard', 1 << 20, 2, 400000, 16 * words, 'live') as f:
            wait_for_regions(d, 'region')
            made, said = capture_of(f, f'local:{d}/region{suffix}', d + '/raw', **how)
        _, refused = map(int, made.split())
        assert number('received', said) == 800000 and number('lost', said) == refused, said
        rings = records(d + '/raw', words)
        assert {r: list(range(400000)) for r in (0, 1)} == rings, {r: len(x) for r, x in rings.items()}
        sizes = list(itertools.chain(*map(packets, streams(d + '/raw'))))
        say(f'{len(sizes)} packets, {sum(s > 60000 for s in sizes)} of whole blocks')


@params('lent', 'direct')
def test_overrun(way):
    """Overwrite, and producers that are faster: what is told as read is right, what was lapped is counted."""
    each = 600000 if way == 'direct' else 2000000
    with directory() as d:
        with flood(d + '/region', 'overwrite', 1 << 20, 2, each, 0, 'live') as f:
            wait_for_regions(d, 'region')
            _, said = capture_of(f, f'local:{d}/region,trusted', d + '/raw' + option(way))
        received, lost = number('received', said), number('lost', said)
        assert received + lost == 2 * each and lost, said
        rings = records(d + '/raw')
        assert sum(map(len, rings.values())) == received
        for seqs in rings.values():
            assert all(a < b for a, b in zip(seqs, seqs[1:]))
            assert seqs[-1] == each - 1
        again = subprocess.run([READER, f'file:{d}/raw', '--view', 'summary'], check=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True).stdout
        assert number('received', again) == received and number('lost', again) == lost, again
        empty = sum(s == 0 for p in streams(d + '/raw') for s in packets(p))
        assert empty or way == 'copied', 'nothing was lapped while it was written'
        say(f'{received} received, {lost} lost; {empty} packets without records')


def test_scribbled():
    """Trust that was misplaced: bytes change while they are written. The packets are packets."""
    with directory() as d:
        with flood(d + '/region', 'discard', 1 << 20, 2, 300000, 0, 'scribble') as f:
            wait_for_regions(d, 'region')
            try:
                capture(f'local:{d}/region,trusted', d + '/raw', '--duration', '5')
            finally:
                f.kill() # its rings may be broken, and wait for room for ever
        sizes = [packets(p) for p in streams(d + '/raw') if '.odd' not in p]
        run = subprocess.run([READER, f'file:{d}/raw', '-o', 'json:/dev/null'], stderr=subprocess.PIPE,
                             text=True, check=False, timeout=60)
        assert run.returncode in (0, 1), run
        assert number('received', run.stderr) > 0, run.stderr
        say(f'{sum(map(len, sizes))} packets; read back: {number("received", run.stderr)} events')


@params('lent', 'copied', 'direct')
def test_full_disk(way):
    """What does not fit stays in the rings, for the next reader: nothing is missing, and nothing comes again."""
    with directory() as d:
        os.mkdir(d + '/small')
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=3m', 'none', d + '/small'], check=True)
        with flood(d + '/region', 'discard', 1 << 22, 1, 80000, 0, 'fill') as f:
            f.communicate()
        source = f'local:{d}/region' + (',trusted' if way != 'copied' else '')
        said = capture(source, d + '/small/raw' + option(way), '--duration', '1', status=1)
        assert 'cannot write to' in said and 'No space left on device' in said, said
        rest = capture(source, d + '/rest', '--duration', '1')
        first, second = records(d + '/small/raw')[0], records(d + '/rest')[0]
        assert first == list(range(len(first))), len(first)
        assert second == list(range(len(first), 80000)), (len(first), second[0])
        assert number('received', said) >= len(first) > 0 and number('received', rest) == len(second)
        say(f'{len(first)} events in 3 MiB, {len(second)} read by the next reader')


KILLS, EACH = 6, 100000
WHOLE = 4 # of them babeltrace2 reads as they are, at least: killed within a write(2) is one of some hundred


def as_it_is(d):
    """Does babeltrace2 read what is left? How many events are in it?"""
    subprocess.run([READER, f'file:{d}/first', '-o', f'raw:{d}/whole'], check=True, stderr=subprocess.DEVNULL)
    nr = babeltrace(d + '/whole')[0].count('\n')
    run = subprocess.run(['babeltrace2', d + '/first'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    # It finds the same then, and nothing of what was not confirmed.
    assert run.returncode or run.stdout.count('\n') == nr, (run.stdout.count('\n'), nr)
    return not run.returncode, nr


@params('lent discard', 'lent overwrite', 'copied discard', 'direct discard', 'direct overwrite')
def test_killed(case):
    """
    SIGKILL: what is in the first capture can be read, and the next reader goes on. Under discard nothing is missing
    between the two: also what was copied, and held back to be put together, was not said to be consumed before it was
    written. And, of some more kills, how often babeltrace2 reads what is left as it is.
    """
    way, policy = case.split()
    trusted = ',trusted' if way != 'copied' else ''
    read = []
    for i in range(KILLS):
        with directory() as d, flood(d + '/region', policy, 1 << 20, 2, EACH, 48, 'live', 200000) as f:
            wait_for_regions(d, 'region')
            source = f'local:{d}/region{trusted}'
            with subprocess.Popen([READER, source, '-o', f'raw:{d}/first' + option(way)], stderr=subprocess.DEVNULL) as reader:
                time.sleep(0.15 + 0.037 * i)
                reader.send_signal(signal.SIGKILL)
            if i:
                f.kill()
                read.append(as_it_is(d))
                continue
            said = capture(source, d + '/second', '--duration', '2')
            assert f.wait() == 0
            read.append(as_it_is(d))
            first, second = records(d + '/whole', 4), records(d + '/second', 4)
        for ring in 0, 1:
            head, tail = first.get(ring, []), second[ring]
            for seqs in head, tail: # one after the other, each once
                assert all(x < y for x, y in zip(seqs, seqs[1:])), ring
            if policy == 'discard':
                assert head == list(range(len(head))) and tail == list(range(tail[0], EACH))
                assert tail[0] <= len(head), (ring, len(head), tail[0])
        if policy == 'overwrite': # what was there still comes again, the rest is counted
            told = number('received', said), number('lost', said), number('before', said)
            assert sum(told) == 2 * EACH and told[0] == sum(map(len, second.values())), said
        say(f'{sum(map(len, first.values()))} events by the one that was killed, {sum(map(len, second.values()))} by the next')
    whole = sum(ok for ok, _ in read)
    say(f'babeltrace2 reads {whole} of {KILLS} captures as they are, with {sum(n for _, n in read)} events')
    assert whole >= WHOLE and sum(n for ok, n in read if ok), read


def size_of(path):
    return sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(path) for f in files)


def most_bytes(path, reader, enough=lambda: False):
    """Of all files together, at any time until the reader ends; which it is told to when there is enough."""
    most, told = 0, False
    while reader.poll() is None:
        if not told and enough():
            reader.send_signal(signal.SIGINT)
            told = True
        with contextlib.suppress(FileNotFoundError):
            most = max(most, size_of(path))
        time.sleep(0.02)
    return most


def read_file(path):
    """What file: says at the end; there must be nothing wrong with it."""
    run = subprocess.run([READER, f'file:{path}', '--view', 'summary'], check=True, stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True)
    assert 'no end' not in run.stderr and 'missing' not in run.stderr, run.stderr
    return run.stdout


@params('lent', 'copied', 'direct')
def test_rotated(way):
    """Parts by size within what is kept: always, each readable by itself, the latest without a gap."""
    with directory() as d:
        with flood(d + '/region', 'discard', 1 << 20, 2, 400000, 0, 'live', 150000) as f:
            wait_for_regions(d, 'region')
            source = f'local:{d}/region' + (',trusted' if way != 'copied' else '')
            output = f'raw:{d}/raw,rotate=4M,keep=12M' + option(way)
            with subprocess.Popen([READER, source, '-o', output, '--duration', '5', '--stats', '1'],
                                  stderr=subprocess.PIPE, text=True) as reader:
                most = most_bytes(d + '/raw', reader)
                said = reader.stderr.read()
            assert reader.returncode == 0 and number('received', said) == 800000, said
            assert no_landlock() or 'files: those of the outputs (Landlock' in said, said
            f.wait()
        parts = sorted(os.listdir(d + '/raw'), key=lambda name: int(name.split('.')[1]))
        assert 2 <= len(parts) and parts[0] != 'source1-session1.2' and 8 << 20 < most <= 12 << 20, (parts, most)
        rings, alone = records(d + '/raw'), {0: [], 1: []}
        for name in parts:
            part = records(f'{d}/raw/{name}')
            assert number('received', read_file(f'{d}/raw/{name}')) == sum(map(len, part.values()))
            for ring, seqs in part.items():
                alone[ring] += seqs
        assert alone == rings and number('received', read_file(d + '/raw')) == sum(map(len, rings.values()))
        for seqs in rings.values():
            assert seqs == list(range(seqs[0], 400000)), (seqs[0], len(seqs))
        say(f'{len(parts)} parts are left, {most / 2**20:.1f} MiB at most')


def unpack(path):
    """As the man page says it: afterwards there is nothing that is packed."""
    files = subprocess.run(['find', path, '-name', '*.zst'], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    if files:
        subprocess.run(['zstd', '-q', '-d', '--rm', *files], check=True)
    return len(files)


def numbers_of(path):
    """{ring: [seq]} as host-reader has them."""
    run = subprocess.run([READER, f'file:{path}', '-o', 'json'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         check=True)
    assert 'no end' not in run.stderr and 'missing' not in run.stderr and 'damaged' not in run.stderr, run.stderr
    rings = {}
    for e in map(json.loads, run.stdout.splitlines()):
        if 'fields' in e:
            rings.setdefault(e['ring'], []).append(e['fields']['seq'])
    return rings


def parts_of(path):
    """{part: names of its files}, in their order."""
    parts = sorted(os.listdir(path), key=lambda name: int((name + '.1').split('.')[1]))
    return {name: sorted(x for _, _, names in os.walk(f'{path}/{name}') for x in names) for name in parts}


def packed_of(files):
    return [name for name in files if files[name] == ['journal.zst', 'metadata', 'ring0.zst', 'ring1.zst']]


@params('lent', 'copied')
def test_packed(way):
    """
    Parts that are complete are compressed meanwhile, and all is within what is kept, at any time: more of it fits.
    What is packed is read as it is, and gives what babeltrace2 finds in it when zstd has unpacked it.
    The thread that packs gets what time nobody else wants: how soon it is through is the machine's.
    """
    until = time.monotonic() + 180

    def enough():
        return f.poll() is not None and (packed_of(parts_of(d + '/raw')) or time.monotonic() > until)

    with directory() as d:
        with flood(d + '/region', 'discard', 1 << 20, 2, 800000, 0, 'live', 100000) as f:
            wait_for_regions(d, 'region')
            source = f'local:{d}/region' + (',trusted' if way != 'copied' else '')
            with subprocess.Popen([READER, source, '-o', f'raw:{d}/raw,rotate=4M,keep=16M,zstd', '--stats', '1'],
                                  stderr=subprocess.PIPE, text=True) as reader:
                most = most_bytes(d + '/raw', reader, enough)
                said = reader.stderr.read()
            assert reader.returncode == 0 and number('received', said) == 1600000, said
            assert 'system calls: those needed' in said and 'could not be compressed' not in said, said
        assert 6 << 20 < most <= 16 << 20, most
        files = parts_of(d + '/raw')
        parts, packed = list(files), packed_of(files)
        # How many depends on what the machine does besides: the latest are written, or being compressed.
        assert packed and 'source1-session1' not in parts, files
        assert files[parts[-1]] == ['journal', 'metadata', 'ring0', 'ring1'], files
        assert not [x for names in files.values() for x in names if x.startswith('.')], files
        whole, alone = numbers_of(d + '/raw'), numbers_of(f'{d}/raw/{packed[0]}')
        for seqs in whole.values():
            assert seqs == list(range(seqs[0], 800000)), (seqs[0], len(seqs))
        size = sum(size_of(f'{d}/raw/{name}') for name in packed)
        assert unpack(d + '/raw') >= 3 * len(packed)
        say(f'{len(packed)} of {len(parts)} parts were packed, {size / 2**20:.1f} MiB of '
            f'{sum(size_of(f"{d}/raw/{name}") for name in packed) / 2**20:.1f}; {most / 2**20:.1f} MiB at most')
        assert records(d + '/raw') == whole and records(f'{d}/raw/{packed[0]}') == alone
        assert numbers_of(d + '/raw') == whole


def test_rotated_together():
    """Two sources, one of them seven times as busy: what is kept is kept for both, and each one's latest is there."""
    counts = {1: (2, 300000, 150000), 2: (1, 80000, 40000)}
    with directory() as d:
        floods = [flood(f'{d}/region{n}', 'discard', 1 << 20, threads, each, 0, 'live', rate)
                  for n, (threads, each, rate) in counts.items()]
        wait_for_regions(d, 'region1', 'region2')
        with subprocess.Popen([READER, f'local:{d}/region1,trusted', f'local:{d}/region2', '--duration', '5',
                               '-o', f'raw:{d}/raw,rotate=4M,keep=16M'], stderr=subprocess.PIPE, text=True) as reader:
            most = most_bytes(d + '/raw', reader)
            said = reader.stderr.read()
        assert reader.returncode == 0, said
        for f in floods:
            f.communicate()
        received = [int(n) for n in re.findall(r'\nreceived +(\d+)', said)]
        assert sorted(received) == [80000, 600000], said
        assert 8 << 20 < most <= 16 << 20, most
        left = {}
        for name in sorted(os.listdir(d + '/raw'), key=lambda name: (name[6], int((name + '.1').split('.')[1]))):
            for ring, seqs in records(f'{d}/raw/{name}').items():
                left.setdefault((int(name[6]), ring), []).extend(seqs)
        assert set(left) == {(1, 0), (1, 1), (2, 0)}, left.keys()
        for (source, ring), seqs in left.items():
            assert seqs == list(range(seqs[0], counts[source][1])), (source, ring, seqs[0], len(seqs))
        assert left[1, 0][0], 'nothing was deleted'
        say(f'{most / 2**20:.1f} MiB at most; left: {({k: len(v) for k, v in left.items()})}')


def part_of(name):
    """(source, part) of a directory's name."""
    m = re.fullmatch(r'source(\d+)-session1(?:\.(\d+))?', name)
    return int(m[1]), int(m[2] or 1)


def test_rotated_by_time():
    """
    Parts of a second of one source, and of 4 MiB of another one, which is ten times as busy, within what is kept of both:
    always, each part readable by itself, the latest of both without a gap.
    """
    counts = {1: (1, 60000, 15000), 2: (2, 300000, 100000)}
    with directory() as d:
        floods = [flood(f'{d}/region{n}', 'discard', 1 << 20, threads, each, 48, 'live', rate)
                  for n, (threads, each, rate) in counts.items()]
        wait_for_regions(d, 'region1', 'region2')
        sources = [f'local:{d}/region{n},trusted' for n in counts]
        with subprocess.Popen([READER, *sources, '--duration', '5.5', '-o', f'raw:{d}/raw,rotate=1s,rotate=4M,keep=24M'],
                              stderr=subprocess.PIPE, text=True) as reader:
            most = most_bytes(d + '/raw', reader)
            said = reader.stderr.read()
        assert reader.returncode == 0, said
        assert all(f.wait() == 0 for f in floods)
        assert sorted(int(n) for n in re.findall(r'\nreceived +(\d+)', said)) == [60000, 600000], said
        parts = sorted(os.listdir(d + '/raw'), key=part_of)
        sizes = {n: [size_of(f'{d}/raw/{name}') for name in parts if part_of(name)[0] == n] for n in counts}
        begun = {n: max(part_of(name)[1] for name in parts if part_of(name)[0] == n) for n in counts}
        say(f'{begun[1]} parts by time, of {max(sizes[1]) >> 10} KiB at most, {begun[2]} by size, of {max(sizes[2]) >> 10}; '
            f'{most / 2**20:.1f} MiB at most; left: {len(sizes[1])} and {len(sizes[2])}')
        assert 12 << 20 < most <= 24 << 20 and part_of(parts[0]) != (1, 1), (most, parts)
        assert 3 <= begun[1] <= 8 and max(sizes[1]) < 2 << 20, (begun, sizes)
        assert begun[2] >= 600000 * 56 >> 22 and 3 << 20 < max(sizes[2]) <= 4 << 20, (begun, sizes)
        left = {}
        for name in parts:
            part = records(f'{d}/raw/{name}', 4)
            assert part or name == parts[-1], name
            for ring, seqs in part.items():
                left.setdefault((part_of(name)[0], ring), []).extend(seqs)
        assert set(left) == {(1, 0), (2, 0), (2, 1)}, left.keys()
        for (source, ring), seqs in left.items():
            assert seqs == list(range(seqs[0], counts[source][1])), (source, ring, seqs[0], len(seqs))
        for name in parts[0], parts[-1]:
            assert records(f'{d}/raw/{name}', 4)
            alone = subprocess.run([READER, '--clock', f'file:{d}/raw/{name}', '-o', 'text:/dev/null'], check=True,
                                   stderr=subprocess.PIPE, text=True).stderr
            assert 'how it goes beside the host' not in alone, (name, alone)


def test_no_direct():
    """A file system that writes through the page cache only: that is said, and the capture is the usual one."""
    with directory() as d:
        os.mkdir(d + '/small')
        subprocess.run(['mount', '-t', 'ramfs', 'none', d + '/small'], check=True)
        with flood(d + '/region', 'discard', 1 << 20, 1, 5000, 0, 'fill') as f:
            f.communicate()
        said = capture(f'local:{d}/region,trusted', d + '/small/raw,direct', '--duration', '0.5')
        assert 'does not write past the page cache' in said and 'io_uring, past' not in said, said
        assert records(d + '/small/raw') == {0: list(range(5000))}


def test_options():
    """Who can be trusted, and what it is good for."""
    with directory() as d:
        def refused(*args):
            run = subprocess.run([READER, *args], stderr=subprocess.PIPE, text=True, check=False)
            assert run.returncode == 2, run
            return run.stderr
        assert "unknown option 'trusted' in source" in refused(f'file:{d},trusted')
        assert 'there is trusted' in refused(f'local:{d}/x,trust')
        for option, why in (('rotate=1K', 'neither a size'), ('rotate=5', 'neither a size'), ('rotate=0s', 'neither'),
                            ('keep=60s', 'not a size'), ('keep=4M', 'two parts'), ('rotate=8M,keep=8M', 'two parts'),
                            ('rotate=8M,keep=16M,zstd', 'three parts'), ('zstd', 'only what is complete'),
                            ('b', 'a comma of the path itself is doubled')):
            assert why in refused(f'local:{d}/x', '-o', f'raw:{d}/a,{option}'), option
        assert os.listdir(d) == []
        with flood(d + '/region', 'discard', 1 << 20, 1, 100, 0, 'fill') as f:
            f.communicate()
        said = capture(f'local:{d}/region,trusted', d + '/raw', '-o', 'text:/dev/null', '--duration', '0.3')
        assert 'its events are copied: there is another output beside raw:DIR' in said, said


def numbers(path):
    """{CPU: [number]} of counted.bpf.c by babeltrace2, and the same by host-reader."""
    text, lost = babeltrace(path)
    assert not lost
    found = {}
    for cpu, n in re.findall(r' counted: \{ cpu_id = (\d+).*? number = (\d+) ', text):
        found.setdefault(int(cpu), []).append(int(n))
    run = subprocess.run([READER, f'file:{path}', '-o', 'json'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         check=True)
    again = {}
    for e in map(json.loads, run.stdout.splitlines()):
        if e.get('event') == 'counted':
            again.setdefault(e['cpu'], []).append(e['fields']['number'])
    assert again == found, ({c: len(x) for c, x in again.items()}, {c: len(x) for c, x in found.items()})
    return found


def test_guest():
    """A guest in direct placement, read without a copy, past the page cache and with a copy in turn: its records, each once."""
    rate, seconds = 10000, 12
    script = f'''
agent_start --events none --bpf /counted.bpf.o --policy discard || exit 1
until grep -q 'direct placement from now on' /tmp/agent.log; do sleep 0.05; done
echo DIRECT
workload pace {rate} {seconds} 424242 || exit 1
echo PACED
agent_stop
'''
    with VM(script, kernel='6.1', cpus=2, add=[COUNTED]) as vm, tempfile.TemporaryDirectory(dir=BUILD) as disk:
        vm.start()
        total, runs = {}, []
        for way in ('lent', 'direct', 'copied'):
            source = f'ivshmem:{vm.region}' + ',trusted' * (way != 'copied')
            reader = Reader(source, '-o', f'raw:{disk}/{way}' + option(way))
            if way == 'lent':
                vm.wait_for('DIRECT')
            if way == 'copied':
                vm.wait_for('PACED')
                vm.finish()
            else:
                time.sleep(seconds / 4)
            assert reader.stop() == 0, reader.err()
            assert ('without a copy' in reader.err()) == (way != 'copied'), reader.err()
            assert ('past the page cache' in reader.err()) == (way == 'direct'), reader.err()
            assert re.search(r'^lost +0 ', reader.err(), re.M), reader.err()
            found = numbers(f'{disk}/{way}')
            assert found.keys() == {0, 1} and all(len(x) > rate for x in found.values()), {c: len(x) for c, x in found.items()}
            for cpu, of in found.items():
                total.setdefault(cpu, []).extend(of)
            runs.append(sum(map(len, found.values())))
        made = sum(map(int, re.findall(r'paced (\d+) in', vm.console())))
        assert all(of == list(range(len(of))) for of in total.values()), {c: (len(x), x[:3], x[-3:]) for c, x in total.items()}
        assert sum(map(len, total.values())) == made, (made, runs)
        say(f'{made} records of a guest: {runs[0]} without a copy, {runs[1]} past the page cache, {runs[2]} with one')

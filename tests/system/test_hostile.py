# SPDX-License-Identifier: LGPL-2.1-or-later
"""Peers that write anything at any time: the reader lives, stays small, and serves the others."""

import os
import re
import resource
import shutil
import signal
import subprocess
import tempfile
import threading
import time

import ctftext
from harness import params, say
from vm import BUILD, READER, Reader

SCRIBBLE = os.path.join(BUILD, 'tests', 'scribble')
SANITIZED = os.environ.get('HTRACE_SANITIZED')
READERS = [READER] + ([os.path.join(SANITIZED, 'host-reader', 'host-reader')] if SANITIZED else [])
RATE = 2000
SECONDS = 4
REGION = 40 << 20
MEMORY = 256 << 10  # KiB: the merge may hold 64 MiB of a source; sanitizers keep what was freed
LATE = 5    # seconds from a record to its line; 0.25 are the delays of merge and flush
END = 8     # from SIGINT to the end; by itself it takes 3 at most
LINES = 20  # said of a source at once, then one a second


class Many(Reader):
    """One host-reader of several sources in a directory of its own."""

    def __init__(self, place, sources, *args, program=READER, only=None):
        self.dir = place.dir
        self.out_path, self.err_path = place.path('out'), place.path('err')
        self.most = self.late = 0
        self.watcher = None
        with open(self.out_path, 'wb') as out, open(self.err_path, 'wb') as err:
            self.process = subprocess.Popen([program, *args, *sources], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.PIPE if only else out, stderr=err)
        place.peers.append(self.process)
        if only:
            grep = subprocess.Popen(['grep', '-aF', '--line-buffered', only],
                                    stdin=self.process.stdout, stdout=subprocess.PIPE)
            self.process.stdout.close()
            self.watcher = threading.Thread(target=self.keep, args=(grep,))
            self.watcher.start()

    def keep(self, grep):
        """What comes of one source, and how late."""
        with open(self.out_path, 'wb') as out, grep:
            for line in grep.stdout:
                found = re.search(rb'\] +(\d+\.\d{9}) \[', line)
                if found:
                    self.late = max(self.late, time.clock_gettime(time.CLOCK_MONOTONIC) -
                                    float(found[1]))
                out.write(line)

    def stop(self, timeout=30):
        status = super().stop(timeout)
        if self.watcher:
            self.watcher.join()
        return status

    def watch(self):
        """Private memory now, in KiB; the most of it is kept."""
        with open(f'/proc/{self.process.pid}/status', encoding='ascii') as f:
            found = re.search(r'RssAnon:\s+(\d+)', f.read())
        self.most = max(self.most, int(found[1]) if found else 0)


class Place:
    """A directory in memory, with files for regions, and peers that go with it."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix='htrace-hostile-', dir='/dev/shm')
        self.peers = []
        return self

    def __exit__(self, failed, *_):
        ended = [p.poll() for p in self.peers]
        for p in self.peers:
            if p.poll() is None:
                p.kill()
            p.wait()
        shutil.rmtree(self.dir, ignore_errors=True)
        # From a peer that died by itself a reader was not attacked.
        died = [(p.args, status) for p, status in zip(self.peers, ended)
                if p.args[0] == SCRIBBLE and status not in (None, 0, -signal.SIGKILL)]
        assert failed or not died, died
        if died:
            say(f'these died: {died}')

    def path(self, name, size=None):
        path = os.path.join(self.dir, name)
        if size is not None:
            with open(path, 'wb') as f:
                f.truncate(size)
        return path

    def source(self, name, ram=False):
        path = self.path(name, REGION)
        if not ram:
            return f'local:{path}'
        return f'ivshmem:{path},ram={self.path(name + ".ram", 64 << 20)}'

    def peer(self, what, seconds=SECONDS, number=1, ram=False):
        args = [SCRIBBLE, what, self.path(what), str(seconds), str(number)]
        if ram:
            args.append(self.path(what + '.ram'))
        self.peers.append(subprocess.Popen(args, stdout=subprocess.PIPE, text=True))
        return self.peers[-1]


def check_text(reader):
    for path in reader.out_path, reader.err_path:
        with open(path, 'rb') as f:
            while part := f.read(1 << 20):
                bad = part.translate(None, bytes(range(0x20, 0x7f)) + b'\n')
                assert not bad, f'{path}: bytes {set(bad)}'
    assert not re.search('runtime error|Sanitizer', reader.err()), reader.err()[-3000:]


def check_good(reader, place, count, in_haste=False):
    """
    All that the well-behaved source wrote, in order, once. A reader that is asked to end while it has more to show than
    there is time for counts what it leaves out at the end. Returns how many these are.
    """
    expected = 0
    mark = f'[{place.path("good")}] '
    with open(reader.out_path, encoding='ascii') as f:
        for line in f:
            if line.startswith(mark) and 'numbered: number=' in line:
                number = int(line.split('number=', 1)[1].split()[0])
                assert number == expected, f'record {number} of the good source for {expected}'
                expected += 1
    unwritten = re.search(rf'^--- summary of {place.path("good")} ---\n(?:.+\n|\n(?!---))*?unwritten +(\d+) events',
                          reader.err(), re.M)
    left = int(unwritten[1]) if in_haste and unwritten else 0
    assert expected + left == count, f'{expected} records of the good source, and {left} left out at the end, not {count}'
    assert left < LATE * RATE, f'{left} of {count} left out'
    return left


def serve(program, kinds, ram=False, timed=False):
    with Place() as place:
        sources = [place.source('good')] + [place.source(kind, ram) for kind in kinds]
        reader = Many(place, sources, program=program,
                      only=f'[{place.path("good")}] ' if timed else None)
        time.sleep(0.3)
        seconds = LATE + 3 if timed else SECONDS  # so that who is later than allowed misses something
        for i, kind in enumerate(kinds):
            place.peer(kind, seconds, number=i + 1, ram=ram)
        good = place.peer('good', seconds - 1, RATE)
        while good.poll() is None:
            assert reader.process.poll() is None, reader.err()[-3000:]
            reader.watch()
            time.sleep(0.1)
        count = int(good.communicate()[0])
        lines = len(re.findall('^host-reader: ', reader.err(), re.M))
        start = time.time()
        status = reader.stop(60)
        took = time.time() - start
        check_text(reader)
        assert status == 0, (status, reader.err()[-3000:])
        left = check_good(reader, place, count, timed)
        asan = program != READER
        say(f'{os.path.relpath(program)}: {reader.most >> 10} MiB, {lines} messages, ended in '
            f'{took:.2f} s, the good source is complete' + (f' but for {left} at the end' if left else '') +
            (f', {reader.late:.2f} s late at most' if timed else ''))
        assert reader.late < LATE, f'the good source was {reader.late:.1f} s late'
        assert reader.most < MEMORY * (4 if asan else 1), f'{reader.most} KiB'
        assert took < END * (3 if asan else 1), f'{took:.1f} s to end'
        assert lines < (LINES + 2 * seconds) * len(kinds) + LINES, f'{lines} messages'


@params('super', 'areas', 'rings', 'guest-ram')
def test_scribbled(where):
    """Random words over one part of each region, beside a good source."""
    kinds = {
        'super': ['super', 'sessions'],
        'areas': ['guest', 'schema', 'names'],
        'rings': ['head', 'ring', 'blocks', 'data'],
        'guest-ram': ['anchors', 'head', 'ring', 'data'],
    }
    for program in READERS:
        serve(program, kinds[where], ram=where == 'guest-ram')


@params('expand', 'storm', 'closed', 'broken')
def test_costly(kind):
    """What is legal, and as much work, or as many messages, as a guest can make of it."""
    serve(READER, [kind], timed=True)


def stop(process):
    """All of it stands still: nothing of it meets what is gone."""
    process.send_signal(signal.SIGSTOP)
    tasks = f'/proc/{process.pid}/task'
    while not all(open(f'{tasks}/{t}/stat', encoding='ascii').read().rsplit(') ', 1)[1][0] == 'T'
                  for t in os.listdir(tasks)):
        time.sleep(0.001)


@params('emptied', 'shortened', 'punched', 'overwritten', 'ram-emptied')
def test_pulled_away(how):
    """The region's file, or the guest's RAM, goes away while it is read; others are served."""
    ram = how == 'ram-emptied'
    for program in READERS:
        with Place() as place:
            sources = [place.source('good'), place.source('none', ram)]
            reader = Many(place, sources, program=program)
            time.sleep(0.3)
            good = place.peer('good', 2, RATE)
            victim = place.peer('none', 5, ram=ram)
            reader.wait_for('/none: .*CPUs')
            time.sleep(0.3)  # until its heart was seen to beat
            stop(victim)
            path = place.path('none.ram' if ram else 'none')
            if how == 'overwritten':
                with open(path, 'r+b') as f:
                    f.write(b'\xaa' * REGION)
            elif how == 'punched':
                subprocess.run(['fallocate', '-p', '-o', '0', '-l', str(REGION), path], check=True)
            else:
                os.truncate(path, 4096 if how == 'shortened' else 0)
            count = int(good.communicate()[0])
            status = reader.stop(20)
            check_text(reader)
            check_good(reader, place, count)
            assert status == (0 if how == 'punched' else 1), (status, reader.err())
            if how == 'overwritten':
                with open(path, 'rb') as f:
                    assert f.read() == b'\xaa' * REGION, 'the reader wrote into what is not a region'
            victim.kill()
            say(*[x for x in reader.err().splitlines() if '/none: ' in x][-1:])


def test_name_of_ram():
    """A file's name is found in /proc, and anybody may choose it."""
    with Place() as place:
        place.path('none', REGION)
        os.symlink(place.path('evil\033[31m', 64 << 20), place.path('none.ram'))
        reader = Many(place, [f'ivshmem:{place.path("none")}'])
        time.sleep(0.3)
        place.peer('none', 3, ram=True)
        reader.wait_for('CPUs')
        assert reader.stop() == 0, reader.err()
        check_text(reader)


def test_other_file():
    """What takes a region's place is gone over to, but for a link, or what is not a region."""
    with Place() as place:
        precious, path = place.path('precious', REGION), place.path('none', REGION)
        reader = Many(place, [place.source('good'), f'local:{path}'])
        reader.wait_for('/none: waiting')
        os.symlink(precious, path + '.new')
        os.rename(path + '.new', path)
        reader.wait_for('/none.: ')
        with open(precious, 'rb') as f:
            assert not f.read().strip(b'\0'), 'the reader wrote where a link led it'
        assert place.peer('good', 1, RATE).wait() == 0
        assert reader.stop() == 1, reader.err()
        assert 'numbered: number=' in reader.out()


def test_one_refused():
    """A source that cannot be read does not keep the others from being read."""
    with Place() as place:
        with open(place.path('none', REGION), 'r+b') as f:
            f.write(b'not a region')
        reader = Many(place, [f'local:{place.path("none")}', f'local:{place.path("no-file")}',
                              place.source('good')])
        time.sleep(0.5)
        good = place.peer('good', 1, RATE)
        count = int(good.communicate()[0])
        assert reader.stop() == 1, reader.err()
        check_good(reader, place, count)
        assert '/none\' cannot be read' in reader.err() and 'no-file' in reader.err()
        with open(place.path('none'), 'rb') as f:
            assert f.read(REGION).strip(b'\0') == b'not a region'


def test_stopped_reader():
    """A reader that was away waits for a heartbeat; at its end that is not forgotten. Stopped amid a look it ends that first."""
    for _ in range(4):
        with Place() as place:
            reader = Many(place, [place.source('good')])
            good = place.peer('good', 3, RATE)
            reader.wait_for('CPUs')
            time.sleep(0.5)
            reader.signal(signal.SIGSTOP)
            time.sleep(1)
            good.send_signal(signal.SIGSTOP)
            reader.signal(signal.SIGINT)
            reader.signal(signal.SIGCONT)
            assert reader.process.wait(30) == 0, reader.err()
            good.kill()
            if re.search(r'^unread +[1-9]', reader.err(), re.M):
                return
    raise AssertionError(reader.err())


def test_restarts():
    """The reader ends in each way, over and over; the last one finds all in order."""
    with Place() as place:
        source = place.source('good')
        place.peer('good', 30, RATE)
        time.sleep(0.3)
        for i in range(30):
            reader = Many(place, [source])
            time.sleep(0.03)
            number = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)[i % 3]
            reader.signal(number)
            status = reader.process.wait(10)
            # before it has a handler, or after
            assert status in (0, -number), (status, reader.err())
        with subprocess.Popen([READER, source], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True) as closed:
            closed.stdout.readline()
            closed.stdout.close()
            assert 'Broken pipe' in closed.stderr.read()
            assert closed.wait(10) == 1
        full = subprocess.run([READER, '-o', 'text:/dev/full', source], stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, timeout=10)
        assert full.returncode == 1 and 'No space left' in full.stderr, full
        reader = Many(place, [source])
        time.sleep(0.5)
        assert reader.stop() == 0, reader.err()
        check_text(reader)
        assert 'numbered: number=' in reader.out()
        assert re.search(r'^lost +0 ', reader.err(), re.M), reader.err()


def test_file_size_limit():
    """A limit on the size of files (ulimit -f) is an output that fails, not a silent death."""
    with Place() as place:
        traces, text = place.path('ctf'), place.path('text')
        source = place.source('good')
        place.peer('good', 30, RATE)
        time.sleep(0.3)
        done = subprocess.run([READER, source, '-o', f'ctf:{traces}', '-o', f'text:{text}'],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=30,
                              preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000)))
        assert done.returncode == 1 and f'{text}: File too large' in done.stderr, done
        assert os.path.getsize(text) == 60000
        (trace,) = ctftext.traces(traces)
        found, _ = ctftext.read(trace, limit=200000)
        numbers = [c.fields['number'] for c in found if c.event == 'numbered']
        assert numbers and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@params('schema', 'guest', 'names', 'data', 'sessions', 'expand', 'storm')
def test_ctf(kind):
    """Whatever a guest does, babeltrace2 has nothing to say of its traces but what was lost."""
    for program in READERS:
        with Place() as place:
            traces = place.path('ctf')
            reader = Many(place, [place.source('good'), place.source(kind)], '-o', f'ctf:{traces}',
                          program=program)
            time.sleep(0.3)
            place.peer(kind)
            good = place.peer('good', SECONDS - 1, RATE)
            while good.poll() is None:
                assert reader.process.poll() is None, reader.err()[-3000:]
                reader.watch()
                time.sleep(0.1)
            count = int(good.communicate()[0])
            status = reader.stop(60)
            assert status == 0, (status, reader.err()[-3000:])
            check_text(reader)
            asan = program != READER
            assert reader.most < MEMORY * (4 if asan else 1), f'{reader.most} KiB'
            numbers = []
            for trace in ctftext.traces(traces):
                found, _ = ctftext.read(trace, limit=200000)
                if '/good-' in trace:
                    numbers += [c.fields['number'] for c in found if c.event == 'numbered']
            assert numbers == list(range(count)), f'{len(numbers)} records of the good source, not {count}'
            size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(traces)
                       for f in files)
            say(f'{os.path.relpath(program)}: {reader.most >> 10} MiB, {len(os.listdir(traces))} '
                f'traces of {size >> 20} MiB')

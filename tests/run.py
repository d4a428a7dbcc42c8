#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs every test: the unit tests of a build directory, then the model and the whole system.

The last line is `N passed, N failed, N skipped`. Exit status 0 only if nothing failed and the
skipped tests are exactly those that tests/expected-skips names for a machine like this one.
"""

import argparse
import contextlib
import fcntl
import functools
import glob
import importlib.util
import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, 'system'), HERE]


class Results:
    def __init__(self):
        self.passed = self.failed = 0
        self.skipped = {}
        self.seconds = {}  # of each suite
        self.failures = []
        self.unsteady = []  # passed only when run once more

    def ok(self, name):
        self.passed += 1

    def fail(self, name):
        self.failed += 1
        self.failures.append(name)

    def add(self, other):
        self.passed += other.passed
        self.failed += other.failed
        self.failures += other.failures
        self.unsteady += other.unsteady
        self.skipped.update(other.skipped)
        for suite, seconds in other.seconds.items():
            self.took(suite, seconds)

    def took(self, name, seconds):
        suite = name.split('.')[0]
        self.seconds[suite] = self.seconds.get(suite, 0) + seconds

    def print_times(self):
        """Minutes of each suite, the longest first: docs/testing.md has them too."""
        print('minutes  suite')
        for suite, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            print(f'{seconds / 60:7.1f}  {suite}')

    def skip(self, name, reason):
        self.skipped[name] = reason
        print(f'SKIP {name}: {reason}', flush=True)


# Of how large pages a unit test is made to believe the machine's to be, by tests/unit/bigpages.c;
# those of which it makes a difference.
PAGES = {'unit.': None, 'pages16k.': 16384, 'pages64k.': 65536, 'sanitized.': None, 'clang.': None}
# They look through memory of the kind that a VM's RAM is: the sanitizers' shadow is terabytes of it.
SCANNING = ['test_ram_mirror', 'test_ram_rings']
MAPPING = ['test_owner', 'test_region', 'test_relay', 'test_ring', 'test_sync', 'test_vshmem']


# Of equal rounds in unit tests `unit.` runs all, and the slower ones a share (tests/unit/unit.h).
SHARES = {'pages16k.': 8, 'pages64k.': 8, 'clang.': 3, 'sanitized.': 8, 'aarch64.': 16}


# What hangs fails, and the others are run: seconds that a test may take, on a machine with other work; those after which no
# further one is begun; and those after which all is over.
TOO_LONG, TIME_UP, END = 1200, 76 * 60, 82 * 60
began = time.monotonic()


class TooLong(Exception):
    pass


def seconds_left():
    return max(1, min(TOO_LONG, int(END - (time.monotonic() - began))))


@contextlib.contextmanager
def limited():
    seconds = seconds_left()

    def end(*_):
        raise TooLong(f'took longer than {seconds} s')
    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def time_is_up(name, results):
    if time.monotonic() - began < TIME_UP:
        return False
    print(f'FAIL {name}: not run: the tests have taken {TIME_UP // 60} minutes', flush=True)
    results.fail(name)
    return True


# The machine has other work, which nobody here sees, and guests run under an emulator: a test that fails is run once
# more, both failures are shown, and those that passed only then are listed at the end. But for those that look for what
# goes wrong once in a million times.
UNSTEADY_ALLOWED = 8
NEVER_AGAIN = 'model.', 'stress.', 'fuzz.', 'mutated.'


def may_repeat(name, results):
    return not name.startswith(NEVER_AGAIN) and len(results.unsteady) < UNSTEADY_ALLOWED


def run_unit(exe, label, results, wrapper=()):
    """A test program that prints TAP: each of its cases counts. One of which some fail is run once more, like others."""
    suite = label + os.path.basename(exe)
    of_it = try_unit(exe, label, wrapper)
    if of_it.failed and may_repeat(label, results):
        print(f'     {suite} failed ({", ".join(of_it.failures)}); once more', flush=True)
        of_it = try_unit(exe, label, wrapper)
        if not of_it.failed:
            of_it.unsteady.append(suite)
    results.add(of_it)


def try_unit(exe, label, wrapper):
    results = Results()
    suite = label + os.path.basename(exe)
    if time_is_up(suite, results):
        return results
    start = time.time()
    dir = os.path.dirname(exe)
    env = dict(os.environ, HTRACE_TEST_BTF=os.path.join(dir, 'btf_events.bpf.o'))
    share = SHARES.get(label, 1)
    if share > 1:
        env.setdefault('HTRACE_UNIT_SHARE', str(share))
    env['CK_TIMEOUT_MULTIPLIER'] = '15' if wrapper else '5'  # an emulator is slow, and a machine with other work
    if wrapper:
        env.setdefault('HTRACE_SCHEDULES', '150')  # of test_schedules
    if PAGES.get(label):
        env.update(LD_PRELOAD=os.path.join(os.path.abspath(dir), 'bigpages.so'),
                   HTRACE_PAGE_SIZE=str(PAGES[label]))
    try:
        run = subprocess.run([*wrapper, exe], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors='replace', check=False, env=env, timeout=seconds_left())
    except subprocess.TimeoutExpired as e:
        print(f'FAIL {suite}: {e}', flush=True)
        results.fail(suite)
        return results
    cases = re.findall(r'^(not ok|ok) (\d+)(.*)$', run.stdout, re.M)
    bad = 0
    for status, number, text in cases:
        name = f'{suite} {number}{text}'
        if '# SKIP' in text:
            results.skip(name, text.split('# SKIP')[1].strip())
        elif status == 'ok':
            results.ok(name)
        else:
            bad += 1
            results.fail(name)
    for what, why in re.findall(r'^# SKIP ([\w ]+): (.*)$', run.stdout, re.M):  # whatever it was built by
        results.skip(f'{os.path.basename(exe)} {what}', why)
    plan = re.search(r'^1\.\.(\d+)', run.stdout, re.M)
    if not cases or (plan and int(plan[1]) != len(cases)) or (run.returncode and not bad) or \
            'from LD_PRELOAD cannot' in run.stdout:
        results.fail(f'{suite}: exit {run.returncode}, {len(cases)} cases')
        bad += 1
    if bad:
        print(re.sub(r'^ok .*\n', '', run.stdout, flags=re.M))
    results.took(suite, time.time() - start)
    print(f'{"FAIL" if bad else "PASS"} {suite}: {len(cases)} cases, '
          f'{time.time() - start:.1f} s', flush=True)
    return results


def system_tests():
    for path in sorted(glob.glob(os.path.join(HERE, '*', 'test_*.py'))):
        module_name = os.path.basename(path)[:-3]
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith('test_') and function.__module__ == module_name:
                params = getattr(function, 'params', [()])
                for p in params:
                    suffix = '[' + ','.join(map(str, p)) + ']' if p else ''
                    yield f'{module_name[5:]}.{name[5:]}{suffix}', function, p




def run_system(name, function, params, results, emulation=3, unsteady=False):
    """Runs one test; EMULATION: how often the emulator's own fault may stop it."""
    from harness import Skip, say
    from vm import EmulationFault, Reader
    if time_is_up(name, results):
        return
    print(f'---- {name}', flush=True)
    start = time.time()
    again = False
    try:
        with limited():
            function(*params)
    except Skip as e:
        results.skip(name, str(e))
        return
    except EmulationFault as e:
        print(e)
        if emulation > 1:
            say('a fault of the emulation; once more')
            again = True
            emulation -= 1
        else:
            results.fail(name)
            print(f'FAIL {name}: {time.time() - start:.1f} s', flush=True)
            return
    except Exception:  # a test may fail in any way
        text = traceback.format_exc()
        if not unsteady and may_repeat(name, results):
            say(text.replace('\n', '\n     | '))
            say('failed; once more')
            again = unsteady = True
        else:
            print(text)
            results.fail(name)
            print(f'FAIL {name}: {time.time() - start:.1f} s', flush=True)
            return
    finally:
        Reader.clean_up()
        results.took(name, time.time() - start)
    if again:
        run_system(name, function, params, results, emulation, unsteady)
        return
    if unsteady:
        results.unsteady.append(name)
    results.ok(name)
    say('')
    print(f'PASS {name}: {time.time() - start:.1f} s', flush=True)


def expected_skips():
    """Names of the tests that must be skipped on this machine."""
    from harness import CONDITIONS
    names = {}
    with open(os.path.join(HERE, 'expected-skips'), encoding='utf-8') as f:
        for line in f:
            if line.strip() and not line.startswith('#'):
                name, condition, reason = (part.strip() for part in line.split(':', 2))
                if CONDITIONS[condition]():
                    names[name] = reason
    return names


def all_tests(args, results):
    """(name, function that runs it into Results)"""
    for label in PAGES:
        build = {'sanitized.': args.sanitized, 'clang.': args.clang}.get(label, args.build)
        if not build:
            continue
        units = sorted(p for p in glob.glob(os.path.join(build, 'tests', 'test_*'))
                       if os.access(p, os.X_OK) and os.path.isfile(p))
        if not units:
            print(f'run.py: no unit tests in {build}: build first, with check installed')
            results.fail('unit tests are missing')
        if PAGES[label]:
            units = [u for u in units if os.path.basename(u) in MAPPING]
        if label == 'sanitized.':
            units = [u for u in units if os.path.basename(u) not in SCANNING]
        for exe in units:
            yield label + os.path.basename(exe), functools.partial(run_unit, exe, label)
    for name, function, params in system_tests():
        yield name, functools.partial(run_system, name, function, params)


# Those that use all of a core, one by one; then guests and the rest, a suite at a time, since most of them wait most of
# the time; then those that look at how long something takes, or want all cores, with the machine to themselves.
COMPUTING = 'aarch64.', 'model.', 'fuzz.', 'sanitized.', 'mutated.unit[', 'unit.', 'clang.', 'pages16k.', 'pages64k.'
BUILDING = 'aarch64.', 'fuzz.'  # in a directory of their own: one by one
ALONE = 'stress.', 'mutated.', 'cost.', 'bells.', 'hostile.', 'many.', 'nested.', 'linux_guest.'
NOT_ALONE = 'mutated.build_flag', 'bells.none', 'nested.killed', 'nested.refused'  # these wait, however long it takes
LONG = 'relay', 'module', 'sinks', 'survival', 'stacks', 'filter', 'drivers', 'loss', 'truth', 'capture'  # first
LANES = min(os.cpu_count() or 1, 4)
MORE = 1  # where there are guests: two leave a fifth of two CPUs idle


def split(tests):
    """Jobs to be done side by side, in two turns, and what is to be done by itself then. A job is a list of tests."""
    if LANES < 2 or len(tests) < 3:
        return [], [], tests
    computing = sorted((t for t in tests if t[0].startswith(COMPUTING)),
                       key=lambda t: [t[0].startswith(c) for c in COMPUTING].index(True))
    alone = [t for t in tests if t[0].startswith(ALONE) and not t[0].startswith(NOT_ALONE) and t not in computing]
    suites = {}  # what the tests of one made, a module or a package, is used by all of it
    for t in tests:
        if t not in computing and t not in alone:
            suites.setdefault(t[0].split('.')[0], []).append(t)
    whole = [[t for t in computing if t[0].startswith(name)] for name in BUILDING]
    jobs = [job for job in whole if job] + [[t] for t in computing if not t[0].startswith(BUILDING)]
    return jobs, [suites[name] for name in sorted(
        suites, key=lambda name: LONG.index(name) if name in LONG else len(LONG))], alone


def run_jobs(jobs, results, next_job, lock):
    """In a process of its own: takes jobs as long as there are any, and shows what each printed when it is done."""
    shown = os.dup(1)
    while True:
        number = os.read(next_job, 2)
        if not number:
            return
        with tempfile.TemporaryFile() as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            for _, run in jobs[int.from_bytes(number, 'little')]:
                run(results)
            sys.stdout.flush()
            os.dup2(shown, 1)
            os.dup2(shown, 2)
            out.seek(0)
            fcntl.flock(lock, fcntl.LOCK_EX)
            sys.stdout.buffer.write(out.read())
            sys.stdout.flush()
            fcntl.flock(lock, fcntl.LOCK_UN)


def run_side_by_side(jobs, nr_lanes, results):
    if not jobs:
        return
    sys.stdout.flush()
    reading, writing = os.pipe()
    os.write(writing, b''.join(n.to_bytes(2, 'little') for n in range(len(jobs))))
    os.close(writing)
    lanes = []
    with tempfile.NamedTemporaryFile() as lock:
        for _ in range(nr_lanes):
            end = tempfile.TemporaryFile()
            pid = os.fork()
            if pid:
                lanes.append((pid, end))
                continue
            status = 1
            try:
                own = Results()
                with open(lock.name, 'rb') as own_lock:
                    run_jobs(jobs, own, reading, own_lock)
                pickle.dump(own, end)
                end.flush()
                status = 0
            except BaseException:  # whatever it is, this is not the caller's process
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(reading)
        for pid, end in lanes:
            _, status = os.waitpid(pid, 0)
            end.seek(0)
            if status:
                results.fail(f'a process that runs tests: status {status}')
            else:
                results.add(pickle.load(end))
            end.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--build', default=os.path.join(os.path.dirname(HERE), 'build'))
    parser.add_argument('--sanitized', help='build directory with sanitizers: unit tests only')
    parser.add_argument('--clang', help='build directory of another compiler: unit tests only')
    parser.add_argument('--only', default='', help='regular expression on test names')
    parser.add_argument('--list', action='store_true')
    args = parser.parse_args()
    os.environ['HTRACE_BUILD'] = os.path.abspath(args.build)
    results = Results()
    start = time.time()

    tests = [(name, run) for name, run in all_tests(args, results) if re.search(args.only, name)]
    if args.list:
        print('\n'.join(name for name, _ in tests))
        return 0
    computing, suites, alone = split(tests)
    run_side_by_side(computing, LANES, results)
    run_side_by_side(suites, LANES + MORE, results)
    for _, run in alone:
        run(results)
    for name in results.unsteady[UNSTEADY_ALLOWED:]:  # each process has that many
        results.fail(name)
        results.passed -= 1

    if not results.passed + results.failed + len(results.skipped):
        print(f'run.py: no test matches {args.only!r}; --list names them')
        results.fail('nothing ran')
    if not args.only:
        expected = expected_skips()
        for name in results.skipped:
            if name not in expected:
                results.fail(f'{name} was skipped, but tests/expected-skips does not say so')
        for name, reason in expected.items():
            if name not in results.skipped:
                results.fail(f'{name} should have been skipped ({reason}); update expected-skips')
    if len(results.seconds) > 1:
        results.print_times()
    for name in results.unsteady:
        print(f'UNSTEADY {name}: failed once, then passed')
    for name in results.failures:
        print(f'FAILED {name}')
    print(f'{(time.time() - start) / 60:.1f} minutes')
    print(f'{results.passed} passed, {results.failed} failed, {len(results.skipped)} skipped')
    return 1 if results.failed else 0


if __name__ == '__main__':
    sys.exit(main())

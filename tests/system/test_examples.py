# SPDX-License-Identifier: LGPL-2.1-or-later
"""examples/ against the installed library, shared and static: what they print, against what is known."""

import bisect
import contextlib
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

from harness import params, say
from vm import BUILD, TOP, VM, Reader

WARNINGS = '-O2 -Wall -Wextra -Wshadow -Werror'
FUNCTIONS = ('function_entry', 'function_exit', 'id')
DEPTH = 33  # of a program that works for seconds


@contextlib.contextmanager
def built(*make):
    """(directory of the programs, environment to run them) of the examples, outside of the tree."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as dir:
        subprocess.run(['meson', 'install', '-C', BUILD, '--destdir', dir + '/inst', '--quiet',
                        '--no-rebuild'], stdout=subprocess.DEVNULL, check=True)
        pc = os.path.dirname(glob.glob(dir + '/inst/**/libhtrace.pc', recursive=True)[0])
        env = dict(os.environ, PKG_CONFIG_PATH=pc, PKG_CONFIG_SYSROOT_DIR=dir + '/inst')
        os.mkdir(dir + '/examples')
        for path in glob.glob(os.path.join(TOP, 'examples', '*.c')):
            shutil.copy(path, dir + '/examples')
        shutil.copy(os.path.join(TOP, 'examples', 'Makefile'), dir + '/examples')
        subprocess.run(['make', '-s', 'CFLAGS=' + WARNINGS, *make], cwd=dir + '/examples', env=env,
                       check=True)
        yield dir + '/examples', dict(env, LD_LIBRARY_PATH=os.path.dirname(pc))


def run(env, *args, status=0):
    r = subprocess.run(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=120, check=False)
    assert r.returncode == status, f'{args}: {r.returncode}\n{r.stdout}{r.stderr}'
    return r.stderr if status else r.stdout


def nr_calls(threads, depth):
    """Calls that traced-threads makes: the worker, and what Fibonacci by recursion takes."""
    a, b = 1, 1
    for _ in range(depth - 1):
        a, b = b, 1 + a + b
    return threads * (1 + b)


def parse(text):
    """The histogram's numbers, which must agree with each other."""
    numbers = re.search(r'^(?P<pairs>\d+) pairs; not used: (?P<gaps>\d+) pairs at gaps, (?P<begins>\d+) '
                        r'begins, (?P<ends>\d+) ends alone\n(?P<read>\d+) events read; (?P<lost>\d+) '
                        r'lost, (?P<before>\d+) overwritten before$', text, re.M)
    n = {k: int(v) for k, v in numbers.groupdict().items()}
    n['rows'] = [tuple(map(int, x)) for x in re.findall(r'^ *(\d+) \.\.\. (\d+) +(\d+) \|#+$', text, re.M)]
    n['percent'] = {float(p): int(v) for p, v in re.findall(r'([\d.]+) % within (\d+)', text)}
    assert sum(count for _, _, count in n['rows']) == n['pairs'], text
    return n


def exact_rows(times):
    rows = {}
    for t in times:
        rows[t.bit_length()] = rows.get(t.bit_length(), 0) + 1
    return [(1 << r >> 1, (1 << r) - 1, n) for r, n in sorted(rows.items())]


def percentile(times, percent):
    """The least of @times, sorted, that @percent of them do not exceed; by integers."""
    return times[-(-len(times) * int(percent * 10) // 1000) - 1]


def near(ns):
    return 2 + ns // 10000


def check_by_json(n, path):
    """Rows and percentiles against the events as host-reader has them; how often which function."""
    reader = Reader('local:' + path, '-o', 'json')
    while reader.out().count('"event":') < n['read']:
        assert reader.process.poll() is None, reader.err()
        time.sleep(0.05)
    assert reader.stop() == 0, reader.err()
    begins, times, functions = {}, [], {}
    for line in reader.out().splitlines():
        r = json.loads(line)
        if r.get('event') == 'function_entry':
            begins[r['fields']['id']] = r['time']
            name = r['fields']['function.name']
            assert re.fullmatch(r'worker-\d+', r['fields']['tid.name']), line
            functions[name] = functions.get(name, 0) + 1
        elif r.get('event') == 'function_exit':
            times.append(r['time'] - begins.pop(r['fields']['id']))
    times.sort()
    assert not begins and len(times) == n['pairs']
    # Both converted from ticks, host-reader with samples of its own: nearly the same.
    for low, high, _ in n['rows']:
        here = sum(count for l, _, count in n['rows'] if l <= low)
        least, most = (bisect.bisect_right(times, high + sign * near(high)) for sign in (-1, 1))
        assert least <= here <= most, f'up to {high}: {here}\n{n["rows"]}\n{exact_rows(times)}'
    for percent, value in n['percent'].items():
        assert abs(value - percentile(times, percent)) <= near(value), (percent, value)
    return functions


@params('shared', 'static')
def test_programs(kind):
    static = kind == 'static'
    with built(*(['STATIC=1', 'CC=clang'] if static else [])) as (dir, env):
        if static:  # needs no library to run
            env.pop('LD_LIBRARY_PATH')
        linked = subprocess.run(['readelf', '-d', dir + '/traced-threads'], stdout=subprocess.PIPE,
                                text=True, check=True).stdout
        assert ('libhtrace.so.0' in linked) != static, linked
        path = dir + '/calls'
        calls = nr_calls(3, 15)
        assert run(env, dir + '/traced-threads', path, '3', '15') == f'{calls} calls\n'
        text = run(env, dir + '/latency-histogram', path, *FUNCTIONS)
        for line in text.splitlines():
            say(line)
        n = parse(text)
        assert (n['pairs'], n['read']) == (calls, 2 * calls), n
        assert not any(n[x] for x in ('gaps', 'begins', 'ends', 'lost', 'before')), n
        assert list(n['percent']) == [50, 90, 99, 99.9, 100], n
        functions = check_by_json(n, path)
        assert functions == {'worker': 3, 'fibonacci': calls - 3}, functions
        for policy in 'backoff', 'backoff:50000', 'adaptive':
            out = run(env, dir + '/sync-policy', path, policy)
            assert out.startswith(f'{2 * calls} events, 0 lost, '), out
        # a file whose program has ended is made anew; more than fits overwrites
        calls = nr_calls(2, 24)
        assert run(env, dir + '/traced-threads', path, '2', '24') == f'{calls} calls\n'
        n = parse(run(env, dir + '/latency-histogram', path, *FUNCTIONS))
        say(n)
        assert n['before'] > 0 and n['pairs'] > 0 and n['read'] + n['before'] == 2 * calls, n


def test_refusals():
    with built() as (dir, env):
        path = dir + '/calls'
        histogram, policy, traced = (dir + '/' + x for x in
                                     ('latency-histogram', 'sync-policy', 'traced-threads'))
        run(env, traced, path, '1', '3')
        for args, status, said in (
                ((histogram,), 2, 'Usage'), ((policy,), 2, 'Usage'), ((traced, path, '0', '3'), 2, 'Usage'),
                ((traced, '/nowhere/calls', '1', '3'), 1, '/nowhere/calls: No such file'),
                ((traced, dir + '/Makefile', '1', '3'), 1, 'File exists; remove it'),
                ((histogram, dir + '/none', *FUNCTIONS), 1, 'No such file'),
                ((histogram, path, 'x', 'function_exit', 'id'), 1, 'x: the region has no such event'),
                ((histogram, path, 'function_entry', 'function_exit', 'x'), 1, 'no integer field'),
                ((policy, path, 'nope'), 1, 'there are: spin, adaptive, timer, futex, doorbell, backoff'),
                ((policy, path, 'backoff:'), 1, 'Invalid'), ((policy, path, 'backoff:1'), 1, 'Invalid'),
                ((policy, path, 'backoff:900x'), 1, 'Invalid'),
                ((policy, dir + '/Makefile', 'backoff'), 1, 'too few for a region')):
            out = run(env, *args, status=status)
            assert said in out, f'{args}: {out}'


def cpu_ticks(pid):
    with open(f'/proc/{pid}/stat', encoding='utf-8') as f:
        return int(f.read().rsplit(')', 1)[1].split()[11])


def is_published(path):
    with contextlib.suppress(FileNotFoundError), open(path, 'rb') as f:
        return f.read(8) == b'HTRACE01'
    return False


@contextlib.contextmanager
def stopped_program(dir, env):
    """A traced-threads of 2 threads, stopped while they work."""
    path = dir + '/calls'
    with subprocess.Popen([dir + '/traced-threads', path, '2', str(DEPTH)], env=env,
                          stdout=subprocess.PIPE, text=True) as program:
        try:
            while not is_published(path):
                assert program.poll() is None
                time.sleep(0.001)
            start = cpu_ticks(program.pid)
            while cpu_ticks(program.pid) < start + 2:  # after this nothing else takes time
                assert program.poll() is None
                time.sleep(0.001)
            program.send_signal(signal.SIGSTOP)
            yield program, path
        finally:
            program.kill()


def test_gap():
    """Loss while the histogram reads: every event is in exactly one of its numbers."""
    with built() as (dir, env), stopped_program(dir, env) as (program, path):
        with subprocess.Popen([dir + '/latency-histogram', path, *FUNCTIONS], env=env, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE) as histogram:
            assert 'reading 2 rings' in histogram.stderr.readline()
            time.sleep(1)  # it has read what there is
            assert program.poll() is None, 'the program was not stopped in time'
            histogram.send_signal(signal.SIGSTOP)
            program.send_signal(signal.SIGCONT)
            calls = int(program.communicate(timeout=120)[0].split()[0])
            histogram.send_signal(signal.SIGCONT)
            n = parse(histogram.communicate(timeout=120)[0])
        say(n)
        assert calls == nr_calls(2, DEPTH), calls
        assert n['lost'] > 0 and n['pairs'] > 0 and n['gaps'] + n['begins'] + n['ends'] > 0, n
        assert 2 * (n['pairs'] + n['gaps']) + n['begins'] + n['ends'] == n['read'], n
        assert n['read'] + n['lost'] + n['before'] == 2 * calls, n


def test_policy():
    """It backs off while nothing comes, and wakes at once from the longest sleep."""
    with built() as (dir, env), stopped_program(dir, env) as (program, path):
        polls = {}
        for policy in 'backoff:50000', 'spin', 'backoff:1000000':
            with subprocess.Popen([dir + '/sync-policy', path, policy], env=env, text=True,
                                  stdout=subprocess.PIPE) as reader:
                time.sleep(2)
                reader.send_signal(signal.SIGINT)
                out = reader.communicate(timeout=30)[0]
            say(policy + ':', out.strip())
            polls[policy] = int(re.search(r'polled (\d+) times', out)[1])
            assert int(out.split()[0]) > 0, out
        assert program.poll() is None
        # one in 50 ms, one more at each of the reader's own looks, and those of the beginning
        assert 5 <= polls['backoff:50000'] < 200 and polls['spin'] > 10000, polls


# Writes what it is told to: "RING EVENT KEY TIMES" a line, so loss is where a test wants it. Event 3 is
# a record that is reserved and never committed.
WRITER = r'''
#include <htrace/producer.h>
#include <htrace/schema.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 2, .ring_size = 4096, .block_size = 1024,
	};
	static const char *const names[] = { "begins", "ends", "other" };
	struct htrace_schema_member member = { .name = "key" };
	struct htrace_schema_builder *b;
	struct htrace_producer p[2];
	struct htrace_region *r;
	unsigned int ring, event, times;
	struct htrace_slot slot;
	unsigned long long key;
	const void *entries;
	int type, id[3];
	size_t len;

	if (argc != 2 || htrace_region_create_local(&r, argv[1], 1 << 20, &o, NULL) ||
	    htrace_builder_new(&b, NULL, 0))
		return 1;
	member.type = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	type = htrace_builder_struct(b, "keyed", false, 8, &member, 1);
	for (int i = 0; i < 3; i++)
		id[i] = htrace_builder_event(b, names[i], type);
	entries = htrace_builder_entries(b, &len);
	if (id[2] < 0 || htrace_region_add_schema(r, entries, len))
		return 2;
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	if (htrace_producer_get(&p[0], r, 0, 0) || htrace_producer_get(&p[1], r, 0, 1))
		return 3;
	while (scanf("%u %u %llu %u", &ring, &event, &key, &times) == 4) {
		if (event == 3 && !htrace_producer_reserve(&p[ring], (__u32)id[2], 8, &slot))
			return 4;
		while (event < 3 && times--)
			if (htrace_push(&p[ring], (__u32)id[event], &key, 8))
				return 4;
		puts("done");
		fflush(stdout);
	}
	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	return 0;
}
'''


@contextlib.contextmanager
def told_writer(dir, env):
    """(process, region, how to tell it) of the writer above."""
    path = dir + '/region'
    with open(dir + '/writer.c', 'w', encoding='utf-8') as f:
        f.write(WRITER)
    subprocess.run(['make', '-s', 'writer'], cwd=dir, env=env, check=True)
    with subprocess.Popen([dir + '/writer', path], env=env, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as writer:
        def write(ring, event, key, times=1):
            writer.stdin.write(f'{ring} {event} {key} {times}\n')
            writer.stdin.flush()
            assert writer.stdout.readline() == 'done\n'
        yield writer, path, write


@params(0, 1)
def test_pairs_at_gaps(lossy):
    """What began before a loss and ended after it is counted, not used, in whichever ring it was."""
    with built() as (dir, env), told_writer(dir, env) as (writer, path, write):
        def pair(ring, key):
            write(ring, 0, key)
            write(ring, 1, key)
        pair(0, 1)
        pair(1, 2)
        write(0, 0, 3)  # to end after the loss
        with subprocess.Popen([dir + '/latency-histogram', path, 'begins', 'ends', 'key'], env=env,
                              text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as histogram:
            assert 'reading 2 rings' in histogram.stderr.readline()
            time.sleep(1)  # it has read what there is
            histogram.send_signal(signal.SIGSTOP)
            write(lossy, 2, 0, 1000)  # laps the ring
            pair(1 - lossy, 8)  # not known to be one, as long as the other ring's are missing
            write(lossy, 2, 0, 1000)
            write(0, 1, 3)
            write(1, 2, 0)  # rings are whole again from their next record on
            write(0, 2, 0)
            pair(0, 4)
            write(0, 0, 5)  # without an end
            write(1, 1, 6)  # without a begin
            write(1, 0, 7)  # from ring to ring
            write(0, 1, 7)
            writer.stdin.close()
            assert writer.wait(30) == 0
            histogram.send_signal(signal.SIGCONT)
            n = parse(histogram.communicate(timeout=30)[0])
        say(n)
        assert (n['pairs'], n['gaps'], n['begins'], n['ends']) == (4, 2, 1, 1), n
        assert n['read'] + n['lost'] == 2000 + 16 and n['lost'] > 1500 and n['before'] == 0, n


def test_policy_stalled():
    """A record that nobody will ever commit does not keep it awake."""
    with built() as (dir, env), told_writer(dir, env) as (_, path, write):
        write(0, 0, 1)
        write(0, 3, 0)
        write(0, 1, 1)
        with subprocess.Popen([dir + '/sync-policy', path, 'backoff:50000'], env=env, text=True,
                              stdout=subprocess.PIPE) as reader:
            time.sleep(2)
            reader.send_signal(signal.SIGINT)
            out = reader.communicate(timeout=30)[0]
        say(out.strip())
        # nor is what lies in its block readable: a block counts what is committed, not which
        assert out.startswith('0 events, 0 lost') and int(re.search(r'polled (\d+)', out)[1]) < 200, out


OPENS = '''
agent_start --events syscalls --bpf /open-latency.bpf.o || exit 1
mkfifo /tmp/slow
for i in 1 2 3 4 5 6 7; do cat /etc/known; cat /missing; done > /dev/null 2>&1
(sleep 1; echo > /tmp/slow) &
cat /tmp/slow
echo OPENED
sleep 5
agent_stop
agent_start --events none --bpf /open-latency.bpf.o --filter 'ns > 10000000000 || fd < 0' || exit 1
cat /etc/known /missing/too
sleep 1
agent_stop
'''


@params('6.12', thorough=['6.1'])
def test_bpf(kernel):
    """Opens that are known, one that takes a second; and the histogram of a VM's system calls."""
    with built() as (dir, env):
        known = dir + '/known'
        with open(known, 'w', encoding='utf-8') as f:
            f.write('known\n')
        with VM(OPENS, kernel=kernel, cpus=2, add=[dir + '/open-latency.bpf.o:/', known + ':/etc/known']) as vm:
            vm.start()
            path = os.path.join(vm.dir, 'out.json')
            reader = Reader(vm, '-o', 'json:' + path)
            vm.wait_for('OPENED')
            text = run(env, dir + '/latency-histogram', vm.region, 'sys_enter', 'sys_exit', 'tid', '1')
            status = vm.finish()
            assert reader.stop() == 0 and status == 0, reader.err() + vm.console()[-3000:]
            with open(path, encoding='utf-8') as f:
                records = list(map(json.loads, f))
        opens = {}
        for r in records:
            if r.get('event') == 'open_latency':
                opens.setdefault(r['fields']['path'], []).append(r['fields'])
        for name, works in (('/etc/known', True), ('/missing', False)):
            fds = [o['fd'] for o in opens[name]]
            assert len(fds) == 7 and all(fd >= 0 if works else fd == -2 for fd in fds), (name, fds)
        assert len(opens['/missing/too']) == 1  # and no more of /etc/known
        slow = sorted(o['ns'] for o in opens['/tmp/slow'])
        say(f'{sum(map(len, opens.values()))} opens; those of the FIFO: {slow}')
        assert len(slow) == 2 and 5e8 < slow[1] < 6e10, slow
        for line in text.splitlines():
            say(line)
        n = parse(text)
        # alone are a program's exit, and what a new task returns from
        assert n['pairs'] > 5 * (n['begins'] + n['ends'] + n['gaps']) and n['lost'] == 0, n
        assert 5e8 < n['percent'][100] < 6e10, n  # that open, or a sleep

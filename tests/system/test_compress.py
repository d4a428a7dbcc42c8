# SPDX-License-Identifier: LGPL-2.1-or-later
"""guest-agent --compress: the same events as without, in fewer bytes; each is ftrace's."""

import bisect
import os
import re
import signal
import subprocess
import tempfile
import time

import byhand
import ftrace
from harness import params, say
from test_capture import compare_ctf, contents, json_lines, replay
from test_format import wait_until
from test_truth import compare, ours, same
from vm import BUILD, VM, Reader

SWITCHER = os.path.join(BUILD, 'tests', 'switcher')
MARKER = 424242


def in_rings(said):
    """(bytes in the rings, bytes as given out) that the reader's summary tells."""
    m = re.search(r'^compressed +(\d+) bytes in the rings, [\d.]+ an event; (\d+) without$', said, re.M)
    assert m, f'nothing was compressed: {said}'
    return int(m[1]), int(m[2])


def switch_size(said):
    """Bytes a sched_switch took: what is in the rings, less all others, which are there as they are given out."""
    rings, given_out = in_rings(said)
    count, size = {}, {}
    for name, nr, each in re.findall(r'^(\w+) +(\d+) +[\d.]+ % +[\d.]+ +([\d.]+)$', said, re.M):
        count[name], size[name] = int(nr), int(nr) * float(each)
    assert abs(size['total'] - given_out) < 0.01 * given_out, (size['total'], given_out)
    others = sum(size[name] for name in size if name not in ('total', 'sched_switch'))
    return (rings - others) / count['sched_switch'], size['sched_switch'] / count['sched_switch']


@params(('6.12', 2), thorough=[('6.1', 2)])
def test_truth(kernel, cpus):
    """Every event equals ftrace's; a switch takes a third of the bytes."""
    packed, full = switch_size(compare(kernel, cpus, '--compress'))
    say(f'sched_switch: {packed:.2f} bytes in the rings, {full:.2f} without')
    assert packed <= 12 and full >= 24


def stats_of(console):
    """(entries, bytes) of ftrace's buffers."""
    entries = sum(map(int, re.findall(r'^entries: (\d+)', console, re.M)))
    return entries, sum(map(int, re.findall(r'^bytes: (\d+)', console, re.M)))


def test_against_ftrace():
    """Bytes per switch beside ftrace's own, of whose pages trace-cmd's files consist."""
    script = ftrace.SHELL + '''
agent_start --events sched_switch --compress || exit 1
ftrace_on sched/sched_switch
workload mix 4 2 240
ftrace_off
cat $T/per_cpu/cpu*/stats
agent_stop
'''
    with VM(script, kernel='6.12', cpus=2, memory='1536M') as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0 and status == 0, vm.console()[-2000:]
        entries, size = stats_of(vm.console())
        packed, full = switch_size(reader.err())
        say(f'{entries} switches: {packed:.2f} bytes each, {full:.2f} without, {size / entries:.2f} in ftrace\'s buffers')
        assert entries > 5000 and packed <= 12 and packed * 4 < size / entries


def switches(events):
    """Without names, which a reader that lost events may not know."""
    return {cpu: [(at, (e[0], '', *e[2:5], '', *e[6:])) for at, e in of_cpu if e[0] == 'sched_switch']
            for cpu, of_cpu in events.items()}


APART = 0.05  # of the two records of an event, on a machine that has other things to do


def run_of(mine, theirs, k, i):
    """How many from mine[k] and theirs[i] on are the same."""
    run = 0
    while k + run < len(mine) and i + run < len(theirs) and same(mine[k + run][1], theirs[i + run][1]) and \
            abs(mine[k + run][0] - theirs[i + run][0]) < APART:
        run += 1
    return run


def pieces(mine, theirs):
    """Of how many pieces of theirs, without a gap, in their order and at their times, mine consist."""
    times = [at for at, _ in theirs]
    mine = mine[:bisect.bisect([at for at, _ in mine], times[-1])]  # theirs ends first
    nr = k = end = 0
    while k < len(mine):
        at = mine[k][0]
        starts = range(max(end, bisect.bisect(times, at - APART)), bisect.bisect(times, at + APART))
        run, _, start = max(((run_of(mine, theirs, k, i), -abs(theirs[i][0] - at), i) for i in starts), default=(0, 0, 0))
        assert run, f'ftrace has no {mine[k][1]} at {at:.6f}'
        nr, k, end = nr + 1, k + run, start + run
    return nr


LOSSY = '''
agent_start --events sched_switch --compress --buffer 16K --policy overwrite || exit 1
echo BEGIN
workload mix 9 2 || exit 1
'''
# killed twice: the session goes on, first without, then with compression again, which it was begun with
TAKEN_OVER = '''
agent_start --events sched_switch --compress || exit 1
workload mix 2 2 240 || exit 1
kill -KILL $agent
rm /tmp/agent.log
agent_start --events sched_switch || exit 1
grep -q 'session adopted' /tmp/agent.log || exit 2
workload mix 2 2 240 || exit 1
kill -KILL $agent
rm /tmp/agent.log
agent_start --events sched_switch --compress || exit 1
grep -q 'session adopted' /tmp/agent.log || exit 3
! grep -q 'no effect' /tmp/agent.log || exit 4
workload mix 2 2 240 || exit 1
'''


@params(('overrun', '6.1'), ('taken over', '6.12'), thorough=[('overrun', '6.12')])
def test_pieces(how, kernel):
    """Where events are missing, lost by a reader that is overrun or between two agents, those that come are true."""
    script = ftrace.SHELL + f'''
ftrace_on sched/sched_switch
{LOSSY if how == 'overrun' else TAKEN_OVER}
ftrace_off
agent_stop || exit 1
ftrace_dump
'''
    with VM(script, kernel=kernel, cpus=2, memory='1536M', disk_mib=512) as vm:
        vm.start()
        reader = Reader(vm)
        if how == 'overrun':
            vm.wait_for('BEGIN')
            for _ in range(3):
                reader.signal(signal.SIGSTOP)
                time.sleep(2.5)  # a slow guest has to fill 2000 records a CPU
                reader.signal(signal.SIGCONT)
                time.sleep(0.4)
        status = vm.finish(timeout=300)
        assert reader.stop() == 0, reader.err()
        assert status == 0, (status, vm.console()[-2000:])
        theirs, _ = ftrace.read_dump(vm.disk)
        mine, lost = ours(reader.out_path)
        assert (lost > 0) == (how == 'overrun'), lost
        mine, theirs = switches(mine), switches(theirs)
        for cpu in range(2):
            nr = pieces(mine[cpu], theirs[cpu])
            say(f'CPU {cpu}: {len(mine[cpu])} of {len(theirs[cpu])} switches, in {nr} pieces of ftrace\'s; lost at {lost} '
                'places of both CPUs')
            assert len(mine[cpu]) > 500 and 1 < nr <= (lost + 1 if how == 'overrun' else 3)
        in_rings(reader.err())


def test_no_effect():
    """With what it does not go together that is said, and events are recorded in full."""
    script = f'''
for how in '--stack sched_switch' '--filter prev_tid!=0' '--events syscalls'; do
	case "$how" in --events*) events=;; *) events='--events sched_switch';; esac
	agent_start $events $how --compress || exit 1
	workload mark {MARKER}
	workload mix 1 1 100
	agent_stop || exit 1
done
'''
    with VM(script, kernel='6.12', cpus=1) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0 and status == 0, vm.console()[-2000:]
        said = re.findall(r'--compress has no effect: (.*)', vm.console())
        say('; '.join(said))
        assert len(said) == 3 and 'without stacks' in said[0] and '--filter' in said[1], said
        assert 'compressed' not in reader.err()


# ------------------------------------------------------------------------------- without a guest

class Region:
    """What tests/guest/switcher.c wrote."""

    def __init__(self, directory, how, records, ring=1 << 20):
        self.path = os.path.join(directory, how)
        heads = subprocess.run([SWITCHER, self.path, how, str(records), str(ring)], stdout=subprocess.PIPE, text=True,
                               check=True).stdout
        self.heads = [int(x) for x in heads.split()]


def show(region, *outputs):
    """host-reader reads it to its end, which it is told of by its state; what it says."""
    words = byhand.Region(region.path)
    reader = Reader(f'local:{region.path}', *outputs)
    wait_until('all is read', lambda: words.host()['drained'] == words.session)
    assert reader.stop() == 0, reader.err()
    words.release()
    return reader.err()


def test_outputs():
    """All outputs of a region that is packed are those of one that is not."""
    with tempfile.TemporaryDirectory(prefix='htrace-compress-', dir='/dev/shm') as d:
        shown, full, packed = {}, Region(d, 'full', 20000), Region(d, 'packed', 20000)
        for region, how in (full, 'full'), (packed, 'packed'):
            to = {kind: os.path.join(d, f'{how}.{kind}') for kind in ('text', 'json', 'ctf', 'raw', 'again')}
            said = show(region, *(x for k in ('text', 'json', 'ctf', 'raw') for x in ('-o', f'{k}:{to[k]}')))
            assert ('compressed' in said) == (how == 'packed'), said
            replay(to['raw'], '-o', f'json:{to["again"]}')
            compare_ctf(to['raw'], to['json'])
            shown[how] = [contents(to[k]) for k in ('text', 'json', 'again')]
            shown[how].append(subprocess.run(['babeltrace2', '--clock-cycles', to['ctf']], stdout=subprocess.PIPE, check=True).stdout
                              .replace(how.encode(), b''))
        events = shown['full'][1].count(b'"event"')
        for i, name in enumerate(('text', 'json', 'json of the capture', 'ctf')):
            full_one, packed_one = (shown[how][i].replace(how.encode(), b'') for how in ('full', 'packed'))
            assert full_one == packed_one, f'{name} differs'
        assert events == 40000
        say(f'{events} events: {sum(packed.heads)} bytes, {sum(full.heads)} without')
        assert sum(packed.heads) < 0.55 * sum(full.heads), 'of them a fifth are others, and a fiftieth far apart'


def test_lapped():
    """A ring that went round many times: what is left are the latest of the same events."""
    with tempfile.TemporaryDirectory(prefix='htrace-compress-', dir='/dev/shm') as d:
        kept = {}
        for how, ring in ('full', 1 << 20), ('packed', 1 << 14):
            region = Region(d, how, 20000, ring)
            show(region, '-o', f'json:{d}/{how}.json')
            for event in json_lines(f'{d}/{how}.json'):
                if 'event' in event:
                    kept.setdefault((how, event['cpu']), []).append((event['time'], event['event'], event['fields']))
        for cpu in range(2):
            few = kept['packed', cpu]
            assert 1000 < len(few) < 3000 and few == kept['full', cpu][-len(few):]
            say(f'CPU {cpu}: the last {len(few)} of 20000')


def test_by_hand():
    """What the library packs is read from the document alone."""
    with tempfile.TemporaryDirectory(prefix='htrace-compress-', dir='/dev/shm') as d:
        found = []
        for how in 'full', 'packed':
            region = byhand.Region(Region(d, how, 5000).path)
            assert (region.minor, region.required) == ((1, 2) if how == 'packed' else (0, 0))
            schema = region.read_schema()
            found.append([[(at, *schema.decode(id, payload)) for id, at, payload in region.ring(0, i).read()[0]]
                          for i in range(2)])
        assert found[0] == found[1] and [len(x) for x in found[0]] == [5000, 5000]
        say('10000 records')

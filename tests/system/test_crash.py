# SPDX-License-Identifier: LGPL-2.1-or-later
"""--view crash: the last events before a panic are those that the kernel itself dumps on its console; a shutdown's; a kill's."""

import json
import os
import re
import subprocess
import time

import ftrace
from guestlike import Stage
from harness import params, say
from vm import READER, VM, Reader

# As ftrace_dump_on_oops prints: times are microseconds since the buffer's beginning, names are cut.
DUMPED = re.compile(r'^\[ *(?P<stamp>[\d.]+)\](?:\[[^]]*\])? *(?P<comm>\S.*?)-(?P<tid>\d+) +(?P<cpu>\d+)\D\S* *(?P<us>\d+)us[^:]*: '
                    r'(?P<event>\w+): (?P<rest>.*)$', re.M)
TRACED = ('sched_switch', 'sys_enter')
REBOOT, MAGIC = 169, (0xfee1dead, 0x28121969, 0x4321fedc)  # reboot(2): its number, and to power off


def dumped(console):
    """{cpu: [(us, event)]} of what the panic has put on the console."""
    events = {}
    for m in DUMPED.finditer(console):
        if m['event'] in TRACED:
            events.setdefault(int(m['cpu']), []).append((int(m['us']), ftrace.parse_event(m)))
    return events


def as_ftrace(e):
    """Like ftrace.parse_event()."""
    f = e['fields']
    if e['event'] == 'sys_enter':
        return ('sys_enter', f['tid'], f['nr'], *(a & (1 << 64) - 1 for a in f['args']))
    return ('sched_switch', f['prev_tid.name'], f['prev_tid'], f['prev_prio'], f['prev_state.name'],
            f['next_tid.name'], f['next_tid'], f['next_prio'])


def shown(report):
    """{cpu: [(us, event)]} of a report."""
    return {ring['cpu']: [(e['time'] // 1000, as_ftrace(e)) for e in ring['events'] if e.get('event') in TRACED]
            for ring in report['rings']}


def reports(text):
    return [json.loads(line) for line in text.splitlines()]


def same_end(ours, theirs, slack):
    """Theirs is how ours ends, but for @slack events that only one of two observers saw when the CPU was stopped."""
    for mine in range(slack + 1):
        for cut in range(slack + 1):
            want = [e for _, e in theirs[:len(theirs) - cut]]
            have = ours[:len(ours) - mine][-len(want):]
            if [e for _, e in have] == want:
                return have, theirs[:len(want)]
    assert False, f'ours end with {ours[-5:]}, theirs with {theirs[-5:]}'
    return None


@params('6.12', thorough=['6.1'])
def test_panic(kernel):
    """On each CPU, the last events of the report are ftrace's last ones, at the same times."""
    script = ftrace.SHELL + '''
agent_start --mode direct --events sched_switch,sys_enter,printk:console --stack sched_switch || exit 1
ftrace_on sched/sched_switch raw_syscalls/sys_enter
echo 16 > $T/buffer_size_kb
workload mix 1 2 100
echo c > /proc/sysrq-trigger
'''
    with VM(script, kernel=kernel, cpus=2, reboot=True, append='panic=0 loglevel=7 ftrace_dump_on_oops') as vm:
        vm.start()
        raw = os.path.join(vm.dir, 'raw')
        source = f'ivshmem:{vm.region},console={vm.console_path}'
        reader = Reader(source, '--view', 'crash:json:1000', '-o', 'text', '-o', 'raw:' + raw)
        vm.wait_for('end Kernel panic', timeout=150)
        reader.wait_for(r'"view":"crash".*\n', where='out')  # by itself
        live = reports(reader.out())
        vm.qemu.kill()
        vm.qemu.wait()
        time.sleep(0.5)
        assert reader.stop() == 0, reader.err()
        page = subprocess.run([READER, '--view', 'crash:6', f'file:{raw},console={vm.console_path}'], check=True, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE).stdout
        console = vm.console()
    for line in page.splitlines()[:40]:
        say(line)
    report = live[0]
    assert 'silent' in report['end'][0] and 'panic' in report['end'][0], report['end']
    assert 'Kernel panic - not syncing: sysrq triggered crash' in report['console']['last_words']
    ours, theirs = shown(report), dumped(console)
    assert set(theirs) == {0, 1}, f'ftrace dumped {[len(e) for e in theirs.values()]} events:\n{console[-2000:]}'
    said = re.search(r'Kernel panic.*?CPU: (\d+) [^\n]*PID: (\d+) Comm: ', console, re.S)
    fell, tid = int(said[1]), int(said[2])
    off = []
    for cpu, mine in ours.items():
        have, want = same_end(mine, theirs[cpu], 0 if cpu == fell else 1)
        assert len(want) >= 20, len(want)
        off += [(b - want[0][0]) - (a - have[0][0]) for (a, _), (b, _) in zip(have, want)]
    assert max(map(abs, off)) < 20000, f'{max(map(abs, off))} us apart'
    calls = [e for r in report['rings'] for e in r['events'] if e.get('event') == 'sys_enter' and e['tid'] == tid]
    last = max(calls, key=lambda e: e['time'])  # write(fd, "c\n", 2)
    assert last['fields']['nr'] == 1 and last['fields']['args'][2] == 2, f'not the write that made it panic: {last}'
    say(f'the last {", ".join(str(len(t)) for t in theirs.values())} events of two CPUs are ftrace\'s, their distances by '
        f'{max(map(abs, off))} us')
    check_stacks(report)
    check_placed(report['console'], last['time'])
    # The same once more from the capture.
    assert re.match(r'==== .*, kernel ' + re.escape(kernel), page), page[:200]
    assert re.search(r'^end: +guest silent .*panic', page, re.M) and 'Kernel panic' in page
    assert re.search(rf'^CPU {fell}: the last 6 of \d+ events$', page, re.M), page
    assert not re.search(r'[^\n -~]', page)


def check_stacks(report):
    stacks = [e['fields']['callstack_kernel'] for r in report['rings'] for e in r['events']
              if e.get('event') == 'sched_switch' and e['fields'].get('callstack_kernel')]
    named = [s for s in stacks if any(f.get('symbol', '').endswith('schedule') for f in s)]
    say(f'{len(stacks)} stacks, {len(named)} through schedule()')
    assert len(named) > 20


def check_placed(console, asked):
    """Lines of the panic lie behind the call that made the kernel say them."""
    assert console['matches'] >= 3 and console['within'] < 1e8, (console['matches'], console['within'])
    times = [x['time'] for x in console['lines'] if 'time' in x]
    say(f'{len(times)} lines of the console, {(min(times) - asked) / 1e6:.1f} to {(max(times) - asked) / 1e6:.1f} ms behind the '
        f'write; {console["matches"]} messages agree within {console["within"] / 1000:.0f} us')
    assert len(times) > 50 and 0 <= min(times) - asked <= max(times) - asked < 60e9


def test_shutdown():
    """
    The agent runs to the end: the last system call of others is the one that powers the machine off. Before, all is
    killed that systemd-shutdown(8) kills; with systemd itself: tools/long-tests.sh --units.
    """
    script = '''
agent_start --mode direct --events sched_switch,sys_enter --until-off || exit 1
workload mix 1 1 50
sleep 100 &
for p in /proc/[0-9]*; do
	case "$(head -c 1 $p/cmdline 2>/dev/null)" in
	'' | @) ;; # the kernel's own threads, and who is marked so
	*) [ ${p#/proc/} = 1 ] || [ ${p#/proc/} = $$ ] || kill -9 ${p#/proc/} ;;
	esac
done
sleep 0.1
kill -0 $! && exit 1
true
'''
    with VM(script, kernel='6.12') as vm:
        vm.start()
        reader = Reader(f'ivshmem:{vm.region},console={vm.console_path}', '--view', 'crash:json', '-o', 'text')
        vm.qemu.wait(150)
        reader.wait_for(r'"view":"crash".*\n', where='out')
        report = reports(reader.out())[0]
        assert reader.stop() == 0, reader.err()
    assert 'gone' in report['end'][0], report['end']
    calls = [e for r in report['rings'] for e in r['events']  # the agent may run while the kernel, in that call, waits
             if e['event'] == 'sys_enter' and e.get('comm') != 'guest-agent']
    last = max(calls, key=lambda e: e['time'])
    assert last['fields']['nr'] == REBOOT, last
    assert tuple(a & 0xffffffff for a in last['fields']['args'][:3]) == MAGIC, last
    assert 'reboot: Power down' in report['console']['last_words'], report['console']
    say(f'last: reboot(2) by {last["comm"]}; {report["console"]["last_words"]}')


def test_ends():
    """Who is killed, who stops properly, and who goes on: one report each, of as many events, saying what is known."""
    with Stage() as stage:
        guest = stage.guest()
        reader = stage.reader('--view', 'crash:json:10', '-o', 'text:' + stage.path('out'))

        def found(count):
            end = time.time() + 20
            while time.time() < end:
                with open(stage.path('out'), encoding='ascii') as f:
                    text = f.read()
                if text.count('\n') >= count:
                    return reports(text)
                time.sleep(0.05)
            raise AssertionError(f'{text}\n{reader.err()}')

        time.sleep(1.2)  # its process is looked for
        guest.do('w 0 100')
        guest.do('w 1 7')
        time.sleep(0.3)
        guest.kill()
        killed = found(1)[0]
        guest = stage.guest()
        reader.wait_for('CPUs', count=2)
        guest.do('w 0 100')
        guest.close()
        stopped = found(2)[1]
        guest = stage.guest()
        reader.wait_for('CPUs', count=3)
        guest.do('w 1 3')
        time.sleep(0.5)
        assert reader.stop() == 0, reader.err()
        alive = found(3)
        assert len(alive) == 3, alive
        guest.close()
        for report, said, numbers in ((killed, 'is gone', {0: range(90, 100), 1: range(7)}),
                                      (stopped, 'its agent ended the session', {0: range(90, 100)}),
                                      (alive[2], 'host-reader was ended', {1: range(3)})):
            say(*report['end'], {r['cpu']: len(r['events']) for r in report['rings']})
            assert any(said in end for end in report['end']), report['end']
            assert {r['cpu']: [e['fields']['number'] for e in r['events']] for r in report['rings'] if r['count']} == \
                {cpu: list(n) for cpu, n in numbers.items()}, report


def test_refused():
    """What is no console, or has no use for one, is said before anything is read."""
    with Stage() as stage:
        for args, what in ((['--view', 'crash', f'ivshmem:{stage.path("r")},console=/nonexistent'], 'start the VM first'),
                           (['--view', 'crash', f'ivshmem:{stage.path("r")},console=/dev/zero'], 'not a regular file'),
                           (['--view', 'crash:0', 'local:/x'], 'unknown view'),
                           (['--view', 'crash:1001', 'local:/x'], 'up to 1000'),
                           ([f'ivshmem:{stage.path("r")},console=/dev/zero'], 'console= is for --view crash')):
            run = subprocess.run([READER, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
            assert run.returncode and what in run.stderr, (args, run.stderr)

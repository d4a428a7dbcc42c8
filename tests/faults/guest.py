# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest that traces itself, its VMM and its reader, to whom things happen at random moments.

The guest's own faults are a script, made beforehand; the host's come meanwhile. The workload's processes number
their calls, and count those that they made in a file; the guest prints it where each fault begins. While there
is no agent, calls are not recorded: what was made then may be in the trace or not.
"""

import json
import os
import random
import re
import signal
import socket
import time

import outputs
from host import Host, join
from outputs import Wrong
from pace import HOW, Pacer
from vm import COUNTED, INT3, VM, EmulationFault

VALUE = 424242   # as in counted.bpf.c
RATE = 500       # of each process
LIFE_CPUS = 16   # as in workload.c
PAUSE = 0.2, 1.0 # between two faults of the host's; the guest's take longer by themselves

SCRIPT = f'''
life=0
work_start() {{
	workload steady {RATE} {VALUE} /tmp/done $life &
	work=$!
	life=$((life + 1))
}}
kill_agent() {{
	kill -KILL $agent
	wait $agent 2>/dev/null
	rm -f /tmp/agent.log
	agent_start $options || exit 1
	echo BACK; workload told /tmp/done
}}
kill_workload() {{
	kill -KILL $work
	wait $work 2>/dev/null
	work_start
}}
stop_agent() {{ kill -STOP $agent; sleep $1; kill -CONT $agent; }}
stop_workload() {{ killall -STOP workload; sleep $1; killall -CONT workload; }}
clock_jump() {{ date -s @$(($(date +%s) + $1)) > /dev/null; }}
vCPU_offline() {{
	echo 0 > /sys/devices/system/cpu/cpu1/online || exit 1
	sleep $1
	echo 1 > /sys/devices/system/cpu/cpu1/online
}}
'''


class Monitor:
    """QEMU's."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.file = self.socket.makefile('rw')
        self.file.readline()  # its greeting
        self.do('qmp_capabilities')

    def answer(self, *kinds):
        while True:
            answer = json.loads(self.file.readline())
            if 'error' in answer:
                raise Wrong(f'QEMU says: {answer}')
            if any(answer.get('event') == k or k in answer for k in kinds):
                return answer

    def do(self, command, **arguments):
        self.file.write(json.dumps({'execute': command, 'arguments': arguments}) + '\n')
        self.file.flush()
        return self.answer('return')['return']

    def close(self):
        self.file.close()
        self.socket.close()


DONE = r'DONE\nTOLD .*\n'

# (kernel, policy, vCPUs, faults inside the guest, those outside, the last one)
BOOTS = [
    ('6.12', 'overwrite', 2,
     ['kill agent', 'kill workload', 'stop agent', 'stop workload', 'clock jump', 'vCPU offline'],
     ['kill reader', 'kill reader', 'stop reader', 'stop QEMU', 'full disk', 'directory moved'], 'kill QEMU'),
    ('6.1', 'discard', 2,
     ['kill agent', 'kill workload', 'stop agent', 'stop workload', 'clock jump'],
     ['kill reader', 'stop reader', 'stop QEMU', 'full disk', 'directory removed', 'vCPU unplugged'],
     'file truncated'),
    ('6.12', 'discard', 1, ['kill agent', 'kill workload'], ['kill reader', 'stop QEMU'], 'kill QEMU'),
]
# Those whose workload's speed is looked at, beside a reader that is stopped.
PACED = {policy: ('6.12', policy, 1, [], [], 'kill QEMU') for policy in ('discard', 'overwrite')}
TIMED = 10000  # calls a round,
PACED_RING = '64K'  # which are more than its ring holds
TURN = 0.005   # of a slow reader


class Guest(Host):
    """@boot: one of the above. @pace: how often the workload's speed is looked at, before anything happens."""

    def __init__(self, seed, boot, pace=0):
        super().__init__(random.Random(f'{seed}/guest {boot}'), outputs.COUNTED)
        kernel, self.policy, cpus, inside, outside, self.last = boot
        self.name = f'guest, {kernel}, {self.policy}, {cpus} vCPUs, seed {seed}'
        self.inside, self.outside, self.pace = list(inside), list(outside), pace
        self.rng.shuffle(self.inside)
        self.rng.shuffle(self.outside)
        self.cpus = cpus
        self.vm = VM(self.script(), kernel=kernel, cpus=cpus, add=[COUNTED])
        self.qmp = os.path.join(self.vm.dir, 'qmp')
        self.vm.command += ['--qmp', self.qmp]
        self.console = ''
        self.timed = {how: [] for how in HOW}
        self.lost = 0

    def sources(self):
        return [f'ivshmem:{self.vm.region}']

    def script(self):
        ring = f' --buffer {PACED_RING}' if self.pace else ''
        lines = [SCRIPT, f'options="--events none --bpf /counted.bpf.o --policy {self.policy}{ring}"',
                 'agent_start $options || exit 1', 'echo READY', 'sleep 1']
        for i in range(self.pace):
            lines += [f'echo ROUND{i}', 'sleep 0.5', f'echo TIMED{i}=$(workload timed {TIMED} {VALUE} {40 + i})']
        lines += ['work_start']
        for fault in self.inside:
            arg = self.rng.randint(-10**6, 10**6) if fault == 'clock jump' else f'0.{self.rng.randint(1, 8)}'
            lines += [f'sleep 0.{self.rng.randint(1, 9)}', f'echo FAULT {fault}', 'workload told /tmp/done',
                      f'{fault.replace(" ", "_")} {arg}']
        lines += ['sleep 1', 'while :; do', 'echo DONE; workload told /tmp/done', 'sleep 1', 'done']
        return '\n'.join(lines) + '\n'

    # ------------------------------------------------------------------------------ what happens

    def do_stop_QEMU(self):
        self.stop(self.vm.qemu)

    def do_vCPU_unplugged(self):
        """Asked for by the VMM, done by the guest."""
        monitor = Monitor(self.qmp)
        cpus = monitor.do('query-hotpluggable-cpus')
        path = next(c['qom-path'] for c in cpus if any(c['props'].values()))
        monitor.do('device_del', id=path)
        monitor.answer('DEVICE_DELETED')
        monitor.close()

    def wait_until_done(self, more=0):
        """The guest has told of all that was done, and then so many times."""
        self.vm.wait_for(DONE, count=len(re.findall(DONE, self.vm.console())) + more if more else 1)

    def do_kill_QEMU(self):
        """While the reader stands still: what was recorded meanwhile, a second at least, is in the rings alone."""
        time.sleep(0.5)  # the rings of an agent that came last are mapped
        self.reader.process.send_signal(signal.SIGSTOP)
        self.wait_until_done(2)
        self.vm.qemu.kill()
        self.vm.qemu.wait()
        self.reader.process.send_signal(signal.SIGCONT)
        self.reader.wait_for('silent')
        time.sleep(0.3)
        self.reader.end((0,))

    def do_file_truncated(self):
        time.sleep(0.5)  # what is read until then is delivered
        os.truncate(self.vm.region, self.rng.choice([0, 4096 * self.rng.randrange(16)]))
        self.reader.wait_for('the file was truncated')
        if self.reader.process.wait(20) != 1:  # it was all that there was to read
            raise Wrong(f'the reader ended with {self.reader.process.returncode}:\n{self.reader.err()[-3000:]}')

    def measure(self):
        """By turns the reader runs, is slow, and stands still."""
        for i in range(self.pace):
            how = HOW[i % len(HOW)]
            self.vm.wait_for(f'ROUND{i}\n')
            with Pacer(self.reader.process, how, TURN):
                self.vm.wait_for(rf'TIMED{i}=\d+\n')
            self.timed[how].append(int(re.search(rf'TIMED{i}=(\d+)\n', self.vm.console())[1]))

    def play(self):
        self.vm.start()
        self.start_reader()
        self.vm.wait_for('READY')
        self.reader.wait_for('direct')
        self.measure()
        while self.outside:
            time.sleep(self.rng.uniform(*PAUSE))
            self.do(self.outside.pop())
        self.wait_until_done()
        time.sleep(self.rng.uniform(*PAUSE))
        self.reader.wait_for('rings of')
        self.log.append(self.last)
        {'kill QEMU': self.do_kill_QEMU, 'file truncated': self.do_file_truncated}[self.last]()

    # ------------------------------------------------------------------------------ the account

    def told(self):
        """[(line before it, {who: calls made})], of those at the end the last."""
        lines = self.vm.console().rpartition('\n')[0].splitlines()
        told = [(before, dict(tuple(map(int, did.split('='))) for did in line.split()[1:]))
                for before, line in zip(lines, lines[1:]) if line.startswith('TOLD')]
        done = [t for t in told if t[0] == 'DONE']
        return [t for t in told if t not in done] + done[-1:]

    def required(self):
        """({who: ranges of calls that were recorded for sure}, [(fault, state when it began)])"""
        need, faults, since = {}, [], {}
        for before, did in self.told():
            if before == 'BACK':
                since = did
                continue
            faults.append((before.replace('FAULT ', ''), did))
            if before in ('FAULT kill agent', 'DONE'):
                for who, nr in did.items():
                    need.setdefault(who, []).append((since.get(who, 0), nr))
        return need, faults

    def account(self):
        """As Scene.account(): by fault of the guest's, of what was recorded for sure."""
        need, faults = self.required()
        found, last, lost, again, within, ended = {}, {}, 0, 0, 0, False
        for r in self.readers:
            records, losses = r.read()
            lost += sum(sum(of.values()) for of in losses.values())
            here = {}
            for (who, _), seqs in records.items():
                join(here, {who: seqs}, r.dir, False)
            if self.policy == 'discard':
                again += join(found, here, r.dir, ended)
            for who, seqs in here.items():
                found.setdefault(who, set()).update(seqs)
                within += sum(n not in seqs for span in need.get(who, [])
                              for n in range(max(min(seqs), span[0]), min(max(seqs), span[1])))
            last, ended = here, r.killed or r.failed
        self.lost = lost
        # A flight recorder that was not lapped has all; who discards what was read has the rest.
        have = last if self.policy == 'overwrite' else found
        missing = sum(len(set(range(*span)) - have.get(who, set())) for who, spans in need.items() for span in spans)
        # Each has a raw capture: what is not in that stays in the rings, unless its directory was taken away.
        gone = sum(r.gone for r in self.readers)
        if missing > lost + (RATE * self.cpus * gone if self.policy == 'discard' else 0):
            raise Wrong(f'{missing} records are missing, {lost} are counted as lost')
        if self.policy == 'discard' and within > lost:  # what was read, and not written, would have come next
            raise Wrong(f'{within} records are missing among what readers delivered, {lost} are counted as lost')
        return (self.by_fault(need, faults, found), max(missing - lost, 0), again,
                sum(r.cut_off for r in self.readers))

    def by_fault(self, need, faults, found):
        result = []
        for (fault, at), (_, then) in zip(faults, faults[1:] + faults[-1:]):
            sure = {who: {n for span in need.get(who, []) for n in range(*span)
                          if at.get(who, 0) <= n < then.get(who, 0)} for who in then}
            result.append((fault, sum(map(len, sure.values())),
                           sum(len(seqs & found.get(who, set())) for who, seqs in sure.items())))
        return [r for r in result if r[0] != 'DONE'] + [(fault, None, None) for fault in self.log]

    def close(self):
        self.console = self.vm.console()
        self.vm.close()
        super().close()

    def run(self):
        """(account() or None, what was wrong or None)"""
        result = []

        def play():
            self.play()
            result.append(self.account())

        why = self.attempt(play)
        if why and re.search(INT3, self.console):
            raise EmulationFault(why)
        return result[0] if not why else None, why

# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest whose agent was replaced by a program that writes over all that it shares, beside one that behaves: the
reader of both lives, stays small, and loses nothing of the other. HTRACE_VANDAL_SECONDS=60 for longer.
"""

import os
import re
import time

from harness import say
from test_hostile import LINES, MEMORY
from vm import BUILD, COUNTED, VM, Reader

VANDAL = os.path.join(BUILD, 'tests', 'vandal')
SECONDS = int(os.environ.get('HTRACE_VANDAL_SECONDS', '10'))
RATE, VALUE = 1000, 424242
TICKS = os.sysconf('SC_CLK_TCK')

EVIL = f'''
agent_start --events sched,syscalls || exit 1
workload mix 3 || exit 1
kill -KILL $agent
wait $agent 2>/dev/null
echo REPLACED
workload mix {SECONDS + 10} 1 > /dev/null & # its programs are gone, its clock goes on
vandal {SECONDS} 7 /sys/bus/pci/devices/*/resource2 /sys/fs/bpf/htrace/rings
'''
GOOD = f'''
agent_start --events none --bpf /counted.bpf.o || exit 1
echo READY
workload pace {RATE} {SECONDS + 4} {VALUE} || exit 1
sleep 1
agent_stop
'''


def cpu_seconds(pid):
    with open(f'/proc/{pid}/stat', encoding='ascii') as f:
        fields = f.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def private(pid):
    with open(f'/proc/{pid}/status', encoding='ascii') as f:
        return int(re.search(r'RssAnon:\s+(\d+)', f.read())[1])


def numbers(path, mark):
    """{cpu: [numbers]} of what the good guest counted."""
    found = {}
    with open(path, encoding='ascii') as f:
        for line in f:
            if not line.startswith(mark):
                continue
            m = re.search(r'\[(\d+)\] .* counted: .*number=(\d+)', line)
            if m:
                found.setdefault(int(m[1]), []).append(int(m[2]))
    return found


def test_agent_replaced():
    """Every byte of the device and of the rings in guest RAM, again and again."""
    with VM(GOOD, cpus=2, add=[COUNTED]) as good, VM(EVIL, cpus=1, add=[VANDAL + ':/bin/']) as evil:
        evil.start()
        good.start()
        reader = Reader(f'ivshmem:{good.region}', f'ivshmem:{evil.region}')
        reader.wait_for(f'{evil.region}: .*direct')
        evil.wait_for('REPLACED')
        good.wait_for('READY')
        with open(f'/proc/{reader.process.pid}/maps', encoding='utf-8') as f:
            ram = [line.split()[1] for line in f if 'memory-backend' in line]
        assert ram and set(ram) == {'r--s'}, ram
        start, used, most = time.time(), cpu_seconds(reader.process.pid), 0
        while evil.qemu.poll() is None or good.qemu.poll() is None:
            assert reader.process.poll() is None, reader.err()[-3000:]
            most = max(most, private(reader.process.pid))
            assert time.time() < start + 10 * SECONDS + 120, 'a guest hangs'
            time.sleep(0.1)
        took = time.time() - start
        share = (cpu_seconds(reader.process.pid) - used) / took
        assert evil.finish() == 0, evil.console()[-3000:]
        assert good.finish() == 0, good.console()[-3000:]
        status = reader.stop()
        text = reader.err()
        assert status in (0, 1), (status, text[-3000:])  # 1: what it read last was no region
        lines = len(re.findall('^host-reader: ', text, re.M))
        found = numbers(reader.out_path, f'[{good.region}] ')
        counts = [int(n) for n in re.findall(r'^paced (\d+) in', good.console(), re.M)]
        say(f'{took:.0f} s: {most >> 10} MiB, {100 * share:.0f} % of a CPU, {lines} messages, '
            f'{sum(map(len, found.values()))} records of the good guest; ' + evil.console().split('vandal: ')[1].split('\n')[0])
        attacked = text.split(f'summary of {evil.region} ---', 1)[1].split('--- summary', 1)[0]
        sessions = int(re.search(r'(\d+) sessions?$', attacked, re.M)[1])
        corrupt = int(re.search(r'corrupt (\d+)', attacked)[1])
        say(f'{sessions} sessions of the other, {corrupt} records corrupt')
        assert sessions > 2 and corrupt, attacked  # it was read, and not just refused
        assert sorted(found) == [0, 1], sorted(found)
        for cpu, got in found.items():
            assert got == list(range(len(got))), f'CPU {cpu}: a gap, or something twice'
        assert sum(map(len, found.values())) == sum(counts), (counts, {c: len(n) for c, n in found.items()})
        for path in reader.out_path, reader.err_path:
            with open(path, 'rb') as f:
                while part := f.read(1 << 20):
                    bad = part.translate(None, bytes(range(0x20, 0x7f)) + b'\n')
                    assert not bad, f'{path}: bytes {set(bad)}'
        assert most < MEMORY, f'{most} KiB'
        assert share < 0.9, f'{share:.2f} of a CPU'
        assert lines < 2 * LINES + took, f'{lines} messages'

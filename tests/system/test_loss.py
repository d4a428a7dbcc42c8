# SPDX-License-Identifier: LGPL-2.1-or-later
"""Nothing is lost at the default size; what is lost is counted exactly, and shown where."""

import re
import signal
import time

import readertext
from harness import params, say
from vm import COUNTED, VM, Reader

VALUE = 424242  # as in tests/guest/counted.bpf.c
CALLS = 60000


def totals(text):
    """received, lost of the summary."""
    m = re.search(r'received +(\d+).*?lost +(\d+)', text, re.S)
    assert m, text
    return int(m[1]), int(m[2])


@params('6.1', '6.12')
def test_none_at_default_size(kernel):
    """All events of a busy guest, the reader on its default policy."""
    script = '''
agent_start || exit 1
workload mix 10 2
agent_stop
'''
    with VM(script, kernel=kernel, cpus=2, memory='1G') as vm:
        vm.start()
        reader = Reader(vm, '--view', 'summary')
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        for line in reader.out().splitlines():
            say(line)
        received, lost = totals(reader.out())
        assert lost == 0 and received > 200000, (received, lost)


@params(('overwrite', '6.12'), ('discard', '6.12'), ('overwrite', '6.1'), ('discard', '6.1'))
def test_exact(policy, kernel):
    """
    A tiny ring and a stopped reader. Each CPU makes a known number of numbered calls, so what was
    produced is known without asking the ring, and so is which records are missing.
    """
    script = f'''
agent_start --events none --bpf /counted.bpf.o --buffer 64K --policy {policy} || exit 1
echo READY
until [ -e /tmp/go ]; do sleep 0.1; [ "$(cut -d. -f1 /proc/uptime)" -gt 15 ] && touch /tmp/go; done
workload count {CALLS} {VALUE}
echo COUNTED
sleep 6
workload count 1000 {VALUE}
sleep 1
agent_stop
'''
    cpus = 2
    with VM(script, kernel=kernel, cpus=cpus, add=[COUNTED]) as vm:
        vm.start()
        reader = Reader(vm)
        vm.wait_for('READY')
        reader.wait_for('direct')
        reader.signal(signal.SIGSTOP)
        vm.wait_for('COUNTED', timeout=180)
        time.sleep(1)
        reader.signal(signal.SIGCONT)
        status = vm.finish()
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]

        produced = CALLS + 1000
        for cpu in range(cpus):
            expect, received, lost, gaps = 0, 0, 0, 0
            pending = 0  # lost according to the marker since the last record
            for _, c, rest in readertext.lines(reader.out_path):
                if c != cpu:
                    continue
                gap = readertext.LOST.search(rest)
                if gap:
                    pending += int(gap['n'])
                    continue
                m = readertext.EVENT.match(rest)
                if m['event'] != 'counted':
                    continue
                number = int(readertext.value(m['fields'], 'number'))
                if number == 0 and expect == CALLS + pending:
                    expect, pending = 0, 0  # second round of calls
                if number == 0 and expect + pending == CALLS:
                    lost += pending
                    expect, pending = 0, 0
                if number != expect:
                    assert number == expect + pending, \
                        f'CPU {cpu}: record {number} after {expect - 1}, marker says {pending} lost'
                    lost += pending
                    gaps += 1
                    pending = 0
                assert pending == 0, f'CPU {cpu}: marker of {pending} lost, but none is missing'
                expect = number + 1
                received += 1
            lost += pending
            say(f'CPU {cpu}: produced {produced} = received {received} + lost {lost} '
                f'(in {gaps} gaps, each where the marker is)')
            assert received + lost == produced, (received, lost, produced)
            assert lost > CALLS // 2, 'the ring was not overrun'

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The README's first command, and the same under KVM where that runs Linux guests."""

import os
import re
import subprocess
import time

from harness import Skip, no_kvm, say
from vm import COUNTED, TOP, VM, Reader


def test_demo():
    """Events appear while the guest works; the summary has all that it should have."""
    start = time.time()
    run = subprocess.Popen([os.path.join(TOP, 'tools', 'demo.sh'), '--no-install', '--seconds', '8'],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           text=True)
    first = last = None
    lines = []
    for line in run.stdout:
        if ' sched_switch: ' in line:
            first = first or time.time()
            last = time.time()
        lines.append(line.rstrip())
    assert run.wait(60) == 0, '\n'.join(lines[-40:])
    text = '\n'.join(lines)
    say(f'{time.time() - start:.0f} s in all; events on the terminal for {last - first:.1f} s')
    assert last - first > 0.5, 'not live: all events came at once'
    tail = lines[max(i for i, x in enumerate(lines) if ' sched_switch: ' in x):]
    for line in tail:
        say(line)
    for event in ('sched_switch', 'sched_waking', 'sched_wakeup', 'sched_process_fork',
                  'sched_process_exec', 'sched_process_exit', 'sys_enter', 'sys_exit'):
        assert re.search(r'\b' + event + r': ', text), f'no {event} on the terminal'
        assert re.search(r'\b' + event + r'\b', '\n'.join(tail)), f'no {event} in the summary'
    for word in ('direct', 'lost', 'agent', 'bytes'):
        assert re.search(word, '\n'.join(tail), re.I), f'no {word!r} in the summary'


def test_under_kvm():
    """Direct placement with real exits."""
    if no_kvm():
        raise Skip('no Linux guest runs under KVM on this machine')
    script = '''
agent_start --events none --bpf /counted.bpf.o || exit 1
workload count 50000 424242
sleep 1
agent_stop
'''
    with VM(script, cpus=2, add=[COUNTED]) as vm:
        vm.command += ['--accel', 'kvm']
        vm.start()
        reader = Reader(vm)
        status = vm.finish()
        assert reader.stop() == 0 and status == 0, reader.err()
        assert reader.out().count(' counted: ') == 100000

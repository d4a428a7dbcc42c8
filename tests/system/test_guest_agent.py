# SPDX-License-Identifier: LGPL-2.1-or-later
"""guest-agent in bad situations: one line that says what, why and what to do."""

import re

from harness import params, say
from vm import VM, Reader

TRY = '''
try() { # NAME STATUS COMMAND...
	name=$1; want=$2; shift 2
	timeout -s KILL 20 "$@" > /tmp/out 2>&1
	got=$?
	echo "TRY $name $got $want $(wc -l < /tmp/out)"
	sed 's/^/SAID /' /tmp/out
}
'''


def check(console, expect):
    tries = re.findall(r'^TRY (\S+) (\d+) (\d+) (\d+)\n((?:SAID .*\n)*)', console, re.M)
    seen = {}
    for name, got, want, lines, said in tries:
        text = said.replace('SAID ', '').strip()
        say(f'{name}: exit {got}: {text}')
        assert got == want, f'{name}: exit {got}, not {want}: {text}'
        assert text.startswith('guest-agent: '), text
        if want == '1':
            assert int(lines) == 1, f'{name}: {lines} lines: {text}'
        seen[name] = text
    for name, pattern in expect.items():
        assert name in seen, f'{name} did not run: {console[-2000:]}'
        assert re.search(pattern, seen[name], re.I), f'{name}: {seen[name]}'


@params('6.1', thorough=['6.12'])
def test_refusals(kernel):
    script = TRY + '''
try no-option 2 guest-agent --frobnicate
try bad-size 2 guest-agent --buffer lots
try odd-size 2 guest-agent --buffer 3M
try bad-policy 2 guest-agent --policy maybe
try bad-mode 2 guest-agent --mode telepathy
try unknown-event 2 guest-agent --events no_such_event
try no-object 1 guest-agent --bpf /nonexistent.bpf.o
echo garbage > /tmp/garbage.o
try bad-object 1 guest-agent --bpf /tmp/garbage.o
try bad-address 1 guest-agent --region 0000:00:00.0
mkdir -p /etc
echo 'nobody:x:65534:65534::/:/bin/sh' > /etc/passwd
echo 'nobody:x:65534:' > /etc/group
try not-root 1 su -s /bin/sh nobody -c guest-agent
mount -t tmpfs none /sys/kernel/btf
try no-btf 1 guest-agent
umount /sys/kernel/btf
agent_start --events sched_process_fork || exit 1
try twice 1 guest-agent
kill -0 $agent || echo DISTURBED
agent_stop
for i in 1 2 3; do agent_start --events sched_process_fork || exit 1; agent_stop || exit 1; done
ls /sys/fs/bpf/htrace 2>/dev/null | sed 's/^/LEFT /'
'''
    with VM(script, kernel=kernel) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        check(vm.console(), {
            'no-option': 'frobnicate', 'bad-size': 'lots', 'odd-size': '3M', 'bad-policy': 'maybe',
            'bad-mode': 'telepathy', 'unknown-event': 'no_such_event',
            'no-object': 'nonexistent', 'bad-object': 'garbage', 'bad-address': '00:00.0',
            'not-root': 'root', 'no-btf': 'btf', 'twice': 'already|another',
        })
        assert 'DISTURBED' not in vm.console()
        assert 'LEFT' not in vm.console(), 'a clean exit left something pinned'


def test_no_device():
    with VM(TRY + 'try no-device 1 guest-agent\n', regions=0) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        check(vm.console(), {'no-device': 'ivshmem-plain'})


def test_region_too_small():
    script = TRY + '''
try small 1 guest-agent
'''
    with VM(script, region_size='64K') as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        check(vm.console(), {'small': 'too small|1M'})


def test_two_devices():
    """Two that could be it: refused. A reader that waits on one decides, then the region that is in it."""
    script = TRY + '''
try ambiguous 1 guest-agent
echo AMBIGUOUS
until [ -e /tmp/go ]; do sleep 1; touch /tmp/go; done
sleep 4
agent_start --events sched_process_fork || exit 1
ls / > /dev/null
sleep 2
agent_stop || exit 1
echo SECOND
sleep 3
agent_start --events sched_process_fork || exit 1
agent_stop
'''
    with VM(script, regions=2) as vm:
        vm.start()
        vm.wait_for('AMBIGUOUS')
        reader = Reader(f'ivshmem:{vm.regions[1]}')
        vm.wait_for('SECOND')
        assert reader.stop() == 0, reader.err()
        status = vm.finish()
        assert status == 0, vm.console()[-3000:]
        check(vm.console(), {'ambiguous': '2 ivshmem devices.*--region'})
        assert 'sched_process_fork' in reader.out(), reader.err()
        with open(vm.regions[0], 'rb') as f:
            assert f.read() == bytes(16 << 20), 'the other device was written to'
        say('the device whose reader waited was taken, the other one is untouched')
        devices = re.findall(r'tracing.* region (\S+)', vm.console())
        assert len(devices) == 2 and devices[0] == devices[1], devices
        say('without a reader, the one that holds a region is taken again')


def test_foreign_device():
    script = TRY + '''
try foreign 1 guest-agent
'''
    with VM(script) as vm:
        content = b'someone else was here' * 100
        with open(vm.region, 'wb') as f:
            f.truncate(16 << 20)
            f.write(content)
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        check(vm.console(), {'foreign': 'not libhtrace'})
        with open(vm.region, 'rb') as f:
            assert f.read(len(content)) == content, 'it was overwritten'

# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of paravirtual drivers: the function tracer's, with fields that the kernel's events have."""

import re

import ftrace
import readertext
from harness import params, say
from marks import BEGIN, END, Span
from test_built_in import dev, rwbs
from vm import VM, Reader

# Our event: the driver's function.
CALLS = {
    'virtqueue_notify': 'virtqueue_notify',
    'vring_interrupt': 'vring_interrupt',
    'virtio_queue_rq': 'virtio_queue_rq',
    'virtblk_add_req': 'virtblk_add_req',
    'virtblk_done': 'virtblk_done',
    'virtblk_complete_request': 'blk_mq_complete_request',
    'virtnet_start_xmit': 'start_xmit',
    'virtnet_poll': 'virtnet_poll',
    'virtnet_poll_tx': 'virtnet_poll_tx',
    'virtnet_xmit_done': 'skb_xmit_done',
    'virtnet_recv_done': 'skb_recv_done',
}
NAMES = {function: event for event, function in CALLS.items()}
# An event of the kernel that comes with each call, its text, and the call's fields in that order.
HEX = r'(?:0x)?([0-9a-f]+)'
BESIDE = {
    'block_rq_issue': ('virtblk_add_req', r'(\d+,\d+) (\w+) (\d+) \(.*?\) (\d+) \+ ',
                       [('dev', dev), ('rwbs', rwbs), ('bytes', int), ('sector', int)]),
    'block_rq_complete': ('virtblk_complete_request', r'(\d+,\d+) (\w+) \(.*?\) (\d+) \+ [1-9]',
                          [('dev', dev), ('rwbs', rwbs), ('sector', int)]),
    'net_dev_start_xmit': ('virtnet_start_xmit', r'dev=(eth0) queue_mapping=(\d+) skbaddr=' + HEX +
                           r' .* len=(\d+) ',
                           [('name', str), ('queue', int), ('skbaddr', lambda t: int(t, 16)),
                            ('len', int)]),
    'napi_poll': ('virtnet_poll', r'napi poll on napi struct ' + HEX +
                  r' for device (eth0) work (-?\d+) budget (\d+)',
                  [('napi', lambda t: int(t, 16)), ('name', str), ('work', int), ('budget', int)]),
}
# What has no driver: the loopback device, and what the block layer completes for itself: a request
# that became a flush, then the flush.
OTHERS = r'^dev=lo |for device \(no_device\)| \+ 0 '

SCRIPT = ftrace.SHELL + f'''
counts() {{ # of the kernel itself
	echo "$1 disk $(grep ' vda ' /proc/diskstats)"
	for what in rx_packets tx_packets rx_bytes tx_bytes; do
		echo "$1 $what $(cat /sys/class/net/eth0/statistics/$what)"
	done
}}
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
ping -c 1 10.0.2.2 > /dev/null || exit 1
agent_start --events sys_enter,virtio,virtio_blk,virtio_net || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
echo '{' '.join(CALLS.values())}' > $T/set_ftrace_filter
echo function > $T/current_tracer
ftrace_on raw_syscalls/sys_enter block/block_rq_issue block/block_rq_complete \\
	net/net_dev_start_xmit napi/napi_poll
sync
sleep 1 # nothing of the drivers is under way at the marks
counts BEFORE
workload mark {BEGIN}
for i in 1 2 3; do
	dd if=/dev/zero of=/dev/vda bs=4k count=64 conv=fsync 2> /dev/null
	dd if=/dev/vda of=/dev/null bs=64k count=16 skip=$((i * 16)) 2> /dev/null
	ping -c 3 -i 0.05 -s $((i * 400)) 10.0.2.2 > /dev/null
	dd if=/dev/zero bs=4k count=64 2> /dev/null | nc 10.0.2.100 9 > /dev/null
done
sleep 1
workload mark {END}
counts AFTER
ftrace_off
agent_stop || exit 1
ftrace_dump
'''
NETWORK = ['--', '-netdev', 'user,id=net0,restrict=on,guestfwd=tcp:10.0.2.100:9-cmd:head -c 262144',
           '-device', 'virtio-net-pci,netdev=net0']
LINE = re.compile(r'^.*-\d+\s+\[\d+\]\s+\S+\s+(?P<time>[\d.]+): (?:(?P<event>\w+): (?P<rest>.*)|'
                  r'(?P<function>\w+) <-.*)$')


def theirs_of(path):
    """{cpu: [(time, event, values)]}: calls without values, and what goes with them."""
    events = {}
    for cpu, line in ftrace.complete_lines(path):
        m = LINE.match(line)
        assert m, line
        of_cpu, time = events.setdefault(cpu, []), int(m['time'].replace('.', '')) * 1000
        if m['function']:
            of_cpu.append((time, NAMES[m['function']], []))
        elif m['event'] == 'sys_enter':
            call = ftrace.SYS_ENTER.match(m['rest'])
            of_cpu.append((time, 'mark', [int(call[2].split(',')[0], 16)]))
        else:
            _, pattern, fields = BESIDE[m['event']]
            found = re.match(pattern, m['rest'].strip())
            assert found or re.search(OTHERS, m['rest']), line
            if found:
                of_cpu.append((time, m['event'], [what(text) for text, (_, what) in
                                                  zip(found.groups(), fields)]))
    return events


def ours_of(path):
    """The same; the values are all fields as text."""
    events = {}
    for time, cpu, rest in readertext.lines(path):
        assert not readertext.LOST.search(rest), rest
        m = readertext.EVENT.match(rest)
        of_cpu = events.setdefault(cpu, [])
        if m['event'] == 'sys_enter':
            if re.match(r'121\b', readertext.value(m['fields'], 'nr')):
                arg = readertext.value(m['fields'], 'args').strip('[]').split(',')[0]
                of_cpu.append((time, 'mark', [int(arg, 0)]))
        elif m['event'] in CALLS:
            of_cpu.append((time, m['event'], m['fields']))
    return events


def field(fields, name, like):
    text = readertext.value(fields, name)
    return text if like is str else int(text, 0)


def compare_fields(cpu, mine, theirs):
    """Each call's fields are those of the kernel's event that goes with it; their number."""
    n = 0
    for beside, (name, _, fields) in BESIDE.items():
        both = ['virtnet_poll', 'virtnet_poll_tx'] if beside == 'napi_poll' else [name]
        x = [[field(e[2], f, what if what is str else int) for f, what in fields]
             for e in mine if e[1] in both and
             not (beside == 'block_rq_complete' and field(e[2], 'bytes', int) == 0)]
        y = [e[2] for e in theirs if e[1] == beside]
        assert x == y, f'CPU {cpu}, {both} beside {beside}:\n{x}\n{y}'
        n += len(x)
    return n


def kernel_counts(console):
    """What the kernel's counters went up by between the marks."""
    def of(when):
        found = dict(re.findall(rf'^{when} (\w+) (.*)$', console, re.M))
        disk = found.pop('disk').split()[3:]
        return {**{k: int(v) for k, v in found.items()}, 'reads': int(disk[0]),
                'sectors': int(disk[2]) + int(disk[6]), 'writes': int(disk[4]),
                'flushes': int(disk[15])}
    before, after = of('BEFORE'), of('AFTER')
    return {k: after[k] - before[k] for k in before}


def check_counts(spans, count):
    """Sums over the records against /proc/diskstats and the network device's statistics."""
    def total(event, name):
        return sum(field(e[2], name, int) for span in spans for e in span.of(event)[0])
    done = [e[2] for span in spans for e in span.of('virtblk_complete_request')[0]]
    # A flush is counted twice: as the empty write that asked for it, and apart.
    assert len(done) == count['reads'] + count['writes'], (len(done), count)
    flushes = [f for f in done if field(f, 'bytes', int) == 0]
    assert len(flushes) == count['flushes'] and all('rwbs=1280' in f for f in flushes), flushes
    assert total('virtblk_complete_request', 'bytes') == count['sectors'] * 512
    assert all(field(f, 'error', int) == 0 for f in done)
    assert total('virtnet_poll', 'work') == count['rx_packets']
    assert sum(len(s.of('virtnet_start_xmit')[0]) for s in spans) == count['tx_packets']
    assert total('virtnet_start_xmit', 'len') == count['tx_bytes']
    say(f'{len(done)} requests of {count["sectors"] * 512} bytes, {count["tx_packets"]} packets '
        f'sent, {count["rx_packets"]} received, as the kernel counted them')


def check_latencies(spans):
    """Each request is added, then done, by disk, queue and tag."""
    under_way, n = {}, 0
    events = sorted(e for span in spans for e in span.mine
                    if e[1] in ('virtblk_add_req', 'virtblk_complete_request'))
    for time, name, fields in events:
        key = tuple(readertext.value(fields, f) for f in ('disk', 'queue', 'tag'))
        what = tuple(readertext.value(fields, f) for f in ('sector', 'bytes', 'rwbs'))
        if name == 'virtblk_add_req':
            assert key not in under_way and readertext.value(fields, 'ret') == '0', fields
            under_way[key] = what
        else:
            assert under_way.pop(key) == what, fields
            n += 1
    assert not under_way and n
    say(f'{n} requests matched by queue and tag')


@params(('6.1', 1), ('6.1', 2), ('6.12', 1), ('6.12', 2))
def test_virtio(kernel, cpus):
    with VM(SCRIPT, kernel=kernel, cpus=cpus, memory='1G', disk_mib=64, modules=['virtio_net'],
            append='no_hash_pointers') as vm:
        vm.command += NETWORK
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=200)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert 'left out' not in vm.console(), vm.console()[-2000:]
        mine, theirs = ours_of(reader.out_path), theirs_of(vm.disk)
        spans = [Span(mine[cpu], theirs[cpu]) for cpu in range(cpus)]
        count = {name: sum(span.compare(name, lambda *_: True, f'CPU {cpu}')
                           for cpu, span in enumerate(spans)) for name in CALLS}
        say(', '.join(f'{name} {n}' for name, n in count.items()))
        assert all(count.values()), 'never seen'
        fields = sum(compare_fields(cpu, s.mine, s.theirs) for cpu, s in enumerate(spans))
        say(f'{fields} records with the fields of ftrace\'s events')
        check_counts(spans, kernel_counts(vm.console()))
        check_latencies(spans)
        for span in spans:
            for name, want in (('virtqueue_notify', r'name="(req|input|output)\.\d'),
                               ('vring_interrupt', r'name="(req|input|output)\.\d'),
                               ('virtblk_done', r'queue=\d+ disk="vda"'),
                               ('virtnet_xmit_done', r'queue=0 name="eth0"'),
                               ('virtnet_recv_done', r'queue=0 name="eth0"')):
                for e in span.of(name)[0]:
                    assert re.search(want, e[2]), e


def test_modules_absent():
    """Without the drivers' modules their programs are left out, with a word on what to do."""
    script = '''
guest-agent --events help | sed 's/^/HELP /'
agent_start --events sched_switch,virtio_net,xen || exit 1
agent_stop
'''
    with VM(script) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-2000:]
        said = re.findall(r'guest-agent: (\S+ is left out: .*)', vm.console())
        for line in said:
            say(line)
        assert len(said) == 5 + 8, said
        for line in said:
            assert re.search(r"no function \w+\(\); if that is a module's, load the module before "
                             'the agent', line), line
        assert 'xennet_poll(not in this kernel)' in vm.console()

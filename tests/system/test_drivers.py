# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls of paravirtual drivers: the function tracer's, with fields that the kernel's events have."""

import os
import re

import ftrace
import readertext
from harness import params, say
from marks import BEGIN, END, Span
from test_built_in import dev, rwbs
from vm import VM, Reader, kernel_path, tool

HEX = r'(?:0x)?([0-9a-f]+)'


def hexa(text):
    return int(text, 16)


class Driver:
    """
    calls: our events, and the functions that they are of. Events of the kernel that come with a
    call: name of the call when a request is begun, done, a packet is sent; those of a poll.
    """

    def __init__(self, calls, issue, done, xmit, polls, disk, others):
        self.calls = calls
        self.names = {function: event for event, function in calls.items()}
        self.done, self.xmit, self.add, self.polls = done, xmit, issue, polls
        # The kernel's event: calls, pattern of its text, the fields that are to be alike
        self.beside = {
            'block_rq_issue': ([issue], rf'({disk}) (\w+) (\d+) \(.*?\) (\d+) \+ ',
                               [('dev', dev), ('rwbs', rwbs), ('bytes', int), ('sector', int)]),
            'block_rq_complete': ([done], rf'({disk}) (\w+) \(.*?\) (\d+) \+ [1-9]',
                                  [('dev', dev), ('rwbs', rwbs), ('sector', int)]),
            'net_dev_start_xmit': ([xmit], r'dev=(eth0) queue_mapping=(\d+) skbaddr=' + HEX +
                                   r' .* len=(\d+) ',
                                   [('name', str), ('queue', int), ('skbaddr', hexa),
                                    ('len', int)]),
            'napi_poll': (polls, r'napi poll on napi struct ' + HEX +
                          r' for device (eth0) work (-?\d+) budget (\d+)',
                          [('napi', hexa), ('name', str), ('work', int), ('budget', int)]),
        }
        # Of other devices; and what the block layer completes for itself: a request that became a
        # flush, then the flush.
        self.others = others + r'|^dev=lo |for device \(no_device\)| \+ 0 '

    FTRACE = 'block/block_rq_issue block/block_rq_complete net/net_dev_start_xmit napi/napi_poll'
    LINE = re.compile(r'^.*-\d+\s+\[\d+\]\s+\S+\s+(?P<time>[\d.]+): (?:(?P<event>\w+): (?P<rest>.*)|'
                      r'(?P<function>\w+) <-.*)$')

    def theirs_of(self, path):
        """{cpu: [(time, event, values)]}: calls without values, and what goes with them."""
        events = {}
        for cpu, line in ftrace.complete_lines(path):
            m = self.LINE.match(line)
            assert m, line
            of_cpu, time = events.setdefault(cpu, []), int(m['time'].replace('.', '')) * 1000
            if m['function']:
                of_cpu.append((time, self.names[m['function']], []))
            elif m['event'] == 'sys_enter':
                call = ftrace.SYS_ENTER.match(m['rest'])
                of_cpu.append((time, 'mark', [int(call[2].split(',')[0], 16)]))
            else:
                _, pattern, fields = self.beside[m['event']]
                found = re.match(pattern, m['rest'].strip())
                assert found or re.search(self.others, m['rest']), line
                if found:
                    of_cpu.append((time, m['event'], [what(text) for text, (_, what) in
                                                      zip(found.groups(), fields)]))
        return events

    def ours_of(self, path):
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
            elif m['event'] in self.calls:
                of_cpu.append((time, m['event'], m['fields']))
        return events

    def compare_fields(self, cpu, span):
        """Each call's fields are those of the kernel's event that goes with it; their number."""
        n = 0
        for beside, (calls, _, fields) in self.beside.items():
            x = [[field(e[2], f, what if what is str else int) for f, what in fields]
                 for e in span.mine if e[1] in calls and
                 not (beside == 'block_rq_complete' and field(e[2], 'bytes', int) == 0)]
            y = [e[2] for e in span.theirs if e[1] == beside]
            assert x == y, f'CPU {cpu}, {calls} beside {beside}:\n{x}\n{y}'
            n += len(x)
        return n

    def compare(self, mine, theirs, cpus, unseen=()):
        """All of it, in number, order and fields; the spans."""
        mine, theirs = self.ours_of(mine), self.theirs_of(theirs)
        spans = [Span(mine[cpu], theirs[cpu]) for cpu in range(cpus)]
        count = {name: sum(span.compare(name, lambda *_: True, f'CPU {cpu}')
                           for cpu, span in enumerate(spans)) for name in self.calls}
        say(', '.join(f'{name} {n}' for name, n in count.items()))
        assert all(bool(n) != (name in unseen) for name, n in count.items())
        fields = sum(self.compare_fields(cpu, span) for cpu, span in enumerate(spans))
        say(f'{fields} records with the fields of ftrace\'s events')
        return spans

    def check_counts(self, spans, count):
        """Sums over the records against /proc/diskstats and the network device's statistics."""
        def total(event, name):
            return sum(field(e[2], name, int) for span in spans for e in span.of(event)[0])
        done = [e[2] for span in spans for e in span.of(self.done)[0]]
        # A flush is counted twice: as the empty write that asked for it, and apart.
        assert len(done) == count['reads'] + count['writes'], (len(done), count)
        flushes = [f for f in done if field(f, 'bytes', int) == 0]
        assert len(flushes) == count['flushes'] and all('rwbs=1280' in f for f in flushes), flushes
        assert total(self.done, 'bytes') == count['sectors'] * 512
        assert all(field(f, 'error', int) == 0 for f in done)
        assert total(self.polls[0], 'work') == count['rx_packets']
        assert sum(len(s.of(self.xmit)[0]) for s in spans) == count['tx_packets']
        assert total(self.xmit, 'len') == count['tx_bytes']
        say(f'{len(done)} requests of {count["sectors"] * 512} bytes, {count["tx_packets"]} '
            f'packets sent, {count["rx_packets"]} received, as the kernel counted them')

    def check_tags(self, spans, in_step=True):
        """
        Each request is given to the driver, then done, by disk, queue and tag. Where the clocks of
        the CPUs are not in step, a request that is completed elsewhere may seem to be done before.
        """
        given, done = {}, {}
        for time, name, fields in sorted(e for span in spans for e in span.mine
                                         if e[1] in (self.add, self.done)):
            key = tuple(readertext.value(fields, f) for f in ('disk', 'queue', 'tag'))
            what = tuple(readertext.value(fields, f) for f in ('sector', 'bytes', 'rwbs'))
            assert readertext.value(fields, 'ret') in (None, '0'), fields
            (given if name == self.add else done).setdefault(key, []).append((what, time))
        assert given.keys() == done.keys() and given
        took = []
        for key, requests in given.items():
            assert [what for what, _ in requests] == [what for what, _ in done[key]], key
            took += [b - a for (_, a), (_, b) in zip(requests, done[key])]
        say(f'{len(took)} requests matched by queue and tag, each {min(took) / 1000:.0f} to '
            f'{max(took) / 1000:.0f} us')
        assert min(took) > 0 or not in_step


def field(fields, name, like):
    text = readertext.value(fields, name)
    return text if like is str else int(text, 0)


# Shell code for the guests: counts of the kernel itself, and work for both devices.
SHELL = ftrace.SHELL + '''
counts() { # NAME DISK NET: now, or with the command IN before it, elsewhere
	echo "$1 disk $(grep " $2 " /proc/diskstats)"
	for what in rx_packets tx_packets rx_bytes tx_bytes; do
		echo "$1 $what $($IN cat $STATISTICS/$what)"
	done
}
disk_work() { # DISK
	dd if=/dev/zero of=$1 bs=4k count=64 conv=fsync 2> /dev/null
	dd if=$1 of=/dev/null bs=64k count=16 skip=$((i * 16)) 2> /dev/null
}
'''


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


# ------------------------------------------------------------------------------------------ virtio

VIRTIO = Driver({
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
}, 'virtblk_add_req', 'virtblk_complete_request', 'virtnet_start_xmit',
    ['virtnet_poll', 'virtnet_poll_tx'], r'\d+,\d+', '^none')

VIRTIO_SCRIPT = SHELL + f'''
STATISTICS=/sys/class/net/eth0/statistics
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up
ping -c 1 10.0.2.2 > /dev/null || exit 1
agent_start --events sys_enter,virtio,virtio_blk,virtio_net || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
echo '{' '.join(VIRTIO.calls.values())}' > $T/set_ftrace_filter
echo function > $T/current_tracer
ftrace_on raw_syscalls/sys_enter {Driver.FTRACE}
sync
sleep 1 # nothing of the drivers is under way at the marks
counts BEFORE vda
workload mark {BEGIN}
for i in 1 2 3; do
	disk_work /dev/vda
	ping -c 3 -i 0.05 -s $((i * 400)) 10.0.2.2 > /dev/null
	dd if=/dev/zero bs=4k count=64 2> /dev/null | nc 10.0.2.100 9 > /dev/null
done
sleep 1
workload mark {END}
counts AFTER vda
ftrace_off
agent_stop || exit 1
ftrace_dump
'''
NETWORK = ['--', '-netdev', 'user,id=net0,restrict=on,guestfwd=tcp:10.0.2.100:9-cmd:head -c 262144',
           '-device', 'virtio-net-pci,netdev=net0']


@params(('6.1', 2), thorough=[('6.1', 1), ('6.12', 1), ('6.12', 2)])
def test_virtio(kernel, cpus):
    with VM(VIRTIO_SCRIPT, kernel=kernel, cpus=cpus, memory='1G', disk_mib=64,
            modules=['virtio_net'], append='no_hash_pointers') as vm:
        vm.command += NETWORK
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=200)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert 'left out' not in vm.console(), vm.console()[-2000:]
        spans = VIRTIO.compare(reader.out_path, vm.disk, cpus)
        VIRTIO.check_counts(spans, kernel_counts(vm.console()))
        VIRTIO.check_tags(spans)
        for span in spans:
            for name, want in (('virtqueue_notify', r'name="(req|input|output)\.\d'),
                               ('vring_interrupt', r'name="(req|input|output)\.\d'),
                               ('virtblk_done', r'queue=\d+ disk="vda"'),
                               ('virtnet_xmit_done', r'queue=0 name="eth0"'),
                               ('virtnet_recv_done', r'queue=0 name="eth0"')):
                for e in span.of(name)[0]:
                    assert re.search(want, e[2]), e


def probed(vm, platform, expect):
    """guest-agent --probe says so of the machine, and as much of each of these."""
    said = re.search(r'^Runs on (.*), Linux (\S+) \S+\n((?:\S.*:\n|  .*\n)+)', vm.console(), re.M)
    assert said and said[1].startswith(platform), vm.console()[-2000:]
    rows = {row[0]: row[1:] for row in re.findall(r'^  (\S.{13})  (.{4})  (.*)$', said[3], re.M)}
    rows = {what.strip(): (answer.strip(), text) for what, (answer, text) in rows.items()}
    for what, (answer, text) in expect.items():
        assert rows[what][0] == answer and re.search(text, rows[what][1]), f'{what}: {rows[what]}'
    say(f'{platform}: ' + ', '.join(f'{what} {rows[what][0]}' for what in rows))


@params('6.12', thorough=['6.1'])
def test_modules_absent(kernel):
    """
    Without the drivers' modules their programs are left out, with a word on what to do. What a guest of KVM has hooks
    for is in these kernels, and attached to, though this is none.
    """
    script = '''
guest-agent --probe
guest-agent --events help | sed 's/^/HELP /'
agent_start --events sched_switch,virtio_net,xen,kvm_guest || exit 1
agent_stop
'''
    with VM(script, kernel=kernel) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-2000:]
        probed(vm, "QEMU's emulator", {
            'hypercalls': ('no', 'none'), 'callbacks': ('no', 'Xen'), 'stolen time': ('no', 'follow-host'),
            'functions': ('yes', 'fentry, fexit, kprobes'), 'region': ('yes', 'ivshmem'),
            'direct': ('yes', ''), 'module': ('no', '/dev/htrace'), 'relay': ('yes', '')})
        said = re.findall(r'guest-agent: (\S+ is left out: .*)', vm.console())
        for line in said:
            say(line)
        assert len(said) == 5 + 8, said
        for line in said:
            assert re.search(r"no function \w+\(\); if that is a module's, load the module before "
                             'the agent', line), line
        assert 'xennet_poll(not in this kernel)' in vm.console()


# --------------------------------------------------------------------------------------------- Xen

XEN = Driver({name: name for name in (
    'blkif_queue_rq', 'blkif_interrupt', 'blkif_complete_rq', 'xennet_start_xmit', 'xennet_poll',
    'xennet_interrupt', 'xennet_tx_interrupt', 'xennet_rx_interrupt')},
    'blkif_queue_rq', 'blkif_complete_rq', 'xennet_start_xmit', ['xennet_poll'],
    r'202,0', r'^(7|254),\d+ |dev=vif0\.0|for device vif0\.0')

XEN_SCRIPT = SHELL + f'''
export LD_LIBRARY_PATH=/lib/xen
mkdir -p /var/run/xen /var/lib/xenstored /run/xenstored /var/run/xenstored /var/log/xen
mount -t xenfs none /proc/xen
xenstored --pid-file /tmp/xenstored.pid || exit 1
xenstore write /local/domain/0/domid 0 /local/domain/0/name Domain-0
if [ "$EVENT_CHANNELS" = single ]; then
	rmmod xen-netback
	insmod /lib/modules/xen-netback.ko separate_tx_rx_irq=0 || exit 1
fi
# What a toolstack would write to give a domain a disk and a network: here to this one itself.
truncate -s 64M /tmp/disk
losetup /dev/loop0 /tmp/disk
F=/local/domain/0/device/vbd/51712 B=/local/domain/0/backend/vbd/0/51712
xenstore write $B/frontend $F $B/frontend-id 0 $B/online 1 $B/dev xvda $B/type phy $B/mode w \\
	$B/params /dev/loop0 $B/device-type disk $B/physical-device 7:0 \\
	$B/hotplug-status connected $B/state 1 \\
	$F/backend $B $F/backend-id 0 $F/virtual-device 51712 $F/device-type disk $F/state 1
F=/local/domain/0/device/vif/0 B=/local/domain/0/backend/vif/0/0
MAC=00:16:3e:00:00:01
xenstore write $B/frontend $F $B/frontend-id 0 $B/online 1 $B/handle 0 $B/mac $MAC \\
	$B/script none $B/hotplug-status connected $B/state 1 \\
	$F/backend $B $F/backend-id 0 $F/handle 0 $F/mac $MAC $F/state 1
for i in $(seq 100); do
	[ -b /dev/xvda ] && [ -e /sys/class/net/eth0 ] && break
	sleep 0.1
done
[ $i -lt 100 ] || exit 1
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
# The two ends in a network of their own each, or packets would go by lo.
unshare -n sleep 1000 &
other=$!
sleep 0.5
ip link set eth0 netns $other || exit 1
IN="nsenter -t $other -n"
STATISTICS=/tmp/sys/class/net/eth0/statistics
mkdir /tmp/sys
cat > /tmp/statistics << 'END'
mount -t sysfs sysfs /tmp/sys
echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ifconfig eth0 10.9.0.1 netmask 255.255.255.0 up
END
$IN sh /tmp/statistics
ifconfig vif0.0 10.9.0.2 netmask 255.255.255.0 up
ping -c 3 10.9.0.1 > /dev/null || exit 1
guest-agent --probe
agent_start --events sys_enter,xen || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
echo '{' '.join(XEN.calls.values())}' > $T/set_ftrace_filter
echo function > $T/current_tracer
ftrace_on raw_syscalls/sys_enter {Driver.FTRACE}
sync
sleep 1
counts BEFORE xvda
workload mark {BEGIN}
for i in 1 2 3; do
	disk_work /dev/xvda
	ping -c 3 -i 0.05 -s $((i * 400)) 10.9.0.1 > /dev/null
	nc -l -p 9 > /dev/null &
	sleep 0.2
	dd if=/dev/zero bs=4k count=64 2> /dev/null | $IN nc 10.9.0.2 9 > /dev/null
done
sleep 1
workload mark {END}
counts AFTER xvda
ftrace_off
agent_stop || exit 1
ftrace_dump
'''


class XenVM(VM):
    """Xen's dom0, which has a virtual disk and network from itself."""

    def __init__(self, script, kernel):
        xen = tool('fetch-xen.sh')
        libs = os.path.join(xen, 'lib')
        add = [os.path.join(libs, f) + ':/lib/xen/' for f in os.listdir(libs)]
        add += [os.path.join(xen, 'bin', f) + ':/bin/' for f in ('xenstore', 'xenstored')]
        add += [os.path.realpath('/lib/x86_64-linux-gnu/libc.so.6') + ':/lib/xen/libc.so.6',
                os.path.realpath('/lib64/ld-linux-x86-64.so.2') + ':/lib64/ld-linux-x86-64.so.2']
        modules = ['xenfs', 'xen-privcmd', 'xen-evtchn', 'xen-gntdev', 'xen-gntalloc', 'loop',
                   'xen-blkback', 'xen-netback', 'xen-blkfront', 'xen-netfront']
        super().__init__(script, kernel=kernel + '/generic', cpus=2, disk_mib=64, add=add,
                         modules=modules)
        self.command = [
            'qemu-system-x86_64', '-no-user-config', '-nodefaults', '-display', 'none',
            '-no-reboot', '-machine', 'q35', '-accel', 'tcg', '-cpu', 'max,-cx16,-smap,-smep',
            '-m', '1G', '-smp', '2', '-kernel', os.path.join(xen, 'xen'),
            '-append', 'console=com1 com1=115200,8n1 dom0_mem=640M,max:640M dom0_max_vcpus=2 '
            'loglvl=warning guest_loglvl=warning',
            '-initrd', f'{kernel_path(kernel + "/generic")} console=hvc0 panic=-1 quiet '
            f'no_hash_pointers,{os.path.join(self.dir, "initrd")}',
            '-serial', 'file:' + self.console_path,
            '-object', f'memory-backend-file,id=region,size=16M,mem-path={self.region},share=on',
            '-device', 'ivshmem-plain,memdev=region',
            '-drive', f'file={self.disk},if=none,id=disk,format=raw',
            '-device', 'virtio-blk-pci,drive=disk']


@params(('6.1', 'split'), thorough=[('6.1', 'single')])
def test_xen(kernel, channels):
    """A dom0 is given a disk and a network by itself: the drivers are those of any guest."""
    with XenVM(f'EVENT_CHANNELS={channels}\n' + XEN_SCRIPT, kernel) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=300)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        assert 'left out' not in vm.console(), vm.console()[-2000:]
        probed(vm, 'Xen PV dom0', {'hypercalls': ('yes', 'xen:xen_mc_'), 'callbacks': ('yes', 'upcall'),
                                   'PV drivers': ('yes', r'\bvbd \(1\)|\bvif \(1\)'),
                                   'stolen time': ('yes', 'xen_steal_clock'), 'region': ('yes', '16 MiB')})
        spans = XEN.compare(reader.out_path, vm.disk, 2,
                            ('xennet_interrupt',) if channels == 'split' else
                            ('xennet_tx_interrupt', 'xennet_rx_interrupt'))
        XEN.check_counts(spans, kernel_counts(vm.console()))
        XEN.check_tags(spans, in_step=False)  # Xen's clocks, emulated on a busy host
        for span in spans:
            for name in 'xennet_interrupt', 'xennet_tx_interrupt', 'xennet_rx_interrupt':
                for e in span.of(name)[0]:
                    assert re.fullmatch(r'irq=\d+ queue=[01] name="eth0"', e[2]), e
            for e in span.of('blkif_interrupt')[0]:
                assert re.fullmatch(r'irq=\d+ evtchn=\d+ disk="xvda"', e[2]), e

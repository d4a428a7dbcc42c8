# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each built-in event beside sched and syscalls: sequence and fields are those of ftrace."""

import bisect
import re

import ftrace
import readertext
from harness import params, say
from vm import VM, Reader

BEGIN, END = 777001, 777002
HEX = r'(?:0x)?([0-9a-f]+)'


def hexa(text):
    return int(text, 16)


def number(text):
    return int(text, 0)


def dev(text):
    major, minor = text.split(',')
    return int(major) << 20 | int(minor)


def device(text):
    return '' if text == '(no_device)' else text


RWBS = {'W': 0, 'D': 1, 'R': 2, 'A': 3, 'S': 5, 'M': 6, 'E': 7, 'N': None}


def rwbs(text):
    """LTTng's bits from ftrace's letters; F is a flush in front, FUA behind."""
    bits = 0
    m = re.match(r'(F?)(W|DE|D|E|R|F|N)(.*)$', text)
    if not m:
        m = re.match(r'()(F)(.*)$', text)
    before, op, after = m.groups()
    if before:
        bits |= 1 << 10
    for c in op:
        if c == 'F':
            bits |= 1 << 8
        elif RWBS[c] is not None:
            bits |= 1 << RWBS[c]
    for c in after:
        bits |= 1 << {'F': 9, 'A': 3, 'S': 5, 'M': 6}[c]
    return bits


# Event: (ftrace's, pattern of its text, fields of the groups). `symbol` fields are function names.
SYMBOL = 'symbol'
EVENTS = {
    'irq_handler_entry': ('irq/irq_handler_entry', r'irq=(\d+) name=(.*)$',
                          [('irq', number), ('name', str)]),
    'irq_handler_exit': ('irq/irq_handler_exit', r'irq=(\d+) ret=(\w+)$',
                         [('irq', number), ('ret', lambda t: int(t == 'handled'))]),
    'irq_softirq_raise': ('irq/softirq_raise', r'vec=(\d+)', [('vec', number)]),
    'irq_softirq_entry': ('irq/softirq_entry', r'vec=(\d+)', [('vec', number)]),
    'irq_softirq_exit': ('irq/softirq_exit', r'vec=(\d+)', [('vec', number)]),
    'irq_tasklet_entry': ('irq/tasklet_entry', r'tasklet=' + HEX + r' function=(\S+)',
                          [('tasklet', hexa), ('func', SYMBOL)]),
    'irq_tasklet_exit': ('irq/tasklet_exit', r'tasklet=' + HEX + r' function=(\S+)',
                         [('tasklet', hexa), ('func', SYMBOL)]),
    'timer_init': ('timer/timer_init', r'timer=' + HEX, [('timer', hexa)]),
    'timer_start': ('timer/timer_start', r'timer=' + HEX + r' function=(\S+) expires=(\d+) ',
                    [('timer', hexa), ('function', SYMBOL), ('expires', number)]),
    'timer_expire_entry': ('timer/timer_expire_entry',
                           r'timer=' + HEX + r' function=(\S+) now=(\d+)',
                           [('timer', hexa), ('function', SYMBOL), ('now', number)]),
    'timer_expire_exit': ('timer/timer_expire_exit', r'timer=' + HEX, [('timer', hexa)]),
    'timer_cancel': ('timer/timer_cancel', r'timer=' + HEX, [('timer', hexa)]),
    'timer_hrtimer_init': ('timer/hrtimer_init', r'hrtimer=' + HEX, [('hrtimer', hexa)]),
    'timer_hrtimer_start': ('timer/hrtimer_start', r'hrtimer=' + HEX +
                            r' function=(\S+) expires=(\d+) softexpires=(\d+)',
                            [('hrtimer', hexa), ('function', SYMBOL), ('expires', number),
                             ('softexpires', number)]),
    'timer_hrtimer_expire_entry': ('timer/hrtimer_expire_entry', r'hrtimer=' + HEX +
                                   r' function=(\S+) now=(\d+)',
                                   [('hrtimer', hexa), ('function', SYMBOL), ('now', number)]),
    'timer_hrtimer_expire_exit': ('timer/hrtimer_expire_exit', r'hrtimer=' + HEX,
                                  [('hrtimer', hexa)]),
    'timer_hrtimer_cancel': ('timer/hrtimer_cancel', r'hrtimer=' + HEX, [('hrtimer', hexa)]),
    'workqueue_queue_work': ('workqueue/workqueue_queue_work', r'work struct=' + HEX +
                             r' function=(\S+) .*req_cpu=(-?\d+) ',
                             [('work', hexa), ('function', SYMBOL), ('req_cpu', number)]),
    'workqueue_activate_work': ('workqueue/workqueue_activate_work', r'work struct ' + HEX,
                                [('work', hexa)]),
    'workqueue_execute_start': ('workqueue/workqueue_execute_start', r'work struct ' + HEX +
                                r': function (\S+)', [('work', hexa), ('function', SYMBOL)]),
    'workqueue_execute_end': ('workqueue/workqueue_execute_end', r'work struct ' + HEX +
                              r': function (\S+)', [('work', hexa), ('function', SYMBOL)]),
    'block_rq_complete': ('block/block_rq_complete',
                          r'(\d+,\d+) (\w+) \(.*?\) (\d+) \+ (\d+) .*\[(-?\d+)\]$',
                          [('dev', dev), ('rwbs', rwbs), ('sector', number),
                           ('nr_sector', number), ('error', number)]),
    'x86_exceptions_page_fault_user': ('exceptions/page_fault_user',
                                       r'address=(\S+) ip=(\S+) error_code=0x(\w+)',
                                       [('address', SYMBOL), ('ip', SYMBOL),
                                        ('error_code', hexa)]),
    'x86_exceptions_page_fault_kernel': ('exceptions/page_fault_kernel',
                                         r'address=(\S+) ip=(\S+) error_code=0x(\w+)',
                                         [('address', SYMBOL), ('ip', SYMBOL),
                                          ('error_code', hexa)]),
    'signal_generate': ('signal/signal_generate', r'sig=(\d+) errno=(-?\d+) code=(-?\d+) '
                        r'comm=.* pid=(\d+) grp=(\d+) res=(\d+)',
                        [('sig', number), ('errno', number), ('code', number), ('pid', number),
                         ('group', number), ('result', number)]),
    'signal_deliver': ('signal/signal_deliver', r'sig=(\d+) errno=(-?\d+) code=(-?\d+) '
                       r'sa_handler=(\w+) sa_flags=(\w+)',
                       [('sig', number), ('errno', number), ('code', number),
                        ('sa_handler', hexa), ('sa_flags', hexa)]),
    'net_dev_xmit': ('net/net_dev_xmit', r'dev=(\S+) skbaddr=' + HEX + r' len=(\d+) rc=(-?\d+)',
                     [('name', str), ('skbaddr', hexa), ('len', number), ('rc', number)]),
    'napi_poll': ('napi/napi_poll', r'napi poll on napi struct ' + HEX +
                  r' for device (\S+) work (-?\d+) budget (\d+)',
                  [('napi', hexa), ('dev_name', device), ('work', number), ('budget', number)]),
    'module_load': ('module/module_load', r'(\S+)', [('name', str)]),
    'module_free': ('module/module_free', r'(\S+)', [('name', str)]),
}
for name in 'block_rq_insert', 'block_rq_issue':
    EVENTS[name] = ('block/' + name, r'(\d+,\d+) (\w+) (\d+) \(.*?\) (\d+) \+ (\d+) ',
                    [('dev', dev), ('rwbs', rwbs), ('bytes', number), ('sector', number),
                     ('nr_sector', number)])
for ours_, theirs_ in (('net_dev_queue', 'net_dev_queue'), ('net_if_rx', 'netif_rx'),
                       ('net_if_receive_skb', 'netif_receive_skb')):
    EVENTS[ours_] = ('net/' + theirs_, r'dev=(\S+) skbaddr=' + HEX + r' len=(\d+)',
                     [('name', str), ('skbaddr', hexa), ('len', number)])
BY_FTRACE = {ftrace_name.split('/')[1]: name for name, (ftrace_name, _, _) in EVENTS.items()}

# Events that the workload brings about in any case.
MUST = set(EVENTS) - {'irq_tasklet_entry', 'irq_tasklet_exit', 'timer_init', 'napi_poll',
                      'block_rq_insert', 'x86_exceptions_page_fault_kernel',
                      'workqueue_activate_work'}

SCRIPT = ftrace.SHELL + f'''
ifconfig lo up
agent_start --events sys_enter,irq,timer,workqueue,block,signal,net,mm,module || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
for e in {' '.join(v[0] for v in EVENTS.values())}; do
	[ -e $T/events/$e ] && on="$on $e"
done
ftrace_on raw_syscalls/sys_enter $on
workload mark {BEGIN}
trap 'got=1' USR1
for i in 1 2 3; do
	dd if=/dev/zero of=/dev/vda bs=4k count=64 conv=fsync 2> /dev/null
	dd if=/dev/vda of=/dev/null bs=64k count=16 skip=$((i * 16)) 2> /dev/null
	ping -c 2 -i 0.1 127.0.0.1 > /dev/null
	kill -USR1 $$
	sleep 0.05
	rmmod dummy
	insmod /lib/modules/dummy.ko
	echo 3 > /proc/sys/vm/drop_caches
done
workload mark {END}
ftrace_off
agent_stop || exit 1
{{
	cat /proc/kallsyms
	echo "### FTRACE"
}} > /dev/vdb
sync
ftrace_dump
'''


def theirs_of(path):
    events = {}
    for cpu, line in ftrace.complete_lines(path):
        m = ftrace.LINE.match(line)
        assert m, line
        time = int(m['time'].replace('.', '')) * 1000
        if m['event'] == 'sys_enter':
            call = ftrace.SYS_ENTER.match(m['rest'])
            item = (time, 'mark', [int(call[2].split(',')[0], 16)])
        else:
            name = BY_FTRACE[m['event']]
            _, pattern, fields = EVENTS[name]
            found = re.match(pattern, m['rest'].strip())
            assert found, f'{name}: {line}'
            item = (time, name, [text if what is SYMBOL else what(text)
                                 for text, (_, what) in zip(found.groups(), fields)])
        events.setdefault(cpu, []).append(item)
    return events


def ours_of(path):
    events = {}
    for time, cpu, rest in readertext.lines(path):
        assert not readertext.LOST.search(rest), rest
        m = readertext.EVENT.match(rest)
        name = m['event']
        if name == 'sys_enter':
            if re.match(r'121\b', readertext.value(m['fields'], 'nr')):
                arg = readertext.value(m['fields'], 'args').strip('[]').split(',')[0]
                events.setdefault(cpu, []).append((time, 'mark', [int(arg, 0)]))
        elif name in EVENTS:
            values = []
            for field, what in EVENTS[name][2]:
                text = readertext.value(m['fields'], field)
                values.append(text if what in (str, device) else int(re.match(r'-?\w+', text)[0], 0))
            events.setdefault(cpu, []).append((time, name, values))
    return events


def between_marks(events):
    first, last = ([i for i, e in enumerate(events) if e[1] == 'mark' and e[2] == [value]]
                   for value in (BEGIN, END))
    assert len(first) == 1 and len(last) == 1, f'marks: {first} {last}'
    return events[first[0] + 1:last[0]]


class Symbols:
    """The guest's /proc/kallsyms."""

    def __init__(self, path):
        names = {}
        with open(path, encoding='utf-8', errors='replace') as f:
            for line in f:
                if line.startswith('###'):
                    break
                words = line.split()
                names.setdefault(int(words[0], 16), set()).add(words[2])
        self.addresses = sorted(names)
        self.names = names

    def match(self, address, text):
        """Is `text` (0x... or a name without an offset) how ftrace writes `address`?"""
        if text.startswith('0x') or text == '0':
            return int(text, 16) == address
        at = self.addresses[bisect.bisect_right(self.addresses, address) - 1]
        return text in self.names[at]


def same(symbols, fields, a, b):
    return all(symbols.match(x, y) if what is SYMBOL else x == y
               for (_, what), x, y in zip(fields, a, b))


def compare(name, cpu, a, b, symbols):
    """
    An interrupt between ftrace's look at a mark and ours puts its events on different sides of the
    mark: up to two at each end may be on one side only.
    """
    fields = EVENTS[name][2]
    for head in range(-2, 3):
        x, y = a[max(head, 0):], b[max(-head, 0):]
        if abs(len(x) - len(y)) <= 2 and \
                all(same(symbols, fields, p[2], q[2]) for p, q in zip(x, y)):
            return
    for i, (p, q) in enumerate(zip(a, b)):
        if not same(symbols, fields, p[2], q[2]):
            raise AssertionError(f'{name}, CPU {cpu}, of {len(a)} events, ftrace {len(b)}: '
                                 f'{i}: we {a[i:i + 4]}, ftrace {b[i:i + 4]}')
    raise AssertionError(f'{name}, CPU {cpu}: {len(a)} events, ftrace {len(b)}')


@params(('6.1', 1), ('6.1', 2), ('6.12', 1), ('6.12', 2))
def test_truth(kernel, cpus):
    with VM(SCRIPT, kernel=kernel, cpus=cpus, memory='1G', disk_mib=256, disks=2,
            modules=['dummy'], append='no_hash_pointers') as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=200)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        theirs, mine = theirs_of(vm.disks[0]), ours_of(reader.out_path)
        symbols = Symbols(vm.disks[1])
        count = {}
        for cpu in range(cpus):
            a, b = between_marks(mine[cpu]), between_marks(theirs[cpu])
            for name in EVENTS:
                x, y = [e for e in a if e[1] == name], [e for e in b if e[1] == name]
                compare(name, cpu, x, y, symbols)
                count[name] = count.get(name, 0) + len(x)
        say(', '.join(f'{name} {n}' for name, n in count.items()))
        missing = {name for name in MUST if not count[name]}
        assert not missing, f'never seen: {missing}'
        left_out = re.findall(r'guest-agent: (\S+) is left out: this kernel has no (\S+)',
                              vm.console())
        assert left_out == [('timer_hrtimer_setup', 'tp_btf/hrtimer_setup')], left_out
        say(f'left out: {left_out}')

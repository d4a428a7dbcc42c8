# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each built-in event: sequence and fields are those of ftrace."""

import bisect
import re

import ftrace
import readertext
from harness import params, say
from marks import BEGIN, END, Span
from vm import VM, Reader

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


CLOCKS = {'CLOCK_REALTIME': 0, 'CLOCK_MONOTONIC': 1, 'CLOCK_BOOTTIME': 7, 'CLOCK_TAI': 11}
HRTIMER_MODE = {'ABS': 0, 'REL': 1, 'PINNED': 2, 'SOFT': 4, 'HARD': 8}
TIMER_FLAGS = {'M': 1 << 18, 'D': 1 << 19, 'P': 1 << 20, 'I': 1 << 21}
TAINTS = {'P': 1 << 0, 'F': 1 << 1, 'C': 1 << 10, 'O': 1 << 12, 'E': 1 << 13}


def flags(of, text, between='|'):
    return sum(of[word] for word in (text.split(between) if between else text) if word)


def hrtimer_mode(text):
    return flags(HRTIMER_MODE, text)


def timer_start(timer, function, expires, timeout, cpu, idx, text):
    """ftrace shows `now` as a difference, and flags in pieces."""
    return (timer, function, expires, str(int(expires) - int(timeout)),
            str(int(cpu) | int(idx) << 22 | flags(TIMER_FLAGS, text)))


# Event: (ftrace's, pattern of its text, fields of the groups). SYMBOL: function names in ftrace's
# text. JIFFIES: read by each observer for itself, so another CPU may have counted on in between.
SYMBOL = 'symbol'
JIFFIES = 'jiffies'
EVENTS = {
    'irq_handler_entry': ('irq/irq_handler_entry', r'irq=(\d+) name=(.*)$',
                          [('irq', number), ('name', str)]),
    'irq_handler_exit': ('irq/irq_handler_exit', r'irq=(\d+) ret=(\w+)$',
                         [('irq', number), ('ret', lambda t: int(t == 'handled'))]),
    'irq_softirq_raise': ('irq/softirq_raise', r'vec=(\d+)', [('vec', number)]),
    'irq_softirq_entry': ('irq/softirq_entry', r'vec=(\d+)', [('vec', number)]),
    'irq_softirq_exit': ('irq/softirq_exit', r'vec=(\d+)', [('vec', number)]),
    'irq_tasklet_entry': ('irq/tasklet_entry', r'tasklet=(\S+) function=(\S+)',
                          [('tasklet', SYMBOL), ('func', SYMBOL)]),
    'irq_tasklet_exit': ('irq/tasklet_exit', r'tasklet=(\S+) function=(\S+)',
                         [('tasklet', SYMBOL), ('func', SYMBOL)]),
    'timer_init': ('timer/timer_init', r'timer=' + HEX, [('timer', hexa)]),
    'timer_start': ('timer/timer_start', r'timer=' + HEX + r' function=(\S+) expires=(\d+) '
                    r'\[timeout=(-?\d+)\] .*cpu=(\d+) idx=(\d+) flags=(\S*)$',
                    [('timer', hexa), ('function', SYMBOL), ('expires', number), ('now', JIFFIES),
                     ('flags', number)]),
    'timer_expire_entry': ('timer/timer_expire_entry',
                           r'timer=' + HEX + r' function=(\S+) now=(\d+)',
                           [('timer', hexa), ('function', SYMBOL), ('now', JIFFIES)]),
    'timer_expire_exit': ('timer/timer_expire_exit', r'timer=' + HEX, [('timer', hexa)]),
    'timer_cancel': ('timer/timer_cancel', r'timer=' + HEX, [('timer', hexa)]),
    'timer_hrtimer_init': ('timer/hrtimer_init', r'hrtimer=' + HEX + r' clockid=(\w+) mode=(\S+)$',
                           [('hrtimer', hexa), ('clockid', CLOCKS.get), ('mode', hrtimer_mode)]),
    'timer_hrtimer_start': ('timer/hrtimer_start', r'hrtimer=' + HEX +
                            r' function=(\S+) expires=(\d+) softexpires=(\d+) mode=(\S+)',
                            [('hrtimer', hexa), ('function', SYMBOL), ('expires', number),
                             ('softexpires', number), ('mode', hrtimer_mode)]),
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
    'module_load': ('module/module_load', r'(\S+) ?(\w*)$',
                    [('name', str), ('taints', lambda t: flags(TAINTS, t, ''))]),
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
for name in 'sched_waking', 'sched_wakeup', 'sched_wakeup_new':
    EVENTS[name] = ('sched/' + name, r'comm=.* pid=(\d+) prio=(\d+) target_cpu=(\d+)$',
                    [('tid', int), ('prio', int), ('target_cpu', int)])
EVENTS.update({
    'sched_process_fork': ('sched/sched_process_fork',
                           r'comm=.* pid=(\d+) child_comm=(.*) child_pid=(\d+)$',
                           [('parent_tid', int), ('child_comm', str), ('child_tid', int)]),
    'sched_process_exec': ('sched/sched_process_exec', r'filename=(.*) pid=(\d+) old_pid=(\d+)$',
                           [('filename', str), ('tid', int), ('old_tid', int)]),
    'sched_process_exit': ('sched/sched_process_exit', r'comm=.* pid=(\d+) prio=(\d+)',
                           [('tid', int), ('prio', int)]),
    'task_rename': ('task/task_rename', r'pid=(\d+) oldcomm=.* newcomm=(.*) oom_score_adj',
                    [('tid', int), ('comm', str)]),
    'sys_enter': ('raw_syscalls/sys_enter', r'NR (-?\d+) \((.*)\)$',
                  [('nr', int), ('args', lambda t: [int(a, 16) for a in t.split(', ')])]),
    'sys_exit': ('raw_syscalls/sys_exit', r'NR (-?\d+) = (-?\d+)$',
                 [('nr', int), ('ret', int)]),
})
# The current task, which ftrace has in front of each line.
for name in ('block_rq_insert', 'block_rq_issue', 'signal_generate', 'signal_deliver', 'module_load',
             'module_free', 'x86_exceptions_page_fault_user', 'x86_exceptions_page_fault_kernel',
             'sys_enter', 'sys_exit'):
    EVENTS[name][2].append(('tid', int))
BY_FTRACE = {ftrace_name.split('/')[1]: name for name, (ftrace_name, _, _) in EVENTS.items()}
# To ftrace calls through the 32-bit entry are system calls like all others.
COMPAT = {'compat_sys_enter': 'sys_enter', 'compat_sys_exit': 'sys_exit'}
# Not here: sched_switch, which test_truth.py compares under load, and timer_hrtimer_setup, which
# these kernels do not have.

SCRIPT = ftrace.SHELL + f'''
ifconfig lo up
agent_start --events sched,syscalls,irq,timer,workqueue,block,signal,net,mm,module || exit 1
for e in {' '.join(v[0] for v in EVENTS.values())}; do
	[ -e $T/events/$e ] && on="$on $e"
done
ftrace_on $on
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
	workload tasklet
	workload compat 20
	nc 127.0.0.1 1 # refused; a socket's timers are made
	dd if=/dev/zero of=/dev/null bs=1M count=1 2> /dev/null # into new pages
	echo mq-deadline > /sys/block/vda/queue/scheduler # from now on requests are inserted
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
        name = BY_FTRACE[m['event']]
        _, pattern, fields = EVENTS[name]
        found = re.match(pattern, m['rest'].strip())
        assert found, f'{name}: {line}'
        texts = timer_start(*found.groups()) if name == 'timer_start' else found.groups()
        values = [text if what is SYMBOL else int(text) if what is JIFFIES else what(text)
                  for text, (_, what) in zip(texts + (m['tid'],), fields)]
        events.setdefault(cpu, []).append(marked((time, name, values)))
    return events


def marked(event):
    """Marks are system calls."""
    time, name, values = event
    if name == 'sys_enter' and values[0] == 121 and values[1][0] in (BEGIN, END):
        return time, 'mark', [values[1][0]]
    return event


def value_of(fields, name, what):
    text = readertext.value(fields, name)
    if what in (str, device):
        return text
    if text.startswith('['):
        return [int(word, 0) for word in text.strip('[]').split(',')]
    return int(re.match(r'-?\w+', text)[0], 0)


def ours_of(path):
    """Events, and how many system calls were 32-bit ones."""
    events, compat = {}, 0
    for time, cpu, rest in readertext.lines(path):
        assert not readertext.LOST.search(rest), rest
        m = readertext.EVENT.match(rest)
        compat += m['event'] in COMPAT
        name = COMPAT.get(m['event'], m['event'])
        if name in EVENTS:
            values = [value_of(m['fields'], field, what) for field, what in EVENTS[name][2]]
            events.setdefault(cpu, []).append(marked((time, name, values)))
    return events, compat


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


def same(symbols, fields, mine, theirs):
    return all(symbols.match(x, y) if what is SYMBOL else
               abs(x - y) <= 1 if what is JIFFIES else x == y
               for (_, what), x, y in zip(fields, mine, theirs))


@params(('6.12', 2), thorough=[('6.1', 1), ('6.1', 2), ('6.12', 1)])
def test_truth(kernel, cpus):
    with VM(SCRIPT, kernel=kernel, cpus=cpus, memory='1G', disk_mib=256, disks=2,
            modules=['dummy', 'mq-deadline'], append='no_hash_pointers') as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=200)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        theirs = theirs_of(vm.disks[0])
        mine, compat = ours_of(reader.out_path)
        symbols = Symbols(vm.disks[1])
        count = dict.fromkeys(EVENTS, 0)
        for cpu in range(cpus):
            span = Span(mine[cpu], theirs[cpu])
            for name, (_, _, fields) in EVENTS.items():
                count[name] += span.compare(
                    name, lambda a, b, fields=fields: same(symbols, fields, a, b), f'CPU {cpu}')
        say(', '.join(f'{name} {n}' for name, n in count.items()))
        assert all(count.values()), [name for name, n in count.items() if not n]
        assert compat == 3 * 2 * 20, f'{compat} of 32-bit calls'
        left_out = re.findall(r'guest-agent: (\S+) is left out: this kernel has no (\S+)',
                              vm.console())
        assert left_out == [('timer_hrtimer_setup', 'tp_btf/hrtimer_setup')], left_out
        say(f'left out: {left_out}')

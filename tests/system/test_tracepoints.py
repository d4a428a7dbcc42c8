# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tracepoints by name: fields are those of ftrace's text, dynamic ones too; what is refused."""

import re

import ftrace
import readertext
from harness import params, say
from test_built_in import between_marks
from vm import VM, Reader

BEGIN, END = 777001, 777002


def dev(value):
    return f'{value >> 20},{value & 0xfffff}'


# SYSTEM:NAME: (name on the host, pattern of ftrace's text, our fields for its groups).
# A field is a name or (name, how to write its value as ftrace does).
TRACEPOINTS = {
    # one that is a built-in event too, so that it has another name; __data_loc string
    'sched:sched_process_exec': ('sched_sched_process_exec',
                                 r'filename=(.*) pid=(\d+) old_pid=(\d+)',
                                 ['filename', 'pid', 'old_pid']),
    'sched:sched_stat_runtime': ('sched_stat_runtime',
                                 r'comm=(.*) pid=(\d+) runtime=(\d+) \[ns\]',
                                 ['comm', 'pid', 'runtime']),
    'sched:sched_migrate_task': ('sched_migrate_task',
                                 r'comm=(.*) pid=(\d+) prio=(\d+) orig_cpu=(\d+) dest_cpu=(\d+)',
                                 ['comm', 'pid', 'prio', 'orig_cpu', 'dest_cpu']),
    'irq:irq_handler_entry': ('irq_irq_handler_entry', r'irq=(\d+) name=(.*)$', ['irq', 'name']),
    'net:net_dev_queue': ('net_net_dev_queue', r'dev=(\S+) skbaddr=\S+ len=(\d+)',
                          ['name', 'len']),
    # two dynamic fields
    'block:block_rq_issue': ('block_block_rq_issue',
                             r'(\S+) (\w+) (\d+) \((.*?)\) (\d+) \+ (\d+) .*\[(.*)\]$',
                             [('dev', dev), 'rwbs', 'bytes', 'cmd', 'sector', 'nr_sector',
                              'comm']),
    'signal:signal_generate': ('signal_signal_generate',
                               r'sig=(\d+) errno=(-?\d+) code=(-?\d+) comm=(.*) pid=(\d+) '
                               r'grp=(\d+) res=(\d+)',
                               ['sig', 'errno', 'code', 'comm', 'pid', 'group', 'result']),
    'task:task_rename': ('task_task_rename',
                         r'pid=(\d+) oldcomm=(.*) newcomm=(.*) oom_score_adj=(-?\d+)',
                         ['pid', 'oldcomm', 'newcomm', 'oom_score_adj']),
    'module:module_load': ('module_module_load', r'(\S+)', ['name']),
    'workqueue:workqueue_queue_work': ('workqueue_workqueue_queue_work',
                                       r'.* workqueue=(\S+) req_cpu=(-?\d+) cpu=(-?\d+)',
                                       ['workqueue', 'req_cpu', 'cpu']),
    'kmem:mm_page_alloc': ('mm_page_alloc', r'page=\S+ pfn=(\w+) order=(\d+) ',
                           [('pfn', hex), 'order']),
    'syscalls:sys_enter_getpgid': ('sys_enter_getpgid', r'sys_getpgid\(pid: (\w+)\)|'
                                   r'getpgid\(pid: (\w+)\)', [('pid', hex)]),
}
# ftrace prints task:task_rename's event as task_rename, and so on
BY_FTRACE = {name.split(':')[1]: name for name in TRACEPOINTS}

SCRIPT = ftrace.SHELL + f'''
ifconfig lo up
agent_start --events sys_enter,{','.join(TRACEPOINTS)} || exit 1
echo 'id == 121' > $T/events/raw_syscalls/sys_enter/filter
ftrace_on raw_syscalls/sys_enter {' '.join(t.replace(':', '/') for t in TRACEPOINTS)}
workload mark {BEGIN}
trap 'got=1' USR1
for i in 1 2 3; do
	dd if=/dev/zero of=/dev/vda bs=4k count=64 conv=fsync 2> /dev/null
	ping -c 2 -i 0.1 127.0.0.1 > /dev/null
	kill -USR1 $$
	workload name "name $i"
	rmmod dummy
	insmod /lib/modules/dummy.ko
done
workload mark {END}
ftrace_off
agent_stop || exit 1
ftrace_dump
'''


def theirs_of(path):
    events = {}
    for cpu, line in ftrace.complete_lines(path):
        m = re.match(r'^.*-\d+\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+)(?:: |(?=\())(.*)$', line)
        assert m, line
        if m[2] == 'sys_enter':
            call = ftrace.SYS_ENTER.match(m[3])
            item = (m[1], 'mark', [int(call[2].split(',')[0], 16)])
        else:
            event = 'sys_enter_getpgid' if m[2] == 'sys_getpgid' else m[2]
            name = BY_FTRACE[event]
            found = re.match(TRACEPOINTS[name][1], ('getpgid' if '(pid' in m[3][:5] else '') +
                             m[3].strip())
            assert found, f'{name}: {line}'
            item = (m[1], name, [g for g in found.groups() if g is not None])
        events.setdefault(cpu, []).append(item)
    return events


def ours_of(path):
    names = {ours: name for name, (ours, _, _) in TRACEPOINTS.items()}
    events = {}
    for time, cpu, rest in readertext.lines(path):
        assert not readertext.LOST.search(rest), rest
        m = readertext.EVENT.match(rest)
        if m['event'] == 'sys_enter' and re.match(r'121\b', readertext.value(m['fields'], 'nr')):
            arg = readertext.value(m['fields'], 'args').strip('[]').split(',')[0]
            events.setdefault(cpu, []).append((time, 'mark', [int(arg, 0)]))
        elif m['event'] in names:
            name, values = names[m['event']], []
            for field in TRACEPOINTS[name][2]:
                field, how = field if isinstance(field, tuple) else (field, None)
                text = readertext.value(m['fields'], field)
                assert text is not None, f'{name} has no {field}: {rest}'
                values.append(how(int(text, 0)) if how else text)
            events.setdefault(cpu, []).append((time, name, values))
    return events


def missing(name, cpu, mine, theirs):
    """
    How many of ftrace's events we do not have; what we have must be in theirs, in the same order.
    Programs on tracepoints are skipped while another one runs on the CPU, hence the few that are
    missing. And an interrupt at a mark may put two events on its other side.
    """
    for head in range(3):
        for tail in range(3):
            a = mine[head:len(mine) - tail]
            at = iter([e[2] for e in theirs])
            if all(e[2] in at for e in a):
                return len(theirs) - len(a)
    at = iter([e[2] for e in theirs])
    strange = next(e for e in mine if e[2] not in at)
    raise AssertionError(f'{name}, CPU {cpu}: {len(mine)} events, ftrace {len(theirs)}; ftrace has '
                         f'no {strange} there')


@params('6.1', '6.12')
def test_truth(kernel):
    with VM(SCRIPT, kernel=kernel, cpus=2, memory='1G', disk_mib=256, modules=['dummy']) as vm:
        vm.start()
        reader = Reader(vm)
        status = vm.finish(timeout=200)
        assert reader.stop() == 0, reader.err()
        assert status == 0, vm.console()[-2000:]
        theirs, mine = theirs_of(vm.disk), ours_of(reader.out_path)
        count = dict.fromkeys(TRACEPOINTS, 0)
        lost = 0
        for cpu in range(2):
            a, b = between_marks(mine[cpu]), between_marks(theirs[cpu])
            for name in TRACEPOINTS:
                x, y = [e for e in a if e[1] == name], [e for e in b if e[1] == name]
                lost += missing(name, cpu, x, y)
                count[name] += len(x)
        say(', '.join(f'{name} {n}' for name, n in count.items()))
        total = sum(count.values())
        say(f'{total} events; ftrace has {lost} more')
        assert lost <= max(10, total // 50), f'{lost} of {total} are missing'
        assert sum(n > 0 for n in count.values()) >= 10, count


@params('6.1', '6.12')
def test_list_and_refusals(kernel):
    script = '''
guest-agent --events help | sed 's/^/HELP /'
for e in sched:sched_swich net:sched_switch no:such 'nothing*:*'; do
	guest-agent --events "$e" 2>&1 | sed "s/^/SAID /"
done
agent_start --events 'sched:*' || exit 1
agent_stop
'''
    with VM(script, kernel=kernel) as vm:
        vm.start()
        assert vm.finish() == 0, vm.console()[-3000:]
        console = vm.console()
        help_ = '\n'.join(re.findall(r'^HELP (.*)$', console, re.M))
        for text in ('timer_hrtimer_setup(not in this kernel)', 'irq:*', 'sched:* (', 'sched (default)',
                     'block_rq_issue'):
            assert text in help_, f'{text}: {help_}'
        said = re.findall(r'^SAID (.*)$', console, re.M)
        for line in said:
            say(line)
        assert len(said) == 4
        assert "'sched:sched_swich'; there are sched:sched_switch" in said[0]
        assert 'there are sched:sched_switch' in said[1]
        assert "no event matches 'no:such'" in said[2]
        programs = int(re.search(r'tracing: (\d+) programs', console)[1])
        say(f"'sched:*': {programs} programs")
        assert programs > 20

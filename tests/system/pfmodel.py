# SPDX-License-Identifier: LGPL-2.1-or-later
"""What of a Perfetto trace there has to be, made of the JSON output of the same capture."""

import collections

from pftext import LOST_TASK, SIGRETURN, Slice
from test_sinks import json_lines

WINDOW = 100_000_000


def read(js):
    """(sessions, all records, {cpu: records}); in the last, between two sessions nobody knows who runs where."""
    sessions = [[]]
    for r in json_lines(js):
        if r.get('note', '').startswith('new session'):
            sessions.append([])
        elif 'time' in r:
            sessions[-1].append(r)
    by_cpu = collections.defaultdict(list)
    for s in sessions:
        for of_cpu in by_cpu.values():
            of_cpu.append({'gap': True, 'cpu': of_cpu[0]['cpu']})
        for r in s:
            by_cpu[r['cpu']].append(r)
    return sessions, [r for s in sessions for r in s], by_cpu


def kernel_event(r):
    """What of the format's own a JSON record becomes, as (name, {field: value}); None: an instant."""
    if r.get('unverified') or 'raw' in r:
        return None
    f = r['fields']
    names = {k.removesuffix('.name'): v for k, v in f.items() if k.endswith('.name')}
    if r['event'] == 'sched_switch':
        return 'sched_switch', {
            'prev_pid': f['prev_tid'], 'next_pid': f['next_tid'], 'prev_prio': f['prev_prio'],
            'next_prio': f['next_prio'], 'prev_state': f['prev_state'],
            'prev_comm': names.get('prev_tid'), 'next_comm': names.get('next_tid')}
    if r['event'] in ('sched_waking', 'sched_wakeup', 'sched_wakeup_new') and 'tid' in r:
        return r['event'], {'pid': f['tid'], 'prio': f['prio'], 'target_cpu': f['target_cpu'],
                            'comm': names.get('tid')}
    if r['event'] == 'sched_process_fork':
        return 'task_newtask', {'pid': f['child_tid'], 'comm': f['child_comm'],
                                'clone_flags': 0x10000 * (f['child_tid'] != f['child_pid'])}
    if r['event'] == 'task_rename':
        return 'task_rename', {'pid': f['tid'], 'newcomm': f['comm']}
    if r['event'] == 'sys_enter':
        return 'sys_enter', {'id': f['nr'], 'args': f['args']}
    if r['event'] == 'sys_exit':
        return 'sys_exit', {'id': f['nr'], 'ret': f['ret']}
    if r['event'] in ('irq_handler_entry', 'irq_handler_exit'):
        return r['event'], f
    if r['event'] in ('irq_softirq_entry', 'irq_softirq_exit'):
        return r['event'][4:], f
    return None


def has_stacks(r):
    return any(k.startswith('callstack') for k in r['fields'])


def is_instant(r):
    """Is it on a track of ours, as it is?"""
    return not kernel_event(r) or has_stacks(r)


def running(records):
    """Who runs on a CPU, and what is not known, from JSON: slices, the last of which is not over."""
    found, now, last = [], None, None
    for r in records:
        if 'lost' in r or 'gap' in r:
            if now and now[1] < LOST_TASK - 3072:
                found.append(Slice(now[0], last, now[1], 0))
                now = last, LOST_TASK - r['cpu'] - 1024 * ('gap' in r)
        else:
            if now and now[1] < LOST_TASK - 3072 and r.get('tid', now[1]) != now[1]: # filtered
                found.append(Slice(now[0], last, now[1], 0))
                now = last, LOST_TASK - 2048 - r['cpu']
            if now and now[1] >= LOST_TASK - 3072 and 'tid' in r:
                found.append(Slice(now[0], r['time'], now[1], 0))
                now = r['time'], r['tid']
            if r['event'] == 'sched_switch':
                if now:
                    found.append(Slice(now[0], r['time'], r['fields']['prev_tid'], r['fields']['prev_state']))
                now = r['time'], r['fields']['next_tid']
        last = r.get('time', last)
    return found


def calls(records):
    """All CPUs', in the order of the output."""
    found, begun = [], {}

    def end(tid, when, ret=None):
        if tid in begun:
            begin, nr, args = begun.pop(tid)
            found.append(Slice(begin, when, (tid, nr, args), ret))

    for r in records:
        f = r.get('fields', {})
        if r.get('event') == 'sys_enter':
            end(f['tid'], r['time'])
            if f['nr'] != SIGRETURN:
                begun[f['tid']] = r['time'], f['nr'], tuple(f['args'])
        elif r.get('event') == 'sys_exit':
            saw = begun.get(f['tid'], (0, None))[1] == f['nr']
            end(f['tid'], r['time'], f['ret'] if saw else None)
        elif r.get('event') == 'sched_process_exit':
            end(f['tid'], r['time'])
    return found


def interrupts(records, entry, leave, key):
    found, begun, last = [], None, None
    for r in records:
        if ('lost' in r or 'gap' in r) and begun:
            found.append(Slice(begun[0], last, begun[1], None))
            begun = None
        elif r.get('event') in (entry, leave):
            if begun: # it has ended, whether that was recorded or not
                found.append(Slice(begun[0], r['time'], begun[1], None))
            begun = (r['time'], r['fields'][key]) if r['event'] == entry else None
        last = r.get('time', last)
    return found


def losses(records):
    found, last = [], None
    for r in records:
        if 'lost' in r:
            args = {k: r[k] for k in ('lost', 'overwritten', 'dropped', 'corrupt', 'unfinished', 'uncommitted_bytes')}
            found.append(Slice(r['time'] if last is None else last, r['time'], f'{r["lost"]} events lost', args))
        last = r.get('time', last)
    return found


def rate(sessions):
    """(time, events a second) of a CPU; after each session and each pause there is a 0."""
    found = []
    for records in sessions:
        times = [r['time'] for r in records if 'event' in r]
        counts = collections.Counter(t // WINDOW for t in times)
        for w in sorted(counts):
            found.append((w * WINDOW, counts[w] * 10))
            if w + 1 not in counts:
                found.append(((w + 1) * WINDOW, 0))
    return found

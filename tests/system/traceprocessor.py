# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What Perfetto's own trace processor makes of a trace of ours, against the JSON output of the same capture: by SQL, each
time that a task ran, system call, interrupt, wake-up, thread, instant with its fields, counter and loss.
"""

import collections
import json
import os
import subprocess

import pfmodel
from vm import tool
from pftext import LOST_TASK, SIGRETURN, one
from test_sinks import plain

QUERY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'perfetto', 'query.mjs')
SOFTIRQS = 'HI', 'TIMER', 'NET_TX', 'NET_RX', 'BLOCK', 'IRQ_POLL', 'TASKLET', 'SCHED', 'HRTIMER', 'RCU'

# {machine} is the number that the file has for it.
QUESTIONS = {
    'bad': "select name, idx, severity, value from stats where severity != 'info' and value > 0",
    'machine': 'select sysname, release, arch, num_cpus from machine where raw_id = {machine}',
    'thread': '''select t.utid, t.tid, t.name, t.start_ts, t.is_main_thread, p.pid, p.name process, q.pid parent
        from thread t join machine m on m.id = t.machine_id left join process p using (upid)
        left join process q on q.upid = p.parent_upid where m.raw_id = {machine}''',
    'sched': '''select c.cpu, s.ts, s.dur, t.tid, s.end_state, s.priority from sched_slice s join thread t using (utid)
        join cpu c using (ucpu) join machine m on m.id = c.machine_id where m.raw_id = {machine} order by s.ts, s.id''',
    'wakeup': '''select s.ts, t.tid, w.tid waker from thread_state s join thread t using (utid)
        join thread w on w.utid = s.waker_utid join machine m on m.id = t.machine_id where m.raw_id = {machine}''',
    'call': '''select s.ts, s.dur, s.name, t.tid, extract_arg(s.arg_set_id, 'ret') ret from slice s
        join thread_track k on k.id = s.track_id join thread t using (utid) join machine m on m.id = t.machine_id
        where m.raw_id = {machine}''',
    'interrupt': '''select s.ts, s.dur, s.name, k.type, extract_arg(k.dimension_arg_set_id, 'cpu') cpu from slice s
        join track k on k.id = s.track_id join machine m on m.id = k.machine_id
        where m.raw_id = {machine} and k.type in ('cpu_irq', 'cpu_softirq') order by s.ts, s.id''',
    'slice': '''select s.ts, s.dur, s.name, s.arg_set_id, k.name track, u.name above from slice s
        join track k on k.id = s.track_id join machine m on m.id = k.machine_id left join track u on u.id = k.parent_id
        where m.raw_id = {machine} and k.type like '%track_event' order by s.ts, s.id''',
    'arg': '''select a.arg_set_id, a.key, a.int_value, a.string_value, a.value_type from slice s
        join track k on k.id = s.track_id join machine m on m.id = k.machine_id join args a using (arg_set_id)
        where m.raw_id = {machine} and k.type like '%track_event' ''',
    'counter': '''select c.ts, c.value, k.name track, u.name above from counter c join track k on k.id = c.track_id
        join machine m on m.id = k.machine_id left join track u on u.id = k.parent_id
        where m.raw_id = {machine} order by c.ts, c.id''',
}


def ask(trace, questions):
    """{name: SQL} gives {name: rows as dicts}."""
    run = subprocess.run(['node', QUERY, tool('fetch-trace-processor.sh'), trace], input=json.dumps(list(questions.values())),
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    answers = dict(zip(questions, map(json.loads, run.stdout.splitlines()), strict=True))
    for name, rows in answers.items():
        assert isinstance(rows, list), (name, rows)
    return answers


class Machine:
    """One of a trace, of which pftext has the clocks: answers by the names of the questions, times of its own clock."""

    def __init__(self, path, pf):
        answers = ask(path, {name: sql.format(machine=pf.number) for name, sql in QUESTIONS.items()})
        clocks = {one(c, 'clock_id'): one(c, 'timestamp') for c in one(pf.sync['synced_clocks'][0], 'client_clocks')['clocks']}
        for rows in answers.values():
            for row in rows:
                for key in 'ts', 'start_ts':
                    if row.get(key) is not None:
                        row[key] -= clocks[1] - clocks[3]  # the trace's clock is real time
        self.__dict__.update(answers)
        self.args = collections.defaultdict(dict)
        for a in self.arg:
            self.args[a['arg_set_id']][a['key']] = a

    @staticmethod
    def tracks(rows):
        found = collections.defaultdict(list)
        for row in rows:
            found[row['track']].append(row)
        return found


# --------------------------------------------------------------------------------------------- threads

def check_threads(m, records):
    """Each thread once for each time that it was made, in its process, that one below the one that made it."""
    forks, names = collections.defaultdict(list), collections.defaultdict(set)
    for r in records:
        f = r.get('fields', {})
        if 'comm' in r:
            names[r['tid']].add(r['comm'])
        for k, v in f.items():
            if k.endswith('tid.name'):
                names[f[k.removesuffix('.name')]].add(v)
        if r.get('event') == 'task_rename':
            names[f['tid']].add(f['comm'])
        if r.get('event') == 'sched_process_fork':
            forks[f['child_tid']].append(r)
            names[f['child_tid']].add(f['child_comm'])
    by_tid = collections.defaultdict(list)
    for t in m.thread:
        by_tid[t['tid']].append(t)
    process_of = {t['tid']: t['pid'] for t in m.thread}
    for tid, threads in by_tid.items():
        if not tid or tid >= LOST_TASK - 3072:
            continue
        made = {f['time']: f for f in forks[tid]}
        begun = [t['start_ts'] for t in threads if t['start_ts'] is not None]
        assert sorted(begun) == sorted(made), (threads, list(made))
        assert len(threads) - len(made) <= 1, threads  # one may have been there before
        for t in threads:
            assert t['name'] is None or not names[tid] or plain(t['name']) in names[tid], (t, names[tid])
            if t['start_ts'] in made:
                f = made[t['start_ts']]['fields']
                assert t['pid'] == f['child_pid'] and t['is_main_thread'] == (f['child_pid'] == tid), (t, f)
                if t['is_main_thread']:
                    assert t['parent'] == process_of[f['parent_tid']], (t, f)
                    assert t['process'] == t['name'] or ' ' in t['name'], t
    return len(m.thread)


# ---------------------------------------------------------------------------------------------- slices

def check_sched(m, by_cpu):
    states = {0: 'R'}
    for of_cpu in by_cpu.values():
        for r in of_cpu:
            if r.get('event') == 'sched_switch':
                states[r['fields']['prev_state']] = r['fields']['prev_state.name']
    found, last = collections.defaultdict(list), collections.Counter()
    for s in m.sched:
        if s['dur'] < 0:  # goes on
            last[s['cpu']] += 1
            continue
        found[s['cpu']].append((s['ts'], s['ts'] + s['dur'], s['tid'], s['end_state']))
    wanted = {cpu: [(s.begin, s.end, s.what, states[s.result]) for s in pfmodel.running(of_cpu)]
              for cpu, of_cpu in by_cpu.items()}
    for cpu, of_cpu in wanted.items():
        different = [(a, b) for a, b in zip(found[cpu], of_cpu) if a != b]
        assert not different and len(found[cpu]) == len(of_cpu), (cpu, len(found[cpu]), len(of_cpu), different[:3])
    assert all(n == 1 for n in last.values()), last
    return sum(map(len, wanted.values()))


def check_wakeups(m, records):
    """Who woke whom, or made it, and when."""
    kinds = 'sched_waking', 'sched_wakeup', 'sched_wakeup_new'
    there = {(r['time'], r['fields']['tid'], r['tid']) for r in records if r.get('event') in kinds and 'tid' in r}
    there |= {(r['time'], r['fields']['child_tid'], r['fields']['parent_tid']) for r in records
              if r.get('event') == 'sched_process_fork'}
    found = {(w['ts'], w['tid'], w['waker']) for w in m.wakeup}
    assert found <= there, list(found - there)[:3]
    return len(found)


def check_calls(m, records):
    names = {r['fields']['nr']: r['fields'].get('nr.name') for r in records if r.get('event') in ('sys_enter', 'sys_exit')}
    found = collections.Counter((c['ts'], c['ts'] + c['dur'], c['tid'], c['name'], c['ret']) for c in m.call if c['dur'] >= 0)
    wanted = collections.Counter((c.begin, c.end, c.what[0], f'sys_{names[c.what[1]]}', c.result)
                                 for c in pfmodel.calls(records))
    wanted.update((r['time'], r['time'], r['fields']['tid'], 'sys_rt_sigreturn', None) for r in records
                  if r.get('event') == 'sys_enter' and r['fields']['nr'] == SIGRETURN)  # it does not come back
    assert found == wanted, (list((found - wanted).items())[:3], list((wanted - found).items())[:3])
    return sum(found.values())


def check_interrupts(m, by_cpu):
    nr = 0
    for cpu, of_cpu in by_cpu.items():
        softirqs = [(s.begin, s.end, SOFTIRQS[s.what])
                    for s in pfmodel.interrupts(of_cpu, 'irq_softirq_entry', 'irq_softirq_exit', 'vec')]
        lines = {r['fields']['irq']: r['fields']['name'] for r in of_cpu if r.get('event') == 'irq_handler_entry'}
        irqs = [(s.begin, s.end, f'IRQ ({lines[s.what]})')
                for s in pfmodel.interrupts(of_cpu, 'irq_handler_entry', 'irq_handler_exit', 'irq')]
        for kind, wanted in (('cpu_softirq', softirqs), ('cpu_irq', irqs)):
            found = [(i['ts'], i['ts'] + i['dur'], i['name']) for i in m.interrupt
                     if (i['type'], i['cpu']) == (kind, cpu) and i['dur'] >= 0]
            assert found == wanted, (cpu, kind, [(a, b) for a, b in zip(found, wanted) if a != b][:3])
            nr += len(wanted)
    return nr


# ----------------------------------------------------------------------------------- tracks of our own

def flat(value, key):
    """As trace processor names the parts of a value; dots are its own."""
    if isinstance(value, dict) and 'address' in value:  # of a stack
        yield key, None
    elif isinstance(value, dict):
        for k, v in value.items():
            if not k.endswith('.bytes'):
                yield from flat(v, f'{key}.{k.replace(".", "_")}')
    elif isinstance(value, list):
        for i, v in enumerate(value):
            yield from flat(v, f'{key}[{i}]')
    else:
        yield key, value


def same_value(arg, value):
    if value is None:
        return arg['string_value'] is not None
    if isinstance(value, str):
        return plain(arg['string_value']) == value
    return (arg['int_value'] - value) % 2**64 == 0 and (arg['value_type'] == 'bool') == isinstance(value, bool)


def check_args(m, row, wanted):
    args = m.args[row['arg_set_id']]
    wanted = dict(flat(wanted, 'debug'))
    assert {k for k in args if k.startswith('debug.')} == set(wanted), (row, set(args) ^ set(wanted))
    for key, value in wanted.items():
        assert same_value(args[key], value), (row, args[key], value)


def check_instants(m, by_cpu):
    tracks, nr = m.tracks(m.slice), 0
    for cpu, of_cpu in by_cpu.items():
        wanted = [r for r in of_cpu if 'event' in r and pfmodel.is_instant(r)]
        found = tracks[f'CPU {cpu} events']
        assert [(s['ts'], s['dur'], s['name']) for s in found] == [(r['time'], 0, r['event']) for r in wanted], cpu
        for s, r in zip(found, wanted):
            about = {k: r[k] for k in ('tid', 'comm') if k in r}
            check_args(m, s, {**r.get('fields', {'raw': r.get('raw')}), **({'current': about} if about else {}),
                              **({'unverified': True} if r.get('unverified') else {})})
        nr += len(wanted)
    return nr


def check_losses(m, by_cpu):
    tracks, nr = m.tracks(m.slice), 0
    for cpu, of_cpu in by_cpu.items():
        wanted = pfmodel.losses(of_cpu)
        found = tracks[f'CPU {cpu} lost events']
        assert [(s['ts'], s['ts'] + s['dur'], s['name']) for s in found] == [w[:3] for w in wanted], cpu
        for s, w in zip(found, wanted):
            check_args(m, s, w.result)
        nr += len(wanted)
    lossy = {cpu for cpu, of_cpu in by_cpu.items() if any('lost' in r for r in of_cpu)}
    bad = {(b['severity'], b['name'], b['idx']) for b in m.bad}
    assert bad <= {('data_loss', 'ftrace_cpu_has_data_loss', cpu) for cpu in lossy} and bool(bad) == bool(lossy), (bad, lossy)
    return nr


def check_rates(m, sessions, by_cpu):
    tracks, nr = m.tracks(m.counter), 0
    for cpu, of_cpu in by_cpu.items():
        rate = pfmodel.rate([[r for r in s if r['cpu'] == cpu] for s in sessions])
        wanted = [(max(t, of_cpu[0]['time']), v) for t, v in rate]
        assert [(c['ts'], c['value']) for c in tracks[f'CPU {cpu} events per second']] == wanted, cpu
        nr += len(wanted)
    return nr


def check(perfetto, machine, sessions, records, by_cpu):
    """A guest's @machine, as pftext has it, against JSON, as pfmodel reads it; returns how many there are of each kind."""
    m = Machine(perfetto, machine)
    (about,) = m.machine
    assert about['sysname'] == 'Linux' and about['release'] and about['num_cpus'] >= len(by_cpu), about
    return {'threads': check_threads(m, records), 'times that a task ran': check_sched(m, by_cpu),
            'wake-ups': check_wakeups(m, records), 'calls': check_calls(m, records),
            'interrupts': check_interrupts(m, by_cpu), 'instants': check_instants(m, by_cpu),
            'losses': check_losses(m, by_cpu), 'rates': check_rates(m, sessions, by_cpu)}


def check_vcpus(perfetto, host, slices, steal):
    """The source kvm's machine: the tracks of virtual CPUs, each below its VM, as test_vcpus has them; no error."""
    m = Machine(perfetto, host)
    assert not m.bad or {b['severity'] for b in m.bad} == {'data_loss'}, m.bad
    found = {track: [(s['ts'], s['ts'] + max(s['dur'], 0), s['name'], m.args[s['arg_set_id']]['debug.thread']['int_value'])
                     for s in rows] for track, rows in m.tracks(m.slice).items() if 'vCPU' in track}
    assert found == slices, found
    counters = {track: [(c['ts'], c['value']) for c in rows] for track, rows in m.tracks(m.counter).items() if 'steal' in track}
    assert counters == steal, counters
    above = {r['track']: r['above'] for r in [*m.slice, *m.counter] if 'vCPU' in r['track']}
    return above


def events_of_all(perfetto):
    """[(time, name)] of instants of all machines, in the trace's own time."""
    rows = ask(perfetto, {'all': '''select s.ts, s.name from slice s join track k on k.id = s.track_id
        where k.name like 'CPU % events' and k.name not like '% lost events' order by s.ts, s.id'''})['all']
    return [(row['ts'], row['name']) for row in rows]

# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Perfetto's format as protoc decodes it, by our description of it: packets as dicts of lists, and of
these what a reader of the trace makes, by the format's rules: tracks, slices, counters, names.
"""

import collections
import os
import re
import subprocess

from vm import TOP

PROTO = os.path.join(TOP, 'host-reader', 'perfetto.proto')
CLEARED, NEEDED = 1, 2
LOST_TASK, SIGRETURN = 0x7fffffff, 15
NESTING = 'boot'  # the only track whose slices have others in them
ESCAPES = {'n': '\n', 't': '\t', 'r': '\r'}


def unquoted(text):
    return re.sub(r'\\([0-7]{3}|.)',
                  lambda m: chr(int(m[1], 8)) if len(m[1]) == 3 else ESCAPES.get(m[1], m[1]), text[1:-1])


def scalar(text):
    if text.startswith('"'):
        return unquoted(text)
    if re.fullmatch(r'-?\d+', text):
        return int(text)
    return {'true': True, 'false': False}.get(text, text)


def complete(data):
    """The bytes of the packets that are whole."""
    at = 0
    while at < len(data):
        assert data[at] == 0x0a, f'no packet begins at {at}'
        length, shift, end = 0, 0, at + 1
        while end < len(data):
            length |= (data[end] & 0x7f) << shift
            shift += 7
            end += 1
            if not data[end - 1] & 0x80:
                break
        else:
            return at
        if end + length > len(data):
            return at
        at = end + length
    return at


def packets(data):
    """Each as {field: [values]}. No field may be unknown to our description."""
    run = subprocess.run(['protoc', '--decode=pf.Trace', f'--proto_path={os.path.dirname(PROTO)}', PROTO],
                         input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True)
    assert not run.stderr, run.stderr[:1000]
    top = collections.defaultdict(list)
    stack = [top]
    for line in run.stdout.decode('ascii').splitlines():
        line = line.strip()
        if line == '}':
            stack.pop()
            continue
        key, _, rest = line.partition(' ')
        assert not key[0].isdigit(), f'a field that is not described: {line}'
        if rest == '{':
            value = collections.defaultdict(list)
            stack.append(value)
            stack[-2][key].append(value)
        else:
            stack[-1][key[:-1]].append(scalar(rest))
    assert len(stack) == 1
    return top['packet']


def one(message, *path, default=None):
    for name in path:
        if name not in message:
            return default
        assert len(message[name]) == 1, (name, message)
        message = message[name][0]
    return message


Slice = collections.namedtuple('Slice', 'begin end what result')
Instant = collections.namedtuple('Instant', 'time name args')


class Machine:
    def __init__(self, number):
        self.number = number
        self.names = None        # of the sequence: {(field, iid): text}
        self.sync = self.system = None
        self.tracks = {}         # uuid: (name, parent, unit)
        self.kernel = collections.defaultdict(list)   # cpu: (time, pid, event, fields)
        self.gaps = collections.Counter()             # cpu: bundles before which events were lost
        self.instants = collections.defaultdict(list) # track's name: Instant
        self.counters = collections.defaultdict(list) # track's name: (time, value)
        self.slices = collections.defaultdict(list)   # track's name: Slice, by when they begin
        self.begun = collections.defaultdict(list)    # likewise: which of them have not ended
        self.tasks = []          # (time, tid, pid, name, process's name)


def value_of(machine, a):
    """An annotation's value: dicts and lists too."""
    if 'dict_entries' in a:
        return args_of(machine, a['dict_entries'])
    if 'array_values' in a:
        return [value_of(machine, x) for x in a['array_values']]
    kinds = [k for k in a if k.endswith('_value')]
    assert len(kinds) <= 1, a
    return one(a, kinds[0]) if kinds else None


def args_of(machine, annotations):
    args = {}
    for a in annotations:
        name = machine.names['debug_annotation_names', one(a, 'name_iid')]
        assert name not in args, (name, annotations)
        args[name] = value_of(machine, a)
    return args


class Trace:
    """What a reader of the trace knows, by machines."""

    def __init__(self, path):
        with open(path, 'rb') as f:
            data = f.read()
        self.size, self.cut = len(data), len(data) - complete(data)
        self.machines, self.host = {}, None
        for i, p in enumerate(packets(data[:self.size - self.cut])):
            number = one(p, 'machine_id')
            if number is None:
                assert i == 0 and one(p, 'trusted_packet_sequence_id') == 1, p
                self.host = one(p, 'clock_snapshot')
                continue
            assert one(p, 'trusted_packet_sequence_id') == 1 + number, p
            self.take(self.machines.setdefault(number, Machine(number)), p)

    def take(self, m, p):
        flags = one(p, 'sequence_flags', default=0)
        if flags & CLEARED:
            assert one(p, 'trace_packet_defaults', 'timestamp_clock_id') == 3, p
            assert (m.names is None) == one(p, 'first_packet_on_sequence', default=False), p
            m.names = {}
        assert m.names is not None, f'before its state begins: {p}'
        for field, entries in one(p, 'interned_data', default={}).items():
            assert flags & NEEDED
            for e in entries:
                assert (field, one(e, 'iid')) not in m.names, e
                m.names[field, one(e, 'iid')] = one(e, 'name')
        if 'remote_clock_sync' in p:
            assert m.sync is None
            m.sync = one(p, 'remote_clock_sync')
        if 'system_info' in p:
            m.system = one(p, 'system_info')
        if 'track_descriptor' in p:
            t = one(p, 'track_descriptor')
            assert one(t, 'uuid') not in m.tracks, t
            m.tracks[one(t, 'uuid')] = (one(t, 'name'), one(t, 'parent_uuid'), one(t, 'counter', 'unit_name'))
        if 'process_tree' in p:
            self.take_task(m, one(p, 'timestamp'), one(p, 'process_tree'))
        if 'ftrace_events' in p:
            self.take_bundle(m, one(p, 'ftrace_events'))
        if 'track_event' in p:
            assert flags & NEEDED
            self.take_event(m, one(p, 'timestamp'), one(p, 'track_event'))

    @staticmethod
    def take_task(m, time, tree):
        process = one(tree, 'processes')
        thread = one(tree, 'threads')
        assert not process or one(process, 'pid') == one(thread, 'tgid'), tree
        m.tasks.append((time, one(thread, 'tid'), one(thread, 'tgid'), one(thread, 'name'),
                        process and one(process, 'cmdline')))

    @staticmethod
    def take_bundle(m, bundle):
        cpu = one(bundle, 'cpu')
        m.gaps[cpu] += one(bundle, 'lost_events', default=False)
        for e in bundle['event']:
            (name,) = set(e) - {'timestamp', 'pid'}
            time = one(e, 'timestamp')
            assert not m.kernel[cpu] or m.kernel[cpu][-1][0] <= time, (m.kernel[cpu][-1], e)
            m.kernel[cpu].append((time, one(e, 'pid'), name, one(e, name)))

    @staticmethod
    def take_event(m, time, e):
        track, kind = m.tracks[one(e, 'track_uuid')][0], one(e, 'type')
        name = m.names['event_names', one(e, 'name_iid')] if 'name_iid' in e else one(e, 'name')
        args = args_of(m, e['debug_annotations'])
        if kind == 'TYPE_INSTANT':
            m.instants[track].append(Instant(time, name, args))
        elif kind == 'TYPE_COUNTER':
            m.counters[track].append((time, one(e, 'counter_value')))
        elif kind == 'TYPE_SLICE_BEGIN':
            assert not m.begun[track] or track == NESTING, 'nested'
            m.begun[track].append(len(m.slices[track]))
            m.slices[track].append(Slice(time, None, name, args))
        else:
            assert kind == 'TYPE_SLICE_END' and name is None, e
            at = m.begun[track].pop()
            assert m.slices[track][at].begin <= time, (m.slices[track][at], time)
            m.slices[track][at] = m.slices[track][at]._replace(end=time)


# ------------------------------------------------------------------------- what becomes of the kernel's events

def running(machine):
    """{cpu: [Slice]} of tasks; the result is the state in which each left."""
    slices = {}
    for cpu, events in machine.kernel.items():
        found, last = [], None
        for time, _, name, f in events:
            if name != 'sched_switch':
                continue
            if last:
                assert one(f, 'prev_pid') == last[1], f'{last[1]} runs, {f} says otherwise'
                found.append(Slice(last[0], time, last[1], one(f, 'prev_state')))
            last = time, one(f, 'next_pid')
        slices[cpu] = found
    return slices


def calls(machine):
    """Slices of system calls that ended, (tid, number, arguments); the result is None where nobody saw it."""
    x86 = one(machine.system, 'utsname', 'machine') == 'x86_64'
    events = sorted((e for of_cpu in machine.kernel.values() for e in of_cpu), key=lambda e: e[0])
    open_calls, found = {}, []
    for time, tid, name, f in events:
        if name == 'sys_enter' and not (x86 and one(f, 'id') == SIGRETURN):
            assert tid not in open_calls, f'{tid} begins a call in a call: {f}'
            open_calls[tid] = time, one(f, 'id'), tuple(f['args'])
        elif name == 'sys_exit' and open_calls.get(tid, (0, None))[1] == one(f, 'id'):
            begin, nr, args = open_calls.pop(tid)
            found.append(Slice(begin, time, (tid, nr, args), one(f, 'ret')))
    return found


def interrupts(machine, entry, leave, key):
    """{cpu: [Slice]}"""
    slices = {}
    for cpu, events in machine.kernel.items():
        found, begun = [], None
        for time, _, name, f in events:
            if name == entry:
                assert begun is None, f'{entry} in {entry} on CPU {cpu}'
                begun = time, one(f, key)
            elif name == leave and begun:
                assert begun[1] == one(f, key), (begun, f)
                found.append(Slice(begun[0], time, begun[1], None))
                begun = None
        slices[cpu] = found
    return slices


def marks(path):
    """Instants on the track of each machine, as protoc has them."""
    machines = Trace(path).machines
    return [i.name for nr in sorted(machines) for i in machines[nr].instants[next(iter(machines[nr].tracks.values()))[0]]]

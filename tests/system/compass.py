# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What Trace Compass, and its incubator's analyses of virtual machines, make of traces: a stand-in for the program. Who
is a machine, what ran where, which thread of the host is which virtual CPU of which guest, by its rules, each named
after where it has them. Traces come from babeltrace2.
"""

import bisect
import collections
import os
import re

import ctftext

# LttngEventLayout and those of 2.6 to 2.9, which take its place: kvm_entry is another event to them.
ENTRY, EXIT, SWITCH, FORK, DUMP = ('kvm_x86_entry', 'kvm_x86_exit', 'sched_switch', 'sched_process_fork',
                                   'lttng_statedump_process_state')
# QemuKvmStrings
GH_GUEST, GH_HOST, HG_GUEST, HG_HOST = 'vmsync_gh_guest', 'vmsync_gh_host', 'vmsync_hg_guest', 'vmsync_hg_host'

# What handlers of the kernel analysis and of the fused one take without looking: a number has to be one (an enumeration
# has another class), a text a text, or the program's analysis ends there.
TAKEN = {
    SWITCH: ({'prev_tid', 'prev_prio', 'prev_state', 'next_tid', 'next_prio'}, {'next_comm'}),
    FORK: ({'parent_tid', 'child_tid'}, {'child_comm'}),
    'sched_process_free': ({'tid'}, set()), 'sched_pi_setprio': ({'tid', 'newprio'}, set()),
    'sched_wakeup': ({'tid', 'prio', 'target_cpu'}, set()), 'sched_wakeup_new': ({'tid', 'prio', 'target_cpu'}, set()),
    'sched_waking': ({'tid', 'prio', 'target_cpu'}, set()),
    'irq_handler_entry': ({'irq'}, {'name'}), 'irq_handler_exit': ({'irq'}, set()),
    'irq_softirq_raise': ({'vec'}, set()), 'irq_softirq_entry': ({'vec'}, set()), 'irq_softirq_exit': ({'vec'}, set()),
    DUMP: ({'tid', 'pid', 'ppid', 'status', 'vtid', 'vpid', 'vppid', 'ns_level', 'ns_inum'}, {'name'}),
    ENTRY: ({'vcpu_id'}, set()), EXIT: ({'exit_reason'}, set()),
    **{e: ({'cnt', 'vm_uid'}, set()) for e in (GH_GUEST, GH_HOST, HG_GUEST, HG_HOST)},
}

# LinuxValues, ProcessStatus
NOLOAD, WAITING, DEAD = 0x400, 1 | 2, 64
# VcpuStateValues
UNKNOWN, IDLE, RUNNING, VMM, PREEMPT = 0, 1, 2, 128, 256


def status_of(prev_state):
    """ProcessStatus.getStatusFromKernelState"""
    state = prev_state & (NOLOAD - 1)
    return 'ready' if not state else 'blocked' if state & WAITING else 'dead' if state & DEAD else 'unknown'


class Trace:
    """LttngKernelTrace, if it is a kernel's; CtfTmfTrace.getHostId"""

    def __init__(self, path):
        text = ctftext.metadata(path)
        env = dict(re.findall(r'^\t(\w+) = "?(.*?)"?;$', re.search(r'^env {(.*?)^};', text, re.M | re.S)[1], re.M))
        clock = re.search(r'^clock {(.*?)^};', text, re.M | re.S)[1]
        self.path, self.name = path, os.path.basename(path)
        self.kernel = env.get('domain') == 'kernel'
        self.layout = None
        if self.kernel and env['tracer_name'] == 'lttng-modules' and int(env['tracer_major']) >= 2:
            self.layout = int(env['tracer_minor'])
        self.host_id = re.search(r'uuid = "(.*?)"', clock)[1]
        self.offset = ctftext.offset(path)
        self.events, self.losses = ctftext.read(path)
        self.declared = set(re.findall(r'^\tname = "(.*?)";\n\tstream_id', text, re.M))
        if self.kernel:
            self.check()
            self.follow()

    def check(self):
        """What is taken is there; each event has a CPU (CtfCpuAspect)."""
        assert self.layout >= 9, (self.path, self.layout)
        for e in self.events:
            assert 'cpu_id' in e.packet, (self.path, e.event, e.packet)
            e.cpu = e.packet['cpu_id']
            if e.event.startswith('x86_irq_vectors_'):
                numbers, texts = {'vector'}, set()
            else:
                numbers, texts = TAKEN.get(e.event, (set(), set()))
            bad = [f for f in numbers if type(e.fields.get(f)) is not int]  # pylint: disable=unidiomatic-typecheck
            bad += [f for f in texts if not isinstance(e.fields.get(f), str)]
            assert not bad, (self.path, e.event, bad, e.fields)

    def follow(self):
        """ActiveTidStateProvider; of StateDumpHandler, ProcessForkHandler what processes are made of."""
        self.runs = collections.defaultdict(list)  # CPU: [(from, tid)]
        self.processes, self.parents, self.threads = collections.defaultdict(list), {}, set()
        self.switches = self.breaks = 0
        for e in self.events:
            f = e.fields
            if e.event == SWITCH:
                runs = self.runs[e.cpu]
                self.switches += 1
                self.breaks += bool(runs) and runs[-1][1] != f['prev_tid'] and not self.lost(e.cpu, runs[-1][0], e.time)
                assert not runs or runs[-1][0] <= e.time
                runs.append((e.time, f['next_tid']))
                self.threads |= {f['prev_tid'], f['next_tid']}
            elif e.event == DUMP:
                self.threads.add(f['tid'])
                self.parents.setdefault(f['tid'], f['ppid'])
                if f['tid'] != f['pid'] and not self.processes[f['tid']]:
                    self.processes[f['tid']].append((e.time, f['pid']))
            elif e.event == FORK:
                self.threads.add(f['child_tid'])
                self.parents[f['child_tid']] = f['parent_tid']
                if f.get('child_pid') not in (None, f['child_tid']):
                    self.processes[f['child_tid']].append((e.time, f['child_pid']))

    def lost(self, cpu, begin, end):
        return any(loss.cpu == cpu and loss.begin <= end and begin <= loss.end for loss in self.losses)

    def thread(self, e):
        """LinuxTidAspect: TidAnalysisModule.getThreadOnCpuAtTime, and only if that has none the event's context."""
        runs = self.runs.get(e.cpu, [])
        at = bisect.bisect_right(runs, (e.time - 1, float('inf')))
        return runs[at - 1][1] if at else e.context['tid']

    def process(self, e, analysed):
        """LinuxPidAspect: KernelPidAspect, if the kernel analysis got so far, or the event's context."""
        tid = self.thread(e)
        if analysed and tid in self.threads and not self.processes.get(tid):
            return tid
        known = [pid for time, pid in self.processes.get(tid, []) if analysed and time <= e.time]
        return known[-1] if known else e.context['pid']


class Machine:
    def __init__(self, trace):
        self.trace, self.host, self.uid, self.children = trace, False, None, set()


class Experiment:
    """VirtualMachineExperiment: all that are a kernel's."""

    def __init__(self, path):
        everything = [Trace(p) for p in ctftext.traces(path)]
        self.traces = [t for t in everything if t.kernel]
        by_id = collections.Counter(t.host_id for t in everything)
        assert max(by_id.values()) == 1, f'one machine to the program: {by_id}'
        self.by_id = {t.host_id: t for t in self.traces}
        # The clocks' offsets are all that their times are laid beside each other by.
        assert len({t.offset for t in self.traces}) == 1, {t.name: t.offset for t in self.traces}
        self.events = sorted(((e.time, i, n) for i, t in enumerate(self.traces) for n, e in enumerate(t.events)))

    def each(self):
        """In the experiment's order."""
        for _, i, n in self.events:
            yield self.traces[i], self.traces[i].events[n]

    def model(self, analysed=True):
        """VirtualMachineModelStateProvider with its QemuKvmEventHandler."""
        machines = {t.host_id: Machine(t) for t in self.traces}
        vms, vcpus = {}, {}  # HostThread: Machine, (Machine, CPU)
        for t, e in self.each():
            me = machines[t.host_id]
            if e.event in (ENTRY, EXIT, GH_HOST):
                me.host = True
            if e.event in (GH_GUEST, HG_GUEST) and me.uid is None:
                me.uid = e.fields['vm_uid']
            elif e.event == GH_HOST and (t.host_id, t.thread(e)) not in vms:
                for m in machines.values():
                    if m.uid == e.fields['vm_uid']:
                        me.children.add(m)
                        vms[t.host_id, t.thread(e)] = m
                        pid = t.process(e, analysed)
                        if pid is not None:
                            vms.setdefault((t.host_id, pid), m)
            elif e.event == ENTRY and (t.host_id, t.thread(e)) not in vcpus:
                ht = t.host_id, t.thread(e)
                vm = vms.get(ht) or vms.get((t.host_id, t.process(e, analysed)))
                if vm:
                    vms[ht] = vm
                    vcpus[ht] = vm, e.fields['vcpu_id']
        return machines, vcpus

    def fused_model(self):
        """QemuKvmVmModel, of the fused analysis: a thread's parent is its machine, too. {HostThread: trace}"""
        known, vms = {}, {}
        for t, e in self.each():
            if e.event.startswith('kvm_'):
                known.setdefault(t.host_id, [t, None])
            if e.event in (GH_GUEST, HG_GUEST):
                known.setdefault(t.host_id, [t, None])[1] = e.fields['vm_uid']
            ht = t.host_id, t.thread(e)
            parent = t.host_id, t.parents.get(ht[1])
            if e.event == GH_HOST and ht not in vms:
                for machine, uid in known.values():
                    if uid == e.fields['vm_uid']:
                        vms[ht] = machine
                        if parent[1] is not None:
                            vms[parent] = machine
            elif e.event == ENTRY and ht not in vms and parent[1] is not None and parent in vms:
                vms[ht] = vms[parent]
        return vms

    def states(self, vcpus):
        """VirtualResourcesStateProvider: {(trace, CPU): [(from, state)]}"""
        found, ids = collections.defaultdict(list), {ht: (m.trace, cpu) for ht, (m, cpu) in vcpus.items()}
        guests = {trace for trace, _ in ids.values()}

        def modify(e, key, change):
            before = found[key][-1][1] if found[key] else UNKNOWN
            found[key].append((e.time, change(before)))

        for t, e in self.each():
            if e.event == SWITCH:
                if t in guests:
                    runs = RUNNING if e.fields['next_tid'] > 0 else IDLE
                    modify(e, (t, e.cpu), lambda s, runs=runs: runs | s & (VMM | PREEMPT))
                prev, following = ((t.host_id, e.fields[f]) for f in ('prev_tid', 'next_tid'))
                if prev in ids:
                    modify(e, ids[prev], lambda s: s | PREEMPT)
                if following in ids:
                    modify(e, ids[following], lambda s: s & ~PREEMPT)
            elif e.event in (ENTRY, EXIT) and (t.host_id, t.thread(e)) in ids:
                modify(e, ids[t.host_id, t.thread(e)], (lambda s: s & ~VMM) if e.event == ENTRY else (lambda s: s | VMM))
        return found

    def matches(self):
        """TwoWayVmEventMatching: how many causes have their effect, and which are alone."""
        sides = collections.defaultdict(dict)
        for t, e in self.each():
            if e.event.startswith('vmsync_'):
                key = e.fields['vm_uid'], e.fields['cnt']
                assert e.event not in sides[key], ('twice', e.event, key)
                sides[key][e.event] = (e.time, t)
        pairs, alone = 0, []
        for key, of in sides.items():
            for cause, effect in (GH_GUEST, GH_HOST), (HG_HOST, HG_GUEST):
                if cause in of and effect in of:
                    assert of[cause][0] < of[effect][0] and of[cause][1] is not of[effect][1], (key, of)
                    assert len(of) == 2, (key, of)
                    pairs += 1
            if len(of) != 2:
                alone.append((key, of))
        return pairs, alone


def check(path, want):
    """
    @want: {process of the VM: {CPU of its guest: thread of the host}}. Of the host there is one trace, and all its rules
    hold. Returns the experiment, {(process, CPU): its states}, and how many pairs of events say who is who.
    """
    x = Experiment(path)
    (host,) = [t for t in x.traces if ENTRY in t.declared]
    assert not any(t.breaks for t in x.traces), {t.name: (t.breaks, t.switches) for t in x.traces}
    truth = {(host.host_id, tid): (vm, cpu) for vm, of in want.items() for cpu, tid in of.items()}
    for analysed in True, False:
        machines, vcpus = x.model(analysed)
        me = machines[host.host_id]
        assert me.host and me.uid is None
        assert len(me.children) == len(want) and {m.uid for m in me.children} == set(want), (me.children, want)
        assert not any(m.host for m in machines.values() if m is not me)
        found = {ht: (m.uid, cpu) for ht, (m, cpu) in vcpus.items()}
        assert found == truth, (analysed, found, truth)
    # That one need not find all, and must find no wrong one.
    for ht, trace in x.fused_model().items():
        assert ht not in truth or truth[ht][0] == machines[trace.host_id].uid, (ht, trace.name)
    pairs, alone = x.matches()
    assert pairs >= 2 * len(want) and not alone, (pairs, alone)
    states = {(machines[trace.host_id].uid, cpu): of for (trace, cpu), of in x.states(vcpus).items()}
    return x, states, pairs

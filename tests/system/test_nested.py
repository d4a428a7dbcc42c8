# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest in a guest: real exits, which L2 and its VMM know the number of, and the kernel counts."""

import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import types

import clocks
import nested
from harness import params, say
from test_one_clock import BORDER, OPTION, error_of, told
from vm import READER, Reader

WORKS = ['io', 'mmio', 'hlt', 'cpuid', 'vmcall', 'interrupt', 'busy']
LEAVING = ['io', 'mmio', 'hlt', 'cpuid', 'vmcall']
POLICIES = ['adaptive', 'timer:500', 'spin', 'kvm-exit']
ROUNDS, RECORDS = 2000, 4


def check_exits(account, counted):
    """What the guest did on purpose is what the kernel counted; all else has other reasons."""
    work, svm = account['work'], nested.SVM
    assert counted[svm['io']] == account['io'] == (account['made'] if work == 'io' else 0) + 1
    assert counted.get(svm['hlt'], 0) == account['hlt'] == (account['made'] if work == 'hlt' else 0)
    for name in 'cpuid', 'vmcall':
        assert counted.get(svm[name], 0) == (account['made'] if work == name else 0), (name, counted)
    # A page that the guest touches for the first time is such an exit, too.
    assert account['mmio'] == (account['made'] if work == 'mmio' else 0)
    assert account['mmio'] < counted[svm['npf']] < account['mmio'] + 500, counted
    assert account['irqs'] == account['injected'], account
    assert account['irq_records'] <= account['irqs']
    assert set(counted) <= set(svm.values()), counted
    assert account['exits'] == sum(counted.values()), (account, counted)
    assert account['made'] == (0 if work in ('interrupt', 'busy') else ROUNDS)


def check_epochs(said, exits):
    """The reader saw each exit that the kernel counted, no more and no fewer."""
    seen = nested.epochs(said)
    assert {cpu: e[0] for cpu, e in seen.items()} == \
        {cpu: sum(e.values()) for cpu, e in exits.items()}, (seen, exits)
    for _, reads, shares in seen.values():
        assert reads > 0 and abs(sum(shares) - 100) < 0.2, seen
    total = sum(e[0] for e in seen.values())
    cost = nested.bpf_cost(said)
    for runs, ns in cost:  # of the first second, which may begin before the VM is known to the programs
        assert 0 < runs <= total + 10 and 0 < ns < 10000000, said
    return '; '.join(f'vCPU {cpu}: {e[0]} exits, {e[1]} reads, while out {e[2][0]} %'
                     for cpu, e in seen.items()) + f'; BPF {cost[0][1]} + {cost[1][1]} ns'


def check_run(files, name, policy, works):
    accounts = nested.vmm(files[name + '.vmm'])
    assert [a['work'] for a in accounts] == works, files[name + '.vmm']
    assert all(a['records'] == ROUNDS * RECORDS for a in accounts), accounts
    found = nested.events(files[name + '.json'])
    assert len(found) == 1
    records = nested.check_all(found[0], accounts)
    exits = nested.exits(files[name + '.exits'])
    for cpu, account in enumerate(accounts):
        check_exits(account, exits[cpu])
    assert re.search(r'^lost +0 ', files[name + '.err'], re.M), files[name + '.err']
    watched = check_epochs(files[name + '.err'], exits) if policy == 'kvm-exit' else ''
    share = None
    if watched and works[0] in LEAVING and len(works) == 1:
        share, returned, _ = nested.epochs(files[name + '.err'])[0][2]
        assert share > returned, watched  # of the reads that an exit asked for
    say(f'{name}: {records} records, {sum(sum(e.values()) for e in exits.values())} exits', watched)
    if 'interrupt' in works:
        say(f'{accounts[0]["irqs"]} interrupts, {accounts[0]["irq_records"]} with a record')
        assert accounts[0]['irq_records'] > 10, accounts
    return share


@params('6.12', thorough=['6.1'])
def test_records(kernel):
    """Each way of leaving guest mode, with exits watched and under another policy; two vCPUs."""
    runs = {}
    for i, work in enumerate(WORKS):
        runs[f'{work}-kvm-exit'] = ('kvm-exit', [work])
        if kernel == '6.1':
            other = POLICIES[i % 3]
            runs[f'{work}-{other}'] = (other, [work])
    for policy in POLICIES:
        runs[f'two-{policy}'] = (policy, ['vmcall', 'busy'])
    runs['moved'] = ('kvm-exit', ['io', 'hlt'])
    script = ''
    for name, (policy, works) in runs.items():
        pause = 2000 if 'interrupt' in works else 100
        if name == 'moved':
            pause = 3000
            script += '(until pidof l2vmm >/dev/null; do sleep 0.01; done; migrate moved) &\nmover=$!\n'
        run = f'nested {name} {policy} {ROUNDS} {RECORDS} {pause} {" ".join(works)} || exit 1'
        if policy == 'kvm-exit' and len(works) == 1 and works[0] in LEAVING:
            # Where other work takes the CPU from the reader, it comes when it comes: the bound asks, not the exit.
            run = f'for try in 1 2 3 4; do {run}; mostly_out {name} && break; done'
        script += run + '\n'
    with nested.L1(script + 'wait $mover\n', kernel) as vm:
        status, files = vm.run()
        assert status == 0, vm.console()[-3000:]
    shares = [check_run(files, name, policy, works) for name, (policy, works) in runs.items()]
    assert max(share for share in shares if share is not None) > 50, shares  # of all reads
    assert int(files['moved.moved']) > 10, files['moved.moved']
    say(f'vCPUs were moved {files["moved.moved"].strip()} times')


KILLED = r'''
l2vmm -w $region 1000000000 4 2000 io busy > $out/killed.vmm 2>&1 &
vmm=$!
until [ -s $region ]; do sleep 0.05; done
host-reader --sync kvm-exit -o json:$out/killed.json local:$region 2> $out/killed.err &
reader=$!
until [ "$(wc -l 2>/dev/null < $out/killed.json || echo 0)" -gt 5000 ]; do sleep 0.1; done
kill -9 $vmm
until grep -q 'is gone' $out/killed.err; do sleep 0.1; done
timeout 60 l2vmm -w $region 2000 4 100 vmcall busy > $out/after.vmm 2>&1 || { cat $out/*.err; exit 1; }
kill -INT $reader
wait $reader || { cat $out/killed.err; exit 1; }
rm $region

# A region whose VM is no more; rings that no VM writes.
l2vmm $region 1000000000 4 2000 io busy > $out/novm.vmm 2>&1 &
vmm=$!
sleep 1
kill -9 $vmm
host-reader --sync kvm-exit --duration 4 -o json:$out/novm.json local:$region 2> $out/novm.err || { cat $out/novm.err; exit 1; }
rm $region
writer $region overwrite 20 > $out/written 2>&1
host-reader --sync kvm-exit --duration 1 -o json:$out/threads.json local:$region 2> $out/threads.err || exit 1
rm $region

# What KVM says of a VM is not true of a guest of its own, if that writes there.
l2vmm -p 5000000 $region 1000000000 4 0 io busy > $out/word.vmm 2>&1 &
vmm=$!
until [ -s $region ]; do sleep 0.05; done
for word in '' ,nested; do
	host-reader --sync kvm-exit --tell-guest --events l2_record,kvm_exit,kvm_entry -o json:$out/word$word.json \
		kvm ivshmem:$region$word 2> $out/word$word.err &
	reader=$!
	[ "$word" ] && last='cannot be told of its exits' || last='telling the guest of the exits'
	until grep -q "$last" $out/word$word.err && [ $(grep -c l2_record $out/word$word.json) -gt 200 ]; do
		kill -0 $reader $vmm || { cat $out/word$word.err; exit 1; }
		sleep 0.1
	done
	kill -INT $reader
	wait $reader || { cat $out/word$word.err; exit 1; }
done
kill -9 $vmm
wait $vmm
rm $region

# No tracepoints.
unsteady
until rmmod kvm_amd 2> /dev/null; do sleep 0.2; done # links of those that were killed are freed later
until rmmod kvm 2> /dev/null; do sleep 0.2; done
writer $region overwrite 20 > $out/written 2>&1
host-reader --sync kvm-exit --duration 1 -o json:$out/nokvm.json local:$region 2> $out/nokvm.err || exit 1
'''


def test_killed():
    """The VM goes away in the middle, and another one takes its place; then there is none."""
    with nested.L1(KILLED, '6.12') as vm:
        status, files = vm.run()
        assert status == 0, vm.console()[-3000:]
    said = files['killed.err']
    watched = re.findall(r'watching the exits of process (\d+): 2 of 2 rings have a vCPU', said)
    gone = re.findall(r'process (\d+), which ran the VM, is gone', said)
    assert len(watched) == 2 and gone[:1] == watched[:1], said
    before, after = nested.events(files['killed.json'])
    got = nested.check_records(before, 2)
    say(f'killed after {got[0]["l2_record"]} and {got[1]["l2_record"]} records')
    assert got[0]['l2_record'] and got[1]['l2_record']
    say(f'and {nested.check_all(after, nested.vmm(files["after.vmm"]))} after it')
    written = len(files['written'].splitlines())
    assert written > 40
    for name, why in (('novm', 'no process that maps the region\'s file runs a VM on KVM; looking as '
                               'sync adaptive does'),
                      ('threads', 'its rings are those of threads; looking as sync adaptive does'),
                      ('nokvm', 'KVM is not loaded .*; sync adaptive instead of kvm-exit')):
        said = files[name + '.err']
        assert re.search('exits cannot be watched: .*' + why, said), said
        found = nested.events(files[name + '.json'])[0]
        if name == 'novm':
            assert all(got['l2_record'] for got in nested.check_records(found, 2)), said
        else:
            assert len(found) == written, name
    for word, told in ('', True), (',nested', False):
        said = files[f'word{word}.err']
        assert told == bool(re.search(r'watching the exits of process \d+', said)), said
        assert told == bool(re.search(r'telling the guest of the exits of process \d+', said)), said
        assert told == ("its rings are those of a guest of the VM's" not in said), said
        found = [e for session in nested.events(files[f'word{word}.json']) for e in session if e['event'] == 'l2_record']
        assert len(found) > 100 and told == any('vcpu' in e for e in found), (word, len(found), said)


def test_refused():
    """Without permission for BPF: said, and everything is read all the same."""
    err = nested.refused('--sync', 'kvm-exit')
    said = re.search(r'host-reader: exits cannot be watched: .*', err)[0]
    say(said)
    assert re.search('(are you root|modprobe kvm).*; sync adaptive instead of kvm-exit', said)
    assert '; sync adaptive' in err.split(said)[1]
    bad = subprocess.run([READER, '--sync', 'kvm-exit:10', 'local:/x'], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE, text=True, check=False)
    assert bad.returncode == 2 and "sync policy 'kvm-exit:10': wrong argument" in bad.stderr, bad.stderr


SECONDS = 8
COSTS = 3  # rounds
# Devices of L1: its agent's region, numbers that its host asks it for, L2's region, numbers that it asks L2 for.
STRAIGHT = rf'''
set -- $(grep -l 0x1110 /sys/bus/pci/devices/*/device)
own=${{1%/device}} mail=${{2%/device}} device=${{3%/device}} l2_mail=${{4%/device}}
echo 1 > $mail/enable
echo 1 > $l2_mail/enable
agent_start --region ${{own##*/}} --events sys_enter --filter 'nr == 157' || exit 1
border guest $mail/resource2 &
answering=$!
timeout 60 l2vmm -o tsc -i 1000000 -m $l2_mail/resource2 -w -e {SECONDS} bar:${{device##*/}} 60 1 0 answer > $out/order.vmm 2>&1 ||
	{{ cat $out/order.vmm; exit 1; }}
echo L2-ANSWERED
wait $answering || exit 1
agent_stop || exit 1
for i in $(seq {COSTS}); do
	for how in l2 native l2plain nativeplain; do
		option=
		case $how in native*) option=-1 ;; esac
		case $how in *plain) option="$option -0" ;; esac
		count_exits || exit 1
		timeout 60 l2vmm $option -w bar:${{device##*/}} 400 25 100 busy > $out/$how$i.vmm 2>&1 ||
			{{ cat $out/$how$i.vmm; exit 1; }}
		counted_exits $how$i
	done
done
'''


def sessions_of(records, source):
    """[[note or event] of each session]"""
    found = [[]]
    for r in records:
        if r.get('source') != source:
            continue
        found[-1].append(r)
        if r.get('note', '').startswith('clock ends'):
            found.append([])
    return [s for s in found if any('fields' in r for r in s)]


def check_causes(records, session, seen, asker):
    """Each number was seen in the guest after it was asked for, and before the answer came. Returns the bound."""
    bound = [r for r in session if r.get('clock')][-1]
    assert bound['clock'] == 'host' and bound['bound'] is not None, bound
    asked = types.SimpleNamespace(region=asker, vm=types.SimpleNamespace(region='guest'))
    calls = [{'source': 'guest', 'event': 'sys_enter', 'time': r['time'], 'fields': {'args': [OPTION, seen(r)]}}
             for r in session if 'fields' in r and seen(r) is not None]
    times = told(records + calls, asked)
    assert len(times) > 10 * SECONDS, len(times)
    error = error_of(times.values())
    say(f'{len(times)} numbers seen by {session[0]["source"]}: causes later than effects by {max(error, 0)} ns at most, '
        f'bound {bound["bound"]} ns')
    assert error <= bound['bound'] < 100000, (error, bound)
    return bound['bound']


def check_one_order(records, bound, late):
    """While L2 answers all are in one order, but for what came later than others wait for, by the reader's account."""
    answered = [i for i, r in enumerate(records) if r.get('event') == 'l2_seen']
    part = [r for r in records[answered[0]:answered[-1]] if 'time' in r]
    clocks.check_order(part, {r['source'] for r in records if 'fields' in r}, bound, late)
    assert late <= len(part) / 50 and len({r['source'] for r in part}) == 4 and len(part) > 40 * SECONDS


def check_costs(files, sessions):
    """
    All records of both, in order; of the guest's own none left guest mode. To the guest's CPU a record costs as much more than
    to its machine's as the same stores without a ring do, which is what the emulator takes for memory of a guest's guest.
    """
    costs = {'l2': [], 'native': [], 'l2plain': [], 'nativeplain': []}
    for how in 'l2plain', 'nativeplain':
        costs[how] += [nested.vmm(files[f'{how}{i}.vmm'])[0]['cost'] for i in range(1, COSTS + 1)]
    runs = [(how, i) for i in range(1, COSTS + 1) for how in ('l2', 'native')]
    assert len(sessions) == len(runs), (len(sessions), len(runs))
    for (how, i), session in zip(runs, sessions):
        account, = nested.vmm(files[f'{how}{i}.vmm'])
        nested.check_all([r for r in session if 'fields' in r], [account])
        counted = nested.exits(files[f'{how}{i}.exits'])
        assert account['records'] == 10000
        if how == 'l2':
            check_exits(account, counted[0])
            others = sum(n for reason, n in counted[0].items() if reason != nested.SVM['intr'])
            assert others < account['records'] / 20, counted  # pages touched for the first time, and its end
            say(f'L2: {account["records"]} records, {others} exits of its own, {counted[0].get(nested.SVM["intr"], 0)} by interrupts')
        else:
            assert not counted, counted
        costs[how].append(account['cost'])
    for what, a, b in ('record', 'l2', 'native'), ('record\'s stores without a ring', 'l2plain', 'nativeplain'):
        say(f'ns a {what}: in L2 {statistics.median(costs[a])} ({min(costs[a])} ... {max(costs[a])}); in L1, by the same code, '
            f'{statistics.median(costs[b])} ({min(costs[b])} ... {max(costs[b])})')
    more = statistics.median(costs['l2']) / statistics.median(costs['native'])
    plainly = statistics.median(costs['l2plain']) / statistics.median(costs['nativeplain'])
    say(f'L2 takes {more:.2f} times as long for a record, {plainly:.2f} times for its stores alone')
    assert more < 4 * plainly, costs  # the noise of emulated CPUs; an exit for each would be 50 times as much


@params('6.12', thorough=['6.1'])
def test_straight(kernel):
    """L2's records into memory of L0: its region is in the device that L0 gave to L1, and is read there."""
    with contextlib.ExitStack() as stack:
        dir = tempfile.mkdtemp(prefix='htrace-straight-', dir='/dev/shm')
        stack.callback(shutil.rmtree, dir, ignore_errors=True)
        vm = stack.enter_context(nested.L1(STRAIGHT, kernel, regions=4, add=[BORDER + ':/bin/']))
        vm.start()
        askers = {os.path.join(dir, name): mail for name, mail in (('l1', vm.regions[1]), ('l2', vm.regions[3]))}
        asking = [subprocess.Popen([BORDER, 'host', mail, region, 'monotonic', '20000']) for region, mail in askers.items()]
        stack.callback(lambda: [p.kill() or p.wait() for p in asking])
        while not all(os.path.exists(region) and os.path.getsize(region) for region in askers):
            time.sleep(0.01)
        sources = [f'ivshmem:{vm.regions[2]},nested', 'ivshmem:' + vm.regions[0], *('local:' + region for region in askers)]
        reader = Reader(sources[-1], '--clock', '-o', f'json:{dir}/json', *sources[:-1])
        vm.wait_for('L2-ANSWERED')
        for p in asking:
            p.terminate()
            assert p.wait(20) == 0
        status, files = vm.results()
        assert status == 0, vm.console()[-3000:]
        assert reader.stop() == 0, reader.err()
        assert not any(map(int, re.findall(r'^lost +(\d+) ', reader.err(), re.M))), reader.err()
        with open(f'{dir}/json', encoding='ascii') as f:
            records = [json.loads(line) for line in f]
        l2, (l1, *_) = (sessions_of(records, region) for region in (vm.regions[2], vm.regions[0]))
        nested.check_all([r for r in l2[0] if 'fields' in r], nested.vmm(files['order.vmm']))
        bound = max(check_causes(records, l1, lambda r: r['fields']['args'][1] if r['fields']['args'][0] == OPTION else None,
                                 f'{dir}/l1'),
                    check_causes(records, l2[0], lambda r: r['fields']['value'] if r['event'] == 'l2_seen' else None,
                                 f'{dir}/l2'))
        check_one_order(records, bound, sum(map(int, re.findall(r'^order +(\d+) late', reader.err(), re.M))))
        check_costs(files, l2[1:])

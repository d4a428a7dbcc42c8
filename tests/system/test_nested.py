# SPDX-License-Identifier: LGPL-2.1-or-later
"""A guest in a guest: real exits, which L2 and its VMM know the number of, and the kernel counts."""

import os
import re
import subprocess

import nested
from harness import params, say
from vm import READER

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
host-reader --sync kvm-exit --duration 4 -o json:$out/novm.json local:$region 2> $out/novm.err || exit 1
rm $region
writer $region overwrite 20 > $out/written 2>&1
host-reader --sync kvm-exit --duration 1 -o json:$out/threads.json local:$region 2> $out/threads.err || exit 1
rm $region

# No tracepoints.
unsteady
rmmod kvm_amd && rmmod kvm || exit 1
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

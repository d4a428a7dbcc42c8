# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A guest in a guest: L1, a Debian guest, loads KVM and runs host-reader and tests/guest/l2vmm.c, which
runs L2, a guest without an operating system. Exits of L2 are real ones, also where L1 is emulated.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile

from vm import BUILD, READER, VM

L2VMM = os.path.join(BUILD, 'tests', 'l2vmm')
NUDGE = os.path.join(BUILD, 'tests', 'nudge')
WRITER = os.path.join(BUILD, 'tests', 'writer')

# What L1's script can call. Its files go to $out, and all of that to the caller at the end.
SHELL = r'''
out=/tmp/out
mkdir -p $out
T=/sys/kernel/tracing
region=/dev/shm/l2

nudged() {
	nudge > /tmp/nudge.log 2>&1 &
	nudge=$!
}
# Each time that the first user of a tracepoint, a second one, VMs or such like come or the last one goes, the
# kernel changes its own code, which emulated CPUs do not survive always (tools/README.md). So all that
# tests switch on and off is on from here on, and used: for the counters of what follows it makes no difference.
steady() {
	nudged
	hist=hist:keys=vcpu_id,exit_reason:size=2048
	echo $hist > $T/events/kvm/kvm_exit/trigger || return 1
	echo hist:keys=vcpu_id > $T/events/kvm/kvm_entry/trigger || return 1
	echo 1 > /proc/sys/kernel/bpf_stats_enabled || return 1
	writer /dev/shm/steady overwrite 1 > /tmp/steady.writer || return 1
	host-reader --sync kvm-exit -o text:/dev/null local:/dev/shm/steady 2> /tmp/steady.err &
	watcher=$!
	until grep -q 'are those of threads' /tmp/steady.err; do
		kill -0 $watcher || { cat /tmp/steady.err /tmp/nudge.log; return 1; }
		sleep 0.05
	done
	kill -STOP $watcher # its BPF goes on
}
unsteady() {
	kill -KILL $nudge $watcher
	wait $nudge $watcher
	echo "!$hist" > $T/events/kvm/kvm_exit/trigger
	echo '!hist:keys=vcpu_id' > $T/events/kvm/kvm_entry/trigger
}
BEGIN || exit 1
# What the TSC's frequency is taken for changes once, some seconds after the start: a guest that tells time by it
# would be wrong from there on.
for i in $(seq 100); do
	grep -q early /sys/devices/system/clocksource/clocksource0/current_clocksource || break
	sleep 0.1
done

# Counts exits by virtual CPU and reason, in the kernel.
count_exits() {
	echo $hist:clear >> $T/events/kvm/kvm_exit/trigger
}
counted_exits() { # NAME
	cat $T/events/kvm/kvm_exit/hist > $out/$1.exits
}
# Runs L2 and a reader, to the end: NAME POLICY ROUNDS RECORDS PAUSE WORK...
nested() {
	name=$1 policy=$2
	shift 2
	count_exits || return 1
	echo "L1: $name"
	timeout 30 l2vmm -w $region "$@" > $out/$name.vmm 2>&1 &
	vmm=$!
	until [ -s $region ]; do sleep 0.05; done
	host-reader --sync $policy -o json:$out/$name.json local:$region 2> $out/$name.err &
	reader=$!
	wait $vmm
	status=$?
	kill -INT $reader
	wait $reader || status=1
	counted_exits $name
	rm -f $region
	[ $status = 0 ] || cat $out/$name.vmm $out/$name.err $out/$name.exits
	return $status
}
# Did more than half of all reads end while the virtual CPU was out? NAME
mostly_out() {
	awk '$1 == "vCPU" && $2 == "exits" { t = 1; next } t && NF == 9 { n++; if ($4 <= 50) bad = 1 }
	     END { exit bad || !n }' $out/$1.err
}
# Moves virtual CPUs from one CPU to another as long as there are any.
migrate() {
	on=1
	moved=0
	while p=$(pidof l2vmm); do
		for t in /proc/$p/task/*; do
			case $(cat $t/comm 2>/dev/null) in vcpu*) ;; *) continue ;; esac
			taskset -p $on ${t##*/} >/dev/null 2>&1 && moved=$((moved + 1))
		done
		on=$((3 - on))
		sleep 0.02
	done
	echo $moved > $out/$1.moved
}
finish() {
	tar cf /dev/vda -C $out .
	sync
}
'''


def libraries(program):
    """FILE:DEST of each shared library that a program needs."""
    run = subprocess.run(['ldd', program], stdout=subprocess.PIPE, text=True, check=True)
    found = []
    for line in run.stdout.splitlines():
        m = re.search(r'(?:=> )?(/\S+) \(0x', line)
        if m:
            named = re.match(r'\s*(\S+) =>', line)
            at = os.path.join('/lib', os.path.basename(named[1])) if named else m[1]
            found.append(f'{m[1]}:{at}')
    return found


class L1(VM):
    def __init__(self, script, kernel, cpus=2, add=(), one_thread=False, memory='1G', disk_mib=64, disks=1,
                 regions=0, steady=True, host_modules=()):
        """
        ONE_THREAD: CPUs take turns where they are emulated: slower, and it never dies (tools/README.md). Unless STEADY,
        nothing traces but what the script has begun.
        """
        script = SHELL.replace('BEGIN', 'steady' if steady else 'nudged') + script + '\nfinish\n'
        super().__init__(script, kernel=kernel, cpus=cpus, memory=memory, regions=regions, disk_mib=disk_mib, disks=disks,
                         modules=['kvm_amd', *host_modules],
                         add=[READER + ':/bin/', L2VMM + ':/bin/', NUDGE + ':/bin/', WRITER + ':/bin/',
                              *libraries(READER), *add])
        if one_thread:
            self.command += ['--tcg-thread', 'single']

    def run(self, timeout=170):
        """Its exit status, and the files that it left: {name: text}."""
        self.start()
        return self.results(timeout)

    def results(self, timeout=170):
        """Likewise, of one that runs."""
        status = self.finish(timeout)
        files = {}
        if status == 0:
            with tarfile.open(self.disk) as tar:
                for member in tar:
                    if member.isfile():
                        files[os.path.basename(member.name)] = tar.extractfile(member).read().decode()
        return status, files


# What SVM calls the ways of leaving guest mode.
SVM = {'io': 0x7b, 'hlt': 0x78, 'cpuid': 0x72, 'vmcall': 0x81, 'npf': 0x400, 'intr': 0x60, 'window': 0x64}


def exits(text):
    """{vcpu: {reason: count}} as the kernel counted them."""
    found = {}
    for m in re.finditer(r'vcpu_id:\s*(\d+), exit_reason:\s*(\d+) \} hitcount:\s*(\d+)', text):
        found.setdefault(int(m[1]), {})[int(m[2])] = int(m[3])
    dropped = re.search(r'Dropped: (\d+)', text)
    assert dropped and dropped[1] == '0', text
    return found


def vmm(text):
    """[{name: value}] of each virtual CPU, as the VMM printed them."""
    found = []
    for line in text.splitlines():
        m = re.match(r'l2vmm: cpu (\d+) (\w+) (.*)', line)
        if m:
            words = m[3].split()
            found.append({'work': m[2], **{k: int(v) for k, v in zip(words[::2], words[1::2])}})
    return found


EPOCHS = re.compile(r'^(\d+) +(\d+) +(\d+) +([\d.]+) % +([\d.]+) % +([\d.]+) %$', re.M)


def epochs(text):
    """{vcpu: (exits, reads, shares)} as host-reader's summary has them."""
    table = text[text.index('vCPU                exits'):]
    return {int(m[1]): (int(m[2]), int(m[3]), [float(m[i]) for i in (4, 5, 6)])
            for m in EPOCHS.finditer(table)}


def bpf_cost(text):
    """((runs, ns each) at exits, (runs, ns each) at entries) as host-reader's summary has them."""
    m = re.search(r'^BPF takes +(\d+) ns at an exit and (\d+) ns at an entry \(means of (\d+) and (\d+), of all VMs\)$',
                  text, re.M)
    assert m, text
    return (int(m[3]), int(m[1])), (int(m[4]), int(m[2]))


def l2_check(seq, cpu):
    return ((seq + 1) * 0x9e3779b97f4a7c15 & 0xffffffffffffffff) ^ cpu


def events(text):
    """Of each session the events of a JSON output, which has notes between sessions."""
    sessions = [[]]
    for line in text.splitlines():
        e = json.loads(line)
        if 'fields' in e:
            sessions[-1].append(e)
        else:  # and on clocks, silence and the like
            assert 'note' in e, f'neither an event nor a note: {line}'
            if 'session' in line:
                sessions.append([])
    return sessions


def check_records(found, nr_cpus):
    """Each record of L2 is there once, in order, as it was written. Returns the numbers of each CPU."""
    want = [{'l2_record': 0, 'l2_interrupt': 0, 'l2_armed': 0, 'l2_seen': 0} for _ in range(nr_cpus)]
    for e in found:
        f, cpu = e['fields'], e['cpu']
        seq = want[cpu][e['event']]
        assert f['seq'] == seq and f['cpu'] == cpu, f'expected record {seq}: {e}'
        assert f['check'] == l2_check(seq, cpu), e
        want[cpu][e['event']] = seq + 1
    return want


def check_all(found, accounts):
    """Likewise, and none is missing. Returns how many."""
    want = check_records(found, len(accounts))
    for got, account in zip(want, accounts):
        assert got == {'l2_record': account['records'], 'l2_interrupt': account['irq_records'],
                       'l2_armed': account['armed'], 'l2_seen': account['seen']}, \
            (got, account)
    return sum(sum(w.values()) for w in want)


def refused(*options, status=0):
    """What host-reader says that is refused BPF, and has read all of a region even so; it ends with STATUS."""
    with tempfile.TemporaryDirectory(dir='/dev/shm') as d:
        os.chmod(d, 0o755)
        region, reader = os.path.join(d, 'region'), os.path.join(d, 'host-reader')
        shutil.copy(READER, reader)  # where others may come
        wrote = subprocess.run([WRITER, region, 'overwrite', '20'], stdout=subprocess.PIPE, text=True,
                               check=True).stdout.splitlines()
        os.chmod(region, 0o644)
        command = [reader, *options, '--duration', '1', '-o', 'json', 'local:' + region]
        if os.getuid() == 0:
            command = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups',
                       '--bounding-set', '-all', '--inh-caps', '-all'] + command
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        assert run.returncode == status, run.stderr
        assert len(events(run.stdout)[0]) == len(wrote) > 40
        return run.stderr

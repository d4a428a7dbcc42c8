# SPDX-License-Identifier: LGPL-2.1-or-later
"""libFuzzer at what reads a guest's memory and files: bounded runs, coverage, and that it finds."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import targets  # noqa: E402
from harness import params, say  # noqa: E402
from targets import LIMITS, SANITIZERS, TARGETS, TOP, Build, corpus_of  # noqa: E402

SECONDS = 2        # of each target, at most; beside its corpus
AGAIN = 10000      # times an input that changes memory while it is read: some 20 s, more on a busy machine
LEAST = 90         # percent of the lines of each file that judges what a guest or a file says

# Why it counts; lines that cannot be reached from a guest or file are few in each.
VALIDATING = {
    'libhtrace/attach.c': 'superblock, areas, rings of a region',
    'libhtrace/ram.c': 'page runs, anchors, guest RAM',
    'libhtrace/geometry.c': 'shapes of rings',
    'libhtrace/consumer.c': 'rings: positions, descriptors, records',
    'libhtrace/consumer_walk.h': 'rings: framing of records, packed ones too',
    'libhtrace/unpack.c': 'rings: packed records',
    'libhtrace/consumer_each.c': 'rings: batches that were handed over in part',
    'libhtrace/consumer_borrow.c': 'rings: records that are lent where they are',
    'libhtrace/clock_model.c': 'samples of a guest\'s clocks',
    'libhtrace/owner.c': 'who owns a ring, and whether it lives',
    'libhtrace/relay.c': 'rings and mirrors, the host may change the latter',
    'libhtrace/schema.c': 'schemas: from entries to objects',
    'libhtrace/schema_check.c': 'schemas: every rule',
    'libhtrace/schema_visit.c': 'records by their schema',
    'libhtrace/filter_parse.c': 'filters that a guest publishes',
    'libhtrace/filter_bind.c': 'filters on schemas',
    'libhtrace/filter_eval.c': 'filters on records',
    'libhtrace/escape.c': 'all text of a guest',
    'host-reader/live.c': 'the host\'s half of the relay: mirrors, hand-over; schemas and names that change',
    'host-reader/session.c': 'what comes of batches, schemas, names',
    'host-reader/merge.c': 'times, bounded memory',
    'host-reader/events.c': 'fields that the reader itself takes from records',
    'host-reader/filter.c': 'a guest\'s filter on its records',
    'host-reader/names.c': 'task names',
    'host-reader/stacks.c': 'stacks',
    'host-reader/symbols.c': 'packed symbols, mappings',
    'host-reader/elf_symbols.c': 'files with a build-id that a guest named',
    'host-reader/show.c': 'values as text',
    'host-reader/show_stack.c': 'stacks as text',
    'host-reader/sink_text.c': 'decoder: text',
    'host-reader/sink_json.c': 'decoder: JSON',
    'host-reader/ctf_event.c': 'decoder: CTF, values',
    'host-reader/ctf_layout.c': 'decoder: CTF, fields',
    'host-reader/ctf_classes.c': 'decoder: CTF, events that are declared',
    'host-reader/perfetto_args.c': 'decoder: Perfetto, annotations',
    'host-reader/perfetto_boot.c': 'decoder: Perfetto, boots',
    'host-reader/perfetto_ftrace.c': 'decoder: Perfetto, the kernel\'s events',
    'host-reader/perfetto_tasks.c': 'decoder: Perfetto, tasks',
    'host-reader/ctf_metadata.c': 'decoder: CTF, what describes events',
    'host-reader/region_clock.c': 'samples of a guest\'s clocks, for its records',
    'host-reader/boot_ring.c': 'the ring of a guest\'s boot',
    'host-reader/capture_read.c': 'captures: journal',
    'host-reader/capture_lane.c': 'captures: streams',
    'host-reader/capture_unpack.c': 'captures: what is compressed in them',
    'host-reader/qmp.c': 'what QEMU\'s monitor says: lines, answers, events',
    'host-reader/plug.c': 'what it says of devices and buses',
    'host-reader/ctl_show.c': 'what an agent answers to commands',
    'host-reader/stream_apply.c': 'what a guest sends over a byte stream: frames, a region',
    'common/tracepoint_format.c': 'format files of tracefs; records by them',
    'common/boot_records.c': 'records of a kernel\'s trace ring',
    'common/ftrace_page.c': 'pages of a kernel\'s trace ring',
}

# All else that the targets are built of, and why no corpus has to cover it.
OWN = 'options, output, or files that we write ourselves'
PRODUCER = 'the producing side: its words are its own; unit tests, tests/stress'
ELSEWHERE = {
    'libhtrace/local.c': 'whose file may become a region: compares a superblock\'s words, attach.c judges them; test_local',
    'libhtrace/host.c': 'writes the host\'s words',
    'libhtrace/control.c': 'one copy of an answer, two of whose words are compared; test_control',
    'host-reader/ctl.c': 'gives a command, and waits for the answer within bounds; ctl',
    'host-reader/ctl_snapshot.c': 'processes of this machine; ctl.snapshot',
    'libhtrace/sigbus.c': 'a signal handler; test_shrunk, and truncated files in attach',
    'libhtrace/sync.c': 'waits, within bounds, whatever a word says; test_sync',
    'libhtrace/clock.c': 'this machine\'s clocks',
    'libhtrace/log.c': OWN,
    **{f'libhtrace/{f}.c': PRODUCER for f in ('names', 'producer', 'region', 'schema_build', 'schema_declare',
                                              'vshmem')},
    'libhtrace/beacon.c': 'a sum over one page; pid',
    'host-reader/guest_ram.c': 'opens and copies another process\' memory, within bounds that are the kernel\'s; pid',
    'host-reader/vm_process.c': 'what /proc says of a process',
    'host-reader/beacon_scan.c': 'looks through another process\' memory: pid.refused, pid.thousand, pid.stale',
    'host-reader/ram_mirror.c': 'copies words from there, which attach.c and others judge; pid',
    'host-reader/ram_rings.c': 'likewise, within a ring\'s bounds; consumer.c and ram.c judge; pid',
    'host-reader/source.c': 'what to do in which state: a guest\'s words are compared, attach.c and live.c read them; '
                            'survival, hostile',
    'host-reader/source_attach.c': 'when to attach: attach.c and ram.c judge; survival, hostile, host_reader',
    'host-reader/source_back.c': 'was a guest set back: its words are compared, live.c reads its rings; test_source_silent, dead, hostile',
    'host-reader/source_end.c': 'when to end: host_reader, survival',
    'host-reader/source_file.c': 'which captures a directory has: capture_read.c and capture_lane.c judge them; capture',
    'host-reader/source_session.c': 'hands over what attach.c read; capture, survival',
    'host-reader/source_silent.c': 'when nothing comes any more: test_source_silent, dead, hostile',
    'host-reader/vmm.c': 'processes of this machine; test_vmm, dead',
    'host-reader/hold.c': 'keeps what session.c hands over; test_hold',
    'host-reader/recorder.c': 'when held batches go on into session.c; snapshot',
    'host-reader/region_file.c': 'is it a region\'s file: compares words, and locks it; host_reader',
    'libhtrace/sync_bell.c': 'waits, within bounds, however often it is rung; test_sync_bell',
    'host-reader/pass_fd.c': 'messages of processes of ours; test_stream, stream, doorbell',
    'host-reader/bell_server.c': 'who connects to a socket of ours, and says nothing that is read; doorbell',
    'host-reader/source_bell.c': 'whom to ask to ring; doorbell',
    **{f'host-reader/{f}.c': 'the host\'s kernel, for a guest; test_tell, test_tell_kvm' for f in (
        'tell', 'tell_kvm', 'source_tell')},
    'host-reader/summary.c': 'adds and shows numbers; names were escaped before; sinks',
    'host-reader/view_summary.c': 'shows numbers, and names that show.c\'s rules escape; test_view_summary, metrics',
    'host-reader/stats.c': 'adds numbers',
    'host-reader/metrics.c': 'shows numbers, and names that show.c\'s rules escape, so many at most; test_metrics, metrics',
    **{f'host-reader/{f}.c': 'the host\'s kernel; test_kvm_exits' for f in ('sync_kvm_exit', 'kvm_exits', 'kvm_process',
                                                                       'kvm_programs')},
    'host-reader/plug_keeper.c': 'orders and answers of fixed form, between processes of ours; plug.c and qmp.c judge; qmp',
    'host-reader/source_plug.c': 'files of ours, and when to plug; qmp',
    'host-reader/source_stream.c': 'memory of ours, and what is said; stream',
    'host-reader/stream_receiver.c': 'when to connect, ask and give up, confined: stream_apply.c judges what comes; stream',
    'common/stream_place.c': 'the command line: whom to connect to; stream',
    'host-reader/helper_process.c': 'what a process of ours has open; sandbox, qmp',
    'host-reader/list_vms.c': 'processes of this machine; regions are read by attach.c; host_reader',
    'host-reader/kvm_events.c': 'the host\'s kernel; kvm',
    'host-reader/boot_events.c': 'files of the host\'s, and what boot_ring.c and boot_records.c have checked; boot',
    'libhtrace/clock_ping.c': 'a guest\'s two words, read once; what they may say is a difference; test_host_clock',
    'host-reader/host_clock.c': 'pairs of times, each checked; test_host_clock',
    'host-reader/live_back.c': 'positions that are compared, never followed; dead',
    'host-reader/session_order.c': 'times only, as order.c; test_host_clock, one_clock',
    'host-reader/session_clock.c': 'words that region_clock.c has checked, and what is said of them; test_capture, test_source_clock',
    'host-reader/source_clock.c': 'when to ask a guest for its clock, and for how long to wait; test_host_clock, one_clock',
    'host-reader/kvm_tsc.c': 'the host\'s kernel, files of debugfs; test_host_clock',
    'host-reader/order.c': 'times only; test_host_clock, one_clock',
    'host-reader/source_vm.c': 'processes of this machine; test_kvm_exits, vcpus',
    **{f'host-reader/{f}.c': 'records of the host\'s own programs, or of captures of it; test_vcpus, vcpus' for f in (
        'vcpus', 'perfetto_vcpus')},
    **{f'host-reader/{f}.c': 'adds and shows numbers of records that show.c and schema_visit.c read, in tables with '
                             'limits; test_exits, test_view_exits, test_io, test_io_offsets, test_view_io, test_view_functions, '
                             'test_view_hypercalls, test_view_steal, test_boot, test_view_crash, view' for f in (
        'boot', 'calls', 'crash', 'crash_json', 'durations', 'event_fields', 'exits', 'exits_json', 'host_events', 'hypercalls', 'hypercalls_show', 'io',
        'io_disk', 'io_json', 'io_offsets', 'last_events', 'steal_takers', 'table', 'view', 'view_boot', 'view_crash', 'view_exits', 'view_functions', 'view_hypercalls', 'view_io', 'view_steal')},
    'host-reader/ctf_compass.c': 'records of the host\'s own programs, or of captures of it; test_ctf_compass, compass',
    'host-reader/ctf_compass_names.c': 'names and types of a schema that was checked; test_ctf_compass',
    **{f'host-reader/{f}.c': 'what the reader may do itself; test_confine, sandbox' for f in (
        'confine', 'confine_calls', 'confine_links', 'finder', 'sandbox')},
    'host-reader/console.c': 'the end of a file of lines, of any bytes, in bounded memory; test_view_crash',
    'host-reader/syscalls.c': 'a table', 'host-reader/syscall_args.c': 'a table',
    **{f'host-reader/{f}.c': OWN for f in (
        'options', 'out', 'outdir', 'select', 'sink', 'sink_ctf', 'ctf_trace', 'sink_perfetto', 'sink_raw', 'perfetto_packet',
        'tsdl', 'ctf_stream', 'capture_write',
        'capture_stream', 'capture_metadata', 'capture_pack', 'capture_span', 'rotation', 'uring')},
    **{f'host-reader/{f}.c': 'records of who is trusted, walked within bounds; test_lend, lend.scribbled' for f in (
        'capture_lend', 'session_lend')},
}


@dataclass
class Run:
    status: int
    said: str
    executions: int
    seconds: float


def environment(directory):
    env = dict(os.environ, TMPDIR=directory, **SANITIZERS)
    env.pop('LD_PRELOAD', None)
    return env


def run_target(exe, name, directory, *options, profile=None, corpus=None):
    """One target over its corpus, and further as the options say."""
    work = tempfile.mkdtemp(prefix='run-', dir=directory)
    env = environment(work)
    if profile:
        env['LLVM_PROFILE_FILE'] = profile
    found = os.path.join(directory, 'new-' + name) # what it adds to the corpus
    os.makedirs(found, exist_ok=True)
    seeds = [d for d in (corpus or corpus_of(name),) if os.path.isdir(d)]
    run = subprocess.run([exe, *LIMITS, f'-max_len={TARGETS[name].max_len}', '-print_final_stats=1',
                          f'-artifact_prefix={directory}/found-{name}-', *options, found, *seeds],
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors='replace',
                         check=False, env=env, timeout=600)
    shutil.rmtree(work, ignore_errors=True)
    done = re.search(r'Done (\d+) runs in (\d+) second', run.stdout)
    return Run(run.returncode, run.stdout, int(done[1]) if done else 0, int(done[2]) if done else 0)


def run_again(exe, name, directory, file):
    """One input of the corpus many times: where it is the moment that counts, not another input."""
    run = subprocess.run([exe, *LIMITS, f'-runs={AGAIN}', f'-artifact_prefix={directory}/found-{name}-',
                          os.path.join(corpus_of(name), file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         text=True, errors='replace', check=False, env=environment(directory), timeout=600)
    return Run(run.returncode, run.stdout, 0, 0)


def scratch():
    """Files that programs read and write all the time: in memory, where there is some."""
    return tempfile.TemporaryDirectory(dir='/dev/shm' if os.path.isdir('/dev/shm') else None)


def test_targets():
    """No input of the corpora, and none that is found in a bounded time, breaks anything."""
    with scratch() as d:
        exes = Build(os.path.join(d, 'build')).make()
        bad = []
        for name, exe in exes.items():
            nr = len(os.listdir(corpus_of(name)))
            assert nr, f'{name} has no corpus'
            run = run_target(exe, name, d, f'-max_total_time={SECONDS}')
            say(f'{name}: {run.executions} executions, {run.executions / max(run.seconds, 1):.0f} a second, '
                f'corpus of {nr}: {TARGETS[name].what}')
            if run.status or run.executions < nr:
                bad.append(name)
                print(run.said[-6000:])
        assert not bad, f'{", ".join(bad)}: see above'


def test_long_runs_end():
    """tools/fuzz.sh runs a target for as long as it is told to, and says how much that was."""
    with scratch() as d:
        run = subprocess.run([os.path.join(TOP, 'tools', 'fuzz.sh'), '--minutes', '0.03', '--corpus', d, 'clock'],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300)
    found = re.search(r'\| clock \| 0.03 \| (\d+) \| \d+ \| \d+ \| - \|', run.stdout)
    assert not run.returncode and found and int(found[1]), run.stdout


def line_coverage(exes, profile):
    """{file: (lines, covered)} of what all programs executed."""
    objects = [o for exe in list(exes.values())[1:] for o in ('-object', exe)]
    out = subprocess.run([targets.tool('llvm-cov'), 'export', '-summary-only', '-instr-profile', profile,
                          list(exes.values())[0], *objects], stdout=subprocess.PIPE, check=True).stdout
    return {os.path.relpath(f['filename'], TOP): (f['summary']['lines']['count'], f['summary']['lines']['covered'])
            for f in json.loads(out)['data'][0]['files']}


def test_coverage():
    """What the corpora execute of the code that validates: the same on machines of any speed."""
    with scratch() as d:
        exes = Build(os.path.join(d, 'build'), 'coverage').make()
        raws = []
        for name, exe in exes.items():
            raws.append(os.path.join(d, name + '.profraw'))
            run = run_target(exe, name, d, '-runs=0', profile=raws[-1])
            assert not run.status, run.said[-6000:]
        profile = os.path.join(d, 'all.profdata')
        subprocess.run([targets.tool('llvm-profdata'), 'merge', '-sparse', *raws, '-o', profile], check=True)
        lines = line_coverage(exes, profile)
    code = [os.path.relpath(f, TOP) for part in targets.sources() for f in part]
    open_ones = [f for f in code if not f.startswith('tests/') and (f in VALIDATING) == (f in ELSEWHERE)]
    assert not open_ones, f'does it judge what a guest or file says, or not: {", ".join(open_ones)}'
    below, total, hit = [], 0, 0
    for file, why in VALIDATING.items():
        count, covered = lines[file]
        total, hit = total + count, hit + covered
        percent = 100 * covered / count
        say(f'{percent:5.1f} % of {count:4} lines: {file} ({why})')
        if percent < LEAST:
            below.append(f'{file} {percent:.1f} %')
    say(f'{100 * hit / total:5.1f} % of {total} lines: all of them')
    assert not below, f'below {LEAST} %: {", ".join(below)}'


def test_uninitialised():
    """Nothing is used, or handed out, that was not written: the corpora under MemorySanitizer."""
    names = [n for n, t in TARGETS.items() if t.library_only]
    with scratch() as d:
        exes = Build(os.path.join(d, 'build'), 'memory').make(names)
        for name in names:
            run = run_target(exes[name], name, d, '-runs=0')
            assert not run.status, f'{name}\n{run.said[-6000:]}'


# A check that is taken away, the target that must miss it, and what it says.
REMOVED = {
    'no end of a block': ('consumer-overwrite', 'libhtrace/consumer.c', '''		    l->end & 7)
			return LOOK_BAD;
''', '''		    l->end & 7)
			;
'''),
    'no room of a schema': ('attach', 'libhtrace/attach.c', '''	if (bytes > room)
		bytes = (__u32)room;
''', ''),
    'no length of a record': ('schema', 'libhtrace/schema_visit.c', '''	if (len < fixed_size(e->type))
		return -EMSGSIZE;
''', ''),
    'rings beyond the page runs': ('runs', 'libhtrace/attach.c',
                                   '	if (!v->space || !htrace_inside(off, s->stride, v->space_len))\n',
                                   '	if (!v->space)\n'),
    'the end of a block fetched twice': ('changing', 'libhtrace/consumer.c', '''		    l->end & 7)
			return LOOK_BAD;
''', '''		    l->end & 7)
			return LOOK_BAD;
		l->end = __atomic_load_n(&b->end, __ATOMIC_RELAXED);
'''),
    'the length of a schema fetched twice': ('changing', 'libhtrace/attach.c',
                                             '	htrace_copy_once(*buf, a + 1, bytes);\n	*len = bytes;\n',
                                             '''	bytes = __atomic_load_n(&a->bytes, __ATOMIC_RELAXED) & ~7u;
	htrace_copy_once(*buf, a + 1, bytes);
	*len = bytes;
'''),
    'text not escaped': ('text', 'host-reader/show.c', '		return p;\n	if (out_plain(comm, len) == len)\n',
                         '		return p;\n	if (len)\n'),
    'short strings not escaped': ('json', 'host-reader/sink_json.c',
                                  '	if (len <= SHORT_STRING && out_plain(text, len) == len) {\n',
                                  '	if (len <= SHORT_STRING) {\n'),
    'no room for what is escaped': ('ctf', 'host-reader/ctf_event.c', 'room(w, 4 * len + 1);', 'room(w, len + 1);'),
    'odd records cut off': ('capture', 'host-reader/capture_lane.c', '''
		    odd.len > len - at - sizeof(odd) ||''', ''),
}
# Those that only memory shows that changes at the right moment: the input that changes it.
WHILE_READ = {
    'the end of a block fetched twice': 'ends',
    'the length of a schema fetched twice': 'schema-length',
}


def without(source, edits):
    """The text of @source with each of @edits (text, instead, ...) made, which must be there once."""
    with open(source, encoding='utf-8') as f:
        content = f.read()
    for text, instead in zip(edits[::2], edits[1::2]):
        assert content.count(text) == 1, f'{source} has {content.count(text)} times: {text}'
        content = content.replace(text, instead)
    return content


@params(thorough=[()])
def test_finds():
    """Without one check each, the fuzzer says what is accessed, or comes out: from the corpus, in bounded time."""
    with scratch() as d:
        build = Build(os.path.join(d, 'build'))
        build.make(sorted({target for target, *_ in REMOVED.values()}))
        missed = []
        for what, (target, file, *edits) in REMOVED.items():
            source, other = os.path.join(TOP, file), os.path.join(d, os.path.basename(file))
            with open(other, 'w', encoding='utf-8') as f:
                f.write(without(source, edits))
            exe = build.make_other(target, source, other)
            run = run_again(exe, target, d, WHILE_READ[what]) if what in WHILE_READ else \
                run_target(exe, target, d, '-max_total_time=60', '-seed=1')
            why = re.search(r'ERROR: (AddressSanitizer: \S+).*\n|runtime error: (.*)|(not so: .*)', run.said)
            if not run.status or not why:
                missed.append(what)
                print(run.said[-3000:])
                continue
            say(f'{file}, {what}: {target} says {why[1] or why[2] or why[3]}')
        assert not missed, f'not found: {", ".join(missed)}; see above'

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The real code without one of the things that keep it right: the tests must miss it."""

import os
import re
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from builds import STRESS, UNIT, compile_test, outcome  # noqa: E402
from harness import params, say  # noqa: E402
from mutations import MUTATIONS, RING, Mutation  # noqa: E402

TOP = os.path.dirname(os.path.dirname(UNIT))
NAMED = {m.name: m for m in MUTATIONS}
CAS_SINGLE = '''	__u8 done;

	__asm__ volatile("cmpxchgq %[new_], %[at]\\n\\tsete %[done]"
			 : [done] "=q"(done), [at] "+m"(*p), "+a"(old)
			 : [new_] "r"(new_)
			 : "memory", "cc");
	return done;
'''
ADD_SINGLE = '''	__asm__ volatile("addq %[v], %[at]" : [at] "+m"(*p) : [v] "r"(v) : "memory", "cc");
'''
# What a signal handler must not come in between, where one thread needs no bus locks.
SINGLE = [
    Mutation('single-cas', "a single thread's compare-and-swap in one instruction", (),
             [(RING, CAS_SINGLE, '	return htrace_load(p) == old ? (htrace_store(p, new_), 1) : 0;\n')]),
    Mutation('single-add', "a single thread's commit in one instruction", (),
             [(RING, ADD_SINGLE, """	__u64 was = htrace_load(p);

	/* as a compiler may: few signals would come in between two instructions */
	for (volatile int i = 0; i < 20; i++)
		;
	htrace_store(p, was + v);
""")]),
]


@params(*[m.name for m in MUTATIONS if m.code and m.unit])
def test_unit(name):
    """Most by random schedules in one thread, with stores delayed as on arm64."""
    unit = NAMED[name].unit
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(os.path.join(UNIT, unit + '.c'), d, mutation=NAMED[name])
        # So few show most; then the rarest: counters that carry, and records that are overwritten; else all.
        for schedules in {'HTRACE_SCHEDULES': '100'}, {'HTRACE_SCENARIO': '5', 'HTRACE_SCHEDULES': '8000'}, {}:
            status, said = outcome(exe, **schedules)
            bad = re.findall(r'^not ok.*', said, re.M)
            if bad:
                break
        assert status and bad, f'{NAMED[name].what}: not missed (exit {status})\n{said}'
        found = re.findall(r'HTRACE_SCHEDULE=(\d+), policy (\d), start \d: (.*)', said)
        for policy, text in ('1', 'discard'), ('2', 'overwrite'):
            those = sorted((int(f[0]), f[2]) for f in found if f[1] == policy)
            if those:
                say(f'{text}: schedule {those[0][0]}: {those[0][1][:90]}')
        if not found:
            say(re.sub(r'^not ok \d+ - (\S*/)?', 'missed by ', bad[0])[:120])


def test_build_flag():
    """A build directory of one's own, as CONTRIBUTING.md's readers would make it."""
    with tempfile.TemporaryDirectory() as d:
        off = [f'-D{name}=disabled' for name in ('agent', 'reader', 'bench', 'symbols')]
        for args in (['setup', d, TOP, '-Dmutation=release', *off], ['compile', '-C', d, 'test_schedules']):
            status, said = outcome('meson', *args)
            assert status == 0, f'meson {" ".join(args)}: {said}'
        status, said = outcome(os.path.join(d, 'tests', 'test_schedules'), HTRACE_SCHEDULES='20')
        bad = re.search(r'^not ok.*HTRACE_SCHEDULE=.*', said, re.M)
        assert status and bad, f'the flag takes nothing away (exit {status})\n{said}'
        say(bad[0][-100:])
        status, said = outcome('meson', 'setup', os.path.join(d, 'none'), TOP, '-Dmutation=none-such', *off)
        assert status and 'mutations.py' in said, f'a mutation that is not there: exit {status}\n{said}'


@params(*[m.name for m in MUTATIONS if m.stress])
def test_stress(name):
    """Threads on this machine, as often as it takes, up to a limit."""
    build = NAMED[name].stress
    borrow = [build] if build in ('borrow', 'packed') else []
    records = {'plain': '200000', 'borrow': '100000', 'packed': '100000', 'tsan': '20000'}[build]
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(STRESS, d, 'plain' if borrow else build, NAMED[name])
        for i in range(20):
            for mode in ('threads', 'readers' if build == 'borrow' else 'signals'):
                for policy in ('discard', 'overwrite'):
                    status, said = outcome(exe, mode, policy, records, *borrow)
                    if status != 0:
                        why = re.search(r'SUMMARY: \S+ (.*) /', said) or re.search(r'(.*)\n', said)
                        say(f'run {i + 1}, {mode} {policy}: {why[1] if why else said}')
                        return
    raise AssertionError(f'{NAMED[name].what}: not missed')


@params(*[m.name for m in SINGLE])
def test_single(name):
    """Signal handlers in one thread."""
    mutation = {m.name: m for m in SINGLE}[name]
    with tempfile.TemporaryDirectory() as d:
        exe = compile_test(STRESS, d, 'plain', mutation)
        for i in range(20):
            for policy in 'discard', 'overwrite':
                status, said = outcome(exe, 'single', policy, '200000')
                if status != 0:
                    say(f'run {i + 1}, {policy}: {said.splitlines()[0] if said else status}')
                    return
    raise AssertionError(f'{mutation.what}: not missed')

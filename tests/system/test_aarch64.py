# SPDX-License-Identifier: LGPL-2.1-or-later
"""The library and programs as built for aarch64, in user-mode emulation; other pages; 32 bits."""

import concurrent.futures
import glob
import json
import os
import shlex
import subprocess
import tempfile

from harness import params, say
from vm import TOOLS, TOP

import run as runner

CROSS = os.path.join(TOOLS, 'cross-aarch64.sh')
DIRS = {'gcc': os.path.join(TOP, 'build-aarch64'), 'clang': os.path.join(TOP, 'build-aarch64-clang')}
INCLUDE = os.path.join(TOP, 'libhtrace', 'include')


def output(*args, **kw):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       check=False, **kw)
    assert r.returncode == 0, f'{" ".join(args)}:\n{r.stdout}'
    return r.stdout.strip()


def machine_state():
    """What a cross build must leave as it is: dpkg's architectures and what is installed."""
    return (output('dpkg', '--print-foreign-architectures'),
            output('dpkg-query', '-W', '-f', '${Package}:${Architecture} ${Version}\n'),
            output('apt-get', 'indextargets', '--format', '$(FILENAME)'))


@params('gcc', thorough=['clang'])
def test_build(compiler):
    """Everything builds without warnings, and what came out is for aarch64."""
    before = machine_state()
    # less optimised, gcc warns of what cannot be
    output(CROSS, *(['--clang', '--quick'] if compiler == 'clang' else []), DIRS[compiler])
    assert machine_state() == before, 'the build has changed what is installed here'
    for name in ('libhtrace/libhtrace.so', 'host-reader/host-reader', 'guest-agent/guest-agent',
                 'tests/workload', 'tests/test_ring'):
        kind = output('readelf', '-h', os.path.join(DIRS[compiler], name))
        assert 'AArch64' in kind, f'{name}:\n{kind}'
    sysroot = output(CROSS, '--sysroot')
    for program, wrapper in (('host-reader', ['-L', sysroot]), ('guest-agent', [])):
        path = os.path.join(DIRS[compiler], program, program)
        assert program in output('qemu-aarch64-static', *wrapper, path, '--version')
    objects = glob.glob(os.path.join(DIRS[compiler], 'bpf', '*.bpf.o'))
    assert len(objects) == len(glob.glob(os.path.join(TOP, 'bpf', '*.bpf.c'))), objects


def by_clang(entry):
    """
    A command of gcc's build with clang in its place: (what is compiled, arguments). Nothing is made of what is no part of the
    library, where all assembly is.
    """
    words = iter(shlex.split(entry['command']))
    assert any(w.endswith('aarch64-linux-gnu-gcc') for w in words), entry['command']
    kept = []
    for word in words:
        if word in ('-o', '-MF', '-MQ'):
            next(words)
        elif word != '-MD':
            kept.append(word)
    part = os.path.relpath(os.path.join(entry['directory'], entry['file']), TOP)
    made = ['-o', '/dev/null'] if part.startswith('libhtrace/') else ['-fsyntax-only']
    return part, ['clang', '--target=aarch64-linux-gnu', '-Werror', *kept, '-O1', *made]


def test_clang_warnings():
    """Nor does clang warn of anything that gcc builds. That it all links, and runs: test_build[clang]."""
    output(CROSS, DIRS['gcc'])
    with open(os.path.join(DIRS['gcc'], 'compile_commands.json'), encoding='utf-8') as f:
        commands = dict(by_clang(entry) for entry in json.load(f))
    assert {'libhtrace/region.c', 'host-reader/main.c', 'guest-agent/main.c'} < commands.keys(), commands.keys()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda args: output(*args, cwd=DIRS['gcc']), commands.values()))
    say(f'{len(commands)} files')


def unit_tests():
    return sorted(p for p in glob.glob(os.path.join(DIRS['gcc'], 'tests', 'test_*'))
                  if os.path.isfile(p))


def run_units(units, *emulator):
    """Runs unit tests under the emulator; the number of their cases."""
    results = runner.Results()
    sysroot = output(CROSS, '--sysroot')
    for exe in units:
        runner.run_unit(exe, 'aarch64.', results,
                        ['qemu-aarch64-static', '-L', sysroot, *emulator])
    assert not results.failures and not results.skipped, results.failures
    return results.passed


NOT_EMULATED = {'test_confine', 'test_guest_ram', 'test_ram_mirror', 'test_ram_rings'}
# Without atomics or bytes in an order of the machine's; half of the time of all.
SLOW = {'test_settings', 'test_capture_pack', 'test_view_crash', 'test_tell_kvm', 'test_filter'}


def test_units():
    """
    All unit tests, on aarch64; but for those of what the emulator does not have: what the kernel forbids (Landlock, seccomp),
    and how memory was mapped (/proc/PID/smaps), and by tools/test.sh without --thorough the slowest. Why vCPUs exit is held against x86's headers, where these are.
    """
    output(CROSS, DIRS['gcc'])
    native = {os.path.basename(p) for p in glob.glob(os.path.join(TOP, 'tests', 'unit', 'test_*.c'))}
    units = unit_tests()
    assert {os.path.basename(u) + '.c' for u in units} == native - {'test_kvm_reasons.c'}, units
    left_out = NOT_EMULATED | (set() if os.environ.get('HTRACE_THOROUGH') else SLOW)
    units = [u for u in units if os.path.basename(u) not in left_out]
    say(f'{run_units(units)} cases passed')


@params(16384, thorough=[65536])
def test_pages(size):
    """Those that map memory, with aarch64's larger pages: by a preloaded library that refuses and
    rounds as such a kernel does, and by the emulator's own (which is laxer)."""
    output(CROSS, DIRS['gcc'])
    units = [u for u in unit_tests() if os.path.basename(u) in set(runner.MAPPING) - {'test_sync'}]  # which is slow here
    preload = os.path.join(DIRS['gcc'], 'tests', 'bigpages.so')
    cases = run_units(units, '-E', 'LD_PRELOAD=' + preload, '-E', f'HTRACE_PAGE_SIZE={size}')
    say(f'{cases} cases passed under bigpages.so')
    say(f'{run_units(units, "-p", str(size))} cases passed under qemu -p {size}')


REFUSED = '32-bit programs are not supported: build for x86-64 or aarch64'


@params(('gcc', '-m32'), ('gcc', '-mx32'), ('clang', '--target=i386-linux-gnu'),
        ('clang', '--target=arm-linux-gnueabihf'))
def test_thirty_two_bits(compiler, target):
    """A 32-bit program that includes any header is refused with a message, as the first error: on
    every machine, also one without a 32-bit libc, so that no header of others is to be found."""
    headers = [h for h in sorted(os.listdir(os.path.join(INCLUDE, 'htrace'))) if h != 'version.h']
    assert len(headers) >= 8, headers
    for header in headers:
        with tempfile.NamedTemporaryFile('w', suffix='.c') as f:
            f.write(f'#include <htrace/{header}>\n')
            f.flush()
            r = subprocess.run([compiler, target, '-nostdinc', '-fsyntax-only', '-I', INCLUDE,
                                f.name],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               check=False)
        errors = [line for line in r.stdout.splitlines() if 'error:' in line]
        assert r.returncode and errors and REFUSED in errors[0], f'{header}: {r.stdout}'
    say(f'{len(headers)} headers refused')

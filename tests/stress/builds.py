# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compiles a test program with the real ring, or with a mutated one (tests/mutations.py)."""

import glob
import os
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
LIB = os.path.join(os.path.dirname(TESTS), 'libhtrace')
sys.path.insert(0, TESTS)
sys.path.insert(0, os.path.join(TESTS, 'system'))

from mutations import mutate  # noqa: E402

STRESS = os.path.join(HERE, 'stress.c')
OWNERS = os.path.join(HERE, 'owners.c')
WAKE = os.path.join(HERE, 'wake.c')
HANDLES = os.path.join(HERE, 'handles.c')
UNIT = os.path.join(TESTS, 'unit')
SANITIZERS = {
    'plain': ['-O2'],
    'tsan': ['-O1', '-fsanitize=thread', '-Wno-tsan'],
    'asan': ['-O1', '-fsanitize=address,undefined', '-fno-sanitize-recover=all'],
}


def compile_test(source, directory, build='plain', mutation=None):
    """The program, with ring.h and consumer.c found first where they are mutated."""
    include, consumer = [], os.path.join(LIB, 'consumer.c')
    if mutation:
        mutated = os.path.join(directory, 'mutated')
        mutate(mutation, mutated)
        # On few cores few threads meet oftener.
        include = ['-w', '-DPRODUCERS=3', '-I' + os.path.join(mutated, 'include'), '-I' + mutated]
        consumer = os.path.join(mutated, 'consumer.c')
    libraries = ['-pthread']
    with open(source, encoding='utf-8') as f:
        text = f.read()
    sources = [source] if '#include "consumer.c"' in text else [source, consumer]
    with_it = ('unpack.c', 'consumer_borrow.c', 'consumer_each.c')
    sources += [os.path.join(LIB, f) for f in with_it if f'#include "{f}"' not in text]
    if '#include "producer.c"' in text:  # and with it the rest of the library
        sources += [f for f in glob.glob(os.path.join(LIB, '*.c')) if os.path.basename(f) not in
                    ('consumer.c', 'producer.c', 'geometry.c', 'schema_btf.c', *with_it)]
    if source.startswith(UNIT):
        libraries += shlex.split(subprocess.run(['pkg-config', '--libs', 'check'], check=True,
                                                stdout=subprocess.PIPE, text=True).stdout)
    exe = os.path.join(directory, 'test')
    subprocess.run(['gcc', '-std=gnu11', '-D_GNU_SOURCE', '-g', '-Wall', '-Wextra', *SANITIZERS[build], *include,
                    '-I' + os.path.join(LIB, 'include'), '-I' + LIB, *sources,
                    os.path.join(LIB, 'geometry.c'), '-o', exe, *libraries], check=True)
    return exe


def outcome(*args, seconds=120, **env):
    """(exit status, what it printed); None if it had to be stopped."""
    try:
        run = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors='replace', check=False, timeout=seconds,
                             env=dict(os.environ, **env))
    except subprocess.TimeoutExpired as e:
        return None, (e.stdout or b'').decode(errors='replace') + f'\nstopped after {seconds} s'
    return run.returncode, run.stdout

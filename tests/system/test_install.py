# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is installed is enough to build on: headers, pkg-config, libraries, the README's example."""

import glob
import os
import re
import subprocess
import tempfile

from harness import say
from vm import BUILD, TOP

PROGRAM = r'''
#include <htrace/consumer.h>
#include <htrace/producer.h>
#include <htrace/region.h>
#include <htrace/schema.h>
#include <htrace/sync.h>
#include <stdio.h>

int main(void)
{
	struct htrace_region_opts o = { 0 };
	struct htrace_consumer *c;
	struct htrace_producer p;
	struct htrace_region *r;
	struct htrace_image img;
	struct htrace_batch b;
	struct htrace_view *v;
	char err[256];
	int fd;

	o.sz = sizeof(o);
	o.placement = HTRACE_PLACEMENT_LOCAL;
	o.policy = HTRACE_OVERWRITE;
	o.kind = HTRACE_RING_PER_THREAD;
	o.nr_rings = 1;
	if (htrace_region_create_local(&r, NULL, 1 << 20, &o, &fd))
		return 1;
	htrace_region_publish(r);
	if (htrace_producer_get(&p, r, 0, -1) || htrace_push(&p, 1, "hello", 6))
		return 2;
	if (htrace_view_open_fd(&v, fd, true, err, sizeof(err)) ||
	    htrace_view_attach(v, err, sizeof(err)) || htrace_view_ring(v, 0, 0, &img) ||
	    htrace_consumer_new(&c, &img, NULL))
		return 3;
	if (htrace_consumer_read(c, &b) != 1 || b.events != 1)
		return 4;
	printf("libhtrace %s: %s\n", htrace_version(), (const char *)b.data + 8);
	return 0;
}
'''


def run(*args, **kw):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kw)
    assert r.returncode == 0, f'{" ".join(args)}:\n{r.stdout}'
    return r.stdout.strip()


def test_install():
    with tempfile.TemporaryDirectory() as dir:
        run('meson', 'install', '-C', BUILD, '--destdir', dir, '--quiet')
        pc = glob.glob(dir + '/**/libhtrace.pc', recursive=True)[0]
        env = dict(os.environ, PKG_CONFIG_PATH=os.path.dirname(pc), PKG_CONFIG_SYSROOT_DIR=dir)
        flags = run('pkg-config', '--cflags', 'libhtrace', env=env).split()
        libs = run('pkg-config', '--libs', 'libhtrace', env=env).split()
        source = os.path.join(dir, 'program.c')
        with open(source, 'w', encoding='utf-8') as f:
            f.write(PROGRAM)
        libdir = os.path.dirname(os.path.dirname(pc))
        strict = ['-Wall', '-Wextra', '-Werror', '-Wno-unused-parameter']
        run('gcc', '-std=gnu11', *strict, *flags, source, '-o', dir + '/shared', *libs)
        say(run(dir + '/shared', env=dict(os.environ, LD_LIBRARY_PATH=libdir)))
        run('clang', '-std=c11', '-D_GNU_SOURCE', *strict, *flags, source, '-o', dir + '/static',
            libdir + '/libhtrace.a')
        say(run(dir + '/static'))
        # every public header by itself, as C11 and C++
        headers = sorted(glob.glob(dir + '/**/include/htrace/*.h', recursive=True))
        for header in headers:
            if header.endswith('.bpf.h'):
                continue
            run('gcc', '-std=c11', '-D_GNU_SOURCE', *strict, *flags, '-fsyntax-only', '-x', 'c', header)
            run('g++', '-std=c++17', *strict, *flags, '-fsyntax-only', '-x', 'c++', header)
        say(f'{len(headers)} headers installed')
        # the README's tracer, with the command that it gives
        with open(os.path.join(TOP, 'README.md'), encoding='utf-8') as f:
            code = re.search(r'```c\n(.*?)```', f.read(), re.S)[1]
        with open(dir + '/mine.bpf.c', 'w', encoding='utf-8') as f:
            f.write(code)
        run('clang', '-O2', '-g', '-target', 'bpf', '-mcpu=v3', *flags, '-idirafter',
            '/usr/include/x86_64-linux-gnu', '-c', dir + '/mine.bpf.c', '-o', dir + '/mine.bpf.o')
        for program in 'host-reader', 'guest-agent':
            assert glob.glob(f'{dir}/**/{program}', recursive=True), f'{program} is not installed'


def test_exports():
    """Only what the headers declare is exported."""
    lib = glob.glob(os.path.join(BUILD, 'libhtrace', 'libhtrace.so.0.*'))
    lib = [x for x in lib if not x.endswith('.p')][0]
    out = run('nm', '-D', '--defined-only', lib)
    names = {x.split()[2].split('@')[0] for x in out.splitlines()} - {'HTRACE_0.1'}
    declared = ''
    for header in glob.glob(os.path.join(TOP, 'libhtrace', 'include', 'htrace', '*.h')):
        with open(header, encoding='utf-8') as f:
            declared += f.read()
    strange = [n for n in names if not re.search(r'\b' + n + r'\(', declared)]
    assert not strange, strange
    say(f'{len(names)} functions exported')
    # hidden by default, map or not: so it is in the static library too
    out = run('readelf', '--syms', '--wide', os.path.join(BUILD, 'libhtrace', 'libhtrace.a'))
    visible = set(re.findall(r' GLOBAL +DEFAULT +\d+ (htrace_\w+)', out))
    assert visible == names, 'declare it between "#pragma GCC visibility push(default)" and "pop" ' \
        f'in its header, and list it in libhtrace.map: {visible ^ names}'

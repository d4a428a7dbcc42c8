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


# Without a C library, and without headers but ours: the types are what abi.h needs.
TYPES = r'''
typedef unsigned char __u8;
typedef unsigned short __u16;
typedef short __s16;
typedef unsigned int __u32;
typedef int __s32;
typedef unsigned long long __u64;
typedef long long __s64;
#define __u64_defined
#ifdef __cplusplus
#define EXPORTED extern "C"
#else
#define EXPORTED
#endif
'''

# {name: (source, what it may need of others)}
FREESTANDING = {
    'ticks': (r'''
#include <htrace/clock.h>
#ifdef __x86_64__
EXPORTED __u64 ticks(void);
EXPORTED __u64 ticks(void)
{
	return htrace_clock_tsc();
}
#endif
''', set()),
    'hypercall': (r'''
#include <htrace/hypercall.h>
#ifdef __x86_64__
EXPORTED int tell(struct htrace_hypercall *h, const void *data, __u32 len);
EXPORTED int tell(struct htrace_hypercall *h, const void *data, __u32 len)
{
	if (htrace_hypercall_init(h))
		return -1;
	htrace_hypercall_event(h, 1, 2, 3, 4);
	return htrace_hypercall_send(h, 2, data, len);
}
#endif
''', set()),
    'ring': (r'''
#include <htrace/clock.h>
#include <htrace/ring.h>
#ifdef __x86_64__
#define NOW htrace_clock_tsc()
#else
#define NOW 1
#endif
EXPORTED int record(struct htrace_ring *r, const struct htrace_geometry *g, const __u64 *consumed, __u64 value);
EXPORTED int record(struct htrace_ring *r, const struct htrace_geometry *g, const __u64 *consumed, __u64 value)
{
	struct htrace_slot slot;
	__u64 *at = (__u64 *)htrace_reserve(r, g, consumed, 1, sizeof(value), 1, NOW, &slot);

	if (!at)
		return -1;
	*at = value;
	htrace_commit(&slot);
	at = (__u64 *)htrace_reserve_single(r, g, consumed, 1, sizeof(value), 1, NOW, &slot);
	if (!at)
		return -1;
	*at = value;
	htrace_commit_single(&slot);
	return 0;
}
''', set()),
    'producer': (r'''
#include <htrace/producer.h>
EXPORTED int push(struct htrace_producer *p, const void *data, __u32 len);
EXPORTED int push(struct htrace_producer *p, const void *data, __u32 len)
{
	struct htrace_slot slot;
	void *at = htrace_producer_reserve(p, 2, 8, &slot);

	if (!at || !htrace_producer_is_ours(p))
		return -1;
	*(__u64 *)at = 42;
	htrace_commit(&slot);
	return htrace_push(p, 1, data, len) | htrace_push_single(p, 1, data, len);
}
''', {'htrace_clock_monotonic'}),
}

# Takes rings, and has each freestanding object write into its own.
HOSTED = r'''
#include <htrace/consumer.h>
#include <htrace/producer.h>
#include <string.h>

int record(struct htrace_ring *r, const struct htrace_geometry *g, const __u64 *consumed, __u64 value);
int push(struct htrace_producer *p, const void *data, __u32 len);

static int check(struct htrace_consumer *c, int nr, const void *first, size_t len)
{
	struct htrace_record rec;
	struct htrace_batch b;
	struct htrace_iter it;
	int n = 0;

	if (htrace_consumer_read(c, &b) != 1)
		return 1;
	for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &rec);)
		if (rec.id == 1 ? !++n || memcmp(rec.payload, first, len) : *(const __u64 *)rec.payload != 42)
			return 2;
	return n == nr ? 0 : 3;
}

static int try(__u32 clock_id)
{
	struct htrace_region_opts o = { .sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL,
		.policy = HTRACE_OVERWRITE, .kind = HTRACE_RING_PER_THREAD, .nr_rings = 2, .clock_id = clock_id };
	char text[61], err[256];
	struct htrace_consumer *c[2];
	struct htrace_producer p[2];
	struct htrace_image img[2];
	struct htrace_region *r;
	struct htrace_view *v;
	__u64 value = 0x0123456789abcdefULL;
	int fd, ret;

	ret = htrace_region_create_local(&r, NULL, 1 << 20, &o, &fd);
	if (ret)
		return clock_id == HTRACE_CLOCK_TSC && ret == -95 ? 0 : 1; /* not here: EOPNOTSUPP */
	htrace_region_publish(r);
	for (unsigned int i = 0; i < sizeof(text); i++)
		text[i] = (char)(i * 7);
	if (htrace_view_open_fd(&v, fd, true, err, sizeof(err)) || htrace_view_attach(v, err, sizeof(err)))
		return 2;
	for (__u32 i = 0; i < 2; i++)
		if (htrace_producer_get(&p[i], r, 0, (int)i) || htrace_view_ring(v, 0, i, &img[i]) ||
		    htrace_consumer_new(&c[i], &img[i], NULL))
			return 3;
	if (record(p[0].ring, &p[0].geometry, p[0].consumed, value) || push(&p[1], text, sizeof(text)))
		return 4;
	ret = check(c[0], 2, &value, sizeof(value));
	return ret ? ret + 10 : check(c[1], 2, text, sizeof(text)) * 100;
}

int main(void)
{
	int ret = try(HTRACE_CLOCK_MONOTONIC);

	return ret ? ret : try(HTRACE_CLOCK_TSC);
}
'''


def check_headers(headers, flags, dir):
    """Each by itself, in strict C11, which hides POSIX from it, and in C++, without an extension unmarked."""
    strict = ['-Wall', '-Wextra', '-Wpedantic', '-Werror', '-Wno-unused-parameter']
    compilers = [('gcc', 'c', 'c11'), ('clang', 'c', 'c11'), ('gcc', 'c', 'gnu11'), ('gcc', 'c', 'c17')] + [
        (compiler, 'c++', 'c++' + year) for compiler in ('g++', 'clang++') for year in ('11', '17', '20')]
    for header in headers:
        source = os.path.join(dir, 'alone.c')
        with open(source, 'w', encoding='utf-8') as f:
            f.write(f'#include <htrace/{os.path.basename(header)}>\nextern int alone;\n')
        for compiler, language, standard in compilers:
            run(compiler, f'-std={standard}', *strict, *flags, '-fsyntax-only', '-x', language, source)


def check_freestanding(dir, flags, lib):
    """Clock, ring and producer where there is no C library: they need nothing, and write what a reader reads."""
    strict = ['-Wall', '-Wextra', '-Wpedantic', '-Werror', '-Wno-unused-parameter', '-Wno-long-long']
    with open(os.path.join(dir, 'hosted.c'), 'w', encoding='utf-8') as f:
        f.write(HOSTED)
    run('gcc', '-std=c11', *strict, *flags, '-c', dir + '/hosted.c', '-o', dir + '/hosted.o')
    c, cpp = ('-std=c11',), ('-std=c++11', '-x', 'c++')
    native = () if os.uname().machine == 'x86_64' else ('-mno-outline-atomics',)  # else calls of a library
    arm = '--target=aarch64-linux-gnu', '-mno-outline-atomics'
    ways = [('gcc', *native, *c), ('gcc', *native, *cpp), ('clang', *c), ('clang', *cpp),
            ('aarch64-linux-gnu-gcc', arm[1], *c),
            ('clang', *arm, *c), ('clang', *arm, *cpp)]
    for compiler, *how in [(*way, level) for way in ways for level in ('-O0', '-O2')]:
        objects = []
        for name, (text, needs) in FREESTANDING.items():
            source, obj = os.path.join(dir, name + '.c'), os.path.join(dir, name + '.o')
            with open(source, 'w', encoding='utf-8') as f:
                f.write(TYPES + text)
            run(compiler, *how, *strict, *flags, '-ffreestanding', '-nostdinc', '-fno-stack-protector', '-c',
                source, '-o', obj)
            undefined = set(re.findall(r'\bU (\S+)', run('nm', '-u', obj)))
            assert undefined == needs, f'{compiler} {how} {name}: it needs {undefined}'
            objects.append(obj)
        if 'aarch64' in compiler + how[0]:
            continue
        run('gcc', dir + '/hosted.o', *objects, lib, '-o', dir + '/hosted')
        run(dir + '/hosted')


# Events from the BTF of an object file that clang made.
BTF_OBJECT = 'struct seen { unsigned int number; char text[8]; } seen;\n'
BTF_PROGRAM = r'''
#include <bpf/btf.h>
#include <htrace/schema.h>
#include <stdio.h>

int main(int argc, char **argv)
{
	struct htrace_schema_builder *b;
	struct htrace_schema *s;
	const void *entries;
	struct btf *btf;
	char err[256];
	size_t len;
	int type;

	btf = btf__parse(argv[argc - 1], NULL);
	type = btf ? btf__find_by_name_kind(btf, "seen", BTF_KIND_STRUCT) : -1;
	if (type < 0 || htrace_builder_new(&b, NULL, 0) ||
	    htrace_builder_btf_event(b, btf, "seen", (__u32)type, err, sizeof(err)) != 1)
		return 1;
	entries = htrace_builder_entries(b, &len);
	if (htrace_schema_parse(&s, entries, len, err, sizeof(err)))
		return 2;
	printf("%s %u\n", htrace_schema_event_by_name(s, "seen")->name,
	       htrace_schema_event_by_name(s, "seen")->type->nr);
	return 0;
}
'''


def check_btf(dir, libdir, env):
    """libhtrace-btf by its pkg-config file, shared and static: an event described by an object's BTF."""
    for name, text in ('seen.c', BTF_OBJECT), ('btf.c', BTF_PROGRAM):
        with open(os.path.join(dir, name), 'w', encoding='utf-8') as f:
            f.write(text)
    run('clang', '-g', '-target', 'bpf', '-c', dir + '/seen.c', '-o', dir + '/seen.o')
    for how in [], ['--static']:
        flags = run('pkg-config', *how, '--cflags', '--libs', 'libhtrace-btf', env=env).split()
        run('gcc', '-std=c11', '-Wall', '-Wextra', '-Werror', dir + '/btf.c', '-o', dir + '/btf',
            *(['-static'] if how else []), *flags)
        needs = run('readelf', '-d', dir + '/btf')
        assert ('libhtrace.so.0' in needs) == (not how), needs
        said = run(dir + '/btf', dir + '/seen.o', env=dict(os.environ, LD_LIBRARY_PATH=libdir))
        assert said == 'seen 2', said


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
        run('clang', '-std=c11', *strict, *flags, source, '-o', dir + '/static',
            libdir + '/libhtrace.a')
        say(run(dir + '/static'))
        headers = sorted(h for h in glob.glob(dir + '/**/include/htrace/*.h', recursive=True)
                         if not h.endswith('.bpf.h'))
        check_headers(headers, flags, dir)
        say(f'{len(headers)} headers installed')
        check_freestanding(dir, [f for f in flags if f.startswith('-I')], libdir + '/libhtrace.a')
        check_btf(dir, libdir, env)
        # the README's tracer, with the command that it gives
        with open(os.path.join(TOP, 'README.md'), encoding='utf-8') as f:
            code = re.search(r'```c\n(.*?)```', f.read(), re.S)[1]
        with open(dir + '/mine.bpf.c', 'w', encoding='utf-8') as f:
            f.write(code)
        run('clang', '-O2', '-g', '-target', 'bpf', '-mcpu=v3', *flags, '-idirafter',
            '/usr/include/x86_64-linux-gnu', '-c', dir + '/mine.bpf.c', '-o', dir + '/mine.bpf.o')
        for program in 'host-reader', 'guest-agent':
            assert glob.glob(f'{dir}/**/{program}', recursive=True), f'{program} is not installed'


DECLARED = r'''
#include <htrace/declare.h>
#include "declared.h"
#include <stdio.h>

int main(void)
{
	struct htrace_schema_builder *b;
	const unsigned char *p;
	size_t len;

	if (htrace_builder_new(&b, NULL, 0) || declare(b) != 1)
		return 1;
	p = (const unsigned char *)htrace_builder_entries(b, &len);
	for (size_t i = 0; i < len; i++)
		printf("%02x", p[i]);
	return 0;
}
'''

# What each macro is not for, and the compiler's word for it (gcc, clang or g++).
WRONG = r'''
#include <htrace/declare.h>
struct s { int a[3], m[2][2]; double d; struct { int x; } in; int b : 3; char text[4]; int last; };
static const struct htrace_field f[] = { FIELD };
const struct htrace_field *get(void);
const struct htrace_field *get(void) { return f; }
'''
SCALAR = 'this macro takes an integer, bool, enum or pointer'
REFUSED = {
    'HTRACE_FIELD(struct s, a)': SCALAR,
    'HTRACE_FIELD(struct s, d)': SCALAR,
    'HTRACE_FIELD(struct s, in)': SCALAR,
    'HTRACE_FIELD(struct s, b)': 'bit-field',
    'HTRACE_FIELD_ENUM(struct s, text, f)': SCALAR,
    'HTRACE_FIELD_ARRAY(struct s, m)': SCALAR,
    'HTRACE_FIELD_TEXT(struct s, a)': 'this macro takes an array of characters',
    'HTRACE_FIELD(struct s, missing)': 'no member named',
}
FINE = ['HTRACE_FIELD(struct s, last)', 'HTRACE_FIELD_TEXT(struct s, text)', 'HTRACE_FIELD_ARRAY(struct s, a)']


def test_declare():
    """Each compiler, as C and C++, declares a struct of everything as the same; misuse does not compile."""
    include = ['-I' + os.path.join(TOP, 'libhtrace', 'include'), '-I' + os.path.join(TOP, 'tests', 'unit')]
    strict = ['-Wall', '-Wextra', '-Werror', '-Wno-c99-extensions']
    compilers = [('gcc', '-std=c11'), ('clang', '-std=c11'), ('gcc', '-std=gnu17'),
                 ('g++', '-std=c++11', '-x', 'c++'), ('clang++', '-std=c++11', '-x', 'c++'),
                 ('g++', '-std=c++17', '-x', 'c++')]
    with tempfile.TemporaryDirectory() as d:
        with open(d + '/declared.c', 'w', encoding='utf-8') as f:
            f.write(DECLARED)
        with open(d + '/wrong.c', 'w', encoding='utf-8') as f:
            f.write(WRONG)
        said = set()
        for compiler in compilers:
            run(*compiler, *strict, *include, '-c', d + '/declared.c', '-o', d + '/declared.o')
            run('gcc', d + '/declared.o', os.path.join(BUILD, 'libhtrace', 'libhtrace.a'), '-o', d + '/declared')
            said.add(run(d + '/declared'))
            for field in FINE:
                run(*compiler, *strict, *include, f'-DFIELD={field}', '-fsyntax-only', d + '/wrong.c')
            for field, why in REFUSED.items():
                r = subprocess.run([*compiler, *include, f'-DFIELD={field}', '-fsyntax-only', d + '/wrong.c'],
                                   stderr=subprocess.PIPE, text=True, env=dict(os.environ, LC_ALL='C'), check=False)
                assert r.returncode and why in r.stderr, f'{compiler} {field}: {r.returncode}\n{r.stderr}'
        assert len(said) == 1 and len(said.pop()) > 1000
        say(f'{len(compilers)} compilers, {len(REFUSED)} refusals')


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

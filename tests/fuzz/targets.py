# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fuzz targets: what each consists of, and how they are built by clang (libFuzzer)."""

import concurrent.futures
import glob
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
LIB = os.path.join(TOP, 'libhtrace')
READER = os.path.join(TOP, 'host-reader')
COMMON = os.path.join(TOP, 'common')
CORPUS = os.path.join(HERE, 'corpus')


@dataclass
class Target:
    """A program: its source, what tells it from others of the same source."""
    source: str
    what: str
    defines: list = field(default_factory=list)
    max_len: int = 4096
    library_only: bool = False # needs nothing of host-reader


TARGETS = {
    'attach': Target('attach.c', 'superblock and areas', library_only=True),
    'runs': Target('runs.c', 'page runs, anchors, guest RAM', library_only=True),
    'schema': Target('schema.c', 'schema entries, then records by them', max_len=8192, library_only=True),
    'consumer-discard': Target('consumer.c', 'a ring image', ['-DPOLICY=HTRACE_DISCARD'], library_only=True),
    'consumer-overwrite': Target('consumer.c', 'a ring image', ['-DPOLICY=HTRACE_OVERWRITE'], library_only=True),
    'relay': Target('relay.c', 'a ring and its mirror', library_only=True),
    'live': Target('live.c', 'a whole region, between two looks'),
    'changing': Target('live.c', 'a whole region, while it is read', ['-DCHANGING']),
    'clock': Target('clock.c', 'samples of clocks', library_only=True),
    'filter': Target('filter.c', 'filters, schemas, records', library_only=True),
    'names': Target('names.c', 'task names, escaping'),
    'stacks': Target('stacks.c', 'stacks, packed symbols, mappings'),
    'elf': Target('elf.c', 'ELF files with a build-id'),
    'text': Target('sinks.c', 'records as text', ['-DSINK="text"']),
    'json': Target('sinks.c', 'records as JSON', ['-DSINK="json"']),
    'ctf': Target('sinks.c', 'records as CTF', ['-DSINK="ctf"']),
    'perfetto': Target('sinks.c', 'records as a Perfetto trace', ['-DSINK="perfetto"']),
    'raw': Target('sinks.c', 'records into a capture', ['-DSINK="raw"']),
    'capture': Target('capture.c', 'a capture\'s files'),
    'packed': Target('capture.c', 'a capture\'s files, compressed', ['-DPACKED']),
    'answer': Target('answer.c', 'what an agent answers to commands'),
    'qmp': Target('qmp.c', 'what QEMU\'s monitor says', max_len=16384),
    'boot': Target('boot.c', 'the ring of a guest\'s boot, in its memory', max_len=8192),
    'stream': Target('stream.c', 'what a guest sends over a byte stream'),
    'tracepoint': Target('tracepoint.c', 'format files of tracefs'),
}

# No unbounded loop, no unbounded allocation: limits of one input's seconds, of one allocation, of
# all memory. The largest that the reader makes are the functions of symbols, 24 MiB.
LIMITS = ['-timeout=20', '-malloc_limit_mb=64', '-rss_limit_mb=1024']
SANITIZERS = {
    'ASAN_OPTIONS': 'quarantine_size_mb=16:detect_stack_use_after_return=0:handle_abort=1',
    'UBSAN_OPTIONS': 'print_stacktrace=1:halt_on_error=1',
}
FLAVOURS = {
    'fuzz': ['-O1', '-fsanitize=fuzzer-no-link,address,undefined', '-fno-sanitize-recover=all'],
    # What is used without having been written. Of targets without libraries, which are not built so.
    'memory': ['-O1', '-fsanitize=fuzzer-no-link,memory', '-fsanitize-memory-track-origins', '-fno-sanitize-recover=all'],
    'coverage': ['-O1', '-fsanitize=fuzzer-no-link', '-fprofile-instr-generate', '-fcoverage-mapping'],
}
# What has no decisions to find, and long loops: libFuzzer does not watch it.
UNWATCHED = ('stats.c', 'out.c', 'perfetto.pb-c.c')
# Of the code under test only, so that an input can make one fail.
ALLOCATIONS = [f'-D{f}=fuzz_{f}' for f in ('malloc', 'calloc', 'realloc')]
MAPPINGS = ['-Dmmap=fuzz_mmap'] # what the SIGBUS handler maps must not fail


def clang():
    """Any clang with libFuzzer; what it prints coverage with has the same version."""
    for name in ('clang', 'clang-14'):
        if shutil.which(name):
            return name
    raise FileNotFoundError('clang is missing: tools/install-deps.sh --tests installs it')


def tool(name):
    """llvm-cov and the like, of the same version as clang."""
    version = subprocess.run([clang(), '-dumpversion'], stdout=subprocess.PIPE, text=True, check=True)
    for path in (f'{name}-{version.stdout.split(".")[0]}', name):
        if shutil.which(path):
            return path
    raise FileNotFoundError(f'{name} is missing: tools/install-deps.sh --tests installs it')


def sources():
    """The code under test: the library and what targets share; the reader but for what is replaced."""
    lib = [p for p in glob.glob(os.path.join(LIB, '*.c'))
           if os.path.basename(p) not in ('bar.c', 'schema_btf.c')]
    reader = [p for p in glob.glob(os.path.join(READER, '*.c'))
              if os.path.basename(p) not in ('main.c', 'message.c', 'host_bpf.c')]
    own = [os.path.join(HERE, 'fuzz.c'), os.path.join(HERE, 'fuzz_region.c')]
    return sorted(lib) + own, sorted(reader) + sorted(
        os.path.join(COMMON, f) for f in ('boot_records.c', 'ftrace_page.c', 'stream_place.c', 'tracepoint_format.c'))


class Build:
    """Targets of one flavour, in a directory."""

    def __init__(self, directory, flavour='fuzz'):
        self.dir, self.flavour = directory, flavour
        os.makedirs(directory, exist_ok=True)
        headers = [h for d in (os.path.join(LIB, 'include', 'htrace'), LIB, READER, COMMON, HERE)
                   for h in glob.glob(os.path.join(d, '*.h'))]
        self.headers = max(os.path.getmtime(p) for p in headers + [os.path.abspath(__file__)])
        self.flags = [
            clang(), '-std=gnu11', '-D_GNU_SOURCE', '-g', '-fno-omit-frame-pointer', '-UNDEBUG',
            '-Wall', '-Wextra', '-Wno-unused-parameter', '-Wno-missing-field-initializers',
            '-Wno-gnu-zero-variadic-macro-arguments', *FLAVOURS[flavour], '-DHAVE_ZLIB', '-DHAVE_LIBELF',
            '-DHAVE_PROTOBUF_C', '-DHAVE_ZSTD', '-DHAVE_JANSSON',
            '-I' + os.path.join(LIB, 'include'), '-I' + LIB, '-I' + READER,
            '-I' + COMMON, '-I' + directory]
        # of the programs that were made: name -> its harness; and what they share, of which each takes what it needs
        self.harness, self.archive = {}, os.path.join(directory, 'common.a')

    def _run(self, *args):
        run = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             errors='replace', check=False)
        if run.returncode:
            raise RuntimeError(f'{" ".join(args[:1])}: exit {run.returncode}\n{run.stdout}')
        if run.stdout:
            print(run.stdout, file=sys.stderr)

    def _compile(self, source, defines=(), name=None):
        part = os.path.basename(os.path.dirname(source))
        to = os.path.join(self.dir, name or f'{part}-{os.path.basename(source)[:-2]}.o')
        if part != 'fuzz':
            defines = ALLOCATIONS + ([] if source.endswith('/sigbus.c') else MAPPINGS)
        flags = self.flags
        if os.path.basename(source) in UNWATCHED:
            flags = [f.replace('fuzzer-no-link,', '') for f in flags]
        if not os.path.exists(to) or os.path.getmtime(to) <= max(os.path.getmtime(source), self.headers):
            self._run(*flags, *defines, '-c', source, '-o', to)
        return to

    def make(self, names=TARGETS):
        """Compile and link; name -> path of the program."""
        with open(os.path.join(self.dir, 'syscall-names.h'), 'w', encoding='utf-8') as f:
            subprocess.run([os.path.join(READER, 'gen-syscalls.sh'),
                            os.path.join(READER, 'syscalls-x86_64.list'), clang()], stdout=f, check=True)
        self._run('protoc-c', f'--proto_path={READER}', f'--c_out={self.dir}',
                  os.path.join(READER, 'perfetto.proto'))
        own = {n: os.path.join(HERE, TARGETS[n].source) for n in names}

        with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
            lib, reader = sources()
            reader = reader + [os.path.join(self.dir, 'perfetto.pb-c.c')]
            if all(TARGETS[n].library_only for n in names):
                reader = []
            objects = {s: pool.submit(self._compile, s) for s in lib + reader}
            harness = {n: pool.submit(self._compile, own[n], TARGETS[n].defines, f'target-{n}.o')
                       for n in names}
            if os.path.exists(self.archive):
                os.remove(self.archive)
            self._run('ar', 'rc', self.archive, *(o.result() for o in objects.values()))
            self.harness = {n: o.result() for n, o in harness.items()}
            linked = {n: pool.submit(self._link, n, n) for n in names}
            return {n: exe.result() for n, exe in linked.items()}

    def _link(self, name, to, *first):
        exe = os.path.join(self.dir, to)
        libraries = ['-lelf', '-lz', '-lzstd', '-lprotobuf-c', '-ljansson'] if self.flavour != 'memory' else []
        self._run(*self.flags, '-fsanitize=fuzzer', self.harness[name], *first, self.archive, '-o', exe,
                  *libraries, '-pthread')
        return exe

    def make_other(self, name, source, other):
        """The target @name, which was made, with the file @other in the place of @source."""
        to = f'other-{name}'
        self._run(*self.flags, '-w', *ALLOCATIONS, *MAPPINGS, '-I' + os.path.dirname(source), '-c', other,
                  '-o', os.path.join(self.dir, to + '.o'))
        return self._link(name, to, os.path.join(self.dir, to + '.o'))


def corpus_of(name):
    return os.path.join(CORPUS, name)


# ------------------------------------------------------------------------------------ by hand, long runs

def edges_of(exe, own, grown, work):
    """{path of an input: the edges that no input before it covers}, by libFuzzer's merging.

    Those of @own come first, as copies in @work/merged.
    """
    control, to = os.path.join(work, 'control'), os.path.join(work, 'merged')
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(own, to)
    if os.path.exists(control):
        os.remove(control)
    subprocess.run([exe, *LIMITS, '-merge=1', f'-merge_control_file={control}', to, grown],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
                   env=dict(os.environ, TMPDIR=work, **SANITIZERS))
    with open(control, encoding='utf-8', errors='replace') as f:
        lines = f.read().splitlines()
    nr = int(lines[0])
    files, covers = lines[2:2 + nr], {}
    for line in lines[2 + nr:]:
        word = line.split()
        if word[0] == 'COV':
            covers[files[int(word[1])]] = set(word[2:])
    return covers


def pick(exe, name, grown, work, most=10):
    """Take those few of the inputs that have grown into the tree's corpus that add most to it."""
    own = corpus_of(name)
    os.makedirs(own, exist_ok=True)
    covers = edges_of(exe, own, grown, work)
    seen = set()
    for path in sorted(covers):
        if path.startswith(os.path.join(work, 'merged') + os.sep):
            seen |= covers[path]
    taken = 0
    while covers and taken < most:
        # The most new edges for its size, so that files stay small.
        best = max(sorted(covers), key=lambda p: len(covers[p] - seen) / (400 + os.path.getsize(p)))
        new = covers.pop(best) - seen
        if not new:
            continue
        seen |= new
        shutil.copy(best, os.path.join(own, os.path.basename(best)[:12]))
        taken += 1
    return taken, len(seen)


def main():
    usage = ('usage: targets.py names | environment | options TARGET | build FLAVOUR DIR [TARGET...] | '
             'pick EXE TARGET GROWN WORK')
    command = sys.argv[1] if len(sys.argv) > 1 else ''
    if command == 'names':
        print('\n'.join(TARGETS))
    elif command == 'build' and len(sys.argv) >= 4 and sys.argv[2] in FLAVOURS:
        names = sys.argv[4:] or list(TARGETS)
        unknown = [n for n in names if n not in TARGETS]
        if unknown:
            sys.exit(f'fuzz: unknown target {unknown[0]}; there are: {", ".join(TARGETS)}')
        Build(sys.argv[3], sys.argv[2]).make(names)
    elif command == 'options' and len(sys.argv) == 3:
        print(' '.join([*LIMITS, f'-max_len={TARGETS[sys.argv[2]].max_len}']))
    elif command == 'environment':
        print('\n'.join(f'{k}={v}' for k, v in SANITIZERS.items()))
    elif command == 'pick' and len(sys.argv) == 6:
        taken, edges = pick(*sys.argv[2:])
        print(f'{sys.argv[3]}: {taken} inputs taken, {edges} edges in all')
    else:
        sys.exit(usage)


if __name__ == '__main__':
    main()

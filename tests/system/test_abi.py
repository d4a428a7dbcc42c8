# SPDX-License-Identifier: LGPL-2.1-or-later
"""The shared format and the library's ABI are those on record; a change of them is noticed."""

import os
import re
import shutil
import subprocess
import tempfile

from harness import params, say
from vm import BUILD, TOOLS, TOP

CHECK = os.path.join(TOOLS, 'check-abi.py')
HEADERS = os.path.join(TOP, 'libhtrace', 'include')
MAP = os.path.join(TOP, 'libhtrace', 'libhtrace.map')
RELEASED = '# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2030-01-01\n'


def check(*args):
    r = subprocess.run([CHECK, '--build', BUILD, *args], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, check=False)
    return r.returncode, r.stdout


def test_recorded():
    """The tree is as its record says, compiled for both machines as far as it is shared."""
    code, text = check()
    assert code == 0, text
    say(text.strip())
    sysroot = subprocess.run([os.path.join(TOOLS, 'cross-aarch64.sh'), '--sysroot'],
                             stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    code, text = check('--format-only', '--cc', f'aarch64-linux-gnu-gcc --sysroot={sysroot}')
    assert code == 0, text


def test_growing():
    """What a program fills in and the library reads, or the other way round, states its size."""
    with open(os.path.join(TOP, 'libhtrace', 'libhtrace.abi'), encoding='utf-8') as f:
        structs = re.findall(r'^struct (\w+)\n\tsize \d+\n\t(.*)', f.read(), re.M)
    growing = {name: first for name, first in structs
               if re.search(r'_(opts|stats|ops|target|visitor|context|line|owner|struct)$', name)}
    assert len(growing) >= 11, growing
    assert all(first == '0 size_t sz' for first in growing.values()), growing
    unknown = {name for name, first in structs if first.endswith(' sz')} - set(growing)
    assert not unknown, f'{unknown}: name them so that they are found here, and try them in tests/unit/test_options.c'


class Mutant:
    """A copy of headers, map, record and changelog, to be changed."""

    def __init__(self, dir, released=False):
        self.dir = dir
        self.include, self.record = os.path.join(dir, 'include'), os.path.join(dir, 'record')
        self.map, self.changelog = os.path.join(dir, 'map'), os.path.join(dir, 'changelog')
        self.library = os.path.join(BUILD, 'libhtrace', 'libhtrace.so')
        shutil.copytree(HEADERS, self.include)
        shutil.copy(os.path.join(TOP, 'libhtrace', 'libhtrace.abi'), self.record)
        shutil.copy(MAP, self.map)
        with open(self.changelog, 'w', encoding='utf-8') as f:
            f.write(RELEASED if released else '# Changelog\n\n## [Unreleased]\n')

    def change(self, file, old, new):
        path = self.map if file == 'map' else os.path.join(self.include, 'htrace', file)
        with open(path, encoding='utf-8') as f:
            text = f.read()
        assert len(re.findall(old, text, re.S)) == 1, f'{file}: {old}'
        with open(path, 'w', encoding='utf-8') as f:
            f.write(re.sub(old, new, text, flags=re.S))
        if file == 'map':
            self.link()

    def link(self):
        """The library with this map, and a function more."""
        self.library = os.path.join(self.dir, 'mutant.so')
        more = os.path.join(self.dir, 'more.c')
        with open(more, 'w', encoding='utf-8') as f:
            f.write('int htrace_more(void);\nint htrace_more(void)\n{\n\treturn 0;\n}\n')
        subprocess.run(['gcc', '-shared', '-fPIC', '-o', self.library, more,
                        '-Wl,--version-script=' + self.map,
                        '-Wl,--whole-archive', os.path.join(BUILD, 'libhtrace', 'libhtrace.a'),
                        '-Wl,--no-whole-archive', '-lpthread'], check=True)

    def check(self, *args):
        return check('--include', self.include, '--file', self.record, '--library', self.library,
                     '--changelog', self.changelog, *args)


# what is changed (file, pattern, replacement), what is said, what has to be raised
CHANGES = {
    'shared member moved': (('abi.h', r'__u32 clock_id; ', '__u64 clock_id; '),
                            'format: struct htrace_super: was', 'HTRACE_ABI_MAJOR'),
    'shared member renamed': (('abi.h', r'__u64 misses; ', '__u64 skipped; '),
                              'format: struct htrace_prog: was "32 __u64 misses", '
                              'is "32 __u64 skipped"', 'HTRACE_ABI_MAJOR'),
    'limit changed': (('abi.h', r'HTRACE_MAX_RUNS 65536', 'HTRACE_MAX_RUNS 32768'),
                      'format: const HTRACE_MAX_RUNS: was "65536", is "32768"', 'HTRACE_ABI_MAJOR'),
    'enumerator changed': (('abi.h', r'HTRACE_OVERWRITE = 2', 'HTRACE_OVERWRITE = 3'),
                           'format: enum htrace_policy: was', 'HTRACE_ABI_MAJOR'),
    'reserved word named': (('abi.h', r'(\t__u32 len; /\* of text, [^\n]*\n\t__u32) reserved32;', r'\1 load;'),
                            'format: struct htrace_control: was', 'HTRACE_ABI_MINOR'),
    'hint added': (('abi.h', r'(HTRACE_HINT_FLOAT = 8,)', r'\1 HTRACE_HINT_NEW = 9,'),
                   'format: enum htrace_hint: has got "HTRACE_HINT_NEW 9"', 'HTRACE_ABI_MINOR'),
    'geometry grown': (('ring.h', r'(\t__u32 policy; [^\n]*\n)(\};)', r'\1\t__u64 more;\n\2'),
                       'format: struct htrace_geometry: was "size 32"', 'HTRACE_ABI_MAJOR'),
    'options grown': (('region.h', r'(bool packed;[^\n]*\n)', r'\1\t__u64 more;\n'),
                      'library: struct htrace_region_opts: was "size 56"', 'raise the minor version'),
    'options rearranged': (('region.h', r'(struct htrace_region_opts \{\n\tsize_t sz;[^\n]*\n)',
                            r'\1\t__u64 more;\n'),
                           'library: struct htrace_region_opts: was', 'say in CHANGELOG.md'),
    'prototype changed': (('region.h', r'htrace_view_ring\(const struct htrace_view \*v, __u32 set',
                           'htrace_view_ring(const struct htrace_view *v, __u64 set'),
                          'library: function htrace_view_ring: was', 'say in CHANGELOG.md'),
    'symbol removed': (('map', r'\n\thtrace_view_names;', ''),
                       'library: export htrace_view_names: removed', 'say in CHANGELOG.md'),
    'symbol added': (('map', r'\nlocal:', r'\n\thtrace_more;\nlocal:'),
                     'library: export htrace_more: added', 'raise the minor version'),
}


@params(*((name, released) for name in CHANGES for released in ('unreleased', 'released')))
def test_change(name, released):
    """Each kind of change fails, with what changed and what to raise; a released version's cannot
    be recorded."""
    change, says, raise_what = CHANGES[name]
    with tempfile.TemporaryDirectory() as dir:
        m = Mutant(dir, released == 'released')
        code, text = m.check()
        assert code == 0, text
        m.change(*change)
        code, text = m.check()
        assert code == 1 and says in text and raise_what in text, text
        say(text.strip().splitlines()[-1])
        code, text = m.check('--record')
        if released == 'released':
            assert code == 1 and 'nothing was recorded' in text, text
            assert m.check()[0] == 1
        else:
            assert code == 0, text
            assert m.check()[0] == 0


def test_raised():
    """With its version raised, a released format and library may be recorded; the next change of
    the new, unreleased version too, but one of a released format in it may not."""
    with tempfile.TemporaryDirectory() as dir:
        m = Mutant(dir, released=True)
        m.change(*CHANGES['shared member renamed'][0])
        m.change('version.h', 'HTRACE_VERSION_MINOR 1', 'HTRACE_VERSION_MINOR 2')
        code, text = m.check('--record')
        assert code == 1 and 'format 1.1 is released and has changed' in text, text
        m.change('abi.h', 'HTRACE_ABI_MINOR 1', 'HTRACE_ABI_MINOR 2')
        code, text = m.check('--record')
        assert code == 1 and 'MAJOR' in text, text
        m.change('abi.h', 'HTRACE_ABI_MAJOR 1', 'HTRACE_ABI_MAJOR 2')
        code, text = m.check()
        assert code == 1 and 'the record is of 1.1, the tree of 2.2' in text, text
        assert m.check('--record')[0] == 0
        assert m.check()[0] == 0
        m.change('abi.h', 'HTRACE_MAX_RUNS 65536', 'HTRACE_MAX_RUNS 32768')
        assert m.check()[0] == 1
        assert m.check('--record')[0] == 0
        # library 0.2 is recorded with the format as released: the format stays frozen
    with tempfile.TemporaryDirectory() as dir:
        m = Mutant(dir, released=True)
        m.change('version.h', 'HTRACE_VERSION_MINOR 1', 'HTRACE_VERSION_MINOR 2')
        assert m.check('--record')[0] == 0
        m.change(*CHANGES['hint added'][0])
        code, text = m.check('--record')
        assert code == 1 and 'raise HTRACE_ABI_MINOR' in text, text


def test_nodes():
    """A new function in an old version's node is refused, even where nothing was released."""
    with tempfile.TemporaryDirectory() as dir:
        m = Mutant(dir)
        m.change('version.h', 'HTRACE_VERSION_MINOR 1', 'HTRACE_VERSION_MINOR 2')
        m.change(*CHANGES['symbol added'][0])
        code, text = m.check('--record')
        assert code == 1 and 'put it into HTRACE_0.2 in libhtrace.map' in text, text
        m.change('map', r'\n\thtrace_more;', '')
        m.change('map', r'\Z', '\nHTRACE_0.2 {\nglobal:\n\thtrace_more;\n} HTRACE_0.1;\n')
        code, text = m.check('--record')
        assert code == 0, text
        assert m.check()[0] == 0

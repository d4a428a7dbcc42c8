#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compares the shared format and the library's ABI with the record of them in the tree.

What is exported, the public functions' prototypes, and the sizes and offsets of all structs in the
public headers are held against libhtrace/libhtrace.abi. A difference fails, and it is said which
version has to be raised (docs/versioning.md). --record writes the record anew; it refuses to for a
released version that was not raised.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FORMAT_HEADERS = ['abi.h', 'ring.h']  # they follow the format's version, the others the library's


class Problem(Exception):
    """One line: what failed, why, what to do."""


def run(*args):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if r.returncode:
        raise Problem(f'{args[0]} failed: {r.stderr.strip()}')
    return r.stdout


# ------------------------------------------------------------------------- types, from DWARF

class Dwarf:
    """The types of an object file, as readelf shows them."""

    def __init__(self, path):
        self.dies, stack = {}, []
        die = None
        for line in run('readelf', '--debug-dump=info', '--wide', path).splitlines():
            if m := re.match(r' <(\d+)><([0-9a-f]+)>: Abbrev Number: \d+ \(DW_TAG_(\w+)\)', line):
                depth = int(m[1])
                die = {'tag': m[3], 'children': []}
                self.dies[int(m[2], 16)] = die
                del stack[depth:]
                if stack:
                    stack[-1]['children'].append(die)
                stack.append(die)
            elif die and (m := re.match(r' +<[0-9a-f]+> +DW_AT_(\w+) *: (.*)', line)):
                # "(strp) (offset: 0x2a): name": how it is stored is of no interest
                die[m[1]] = re.sub(r'^(?:\([^)]*\):? *)+', '', m[2]).strip()

    def number(self, die, key):
        return int(die.get(key, '0').split()[0], 0)

    def target(self, die):
        return self.dies[int(die['type'][1:].split('>')[0], 16)] if 'type' in die else None

    def name(self, die):
        """The type as C would write it, nearly."""
        if die is None:
            return 'void'
        tag, inner = die['tag'], self.target(die)
        if tag in ('base_type', 'typedef'):
            return die['name']
        if tag in ('structure_type', 'union_type', 'enumeration_type'):
            keyword = {'s': 'struct', 'u': 'union', 'e': 'enum'}[tag[0]]
            return f'{keyword} {die["name"]}' if 'name' in die else \
                f'{keyword} {{ {"; ".join(" ".join(m) for m in self.members(die))} }}'
        if tag == 'pointer_type':
            if inner and inner['tag'] == 'subroutine_type':
                return self.name(inner).replace('(', '(*)(', 1)
            return self.name(inner) + ' *'
        if tag in ('const_type', 'volatile_type', 'restrict_type'):
            word = tag.split('_')[0]
            pointer = inner and inner['tag'] == 'pointer_type'
            return f'{self.name(inner)} {word}' if pointer else f'{word} {self.name(inner)}'
        if tag == 'array_type':
            return self.name(inner) + ''.join(
                f'[{self.number(c, "upper_bound") + 1 if "upper_bound" in c else ""}]'
                for c in die['children'] if c['tag'] == 'subrange_type')
        if tag == 'subroutine_type':
            args = [self.name(self.target(c)) for c in die['children']
                    if c['tag'] == 'formal_parameter']
            return f'{self.name(inner)} ({", ".join(args) or "void"})'
        raise Problem(f'no name for a {tag}: teach tools/check-abi.py')

    def members(self, die):
        """(offset, type, name) of a struct's members; bit-fields have their bits behind the name."""
        for m in die['children']:
            if m['tag'] == 'member':
                bits = f':{self.number(m, "bit_size")}' if 'bit_size' in m else ''
                at = f'{self.number(m, "data_bit_offset")}b' if 'data_bit_offset' in m else \
                    str(self.number(m, 'data_member_location'))
                yield at, self.name(self.target(m)), m.get('name', '') + bits

    def described(self):
        """{line that names it: lines that describe it} for what is called htrace_*."""
        out = {}
        for die in self.dies.values():
            name = die.get('name', '')
            if die['tag'] == 'typedef' and name.startswith('htrace_'):
                out[f'typedef {name}'] = [self.name(self.target(die))]
            elif die['tag'] in ('structure_type', 'union_type') and 'byte_size' in die and \
                    name.startswith('htrace_'):
                out[self.name(die)] = [f'size {self.number(die, "byte_size")}'] + \
                    [' '.join(m) for m in self.members(die)]
            elif die['tag'] == 'enumeration_type' and name.startswith('htrace_'):
                out[f'enum {name}'] = [f'{c["name"]} {self.number(c, "const_value")}'
                                       for c in die['children']]
            elif die['tag'] == 'enumeration_type' and name == 'abi_constants':
                for c in die['children']:
                    out['const ' + c['name'].removeprefix('abi_')] = \
                        [str(self.number(c, 'const_value'))]
        return out


# ------------------------------------------------------------------------------ description

def read(path):
    try:
        with open(path, encoding='utf-8') as f:
            return f.read()
    except OSError as e:
        raise Problem(f'{path}: {e.strerror}') from e


def define(text, name):
    m = re.search(rf'^#define {name} (\d+)$', text, re.M)
    if not m:
        raise Problem(f'the headers do not define {name} as a number')
    return int(m[1])


def compile_headers(cc, include, headers, constants, dir):
    """An object file with the types of these headers, and the prototypes that they declare."""
    source, aux = os.path.join(dir, 'abi.c'), os.path.join(dir, 'prototypes')
    with open(source, 'w', encoding='utf-8') as f:
        f.writelines(f'#include <htrace/{h}>\n' for h in headers)
        if constants:
            f.write(f'enum abi_constants {{ {" ".join(f"abi_{c} = {c}," for c in constants)} }};\n')
    run(*cc, '-std=gnu11', '-D_GNU_SOURCE', '-g', '-fno-eliminate-unused-debug-types', '-I', include,
        '-aux-info', aux, '-c', source, '-o', source + '.o')
    functions = {}
    for line in read(aux).splitlines():
        m = re.match(r'/\* (\S+?):\d+:\w+ \*/ extern (.*?\b(htrace_\w+) \(.*\));', line)
        if m and m[1].startswith(include):
            functions['function ' + m[3]] = [m[2]]
    return source + '.o', functions


def describe_format(cc, include):
    abi = read(os.path.join(include, 'htrace', 'abi.h'))
    constants = [c for c in re.findall(r'^#define (HTRACE_\w+) +[^\s"]', abi, re.M)
                 if not c.startswith('HTRACE_ABI_')]
    with tempfile.TemporaryDirectory() as dir:
        obj, _ = compile_headers(cc, include, FORMAT_HEADERS, constants, dir)
        found = Dwarf(obj).described()
    if 'struct htrace_super' not in found:
        raise Problem('readelf shows no struct htrace_super: is its output of another form than '
                      'tools/check-abi.py knows?')
    return found


def describe_library(cc, include, library, format_items):
    headers = sorted(h for h in os.listdir(os.path.join(include, 'htrace')) if h.endswith('.h'))
    limits = [c for h in headers if h not in FORMAT_HEADERS for c in
              re.findall(r'^#define (HTRACE_\w+) +\d', read(os.path.join(include, 'htrace', h)), re.M)
              if not c.startswith('HTRACE_VERSION_')]
    with tempfile.TemporaryDirectory() as dir:
        obj, out = compile_headers(cc, include, headers, limits, dir)
        out.update(Dwarf(obj).described())
    symbols = run('readelf', '--dyn-syms', '--wide', library)
    for m in re.finditer(r' (FUNC|OBJECT) +GLOBAL +DEFAULT +\d+ (\w+)@@(\S+)', symbols):
        out['export ' + m[2]] = [f'{m[1].lower()} {m[3]}']
    return {k: v for k, v in out.items() if k not in format_items}


def describe(args):
    version = read(os.path.join(args.include, 'htrace', 'version.h'))
    abi = read(os.path.join(args.include, 'htrace', 'abi.h'))
    found = {'versions': {
        'format': [f'{define(abi, "HTRACE_ABI_MAJOR")}.{define(abi, "HTRACE_ABI_MINOR")}'],
        'library': ['.'.join(str(define(version, 'HTRACE_VERSION_' + part))
                             for part in ('MAJOR', 'MINOR', 'PATCH'))]}}
    found['format'] = describe_format(args.cc.split(), args.include)
    if args.library:
        found['library'] = describe_library(args.cc.split(), args.include, args.library,
                                            found['format'])
    return found


# ----------------------------------------------------------------------------------- record

HEAD = '''# SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
# The ABI: the shared format and the library. Written by tools/check-abi.py --record; see there.
'''


def write_record(path, found):
    with open(path, 'w', encoding='utf-8') as f:
        f.write(HEAD)
        for section, items in found.items():
            f.write(f'\n[{section}]\n')
            for key in sorted(items) if section != 'versions' else items:
                lines = items[key]
                one = len(lines) == 1
                f.write(key + (': ' + lines[0] if one else '') + '\n')
                f.writelines(f'\t{line}\n' for line in lines if not one)


def read_record(path):
    found, section, item = {}, None, None
    for line in read(path).splitlines():
        if not line or line.startswith('#'):
            continue
        if line.startswith('['):
            section = found.setdefault(line.strip('[]'), {})
        elif line.startswith('\t'):
            item.append(line[1:])
        else:
            key, _, text = line.partition(': ')
            item = section.setdefault(key, [])
            if text:
                item.append(text)
    return found


# ------------------------------------------------------------------------------- comparison

# These state their size, or are found by a version: users of older ones go on with larger ones.
GROWING = ['struct htrace_super', 'struct htrace_guest', 'struct htrace_host']


def grown(key, old, new):
    """Does who knows @old go on working with @new? Reserved words may get names."""
    if old[0].startswith('size '):
        def named(lines):
            return {l for l in lines[1:] if not re.search(r' (reserved|pad)\d*$', l)}
        bigger = int(new[0].split()[1]) - int(old[0].split()[1])
        grows = key in GROWING or old[1].endswith(' sz')
        return named(old) <= named(new) and (not bigger or (bigger > 0 and grows))
    return key.startswith('enum ') and set(old) <= set(new)


def compare(old, new):
    """Yields (line to show, is it compatible?)"""
    for key in sorted({*old, *new}):
        if key not in new:
            yield f'{key}: removed', False
        elif key not in old:
            yield f'{key}: added', True
        elif old[key] != new[key]:
            gone = [l for l in old[key] if l not in new[key]]
            come = [l for l in new[key] if l not in old[key]]
            text = f'was "{"; ".join(gone)}", is "{"; ".join(come)}"' if gone else \
                f'has got "{"; ".join(come)}"'
            yield f'{key}: {text}', grown(key, old[key], new[key])


def parts(version):
    return [int(x) for x in version.split('.')]


def raised(part, old, new, compatible):
    """Has this part's version been raised as far as the change needs it?"""
    old, new = parts(old), parts(new)
    if part == 'library' and not old[0]:
        compatible = True  # before 1.0 a minor version may break compatibility
    return new[:2] > old[:2] if compatible else new[0] > old[0]


def advice(part, version, compatible):
    if part == 'format':
        return 'raise HTRACE_ABI_' + ('MINOR' if compatible else
                                      'MAJOR (or make the change one that old readers understand)') + \
            ' in htrace/abi.h'
    if compatible:
        return 'raise the minor version (htrace/version.h, meson.build), and put new functions into a node of that version ' \
            'in libhtrace.map'
    if not parts(version)[0]:
        return 'raise the minor version (htrace/version.h, meson.build), and say in ' \
            'CHANGELOG.md what breaks'
    return 'raise the major version (htrace/version.h, meson.build) and the soname ' \
        '(libhtrace/meson.build)'


def released(version, changelog):
    return re.search(rf'^## \[{re.escape(version)}\]', read(changelog), re.M) is not None


def foreign_nodes(old, new, version):
    """New functions belong into the node of the version in which they came."""
    node = 'HTRACE_' + '.'.join(version.split('.')[:2])
    for key in sorted(k for k in new if k.startswith('export ') and k not in old):
        found = new[key][0].split()[-1]
        if found != node:
            yield f'{key}: new, but in node {found}: put it into {node} in libhtrace.map'


def examine(old, new, changelog):
    """What differs, as lines to show, and whether a new record may be written."""
    lines, may_record = [], True
    for part in 'format', 'library':
        if part not in new:
            continue
        was, is_now = old['versions'][part][0], new['versions'][part][0]
        was, _, since = was.partition(' since ')
        frozen = released(since or was, changelog)
        changes = list(compare(old[part], new[part]))
        lines += [f'{part}: {text}' for text, _ in changes]
        wrong = list(foreign_nodes(old[part], new[part], is_now))
        lines += wrong
        may_record &= not wrong
        compatible = all(ok for _, ok in changes)
        if changes and not raised(part, was, is_now, compatible):
            if frozen:
                may_record = False
                lines.append(f'{part} {was} is released and has changed: '
                             f'{advice(part, was, compatible)} (docs/versioning.md), then run '
                             'tools/check-abi.py --record')
            else:
                lines.append(f'{part} {was} has changed, and has not been released: if that is '
                             'what you want, run tools/check-abi.py --record and commit the '
                             f'record; once it is released: {advice(part, was, compatible)}')
        elif changes or was != is_now:
            lines.append(f'{part}: the record is of {was}, the tree of {is_now}: run '
                         'tools/check-abi.py --record and commit the record')
    return lines, may_record


def since(old, new):
    """The library's version in which the format's version was first recorded."""
    recorded = old.get('versions', {}).get('format', [''])[0].partition(' since ')
    version = new['versions']['format'][0]
    return f'{version} since ' + (recorded[2] if recorded[0] == version else
                                  new['versions']['library'][0])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n', maxsplit=1)[0])
    parser.add_argument('--record', action='store_true', help='write the record anew')
    parser.add_argument('--build', default='build', help='build directory (default: build)')
    parser.add_argument('--include', default=os.path.join(TOP, 'libhtrace', 'include'),
                        help='directory of the headers, to try another one')
    parser.add_argument('--library', help='the shared library (default: that of the build)')
    parser.add_argument('--file', default=os.path.join(TOP, 'libhtrace', 'libhtrace.abi'),
                        help='the record')
    parser.add_argument('--changelog', default=os.path.join(TOP, 'CHANGELOG.md'),
                        help='names the released versions')
    parser.add_argument('--cc', default='gcc', help='compiler (default: gcc)')
    parser.add_argument('--format-only', action='store_true',
                        help='only the shared format: needs no build, any compiler target')
    args = parser.parse_args()
    args.include = os.path.abspath(args.include)
    if args.format_only:
        args.library = None
    elif not args.library:
        args.library = os.path.join(args.build, 'libhtrace', 'libhtrace.so')
    try:
        new = describe(args)
        if args.record and args.format_only:
            raise Problem('--record needs the library: leave out --format-only')
        old = read_record(args.file) if os.path.exists(args.file) or not args.record else None
        lines, may_record = examine(old, new, args.changelog) if old else ([], True)
        for line in lines:
            print(line)
        if args.record and not may_record:
            raise Problem('nothing was recorded')
        if args.record:
            new['versions']['format'] = [since(old or {}, new)]
            write_record(args.file, new)
            print(f'recorded in {os.path.relpath(args.file)}')
            return 0
    except Problem as e:
        print(f'check-abi: {e}', file=sys.stderr)
        return 1
    if not lines:
        print('the ABI is as recorded: format ' + new['versions']['format'][0] +
              ('' if args.format_only else ', library ' + new['versions']['library'][0]))
    return 1 if lines else 0


if __name__ == '__main__':
    sys.exit(main())

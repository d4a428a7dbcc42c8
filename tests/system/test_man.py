# SPDX-License-Identifier: LGPL-2.1-or-later
"""The manual: complete, as the headers have it, without a warning, and its programs work."""

import glob
import os
import re
import subprocess
import tempfile

from harness import say
from manpages import PAGES, declared, pages, plain, squeeze, structs
from vm import BUILD, TOP


def exported():
    with open(os.path.join(TOP, 'libhtrace', 'libhtrace.map'), encoding='utf-8') as f:
        return set(re.findall(r'^\t(htrace_\w+);', f.read(), re.M))


def test_complete():
    """What users call is in NAME and SYNOPSIS of one page, as the header declares it, and described there."""
    known = declared()
    missing = exported() - set(known)
    assert not missing, f'exported, but not found in the headers: {missing}'
    page_of = {}
    for page in pages():
        if page.file.endswith('.7'):
            continue
        names = page.names()
        said = {re.search(r'(?:htrace|HTRACE)_\w+(?=\()|^HTRACE_\w+$', x)[0]: x for x in page.synopsis()}
        assert sorted(names) == sorted(said), f'{page.file}: NAME and SYNOPSIS differ: {set(names) ^ set(said)}'
        for name, text in said.items():
            assert name not in page_of, f'{name} is in {page_of[name]} and in {page.file}'
            page_of[name] = page.file
            assert known.get(name) == text, f'{page.file}: {text}\nthe header: {known.get(name)}'
            body = plain(page.source.split('.SH DESCRIPTION')[1])
            assert re.search(r'\b' + name + r'\b', body), f'{page.file} does not say what {name} does'
    assert set(page_of) == set(known), f'in no page: {sorted(set(known) - set(page_of))}'
    say(f'{len(page_of)} functions and macros in {len(set(page_of.values()))} pages')


def test_structs():
    """Structs that a page shows are those of the headers."""
    known = {name: squeeze(text) for name, text in structs().items()}
    shown = 0
    for page in pages():
        for block in page.blocks():
            m = re.match(r'(?:struct|enum) (\w+) \{', block)
            if m and m[1] in known:
                assert squeeze(block) == known[m[1]], f'{page.file}: {m[1]} is not as in its header'
                shown += 1
    assert shown > 15, shown
    say(f'{shown} structs')


def test_references():
    """Each name(3) leads to a page or to what one describes."""
    there = {p.file for p in pages()} | {'host-reader.1', 'guest-agent.8'}
    for page in pages():
        text = re.sub(r'\\f[BIRP]|\\&', '', page.source).replace('\\-', '-')
        text = re.sub(r'^\.BR (\S+) \(', r'\1(', text, flags=re.M)
        for name, section in re.findall(r'([\w-]+)\((\d)\)', text):
            ours = name.startswith(('htrace_', 'libhtrace', 'host-', 'guest-'))
            assert not ours or f'{name}.{section}' in there or name in declared(), f'{page.file}: {name}({section})'


def test_warnings():
    for path in sorted(glob.glob(PAGES + '/*')):
        r = subprocess.run(['groff', '-man', '-ww', '-z', '-Tutf8', path], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, check=False)
        assert not r.returncode and not r.stdout, r.stdout


def test_programs():
    """The overview's programs, as they stand there, against the library that is installed with them."""
    page = next(p for p in pages() if p.file == 'libhtrace.7')
    with tempfile.TemporaryDirectory() as d:
        subprocess.run(['meson', 'install', '-C', BUILD, '--destdir', d, '--quiet', '--no-rebuild'],
                       stdout=subprocess.DEVNULL, check=True)
        installed = {os.path.basename(p) for p in glob.glob(d + '/**/man/man?/*', recursive=True)}
        assert installed == set(os.listdir(PAGES)), installed ^ set(os.listdir(PAGES))
        pc = os.path.dirname(glob.glob(d + '/**/libhtrace.pc', recursive=True)[0])
        env = dict(os.environ, PKG_CONFIG_PATH=pc, PKG_CONFIG_SYSROOT_DIR=d, LD_LIBRARY_PATH=os.path.dirname(pc))
        flags = subprocess.run(['pkg-config', '--cflags', '--libs', 'libhtrace'], env=env, check=True, text=True,
                               stdout=subprocess.PIPE).stdout.split()
        for name in 'producer', 'consumer':
            code = next(b for b in page.blocks() if b.startswith(f'/* {name}.c:'))
            with open(f'{d}/{name}.c', 'w', encoding='utf-8') as f:
                f.write(code)
            subprocess.run(['gcc', '-std=gnu11', '-Wall', '-Wextra', '-Wshadow', '-Werror', f'{d}/{name}.c', '-o',
                            f'{d}/{name}', *flags], check=True)
        with open(os.path.join(TOP, 'README.md'), encoding='utf-8') as f:
            excerpt = re.search(r'```c\n(#include <htrace/declare.h>.*?\n)\n\t', f.read(), re.S)[1]
        with open(d + '/producer.c', encoding='utf-8') as f:
            complete = f.read()
        for part in excerpt.split('\n\n'):  # the README's is a part of it
            assert all(squeeze(x) in squeeze(complete) for x in part.splitlines()), part
        subprocess.run([d + '/producer', d + '/requests'], env=env, check=True)
        said = subprocess.run([d + '/consumer', d + '/requests'], env=env, check=True, text=True,
                              stdout=subprocess.PIPE, timeout=60).stdout
        assert said == '1000 requests, 100 of them slow, 0 lost\n', said
        subprocess.run([d + '/producer', d + '/requests'], env=env, check=True)  # its maker is dead: taken

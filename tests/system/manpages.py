# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the public headers declare, and what the manual pages say of it."""

import glob
import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HEADERS = os.path.join(TOP, 'libhtrace', 'include', 'htrace')
PAGES = os.path.join(TOP, 'docs', 'man')

# Of macros and inline functions, what authors of tracers are meant to use. The rest of ring.h is the
# producer's inside, for htrace.bpf.h and the format's document; so is what drops or refuses a record.
USER_MACROS = re.compile(r'HTRACE_(VERSION_M\w+|VERSION_PATCH|STRUCT|UNION|VALUE|FIELD(_[A-Z]+)*|BORROW_MAX|FILTER_(MAX|DEPTH|TERMS))$')
USER_INLINES = re.compile(
    r'htrace_(clock|hypercall|iter|producer(?!_(drop|knows|refuse)$)|push|sync)\w*$|htrace_commit(_single)?$')


def squeeze(text):
    text = re.sub(r'\s+', ' ', text).strip()
    return re.sub(r'\( ', '(', re.sub(r'\* ', '*', text))


def header_text(name):
    with open(os.path.join(HEADERS, name), encoding='utf-8') as f:
        return re.sub(r'/\*.*?\*/', ' ', f.read(), flags=re.S)


def declared():
    """{name: prototype or macro's head} of all that users call."""
    found = {}
    for path in glob.glob(os.path.join(HEADERS, '*.h')):
        text = header_text(os.path.basename(path))
        for part in re.findall(r'visibility push\(default\)(.*?)visibility pop', text, re.S):
            # what has a body is inline
            part = re.sub(r'(static inline|HTRACE_INLINE)[^;{}]*\{.*?\n\}', '', part, flags=re.S)
            part = re.sub(r'(struct|enum|union) \w+ \{.*?\n\};', '', part, flags=re.S)
            part = re.sub(r'^#(.*\\\n)*.*$', '', part, flags=re.M)
            for one in part.split(';'):
                m = re.search(r'\b(htrace_\w+)\s*\(', one)
                if m and not one.strip().startswith('typedef'):
                    found[m[1]] = squeeze(one)
        for head, name in re.findall(r'(?:static inline|HTRACE_INLINE) ([^;{}]*?\b(htrace_\w+)\([^;{}]*\))\s*\{', text):
            if USER_INLINES.match(name):
                found[name] = squeeze(head)
        for name, args in re.findall(r'^#define (HTRACE_\w+)(\([^)]*\))?', text, re.M):
            if USER_MACROS.match(name):
                found[name] = squeeze(name + args)
    return found


def structs():
    """{name: its text} of structs and enums that the headers define, comments included."""
    found = {}
    for path in glob.glob(os.path.join(HEADERS, '*.h')):
        with open(path, encoding='utf-8') as f:
            for text, name in re.findall(r'^((?:struct|enum) (\w+) \{.*?^\};)', f.read(), re.M | re.S):
                found[name] = text
    return found


def plain(line):
    """A line of roff as it is shown."""
    line = re.sub(r'\\f[BIRP]', '', line)
    return line.replace('\\-', '-').replace('\\e', '\\').replace('\\&', '').replace('\\(aq', "'")


class Page:
    def __init__(self, path):
        self.file = os.path.basename(path)
        with open(path, encoding='utf-8') as f:
            self.source = f.read()
        self.sections = {}
        for part in re.split(r'^\.SH ', self.source, flags=re.M)[1:]:
            title, _, body = part.partition('\n')
            self.sections[title.strip('"')] = body

    def names(self):
        """What NAME says the page is of."""
        said = plain(self.sections['NAME'].replace('\n', ' '))
        return [n.strip() for n in said.rsplit(' - ', 1)[0].split(',')]

    def synopsis(self):
        """Declarations of SYNOPSIS."""
        lines = [plain(x) for x in self.sections['SYNOPSIS'].split('.ft R')[0].splitlines() if not x.startswith('.')]
        return [x[8:] for x in lines if x.startswith('#define ')] + [
            squeeze(x) for x in '\n'.join(x for x in lines if not x.startswith('#')).split(';') if x.strip()]

    def blocks(self):
        """Text between .EX and .EE."""
        return [''.join(plain(x) + '\n' for x in b.splitlines())
                for b in re.findall(r'^\.EX\n(.*?)^\.EE', self.source, re.M | re.S)]


def pages():
    return [Page(p) for p in sorted(glob.glob(os.path.join(PAGES, '*.[37]')))]

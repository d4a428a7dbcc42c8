# SPDX-License-Identifier: LGPL-2.1-or-later
"""host-reader's text output, parsed."""

import re

LINE = re.compile(r'^\s*(?P<time>\d+\.\d{9}) \[(?P<cpu>\d+)\] (?P<rest>.*)$')
EVENT = re.compile(r'^(?P<task>.*\S)\s+(?P<event>[A-Za-z_]\w*): (?P<fields>.*)$')
LOST = re.compile(r'--- (?P<n>\d+) events? lost \((?P<how>.*)\) ---')


def value(fields, name):
    """Text of one field, without quotes."""
    m = re.search(r'(?:^| )' + name + r'=(\[[^]]*\]|"(?:[^"\\]|\\.)*"|\d+\([^)]*\)|\S+)', fields)
    return m[1].strip('"') if m else None


def lines(path):
    """(time in ns, cpu, rest) of each event or loss line."""
    with open(path, encoding='utf-8') as f:
        for line in f:
            m = LINE.match(line)
            if m:
                yield int(m['time'].replace('.', '')), int(m['cpu']), m['rest']

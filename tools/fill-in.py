#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Puts what it reads into a document, in the place of what is between the lines `<!-- begin NAME -->` and
`<!-- end NAME -->`: tables that a benchmark prints.
"""

import argparse
import sys


def fill_in(document, name, text):
    """The document's text with that; ValueError if it has not just one such place."""
    begin, end = f'<!-- begin {name} -->\n', f'<!-- end {name} -->\n'
    before, found, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended or begin in rest or end in before + after:
        raise ValueError(f'not one line {begin.strip()} with one {end.strip()} behind it')
    return before + begin + text.rstrip('\n') + '\n' + end + after


def main():
    p = argparse.ArgumentParser(description=' '.join(__doc__.split()))
    p.add_argument('file')
    p.add_argument('name')
    args = p.parse_args()
    text = sys.stdin.read()
    if not text.strip():
        sys.exit('fill-in: nothing to put there')
    try:
        with open(args.file, encoding='utf-8') as f:
            document = fill_in(f.read(), args.name, text)
        with open(args.file, 'w', encoding='utf-8') as f:
            f.write(document)
    except (OSError, ValueError) as e:
        sys.exit(f'fill-in: {args.file}: {e}')


if __name__ == '__main__':
    main()

#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Draws what bench/channels --json FILE wrote as an SVG, for documents: of each channel how much got through and how late
it was, by the size of messages; a dot for the median, a line from the least to the most of all rounds. Prints it.
"""

import argparse
import json
import math
import os
import statistics
import sys
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'system'))

from test_cost import load_bench  # noqa: E402

LEFT, PANEL, GAP, ROW, TOP, DOT = 170, 350, 40, 30, 46, 3
COLOURS = {8: '#4e79a7', 64: '#59a14f', 1024: '#f28e2b', 16384: '#e15759'}
STYLE = '''<style>
text { fill: #1f2328 } .ground { fill: #fff } .line { stroke: #d8dee4 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ground { fill: #0d1117 } .line { stroke: #30363d } }
</style>'''


class Axis:
    """Logarithmic, in whole decades."""

    def __init__(self, x, values):
        self.x = x
        self.low = math.floor(math.log10(min(values)))
        self.high = max(math.ceil(math.log10(max(values))), self.low + 1)

    def at(self, value):
        part = (math.log10(max(value, 10 ** self.low)) - self.low) / (self.high - self.low)
        return self.x + part * PANEL

    def draw(self, title, bottom):
        yield f'<text x="{self.x}" y="16" font-weight="bold">{escape(title)}</text>'
        for decade in range(self.low, self.high + 1):
            x = self.at(10 ** decade)
            yield f'<path class="line" d="M{x:.1f} {TOP - 12}V{bottom}"/>'
            yield f'<text x="{x:.1f}" y="{TOP - 16}" text-anchor="middle">{10 ** decade:g}</text>'


def draw(names, found, panels):
    """@found: {(channel, size): {key: [of each round]}}; @panels: [(key, title)]."""
    bottom = TOP + ROW * len(names)
    width = LEFT + len(panels) * (PANEL + GAP)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 28}" '
             f'viewBox="0 0 {width} {bottom + 28}" font-family="sans-serif" font-size="11">', STYLE,
             f'<rect class="ground" width="{width}" height="{bottom + 28}"/>']
    for nr, (key, title) in enumerate(panels):
        values = [v for (name, _), at in found.items() if name in names for v in at.get(key, []) if v > 0]
        if not values:
            continue
        axis = Axis(LEFT + nr * (PANEL + GAP), values)
        parts += axis.draw(title, bottom)
        for row, name in enumerate(names):
            for i, (size, colour) in enumerate(COLOURS.items()):
                of = [v for v in found.get((name, size), {}).get(key, []) if v > 0]
                if not of:
                    continue
                y = TOP + row * ROW + 5 + 6 * i
                median = statistics.median(of)
                parts.append(f'<path d="M{axis.at(min(of)):.1f} {y}H{axis.at(max(of)):.1f}" stroke="{colour}"/>')
                parts.append(f'<circle cx="{axis.at(median):.1f}" cy="{y}" r="{DOT}" fill="{colour}">'
                             f'<title>{escape(name)}, {size} bytes: {median:.4g}</title></circle>')
    for row, name in enumerate(names):
        parts.append(f'<path class="line" d="M4 {TOP + row * ROW}H{width - GAP}"/>')
        parts.append(f'<text x="6" y="{TOP + row * ROW + 18}">{escape(name)}</text>')
    for i, (size, colour) in enumerate(COLOURS.items()):
        x = LEFT + 110 * i
        parts.append(f'<circle cx="{x}" cy="{bottom + 15}" r="{DOT}" fill="{colour}"/>'
                     f'<text x="{x + 8}" y="{bottom + 19}">{size} bytes</text>')
    return '\n'.join(parts + ['</svg>'])


def main():
    p = argparse.ArgumentParser(description=__doc__.strip().split('\n\n', maxsplit=1)[0])
    p.add_argument('file', help='of bench/channels --json')
    args = p.parse_args()
    with open(args.file, encoding='utf-8') as f:
        lines = json.load(f)['lines']
    bench = load_bench('channels')
    found = bench.summarize(lines)
    names = [n for n in bench.CHANNELS if n != 'nothing' and any((n, size) in found for size in bench.SIZES)]
    print(draw(names, found, [('mbs', 'MB/s, sustained'), ('p50', 'delay, µs (median of messages 1 ms apart)')]))


if __name__ == '__main__':
    main()

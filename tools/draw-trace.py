#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Draws what host-reader -o perfetto:FILE wrote as an SVG, for documents: of each machine what each CPU
ran, its interrupts, slices of other tracks (virtual CPUs, loss), events, counters. Prints it. Needs protoc.
"""

import argparse
import os
import re
import subprocess
import sys
import zlib
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'system'))

import pftext  # noqa: E402

LEFT, RIGHT, ROW, GAP = 160, 10, 18, 4
STATES = {'running': '#8cd17d', 'out': '#f6a04d', 'preempted': '#e15759', 'asleep': '#c9ccd1'}
STYLE = '''<style>
text { fill: #1f2328 } .on { fill: #1f2328 } .ground { fill: #fff } .line { stroke: #d8dee4 } .mark { stroke: #0969da }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .ground { fill: #0d1117 } .line { stroke: #30363d } .mark { stroke: #58a6ff } }
</style>'''


def comms(machine):
    """{tid: what it was called last}"""
    names = {}
    for events in machine.kernel.values():
        for _, _, kind, f in events:
            if kind == 'sched_switch' and 'next_comm' in f:
                names[pftext.one(f, 'next_pid')] = pftext.one(f, 'next_comm')
    return names


def rows(machine):
    """(label, [(begin, end, text, colour)]) from top to bottom; colour None: of the text."""
    names = comms(machine)
    running = pftext.running(machine)
    irqs = pftext.interrupts(machine, 'irq_handler_entry', 'irq_handler_exit', 'irq')
    softirqs = pftext.interrupts(machine, 'softirq_entry', 'softirq_exit', 'vec')
    for cpu in sorted(running):
        yield f'CPU {cpu}', [(s.begin, s.end, names.get(s.what, str(s.what)),
                              '#ddd' if s.what >= pftext.LOST_TASK - 3072 else None)
                             for s in running[cpu] if s.what]
        found = [(s.begin, s.end, f'irq {s.what}', '#c33') for s in irqs[cpu]]
        found += [(s.begin, s.end, f'softirq {s.what}', '#e90') for s in softirqs[cpu]]
        if found:
            yield f'CPU {cpu} interrupts', found
    for track in sorted(machine.slices):
        yield track, [(s.begin, s.end, s.what, '#f99' if 'lost' in track else STATES.get(s.what.split()[0]))
                      for s in machine.slices[track]]


def times_of(machine):
    for events in machine.kernel.values():
        yield from (e[0] for e in (events[0], events[-1]))
    for found in machine.slices.values():
        yield from (t for s in (found[0], found[-1]) for t in (s.begin, s.end))
    for found in machine.instants.values():
        yield from (i.time for i in (found[0], found[-1]))


class Picture:
    def __init__(self, begin, end, width, without):
        self.begin, self.end, self.width, self.without = begin, end, width, re.compile(without)
        self.scale = (width - LEFT - RIGHT) / (end - begin)
        self.parts, self.y, self.drawn = [], 10, 0

    def x(self, time):
        return LEFT + (min(max(time, self.begin), self.end) - self.begin) * self.scale

    def text(self, x, y, text, more=''):
        self.parts.append(f'<text x="{x:.1f}" y="{y}"{more}>{escape(text)}</text>')

    def slice(self, begin, end, text, colour):
        if end < self.begin or begin > self.end:
            return
        x, w = self.x(begin), max(self.x(end) - self.x(begin), 0.3)
        colour = colour or f'hsl({zlib.crc32(text.encode()) % 360},60%,75%)'
        rect = f'<rect class="slice" x="{x:.1f}" y="{self.y}" width="{w:.1f}" height="{ROW - GAP}" fill="{colour}"'
        if w < 2:  # nobody can point at it
            self.parts.append(rect + '/>')
        else:
            self.parts.append(f'{rect}><title>{escape(text)}: {(end - begin) / 1e3:.1f} µs</title></rect>')
        self.drawn += 1
        if w > 7 * len(text):
            self.text(x + 2, self.y + 11, text, ' class="on"')

    def events(self, label, instants):
        """A line for each, as far as they are apart."""
        at = sorted({round(2 * self.x(i.time)) for i in instants if self.begin <= i.time <= self.end})
        self.text(4, self.y + 11, label)
        lines = ''.join(f'M{x / 2:g} {self.y}v{ROW - GAP}' for x in at)
        self.parts.append(f'<path class="mark" d="{lines}" stroke-width="0.5"/>')
        self.y += ROW

    def row(self, label, slices):
        self.text(4, self.y + 11, label)
        for s in slices:
            self.slice(*s)
        self.y += ROW

    def counter(self, label, values):
        """Steps; each value holds until the next one. What only grows begins with what it is at the beginning."""
        grows = all(a <= b for (_, a), (_, b) in zip(values, values[1:]))
        before = [v for t, v in values if t <= self.begin]
        shown = [v for t, v in values if self.begin <= t <= self.end] + before[-1:] + [0]
        least = before[-1] if grows and before else 0
        most = max(max(shown) - least, 1)
        bottom, points = self.y + 2 * ROW - GAP, []
        values = [(t, min(max(v - least, 0), most)) for t, v in values]
        for i, (time, value) in enumerate(values):
            until = values[i + 1][0] if i + 1 < len(values) else self.end if grows else time
            if until >= self.begin and time <= self.end:
                y = bottom - (2 * ROW - 2 * GAP) * value / most
                points += [f'{self.x(time):.1f},{y:.1f}', f'{self.x(until):.1f},{y:.1f}']
        self.text(4, self.y + 11, label)
        self.text(4, self.y + 11 + ROW, f'up to {most}')
        self.parts.append(f'<polyline class="mark" points="{" ".join(points)}" fill="none"/>')
        self.y += 2 * ROW

    def machine(self, machine):
        self.text(4, self.y + 12, pftext.one(machine.system, 'machine_name'), ' font-weight="bold"')
        self.y += ROW
        def wanted(named):
            return [(name, what) for name, what in named if not self.without.search(name)]

        for label, slices in wanted(rows(machine)):
            self.row(label, slices)
        for track, instants in wanted(sorted(machine.instants.items())):
            self.events(track, instants)
        for track, values in wanted(sorted(machine.counters.items())):
            self.counter(track, values)
        self.y += ROW

    def axis(self, zero):
        for i in range(6):
            time = self.begin + (self.end - self.begin) * i / 5
            x = self.x(time)
            self.parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{self.y}" class="line"/>')
            self.text(x, self.y + 12, f'{(time - zero) / 1e9:.4f} s', f' text-anchor="{"end" if i == 5 else "middle"}"')

    def legend(self):
        """Of the colours of virtual CPUs."""
        x, self.y = LEFT, self.y + 22
        for state, colour in STATES.items():
            self.parts.append(f'<rect x="{x}" y="{self.y}" width="14" height="{ROW - GAP}" fill="{colour}"/>')
            self.text(x + 18, self.y + 11, state)
            x += 100

    def svg(self):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.y + 20}" '
                'font-family="sans-serif" font-size="11">\n' + STYLE + '\n<rect width="100%" height="100%" class="ground"/>\n'
                + '\n'.join(self.parts) + '\n</svg>')


def placed(machine):
    """What to add to a machine's times to have real time."""
    clocks = {pftext.one(c, 'clock_id'): pftext.one(c, 'timestamp')
              for c in pftext.one(machine.sync['synced_clocks'][0], 'client_clocks')['clocks']}
    return clocks[1] - clocks[3]


def move(machine, by):
    """All times of it."""
    for cpu, events in machine.kernel.items():
        machine.kernel[cpu] = [(e[0] + by, *e[1:]) for e in events]
    for track, slices in machine.slices.items():
        machine.slices[track] = [s._replace(begin=s.begin + by, end=(s.end or s.begin) + by) for s in slices]
    for track, values in machine.counters.items():
        machine.counters[track] = [(t + by, v) for t, v in values]
    for track, found in machine.instants.items():
        machine.instants[track] = [i._replace(time=i.time + by) for i in found]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', metavar='FILE')
    parser.add_argument('--from', dest='begin', type=float, default=0, metavar='SEC', help='since the first event')
    parser.add_argument('--to', dest='end', type=float, metavar='SEC', help='likewise (default: all)')
    parser.add_argument('--width', type=int, default=1000, help='pixels (default: 1000)')
    parser.add_argument('--without', metavar='REGEX', default='(?!)', help='leave out rows whose names it matches')
    args = parser.parse_args()
    try:
        machines = pftext.Trace(args.file).machines.values()
    except (OSError, AssertionError, subprocess.CalledProcessError) as e:
        sys.exit(f'draw-trace: {args.file}: {e}; give a file that host-reader -o perfetto:FILE wrote')
    for m in machines:
        move(m, placed(m))
    times = [t for m in machines for t in times_of(m)]
    if not times:
        sys.exit(f'draw-trace: {args.file} has no event')
    zero = min(times)
    begin, end = zero + int(args.begin * 1e9), zero + int(args.end * 1e9) if args.end else max(times)
    if end <= begin or args.width < 300:
        sys.exit('draw-trace: nothing is left to draw: --to has to be behind --from, --width 300 or more')
    picture = Picture(begin, end, args.width, args.without)
    for m in machines:
        picture.machine(m)
    picture.axis(zero)
    if any('vCPU' in track for m in machines for track in m.slices):
        picture.legend()
    print(picture.svg())


if __name__ == '__main__':
    main()

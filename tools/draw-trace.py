#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Draws what host-reader -o perfetto:FILE wrote as an SVG, for documents: of each machine what each CPU
ran, its interrupts, slices of other tracks (loss), events per second. Prints it. Needs protoc.
"""

import argparse
import os
import subprocess
import sys
import zlib
from xml.sax.saxutils import escape

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'tests', 'system'))

import pftext  # noqa: E402

LEFT, RIGHT, ROW, GAP = 150, 10, 18, 4


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
        yield track, [(s.begin, s.end, s.what, '#f99' if 'lost' in track else None)
                      for s in machine.slices[track]]


class Picture:
    def __init__(self, begin, end, width):
        self.begin, self.end, self.width = begin, end, width
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
        self.parts.append(f'<rect class="slice" x="{x:.2f}" y="{self.y}" width="{w:.2f}" height="{ROW - GAP}" '
                          f'fill="{colour}"><title>{escape(text)}: {(end - begin) / 1e3:.1f} µs</title></rect>')
        self.drawn += 1
        if w > 7 * len(text):
            self.text(x + 2, self.y + 11, text)

    def row(self, label, slices):
        self.text(4, self.y + 11, label)
        for s in slices:
            self.slice(*s)
        self.y += ROW

    def counter(self, label, values):
        """Steps; each value holds until the next one."""
        most = max((v for _, v in values), default=0) or 1
        bottom, points = self.y + 2 * ROW - GAP, []
        for i, (time, value) in enumerate(values):
            until = values[i + 1][0] if i + 1 < len(values) else time
            if until >= self.begin and time <= self.end:
                y = bottom - (2 * ROW - 2 * GAP) * value / most
                points += [f'{self.x(time):.1f},{y:.1f}', f'{self.x(until):.1f},{y:.1f}']
        self.text(4, self.y + 11, label)
        self.text(4, self.y + 11 + ROW, f'up to {most}')
        self.parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="#36c"/>')
        self.y += 2 * ROW

    def machine(self, machine):
        self.text(4, self.y + 12, pftext.one(machine.system, 'machine_name'), ' font-weight="bold"')
        self.y += ROW
        for label, slices in rows(machine):
            self.row(label, slices)
        for track in sorted(machine.counters):
            self.counter(track, machine.counters[track])
        self.y += ROW

    def axis(self, zero):
        for i in range(6):
            time = self.begin + (self.end - self.begin) * i / 5
            x = self.x(time)
            self.parts.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{self.y}" stroke="#eee"/>')
            self.text(x, self.y + 12, f'{(time - zero) / 1e9:.4f} s', ' text-anchor="middle"')

    def svg(self):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.y + 20}" '
                'font-family="sans-serif" font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n'
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('file', metavar='FILE')
    parser.add_argument('--from', dest='begin', type=float, default=0, metavar='SEC', help='since the first event')
    parser.add_argument('--to', dest='end', type=float, metavar='SEC', help='likewise (default: all)')
    parser.add_argument('--width', type=int, default=1000, help='pixels (default: 1000)')
    args = parser.parse_args()
    try:
        machines = pftext.Trace(args.file).machines.values()
    except (OSError, AssertionError, subprocess.CalledProcessError) as e:
        sys.exit(f'draw-trace: {args.file}: {e}; give a file that host-reader -o perfetto:FILE wrote')
    for m in machines:
        move(m, placed(m))
    times = [e[0] for m in machines for events in m.kernel.values() for e in (events[0], events[-1])]
    if not times:
        sys.exit(f'draw-trace: {args.file} has no event of a kernel, such as sched_switch')
    zero = min(times)
    begin, end = zero + int(args.begin * 1e9), zero + int(args.end * 1e9) if args.end else max(times)
    if end <= begin or args.width < 300:
        sys.exit('draw-trace: nothing is left to draw: --to has to be behind --from, --width 300 or more')
    picture = Picture(begin, end, args.width)
    for m in machines:
        picture.machine(m)
    picture.axis(zero)
    print(picture.svg())


if __name__ == '__main__':
    main()

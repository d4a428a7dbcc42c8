# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What lies between two marks (`workload mark`: one system call on each CPU), for us and for ftrace.

Each of the two observers has a probe at the mark's call. An interrupt between the two probes puts
its events before the mark for one and behind it for the other. Both write the same clock
(CLOCK_MONOTONIC), so these events are known: their time is not outside of the two readings of the
mark. Only they may be on one side only; everything else has to be equal, and is compared.
"""

BEGIN, END = 777001, 777002


class Span:
    """One CPU's events (time in ns, name, values) between the marks, and those about the marks."""

    def __init__(self, mine, theirs, values=(BEGIN, END)):
        mine_at, theirs_at = (self.marks(events, values) for events in (mine, theirs))
        # ftrace's text has microseconds
        self.begin = sorted(e[0] // 1000 for e in (mine[mine_at[0]], theirs[theirs_at[0]]))
        self.end = sorted(e[0] // 1000 for e in (mine[mine_at[1]], theirs[theirs_at[1]]))
        self.mine = self.cut(mine)
        self.theirs = self.cut(theirs)

    @staticmethod
    def marks(events, values):
        at = [[i for i, e in enumerate(events) if e[1] == 'mark' and e[2] == [value]]
              for value in values]
        assert len(at[0]) == 1 and len(at[1]) == 1, f'marks: {at}'
        return at[0][0], at[1][0]

    def cut(self, events):
        return [e for e in events if self.begin[0] <= e[0] // 1000 <= self.end[1] and
                e[1] != 'mark']

    def about(self, events, mark):
        """How many of `events` at the span's begin or end may be on either side of the mark."""
        return sum(mark[0] <= e[0] // 1000 <= mark[1] for e in events)

    def of(self, name):
        return [e for e in self.mine if e[1] == name], [e for e in self.theirs if e[1] == name]

    def compare(self, name, same, where):
        """Equal by `same(values, values)`, in number and order; how many there are."""
        mine, theirs = self.of(name)
        best = None
        for begin in range(-self.about(theirs, self.begin), self.about(mine, self.begin) + 1):
            for end in range(-self.about(theirs, self.end), self.about(mine, self.end) + 1):
                x = mine[max(begin, 0):len(mine) - max(end, 0)]
                y = theirs[max(-begin, 0):len(theirs) - max(-end, 0)]
                wrong = next((i for i, (p, q) in enumerate(zip(x, y)) if not same(p[2], q[2])),
                             None if len(x) == len(y) else min(len(x), len(y)))
                if wrong is None:
                    return len(x)
                if best is None or wrong > best[0]:
                    best = wrong, x, y
        i, x, y = best
        raise AssertionError(f'{name}, {where}: {len(x)} events, ftrace {len(y)}; event {i}: '
                             f'we {x[i:i + 3]}, ftrace {y[i:i + 3]}')

    def missing(self, name, where):
        """
        How many of ftrace's we do not have, as (least, most), which differ only by events about the
        marks. What we have has to be among ftrace's, in the same order.
        """
        mine, theirs = self.of(name)
        loose = self.about(theirs, self.begin) + self.about(theirs, self.end)
        for begin in range(self.about(mine, self.begin) + 1):
            for end in range(self.about(mine, self.end) + 1):
                x = mine[begin:len(mine) - end]
                at = iter([e[2] for e in theirs])
                if all(e[2] in at for e in x):
                    most = len(theirs) - len(x)
                    return max(most - loose, 0), most
        at = iter([e[2] for e in theirs])
        strange = next(e for e in mine if e[2] not in at)
        raise AssertionError(f'{name}, {where}: {len(mine)} events, ftrace {len(theirs)}; ftrace '
                             f'has no {strange} there')

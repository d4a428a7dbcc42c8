# SPDX-License-Identifier: LGPL-2.1-or-later
"""What faults did, by fault."""


COUNTED = 'produced', 'delivered', 'lost'
COLUMNS = 'times', *COUNTED, 'twice', 'unreadable', 'wrong'


class Tally:
    def __init__(self):
        self.rows = {}

    def row(self, fault):
        return self.rows.setdefault(fault, dict.fromkeys(COUNTED) | dict.fromkeys(
            ('times', 'twice', 'unreadable', 'wrong'), 0))

    def add(self, fault, produced, delivered):
        """
        What was produced from its beginning to the next fault, and all that was not delivered is accounted for. None:
        that is counted with other faults.
        """
        row = self.row(fault)
        row['times'] += 1
        if produced is None:
            return
        for name, nr in zip(COUNTED, (produced, delivered, produced - delivered)):
            row[name] = (row[name] or 0) + nr

    def failed(self, fault, why):
        kind = 'unreadable' if ': Unreadable:' in why else 'twice' if 'twice' in why else 'wrong'
        self.row(fault)['times'] += 1
        self.row(fault)[kind] += 1

    def times(self):
        return sum(row['times'] for row in self.rows.values())

    def show(self, say):
        """The table; its last line is the sum."""
        sums = {n: sum(row[n] or 0 for row in self.rows.values()) for n in COLUMNS}
        say(f'{"fault":<18}' + ''.join(f'{"lost, counted" if n == "lost" else n:>14}' for n in COLUMNS))
        for fault, row in sorted(self.rows.items()) + [('all', sums)]:
            say(f'{fault:<18}' + ''.join(f'{"-" if row[n] is None else row[n]:>14}' for n in COLUMNS))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""What faults did, by fault."""


class Tally:
    def __init__(self):
        self.rows = {}

    def row(self, fault):
        return self.rows.setdefault(fault, dict.fromkeys(
            ('times', 'produced', 'delivered', 'lost', 'twice', 'unreadable', 'wrong'), 0))

    def add(self, fault, produced, delivered):
        """What was produced from its beginning to the next fault, and all that was not delivered is accounted for."""
        row = self.row(fault)
        row['times'] += 1
        row['produced'] += produced
        row['delivered'] += delivered
        row['lost'] += produced - delivered

    def failed(self, fault, why):
        kind = 'unreadable' if ': Unreadable:' in why else 'twice' if 'twice' in why else 'wrong'
        self.row(fault)['times'] += 1
        self.row(fault)[kind] += 1

    def times(self):
        return sum(row['times'] for row in self.rows.values())

    def show(self, say):
        """The table; its last line is the sum."""
        names = list(self.row('all'))
        del self.rows['all']
        sums = {n: sum(row[n] for row in self.rows.values()) for n in names}
        say(f'{"fault":<18}' + ''.join(f'{"lost, counted" if n == "lost" else n:>14}' for n in names))
        for fault, row in sorted(self.rows.items()) + [('all', sums)]:
            say(f'{fault:<18}' + ''.join(f'{row[n]:>14}' for n in names))

# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ring as a Promela model, searched by spin: no error as it is, and one for each mutation."""

import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), 'system'))

from harness import params, say  # noqa: E402
from mutations import MUTATIONS  # noqa: E402

SMALL = 'SIZES=0 RECORDS=2'
WEAK = SMALL + ' UNEVEN=1 WEAK FEW'

# Every interleaving of so small a run. Some 10 s each on a machine of 2020 (overwrite-weak-even: 50 s, 1.4 GiB).
COMPLETE = {
    'overwrite': 'RECORDS=2',
    'discard': 'RECORDS=2 DISCARD TIME PLACE GIVEUP',
    'overwrite-carry': SMALL + ' LAPS=3 TIME PLACE GIVEUP',
    'discard-carry': 'SIZES=0 RECORDS=3 LAPS=3 DISCARD',
    'overwrite-dead': SMALL + ' DEAD=1',
    'discard-dead': SMALL + ' DEAD=1 DISCARD',
    'overwrite-late': SMALL + ' UNEVEN=1 LATE LAPS=3',
    'discard-late': SMALL + ' LATE LAPS=3 DISCARD',
    'overwrite-weak': WEAK,
    'overwrite-weak-even': SMALL + ' WEAK FEW',
    'overwrite-weak-carry': WEAK + ' LAPS=3',
    'overwrite-weak-late': WEAK + ' LATE',
    'discard-weak': WEAK + ' DISCARD',
    'discard-weak-even': SMALL + ' WEAK FEW DISCARD',
    'discard-weak-carry': WEAK + ' LAPS=3 DISCARD',
    'discard-weak-late': WEAK + ' LATE DISCARD',
    'discard-weak-all': SMALL + ' UNEVEN=1 WEAK DISCARD',
    'discard-weak-no-fence': WEAK + ' DISCARD NO_READER_FENCE',  # the release of consumed is enough
}
# Half a minute and more: by tools/test.sh --thorough. What they have, others have one by one.
LARGE = 'overwrite-weak-even', 'overwrite-weak-late', 'discard-weak-all'
# Likewise, with too many states to store: each is remembered by 3 bits of a table of so many (log2).
FOUR = 'WRITERS=4 RECORDS=1 SIZES=0 FEW'
HASHED = {
    'overwrite-4-writers': (FOUR, 30),
    'discard-4-writers': (FOUR + ' DISCARD', 30),
}
# tools/check-model.sh --long
LONG = {
    'overwrite-time': 'RECORDS=2 TIME PLACE GIVEUP',
    'overwrite-3-blocks': 'SIZES=0 RECORDS=3 BLOCKS=3',
    'discard-3-blocks': 'SIZES=0 RECORDS=3 BLOCKS=3 DISCARD',
    'overwrite-3-writers': 'WRITERS=3 RECORDS=1',
    'discard-3-writers': 'WRITERS=3 RECORDS=1 BLOCKS=3 DISCARD',
    'overwrite-late-long': SMALL + ' LATE LAPS=3',
    'discard-weak-all-late': SMALL + ' UNEVEN=1 WEAK LATE DISCARD',
    'discard-dead-long': 'RECORDS=2 DEAD=1 DISCARD',
}
LONG_HASHED = {
    'discard-weak-all-even': (SMALL + ' WEAK DISCARD', 30),
    'overwrite-4-writers-dead': (FOUR + ' DEAD=1', 34),
    'overwrite-weak-all': (SMALL + ' UNEVEN=1 WEAK', 34),
    'overwrite-weak-all-even': (SMALL + ' WEAK', 34),
}


class Search:
    """One run of spin: what it said, and the verifier's output."""

    def __init__(self, model, flags, bits=0, optimise='-O2', depth=1000000, memory=12000):
        with tempfile.TemporaryDirectory() as d:
            def run(*args):
                r = subprocess.run(args, cwd=d, stdout=subprocess.PIPE, text=True,
                                   stderr=subprocess.STDOUT, check=False)
                return r.returncode, r.stdout
            defines = ['-D' + flag for flag in flags.split()]
            for name in os.listdir(HERE):
                if name.endswith('.pml'):
                    os.symlink(os.path.join(HERE, name), os.path.join(d, name))
            status, said = run('spin', '-a', *defines, model + '.pml')
            assert status == 0, f'spin -a {" ".join(defines)} {model}.pml:\n{said}'
            status, said = run('gcc', '-w', optimise, '-DSAFETY', f'-DMEMLIM={memory}',
                               '-DBITSTATE' if bits else '-DCOLLAPSE', '-o', 'pan', 'pan.c')
            assert status == 0, f'gcc pan.c ({flags}):\n{said}'
            status, self.output = run('./pan', f'-m{depth}',
                                      *([f'-w{bits}', '-k3'] if bits else []))
            self.trail = ''
            if self.errors:
                self.trail = run('spin', '-t', '-p', *defines, model + '.pml')[1]

    def number(self, pattern):
        found = re.search(pattern, self.output)
        return float(found[1]) if found else None

    @property
    def errors(self):
        return self.number(r'errors: (\d+)')

    @property
    def complete(self):
        """Was all searched that there is, at this size?"""
        return not re.search(r'max search depth too small|search not completed|'
                             r'reached -DMEMLIM|out of memory', self.output, re.I)

    def say(self):
        depth = self.number(r'depth reached (\d+)')
        states = self.number(r'([\d.e+]+) states, stored')
        factor = self.number(r'hash factor: ([\d.e+]+)')
        text = f'{states:.0f} states, depth {depth:.0f}'
        if factor:
            text += f', bitstate: hash factor {factor:.1f}'
        say(text)

    def shown(self):
        """The error, and the last steps that lead to it."""
        steps = [line for line in self.trail.splitlines() if re.search(r'^\s*\d+:\s*proc', line)]
        return '\n'.join(re.findall(r'^pan:.*', self.output, re.M) + steps[-60:])


def hold(model, flags, bits=0):
    search = Search(model, flags, bits)
    assert search.errors is not None, f'no verdict:\n{search.output}'
    assert not search.errors, search.shown()
    assert search.complete, f'not all was searched:\n{search.output}'
    search.say()
    return search


@params(*[name for name in COMPLETE if name not in LARGE], thorough=LARGE)
def test_complete(name):
    search = hold('ring', COMPLETE[name])
    if name == 'overwrite-dead':  # every step of the model was taken: lapped, dropped, stuck, ...
        missed = re.findall(r'^unreached in .*(?:\n\t.*)*?\n\t\((\d+) of', search.output, re.M)
        assert missed == ['0'] * 3, search.output


@params(thorough=HASHED)
def test_hashed(name):
    flags, bits = HASHED[name]
    factor = hold('ring', flags, bits).number(r'hash factor: ([\d.e+]+)')
    # Bits for each state that was found: with few, others were taken for seen. spin's own: best above 100.
    assert factor >= 10, f'hash factor {factor}'


def test_wake():
    """No reader sleeps over a record."""
    hold('wake', 'RECORDS=2')


@params('counters', 'time')
def test_arithmetic(model):
    hold(model, '')


@params(*[m.name for m in MUTATIONS if m.model])
def test_mutation(name):
    """What is taken away must be missed: spin must find an error, an assertion that fails."""
    mutation = next(m for m in MUTATIONS if m.name == name)
    model, flags = mutation.model
    config = {'small': SMALL, 'weak': WEAK, '': ''}
    first, _, rest = flags.partition(' ')
    search = Search(model, config[first] + ' ' + rest, optimise='-O1')
    assert search.errors, f'{mutation.what}: no error without it\n{search.output}'
    assert 'assertion violated' in search.output, search.output
    say(re.search(r'pan:\d+: (assertion violated.*)', search.output)[1])


def main():
    """tools/check-model.sh: the searches that take longer, or those named."""
    names = sys.argv[1:] or [*LONG, *LONG_HASHED]
    bad = 0
    for name in names:
        flags, bits = ({**HASHED, **LONG_HASHED}.get(name) or
                       ({**COMPLETE, **LONG}.get(name), 0))
        if flags is None:
            print(f'check-model: there is no search {name!r}; there are',
                  ', '.join([*COMPLETE, *HASHED, *LONG, *LONG_HASHED]))
            return 2
        print(f'---- {name}: {flags}', flush=True)
        try:
            hold('ring', flags, bits)
        except AssertionError as e:
            print(f'FAIL {name}: {e}', flush=True)
            bad += 1
    return 1 if bad else 0


if __name__ == '__main__':
    sys.exit(main())

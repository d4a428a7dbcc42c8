#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Faults at random moments: as many as one likes, or those of one seed again.

The test command does 300 over local rings, and 30 in three boots of guests. A seed gives the same faults
after the same pauses; what exactly they meet is the scheduler's.
"""

import argparse
import concurrent.futures
import os
import random
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(TOP, 'tests', 'system')]

from tally import Tally  # noqa: E402

PER_SCENE = 12


def deal(seed, times):
    """Lists of faults, one a scene: so many in all, each kind as often as its share says."""
    from host import READER_ENDS
    from scene import FAULTS, ONE_READER
    rng = random.Random(seed)
    one, many = [], []
    shares = sum(FAULTS.values())
    counts = {f: times * share // shares for f, share in FAULTS.items()}
    for f in list(FAULTS)[:times - sum(counts.values())]:
        counts[f] += 1
    for fault, nr in counts.items():
        for i in range(nr):
            if fault in ONE_READER or (fault not in READER_ENDS and i % 2):
                one.append(fault)
            else:
                many.append(fault)
    scenes = []
    for faults in one, many:
        rng.shuffle(faults)
        scenes += [faults[i:i + PER_SCENE] for i in range(0, len(faults), PER_SCENE)]
    rng.shuffle(scenes)
    return scenes


def play(job):
    from scene import Scene
    seed, nr, faults = job
    scene = Scene(seed, nr, faults)
    return faults, scene.run(), scene.lent


def say_of_readers(numbers, say):
    kept, again, cut = numbers
    say(f'under discard, of readers that died or failed: {kept} of these were read, but not written; {again} '
        'written, and delivered by the next one, too')
    say(f'{cut} streams of raw captures of readers that were killed end within a packet, which was taken away')


def say_of_lent(ways, say):
    """{how a capture was written without a copy: Scene.of_lent() of all}"""
    say(f'{"without a copy":<32}' + ''.join(f'{name:>14}' for name in (
        'readers', 'died, failed', 'large packets', 'parts', 'files packed', 'cut off')))
    for way, numbers in sorted(ways.items()):
        say(f'{"raw:DIR" + way:<32}' + ''.join(f'{nr:>14}' for nr in numbers))


def run(seed, times, say=print):
    """Prints the tally; returns how many faults were done, and what was wrong."""
    jobs = [(seed, nr, faults) for nr, faults in enumerate(deal(seed, times))]
    tally, wrong, readers, ways = Tally(), [], [0, 0, 0], {}
    start = time.time()
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        for faults, (account, log, why), lent in pool.map(play, jobs):
            if why:
                wrong.append(why)
                tally.failed(log[-1] if log else faults[0], why)
                continue
            readers = [sum(pair) for pair in zip(readers, account[1:])]
            if lent is not None:
                ways[lent] = [sum(pair) for pair in zip(ways.get(lent, [0] * len(account[4])), account[4])]
            for fault, produced, delivered in account[0]:
                tally.add(fault, produced, delivered)
    say(f'{times} faults in {len(jobs)} scenes, {time.time() - start:.0f} s, seed {seed}')
    tally.show(say)
    say_of_readers(readers, say)
    say_of_lent(ways, say)
    return tally.times(), wrong, ways


def run_guest(seed, nr, say=print):
    """Likewise one boot, of guest.BOOTS in turn."""
    from guest import BOOTS, Guest
    guest = Guest(seed, BOOTS[nr % len(BOOTS)])
    account, why = guest.run()
    say(guest.name)
    tally = Tally()
    if why:
        tally.failed(guest.log[-1] if guest.log else 'start', why)
    else:
        for fault, produced, delivered in account[0]:
            tally.add(fault, produced, delivered)
    tally.show(say)
    if not why:
        say_of_readers(account[1:], say)
    return tally.times(), [why] if why else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().split('\n')[0])
    parser.add_argument('--times', type=int, default=300,
                        help='how many faults over local rings (default: 300)')
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 31),
                        help='of all that is random (default: another one each time, printed)')
    parser.add_argument('--build', default=os.path.join(TOP, 'build'))
    parser.add_argument('--scene', type=int, metavar='N', help='only scene N of them, as a failure names it')
    parser.add_argument('--guests', type=int, metavar='N', help='instead: N boots of guests, about ten faults each')
    args = parser.parse_args()
    os.environ['HTRACE_BUILD'] = os.path.abspath(args.build)
    if args.scene is not None:
        faults = deal(args.seed, args.times)[args.scene]
        print(faults)
        _, (account, _, why), _ = play((args.seed, args.scene, faults))
        print(account, why)
        return 1 if why else 0
    if args.guests is not None:
        wrong = [why for nr in range(args.guests) for why in run_guest(args.seed + nr // 3, nr)[1]]
    else:
        wrong = run(args.seed, args.times)[1]
    for why in wrong:
        print(why)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())

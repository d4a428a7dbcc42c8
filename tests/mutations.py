#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What keeps the ring right, and what it looks like with one piece of that taken away.

Each mutation is one of the model (tests/model) and, by replacing text, one of the real code:
`mutations.py NAME DIR` writes the headers and consumer.c, mutated, to DIR. A build flag does that for
the tests (`meson setup -Dmutation=NAME`). If the text is not there any more, that is an error.
"""

import os
import shutil
import sys
from dataclasses import dataclass, field

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
LIB = os.path.join(TOP, 'libhtrace')
RING = 'include/htrace/ring.h'
PACK = 'include/htrace/pack.h'
READER = 'include/htrace/consumer.h'
CONSUMER = 'consumer.c'
SYNC = 'include/htrace/sync.h'


@dataclass
class Mutation:
    """The model: (file, 'CONFIGURATION FLAGS') or None. The code: (file, text, instead)."""
    name: str
    what: str
    model: tuple
    code: list = field(default_factory=list)
    unit: str = 'test_schedules'  # the unit test that shows it in the real code; '': none
    stress: str = ''  # do threads on x86-64? 'plain': as they are, 'borrow': that do not copy,
    # 'packed': one packs, 'tsan': by ThreadSanitizer


DESCRIPTOR = '''	htrace_store(&b->base, now);
	htrace_store(&b->events_before, events_before);
	htrace_store_release(&b->beg, beg); /* who starts, or was lapped, reads both alone */
	htrace_store(&b->schema, schema);
'''
LATE = DESCRIPTOR.replace('b->', 'slot->late->').replace('now)', 'slot->base)').replace(
    ' events_before)', ' slot->before)').replace(' beg)', ' slot->beg)').replace(
        ' schema)', ' slot->schema)')
PADDING = '		htrace_add(&old->commit, beg - pos);\n'
CLOSING = '''		htrace_store((__u64 *)htrace_ring_data(r, g, pos),
			     HTRACE_ID_PAD | (pos & 0xffffffffULL) << 32);
'''

MUTATIONS = [
    Mutation('release', 'the release of a commit', ('ring', 'weak NO_RELEASE'),
             [(RING, '(v), __ATOMIC_RELEASE))', '(v), __ATOMIC_RELAXED))')],
             stress='tsan'),
    Mutation('second-head', 'the second look at head in an open block', ('ring', 'small ONE_HEAD'),
             [(CONSUMER, '''	if (!l->complete && load_head(c) != head)
		return LOOK_AGAIN;
''', '')], stress='plain'),
    Mutation('recheck', 'the look at head after the copy', ('ring', 'small NO_RECHECK'),
             [(CONSUMER, '''	c->head = load_head(c);
	if (lapped(c, c->head))
		return -EAGAIN;
	if (!anchored(c))''', '	if (!anchored(c))')], stress='plain'),
    Mutation('release-recheck', 'the look at head when borrowed records come back', None,
             [(CONSUMER, '	return load_head(c) - (pos & ~(block_size(c) - 1)) <= ring_size(c) && anchored(c);',
               '	return pos <= c->pos && anchored(c);')], stress='borrow'),
    Mutation('borrowed-consumed', 'consumed held back below what is borrowed', None,
             [(CONSUMER, '''	if (out && out->nr && out->loan[out->first].pos < c->hold)
		c->hold = out->loan[out->first].pos;
''', '')], stress='borrow'),
    Mutation('guard', 'the guard: the lap before is committed', ('ring', 'small NO_GUARD'),
             [(RING, '''	if ((__u32)commit != (__u32)bytes)
		return 0;
''', '')], stress='plain'),
    Mutation('guard-discard', 'the guard, with a reader that starts at the newest block',
             ('ring', 'small NO_GUARD DISCARD LATE'),
             [(RING, '	if ((__u32)commit != (__u32)bytes)\n',
               '	if (g->policy != HTRACE_DISCARD && (__u32)commit != (__u32)bytes)\n')]),
    Mutation('whole-block', 'the whole block must be consumed',
             ('ring', 'small WHOLE_RECORD_ONLY DISCARD'),
             [(RING, '(__s64)(beg + (1ULL << (g->block_shift & 63)) - htrace_load',
               '(__s64)(beg + 64 - htrace_load')], stress='plain'),
    Mutation('drop-recheck', 'the look at head before a record is dropped', ('ring', 'small NO_DROP_RECHECK'),
             [(RING, 'htrace_load(&r->head) == pos ? HTRACE_TRY_DONE : HTRACE_TRY_AGAIN',
               'HTRACE_TRY_DONE')]),
    Mutation('opener-fence', "the opener's fence", ('ring', 'weak NO_FENCE'),
             [(RING, '	htrace_fence_opener(); /*', '	/*')]),
    Mutation('reader-fence', 'the fence behind the copy', ('ring', 'weak NO_READER_FENCE'),
             [(CONSUMER, '''		take(c, &l, how, &w);
	/* The copy, then head: nobody may have reserved in the block's next lap meanwhile. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
''', '		take(c, &l, how, &w);\n')], unit=''),
    Mutation('acquire', 'the acquire of head and commit', ('ring', 'weak NO_ACQUIRE'),
             [(CONSUMER, 'return __atomic_load_n(&c->ring->head, __ATOMIC_ACQUIRE);',
               'return __atomic_load_n(&c->ring->head, __ATOMIC_RELAXED);'),
              (CONSUMER, '	commit = __atomic_load_n(&b->commit, __ATOMIC_ACQUIRE);\n	if (!l->complete',
               '	commit = __atomic_load_n(&b->commit, __ATOMIC_RELAXED);\n	if (!l->complete')],
             unit='', stress='tsan'),
    Mutation('cas', 'head by compare-and-swap', ('ring', 'small PLAIN_CAS'),
             [(RING, '''		__atomic_compare_exchange_n((p), &expect_, (new), 0, __ATOMIC_SEQ_CST,       \\
					    __ATOMIC_RELAXED);                               \\
''', '		htrace_load(p) == expect_ ? (htrace_store((p), (new)), 1) : 0; \\\n')],
             stress='plain'),
    Mutation('late-descriptor', 'the descriptor before its commit', ('ring', 'small LATE_OPENER'),
             [(RING, DESCRIPTOR, ''),
              (RING, '	__u64 add;\n', '''	__u64 add;
	struct htrace_block *late;
	__u64 base, before, beg;
	__u32 schema;
'''),
              (RING, '	slot->commit = &b->commit; /* the usual case */\n',
               '	*slot = (struct htrace_slot){ &b->commit };\n'),
              (RING, '	slot->commit = &b->commit;\n', '''	slot->commit = &b->commit;
	*slot = (struct htrace_slot){ &b->commit, 0, open ? b : 0, now, events_before, beg, schema };
'''),
              (RING, '	htrace_add(slot->commit, slot->add);\n',
               '	htrace_add(slot->commit, slot->add);\n	if (slot->late) {\n' + LATE + '	}\n')],
             stress='plain'),
    Mutation('early-padding', 'the closing words before the padding', ('ring', 'small EARLY_PADDING'),
             [(RING, PADDING, ''), (RING, CLOSING, PADDING + CLOSING)], stress='plain'),
    Mutation('plain-padding', 'the padding as an atomic add', ('ring', 'small PLAIN_PADDING'),
             [(RING, PADDING, '''		htrace_store(&old->commit, htrace_load(&old->commit) + beg - pos);
''')], stress='plain'),
    Mutation('plain-drop', 'the count of drops as an atomic add', ('ring', 'small PLAIN_DROP DISCARD'),
             [(RING, '	htrace_add(&r->dropped, 1);\n',
               '	htrace_store(&r->dropped, htrace_load(&r->dropped) + 1);\n')], stress='plain'),
    Mutation('second-head-drained', 'the second look at head when drained',
             ('ring', 'small ONE_HEAD_DRAINED PLACE DISCARD'),
             [(CONSUMER, '''		if (load_head(c) != head)
			return -EAGAIN;
''', '')]),
    Mutation('early-consumed', 'the copy before consumed is published',
             ('ring', 'small EARLY_CONSUMED DISCARD'),
             [(CONSUMER, '	if (ret == LOOK_OK)\n', '''	if (ret == LOOK_OK && c->consumed)
		__atomic_store_n(c->consumed, l.complete ? l.beg + block_size(c) : l.end,
				 __ATOMIC_RELEASE);
	if (ret == LOOK_OK)
''')], stress='plain'),
    Mutation('clock-first', 'head before the clock', ('ring', 'small CLOCK_FIRST TIME'),
             [(RING, '		__u64 quick_pos_ = htrace_load(&(ring_)->head);                             \\\n', ''),
              (RING, '		__u64 quick_time_ = (now_);                                                 \\\n',
               '		__u64 quick_time_ = (now_);                                                 \\\n'
               '		__u64 quick_pos_ = htrace_load(&(ring_)->head);                             \\\n'),
              (RING, '				__u64 pos_ = htrace_load(&(ring_)->head);                   \\\n', ''),
              (RING, '				__u64 time_ = pos_ == (quick_pos_) ? (quick_time_) : (now_); \\\n',
               '				__u64 time_ = (now_);                                       \\\n'
               '				__u64 pos_ = htrace_load(&(ring_)->head);                   \\\n')],
             stress='plain'),
    Mutation('trusted-tag', 'slots of lapped readers kept a lap behind', ('ring', 'weak TRUSTED_TAG'),
             [(CONSUMER, '''		if (s->lap < lap)
			s->lap = lap - 1;
''', '		s->lap = lap;\n'),
              (CONSUMER, '} else if (s->lap == lap) {',
               '} else if (s->lap == lap && !c->stats.lapped) {')]),
    Mutation('consumed-acquire', 'the acquire of consumed', ('ring', 'weak NO_CONSUMED_ACQUIRE DISCARD'),
             [(RING, 'htrace_load_acquire(consumed)', 'htrace_load(consumed)')], stress='tsan'),
    Mutation('guard-acquire', "the guard's acquire of commit", ('ring', 'weak NO_GUARD_ACQUIRE HIGH=8'),
             [(RING, 'commit = htrace_load_acquire(&b->commit);', 'commit = htrace_load(&b->commit);')]),
    # The fence behind the copy stands in for it.
    Mutation('consumed-release', 'the release of consumed',
             ('ring', 'weak NO_CONSUMED_RELEASE NO_READER_FENCE DISCARD'),
             [(CONSUMER, '''pos > c->skip_until ? pos : c->skip_until,
				 __ATOMIC_RELEASE);''', '''pos > c->skip_until ? pos : c->skip_until,
				 __ATOMIC_RELAXED);''')], unit='', stress='tsan'),
    Mutation('beg-release', 'the release of beg', ('ring', 'small UNEVEN=1 FEW LATE_BEFORE LATE LAPS=3'),
             [(RING, 'htrace_store_release(&b->beg, beg);', 'htrace_store(&b->beg, beg);')]),
    Mutation('any-last', 'what the lap before can have held, when taking stock',
             ('ring', 'small ANY_LAST LATE LAPS=3'),
             [(CONSUMER, ' && last < block / HTRACE_REC_HDR', '')]),
    Mutation('halves', 'subtracting the counter as a whole', ('counters', ' HALVES'),
             [(RING, '(__u32)((commit - bytes) >> 32)', '(__u32)(commit >> 32)')]),
    Mutation('sign', 'the sign of the difference of times', ('time', ' NO_SIGN'),
             [(READER, '(__u64)(__s64)(__s32)(', '(__u64)(')], unit='test_ring'),
    Mutation('range', 'the range of the short form', ('time', ' LONG_RANGE'),
             [(RING, '>= 3ULL << 30', '>= 5ULL << 30')], stress='plain'),
    Mutation('packed-block', 'a packed record in the block of its basis', None,
             [(PACK, 'r->packed_block != pos - used + 1 || ', '')], unit='test_pack', stress='packed'),
    Mutation('packed-basis', 'a packed record whose basis says what is left out', None,
             [(PACK, """r->packed_next != htrace_pack_task(e->prev_tid, e->prev_prio) ||
	    !htrace_pack_fits(e))""", '!htrace_pack_fits(e))')], unit='test_pack', stress='packed'),
    Mutation('packed-fits', 'values that fit', None,
             [(PACK, """ ||
	    !htrace_pack_fits(e))""", ')')], unit='test_pack'),
    Mutation('packed-far', 'the time in full where it is far', None,
             [(PACK, 'distance >= HTRACE_PACKED_FAR', 'distance > HTRACE_PACKED_FAR')], unit='test_pack'),
    Mutation('packed-room', 'the room of the full time', None,
             [(PACK, 'used + len + 8 > block', 'used + 16 > block')], unit='test_pack'),
    Mutation('packed-again', 'each block begins without a basis', None,
             [(CONSUMER, '	c->basis = (struct htrace_unpacker){ 0 };\n', '')], unit='test_pack'),
    Mutation('packed-behind', 'where in the ring a record is that was packed', None,
             [(CONSUMER, '	if (b->end - pos == b->len) /*', '	if (b->end) /*')], unit='test_pack'),
    Mutation('wake-fence', "the producer's fence between commit and event_idx",
             ('wake', ' RECORDS=2 NO_PRODUCER_FENCE'),
             [(RING, '''{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return htrace_ring_needs_bell''', '''{
	return htrace_ring_needs_bell''')], unit=''),
    Mutation('armed-fence', "the reader's fence between event_idx and head",
             ('wake', ' RECORDS=2 NO_READER_FENCE'),
             [(SYNC, '	__atomic_thread_fence(__ATOMIC_SEQ_CST);\n', '')], unit=''),
    Mutation('late-seen', 'the bell is loaded before event_idx is stored', ('wake', ' RECORDS=2 LATE_SEEN')),
    Mutation('no-look', 'the look at head after event_idx', ('wake', ' RECORDS=2 NO_LOOK')),
    Mutation('no-poll', 'not sleeping over what is not committed yet', ('wake', ' RECORDS=2 NO_POLL')),
]


def mutate(mutation, to):
    """Write the sources that the tests compile, mutated, to directory @to."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(os.path.join(LIB, 'include'), os.path.join(to, 'include'))
    shutil.copy(os.path.join(LIB, CONSUMER), to)
    for path, text, instead in mutation.code:
        path = os.path.join(to, path)
        with open(path, encoding='utf-8') as f:
            content = f.read()
        if content.count(text) != 1:
            raise ValueError(f'mutation {mutation.name}: {path} has {content.count(text)} times: {text}')
        with open(path, 'w', encoding='utf-8') as f:
            f.write(content.replace(text, instead))


def main():
    names = {m.name: m for m in MUTATIONS if m.code}
    if len(sys.argv) != 3 or sys.argv[1] not in names:
        print(f'Usage: mutations.py NAME DIR\nNAME is one of: {", ".join(names)}', file=sys.stderr)
        return 2
    mutate(names[sys.argv[1]], sys.argv[2])
    return 0


if __name__ == '__main__':
    sys.exit(main())

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The producer: libhtrace/include/htrace/ring.h. */

/*
 * Stores of one record after its CAS, numbered in the order of the text: htrace_block_open(),
 * htrace_try_reserve(), htrace_commit(). Mutations of that order number them otherwise.
 */
#define S_HEAD 1      /* the CAS's own, where its visibility may come late */
#ifdef LATE_OPENER
#define S_BASE 4096
#define S_BEFORE 8192
#define S_TAG 16384
#elif defined(LATE_BEFORE)
#define S_BASE 2
#define S_TAG 4
#define S_BEFORE 8
#else
#define S_BASE 2
#define S_BEFORE 4
#define S_TAG 8
#endif
#ifdef EARLY_PADDING
#define S_PADDING 16
#define S_CLOSING 32
#define S_END 64
#define L_DROPS 128
#define S_DROPS 256
#else
#define S_CLOSING 16  /* the closing word of the block before */
#define S_END 32
#define L_DROPS 64    /* loads r->dropped */
#define S_DROPS 128
#define S_PADDING 256 /* htrace_add(&old->commit, beg - pos) */
#endif
#define S_HEADER 512
#define S_PAYLOAD 1024
#define S_COMMIT 2048 /* htrace_add(slot->commit, slot->add) */

#ifdef FEW
#define OPENERS (S_BEFORE | S_TAG)
#define CLOSERS (S_CLOSING | S_END | S_PADDING)
#else
#define OPENERS (S_BASE | S_BEFORE | S_TAG)
#define CLOSERS (S_CLOSING | S_END | L_DROPS | S_DROPS | S_PADDING)
#endif

/* What must be before: the opener's fence, and the release of each add. */
#ifdef NO_FENCE
#define FENCE 0
#else
#define FENCE (open -> S_HEAD : 0)
#endif
#ifdef NO_RELEASE
#define RELEASE(add) 0
#else
#define RELEASE(add) ((add) - 1)
#endif

#ifdef WHOLE_RECORD_ONLY
#define NEEDED size
#else
#define NEEDED BLOCK
#endif

/* Is the lap before of the block at @beg committed to its last byte? htrace_block_free() */
#ifdef NO_GUARD
#define GUARDED(c) true
#else
#define GUARDED(c) SAME_LOW(c, LAP(beg) * BLOCK)
#endif

/* Loads of htrace_block_free(), and the one of head behind it, numbered in the order of the text. */
#define P_CONSUMED 1
#define P_COMMIT 2
#define P_BEFORE 4
#define P_AGAIN 8 /* where it may come before the one that refuses */

/* What must be before: loads that acquire. */
#ifdef NO_CONSUMED_ACQUIRE
#define CONSUMED_FIRST 0
#define LOOKS_EARLY
#else
#define CONSUMED_FIRST P_CONSUMED
#endif
#ifdef NO_GUARD_ACQUIRE
#define GUARD_FIRST 0
#define LOOKS_EARLY
#else
#define GUARD_FIRST P_COMMIT
#endif

#ifdef DISCARD
#define LOADS_FREE (P_CONSUMED | P_COMMIT | P_BEFORE)
#else
#define LOADS_FREE (P_COMMIT | P_BEFORE)
#endif
#ifdef LOOKS_EARLY
#define LOADS (LOADS_FREE | P_AGAIN)
#else
#define LOADS LOADS_FREE
#endif

/* Was head read again, and found where it was, before the record is dropped? */
#ifdef NO_DROP_RECHECK
#define UNMOVED true
#elif defined(LOOKS_EARLY)
#define UNMOVED (!(todo & P_AGAIN) || seen_head == pos)
#else
#define UNMOVED (seen_head == pos)
#endif
/* Ghost: had head moved when the load that refuses was satisfied? Then others got that room. */
#define REFUSED moved = seen_head != pos

/* A store into the data: nothing of a later lap is there. */
inline write(at, word)
{
	d_step {
		assert(AT(data[(at) % RING]) <= (at));
		data[(at) % RING] = (word);
	}
}

inline add_dropped()
{
#ifdef PLAIN_DROP
	c = dropped;
	dropped = c + 1;
#else
	atomic {
#ifdef PLACE
		drop_head[dropped] = head;
#endif
		dropped++;
	}
#endif
}

proctype writer(byte me)
{
	byte nr, size, pos, beg, c, before;
	short todo;
	bool open, moved;
#ifdef TIME
	byte now;
#endif

	do
	:: nr < RECORDS - (me * UNEVEN) ->
		atomic {
			produced++;
#if SIZES
			select(size : 1 .. BLOCK - 1);
#else
			size = 1 + (me + nr) % (BLOCK - 1);
#endif
		}
retry:
		/* htrace_reserve(): head, then the clock. The clock is how far head has got. */
#ifdef CLOCK_FIRST
		now = head;
#endif
		atomic {
			pos = seen_head;
			/* htrace_try_reserve(): with the closing word behind it, does it fit? */
			open = pos % BLOCK == 0 || BLOCK - pos % BLOCK < size + 1;
			beg = (open -> DOWN(pos + BLOCK - 1) : pos);
		}
#if defined(TIME) && !defined(CLOCK_FIRST)
		now = head;
#endif
		if
		:: open ->
			/* htrace_block_free() */
			todo = LOADS;
			do
#ifdef DISCARD
			:: MAY(P_CONSUMED, 0) ->
				atomic {
					todo = todo & ~P_CONSUMED;
					if
					:: beg + NEEDED > consumed + RING -> REFUSED; goto no_room
					:: else
					fi
				}
#endif
			:: MAY(P_COMMIT, CONSUMED_FIRST) ->
				atomic {
					c = commit[SLOT(beg)];
					todo = todo & ~P_COMMIT;
					if
					:: !GUARDED(c) -> c = 0; REFUSED; goto no_room
					:: else
					fi
				}
			:: MAY(P_BEFORE, CONSUMED_FIRST | GUARD_FIRST) ->
				d_step { before = events_before[SLOT(beg)]; todo = todo & ~P_BEFORE }
#ifdef LOOKS_EARLY
			:: MAY(P_AGAIN, CONSUMED_FIRST) && seen_head == pos -> todo = todo & ~P_AGAIN
#endif
			:: else -> break
			od;
			atomic {
				before = before + LESS(EVENTS(c, LAP(beg) * BLOCK), before % HIGH);
				c = 0;
				todo = 0;
			}
#ifdef TIME
		:: else -> c = base[SLOT(beg)] /* whose times it would be decoded with */
#else
		:: else
#endif
		fi;
		/* htrace_cas(&r->head, pos, beg + size) */
#ifdef PLAIN_CAS
		if
		:: head != pos -> goto failed
		:: else
		fi;
		head = beg + size;
		goto reserved;
#else
		atomic {
			if
			:: head == pos ->
				head = beg + size;
#ifdef PLACED
				first_of[SLOT(beg)] = (open -> reserved_all : first_of[SLOT(beg)]);
				reserved_all++;
#endif
				goto reserved
			:: else -> goto failed
			fi
		}
#endif
failed:
		atomic {
			c = 0;
			if
			:: goto retry
#ifdef GIVEUP
			:: goto drop
#endif
			fi
		}
no_room:
		/* htrace_try_reserve(): full only if nobody moved on meanwhile */
		atomic {
			if
			:: UNMOVED -> assert(!moved); todo = 0; before = 0; goto drop
			:: else -> moved = false; todo = 0; before = 0; goto retry
			fi
		}
drop:
		add_dropped();
		goto next;
reserved:
		atomic {
#ifdef TIME
			/* times rise with positions; a stale base is an older one */
			assert(now == pos);
			assert(open || c <= DOWN(beg));
			c = 0;
#endif
			todo = S_HEADER | (size > 1 -> S_PAYLOAD : 0) | S_COMMIT |
			       (open -> OPENERS : 0) | (open && pos != beg -> CLOSERS : 0);
#ifdef WEAK
			todo = todo | S_HEAD;
#endif
		}
		do
#ifdef WEAK
		:: MAY(S_HEAD, 0) ->
			d_step { seen_head = beg + size; todo = todo & ~S_HEAD }
#endif
		:: MAY(S_BASE, FENCE) ->
			d_step { base[SLOT(beg)] = DOWN(beg); todo = todo & ~S_BASE }
		:: MAY(S_BEFORE, FENCE) ->
			d_step { events_before[SLOT(beg)] = before; todo = todo & ~S_BEFORE }
		:: MAY(S_TAG, FENCE) ->
			d_step { tag[SLOT(beg)] = beg; todo = todo & ~S_TAG }
		:: MAY(S_CLOSING, FENCE) ->
			d_step {
				write(pos, CLOSING | pos);
				todo = todo & ~S_CLOSING
			}
		:: MAY(S_END, FENCE) ->
			d_step { end[SLOT(pos)] = pos; todo = todo & ~S_END }
		:: MAY(L_DROPS, 0) ->
			d_step { c = dropped; todo = todo & ~L_DROPS }
		:: MAY(S_DROPS, FENCE | L_DROPS) ->
			d_step { drops[SLOT(pos)] = c; c = 0; todo = todo & ~S_DROPS }
		:: MAY(S_PADDING, RELEASE(S_PADDING)) ->
#ifdef PLAIN_PADDING
			c = commit[SLOT(pos)];
			d_step {
				commit[SLOT(pos)] = (c + beg - pos) % WHOLE;
				c = 0;
				todo = todo & ~S_PADDING
			}
#else
			d_step {
				commit[SLOT(pos)] = (commit[SLOT(pos)] + beg - pos) % WHOLE;
				todo = todo & ~S_PADDING
			}
#endif
		:: MAY(S_HEADER, FENCE) ->
			d_step {
				write(beg, HEADER | beg);
				todo = todo & ~S_HEADER
			}
		:: MAY(S_PAYLOAD, FENCE) ->
			d_step {
				write(beg + 1, beg + 1);
				todo = todo & ~S_PAYLOAD
			}
		:: MAY(S_COMMIT, RELEASE(S_COMMIT)) ->
			d_step {
				commit[SLOT(beg)] = (commit[SLOT(beg)] + HALF + size) % WHOLE;
				todo = todo & ~S_COMMIT
			}
#if DEAD
		:: todo && killed < DEAD ->
			d_step {
				killed++;
				c = (todo & S_PADDING -> pos : beg) / BLOCK;
				hole = (c < hole -> c : hole);
				c = 0;
			}
			goto dead
#endif
		:: !todo -> break
		od;
next:
		atomic {
			nr++;
			size = 0; pos = 0; beg = 0; before = 0; open = false;
#ifdef TIME
			now = 0;
#endif
		}
	:: else -> break
	od;
dead:
	atomic {
		nr = 0; size = 0; pos = 0; beg = 0; before = 0; open = false; todo = 0;
		finished++;
	}
}

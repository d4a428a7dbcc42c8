/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The reader: libhtrace/consumer.c. What it would take for corrupt is an error here. */

/* Loads of look(), copy_out() and read_block(), numbered in the order of the text. */
#define R_COMMIT 1
#define R_AGAIN 2     /* head once more, if the block is open */
#define R_BASE 4
#define R_BEFORE 8
#define R_TAG 16
#define R_END 32
#define R_DROPS 64
#define R_WORD(i) (128 << (i))
#define R_HEAD 2048   /* head behind the copy */
#define S_CONSUMED 4096 /* publish(), once all is known */

/* What must be before: loads that acquire, and the fence behind the copy. */
#ifdef NO_ACQUIRE
#define ACQUIRED 0
#else
#define ACQUIRED (R_COMMIT | R_AGAIN)
#endif
#ifdef NO_READER_FENCE
#define COPIED ACQUIRED
#else
#define COPIED (R_HEAD - 1)
#endif
#ifdef NO_CONSUMED_RELEASE
#define READ R_HEAD /* which acquires */
#else
#define READ (S_CONSUMED - 1)
#endif

#define BYTE(x) (((x) + 1024) % 256)
#define LAPPED(h) ((h) - DOWN(pos) > RING)
/* most_missed(), enter_block(): what a slot can have held at most */
#define HELD(laps) ((laps) * BLOCK)

/* Delivered or overwritten since the start; the rest was before it, which a late reader must not mix up. */
#ifdef PLACED
#define COUNT_MINE(n) mine = mine + (n)
#else
#define COUNT_MINE(n) skip
#endif

inline load_word(i)
{
	d_step {
		buf[i] = data[(DOWN(pos) + i) % RING];
		todo = todo & ~R_WORD(i)
	}
}

/* count_dropped() */
inline count_dropped(total)
{
	if
	:: total > told_drops -> told = told + total - told_drops; told_drops = total
	:: else
	fi
}

#ifdef TRUSTED_TAG
#define NOT_LAPPED !was_lapped
#define SEEN_LAP(at) LAP(at)
#else
#define NOT_LAPPED true
#define SEEN_LAP(at) (lap[SLOT(at)] < LAP(at) -> LAP(at) - 1 : lap[SLOT(at)])
#endif

/* Of a slot at @at, whose descriptor says that @now events were before: what passed unseen? */
inline enter_block(at, now)
{
	i = BYTE(now - seen[SLOT(at)]);
	if
	:: !known[SLOT(at)] ->
		assert(now <= HELD(LAP(at)));
		told = told + now
	:: known[SLOT(at)] && lap[SLOT(at)] == LAP(at) && NOT_LAPPED ->
		assert(i <= HELD(LAP(at)));
		told = told + i
	:: else ->
		assert(i <= HELD(LAP(at) - lap[SLOT(at)]));
		told = told + i;
		COUNT_MINE(i)
	fi;
	known[SLOT(at)] = true;
	seen[SLOT(at)] = now;
	lap[SLOT(at)] = LAP(at)
}

/* validate(): the copy of [pos, limit) is records of this lap, and the closing word */
inline validate()
{
	nr = 0;
	i = pos;
	do
	:: i < limit ->
		assert(AT(buf[i % BLOCK]) == i && !(buf[i % BLOCK] & CLOSING));
		assert(i != pos || buf[i % BLOCK] & HEADER);
		nr = nr + (buf[i % BLOCK] & HEADER) / HEADER;
		i++
	:: else -> break
	od;
	assert(!complete || buf[limit % BLOCK] == (CLOSING | limit))
}

proctype reader()
{
	byte pos = START, h, c, nr, i, limit, l_base, l_before, l_tag, l_drops;
	byte buf[BLOCK], seen[BLOCKS], lap[BLOCKS];
	byte told, told_drops, block_seen;
#ifdef PLACED
	byte first, mine;
#endif
	bool known[BLOCKS], begun, complete, last, was_lapped, exact = true;
	short todo;

#ifdef LATE
	/* htrace_consumer_new() */
	atomic {
		h = seen_head;
		if
		:: pos = (h -> DOWN(h - 1) : 0)                 /* HTRACE_START_NEWEST */
#ifndef DISCARD                                                 /* HTRACE_START_OLDEST */
		:: h > RING -> pos = DOWN(h - 1) - (RING - BLOCK)
		:: h <= RING -> pos = 0
#else
		:: pos = 0
#endif
		fi;
#ifdef PLACED
		first = first_of[SLOT(pos)]
#endif
	}
#ifdef DISCARD
	/* skip_consumed(): there was no reader before, so it is still where it was at the start */
	atomic {
		if
		:: DOWN(consumed) > pos -> pos = DOWN(consumed)
		:: else
		fi
	}
#endif
	/* take_stock() */
	if
	:: pos >= BLOCK ->
		atomic {
			if
			:: tag[SLOT(pos - BLOCK)] != pos - BLOCK -> goto slots
			:: else
			fi
		}
		atomic {
			told_drops = drops[SLOT(pos - BLOCK)];
			told = told_drops
		}
	:: else
	fi;
slots:
	nr = 0;
	do
	:: nr < BLOCKS ->
		l_tag = tag[SLOT(pos + nr * BLOCK)];
		c = commit[SLOT(pos + nr * BLOCK)];
		l_before = events_before[SLOT(pos + nr * BLOCK)];
		d_step {
			i = pos + nr * BLOCK;
			if
			:: i >= h ->
				c = (SAME_LOW(c, LAP(i) * BLOCK) ->
				     LESS(EVENTS(c, LAP(i) * BLOCK), l_before % HIGH) : WHOLE);
				l_before = l_before + c;
#ifdef ANY_LAST
				known[SLOT(i)] = c < WHOLE
#else
				known[SLOT(i)] = c < BLOCK
#endif
			:: else -> known[SLOT(i)] = l_tag == i
			fi;
			known[SLOT(i)] = known[SLOT(i)] && l_before <= HELD(LAP(i));
			if
			:: known[SLOT(i)] ->
				seen[SLOT(i)] = l_before;
				lap[SLOT(i)] = LAP(i);
				told = told + l_before
			:: else -> exact = false
			fi;
			nr++; i = 0; c = 0; l_before = 0; l_tag = 0
		}
	:: else -> break
	od;
	atomic {
		exact = exact && head == h;
		nr = 0; limit = 0; h = 0
	}
#else
	/* Present from the start: htrace_consumer_new() when nobody was at work yet. */
	d_step {
		do
		:: i < BLOCKS ->
			known[i] = true;
			seen[i] = (LAPS -> BEFORE + 1 : 0);
			lap[i] = LAPS;
			told = told + seen[i];
			i++
		:: else -> break
		od;
		i = 0
	}
#endif

again:
	/* read_once() */
	atomic {
		last = finished == WRITERS;
		nr = 0; c = 0; i = 0; limit = 0; todo = 0; complete = false;
		l_base = 0; l_before = 0; l_tag = 0; l_drops = 0;
		for (i : 0 .. BLOCK - 1) {
			buf[i] = 0
		}
		i = 0;
		h = seen_head;
		assert(h >= pos);
	}
	if
	:: h == pos ->
		c = dropped;
#ifndef ONE_HEAD_DRAINED
		if
		:: seen_head != h -> goto again
		:: else
		fi;
#endif
		d_step {
			count_dropped(c);
			c = 0;
#ifdef PLACE
			assert(!told_drops || drop_head[told_drops - 1] <= pos);
#endif
		}
		if
		:: last -> goto drained
		:: else -> goto again
		fi
	:: else
	fi;
	if
	:: LAPPED(h) ->
		/* skip_to_oldest() */
#ifdef DISCARD
		assert(false);
#endif
		d_step {
#ifdef TRUSTED_TAG
			was_lapped = true;
#endif
			pos = DOWN(h - 1) - (BLOCKS - 1) * BLOCK;
			begun = false;
			block_seen = 0
		}
		do
		:: nr < BLOCKS ->
			if
			:: tag[SLOT(pos + nr * BLOCK)] == pos + nr * BLOCK ->
				l_before = events_before[SLOT(pos + nr * BLOCK)]
			:: else -> goto unknown
			fi;
			d_step {
				c = pos + nr * BLOCK;
				i = BYTE(l_before - seen[SLOT(c)]);
				if
				:: known[SLOT(c)] && i <= HELD(LAP(c) - lap[SLOT(c)]) ->
					told = told + i;
					COUNT_MINE(i);
					seen[SLOT(c)] = l_before;
					lap[SLOT(c)] = SEEN_LAP(c)
				:: else
				fi;
				l_before = 0; i = 0; c = 0;
			}
unknown:
			nr++
		:: else -> break
		od;
		nr = 0
	:: else
	fi;
	/* look() */
	d_step {
		complete = h - DOWN(pos) >= BLOCK;
		limit = (complete -> DOWN(pos) + BLOCK : h);
		todo = R_COMMIT | R_BEFORE | R_TAG;
#ifndef FEW
		todo = todo | R_BASE | (complete -> R_DROPS : 0);
#endif
		if
		:: complete -> todo = todo | R_END
#ifndef ONE_HEAD
		:: else -> todo = todo | R_AGAIN
#else
		:: else
#endif
		fi;
		i = pos;
		do
		:: i < limit -> todo = todo | R_WORD(i % BLOCK); i++
		:: else -> break
		od;
		i = 0;
		todo = todo | R_HEAD;
#if defined(DISCARD) && !defined(EARLY_CONSUMED)
		todo = todo | S_CONSUMED;
#endif
	}
	do
	:: MAY(R_COMMIT, 0) ->
		d_step {
			c = commit[SLOT(pos)];
			todo = todo & ~R_COMMIT;
			/* bytes committed, of which lap: limit is where they must reach to */
			i = LAP(pos) * BLOCK + limit - DOWN(pos);
		}
		atomic {
			if
			:: !SAME_LOW(c, i) -> 
#ifndef ONE_HEAD
				if
				:: !complete -> goto open_nothing
				:: else -> goto nothing
				fi
#else
				goto nothing
#endif
			:: else -> c = EVENTS(c, i); i = 0
			fi
		}
#ifdef EARLY_CONSUMED
		consumed = (complete -> DOWN(pos) + BLOCK : limit);
#endif
	:: MAY(R_AGAIN, R_COMMIT) ->
		if
		:: seen_head != h -> goto again
		:: else -> todo = todo & ~R_AGAIN
		fi
	:: MAY(R_BASE, ACQUIRED) ->
		d_step { l_base = base[SLOT(pos)]; todo = todo & ~R_BASE }
	:: MAY(R_BEFORE, ACQUIRED) ->
		d_step { l_before = events_before[SLOT(pos)]; todo = todo & ~R_BEFORE }
	:: MAY(R_TAG, ACQUIRED) ->
		d_step { l_tag = tag[SLOT(pos)]; todo = todo & ~R_TAG }
	:: MAY(R_END, ACQUIRED) ->
		d_step {
			limit = end[SLOT(pos)];
			todo = todo & ~R_END;
			/* LOOK_BAD: nothing is copied; else the closing word is the last */
			i = (limit < pos || limit <= DOWN(pos) || limit - DOWN(pos) > BLOCK - 1 ->
			     0 : limit % BLOCK + 1);
			do
			:: i < BLOCK -> todo = todo & ~R_WORD(i); i++
			:: else -> break
			od;
			i = 0
		}
	:: MAY(R_DROPS, ACQUIRED) ->
		d_step { l_drops = drops[SLOT(pos)]; todo = todo & ~R_DROPS }
	:: MAY(R_WORD(0), ACQUIRED) -> load_word(0)
	:: MAY(R_WORD(1), ACQUIRED) -> load_word(1)
	:: MAY(R_WORD(2), ACQUIRED) -> load_word(2)
#if BLOCK > 3
	:: MAY(R_WORD(3), ACQUIRED) -> load_word(3)
#endif
	:: MAY(R_HEAD, COPIED) ->
#ifdef NO_RECHECK
		todo = todo & ~R_HEAD
#else
		d_step { h = seen_head; todo = todo & ~R_HEAD }
#endif
#if defined(DISCARD) && !defined(EARLY_CONSUMED)
	:: MAY(S_CONSUMED, READ) ->
		d_step {
			consumed = (complete -> DOWN(pos) + BLOCK : limit);
			todo = todo & ~S_CONSUMED
		}
#endif
	:: !todo -> break
	od;
	if
	:: LAPPED(h) -> goto again
	:: else
	fi;
	/* read_block(): what it says about the block */
	d_step {
		assert(l_tag == DOWN(pos));
#ifndef FEW
		assert(l_base == DOWN(pos));
#endif
		assert(limit >= pos && limit > DOWN(pos) && limit - DOWN(pos) <= BLOCK - 1);
		if
		:: !begun -> enter_block(pos, l_before); begun = true; block_seen = 0
		:: else
		fi;
		validate();
		assert((block_seen + nr) % HIGH == LESS(c, l_before % HIGH));
		/* deliver() */
		seen[SLOT(pos)] = seen[SLOT(pos)] + nr;
		told = told + nr;
		COUNT_MINE(nr);
		assert(told <= produced);
		if
		:: complete -> pos = DOWN(pos) + BLOCK; begun = false; block_seen = 0
		:: else -> pos = limit; block_seen = block_seen + nr
		fi;
		i = 0; nr = 0; c = 0; todo = 0;
	}
#ifndef FEW
	d_step {
		if
		:: complete -> count_dropped(l_drops)
		:: else
		fi
	}
#endif
	goto again;

open_nothing:
	if
	:: seen_head != h -> goto again
	:: else
	fi;
nothing:
	/* read_block(): nothing to read for now; unless all are through, then a dead one is why */
	if
	:: LAPPED(seen_head) -> goto again
	:: else
	fi;
	atomic {
		if
		:: last ->
			assert(hole == pos / BLOCK);
			goto stuck
		:: else -> goto again
		fi
	}

drained:
	/* Delivered, overwritten, dropped and before: together all attempts. */
	assert(told <= produced && told_drops <= dropped);
	assert(!exact || told == produced);
#ifdef PLACED
	assert(!exact || mine == reserved_all - first);
#endif
	goto done;
stuck:
	assert(told <= produced);
done:
	skip
}

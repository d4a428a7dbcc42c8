/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A reader that sleeps, and producers that wake it (docs/format.md, "Waking the reader"): ring.h's
 * htrace_slot_wakes(), htrace_consumer_arm(), htrace_sync_armed(), and the futex. Records are of one or
 * two words, the second is the padding of the block before. What has no fence in between becomes visible,
 * or is loaded, in any order that the stores' own order leaves: head before commit.
 *
 *   WRITERS, RECORDS   as in ring.pml
 *   NO_x, LATE_x       mutations: tests/mutations.py
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef RECORDS
#define RECORDS 3
#endif
#define MOST (2 * WRITERS * RECORDS)

byte tail;       /* what a CAS compares with: a store that is not visible yet makes others fail, too */
byte head;       /* as others see it */
bool done[MOST]; /* words that are committed */
byte event_idx;
byte bell;
byte written;    /* ghost: records that were committed */

/* htrace_ring_needs_bell() without its wraps */
#define PASSES(from, to, idx) ((from) <= (idx) && (idx) < (to))

proctype producer()
{
	byte n, from, to, idx, visible;
	bool loaded;

	do
	:: n < RECORDS ->
		atomic {
			from = tail;
			if
			:: to = tail + 1
			:: to = tail + 2
			fi;
			tail = to;
			visible = 0;
			loaded = false
		}
		do
		:: visible == 0 && head == from -> head = to; visible = 1
		:: visible == 1 -> atomic {
			done[from] = true;
			done[to - 1] = true;
			written++;
			visible = 2
		   }
#ifdef NO_PRODUCER_FENCE
		:: !loaded -> idx = event_idx; loaded = true
#else
		:: !loaded && visible == 2 -> idx = event_idx; loaded = true
#endif
		:: loaded && visible == 2 -> break
		od;
		if
		:: PASSES(from, to, idx) -> bell++
		:: else
		fi;
		n++
	:: else -> break
	od
}

active proctype reader()
{
	byte pos, now, seen, word;
	bool stored, loaded, holes;

	do
	:: written == WRITERS * RECORDS && pos == tail -> break
	:: else ->
		/* htrace_consumer_read(): all or nothing of what head says */
		atomic {
			now = head;
			holes = false;
			word = pos;
			do
			:: word < now -> holes = holes || !done[word]; word++
			:: else -> break
			od;
			if
			:: !holes -> pos = now
			:: else
			fi
		}
#ifndef LATE_SEEN
		seen = bell;
#endif
		stored = false;
		loaded = false;
		do
		:: !stored -> event_idx = pos; stored = true
#ifdef NO_READER_FENCE
		:: !loaded -> now = head; loaded = true
#else
		:: !loaded && stored -> now = head; loaded = true
#endif
		:: stored && loaded -> break
		od;
#ifdef LATE_SEEN
		seen = bell;
#endif
		if
#ifdef NO_LOOK
		:: true ->
#else
#ifdef NO_POLL
		:: now == pos || holes -> /* what cannot be read yet is slept over */
#else
		:: now == pos ->
#endif
#endif
			/* FUTEX_WAIT without a bound: the kernel compares */
			do
			:: bell != seen -> break
			:: timeout ->
				assert(written == WRITERS * RECORDS && pos == tail);
				break
			od
		:: else /* looks again, after a while */
		fi
	od
}

init {
	byte i;

	atomic {
		do
		:: i < WRITERS -> run producer(); i++
		:: else -> break
		od
	}
}

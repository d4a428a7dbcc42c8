/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A slot's commit counter over laps without end, so that everything in it wraps: u64 is modulo 256
 * here, u32 modulo 16. One process: what is checked is arithmetic. The counter's own order is
 * ring.pml's.
 */
#define BLOCK 4
#define U32(x) ((x) & 15)
#define U64(x) ((x) & 255)
#define HIGH(x) (((x) & 255) >> 4)

byte commit, events_before, total; /* total: lap * block, of the lap at work */
byte events;                       /* ghost: of the slot, over all laps */

proctype slot()
{
	byte n, k, size, before, lap;
	bool padded;

	do
	:: atomic {
		/* htrace_block_free(): the lap before is complete; the opener's events_before */
		assert(U32(commit) == U32(total));
		before = events_before;
#ifdef HALVES
		/* the halves taken apart, without what the low one carries */
		before = U64(before + U32(HIGH(commit) - U32(before)));
#else
		before = U64(before + U32(HIGH(U64(commit - total)) - U32(before)));
#endif
		assert(before == events);
		events_before = before;
		n = 0; k = 0; padded = false;
	   }
	   do
	   :: n < BLOCK ->
		atomic {
			if
			/* htrace_commit(); the padding takes one word at least */
			:: n < BLOCK - 1 || padded ->
				select(size : 1 .. BLOCK - 1);
				if
				:: n + size + (padded -> 0 : 1) <= BLOCK ->
					commit = U64(commit + 16 + size);
					n = n + size;
					k++;
					events = U64(events + 1)
				:: else
				fi
			/* htrace_block_open() of the next block; a record comes before or after */
			:: !padded ->
				select(size : 1 .. BLOCK - 1);
				if
				:: n + size <= BLOCK && (n || size < BLOCK) ->
					commit = U64(commit + size);
					n = n + size;
					padded = true
				:: else
				fi
			fi;
			/* look(): the counter says n bytes of this lap, and nothing else */
			size = 0;
			do
			:: size <= BLOCK ->
				assert((U32(commit) == U32(total + size)) == (size == n));
				size++
			:: else -> break
			od;
			assert(U32(HIGH(U64(commit - U64(total + n))) - U32(events_before)) == k);
			size = 0
		}
	   :: else -> break
	   od;
	   total = U64(total + BLOCK)
	od
}

init {
	run slot()
}

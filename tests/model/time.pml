/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The time in a record's header: u64 is modulo 64 here, u32 modulo 16, so 2^30 is 4. A block's
 * opener writes its base; another producer of the block may see that one or an older one; the
 * reader decodes with the opener's. One process: what is checked is arithmetic.
 */
#define U32(x) ((x) & 15)
#define U64(x) ((x) & 63)
#define Q 4 /* 2^30 */

/* htrace_try_reserve(): now - base + (1ULL << 30) >= 3ULL << 30 */
#ifdef LONG_RANGE
#define EXTENDED(now, base) (U64((now) - (base) + Q) >= 4 * Q + Q)
#else
#define EXTENDED(now, base) (U64((now) - (base) + Q) >= 3 * Q)
#endif

/* htrace_iter_next(): base + (s32)((u32)low - (u32)base) */
#ifdef NO_SIGN
#define SIGNED(x) (x)
#else
#define SIGNED(x) ((x) < 8 -> (x) : (x) - 16)
#endif
#define DECODE(low, base) U64((base) + SIGNED(U32((low) - U32(base))))

init {
	byte base, stale, now, past, word, time;
	bool extended;

	atomic {
		/* Blocks were opened at any time; the stale base is older, by anything. */
		select(base : 0 .. 63);
		select(past : 0 .. 63);
		stale = U64(base - past);
		if
		:: stale = base
		:: skip
		fi;
		/* Clocks rise, by less than 2^64 - 2^30, but for steps back of up to 2^30. */
		select(now : 0 .. 63);
		if
		:: U64(now - base) >= 64 - Q || U64(now - base) + past < 64 - Q
		:: else -> goto out
		fi;
		extended = EXTENDED(now, stale);
		word = U32(now);
		time = (extended -> now : DECODE(word, base));
		assert(time == now);
		/* short whenever it can be told: the opener's own base, near enough */
		assert(extended || U64(now - base + Q) < 3 * Q);
		assert(stale != base || extended == (U64(now - base + Q) >= 3 * Q));
	}
out:
	skip
}

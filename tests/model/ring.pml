/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One ring, its producers and a reader, as libhtrace/include/htrace/ring.h and
 * libhtrace/consumer.c implement them. tests/model/README.md says what is abstracted.
 * Sizes are in words of 8 bytes. A step names the function that it stands for.
 *
 *   WRITERS, RECORDS     how many, and how many records each of them tries to write
 *   UNEVEN               1: writer n tries n records less
 *   SIZES                1: any length at each record; 0: a fixed mixture
 *   BLOCK, BLOCKS        words of a block, blocks of a ring
 *   DISCARD              the policy; else overwrite
 *   LAPS                 laps before the start; at 3 the counters are about to carry
 *   WEAK                 what the code does not order may happen in any order
 *   FEW                  without base and drops, which are ordered as tag and end are
 *   DEAD                 that many writers may be killed in the midst of a record
 *   GIVEUP               the retries of htrace_retry() may run out
 *   LATE                 the reader starts at any time
 *   TIME                 headers carry a time; the opener's base is followed
 *   PLACE                drops are told at their place
 *   NO_x, LATE_x, ...    mutations: tests/mutations.py
 */
#ifndef WRITERS
#define WRITERS 2
#endif
#ifndef RECORDS
#define RECORDS 2
#endif
#ifndef UNEVEN
#define UNEVEN 0
#endif
#ifndef SIZES
#define SIZES 1
#endif
#ifndef BLOCK
#define BLOCK 3
#endif
#ifndef BLOCKS
#define BLOCKS 2
#endif
#ifndef LAPS
#define LAPS 0
#endif
#ifndef DEAD
#define DEAD 0
#endif

#define RING (BLOCK * BLOCKS)
#define START (LAPS * RING)
#define SLOT(pos) (((pos) / BLOCK) % BLOCKS)
#define DOWN(pos) ((pos) / BLOCK * BLOCK)
#define LAP(pos) ((pos) / RING)

/* A commit counter is EVENTS << 32 + BYTES; here the halves are modulo HALF and HIGH. */
#define HALF (4 * BLOCK)
#ifndef HIGH
#define HIGH 4
#endif
#define WHOLE (HALF * HIGH)
#define LOW(c) ((c) % HALF)
#define SAME_LOW(c, bytes) (LOW(c) == LOW(bytes))
/* (u32)((commit - bytes) >> 32), and differences of counts of events as u32 */
#define EVENTS(c, bytes) ((((c) + 16 * WHOLE - (bytes)) % WHOLE) / HALF)
#define LESS(a, b) (((a) + 64 * HIGH - (b)) % HIGH)
/* Events of a slot before the start, one in each lap; with LAPS their count is about to wrap. */
#define BEFORE (LAPS -> HIGH - 1 : 0)

/* What a data word may hold: whose header, closing word or payload it is, by position. */
#define HEADER 64
#define CLOSING 128
#define AT(word) ((word) & 63)

/* struct htrace_ring */
byte head = START;      /* what a CAS compares with */
byte dropped;
byte consumed = START;
/* struct htrace_block; BASE stands for base, schema; END for end, t_end */
byte commit[BLOCKS], base[BLOCKS], events_before[BLOCKS], tag[BLOCKS], end[BLOCKS];
byte drops[BLOCKS];
byte data[RING];

#ifdef WEAK
byte seen_head = START; /* what a load sees: the CAS's store may be visible later */
#else
#define seen_head head
#endif

/* Ghosts: what is true, which no process of the real code knows. */
byte produced;  /* attempts */
byte finished;  /* writers that are through, or dead */
byte killed;    /* of these: dead, each within a record */
byte hole = 255; /* the first block that a dead writer left incomplete */
#if defined(LATE) && !defined(DISCARD) && !defined(WEAK)
#define PLACED
byte reserved_all;     /* records, and how many of them were before each slot's block */
byte first_of[BLOCKS];
#endif
#ifdef PLACE
byte drop_head[WRITERS * RECORDS]; /* head when the n-th was dropped */
#endif

/*
 * The accesses between two orders of the code are the set `todo`. Each is done when those that
 * must be before it are done: all before it in the text, or, WEAK, those that the code orders.
 */
#ifdef WEAK
#define MAY(access, after) (todo & (access) && !(todo & (after)))
#else
#define MAY(access, after) (todo & (access) && !(todo & ((access) - 1)))
#endif

#include "producer.pml"
#include "reader.pml"

init {
	byte i;

	atomic {
#if LAPS
		for (i : 0 .. BLOCKS - 1) {
			commit[i] = ((BEFORE + 1) * HALF + LAPS * BLOCK) % WHOLE;
			events_before[i] = BEFORE;
			tag[i] = START - RING + i * BLOCK;
			base[i] = tag[i];
			end[i] = tag[i] + 1;
			data[i * BLOCK] = HEADER | tag[i];
			data[i * BLOCK + 1] = CLOSING | end[i];
#ifdef PLACED
			first_of[i] = i;
#endif
		}
		produced = BLOCKS * (BEFORE + 1);
#ifdef PLACED
		reserved_all = BLOCKS;
#endif
#endif
		i = 0;
		do
		:: i < WRITERS -> run writer(i); i++
		:: else -> break
		od;
		run reader();
	}
}

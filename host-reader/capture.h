/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The raw capture on disk; docs/format.md ("The raw capture") says what it means. A directory for
 * each session, called after its source and itself:
 *
 *	source1-session1/metadata		what babeltrace2 needs
 *	source1-session1/cpu0, ring0, ...	a stream per ring: packets of records as they are
 *	source1-session1/cpu0.odd		records that the metadata do not describe
 *	source1-session1/htrace/journal		all else: schema, names, the guest's words, notes
 *	source1-session1.2/			the same, where it went on (rotation.h)
 *
 * All is little-endian. What goes into these files carries an ordinal: their order in the session.
 */
#ifndef READER_CAPTURE_H
#define READER_CAPTURE_H

#include <stdio.h>

#include "sink.h"

#define CAPTURE_DIR "source%u-session%u" /* from 1 on */
#define CAPTURE_PART CAPTURE_DIR ".%u" /* from 2 on, of one that goes on in several */
#define CAPTURE_SIDE "htrace"
#define CAPTURE_JOURNAL "journal"
#define CAPTURE_NAME 64

/* -------------------------------------------------------------------------------------- streams */

#define CAPTURE_PACKET_MAGIC 0xc1fc1fc1u /* CTF's */

/* Bits of a CTF stream class's id. A ring has a file for each that it needs. */
#define CAPTURE_ODD 1u        /* bodies are struct capture_odd and payload; else the ring's records */
#define CAPTURE_UNVERIFIED 2u /* from a guest that gave no sign of life any more */
#define CAPTURE_BY_THREAD 4u  /* of a ring that is no CPU's */
#define CAPTURE_KINDS 4       /* of a ring */
#define CAPTURE_STREAM_IDS 8

/* Before each packet's body, CTF's packet header and context. Sizes are in bits, as CTF has it. */
struct capture_packet {
	__u32 magic;
	__u32 stream_id;
	__u8 uuid[16];
	/* packet context */
	__u64 timestamp_begin, timestamp_end;
	__u64 content_size; /* with this header, without padding at the last record's end */
	__u64 packet_size;  /* with what is behind the content */
	__u64 packet_seq_num;
	__u64 events_discarded; /* in the stream so far */
	__u32 cpu_id;           /* or number of the ring */
	__u32 unverified;       /* 1, or CAPTURE_PACKET_OPEN */
};

/* Nobody knows whether its records are its own: it has no content, no tail, and nothing is behind it. */
#define CAPTURE_PACKET_OPEN 2u

/* Behind the content, at a multiple of 8 bytes, where CTF does not look. */
struct capture_tail {
	__u64 position; /* in the ring, of the first record */
	__u64 base;     /* of short times */
	/* Lost, in events, before the first record. */
	__u64 overwritten, dropped, corrupt, unfinished;
	__u64 uncommitted; /* in bytes: reserved there by a process that died */
	__u64 before; /* overwritten before the reader came */
	__u32 schema; /* low half of the generation that the block was written under */
	__u32 nr_batches; /* that follow */
};

/* How it came. */
struct capture_batch {
	__u64 ordinal;
	__u64 arrival; /* host's CLOCK_MONOTONIC */
	__u64 asked;   /* what was due at this time had gone out before */
	__u32 len;     /* of the content */
	__u32 raised;  /* times that stepped back and were raised */
};

/* A record of CAPTURE_ODD, a multiple of 8 bytes with its payload. */
struct capture_odd {
	__u64 timestamp; /* CTF's: at most CAPTURE_TIME_MAX */
	__u64 time;
	__u16 id;
	__u16 flags; /* of the record's header */
	__u32 len;   /* of the payload, a multiple of 8 */
};

#define CAPTURE_TIME_MAX (1ULL << 61) /* with the clock's offset, readers count up to 2^63 ns */
#define CAPTURE_BODY_MAX (2u << 20)   /* of a packet */
#define CAPTURE_BATCHES_MAX 4096u     /* of a packet */

/* -------------------------------------------------------------------------------------- journal */

#define CAPTURE_MAGIC 0x31304e524a525448ULL /* "HTRJRN01" */
#define CAPTURE_VERSION 1

struct capture_journal {
	__u64 magic;
	__u32 version;
	__u32 size; /* of this header; entries follow */
};

/* Kinds as enum capture_kind; unknown ones are skipped. */
struct capture_entry {
	__u32 kind;
	__u32 len; /* of what follows, without the padding to 8 */
	__u64 ordinal, arrival, asked; /* as in struct capture_batch */
};

#define CAPTURE_START 1u /* struct capture_start and the source's path; the first entry */
#define CAPTURE_ENTRY_MAX (17u << 20)

/* In struct capture_start, of struct session_facts. */
#define CAPTURE_IS_LOCAL 1u
#define CAPTURE_IS_HOST 2u

struct capture_start {
	__u64 session;
	__u8 boot_id[16];
	__u8 uuid[16]; /* of the streams */
	__u64 begun_real, begun_mono; /* host time */
	__u32 clock_id, nr_cpus, facts, nr_sets;
	struct session_set set[HTRACE_MAX_RINGSETS];
};

/* CAPTURE_SCHEMA: this, then the entries. */
struct capture_schema {
	__u64 generation;
};

/* CAPTURE_BROKEN: this, then text. */
struct capture_broken {
	__u32 ring, reserved;
};

/* CAPTURE_GUEST: struct htrace_guest up to its clock samples, then this, then nr_progs of them. */
struct capture_guest {
	struct htrace_clock_sample clock; /* the latest; all zero: none */
};

/* ---------------------------------------------------------------------------------------- packed */

/*
 * NAME.zst: each CAPTURE_CHUNK bytes of NAME a frame of zstd, then one that zstd skips: where each of these
 * begins, and struct capture_pack_end.
 */
#define CAPTURE_PACKED ".zst"
#define CAPTURE_CHUNK (128u << 10)
#define CAPTURE_PACK_MOST (64ULL << 30) /* larger files are not packed */
#define CAPTURE_PACK_SKIPPED 0x184d2a50u
#define CAPTURE_PACK_MAGIC 0x3130504b43415048ULL /* "HPACKP01" */

struct capture_pack_end {
	__u64 raw; /* bytes of NAME */
	__u32 nr, chunk; /* frames, CAPTURE_CHUNK */
	__u64 magic;
};

/* ------------------------------------------------------------------------- what both sides share */

static inline void capture_dir_name(char *name, unsigned int source, unsigned int session, unsigned int part)
{
	snprintf(name, CAPTURE_NAME, part > 1 ? CAPTURE_PART : CAPTURE_DIR, source, session, part);
}

/* The file of a ring's stream of a kind. */
static inline void capture_stream_name(char *name, const struct session_facts *f, __u32 set,
				       __u32 index, __u32 kind)
{
	const char *what = f->set[set].kind == HTRACE_RING_PER_CPU ? "cpu" : "ring";
	char prefix[16] = "";

	if (set)
		snprintf(prefix, sizeof(prefix), "set%u-", set);
	snprintf(name, CAPTURE_NAME, "%s%s%u%s%s", prefix, what, index,
		 kind & CAPTURE_UNVERIFIED ? ".unverified" : "", kind & CAPTURE_ODD ? ".odd" : "");
}

#endif

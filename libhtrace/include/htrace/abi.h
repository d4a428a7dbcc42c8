/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * The shared-memory format of libhtrace: the one definition, for user space, BPF and kernel code.
 *
 * Everything is little-endian, of fixed width, and free of pointers. Each shared word says who
 * writes it, who reads it, and with which order. docs/format.md tells the same as prose.
 *
 * A *region* is what guest and host share (an ivshmem BAR, or a file or memfd on one machine).
 * A *ring image* is one ring with its descriptors; it lies in the region, or in guest RAM, where
 * the region's page runs say which guest-physical pages it consists of.
 */
#ifndef HTRACE_ABI_H
#define HTRACE_ABI_H

/* Before any other header: those of a 32-bit target may be missing, which says less. */
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "libhtrace's shared format is little-endian, this target is not: build for x86-64 or aarch64"
#endif
#if !defined(__bpf__) && defined(__SIZEOF_POINTER__) && __SIZEOF_POINTER__ != 8
#error "libhtrace needs 64-bit atomic words, 32-bit programs are not supported: build for x86-64 or aarch64"
#endif

#if !defined(__VMLINUX_H__) && !defined(__u64_defined)
#include <linux/types.h>
#endif

/* Major: readers refuse another one. Minor: additions that an older reader may ignore. */
#define HTRACE_ABI_MAJOR 1
#define HTRACE_ABI_MINOR 1

/* features_required: a ring set mirrors another (htrace_ringset.relays). */
#define HTRACE_FEATURE_RELAY 1ULL
/* Likewise, since 1.1: records may be packed (HTRACE_REC_PACKED). */
#define HTRACE_FEATURE_PACKED 2ULL
/* features_optional: producers ring if htrace_host.sync asks, as event_idx says. */
#define HTRACE_OPTIONAL_BELL 1ULL

#define HTRACE_CACHELINE 64

/*
 * Region layout. Areas that have different writers never share a granule, so that each side can
 * map what it only reads as read-only, with pages of 4, 16 or 64 KiB alike.
 */
#define HTRACE_GRANULE 65536ULL
#define HTRACE_SUPER_OFF 0ULL
#define HTRACE_HOST_OFF HTRACE_GRANULE            /* struct htrace_host, written by the host */
#define HTRACE_HOST_RINGS_OFF (2 * HTRACE_GRANULE) /* struct htrace_host_ring[], by the host */
#define HTRACE_FIXED_END (3 * HTRACE_GRANULE)      /* areas named by the superblock follow */
#define HTRACE_REGION_MIN (1ULL << 20)
#define HTRACE_REGION_MAX (1ULL << 40)

#define HTRACE_MAX_RINGSETS 4
#define HTRACE_MAX_RINGS 1024 /* of all ring sets together: slots in the host area */
#define HTRACE_MAX_CPUS 1024

#define HTRACE_MAGIC 0x3130454341525448ULL      /* "HTRACE01" */
#define HTRACE_HOST_MAGIC 0x3130545348525448ULL /* "HTRHST01" */

/* Where a ring set's images lie. */
enum htrace_placement {
	HTRACE_PLACEMENT_LOCAL = 1,   /* in the region, which is a file or memfd of this machine */
	HTRACE_PLACEMENT_IVSHMEM = 2, /* in the region, which is an ivshmem BAR */
	HTRACE_PLACEMENT_VSHMEM = 3,  /* in guest RAM: the page runs, in their order, are the space */
};

/* What a producer does that finds no free block. */
enum htrace_policy {
	HTRACE_DISCARD = 1,   /* drop the new record and count it */
	HTRACE_OVERWRITE = 2, /* take the oldest block (flight recorder) */
};

enum htrace_clock_id {
	HTRACE_CLOCK_MONOTONIC = 1, /* nanoseconds, CLOCK_MONOTONIC of the producing machine */
	HTRACE_CLOCK_TSC = 2,       /* ticks of the producing machine's invariant TSC */
};

struct htrace_area {
	__u64 off; /* from the region's start, a multiple of HTRACE_GRANULE */
	__u64 len;
};

/*
 * A set of rings of one geometry. Ring i's image begins at off + i * stride of the set's space and
 * its words in the host area are those of slot first_slot + i.
 */
struct htrace_ringset {
	__u32 placement; /* enum htrace_placement */
	__u32 policy;    /* enum htrace_policy */
	__u32 kind;      /* enum htrace_ring_kind */
	__u32 nr_rings;
	__u32 first_slot;
	__u32 ring_shift;  /* log2 of the data size */
	__u32 block_shift; /* log2 of the block size; at least 2 blocks a ring */
	__u32 desc_off;    /* of struct htrace_block[], from the image's start */
	__u32 data_off;    /* of the data, from the image's start */
	/*
	 * 0, or 1 + the number of the set whose rings these are mirrors of: same shape, same contents
	 * at the same positions, written by an agent. See htrace_ring.handover.
	 */
	__u32 relays;
	__u64 off;
	__u64 stride; /* at least data_off + ring size; what follows the data is slack */
};

enum htrace_ring_kind {
	HTRACE_RING_PER_CPU = 1,    /* ring i holds what happened on CPU i */
	HTRACE_RING_PER_THREAD = 2, /* rings are claimed by threads of user-space tracers */
};

/*
 * Superblock. Writer: the guest (local: whoever creates the region). Reader: the host.
 * Immutable while magic is set. To make a region anew the writer clears magic, fences, writes the
 * rest, and stores magic last (release). A reader loads magic (acquire), copies the rest once, and
 * takes the copy only if magic and session are unchanged after it.
 */
struct htrace_super {
	__u64 magic; /* HTRACE_MAGIC */
	__u16 version_major;
	__u16 version_minor;
	__u32 super_size; /* sizeof(struct htrace_super) of the writer; a reader takes what it knows */
	__u64 region_size;
	__u64 session;    /* random, not 0; another one whenever the region is made anew */
	__u8 boot_id[16]; /* of the producing kernel; zero if it has none */
	__u64 features_required; /* a reader refuses what it does not know */
	__u64 features_optional;
	__u32 clock_id;         /* enum htrace_clock_id */
	__u32 guest_page_shift; /* unit of the page runs */
	__u32 nr_cpus;
	__u32 nr_ringsets;
	struct htrace_area guest;  /* struct htrace_guest */
	struct htrace_area schema; /* struct htrace_schema_area */
	struct htrace_area names;  /* struct htrace_names */
	struct htrace_area runs;   /* struct htrace_runs; len 0 without a vshmem ring set */
	struct htrace_ringset ringset[HTRACE_MAX_RINGSETS];
};

/* ------------------------------------------------------------------ host area (host writes) */

enum htrace_host_state {
	HTRACE_HOST_NONE = 0,
	HTRACE_HOST_WAITING = 1,  /* a reader waits for a guest; the region may be all zero else */
	HTRACE_HOST_ATTACHED = 2, /* it reads the session named beside */
	HTRACE_HOST_REFUSED = 3,  /* it cannot read the session; reason says why */
	HTRACE_HOST_GONE = 4,     /* it ended properly */
};

/*
 * htrace_host.sync. 0: ring never. Else producers ring for records that pass event_idx: by the
 * device's doorbell, at peer 0 (the reader serves the device), at the vector given here; in a local
 * region by htrace_guest.bell.
 */
enum htrace_sync_word {
	HTRACE_SYNC_RING = 1,
	HTRACE_SYNC_VECTOR_SHIFT = 8, /* 16 bits; all others are 0, and not looked at */
};

enum htrace_host_reason {
	HTRACE_REASON_NONE = 0,
	HTRACE_REASON_NO_RAM = 1,     /* guest RAM cannot be mapped */
	HTRACE_REASON_UNVERIFIED = 2, /* no anchor was found where the page runs say */
	HTRACE_REASON_INVALID = 3,    /* the region's contents were refused */
	HTRACE_REASON_VERSION = 4,
};

/*
 * Host header, at HTRACE_HOST_OFF. Writer: the host's reader. Reader: the guest's agent, which
 * trusts none of it with more than its own sleep times. The host never reads it back.
 */
struct htrace_host {
	__u64 magic; /* HTRACE_HOST_MAGIC, stored last (release) */
	__u32 version_major;
	__u32 state;  /* enum htrace_host_state */
	__u64 session; /* the superblock's session that state speaks of */
	__u64 verified; /* == session: all anchors were found; direct placement is in use */
	__u32 reason;   /* enum htrace_host_reason */
	__u32 sync; /* how to wake the reader: enum htrace_sync_word (relaxed) */
	__u64 heartbeat;  /* incremented at least once a second (relaxed) */
	__u64 names_wanted; /* incremented when the names table should be written anew */
	__u64 drained;   /* == session: everything of a closing session was read */
	__u64 clock_ping; /* ping-pong of clocks: number of the host's question (release); 0: none */
	__u64 clock_tsc;  /* host's TSC before it was asked */
	__u64 command;    /* number of the latest command (release): struct htrace_control; 0: none yet */
	/*
	 * 0: the guest is told nothing of its exits. Else the ring at HTRACE_TOLD_OFF holds what it
	 * is told; another number whenever that began anew (release, after the ring was zeroed).
	 */
	__u64 telling;
	__u64 told_clock; /* the ring's clock when something was last put there (release) */
	__u64 reserved[2];
};

/*
 * What a host tells its guest of its own virtual CPUs: one ring of this fixed shape, behind the host
 * header in the same granule. Writer: the host's reader, which never reads it; reader: the guest.
 * Policy: overwrite. Times are ns since the host began to tell. Records say nothing of who else runs
 * on the host.
 */
#define HTRACE_TOLD_OFF (HTRACE_HOST_OFF + 4096)
#define HTRACE_TOLD_RING_SHIFT 15u
#define HTRACE_TOLD_BLOCK_SHIFT 11u
#define HTRACE_TOLD_DESC_OFF 256u
#define HTRACE_TOLD_DATA_OFF 4096u

enum htrace_told_id {
	HTRACE_TOLD_EXIT = 1,  /* struct htrace_told_exit, its time: when guest mode was left */
	HTRACE_TOLD_TOTAL = 2, /* struct htrace_told_total */
};

/* What the numbers of reasons are those of; as KVM's tracepoint has it. */
enum htrace_told_isa {
	HTRACE_ISA_VMX = 1, /* the basic exit reason, 16 bits */
	HTRACE_ISA_SVM = 2, /* the exit code */
};

#define HTRACE_TOLD_OTHER 0xfffffffeu /* in totals: reasons of numbers that are not told apart */

/* One exit, told when the virtual CPU is back. What is left of out_ns the host spent on the exit. */
struct htrace_told_exit {
	__u32 reason;
	__u16 vcpu; /* KVM's number of it (x86: the APIC id) */
	__u16 isa;  /* enum htrace_told_isa */
	__u64 out_ns; /* out of guest mode; of these: */
	__u64 preempted_ns; /* runnable, not running: another was put in its place */
	__u64 woken_ns;     /* runnable, not running: had slept, was woken, and waited for a CPU */
	__u64 slept_ns;     /* waited for what it was out for: an interrupt, the VMM's input or output */
};

/* All exits of a virtual CPU for one reason so far; of those that are not over, only the number. */
struct htrace_told_total {
	struct htrace_told_exit sum; /* its times added up */
	__u64 exits;
};

/*
 * Control: what a host asks of a running agent. Writer: who holds the lock of these bytes in the region's
 * file (fcntl(2), F_OFD_SETLK), while htrace_guest.answer is htrace_host.command; that is stored last. It
 * need not be the region's reader. Reader: the agent, once, into memory of its own, if it says so in
 * htrace_guest.control.
 */
#define HTRACE_CONTROL_OFF (HTRACE_HOST_OFF + 40960)
#define HTRACE_CONTROL_MAX 4032 /* bytes of a command */

struct htrace_control {
	__u32 len; /* of text, 1 ... HTRACE_CONTROL_MAX */
	__u32 reserved32;
	__u64 reserved[7];
	char text[HTRACE_CONTROL_MAX]; /* not terminated */
};

/*
 * One ring's words, at HTRACE_HOST_RINGS_OFF + 64 * slot. Writer: host, while its header names the
 * session. Reader: guest. Whoever makes a region anew zeroes them, before there is a magic.
 */
struct htrace_host_ring {
	/*
	 * Position up to which the ring was read (release): discard policy. Who retires a ring stores 0,
	 * when the host has said `drained`.
	 */
	__u64 consumed;
	/*
	 * Wake-up: the record that takes head from this position or before it to behind it rings, once
	 * it is committed. Who sleeps stores here where it has read to, fences, and looks again; who is
	 * busy leaves it behind head, and nobody rings.
	 */
	__u64 event_idx;
	__u64 exit_epoch; /* exits of the vCPU so far; odd while it is out of guest mode (release) */
	/*
	 * 1 + the generation of the ring's life that was read to its end after its owner had died
	 * (release); 0: none. A ring of a thread is used again only then.
	 */
	__u64 drained;
	__u64 reserved[4];
};

/* ---------------------------------------------------------------- guest areas (guest writes) */

enum htrace_guest_state {
	HTRACE_GUEST_NONE = 0,
	HTRACE_GUEST_RUNNING = 1,
	HTRACE_GUEST_CLOSING = 2, /* programs are detached; the rings can be read to their end */
	HTRACE_GUEST_CLOSED = 3,  /* ring memory is no longer the session's */
};

#define HTRACE_CLOCK_SAMPLES 64
#define HTRACE_MAX_PROGS 128
#define HTRACE_PROG_NAME 32

/*
 * Readings of one instant, as far as the writer could make it one. Of a region whose clock is not
 * CLOCK_MONOTONIC there are two before it is published, far enough apart to tell the clock's rate.
 */
struct htrace_clock_sample {
	__u64 tsc;   /* 0 where there is none */
	__u64 mono;  /* CLOCK_MONOTONIC, ns */
	__u64 real;  /* CLOCK_REALTIME, ns */
	__u64 width; /* TSC ticks between the reading before and the one after mono */
};

#define HTRACE_PROG_MISSES_COUNTED 1u /* the kernel counts what it skips of this program */

/* What one BPF program did, by the kernel's own counters. */
struct htrace_prog {
	char name[HTRACE_PROG_NAME];
	__u64 misses; /* calls that the kernel skipped (recursion_misses): events lost before us */
	__u64 runs;   /* run_cnt, where kernel.bpf_stats_enabled is set; else 0 */
	__u32 flags;
	__u32 reserved;
};

/*
 * Guest header. Writer: the agent (or the region's creator). Reader: the host, each word once.
 * Single words are independent (relaxed) unless said otherwise.
 */
struct htrace_guest {
	__u32 state; /* enum htrace_guest_state (release, after what it announces) */
	__u32 agent_pid;
	__u64 agent_starts;  /* agents that served this session: > 1 after one was adopted */
	__u64 heartbeat;     /* incremented every heartbeat_ms */
	__u64 heartbeat_mono; /* CLOCK_MONOTONIC at that time */
	__u32 heartbeat_ms;
	__u32 nr_progs;      /* valid entries of prog[] (release) */
	__u64 agent_cpu_ns;  /* CPU time that the agent used since its start */
	__u64 agent_start_mono; /* CLOCK_MONOTONIC at its start */
	__u64 names_served;  /* the host's names_wanted that the table answers */
	__u64 clock_head;    /* samples written so far (release); the last is [(head - 1) % 64] */
	__u64 clock_pong;    /* ping-pong of clocks: the question answered (release); 0: nobody answers */
	__u64 clock_tsc;     /* guest's TSC, read after the question was seen */
	__u64 answer;        /* the command that struct htrace_reply answers (release) */
	/* Of writers of samples among themselves: who is at it, pid namespace << 32 | pid; or 0. */
	__u64 clock_lock;
	__u64 agent_ns;      /* agent_pid's namespaces, as a ring's owner_ns; 0: not known */
	/*
	 * Local regions: a futex, not a private one. Who rings adds 1 (atomic, release) and wakes all who
	 * wait. The reader waits for it to change.
	 */
	__u32 bell;
	__u32 reserved32;
	__u64 control; /* what commands are taken: enum htrace_allow (release); 0: none, nobody answers */
	char release[64];  /* uname -r; bytes of any value, not necessarily terminated */
	char hostname[64]; /* uname -n; likewise */
	struct htrace_clock_sample clock[HTRACE_CLOCK_SAMPLES];
	struct htrace_prog prog[HTRACE_MAX_PROGS];
};

/* htrace_guest.control */
enum htrace_allow {
	HTRACE_CONTROL_TAKEN = 1, /* commands are answered; of these it does what the other bits allow: */
	HTRACE_ALLOW_EVENTS = 2,
	HTRACE_ALLOW_FILTERS = 4,
	HTRACE_ALLOW_SAMPLING = 8,
	HTRACE_ALLOW_FLUSH = 16,
};

enum htrace_reply_status {
	HTRACE_REPLY_DONE = 0,
	HTRACE_REPLY_FAILED = 1, /* nothing was changed; text says why */
	HTRACE_REPLY_DENIED = 2, /* likewise */
	HTRACE_REPLY_INVALID = 3, /* no command, or of a newer version; likewise */
	HTRACE_REPLY_LOST = 4, /* an agent before this one may have carried it out, and ended */
};

#define HTRACE_REPLY_OFF 12288 /* from the guest header's start, in its area */
#define HTRACE_REPLY_MAX (65536 - HTRACE_REPLY_OFF - 64)

/* Writer: the agent, before it stores htrace_guest.answer. Reader: who gave the command, once. */
struct htrace_reply {
	__u32 status; /* enum htrace_reply_status */
	__u32 len;    /* of text */
	__u64 next;   /* 0: this is all. Else where the list goes on: an argument for the next command */
	__u64 reserved[6];
	char text[HTRACE_REPLY_MAX]; /* any bytes, not terminated */
};

/* Task names that held at `time` (tasks that ran before tracing began). */
struct htrace_name {
	__u64 time; /* region clock: holds from then on */
	__u32 tid;
	__u32 tgid;
	char comm[16];
};

#define HTRACE_MAX_NAMES 262144u /* that a reader takes */

/* Writer: agent. generation is odd while the table is being written (seqlock). */
struct htrace_names {
	__u64 generation;
	__u32 nr;        /* entries that follow */
	__u32 truncated; /* tasks for which there was no room */
	__u64 reserved[6];
	/* struct htrace_name name[]; */
};

/* A guest-physically contiguous piece of the vshmem space. */
struct htrace_run {
	__u64 gpfn;     /* guest page frame number, unit 1 << guest_page_shift */
	__u64 nr_pages;
};

/* The 8 bytes at guest-physical address gpa hold nonce as long as the session owns its pages. */
struct htrace_anchor {
	__u64 gpa; /* a multiple of 8, within one of the runs */
	__u64 nonce; /* random, not 0 */
};

#define HTRACE_MAX_ANCHORS 4096
#define HTRACE_MAX_RUNS 65536

/* Written before the superblock's magic, then immutable. Anchors come first, then the runs. */
struct htrace_runs {
	__u32 nr_anchors;
	__u32 nr_runs;
	__u64 nr_pages; /* sum over the runs */
	__u64 reserved[6];
	/* struct htrace_anchor anchor[]; struct htrace_run run[]; */
};

/* ----------------------------------------------------------------------------------- beacon */

#define HTRACE_BEACON_MAGIC 0x31304e4342525448ULL /* "HTRBCN01" */
#define HTRACE_BEACON_TABLES 64
#define HTRACE_BEACON_REGION (8ULL << 20) /* bytes of a region that has one */

/*
 * At the beginning of a page of guest RAM: where a region that no device holds lies there. Writer: the agent, magic
 * last (release), and cleared before anything that it tells of is given back. Reader: a host that looks for it in
 * the guest's memory, by copies.
 */
struct htrace_beacon {
	__u64 magic; /* HTRACE_BEACON_MAGIC */
	__u64 inverse; /* its complement */
	__u64 gpa;   /* guest-physical address of this page */
	__u64 session; /* the region's; not 0 */
	__u64 region_size; /* HTRACE_BEACON_REGION */
	__u32 page_shift; /* of the guest: 12 ... 16 */
	__u32 nr_tables;
	__u64 sum; /* FNV-1a, of 64-bit words instead of bytes: of this struct, with magic and sum 0 */
	__u64 reserved;
	/*
	 * Guest page frame numbers of the tables: pages of __u64, which are the frame numbers of the region's
	 * pages in their order.
	 */
	__u64 table[HTRACE_BEACON_TABLES];
};

/* ------------------------------------------------------------------------------- schema area */

/*
 * The schema: a header and a sequence of entries that only ever grows within a session. An entry
 * is a struct htrace_schema_entry, then its fixed part, then its members; len covers it all.
 * Entries refer to types by number, only to ones that were declared before.
 */
struct htrace_schema_area {
	__u64 generation; /* incremented after entries were added (release) */
	__u32 bytes;      /* length of the entries, a multiple of 8; written before generation */
	__u32 reserved0;
	__u64 reserved[6];
	/* entries */
};

#define HTRACE_NAME_MAX 64 /* with the terminating NUL: [A-Za-z_][A-Za-z0-9_]{0,62} */
#define HTRACE_SCHEMA_MAX (16u << 20)
#define HTRACE_MAX_TYPES 65536
#define HTRACE_MAX_EVENTS 60000
#define HTRACE_MAX_DEPTH 8      /* of nested types */
#define HTRACE_MAX_FIELDS 4096  /* of an event, arrays of structs expanded */
/* Bytes that decoding one record may touch: members of unions lie over each other and add up. */
#define HTRACE_MAX_EXPANDED (8 * HTRACE_REC_MAX)

enum htrace_schema_kind {
	HTRACE_SCHEMA_TYPE = 1,
	HTRACE_SCHEMA_EVENT = 2,
	HTRACE_SCHEMA_FILTER = 3,
	HTRACE_SCHEMA_SYMBOLS = 4,
	HTRACE_SCHEMA_MAPPING = 5,
};

enum htrace_type_kind {
	HTRACE_TYPE_INT = 1,    /* size 1, 2, 4, 8 (16: bytes are shown in hex) */
	HTRACE_TYPE_ENUM = 2,   /* size 1, 2, 4, 8; members name values */
	HTRACE_TYPE_ARRAY = 3,  /* nr elements of type ref; nr 0: to the end of the record */
	HTRACE_TYPE_STRING = 4, /* size bytes of text, NUL-terminated if shorter; 0: to the end */
	HTRACE_TYPE_STRUCT = 5, /* members in order of offset, not overlapping */
	HTRACE_TYPE_UNION = 6,  /* members, all at offset 0 */
};

/* How an integer wants to be shown. */
enum htrace_hint {
	HTRACE_HINT_NONE = 0,
	HTRACE_HINT_HEX = 1,
	HTRACE_HINT_POINTER = 2,
	HTRACE_HINT_TID = 3,     /* a task: its name is looked up at the record's time */
	HTRACE_HINT_SYSCALL = 4, /* a system call number of the producing kernel (x86-64) */
	HTRACE_HINT_BOOL = 5,
	HTRACE_HINT_CHAR = 6,
	HTRACE_HINT_TASK_STATE = 7, /* as sched_switch's prev_state */
	HTRACE_HINT_FLOAT = 8, /* reserved */
	HTRACE_HINT_STACK_KERNEL = 9, /* u64: a stack's id, as in struct htrace_stack; 0: none */
	HTRACE_HINT_STACK_USER = 10,
};

#define HTRACE_TYPE_SIGNED 1u

struct htrace_schema_entry {
	__u16 kind; /* enum htrace_schema_kind */
	__u16 reserved;
	__u32 len; /* bytes with this header, a multiple of 8 */
};

struct htrace_schema_type {
	struct htrace_schema_entry entry;
	__u32 type; /* this type's number: 1, 2, 3, ... in order of declaration */
	__u16 kind; /* enum htrace_type_kind */
	__u8 hint;  /* enum htrace_hint */
	__u8 flags;
	/*
	 * Bytes. Array, string: 0 if it reaches to the end of the record; only the last member of an
	 * event's struct may, and the struct's size then is that of C, without it.
	 */
	__u32 size;
	__u32 ref;  /* array: the element's type */
	__u32 nr;   /* array: elements; struct, union, enum: members that follow */
	__u32 reserved;
	char name[HTRACE_NAME_MAX]; /* may be empty */
	/* struct, union: struct htrace_schema_member[nr]; enum: struct htrace_schema_value[nr] */
};

struct htrace_schema_member {
	__u32 type;
	__u32 bit_off;  /* from the start of the struct */
	__u32 bit_size; /* 0: whole type, byte-aligned; else a bit-field of an integer or enum */
	__u32 reserved;
	char name[HTRACE_NAME_MAX];
};

struct htrace_schema_value {
	__s64 value;
	char name[HTRACE_NAME_MAX];
};

struct htrace_schema_event {
	struct htrace_schema_entry entry;
	__u32 id;   /* record id, 1 ... HTRACE_MAX_EVENTS, unique in the session */
	__u32 type; /* a struct */
	__u32 flags;
	__u32 reserved;
	char name[HTRACE_NAME_MAX];
};

#define HTRACE_FILTER_TEXT_MAX 4096 /* without its NUL */
#define HTRACE_FILTER_IN_GUEST 1u   /* records that do not match are not in the rings */

/*
 * Which records are wanted (grammar: filter.h). The last entry with id 0 holds, for all events, from
 * when a reader finds it; empty text: no filter. Entries behind it say what is special of an event.
 */
struct htrace_schema_filter {
	struct htrace_schema_entry entry;
	__u32 id;    /* 0: all events; else an event that was declared before */
	__u32 flags; /* of one event: HTRACE_FILTER_IN_GUEST */
	/* char text[], NUL-terminated; of one event: empty */
};

/* ------------------------------------------------------------------------------------- stacks */

/*
 * Events of this name say what a stack's id stands for. They come before the first record that
 * names the stack, and again from time to time. Nothing but this layout is told of them.
 */
#define HTRACE_STACK_EVENT "htrace_stack"
#define HTRACE_STACK_FRAMES 127
#define HTRACE_STACK_FILE_FRAMES 120

enum htrace_stack_kind {
	HTRACE_STACK_KERNEL = 1, /* u64 addresses, innermost first */
	HTRACE_STACK_USER = 2,   /* likewise, of process pid */
	HTRACE_STACK_USER_FILES = 3, /* the same stack as struct htrace_stack_file_frame[] */
};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic" /* word[] is none of C++, but of all its compilers */
struct htrace_stack {
	__u64 id;
	__u32 pid; /* of the process; 0: the kernel's */
	__u16 kind; /* enum htrace_stack_kind; an unknown one is ignored */
	__u16 nr; /* frames */
	__u64 word[];
};
#pragma GCC diagnostic pop

enum htrace_frame_status {
	HTRACE_FRAME_NONE = 0,
	HTRACE_FRAME_FILE = 1,    /* build_id and offset hold */
	HTRACE_FRAME_ADDRESS = 2, /* offset is the address */
};

/* As the kernel's struct bpf_stack_build_id. */
struct htrace_stack_file_frame {
	__s32 status; /* enum htrace_frame_status */
	__u8 build_id[20]; /* shorter ones end in zeros */
	__u64 offset; /* in the file */
};

#define HTRACE_SYMBOLS_MAX (16u << 20) /* bytes of lines, of all entries of a session */

/*
 * Functions of the producing kernel. Unpacked (zlib) these are lines "DISTANCE NAME" or
 * "DISTANCE NAME MODULE": the address' distance from the line before (the first: from 0), in
 * hexadecimal without 0x. Later entries add to earlier ones.
 */
struct htrace_schema_symbols {
	struct htrace_schema_entry entry;
	__u32 raw;    /* bytes of lines */
	__u32 packed; /* bytes that follow, padding not counted */
};

/* Code that a process has mapped: where, and from which file. */
struct htrace_schema_mapping {
	struct htrace_schema_entry entry;
	__u32 pid;
	__u32 reserved;
	__u64 start, end;
	__u64 offset; /* of start in the file */
	__s64 bias;   /* address in the file's symbols = offset in the file + bias */
	__u8 build_id[20]; /* zero: none */
	__u32 reserved2;
	/* the path, to its NUL */
};

/* --------------------------------------------------------------------------------------- ring */

/*
 * Header of a ring image. Positions are 64-bit byte counts that run freely and are never masked
 * in memory. A line has one kind of writer and one rate of writing.
 */
struct htrace_ring {
	/* Line 0. Writers: producers (CAS, full order). Reader: consumer (acquire). */
	__u64 head; /* bytes reserved so far */
	/* Producers' own, of packed records: nobody else looks, and mirrors do not have them. See pack.h. */
	__u64 packed_block; /* 1 + start of the block that the basis is in; 0: there is none */
	__u64 packed_time;  /* the basis' time */
	__u64 packed_next;  /* its next_tid, and << 32 its next_prio's 16 bits */
	__u64 pad0[4];
	/* Line 1. Writers: producers (atomic add). Reader: consumer (acquire). */
	__u64 dropped; /* events dropped so far, for whatever reason */
	__u64 refused; /* of these: too large, or of an id that no event has */
	__u64 pad1[6];
	/*
	 * Line 2. vshmem: the agent forwards the host's consumed here (release); producers read it
	 * (acquire). In a region the producers read the host area's word itself instead.
	 */
	__u64 consumed;
	__u64 pad2[7];
	/* Line 3. Writer: whoever made the ring, before the region's magic. Reader: consumer. */
	__u64 anchor; /* vshmem: the nonce of this page's anchor; 0 when the ring was given up */
	__u32 index;  /* of the ring in its set */
	__u32 cpu;    /* per-CPU rings */
	/*
	 * Per-thread rings, else 0; docs/format.md ("Owners") has the life of these words. Writers:
	 * threads of producers (owner by CAS, its last store by release; the others while owner says
	 * that the ring is being taken). Readers: they, and the consumer (owner acquire, then others).
	 */
	__u64 owner;       /* pid << 32 | tid, and HTRACE_OWNER_*; 0: free */
	__u64 owner_start; /* the owner's start time in clock ticks since boot; 0: not known */
	__u64 generation;  /* incremented whenever positions and counters begin anew at 0 */
	/*
	 * Mirrors only. 0: the mirror is being written. Else 1 + the position up to which it is, and
	 * from which on the mirrored ring itself is to be read. Writer: agent (release, after the last
	 * commit word). Reader: consumer (acquire).
	 */
	__u64 handover;
	/* The owner's pid namespace, and << 32 its time namespace (inode numbers); 0: not known. */
	__u64 owner_ns;
	__u64 pad3[1];
};

/*
 * Bits of htrace_ring.owner. While a ring is being taken, the low half is not the taker's tid but
 * its pid namespace, so that whether it died in between can be judged from this word alone.
 */
#define HTRACE_OWNER_CLOSED (1ULL << 63)   /* its process died: nobody produces any more */
#define HTRACE_OWNER_RETIRING (1ULL << 62) /* being taken, after its contents were zeroed */
#define HTRACE_OWNER_TAKING (1ULL << 61)   /* being taken, as it is */
#define HTRACE_OWNER_PID_MAX (1u << 22)
#define HTRACE_OWNER_PID(owner) ((__u32)((owner) >> 32) & 0x1fffffffu)

/*
 * Descriptor of one block: 64 bytes. Lap n of slot i holds the positions from
 * n * ring size + i * block size on.
 */
struct htrace_block {
	/*
	 * Writers: producers (atomic add, release). Reader: consumer (acquire).
	 * Cumulative over laps: (events << 32) + bytes, where bytes is the full 64-bit count, so
	 * events = (commit - bytes) >> 32, modulo 2^32.
	 */
	__u64 commit;
	/* Writer: opener of the *next* block, before it adds the padding to commit. */
	__u64 end;     /* position after the last record */
	__u64 t_end;   /* time of the record that closed the block, >= all in it but for NMIs */
	__u64 dropped; /* ring's dropped when the block was closed */
	/* Writer: opener of this block, after its CAS and a full fence, before its own commit. */
	__u64 base;          /* time of the first record: base of the short form */
	__u64 events_before; /* events in this slot in all earlier laps */
	__u64 beg;           /* position of the block's start */
	__u32 schema;        /* schema generation (low 32 bits) that the opener wrote under */
	__u32 reserved;
};

/*
 * Record: an 8-byte header in one store, for an extended record 8 bytes of full time, the payload,
 * zero to seven bytes of padding. Records are 8-byte aligned and do not cross blocks.
 *
 * Header, from bit 0: id (16), length in bytes with header and padding (16, multiple of 8, the low
 * three bits are flags), low 32 bits of the time (32).
 *
 * Short form: time = base + (__s32)(low - (__u32)base), for base - 2^30 <= time < base + 2^31.
 */
#define HTRACE_REC_HDR 8u
#define HTRACE_REC_EXTENDED 1u /* flag: 8 bytes of full time follow the header */
#define HTRACE_REC_FLAGS 7u
#define HTRACE_REC_MAX 65528u

/*
 * Packed: a switch of tasks in 8 or 16 bytes. The flag says so of the first 8; the other bits are no header then, but, from
 * bit 0: code of prev_state (4), next_prio + 1 (8), low bits of next_tid (6), the flag (1), high bits of next_tid (16),
 * distance of the time (29). With the distance HTRACE_PACKED_FAR the full time follows in 8 bytes more.
 *
 * What is not there is the basis': the record before it in the same block that is packed, or has the flag HTRACE_REC_BASIS
 * and a payload that begins as struct htrace_switch. Its id, its next_tid and next_prio as prev_tid and prev_prio, and its
 * time, to which the distance is added. Who reads makes a record of it as it would be without.
 */
#define HTRACE_REC_BASIS 2u  /* flag */
#define HTRACE_REC_PACKED 4u /* flag */
#define HTRACE_PACKED_FAR 0x1fffffffULL
#define HTRACE_PACKED_TIDS (1u << 22)

/* The only payload that is packed. */
struct htrace_switch {
	__u32 prev_tid;
	__u32 next_tid;
	__s16 prev_prio;
	__s16 next_prio;
	__u32 prev_state;
};

/* Closes a block behind its last record: id HTRACE_ID_PAD, length 0, low half of end as the time. */
#define HTRACE_ID_PAD 0xffffu

#define HTRACE_BLOCK_SHIFT_MIN 9u  /* blocks of 512 bytes */
#define HTRACE_BLOCK_SHIFT_MAX 20u
#define HTRACE_RING_SHIFT_MAX 40u
#define HTRACE_MAX_BLOCKS 65536u /* in a ring */

#endif /* HTRACE_ABI_H */

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the small guest l2.c and its VMM, ../l2vmm.c, agree upon. */
#ifndef TESTS_L2_H
#define TESTS_L2_H

#include <htrace/ring.h>

#include "../mailbox.h"
#include "disk.h"

/* Guest-physical addresses, mapped one to one: 2 MiB of RAM, and the region's file. */
#define L2_RAM_SIZE 0x200000
#define L2_PAGE_TABLES 0x1000 /* six pages */
#define L2_GDT 0x7000
#define L2_CODE 0x10000
#define L2_CODE_SIZE 0x10000
#define L2_CPUS 0x80000   /* struct l2_cpu, a page each */
#define L2_STACKS 0x100000 /* L2_STACK_SIZE each */
#define L2_STACK_SIZE 0x10000
#define L2_MAX_CPUS 9
#define L2_REGION 0x40000000UL
#define L2_MAILBOX 0x50000000UL /* struct mailbox, if there is one */
#define L2_MMIO 0xfe000000UL /* nothing is there: each access is an exit */

#define L2_CS 8
#define L2_DS 16
#define L2_VECTOR 0x20

#define L2_MSR_EOI 0x80b
#define L2_MSR_SPURIOUS 0x80f
#define L2_MSR_LVT_TIMER 0x832
#define L2_MSR_LVT_ERROR 0x837
#define L2_LVT_MASKED (1 << 16)
#define L2_MSR_DEADLINE 0x6e0
#define L2_MSR_NONE 0xdead0000 /* there is none of that number */

#define L2_PORT_WORK 0x10
#define L2_PORT_DONE 0x11
#define L2_PORT_FAULT 0x12 /* an exception came: see l2_cpu.fault */
#define L2_PORT_BELL 0x13  /* an eventfd of the VMM, L2_BELL_FD: the exit ends in the kernel */
#define L2_BELL_FD 100
#define L2_HYPERCALL 1000 /* KVM knows none of this number, and says so */

/* By <htrace/hypercall.h>: with one round's number, its check and its complement; in several parts; and what is none. */
#define L2_EVENT_SHORT 7
#define L2_EVENT_LONG 65535
#define L2_EVENT_BYTES 60 /* of the second: byte i of round n is n + i */
#define L2_EVENT_EACH 4   /* rounds have one of those, and then */
#define L2_EVENT_WRONG 9  /* one of these, with part 1 of 24 bytes */

/* The first word of a message is its time, by which the host knows it. */
#define L2_MESSAGE_MOST 16384
#define L2_RECORD_MOST 4096

/* How a virtual CPU leaves guest mode after each round of records. */
enum l2_work {
	L2_IO,
	L2_MMIO_WRITE,
	L2_HLT,       /* and is woken by an interrupt */
	L2_CPUID,
	L2_VMCALL,
	L2_INTERRUPT, /* not by itself: the VMM interrupts it; with an APIC it waits for that */
	L2_BUSY,      /* not by itself, at all */
	L2_USE_DISK,  /* a request of its disk, until it is complete */
	L2_READ,      /* a port; the VMM answers how often it was asked */
	L2_MMIO_READ, /* likewise */
	L2_MSR,       /* written and read back; now and then one that is not there */
	L2_TIMER,     /* arms its local APIC's, and halts until that has interrupted */
	L2_ANSWER,    /* likewise, then answers what it finds in its mailbox, as long as more comes */
	L2_EVENT,     /* hypercalls that are events; if there is l2_cpu.bytes, one message of so many */
	L2_RECORD,    /* not by itself: a message in the ring, in records of L2_RECORD_MOST */
};

struct l2_record {
	__u64 seq;
	__u64 check; /* l2_check() */
	__u32 cpu;
	__u32 work;
	/*
	 * Of l2_record: the exits made on purpose before it. Of l2_interrupt: the interrupts taken, with its own.
	 * Of l2_armed: the time that the timer is about to be set to. Of l2_seen: the number from the mailbox.
	 */
	__u64 value;
	__u64 at; /* the record's own time, as the guest read it */
};

static inline __u64 l2_check(__u64 seq, __u32 cpu)
{
	return (seq + 1) * 0x9e3779b97f4a7c15ULL ^ cpu;
}

/* Eight to an octave. */
#define L2_BUCKETS 512

static inline __u32 l2_bucket(__u64 ticks)
{
	int octave;

	if (ticks < 8)
		return (__u32)ticks;
	octave = 63 - __builtin_clzll(ticks);
	return (__u32)(octave - 2) * 8 + (__u32)(ticks >> (octave - 3) & 7);
}

/* Nothing in the guest raises one: said, as nobody could tell much from a triple fault. */
struct l2_fault {
	__u64 vector, error, rip, rsp, cr2;
};

/* One virtual CPU's orders and account. */
struct l2_cpu {
	__u64 self; /* this struct's own address, at %gs:0 */
	/* from the VMM */
	__u64 ring;     /* addresses in the guest */
	__u64 consumed;
	__u64 event_idx, sync; /* of the host, or the two below; 0: nobody is to be woken */
	__u64 ping, pong, pong_tsc; /* likewise: the reader's question for the TSC, and what answers it; or 0 */
	__u64 waits_at;
	__u64 plain;    /* instead of records: as much is stored here, where nobody reads; or 0 */
	__u32 listens;
	struct htrace_geometry geometry;
	__u32 cpu;
	__u32 work;    /* enum l2_work */
	__u32 event, irq_event, armed_event, seen_event; /* ids; the second of records that the interrupt handler makes */
	__u64 rounds;
	__u32 records; /* a round */
	__u32 bytes;   /* of a message */
	__u32 pause;   /* turns of an empty loop between two rounds */
	__u64 period;  /* ticks of the TSC between two rounds' beginnings, unless they take longer; or 0 */
	__u32 intel;   /* which instruction is the hypercall */
	__u32 apic;    /* it has a local one, in x2APIC mode */
	__u32 ticks;   /* records have the TSC's time */
	__u32 halts_for_irq; /* who waits for an interrupt of the VMM; or turns an empty loop */
	__u64 delay;   /* of the timer, in ticks of the TSC */
	/* CLOCK_MONOTONIC of the VMM's machine = ns_at + ((tsc - tsc_at) * mult >> 32) */
	__u64 tsc_at, ns_at, mult;
	/* from the guest */
	__u64 seq;     /* records written */
	__u64 irqs;    /* interrupts taken */
	__u64 irq_seq; /* records of them; none is made where there is no room */
	__u64 made;    /* exits made on purpose; of two, an MSR's write and read, or a timer and its wait */
	__u64 armed;   /* timers, each with a record */
	__u64 number;  /* the latest in the mailbox */
	__u64 ponged;  /* the latest question for the TSC */
	__u64 seen;    /* numbers in the mailbox, each with a record, before its answer */
	__u64 halts;   /* HLT instructions, but those of hlt's */
	__u64 msrs, eois; /* instructions RDMSR and WRMSR; the second: the interrupt handler's */
	__u64 refused; /* of the first, by a general protection exception */
	__u64 bells;   /* rung */
	__u64 rang;    /* the latest record for which it rang: its l2_record.at; written before that */
	__u64 wrong;   /* reads that gave something else than they should have */
	__u64 waited;  /* turns in which the reader had left no room */
	__u64 events;  /* by hypercall */
	__u32 took[L2_BUCKETS]; /* rounds, by what a record took of the TSC: see l2_bucket() */
	struct l2_disk disk;
	struct l2_fault fault;
};

#endif

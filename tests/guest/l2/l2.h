/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the small guest l2.c and its VMM, ../l2vmm.c, agree upon. */
#ifndef TESTS_L2_H
#define TESTS_L2_H

#include <htrace/ring.h>

/* Guest-physical addresses, mapped one to one: 2 MiB of RAM, and the region's file. */
#define L2_RAM_SIZE 0x200000
#define L2_PAGE_TABLES 0x1000 /* six pages */
#define L2_GDT 0x7000
#define L2_CODE 0x10000
#define L2_CODE_SIZE 0x10000
#define L2_CPUS 0x80000   /* struct l2_cpu, a page each */
#define L2_STACKS 0x100000 /* L2_STACK_SIZE each */
#define L2_STACK_SIZE 0x10000
#define L2_MAX_CPUS 8
#define L2_REGION 0x40000000UL
#define L2_MMIO 0xfe000000UL /* nothing is there: each access is an exit */

#define L2_CS 8
#define L2_DS 16
#define L2_VECTOR 0x20

#define L2_PORT_WORK 0x10
#define L2_PORT_DONE 0x11
#define L2_PORT_FAULT 0x12 /* an exception came: see l2_cpu.fault */
#define L2_PORT_BELL 0x13  /* an eventfd of the VMM, L2_BELL_FD: the exit ends in the kernel */
#define L2_BELL_FD 100
#define L2_HYPERCALL 1000 /* KVM knows none of this number, and says so */

/* How a virtual CPU leaves guest mode after each round of records. */
enum l2_work {
	L2_IO,
	L2_MMIO_WRITE,
	L2_HLT,       /* and is woken by an interrupt */
	L2_CPUID,
	L2_VMCALL,
	L2_INTERRUPT, /* not by itself: the VMM interrupts it */
	L2_BUSY,      /* not by itself, at all */
};

struct l2_record {
	__u64 seq;
	__u64 check; /* l2_check() */
	__u32 cpu;
	__u32 work;
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
	__u64 event_idx, sync; /* of the host; 0: nobody is to be woken */
	struct htrace_geometry geometry;
	__u32 cpu;
	__u32 work;    /* enum l2_work */
	__u32 event, irq_event; /* ids; the second of records that the interrupt handler makes */
	__u64 rounds;
	__u32 records; /* a round */
	__u32 pause;   /* turns of an empty loop between two rounds */
	__u64 period;  /* ticks of the TSC between two rounds' beginnings, unless they take longer; or 0 */
	__u32 intel;   /* which instruction is the hypercall */
	/* CLOCK_MONOTONIC of the VMM's machine = ns_at + ((tsc - tsc_at) * mult >> 32) */
	__u64 tsc_at, ns_at, mult;
	/* from the guest */
	__u64 seq;     /* records written */
	__u64 irqs;    /* interrupts taken */
	__u64 irq_seq; /* records of them; none is made where there is no room */
	__u64 made;    /* exits made on purpose */
	__u64 waited;  /* turns in which the reader had left no room */
	__u32 took[L2_BUCKETS]; /* rounds, by what a record took of the TSC: see l2_bucket() */
	struct l2_fault fault;
};

#endif

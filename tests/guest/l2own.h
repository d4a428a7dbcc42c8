/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Of l2vmm.c: a guest that is a machine of its own, as one with an operating system is. Its TSC is another than
 * ours, by an offset that KVM knows; it has a boot of its own, a CLOCK_MONOTONIC that goes as fast as it
 * thinks that a second is, and local APICs, which KVM emulates.
 */
#ifndef TESTS_L2OWN_H
#define TESTS_L2OWN_H

#include <stdbool.h>

#include <htrace/producer.h>

#include "l2/l2.h"

/* For KVM: its TSC less ours. It is near 0 when this is called first, as after a reset. */
__u64 l2own_tsc_offset(void);
/* Its clock, of a TSC of @khz by KVM's account. */
void l2own_clock(struct l2_cpu *c, unsigned int khz);
/* Before virtual CPUs are made. */
void l2own_apic(int vm);
/* What @path has is struct mailbox at L2_MAILBOX. */
void l2own_mailbox(int vm, const char *path);
/* Of one: before it runs. */
void l2own_start(int vcpu);
/*
 * Of all: before they run. KVM patches its code a second after an APIC is switched on, which an emulated machine
 * survives if no virtual CPU runs meanwhile (tools/README.md).
 */
void l2own_settle(void);
/* False: its APIC is not on yet. */
bool l2own_interrupt(int vm, __u32 cpu);
/* The region in @mem, not published yet: it is that machine's, and so will be all samples of its clocks. */
void l2own_region(void *mem, struct htrace_region *r, const struct l2_cpu *c);
/* In place of htrace_region_beat(). */
void l2own_beat(struct htrace_region *r, const struct l2_cpu *c);
/* Sleeps until virtual CPU @c, which is about to run, rings; again and again, in a thread. */
void l2own_listen(struct htrace_region *r, struct l2_cpu *c);
/*
 * The listening ends. Prints for whom it rang when that woke, and, for who wants to know without asking KVM, what our CLOCK_MONOTONIC
 * was when its records' clock was what.
 */
void l2own_report(const struct l2_cpu *c);

#endif

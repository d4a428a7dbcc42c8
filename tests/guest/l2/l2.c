/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest without an operating system: each virtual CPU writes numbered records into its ring, by
 * the library's own header, and leaves guest mode in one way, a known number of times.
 *
 * It drops nothing: where a record could find no room it waits for the reader first.
 */
#include "l2.h"

static inline struct l2_cpu *self(void)
{
	struct l2_cpu *c;

	__asm__("movq %%gs:0, %0" : "=r"(c));
	return c;
}

static inline void outb(__u16 port, __u8 value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline __u64 now(const struct l2_cpu *c)
{
	__u32 low, high;
	__u64 ticks;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	ticks = ((__u64)high << 32 | low) - c->tsc_at;
	return c->ns_at + (__u64)((unsigned __int128)ticks * c->mult >> 32);
}

/* Are @blocks and what is left of the present one free? */
static int has_room(const struct l2_cpu *c, __u64 blocks)
{
	const struct htrace_ring *r = (const struct htrace_ring *)c->ring;
	__u64 most = c->geometry.ring_mask + 1 - ((blocks + 1) << c->geometry.block_shift);

	return htrace_load(&r->head) - htrace_load_acquire((const __u64 *)c->consumed) <= most;
}

/* One block for this record, the other for the interrupt handler's. */
static void wait_for_room(struct l2_cpu *c)
{
	while (!has_room(c, 2)) {
		c->waited++;
		__asm__ volatile("pause" ::: "memory");
	}
}

static void push(struct l2_cpu *c, __u32 event, __u64 seq)
{
	struct htrace_slot slot;
	struct l2_record *r = (struct l2_record *)htrace_reserve(
		(struct htrace_ring *)c->ring, &c->geometry, (const __u64 *)c->consumed, event,
		sizeof(*r), 1, now(c), &slot);

	if (!r)
		return; /* the test misses it */
	r->seq = seq;
	r->check = l2_check(seq, c->cpu);
	r->cpu = c->cpu;
	r->work = c->work;
	htrace_commit(&slot);
}

struct frame;

/* May come between any two instructions of push(), and is a producer of the same ring. */
__attribute__((interrupt)) static void on_interrupt(struct frame *frame)
{
	struct l2_cpu *c = self();

	(void)frame;
	c->irqs++;
	if (!has_room(c, 1))
		return;
	push(c, c->irq_event, c->irq_seq);
	c->irq_seq++;
}

struct gate {
	__u16 low, selector;
	__u16 flags, mid;
	__u32 high, reserved;
};

static void allow_interrupts(void)
{
	static struct gate idt[L2_VECTOR + 1];
	struct __attribute__((packed)) {
		__u16 limit;
		__u64 base;
	} idtr = { sizeof(idt) - 1, (__u64)idt };
	__u64 at = (__u64)on_interrupt;

	/* All virtual CPUs write the same. */
	idt[L2_VECTOR] = (struct gate){
		.low = (__u16)at, .selector = L2_CS, .flags = 0x8e00, .mid = (__u16)(at >> 16),
		.high = (__u32)(at >> 32),
	};
	__asm__ volatile("lidt %0; sti" ::"m"(idtr) : "memory");
}

static void leave(struct l2_cpu *c)
{
	__u64 a = 0, d, cx = 0;

	switch (c->work) {
	case L2_IO:
		outb(L2_PORT_WORK, (__u8)c->made);
		break;
	case L2_MMIO_WRITE:
		*(volatile __u32 *)L2_MMIO = (__u32)c->made;
		break;
	case L2_HLT:
		__asm__ volatile("hlt" ::: "memory");
		break;
	case L2_CPUID:
		__asm__ volatile("cpuid" : "+a"(a), "+c"(cx), "=d"(d)::"rbx", "memory");
		break;
	case L2_VMCALL:
		a = L2_HYPERCALL;
		if (c->intel)
			__asm__ volatile("vmcall" : "+a"(a)::"memory");
		else
			__asm__ volatile("vmmcall" : "+a"(a)::"memory");
		break;
	default:
		return;
	}
	c->made++;
}

__attribute__((noreturn, section(".text.start"))) void _start(void)
{
	struct l2_cpu *c = self();

	allow_interrupts();
	for (__u64 round = 0; round < c->rounds; round++) {
		for (__u32 i = 0; i < c->records; i++) {
			wait_for_room(c);
			push(c, c->event, c->seq);
			c->seq++;
		}
		for (__u32 i = 0; i < c->pause; i++)
			__asm__ volatile("pause" ::: "memory");
		leave(c);
	}
	for (;;)
		outb(L2_PORT_DONE, 0);
}

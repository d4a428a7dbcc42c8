/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest without an operating system: each virtual CPU writes numbered records into its ring, by
 * the library's own header, and leaves guest mode in one way, a known number of times.
 *
 * It drops nothing: where a record could find no room it waits for the reader first.
 */
#include "l2.h"

#include <htrace/clock.h>
#include <htrace/hypercall.h>

#include "record.h"

#define PATIENCE 2000 /* looks at the mailbox */

static inline struct l2_cpu *self(void)
{
	struct l2_cpu *c;

	__asm__("movq %%gs:0, %0" : "=r"(c));
	return c;
}

static inline __u32 inl(__u16 port)
{
	__u32 value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
	return value;
}

static inline void write_msr(__u32 msr, __u64 value)
{
	__asm__ volatile("wrmsr" ::"c"(msr), "a"((__u32)value), "d"((__u32)(value >> 32)) : "memory");
}

/* As it was if there is none: see on_refusal(). */
static inline __u64 read_msr(__u32 msr, __u64 otherwise)
{
	__u32 low = (__u32)otherwise, high = (__u32)(otherwise >> 32);

	__asm__ volatile("rdmsr" : "+a"(low), "+d"(high) : "c"(msr) : "memory");
	return (__u64)high << 32 | low;
}

#include "disk_driver.h"

struct frame;

/* May come between any two instructions of push(), and is a producer of the same ring. */
__attribute__((interrupt)) static void on_interrupt(struct frame *frame)
{
	struct l2_cpu *c = self();

	(void)frame;
	c->irqs++;
	if (c->work == L2_USE_DISK)
		on_disk_interrupt(c);
	if (has_room(c, 1)) {
		push(c, c->irq_event, c->irq_seq, c->irqs);
		c->irq_seq++;
	}
	if (!c->apic)
		return;
	c->eois++;
	write_msr(L2_MSR_EOI, 0);
}

/* Stubs of 16 bytes, of which each leaves on the stack an error code, if the CPU did not, and its number. */
__asm__(".pushsection .text\n"
	".balign 16\n"
	"exceptions:\n"
	".irp v, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
	".balign 16\n"
	".if !((0x60227d00 >> \\v) & 1)\n"
	"push $0\n"
	".endif\n"
	"push $\\v\n"
	"jmp on_exception\n"
	".endr\n"
	"on_exception:\n"
	"mov %rsp, %rdi\n"
	"and $-16, %rsp\n"
	"call tell_exception\n"
	".popsection\n");
extern const char exceptions[];

__attribute__((noreturn, used)) void tell_exception(const __u64 *stack);

__attribute__((noreturn, used)) void tell_exception(const __u64 *stack)
{
	struct l2_cpu *c = self();

	c->fault = (struct l2_fault){
		.vector = stack[0], .error = stack[1], .rip = stack[2], .rsp = stack[5],
	};
	__asm__ volatile("mov %%cr2, %0" : "=r"(c->fault.cr2));
	for (;;)
		outb(L2_PORT_FAULT, 0);
}

struct frame {
	__u64 rip, cs, flags, rsp, ss;
};

/* An MSR that is not there: on behind the instruction. */
__attribute__((interrupt)) static void on_refusal(struct frame *frame, __u64 error)
{
	const __u8 *at = (const __u8 *)frame->rip;
	const __u64 stack[] = { 13, error, frame->rip, frame->cs, frame->flags, frame->rsp };

	if (at[0] != 0x0f || at[1] != 0x32)
		tell_exception(stack);
	self()->refused++;
	frame->rip += 2;
}

struct gate {
	__u16 low, selector;
	__u16 flags, mid;
	__u32 high, reserved;
};

static struct gate gate(__u64 at)
{
	return (struct gate){
		.low = (__u16)at, .selector = L2_CS, .flags = 0x8e00, .mid = (__u16)(at >> 16),
		.high = (__u32)(at >> 32),
	};
}

static void allow_interrupts(void)
{
	static struct gate idt[L2_VECTOR + 1];
	struct __attribute__((packed)) {
		__u16 limit;
		__u64 base;
	} idtr = { sizeof(idt) - 1, (__u64)idt };

	/* All virtual CPUs write the same. */
	for (__u64 i = 0; i < L2_VECTOR; i++)
		idt[i] = gate((__u64)exceptions + 16 * i);
	idt[13] = gate((__u64)on_refusal);
	idt[L2_VECTOR] = gate((__u64)on_interrupt);
	__asm__ volatile("lidt %0; sti" ::"m"(idtr) : "memory");
}

static void use_msrs(struct l2_cpu *c)
{
	__u64 value = L2_LVT_MASKED | (c->made & 0xff);

	write_msr(L2_MSR_LVT_ERROR, value);
	c->wrong += read_msr(L2_MSR_LVT_ERROR, ~0ULL) != value;
	c->msrs += 2;
	if (c->made % 8)
		return;
	c->wrong += read_msr(L2_MSR_NONE, c->made) != c->made;
	c->msrs++;
}

/* Until there was one more than @before. */
static void halt_until_interrupt(struct l2_cpu *c, __u64 before)
{
	for (;;) {
		__asm__ volatile("cli" ::: "memory");
		if (c->irqs != before)
			break;
		c->halts++;
		__asm__ volatile("sti; hlt" ::: "memory"); /* none comes between both */
	}
	__asm__ volatile("sti" ::: "memory");
}

static void wait_for_timer(struct l2_cpu *c)
{
	__u64 before = c->irqs, deadline = htrace_clock_tsc() + c->delay;

	push(c, c->armed_event, c->armed, deadline);
	c->armed++;
	c->msrs++;
	write_msr(L2_MSR_DEADLINE, deadline);
	halt_until_interrupt(c, before);
}

/* As htrace_region_answer(), which is for machines with a library. */
static int answer_ping(struct l2_cpu *c)
{
	__u64 n = c->ping ? htrace_load_acquire((const __u64 *)c->ping) : 0;

	if (!n || n == c->ponged)
		return 0;
	c->ponged = n;
	htrace_store((__u64 *)c->pong_tsc, htrace_clock_tsc()); /* which fences: read behind the question */
	__atomic_store_n((__u64 *)c->pong, n, __ATOMIC_RELEASE);
	return 1;
}

static void answer_mail(struct l2_cpu *c)
{
	struct mailbox *m = (struct mailbox *)L2_MAILBOX;

	for (unsigned int idle = 0; idle < PATIENCE; idle++) {
		__u64 n = htrace_load_acquire(&m->ask);

		if (answer_ping(c)) {
			idle = 0;
			continue;
		}
		if (n == c->number || n == MAILBOX_OVER) {
			__asm__ volatile("pause" ::: "memory");
			continue;
		}
		idle = 0;
		c->number = n;
		wait_for_room(c);
		push(c, c->seen_event, c->seen, n);
		c->seen++;
		__atomic_store_n(&m->answer, n, __ATOMIC_RELEASE);
	}
}

/* Each call is an exit that was made on purpose. */
static void send_events(struct l2_cpu *c, __u64 round)
{
	struct htrace_hypercall h = { .sequence = (__u32)c->events, .vmmcall = !c->intel };
	__u8 bytes[L2_EVENT_BYTES];

	htrace_hypercall_event(&h, L2_EVENT_SHORT, round, l2_check(round, c->cpu), ~round);
	c->made++;
	if (round % L2_EVENT_EACH == 0) {
		for (__u32 i = 0; i < sizeof(bytes); i++)
			bytes[i] = (__u8)(round + i);
		c->wrong += htrace_hypercall_send(&h, L2_EVENT_LONG, bytes, sizeof(bytes)) != 0;
		htrace_hypercall_part(&h, L2_EVENT_WRONG, HTRACE_HYPERCALL_BYTES, 1, round, 0, 0);
		c->made += (sizeof(bytes) + HTRACE_HYPERCALL_BYTES - 1) / HTRACE_HYPERCALL_BYTES + 1;
	}
	c->events = h.sequence;
}

static void count_time(struct l2_cpu *c, __u64 start)
{
	c->took[l2_bucket(rdtsc() - start)]++;
}

static void send_message(struct l2_cpu *c)
{
	struct htrace_hypercall h = { .sequence = (__u32)c->events, .vmmcall = !c->intel };
	__u64 *message = (__u64 *)(L2_STACKS + (__u64)c->cpu * L2_STACK_SIZE); /* nobody gets there */
	__u64 start = rdtsc();

	message[0] = now(c);
	c->wrong += htrace_hypercall_send(&h, L2_EVENT_SHORT, message, c->bytes) != 0;
	count_time(c, start);
	c->events = h.sequence;
	c->made += (c->bytes + HTRACE_HYPERCALL_BYTES - 1) / HTRACE_HYPERCALL_BYTES;
}

static void record_message(struct l2_cpu *c)
{
	__u64 start;

	wait_for_blocks(c, 1 + L2_MESSAGE_MOST / L2_RECORD_MOST); /* each may want one of its own */
	start = rdtsc();
	for (__u32 done = 0; done < c->bytes; done += L2_RECORD_MOST) {
		__u32 len = c->bytes - done < L2_RECORD_MOST ? c->bytes - done : L2_RECORD_MOST;
		struct htrace_slot slot;
		__u64 at = now(c), *to;

		to = (__u64 *)htrace_reserve((struct htrace_ring *)c->ring, &c->geometry, (const __u64 *)c->consumed,
					     c->event, len, 1, at, &slot);
		if (!to)
			return; /* who counts misses it */
		for (__u32 i = 0; i < len / 8; i++)
			to[i] = at;
		htrace_commit(&slot);
		c->seq++;
	}
	count_time(c, start);
}

static void wait_for_interrupt(struct l2_cpu *c)
{
	const volatile __u64 *irqs = &c->irqs;
	__u64 before = *irqs;

	if (c->halts_for_irq)
		return halt_until_interrupt(c, before);
	while (*irqs == before)
		__asm__ volatile("pause" ::: "memory");
}

static void leave(struct l2_cpu *c, __u64 round)
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
	case L2_USE_DISK:
		use_disk(c);
		break;
	case L2_READ:
		c->wrong += inl(L2_PORT_WORK) != (__u32)c->made;
		break;
	case L2_MMIO_READ:
		c->wrong += *(volatile __u32 *)L2_MMIO != (__u32)c->made;
		break;
	case L2_MSR:
		use_msrs(c);
		break;
	case L2_TIMER:
		wait_for_room(c);
		wait_for_timer(c);
		break;
	case L2_ANSWER:
		wait_for_room(c);
		wait_for_timer(c);
		answer_mail(c);
		break;
	case L2_EVENT:
		if (c->bytes)
			send_message(c);
		else
			send_events(c, round);
		return;
	case L2_RECORD:
		record_message(c);
		return;
	case L2_INTERRUPT:
		if (c->apic)
			wait_for_interrupt(c);
		return;
	default:
		return;
	}
	c->made++;
}

static void start_apic(struct l2_cpu *c)
{
	write_msr(L2_MSR_SPURIOUS, 1 << 8 | 0xff);      /* on */
	write_msr(L2_MSR_LVT_TIMER, 2 << 17 | L2_VECTOR); /* at a time of the TSC */
	c->msrs += 2;
}

/* The next round's beginning. What took too long is not caught up with. */
static __u64 wait_for(const struct l2_cpu *c, __u64 due)
{
	__u64 t;

	do {
		t = rdtsc();
	} while (t < due);
	return (t - due < c->period ? due : t) + c->period;
}

__attribute__((noreturn, section(".text.start"))) void _start(void)
{
	struct l2_cpu *c = self();
	__u64 due = rdtsc();

	if (c->apic)
		start_apic(c);
	allow_interrupts();
	for (__u64 round = 0; round < htrace_load(&c->rounds); round++) {
		if (c->period)
			due = wait_for(c, due);
		write_records(c);
		for (__u32 i = 0; i < c->pause; i++)
			__asm__ volatile("pause" ::: "memory");
		leave(c, round);
	}
	for (;;)
		outb(L2_PORT_DONE, 0);
}

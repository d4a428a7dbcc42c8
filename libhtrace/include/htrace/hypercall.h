/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Events by hypercalls: for code of a KVM guest on x86-64 that has no shared memory, such as firmware, a boot loader,
 * or a kernel before its memory is set up. The host needs no patch: KVM knows no hypercall of these numbers, says
 * so (-KVM_ENOSYS, in user space -KVM_EPERM) and does nothing else; `host-reader kvm` sees them pass, and shows each as
 * an event kvm_guest_event.
 *
 * Each call leaves guest mode: microseconds, and in a nested guest many times that. Where memory can be shared, a ring
 * costs far less (docs/channels.md).
 *
 * A call has 24 bytes of payload. Its registers:
 *
 *	rax	HTRACE_HYPERCALL | id of the event, 1 ... 65535, whose meaning is the guest's own affair
 *	rbx	payload, bytes 24 * part to 24 * part + 7
 *	rcx	likewise, the next 8
 *	rdx	likewise
 *	rsi	bits 0-31: number of the event; 32-47: part; 48-63: bytes of the whole payload
 *
 * An event of more than 24 bytes takes several calls, with one number and parts from 0 on. Numbers rise by one for each
 * event of a sender: a gap was not recorded. The guest's word is all of it but the virtual CPU that it came from
 * and the time.
 *
 * Needs no libc and no library. Not for BPF programs: they cannot execute the instruction.
 */
#ifndef HTRACE_HYPERCALL_H
#define HTRACE_HYPERCALL_H

#include <htrace/ring.h>

#define HTRACE_HYPERCALL 0x48540000u /* "HT", and 16 bits of id */
#define HTRACE_HYPERCALL_BYTES 24u   /* of payload, a call */
#define HTRACE_HYPERCALL_MAX 65535u  /* of an event */
#define HTRACE_HYPERCALL_PART_SHIFT 32
#define HTRACE_HYPERCALL_LENGTH_SHIFT 48

#if defined(__x86_64__) && !defined(__bpf__)

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A sender, made by htrace_hypercall_init(). Used by one context at a time: one for each virtual CPU, or thread; an
 * interrupt handler has its own, or else numbers and parts of both get mixed.
 */
struct htrace_hypercall {
	__u32 sequence; /* number of the next event */
	__u32 vmmcall;  /* 1: AMD's instruction; 0: Intel's */
};

/*
 * Look whether KVM runs this machine, and what CPU it has: some exits, so once. 0; -1: it is not KVM, or does not say
 * so: then the instruction may be an invalid opcode, and nothing must be sent.
 */
HTRACE_INLINE int htrace_hypercall_init(struct htrace_hypercall *h)
{
	__u32 a = 0, b, c = 0, d, leaf;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	h->sequence = 0;
	h->vmmcall = b == 0x68747541u || b == 0x6f677948u; /* Auth(enticAMD), Hygo(nGenuine) */
	for (leaf = 0x40000000u; leaf < 0x40010000u; leaf += 0x100) {
		a = leaf;
		c = 0;
		__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
		if (b == 0x4b4d564bu && c == 0x564b4d56u && d == 0x4du) /* KVMKVMKVM */
			return 0;
	}
	return -1;
}

/* A part of event @sequence, of @length bytes in all: what the functions below are made of. */
HTRACE_INLINE void htrace_hypercall_part(const struct htrace_hypercall *h, __u32 id, __u32 length, __u32 part, __u64 a,
					 __u64 b, __u64 c)
{
	__u64 answer = HTRACE_HYPERCALL | (id & 0xffffu);
	__u64 how = h->sequence | (__u64)part << HTRACE_HYPERCALL_PART_SHIFT |
		    (__u64)length << HTRACE_HYPERCALL_LENGTH_SHIFT;

	if (h->vmmcall)
		__asm__ volatile("vmmcall" : "+a"(answer) : "b"(a), "c"(b), "d"(c), "S"(how) : "memory");
	else
		__asm__ volatile("vmcall" : "+a"(answer) : "b"(a), "c"(b), "d"(c), "S"(how) : "memory");
}

/* Event @id, 1 ... 65535, with three words: one exit. Any privilege level, also with interrupts off. */
HTRACE_INLINE void htrace_hypercall_event(struct htrace_hypercall *h, __u32 id, __u64 a, __u64 b, __u64 c)
{
	htrace_hypercall_part(h, id, HTRACE_HYPERCALL_BYTES, 0, a, b, c);
	h->sequence++;
}

/* Event @id with @len bytes, 1 ... HTRACE_HYPERCALL_MAX: an exit for each 24. 0; -1: a wrong length, nothing is sent. */
HTRACE_INLINE int htrace_hypercall_send(struct htrace_hypercall *h, __u32 id, const void *data, __u32 len)
{
	const unsigned char *at = (const unsigned char *)data;
	__u32 part, done, i;

	if (!len || len > HTRACE_HYPERCALL_MAX)
		return -1;
	for (part = done = 0; done < len; part++, done += HTRACE_HYPERCALL_BYTES) {
		__u64 word[3];

		/* Neither memset() nor memcpy() need be there. */
		word[0] = word[1] = word[2] = 0;
		for (i = 0; i < HTRACE_HYPERCALL_BYTES && done + i < len; i++)
			word[i / 8] |= (__u64)at[done + i] << 8 * (i % 8);
		htrace_hypercall_part(h, id, len, part, word[0], word[1], word[2]);
	}
	h->sequence++;
	return 0;
}

#ifdef __cplusplus
}
#endif
#endif /* __x86_64__ */
#endif

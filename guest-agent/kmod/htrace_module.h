/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What user space and the kernel module say to each other through /dev/htrace.
 *
 * The device's memory is mapped with mmap(): offset 0 is the start of BAR2, shared mappings only.
 * read() waits for an interrupt from the host and gives the number of all so far (__u64); poll()
 * tells when there are more than the last read() gave. All requests but HTRACE_MODULE_INFO want a file
 * that is open for writing (-EBADF).
 */
#ifndef HTRACE_MODULE_H
#define HTRACE_MODULE_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define HTRACE_MODULE_DEVICE "/dev/htrace"
#define HTRACE_MODULE_VERSION 1 /* of this interface; another one is refused */

/* How a mapping's page tables say that memory is cached. */
enum htrace_module_caching {
	HTRACE_CACHING_UNKNOWN = 0,
	HTRACE_CACHING_WRITE_BACK = 1,
	HTRACE_CACHING_WRITE_COMBINING = 2,
	HTRACE_CACHING_UNCACHED = 3,
	HTRACE_CACHING_OTHER = 4,
};

#define HTRACE_MODULE_OVERRULES 1u /* firmware's memory types say otherwise than the page tables */
#define HTRACE_MODULE_DOORBELL 2u  /* the device can send and receive interrupts */

struct htrace_module_info {
	__u32 version; /* HTRACE_MODULE_VERSION */
	__u32 flags;
	__u64 size;    /* of BAR2 */
	__u64 session; /* whose rings programs write into; 0: none */
	__u32 caching; /* enum htrace_module_caching */
	__u32 ivposition; /* this machine's number among the device's peers */
	__u32 vectors;    /* interrupt vectors that the device has */
	__u32 reserved;
	char pci[16]; /* the device's address, as 0000:00:03.0 */
};

/* The rings that htrace_write() writes into: one per CPU, of a ring set in the device's memory. */
struct htrace_module_rings {
	__u64 session; /* of the region; 0: programs shall write nowhere */
	__u64 off;     /* of the first ring's image in BAR2 */
	__u64 stride;
	__u32 nr_rings;
	__u32 first_slot; /* of their words in the host area */
	__u32 ring_shift;
	__u32 block_shift;
	__u32 desc_off;
	__u32 data_off;
	__u32 policy; /* enum htrace_policy */
	__u32 reserved;
};

/* Another machine's interrupt. */
struct htrace_module_bell {
	__u16 vector;
	__u16 peer;
};

#define HTRACE_MODULE_INFO _IOR('h', 0x81, struct htrace_module_info)
#define HTRACE_MODULE_RINGS _IOW('h', 0x82, struct htrace_module_rings)
#define HTRACE_MODULE_BELL _IOW('h', 0x83, struct htrace_module_bell)

#endif /* HTRACE_MODULE_H */

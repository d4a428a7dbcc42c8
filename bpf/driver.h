/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What drivers of paravirtual devices have in common. They have no tracepoints, so programs are
 * attached to their functions. Most of these are static, but called by pointer, or from two places,
 * which keeps compilers from inlining them.
 */
#ifndef HTRACE_DRIVER_H
#define HTRACE_DRIVER_H

#include "request.h"

#include <bpf/bpf_core_read.h>

/* A program where @function is called; or where it returns, with its result behind its arguments. */
#define ON_CALL(event, function, args, ...) ON_SECTION(event, "fentry/" function, args, __VA_ARGS__)
#define ON_RETURN(event, function, args, ...) \
	ON_SECTION(event, "fexit/" function, args, __VA_ARGS__)

#define COPY_NAME(to, from)                                      \
	({                                                       \
		__builtin_memset(to, 0, sizeof(to));             \
		bpf_probe_read_kernel_str(to, sizeof(to), from); \
	})

/* A request, with sector, dev and rwbs as block_rq_* have them. */
#define REQUEST_FIELDS                        \
	__u64 sector;                         \
	__u32 dev; /* major << 20 | minor */  \
	__u32 bytes;                          \
	__u32 rwbs;                           \
	__u16 queue; /* of the device */      \
	__u16 tag; /* unique in its queue */  \
	char disk[12]

/* Drivers keep data of their own behind each request, by which some functions are called. */
#define REQUEST_OF(data) ((struct request *)((data) - bpf_core_type_size(struct request)))
#define DRIVER_DATA(rq) ((unsigned long)(rq) + bpf_core_type_size(struct request))

/* @rq need not be a pointer that the verifier trusts. */
#define FILL_REQUEST(e, rq)                                             \
	({                                                              \
		struct gendisk *disk_ = BPF_CORE_READ(rq, q, disk);     \
		__u32 flags_ = BPF_CORE_READ(rq, cmd_flags);            \
                                                                        \
		(e)->sector = sector_of(flags_, BPF_CORE_READ(rq, __sector)); \
		(e)->dev = (__u32)BPF_CORE_READ(disk_, major) << 20 |   \
			   (__u32)BPF_CORE_READ(disk_, first_minor);    \
		(e)->bytes = BPF_CORE_READ(rq, __data_len);             \
		(e)->rwbs = rwbs_of(flags_);                            \
		(e)->queue = BPF_CORE_READ(rq, mq_hctx, queue_num);     \
		(e)->tag = BPF_CORE_READ(rq, tag);                      \
		COPY_NAME((e)->disk, disk_->disk_name);                 \
	})

/* A packet is handed to a network device: what it is, and which queue of which device it goes to. */
#define ON_XMIT(event, function)                                                             \
	struct event {                                                                       \
		htrace_ptr_t skbaddr;                                                        \
		__u32 len;                                                                   \
		__u32 queue;                                                                 \
		char name[16]; /* the device's */                                            \
	};                                                                                   \
	ON_CALL(event, function, (struct sk_buff * skb, struct net_device * dev), {          \
		e->skbaddr = (__u64)skb;                                                     \
		e->len = skb->len;                                                           \
		e->queue = skb->queue_mapping;                                               \
		COPY_NAME(e->name, dev->name);                                               \
	})

#endif /* HTRACE_DRIVER_H */

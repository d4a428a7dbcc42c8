/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Block requests, as LTTng describes them. */
#ifndef HTRACE_REQUEST_H
#define HTRACE_REQUEST_H

#include "hook.h"

/* Bits of a request's flags, from the kernel's include/linux/blk_types.h (6.1 and 6.12 agree). */
#define REQ_OP_MASK 0xff
#define REQ_OP_WRITE 1
#define REQ_OP_FLUSH 2
#define REQ_OP_DISCARD 3
#define REQ_OP_SECURE_ERASE 5
#define REQ_OP_DRV_IN 34
#define REQ_OP_DRV_OUT 35
#define REQ_SYNC (1 << 11)
#define REQ_META (1 << 12)
#define REQ_FUA (1 << 17)
#define REQ_PREFLUSH (1 << 18)
#define REQ_RAHEAD (1 << 19)

/* LTTng's bits of rwbs. */
#define RWBS_WRITE (1 << 0)
#define RWBS_DISCARD (1 << 1)
#define RWBS_READ (1 << 2)
#define RWBS_RAHEAD (1 << 3)
#define RWBS_SYNC (1 << 5)
#define RWBS_META (1 << 6)
#define RWBS_SECURE (1 << 7)
#define RWBS_FLUSH (1 << 8)
#define RWBS_FUA (1 << 9)
#define RWBS_PREFLUSH (1 << 10)

static __always_inline bool has_data(__u32 flags)
{
	__u32 op = flags & REQ_OP_MASK;

	return op != REQ_OP_DRV_IN && op != REQ_OP_DRV_OUT;
}

static __always_inline __u32 rwbs_of(__u32 flags)
{
	__u32 op = flags & REQ_OP_MASK, rwbs;

	if (op == REQ_OP_WRITE)
		rwbs = RWBS_WRITE;
	else if (op == REQ_OP_DISCARD)
		rwbs = RWBS_DISCARD;
	else if (op == REQ_OP_SECURE_ERASE)
		rwbs = RWBS_DISCARD | RWBS_SECURE;
	else if (op == REQ_OP_FLUSH)
		rwbs = RWBS_FLUSH;
	else
		rwbs = op ? 0 : RWBS_READ;
	if (flags & REQ_RAHEAD)
		rwbs |= RWBS_RAHEAD;
	if (flags & REQ_SYNC)
		rwbs |= RWBS_SYNC;
	if (flags & REQ_META)
		rwbs |= RWBS_META;
	if (flags & REQ_FUA)
		rwbs |= RWBS_FUA;
	if (flags & REQ_PREFLUSH)
		rwbs |= RWBS_PREFLUSH;
	return rwbs;
}

/* Without data, or without a place on the device (~0), it has none. */
static __always_inline __u64 sector_of(__u32 flags, __u64 sector)
{
	return has_data(flags) && ~sector ? sector : 0;
}

static __always_inline __u32 dev_of(struct gendisk *disk)
{
	return disk ? (__u32)disk->major << 20 | (__u32)disk->first_minor : 0;
}

/* From blk_status_t to errno, as the kernel's blk_status_to_errno(). */
static __always_inline __s32 errno_of(__u8 status)
{
	switch (status) {
	case 0:
		return 0;
	case 1:
		return -95; /* EOPNOTSUPP */
	case 2:
		return -110; /* ETIMEDOUT */
	case 3:
		return -28; /* ENOSPC */
	case 4:
		return -67; /* ENOLINK */
	case 5:
		return -121; /* EREMOTEIO */
	case 6:
		return -52; /* EBADE */
	case 7:
		return -61; /* ENODATA */
	case 8:
		return -84; /* EILSEQ */
	case 9:
		return -12; /* ENOMEM */
	default:
		return -5; /* EIO */
	}
}

#endif /* HTRACE_REQUEST_H */

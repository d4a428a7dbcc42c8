// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Requests to block devices: queued, given to the driver, completed. */
#include "request.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define REQUEST_EVENT(event)                                              \
	struct event {                                                    \
		__u64 sector;                                             \
		htrace_tid_t tid;                                         \
		__u32 dev; /* major << 20 | minor */                      \
		__u32 nr_sector;                                          \
		__u32 bytes;                                              \
		__u32 rwbs;                                               \
	};                                                                \
	ON(event, #event, (struct request * rq), {                        \
		__u32 flags = rq->cmd_flags;                              \
		__u32 bytes = rq->__data_len;                             \
                                                                          \
		e->sector = sector_of(flags, rq->__sector);               \
		e->tid = CURRENT_TID();                                   \
		e->dev = dev_of(rq->q->disk);                             \
		e->nr_sector = has_data(flags) ? bytes >> 9 : 0;          \
		e->bytes = bytes;                                         \
		e->rwbs = rwbs_of(flags);                                 \
	})

REQUEST_EVENT(block_rq_insert)
REQUEST_EVENT(block_rq_issue)

struct block_rq_complete {
	__u64 sector;
	__u32 dev;
	__u32 nr_sector;
	__s32 error;
	__u32 rwbs;
};
ON(block_rq_complete, "block_rq_complete",
   (struct request * rq, __u8 status, unsigned int nr_bytes), {
	e->sector = rq->__sector;
	e->dev = dev_of(rq->q->disk);
	e->nr_sector = nr_bytes >> 9;
	e->error = errno_of(status);
	e->rwbs = rwbs_of(rq->cmd_flags);
})

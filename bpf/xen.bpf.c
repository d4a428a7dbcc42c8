// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Xen's paravirtual disks (xen-blkfront) and networks (xen-netfront), in the guest. */
#include "driver.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct blkfront_info {
	struct gendisk *gd;
};

struct blkfront_ring_info {
	unsigned int evtchn;
	struct blkfront_info *dev_info;
};

struct blkif_req {
	__u8 error;
};

struct netfront_info {
	struct net_device *netdev;
};

struct netfront_queue {
	unsigned int id;
	struct netfront_info *info;
	struct napi_struct napi;
};

#pragma clang attribute pop

/* The block layer gives the driver a request; `last`: no other follows at once. */
struct blkif_queue_rq {
	REQUEST_FIELDS;
	__u32 last;
};
ON_CALL(blkif_queue_rq, "blkif_queue_rq",
	(struct blk_mq_hw_ctx * hctx, const struct blk_mq_queue_data *bd), {
	struct request *rq = bd->rq;

	FILL_REQUEST(e, rq);
	e->last = bd->last;
})

/* The back end says that requests are done. */
struct blkif_interrupt {
	__s32 irq;
	__u32 evtchn;
	char disk[12];
};
ON_CALL(blkif_interrupt, "blkif_interrupt", (int irq, void *dev_id), {
	struct blkfront_ring_info *ring = dev_id;
	struct gendisk *disk = BPF_CORE_READ(ring, dev_info, gd);

	e->irq = irq;
	e->evtchn = BPF_CORE_READ(ring, evtchn);
	COPY_NAME(e->disk, disk->disk_name);
})

/* One of them is. */
struct blkif_complete_rq {
	REQUEST_FIELDS;
	__s32 error;
};
ON_CALL(blkif_complete_rq, "blkif_complete_rq", (struct request * rq), {
	struct blkif_req *data = (struct blkif_req *)DRIVER_DATA(rq);

	FILL_REQUEST(e, rq);
	e->error = errno_of(BPF_CORE_READ(data, error));
})

ON_XMIT(xennet_start_xmit, "xennet_start_xmit")

/* A round of the driver: packets received, of at most so many. Less: the queue is empty. */
struct xennet_poll {
	htrace_ptr_t napi;
	__s32 work;
	__s32 budget;
	__u32 queue;
	char name[16];
};
ON_RETURN(xennet_poll, "xennet_poll", (struct napi_struct * napi, int budget, int work), {
	unsigned long queue = (unsigned long)napi - bpf_core_field_offset(struct netfront_queue, napi);

	e->napi = (__u64)napi;
	e->work = work;
	e->budget = budget;
	e->queue = BPF_CORE_READ((struct netfront_queue *)queue, id);
	COPY_NAME(e->name, napi->dev->name);
})

/* The back end's notifications: one for both directions, or one each. */
#define QUEUE_EVENT(event)                                                      \
	struct event {                                                          \
		__s32 irq;                                                      \
		__u32 queue;                                                    \
		char name[16];                                                  \
	};                                                                      \
	ON_CALL(event, #event, (int irq, void *dev_id), {                       \
		struct netfront_queue *queue = dev_id;                          \
		struct net_device *dev = BPF_CORE_READ(queue, info, netdev);    \
                                                                                \
		e->irq = irq;                                                   \
		e->queue = BPF_CORE_READ(queue, id);                            \
		COPY_NAME(e->name, dev->name);                                  \
	})

QUEUE_EVENT(xennet_interrupt)
QUEUE_EVENT(xennet_tx_interrupt)
QUEUE_EVENT(xennet_rx_interrupt)

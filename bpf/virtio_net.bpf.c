// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* virtio_net: packets given to it, what it receives a poll, and the host's notifications. */
#include "driver.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct virtnet_info {
	struct net_device *dev;
};

struct receive_queue {
	struct virtqueue *vq;
	struct napi_struct napi;
};

struct send_queue {
	struct virtqueue *vq;
	struct napi_struct napi;
};

#pragma clang attribute pop

/* Named after the driver: other drivers have a start_xmit(), too. */
ON_XMIT(virtnet_start_xmit, "start_xmit")

/* Virtqueues of a device: receive 0, transmit 0, receive 1, ... */
#define QUEUE_OF(type, napi)                                                                 \
	({                                                                                   \
		unsigned long at_ = (unsigned long)(napi) -                                  \
				    bpf_core_field_offset(struct type, napi);                \
		BPF_CORE_READ((struct type *)at_, vq, index) / 2;                            \
	})

/* A round of the driver: packets received, of at most so many. Less: the queue is empty. */
#define POLL_EVENT(event, type)                                                            \
	struct event {                                                                     \
		htrace_ptr_t napi;                                                         \
		__s32 work;                                                                \
		__s32 budget;                                                              \
		__u32 queue;                                                               \
		char name[16];                                                             \
	};                                                                                 \
	ON_RETURN(event, #event, (struct napi_struct * napi, int budget, int work), {      \
		e->napi = (__u64)napi;                                                     \
		e->work = work;                                                            \
		e->budget = budget;                                                        \
		e->queue = QUEUE_OF(type, napi);                                           \
		COPY_NAME(e->name, napi->dev->name);                                       \
	})

POLL_EVENT(virtnet_poll, receive_queue)
POLL_EVENT(virtnet_poll_tx, send_queue)

/* Interrupts: packets were sent, or have come. */
#define QUEUE_EVENT(event, hook)                                              \
	struct event {                                                        \
		htrace_ptr_t vq;                                              \
		__u32 queue;                                                  \
		char name[16];                                                \
	};                                                                    \
	ON_CALL(event, hook, (struct virtqueue * vq), {                       \
		struct virtnet_info *vi = vq->vdev->priv;                     \
		struct net_device *dev = BPF_CORE_READ(vi, dev);              \
                                                                              \
		e->vq = (__u64)vq;                                            \
		e->queue = vq->index / 2;                                     \
		COPY_NAME(e->name, dev->name);                                \
	})

QUEUE_EVENT(virtnet_xmit_done, "skb_xmit_done")
QUEUE_EVENT(virtnet_recv_done, "skb_recv_done")

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Packets: where they enter and leave the network devices' queues. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define PACKET_EVENT(event, hook)                                                         \
	struct event {                                                                    \
		htrace_ptr_t skbaddr;                                                     \
		__u32 len;                                                                \
		char name[16]; /* the device's */                                         \
	};                                                                                \
	ON(event, hook, (struct sk_buff * skb), {                                         \
		e->skbaddr = (__u64)skb;                                                  \
		e->len = skb->len;                                                        \
		__builtin_memset(e->name, 0, sizeof(e->name));                            \
		bpf_probe_read_kernel_str(e->name, sizeof(e->name), skb->dev->name);      \
	})

PACKET_EVENT(net_dev_queue, "net_dev_queue")
PACKET_EVENT(net_if_receive_skb, "netif_receive_skb")
PACKET_EVENT(net_if_rx, "netif_rx")

struct net_dev_xmit {
	htrace_ptr_t skbaddr;
	__s32 rc;
	__u32 len;
	char name[16];
};
ON(net_dev_xmit, "net_dev_xmit",
   (struct sk_buff * skb, int rc, struct net_device *dev, unsigned int len), {
	/* The packet may be gone by now. */
	e->skbaddr = (__u64)skb;
	e->rc = rc;
	e->len = len;
	__builtin_memset(e->name, 0, sizeof(e->name));
	bpf_probe_read_kernel_str(e->name, sizeof(e->name), dev->name);
})

struct napi_poll {
	htrace_ptr_t napi;
	__s32 work;
	__s32 budget;
	char dev_name[16];
};
ON(napi_poll, "napi_poll", (struct napi_struct * napi, int work, int budget), {
	e->napi = (__u64)napi;
	e->work = work;
	e->budget = budget;
	__builtin_memset(e->dev_name, 0, sizeof(e->dev_name));
	bpf_probe_read_kernel_str(e->dev_name, sizeof(e->dev_name), napi->dev->name);
})

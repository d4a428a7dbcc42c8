// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Virtual devices: when the guest notifies the host (most often an exit), and the host the guest. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline void describe(struct virtqueue *vq, __u32 *index, char *name, __u32 len)
{
	const char *from = 0;

	*index = 0;
	bpf_probe_read_kernel(index, sizeof(*index), &vq->index);
	bpf_probe_read_kernel(&from, sizeof(from), &vq->name);
	__builtin_memset(name, 0, 20);
	bpf_probe_read_kernel_str(name, len, from);
}

struct virtqueue_notify {
	htrace_ptr_t vq;
	__u32 index; /* of the queue in its device */
	char name[20];
};
ON_SECTION(virtqueue_notify, "fentry/virtqueue_notify", (struct virtqueue * vq), {
	e->vq = (__u64)vq;
	describe(vq, &e->index, e->name, sizeof(e->name));
})

struct vring_interrupt {
	htrace_ptr_t vq;
	__s32 irq;
	__u32 index;
	char name[20];
};
ON_SECTION(vring_interrupt, "fentry/vring_interrupt", (int irq, void *vq), {
	e->vq = (__u64)vq;
	e->irq = irq;
	describe(vq, &e->index, e->name, sizeof(e->name));
})

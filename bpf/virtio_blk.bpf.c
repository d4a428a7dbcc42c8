// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * virtio_blk: a request's way through the driver. From virtblk_add_req to
 * virtblk_complete_request of the same disk, queue and tag the host has it.
 */
#include "driver.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct virtio_blk {
	struct gendisk *disk;
};

struct virtblk_req { /* up to 6.2 */
	__u8 status;
};

struct virtblk_in_hdr___new {
};

struct virtblk_req___new { /* since 6.3: the status is the last byte of what the host writes */
	struct virtblk_in_hdr___new in_hdr;
	unsigned long in_hdr_len;
};

#pragma clang attribute pop

static __always_inline __u8 status_of(unsigned long data)
{
	const struct virtblk_req___new *vbr = (const void *)data;
	__u8 status = 0;

	if (bpf_core_field_exists(struct virtblk_req, status))
		return BPF_CORE_READ((const struct virtblk_req *)data, status);
	bpf_probe_read_kernel(&status, sizeof(status),
			      (const char *)&vbr->in_hdr + BPF_CORE_READ(vbr, in_hdr_len) - 1);
	return status;
}

/* From VIRTIO_BLK_S_*. */
static __always_inline __s32 error_of(__u8 status)
{
	return status == 0 ? 0 : status == 2 ? -95 /* EOPNOTSUPP */ : -5 /* EIO */;
}

/* The block layer gives the driver one request; `last`: the host may be notified now. */
struct virtio_queue_rq {
	REQUEST_FIELDS;
	__u32 last;
};
ON_CALL(virtio_queue_rq, "virtio_queue_rq",
	(struct blk_mq_hw_ctx * hctx, const struct blk_mq_queue_data *bd), {
	struct request *rq = bd->rq;

	FILL_REQUEST(e, rq);
	e->last = bd->last;
})

/* It is put into the virtqueue, be it given alone or with others; -ENOSPC (-28): that is full. */
struct virtblk_add_req {
	REQUEST_FIELDS;
	__s32 ret;
};
ON_RETURN(virtblk_add_req, "virtblk_add_req", (struct virtqueue * vq, void *vbr, int ret), {
	struct request *rq = REQUEST_OF((unsigned long)vbr);

	/* The queue's lock is held: the request cannot be completed and used again yet. */
	FILL_REQUEST(e, rq);
	e->ret = ret;
})

/* The host says that requests are done. */
struct virtblk_done {
	htrace_ptr_t vq;
	__u32 queue;
	char disk[12];
};
ON_CALL(virtblk_done, "virtblk_done", (struct virtqueue * vq), {
	struct virtio_blk *vblk = vq->vdev->priv;
	struct gendisk *disk = BPF_CORE_READ(vblk, disk);

	e->vq = (__u64)vq;
	e->queue = vq->index;
	COPY_NAME(e->disk, disk->disk_name);
})

/*
 * One of them is: what virtblk_done() calls for it. The driver's own virtblk_request_done() comes
 * later, maybe on another CPU, and cannot be hooked in some kernels (6.1). Only virtio_blk names
 * its disks vd*.
 */
struct virtblk_complete_request {
	REQUEST_FIELDS;
	__s32 error;
};
HTRACE_EVENT(virtblk_complete_request);

SEC("fentry/blk_mq_complete_request")
int BPF_PROG(virtblk_complete_request, struct request *rq)
{
	struct virtblk_complete_request *e;
	struct htrace_slot slot;
	unsigned long address = 0;
	char disk[2] = {};

	bpf_probe_read_kernel(disk, sizeof(disk), rq->q->disk->disk_name);
	if (disk[0] != 'v' || disk[1] != 'd')
		return 0;
	e = htrace_begin(virtblk_complete_request, &slot);
	if (!e)
		return 0;
	/* As a plain number, with which the verifier lets us calculate. */
	bpf_probe_read_kernel(&address, sizeof(address), ctx);
	FILL_REQUEST(e, rq);
	e->error = error_of(status_of(DRIVER_DATA(address)));
	htrace_end(&slot);
	return 0;
}

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the host: requests to its disks that VMMs cause.
 *
 * A request is often issued by somebody else, a worker of the kernel's, and completed in an interrupt:
 * neither says whose it is. But what it is made of, a bio, is given to the block layer by who wants it, in
 * a thread of the VMM (io_uring's and vhost's workers are such). So each bio's owner is remembered until
 * its request is issued, and the request's until it is complete. A request merged of several owners' bios
 * is the first one's. What a worker submits on its own account, as writeback and loop devices do, is
 * nobody's here.
 *
 * A part of kvm_events.bpf.c, which has what this needs.
 */
#ifndef KVM_DISK_BPF_H
#define KVM_DISK_BPF_H

#include "kvm_events.h"
#include "request.h"

HTRACE_EVENT(kvm_disk_issue);
HTRACE_EVENT(kvm_disk_complete);

#define MAX_VMS 4096
#define MAX_BIOS 16384 /* given to the block layer and not issued; of more, the oldest are forgotten */
#define MAX_REQUESTS 16384

#define ASKS_FOR_FLUSH (REQ_PREFLUSH | REQ_FUA)

struct owner {
	__u32 vm, tid;
	__u32 flush; /* which of ASKS_FOR_FLUSH; the block layer takes them from the request */
	__u32 reserved;
	__u64 at; /* it gave the bio to the block layer */
};

struct issued {
	struct owner by;
	__u64 at;
};

/* Processes that have virtual CPUs, of those that are traced. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_VMS);
	__type(key, __u32);
	__type(value, __u8);
} kvm_vms SEC(".maps");

/* By address, which is another bio's only after that passed block_bio_queue or block_split. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_BIOS);
	__type(key, __u64);
	__type(value, struct owner);
} kvm_bios SEC(".maps");

/* By address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_REQUESTS);
	__type(key, __u64);
	__type(value, struct issued);
} kvm_requests SEC(".maps");

/* Is the running thread of a VMM? */
static __always_inline bool owner_here(struct owner *o)
{
	__u64 id = bpf_get_current_pid_tgid();

	o->vm = (__u32)(id >> 32);
	o->tid = (__u32)id;
	o->flush = o->reserved = 0;
	if (!bpf_map_lookup_elem(&kvm_vms, &o->vm))
		return false;
	o->at = bpf_ktime_get_ns();
	return true;
}

static __always_inline int bio_begins(struct bio *bio)
{
	__u64 key = (__u64)bio;
	struct owner o;

	if (!owner_here(&o)) {
		bpf_map_delete_elem(&kvm_bios, &key);
		return 0;
	}
	o.flush = bio->bi_opf & ASKS_FOR_FLUSH;
	bpf_map_update_elem(&kvm_bios, &key, &o, BPF_ANY);
	return 0;
}

SEC("tp_btf/block_bio_queue")
int BPF_PROG(kvm_bio_queue, struct bio *bio)
{
	return bio_begins(bio);
}

/* The front part of one is a new one. */
SEC("tp_btf/block_split")
int BPF_PROG(kvm_bio_split, struct bio *bio)
{
	return bio_begins(bio);
}

/* Commands that a program gives to the disk itself have no bio that was queued. */
static __always_inline bool whose(struct request *rq, struct owner *o)
{
	__u64 key = (__u64)rq->bio;
	struct owner *known;

	if (!has_data(rq->cmd_flags))
		return owner_here(o);
	known = key ? bpf_map_lookup_elem(&kvm_bios, &key) : 0;
	if (!known)
		return false;
	*o = *known;
	return true;
}

/* Its completion could not be told of any more. */
static __always_inline void lose_one(void)
{
	struct htrace_ring *r = htrace_this_ring();

	if (r)
		htrace_ring_drop(r);
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(kvm_disk_issue, struct request *rq)
{
	struct issued i = { .at = bpf_ktime_get_ns() };
	__u64 key = (__u64)rq;
	struct kvm_disk_issue *e;
	struct htrace_slot slot;

	if (!whose(rq, &i.by)) {
		bpf_map_delete_elem(&kvm_requests, &key); /* of one that was there before, whose end was missed */
		return 0;
	}
	if (i.by.at > i.at) /* not given to the block layer before: a command */
		i.by.at = i.at;
	if (bpf_map_update_elem(&kvm_requests, &key, &i, BPF_ANY))
		lose_one();
	if (aggregate)
		return 0;
	e = begin(kvm_disk_issue, &slot);
	if (!e)
		return 0;
	e->vm = i.by.vm;
	e->tid = i.by.tid;
	e->sector = sector_of(rq->cmd_flags, rq->__sector);
	e->queue_ns = i.at - i.by.at;
	e->dev = dev_of(rq->q->disk);
	e->bytes = rq->__data_len;
	e->rwbs = rwbs_of(rq->cmd_flags);
	htrace_commit(&slot);
	return 0;
}

/* @now: before anything was looked up, which is not the disk's work. */
static __always_inline void disk_completed(struct request *rq, const struct issued *i, __u64 now, __u8 status,
					   __u32 bytes, __u32 rwbs)
{
	struct htrace_slot slot;
	struct kvm_disk_complete *e = begin(kvm_disk_complete, &slot);

	if (!e)
		return;
	e->vm = i->by.vm;
	e->tid = i->by.tid;
	e->sector = bytes ? sector_of(rq->cmd_flags, rq->__sector) : 0;
	e->ns = now - i->at;
	e->queue_ns = i->at - i->by.at;
	e->dev = dev_of(rq->q->disk);
	e->bytes = bytes;
	e->rwbs = rwbs;
	e->error = errno_of(status);
	htrace_commit(&slot);
}

/*
 * What asks for a flush and is not issued, now or any more, is complete when the disk is flushed: by a
 * request of the block layer's own, which may be for several. It took from when it was asked for, or
 * from when its data were written.
 */
static __always_inline void flush_completed(struct request *rq, __u64 bio, __u64 now, __u8 status)
{
	struct owner *o = bpf_map_lookup_elem(&kvm_bios, &bio);
	struct issued i;

	if (!o || !o->flush)
		return;
	i.by = *o;
	i.at = i.by.at;
	disk_completed(rq, &i, now, status, 0, RWBS_FLUSH);
	bpf_map_delete_elem(&kvm_bios, &bio);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(kvm_disk_complete, struct request *rq, __u8 status, unsigned int bytes)
{
	__u64 now = bpf_ktime_get_ns(), key = (__u64)rq, bio = (__u64)rq->bio;
	struct issued *i = bpf_map_lookup_elem(&kvm_requests, &key);
	struct owner *o;

	if (!i) {
		if (!bytes && bio)
			flush_completed(rq, bio, now, status);
		return 0;
	}
	disk_completed(rq, i, now, status, bytes, rwbs_of(rq->cmd_flags));
	if (bytes < rq->__data_len)
		return 0; /* a part of it */
	bpf_map_delete_elem(&kvm_requests, &key);
	o = bio ? bpf_map_lookup_elem(&kvm_bios, &bio) : 0;
	if (o && o->flush)
		o->at = now;
	else if (o)
		bpf_map_delete_elem(&kvm_bios, &bio);
	return 0;
}

#endif

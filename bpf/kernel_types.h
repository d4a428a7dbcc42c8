/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The few kernel types that the built-in programs look into. Names are all that counts: offsets
 * are relocated when a program is loaded (CO-RE), so that no vmlinux.h and no BTF of the build
 * machine is needed, and members that nobody uses are left out.
 */
#ifndef HTRACE_KERNEL_TYPES_H
#define HTRACE_KERNEL_TYPES_H

#include <linux/types.h>

#include <stdbool.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info {
	__u32 status; /* x86 */
	__u32 cpu;
};

struct vm_struct {
	unsigned long size;
	unsigned int nr_pages;
};

struct task_struct {
	struct thread_info thread_info;
	int exit_state;
	int prio;
	int pid;
	int tgid;
	char comm[16];
	void *stack;
	struct vm_struct *stack_vm_area;
};

struct linux_binprm {
	const char *filename;
};

struct irqaction {
	const char *name;
};

struct timer_list {
	unsigned long expires;
	void *function;
	__u32 flags;
};

struct timerqueue_node {
	__s64 expires;
};

struct hrtimer {
	struct timerqueue_node node;
	__s64 _softexpires;
	void *function;
};

struct work_struct {
	void *func;
};

struct gendisk {
	int major;
	int first_minor;
	char disk_name[32];
};

struct request_queue {
	struct gendisk *disk;
};

struct blk_mq_hw_ctx {
	unsigned int queue_num;
};

struct bio {
	unsigned int bi_opf;
};

struct request {
	struct request_queue *q;
	struct bio *bio;
	struct blk_mq_hw_ctx *mq_hctx;
	__u32 cmd_flags;
	int tag;
	unsigned int __data_len;
	__u64 __sector;
};

struct blk_mq_queue_data {
	struct request *rq;
	bool last;
};

struct kernel_siginfo {
	int si_errno;
	int si_code;
};

struct sigaction {
	void *sa_handler;
	unsigned long sa_flags;
};

struct k_sigaction {
	struct sigaction sa;
};

struct net_device {
	char name[16];
};

struct sk_buff {
	struct net_device *dev;
	unsigned int len;
	__u16 queue_mapping;
};

struct napi_struct {
	struct net_device *dev;
};

struct virtio_device {
	void *priv;
};

struct virtqueue {
	const char *name;
	struct virtio_device *vdev;
	unsigned int index;
};

struct module {
	char name[56];
	unsigned long taints;
};

#if defined(__TARGET_ARCH_x86)
struct pt_regs {
	unsigned long r10, r9, r8, dx, si, di, cx, bx, bp, orig_ax, ip, sp;
};
#elif defined(__TARGET_ARCH_arm64)
struct pt_regs {
	__u64 regs[31];
	__u64 sp;
	__u64 pc;
	__u64 orig_x0;
	__s32 syscallno;
};
#else
#error "system calls are not described for this architecture"
#endif

#pragma clang attribute pop

#endif /* HTRACE_KERNEL_TYPES_H */

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The process that runs a guest, on KVM or not: why the guest is silent, as far as its host can tell. */
#ifndef READER_VMM_H
#define READER_VMM_H

#include <stdbool.h>

#include <htrace/region.h>

enum vmm_is {
	VMM_UNKNOWN, /* there may be one that we do not see */
	VMM_GONE,
	VMM_STOPPED, /* the process itself is */
	VMM_PAUSED,  /* no vCPU runs, not for a moment: it is paused, or halted for good */
	VMM_BUSY,    /* one runs all the time */
	VMM_IDLE,    /* the guest runs now and then */
};

#define VMM_THREADS 512

struct vmm {
	int pid;   /* 0: not found; it may be in another namespace */
	int pidfd; /* or -1 */
	/* What its threads had run when vmm_watch() was called. */
	__u64 since;
	unsigned int nr;
	struct vmm_thread {
		int tid;
		__u64 ran, waited; /* for a CPU of the host; ns */
	} thread[VMM_THREADS];
};

/* Process @pid, or 0: the one that has the region's file mapped, writable, as a whole. */
void vmm_find(struct vmm *v, const struct htrace_view *view, int pid);
/*
 * Likewise, of the file @dev, @ino of @size bytes, by this process itself, for process @reader, which may
 * map it too: its id. 0: there is none, or there are several, and which of them it is nothing tells.
 */
int vmm_scan(__u64 dev, __u64 ino, __u64 size, int reader);
void vmm_close(struct vmm *v);
bool vmm_gone(const struct vmm *v);
/* From now, @now, on it is looked at what its threads run. */
void vmm_watch(struct vmm *v, __u64 now);
/* How it has been since. */
enum vmm_is vmm_look(const struct vmm *v, __u64 now);
/* It runs hardly ever since, with all of its threads: nor does it load a guest's state. */
bool vmm_idles(const struct vmm *v, __u64 now);
/* No vCPU runs: memory is as the guest left it, unless it is being loaded. */
static inline bool vmm_stands_still(enum vmm_is is)
{
	return is == VMM_PAUSED || is == VMM_STOPPED;
}
/* In a few words. */
const char *vmm_words(enum vmm_is is);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tasks that the trace was told of: each is when it first appears, and again when its name or
 * process is another one. A guest can have any number of them, so when the table is full it is
 * emptied; then some are told twice.
 */
#include <string.h>

#include "names.h"
#include "perfetto.h"
#include "show.h"

static __u32 slot_of(const struct pf_tasks *t, __u32 tid)
{
	_Static_assert(2 * PF_TASKS == 1u << 15, "the product's upper bits are those that depend on all of tid");
	return tid * t->key >> 17;
}

struct pf_task *pf_task_find(struct pf_tasks *t, __u32 tid)
{
	__u32 at = slot_of(t, tid);

	while (t->slot[at].tid && t->slot[at].tid != tid)
		at = (at + 1) % (2 * PF_TASKS);
	return t->slot[at].tid ? &t->slot[at] : NULL;
}

struct pf_task *pf_task_get(struct pf_tasks *t, __u32 tid)
{
	struct pf_task *task = pf_task_find(t, tid);
	__u32 at = slot_of(t, tid);

	if (task)
		return task;
	if (t->nr == PF_TASKS) {
		memset(t->slot, 0, sizeof(t->slot));
		t->nr = 0;
	}
	while (t->slot[at].tid)
		at = (at + 1) % (2 * PF_TASKS);
	t->nr++;
	t->slot[at] = (struct pf_task){ .tid = tid };
	return &t->slot[at];
}

/*
 * A process is called as its first thread. Whoever reads the trace knows its parent if it saw the fork, and takes a
 * process with another parent, or none, for another process.
 */
static void put_task(struct pf *p, const struct pf_machine *m, const struct pf_task *t, __u64 time)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__ProcessTree tree = PF__PROCESS_TREE__INIT;
	Pf__ProcessTree__Process process = PF__PROCESS_TREE__PROCESS__INIT, *processes = &process;
	Pf__ProcessTree__Thread thread = PF__PROCESS_TREE__THREAD__INIT, *threads = &thread;
	char comm[PF_COMM], *name = comm;

	pf_text(comm, sizeof(comm), t->comm, t->len);
	thread.has_tid = thread.has_tgid = true;
	thread.tid = (__s32)t->tid;
	thread.tgid = (__s32)t->pid;
	thread.name = comm;
	process.has_pid = true;
	process.pid = (__s32)t->pid;
	process.has_ppid = t->parent != 0;
	process.ppid = (__s32)t->parent;
	process.n_cmdline = 1;
	process.cmdline = &name;
	process.has_cmdline_is_comm = process.cmdline_is_comm = true;
	tree.n_threads = 1;
	tree.threads = &threads;
	tree.n_processes = t->tid == t->pid;
	tree.processes = &processes;
	packet.has_timestamp = true;
	packet.timestamp = time < PF_TIME_MAX ? time : PF_TIME_MAX;
	packet.process_tree = &tree;
	pf_put(p, m, &packet);
}

void pf_tell_task(struct pf *p, struct pf_machine *m, const struct origin *from, __u32 tid,
		  __u64 time)
{
	__u32 pid = tid ? names_pid(from->names, tid, time) : 0;
	size_t len = 0;
	const char *comm = pid ? names_get(from->names, tid, time, &len) : NULL;
	struct pf_task *t;

	if (!comm) /* without a process nothing more is known than its events say */
		return;
	t = pf_task_get(&m->tasks, tid);
	if (t->pid == pid && t->len == len && !memcmp(t->comm, comm, len))
		return;
	t->pid = pid;
	t->len = (__u8)len;
	memcpy(t->comm, comm, len);
	put_task(p, m, t, time);
	if (pid != tid && names_pid(from->names, pid, time) == pid)
		pf_tell_task(p, m, from, pid, time);
}

void pf_task_forked(struct pf_machine *m, __u32 tid, __u32 pid, __u32 parent, const char *comm, size_t len)
{
	struct pf_task *t = pf_task_get(&m->tasks, tid);

	len = strnlen(comm, len < sizeof(t->comm) ? len : sizeof(t->comm));
	*t = (struct pf_task){ .tid = tid, .pid = pid, .parent = parent, .len = (__u8)len };
	memcpy(t->comm, comm, len);
}

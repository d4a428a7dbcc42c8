/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's events that the format knows: from these whoever reads the file makes CPU and thread
 * tracks, slices of system calls and interrupts.
 *
 * They pair what begins with what ends, and believe that nothing is missing. Where something is,
 * we say so in their terms: what began and may have ended unseen ends, without a result, and a CPU
 * of which is not known what it runs runs a task of its own that is called "(events lost)",
 * "(not traced)" from one session to the next, "(not shown)" where switches were filtered.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "names.h"
#include "perfetto.h"
#include "show.h"

/* Less the CPU: tasks of Linux have no such numbers. */
#define LOST_TASK 0x7fffffffu
#define NR_SOFTIRQS 10u
#define NEW_THREAD 0x10000u /* CLONE_THREAD */
#define SIGRETURN_X86 15    /* a call that never comes back */

/* What an event is made from, and into. */
struct making {
	struct pf *pf;
	struct pf_machine *machine;
	struct pf_lane *lane;
	const struct sink_event *e;
	__u64 time;
};

/* -------------------------------------------------------------------------------------- bundles */

void pf_ftrace_flush(struct pf *p, struct pf_machine *m, struct pf_lane *l)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__FtraceEventBundle bundle = PF__FTRACE_EVENT_BUNDLE__INIT;
	Pf__FtraceEvent *events[PF_BUNDLE];

	if (!l->nr)
		return;
	for (__u32 i = 0; i < l->nr; i++)
		events[i] = &l->event[i].event;
	bundle.has_cpu = true;
	bundle.cpu = l->ring;
	bundle.n_event = l->nr;
	bundle.event = events;
	bundle.has_lost_events = bundle.lost_events = l->lost;
	packet.ftrace_events = &bundle;
	pf_put(p, m, &packet);
	l->nr = 0;
	l->lost = false;
}

/* Where the lane's next event goes: after put() it is there. */
static struct pf_ftrace *next(const struct making *w)
{
	if (w->lane->nr == PF_BUNDLE)
		pf_ftrace_flush(w->pf, w->machine, w->lane);
	return &w->lane->event[w->lane->nr];
}

static void put(const struct making *w, struct pf_ftrace *f, __u32 tid)
{
	f->event.has_timestamp = f->event.has_pid = true;
	f->event.timestamp = w->time;
	f->event.pid = tid;
	w->lane->nr++;
}

static char *comm_of(const struct making *w, char *text, __u32 tid)
{
	char buf[TASK_NAME];
	size_t len;
	const char *comm = task_name(w->e->from, tid, w->e->time, buf, &len);

	if (!comm)
		return NULL;
	pf_text(text, PF_COMM, comm, len);
	return text;
}

/* --------------------------------------------------------------------------------------- values */

static bool get(const struct making *w, const char *name, __u64 *v)
{
	const struct sink_event *e = w->e;

	return htrace_event_get(e->event, e->record->payload, e->record->len, name, v);
}

static bool get_s32(const struct making *w, const char *name, __s32 *v)
{
	__u64 value;

	if (!get(w, name, &value))
		return false;
	*v = (__s32)value;
	return true;
}

static bool get_u32(const struct making *w, const char *name, __u32 *v)
{
	return get_s32(w, name, (__s32 *)v);
}

static const struct htrace_member *member(const struct making *w, const char *name)
{
	const struct htrace_type *t = w->e->event->type;

	for (__u32 i = 0; i < t->nr; i++)
		if (!strcmp(t->members[i].name, name))
			return &t->members[i];
	return NULL;
}

/* A member that is text of a fixed size, within the record. */
static const char *get_text(const struct making *w, const char *name, size_t *len)
{
	const struct htrace_member *m = member(w, name);

	if (!m || m->type->kind != HTRACE_TYPE_STRING || !m->type->size ||
	    m->bit_off / 8 + m->type->size > w->e->record->len)
		return NULL;
	*len = m->type->size;
	return (const char *)w->e->record->payload + m->bit_off / 8;
}

/* ------------------------------------------------------------------------------------- schedule */

struct run {
	__u32 prev, next;
	__s32 prev_prio, next_prio;
	__s64 prev_state;
};

/* @name, or what the task is called; NULL: neither is known. */
static char *name_of(const struct making *w, char *text, __u32 tid, const char *name)
{
	if (name)
		return strcpy(text, name);
	return w->e ? comm_of(w, text, tid) : NULL;
}

/* @prev, @next_comm: names that are no task's; NULL: what they are called. */
static void put_switch(const struct making *w, const struct run *r, const char *prev,
		       const char *next_comm)
{
	struct pf_ftrace *f = next(w);

	pf__ftrace_event__init(&f->event);
	pf__sched_switch__init(&f->sched_switch);
	f->event.sched_switch = &f->sched_switch;
	f->sched_switch.has_prev_pid = f->sched_switch.has_next_pid = true;
	f->sched_switch.prev_pid = (__s32)r->prev;
	f->sched_switch.next_pid = (__s32)r->next;
	f->sched_switch.has_prev_prio = f->sched_switch.has_next_prio = true;
	f->sched_switch.prev_prio = r->prev_prio;
	f->sched_switch.next_prio = r->next_prio;
	f->sched_switch.has_prev_state = true;
	f->sched_switch.prev_state = r->prev_state;
	f->sched_switch.prev_comm = name_of(w, f->text[0], r->prev, prev);
	f->sched_switch.next_comm = name_of(w, f->text[1], r->next, next_comm);
	put(w, f, r->prev);
	w->lane->runs = true;
	w->lane->running = r->next;
}

void pf_ftrace_runs(struct pf *p, struct pf_machine *m, struct pf_lane *l,
		    const struct sink_event *e, __u64 time)
{
	struct making w = { p, m, l, e, time };
	struct run r = { .next = e->task };

	if (l->runs && !l->unknown && l->running != e->task)
		pf_ftrace_gap(p, m, l, PF_GAP_HIDDEN);
	if (!l->unknown)
		return;
	r.prev = l->running;
	put_switch(&w, &r, l->unknown, NULL);
	l->unknown = NULL;
}

static bool sched_switch(const struct making *w)
{
	struct run r;
	__u64 state;

	if (!get_u32(w, "prev_tid", &r.prev) || !get_u32(w, "next_tid", &r.next) ||
	    !get_s32(w, "prev_prio", &r.prev_prio) || !get_s32(w, "next_prio", &r.next_prio) ||
	    !get(w, "prev_state", &state))
		return false;
	r.prev_state = (__s64)(state & 0x1ff); /* what the kernel reports */
	pf_tell_task(w->pf, w->machine, w->e->from, r.next, w->e->time);
	put_switch(w, &r, NULL, NULL);
	return true;
}

/* Of which of the three depends where it goes. NULL: not all of it is there. */
static Pf__SchedWakeup *wakeup(const struct making *w, struct pf_ftrace *f)
{
	Pf__SchedWakeup *k = &f->wakeup;
	__u32 tid;

	pf__ftrace_event__init(&f->event);
	pf__sched_wakeup__init(k);
	/* Without the one who wakes, a reader would think that it was the idle task. */
	if (!w->e->task_known || !get_u32(w, "tid", &tid) || !get_s32(w, "prio", &k->prio) ||
	    !get_s32(w, "target_cpu", &k->target_cpu))
		return NULL;
	k->has_pid = k->has_prio = k->has_target_cpu = true;
	k->pid = (__s32)tid;
	k->comm = comm_of(w, f->text[0], tid);
	pf_tell_task(w->pf, w->machine, w->e->from, tid, w->e->time);
	return k;
}

static bool sched_waking(const struct making *w)
{
	struct pf_ftrace *f = next(w);
	Pf__SchedWakeup *k = wakeup(w, f);

	if (!k)
		return false;
	f->event.sched_waking = k;
	put(w, f, w->e->task);
	return true;
}

static bool sched_wakeup(const struct making *w)
{
	struct pf_ftrace *f = next(w);
	Pf__SchedWakeup *k = wakeup(w, f);

	if (!k)
		return false;
	f->event.sched_wakeup = k;
	put(w, f, w->e->task);
	return true;
}

static bool sched_wakeup_new(const struct making *w)
{
	struct pf_ftrace *f = next(w);
	Pf__SchedWakeup *k = wakeup(w, f);

	if (!k)
		return false;
	f->event.sched_wakeup_new = k;
	put(w, f, w->e->task);
	return true;
}

/* --------------------------------------------------------------------------- ends of system calls */

/* @ret NULL: it is over, and nobody knows since when. */
static void put_sys_exit(const struct making *w, __u32 tid, __s32 call, const __u64 *ret)
{
	struct pf_ftrace *f = next(w);

	pf__ftrace_event__init(&f->event);
	pf__sys_exit__init(&f->sys_exit);
	f->event.sys_exit = &f->sys_exit;
	f->sys_exit.has_id = true;
	f->sys_exit.id = call;
	f->sys_exit.has_ret = ret != NULL;
	f->sys_exit.ret = ret ? (__s64)*ret : 0;
	put(w, f, tid);
}

/* Its call, if it was in one, has ended unseen. */
static void end_call(const struct making *w, struct pf_task *t)
{
	if (!t || !t->in_call)
		return;
	t->in_call = false;
	put_sys_exit(w, t->tid, t->call, NULL);
}

/* ---------------------------------------------------------------------------------------- tasks */

static bool sched_process_fork(const struct making *w)
{
	struct pf_ftrace *f;
	Pf__TaskNewtask *k;
	const char *comm;
	__u32 tid, pid, parent;
	size_t len;

	comm = get_text(w, "child_comm", &len);
	if (!comm || !get_u32(w, "child_tid", &tid) || !get_u32(w, "child_pid", &pid) ||
	    !get_u32(w, "parent_tid", &parent) || !tid || len > TASK_NAME)
		return false;
	end_call(w, pf_task_find(&w->machine->tasks, tid)); /* of the one that had its number before */
	f = next(w);
	k = &f->newtask;
	pf__ftrace_event__init(&f->event);
	pf__task_newtask__init(k);
	f->event.task_newtask = k;
	k->has_pid = k->has_clone_flags = true;
	k->pid = (__s32)tid;
	k->clone_flags = pid != tid ? NEW_THREAD : 0;
	pf_text(f->text[0], PF_COMM, comm, len);
	k->comm = f->text[0];
	put(w, f, parent);
	pf_task_forked(w->machine, tid, pid, names_pid(w->e->from->names, parent, w->e->time), comm, len);
	return true;
}

static bool task_rename(const struct making *w)
{
	struct pf_ftrace *f = next(w);
	Pf__TaskRename *k = &f->rename;
	const char *comm;
	size_t len;
	__u32 tid;

	comm = get_text(w, "comm", &len);
	if (!comm || !get_u32(w, "tid", &tid) || len > TASK_NAME)
		return false;
	pf__ftrace_event__init(&f->event);
	pf__task_rename__init(k);
	f->event.task_rename = k;
	k->has_pid = true;
	k->pid = (__s32)tid;
	pf_text(f->text[0], PF_COMM, comm, len);
	k->newcomm = f->text[0];
	put(w, f, w->e->task_known ? w->e->task : tid);
	return true;
}

/* --------------------------------------------------------------------------------- system calls */

/* Whose numbers they are is known from how they are declared. */
static void find_machine(const struct making *w)
{
	const struct htrace_member *nr = member(w, "nr");

	if (w->machine->x86 || !nr || nr->type->hint != HTRACE_HINT_SYSCALL)
		return;
	w->machine->x86 = true;
	pf_put_system(w->pf, w->machine);
}

/* The six arguments; false: it has no such array. */
static bool get_args(const struct making *w, uint64_t args[6])
{
	const struct htrace_member *m = member(w, "args");

	if (!m || m->type->kind != HTRACE_TYPE_ARRAY || m->type->nr != 6 ||
	    m->type->elem->kind != HTRACE_TYPE_INT || m->type->elem->size != 8 ||
	    m->bit_off / 8 + 48 > w->e->record->len)
		return false;
	memcpy(args, (const char *)w->e->record->payload + m->bit_off / 8, 48);
	return true;
}

static bool sys_enter(const struct making *w)
{
	struct pf_task *t;
	struct pf_ftrace *f;
	uint64_t args[6];
	__u32 tid;
	__s32 nr;

	if (!get_u32(w, "tid", &tid) || !tid || !get_s32(w, "nr", &nr) || !get_args(w, args))
		return false;
	find_machine(w);
	t = pf_task_get(&w->machine->tasks, tid);
	end_call(w, t);
	t->call = nr;
	t->in_call = !w->machine->x86 || nr != SIGRETURN_X86;
	f = next(w);
	pf__ftrace_event__init(&f->event);
	pf__sys_enter__init(&f->sys_enter);
	f->event.sys_enter = &f->sys_enter;
	f->sys_enter.has_id = true;
	f->sys_enter.id = nr;
	memcpy(f->args, args, sizeof(args));
	f->sys_enter.n_args = 6;
	f->sys_enter.args = f->args;
	put(w, f, tid);
	return true;
}

static bool sys_exit(const struct making *w)
{
	struct pf_task *t;
	__u64 ret;
	__u32 tid;
	__s32 nr;

	if (!get_u32(w, "tid", &tid) || !tid || !get_s32(w, "nr", &nr) || !get(w, "ret", &ret))
		return false;
	find_machine(w);
	t = pf_task_find(&w->machine->tasks, tid);
	if (t && t->call != nr)
		end_call(w, t);
	if (t)
		t->in_call = false;
	put_sys_exit(w, tid, nr, &ret);
	return true;
}

/* Not known to the format, but calls end with it. */
static bool sched_process_exit(const struct making *w)
{
	__u32 tid;

	if (get_u32(w, "tid", &tid) && tid)
		end_call(w, pf_task_find(&w->machine->tasks, tid));
	return false;
}

/* ----------------------------------------------------------------------------------- interrupts */

static void put_irq_exit(const struct making *w, __s32 irq, __s32 ret)
{
	struct pf_ftrace *f = next(w);

	pf__ftrace_event__init(&f->event);
	pf__irq_handler_exit__init(&f->irq_exit);
	f->event.irq_handler_exit = &f->irq_exit;
	f->irq_exit.has_irq = f->irq_exit.has_ret = true;
	f->irq_exit.irq = irq;
	f->irq_exit.ret = ret;
	put(w, f, w->e && w->e->task_known ? w->e->task : 0);
	w->lane->in_irq = false;
}

static bool irq_handler_entry(const struct making *w)
{
	struct pf_ftrace *f;
	const char *name;
	size_t len;
	__s32 irq;

	name = get_text(w, "name", &len);
	if (!name || !get_s32(w, "irq", &irq))
		return false;
	if (w->lane->in_irq) /* handlers do not interrupt each other */
		put_irq_exit(w, w->lane->irq, 0);
	f = next(w);
	pf__ftrace_event__init(&f->event);
	pf__irq_handler_entry__init(&f->irq_entry);
	f->event.irq_handler_entry = &f->irq_entry;
	f->irq_entry.has_irq = true;
	f->irq_entry.irq = irq;
	pf_text(f->irq, sizeof(f->irq), name, len);
	f->irq_entry.name = f->irq;
	put(w, f, w->e->task_known ? w->e->task : 0);
	w->lane->in_irq = true;
	w->lane->irq = irq;
	return true;
}

static bool irq_handler_exit(const struct making *w)
{
	__s32 irq, ret;

	if (!get_s32(w, "irq", &irq) || !get_s32(w, "ret", &ret))
		return false;
	if (w->lane->in_irq && irq != w->lane->irq)
		put_irq_exit(w, w->lane->irq, 0);
	put_irq_exit(w, irq, ret);
	return true;
}

static void put_softirq(const struct making *w, __u32 vec, bool begins)
{
	struct pf_ftrace *f = next(w);

	pf__ftrace_event__init(&f->event);
	pf__softirq__init(&f->softirq);
	*(begins ? &f->event.softirq_entry : &f->event.softirq_exit) = &f->softirq;
	f->softirq.has_vec = true;
	f->softirq.vec = vec;
	put(w, f, w->e && w->e->task_known ? w->e->task : 0);
	w->lane->in_softirq = begins;
	w->lane->softirq = vec;
}

static bool softirq(const struct making *w, bool begins)
{
	__u32 vec;

	if (!get_u32(w, "vec", &vec) || vec >= NR_SOFTIRQS)
		return false;
	/* One ends before the next begins; the kernel skips an event now and then. */
	if (w->lane->in_softirq && (begins || vec != w->lane->softirq))
		put_softirq(w, w->lane->softirq, false);
	put_softirq(w, vec, begins);
	return true;
}

static bool softirq_entry(const struct making *w)
{
	return softirq(w, true);
}

static bool softirq_exit(const struct making *w)
{
	return softirq(w, false);
}

/* ------------------------------------------------------------------------------------- the loss */

void pf_ftrace_gap(struct pf *p, struct pf_machine *m, struct pf_lane *l, enum pf_gap why)
{
	static const char *const names[] = { "(events lost)", "(not traced)", "(not shown)" };
	struct making w = { p, m, l, NULL, l->last };
	struct run r = { .prev = l->running, .next = LOST_TASK - why * HTRACE_MAX_RINGS - l->ring };

	if (!l->per_cpu)
		return;
	if (l->in_irq)
		put_irq_exit(&w, l->irq, 0);
	if (l->in_softirq)
		put_softirq(&w, l->softirq, false);
	if (l->runs && !l->unknown) {
		l->unknown = names[why];
		put_switch(&w, &r, NULL, l->unknown);
	}
	if (why == PF_GAP_LOST) {
		pf_ftrace_flush(p, m, l);
		l->lost = true;
	}
}

/* ---------------------------------------------------------------------------------- all of them */

static const struct {
	const char *event;
	bool (*make)(const struct making *w); /* false: nothing was put that says all of it */
} kinds[] = {
	{ "irq_handler_entry", irq_handler_entry },
	{ "irq_handler_exit", irq_handler_exit },
	{ "irq_softirq_entry", softirq_entry },
	{ "irq_softirq_exit", softirq_exit },
	{ "sched_process_exit", sched_process_exit },
	{ "sched_process_fork", sched_process_fork },
	{ "sched_switch", sched_switch },
	{ "sched_wakeup", sched_wakeup },
	{ "sched_wakeup_new", sched_wakeup_new },
	{ "sched_waking", sched_waking },
	{ "sys_enter", sys_enter },
	{ "sys_exit", sys_exit },
	{ "task_rename", task_rename },
};

bool pf_ftrace_event(struct pf *p, struct pf_machine *m, struct pf_lane *l,
		     const struct sink_event *e, __u64 time)
{
	struct making w = { p, m, l, e, time };

	/* Those of a guest that fell silent may be anything: they are shown as they are. */
	if (!e->event || e->unverified || !l->per_cpu)
		return false;
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strcmp(kinds[i].event, e->event->name))
			return kinds[i].make(&w);
	return false;
}

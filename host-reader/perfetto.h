/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Perfetto's trace format as its sink writes it, in parts: packets, tracks and interned names
 * (perfetto_packet.c); the kernel's events, which the format knows, per CPU (perfetto_ftrace.c);
 * all others, with their fields as annotations (perfetto_args.c); virtual CPUs (perfetto_vcpus.c); its boot
 * (perfetto_boot.c);
 * and which tasks were told of so far (perfetto_tasks.c). sink_perfetto.c puts them together; docs/perfetto.md says what becomes
 * what.
 *
 * A machine of the trace is a VM from one boot to the next, whatever number of sessions. Everything
 * that is held is bounded by what follows, per machine, and per ring that has events.
 */
#ifndef READER_PERFETTO_H
#define READER_PERFETTO_H

#include "perfetto.pb-c.h"
#include "sink.h"

#define PF_NODES 1024u      /* values shown of an event */
#define PF_TEXT (32u << 10) /* bytes of their text */
#define PF_STRING 1024u     /* bytes shown of one string */
#define PF_NAME 72          /* a field's name, with what may be appended to it */
#define PF_INTERNED 4096u   /* names of a machine that have numbers */
#define PF_TASKS 16384u     /* tasks of a machine of which is known what was told */
#define PF_BUNDLE 32u       /* events of a CPU that go out as one packet */
#define PF_PACKET_MAX (256u << 10)
#define PF_COMM (4 * 20 + 1) /* a task's name, escaped */
#define PF_TIME_MAX ((1ULL << 62) - 1) /* times are signed there, and get an offset */

/* --------------------------------------------------------------------------------------- tracks */

/*
 * Tracks of our own of a machine; CPU scheduling, threads and interrupts are made by whoever reads
 * the file. Another kind is to be added here, and a name in pf_track().
 */
enum pf_track {
	PF_MACHINE, /* has the others below it */
	PF_EVENTS, /* of a ring: whatever has no form of its own */
	PF_LOST,
	PF_RATE,
	PF_TRACKS, /* those of rings, and of the machine */
	PF_VM = PF_TRACKS, /* by its process */
	PF_VCPU, /* by the follower's number, likewise */
	PF_STEAL,
	PF_BOOT,
};

/* The tracks' numbers are of the whole file. */
static inline __u64 pf_uuid(__u32 machine, enum pf_track track, bool per_cpu, __u32 ring)
{
	return (__u64)machine << 32 | (__u64)track << 24 | (__u64)per_cpu << 23 | ring;
}

/* ---------------------------------------------------------------------------------------- state */

enum pf_name_kind { PF_EVENT_NAME, PF_FIELD_NAME };

struct pf_names {
	__u32 nr;
	__u32 key; /* random, likewise */
	struct {
		__u8 kind;
		char text[PF_NAME];
	} name[PF_INTERNED]; /* number i has the iid i + 1 */
	__u16 slot[2 * PF_INTERNED]; /* by hash: iids, or 0 */
};

struct pf_task {
	__u32 tid; /* 0: none */
	__u32 pid; /* as it was told; 0: it was not */
	__u32 parent; /* the process that forked it, if that was told */
	__s32 call;
	bool in_call; /* of that number, and not back as far as is known */
	__u8 len;
	char comm[16];
};

struct pf_tasks {
	__u32 nr;
	__u32 key; /* random: a guest must not be able to choose tids that collide */
	struct pf_task slot[2 * PF_TASKS];
};

/* An event with all that it points to. */
struct pf_ftrace {
	Pf__FtraceEvent event;
	union {
		Pf__SchedSwitch sched_switch;
		Pf__SchedWakeup wakeup;
		Pf__Softirq softirq;
		Pf__IrqHandlerEntry irq_entry;
		Pf__IrqHandlerExit irq_exit;
		Pf__TaskNewtask newtask;
		Pf__TaskRename rename;
		Pf__SysEnter sys_enter;
		Pf__SysExit sys_exit;
	};
	union {
		char text[2][PF_COMM];
		char irq[4 * 32 + 1];
		uint64_t args[6];
	};
};

struct pf_lane {
	bool per_cpu;
	__u32 ring;
	bool described[PF_TRACKS];
	__u64 last; /* time of the last event or loss */
	/* events per second */
	__u64 window, counted, first;
	/* who runs there, as far as the trace says */
	bool runs;
	__u32 running;
	const char *unknown; /* what stands for it since events are missing; NULL: it is known */
	bool resumed; /* by another session, of which nothing came yet */
	__s32 irq; /* that is being handled, */
	__u32 softirq;
	bool in_irq, in_softirq; /* if so */
	/* what was not written yet */
	bool lost;
	__u32 nr;
	struct pf_ftrace event[PF_BUNDLE];
};

struct pf_machine {
	struct pf_machine *next;
	__u32 id;
	const struct sink_session *session; /* NULL: none just now */
	const char *source; /* of the session */
	unsigned int source_nr;
	__u8 boot_id[16];
	__u32 boots; /* before this one */
	bool x86; /* its system calls have x86-64's numbers, and that was told */
	__u32 nr_cpus;
	char name[400], release[4 * 64 + 1];
	__u64 last;
	struct pf_names names;
	struct pf_tasks tasks;
	struct pf_vcpus *vcpus; /* NULL: of none was said anything */
	struct {
		bool described, in_part, in_initcall; /* the track; slices that are open */
		bool over; /* user space was begun */
	} boot;
	struct pf_lane *lane[2][HTRACE_MAX_RINGS]; /* of CPUs, of others */
};

/* Annotations in the making. */
struct pf_args {
	__u32 nr, nr_names;
	size_t text_len;
	bool full;
	unsigned int stacks, depth;
	__u32 parent[HTRACE_MAX_DEPTH + 4];
	struct pf_node {
		Pf__DebugAnnotation a;
		__u32 parent, nr_children;
		bool is_array;
	} node[PF_NODES];
	Pf__DebugAnnotation *child[PF_NODES];
	char text[PF_TEXT];
};

/* When machines have the times of a host, they must stay beside each other to the nanosecond: one offset for all of them. */
#define PF_HOSTS 64u /* of more than so many machines are placed each by its own */

struct pf_host {
	__u8 boot_id[16];
	__u64 ahead; /* real time less monotonic */
};

#define PF_NOTE 250 /* characters of a note that are shown */
#define PF_EARLY 8

/* What is said of a source before anything happened there, and so before it has a machine. */
struct pf_early {
	const char *source; /* as in struct sink_note */
	char text[PF_NOTE + 1];
};

struct pf {
	struct pf_early early[PF_EARLY]; /* in their order; of more only the first are shown */
	unsigned int nr_early;
	struct out *out;
	int error;
	struct pf_machine *machines;
	__u32 nr_machines;
	struct pf_host host[PF_HOSTS]; /* whose times machines have: captures may be of several, or of several boots */
	unsigned int nr_hosts;
	struct pf_args args;
	/* names that go out with the next event */
	__u32 nr_fresh;
	bool fresh_event;
	Pf__EventName event_name;
	Pf__DebugAnnotationName field_name[PF_NODES];
	Pf__DebugAnnotationName *fresh[PF_NODES];
	unsigned char packet[PF_PACKET_MAX];
};

/* -------------------------------------------------------------------------------------- packets */

/* Write a packet of @m, or of the host. */
void pf_put(struct pf *p, const struct pf_machine *m, Pf__TracePacket *packet);
/* The beginning of the file: the host's clocks. */
void pf_put_host(struct pf *p);
/* The beginning of a machine: its clocks, what it is called, its track. */
void pf_put_machine(struct pf *p, struct pf_machine *m);
void pf_put_system(struct pf *p, const struct pf_machine *m);
/* A track of @parent's, a counter if it has a @unit. */
void pf_describe(struct pf *p, struct pf_machine *m, __u64 uuid, __u64 parent, const char *name,
		 const char *unit);
/* The number of a lane's track, which is described first if it was not. */
__u64 pf_track(struct pf *p, struct pf_machine *m, struct pf_lane *l, enum pf_track track);
/*
 * An event on a track of ours: pf_begin() before names are interned for it, pf_event() after. Names
 * have less than PF_NAME bytes.
 */
void pf_begin(struct pf *p, struct pf_machine *m);
__u64 pf_intern(struct pf *p, struct pf_machine *m, enum pf_name_kind kind, const char *name);
void pf_event(struct pf *p, struct pf_machine *m, __u64 time, Pf__TrackEvent *e);
/* Text with a NUL, escaped and cut to @size. */
void pf_text(char *to, size_t size, const char *s, size_t len);

/* ---------------------------------------------------------------------------------------- tasks */

/* NULL: it is not known. */
struct pf_task *pf_task_find(struct pf_tasks *t, __u32 tid);
/* Made if it is missing; when there are too many all are forgotten before. */
struct pf_task *pf_task_get(struct pf_tasks *t, __u32 tid);
/* Tell what @tid is called and to which process it belongs, if that was not told. */
void pf_tell_task(struct pf *p, struct pf_machine *m, const struct origin *from, __u32 tid,
		  __u64 time);
/* An event of its own tells that @tid, called so, belongs to @pid from now on, and that the process @parent made it. */
void pf_task_forked(struct pf_machine *m, __u32 tid, __u32 pid, __u32 parent, const char *comm, size_t len);

/* --------------------------------------------------------------------------------------- events */

/* The kernel's: false: it is none, or the format has no room for what it says. */
bool pf_ftrace_event(struct pf *p, struct pf_machine *m, struct pf_lane *l,
		     const struct sink_event *e, __u64 time);
/* Before any event of @time that @e's task is known for, and @l has no such time yet: it runs there. */
void pf_ftrace_runs(struct pf *p, struct pf_machine *m, struct pf_lane *l,
		    const struct sink_event *e, __u64 time);
enum pf_gap {
	PF_GAP_LOST,
	PF_GAP_UNTRACED, /* from one session to the next */
	PF_GAP_HIDDEN,   /* task switches were filtered */
};

/* What was true until the lane's last time may not be true behind it: events are missing. */
void pf_ftrace_gap(struct pf *p, struct pf_machine *m, struct pf_lane *l, enum pf_gap why);
void pf_ftrace_flush(struct pf *p, struct pf_machine *m, struct pf_lane *l);

/* A virtual CPU is in another state. */
void pf_vcpu(struct pf *p, struct pf_machine *m, const struct vcpu_change *c, __u64 time);
/* Slices that are open end. */
void pf_vcpus_end(struct pf *p, struct pf_machine *m);

/* Any event: those of the boot have a track. */
void pf_boot(struct pf *p, struct pf_machine *m, const struct sink_event *e, __u64 time);
void pf_boot_end(struct pf *p, struct pf_machine *m);

/* Has it fields that name stacks? */
bool pf_has_stacks(const struct htrace_event *e);
/* Any event, as an instant. */
void pf_instant(struct pf *p, struct pf_machine *m, struct pf_lane *l, const struct sink_event *e,
		__u64 time);
/* Annotations of an event that is made by hand: pf_args_begin(), values, pf_args_end(). */
void pf_args_begin(struct pf *p);
void pf_args_count(struct pf *p, struct pf_machine *m, const char *name, __u64 v);
void pf_args_end(struct pf *p, Pf__TrackEvent *e);

#endif

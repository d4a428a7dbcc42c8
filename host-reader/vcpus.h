/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether virtual CPUs run: what the kvm source's events say of them, followed in the order of the
 * merge, and asked for each event of a guest. The kvm source is the host's word; nothing that a
 * guest says comes in here but the time of its event.
 *
 *	running    from kvm_entry on
 *	out        from kvm_exit on: the host works for it
 *	preempted  from sched_out on: its thread would run, and something else does
 *	asleep     likewise: its thread waits
 *
 * What was not seen is not known: after a loss, after a step back in time, and when another thread
 * runs the virtual CPU, its state is unknown until its next event. A little of the past is kept,
 * for clocks agree but to some bound: within that of running, a guest's event was written running.
 */
#ifndef READER_VCPUS_H
#define READER_VCPUS_H

#include <stdbool.h>

#include <htrace/consumer.h>
#include <htrace/schema.h>

#define VCPUS_MAX 2048u /* followed at a time, of a host; of others nothing is known */
#define VCPUS_REASONS 512u /* names of them that are kept */
#define VCPUS_REASON 48
#define VCPUS_PAST 1024u /* changes of a virtual CPU that can be looked back to */
#define VCPUS_HOSTS 8u
#define VCPUS_SESSIONS 8u /* of kvm sources of a host */
#define VCPUS_COMM 16 /* TASK_COMM_LEN */

enum vcpu_state {
	VCPU_UNKNOWN,
	VCPU_RUNNING,
	VCPU_OUT,
	VCPU_PREEMPTED,
	VCPU_ASLEEP,
};

extern const char *const vcpu_state_names[];

/* Of an event: the virtual CPU at its time. */
struct vcpu_view {
	const __u8 *host; /* boot id of the host that this is about, for as long as the event is shown */
	__u32 vm;     /* process of the VMM */
	__u32 vcpu;   /* KVM's number */
	__u32 thread; /* on the host; 0: not known */
	enum vcpu_state state;
	const char *why; /* it is not running: the reason of its exit; or NULL */
	/*
	 * Lost up to here, of what was seen: ns out, but for those after the guest halted, and
	 * preempted. The difference of two events' is what was lost between them.
	 */
	__u64 out, preempted;
	/* Of that since the ring's event before; all of it was seen, and there was one. */
	bool since_known;
	__u64 out_since, preempted_since;
};

static inline __u64 vcpu_lost(const struct vcpu_view *v)
{
	return v->out + v->preempted;
}

static inline __u64 vcpu_lost_since(const struct vcpu_view *v)
{
	return v->out_since + v->preempted_since;
}

/* What the scheduler put in the place of a virtual CPU's thread. */
struct vcpu_taker {
	__u32 tid; /* 0: nothing, as where a quota is used up */
	char comm[VCPUS_COMM]; /* bytes of any value; if shorter than that, up to a 0 */
};

/* From @time on a virtual CPU is in another state. */
struct vcpu_change {
	__u32 nr; /* tells virtual CPUs of a host apart, also those of ids that came again */
	__u32 vm, vcpu, thread;
	__u64 time;
	enum vcpu_state before, state;
	const char *why; /* or NULL; of other states than running */
	__u64 preempted; /* ns so far */
	__u64 since; /* from when on it was in the state before; of VCPU_UNKNOWN it need not be so */
	const struct vcpu_taker *taker; /* of its CPU, then, if it was preempted before; NULL: that is not told */
};

typedef void vcpu_changed(void *ctx, const struct vcpu_change *c);

/* Where a ring's last event stood. */
struct vcpu_mark {
	bool known;
	__u32 nr, breaks;
	__u64 time, out, preempted;
};

struct vcpus;      /* of a host, in one of its boots */
struct vcpu_hosts; /* all of them */
struct vcpu_events; /* what the schema of a kvm source calls its events */

struct vcpu_hosts *vcpu_hosts_new(void);
/* NULL is allowed. */
void vcpu_hosts_free(struct vcpu_hosts *h);

/*
 * A kvm source's session of that host begins. All of its events before *@known came to vcpus_take(): of
 * times behind that nothing is told, for what happened until then is still to come. NULL: no memory,
 * or too many.
 */
struct vcpus *vcpus_open(struct vcpu_hosts *h, const __u8 *boot_id, const __u64 *known);
/* It ends: nothing is known of what comes. @v NULL is allowed. */
void vcpus_close(struct vcpus *v, const __u64 *known);
/* Of which host a kvm source is, or was, open; or NULL. */
struct vcpus *vcpus_find(const struct vcpu_hosts *h, const __u8 *boot_id);

/* NULL: no memory. */
struct vcpu_events *vcpu_events_new(const struct htrace_schema *schema);
/* NULL is allowed. */
void vcpu_events_free(struct vcpu_events *e);

/* A record of a kvm source; the order is by time. @changed may be called some times, or be NULL. */
void vcpus_take(struct vcpus *v, const struct vcpu_events *events, const struct htrace_record *r,
		__u64 time, vcpu_changed *changed, void *ctx);
/* Records of the kvm source are missing between those of @from and @until, of any virtual CPU. */
void vcpus_lose(struct vcpus *v, __u64 from, __u64 until);
/*
 * Virtual CPU @vcpu of process @vm at @time, which a guest's clock says, and which may be off by
 * @bound: one that may have run then did, for it wrote the event. @mark is the ring's, and moves on.
 */
void vcpus_look(struct vcpus *v, __u32 vm, __u32 vcpu, __u64 time, __u64 bound,
		struct vcpu_mark *mark, struct vcpu_view *view);

#endif

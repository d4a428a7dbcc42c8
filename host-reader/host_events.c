/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host_events.h"

enum field { F_VM, F_TID, F_VCPU, F_REASON, F_RIP, F_STATE, F_NS, F_WRITE, F_KIND, FIELDS };

#define BIT(field) (1u << (field))
#define WHO (BIT(F_VM) | BIT(F_TID) | BIT(F_VCPU))
#define WHY (BIT(F_REASON) | BIT(F_RIP))
#define MMIO_WRITE 2

static const char *const fields[FIELDS] = {
	"vm", "tid", "vcpu", "reason", "guest_rip", "prev_state", "exit_overhead_ns", "write", "kind",
};

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[HOST_EXIT] = { "kvm_exit", WHO | WHY },
		[HOST_ENTRY] = { "kvm_entry", WHO },
		[HOST_SCHED_OUT] = { "kvm_sched_out", WHO | BIT(F_STATE) },
		[HOST_SCHED_IN] = { "kvm_sched_in", WHO },
		[HOST_HYPERCALL] = { "hypercall", WHO | WHY | BIT(F_NS) },
		[HOST_IO] = { "kvm_io", WHO | WHY | BIT(F_NS) },
		[HOST_MMIO] = { "kvm_mmio_access", WHO | WHY | BIT(F_NS) },
		[HOST_EXITED] = { "kvm_exited", WHO | WHY | BIT(F_NS) },
		[HOST_IN_PIO] = { "kvm_pio", WHO | BIT(F_WRITE) },
		[HOST_IN_MMIO] = { "kvm_mmio", WHO | BIT(F_KIND) },
		[HOST_INJECT] = { "kvm_inj_virq", WHO },
	},
};

struct event_fields *host_events_new(void)
{
	return event_fields_new(&spec);
}

void host_events_take(struct event_fields *h, const struct sink_event *e, struct host_event *out)
{
	struct event_values v;

	event_fields_take(h, e, &v);
	*out = (struct host_event){
		.kind = v.kind,
		.vm = (__u32)v.v[F_VM],
		.tid = (__u32)v.v[F_TID],
		.vcpu = (__u32)v.v[F_VCPU],
		.reason = (__u32)v.v[F_REASON],
		.rip = v.v[F_RIP],
		.ns = v.v[F_NS],
		.preempted = !(v.v[F_STATE] & 0xff), /* bit 8 says how it came to it */
		.write = v.v[F_WRITE] || v.v[F_KIND] == MMIO_WRITE,
	};
	if (v.type[F_REASON] && v.type[F_REASON]->kind == HTRACE_TYPE_ENUM)
		out->reason_name = htrace_enum_name(v.type[F_REASON], v.v[F_REASON]);
}

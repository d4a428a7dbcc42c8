/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host_events.h"

enum field {
	F_VM, F_TID, F_VCPU, F_REASON, F_RIP, F_STATE, F_OVERHEAD, F_WRITE, F_KIND, F_VECTOR, F_AGAIN, F_MSR, F_NS, F_QUEUE_NS,
	F_SECTOR, F_DEV, F_BYTES, F_RWBS, F_ERROR, FIELDS
};

#define BIT(field) (1u << (field))
#define WHO (BIT(F_VM) | BIT(F_TID) | BIT(F_VCPU))
#define WHY (BIT(F_REASON) | BIT(F_RIP))
#define DISK (BIT(F_NS) | BIT(F_QUEUE_NS) | BIT(F_SECTOR) | BIT(F_DEV) | BIT(F_BYTES) | BIT(F_RWBS) | BIT(F_ERROR))
#define MMIO_WRITE 2

static const char *const fields[FIELDS] = {
	"vm", "tid", "vcpu_id", "reason", "guest_rip", "prev_state", "exit_overhead_ns", "write", "kind",
	"vector", "reinjected", "msr", "ns", "queue_ns", "sector", "dev", "bytes", "rwbs", "error",
};

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[HOST_EXIT] = { "kvm_exit", WHO | WHY },
		[HOST_ENTRY] = { "kvm_entry", WHO },
		[HOST_SCHED_OUT] = { "kvm_sched_out", WHO | BIT(F_STATE) },
		[HOST_SCHED_IN] = { "kvm_sched_in", WHO },
		[HOST_HYPERCALL] = { "hypercall", WHO | WHY | BIT(F_OVERHEAD) },
		[HOST_IO] = { "kvm_io", WHO | WHY | BIT(F_OVERHEAD) },
		[HOST_MMIO] = { "kvm_mmio_access", WHO | WHY | BIT(F_OVERHEAD) },
		[HOST_EXITED] = { "kvm_exited", WHO | WHY | BIT(F_OVERHEAD) },
		[HOST_IN_PIO] = { "kvm_pio", WHO | BIT(F_WRITE) },
		[HOST_IN_MMIO] = { "kvm_mmio", WHO | BIT(F_KIND) },
		[HOST_INJECT] = { "kvm_inj_virq", WHO | BIT(F_VECTOR) },
		[HOST_MSR] = { "kvm_msr", WHO | BIT(F_WRITE) | BIT(F_MSR) },
		[HOST_DISK] = { "kvm_disk_complete", BIT(F_VM) | BIT(F_TID) | DISK },
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
		.ns = v.kind == HOST_DISK ? v.v[F_NS] : v.v[F_OVERHEAD],
		.preempted = !(v.v[F_STATE] & 0xff), /* bit 8 says how it came to it */
		.again = v.v[F_AGAIN] != 0,
		.vector = (__u32)v.v[F_VECTOR],
		.msr = (__u32)v.v[F_MSR],
		.sector = v.v[F_SECTOR],
		.dev = (__u32)v.v[F_DEV],
		.bytes = (__u32)v.v[F_BYTES],
		.rwbs = (__u32)v.v[F_RWBS],
		.error = (__s32)v.v[F_ERROR],
		.queue_ns = v.v[F_QUEUE_NS],
		.write = v.v[F_WRITE] || v.v[F_KIND] == MMIO_WRITE,
	};
	if (v.type[F_REASON] && v.type[F_REASON]->kind == HTRACE_TYPE_ENUM)
		out->reason_name = htrace_enum_name(v.type[F_REASON], v.v[F_REASON]);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hypervisor leaves less to be seen the more it leaves to hardware: a Xen PV guest's hypercalls, callbacks, drivers
 * and stolen time; of these only drivers and stolen time in a KVM guest, and only stolen time where its devices are
 * passed through, as on Nitro. So each of these is looked for by the kernel's own hooks, and what is not there says why.
 */
#include "probe_rows.h"

#include <stdarg.h>
#include <string.h>

const char *const probe_function_names[NR_FUNCTIONS] = {
	[KVM_STEAL] = "kvm_steal_clock",
	[XEN_STEAL] = "xen_steal_clock",
	[XEN_MULTICALL] = "xen_mc_flush",
	[XEN_UPCALL] = "xen_evtchn_do_upcall",
	[XEN_UPCALL_BEFORE] = "xen_hvm_evtchn_do_upcall", /* until 6.7, where nobody calls the one above */
	[XEN_CHANNEL] = "handle_irq_for_port",
	[KVM_KICK] = "kvm_kick_cpu",
	[KVM_IPI] = "kvm_send_ipi_mask",
	[KVM_TLB] = "kvm_flush_tlb_multi",
	[KVM_ASYNC_PF] = "kvm_async_pf_task_wait_schedule",
	[HALT_POLL] = "__traceiter_guest_halt_poll_ns",
	[KPROBES] = "register_kprobe",
	[KPROBE_MULTI] = "register_fprobe",
};

void probe_row(FILE *out, const char *what, const char *answer, const char *fmt, ...)
{
	va_list args;

	fprintf(out, "  %-14s  %-4s  ", what, answer);
	va_start(args, fmt);
	if (fmt) /* always; UBSan makes the compiler doubt it */
		vfprintf(out, fmt, args);
	va_end(args);
	fputc('\n', out);
}

static const char *how(const struct probe *p, int function)
{
	return p->by_fentry[function] ? "fentry, fexit" : "kprobe";
}

static void hook_row(FILE *out, const struct probe *p, const char *what, int function, const char *absent)
{
	if (p->has[function])
		probe_row(out, what, "yes", "%s() by %s", probe_function_names[function], how(p, function));
	else
		probe_row(out, what, "no", "%s", absent);
}

static void print_steal(FILE *out, const struct probe *p)
{
	if (platform_is_xen(p->platform))
		hook_row(out, p, "stolen time", XEN_STEAL, "the kernel has no xen_steal_clock()");
	else if (!(platform_kvm_features(&p->facts) & PLATFORM_KVM_STEAL_TIME))
		probe_row(out, "stolen time", "no", p->platform == PLATFORM_BARE ? "nobody takes any" :
			  "the hypervisor does not tell; guest-agent --follow-host shows it where the host's "
			  "host-reader tells");
	else
		hook_row(out, p, "stolen time", KVM_STEAL, "the kernel has no kvm_steal_clock()");
}

static void print_hypercalls(FILE *out, const struct probe *p)
{
	bool pv = p->platform == PLATFORM_XEN_DOM0 || p->platform == PLATFORM_XEN_PV;
	char said[160] = "";

	if (pv && p->has[XEN_MULTICALL]) {
		probe_row(out, "hypercalls", "yes",
			  "--events hypercalls: tracepoints xen:xen_mc_* (batches and what is in them)");
		return;
	}
	if (platform_is_xen(p->platform)) {
		probe_row(out, "hypercalls", "no",
			  "hardware does what PV guests call Xen for; the rest has no tracepoints");
		return;
	}
	for (int i = KVM_KICK; i <= KVM_TLB; i++)
		if (p->has[i])
			snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s%s()", *said ? ", " : "",
				 probe_function_names[i]);
	if (platform_kvm_features(&p->facts) && *said)
		probe_row(out, "hypercalls", "some",
			  "KVM's have no hook of their own; --events kvm_guest: their callers %s", said);
	else
		probe_row(out, "hypercalls", "no", p->platform == PLATFORM_BARE ? "there is nobody to call" :
			  "none that this kernel makes");
}

static void print_callbacks(FILE *out, const struct probe *p)
{
	if (!platform_is_xen(p->platform))
		probe_row(out, "callbacks", "no", "Xen's; this hypervisor interrupts as hardware does (events irq_*)");
	else if (p->by_fentry[XEN_UPCALL] && !p->has[XEN_UPCALL_BEFORE])
		probe_row(out, "callbacks", "yes", "%s() by %s", probe_function_names[XEN_UPCALL], how(p, XEN_UPCALL));
	else if (p->by_fentry[XEN_CHANNEL])
		probe_row(out, "callbacks", "some", "event channels by %s(); upcalls not before Linux 6.7's %s()",
			  probe_function_names[XEN_CHANNEL], probe_function_names[XEN_UPCALL]);
	else
		probe_row(out, "callbacks", "no", "the kernel has no handler of event channels that can be hooked");
}

static void print_kvm(FILE *out, const struct probe *p)
{
	unsigned int features = platform_kvm_features(&p->facts);

	if (!features)
		return;
	if (features & PLATFORM_KVM_ASYNC_PF)
		hook_row(out, p, "async faults", KVM_ASYNC_PF, "the kernel does not use them");
	else
		probe_row(out, "async faults", "no", "the hypervisor does not offer them");
	if (features & PLATFORM_KVM_PV_UNHALT)
		hook_row(out, p, "spinlock kicks", KVM_KICK, "the kernel does not use them");
	else
		probe_row(out, "spinlock kicks", "no", "the hypervisor does not offer them");
	if (!strcmp(p->clock, "kvm-clock"))
		probe_row(out, "kvmclock", "no", "in use; the kernel compiles it without hooks");
	else
		probe_row(out, "kvmclock", "no", "the kernel does not use it, but %s",
			  *p->clock ? p->clock : "no clock source that it tells");
	if (p->has[HALT_POLL])
		probe_row(out, "halt polling", !strcmp(p->governor, "haltpoll") ? "yes" : "idle",
			  "--events kvm_guest (guest_halt_poll_ns); idle governor %s", *p->governor ? p->governor : "none");
	else
		probe_row(out, "halt polling", "no", "the kernel has no tracepoint of it");
}

static void print_functions(FILE *out, const struct probe *p)
{
	char said[128] = "";

	if (p->has_btf)
		strcat(said, "fentry, fexit");
	if (p->has[KPROBES])
		strcat(said, *said ? ", kprobes" : "kprobes");
	if (p->has[KPROBE_MULTI])
		strcat(said, *said ? ", kprobe.multi" : "kprobe.multi");
	if (*said)
		probe_row(out, "functions", "yes", "%s%s", said, p->has_btf ? "" : " (no BTF in /sys/kernel/btf)");
	else
		probe_row(out, "functions", "no", p->has_symbols ? "the kernel has neither BTF nor kprobes" :
			  "/proc/kallsyms cannot be read");
}

void probe_rows_calls(FILE *out, const struct probe *p)
{
	probe_row(out, "exits", "host", p->platform == PLATFORM_BARE ? "this machine makes none" :
		  "host-reader kvm there; here guest-agent --follow-host, if the host tells");
	print_hypercalls(out, p);
	print_callbacks(out, p);
}

void probe_rows_kernel(FILE *out, const struct probe *p)
{
	print_steal(out, p);
	print_kvm(out, p);
	print_functions(out, p);
}

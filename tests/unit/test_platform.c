// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a machine is told to run on, by what it finds, and what --probe says can be traced there: most of these cannot be
 * had where tests run.
 */
#include <stdlib.h>
#include <string.h>

#include "../../guest-agent/platform.h"
#include "../../guest-agent/probe_rows.h"
#include "unit.h"

static const struct {
	struct platform_facts facts;
	enum platform is;
} cases[] = {
	{ { .vendor = "Dell Inc." }, PLATFORM_BARE },
	{ { .hypervisor = true, .signature = { "TCGTCGTCGTCG" }, .vendor = "QEMU" }, PLATFORM_TCG },
	{ { .hypervisor = true, .signature = { "KVMKVMKVM" }, .vendor = "QEMU" }, PLATFORM_KVM },
	{ { .hypervisor = true, .signature = { "Microsoft Hv", "KVMKVMKVM" } }, PLATFORM_KVM },
	{ { .hypervisor = true, .signature = { "KVMKVMKVM" }, .vendor = "Amazon EC2" }, PLATFORM_NITRO },
	{ { .hypervisor = true, .signature = { "XenVMMXenVMM" }, .type = "xen", .guest_type = "HVM",
	    .vendor = "Xen" }, PLATFORM_XEN_HVM },
	{ { .hypervisor = true, .signature = { "XenVMMXenVMM" } }, PLATFORM_XEN_HVM },
	{ { .hypervisor = true, .signature = { "Microsoft Hv", "XenVMMXenVMM" }, .type = "xen",
	    .guest_type = "PVH" }, PLATFORM_XEN_PVH },
	{ { .type = "xen", .guest_type = "PV" }, PLATFORM_XEN_PV },
	{ { .type = "xen", .guest_type = "PV", .dom0 = true, .vendor = "QEMU" }, PLATFORM_XEN_DOM0 },
	/* a dom0 in a VM: what CPUID says of the VM does not count */
	{ { .type = "xen", .guest_type = "PV", .dom0 = true, .hypervisor = true,
	    .signature = { "TCGTCGTCGTCG" } }, PLATFORM_XEN_DOM0 },
	{ { .hypervisor = true, .signature = { "Microsoft Hv" } }, PLATFORM_OTHER },
	{ { .hypervisor = true, .signature = { "VMwareVMware" }, .vendor = "VMware, Inc." }, PLATFORM_OTHER },
	/* leaves that the CPU does not have repeat others, or are of anything */
	{ { .signature = { "", "garbage\1\2" } }, PLATFORM_BARE },
};

START_TEST(test_platforms)
{
	ck_assert_int_eq(platform_of(&cases[_i].facts), cases[_i].is);
	ck_assert_uint_gt(strlen(platform_name(cases[_i].is)), 0);
}
END_TEST

START_TEST(test_features)
{
	struct platform_facts f = { .hypervisor = true, .signature = { "Microsoft Hv", "KVMKVMKVM" },
				    .features = { 1, PLATFORM_KVM_STEAL_TIME } };

	ck_assert_uint_eq(platform_kvm_features(&f), PLATFORM_KVM_STEAL_TIME);
	strcpy(f.signature[1], "XenVMMXenVMM"); /* whose leaf has something else there */
	ck_assert_uint_eq(platform_kvm_features(&f), 0);
}
END_TEST

/* Whatever it is, reading it does no harm, and gives text that ends. */
START_TEST(test_this_machine)
{
	struct platform_facts f;

	memset(&f, 0xff, sizeof(f));
	platform_read(&f);
	ck_assert_uint_lt(strnlen(f.vendor, sizeof(f.vendor)), sizeof(f.vendor));
	ck_assert_uint_lt(strnlen(f.guest_type, sizeof(f.guest_type)), sizeof(f.guest_type));
	for (int i = 0; i < PLATFORM_LEAVES; i++)
		ck_assert_uint_lt(strnlen(f.signature[i], sizeof(f.signature[i])), sizeof(f.signature[i]));
}
END_TEST

/* ------------------------------------------------------------------------------------------- rows */

#define KVM_SAYS(bits) { .hypervisor = true, .signature = { "KVMKVMKVM" }, .features = { bits } }
#define XEN_SAYS(kind) { .hypervisor = true, .signature = { "XenVMMXenVMM" }, .features = { ~0u }, .type = "xen", \
			 .guest_type = kind }
#define ALL_OF_KVM (PLATFORM_KVM_ASYNC_PF | PLATFORM_KVM_STEAL_TIME | PLATFORM_KVM_PV_UNHALT)
#define HAS(f) .has[f] = true
#define BY_FENTRY(f) .has[f] = true, .by_fentry[f] = true
/* Debian's kernels have these, wherever they run; and before and from Linux 6.7. */
#define DEBIAN HAS(KVM_STEAL), BY_FENTRY(XEN_STEAL), HAS(XEN_MULTICALL), HAS(KVM_KICK), HAS(KVM_IPI), HAS(KVM_TLB), \
	HAS(KVM_ASYNC_PF), HAS(HALT_POLL), HAS(KPROBES), BY_FENTRY(XEN_CHANNEL), .has_symbols = true, .has_btf = true
#define BEFORE_6_7 DEBIAN, BY_FENTRY(XEN_UPCALL), BY_FENTRY(XEN_UPCALL_BEFORE)
#define FROM_6_7 DEBIAN, BY_FENTRY(XEN_UPCALL), HAS(KPROBE_MULTI)

#define NO_CALLBACKS "  callbacks       no    Xen's; this hypervisor interrupts as hardware does (events irq_*)\n"
#define EXITS "  exits           host  host-reader kvm there; here guest-agent --follow-host, if the host tells\n"
#define CALLERS "  hypercalls      some  KVM's have no hook of their own; --events kvm_guest: their callers " \
	"kvm_kick_cpu(), kvm_send_ipi_mask(), kvm_flush_tlb_multi()\n"
#define NO_XEN_CALLS "  hypercalls      no    hardware does what PV guests call Xen for; the rest has no tracepoints\n"
#define UPCALLS "  callbacks       yes   xen_evtchn_do_upcall() by fentry, fexit\n"
#define CHANNELS "  callbacks       some  event channels by handle_irq_for_port(); upcalls not before Linux 6.7's " \
	"xen_evtchn_do_upcall()\n"
#define XEN_STOLEN "  stolen time     yes   xen_steal_clock() by fentry, fexit\n"
#define FUNCTIONS "  functions       yes   fentry, fexit, kprobes\n"
#define MORE_FUNCTIONS "  functions       yes   fentry, fexit, kprobes, kprobe.multi\n"

static const struct {
	struct probe probe;
	const char *calls, *kernel;
} rows[] = {
	{ { KVM_SAYS(ALL_OF_KVM), FROM_6_7, .clock = "kvm-clock", .governor = "haltpoll" },
	  EXITS CALLERS NO_CALLBACKS,
	  "  stolen time     yes   kvm_steal_clock() by kprobe\n"
	  "  async faults    yes   kvm_async_pf_task_wait_schedule() by kprobe\n"
	  "  spinlock kicks  yes   kvm_kick_cpu() by kprobe\n"
	  "  kvmclock        no    in use; the kernel compiles it without hooks\n"
	  "  halt polling    yes   --events kvm_guest (guest_halt_poll_ns); idle governor haltpoll\n"
	  MORE_FUNCTIONS },
	/* Nitro gives its guests the TSC, and takes little from them */
	{ { .facts = { .hypervisor = true, .signature = { "KVMKVMKVM" }, .features = { PLATFORM_KVM_STEAL_TIME },
		       .vendor = "Amazon EC2" }, BEFORE_6_7, .clock = "tsc" },
	  EXITS CALLERS NO_CALLBACKS,
	  "  stolen time     yes   kvm_steal_clock() by kprobe\n"
	  "  async faults    no    the hypervisor does not offer them\n"
	  "  spinlock kicks  no    the hypervisor does not offer them\n"
	  "  kvmclock        no    the kernel does not use it, but tsc\n"
	  "  halt polling    idle  --events kvm_guest (guest_halt_poll_ns); idle governor none\n"
	  FUNCTIONS },
	/* KVM whose guest has next to nothing: kernels of its own making */
	{ { KVM_SAYS(ALL_OF_KVM), .has_symbols = true },
	  EXITS "  hypercalls      no    none that this kernel makes\n" NO_CALLBACKS,
	  "  stolen time     no    the kernel has no kvm_steal_clock()\n"
	  "  async faults    no    the kernel does not use them\n"
	  "  spinlock kicks  no    the kernel does not use them\n"
	  "  kvmclock        no    the kernel does not use it, but no clock source that it tells\n"
	  "  halt polling    no    the kernel has no tracepoint of it\n"
	  "  functions       no    the kernel has neither BTF nor kprobes\n" },
	{ { XEN_SAYS("HVM"), FROM_6_7 },
	  EXITS NO_XEN_CALLS UPCALLS, XEN_STOLEN MORE_FUNCTIONS },
	{ { XEN_SAYS("PVH"), BEFORE_6_7 }, EXITS NO_XEN_CALLS CHANNELS, XEN_STOLEN FUNCTIONS },
	{ { { .type = "xen", .guest_type = "PV" }, FROM_6_7 },
	  EXITS "  hypercalls      yes   --events hypercalls: tracepoints xen:xen_mc_* (batches and what is in them)\n" UPCALLS,
	  XEN_STOLEN MORE_FUNCTIONS },
	/* without hooks, and without permission to look for them */
	{ { XEN_SAYS("HVM") },
	  EXITS NO_XEN_CALLS "  callbacks       no    the kernel has no handler of event channels that can be hooked\n",
	  "  stolen time     no    the kernel has no xen_steal_clock()\n"
	  "  functions       no    /proc/kallsyms cannot be read\n" },
	{ { { .vendor = "Dell Inc." }, BEFORE_6_7 },
	  "  exits           host  this machine makes none\n  hypercalls      no    there is nobody to call\n" NO_CALLBACKS,
	  "  stolen time     no    nobody takes any\n" FUNCTIONS },
};

static void check_rows(void (*print)(FILE *out, const struct probe *p), const struct probe *p, const char *want)
{
	size_t len = 0;
	char *text = NULL;
	FILE *out = open_memstream(&text, &len);

	print(out, p);
	fclose(out);
	ck_assert_str_eq(text, want);
	free(text);
}

START_TEST(test_rows)
{
	struct probe p = rows[_i].probe;

	p.platform = platform_of(&p.facts);
	check_rows(probe_rows_calls, &p, rows[_i].calls);
	check_rows(probe_rows_kernel, &p, rows[_i].kernel);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("platform");
	TCase *c = tcase_create("platform");

	tcase_add_loop_test(c, test_platforms, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(c, test_features);
	tcase_add_loop_test(c, test_rows, 0, sizeof(rows) / sizeof(rows[0]));
	tcase_add_test(c, test_this_machine);
	suite_add_tcase(s, c);
	return unit_run(s);
}

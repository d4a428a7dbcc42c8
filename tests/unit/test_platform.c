// SPDX-License-Identifier: LGPL-2.1-or-later
/* What a machine is told to run on, by what it finds: most of these cannot be had where tests run. */
#include <string.h>

#include "../../guest-agent/platform.h"
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

int main(void)
{
	Suite *s = suite_create("platform");
	TCase *c = tcase_create("platform");

	tcase_add_loop_test(c, test_platforms, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(c, test_features);
	tcase_add_test(c, test_this_machine);
	suite_add_tcase(s, c);
	return unit_run(s);
}

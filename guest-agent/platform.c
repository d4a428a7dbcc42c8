/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "platform.h"

#include <stdio.h>
#include <string.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

bool platform_read_line(const char *path, char *out, size_t len)
{
	FILE *f = fopen(path, "re");
	char *got = NULL;

	if (f) {
		got = fgets(out, (int)len, f);
		fclose(f);
	}
	if (!got)
		out[0] = 0;
	out[strcspn(out, "\n")] = 0;
	return out[0];
}

#ifdef __x86_64__
static void read_cpuid(struct platform_facts *f)
{
	unsigned int a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d))
		return;
	f->hypervisor = c & 1u << 31;
	if (!f->hypervisor)
		return;
	for (unsigned int i = 0; i < PLATFORM_LEAVES; i++) {
		unsigned int leaf = 0x40000000u + 0x100u * i, ignored;

		__cpuid(leaf, a, b, c, d);
		memcpy(f->signature[i], &b, 4);
		memcpy(f->signature[i] + 4, &c, 4);
		memcpy(f->signature[i] + 8, &d, 4);
		__cpuid(leaf + 1, f->features[i], ignored, ignored, ignored);
	}
}
#else
static void read_cpuid(struct platform_facts *f)
{
	(void)f; /* there is no such instruction: /sys/hypervisor and the firmware tell, or nothing does */
}
#endif

static bool is_dom0(void)
{
	char text[64];
	FILE *f;
	bool found;

	/* What Xen lets the domain do: bit 11 is XENFEAT_dom0. */
	f = fopen("/sys/hypervisor/properties/features", "re");
	if (f) {
		unsigned long features = 0;

		found = fscanf(f, "%lx", &features) == 1 && features & 1ul << 11;
		fclose(f);
		if (found)
			return true;
	}
	platform_read_line("/proc/xen/capabilities", text, sizeof(text));
	return strstr(text, "control_d");
}

void platform_read(struct platform_facts *f)
{
	memset(f, 0, sizeof(*f));
	read_cpuid(f);
	platform_read_line("/sys/hypervisor/type", f->type, sizeof(f->type));
	platform_read_line("/sys/hypervisor/guest_type", f->guest_type, sizeof(f->guest_type));
	platform_read_line("/sys/class/dmi/id/sys_vendor", f->vendor, sizeof(f->vendor));
	f->dom0 = is_dom0();
}

static int leaf_of(const struct platform_facts *f, const char *signature)
{
	for (int i = 0; i < PLATFORM_LEAVES; i++)
		if (!strcmp(f->signature[i], signature))
			return i;
	return -1;
}

/* The kernel's word on how it runs on Xen comes first: a PV domain's CPUID may be the machine's. */
static enum platform on_xen(const struct platform_facts *f)
{
	if (!strcmp(f->guest_type, "HVM"))
		return PLATFORM_XEN_HVM;
	if (!strcmp(f->guest_type, "PVH"))
		return PLATFORM_XEN_PVH;
	return f->dom0 ? PLATFORM_XEN_DOM0 : PLATFORM_XEN_PV;
}

enum platform platform_of(const struct platform_facts *f)
{
	if (!strcmp(f->type, "xen"))
		return on_xen(f);
	if (leaf_of(f, "XenVMMXenVMM") >= 0)
		return PLATFORM_XEN_HVM; /* of which the kernel knows nothing */
	if (leaf_of(f, "KVMKVMKVM") >= 0)
		return strcmp(f->vendor, "Amazon EC2") ? PLATFORM_KVM : PLATFORM_NITRO;
	if (leaf_of(f, "TCGTCGTCGTCG") >= 0)
		return PLATFORM_TCG;
	return f->hypervisor ? PLATFORM_OTHER : PLATFORM_BARE;
}

const char *platform_name(enum platform p)
{
	static const char *const names[] = {
		[PLATFORM_BARE] = "no hypervisor that can be told",
		[PLATFORM_TCG] = "QEMU's emulator (TCG)",
		[PLATFORM_KVM] = "KVM",
		[PLATFORM_NITRO] = "Nitro (KVM)",
		[PLATFORM_XEN_DOM0] = "Xen PV dom0",
		[PLATFORM_XEN_PV] = "Xen PV",
		[PLATFORM_XEN_PVH] = "Xen PVH",
		[PLATFORM_XEN_HVM] = "Xen HVM",
		[PLATFORM_OTHER] = "another hypervisor",
	};

	return names[p];
}

unsigned int platform_kvm_features(const struct platform_facts *f)
{
	int leaf = leaf_of(f, "KVMKVMKVM");

	return leaf < 0 ? 0 : f->features[leaf];
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What this machine runs on: bare metal or which hypervisor, and how much of it the kernel knows. */
#ifndef AGENT_PLATFORM_H
#define AGENT_PLATFORM_H

#include <stdbool.h>
#include <stddef.h>

enum platform {
	PLATFORM_BARE,
	PLATFORM_TCG,  /* QEMU's emulator */
	PLATFORM_KVM,
	PLATFORM_NITRO, /* Amazon's, which is built on KVM */
	PLATFORM_XEN_DOM0, /* PV, and it runs the other domains */
	PLATFORM_XEN_PV,
	PLATFORM_XEN_PVH,
	PLATFORM_XEN_HVM, /* with the kernel's PV drivers: PVHVM */
	PLATFORM_OTHER,
};

#define PLATFORM_LEAVES 3 /* of hypervisors: KVM and Xen stand behind Hyper-V's if they play that, too */

/* What tells; read by platform_read(), made up by tests. */
struct platform_facts {
	bool hypervisor; /* CPUID says that there is one */
	char signature[PLATFORM_LEAVES][13];
	unsigned int features[PLATFORM_LEAVES]; /* EAX of the leaf behind it, which in KVM's case are features */
	char type[32], guest_type[32]; /* /sys/hypervisor: "xen", and "PV", "HVM" or "PVH" */
	bool dom0;       /* /proc/xen or a running xenstored says so */
	char vendor[64]; /* the firmware's word on the machine */
};

/* KVM's features that say what can be traced, as in asm/kvm_para.h. */
#define PLATFORM_KVM_ASYNC_PF (1u << 4)
#define PLATFORM_KVM_STEAL_TIME (1u << 5)
#define PLATFORM_KVM_PV_UNHALT (1u << 7)

/* The first line of a file, without its end. False: there is none, or it is empty; @out is "" then. */
bool platform_read_line(const char *path, char *out, size_t len);
void platform_read(struct platform_facts *f);
enum platform platform_of(const struct platform_facts *f);
/* "KVM", "Xen PV dom0", ... */
const char *platform_name(enum platform p);
/* KVM's, or 0. */
unsigned int platform_kvm_features(const struct platform_facts *f);

static inline bool platform_is_xen(enum platform p)
{
	return p >= PLATFORM_XEN_DOM0 && p <= PLATFORM_XEN_HVM;
}

#endif

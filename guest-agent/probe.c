/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest-agent --probe. A hypervisor leaves less to be seen the more it leaves to hardware: a Xen PV
 * guest's hypercalls, callbacks, drivers and stolen time; of these only drivers and stolen time in a KVM
 * guest, and only stolen time where its devices are passed through, as on Nitro. So each of these is
 * looked for by the kernel's own hooks, and what is not there says why.
 */
#include "probe.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <bpf/btf.h>
#include <htrace/clock.h>

#include "module.h"
#include "platform.h"

#define PCI_DEVICES "/sys/bus/pci/devices"
#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110

/* Functions of the kernel that are looked for; all in one pass, since there are 200,000. */
enum {
	KVM_STEAL, XEN_STEAL, XEN_MULTICALL, XEN_UPCALL, XEN_UPCALL_BEFORE, XEN_CHANNEL, KVM_KICK, KVM_IPI, KVM_TLB,
	KVM_ASYNC_PF, HALT_POLL, KPROBES, KPROBE_MULTI, NR_FUNCTIONS,
};

static const char *const function_names[NR_FUNCTIONS] = {
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

struct probe {
	struct platform_facts facts;
	enum platform platform;
	bool has[NR_FUNCTIONS], by_fentry[NR_FUNCTIONS];
	bool has_symbols, has_btf;
};

/* ------------------------------------------------------------------------------------- looking */

static void find_functions(struct probe *p)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	char line[512], name[256];

	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		p->has_symbols = true;
		if (sscanf(line, "%*s %*c %255s", name) != 1)
			continue;
		for (int i = 0; i < NR_FUNCTIONS; i++)
			if (!strcmp(name, function_names[i]))
				p->has[i] = true;
	}
	fclose(f);
}

static void find_types(struct probe *p)
{
	struct btf *btf = btf__load_vmlinux_btf();

	if (!btf)
		return;
	p->has_btf = true;
	for (int i = 0; i < NR_FUNCTIONS; i++)
		p->by_fentry[i] = btf__find_by_name_kind(btf, function_names[i], BTF_KIND_FUNC) > 0;
	btf__free(btf);
}

static bool read_id(const char *device, const char *what, unsigned int *id)
{
	char path[512], text[32];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", device, what);
	if (!platform_read_line(path, text, sizeof(text)))
		return false;
	*id = (unsigned int)strtoul(text, NULL, 16);
	return true;
}

/* ------------------------------------------------------------------------------------- printing */

__attribute__((format(printf, 3, 4))) static void row(const char *what, const char *answer, const char *fmt, ...)
{
	va_list args;

	printf("  %-14s  %-4s  ", what, answer);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	putchar('\n');
}

static const char *how(const struct probe *p, int function)
{
	return p->by_fentry[function] ? "fentry, fexit" : "kprobe";
}

static void hook_row(const struct probe *p, const char *what, int function, const char *absent)
{
	if (p->has[function])
		row(what, "yes", "%s() by %s", function_names[function], how(p, function));
	else
		row(what, "no", "%s", absent);
}

static void print_steal(const struct probe *p)
{
	if (platform_is_xen(p->platform))
		hook_row(p, "stolen time", XEN_STEAL, "the kernel has no xen_steal_clock()");
	else if (!(platform_kvm_features(&p->facts) & PLATFORM_KVM_STEAL_TIME))
		row("stolen time", "no", p->platform == PLATFORM_BARE ? "nobody takes any" :
			    "the hypervisor does not tell; guest-agent --follow-host shows it where the host's "
			    "host-reader tells");
	else
		hook_row(p, "stolen time", KVM_STEAL, "the kernel has no kvm_steal_clock()");
}

static void print_hypercalls(const struct probe *p)
{
	bool pv = p->platform == PLATFORM_XEN_DOM0 || p->platform == PLATFORM_XEN_PV;
	char said[160] = "";

	if (pv && p->has[XEN_MULTICALL]) {
		row("hypercalls", "yes", "--events hypercalls: tracepoints xen:xen_mc_* (batches and what is in them)");
		return;
	}
	if (platform_is_xen(p->platform)) {
		row("hypercalls", "no", "hardware does what PV guests call Xen for; the rest has no tracepoints");
		return;
	}
	for (int i = KVM_KICK; i <= KVM_TLB; i++)
		if (p->has[i])
			snprintf(said + strlen(said), sizeof(said) - strlen(said), "%s%s()", *said ? ", " : "",
				 function_names[i]);
	if (platform_kvm_features(&p->facts) && *said)
		row("hypercalls", "some", "KVM's have no hook of their own; --events kvm_guest: their callers %s", said);
	else
		row("hypercalls", "no", p->platform == PLATFORM_BARE ? "there is nobody to call" :
			    "none that this kernel makes");
}

static void print_callbacks(const struct probe *p)
{
	if (!platform_is_xen(p->platform))
		row("callbacks", "no", "Xen's; this hypervisor interrupts as hardware does (events irq_*)");
	else if (p->by_fentry[XEN_UPCALL] && !p->has[XEN_UPCALL_BEFORE])
		row("callbacks", "yes", "%s() by %s", function_names[XEN_UPCALL], how(p, XEN_UPCALL));
	else if (p->by_fentry[XEN_CHANNEL])
		row("callbacks", "some", "event channels by %s(); upcalls not before Linux 6.7's %s()",
		    function_names[XEN_CHANNEL], function_names[XEN_UPCALL]);
	else
		row("callbacks", "no", "the kernel has no handler of event channels that can be hooked");
}

/* Devices of @bus that have a driver, by their drivers: "virtio_blk (2), virtio_net (1)". */
static void list_drivers(const char *bus, char *out, size_t len)
{
	char path[512];
	struct dirent *e, *device;
	DIR *d, *in;

	snprintf(path, sizeof(path), "/sys/bus/%s/drivers", bus);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		int devices = 0;

		snprintf(path, sizeof(path), "/sys/bus/%s/drivers/%.200s", bus, e->d_name);
		if (e->d_name[0] == '.' || !(in = opendir(path)))
			continue;
		while ((device = readdir(in)))
			if (device->d_type == DT_LNK && strcmp(device->d_name, "module"))
				devices++;
		closedir(in);
		if (devices && strlen(out) + strlen(e->d_name) + 20 < len)
			sprintf(out + strlen(out), "%s%s (%d)", *out ? ", " : "", e->d_name, devices);
	}
	if (d)
		closedir(d);
}

static void print_drivers(void)
{
	char said[512] = "";

	list_drivers("virtio", said, sizeof(said));
	list_drivers("xen", said, sizeof(said));
	if (*said)
		row("PV drivers", "yes", "%s; guest-agent --events help says what of them", said);
	else
		row("PV drivers", "no", "no device of virtio or Xen has a driver here");
}

static void print_kvm(const struct probe *p)
{
	unsigned int features = platform_kvm_features(&p->facts);
	char clock[64] = "", governor[64];

	if (!features)
		return;
	if (features & PLATFORM_KVM_ASYNC_PF)
		hook_row(p, "async faults", KVM_ASYNC_PF, "the kernel does not use them");
	else
		row("async faults", "no", "the hypervisor does not offer them");
	if (features & PLATFORM_KVM_PV_UNHALT)
		hook_row(p, "spinlock kicks", KVM_KICK, "the kernel does not use them");
	else
		row("spinlock kicks", "no", "the hypervisor does not offer them");
	platform_read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", clock, sizeof(clock));
	if (!strcmp(clock, "kvm-clock"))
		row("kvmclock", "no", "in use; the kernel compiles it without hooks");
	else
		row("kvmclock", "no", "the kernel does not use it, but %s", *clock ? clock : "no clock source that it tells");
	platform_read_line("/sys/devices/system/cpu/cpuidle/current_governor", governor, sizeof(governor));
	if (p->has[HALT_POLL])
		row("halt polling", !strcmp(governor, "haltpoll") ? "yes" : "idle",
		    "--events kvm_guest (guest_halt_poll_ns); idle governor %s", *governor ? governor : "none");
	else
		row("halt polling", "no", "the kernel has no tracepoint of it");
}

static void print_functions(const struct probe *p)
{
	char said[128] = "";

	if (p->has_btf)
		strcat(said, "fentry, fexit");
	if (p->has[KPROBES])
		strcat(said, *said ? ", kprobes" : "kprobes");
	if (p->has[KPROBE_MULTI])
		strcat(said, ", kprobe.multi");
	if (*said)
		row("functions", "yes", "%s%s", said, p->has_btf ? "" : " (no BTF in /sys/kernel/btf)");
	else
		row("functions", "no", p->has_symbols ? "the kernel has neither BTF nor kprobes" :
			    "/proc/kallsyms cannot be read");
}

static void print_clock(void)
{
	char in_use[64], why[160];

	platform_read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", in_use, sizeof(in_use));
	if (htrace_clock_check(HTRACE_CLOCK_TSC, why, sizeof(why)))
		row("clock", "", "%s; not the TSC: %s", in_use, why);
	else
		row("clock", "", "%s; the TSC can be used, and is, in user space", in_use);
}

static void print_devices(void)
{
	DIR *d = opendir(PCI_DEVICES);
	unsigned int vendor, device, found = 0;
	struct dirent *e;
	struct stat st;
	char path[512];

	while (d && (e = readdir(d))) {
		if (!read_id(e->d_name, "vendor", &vendor) || !read_id(e->d_name, "device", &device) ||
		    vendor != IVSHMEM_VENDOR || device != IVSHMEM_DEVICE)
			continue;
		snprintf(path, sizeof(path), PCI_DEVICES "/%.200s/resource2", e->d_name);
		if (stat(path, &st))
			row("region", "no", "%s has no memory: does the kernel forbid it (lockdown)?", e->d_name);
		else
			row("region", "yes", "ivshmem %s, %lld MiB", e->d_name, (long long)st.st_size >> 20);
		found++;
	}
	if (d)
		closedir(d);
	if (!found)
		row("region", "no", "no ivshmem device; see tools/run-vm.sh, or plug one in: host-reader qmp:SOCKET");
}

static void print_ways(const struct probe *p)
{
	char lockdown[128], why[256];
	struct module m;

	print_devices();
	if (!platform_read_line("/sys/kernel/security/lockdown", lockdown, sizeof(lockdown)))
		strcpy(lockdown, "[none]");
	if (geteuid())
		row("direct", "no", "needs root: BPF, and where its memory lies (/proc/self/pagemap)");
	else if (!p->has_btf)
		row("direct", "no", "the kernel has no BTF, which the programs are fitted by");
	else if (strstr(lockdown, "[confidentiality]"))
		row("direct", "no", "the kernel's lockdown (confidentiality) forbids BPF to read memory");
	else
		row("direct", "yes", "if the host can map or read this machine's memory");
	if (module_open(&m, why, sizeof(why)))
		row("module", "no", "%s", why);
	else {
		row("module", "yes", "%s, %s", m.info.pci, module_caching(&m));
		module_close(&m);
	}
	row("relay", geteuid() || !p->has_btf ? "no" : "yes", "by the agent, which copies%s",
	    geteuid() ? ": needs root, for BPF" : !p->has_btf ? ": needs BTF" : "");
	if (!strstr(lockdown, "[none]"))
		row("lockdown", "", "%s", lockdown);
}

void probe_print(void)
{
	struct probe p = {0};
	struct utsname u;

	platform_read(&p.facts);
	p.platform = platform_of(&p.facts);
	find_functions(&p);
	find_types(&p);
	uname(&u);
	printf("Runs on %s%s%s%s, Linux %s %s\n", platform_name(p.platform), *p.facts.vendor ? " (" : "",
	       p.facts.vendor, *p.facts.vendor ? ")" : "", u.release, u.machine);
	puts("What can be traced here:");
	row("exits", "host", p.platform == PLATFORM_BARE ? "this machine makes none" :
		    "host-reader kvm there; here guest-agent --follow-host, if the host tells");
	print_hypercalls(&p);
	print_callbacks(&p);
	print_drivers();
	print_steal(&p);
	print_kvm(&p);
	print_functions(&p);
	print_clock();
	puts("How events get to the host:");
	print_ways(&p);
}

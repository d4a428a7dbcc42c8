/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * guest-agent --probe: finds what there is, and says so (probe_rows.c has what that means), with the machine's devices
 * and the ways by which events get to the host.
 */
#include "probe.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
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
#include "probe_rows.h"

#define PCI_DEVICES "/sys/bus/pci/devices"
#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110

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
			if (!strcmp(name, probe_function_names[i]))
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
		p->by_fentry[i] = btf__find_by_name_kind(btf, probe_function_names[i], BTF_KIND_FUNC) > 0;
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
		probe_row(stdout, "PV drivers", "yes", "%s; guest-agent --events help says what of them", said);
	else
		probe_row(stdout, "PV drivers", "no", "no device of virtio or Xen has a driver here");
}

static void print_clock(const struct probe *p)
{
	char why[160];

	if (htrace_clock_check(HTRACE_CLOCK_TSC, why, sizeof(why)))
		probe_row(stdout, "clock", "", "%s; not the TSC: %s", p->clock, why);
	else
		probe_row(stdout, "clock", "", "%s; the TSC can be used, and is, in user space", p->clock);
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
			probe_row(stdout, "region", "no", "%s has no memory: does the kernel forbid it (lockdown)?", e->d_name);
		else
			probe_row(stdout, "region", "yes", "ivshmem %s, %lld MiB", e->d_name, (long long)st.st_size >> 20);
		found++;
	}
	if (d)
		closedir(d);
	if (!found)
		probe_row(stdout, "region", "no", "no ivshmem device; see tools/run-vm.sh, or plug one in: host-reader qmp:SOCKET");
}

static void print_ways(const struct probe *p)
{
	char lockdown[128], why[256];
	struct module m;

	print_devices();
	if (!platform_read_line("/sys/kernel/security/lockdown", lockdown, sizeof(lockdown)))
		strcpy(lockdown, "[none]");
	if (geteuid())
		probe_row(stdout, "direct", "no", "needs root: BPF, and where its memory lies (/proc/self/pagemap)");
	else if (!p->has_btf)
		probe_row(stdout, "direct", "no", "the kernel has no BTF, which the programs are fitted by");
	else if (strstr(lockdown, "[confidentiality]"))
		probe_row(stdout, "direct", "no", "the kernel's lockdown (confidentiality) forbids BPF to read memory");
	else
		probe_row(stdout, "direct", "yes", "if the host can map or read this machine's memory");
	if (module_open(&m, why, sizeof(why)))
		probe_row(stdout, "module", "no", "%s", why);
	else {
		probe_row(stdout, "module", "yes", "%s, %s", m.info.pci, module_caching(&m));
		module_close(&m);
	}
	probe_row(stdout, "relay", geteuid() || !p->has_btf ? "no" : "yes", "by the agent, which copies%s",
	    geteuid() ? ": needs root, for BPF" : !p->has_btf ? ": needs BTF" : "");
	if (!strstr(lockdown, "[none]"))
		probe_row(stdout, "lockdown", "", "%s", lockdown);
}

void probe_print(void)
{
	struct probe p = {0};
	struct utsname u;

	platform_read(&p.facts);
	p.platform = platform_of(&p.facts);
	platform_read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", p.clock, sizeof(p.clock));
	platform_read_line("/sys/devices/system/cpu/cpuidle/current_governor", p.governor, sizeof(p.governor));
	find_functions(&p);
	find_types(&p);
	uname(&u);
	printf("Runs on %s%s%s%s, Linux %s %s\n", platform_name(p.platform), *p.facts.vendor ? " (" : "",
	       p.facts.vendor, *p.facts.vendor ? ")" : "", u.release, u.machine);
	puts("What can be traced here:");
	probe_rows_calls(stdout, &p);
	print_drivers();
	probe_rows_kernel(stdout, &p);
	print_clock(&p);
	puts("How events get to the host:");
	print_ways(&p);
}

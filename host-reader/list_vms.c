/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a VMM has, it says on its command line (QEMU's, as users and libvirt write it), by its descriptors
 * (KVM's virtual machine and CPUs) and mappings (guest RAM that is shared, regions that were plugged in).
 * A process may give itself any name and arguments: they are text to be shown, and paths that are opened for
 * reading only.
 */
#include "list_vms.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/region.h>
#include <htrace/schema.h>

#include "message.h"
#include "source.h"
#include "vm_process.h"

#define ARGUMENTS (256 << 10) /* bytes of a command line that are looked at */
#define DEVICES 8             /* of one VM that are shown */
#define SHARED_MIN (16u << 20)

struct device {
	char path[256]; /* of the region's file, or the server's socket */
	bool doorbell;
};

struct vm {
	int pid;
	char vmm[64], name[128];
	bool kvm;
	unsigned int vcpus;
	char *arguments, *end; /* NUL after each */
	struct device device[DEVICES];
	unsigned int nr_devices;
	char monitor[256]; /* socket of QEMU's, at which a device can be plugged in */
	bool libvirt;      /* that has it */
	unsigned long long shared; /* bytes of its memory that others can map */
};

static void escaped(char *out, size_t len, const char *text)
{
	out[htrace_escape(out, len - 1, text, strlen(text))] = 0;
}

/* As a SOURCE wants it: commas doubled. */
static void print_path(const char *path)
{
	char shown[4 * 256];

	escaped(shown, sizeof(shown), path);
	for (const char *p = shown; *p; p++)
		printf(*p == ',' ? ",," : "%c", *p);
}

/* ------------------------------------------------------------------------------- its command line */

static char *read_arguments(int pid, char **end)
{
	char path[64], *text = malloc(ARGUMENTS + 1);
	ssize_t got = 0, n = 1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && text && n > 0 && got < ARGUMENTS) {
		n = read(fd, text + got, (size_t)(ARGUMENTS - got));
		got += n > 0 ? n : 0;
	}
	if (fd >= 0)
		close(fd);
	if (text)
		text[got] = 0;
	*end = text ? text + got : NULL;
	return text;
}

/* The argument behind @option the next time from *@at on, or NULL. */
static const char *next_of(const struct vm *vm, const char **at, const char *option)
{
	for (const char *a = *at; a < vm->end; a += strlen(a) + 1) {
		const char *value = a + strlen(a) + 1;

		if (a[0] != '-' || strcmp(a + 1 + (a[1] == '-'), option) || value >= vm->end)
			continue;
		*at = value + strlen(value) + 1;
		return value;
	}
	return NULL;
}

/* What stands at @p up to its end, which in JSON is a quote, else a comma that is not doubled. */
static bool copy_value(const char *p, bool json, char *out, size_t len)
{
	size_t to = 0;

	for (; p && *p && *p != (json ? '"' : ','); p++) {
		if (to + 1 < len)
			out[to++] = *p;
		if (!json && p[1] == ',' && p[2] == ',' && to + 1 < len) {
			out[to++] = ',';
			p += 2;
		}
	}
	out[to] = 0;
	return to;
}

/* QEMU's `key=value,...`, a comma in a value doubled, or libvirt's JSON. */
static bool value_of(const char *argument, const char *key, char *out, size_t len)
{
	bool json = argument[0] == '{';
	size_t keylen = strlen(key);
	const char *p = argument;

	while ((p = strstr(p, key)) != NULL) {
		const char *behind = p + keylen;

		if (json ? p[-1] == '"' && !strncmp(behind, "\":\"", 3) :
			   (p == argument || p[-1] == ',') && *behind == '=') {
			p = behind + (json ? 3 : 1);
			break;
		}
		p = behind;
	}
	return copy_value(p, json, out, len);
}

/* Where @what ("object", "chardev") with that id has its @key. */
static bool backend(const struct vm *vm, const char *what, const char *id, const char *key, char *out, size_t len)
{
	const char *at = vm->arguments, *a;
	char its[64];

	while ((a = next_of(vm, &at, what)) != NULL)
		if (value_of(a, "id", its, sizeof(its)) && !strcmp(its, id))
			return value_of(a, key, out, len);
	return false;
}

static bool has_device(const struct vm *vm, const char *path)
{
	for (unsigned int i = 0; i < vm->nr_devices; i++)
		if (!strcmp(vm->device[i].path, path))
			return true;
	return false;
}

static struct device *add_device(struct vm *vm, const char *path)
{
	if (vm->nr_devices == DEVICES || has_device(vm, path))
		return NULL;
	snprintf(vm->device[vm->nr_devices].path, sizeof(vm->device[0].path), "%s", path);
	return &vm->device[vm->nr_devices++];
}

static void parse_devices(struct vm *vm)
{
	const char *at = vm->arguments, *a;

	while ((a = next_of(vm, &at, "device")) != NULL) {
		char id[64], path[256];
		struct device *d = NULL;

		if (strstr(a, "ivshmem-plain") && value_of(a, "memdev", id, sizeof(id)) &&
		    backend(vm, "object", id, "mem-path", path, sizeof(path)))
			add_device(vm, path);
		else if (strstr(a, "ivshmem-doorbell") && value_of(a, "chardev", id, sizeof(id)) &&
			 backend(vm, "chardev", id, "path", path, sizeof(path)))
			d = add_device(vm, path);
		if (d)
			d->doorbell = true;
	}
}

/* A path that begins where QEMU was started. */
static void keep_monitor(struct vm *vm, const char *path)
{
	char link[64], cwd[128];
	ssize_t n;

	if (*path == '/') {
		snprintf(vm->monitor, sizeof(vm->monitor), "%s", path);
		return;
	}
	snprintf(link, sizeof(link), "/proc/%d/cwd", vm->pid);
	n = readlink(link, cwd, sizeof(cwd) - 1);
	if (n > 0)
		snprintf(vm->monitor, sizeof(vm->monitor), "%.*s/%s", (int)n, cwd, path);
}

/* -qmp unix:PATH,..., or a monitor in mode control at a socket; libvirt's is a descriptor that it hands over. */
static void parse_monitors(struct vm *vm)
{
	const char *at = vm->arguments, *a;
	char id[64], path[128];

	while (!*vm->monitor && (a = next_of(vm, &at, "qmp")) != NULL)
		if (!strncmp(a, "unix:", 5) && copy_value(a + 5, false, path, sizeof(path)))
			keep_monitor(vm, path);
	at = vm->arguments;
	while (!*vm->monitor && (a = next_of(vm, &at, "mon")) != NULL) {
		if (!value_of(a, "mode", path, sizeof(path)) || strcmp(path, "control") ||
		    !value_of(a, "chardev", id, sizeof(id)))
			continue;
		vm->libvirt |= !strcmp(id, "charmonitor");
		if (!vm->libvirt && backend(vm, "chardev", id, "path", path, sizeof(path)))
			keep_monitor(vm, path);
	}
}

static void parse_cpus(struct vm *vm)
{
	const char *at = vm->arguments, *a = next_of(vm, &at, "smp");
	char nr[16];

	if (a && !value_of(a, "cpus", nr, sizeof(nr)))
		snprintf(nr, sizeof(nr), "%.*s", (int)strcspn(a, ","), a);
	if (a)
		vm->vcpus = (unsigned int)atoi(nr);
}

static void parse_name(struct vm *vm)
{
	const char *at = vm->arguments, *a = next_of(vm, &at, "name");
	char name[64] = "";

	if (!a)
		return;
	if (!value_of(a, "guest", name, sizeof(name)) && a[strcspn(a, ",=")] != '=')
		snprintf(name, sizeof(name), "%.*s", (int)strcspn(a, ","), a);
	escaped(vm->name, sizeof(vm->name), name);
}

/* ---------------------------------------------------------------------------------------- mappings */

/* A session's, or the words of a reader that waits for one, or of one that was closed? */
static bool is_region(const char *path)
{
	struct htrace_view *v;
	bool yes;

	if (htrace_view_open(&v, path, false, NULL, 0))
		return false;
	yes = !htrace_view_attach(v, NULL, 0);
	htrace_view_close(v);
	return yes;
}

static void look_at_mappings(struct vm *vm)
{
	char path[64], line[512], last[256] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", vm->pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		unsigned long start, end;
		char perms[8], *file;
		int at = 0;

		line[strcspn(line, "\n")] = 0;
		if (sscanf(line, "%lx-%lx %7s %*x %*x:%*x %*u %n", &start, &end, perms, &at) < 3 || !at ||
		    perms[1] != 'w' || perms[3] != 's')
			continue;
		file = line + at;
		if (file[0] != '/' || end - start < HTRACE_REGION_MIN || !strcmp(file, last))
			continue;
		snprintf(last, sizeof(last), "%s", file);
		if (is_region(file))
			add_device(vm, file);
		else if (end - start >= SHARED_MIN && !has_device(vm, file))
			vm->shared += end - start;
	}
	if (f)
		fclose(f);
}

/* ----------------------------------------------------------------------------------------- output */

static void print_region(const struct vm *vm, const struct device *d)
{
	char err[256] = "", host[4 * 64 + 1];
	struct htrace_guest g;
	struct htrace_view *v;
	int ret;

	printf("    host-reader %s:", d->doorbell ? "doorbell" : "ivshmem");
	print_path(d->path);
	if (d->doorbell) {
		puts("    has to serve that socket, from before the VM on");
		return;
	}
	printf("    ");
	ret = htrace_view_open(&v, d->path, false, err, sizeof(err));
	if (ret) {
		printf("cannot be read: %s\n", err);
		return;
	}
	ret = htrace_view_attach(v, err, sizeof(err));
	if (!ret) {
		htrace_view_guest(v, &g, false);
		escaped(host, sizeof(host), strndupa(g.hostname, sizeof(g.hostname)));
		printf("guest-agent %s%s%s\n", g.state == HTRACE_GUEST_RUNNING ? "is, or was, there" : "was there, and is gone",
		       *host ? ", on " : "", host);
	} else {
		printf(ret == -EAGAIN ? "no guest-agent yet\n" : "not for us: %s\n", err);
	}
	htrace_view_close(v);
	if (!vm->shared)
		puts("    its RAM is not shared, so guest-agent copies (relay); for none: share=on, as README.md has it");
}

/* As a shell and XML take it; else the user has to fill it in. */
static const char *plain_name(const struct vm *vm)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

	return *vm->name && *vm->name != '-' && strspn(vm->name, plain) == strlen(vm->name) ? vm->name : "NAME";
}

static void print_libvirt(const struct vm *vm)
{
	const char *name = plain_name(vm);

	printf("    no ivshmem device; libvirt plugs one in, while it runs, with this in a file htrace.xml:\n"
	       "        <shmem name='%s.htrace'><model type='ivshmem-plain'/><size unit='M'>16</size></shmem>\n"
	       "    virsh attach-device %s htrace.xml --live    then: host-reader ivshmem:/dev/shm/%s.htrace\n"
	       "    virsh detach-device %s htrace.xml --live    at the end, and: rm /dev/shm/%s.htrace\n",
	       name, name, name, name, name);
}

static void print_without(const struct vm *vm)
{
	if (*vm->monitor) {
		printf("    host-reader qmp:");
		print_path(vm->monitor);
		puts("    plugs in a device while it runs, and takes it out at the end");
	} else if (vm->libvirt) {
		print_libvirt(vm);
	} else {
		puts("    no ivshmem device, or none that can be seen: give it one, as README.md has it; by a\n"
		     "    stream (TCP, vsock, a serial port) it goes without: see host-reader(1), stream:");
	}
	printf("    host-reader pid:%d    without one: it reads the guest's memory (in the guest: guest-agent --region ram)\n",
	       vm->pid);
}

static void print_vm(const struct vm *vm)
{
	printf("%d %s: %s, %s", vm->pid, *vm->name ? vm->name : "(no name)", vm->vmm, vm->kvm ? "KVM" : "emulated");
	if (vm->vcpus)
		printf(", %u vCPUs", vm->vcpus);
	if (vm->shared)
		printf(", %llu MiB of shared memory", vm->shared >> 20);
	putchar('\n');
	for (unsigned int i = 0; i < vm->nr_devices; i++)
		print_region(vm, &vm->device[i]);
	for (unsigned int i = 0; i < vm->nr_devices && *vm->monitor; i++) {
		if (strncmp(vm->device[i].path, SOURCE_PLUG_FILES, strlen(SOURCE_PLUG_FILES)))
			continue;
		printf("    it was plugged in by, or is left by one that was killed: host-reader qmp:");
		print_path(vm->monitor);
		putchar('\n');
	}
	if (!vm->nr_devices)
		print_without(vm);
}

/* Is it one? Then all that is known of it. */
static bool inspect(struct vm *vm)
{
	char name[64];

	if (!vm_process_program(vm->pid, name, sizeof(name)))
		return false;
	vm->kvm = vm_process_has_kvm(vm->pid, &vm->vcpus);
	if (!vm->kvm && !vm_process_is_qemu(name))
		return false;
	escaped(vm->vmm, sizeof(vm->vmm), name);
	vm->arguments = read_arguments(vm->pid, &vm->end);
	if (!vm->arguments)
		return false;
	parse_name(vm);
	if (!vm->kvm)
		parse_cpus(vm);
	parse_devices(vm);
	parse_monitors(vm);
	look_at_mappings(vm);
	return true;
}

int list_vms(void)
{
	DIR *d = opendir("/proc");
	unsigned int found = 0, hidden = 0;
	struct dirent *e;

	if (!d) {
		say("/proc: %s; what runs here is read from there", strerror(errno));
		return EXIT_FAILURE;
	}
	while ((e = readdir(d)) != NULL) {
		struct vm vm = { .pid = atoi(e->d_name) };
		char path[64];

		if (vm.pid <= 0)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd", vm.pid);
		hidden += access(path, R_OK) && errno == EACCES;
		if (inspect(&vm)) {
			print_vm(&vm);
			found++;
		}
		free(vm.arguments);
	}
	closedir(d);
	if (!found)
		puts("No virtual machine runs here.");
	if (hidden)
		say("%u processes of others cannot be looked into: root can", hidden);
	return EXIT_SUCCESS;
}

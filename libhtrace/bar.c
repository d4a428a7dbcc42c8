/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* The guest's side of an ivshmem device: finding BAR2 in sysfs, and the right one of several. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.h"

#define PCI_DEVICES "/sys/bus/pci/devices"
#define MODULE_DEVICE "/dev/htrace" /* maps what it has bound write-back */
#define IVSHMEM_VENDOR 0x1af4
#define IVSHMEM_DEVICE 0x1110
#define MAX_BARS 16

struct htrace_bar {
	char pci[16]; /* address, as 0000:00:03.0 */
	void *mem;
	size_t size;
	bool io_memory;
	int fd;
};

static long read_hex(const char *pci, const char *file)
{
	char path[128], text[32] = "";
	int fd, n;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/%s", pci, file);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	n = (int)read(fd, text, sizeof(text) - 1);
	close(fd);
	return n > 0 ? strtol(text, NULL, 16) : -1;
}

static void enable(const char *pci)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/enable", pci);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		/* Fails for a device that is enabled already, which is as good. */
		if (write(fd, "1", 1) < 0)
			htrace_log(HTRACE_LOG_DEBUG, "%s: enable: %s", path, strerror(errno));
		close(fd);
	}
}

/* Has libhtrace's own kernel module bound it? Then the kernel gives its memory to nobody else. */
static bool is_modules(const char *pci)
{
	char path[128], driver[128];
	ssize_t n;

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/driver", pci);
	n = readlink(path, driver, sizeof(driver) - 1);
	driver[n > 0 ? n : 0] = 0;
	return strrchr(driver, '/') && !strcmp(strrchr(driver, '/'), "/htrace");
}

/*
 * sysfs maps it as what devices' memory is: write-combining where the kernel offers that, since
 * uncached stores are ten times as slow.
 */
static int open_resource(const char *pci, bool *io_memory)
{
	char path[128];
	int fd;

	*io_memory = !is_modules(pci);
	if (!*io_memory) {
		fd = open(MODULE_DEVICE, O_RDWR | O_CLOEXEC);
		return fd < 0 ? -errno : fd;
	}
	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource2_wc", pci);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource2", pci);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int bar_size(const char *pci, struct stat *st)
{
	char path[128];

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/resource2", pci);
	return stat(path, st);
}

static int map_bar(struct htrace_bar *b, const char *pci, char *err, size_t errlen)
{
	struct stat st;
	int ret;

	memset(b, 0, sizeof(*b));
	snprintf(b->pci, sizeof(b->pci), "%.15s", pci);
	enable(pci);
	b->fd = open_resource(pci, &b->io_memory);
	if (b->fd < 0) {
		ret = b->fd;
		htrace_errf(err, errlen, "ivshmem device %s: cannot open BAR2: %s%s", pci,
			    strerror(-ret),
			    ret == -EPERM ? " (not root, or kernel lockdown)" :
			    ret == -ENOENT ? " (no address assigned to it: hot-plugged without room?)" :
					     "");
		return ret;
	}
	if (bar_size(pci, &st) || (__u64)st.st_size < HTRACE_REGION_MIN) {
		htrace_errf(err, errlen, "ivshmem device %s: BAR2 of %lld bytes is too small, give the "
			    "device at least 1M", pci, (long long)st.st_size);
		close(b->fd);
		return -ENOSPC;
	}
	b->size = (size_t)st.st_size;
	b->mem = mmap(NULL, b->size, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	if (b->mem == MAP_FAILED) {
		ret = -errno;
		htrace_errf(err, errlen, "ivshmem device %s: cannot map BAR2: %s%s", pci,
			    strerror(-ret), ret == -EPERM ? " (kernel lockdown?)" :
			    ret == -EINVAL ? " (a driver has claimed it)" : "");
		close(b->fd);
		return ret;
	}
	return 0;
}

enum htrace_bar_content htrace_bar_content(const void *mem, size_t size)
{
	const struct htrace_super *s = mem;
	const struct htrace_host *h = (const void *)((const char *)mem + HTRACE_HOST_OFF);
	const volatile __u64 *w = mem;

	if (s->magic == HTRACE_MAGIC)
		return HTRACE_BAR_REGION;
	/* Left by one that died while it made the region anew. */
	if (!s->magic && s->version_major == HTRACE_ABI_MAJOR && s->region_size == size)
		return HTRACE_BAR_REGION;
	for (size_t i = 0; i < sizeof(*s) / 8; i++)
		if (w[i])
			return HTRACE_BAR_FOREIGN;
	if (h->magic == HTRACE_HOST_MAGIC && h->state == HTRACE_HOST_WAITING)
		return HTRACE_BAR_WAITED;
	return HTRACE_BAR_EMPTY;
}

static void unmap_bar(struct htrace_bar *bar)
{
	munmap(bar->mem, bar->size);
	close(bar->fd);
}

void htrace_bar_close(struct htrace_bar *bar)
{
	if (!bar)
		return;
	unmap_bar(bar);
	free(bar);
}

void *htrace_bar_mem(const struct htrace_bar *bar, size_t *size)
{
	*size = bar->size;
	return bar->mem;
}

const char *htrace_bar_pci(const struct htrace_bar *bar)
{
	return bar->pci;
}

bool htrace_bar_io_memory(const struct htrace_bar *bar)
{
	return bar->io_memory;
}

static int list_devices(char pci[][16])
{
	DIR *d = opendir(PCI_DEVICES);
	struct dirent *e;
	int nr = 0;

	if (!d)
		return 0;
	while ((e = readdir(d)) != NULL && nr < MAX_BARS) {
		if (strlen(e->d_name) >= 16 || read_hex(e->d_name, "vendor") != IVSHMEM_VENDOR ||
		    read_hex(e->d_name, "device") != IVSHMEM_DEVICE)
			continue;
		strcpy(pci[nr++], e->d_name);
	}
	closedir(d);
	return nr;
}

static int open_one(struct htrace_bar *bar, const char *pci, char *err, size_t errlen)
{
	int ret = map_bar(bar, pci, err, errlen);

	if (!ret && htrace_bar_content(bar->mem, bar->size) == HTRACE_BAR_FOREIGN) {
		htrace_errf(err, errlen, "ivshmem device %s holds something that is not libhtrace's; "
			    "clear its memory on the host if it may be used", bar->pci);
		unmap_bar(bar);
		ret = -EEXIST;
	}
	return ret;
}

/* Of several devices: the best content, if only one has it. */
static int choose(struct htrace_bar *bar, char pci[][16], int nr, char *err, size_t errlen)
{
	static const enum htrace_bar_content order[] = { HTRACE_BAR_REGION, HTRACE_BAR_WAITED,
							 HTRACE_BAR_EMPTY };
	int content[MAX_BARS], ret = -ENODEV;

	for (int i = 0; i < nr; i++) {
		struct htrace_bar b;
		int e = map_bar(&b, pci[i], err, errlen);

		content[i] = -1;
		if (e) {
			ret = e;
			continue;
		}
		content[i] = htrace_bar_content(b.mem, b.size);
		unmap_bar(&b);
		if (content[i] == HTRACE_BAR_FOREIGN && ret == -ENODEV) {
			htrace_errf(err, errlen, "all %d ivshmem devices hold something that is not "
				    "libhtrace's", nr);
			ret = -EEXIST;
		}
	}
	for (size_t o = 0; o < sizeof(order) / sizeof(*order); o++) {
		int first = -1, found = -1, count = 0;

		for (int i = 0; i < nr; i++) {
			if (content[i] != (int)order[o])
				continue;
			first = count++ ? first : i;
			found = i;
		}
		if (count == 1)
			return open_one(bar, pci[found], err, errlen);
		if (count > 1) {
			htrace_errf(err, errlen, "%d ivshmem devices could be the one (%s, %s%s); choose "
				    "with --region PCI-ADDRESS, or start host-reader on its file first",
				    count, pci[first], pci[found], count > 2 ? ", ..." : "");
			return -ENOTUNIQ;
		}
	}
	return ret;
}

static int find(struct htrace_bar *bar, const char *which, char *err, size_t errlen)
{
	char pci[MAX_BARS][16];
	int nr;

	if (which && strcmp(which, "auto")) {
		if (strlen(which) >= sizeof(bar->pci) ||
		    read_hex(which, "vendor") != IVSHMEM_VENDOR ||
		    read_hex(which, "device") != IVSHMEM_DEVICE) {
			htrace_errf(err, errlen, "%s is not the PCI address of an ivshmem device (give "
				    "it as in /sys/bus/pci/devices)", which);
			return -ENODEV;
		}
		return open_one(bar, which, err, errlen);
	}
	nr = list_devices(pci);
	if (!nr) {
		htrace_errf(err, errlen, "no ivshmem device in this machine; add one to the VM: "
			    "-device ivshmem-plain,memdev=ID, or while it runs: host-reader qmp:SOCKET");
		return -ENODEV;
	}
	if (nr == 1)
		return open_one(bar, pci[0], err, errlen);
	return choose(bar, pci, nr, err, errlen);
}

int htrace_bar_open(struct htrace_bar **out, const char *which, char *err, size_t errlen)
{
	struct htrace_bar *bar = calloc(1, sizeof(*bar));
	int ret;

	if (!bar)
		return htrace_errf(err, errlen, "out of memory"), -ENOMEM;
	ret = find(bar, which, err, errlen);
	if (ret)
		free(bar);
	else
		*out = bar;
	return ret;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kvm_tsc.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef KVM_TSC_DIR
#define KVM_TSC_DIR "/sys/kernel/debug/kvm" /* tests have one of their own */
#endif
#define MAX_VCPUS 1024
#define MAX_BITS 62

__extension__ typedef unsigned __int128 wide;

/* A number in the file; @or where there is no such file. */
static bool read_number(int dir, const char *vcpu, const char *name, const __u64 *or, __u64 *value)
{
	char path[300], text[32];
	ssize_t len;
	char *end;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", vcpu, name);
	fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		if (or)
			*value = *or;
		return or != NULL;
	}
	len = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (len <= 0)
		return false;
	text[len] = 0;
	*value = *text == '-' ? (__u64)strtoll(text, &end, 10) : strtoull(text, &end, 10);
	return end != text && (!*end || *end == '\n');
}

/* One virtual CPU's. Kernels that cannot scale have no files of that. */
static bool read_vcpu(int dir, const char *vcpu, struct kvm_tsc *t)
{
	const __u64 one = 1, zero = 0;
	__u64 bits;

	if (!read_number(dir, vcpu, "tsc-offset", NULL, &t->offset) ||
	    !read_number(dir, vcpu, "tsc-scaling-ratio", &one, &t->ratio) ||
	    !read_number(dir, vcpu, "tsc-scaling-ratio-frac-bits", &zero, &bits))
		return false;
	t->bits = (unsigned int)bits;
	t->known = bits <= MAX_BITS && t->ratio;
	return t->known;
}

static bool same(const struct kvm_tsc *a, const struct kvm_tsc *b)
{
	return a->offset == b->offset && a->ratio == b->ratio && a->bits == b->bits;
}

static bool read_vm(int fd, struct kvm_tsc *t)
{
	DIR *d = fdopendir(fd);
	unsigned int nr = 0;
	const struct dirent *e;
	struct kvm_tsc one;
	bool ok = d != NULL;

	while (ok && (e = readdir(d)) != NULL) {
		if (strncmp(e->d_name, "vcpu", 4))
			continue;
		ok = nr++ < MAX_VCPUS && read_vcpu(fd, e->d_name, &one) && (nr == 1 || same(t, &one));
		*t = one;
	}
	if (d)
		closedir(d);
	else
		close(fd);
	return ok && nr;
}

bool kvm_tsc_read(struct kvm_tsc *t, int pid)
{
	DIR *d = opendir(KVM_TSC_DIR);
	const struct dirent *e;
	unsigned int vms = 0;
	char prefix[16];
	bool ok = true;
	int fd;

	memset(t, 0, sizeof(*t));
	snprintf(prefix, sizeof(prefix), "%d-", pid);
	while (d && (e = readdir(d)) != NULL) {
		if (strncmp(e->d_name, prefix, strlen(prefix)))
			continue;
		fd = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ok = ok && !vms++ && fd >= 0 && read_vm(fd, t); /* of several VMs: whose is it? */
	}
	if (d)
		closedir(d);
	t->known = ok && vms == 1 && t->known;
	return t->known;
}

__u64 kvm_tsc_host(const struct kvm_tsc *t, __u64 guest)
{
	wide host = ((wide)(guest - t->offset) << t->bits) / t->ratio;

	return (__u64)host;
}

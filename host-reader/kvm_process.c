/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kvm_process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef KVM_PROCESS_PROC
#define KVM_PROCESS_PROC "/proc" /* tests have one of their own */
#endif

/* Each virtual CPU is a file descriptor, which says its number. */
static bool parse_vcpu(int dir, const char *name, unsigned int *nr)
{
	char to[64];
	ssize_t len = readlinkat(dir, name, to, sizeof(to) - 1);

	if (len <= 0)
		return false;
	to[len] = 0;
	return sscanf(to, "anon_inode:kvm-vcpu:%u", nr) == 1 && *nr < KVM_PROCESS_VCPUS;
}

static int by_number(const void *a, const void *b)
{
	unsigned int x = *(const unsigned int *)a, y = *(const unsigned int *)b;

	return x < y ? -1 : x > y;
}

static DIR *open_proc(int pid, const char *what)
{
	char path[64];

	snprintf(path, sizeof(path), KVM_PROCESS_PROC "/%d/%s", pid, what);
	return opendir(path);
}

/* Descriptors may be duplicates of each other. */
static unsigned int without_doubles(unsigned int *v, unsigned int nr)
{
	unsigned int to = 0;

	qsort(v, nr, sizeof(*v), by_number);
	for (unsigned int i = 0; i < nr; i++)
		if (!i || v[i] != v[i - 1])
			v[to++] = v[i];
	return to;
}

static unsigned int list_vcpus(int pid, unsigned int *vcpu)
{
	DIR *d = open_proc(pid, "fd");
	unsigned int nr = 0;
	struct dirent *e;

	if (!d)
		return 0;
	while (nr < KVM_PROCESS_VCPUS && (e = readdir(d)) != NULL)
		nr += parse_vcpu(dirfd(d), e->d_name, &vcpu[nr]);
	closedir(d);
	return without_doubles(vcpu, nr);
}

static bool maps_file(int pid, __u64 dev, __u64 ino)
{
	DIR *d = open_proc(pid, "map_files");
	struct dirent *e;
	struct stat st;
	bool yes = false;

	if (!d)
		return false;
	while (!yes && (e = readdir(d)) != NULL)
		yes = !fstatat(dirfd(d), e->d_name, &st, 0) && st.st_dev == dev && st.st_ino == ino;
	closedir(d);
	return yes;
}

/* Processes come and go meanwhile: at most one is found, or more than one. */
static int find_by_file(const struct htrace_view *v, unsigned int *scratch, int *nr)
{
	DIR *d = opendir(KVM_PROCESS_PROC);
	struct dirent *e;
	int found = 0;
	__u64 dev, ino;

	*nr = 0;
	if (!d)
		return 0;
	htrace_view_file(v, &dev, &ino);
	while ((e = readdir(d)) != NULL) {
		int pid = atoi(e->d_name);

		if (pid > 0 && list_vcpus(pid, scratch) && maps_file(pid, dev, ino)) {
			found = pid;
			++*nr;
		}
	}
	closedir(d);
	return found;
}

int kvm_process_find(struct kvm_process *p, const struct htrace_view *v, int pid, char *err,
		     size_t errlen)
{
	__u64 dev, ino;
	int nr = 1;

	p->pid = pid ? pid : find_by_file(v, p->vcpu, &nr);
	if (nr > 1) {
		snprintf(err, errlen, "%d processes run VMs on KVM and map the region's file", nr);
		return -ENOTUNIQ;
	}
	if (!p->pid) {
		snprintf(err, errlen, "no process that maps the region's file runs a VM on KVM");
		return -ENOENT;
	}
	/* The descriptor first: what is found then is of the process that it stands for. */
	p->pidfd = (int)syscall(SYS_pidfd_open, p->pid, 0);
	if (p->pidfd < 0) {
		int ret = -errno;

		snprintf(err, errlen, "process %d: %s", p->pid, strerror(errno));
		return ret;
	}
	htrace_view_file(v, &dev, &ino);
	p->nr_vcpus = list_vcpus(p->pid, p->vcpu);
	if (p->nr_vcpus && (pid || maps_file(p->pid, dev, ino)))
		return 0;
	close(p->pidfd);
	snprintf(err, errlen, "process %d has no virtual CPUs of KVM's that we may see", p->pid);
	return -ENOENT;
}

unsigned int kvm_process_place(const bool *taken, unsigned int all, unsigned int nr)
{
	unsigned int run = 0;

	for (unsigned int i = 0; i < all; i++) {
		run = taken[i] ? 0 : run + 1;
		if (run == nr)
			return i + 1 - nr;
	}
	return all;
}

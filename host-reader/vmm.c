/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm.h"

#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "finder.h"

#define PAUSED_RUNS 20000   /* ns: what a paused VM's vCPUs run at most, as when they are asked something */
#define BUSY_RUNS 700000000 /* ns of a second: all the time */
#define IDLE_SHARE 200      /* so little of the time: who loads a megabyte a second runs for as long */
#define VCPU_SHARE 20       /* a vCPU has run a twentieth of what another one has, at least */

/* ------------------------------------------------------------------------------------- finding it */

/* The region's file. */
struct file {
	__u64 dev, ino, size;
};

static bool maps_all(const char *line, const struct file *f, int pid)
{
	unsigned long start, end;
	unsigned long long ino;
	struct stat st;
	char perms[8], path[96];

	if (sscanf(line, "%lx-%lx %7s %*x %*x:%*x %llu", &start, &end, perms, &ino) != 4 ||
	    ino != f->ino || perms[1] != 'w' || perms[3] != 's' || end - start < f->size)
		return false;
	/* An inode's number is not enough; but who may not look is not told that it is another file. */
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, start, end);
	if (stat(path, &st))
		return errno == EPERM || errno == EACCES;
	return st.st_dev == f->dev && st.st_ino == f->ino;
}

static bool runs_it(int pid, const struct file *file)
{
	bool yes = false, begins = true; /* a line; what is behind a long one's first part is text of its file's name */
	char path[64], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (!yes && fgets(line, sizeof(line), f)) {
		yes = begins && maps_all(line, file, pid);
		begins = strchr(line, '\n') != NULL;
	}
	fclose(f);
	return yes;
}

int vmm_scan(__u64 dev, __u64 ino, __u64 size, int reader)
{
	const struct file file = { dev, ino, size };
	DIR *d = opendir("/proc");
	int found = 0, nr = 0;
	struct dirent *e;

	while (d && nr < 2 && (e = readdir(d)) != NULL) {
		int pid = atoi(e->d_name);

		if (pid <= 0 || pid == getpid() || pid == reader || !runs_it(pid, &file))
			continue;
		found = pid;
		nr++;
	}
	if (d)
		closedir(d);
	return nr == 1 ? found : 0;
}

void vmm_find(struct vmm *v, const struct htrace_view *view, int pid)
{
	__u64 dev, ino;

	memset(v, 0, sizeof(*v));
	htrace_view_file(view, &dev, &ino);
	v->pid = pid ? pid : htrace_view_vmm_pid(view);
	if (!v->pid)
		v->pid = finder_runs() ? finder_vmm(view) : vmm_scan(dev, ino, htrace_view_size(view), getpid());
	v->pidfd = v->pid ? (int)syscall(SYS_pidfd_open, v->pid, 0) : -1;
}

void vmm_close(struct vmm *v)
{
	if (v->pid && v->pidfd >= 0)
		close(v->pidfd);
	memset(v, 0, sizeof(*v));
}

bool vmm_gone(const struct vmm *v)
{
	struct pollfd p = { .fd = v->pidfd, .events = POLLIN };

	return v->pid && v->pidfd >= 0 && poll(&p, 1, 0) > 0;
}

/* ------------------------------------------------------------------------------------- watching it */

static bool read_line(char *line, size_t len, const char *path)
{
	FILE *f = fopen(path, "re");
	bool ok = f && fgets(line, (int)len, f);

	if (f)
		fclose(f);
	return ok;
}

static bool read_thread(int pid, int tid, struct vmm_thread *t)
{
	unsigned long long ran, waited;
	char path[96], line[128];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/schedstat", pid, tid);
	if (!read_line(line, sizeof(line), path) || sscanf(line, "%llu %llu", &ran, &waited) != 2)
		return false;
	*t = (struct vmm_thread){ .tid = tid, .ran = ran, .waited = waited };
	return true;
}

void vmm_watch(struct vmm *v, __u64 now)
{
	char path[64];
	struct dirent *e;
	DIR *d;

	v->nr = 0;
	v->since = now;
	if (!v->pid)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task", v->pid);
	d = opendir(path);
	while (d && v->nr < VMM_THREADS && (e = readdir(d)) != NULL) {
		int tid = atoi(e->d_name);

		v->nr += tid > 0 && read_thread(v->pid, tid, &v->thread[v->nr]);
	}
	if (d)
		closedir(d);
}

/* Also one that a debugger has stopped. */
static bool is_stopped(int pid)
{
	char path[64], line[512], *at;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	at = read_line(line, sizeof(line), path) ? strrchr(line, ')') : NULL;
	return at && at[1] && (at[2] == 'T' || at[2] == 't');
}

/* The first thread serves devices and monitors, others do what they are asked to: vCPUs run most. */
static __u64 least_of_vcpu(const struct vmm *v)
{
	__u64 most = 0;

	for (unsigned int i = 0; i < v->nr; i++)
		if ((v->nr == 1 || v->thread[i].tid != v->pid) && v->thread[i].ran > most)
			most = v->thread[i].ran;
	return most / VCPU_SHARE;
}

enum vmm_is vmm_look(const struct vmm *v, __u64 now)
{
	__u64 sum = 0, busiest = 0, least = least_of_vcpu(v), ms = (now - v->since) / 1000000;
	struct vmm_thread t;

	if (vmm_gone(v))
		return VMM_GONE;
	if (!v->pid)
		return VMM_UNKNOWN;
	if (is_stopped(v->pid))
		return VMM_STOPPED;
	if (!v->nr || !ms)
		return VMM_UNKNOWN;
	for (unsigned int i = 0; i < v->nr; i++) {
		const struct vmm_thread *was = &v->thread[i];
		__u64 ran;

		if ((v->nr > 1 && was->tid == v->pid) || was->ran < least ||
		    !read_thread(v->pid, was->tid, &t))
			continue;
		ran = t.ran - was->ran;
		sum += ran;
		ran += t.waited - was->waited; /* it would have, if the host had had a CPU for it */
		busiest = ran > busiest ? ran : busiest;
	}
	return sum <= PAUSED_RUNS ? VMM_PAUSED : busiest >= BUSY_RUNS / 1000 * ms ? VMM_BUSY : VMM_IDLE;
}

bool vmm_idles(const struct vmm *v, __u64 now)
{
	struct vmm_thread t;
	__u64 sum = 0;

	for (unsigned int i = 0; i < v->nr; i++)
		if (read_thread(v->pid, v->thread[i].tid, &t))
			sum += t.ran - v->thread[i].ran;
	return v->nr && sum <= (now - v->since) / IDLE_SHARE;
}

const char *vmm_words(enum vmm_is is)
{
	switch (is) {
	case VMM_GONE:
		return "the process that ran it is gone";
	case VMM_STOPPED:
		return "the process that runs it is stopped";
	case VMM_PAUSED:
		return "it is paused or halted (no vCPU of its runs)";
	case VMM_BUSY:
		return "a vCPU of its runs all the time: it hangs, or is in a panic";
	case VMM_IDLE:
		return "it runs: its agent is stopped, or was killed";
	default:
		return "paused, crashed or agent killed";
	}
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "proc_names.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monotonic.h"

struct list {
	struct htrace_name *name;
	size_t nr, room;
};

static struct list last; /* what the table says, in the order of by_task() */

static void add(struct list *l, __u32 tid, __u32 tgid, const char *comm, size_t len, __u64 time)
{
	struct htrace_name *n;

	if (l->nr == l->room) {
		size_t room = l->room ? 2 * l->room : 256;

		n = realloc(l->name, room * sizeof(*n));
		if (!n)
			return;
		l->name = n;
		l->room = room;
	}
	n = &l->name[l->nr++];
	memset(n, 0, sizeof(*n));
	n->time = time;
	n->tid = tid;
	n->tgid = tgid;
	memcpy(n->comm, comm, len < sizeof(n->comm) ? len : sizeof(n->comm) - 1);
}

/*
 * /proc appends to a kernel worker's name what it works at ("kworker/0:1-events"), which is no part
 * of it and changes all the time. "kworker/R-..." are rescuers, named so.
 */
static size_t without_work(const char *comm, size_t len)
{
	static const char worker[] = "kworker/";
	size_t i = sizeof(worker) - 1;

	if (len <= i || memcmp(comm, worker, i) || comm[i] == 'R')
		return len;
	while (i < len && comm[i] != '-' && comm[i] != '+')
		i++;
	return i;
}

static void add_thread(struct list *l, int tasks, __u32 tgid, const char *tid)
{
	char path[32], comm[32];
	__u64 time = monotonic_ns(); /* before the name is read: it holds at least from then on */
	ssize_t len;
	int fd;

	snprintf(path, sizeof(path), "%.10s/comm", tid);
	fd = openat(tasks, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0) /* gone meanwhile */
		return;
	len = read(fd, comm, sizeof(comm));
	close(fd);
	if (len > 0 && comm[len - 1] == '\n')
		len--;
	if (len > 0)
		add(l, (__u32)atol(tid), tgid, comm, without_work(comm, (size_t)len), time);
}

static void add_process(struct list *l, const char *pid)
{
	char path[32];
	struct dirent *e;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%.10s/task", pid);
	d = opendir(path);
	if (!d)
		return;
	while ((e = readdir(d)) != NULL)
		if (isdigit((unsigned char)e->d_name[0]))
			add_thread(l, dirfd(d), (__u32)atol(pid), e->d_name);
	closedir(d);
}

static int by_task(const void *a, const void *b)
{
	const struct htrace_name *x = a, *y = b;

	return x->tid < y->tid ? -1 : x->tid > y->tid;
}

static void scan(struct list *l)
{
	struct dirent *e;
	DIR *d = opendir("/proc");

	add(l, 0, 0, "swapper", 7, 0); /* each CPU's idle task, which is not in /proc */
	if (!d)
		return;
	while ((e = readdir(d)) != NULL)
		if (isdigit((unsigned char)e->d_name[0]))
			add_process(l, e->d_name);
	closedir(d);
	if (l->name)
		qsort(l->name, l->nr, sizeof(*l->name), by_task);
}

static void keep_times(struct list *l)
{
	size_t j = 0;

	for (size_t i = 0; i < l->nr; i++) {
		struct htrace_name *n = &l->name[i];

		while (j < last.nr && last.name[j].tid < n->tid)
			j++;
		if (j < last.nr && last.name[j].tid == n->tid && last.name[j].tgid == n->tgid &&
		    !memcmp(last.name[j].comm, n->comm, sizeof(n->comm)))
			n->time = last.name[j].time;
	}
}

void proc_names_update(struct htrace_region *r)
{
	struct list l = {0};

	scan(&l);
	keep_times(&l);
	htrace_region_set_names(r, l.name, (__u32)l.nr);
	free(last.name);
	last = l;
}

void proc_names_free(void)
{
	free(last.name);
	memset(&last, 0, sizeof(last));
}

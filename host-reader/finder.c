/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "finder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"
#include "helper_process.h"
#include "host_bpf.h"
#include "region_file.h"

#define SOCKET HELPER_FD /* in the finder: its only descriptor */

enum what { FIND_REGION, FIND_RAM, FIND_PROCESS, FIND_VMM, FIND_BPF_STATS, FIND_REMOVE, FIND_NO_MORE };

struct question {
	__u32 what;
	__s32 pid;
	char path[4096];  /* FIND_REGION */
	__u64 dev, ino;   /* of the region */
};

struct answer {
	__s32 ret; /* or -errno */
	__s32 pid;
	__u32 writable, several_vms, nr_vcpus;
	char err[256];
	__u32 vcpu[KVM_PROCESS_VCPUS];
};

/* What it may look for: of each source that is a region. */
struct place {
	const char *path; /* NULL: no file that could be replaced; then these are its memory's: */
	__u64 dev, ino, size;
	const char *ram;
	int pid;
	bool linked;
	struct bell_server *server; /* whose socket is removed at the end */
	const char *made;           /* the region's file, if it is ours to remove; or NULL */
};

static int to_finder = -1; /* in the reader */
static pid_t finder_pid;
static struct place place[MAX_SOURCES];
static unsigned int nr_places;

/* Ask; a->ret says how it went, and @err why. Returns how many descriptors came, or -errno. */
static int ask(const struct question *q, struct answer *a, int fd[FINDER_FILES], char *err, size_t errlen)
{
	int nr = -EPIPE;
	ssize_t n;

	do
		n = send(to_finder, q, sizeof(*q), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n == sizeof(*q))
		nr = take_fds(to_finder, a, sizeof(*a), fd, 0);
	if (nr < 0)
		snprintf(err, errlen, "host-reader's process that opens files for it is gone; start host-reader again");
	else if (a->ret < 0)
		snprintf(err, errlen, "%.*s", (int)sizeof(a->err) - 1, a->err);
	if (nr < 0 || a->ret < 0)
		return nr < 0 ? nr : a->ret;
	return nr;
}

/* --------------------------------------------------------------------------------------- the finder */

static void close_all(const int *fd, int nr)
{
	for (int i = 0; i < nr; i++)
		close(fd[i]);
}

/* The place whose region's file this is now. */
static const struct place *place_of(const struct question *q, __u64 *size)
{
	struct stat st;

	for (unsigned int i = 0; i < nr_places; i++) {
		const struct place *p = &place[i];

		*size = p->size;
		if (p->dev == q->dev && p->ino == q->ino)
			return p;
		if (!p->path || stat(p->path, &st))
			continue;
		*size = (__u64)st.st_size;
		if (st.st_dev == q->dev && st.st_ino == q->ino)
			return p;
	}
	return NULL;
}

static int find_region(const struct question *q, struct answer *a, int *fd)
{
	bool writable = false;
	int ret = -EACCES;

	for (unsigned int i = 0; i < nr_places; i++) {
		if (!place[i].path || strncmp(place[i].path, q->path, sizeof(q->path)))
			continue;
		ret = region_file_open_here(place[i].path, place[i].linked, &writable, a->err, sizeof(a->err));
		break;
	}
	a->writable = writable;
	*fd = ret;
	a->ret = ret < 0 ? ret : 0;
	return ret < 0 ? 0 : 1;
}

static int find_ram(const struct question *q, struct answer *a, int *fd)
{
	__u64 size;
	const struct place *p = place_of(q, &size);
	int nr;

	if (!p) {
		a->ret = -ESRCH;
		snprintf(a->err, sizeof(a->err), "the region's file was replaced just now");
		return 0;
	}
	if (p->ram) {
		fd[0] = open(p->ram, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
		nr = fd[0] < 0 ? -errno : 1;
		if (nr < 0)
			snprintf(a->err, sizeof(a->err), "%s: %s", p->ram, strerror(-nr));
	} else {
		nr = htrace_ram_find(q->dev, q->ino, size, p->pid, fd, FINDER_FILES, &a->pid, a->err,
				     sizeof(a->err));
	}
	a->ret = nr < 0 ? nr : 0;
	return nr < 0 ? 0 : nr;
}

static int find_process(const struct question *q, struct answer *a, int *fd)
{
	struct kvm_process found;
	__u64 size;
	const struct place *p = place_of(q, &size);

	if (!p) {
		a->ret = -ENOENT;
		snprintf(a->err, sizeof(a->err), "the region's file was replaced just now");
		return 0;
	}
	/* A process that the command line does not name has to map the region. */
	a->ret = kvm_process_look(&found, q->dev, q->ino, q->pid, q->pid && q->pid == p->pid, a->err,
				  sizeof(a->err));
	if (a->ret)
		return 0;
	a->pid = found.pid;
	a->several_vms = found.several_vms;
	a->nr_vcpus = found.nr_vcpus;
	memcpy(a->vcpu, found.vcpu, found.nr_vcpus * sizeof(a->vcpu[0]));
	*fd = found.pidfd;
	return 1;
}

static int find_bpf_stats(struct answer *a, int *fd)
{
	*fd = host_bpf_stats();
	a->ret = *fd < 0 ? *fd : 0;
	return *fd >= 0;
}

static int remove_made(const struct question *q, struct answer *a)
{
	__u64 size;
	const struct place *p = place_of(q, &size);

	a->ret = p && p->made ? region_file_remove(p->made, p->dev, p->ino) : -ENOENT;
	return 0;
}

static int find(const struct question *q, struct answer *a, int *fd)
{
	const struct place *p;
	__u64 size;

	switch (q->what) {
	case FIND_REGION:
		return find_region(q, a, fd);
	case FIND_RAM:
		return find_ram(q, a, fd);
	case FIND_PROCESS:
		return find_process(q, a, fd);
	case FIND_VMM:
		p = place_of(q, &size);
		a->pid = p ? vmm_scan(q->dev, q->ino, size, getppid()) : 0;
		return 0;
	case FIND_BPF_STATS:
		return find_bpf_stats(a, fd);
	case FIND_REMOVE:
		return remove_made(q, a);
	}
	a->ret = -EINVAL;
	return 0;
}

static void serve(void)
{
	static struct question q;
	static struct answer a;
	int fd[FINDER_FILES], nr;
	ssize_t n;

	for (;;) {
		n = recv(SOCKET, &q, sizeof(q), 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n != sizeof(q)) /* it was killed: its sockets stay, as with any program */
			_exit(1);
		if (q.what == FIND_NO_MORE)
			return;
		memset(&a, 0, sizeof(a));
		nr = find(&q, &a, fd);
		if (!pass_fds(SOCKET, &a, sizeof(a), fd, nr, 0))
			return;
		close_all(fd, nr);
	}
}

static void be_finder(int sock, bool bpf_stats)
{
	struct confine_finder_plan plan = { .bpf_stats = bpf_stats };

	helper_process_begin("reader-finder", &sock, 1);
	for (unsigned int i = 0; i < nr_places; i++)
		plan.unlink |= place[i].server || place[i].made;
	if (confine_finder(&plan))
		_exit(1);
	serve();
	for (unsigned int i = 0; i < nr_places; i++)
		bell_server_close(place[i].server);
	_exit(0);
}

/* --------------------------------------------------------------------------------------- the reader */

static void take_places(const struct source *source, unsigned int nr)
{
	nr_places = 0;
	for (unsigned int i = 0; i < nr; i++) {
		const struct source *s = &source[i];
		struct place *p = &place[nr_places];

		if (!s->view)
			continue;
		*p = (struct place){ .path = source_made_its_file(s) ? NULL : s->spec->path, .ram = s->spec->ram,
				     .pid = s->spec->pid, .linked = s->linked, .server = s->server,
				     .made = s->plug ? source_plug_file(s) : NULL };
		htrace_view_file(s->view, &p->dev, &p->ino);
		p->size = htrace_view_size(s->view);
		nr_places++;
	}
}

int finder_start(const struct source *source, unsigned int nr, bool bpf_stats)
{
	int pair[2];

	take_places(source, nr);
	if (!nr_places)
		return 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	finder_pid = fork();
	if (!finder_pid)
		be_finder(pair[1], bpf_stats);
	close(pair[1]);
	if (finder_pid < 0) {
		int ret = -errno;

		close(pair[0]);
		return ret;
	}
	to_finder = pair[0];
	return 0;
}

bool finder_runs(void)
{
	return to_finder >= 0;
}

void finder_stop(void)
{
	const struct question q = { .what = FIND_NO_MORE };

	if (to_finder < 0)
		return;
	send(to_finder, &q, sizeof(q), MSG_NOSIGNAL);
	close(to_finder);
	to_finder = -1;
	while (waitpid(finder_pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int finder_region(const char *path, bool *writable, char *err, size_t errlen)
{
	struct question q = { .what = FIND_REGION };
	int fd[FINDER_FILES], nr;
	struct answer a;

	snprintf(q.path, sizeof(q.path), "%s", path);
	nr = ask(&q, &a, fd, err, errlen);
	if (nr < 0)
		return nr;
	*writable = a.writable;
	return nr ? fd[0] : -EMFILE;
}

int finder_ram(const struct htrace_view *v, int fd[FINDER_FILES], char *err, size_t errlen)
{
	struct question q = { .what = FIND_RAM };
	struct answer a;

	htrace_view_file(v, &q.dev, &q.ino);
	return ask(&q, &a, fd, err, errlen);
}

int finder_process(struct kvm_process *p, const struct htrace_view *v, int pid, char *err, size_t errlen)
{
	struct question q = { .what = FIND_PROCESS, .pid = pid };
	int fd[FINDER_FILES], nr;
	struct answer a;

	htrace_view_file(v, &q.dev, &q.ino);
	nr = ask(&q, &a, fd, err, errlen);
	if (nr <= 0)
		return nr ? nr : -EMFILE;
	p->pid = a.pid;
	p->pidfd = fd[0];
	p->several_vms = a.several_vms;
	p->nr_vcpus = a.nr_vcpus;
	memcpy(p->vcpu, a.vcpu, a.nr_vcpus * sizeof(a.vcpu[0]));
	return 0;
}

int finder_vmm(const struct htrace_view *v)
{
	struct question q = { .what = FIND_VMM };
	int fd[FINDER_FILES];
	char err[256] = "";
	struct answer a;

	htrace_view_file(v, &q.dev, &q.ino);
	return ask(&q, &a, fd, err, sizeof(err)) < 0 ? 0 : a.pid;
}

int finder_remove(const struct htrace_view *v)
{
	struct question q = { .what = FIND_REMOVE };
	int fd[FINDER_FILES], nr;
	char err[256] = "";
	struct answer a;

	htrace_view_file(v, &q.dev, &q.ino);
	nr = ask(&q, &a, fd, err, sizeof(err));
	return nr < 0 ? nr : 0;
}

int finder_bpf_stats(void)
{
	struct question q = { .what = FIND_BPF_STATS };
	int fd[FINDER_FILES], nr;
	char err[256] = "";
	struct answer a;

	nr = ask(&q, &a, fd, err, sizeof(err));
	return nr > 0 ? fd[0] : -EPERM;
}

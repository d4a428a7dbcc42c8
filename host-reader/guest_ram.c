/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guest_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vm_process.h"

#define MIN_RAM (4u << 20)
#define ARENA (64u << 20)    /* that the C library's heap takes at most in one piece */
#define MAPS_MAX (16u << 20) /* bytes of smaps that are looked at */
#define PRESENT (1ULL << 63)
#define BATCH 512u

struct guest_ram {
	int mem, pagemap, smaps, pidfd;
	struct guest_ram_part part[GUEST_RAM_MAX];
	unsigned int nr, ids;
	bool opened; /* files are opened only at the beginning: later nobody may */
	int pid;
};

/* ------------------------------------------------------------------------------ what is guest RAM */

static bool has_flag(const char *flags, const char *flag)
{
	for (const char *p = flags; (p = strstr(p, flag)) != NULL; p += 2)
		if (p > flags && p[-1] == ' ' && (p[2] == ' ' || p[2] == '\n' || !p[2]))
			return true;
	return false;
}

struct mapping {
	unsigned long start, end, off;
	char perms[8];
	unsigned long inode;
};

static bool is_ram(const struct mapping *m, const char *flags)
{
	__u64 len = m->end - m->start;

	if (m->perms[0] != 'r' || m->perms[1] != 'w' || len < MIN_RAM || m->start % GUEST_RAM_PAGE)
		return false;
	if (has_flag(flags, "pf") || has_flag(flags, "io")) /* a device's */
		return false;
	if (m->perms[3] == 's')
		return m->inode != 0;
	if (has_flag(flags, "ht") || has_flag(flags, "dc"))
		return true;
	return !m->inode && has_flag(flags, "nr") && len > ARENA;
}

/* The mapped file, for mapping it ourselves. -1: it cannot be had, and then memory is copied. */
static int open_file(const struct guest_ram *r, const struct mapping *m)
{
	char path[96];
	struct stat st;
	int fd;

	if (m->perms[3] != 's' || m->off)
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", r->pid, m->start, m->end);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (fd >= 0 && (fstat(fd, &st) || !S_ISREG(st.st_mode))) {
		close(fd);
		return -1;
	}
	return fd;
}

/* Those that were there keep their place: others know them by it. Places of those that went before are taken again. */
static void add_part(struct guest_ram *r, bool kept[GUEST_RAM_MAX], const struct mapping *m)
{
	struct guest_ram_part p = { .start = m->start, .len = m->end - m->start, .file = -1 };
	unsigned int i = 0, free = r->nr;

	for (; i < r->nr && (r->part[i].start != p.start || r->part[i].len != p.len); i++)
		if (!r->part[i].len && !kept[i] && free == r->nr)
			free = i;
	if (i < r->nr) {
		kept[i] = true;
		return;
	}
	if (free == GUEST_RAM_MAX)
		return;
	if (!r->opened)
		p.file = open_file(r, m);
	p.id = ++r->ids;
	kept[free] = true;
	r->part[free] = p;
	r->nr += free == r->nr;
}

/* smaps as text, the caller's to free; NULL: the process is gone, or memory out. */
static char *read_smaps(const struct guest_ram *r)
{
	size_t got = 0, room = 256 << 10;
	char *text = malloc(room + 1), *more;
	ssize_t n = 1;

	if (text && lseek(r->smaps, 0, SEEK_SET) < 0)
		n = -1;
	while (text && n > 0) {
		if (got == room) {
			more = room < MAPS_MAX ? realloc(text, 2 * room + 1) : NULL;
			if (!more)
				break;
			text = more;
			room *= 2;
		}
		n = read(r->smaps, text + got, room - got);
		got += n > 0 ? (size_t)n : 0;
	}
	if (!text || n < 0 || !got) {
		free(text);
		return NULL;
	}
	text[got] = 0;
	return text;
}

static bool parse_head(const char *line, struct mapping *m)
{
	return sscanf(line, "%lx-%lx %7s %lx %*x:%*x %lu", &m->start, &m->end, m->perms, &m->off, &m->inode) == 5;
}

static void drop_part(struct guest_ram_part *p)
{
	if (p->file >= 0)
		close(p->file);
	*p = (struct guest_ram_part){ .file = -1 };
}

int guest_ram_look(struct guest_ram *r)
{
	char *text = read_smaps(r), *line, *rest;
	bool kept[GUEST_RAM_MAX] = { false };
	struct mapping m = { 0 };
	int nr = 0;

	if (!text)
		return -ESRCH;
	for (line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
		struct mapping next = { 0 };

		if (parse_head(line, &next))
			m = next;
		else if (!strncmp(line, "VmFlags:", 8) && is_ram(&m, line))
			add_part(r, kept, &m);
	}
	free(text);
	for (unsigned int i = 0; i < r->nr; i++) {
		nr += kept[i];
		if (!kept[i])
			drop_part(&r->part[i]);
	}
	r->opened = true;
	return nr;
}

/* ------------------------------------------------------------------------------------------ opening */

static int open_in(int pid, const char *name)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int refuse(int ret, int pid, char *err, size_t errlen)
{
	if (ret == -ENOENT || ret == -ESRCH)
		snprintf(err, errlen, "there is no process %d", pid);
	else if (ret == -EACCES || ret == -EPERM)
		snprintf(err, errlen, "the memory of process %d may not be read: it takes root, or CAP_SYS_PTRACE (with "
			 "kernel.yama.ptrace_scope=0, also its own user may)", pid);
	else
		snprintf(err, errlen, "process %d: %s", pid, strerror(-ret));
	return ret;
}

static bool has_ended(const struct guest_ram *r)
{
	struct pollfd f = { .fd = r->pidfd, .events = POLLIN };

	return poll(&f, 1, 0) > 0;
}

int guest_ram_open(struct guest_ram **out, int pid, char *err, size_t errlen)
{
	struct guest_ram *r = calloc(1, sizeof(*r));
	int ret, *fd[] = { &r->mem, &r->pagemap, &r->smaps };
	static const char *const names[] = { "mem", "pagemap", "smaps" };

	if (!r)
		return refuse(-ENOMEM, pid, err, errlen);
	r->pid = pid;
	r->mem = r->pagemap = r->smaps = -1;
	r->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	ret = r->pidfd < 0 ? -errno : 0;
	for (int i = 0; i < 3 && !ret; i++) {
		*fd[i] = open_in(pid, names[i]);
		ret = *fd[i] < 0 ? *fd[i] : 0;
	}
	if (!ret && !vm_process_is(pid)) {
		snprintf(err, errlen, "process %d is no virtual machine's: it is not QEMU and has no VM of KVM's "
			 "(host-reader --list shows those that run)", pid);
		guest_ram_close(r);
		return -EINVAL;
	}
	if (!ret)
		ret = guest_ram_look(r);
	/* All that was opened is of one process if that lives now. */
	if (ret >= 0 && has_ended(r))
		ret = -ESRCH;
	if (!ret) {
		snprintf(err, errlen, "process %d has no memory that is known to be guest RAM, so none is read", pid);
		guest_ram_close(r);
		return -EINVAL;
	}
	if (ret < 0) {
		refuse(ret, pid, err, errlen);
		guest_ram_close(r);
		return ret;
	}
	*out = r;
	return 0;
}

void guest_ram_close(struct guest_ram *r)
{
	if (!r)
		return;
	for (unsigned int i = 0; i < r->nr; i++)
		if (r->part[i].file >= 0)
			close(r->part[i].file);
	for (int i = 0, fd[] = { r->mem, r->pagemap, r->smaps, r->pidfd }; i < 4; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	free(r);
}

unsigned int guest_ram_nr(const struct guest_ram *r)
{
	return r->nr;
}

const struct guest_ram_part *guest_ram_part(const struct guest_ram *r, unsigned int i)
{
	return &r->part[i];
}

/* ------------------------------------------------------------------------------------------ reading */

int guest_ram_read(const struct guest_ram *r, unsigned int i, __u64 off, void *to, size_t len)
{
	const struct guest_ram_part *p = &r->part[i];
	size_t got = 0;

	if (i >= r->nr || off > p->len || len > p->len - off)
		return -ERANGE;
	while (got < len) {
		ssize_t n = pread(r->mem, (char *)to + got, len - got, (off_t)(p->start + off + got));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -EIO;
		if (!n) /* its memory is gone */
			return -ESRCH;
		got += (size_t)n;
	}
	return 0;
}

int guest_ram_present(const struct guest_ram *r, unsigned int i, __u64 first, bool *present, unsigned int nr)
{
	__u64 entry[BATCH], at;
	unsigned int n;

	if (i >= r->nr || first > r->part[i].len / GUEST_RAM_PAGE || nr > r->part[i].len / GUEST_RAM_PAGE - first)
		return -ERANGE;
	at = r->part[i].start / GUEST_RAM_PAGE + first;
	for (unsigned int done = 0; done < nr; done += n) {
		ssize_t got;

		n = nr - done < BATCH ? nr - done : BATCH;
		got = pread(r->pagemap, entry, n * 8, (off_t)((at + done) * 8));
		if (got <= 0)
			return got ? -errno : -ESRCH;
		n = (unsigned int)got / 8;
		for (unsigned int k = 0; k < n; k++)
			present[done + k] = entry[k] & PRESENT;
	}
	return 0;
}

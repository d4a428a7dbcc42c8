/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Regions in files and memfds of this machine: which files may be made into one. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.h"

static bool all_zero(const void *mem, size_t len)
{
	const char *p = mem;

	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Only zeroes? Holes are skipped, and not filled by looking. */
static bool zero_file(int fd)
{
	char buf[65536];
	off_t at = 0;
	ssize_t n;

	for (;;) {
		off_t data = lseek(fd, at, SEEK_DATA);

		if (data < 0 && errno == ENXIO)
			return true; /* only a hole is left */
		if (data > at)
			at = data;
		n = pread(fd, buf, sizeof(buf), at);
		if (n <= 0)
			return n == 0;
		if (!all_zero(buf, (size_t)n))
			return false;
		at += n;
	}
}

/* Made for a region that is to come: by a reader that waits, or by the user. */
static bool blank(int fd)
{
	struct htrace_super s;
	struct htrace_host h;

	if (pread(fd, &s, sizeof(s), HTRACE_SUPER_OFF) != sizeof(s) ||
	    pread(fd, &h, sizeof(h), HTRACE_HOST_OFF) != sizeof(h) || !all_zero(&s, sizeof(s)))
		return false;
	return h.magic == HTRACE_HOST_MAGIC || zero_file(fd);
}

/*
 * Made under another kernel that ran on this machine? A guest's region is in a file, too, and its
 * guest may be running: that one's rings are not local ones.
 */
static bool earlier_boot(const struct htrace_super *s)
{
	__u8 boot[16];

	htrace_boot_id(boot);
	for (__u32 set = 0; set < s->nr_ringsets; set++)
		if (s->ringset[set].placement != HTRACE_PLACEMENT_LOCAL)
			return false;
	return !all_zero(boot, sizeof(boot)) && !all_zero(s->boot_id, sizeof(s->boot_id)) &&
	       memcmp(boot, s->boot_id, sizeof(boot)) != 0;
}

/* Is it certain that nobody produces into the ring, or is about to? */
static bool ring_deserted(struct htrace_judge *j, const struct htrace_ring *ring)
{
	__u64 owner = __atomic_load_n(&ring->owner, __ATOMIC_ACQUIRE), ns, start;

	if (!owner || owner & HTRACE_OWNER_CLOSED)
		return true;
	if (owner & (HTRACE_OWNER_RETIRING | HTRACE_OWNER_TAKING))
		return htrace_judge_taker_dead(j, owner);
	ns = __atomic_load_n(&ring->owner_ns, __ATOMIC_RELAXED);
	start = __atomic_load_n(&ring->owner_start, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	/* Who changes it just now lives. */
	return __atomic_load_n(&ring->owner, __ATOMIC_RELAXED) == owner &&
	       htrace_judge_dead(j, HTRACE_OWNER_PID(owner), ns, start);
}

/* Children of the maker go on in their rings when it has ended, as a daemon does. */
static bool rings_deserted(const struct htrace_view *v, struct htrace_judge *j)
{
	const struct htrace_super *s = htrace_view_super(v);
	struct htrace_image img;

	for (__u32 set = 0; set < s->nr_ringsets; set++) {
		if (s->ringset[set].kind != HTRACE_RING_PER_THREAD)
			continue;
		for (__u32 i = 0; i < s->ringset[set].nr_rings; i++)
			if (htrace_view_ring(v, set, i, &img) ||
			    !ring_deserted(j, img.ring))
				return false;
	}
	return true;
}

/* Is it certain that nobody uses it any more, without its having been closed? */
static bool deserted(const struct htrace_view *v, const struct htrace_guest *g)
{
	const struct htrace_super *s = htrace_view_super(v);
	struct htrace_judge judge;

	if (earlier_boot(s))
		return true;
	htrace_judge_init(&judge, s->boot_id);
	return htrace_judge_dead(&judge, g->agent_pid, g->agent_ns, 0) && rings_deserted(v, &judge);
}

/* One that was made, and never published: its maker may have died over it. */
static bool attach_unpublished(struct htrace_view *v)
{
	struct htrace_super s;

	htrace_copy_once(&s, v->mem, sizeof(s));
	if (s.magic || htrace_super_check(&s, v->size, NULL, 0))
		return false;
	v->super = s;
	v->attached = true;
	return true;
}

/* A region whose session is closed, or its maker and all who produced into it dead? */
static bool over(int fd)
{
	struct htrace_view *v;
	struct htrace_guest g;
	bool yes = false;
	int ret;

	if (htrace_view_open_fd(&v, fd, false, NULL, 0))
		return false;
	ret = htrace_view_attach(v, NULL, 0);
	if (!ret || (ret == -EAGAIN && attach_unpublished(v))) {
		htrace_view_guest(v, &g, false);
		yes = (!ret && g.state == HTRACE_GUEST_CLOSED) || deserted(v, &g);
	}
	htrace_view_close(v);
	return yes;
}

/* 0: the file may be taken, *@size is right; or an error. */
static int may_take(int fd, size_t *size)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EEXIST;
	if (!st.st_size || over(fd)) {
		if (!*size)
			*size = (size_t)st.st_size;
		return 0;
	}
	if (st.st_size < (off_t)HTRACE_REGION_MIN || !blank(fd))
		return -EEXIST;
	if (!*size)
		*size = (size_t)st.st_size;
	/* Its reader has mapped what is there. */
	return *size == (size_t)st.st_size ? 0 : -EINVAL;
}

static int open_file(const char *path, size_t *size, bool *made)
{
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), err;

	*made = fd >= 0;
	if (fd >= 0)
		return fd;
	if (errno != EEXIST)
		return -errno;
	fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return errno == ELOOP || errno == EISDIR ? -EEXIST : -errno;
	err = may_take(fd, size);
	if (!err)
		return fd;
	close(fd);
	return err;
}

/*
 * All of the file's blocks: a store for which its file system has none left is a SIGBUS, and the end of
 * the program that is traced. Its size stays. Signals wait: each would make it begin anew.
 */
static int reserve(int fd, size_t size)
{
	sigset_t all, before;
	int err = 0;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size))
		err = -errno;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return err == -EOPNOTSUPP || err == -ENOSYS ? 0 : err; /* then there is no way to */
}

/* Give back what was reserved behind the end of a file that was there before. */
static void unreserve(int fd)
{
	struct stat st;

	if (!fstat(fd, &st) && ftruncate(fd, st.st_size))
		htrace_log(HTRACE_LOG_WARN, "cannot give back a file's reserved blocks: %s",
			   strerror(errno));
}

int htrace_region_create_local(struct htrace_region **out, const char *path, size_t size,
			       const struct htrace_region_opts *opts, int *fd_out)
{
	struct htrace_region *r = NULL;
	void *mem = MAP_FAILED;
	bool made = false;
	int fd, err;

	fd = path ? open_file(path, &size, &made) :
		    memfd_create("htrace", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return path ? fd : -errno;
	/* All that may fail before the first thing that changes what is there; room for it, too. */
	err = htrace_region_plan(&r, size, opts);
	if (err)
		goto fail;
	mem = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED) {
		err = -errno;
		goto fail;
	}
	err = path ? reserve(fd, size) : 0; /* a memfd is in no file system that could be full */
	if (err) {
		if (!made)
			unreserve(fd);
		goto fail;
	}
	if (ftruncate(fd, (off_t)size) ||
	    mmap(mem, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
		err = -errno;
		if (!made)
			unreserve(fd);
		goto fail;
	}
	if (!path) /* a reader need not fear SIGBUS then */
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
	htrace_region_write(r, mem);
	htrace_region_own_mapping(r);
	*out = r;
	if (fd_out)
		*fd_out = fd;
	else
		close(fd);
	return 0;
fail:
	htrace_region_release(r); /* which has no mapping yet */
	if (mem != MAP_FAILED)
		munmap(mem, size);
	close(fd);
	if (made)
		unlink(path);
	return err;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Does the process that owns a ring live? Its words may be of a hostile guest: whatever they name,
 * processes are only looked at, and who cannot be judged is taken for alive. docs/format.md
 * ("Owners") has the life of a ring that threads take.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core.h"

#define VERDICT_NS 100000000ULL /* for which one holds: many rings are of few processes */

/* ------------------------------------------------------------------------------------ judging */

/*
 * By way of its directory: qemu-user makes up the files of /proc/self, by their paths. A start time
 * of its own making would have processes that are not emulated take us for dead.
 */
static int open_stat(const char *dir)
{
	int at = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC), fd;

	if (at < 0)
		return -1;
	fd = openat(at, "stat", O_RDONLY | O_CLOEXEC);
	close(at);
	return fd;
}

bool htrace_read_stat(const char *dir, struct htrace_stat *st)
{
	char buf[1024], *p;
	ssize_t n = -1;
	int fd = open_stat(dir);

	if (fd >= 0) {
		n = read(fd, buf, sizeof(buf) - 1);
		close(fd);
	}
	if (n <= 0)
		return false;
	buf[n] = 0;
	p = strrchr(buf, ')'); /* the name may have any characters; state is field 3 */
	return p && sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d"
			   " %u %*d %llu", &st->state, &st->threads,
			   (unsigned long long *)&st->start) == 3;
}

static __u32 inode_of(const char *path)
{
	struct stat st;

	return stat(path, &st) ? 0 : (__u32)st.st_ino;
}

__u64 htrace_own_ns(void)
{
	__u64 ns = inode_of("/proc/self/ns/pid");

	/* A start time is shown as the time namespace has it. */
	return ns ? ns | (__u64)inode_of("/proc/self/ns/time") << 32 : 0;
}

/* Is /proc that of our own pid namespace? */
static bool proc_is_ours(void)
{
	char self[32] = "";

	return readlink("/proc/self", self, sizeof(self) - 1) > 0 && atoi(self) == getpid();
}

void htrace_judge_init(struct htrace_judge *j, const __u8 boot_id[16])
{
	static const __u8 none[16];
	__u8 boot[16];

	memset(j, 0, sizeof(*j));
	htrace_boot_id(boot);
	if (!memcmp(boot, none, sizeof(boot)) || memcmp(boot, boot_id, sizeof(boot)) != 0)
		return; /* another machine's processes */
	j->ns = htrace_own_ns();
	j->proc = proc_is_ours();
}

static bool is_dead(const struct htrace_judge *j, __u32 pid, __u64 start)
{
	struct htrace_stat st;
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%u", pid);
	if (j->proc && htrace_read_stat(path, &st)) {
		if (start && st.start != start) /* the number is another's meanwhile */
			return true;
		/* A leader may be a zombie while its threads go on. */
		return (st.state == 'Z' || st.state == 'X') && st.threads <= 1;
	}
	/* Not there, or hidden from us. */
	fd = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0);
	if (fd >= 0)
		close(fd);
	return fd < 0 && errno == ESRCH;
}

bool htrace_judge_dead(struct htrace_judge *j, __u32 pid, __u64 ns, __u64 start)
{
	if (!pid || pid > HTRACE_OWNER_PID_MAX || !ns || ns != j->ns)
		return false;
	if (!j->judged || pid != j->pid || start != j->start) {
		j->dead = is_dead(j, pid, start);
		j->pid = pid;
		j->start = start;
		j->judged = true;
	}
	return j->dead;
}

/* ------------------------------------------------------------------------------ a reader's look */

static struct htrace_judge *judge_of(struct htrace_view *v)
{
	struct timespec t;
	__u64 now;

	clock_gettime(CLOCK_MONOTONIC, &t);
	now = (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
	if (!v->judged_at || now - v->judged_at >= VERDICT_NS) {
		htrace_judge_init(&v->judge, v->super.boot_id);
		v->judged_at = now;
	}
	return &v->judge;
}

static __u32 state_of(struct htrace_view *v, const struct htrace_image *img, __u64 owner, __u64 ns,
		      __u64 start)
{
	if (!owner || img->kind != HTRACE_RING_PER_THREAD)
		return HTRACE_OWNER_NONE;
	if (owner & HTRACE_OWNER_CLOSED)
		return HTRACE_OWNER_DIED;
	if (owner & (HTRACE_OWNER_RETIRING | HTRACE_OWNER_TAKING))
		return HTRACE_OWNER_COMES;
	if (img->placement != HTRACE_PLACEMENT_LOCAL ||
	    !htrace_judge_dead(judge_of(v), HTRACE_OWNER_PID(owner), ns, start))
		return HTRACE_OWNER_LIVES;
	return HTRACE_OWNER_DIED;
}

int htrace_view_owner(struct htrace_view *v, const struct htrace_image *img, struct htrace_owner *o)
{
	const struct htrace_host_ring *words = htrace_view_host_ring(v, img->slot);
	const struct htrace_ring *ring = img->ring;
	struct htrace_owner fresh = { 0 };
	__u64 owner, ns, start;

	if (o->sz < sizeof(o->sz) || o->sz > sizeof(fresh))
		return -EINVAL;
	owner = __atomic_load_n(&ring->owner, __ATOMIC_ACQUIRE);
	ns = __atomic_load_n(&ring->owner_ns, __ATOMIC_RELAXED);
	start = __atomic_load_n(&ring->owner_start, __ATOMIC_RELAXED);
	fresh.generation = __atomic_load_n(&ring->generation, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&ring->owner, __ATOMIC_RELAXED) != owner)
		return -EAGAIN;
	fresh.sz = o->sz;
	fresh.state = state_of(v, img, owner, ns, start);
	fresh.pid = HTRACE_OWNER_PID(owner);
	if (fresh.state != HTRACE_OWNER_COMES)
		fresh.tid = (__u32)owner;
	fresh.drained = fresh.state == HTRACE_OWNER_DIED && words &&
			__atomic_load_n(&words->drained, __ATOMIC_RELAXED) == fresh.generation + 1;
	memcpy(o, &fresh, o->sz);
	return 0;
}

void htrace_view_drained(struct htrace_view *v, const struct htrace_image *img, __u64 generation)
{
	struct htrace_host_ring *words = htrace_view_host_ring(v, img->slot);

	/* The words of a region that was made anew meanwhile are another session's. */
	if (!words || !htrace_view_current(v))
		return;
	/*
	 * `consumed` stays: until the ring is retired, it tells the reader that comes next that all was
	 * read, also if we do not get to this store.
	 */
	__atomic_store_n(&words->drained, generation + 1, __ATOMIC_RELEASE);
}

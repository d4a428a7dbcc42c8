/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "capture_pack.h"

#include <errno.h>

#ifdef HAVE_ZSTD

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zstd.h>

#include "outdir.h"
#include "rotation.h"

#define NICE 19
#define LEVEL 3

enum work { WORK_NONE, WORK_BEGUN, WORK_DONE };
enum stop { STOP_NOT, STOP_HERE, STOP_DELETED };

/*
 * Main thread and ours exchange one part at a time, by @state: who sets it gives the rest away. No lock: ours may be
 * kept off the CPU.
 */
struct packer {
	int dir;
	pthread_t thread;
	bool runs;
	sem_t begun;
	int state; /* enum work */
	int stop;  /* enum stop: main thread's word, at any time */
	struct packed_part part;
	/* of the thread */
	ZSTD_CCtx *ctx;
	__u64 *table;
	size_t room;
	unsigned char raw[CAPTURE_CHUNK];
	unsigned char packed[ZSTD_COMPRESSBOUND(CAPTURE_CHUNK)];
};

static bool stopped(struct packer *p)
{
	return __atomic_load_n(&p->stop, __ATOMIC_ACQUIRE) != STOP_NOT;
}

/* ------------------------------------------------------------------------------------------- a file */

static int read_chunk(struct packer *p, int fd, size_t len, off_t at)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pread(fd, p->raw + done, len - done, at + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO; /* nobody makes it shorter */
		done += (size_t)n;
	}
	return 0;
}

static int write_table(struct packer *p, int fd, __u64 raw, __u32 nr)
{
	struct capture_pack_end end = { .raw = raw, .nr = nr, .chunk = CAPTURE_CHUNK, .magic = CAPTURE_PACK_MAGIC };
	__u32 head[2] = { CAPTURE_PACK_SKIPPED, (__u32)(nr * sizeof(*p->table) + sizeof(end)) };
	int ret = outdir_write(fd, head, sizeof(head));

	if (!ret)
		ret = outdir_write(fd, p->table, nr * sizeof(*p->table));
	return ret ? ret : outdir_write(fd, &end, sizeof(end));
}

/* 0; 1: it would not be smaller; or -errno. */
static int pack(struct packer *p, int from, int to, __u64 raw)
{
	__u32 nr = (__u32)((raw + CAPTURE_CHUNK - 1) / CAPTURE_CHUNK);
	__u64 at = 0, table = 8 + nr * sizeof(*p->table) + sizeof(struct capture_pack_end);
	int ret = 0;

	for (__u32 i = 0; i < nr && !ret; i++) {
		size_t len = i + 1 < nr ? CAPTURE_CHUNK : raw - (__u64)i * CAPTURE_CHUNK, packed;

		if (stopped(p))
			return -ECANCELED;
		ret = read_chunk(p, from, len, (off_t)i * CAPTURE_CHUNK);
		if (ret)
			return ret;
		packed = ZSTD_compress2(p->ctx, p->packed, sizeof(p->packed), p->raw, len);
		if (ZSTD_isError(packed))
			return -ENOMEM;
		p->table[i] = at;
		at += packed;
		if (at + table >= raw)
			return 1;
		ret = outdir_write(to, p->packed, packed);
	}
	if (!ret)
		ret = write_table(p, to, raw, nr);
	/* What it takes the place of goes, and a machine may crash. */
	return ret || !fdatasync(to) ? ret : -errno;
}

static bool has_room(struct packer *p, __u64 raw)
{
	size_t need = (raw + CAPTURE_CHUNK - 1) / CAPTURE_CHUNK * sizeof(*p->table);
	void *more = need > p->room ? realloc(p->table, need) : p->table;

	if (!more)
		return false;
	p->table = more;
	p->room = need > p->room ? need : p->room;
	return true;
}

static int pack_open_file(struct packer *p, int dir, const char *name, int from)
{
	char hidden[CAPTURE_NAME + 8], packed[CAPTURE_NAME + 8];
	struct stat st;
	int to, ret;

	if (fstat(from, &st))
		return -errno;
	if (!S_ISREG(st.st_mode) || !st.st_size || (__u64)st.st_size > CAPTURE_PACK_MOST)
		return 0;
	if (!has_room(p, (__u64)st.st_size))
		return -ENOMEM;
	snprintf(hidden, sizeof(hidden), ".%s" CAPTURE_PACKED, name);
	snprintf(packed, sizeof(packed), "%s" CAPTURE_PACKED, name);
	to = outdir_create(dir, hidden);
	if (to < 0)
		return to;
	ret = pack(p, from, to, (__u64)st.st_size);
	close(to);
	if (!ret && renameat(dir, hidden, dir, packed))
		ret = -errno;
	if (ret)
		unlinkat(dir, hidden, 0);
	else if (unlinkat(dir, name, 0))
		ret = -errno;
	return ret == 1 ? 0 : ret;
}

/* ----------------------------------------------------------------------------------------- a part */

static bool is_to_pack(const char *name)
{
	size_t len = strlen(name), end = sizeof(CAPTURE_PACKED) - 1;

	return *name != '.' && strcmp(name, "metadata") && strcmp(name, CAPTURE_SIDE) && len < CAPTURE_NAME &&
	       (len < end || strcmp(name + len - end, CAPTURE_PACKED));
}

static int pack_file(struct packer *p, int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), ret;

	if (fd < 0)
		return -errno;
	ret = pack_open_file(p, dir, name, fd);
	close(fd);
	return ret;
}

/* Its files, without those in directories in it; what they come to is added to *bytes. */
static int pack_dir(struct packer *p, int at, const char *name, __u64 *bytes)
{
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), ret = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;
	struct stat st;

	if (!d) {
		ret = -errno;
		if (fd >= 0)
			close(fd);
		return ret;
	}
	while (!ret && (e = readdir(d)) != NULL)
		if (is_to_pack(e->d_name))
			ret = pack_file(p, fd, e->d_name);
	if (!ret && strcmp(name, CAPTURE_SIDE))
		ret = pack_dir(p, fd, CAPTURE_SIDE, bytes);
	rewinddir(d);
	while ((e = readdir(d)) != NULL)
		if (!fstatat(fd, e->d_name, &st, AT_SYMLINK_NOFOLLOW) && S_ISREG(st.st_mode))
			*bytes += (__u64)st.st_size;
	closedir(d);
	return ret;
}

static void pack_part(struct packer *p)
{
	p->part.bytes = 0;
	p->part.error = pack_dir(p, p->dir, p->part.name, &p->part.bytes);
	/* Whoever deletes it may have missed what was made just then. */
	if (__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE) == STOP_DELETED)
		part_delete(p->dir, p->part.name);
}

/* -------------------------------------------------------------------------------------- the thread */

static void *work(void *arg)
{
	struct packer *p = arg;

	setpriority(PRIO_PROCESS, 0, NICE); /* of a thread, on Linux */
	for (;;) {
		while (sem_wait(&p->begun))
			;
		if (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) != WORK_BEGUN)
			return NULL;
		pack_part(p);
		__atomic_store_n(&p->state, WORK_DONE, __ATOMIC_RELEASE);
	}
}

/* Signals are the main thread's: they end its waiting. */
static bool begin_thread(struct packer *p)
{
	sigset_t all, before;

	if (p->runs)
		return true;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	p->runs = !pthread_create(&p->thread, NULL, work, p);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return p->runs;
}

int packer_new(struct packer **out, int dir)
{
	struct packer *p = calloc(1, sizeof(*p));

	if (!p)
		return -ENOMEM;
	p->dir = dir;
	p->ctx = ZSTD_createCCtx();
	if (!p->ctx) {
		free(p);
		return -ENOMEM;
	}
	ZSTD_CCtx_setParameter(p->ctx, ZSTD_c_compressionLevel, LEVEL);
	ZSTD_CCtx_setParameter(p->ctx, ZSTD_c_checksumFlag, 1);
	sem_init(&p->begun, 0, 0);
	*out = p;
	return 0;
}

void packer_free(struct packer *p)
{
	int none = STOP_NOT;

	if (!p)
		return;
	if (p->runs) {
		__atomic_compare_exchange_n(&p->stop, &none, STOP_HERE, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
		while (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) == WORK_BEGUN)
			usleep(1000);
		sem_post(&p->begun);
		pthread_join(p->thread, NULL);
	}
	sem_destroy(&p->begun);
	ZSTD_freeCCtx(p->ctx);
	free(p->table);
	free(p);
}

bool packer_begin(struct packer *p, const char *name)
{
	if (p->state != WORK_NONE || !begin_thread(p))
		return false;
	snprintf(p->part.name, sizeof(p->part.name), "%s", name);
	p->stop = STOP_NOT;
	__atomic_store_n(&p->state, WORK_BEGUN, __ATOMIC_RELEASE);
	sem_post(&p->begun);
	return true;
}

bool packer_take(struct packer *p, struct packed_part *done)
{
	if (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) != WORK_DONE)
		return false;
	*done = p->part;
	p->state = WORK_NONE;
	return true;
}

bool packer_give_up(struct packer *p, const char *name)
{
	if (__atomic_load_n(&p->state, __ATOMIC_ACQUIRE) == WORK_NONE || strcmp(p->part.name, name))
		return false;
	__atomic_store_n(&p->stop, STOP_DELETED, __ATOMIC_RELEASE);
	return true;
}

#else

int packer_new(struct packer **out, int dir)
{
	return -ENOTSUP;
}

void packer_free(struct packer *p)
{
}

bool packer_begin(struct packer *p, const char *name)
{
	return false;
}

bool packer_take(struct packer *p, struct packed_part *done)
{
	return false;
}

bool packer_give_up(struct packer *p, const char *name)
{
	return false;
}

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pins.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <htrace/region.h>
#include <linux/magic.h>

#include "message.h"

#define BPFFS "/sys/fs/bpf"
#define PIN_DIR BPFFS "/htrace"
#define PIN_RINGS PIN_DIR "/rings"
#define PIN_REGION PIN_DIR "/region"

/* The process that holds a flock on @fd, or 0. */
static int lock_holder(int fd)
{
	char line[256], file[64];
	struct stat st;
	int pid = 0;
	FILE *f;

	if (fstat(fd, &st))
		return 0;
	snprintf(file, sizeof(file), "%02x:%02x:%lu ", major(st.st_dev), minor(st.st_dev),
		 (unsigned long)st.st_ino);
	f = fopen("/proc/locks", "re");
	if (!f)
		return 0;
	while (!pid && fgets(line, sizeof(line), f))
		if (strstr(line, " FLOCK ") && strstr(line, file) &&
		    sscanf(line, "%*s FLOCK %*s %*s %d", &pid) != 1)
			pid = 0;
	fclose(f);
	return pid;
}

static int mount_bpffs(void)
{
	struct statfs fs;

	if (!statfs(BPFFS, &fs) && fs.f_type == BPF_FS_MAGIC)
		return 0;
	if (!mount("bpf", BPFFS, "bpf", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0700"))
		return 0;
	say("cannot mount bpffs at " BPFFS ": %s; mount it by hand: mount -t bpf bpf " BPFFS,
	    strerror(errno));
	return -1;
}

int pins_lock(void)
{
	int fd, pid;

	if (mount_bpffs())
		return -1;
	if (mkdir(PIN_DIR, 0700) && errno != EEXIST) {
		say("cannot make " PIN_DIR ": %s", strerror(errno));
		return -1;
	}
	fd = open(PIN_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0) {
		say("cannot open " PIN_DIR ": %s", strerror(errno));
		return -1;
	}
	/* Kept open, and so locked, for as long as the process lives. */
	if (!flock(fd, LOCK_EX | LOCK_NB))
		return 0;
	pid = lock_holder(fd);
	if (pid)
		say("another guest-agent runs here, process %d; stop it first: kill %d", pid, pid);
	else
		say("another guest-agent runs here; stop it first");
	close(fd);
	return -1;
}

static int map_memory(struct rings *r)
{
	r->len = r->nr * r->stride;
	r->mem = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	return r->mem == MAP_FAILED ? -errno : 0;
}

/* The map of one element that is pinned there, if its size is right; or -1. */
static int open_pinned_region(size_t len)
{
	struct bpf_map_info info = {0};
	__u32 infolen = sizeof(info);
	int fd = bpf_obj_get(PIN_REGION);

	if (fd < 0)
		return -1;
	if (!bpf_obj_get_info_by_fd(fd, &info, &infolen) && info.type == BPF_MAP_TYPE_ARRAY &&
	    info.map_flags & BPF_F_MMAPABLE && info.max_entries == 1 && info.value_size == len)
		return fd;
	close(fd);
	pins_unpin_region();
	return -1;
}

int pins_open_region(void **mem, size_t len)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	int fd = open_pinned_region(len), err = 0;

	if (fd < 0) {
		fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "htrace_region", sizeof(__u32), (__u32)len, 1, &opts);
		err = fd < 0 || bpf_obj_pin(fd, PIN_REGION) ? errno : 0;
	}
	if (!err) {
		*mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		err = *mem == MAP_FAILED ? errno : 0;
	}
	if (fd >= 0)
		close(fd); /* the mapping and the pin keep it */
	if (!err)
		return 0;
	*mem = NULL;
	say("cannot make a region of %zu KiB in this machine's memory: %s%s", len >> 10, strerror(err),
	    err == EPERM ? "; the kernel forbids BPF (lockdown?)" : "");
	return -1;
}

bool pins_has_region(void)
{
	return !access(PIN_REGION, F_OK);
}

void pins_unpin_region(void)
{
	unlink(PIN_REGION);
}

int rings_open_pinned(struct rings *r)
{
	struct bpf_map_info info = {0};
	__u32 len = sizeof(info);

	memset(r, 0, sizeof(*r));
	r->fd = bpf_obj_get(PIN_RINGS);
	if (r->fd < 0)
		return -ENOENT;
	if (bpf_obj_get_info_by_fd(r->fd, &info, &len))
		goto none;
	r->nr = info.max_entries;
	r->stride = info.value_size;
	if (info.type == BPF_MAP_TYPE_ARRAY && info.map_flags & BPF_F_MMAPABLE && !map_memory(r))
		return 0;
none:
	/* Not ours to understand, yet in our place. */
	close(r->fd);
	rings_unpin();
	return -ENOENT;
}

int rings_create(struct rings *r, const struct htrace_geometry *g, __u32 nr)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_MMAPABLE);
	int err;

	memset(r, 0, sizeof(*r));
	r->nr = nr;
	r->stride = htrace_image_size(g, (size_t)sysconf(_SC_PAGESIZE));
	r->fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "htrace_rings", sizeof(__u32), (__u32)r->stride,
			       nr, &opts);
	err = r->fd < 0 ? -errno : map_memory(r);
	if (err) {
		say("cannot make %u rings of %llu bytes: %s%s", nr, (unsigned long long)r->stride,
		    strerror(-err),
		    err == -ENOMEM || err == -E2BIG ? "; use a smaller --buffer" :
		    err == -EPERM		    ? "; the kernel forbids BPF (lockdown?)" :
						      "");
		if (r->fd >= 0)
			close(r->fd);
		return -1;
	}
	for (__u32 i = 0; i < nr; i++) {
		rings_at(r, i)->index = i;
		rings_at(r, i)->cpu = i;
	}
	return 0;
}

struct htrace_ring *rings_at(const struct rings *r, __u32 index)
{
	return (struct htrace_ring *)(r->mem + index * r->stride);
}

int rings_pin(const struct rings *r)
{
	rings_unpin();
	if (!bpf_obj_pin(r->fd, PIN_RINGS))
		return 0;
	say("cannot pin the rings as " PIN_RINGS ": %s", strerror(errno));
	return -1;
}

void rings_unpin(void)
{
	unlink(PIN_RINGS);
}

void rings_discard(struct rings *r)
{
	/* The anchors that readers watch first, then all: an earlier version had others elsewhere. */
	for (__u32 i = 0; i < r->nr; i++)
		__atomic_store_n(&rings_at(r, i)->anchor, 0, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memset(r->mem, 0, r->len);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	rings_unpin();
	rings_close(r);
}

void rings_close(struct rings *r)
{
	if (r->mem && !r->borrowed)
		munmap(r->mem, r->len);
	if (r->fd > 0)
		close(r->fd);
	memset(r, 0, sizeof(*r));
}

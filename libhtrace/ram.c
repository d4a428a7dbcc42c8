/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Mapping a guest's page runs on the host. The runs come from the guest, so nothing about them is
 * believed: each run must lie in the file that backs guest RAM, and the anchors must be found where
 * the translation from guest-physical address to file offset says, or else the mapping would show
 * other memory than the rings.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "core.h"

#define MAX_PROCESSES 64
#define MAX_FILES 32
#define MIN_RAM (16u << 20)
#define GIB (1ULL << 30)

/*
 * low depends on the machine type: q35 2 GiB (2.75 with fewer), pc 3 or 3.5 GiB, microvm 3 GiB, others below 4.
 * arm64's virt has all its RAM in one piece.
 */
static const struct htrace_ram_layout layouts[] = {
	{ 0, 2 * GIB }, { 0, 0xb0000000ULL }, { 0, 3 * GIB }, { 0, 0xe0000000ULL }, { 0, 4 * GIB },
	{ 0, 1 * GIB }, { 1 * GIB, 1ULL << 48 },
};

struct ram_file {
	int fd;
	__u64 size;
	struct htrace_ram_layout layout;
	char name[200]; /* for messages: escaped, since whoever maps the region may have chosen it */
};

static void set_name(struct ram_file *f, const char *path)
{
	f->name[htrace_escape(f->name, sizeof(f->name) - 1, path, strlen(path))] = 0;
}

bool htrace_ram_offset(const struct htrace_ram_layout *l, __u64 size, __u64 gpa, __u64 len, __u64 *off)
{
	__u64 low = l->low < size ? l->low : size;

	if (gpa >= l->start && htrace_inside(gpa - l->start, len, low)) {
		*off = gpa - l->start;
		return true;
	}
	if (gpa >= 4 * GIB && htrace_inside(gpa - 4 * GIB, len, size - low)) {
		*off = gpa - 4 * GIB + low;
		return true;
	}
	return false;
}

const struct htrace_ram_layout *htrace_ram_layouts(unsigned int i)
{
	return i < sizeof(layouts) / sizeof(*layouts) ? &layouts[i] : NULL;
}

static bool translate(const struct ram_file *f, __u64 gpa, __u64 len, __u64 *off)
{
	return htrace_ram_offset(&f->layout, f->size, gpa, len, off);
}

/* ------------------------------------------------------------------- the guest's list, copied */

static int copy_runs(struct htrace_view *v, char *err, size_t errlen)
{
	const struct htrace_area *area = &v->super.runs;
	const struct htrace_runs *src = (const void *)((const char *)v->mem + area->off);
	__u32 nr_anchors, nr_runs;
	__u64 *dst, need;

	/* Where no ring is in guest RAM nobody checked where the area would be. */
	if (!v->attached || !area->len)
		return htrace_errf(err, errlen, "the region has no page runs"), -EPROTO;
	nr_anchors = *(const volatile __u32 *)&src->nr_anchors;
	nr_runs = *(const volatile __u32 *)&src->nr_runs;
	need = sizeof(*src) + (__u64)nr_anchors * sizeof(struct htrace_anchor) +
	       (__u64)nr_runs * sizeof(struct htrace_run);
	if (!nr_anchors || !nr_runs || nr_anchors > HTRACE_MAX_ANCHORS ||
	    nr_runs > HTRACE_MAX_RUNS || need > area->len)
		return htrace_errf(err, errlen, "%u page runs with %u anchors refused", nr_runs,
				   nr_anchors),
		       -EPROTO;
	dst = malloc(need - sizeof(*src));
	if (!dst)
		return -ENOMEM;
	htrace_copy_once(dst, src + 1, need - sizeof(*src));
	v->anchors = (void *)dst;
	v->nr_anchors = nr_anchors;
	v->runs = (void *)(v->anchors + nr_anchors);
	v->nr_runs = nr_runs;
	return 0;
}

/* Bytes of all runs; 0 if they cannot be right. */
static __u64 runs_len(const struct htrace_view *v)
{
	__u32 shift = v->super.guest_page_shift;
	__u64 pages = 0, limit = 1ULL << (48 - shift);

	for (__u32 i = 0; i < v->nr_runs; i++) {
		const struct htrace_run *r = &v->runs[i];

		if (!r->nr_pages || !htrace_inside(r->gpfn, r->nr_pages, limit))
			return 0;
		pages += r->nr_pages;
		if (pages > limit)
			return 0;
	}
	return pages << shift;
}

/* -------------------------------------------------------------------------- finding guest RAM */

struct mapping {
	unsigned long start, end;
	char perms[8];
	__u64 dev, ino;
	char path[200];
};

static bool parse_mapping(const char *line, struct mapping *m)
{
	unsigned int major, minor;
	unsigned long long ino;
	int at = 0;

	if (sscanf(line, "%lx-%lx %7s %*x %x:%x %llu %n", &m->start, &m->end, m->perms, &major,
		   &minor, &ino, &at) < 6)
		return false;
	m->dev = makedev(major, minor);
	m->ino = ino;
	snprintf(m->path, sizeof(m->path), "%s", at ? line + at : "");
	m->path[strcspn(m->path, "\n")] = 0;
	return true;
}

static FILE *open_maps(int pid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	return fopen(path, "re");
}

/* A mapping's file by its own stat(): /proc/PID/maps shows another device on some file systems. */
static bool is_file(int pid, const struct mapping *m, __u64 dev, __u64 ino)
{
	struct stat st;
	char path[96];

	if (m->ino != ino)
		return false;
	if (m->dev == dev)
		return true;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, m->start, m->end);
	return !stat(path, &st) && st.st_dev == dev && st.st_ino == ino;
}

/* The region's file, as the one that looks for who maps it knows it. */
struct region_id {
	__u64 dev, ino, size;
};

/* Does @pid map the region's file writable? (A VMM does; a reader maps most of it read-only.) */
static bool maps_region(const struct region_id *region, int pid)
{
	FILE *f = open_maps(pid);
	struct mapping m;
	char line[512];
	bool yes = false;

	if (!f)
		return false;
	while (!yes && fgets(line, sizeof(line), f))
		yes = parse_mapping(line, &m) && m.perms[1] == 'w' && m.perms[3] == 's' &&
		      m.end - m.start >= region->size && is_file(pid, &m, region->dev, region->ino);
	fclose(f);
	return yes;
}

static int find_processes(const struct region_id *region, int *pids)
{
	DIR *d = opendir("/proc");
	struct dirent *e;
	int nr = 0;

	if (!d)
		return 0;
	while ((e = readdir(d)) != NULL && nr < MAX_PROCESSES) {
		int pid = atoi(e->d_name);

		if (pid > 0 && pid != getpid() && maps_region(region, pid))
			pids[nr++] = pid;
	}
	closedir(d);
	return nr;
}

static bool known(struct ram_file *files, int nr, __u64 dev, __u64 ino)
{
	struct stat st;

	for (int i = 0; i < nr; i++)
		if (!fstat(files[i].fd, &st) && st.st_dev == dev && st.st_ino == ino)
			return true;
	return false;
}

static int open_mapping(int pid, const struct mapping *m)
{
	struct stat st;
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%lx", pid, m->start, m->end);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 && m->path[0] == '/')
		fd = open(m->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || st.st_ino != m->ino) {
		close(fd);
		return -1;
	}
	return fd;
}

/* The process's writable shared file mappings that are large enough to be guest RAM. */
static int find_ram(const struct region_id *region, int pid, struct ram_file *files, int nr)
{
	FILE *f = open_maps(pid);
	struct mapping m;
	struct stat st;
	char line[512];

	if (!f)
		return nr;
	while (nr < MAX_FILES && fgets(line, sizeof(line), f)) {
		if (!parse_mapping(line, &m) || m.perms[1] != 'w' || m.perms[3] != 's' || !m.ino ||
		    m.end - m.start < 4096 || is_file(pid, &m, region->dev, region->ino) ||
		    known(files, nr, m.dev, m.ino))
			continue;
		files[nr].fd = open_mapping(pid, &m);
		if (files[nr].fd < 0)
			continue;
		if (fstat(files[nr].fd, &st) || st.st_size < MIN_RAM) {
			close(files[nr].fd);
			continue;
		}
		files[nr].size = (__u64)st.st_size;
		set_name(&files[nr], m.path);
		nr++;
	}
	fclose(f);
	return nr;
}

/* What @pid, or else whoever maps the region, has that may be guest RAM: how many files, or -errno. */
static int find_files(const struct region_id *region, int pid, struct ram_file *files, int *vmm,
		      char *err, size_t errlen)
{
	int pids[MAX_PROCESSES], nr = 0, nr_pids = 1;

	pids[0] = pid;
	if (!pid)
		nr_pids = find_processes(region, pids);
	for (int i = 0; i < nr_pids; i++)
		nr = find_ram(region, pids[i], files, nr);
	*vmm = nr_pids == 1 ? pids[0] : 0;
	if (nr)
		return nr;
	htrace_errf(err, errlen,
		    nr_pids ? "process %d has no shared guest RAM that can be opened (VMs need "
			      "a memory backend with share=on)" :
			      "no process maps the region's file (is the VM running, and are "
			      "you root?)",
		    nr_pids ? pids[0] : 0);
	return nr_pids ? -ENOENT : -ESRCH;
}

static void close_files(struct ram_file *files, int nr)
{
	for (int i = 0; i < nr; i++)
		close(files[i].fd);
}

int htrace_ram_find(__u64 dev, __u64 ino, __u64 size, int pid, int *fd, int max, int *vmm, char *err,
		    size_t errlen)
{
	const struct region_id region = { dev, ino, size };
	struct ram_file files[MAX_FILES];
	int nr = find_files(&region, pid, files, vmm, err, errlen);

	for (int i = 0; i < nr && i < max; i++)
		fd[i] = files[i].fd;
	if (nr <= max)
		return nr;
	close_files(files + max, nr - max);
	return max;
}

static int check_ram(struct ram_file *f, const char *name, char *err, size_t errlen)
{
	struct stat st;

	if (fstat(f->fd, &st) || !S_ISREG(st.st_mode) || st.st_size < 4096)
		return htrace_errf(err, errlen, "%s: not a file that could back guest RAM", name),
		       -EINVAL;
	f->size = (__u64)st.st_size;
	set_name(f, name);
	return 0;
}

static int open_ram(const char *path, struct ram_file *f, char *err, size_t errlen)
{
	int ret;

	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0) {
		ret = -errno;
		htrace_errf(err, errlen, "%s: %s", path, strerror(-ret));
		return ret;
	}
	ret = check_ram(f, path, err, errlen);
	if (ret)
		close(f->fd);
	return ret;
}

/* A file that the caller has opened: its name is for messages only. */
static int take_ram(int fd, struct ram_file *f, char *err, size_t errlen)
{
	char path[40], name[200] = "guest RAM";
	ssize_t n;

	f->fd = fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, name, sizeof(name) - 1);
	if (n > 0)
		name[n] = 0;
	return check_ram(f, name, err, errlen);
}

/* -------------------------------------------------------------------------------- verification */

/* Anchors found with the translation of @f, per half of guest memory. */
static __u32 anchors_found(const struct htrace_view *v, const struct ram_file *f)
{
	__u32 found = 0;

	for (__u32 i = 0; i < v->nr_anchors; i++) {
		const struct htrace_anchor *a = &v->anchors[i];
		__u64 off, value;

		if (a->gpa % 8 || !a->nonce || !translate(f, a->gpa, 8, &off) ||
		    pread(f->fd, &value, 8, (off_t)off) != 8)
			continue;
		found += value == a->nonce;
	}
	return found;
}

/* Each half of guest memory that holds a run must hold an anchor too: they differ in translation. */
static bool halves_covered(const struct htrace_view *v)
{
	bool anchored[2] = { false, false };

	for (__u32 i = 0; i < v->nr_anchors; i++)
		anchored[v->anchors[i].gpa >= 4 * GIB] = true;
	for (__u32 i = 0; i < v->nr_runs; i++)
		if (!anchored[v->runs[i].gpfn << v->super.guest_page_shift >= 4 * GIB])
			return false;
	return true;
}

/* Does every run translate? Layouts that agree about the anchors may differ about the rest. */
static bool runs_fit(const struct htrace_view *v, const struct ram_file *f)
{
	__u32 shift = v->super.guest_page_shift;
	__u64 off;

	for (__u32 i = 0; i < v->nr_runs; i++)
		if (!translate(f, v->runs[i].gpfn << shift, v->runs[i].nr_pages << shift, &off))
			return false;
	return true;
}

/* Choose the file and translation under which all anchors are found and all runs fit. */
static struct ram_file *verify(const struct htrace_view *v, struct ram_file *files, int nr,
			       __u32 *best)
{
	*best = 0;
	for (int i = 0; i < nr; i++) {
		for (size_t k = 0; k < sizeof(layouts) / sizeof(*layouts); k++) {
			__u32 found;

			files[i].layout = layouts[k];
			found = anchors_found(v, &files[i]);
			if (found == v->nr_anchors && runs_fit(v, &files[i]))
				return &files[i];
			if (found > *best)
				*best = found;
		}
	}
	return NULL;
}

/* ------------------------------------------------------------------------------------- mapping */

static long max_map_count(void)
{
	FILE *f = fopen("/proc/sys/vm/max_map_count", "re");
	long n = 65530;

	if (f) {
		if (fscanf(f, "%ld", &n) != 1)
			n = 65530;
		fclose(f);
	}
	return n;
}

/*
 * Runs can be mapped side by side only where each is whole pages of this host. A guest of 4 KiB
 * pages on a host of 64 KiB ones has such runs by luck only; its agent then relays.
 */
static bool pages_too_large(const struct htrace_view *v, const struct ram_file *f)
{
	__u64 mask = (__u64)sysconf(_SC_PAGESIZE) - 1, off, n;
	__u32 shift = v->super.guest_page_shift;

	for (__u32 i = 0; i < v->nr_runs; i++) {
		n = v->runs[i].nr_pages << shift;
		if (i + 1 == v->nr_runs) /* nothing has to follow on it */
			n = 0;
		if (translate(f, v->runs[i].gpfn << shift, n, &off) && (off | n) & mask)
			return true;
	}
	return false;
}

static int map_runs(struct htrace_view *v, const struct ram_file *f, char *err, size_t errlen)
{
	__u64 len = runs_len(v), at = 0, off;
	char *base;
	int ret;

	if (!len || len > f->size)
		return htrace_errf(err, errlen, "page runs of %" PRIu64 " bytes in RAM of %" PRIu64,
				   (uint64_t)len, (uint64_t)f->size),
		       -EPROTO;
	if ((long)v->nr_runs > max_map_count() - 1000)
		return htrace_errf(err, errlen,
				   "%u page runs are more mappings than vm.max_map_count allows; "
				   "raise it, or give guest-agent a smaller --buffer",
				   v->nr_runs),
		       -ENOMEM;
	if (pages_too_large(v, f))
		return htrace_errf(err, errlen,
				   "the guest's rings are scattered in pages of %u KiB, this host's "
				   "pages of %ld KiB are too large to map them: relay works "
				   "(guest-agent --mode auto or relay)",
				   1u << (v->super.guest_page_shift - 10),
				   sysconf(_SC_PAGESIZE) / 1024),
		       -EINVAL;
	base = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return htrace_errf(err, errlen, "mmap: %s", strerror(errno)), -errno;
	for (__u32 i = 0; i < v->nr_runs; i++) {
		__u64 n = v->runs[i].nr_pages << v->super.guest_page_shift;

		if (!translate(f, v->runs[i].gpfn << v->super.guest_page_shift, n, &off)) {
			htrace_errf(err, errlen, "page run %u lies outside guest RAM", i);
			ret = -EPROTO;
			goto fail;
		}
		if (mmap(base + at, n, PROT_READ, MAP_SHARED | MAP_FIXED, f->fd, (off_t)off) ==
		    MAP_FAILED) {
			ret = -errno;
			htrace_errf(err, errlen, "cannot map %s: %s%s", f->name, strerror(-ret),
				    ret == -EINVAL ? " (huge pages? use ordinary ones for guest RAM)" :
						     "");
			goto fail;
		}
		at += n;
	}
	ret = htrace_sigbus_guard(base, len, false, &v->shrunk, err, errlen);
	if (ret)
		goto fail;
	v->space = base;
	v->space_len = len;
	return 0;
fail:
	munmap(base, len);
	return ret;
}

void htrace_view_unmap_ram(struct htrace_view *v)
{
	if (v->space) {
		htrace_sigbus_unguard(v->space);
		munmap(v->space, v->space_len);
	}
	free(v->anchors); /* the runs lie behind them */
	v->space = NULL;
	v->anchors = NULL;
	v->runs = NULL;
	v->nr_anchors = v->nr_runs = 0;
}

/* Before any file is looked for: are the guest's runs such that one could be right? */
static int prepare(struct htrace_view *v, char *err, size_t errlen)
{
	int ret;

	htrace_view_unmap_ram(v);
	ret = copy_runs(v, err, errlen);
	if (ret)
		return ret;
	if (!runs_len(v))
		htrace_errf(err, errlen, "page runs of 0 pages, or beyond any memory");
	else if (!halves_covered(v))
		htrace_errf(err, errlen, "no anchor in a half of guest memory that page runs use");
	else
		return 0;
	return -EPROTO;
}

static int map_one_of(struct htrace_view *v, struct ram_file *files, int nr, char *err, size_t errlen)
{
	__u32 found;
	struct ram_file *f = verify(v, files, nr, &found);
	int ret;

	if (!f && found == v->nr_anchors)
		return htrace_errf(err, errlen, "a page run lies outside guest RAM"), -EPROTO;
	if (!f)
		return htrace_errf(err, errlen, "%u of %u anchors found in %s%s: not this guest's RAM, or "
				   "memory laid out in an unknown way", found, v->nr_anchors,
				   files[0].name, nr > 1 ? " and others" : ""),
		       -ENXIO;
	ret = map_runs(v, f, err, errlen);
	if (!ret)
		snprintf(v->ram_name, sizeof(v->ram_name), "%s, %u runs", f->name, v->nr_runs);
	return ret;
}

int htrace_view_map_ram(struct htrace_view *v, int pid, const char *ram, char *err, size_t errlen)
{
	const struct region_id region = { v->dev, v->ino, v->size };
	struct ram_file files[MAX_FILES];
	int ret = prepare(v, err, errlen), nr = 1, vmm = 0;

	if (!ret && ram) {
		ret = open_ram(ram, &files[0], err, errlen);
	} else if (!ret) {
		nr = find_files(&region, pid, files, &vmm, err, errlen);
		ret = nr < 0 ? nr : 0;
	}
	if (!ret) {
		ret = map_one_of(v, files, nr, err, errlen);
		close_files(files, nr);
	}
	if (ret)
		htrace_view_unmap_ram(v);
	else
		v->vmm_pid = vmm;
	return ret;
}

int htrace_view_map_ram_fds(struct htrace_view *v, const int *fd, int nr, char *err, size_t errlen)
{
	struct ram_file files[MAX_FILES];
	int ret = prepare(v, err, errlen);

	if (!ret && (nr < 1 || nr > MAX_FILES))
		ret = -EINVAL;
	for (int i = 0; i < nr && !ret; i++)
		ret = take_ram(fd[i], &files[i], err, errlen);
	if (!ret)
		ret = map_one_of(v, files, nr, err, errlen);
	if (ret)
		htrace_view_unmap_ram(v);
	else
		v->vmm_pid = 0;
	return ret;
}

const char *htrace_view_ram_name(const struct htrace_view *v)
{
	return v->ram_name;
}

int htrace_view_vmm_pid(const struct htrace_view *v)
{
	return v->vmm_pid;
}

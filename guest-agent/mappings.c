/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which files the processes that stacks were recorded of have mapped as code. Frames come with
 * build-id and offset where the kernel could tell them; for those the file's name is what is
 * missing, for the others also where it was mapped.
 */
#include "symbols.h"

#include <ctype.h>
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "health.h"
#include "message.h"

#define LOOKS 16 /* processes a call */
#define KEYS 256 /* of those that wait */
#define FIRST_NS 50000000ULL /* until a process is looked at once more: it may call exec soon */
#define LAST_NS 5000000000ULL /* doubling up to this */
#define MAX_MAPPINGS 16384
#define MAX_OF_PROCESS 256
#define MAX_NOTE 4096
#define RESERVE (64u << 10) /* of the schema area stays for events */
#define PLACES 1024

/* What tells a published mapping from others. */
struct mapping {
	__u32 pid, reserved;
	__u64 start, end, offset;
	__u8 build_id[20];
	__u32 pad;
	__s64 bias;
};

static void *published; /* tsearch(3) tree of struct mapping */
static size_t nr_published;
static bool given_up;
static struct {
	__u32 pid;
	__u64 next, wait;
} looked[PLACES];

static int compare(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct mapping));
}

/* ------------------------------------------------------------------------------------ the file */

static bool find_build_id(const char *notes, size_t len, __u8 id[20])
{
	for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= len;) {
		Elf64_Nhdr n;
		size_t name, desc;

		memcpy(&n, notes + at, sizeof(n));
		name = at + sizeof(n);
		if (n.n_namesz > MAX_NOTE || n.n_descsz > MAX_NOTE)
			return false;
		desc = name + ((n.n_namesz + 3) & ~3u);
		at = desc + ((n.n_descsz + 3) & ~3u);
		if (at > len)
			return false;
		if (n.n_type == NT_GNU_BUILD_ID && n.n_namesz == 4 &&
		    !memcmp(notes + name, "GNU", 4)) {
			memcpy(id, notes + desc, n.n_descsz < 20 ? n.n_descsz : 20);
			return true;
		}
	}
	return false;
}

/* Build-id, and what to add to an offset in the file to get the address that its symbols have. */
static void read_elf(int fd, struct mapping *m)
{
	char notes[MAX_NOTE];
	bool found = false;
	Elf64_Ehdr e;

	if (pread(fd, &e, sizeof(e), 0) != sizeof(e) || memcmp(e.e_ident, ELFMAG, SELFMAG) ||
	    e.e_ident[EI_CLASS] != ELFCLASS64)
		return;
	for (int i = 0; i < e.e_phnum && i < 64; i++) {
		Elf64_Phdr p;
		ssize_t len;

		__u64 at = e.e_phoff + (__u64)i * sizeof(p);

		if (pread(fd, &p, sizeof(p), (off_t)at) != sizeof(p))
			return;
		if (p.p_type == PT_LOAD && p.p_flags & PF_X && m->offset < p.p_offset + p.p_filesz &&
		    m->offset + (m->end - m->start) > p.p_offset)
			m->bias = (__s64)(p.p_vaddr - p.p_offset);
		if (p.p_type != PT_NOTE || found)
			continue;
		len = pread(fd, notes, p.p_filesz < MAX_NOTE ? p.p_filesz : MAX_NOTE,
			    (off_t)p.p_offset);
		found = len > 0 && find_build_id(notes, (size_t)len, m->build_id);
	}
}

static void look_into(struct mapping *m)
{
	char path[128];
	int fd;

	/* The very file that is mapped, whatever its name stands for now. */
	snprintf(path, sizeof(path), "/proc/%u/map_files/%llx-%llx", m->pid,
		 (unsigned long long)m->start, (unsigned long long)m->end);
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return;
	read_elf(fd, m);
	close(fd);
}

/* ---------------------------------------------------------------------------------- publishing */

static int publish(struct htrace_region *r, const struct mapping *m, const char *path)
{
	struct {
		struct htrace_schema_mapping m;
		char path[4096];
	} e = {0};
	size_t len = strnlen(path, sizeof(e.path) - 1), used;

	e.m = (struct htrace_schema_mapping){
		.entry = {.kind = HTRACE_SCHEMA_MAPPING,
			  .len = (__u32)((sizeof(e.m) + len + 8) & ~7UL)},
		.pid = m->pid,
		.start = m->start,
		.end = m->end,
		.offset = m->offset,
		.bias = m->bias,
	};
	htrace_region_schema_entries(r, &used);
	if (used + e.m.entry.len + RESERVE > htrace_region_super(r)->schema.len)
		return -ENOSPC;
	memcpy(e.m.build_id, m->build_id, sizeof(e.m.build_id));
	memcpy((char *)&e + sizeof(e.m), path, len);
	return htrace_region_add_schema(r, &e, e.m.entry.len);
}

static void give_up(const char *why)
{
	given_up = true;
	say("no more files of processes with stacks are published: %s; addresses in others are "
	    "shown as they are", why);
}

/* The file alone, to be known by: whoever has it mapped. */
static struct mapping file_of(const struct mapping *m)
{
	struct mapping f = {.bias = m->bias};

	memcpy(f.build_id, m->build_id, sizeof(f.build_id));
	return f;
}

static bool is_published(const struct mapping *m)
{
	return tfind(m, &published, compare) != NULL;
}

static void remember(const struct mapping *m)
{
	struct mapping *copy = malloc(sizeof(*copy)), *const *at;

	if (!copy)
		return;
	*copy = *m;
	at = tsearch(copy, &published, compare);
	if (!at || *at != copy)
		free(copy);
	nr_published++;
}

/* @files: mappings of files that are known by another mapping are of no interest. */
static void take(struct htrace_region *r, struct mapping *m, const char *path, bool files)
{
	struct mapping file;
	int err;

	look_into(m);
	file = file_of(m);
	if (is_published(files ? &file : m))
		return;
	if (nr_published == MAX_MAPPINGS) {
		give_up("there are too many");
		return;
	}
	err = publish(r, m, path);
	if (err) {
		give_up(err != -ENOSPC ? strerror(-err) :
					 "the region has no more room; give the device more memory");
		return;
	}
	remember(m);
	remember(&file);
}

static void look_at(struct htrace_region *r, __u32 pid, bool files)
{
	char path[64], line[4300], perms[8], name[4097];
	int nr = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%u/maps", pid);
	f = fopen(path, "re");
	while (f && !given_up && nr < MAX_OF_PROCESS && fgets(line, sizeof(line), f)) {
		unsigned long long start, end, offset;
		struct mapping m = {0};
		int n;

		name[0] = 0;
		n = sscanf(line, "%llx-%llx %7s %llx %*s %*s %4096[^\n]", &start, &end, perms,
			   &offset, name);
		if (n < 4 || !strchr(perms, 'x') || !name[0] || !strcmp(name, "[vsyscall]"))
			continue;
		m.pid = pid;
		m.start = start;
		m.end = end;
		m.offset = offset;
		take(r, &m, name, files);
		nr++;
	}
	if (f)
		fclose(f);
}

void mappings_start(struct htrace_region *r)
{
	DIR *proc = opendir("/proc");
	struct dirent *e;

	while (proc && (e = readdir(proc)) != NULL)
		if (isdigit((unsigned char)e->d_name[0]))
			look_at(r, (__u32)atoi(e->d_name), true);
	if (proc)
		closedir(proc);
}

/* Whether it is time to look at @pid, and if so, when to do it again. */
static bool is_due(__u32 pid, __u64 now)
{
	__u32 place = pid % PLACES;
	bool same = looked[place].pid == pid;

	if (same && now < looked[place].next)
		return false;
	looked[place].wait = !same ? FIRST_NS :
			     looked[place].wait < LAST_NS / 2 ? 2 * looked[place].wait : LAST_NS;
	looked[place].pid = pid;
	looked[place].next = now + looked[place].wait;
	return true;
}

void mappings_update(struct htrace_region *r, int pids_fd)
{
	__u64 now = monotonic_ns();
	__u32 pid, next;
	int looks = 0;

	if (pids_fd <= 0 || given_up || bpf_map_get_next_key(pids_fd, NULL, &pid))
		return;
	for (int i = 0; i < KEYS && looks < LOOKS; i++) {
		bool more = !bpf_map_get_next_key(pids_fd, &pid, &next);

		if (is_due(pid, now)) {
			bpf_map_delete_elem(pids_fd, &pid); /* comes back with the next stack */
			look_at(r, pid, false);
			looks++;
		}
		if (!more)
			break;
		pid = next;
	}
}

void mappings_free(void)
{
	tdestroy(published, free);
	published = NULL;
	nr_published = 0;
}

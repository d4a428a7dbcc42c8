/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages of the kernel's ring: taken out of it, and their records written into ours. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "boot_internal.h"
#include "health.h"
#include "loader.h"
#include "message.h"

#define CPUS_MAX 1024
#define CPU_BYTES_MAX (256ULL << 20)
#define MARKS 16
#define MARK "guest-agent clock "
#define SECOND 1000000000ULL

static int open_of(const struct boot *b, const char *file, int flags)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/%s", b->dir, file);
	return open(path, flags | O_CLOEXEC);
}

/* ------------------------------------------------------------------------------------------ its clock */

/* The word in brackets. */
static bool read_clock(const struct boot *b, char clock[32])
{
	int fd = open_of(b, "trace_clock", O_RDONLY);
	char text[256] = "", *at;
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	at = n > 0 ? strchr(text, '[') : NULL;
	return at && sscanf(at, "[%31[^]]", clock) == 1;
}

/*
 * Its clock may be another than our programs' CLOCK_MONOTONIC, beside which it then goes at the same pace but for
 * what the kernel learned of the CPU's frequency later. So a few marks are written into it, between two readings
 * of the time each: the closest pair tells what lies between the clocks.
 */
static int write_marks(const struct boot *b)
{
	int fd = open_of(b, "trace_marker", O_WRONLY);

	for (int i = 0; fd >= 0 && i < MARKS; i++) {
		char text[64];
		int len = snprintf(text, sizeof(text), MARK "%llu\n", (unsigned long long)monotonic_ns());

		if (write(fd, text, (size_t)len) < 0) {
			close(fd);
			return -errno;
		}
	}
	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

/*
 * What is between the time in a mark's text, taken before it was written, and that of its record is the offset, and
 * a little more: of all, the one with the least.
 */
static void take_mark(struct boot *b, const struct ftrace_record *r, bool *any)
{
	const unsigned char *text = memmem(r->data, r->len, MARK, sizeof(MARK) - 1);
	unsigned long long at;
	char digits[24];
	size_t left;
	__u64 offset;

	if (!text)
		return;
	text += sizeof(MARK) - 1;
	left = r->len - (size_t)(text - r->data);
	left = left < sizeof(digits) - 1 ? left : sizeof(digits) - 1;
	memcpy(digits, text, left);
	digits[left] = 0;
	if (sscanf(digits, "%llu", &at) != 1)
		return;
	offset = at - r->time;
	if (!*any || (__s64)(offset - b->offset) > 0)
		b->offset = offset;
	*any = true;
}

/* ----------------------------------------------------------------------------------------- its pages */

static int grow(struct boot_cpu *c, size_t page)
{
	size_t room = c->room ? 2 * c->room : 64;
	unsigned char *more;

	if (c->nr < c->room)
		return 0;
	if (room * page > CPU_BYTES_MAX)
		return -E2BIG;
	more = realloc(c->page, room * page);
	if (!more)
		return -ENOMEM;
	c->page = more;
	c->room = room;
	return 0;
}

/* A number of the CPU's statistics; 0: there is none. */
static __u64 statistic(const struct boot *b, size_t cpu, const char *what)
{
	char path[300], line[128];
	unsigned long long nr = 0;
	size_t len = strlen(what);
	FILE *f;

	snprintf(path, sizeof(path), "%s/per_cpu/cpu%zu/stats", b->dir, cpu);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, what, len) && line[len] == ':')
			nr = strtoull(line + len + 1, NULL, 10);
	if (f)
		fclose(f);
	return nr;
}

/* As many as there are by now: it goes on, and what we do is traced, too. */
static int read_cpu(struct boot *b, size_t cpu)
{
	__u64 entries = statistic(b, cpu, "entries");
	struct boot_cpu *c = &b->cpu[cpu];
	int err = 0, fd;
	char file[64];

	snprintf(file, sizeof(file), "per_cpu/cpu%zu/trace_pipe_raw", cpu);
	fd = open_of(b, file, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return errno == ENOENT || errno == ENODEV ? 0 : -errno;
	for (__u64 seen = 0; seen < entries && !err;) {
		struct ftrace_page p;
		struct ftrace_record r;
		ssize_t n;

		err = grow(c, b->page_size);
		if (err)
			break;
		memset(c->page + c->nr * b->page_size, 0, b->page_size);
		n = read(fd, c->page + c->nr * b->page_size, b->page_size);
		if (n <= 0)
			break;
		if (!ftrace_page_open(&p, c->page + c->nr * b->page_size, b->page_size))
			err = -EPROTO;
		while (ftrace_page_next(&p, &r))
			seen++;
		c->nr++;
	}
	close(fd);
	return err;
}

static int read_all(struct boot *b)
{
	for (size_t i = 0; i < b->nr_cpus; i++) {
		int err = read_cpu(b, i);

		if (err) {
			say("cannot read the kernel's buffer in %s: %s", b->dir, strerror(-err));
			return -1;
		}
	}
	return 0;
}

typedef void record_fn(struct boot *b, size_t cpu, const struct ftrace_record *r, void *ctx);

static void each_record(struct boot *b, size_t cpu, record_fn *fn, void *ctx)
{
	struct boot_cpu *c = &b->cpu[cpu];
	struct ftrace_record r;
	struct ftrace_page p;

	for (size_t i = 0; i < c->nr; i++)
		if (ftrace_page_open(&p, c->page + i * b->page_size, b->page_size))
			while (ftrace_page_next(&p, &r))
				fn(b, cpu, &r, ctx);
}

static void look_at(struct boot *b, size_t cpu, const struct ftrace_record *r, void *ctx)
{
	__u64 address;

	take_mark(b, r, ctx);
	if (b->nr_initcalls < BOOT_FUNCTIONS && boot_records_initcall(b->records, r, &address) &&
	    (!b->nr_initcalls || b->initcall[b->nr_initcalls - 1] != address))
		b->initcall[b->nr_initcalls++] = address;
}

int boot_read(struct boot *b)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);
	bool marked = false, mono;
	char clock[32] = "";
	int err;

	b->page_size = (size_t)sysconf(_SC_PAGESIZE);
	b->nr_cpus = cpus < 1 ? 1 : cpus > CPUS_MAX ? CPUS_MAX : (size_t)cpus;
	b->cpu = calloc(b->nr_cpus, sizeof(*b->cpu));
	b->initcall = calloc(BOOT_FUNCTIONS, sizeof(*b->initcall));
	if (!b->cpu || !b->initcall) {
		say("out of memory");
		return -1;
	}
	if (!read_clock(b, clock) || !strcmp(clock, "counter") || !strcmp(clock, "x86-tsc") || !strcmp(clock, "uptime")) {
		say("the times in %s are those of clock '%s', which do not tell when on ours; boot with trace_clock=local",
		    b->dir, clock);
		return -1;
	}
	mono = !strcmp(clock, "mono");
	err = mono ? 0 : write_marks(b);
	if (err) {
		say("cannot compare the clock of %s with ours: %s", b->dir, strerror(-err));
		return -1;
	}
	if (read_all(b))
		return -1;
	for (size_t i = 0; i < b->nr_cpus; i++)
		each_record(b, i, look_at, &marked);
	if (mono) {
		b->offset = 0;
	} else if (!marked) {
		say("cannot compare the clock of %s with ours: is it switched off (tracing_on)?", b->dir);
		return -1;
	}
	return boot_name_initcalls(b);
}

/* --------------------------------------------------------------------------------------- into our rings */

struct writing {
	const struct rings *rings;
	const struct htrace_geometry *geometry;
	__u32 schema;
};

static bool is_mark(const struct ftrace_record *r)
{
	return memmem(r->data, r->len, MARK, sizeof(MARK) - 1) != NULL;
}

/* On our clock. Early in a boot, the kernel's stands at 0, and ours began later. */
static __u64 time_of(const struct boot *b, const struct ftrace_record *r)
{
	__u64 time = r->time + b->offset;

	return (__s64)b->offset < 0 && time > r->time ? 0 : time;
}

static void write_record(struct boot *b, size_t cpu, const struct ftrace_record *r, void *ctx)
{
	const struct writing *w = ctx;
	struct htrace_ring *ring = rings_at(w->rings, (__u32)cpu);
	__u64 time = time_of(b, r);
	unsigned char payload[TRACEPOINT_PAYLOAD_MAX];
	struct htrace_slot slot;
	__u32 id;
	size_t len = boot_records_payload(b->records, r, payload, &id);
	void *at;

	if (is_mark(r))
		return;
	if (!len) {
		b->unknown++;
		return;
	}
	at = htrace_reserve(ring, w->geometry, &ring->consumed, id, (__u32)len, w->schema, time, &slot);
	if (!at)
		return; /* dropped, and counted */
	memcpy(at, payload, len);
	htrace_commit(&slot);
	b->written++;
}

int boot_write(struct boot *b, const struct rings *rings, const struct htrace_geometry *g, __u32 schema)
{
	struct writing w = { rings, g, schema };
	__u64 bytes = 0;

	b->until = monotonic_ns();
	if (read_all(b))
		return -1;
	for (size_t i = 0; i < b->nr_cpus && i < rings->nr; i++) {
		__u64 lost = statistic(b, i, "overrun") + statistic(b, i, "dropped events");

		htrace_add(&rings_at(rings, (__u32)i)->dropped, lost);
		b->lost += lost;
		each_record(b, i, write_record, &w);
		bytes = bytes > rings_at(rings, (__u32)i)->head ? bytes : rings_at(rings, (__u32)i)->head;
		free(b->cpu[i].page);
		b->cpu[i] = (struct boot_cpu){ 0 };
	}
	say("the boot: %llu events taken over from %s; %llu were overwritten there%s", (unsigned long long)b->written,
	    b->dir, (unsigned long long)b->lost, b->lost ? " (boot with a larger trace_buf_size)" : "");
	if (b->unknown)
		say("the boot: %llu records of other kinds are left out", (unsigned long long)b->unknown);
	if (bytes > g->ring_mask + 1)
		say("the boot: the rings are too small for it, and its beginning may be lost: give a --buffer of more "
		    "than %llu KiB", (unsigned long long)bytes >> 10);
	return 0;
}

/* When did a program begin to record events @tp? 0: none does. */
static __u64 attached(const struct loader *l, const struct tracepoint *tp)
{
	for (size_t i = 0; i < l->nr_programs; i++) {
		const struct program *p = &l->program[i];
		const char *section = p->prog ? bpf_program__section_name(p->prog) : "", *slash = strrchr(section, '/');

		if (p->tp ? !strcmp(p->tp->name, tp->name) && !strcmp(p->tp->system, tp->system) :
			    slash && !strcmp(slash + 1, tp->name))
			return p->attached;
	}
	return 0;
}

struct ending {
	const struct loader *loader;
	const struct rings *rings;
	__u64 missed;
};

static void count_missed(struct boot *b, size_t cpu, const struct ftrace_record *r, void *ctx)
{
	const struct tracepoint *tp = boot_records_event(b->records, ftrace_record_type(r));
	struct ending *e = ctx;
	__u64 live = tp ? attached(e->loader, tp) : 0;

	if (!live || is_mark(r) || time_of(b, r) >= live || cpu >= e->rings->nr)
		return;
	htrace_ring_drop(rings_at(e->rings, (__u32)cpu));
	e->missed++;
}

void boot_end(struct boot *b, const struct loader *l, const struct rings *rings)
{
	struct ending e = { l, rings, 0 };
	int fd = open_of(b, "tracing_on", O_WRONLY);
	bool stopped = fd >= 0 && write(fd, "0", 1) == 1;

	if (fd >= 0)
		close(fd);
	if (!stopped)
		say("cannot stop %s: %s; the kernel goes on tracing there", b->dir, strerror(errno));
	if (!read_all(b))
		for (size_t i = 0; i < b->nr_cpus; i++)
			each_record(b, i, count_missed, &e);
	fd = open_of(b, "set_event", O_WRONLY | O_TRUNC); /* nothing of it is paid for any more */
	if (fd >= 0)
		close(fd);
	if (e.missed)
		say("the boot: %llu events happened before programs recorded them, within %.1f ms; they are counted as lost",
		    (unsigned long long)e.missed, (double)(monotonic_ns() - b->until) / 1e6);
}

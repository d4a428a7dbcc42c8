/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "boot_events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/region.h>
#include <htrace/schema.h>

#include "boot_records.h"
#include "boot_ring.h"

#define MS 1000000ULL
#define LOOK_NS (10 * MS)       /* between two looks, while there is something new */
#define LOOK_MOST_NS (80 * MS)  /* and when there is nothing */
#define HEARTBEAT_MS 100
#define REGION (64ULL << 20) /* of which what nobody writes to takes no memory */
#define RING_MOST (4ULL << 20)
#define RING_LEAST (64ULL << 10)
#define TEXT_MAX (32ULL << 20) /* of a file of formats, or symbols */
#define FIRST_SCHEMA 1

/* KASLR moves the kernel by multiples of this; on x86, which is where there are such rings so far. */
#define KASLR_ALIGN 0x200000ULL

struct symbols_text {
	char *text;
	size_t len;
};

struct boot_events {
	struct boot_ring *ring;
	struct boot_records *records;
	struct htrace_schema_builder *schema;
	struct symbols_text symbols;
	struct htrace_region *region; /* NULL: the ring was not found yet */
	void *mem;
	int fd, ram;
	unsigned int cpus;
	__u64 next, pause;
	__u64 unknown; /* records of events that formats do not describe */
	bool failed; /* to make the region */
	bool said_wrapped, said_overrun, said_corrupt, said_anew, said_unknown, said_io, said_names;
	char said[256];
};

static int failed(const char *what, int ret, char *err, size_t errlen)
{
	snprintf(err, errlen, "%s: %s", what, strerror(-ret));
	return ret;
}

/* ------------------------------------------------------------------------------------------ its files */

static int read_file(const char *path, struct symbols_text *t, char *err, size_t errlen)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), ret = 0;
	struct stat st;
	ssize_t n;

	if (fd < 0 || fstat(fd, &st))
		ret = -errno;
	else if (!S_ISREG(st.st_mode) || (__u64)st.st_size > TEXT_MAX)
		ret = -EFBIG;
	t->text = ret ? NULL : malloc((size_t)st.st_size + 1);
	if (!ret && !t->text)
		ret = -ENOMEM;
	while (!ret && t->len < (size_t)st.st_size) {
		n = read(fd, t->text + t->len, (size_t)st.st_size - t->len);
		if (n <= 0)
			break;
		t->len += (size_t)n;
	}
	if (!ret)
		t->text[t->len] = 0;
	if (fd >= 0)
		close(fd);
	return ret ? failed(path, ret, err, errlen) : 0;
}

static int read_formats(struct boot_events *b, const char *path, char *err, size_t errlen)
{
	struct symbols_text t = { 0 };
	int ret = read_file(path, &t, err, errlen);

	if (ret)
		return ret;
	ret = boot_records_add_formats(b->records, t.text, t.len);
	free(t.text);
	if (ret > 0)
		return 0;
	snprintf(err, errlen, "%s: it describes no events; in a guest of that kernel: cat "
		 "/sys/kernel/tracing/events/{initcall,module,sched}/*/format > formats", path);
	return ret ? ret : -EINVAL;
}

static int open_ram(struct boot_events *b, const struct boot_events_config *c, char *err, size_t errlen)
{
	struct stat st;
	int ret;

	b->ram = open(c->ram, O_RDONLY | O_CLOEXEC);
	if (b->ram < 0 || fstat(b->ram, &st))
		return failed(c->ram, -errno, err, errlen);
	if (S_ISREG(st.st_mode) && ((__u64)st.st_size < c->size || c->at > (__u64)st.st_size - c->size)) {
		snprintf(err, errlen, "%s: %llu bytes, and the ring is to lie from %llu on, %llu bytes: at= and size= are those "
			 "of the kernel's command line", c->ram, (unsigned long long)st.st_size,
			 (unsigned long long)c->at, (unsigned long long)c->size);
		return -EINVAL;
	}
	ret = boot_ring_open(&b->ring, b->ram, c->at, c->size);
	return ret ? failed("at= and size=, which are multiples of 4096", ret, err, errlen) : 0;
}

static int make_memory(struct boot_events *b, char *err, size_t errlen)
{
	b->fd = memfd_create("htrace-bootring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (b->fd < 0 || ftruncate(b->fd, REGION) || fcntl(b->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return failed("making memory", -errno, err, errlen);
	b->mem = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, b->fd, 0);
	if (b->mem != MAP_FAILED)
		return 0;
	b->mem = NULL;
	return failed("mapping memory", -errno, err, errlen);
}

int boot_events_open(struct boot_events **out, const struct boot_events_config *c, char *err, size_t errlen)
{
	struct boot_events *b = calloc(1, sizeof(*b));
	int ret;

	*out = NULL;
	if (!b)
		return failed("", -ENOMEM, err, errlen);
	b->fd = b->ram = -1;
	b->records = boot_records_new();
	ret = b->records ? 0 : failed("", -ENOMEM, err, errlen);
	if (!ret)
		ret = open_ram(b, c, err, errlen);
	if (!ret)
		ret = read_formats(b, c->formats, err, errlen);
	if (!ret && c->symbols)
		ret = read_file(c->symbols, &b->symbols, err, errlen);
	if (!ret)
		ret = make_memory(b, err, errlen);
	if (!ret)
		ret = htrace_builder_new(&b->schema, NULL, 0) ? failed("", -ENOMEM, err, errlen) : 0;
	if (ret)
		boot_events_close(b);
	else
		*out = b;
	return ret;
}

void boot_events_close(struct boot_events *b)
{
	if (!b)
		return;
	boot_ring_close(b->ring);
	boot_records_free(b->records);
	htrace_region_release(b->region);
	htrace_builder_free(b->schema);
	free(b->symbols.text);
	if (b->mem)
		munmap(b->mem, REGION);
	if (b->fd >= 0)
		close(b->fd);
	if (b->ram >= 0)
		close(b->ram);
	free(b);
}

int boot_events_file(const struct boot_events *b)
{
	int fd = fcntl(b->fd, F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

/* -------------------------------------------------------------------------------- names of initcalls */

/* A line of System.map: "ADDRESS TYPE NAME"; @type 0: it is none. The next line, or NULL. */
static const char *symbol_line(const char *line, unsigned long long *address, char *type, char name[256])
{
	const char *end = strchr(line, '\n');
	size_t len = end ? (size_t)(end - line) : strlen(line);
	char text[300];

	*type = 0;
	if (len < sizeof(text)) { /* scanning it where it is, the C library would look for the end of all of it */
		memcpy(text, line, len);
		text[len] = 0;
		if (sscanf(text, "%llx %c %255s", address, type, name) != 3)
			*type = 0;
	}
	return end && end[1] ? end + 1 : NULL;
}

/*
 * The ring says where a function of the kernel's lies. By that and by where the map has it, what is mapped from where;
 * which function it is depends on the kernel's version.
 */
static bool find_moved(const struct boot_events *b, __u64 *moved)
{
	unsigned long long address;
	char type, name[256];

	for (const char *line = b->symbols.text; line;) {
		line = symbol_line(line, &address, &type, name);
		if (!type || (strcmp(name, "rb_range_meta_init") && strcmp(name, "rb_meta_init_text_addr")))
			continue;
		*moved = boot_ring_state(b->ring)->text - address;
		if (!(*moved % KASLR_ALIGN))
			return true;
	}
	return false;
}

/* The kernel's initial part: which of its functions are initcalls, the map does not say. */
static bool find_initial(const struct boot_events *b, unsigned long long *from, unsigned long long *to)
{
	unsigned long long address;
	char type, name[256];

	*from = *to = 0;
	for (const char *line = b->symbols.text; line;) {
		line = symbol_line(line, &address, &type, name);
		if (type && !strcmp(name, "_sinittext"))
			*from = address;
		else if (type && !strcmp(name, "_einittext"))
			*to = address;
	}
	return *from < *to;
}

/* Those of the initial part; or those outside it that may be initcalls, too, by what they are called. */
static void name_part(struct boot_events *b, __u64 from, __u64 to, __u64 moved, bool outside)
{
	unsigned long long address;
	__u64 before = 0;
	char type, name[256];

	for (const char *line = b->symbols.text; line;) {
		line = symbol_line(line, &address, &type, name);
		if ((type != 't' && type != 'T') || address == before || !strcmp(name, "_sinittext") ||
		    (address >= from && address < to) == outside || (outside && !strstr(name, "init")))
			continue;
		before = address; /* of aliases the first */
		if (boot_records_name(b->records, address + moved, name))
			return; /* there is no room for more */
	}
}

static void name_initcalls(struct boot_events *b)
{
	unsigned long long from, to;
	__u64 moved;

	if (!b->symbols.text)
		return;
	if (!find_moved(b, &moved) || !find_initial(b, &from, &to)) {
		snprintf(b->said, sizeof(b->said), "the symbols are not this kernel's: initcalls are shown as addresses");
		return;
	}
	name_part(b, from, to, moved, false);
	name_part(b, from, to, moved, true);
}

/* ----------------------------------------------------------------------------------------- the region */

static int add_schema(struct boot_events *b)
{
	const void *entries;
	size_t len;
	int ret;

	name_initcalls(b);
	ret = boot_records_functions(b->records, b->schema);
	ret = boot_records_declare(b->records, b->schema, ret < 0 ? 0 : ret);
	if (ret < 0)
		return ret;
	entries = htrace_builder_entries(b->schema, &len);
	return htrace_region_add_schema(b->region, entries, len);
}

static int make_region(struct boot_events *b)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_IVSHMEM, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_CPU, .nr_rings = b->cpus, .nr_cpus = b->cpus, .ring_size = RING_MOST,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	struct htrace_super *super;
	struct htrace_guest *g;
	__u8 id[16] = { 0 };
	int ret;

	while (o.ring_size > RING_LEAST && htrace_region_fits(REGION, &o) == -ENOSPC)
		o.ring_size >>= 1;
	ret = htrace_region_format(&b->region, b->mem, REGION, &o);
	if (ret)
		return ret;
	/* Another machine, with clocks of its own: none of what is ours holds for it. */
	super = htrace_region_super(b->region);
	if (getrandom(id, sizeof(id), 0) < 0)
		id[0] = 1;
	memcpy(super->boot_id, id, sizeof(id));
	memcpy(((struct htrace_super *)b->mem)->boot_id, id, sizeof(id));
	g = htrace_region_guest(b->region);
	memset(g->release, 0, sizeof(g->release));
	memset(g->hostname, 0, sizeof(g->hostname));
	g->heartbeat_ms = HEARTBEAT_MS;
	ret = add_schema(b);
	if (ret)
		return ret;
	htrace_region_publish(b->region);
	g->clock_head = 0;
	memset(g->clock, 0, sizeof(g->clock));
	htrace_region_set_state(b->region, HTRACE_GUEST_RUNNING);
	return 0;
}

/* Is there room for a record, so that none is dropped? The reader goes on, and then it is. */
static bool has_room(const struct htrace_ring *ring, const struct htrace_geometry *g, const __u64 *consumed, size_t len)
{
	__u64 used = ring->head - __atomic_load_n(consumed, __ATOMIC_ACQUIRE);

	return used + len + 2 * (1ULL << g->block_shift) <= g->ring_mask + 1;
}

static bool take(void *ctx, unsigned int cpu, const struct ftrace_record *r)
{
	struct boot_events *b = ctx;
	const struct htrace_ringset *set = &htrace_region_super(b->region)->ringset[0];
	const __u64 *consumed = &htrace_region_host_ring(b->region, set->first_slot + cpu)->consumed;
	__u32 id;
	unsigned char payload[TRACEPOINT_PAYLOAD_MAX];
	struct htrace_geometry g;
	struct htrace_ring *ring = htrace_region_ring(b->region, 0, cpu, &g);
	struct htrace_slot slot;
	size_t len;
	void *at;

	if (cpu >= b->cpus || !ring)
		return true;
	if (!has_room(ring, &g, consumed, sizeof(payload)))
		return false;
	len = boot_records_payload(b->records, r, payload, &id);
	if (!len) {
		b->unknown++;
		return true;
	}
	at = htrace_reserve(ring, &g, consumed, id, (__u32)len, FIRST_SCHEMA, r->time, &slot);
	if (at) {
		memcpy(at, payload, len);
		htrace_commit(&slot);
	}
	return true;
}

/* --------------------------------------------------------------------------------------------- its work */

static const char *once(bool *said, bool now, const char *text)
{
	if (*said || !now)
		return NULL;
	*said = true;
	return text;
}

/* What there is to say, one at a time. */
static const char *news(struct boot_events *b)
{
	const struct boot_ring_state *s = boot_ring_state(b->ring);
	const char *text = once(&b->said_names, b->said[0], b->said);

	if (!text)
		text = once(&b->said_wrapped, s->wrapped, "the beginning had been overwritten: give the ring more room");
	if (!text)
		text = once(&b->said_overrun, s->overrun, "the guest overwrote events before they were read; nobody counts them");
	if (!text)
		text = once(&b->said_corrupt, s->corrupt, "there are pages that do not add up; they are not read");
	if (!text)
		text = once(&b->said_unknown, b->unknown, "there are events that the formats do not describe; they are left out");
	return text ? text : once(&b->said_anew, s->anew, "the guest made its ring anew; start host-reader again to read that");
}

static void find(struct boot_events *b)
{
	int ret;

	if (boot_ring_find(b->ring))
		return;
	b->cpus = boot_ring_state(b->ring)->cpus;
	ret = make_region(b);
	if (!ret)
		return;
	htrace_region_release(b->region);
	b->region = NULL;
	b->failed = true;
	snprintf(b->said, sizeof(b->said), "its events cannot be read: %s%s", strerror(-ret),
		 ret == -ENOSPC ? ": the formats are too many; give those of events that are traced" : "");
}

const char *boot_events_work(struct boot_events *b, __u64 now)
{
	struct htrace_guest *g;
	long taken;

	if (now < b->next || (b->failed && b->said_names))
		return NULL;
	if (!b->region && !b->failed)
		find(b);
	if (!b->region) {
		b->next = now + LOOK_NS;
		return once(&b->said_names, b->failed, b->said);
	}
	taken = boot_ring_read(b->ring, take, b);
	b->pause = taken > 0 || !b->pause ? LOOK_NS : 2 * b->pause < LOOK_MOST_NS ? 2 * b->pause : LOOK_MOST_NS;
	b->next = now + b->pause;
	g = htrace_region_guest(b->region);
	__atomic_store_n(&g->heartbeat, g->heartbeat + 1, __ATOMIC_RELEASE);
	if (taken < 0)
		return once(&b->said_io, true, "the guest's memory is gone, or has become smaller");
	return news(b);
}

void boot_events_hurry(struct boot_events *b)
{
	b->next = 0;
}

__u64 boot_events_due(const struct boot_events *b)
{
	return b->next;
}

// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fuzz_region.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "core.h"

#define NR_RINGS 2
#define CLOCK 1000000000000ULL
#define SPACE_AT (4u << 20) /* of the rings in guest RAM; more than a page lies between two of theirs */

static int new_file(char path[300], const char *what, size_t size)
{
	int fd;

	snprintf(path, 300, "%s/%s-XXXXXX", fuzz_dir(), what);
	fd = mkstemp(path);
	CHECK(fd >= 0 && !ftruncate(fd, (off_t)size));
	return fd;
}

static void *map_file(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	CHECK(p != MAP_FAILED);
	return p;
}

/* Events as the agent's own: what a reader knows by name, and some fields of each kind. */
static void add_schema(struct htrace_region *r)
{
	struct htrace_schema_builder *b;
	size_t len;

	CHECK(!htrace_builder_new(&b, NULL, 0));
	__u32 tid = (__u32)htrace_builder_int(b, "tid", 4, false, HTRACE_HINT_TID);
	__u32 u64 = (__u32)htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_HEX);
	__u32 comm = (__u32)htrace_builder_string(b, 16), text = (__u32)htrace_builder_string(b, 0);
	struct htrace_schema_member sw[] = { { tid, 0, 0, 0, "prev_tid" }, { tid, 32, 0, 0, "next_tid" } };
	struct htrace_schema_member ren[] = { { tid, 0, 0, 0, "tid" }, { comm, 64, 0, 0, "comm" } };
	struct htrace_schema_member any[] = { { u64, 0, 0, 0, "value" }, { text, 64, 0, 0, "text" } };

	htrace_builder_event(b, "sched_switch", htrace_builder_struct(b, "sw", false, 8, sw, 2));
	htrace_builder_event(b, "task_rename", htrace_builder_struct(b, "ren", false, 24, ren, 2));
	htrace_builder_event(b, "any", htrace_builder_struct(b, "any", false, 8, any, 2));
	CHECK(!htrace_builder_filter(b, "tid != 77"));
	CHECK(!htrace_region_add_schema(r, htrace_builder_entries(b, &len), len));
	htrace_builder_free(b);
}

static void add_names(struct htrace_region *r)
{
	struct htrace_names *t = htrace_region_names(r);
	struct htrace_name *n = (void *)(t + 1);

	n[0] = (struct htrace_name){ .time = 0, .tid = 1, .tgid = 1, .comm = "init" };
	n[1] = (struct htrace_name){ .time = CLOCK, .tid = 7, .tgid = 7, .comm = "a\"\033[2J" };
	t->nr = 2;
	t->generation = 2;
}

/* Two laps' worth, so that something was overwritten, or dropped. @dies: within the last. */
static void fill_ring(struct htrace_ring *ring, const struct htrace_geometry *g, bool dies)
{
	struct htrace_slot slot, last = { 0 };

	for (__u32 i = 0; i < 350; i++) {
		__u32 id = 1 + i % 3, len = 24 + 8 * (i % 5);
		char *at = htrace_reserve(ring, g, &ring->consumed, id, len, 1, CLOCK + i * 1000, &slot);

		if (!at)
			continue;
		memset(at, 0, len);
		memcpy(at, &i, 4);
		snprintf(at + 8, len - 8, "text%u", i);
		if (i)
			htrace_commit(&last);
		last = slot;
	}
	if (!dies)
		htrace_commit(&last);
}

/* Of a process that is not there any more, or of this one. */
static void add_owner(struct htrace_ring *ring, bool dies)
{
	ring->owner = (__u64)(dies ? HTRACE_OWNER_PID_MAX : (__u32)getpid()) << 32 | 7;
	ring->owner_ns = htrace_own_ns();
	ring->generation = 3;
}

/* Of a clock that ticks thrice in a nanosecond. */
static void add_clock(struct htrace_region *r)
{
	struct htrace_guest *guest = htrace_region_guest(r);

	for (__u64 i = 0; i < 4; i++)
		guest->clock[i] = (struct htrace_clock_sample){
			.tsc = CLOCK + 300000000 * i, .mono = 5000000000 + 100000000 * i,
			.real = CLOCK + 100000000 * i, .width = 90,
		};
	guest->clock_head = 4;
}

/* Pages of the rings in falling order, in both halves of RAM, as a guest's may lie. */
static void add_ram(struct guest *g, struct htrace_region *r)
{
	const struct htrace_ringset *set = &htrace_region_super(r)->ringset[0];
	struct htrace_runs *runs = htrace_region_runs(r);
	struct htrace_anchor *anchor = (void *)(runs + 1);
	struct htrace_run *run = (void *)(anchor + 2 * NR_RINGS);
	size_t len = set->stride * NR_RINGS, nr = len / 4096;
	struct htrace_geometry geometry;

	g->ram_fd = new_file(g->ram_path, "ram", GUEST_RAM);
	g->space = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(g->space != MAP_FAILED);
	for (size_t i = 0; i < nr; i++) {
		__u64 off = SPACE_AT + 2 * (nr - i) * 4096, high = i < nr / 2 ? 0 : 2ULL << 30;

		run[i] = (struct htrace_run){ (off + 2 * high) / 4096, 1 };
		CHECK(mmap(g->space + i * 4096, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			   g->ram_fd, (off_t)(off + high)) != MAP_FAILED);
	}
	runs->nr_anchors = 2 * NR_RINGS;
	runs->nr_runs = (__u32)nr;
	runs->nr_pages = nr;
	htrace_geometry_of(set, &geometry);
	for (__u32 i = 0; i < 2 * NR_RINGS; i++) {
		size_t off = i / 2 * set->stride + (i & 1 ? set->stride - 8 :
							    offsetof(struct htrace_ring, anchor));

		anchor[i].gpa = run[off / 4096].gpfn * 4096 + off % 4096;
		anchor[i].nonce = 0x1111000011110000ULL + i;
		memcpy(g->space + off, &anchor[i].nonce, 8);
	}
	for (__u32 i = 0; i < NR_RINGS; i++)
		fill_ring((void *)(g->space + i * set->stride), &geometry, false);
	for (__u32 i = 0; i < NR_RINGS; i++) {
		struct place *p = &g->ram_places[4 * i];

		p[0] = (struct place){ i * set->stride, sizeof(struct htrace_ring) };
		p[1] = (struct place){ i * set->stride + set->desc_off, set->data_off - set->desc_off };
		p[2] = (struct place){ i * set->stride + set->data_off, 1u << set->ring_shift };
		p[3] = (struct place){ (i + 1) * set->stride - 8, 8 };
	}
	memory_keep(&g->ram_memory, g->space, len, g->ram_places, 4 * NR_RINGS);
}

static void find_places(struct guest *g, const struct htrace_super *s)
{
	struct place *p = g->places;

	*p++ = (struct place){ 0, offsetof(struct htrace_super, ringset) };
	*p++ = (struct place){ offsetof(struct htrace_super, ringset), 2 * sizeof(struct htrace_ringset) };
	*p++ = (struct place){ HTRACE_HOST_OFF, sizeof(struct htrace_host) };
	*p++ = (struct place){ HTRACE_HOST_RINGS_OFF, 8 * sizeof(struct htrace_host_ring) };
	*p++ = (struct place){ s->guest.off, sizeof(struct htrace_guest) };
	*p++ = (struct place){ s->schema.off, sizeof(struct htrace_schema_area) };
	*p++ = (struct place){ s->schema.off + sizeof(struct htrace_schema_area), 2048 };
	*p++ = (struct place){ s->names.off, sizeof(struct htrace_names) + 2 * sizeof(struct htrace_name) };
	if (s->runs.len) {
		*p++ = (struct place){ s->runs.off, sizeof(struct htrace_runs) };
		*p++ = (struct place){ s->runs.off + sizeof(struct htrace_runs), 512 };
	}
	for (__u32 i = 0; i < s->nr_ringsets; i++) {
		const struct htrace_ringset *set = &s->ringset[i];

		if (set->placement == HTRACE_PLACEMENT_VSHMEM)
			continue;
		for (__u32 k = 0; k < set->nr_rings; k++) {
			size_t at = set->off + k * set->stride;

			*p++ = (struct place){ at, sizeof(struct htrace_ring) };
			*p++ = (struct place){ at + set->desc_off, set->data_off - set->desc_off };
			*p++ = (struct place){ at + set->data_off, 1u << set->ring_shift };
		}
	}
	CHECK(p <= g->places + ARRAY_SIZE(g->places));
	memory_keep(&g->memory, g->mem, REGION_SIZE, g->places, (unsigned int)(p - g->places));
}

static void make(struct guest *g, enum shape shape)
{
	bool direct = shape >= SHAPE_DIRECT;
	struct htrace_region_opts o = {
		.sz = sizeof(o), .nr_rings = NR_RINGS, .ring_size = 8192, .block_size = 1024, .nr_cpus = 2,
		.placement = direct ? HTRACE_PLACEMENT_VSHMEM : HTRACE_PLACEMENT_LOCAL,
		.policy = shape & 1 ? HTRACE_DISCARD : HTRACE_OVERWRITE,
		.kind = direct ? HTRACE_RING_PER_CPU : HTRACE_RING_PER_THREAD,
		.relay = direct, .clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	struct htrace_super *super;
	struct htrace_geometry geometry;
	struct htrace_region *r;

	g->fd = new_file(g->path, "region", REGION_SIZE);
	g->mem = map_file(g->fd, REGION_SIZE);
	CHECK(!htrace_region_format(&r, g->mem, REGION_SIZE, &o));
	super = (struct htrace_super *)g->mem;
	super->session = htrace_region_super(r)->session = 0x5e55;
	add_schema(r);
	add_names(r);
	for (__u32 i = 0; i < NR_RINGS; i++) {
		struct htrace_ring *ring = htrace_region_ring(r, direct, i, &geometry);

		fill_ring(ring, &geometry, !direct && !i);
		if (!direct)
			add_owner(ring, !i);
	}
	if (direct)
		add_ram(g, r);
	if (shape == SHAPE_DISCARD) {
		super->clock_id = HTRACE_CLOCK_TSC; /* whatever this machine's is */
		add_clock(r);
	}
	htrace_region_beat(r, 1);
	htrace_region_guest(r)->heartbeat_ms = 250;
	htrace_region_guest(r)->nr_progs = 1;
	strcpy(htrace_region_guest(r)->prog[0].name, "prog");
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	find_places(g, htrace_region_super(r));
	htrace_region_release(r);
}

struct guest *guest_get(enum shape shape)
{
	static struct guest guests[NR_SHAPES];

	if (!guests[shape].mem)
		make(&guests[shape], shape);
	return &guests[shape];
}

void guest_put_back(struct guest *g)
{
	struct htrace_host *host = (void *)(g->mem + HTRACE_HOST_OFF);

	/* What readers write. */
	memcpy(host, g->memory.was + HTRACE_HOST_OFF, sizeof(*host));
	memcpy(g->mem + HTRACE_HOST_RINGS_OFF, g->memory.was + HTRACE_HOST_RINGS_OFF, HTRACE_GRANULE);
	memory_put_back(&g->memory);
	if (g->space)
		memory_put_back(&g->ram_memory);
}

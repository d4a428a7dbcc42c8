/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* The writing side of a region: layout, making it anew, taking it over, and its living words. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include <htrace/clock.h>
#include <htrace/schema.h>

#include "core.h"

#define BASELINE_NS 2000000     /* between two samples that tell a clock's rate */
#define BASELINE_MAX_NS 10000000000ULL /* else the machine may have been suspended meanwhile */
#define SAMPLE_PAUSE_NS 1000000 /* at least, between samples that nobody asked for */

struct htrace_region {
	char *mem;
	size_t size;
	bool io_memory;
	bool mapped; /* the mapping is ours */
	struct htrace_super super; /* what is or will be published */
	void *schema; /* private copy of the entries: BARs are slow to read */
	size_t schema_len;
	__u64 began; /* CLOCK_MONOTONIC of the first clock sample */
	struct htrace_taken taken;
};

/* ------------------------------------------------------------------------------- identities */

void htrace_boot_id(__u8 id[16])
{
	char text[37] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	int n = 0;

	memset(id, 0, 16);
	if (fd < 0)
		return;
	if (read(fd, text, 36) == 36) {
		for (char *p = text; *p && n < 32; p++) {
			int v = *p >= '0' && *p <= '9' ? *p - '0' :
				*p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;

			if (v >= 0) {
				id[n / 2] = (__u8)(id[n / 2] << 4 | v);
				n++;
			}
		}
	}
	close(fd);
}

__u64 htrace_random(void)
{
	__u64 v = 0;

	while (!v)
		if (getrandom(&v, sizeof(v), 0) != sizeof(v))
			v = (__u64)time(NULL) << 20 ^ (__u64)getpid();
	return v;
}

/* ------------------------------------------------------------------------------------- layout */

static __u64 clamp(__u64 v, __u64 low, __u64 high)
{
	return v < low ? low : v > high ? high : v;
}

static void place(struct htrace_area *a, __u64 *at, __u64 len)
{
	a->off = *at;
	a->len = htrace_align(len, HTRACE_GRANULE);
	*at += a->len;
}

static __u64 largest_ring(__u64 room, __u32 nr_rings, __u64 block_size, enum htrace_policy policy)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct htrace_geometry g;

	for (__u64 size = 1ULL << 32; size >= 1024; size >>= 1)
		if (!htrace_geometry_init(&g, size, block_size, policy) &&
		    htrace_image_size(&g, page) <= room / nr_rings)
			return size;
	return 0;
}

static void describe_set(struct htrace_ringset *set, __u32 placement, const struct htrace_geometry *g,
			 const struct htrace_region_opts *o)
{
	set->placement = placement;
	set->policy = o->policy;
	set->kind = o->kind;
	set->nr_rings = o->nr_rings;
	set->ring_shift = g->ring_shift;
	set->block_shift = g->block_shift;
	set->desc_off = g->desc_off;
	set->data_off = g->data_off;
	set->stride = htrace_image_size(g, (size_t)sysconf(_SC_PAGESIZE));
}

static int lay_out(struct htrace_super *s, __u64 size, const struct htrace_region_opts *o)
{
	struct htrace_ringset *set = &s->ringset[0];
	struct htrace_geometry g;
	__u64 at = HTRACE_FIXED_END, ring_size = o->ring_size;
	int err;

	if (size < HTRACE_REGION_MIN)
		return -ENOSPC;
	if (size > HTRACE_REGION_MAX)
		return -EINVAL;
	place(&s->guest, &at, sizeof(struct htrace_guest));
	place(&s->schema, &at, clamp(size / 16, HTRACE_GRANULE, 1 << 20));
	place(&s->names, &at, clamp(size / 16, HTRACE_GRANULE, 4 << 20));
	if (o->placement == HTRACE_PLACEMENT_VSHMEM)
		place(&s->runs, &at,
		      clamp(size / 8, HTRACE_GRANULE, sizeof(struct htrace_runs) +
			    HTRACE_MAX_RUNS * sizeof(struct htrace_run) +
			    HTRACE_MAX_ANCHORS * sizeof(struct htrace_anchor)));
	if (at > size)
		return -ENOSPC;
	if (!o->nr_rings)
		return 0;
	if (o->nr_rings > HTRACE_MAX_RINGS)
		return -EINVAL;
	if (!ring_size)
		ring_size = o->placement == HTRACE_PLACEMENT_VSHMEM ? 4 << 20 :
			    largest_ring(size - at, o->nr_rings, o->block_size, o->policy);
	if (!ring_size)
		return -ENOSPC;
	err = htrace_geometry_init(&g, ring_size, o->block_size, o->policy);
	if (err)
		return err;
	s->nr_ringsets = 1;
	describe_set(set, o->placement, &g, o);
	if (o->placement == HTRACE_PLACEMENT_VSHMEM) {
		if (!o->relay)
			return 0;
		if (2 * o->nr_rings > HTRACE_MAX_RINGS)
			return -ENOSPC;
		s->features_required |= HTRACE_FEATURE_RELAY;
		s->nr_ringsets = 2;
		set = &s->ringset[1];
		describe_set(set, HTRACE_PLACEMENT_IVSHMEM, &g, o);
		set->first_slot = o->nr_rings;
		set->relays = 1;
	}
	set->off = at;
	return htrace_inside(at, set->stride * set->nr_rings, size) ? 0 : -ENOSPC;
}

/* ------------------------------------------------------------------------------ making it anew */

void htrace_region_fence(const struct htrace_region *r)
{
	/* A full fence also drains write-combining buffers on x86. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#ifdef __x86_64__
	if (r->io_memory)
		__builtin_ia32_sfence();
#else
	(void)r;
#endif
}

/* Zero in 8-byte stores: memset may use forms that device memory does not take. */
static void zero(void *mem, size_t len)
{
	volatile __u64 *p = mem;

	for (size_t i = 0; i < len / 8; i++)
		p[i] = 0;
}

static void zero_set(struct htrace_region *r, const struct htrace_ringset *set)
{
	for (__u32 i = 0; i < set->nr_rings; i++) {
		struct htrace_ring *ring = (void *)(r->mem + set->off + i * set->stride);

		zero(ring, set->data_off); /* the data need not be */
		ring->index = i;
		ring->cpu = i;
	}
}

static void zero_rings(struct htrace_region *r)
{
	for (__u32 i = 0; i < r->super.nr_ringsets; i++)
		if (r->super.ringset[i].placement != HTRACE_PLACEMENT_VSHMEM)
			zero_set(r, &r->super.ringset[i]);
}

static void fill_guest(struct htrace_guest *g)
{
	struct utsname u;

	g->agent_pid = (__u32)getpid();
	g->agent_ns = htrace_own_ns();
	g->heartbeat_ms = 0;
	if (!uname(&u)) {
		memcpy(g->release, u.release, strnlen(u.release, sizeof(g->release)));
		memcpy(g->hostname, u.nodename, strnlen(u.nodename, sizeof(g->hostname)));
	}
}

/*
 * BPF programs, which fill rings of CPUs and of guest RAM, have CLOCK_MONOTONIC only. 0, or -errno
 * for a clock that was asked for and is not to be had.
 */
static int choose_clock(__u32 *clock_id, const struct htrace_region_opts *o)
{
	*clock_id = o->clock_id;
	if (!o->clock_id)
		*clock_id = o->kind == HTRACE_RING_PER_THREAD && o->placement != HTRACE_PLACEMENT_VSHMEM ?
				    htrace_clock_best() : HTRACE_CLOCK_MONOTONIC;
	return htrace_clock_check(*clock_id, NULL, 0);
}

static void begin_samples(struct htrace_region *r);
static void settle_samples(struct htrace_region *r);

int htrace_region_plan(struct htrace_region **out, size_t size,
		       const struct htrace_region_opts *opts)
{
	struct htrace_region_opts o = { 0 };
	struct htrace_region *r;
	struct htrace_super *s;
	int err;

	if (!opts || opts->sz < sizeof(opts->sz) || opts->sz > sizeof(o))
		return -EINVAL;
	memcpy(&o, opts, opts->sz);
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->size = size;
	r->io_memory = o.io_memory;
	s = &r->super;
	s->version_major = HTRACE_ABI_MAJOR;
	if (o.bell)
		s->features_optional |= HTRACE_OPTIONAL_BELL;
	if (o.packed) {
		s->version_minor = 1; /* else 1.0 has all that is used */
		s->features_required |= HTRACE_FEATURE_PACKED;
	}
	s->super_size = sizeof(*s);
	s->region_size = size;
	s->session = htrace_random();
	htrace_boot_id(s->boot_id);
	s->guest_page_shift = (__u32)__builtin_ctzl((unsigned long)sysconf(_SC_PAGESIZE));
	s->nr_cpus = o.nr_cpus ? o.nr_cpus : (__u32)sysconf(_SC_NPROCESSORS_CONF);
	err = choose_clock(&s->clock_id, &o);
	if (!err)
		err = lay_out(s, size, &o);
	/* What a reader would refuse is no region. */
	if (!err && htrace_super_check(s, size, NULL, 0))
		err = -EINVAL;
	if (err) {
		free(r);
		return err;
	}
	*out = r;
	return 0;
}

void htrace_region_write(struct htrace_region *r, void *mem)
{
	const struct htrace_super *s = &r->super;

	r->mem = mem;
	/* The old session ends here: readers see no magic until it is all written. */
	((volatile struct htrace_super *)mem)->magic = 0;
	htrace_region_fence(r);
	/* The host's positions speak of the old session, and none is read while there is no magic. */
	zero(r->mem + HTRACE_HOST_RINGS_OFF, sizeof(struct htrace_host_ring) * HTRACE_MAX_RINGS);
	zero(r->mem + s->guest.off, htrace_align(sizeof(struct htrace_guest), 8));
	zero(r->mem + s->schema.off, sizeof(struct htrace_schema_area));
	zero(r->mem + s->names.off, sizeof(struct htrace_names));
	if (s->runs.len)
		zero(r->mem + s->runs.off, sizeof(struct htrace_runs));
	zero_rings(r);
	fill_guest(htrace_region_guest(r));
	begin_samples(r);
	memcpy((char *)mem + 8, (const char *)s + 8, sizeof(*s) - 8);
}

int htrace_region_format(struct htrace_region **out, void *mem, size_t size,
			 const struct htrace_region_opts *opts)
{
	int err;

	if (!mem || (uintptr_t)mem % 4096)
		return -EINVAL;
	err = htrace_region_plan(out, size, opts);
	if (!err)
		htrace_region_write(*out, mem);
	return err;
}

int htrace_region_fits(size_t size, const struct htrace_region_opts *opts)
{
	struct htrace_region *r;
	int err = htrace_region_plan(&r, size, opts);

	if (!err)
		htrace_region_release(r);
	return err;
}

void htrace_region_publish(struct htrace_region *r)
{
	settle_samples(r);
	htrace_region_fence(r);
	r->super.magic = HTRACE_MAGIC;
	__atomic_store_n(&((struct htrace_super *)r->mem)->magic, HTRACE_MAGIC, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

int htrace_region_adopt(struct htrace_region **out, void *mem, size_t size, bool io_memory)
{
	const struct htrace_schema_area *area;
	struct htrace_region *r;
	char why[128];
	__u8 boot[16];

	if (size < HTRACE_REGION_MIN)
		return -ENOENT;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->mem = mem;
	r->size = size;
	r->io_memory = io_memory;
	memcpy(&r->super, mem, sizeof(r->super));
	htrace_boot_id(boot);
	if (r->super.magic != HTRACE_MAGIC || htrace_super_check(&r->super, size, why, sizeof(why)) ||
	    memcmp(boot, r->super.boot_id, sizeof(boot)) ||
	    htrace_region_guest(r)->state != HTRACE_GUEST_RUNNING)
		goto none;
	area = htrace_region_schema(r);
	r->schema_len = area->bytes;
	if (r->schema_len > r->super.schema.len - sizeof(*area))
		goto none;
	r->schema = malloc(r->schema_len ? r->schema_len : 1);
	if (!r->schema) {
		free(r);
		return -ENOMEM;
	}
	memcpy(r->schema, area + 1, r->schema_len);
	htrace_region_guest(r)->agent_pid = (__u32)getpid();
	htrace_region_guest(r)->agent_ns = htrace_own_ns();
	r->began = htrace_region_guest(r)->clock[0].mono;
	*out = r;
	return 0;
none:
	free(r);
	return -ENOENT;
}

void htrace_region_release(struct htrace_region *r)
{
	if (!r)
		return;
	if (r->mapped)
		munmap(r->mem, r->size);
	free(r->schema);
	free(r);
}

void htrace_region_own_mapping(struct htrace_region *r)
{
	r->mapped = true;
}

/* ------------------------------------------------------------------------------------- pieces */

struct htrace_taken *htrace_region_taken(struct htrace_region *r)
{
	return &r->taken;
}

struct htrace_super *htrace_region_super(struct htrace_region *r)
{
	return &r->super;
}

struct htrace_guest *htrace_region_guest(struct htrace_region *r)
{
	return (void *)(r->mem + r->super.guest.off);
}

struct htrace_schema_area *htrace_region_schema(struct htrace_region *r)
{
	return (void *)(r->mem + r->super.schema.off);
}

struct htrace_names *htrace_region_names(struct htrace_region *r)
{
	return (void *)(r->mem + r->super.names.off);
}

struct htrace_runs *htrace_region_runs(struct htrace_region *r)
{
	return r->super.runs.len ? (void *)(r->mem + r->super.runs.off) : NULL;
}

const struct htrace_host *htrace_region_host(const struct htrace_region *r)
{
	return (const void *)(r->mem + HTRACE_HOST_OFF);
}

struct htrace_host_ring *htrace_host_words(struct htrace_region *r, __u32 slot)
{
	if (slot >= HTRACE_MAX_RINGS)
		return NULL;
	return (struct htrace_host_ring *)(r->mem + HTRACE_HOST_RINGS_OFF) + slot;
}

const struct htrace_host_ring *htrace_region_host_ring(const struct htrace_region *r, __u32 slot)
{
	return htrace_host_words((struct htrace_region *)r, slot);
}

struct htrace_ring *htrace_region_ring(struct htrace_region *r, __u32 set, __u32 index,
				       struct htrace_geometry *g)
{
	const struct htrace_ringset *s = &r->super.ringset[set < HTRACE_MAX_RINGSETS ? set : 0];

	if (set >= r->super.nr_ringsets || index >= s->nr_rings ||
	    s->placement == HTRACE_PLACEMENT_VSHMEM)
		return NULL;
	if (g)
		htrace_geometry_of(s, g);
	return (void *)(r->mem + s->off + index * s->stride);
}

/* --------------------------------------------------------------------------------- living words */

/* A pid namespace's number << 32, and the pid that it is of. */
static bool holder_dead(const struct htrace_super *s, __u64 holder)
{
	struct htrace_judge judge;

	htrace_judge_init(&judge, s->boot_id);
	return htrace_judge_dead(&judge, (__u32)holder,
				 (judge.ns & ~0xffffffffULL) | holder >> 32, 0);
}

/*
 * Samples come from whoever produces. The lock is the process's that holds it; who finds another at
 * it can do without a sample. If that one is dead, what it left half written was not announced.
 */
static bool lock_samples(struct htrace_region *r)
{
	struct htrace_guest *g = htrace_region_guest(r);
	__u64 holder = __atomic_load_n(&g->clock_lock, __ATOMIC_RELAXED);
	__u64 me = htrace_own_ns() << 32 | (__u32)getpid();

	if (holder && (holder == me || !holder_dead(&r->super, holder)))
		return false;
	return __atomic_compare_exchange_n(&g->clock_lock, &holder, me, false, __ATOMIC_ACQUIRE,
					   __ATOMIC_RELAXED);
}

static void put_sample(struct htrace_region *r, const struct htrace_clock_sample *s)
{
	struct htrace_guest *g = htrace_region_guest(r);
	__u64 head = g->clock_head;
	const __u64 *from = (const __u64 *)s;
	__u64 *to = (__u64 *)&g->clock[head % HTRACE_CLOCK_SAMPLES];

	/* By words: another thread may look at what was here 64 samples ago. */
	for (size_t i = 0; i < sizeof(*s) / 8; i++)
		htrace_store(&to[i], from[i]);
	htrace_region_fence(r);
	__atomic_store_n(&g->clock_head, head + 1, __ATOMIC_RELEASE);
}

/* Device memory has no atomics, and one writer. */
static void add_sample(struct htrace_region *r, const struct htrace_clock_sample *s)
{
	struct htrace_guest *g = htrace_region_guest(r);

	if (r->io_memory) {
		put_sample(r, s);
	} else if (lock_samples(r)) {
		put_sample(r, s);
		__atomic_store_n(&g->clock_lock, 0, __ATOMIC_RELEASE);
	}
}

/*
 * One when producers come and go, for regions that nobody beats the heart of: not more often than
 * that those kept cover all of its life.
 */
void htrace_region_sample(struct htrace_region *r)
{
	const struct htrace_guest *g = htrace_region_guest(r);
	__u64 head = __atomic_load_n(&g->clock_head, __ATOMIC_ACQUIRE);
	struct htrace_clock_sample s;
	__u64 last, pause;

	if (r->io_memory)
		return;
	last = head ? htrace_load(&g->clock[(head - 1) % HTRACE_CLOCK_SAMPLES].mono) : 0;
	htrace_clock_take(&s);
	pause = (s.mono - r->began) / HTRACE_CLOCK_SAMPLES;
	if (s.mono - last >= (pause > SAMPLE_PAUSE_NS ? pause : SAMPLE_PAUSE_NS))
		add_sample(r, &s);
}

/*
 * The first sample: from far back enough, if the process has one, that the second tells the rate. Who
 * finds another at it does without: in a child of a fork(2), that one may not be there to unlock.
 */
static void begin_samples(struct htrace_region *r)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static struct htrace_clock_sample earliest;
	struct htrace_clock_sample s;

	htrace_clock_take(&s);
	if (!pthread_mutex_trylock(&lock)) {
		if (s.mono - earliest.mono > BASELINE_MAX_NS)
			earliest = s;
		s = earliest;
		pthread_mutex_unlock(&lock);
	}
	r->began = s.mono;
	put_sample(r, &s);
}

/* The second one. Of ticks it takes two, some time apart, to know how long they are. */
static void settle_samples(struct htrace_region *r)
{
	struct htrace_clock_sample s;

	htrace_clock_take(&s);
	if (r->super.clock_id == HTRACE_CLOCK_TSC && s.mono - r->began < BASELINE_NS) {
		struct timespec rest = { .tv_nsec = (long)(BASELINE_NS - (s.mono - r->began)) };

		while (nanosleep(&rest, &rest) && errno == EINTR)
			;
		htrace_clock_take(&s);
	}
	add_sample(r, &s);
}

void htrace_region_beat(struct htrace_region *r, __u64 agent_cpu_ns)
{
	struct htrace_guest *g = htrace_region_guest(r);
	struct htrace_clock_sample s;

	htrace_clock_take(&s);
	add_sample(r, &s);
	g->agent_cpu_ns = agent_cpu_ns;
	g->heartbeat_mono = s.mono;
	htrace_region_fence(r);
	__atomic_store_n(&g->heartbeat, g->heartbeat + 1, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

void htrace_region_set_state(struct htrace_region *r, __u32 state)
{
	struct htrace_clock_sample s;

	if (state >= HTRACE_GUEST_CLOSING) { /* nobody may come to take another one */
		htrace_clock_take(&s);
		add_sample(r, &s);
	}
	htrace_region_fence(r);
	__atomic_store_n(&htrace_region_guest(r)->state, state, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

const void *htrace_region_schema_entries(const struct htrace_region *r, size_t *len)
{
	*len = r->schema_len;
	return r->schema;
}

int htrace_region_add_schema(struct htrace_region *r, const void *entries, size_t len)
{
	struct htrace_schema_area *a = htrace_region_schema(r);
	struct htrace_schema *parsed;
	char why[160];
	void *all;

	if (len % 8)
		return -EINVAL;
	if (len > r->super.schema.len - sizeof(*a) - r->schema_len)
		return -ENOSPC;
	all = realloc(r->schema, r->schema_len + len + 1);
	if (!all)
		return -ENOMEM;
	r->schema = all;
	memcpy((char *)all + r->schema_len, entries, len);
	if (htrace_schema_parse(&parsed, all, r->schema_len + len, why, sizeof(why))) {
		htrace_log(HTRACE_LOG_ERROR, "schema refused: %s", why);
		return -EINVAL;
	}
	htrace_schema_free(parsed);
	memcpy((char *)(a + 1) + r->schema_len, entries, len);
	r->schema_len += len;
	htrace_region_fence(r); /* a reader of the old generation may read bytes at any time */
	a->bytes = (__u32)r->schema_len;
	htrace_region_fence(r);
	__atomic_store_n(&a->generation, a->generation + 1, __ATOMIC_RELEASE);
	htrace_region_fence(r);
	return 0;
}

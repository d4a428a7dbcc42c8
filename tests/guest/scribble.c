/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Peers that a reader must survive, and one that it must serve: tests/system/test_hostile.py.
 *
 *	scribble good PATH SECONDS RATE         a tracer that numbers its records; prints how many
 *	scribble WHAT PATH SECONDS SEED         a local region, WHAT of it is scribbled over
 *	scribble expand|storm|closed|broken PATH SECONDS SEED
 *	                                        legal, but all the work and words that can be had
 *	scribble WHAT PATH SECONDS SEED RAM     the same with rings in a file that is a guest's RAM
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#define REGION (40u << 20)
#define RAM (64u << 20)
#define EVENT 1u
#define PAGE 4096u
#define MS 1000000ULL

struct numbered {
	__u64 number;
	char text[48];
};

struct peer {
	const char *what;
	char *mem, *ram, *space; /* space: the rings' pages side by side, as the guest has them */
	char *good;              /* the region's first part as it should be */
	size_t good_len;
	int ram_fd;
	struct htrace_region *region;
	struct htrace_super super;
	struct htrace_producer producer;
	__u64 number;
	volatile bool stop;
};

static __u64 state;

static __u64 random_word(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000 * MS + (__u64)t.tv_nsec;
}

static void need(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	exit(1);
}

/* ------------------------------------------------------------------------------------- a region */

static void declare(struct htrace_region *r)
{
	struct htrace_schema_member m[2] = {
		{ .bit_off = 0, .name = "number" }, { .bit_off = 64, .name = "text" },
	};
	struct htrace_schema_builder *b;
	const void *entries;
	size_t len;

	need(!htrace_builder_new(&b, NULL, 0), "schema");
	m[0].type = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	m[1].type = (__u32)htrace_builder_string(b, sizeof(((struct numbered *)0)->text));
	need(htrace_builder_event(b, "numbered", htrace_builder_struct(b, NULL, false,
			sizeof(struct numbered), m, 2)) == (int)EVENT, "event");
	entries = htrace_builder_entries(b, &len);
	need(!htrace_region_add_schema(r, entries, len), "add schema");
	htrace_builder_free(b);
}

static void place_in_ram(struct peer *p)
{
	struct htrace_runs *runs = (void *)(p->mem + p->super.runs.off);
	struct htrace_anchor *a = (void *)(runs + 1);
	const struct htrace_ringset *set = &p->super.ringset[0];
	__u32 pages = (__u32)(set->stride * set->nr_rings / PAGE), nr = 2 * set->nr_rings;
	struct htrace_run *run = (void *)(a + nr);

	if (!p->space)
		p->space = mmap(NULL, (size_t)pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (__u32 i = 0; i < pages; i++) { /* in falling order, every other page */
		run[i].gpfn = 256 + 2 * (pages - i);
		run[i].nr_pages = 1;
		need(mmap(p->space + i * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			  p->ram_fd, (off_t)run[i].gpfn * PAGE) != MAP_FAILED, "mmap");
	}
	for (__u32 i = 0; i < nr; i++) {
		__u64 off = i / 2 * set->stride;

		memset(p->space + off, 0, set->data_off);
		off += i & 1 ? set->stride - 8 : offsetof(struct htrace_ring, anchor);
		a[i].gpa = run[off / PAGE].gpfn * PAGE + off % PAGE;
		a[i].nonce = random_word() | 1;
	}
	for (__u32 i = 0; i < nr; i++) {
		__u64 off = i / 2 * set->stride;

		off += i & 1 ? set->stride - 8 : offsetof(struct htrace_ring, anchor);
		*(__u64 *)(p->space + off) = a[i].nonce;
	}
	runs->nr_anchors = nr;
	runs->nr_runs = runs->nr_pages = pages;
}

static void make(struct peer *p, bool overwrite)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .policy = overwrite ? HTRACE_OVERWRITE : HTRACE_DISCARD,
		.placement = p->ram ? HTRACE_PLACEMENT_VSHMEM : HTRACE_PLACEMENT_LOCAL,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 4, .ring_size = 1 << 20,
		.block_size = 1 << 14,
	};
	const struct htrace_ringset *set;

	if (!strcmp(p->what, "broken")) {
		o.nr_rings = 128;
		o.ring_size = 1 << 16;
	}
	htrace_region_release(p->region);
	need(!htrace_region_format(&p->region, p->mem, REGION, &o), "format");
	p->super = *htrace_region_super(p->region);
	set = &p->super.ringset[0];
	declare(p->region);
	htrace_region_guest(p->region)->heartbeat_ms = 50;
	if (p->ram)
		place_in_ram(p);
	else
		need(!htrace_producer_get(&p->producer, p->region, 0, 0), "producer");
	if (p->ram) {
		p->producer.ring = (void *)p->space;
		p->producer.consumed = &p->producer.ring->consumed;
		htrace_geometry_init(&p->producer.geometry, 1ULL << set->ring_shift,
				     1ULL << set->block_shift, set->policy);
		p->producer.schema = 1;
		p->producer.process = &p->producer.process_id; /* taken of nobody, ours always */
	}
	htrace_region_set_state(p->region, HTRACE_GUEST_RUNNING);
	htrace_region_beat(p->region, 0);
	htrace_region_publish(p->region);
	p->good_len = p->ram ? p->super.runs.off + p->super.runs.len : set->off;
	p->good = realloc(p->good, p->good_len);
	memcpy(p->good, p->mem, p->good_len);
}

static void push(struct peer *p)
{
	struct numbered n = { .number = p->number++, .text = "plain" };

	htrace_push(&p->producer, EVENT, &n, sizeof(n));
}

static int run_good(struct peer *p, __u64 end, unsigned int rate)
{
	const struct htrace_host *host = (const void *)(p->mem + HTRACE_HOST_OFF);
	__u64 start = now(), beat = 0;

	make(p, true);
	for (__u64 t = start; t < end; t = now()) {
		while (p->number < (t - start) * rate / (1000 * MS))
			push(p);
		if (t >= beat)
			htrace_region_beat(p->region, 0);
		beat = t >= beat ? t + 50 * MS : beat;
		usleep(1000);
	}
	htrace_region_set_state(p->region, HTRACE_GUEST_CLOSING);
	for (int i = 0; i < 1000 && __atomic_load_n(&host->drained, __ATOMIC_ACQUIRE) !=
	     p->super.session; i++) {
		usleep(10000);
		htrace_region_beat(p->region, 0);
	}
	htrace_region_set_state(p->region, HTRACE_GUEST_CLOSED);
	printf("%llu\n", (unsigned long long)p->number);
	return 0;
}

/* -------------------------------------------------------- legal, and as much work as can be had */

static char *add_entry(struct htrace_schema_area *a, __u16 kind, size_t len)
{
	struct htrace_schema_entry *e = (void *)((char *)(a + 1) + a->bytes);

	memset(e, 0, len);
	e->kind = kind;
	e->len = (__u32)len;
	a->bytes += (__u32)len;
	return (char *)e;
}

static void add_type(struct htrace_schema_area *a, __u32 number, __u16 kind, __u32 size, __u32 nr,
		     __u32 of, __u32 step)
{
	struct htrace_schema_type *t = (void *)add_entry(a, HTRACE_SCHEMA_TYPE,
			sizeof(*t) + nr * sizeof(struct htrace_schema_member));
	struct htrace_schema_member *m = (void *)(t + 1);

	t->type = number;
	t->kind = kind;
	t->size = size;
	t->nr = nr;
	for (__u32 i = 0; i < nr; i++) {
		m[i].type = of;
		m[i].bit_off = i * step * 8;
		snprintf(m[i].name, sizeof(m[i].name), "a_name_that_is_as_long_as_it_may_%u", i);
	}
}

/* The schema's area is made larger, at the region's end. */
static struct htrace_schema_area *large_schema(struct peer *p)
{
	struct htrace_super *s = (void *)p->mem;
	struct htrace_schema_area *a = (void *)(p->mem + REGION - (18u << 20));

	s->schema.off = REGION - (18u << 20);
	s->schema.len = 18u << 20;
	s->session++;
	memset(a, 0, sizeof(*a));
	return a;
}

static int run_costly(struct peer *p, __u64 end)
{
	bool expand = !strcmp(p->what, "expand");
	struct htrace_schema_area *a;
	struct htrace_ring *ring;
	__u64 all = ~0ULL;

	make(p, true);
	((struct htrace_super *)p->mem)->magic = 0;
	a = large_schema(p);
	add_type(a, 1, HTRACE_TYPE_INT, expand ? 8 : 1, 0, 0, 0);
	if (expand) { /* 16 bytes of record are some 200 KiB of text */
		add_type(a, 2, HTRACE_TYPE_UNION, 8, 4000, 1, 0);
		add_type(a, 3, HTRACE_TYPE_STRUCT, 8, 1, 2, 0);
	} else { /* and each event's members are looked through */
		add_type(a, 2, HTRACE_TYPE_STRUCT, 4000, 4000, 1, 1);
	}
	for (__u32 i = 1; i <= (expand ? 1 : HTRACE_MAX_EVENTS); i++) {
		struct htrace_schema_event *e = (void *)add_entry(a, HTRACE_SCHEMA_EVENT, sizeof(*e));

		e->id = i;
		e->type = expand ? 3 : 2;
		snprintf(e->name, sizeof(e->name), "event_%u", i);
	}
	a->generation = 1;
	__atomic_store_n((__u64 *)p->mem, HTRACE_MAGIC, __ATOMIC_RELEASE);
	for (int i = 0; now() < end; i++) {
		if (!strcmp(p->what, "closed") || !strcmp(p->what, "broken")) {
			if (i % (*p->what == 'c' ? 1 : 40) == 0)
				make(p, true);
			if (*p->what == 'c')
				htrace_region_set_state(p->region, HTRACE_GUEST_CLOSED);
			for (__u32 k = 0; k < 128 && *p->what == 'b'; k++) {
				ring = htrace_region_ring(p->region, 0, k, NULL);
				ring->head = ~0ULL;
			}
		} else if (expand) {
			for (int k = 0; k < 200; k++)
				htrace_push(&p->producer, EVENT, &all, sizeof(all));
		} else {
			a->generation++;
		}
		htrace_region_beat(p->region, 0);
		usleep(15000);
	}
	return 0;
}

/* ----------------------------------------------------------------------------------- scribbling */

static __u64 odd_word(void)
{
	static const __u64 odd[] = {
		0, 1, 2, 3, ~0ULL, 1ULL << 63, 1ULL << 62, (1ULL << 62) + 8, 1ULL << 32, 0xffffffff,
		0xffff, 60000, HTRACE_MAGIC, 0x1b5b324a1b5b3148 /* ESC[2J ESC[1H */, 0x0a0d9b07,
	};

	return random_word() % 4 ? odd[random_word() % (sizeof(odd) / sizeof(*odd))] : random_word();
}

static void scribble(char *at, size_t len)
{
	volatile __u64 *w = (volatile __u64 *)at + random_word() % (len / 8);

	switch (random_word() % 5) {
	case 0:
		*w ^= 1ULL << random_word() % 64;
		break;
	case 1:
		*w += (random_word() % 64 - 32) * 8;
		break;
	case 2:
		*w += 1ULL << random_word() % 44;
		break;
	case 3:
		((volatile __u32 *)w)[random_word() % 2] = (__u32)odd_word();
		break;
	default:
		*w = odd_word();
	}
}

/* A part of ring @i. */
static void scribble_ring(struct peer *p, const char *part)
{
	const struct htrace_ringset *set = &p->super.ringset[0];
	char *ring = (p->ram ? p->space : p->mem + set->off) + random_word() % 2 * set->stride;

	if (!strcmp(part, "head"))
		((struct htrace_ring *)ring)->head += random_word() % 2 ? 1ULL << random_word() % 44 :
							  (random_word() % 4096) * 8;
	else if (!strcmp(part, "ring"))
		scribble(ring, sizeof(struct htrace_ring));
	else if (!strcmp(part, "blocks"))
		scribble(ring + set->desc_off, set->data_off - set->desc_off);
	else
		scribble(ring + set->data_off, 1ULL << set->ring_shift);
}

static bool is(const struct peer *p, const char *what)
{
	return !strcmp(p->what, what) || !strcmp(p->what, "all");
}

static void scribble_once(struct peer *p)
{
	static const char *const parts[] = { "head", "ring", "blocks", "data" };
	const struct htrace_super *s = &p->super;

	if (is(p, "super") && now() / (150 * MS) % 3 == 0) /* a region refused for 1 s is given up */
		scribble(p->mem, sizeof(*s));
	if (is(p, "guest"))
		scribble(p->mem + s->guest.off, random_word() % 2 ? 256 : sizeof(struct htrace_guest));
	if (is(p, "schema"))
		scribble(p->mem + s->schema.off, random_word() % 4 ? 1024 : 64);
	if (is(p, "names"))
		scribble(p->mem + s->names.off, random_word() % 4 ? 4096 : 64);
	if (p->ram && is(p, "runs"))
		scribble(p->mem + s->runs.off, 4096);
	if (p->ram && is(p, "anchors")) { /* they come and go */
		__u64 *at = (__u64 *)(p->space + offsetof(struct htrace_ring, anchor)), was = *at;

		*at = 0;
		usleep(100);
		*at = was;
	}
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		if (is(p, parts[i]))
			scribble_ring(p, parts[i]);
}

static void *produce(void *arg)
{
	struct peer *p = arg;

	while (!p->stop) {
		for (int i = 0; i < 50; i++)
			push(p);
		usleep(1000);
	}
	return NULL;
}

static int run_hostile(struct peer *p, __u64 end)
{
	__u64 mended = 0, beat = 0, born = 0;
	pthread_t thread;

	while (now() < end) {
		__u64 t = now();

		if (t >= born) { /* another session: what was broken in the one before is whole again */
			if (born) {
				p->stop = true;
				pthread_join(thread, NULL);
				p->stop = false;
			}
			make(p, random_word() % 2);
			need(!pthread_create(&thread, NULL, produce, p), "thread");
			born = t + (is(p, "sessions") ? 30 * MS : 1000 * MS);
		}
		if (t >= mended) { /* so that what is refused is tried again */
			memcpy(p->mem, p->good, HTRACE_HOST_OFF);
			memcpy(p->mem + HTRACE_FIXED_END, p->good + HTRACE_FIXED_END,
			       p->good_len - HTRACE_FIXED_END);
			mended = t + 100 * MS;
		}
		if (t >= beat) {
			((struct htrace_guest *)(p->mem + p->super.guest.off))->heartbeat++;
			((struct htrace_schema_area *)(p->mem + p->super.schema.off))->generation++;
			beat = t + 20 * MS;
		}
		for (int i = 0; i < 20; i++)
			scribble_once(p);
		usleep(200);
	}
	p->stop = true;
	pthread_join(thread, NULL);
	return 0;
}

static char *map(const char *path, size_t size, int *fd)
{
	char *mem;

	*fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	need(*fd >= 0 && !ftruncate(*fd, (off_t)size), path);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	need(mem != MAP_FAILED, "mmap");
	return mem;
}

int main(int argc, char **argv)
{
	struct peer p = { .ram_fd = -1 };
	__u64 end;
	int fd;

	if (argc < 5) {
		fprintf(stderr, "usage: scribble WHAT PATH SECONDS RATE-OR-SEED [RAM]\n");
		return 2;
	}
	p.what = argv[1];
	p.mem = map(argv[2], REGION, &fd);
	end = now() + (__u64)(atof(argv[3]) * 1e9);
	state = strtoull(argv[4], NULL, 10) * 0x9e3779b97f4a7c15ULL + 1;
	if (argc > 5)
		p.ram = map(argv[5], RAM, &p.ram_fd);
	if (!strcmp(p.what, "good"))
		return run_good(&p, end, (unsigned int)atoi(argv[4]));
	if (!strcmp(p.what, "expand") || !strcmp(p.what, "storm") || !strcmp(p.what, "closed") ||
	    !strcmp(p.what, "broken"))
		return run_costly(&p, end);
	return run_hostile(&p, end);
}

// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A raw capture of full rings, as host-reader writes it, without a copy and with one, against plain large
 * writes of the same bytes from the same memory, and against writers that copy first: into one buffer, and
 * into as many as writes are under way. Speed until all is handed to the kernel, and CPU time per byte, with
 * that of the kernel's own threads. Then many rings' bytes on end, until they are on the disk; and a steady
 * million events a second, by host-reader itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/producer.h>
#include <htrace/schema.h>

#include "bench.h"
#include "capture_read.h"
#include "select.h"
#include "session.h"
#include "uring.h"

#define NAME "raw"
/* Read once: times of a ring that is read again step back. What the page cache takes without waiting for the disk. */
#define RING (256u << 20)
#define QUICK_RING (64u << 20)
#define BLOCK (64u << 10)
#define LARGE (1u << 20) /* a large write */
#define DEPTH 12
#define EVENTS 7

static char dir[256];
static bool quick;

struct box {
	struct htrace_ring *ring;       /* as the producer has it ... */
	const struct htrace_ring *seen; /* ... and, read-only, as a reader does */
	struct htrace_geometry g;
	uint64_t events, bytes;
	uint32_t size; /* of a record */
};

static const char *in_dir(const char *name)
{
	static char path[300];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void remove_all(const char *name)
{
	char command[360];

	snprintf(command, sizeof(command), "rm -rf '%s'", in_dir(name));
	if (system(command))
		bench_die("removing files", EIO);
}

/* One lap, as many blocks as there are but the last ones. */
static void fill(struct box *b, uint32_t size)
{
	int fd = memfd_create("ring", MFD_CLOEXEC);
	size_t len;
	uint64_t time = 1000000;

	if (htrace_geometry_init(&b->g, quick ? QUICK_RING : RING, BLOCK, HTRACE_DISCARD))
		bench_die("geometry", EINVAL);
	len = htrace_image_size(&b->g, 4096);
	if (fd < 0 || ftruncate(fd, (off_t)len))
		bench_die("memory", errno);
	b->ring = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	b->seen = mmap(NULL, len, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	close(fd);
	if (b->ring == MAP_FAILED || b->seen == MAP_FAILED)
		bench_die("memory", errno);
	b->events = b->bytes = 0;
	b->size = size;
	while (b->ring->head < b->g.ring_mask + 1 - 2 * BLOCK) {
		struct htrace_slot slot;
		uint64_t *at = htrace_reserve(b->ring, &b->g, &b->ring->consumed, 1 + b->events % EVENTS,
					      size - HTRACE_REC_HDR, 1, time++, &slot);

		if (!at)
			bench_die("a full ring", ENOSPC);
		for (unsigned int i = 0; i < size / 8 - 1; i++)
			at[i] = b->events + i;
		htrace_commit(&slot);
		b->events++;
		b->bytes += size;
	}
}

static void empty(struct box *b)
{
	munmap(b->ring, htrace_image_size(&b->g, 4096));
	munmap((void *)b->seen, htrace_image_size(&b->g, 4096));
}

/* ------------------------------------------------------------------------------------- the capture */

/* Is all of it there, in order? */
static const char *wrong_capture(uint64_t events)
{
	struct capture_reader *r;
	struct capture_next n;
	char err[256];
	uint64_t found = 0, bad = 0, expect = 0;
	int fd = open(in_dir("capture"), O_RDONLY | O_DIRECTORY), ret;

	if (fd < 0 || capture_reader_open(&r, fd, "source1-session1", err, sizeof(err)))
		return "the capture cannot be opened";
	while ((ret = capture_reader_next(r, &n)) > 0) {
		struct htrace_record rec;
		struct htrace_iter it;

		bad += ret == 2;
		if (ret == 2 || n.item.kind != CAPTURE_BATCH)
			continue;
		bad += n.batch.overwritten + n.batch.dropped + n.batch.corrupt;
		for (htrace_iter_init(&it, &n.batch); htrace_iter_next(&it, &rec); found++)
			bad += *(const uint64_t *)rec.payload != expect++;
	}
	bad += capture_reader_damage(r) != NULL;
	capture_reader_close(r);
	close(fd);
	return bad || found != events ? "what is in the capture is not what was in the ring" : NULL;
}

/* @any: there is one more event, whose records have any length, so that nobody knows without a look. */
static void describe(struct session *s, uint32_t size, bool any)
{
	struct htrace_schema_builder *b;
	const void *entries;
	char err[256];
	size_t len;
	int u64;

	if (htrace_builder_new(&b, NULL, 0))
		bench_die("a schema", ENOMEM);
	u64 = htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	for (int i = 0; i < EVENTS + any; i++) {
		uint32_t nr = i < EVENTS ? size / 8 - 1 : 0;
		const struct htrace_schema_member m = {
			.type = (uint32_t)htrace_builder_array(b, u64, nr), .name = "values",
		};
		char name[16];

		snprintf(name, sizeof(name), "call%d", i);
		if (htrace_builder_event(b, name, htrace_builder_struct(b, name, false, 8 * nr, &m, 1)) != 1 + i)
			bench_die(htrace_builder_error(b), EINVAL);
	}
	entries = htrace_builder_entries(b, &len);
	if (session_schema(s, 1, entries, len, bench_now(), err, sizeof(err)))
		bench_die(err, EINVAL);
	htrace_builder_free(b);
}

/* All that is in the ring, as live.c does it, pass by pass. */
static void capture_ring(struct session *s, const struct box *b, bool lend)
{
	struct htrace_image image = { .ring = b->seen, .geometry = b->g,
				      .placement = HTRACE_PLACEMENT_LOCAL };
	struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
	struct htrace_consumer *c;
	struct htrace_batch batch;
	uint64_t used = 0;

	if (htrace_consumer_new(&c, &image, &opts))
		bench_die("consumer", ENOMEM);
	while ((lend ? htrace_consumer_borrow_unseen(c, &batch) : htrace_consumer_read(c, &batch)) == 1) {
		int ret = lend ? session_lent(s, 0, c, &batch, bench_now(), false) :
				 session_batch(s, 0, &batch, bench_now(), false, 0);

		if (ret)
			bench_die("capturing", ret);
		used += batch.len;
		if (used >= LARGE) {
			session_take_back(s, TAKE_BACK_DONE);
			used = 0;
		}
	}
	session_take_back(s, TAKE_BACK_ALL);
	htrace_consumer_free(c);
}

static const char *capture(const struct box *b, bool lend, bool any, const char *option)
{
	struct session_facts facts = {
		.session = 1, .clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = 1, .nr_sets = 1,
		.set = { { HTRACE_DISCARD, HTRACE_RING_PER_CPU, 1, b->g.ring_shift, b->g.block_shift } },
	};
	struct session_config c = { .facts = &facts, .path = "bench", .origin = "bench", .lend = lend };
	static struct say_quota quota;
	char spec[320], err[256];
	const char *specs = spec;
	struct sinks sinks;
	struct stats stats;
	struct session *s;
	const char *wrong;

	snprintf(spec, sizeof(spec), "raw:%s%s", in_dir("capture"), option);
	if (selection_new(&c.selection, NULL))
		bench_die("a selection", ENOMEM);
	c.sinks = &sinks;
	c.stats = &stats;
	c.quota = &quota;
	if (sinks_open(&sinks, &specs, 1) || sinks_begin(&sinks) || stats_init(&stats) ||
	    session_open(&s, &c, err, sizeof(err)))
		bench_die("a capture", EIO);
	describe(s, b->size, any);
	capture_ring(s, b, lend);
	session_close(s);
	wrong = stats_total(&stats).events != b->events ? "another number of events" : NULL;
	stats_free(&stats);
	selection_free(c.selection);
	return sinks_close(&sinks) ? "writing failed" : wrong;
}

static const char *capture_lent(const struct box *b)
{
	return capture(b, true, false, "");
}

static const char *capture_scanned(const struct box *b)
{
	return capture(b, true, true, "");
}

static const char *capture_copied(const struct box *b)
{
	return capture(b, false, true, "");
}

static const char *capture_direct(const struct box *b)
{
	return capture(b, true, false, ",direct");
}

/* --------------------------------------------------------------------------------- plain writers */

static int create(int flags)
{
	int fd = open(in_dir("plain"), O_WRONLY | O_CREAT | O_TRUNC | flags, 0600);

	if (fd < 0)
		bench_die("a file", errno);
	return fd;
}

static const char *data_at(const struct box *b, uint64_t at)
{
	return (const char *)b->seen + b->g.data_off + at;
}

static void write_one(int fd, const void *p)
{
	if (write(fd, p, LARGE) != LARGE)
		bench_die("writing", errno);
}

static const char *plain(const struct box *b, int flags)
{
	int fd = create(flags);

	for (uint64_t at = 0; at + LARGE <= b->bytes; at += LARGE)
		write_one(fd, data_at(b, at));
	close(fd);
	return NULL;
}

static const char *write_plain(const struct box *b)
{
	return plain(b, 0);
}

static const char *write_direct(const struct box *b)
{
	return plain(b, O_DIRECT);
}

static const char *copied(const struct box *b, int flags)
{
	static char buf[LARGE] __attribute__((aligned(4096)));
	int fd = create(flags);

	for (uint64_t at = 0; at + LARGE <= b->bytes; at += LARGE) {
		memcpy(buf, data_at(b, at), LARGE);
		write_one(fd, buf);
	}
	close(fd);
	return NULL;
}

static const char *write_copied(const struct box *b)
{
	return copied(b, 0);
}

static const char *write_copied_direct(const struct box *b)
{
	return copied(b, O_DIRECT);
}

struct flight {
	struct uring_write w;
	struct iovec v;
	char *buf;
	bool busy;
};

static void landed(struct uring_write *w)
{
	if (w->error)
		bench_die("writing", w->error);
	((struct flight *)w)->busy = false;
}

/* Copies, and as many writes under way as we have. */
static const char *copied_ahead(const struct box *b, int flags)
{
	static struct flight flight[DEPTH];
	struct uring *q;
	unsigned int i = 0;
	int fd = create(flags);

	if (uring_new(&q, DEPTH))
		bench_die("io_uring", ENOMEM);
	for (uint64_t at = 0; at + LARGE <= b->bytes; at += LARGE, i = (i + 1) % DEPTH) {
		struct flight *f = &flight[i];

		while (f->busy)
			uring_reap(q, true);
		if (!f->buf)
			f->buf = aligned_alloc(4096, LARGE);
		memcpy(f->buf, data_at(b, at), LARGE);
		f->v = (struct iovec){ f->buf, LARGE };
		f->w = (struct uring_write){ .fd = fd, .at = at, .v = &f->v, .nr = 1, .done = landed };
		f->busy = true;
		uring_write(q, &f->w);
	}
	uring_free(q);
	close(fd);
	return NULL;
}

static const char *write_copied_ahead(const struct box *b)
{
	return copied_ahead(b, 0);
}

static const char *write_copied_ahead_direct(const struct box *b)
{
	return copied_ahead(b, O_DIRECT);
}

/* -------------------------------------------------------------------------------------- measuring */

static const struct {
	const char *name;
	const char *(*run)(const struct box *b);
	bool capture;
} cases[] = {
	{ "plain write", write_plain, false },
	{ "copy, write", write_copied, false },
	{ "copy, write ahead", write_copied_ahead, false },
	{ "raw", capture_lent, true },
	{ "raw, any length", capture_scanned, true },
	{ "raw --copy", capture_copied, true },
	{ "plain write, O_DIRECT", write_direct, false },
	{ "copy, write, O_DIRECT", write_copied_direct, false },
	{ "copy, write ahead, O_DIRECT", write_copied_ahead_direct, false },
	{ "raw, O_DIRECT", capture_direct, true },
};

#define CASES (sizeof(cases) / sizeof(*cases))

static void measure(uint32_t size)
{
	static struct bench_rounds speed[CASES], cpu[CASES];
	const char *wrong[CASES] = { NULL };
	int rounds = quick ? 2 : 9;
	struct box b;
	char params[80];

	memset(speed, 0, sizeof(speed));
	memset(cpu, 0, sizeof(cpu));
	fill(&b, size);
	for (int round = -1; round < rounds; round++) /* one to warm up */
		for (size_t i = 0; i < CASES; i++) {
			uint64_t start = bench_now(), used = bench_clock(CLOCK_PROCESS_CPUTIME_ID);
			const char *err = cases[i].run(&b);
			double ns = (double)(bench_now() - start), bytes = (double)(b.bytes);

			used = bench_clock(CLOCK_PROCESS_CPUTIME_ID) - used;
			if (!err && cases[i].capture)
				err = wrong_capture(b.events);
			wrong[i] = wrong[i] ? wrong[i] : err;
			remove_all("capture");
			remove_all("plain");
			if (round < 0)
				continue;
			bench_add(&speed[i], bytes / ns);
			bench_add(&cpu[i], (double)used / bytes * 1000);
		}
	for (size_t i = 0; i < CASES; i++) {
		snprintf(params, sizeof(params), "\"what\": \"speed\", \"record\": %u", size);
		bench_print(NAME, cases[i].name, params, "GB/s", &speed[i], wrong[i]);
		snprintf(params, sizeof(params), "\"what\": \"CPU\", \"record\": %u", size);
		bench_print(NAME, cases[i].name, params, "ps/B", &cpu[i], wrong[i]);
	}
	empty(&b);
}

/* -------------------------------------------------------------------------------------- sustained */

#define LAPS 16
#define QUICK_LAPS 2

/* What a lap wrote stays, under another name. */
static void keep(const char *name, unsigned int lap)
{
	char to[310];

	snprintf(to, sizeof(to), "%s/%s%u", dir, name, lap);
	if (rename(in_dir(name), to))
		bench_die("renaming", errno);
}

static void give_back(const char *name, unsigned int lap)
{
	char from[310];

	snprintf(from, sizeof(from), "%s/%s%u", dir, name, lap);
	if (rename(from, in_dir(name)))
		bench_die("renaming", errno);
}

static void reach_the_disk(void)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);

	if (fd < 0 || syncfs(fd))
		bench_die("syncing", errno);
	close(fd);
}

/*
 * The ring's bytes lap by lap, each into files of its own (as those of rotation), then whatever of it the disk does
 * not have yet: more than the page cache takes without waiting. What others left there is gone before.
 */
static double sustained(const struct box *b, size_t nr, unsigned int laps, const char **wrong)
{
	const char *name = cases[nr].capture ? "capture" : "plain";
	const char *err = NULL, *bad;
	uint64_t ns;

	reach_the_disk();
	ns = bench_now();
	for (unsigned int lap = 0; lap < laps; lap++) {
		bad = cases[nr].run(b);
		err = err ? err : bad;
		keep(name, lap);
	}
	reach_the_disk();
	ns = bench_now() - ns;
	for (unsigned int lap = 0; lap < laps; lap++) {
		give_back(name, lap);
		if (!err && cases[nr].capture)
			err = wrong_capture(b->events);
		remove_all(name);
	}
	*wrong = *wrong ? *wrong : err;
	return (double)(b->bytes * laps) / (double)ns;
}

static void measure_sustained(uint32_t size)
{
	static const char *const these[] = { "plain write", "raw", "plain write, O_DIRECT", "raw, O_DIRECT" };
	static struct bench_rounds speed[CASES];
	const char *wrong[CASES] = { NULL };
	unsigned int laps = quick ? QUICK_LAPS : LAPS;
	struct box b;
	char params[80];

	memset(speed, 0, sizeof(speed));
	fill(&b, size);
	snprintf(params, sizeof(params), "\"what\": \"sustained\", \"record\": %u, \"MiB\": %u", size,
		 (unsigned int)(b.bytes * laps >> 20));
	for (int round = 0; round < (quick ? 1 : 5); round++)
		for (size_t t = 0; t < sizeof(these) / sizeof(*these); t++)
			for (size_t i = 0; i < CASES; i++)
				if (!strcmp(cases[i].name, these[t]))
					bench_add(&speed[i], sustained(&b, i, laps, &wrong[i]));
	for (size_t i = 0; i < CASES; i++)
		if (speed[i].nr)
			bench_print(NAME, cases[i].name, params, "GB/s", &speed[i], wrong[i]);
	empty(&b);
}

/* --------------------------------------------------------------------------------------- steadily */

#define RINGS 4
#define RATE 1000000u /* of all rings */

struct tracer {
	struct htrace_region *region;
	uint32_t id;
	uint64_t records, tried;
};

struct call {
	uint64_t seq, value, time;
};

static uint32_t declare(struct htrace_region *r)
{
	struct htrace_schema_builder *b;
	const void *entries;
	uint32_t u64;
	size_t len;
	int id;

	if (htrace_builder_new(&b, NULL, 0))
		bench_die("a schema", ENOMEM);
	u64 = (uint32_t)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member m[] = {
		{ .type = u64, .name = "seq" }, { .type = u64, .bit_off = 64, .name = "value" },
		{ .type = u64, .bit_off = 128, .name = "time" },
	};
	id = htrace_builder_event(b, "call",
				  htrace_builder_struct(b, "call", false, sizeof(struct call), m, 3));
	entries = htrace_builder_entries(b, &len);
	if (id < 0 || htrace_region_add_schema(r, entries, len))
		bench_die("a schema", EINVAL);
	htrace_builder_free(b);
	return (uint32_t)id;
}

/* In bursts of a tenth of a millisecond. */
static void *trace(void *arg)
{
	struct tracer *t = arg;
	struct htrace_producer p;
	uint64_t start = bench_now();
	struct call c = { 0 };

	if (htrace_producer_get(&p, t->region, 0, -1))
		bench_die("a ring", EBUSY);
	for (; c.seq < t->tried; c.seq++) {
		while (c.seq % (RATE / RINGS / 10000) == 0 &&
		       bench_now() < start + c.seq * (1000000000ull * RINGS / RATE))
			usleep(50);
		t->records += !htrace_push(&p, t->id, &c, sizeof(c));
	}
	return NULL;
}

static pid_t start_reader(const char *region)
{
	char source[320], output[320], reader[512];
	const char *build = getenv("HTRACE_BUILD");
	pid_t pid;

	snprintf(reader, sizeof(reader), "%s/host-reader/host-reader", build ? build : "build");
	snprintf(source, sizeof(source), "local:%s,trusted", region);
	snprintf(output, sizeof(output), "raw:%s", in_dir("capture"));
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_WRONLY);

		dup2(null, STDERR_FILENO);
		execl(reader, "host-reader", source, "-o", output, "--sync", "timer:20000", (char *)NULL);
		_exit(127);
	}
	return pid;
}

static double cpu_ns(clockid_t cpu)
{
	struct timespec ts;

	if (clock_gettime(cpu, &ts))
		bench_die("host-reader's CPU time", errno);
	return (double)ts.tv_sec * 1e9 + (double)ts.tv_nsec;
}

/* Percent of a core that host-reader takes for it, once both are under way. */
static double steady(unsigned int seconds, const char **wrong)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = RINGS, .ring_size = 4u << 20,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	struct tracer tracer[RINGS] = { 0 };
	pthread_t thread[RINGS];
	double cpu, elapsed;
	struct htrace_region *r;
	uint64_t records = 0;
	char region[300];
	clockid_t clock;
	int fd, status;
	pid_t pid;

	snprintf(region, sizeof(region), "/dev/shm/htrace-bench-%d", getpid());
	if (htrace_region_create_local(&r, region, 32u << 20, &o, &fd))
		bench_die("a region", EIO);
	tracer[0].id = declare(r);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	pid = start_reader(region);
	for (int i = 0; i < 5000 &&
	     __atomic_load_n(&htrace_region_host(r)->state, __ATOMIC_ACQUIRE) != HTRACE_HOST_ATTACHED; i++)
		usleep(1000);
	for (int i = 0; i < RINGS; i++) {
		tracer[i] = (struct tracer){ .region = r, .id = tracer[0].id,
					     .tried = (uint64_t)seconds * RATE / RINGS };
		pthread_create(&thread[i], NULL, trace, &tracer[i]);
	}
	usleep(seconds * 100000);
	if (clock_getcpuclockid(pid, &clock))
		bench_die("host-reader's CPU time", ESRCH);
	cpu = cpu_ns(clock);
	elapsed = (double)bench_now();
	for (int i = 0; i < RINGS; i++) {
		pthread_join(thread[i], NULL);
		records += tracer[i].records;
	}
	cpu = cpu_ns(clock) - cpu;
	elapsed = (double)bench_now() - elapsed;
	kill(pid, SIGINT);
	if (waitpid(pid, &status, 0) != pid || status)
		bench_die("host-reader", EIO);
	unlink(region);
	htrace_region_release(r);
	close(fd);
	if (records != (uint64_t)seconds * RATE)
		*wrong = "events were dropped";
	remove_all("capture");
	return 100 * cpu / elapsed;
}

static void measure_steady(void)
{
	struct bench_rounds rounds = { .nr = 0 }, core = { .nr = 0 };
	const char *wrong = NULL;

	for (int i = 0; i < (quick ? 1 : 3); i++) {
		bench_add(&rounds, steady(quick ? 1 : 5, &wrong));
		bench_add(&core, 100);
	}
	bench_print(NAME, "a million events a second", "\"sync\": \"timer:20000\"", "% CPU", &rounds, wrong);
	bench_print(NAME, "a core", "", "% CPU", &core, NULL);
}

int main(int argc, char **argv)
{
	const char *build = getenv("HTRACE_BUILD");

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--quick"))
			quick = true;
		else
			build = argv[i]; /* files go there */
	snprintf(dir, sizeof(dir), "%s/raw-bench-XXXXXX", build ? build : ".");
	if (!mkdtemp(dir))
		bench_die(dir, errno);
	measure(32);
	if (!quick)
		measure(256);
	measure_sustained(32);
	measure_steady();
	rmdir(dir);
	return 0;
}

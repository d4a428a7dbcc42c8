/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracer of user space in a guest, without an agent: makes a region in the ivshmem device that the
 * kernel module has bound, and has threads that share one ring push COUNT numbers each.
 *
 *   devwriter COUNT [PAUSE [flood]]
 *
 * With PAUSE, microseconds between two records of a thread, it wakes the reader by the device's doorbell.
 * flood: another thread rings all the time, for nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#include "../../guest-agent/kmod/htrace_module.h"

#define THREADS 3
#define BEAT_MS 100

struct numbered {
	__u64 thread, number;
};

static struct htrace_producer producer;
static __u32 event;
static __u64 count, dropped, rung;
static int device = -1;
static useconds_t pause_usec;

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "devwriter: %s failed\n", what);
		exit(1);
	}
}

static __u32 declare(struct htrace_schema_builder *b)
{
	__u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member members[] = {
		{ .type = u64, .name = "thread" }, { .type = u64, .bit_off = 64, .name = "number" },
	};
	int id = htrace_builder_event(b, "numbered",
				      htrace_builder_struct(b, "numbered", false,
							    sizeof(struct numbered), members, 2));

	check(id > 0, "the event");
	return (__u32)id;
}

/* At vectors and peers that are not there: nobody hears it, and nothing comes of it. */
static void ring_nobody(void)
{
	static const struct htrace_module_bell nobody[] = {
		{ .vector = 99, .peer = 0 }, { .vector = 0, .peer = 2 }, { .vector = 65535, .peer = 65535 },
	};

	for (int i = 0; i < 3; i++)
		check(!ioctl(device, HTRACE_MODULE_BELL, &nobody[i]), "ringing at nobody");
}

/* The reader is peer 0, and says at which vector. */
static void ring(struct htrace_producer *p)
{
	__u32 sync = __atomic_load_n(&htrace_region_host(p->region)->sync, __ATOMIC_RELAXED);
	struct htrace_module_bell bell = { .vector = (__u16)(sync >> HTRACE_SYNC_VECTOR_SHIFT) };
	int saved = errno;

	if (!(sync & HTRACE_SYNC_RING))
		return;
	__atomic_fetch_add(&rung, 1, __ATOMIC_RELAXED);
	if (ioctl(device, HTRACE_MODULE_BELL, &bell))
		perror("devwriter: ringing");
	errno = saved;
}

static void *push(void *arg)
{
	struct numbered e = { .thread = (__u64)(size_t)arg };

	/* One may be dropped, where others come in between at each try: then it is pushed once more. */
	for (; e.number < count; e.number++) {
		while (htrace_push(&producer, event, &e, sizeof(e)))
			check(__atomic_fetch_add(&dropped, 1, __ATOMIC_RELAXED) < count / 100,
			      "one push in a hundred");
		if (pause_usec)
			usleep(pause_usec);
	}
	return NULL;
}

static void *flood(void *arg)
{
	struct htrace_module_bell bell = { 0 };

	for (;;)
		ioctl(device, HTRACE_MODULE_BELL, &bell);
	return arg;
}

/* What an agent would do meanwhile. */
static void live(struct htrace_region *r, int ms)
{
	for (int i = 0; i < ms; i += BEAT_MS) {
		htrace_region_beat(r, 0);
		usleep(BEAT_MS * 1000);
	}
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_IVSHMEM, .policy = HTRACE_OVERWRITE,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 1, .ring_size = 8 << 20,
	};
	struct htrace_schema_builder *b;
	struct htrace_region *r;
	pthread_t thread[THREADS];
	struct htrace_bar *bar;
	char why[200] = "";
	const void *entries;
	size_t len, size;
	void *mem;

	count = argc >= 2 ? strtoull(argv[1], NULL, 10) : 0;
	pause_usec = argc >= 3 ? (useconds_t)strtoul(argv[2], NULL, 10) : 0;
	o.bell = pause_usec != 0;
	check(!htrace_bar_open(&bar, "auto", why, sizeof(why)), why);
	check(!htrace_bar_io_memory(bar), "a mapping that atomics work on");
	mem = htrace_bar_mem(bar, &size);
	check(!htrace_region_format(&r, mem, size, &o), "the region");
	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	event = declare(b);
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(r, entries, len), "the schema");
	check(!htrace_producer_get(&producer, r, 0, 0), "taking the ring");
	if (o.bell) {
		device = open(HTRACE_MODULE_DEVICE, O_RDWR | O_CLOEXEC);
		check(device >= 0, "opening the device");
		producer.bell = ring;
	}
	htrace_region_guest(r)->heartbeat_ms = BEAT_MS;
	htrace_region_beat(r, 0);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	if (o.bell) { /* the reader is to be there, and asleep */
		live(r, 1000);
		ring_nobody();
	}
	if (argc == 4)
		check(!pthread_create(&thread[0], NULL, flood, NULL), "a thread");
	for (size_t i = 0; i < THREADS; i++)
		check(!pthread_create(&thread[i], NULL, push, (void *)i), "a thread");
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	check(dropped == htrace_load(&producer.ring->dropped), "the ring's account of drops");
	printf("devwriter: %llu dropped\n", (unsigned long long)dropped);
	if (o.bell)
		printf("devwriter: rang %llu times\n", (unsigned long long)rung);
	live(r, 2000);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	live(r, 1000);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSED);
	htrace_builder_free(b);
	htrace_region_release(r);
	htrace_bar_close(bar);
	return 0;
}

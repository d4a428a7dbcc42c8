/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Causal pairs across the border of a VM, through memory that both sides map.
 *
 *   border guest MAILBOX			answers each number by a system call that can be traced,
 *						prctl(0x68747263, number), and then in the mailbox
 *   border host MAILBOX REGION TSC|monotonic PAUSE	asks until it is told to stop by SIGTERM: records
 *						"ask" before it writes a number and "answer" when it sees the
 *						answer, into a region of this machine
 *
 * What the guest does of a number lies between both, on every clock that may be trusted.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#include "mailbox.h"

#define OPTION 0x68747263
#define BURST 8
#define PATIENCE 20000000 /* looks at the mailbox */

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "border: %s failed\n", what);
		exit(1);
	}
}

static struct mailbox *map(const char *path)
{
	int fd = open(path, O_RDWR);
	void *mem;

	check(fd >= 0, path);
	mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(mem != MAP_FAILED, "mapping the mailbox");
	return mem;
}

static int guest(struct mailbox *m)
{
	__u64 seen = 0, n;

	for (unsigned int idle = 0;; idle++) {
		n = __atomic_load_n(&m->ask, __ATOMIC_ACQUIRE);
		if (n == MAILBOX_OVER)
			return 0;
		if (n == seen) {
			if (idle > 2000)
				usleep(1000);
			continue;
		}
		idle = 0;
		seen = n;
		prctl(OPTION, n, 0, 0, 0);
		__atomic_store_n(&m->answer, n, __ATOMIC_RELEASE);
	}
}

struct told {
	__u64 number;
};

static struct htrace_region *region;
static struct htrace_producer producer;
static __u32 ask_id, answer_id;

static void declare(void)
{
	struct htrace_schema_builder *b;
	const void *entries;
	size_t len;

	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	const __u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member member = { .type = u64, .name = "number" };
	int type = htrace_builder_struct(b, "told", false, sizeof(struct told), &member, 1);

	ask_id = (__u32)htrace_builder_event(b, "ask", type);
	answer_id = (__u32)htrace_builder_event(b, "answer", type);
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(region, entries, len), "the schema");
	htrace_builder_free(b);
}

static void record(__u32 id, __u64 number)
{
	struct htrace_slot slot;
	struct told *at = htrace_producer_reserve(&producer, id, sizeof(*at), &slot);

	check(at, "a record");
	at->number = number;
	htrace_commit(&slot);
}

static int host(struct mailbox *m, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 1,
		.clock_id = !strcmp(argv[4], "TSC") ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC,
	};
	useconds_t pause = (useconds_t)strtoul(argv[5], NULL, 10);

	check(!htrace_region_create_local(&region, argv[3], 8 << 20, &o, NULL), "making the region");
	declare();
	htrace_region_set_state(region, HTRACE_GUEST_RUNNING);
	htrace_region_publish(region);
	check(!htrace_producer_get(&producer, region, 0, 0), "taking a ring");
	signal(SIGTERM, on_term);
	for (__u64 n = 1; !stop; n++) {
		record(ask_id, n);
		__atomic_store_n(&m->ask, n, __ATOMIC_RELEASE);
		for (unsigned int i = 0; !stop && i < PATIENCE; i++) {
			if (__atomic_load_n(&m->answer, __ATOMIC_ACQUIRE) == n)
				break;
			if (i > 20000)
				usleep(50);
		}
		if (stop)
			break;
		record(answer_id, n);
		if (n % BURST == 0) /* within, both sides are awake, and near each other */
			usleep(pause);
	}
	htrace_region_set_state(region, HTRACE_GUEST_CLOSING);
	__atomic_store_n(&m->ask, MAILBOX_OVER, __ATOMIC_RELEASE);
	htrace_region_release(region);
	return 0;
}

int main(int argc, char **argv)
{
	check(argc == 3 || argc == 6, "see the head of its source for how to call it; this");
	if (!strcmp(argv[1], "guest"))
		return guest(map(argv[2]));
	check(argc == 6, "the number of arguments");
	return host(map(argv[2]), argv);
}

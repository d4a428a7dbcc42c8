/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Stands for a guest: a local region with a ring for each of CPUS, whose heart beats, and which does as
 * it is told on standard input, a line each, answered by a line:
 *
 *   guestlike PATH|stream:WHERE discard|overwrite CPUS RING_KIB
 *   qemu-system-guestlike ram:KIND overwrite CPUS RING_KIB    in memory that stands for a VM's (ramlike.h)
 *
 *   w CPU N        write N records: "counted", numbered from 0 on in each ring
 *   r N MS         write N records into each ring within MS, evenly; then how many were dropped
 *   f MS           write as fast as can be, into all rings, for MS
 *   s MS           compute for MS, and do nothing else
 *   x CPU N        begin a record, and then write N more: the block's end is not committed
 *   o CPU          commit what was begun so
 *   b 0|1          the heart stops, or beats
 *   l N            light N beacons that lead nowhere, and then, if there is none yet, one that does
 *   h              hand all over to another process, and be gone
 *   k BITS         take commands of the host (enum htrace_allow), and answer by repeating them
 *   a STATUS NEXT HEX...  answer the next command so, with the text that HEX says
 *   d MS           answer that much later
 *   p 0|1          the thread that sends the stream stops, or goes on
 *   c              end the session properly, and exit
 */
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#include "ramlike.h"
#include "message.h"
#include "stream.h"

#define MAX_CPUS 64
#define MS 1000000ULL

struct counted {
	__u64 number;
};

static struct htrace_region *region;
static struct htrace_ring *ring[MAX_CPUS];
static struct htrace_geometry geometry;
static __u64 number[MAX_CPUS], dropped, next_beat;
static struct htrace_slot open_slot[MAX_CPUS];
static bool beating = true, in_ram;
static bool lit;
static unsigned int cpus;
static __u32 id;
static struct {
	bool set;
	unsigned int status, next;
	char text[4096];
	size_t len;
} answer;
static __u64 delay, answer_at;
static char command[HTRACE_CONTROL_MAX + 1];
static size_t command_len;
static struct stream *stream; /* or NULL */
static bool paused, sending = true;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "guestlike: %s failed\n", what);
	exit(1);
}

/* What the agent's files that are in this program say. */
void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
}

/* As a guest's agent: the host's words go when it does, the ring's own stays. */
static void forward(void)
{
	if (htrace_region_host(region)->session != htrace_region_super(region)->session)
		return;
	for (unsigned int i = 0; i < cpus; i++) {
		__u64 to = __atomic_load_n(&htrace_region_host_ring(region, i)->consumed, __ATOMIC_ACQUIRE);

		if (to > ring[i]->consumed)
			__atomic_store_n(&ring[i]->consumed, to, __ATOMIC_RELEASE);
	}
}

/* Beside the producers, likewise. */
static void *send_stream(void *arg)
{
	while (__atomic_load_n(&sending, __ATOMIC_ACQUIRE)) {
		struct timespec nap = { .tv_nsec = 200000 };
		__u64 ns = 1000000;

		if (!__atomic_load_n(&paused, __ATOMIC_ACQUIRE))
			ns = stream_work(stream);
		forward();
		if (stream_asked(stream))
			htrace_region_answer(region, 0);
		if (ns)
			nanosleep(&nap, NULL);
	}
	return arg;
}

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static void declare(void)
{
	struct htrace_schema_builder *b;
	struct htrace_schema_member m = { .name = "number" };
	const void *entries;
	size_t len;
	int type;

	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	m.type = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	type = htrace_builder_struct(b, "counted", false, sizeof(struct counted), &m, 1);
	id = (__u32)htrace_builder_event(b, "counted", type);
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(region, entries, len), "the schema");
	htrace_builder_free(b);
}

static void beat(void)
{
	if (!beating || now() < next_beat)
		return;
	htrace_region_beat(region, 0);
	next_beat = now() + 50 * MS;
}

static bool reserve(unsigned int cpu, struct htrace_slot *slot)
{
	const __u64 *consumed = stream ? &ring[cpu]->consumed : &htrace_region_host_ring(region, cpu)->consumed;
	struct counted c = { .number = number[cpu] };
	void *at = htrace_reserve(ring[cpu], &geometry, consumed, id, sizeof(c), 1, now(), slot);

	if (!at) {
		dropped++;
		return false;
	}
	number[cpu]++;
	memcpy(at, &c, sizeof(c));
	return true;
}

static void push(unsigned int cpu)
{
	struct htrace_slot slot;

	if (reserve(cpu, &slot))
		htrace_commit(&slot);
}

static void push_many(unsigned int cpu, unsigned int n)
{
	while (n--)
		push(cpu);
}

static void at_rate(unsigned int n, __u64 ns)
{
	__u64 start = now(), t;
	unsigned int done = 0;

	while (done < n) {
		t = now() - start;
		for (; done < n && done * ns <= t * n; done++)
			for (unsigned int cpu = 0; cpu < cpus; cpu++)
				push(cpu);
		beat();
		usleep(2000);
	}
}

static void flood(__u64 ns)
{
	for (__u64 end = now() + ns; now() < end; beat())
		for (unsigned int cpu = 0; cpu < cpus; cpu++)
			push_many(cpu, 1000);
}

static void set_answer(const char *line)
{
	unsigned int byte;
	int at = 0, n;

	answer.len = 0;
	answer.set = sscanf(line, "%u %u%n", &answer.status, &answer.next, &at) == 2;
	while (sscanf(line + at, " %2x%n", &byte, &n) == 1) {
		answer.text[answer.len++] = (char)byte;
		at += n;
	}
}

static void serve(void)
{
	if (!command_len) {
		command_len = htrace_region_command(region, command);
		answer_at = now() + delay;
	}
	if (!command_len || now() < answer_at)
		return;
	if (answer.set)
		htrace_region_reply(region, answer.status, answer.text, answer.len, answer.next);
	else
		htrace_region_reply(region, HTRACE_REPLY_DONE, command, command_len, 0);
	answer.set = false;
	command_len = 0;
}

/* False: that was the last one. */
static bool obey(const char *line)
{
	unsigned int a = 0, b = 0;

	sscanf(line + 1, "%u %u", &a, &b);
	switch (line[0]) {
	case 'w':
		push_many(a % cpus, b);
		break;
	case 'r':
		at_rate(a, b * MS);
		break;
	case 'f':
		flood(a * MS);
		break;
	case 's':
		for (__u64 until = now() + a * MS; now() < until;)
			;
		break;
	case 'x':
		check(reserve(a % cpus, &open_slot[a % cpus]), "a record");
		push_many(a % cpus, b);
		break;
	case 'o':
		htrace_commit(&open_slot[a % cpus]);
		break;
	case 'b':
		beating = a != 0;
		break;
	case 'k':
		htrace_region_control(region, a);
		break;
	case 'a':
		set_answer(line + 1);
		break;
	case 'd':
		delay = a * MS;
		break;
	case 'l':
		ramlike_pretend(a);
		if (in_ram && !lit)
			ramlike_light();
		lit = true;
		break;
	case 'p':
		__atomic_store_n(&paused, a == 0, __ATOMIC_RELEASE);
		break;
	case 'h':
		if (fork())
			_exit(0);
		break;
	default:
		return false;
	}
	printf("%llu\n", (unsigned long long)dropped);
	fflush(stdout);
	return true;
}

static void end(void)
{
	const struct htrace_host *host = htrace_region_host(region);

	if (stream)
		usleep(300000); /* as the agent: no sooner than all is there */
	htrace_region_set_state(region, HTRACE_GUEST_CLOSING);
	for (int i = 0; i < (in_ram ? 50 : 500) && __atomic_load_n(&host->drained, __ATOMIC_ACQUIRE) !=
	     htrace_region_super(region)->session; i++) {
		beat();
		usleep(10000);
	}
	if (in_ram)
		ramlike_retire();
	htrace_region_set_state(region, HTRACE_GUEST_CLOSED);
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_CPU,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	bool streams = argc > 1 && !strncmp(argv[1], STREAM_PREFIX, strlen(STREAM_PREFIX));
	pthread_t thread;
	char line[9000];

	check(argc == 5, "see the head of its source for how to call it; this");
	o.policy = strcmp(argv[2], "discard") ? HTRACE_OVERWRITE : HTRACE_DISCARD;
	cpus = o.nr_cpus = o.nr_rings = (__u32)strtoul(argv[3], NULL, 10);
	o.ring_size = strtoul(argv[4], NULL, 10) << 10;
	o.block_size = 4096;
	check(cpus && cpus <= MAX_CPUS, "the number of CPUs");
	in_ram = !strncmp(argv[1], "ram:", 4);
	if (in_ram) {
		o.placement = HTRACE_PLACEMENT_VSHMEM;
		if (!ramlike_make(argv[1] + 4, &region, &o))
			return 77; /* no such memory here */
	} else {
		check(!htrace_region_create_local(&region, streams ? NULL : argv[1], (cpus * o.ring_size * 5 / 4) + (8 << 20),
						  &o, NULL), "making the region");
	}
	for (unsigned int i = 0; i < cpus; i++)
		ring[i] = in_ram ? ramlike_ring(i, &geometry) : htrace_region_ring(region, 0, i, &geometry);
	declare();
	htrace_region_guest(region)->heartbeat_ms = 50;
	htrace_region_set_state(region, HTRACE_GUEST_RUNNING);
	htrace_region_beat(region, 0);
	htrace_region_publish(region);
	if (streams) {
		check(!stream_new(&stream, argv[1] + strlen(STREAM_PREFIX)), "the stream");
		check(!stream_start(stream, region, ring, cpus), "streaming");
		check(!pthread_create(&thread, NULL, send_stream, NULL), "the thread");
	}
	for (bool more = true; more; beat()) {
		struct pollfd in = { .fd = 0, .events = POLLIN };

		if (poll(&in, 1, 20) > 0)
			more = fgets(line, sizeof(line), stdin) && obey(line);
		serve();
	}
	end();
	if (stream) {
		__atomic_store_n(&sending, false, __ATOMIC_RELEASE);
		pthread_join(thread, NULL);
		stream_finish(stream);
		stream_free(stream);
	}
	htrace_region_release(region);
	return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What recording an event by htrace.bpf.h costs a traced program, part by part: one thread makes system calls, in
 * turn with nothing, with a program that does nothing, one that looks at the call, one that reads the clock
 * besides, and ones that record with payloads of 0, 16 and 56 bytes. Nobody reads meanwhile; what was recorded is
 * counted and looked at behind each run. Runs natively (bench/run components) and inside of guests (bench/tracers).
 */
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <htrace/consumer.h>

#include "bench.h"
#include "bpf-push.h"
#include "bpf-rings.h"

#define NAME "components"
#define CALLS 40000 /* with the calls to warm up, and 64 bytes each, they fit into a ring */
#define QUICK 2000
#define ROUNDS 21
#define QUICK_ROUNDS 2

enum { NONE, BARE, PUSHED, LARGE };

static const struct bpf_rings_event events[] = { { "bare", BARE }, { "pushed", PUSHED }, { "large", LARGE }, { 0 } };

struct part {
	const char *name;    /* as shown */
	const char *program; /* NULL: none */
	unsigned int event;  /* that it records */
	struct bench_rounds ns;
	const char *wrong; /* in some round */
};

static struct part parts[] = {
	{ "nothing" },
	{ "hook", "empty" },
	{ "test", "test" },
	{ "clock", "clock_only" },
	{ "ring", "htrace_bare", BARE },
	{ "payload 16", "htrace", PUSHED },
	{ "payload 56", "htrace_large", LARGE },
};
#define NR_PARTS (sizeof(parts) / sizeof(parts[0]))

static int fail(const char *what, int err)
{
	fprintf(stderr, NAME ": %s: %s\n", what, strerror(err < 0 ? -err : err));
	return -1;
}

static void call(unsigned long from, unsigned long to)
{
	for (unsigned long i = from; i < to; i++)
		syscall(SYS_getppid, PUSH_MAGIC, i);
}

static double timed_calls(unsigned long calls)
{
	unsigned long warm_up = calls / 5;
	__u64 start;

	call(0, warm_up);
	start = bench_now();
	call(warm_up, warm_up + calls);
	return (double)(bench_now() - start) / (double)calls;
}

/* What came since the last time: NULL, or what is wrong. */
static const char *account(struct htrace_consumer *c, unsigned int event, unsigned long expected)
{
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	const char *wrong = NULL;
	__u64 nr = 0;

	while (htrace_consumer_read(c, &batch) == 1)
		for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r); nr++)
			if (r.id != event || (event != BARE && *(const __u64 *)r.payload != nr))
				wrong = "another event than was to come";
	return wrong ?: nr != expected ? "not all events arrived, or more" : NULL;
}

static int run(struct bpf_rings *rings, struct htrace_consumer *c, struct part *p, unsigned long calls)
{
	struct bpf_link *link = NULL;

	if (p->program) {
		link = bpf_program__attach(bpf_object__find_program_by_name(rings->obj, p->program));
		if (!link)
			return fail("cannot attach to sys_enter", errno);
	}
	bench_add(&p->ns, timed_calls(calls));
	bpf_link__destroy(link);
	p->wrong = p->wrong ?: account(c, p->event, p->event == NONE ? 0 : calls + calls / 5);
	return 0;
}

int main(int argc, char **argv)
{
	struct htrace_consumer_opts opts = { .sz = sizeof(opts), .start = HTRACE_START_NEWEST };
	unsigned long calls = CALLS, rounds = ROUNDS;
	struct htrace_consumer *c;
	struct htrace_image image;
	struct bpf_rings rings;
	int cpu, err;
	const char *why;
	char reason[200];

	if (argc > 1 && !strcmp(argv[1], "--quick"))
		calls = QUICK, rounds = QUICK_ROUNDS;
	bench_cpus(&cpu, 1);
	bench_pin(cpu);
	err = bpf_rings_open(&rings, "bpf-push.bpf.o", PUSH_RING, events, &why);
	if (err) {
		snprintf(reason, sizeof(reason), "%s: %s", why, strerror(-err));
		for (size_t i = 0; i < NR_PARTS; i++)
			bench_skip(NAME, parts[i].name, "", reason);
		return 0;
	}
	image = bpf_rings_image(&rings, cpu);
	err = htrace_consumer_new(&c, &image, &opts);
	if (err)
		return fail("cannot read the ring", err), 1;
	for (unsigned long r = 0; r < rounds; r++)
		for (size_t i = 0; i < NR_PARTS; i++) /* not always after the same */
			if (run(&rings, c, &parts[(r + i) % NR_PARTS], calls))
				return 1;
	for (size_t i = 0; i < NR_PARTS; i++)
		bench_print(NAME, parts[i].name, "", "ns", &parts[i].ns, parts[i].wrong);
	htrace_consumer_free(c);
	bpf_rings_close(&rings);
	return 0;
}

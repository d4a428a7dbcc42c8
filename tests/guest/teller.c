/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tells a guest of exits that never were, by host-reader's own code (host-reader/tell.c).
 *
 *	teller FILE ROUNDS
 *
 * Each round, of 10 ms: exits of two virtual CPUs, all alike, and the totals. Prints what it told. Ends when its standard
 * input does.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../host-reader/tell.h"

#define COUNT(a) (sizeof(a) / sizeof(*(a)))

static const struct htrace_told_exit exits[] = {
	{.reason = 0x78,
	 .vcpu = 0,
	 .isa = HTRACE_ISA_SVM,
	 .out_ns = 200000,
	 .woken_ns = 30000,
	 .slept_ns = 150000},
	{.reason = 0x7b, .vcpu = 0, .isa = HTRACE_ISA_SVM, .out_ns = 12300},
	{.reason = 48, .vcpu = 1, .isa = HTRACE_ISA_VMX, .out_ns = 4500},
	{.reason = 1, .vcpu = 1, .isa = HTRACE_ISA_VMX, .out_ns = 100000, .preempted_ns = 90000},
};

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
}

static void tell_round(struct tell *t, struct htrace_view *v, __u64 rounds)
{
	for (unsigned int i = 0; i < COUNT(exits); i++) {
		struct htrace_told_total total = {.sum = exits[i], .exits = rounds};

		total.sum.out_ns *= rounds;
		total.sum.preempted_ns *= rounds;
		total.sum.woken_ns *= rounds;
		total.sum.slept_ns *= rounds;
		tell_exit(t, &exits[i], now());
		tell_total(t, &total, now());
	}
	tell_flush(t, htrace_view_host(v), now());
	htrace_view_beat(v);
}

int main(int argc, char **argv)
{
	unsigned long rounds = argc == 3 ? strtoul(argv[2], NULL, 0) : 0;
	struct pollfd in = {.events = POLLIN};
	char err[256] = "";
	struct htrace_view *v;
	struct tell *t;

	if (!rounds || htrace_view_open(&v, argv[1], true, err, sizeof(err)) ||
	    tell_new(&t, now())) {
		fprintf(stderr, "teller: FILE ROUNDS: %s\n", err);
		return 1;
	}
	htrace_view_announce(v, HTRACE_HOST_WAITING, 0, false, HTRACE_REASON_NONE);
	for (unsigned long i = 1; i <= rounds; i++) {
		tell_round(t, v, i);
		usleep(10000);
	}
	printf("teller: %lu of each\n", rounds);
	fflush(stdout);
	while (poll(&in, 1, 100) == 0)
		htrace_view_beat(v);
	tell_end(t, htrace_view_host(v));
	htrace_view_announce(v, HTRACE_HOST_GONE, 0, false, HTRACE_REASON_NONE);
	tell_free(t);
	htrace_view_close(v);
	return 0;
}

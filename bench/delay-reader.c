/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's end of bench/delay: reads the sessions of a region one after the other, looking every
 * 50 us, and prints for each session the host's time less each record's, which is the record's
 * delay plus what the two clocks are apart.
 *
 *	delay-reader REGION SESSIONS FILE
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <htrace/consumer.h>

#define MAX_RINGS 64
#define PAUSE_US 50

static __u64 monotonic(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
}

static int open_session(struct htrace_view *v, struct htrace_consumer **c, __u64 before)
{
	const struct htrace_super *super;
	struct htrace_image image;
	char err[256] = "";
	int nr = 0;

	while (htrace_view_attach(v, err, sizeof(err)) || htrace_view_super(v)->session == before ||
	       htrace_view_state(v) == HTRACE_GUEST_CLOSED)
		usleep(1000);
	super = htrace_view_super(v);
	if (super->ringset[0].placement == HTRACE_PLACEMENT_VSHMEM)
		while (htrace_view_map_ram(v, 0, NULL, err, sizeof(err)))
			usleep(10000);
	for (__u32 i = 0; i < super->ringset[0].nr_rings && nr < MAX_RINGS; i++)
		if (htrace_view_ring(v, 0, i, &image) || htrace_consumer_new(&c[nr++], &image, NULL))
			return -1;
	return nr;
}

static void read_session(struct htrace_view *v, struct htrace_consumer **c, int nr, int session,
			 FILE *out)
{
	struct htrace_batch b;
	struct htrace_record r;
	struct htrace_iter it;
	bool closing;

	do {
		closing = !htrace_view_current(v) || htrace_view_state(v) >= HTRACE_GUEST_CLOSING;
		for (int i = 0; i < nr; i++) {
			while (htrace_consumer_read(c[i], &b) == 1) {
				__u64 now = monotonic();

				for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &r);)
					fprintf(out, "%d %llu %lld\n", session,
						(unsigned long long)r.time, (long long)(now - r.time));
			}
		}
		usleep(PAUSE_US);
	} while (!closing);
}

int main(int argc, char **argv)
{
	struct htrace_consumer *c[MAX_RINGS];
	struct htrace_view *v;
	__u64 before = 0;
	char err[256] = "";
	FILE *out;

	if (argc != 4)
		return 2;
	out = fopen(argv[3], "we");
	if (!out || htrace_view_open(&v, argv[1], false, err, sizeof(err))) {
		fprintf(stderr, "delay-reader: %s\n", err[0] ? err : strerror(errno));
		return 1;
	}
	for (int s = 0; s < atoi(argv[2]); s++) {
		int nr = open_session(v, c, before);

		if (nr < 0)
			return 1;
		before = htrace_view_super(v)->session;
		read_session(v, c, nr, s, out);
		while (nr)
			htrace_consumer_free(c[--nr]);
	}
	fclose(out);
	htrace_view_close(v);
	return 0;
}

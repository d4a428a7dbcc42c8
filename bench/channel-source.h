/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where channel-read's messages come from: rings of a region, or bytes of a device or socket. */
#ifndef BENCH_CHANNEL_SOURCE_H
#define BENCH_CHANNEL_SOURCE_H

#include <stdbool.h>

#include <linux/types.h>

struct channel_source;

/* What all channels of a machine share. */
struct channel_machine {
	const char *dir;
	int agent_port, raw_port; /* of TCP */
	int pid;                  /* of the process that runs it */
	struct bell_server *bell; /* its ivshmem device */
	__u64 session;            /* of its region, that was read last */
};

/* Calls @take for what came; @now: ticks when it was found. */
struct channel_taker {
	void (*take)(struct channel_taker *t, const __u64 *word, __u32 nr, __u64 now);
	void (*lost)(struct channel_taker *t, __u64 events);
};

/* Makes the device's memory; the machine may start then, and waits for the second to give it that. */
void channel_machine_open(struct channel_machine *m);
void channel_machine_await(struct channel_machine *m);
/*
 * @way: region (the device's), stream-serial, stream-tcp, serial, tcp or nothing. @policy: when rings are looked at.
 * Whoever sends is waited for by channel_source_attach().
 */
struct channel_source *channel_source_open(struct channel_machine *m, const char *way, const char *policy);
void channel_source_attach(struct channel_source *s);
/* Wait, not for long, and take what is there. */
void channel_source_look(struct channel_source *s, struct channel_taker *t);
/* How often it was woken by the guest so far. */
__u64 channel_source_bells(struct channel_source *s);
/* Nothing comes from it: what is sent is taken by nobody. */
bool channel_source_is_nothing(const struct channel_source *s);
void channel_source_close(struct channel_source *s);

#endif

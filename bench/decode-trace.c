// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A trace for bench/decode: `decode-trace FILE EVENTS` makes a local region, into whose rings a made-up
 * machine's events go: system calls, task switches, requests to a disk, opened files. The same ones each
 * time, but for when they happen. Prints how many there are of each: "NAME NUMBER".
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/declare.h>
#include <htrace/producer.h>

#include "bench.h"

#define RINGS 4
#define RING (16u << 20)
#define REGION ((size_t)(RINGS + 1) * RING)
#define EVENTS_MAX 1000000ul /* for which the rings have room, with a third to spare */
#define FIRST_TID 1000
#define TASKS 50

struct sys_enter {
	__u32 tid;
	__s32 nr;
	__u64 args[6];
};

struct sys_exit {
	__u32 tid;
	__s32 nr;
	__s64 ret;
};

struct sched_switch {
	__u32 prev_tid, prev_state, next_tid;
	__s32 next_prio;
};

enum operation { READ, WRITE, FLUSH, DISCARD };

struct disk_request {
	__u64 sector;
	__u32 bytes;
	__u16 queue;
	__u8 operation; /* enum operation */
	bool sync;
	char disk[16];
};

struct file_open {
	__u32 tid;
	__u32 flags;
	__u64 inode, ns;
	char path[];
};

static const struct htrace_enumerator operation[] = {
	HTRACE_VALUE(READ),
	HTRACE_VALUE(WRITE),
	HTRACE_VALUE(FLUSH),
	HTRACE_VALUE(DISCARD),
};

static const struct htrace_field enter_fields[] = {
	HTRACE_FIELD_AS(struct sys_enter, tid, HTRACE_HINT_TID),
	HTRACE_FIELD_AS(struct sys_enter, nr, HTRACE_HINT_SYSCALL),
	HTRACE_FIELD_ARRAY_AS(struct sys_enter, args, HTRACE_HINT_HEX),
};

static const struct htrace_field exit_fields[] = {
	HTRACE_FIELD_AS(struct sys_exit, tid, HTRACE_HINT_TID),
	HTRACE_FIELD_AS(struct sys_exit, nr, HTRACE_HINT_SYSCALL),
	HTRACE_FIELD(struct sys_exit, ret),
};

static const struct htrace_field switch_fields[] = {
	HTRACE_FIELD_AS(struct sched_switch, prev_tid, HTRACE_HINT_TID),
	HTRACE_FIELD_AS(struct sched_switch, prev_state, HTRACE_HINT_TASK_STATE),
	HTRACE_FIELD_AS(struct sched_switch, next_tid, HTRACE_HINT_TID),
	HTRACE_FIELD(struct sched_switch, next_prio),
};

static const struct htrace_field request_fields[] = {
	HTRACE_FIELD(struct disk_request, sector),
	HTRACE_FIELD(struct disk_request, bytes),
	HTRACE_FIELD(struct disk_request, queue),
	HTRACE_FIELD_ENUM(struct disk_request, operation, operation),
	HTRACE_FIELD(struct disk_request, sync),
	HTRACE_FIELD_TEXT(struct disk_request, disk),
};

static const struct htrace_field open_fields[] = {
	HTRACE_FIELD_AS(struct file_open, tid, HTRACE_HINT_TID),
	HTRACE_FIELD_AS(struct file_open, flags, HTRACE_HINT_HEX),
	HTRACE_FIELD(struct file_open, inode),
	HTRACE_FIELD(struct file_open, ns),
	HTRACE_FIELD_REST_TEXT(struct file_open, path),
};

enum { ENTER, EXIT, SWITCH, REQUEST, OPEN, NR_EVENTS };

static struct {
	const char *name;
	const struct htrace_struct type;
	__u32 id;
	unsigned long pushed;
} events[NR_EVENTS] = {
	[ENTER] = { "sys_enter", HTRACE_STRUCT(struct sys_enter, enter_fields) },
	[EXIT] = { "sys_exit", HTRACE_STRUCT(struct sys_exit, exit_fields) },
	[SWITCH] = { "sched_switch", HTRACE_STRUCT(struct sched_switch, switch_fields) },
	[REQUEST] = { "disk_request", HTRACE_STRUCT(struct disk_request, request_fields) },
	[OPEN] = { "file_open", HTRACE_STRUCT(struct file_open, open_fields) },
};

static void describe(struct htrace_region *r)
{
	char text[256];

	for (int i = 0; i < NR_EVENTS; i++) {
		int id = htrace_region_declare(r, events[i].name, &events[i].type, text, sizeof(text));

		if (id < 0)
			bench_die(text, id);
		events[i].id = (__u32)id;
	}
	for (__u32 i = 0; i < TASKS; i++) {
		snprintf(text, sizeof(text), "worker-%u", i);
		if (htrace_region_add_name(r, FIRST_TID + i, FIRST_TID, text, 0))
			bench_die("a task's name", ENOSPC);
	}
}

/* ----------------------------------------------------------------------------------- what happens */

struct machine {
	struct htrace_producer ring[RINGS];
	__u32 task[RINGS]; /* that runs there */
	__s32 call[RINGS]; /* in which that is; -1: in none */
	__u64 random;
};

static __u64 any(struct machine *m, __u64 below)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 7;
	m->random ^= m->random << 17;
	return m->random % below;
}

static void push(struct machine *m, unsigned int ring, int event, const void *data, size_t len)
{
	if (htrace_push(&m->ring[ring], events[event].id, data, (__u32)len))
		bench_die("a full ring", ENOSPC);
	events[event].pushed++;
}

/* A system call begins or ends. */
static void call(struct machine *m, unsigned int ring)
{
	if (m->call[ring] < 0) {
		struct sys_enter e = {
			m->task[ring], (__s32)any(m, 300),
			{ any(m, 9), 0x7ffc00000000 + any(m, 1 << 20), any(m, 65536), any(m, 1 << 12), 0,
			  0x55e000000000 + any(m, 1 << 28) },
		};

		m->call[ring] = e.nr;
		push(m, ring, ENTER, &e, sizeof(e));
	} else {
		struct sys_exit e = { m->task[ring], m->call[ring], (__s64)any(m, 4096) - 16 };

		m->call[ring] = -1;
		push(m, ring, EXIT, &e, sizeof(e));
	}
}

static void change_task(struct machine *m, unsigned int ring)
{
	struct sched_switch s = { m->task[ring], (__u32)any(m, 3), FIRST_TID + (__u32)any(m, TASKS), 120 };

	m->task[ring] = s.next_tid;
	push(m, ring, SWITCH, &s, sizeof(s));
}

static void request(struct machine *m, unsigned int ring)
{
	struct disk_request r = {
		.sector = any(m, 1ull << 34), .bytes = 512 * (__u32)(1 + any(m, 256)),
		.queue = (__u16)ring, .operation = (__u8)any(m, 4), .sync = any(m, 2),
	};

	snprintf(r.disk, sizeof(r.disk), "nvme%un1", (unsigned int)any(m, 4));
	push(m, ring, REQUEST, &r, sizeof(r));
}

static void open_file(struct machine *m, unsigned int ring)
{
	union {
		struct file_open open;
		char bytes[sizeof(struct file_open) + 40];
	} f = { .open = { m->task[ring], 0x8000, any(m, 1 << 22), 300 + any(m, 30000) } };
	int len = snprintf(f.bytes + sizeof(f.open), sizeof(f) - sizeof(f.open), "/srv/www/%u/picture-%u.jpeg",
			   (unsigned int)any(m, 1000), (unsigned int)any(m, 100000));

	push(m, ring, OPEN, &f, sizeof(f.open) + (size_t)len + 1);
}

static void produce(struct machine *m, unsigned long nr)
{
	unsigned int ring = 0;

	for (; nr; nr--) {
		__u64 what = any(m, 100);

		if (what < 10)
			request(m, ring);
		else if (what < 20)
			open_file(m, ring);
		else if (what < 30)
			change_task(m, ring);
		else
			call(m, ring);
		if (!any(m, 8)) /* then something happens elsewhere */
			ring = (unsigned int)any(m, RINGS);
	}
}

int main(int argc, char **argv)
{
	struct htrace_region_opts opts = {
		.sz = sizeof(opts),
		.placement = HTRACE_PLACEMENT_LOCAL,
		.policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD,
		.nr_rings = RINGS,
		.ring_size = RING,
		.clock_id = HTRACE_CLOCK_MONOTONIC, /* which a capture has as it is */
	};
	unsigned long nr = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
	struct machine m = { .random = 88172645463325252 };
	struct htrace_region *r;
	int err;

	if (!nr || nr > EVENTS_MAX) {
		fprintf(stderr, "Usage: decode-trace FILE EVENTS, at most %lu\n", EVENTS_MAX);
		return 2;
	}
	err = htrace_region_create_local(&r, argv[1], REGION, &opts, NULL);
	if (err)
		bench_die(argv[1], err);
	describe(r);
	for (int i = 0; i < RINGS; i++) {
		err = htrace_producer_get(&m.ring[i], r, 0, i);
		if (err)
			bench_die("a ring", err);
		m.task[i] = FIRST_TID + (__u32)i;
		m.call[i] = -1;
	}
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	produce(&m, nr);
	for (int i = 0; i < RINGS; i++)
		htrace_producer_put(&m.ring[i]);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	htrace_region_release(r);
	for (int i = 0; i < NR_EVENTS; i++)
		printf("%s %lu\n", events[i].name, events[i].pushed);
	return 0;
}

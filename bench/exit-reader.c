/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The reader of bench/exits: reads a local region under a policy until its writer is done, and says
 * how old records were when it had them.
 *
 *	exit-reader REGION POLICY
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/sync.h>

#include "clock.h"
#include "kvm_exits.h"
#include "sync_kvm_exit.h"

#include "../tests/guest/l2/l2.h"

#define MAX_RINGS 8
#define MAX_RECORDS (1u << 22)

static struct htrace_consumer *rings[MAX_RINGS];
static struct htrace_host_ring *words[MAX_RINGS];
static unsigned int nr_rings;
static int bell = -1;
static unsigned long long bells;
static struct kvm_exits *exits;
static struct kvm_vm *vm;
static __u32 *age; /* ns */
static unsigned int nr_ages;

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "exit-reader: %s: %s\n", what, why);
	exit(1);
}

static bool ready(void *ctx)
{
	(void)ctx;
	for (unsigned int i = 0; i < nr_rings; i++)
		if (htrace_consumer_ready(rings[i]))
			return true;
	return false;
}

static struct htrace_view *attach(const char *path)
{
	const struct htrace_super *super;
	struct htrace_view *v;
	char err[256] = "";

	while (access(path, R_OK))
		usleep(10000);
	usleep(50000); /* it is being made */
	if (htrace_view_open(&v, path, true, err, sizeof(err)))
		fail(path, err);
	while (htrace_view_attach(v, err, sizeof(err)))
		usleep(10000);
	if (htrace_view_claim(v))
		fail(path, "another process reads it");
	super = htrace_view_super(v);
	for (__u32 i = 0; i < super->ringset[0].nr_rings && i < MAX_RINGS; i++) {
		struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
		struct htrace_image image;

		if (htrace_view_ring(v, 0, i, &image))
			fail(path, "a ring");
		words[i] = htrace_view_host_ring(v, image.slot);
		opts.consumed = &words[i]->consumed;
		if (htrace_consumer_new(&rings[nr_rings++], &image, &opts))
			fail(path, "a consumer");
	}
	return v;
}

static void take_bells(void)
{
	__u64 count;

	if (bell >= 0 && read(bell, &count, sizeof(count)) == sizeof(count))
		bells += count;
}

static int arm(void *ctx, struct htrace_bell *b, int max, bool *all)
{
	(void)ctx;
	(void)max;
	(void)all;
	take_bells();
	*b = (struct htrace_bell){ .fd = bell };
	for (unsigned int i = 0; i < nr_rings; i++)
		htrace_consumer_arm(rings[i], &words[i]->event_idx);
	htrace_sync_armed();
	return 1;
}

/* The VMM's end of it, for QEMU's would come by the device's socket. */
static void use_bell(struct htrace_view *v)
{
	struct htrace_guest g;
	int vmm;

	htrace_view_guest(v, &g, false);
	vmm = (int)syscall(SYS_pidfd_open, g.agent_pid, 0);
	bell = (int)syscall(SYS_pidfd_getfd, vmm, L2_BELL_FD, 0);
	if (vmm < 0 || bell < 0 || htrace_view_set_sync(v, HTRACE_SYNC_RING))
		fail("doorbell", "the VMM has none: l2vmm -b");
	close(vmm);
}

static __u64 read_ring(unsigned int i)
{
	struct htrace_batch b;
	struct htrace_record r;
	struct htrace_iter it;
	__u64 events = 0;

	while (htrace_consumer_read(rings[i], &b) == 1) {
		__u64 now = clock_now();

		events += b.events;
		for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &r);)
			if (nr_ages < MAX_RECORDS)
				age[nr_ages++] = now > r.time ? (__u32)(now - r.time) : 0;
	}
	return events;
}

static __u64 look(bool all)
{
	__u64 now = clock_now(), sum = 0;

	for (unsigned int i = 0; i < nr_rings; i++) {
		struct kvm_look l;
		__u64 events;

		if (!kvm_vm_look(vm, i, now, &l) && !all)
			continue;
		events = read_ring(i);
		kvm_vm_looked(vm, i, &l, now, events != 0, true);
		sum += events;
	}
	return sum;
}

static int by_age(const void *a, const void *b)
{
	__u32 x = *(const __u32 *)a, y = *(const __u32 *)b;

	return x < y ? -1 : x > y;
}

static double cpu_seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void report(const char *policy, __u64 took, double cpu)
{
	struct exit_count count[MAX_RINGS] = { 0 }, sum = { 0 };

	kvm_vm_unwatch(vm, count);
	for (int i = 0; i < MAX_RINGS; i++) {
		sum.exits += count[i].exits;
		sum.out += count[i].out;
		sum.returned += count[i].returned;
		sum.inside += count[i].inside;
	}
	qsort(age, nr_ages, sizeof(*age), by_age);
	if (!nr_ages)
		fail(policy, "no record was received");
	printf("exit-reader: %s received %u p50 %u p99 %u p999 %u max %u percent %.1f bells %llu epochs %llu "
	       "out %llu returned %llu inside %llu reader-cpu %.0f\n", policy, nr_ages, age[nr_ages / 2],
	       age[(__u64)nr_ages * 99 / 100], age[(__u64)nr_ages * 999 / 1000], age[nr_ages - 1],
	       100 * cpu / ((double)took / 1e9), bells, sum.exits, sum.out, sum.returned, sum.inside, 1e9 * cpu);
}

int main(int argc, char **argv)
{
	struct htrace_sync_target target = { .sz = sizeof(target), .ready = ready, .arm = arm };
	struct htrace_sync *s;
	struct htrace_view *v;
	char err[256] = "";
	bool closing;
	double cpu;
	__u64 start, events;

	if (argc != 3)
		return 2;
	sync_kvm_exit_register();
	age = calloc(MAX_RECORDS, sizeof(*age));
	if (!age)
		fail("memory", "none");
	memset(age, 1, MAX_RECORDS * sizeof(*age)); /* not while it is measured */
	if (sync_kvm_exit_is(argv[2]) && kvm_exits_open(&exits, err, sizeof(err)))
		fail(argv[2], err);
	sync_kvm_exit_use(exits);
	v = attach(argv[1]);
	if (exits && kvm_vm_watch(&vm, exits, v, 0, nr_rings, err, sizeof(err)))
		fail(argv[2], err);
	if (htrace_sync_new(&s, argv[2], &target))
		fail(argv[2], "no such policy");
	if (!strcmp(argv[2], "doorbell"))
		use_bell(v);
	htrace_view_announce(v, HTRACE_HOST_ATTACHED, htrace_view_super(v)->session, false,
			     HTRACE_REASON_NONE);
	start = clock_now();
	cpu = cpu_seconds();
	do {
		closing = htrace_view_state(v) >= HTRACE_GUEST_CLOSING;
		if (!closing)
			htrace_sync_wait(s, 20000000);
		events = look(closing);
		htrace_sync_did(s, events, 0);
	} while (!closing);
	take_bells();
	report(argv[2], clock_now() - start, cpu_seconds() - cpu);
	htrace_view_session_drained(v);
	htrace_sync_free(s);
	kvm_exits_close(exits);
	return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a host tells its guest: the ring as a guest reads it, whatever the guest does to it; the
 * guest's table.
 */
#include <stdio.h>
#include <string.h>

#include <htrace/consumer.h>

#include "../../guest-agent/exit_names.h"
#include "../../guest-agent/follow_table.h"
#include "../../host-reader/tell.h"
#include "unit.h"

#define START 5000000000ULL /* the host's clock: not for the guest */
#define RING (1u << HTRACE_TOLD_RING_SHIFT)
#define IMAGE (HTRACE_TOLD_DATA_OFF + RING)
#define EXIT_LEN (HTRACE_REC_HDR + (__u32)sizeof(struct htrace_told_exit))

/* The host's granule, as it lies in a region. */
struct host {
	_Alignas(4096) unsigned char bytes[HTRACE_GRANULE];
};

static struct htrace_host *header(struct host *h)
{
	return (struct htrace_host *)h->bytes;
}

static unsigned char *image(struct host *h)
{
	return h->bytes + (HTRACE_TOLD_OFF - HTRACE_HOST_OFF);
}

static struct htrace_told_exit exit_nr(__u64 nr)
{
	return (struct htrace_told_exit){
		.reason = (__u32)(nr % 7),
		.vcpu = (__u16)(nr % 3),
		.isa = HTRACE_ISA_SVM,
		.out_ns = nr,
		.preempted_ns = nr + 1,
		.woken_ns = nr + 2,
		.slept_ns = nr + 3,
	};
}

static __u64 time_nr(__u64 nr)
{
	return START + nr * 1000;
}

static void tell_some(struct tell *t, __u64 *nr, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++, ++*nr) {
		const struct htrace_told_exit e = exit_nr(*nr);

		tell_exit(t, &e, time_nr(*nr));
	}
}

struct guest {
	struct htrace_consumer *consumer;
	__u64 next, lost, before;
};

static int got(void *arg, const struct htrace_record *r, const struct htrace_batch *b)
{
	struct guest *g = arg;
	const struct htrace_told_exit want = exit_nr(g->next);

	(void)b;
	ck_assert_uint_eq(r->id, HTRACE_TOLD_EXIT);
	ck_assert_uint_eq(r->len, sizeof(want));
	ck_assert_mem_eq(r->payload, &want, sizeof(want));
	ck_assert_uint_eq(r->time, time_nr(g->next) - START);
	g->next++;
	return 0;
}

static int lost(void *arg, const struct htrace_batch *b)
{
	struct guest *g = arg;

	g->lost += b->overwritten;
	g->before += b->before;
	g->next += b->overwritten + b->before;
	ck_assert_uint_eq(b->dropped + b->corrupt, 0);
	return 0;
}

static void guest_open(struct guest *g, struct host *h)
{
	struct htrace_consumer_opts opts = {.sz = sizeof(opts)};
	struct htrace_image img = {
		.ring = (const void *)image(h),
		.kind = HTRACE_RING_PER_CPU,
		.placement = HTRACE_PLACEMENT_IVSHMEM,
	};

	memset(g, 0, sizeof(*g));
	img.geometry = (struct htrace_geometry){
		.ring_mask = RING - 1,
		.ring_shift = HTRACE_TOLD_RING_SHIFT,
		.block_shift = HTRACE_TOLD_BLOCK_SHIFT,
		.desc_off = HTRACE_TOLD_DESC_OFF,
		.data_off = HTRACE_TOLD_DATA_OFF,
		.max_payload = 2000,
		.policy = HTRACE_OVERWRITE,
	};
	ck_assert_int_eq(htrace_consumer_new(&g->consumer, &img, &opts), 0);
}

static long guest_read(struct guest *g)
{
	const struct htrace_each_opts opts = {
		.sz = sizeof(opts), .record = got, .loss = lost, .ctx = g};

	return htrace_consumer_each(g->consumer, &opts);
}

static void guest_close(struct guest *g)
{
	htrace_consumer_free(g->consumer);
}

static struct host *new_host(int fill)
{
	struct host *h = aligned_alloc(4096, sizeof(*h));

	memset(h, fill, sizeof(*h));
	return h;
}

static struct tell *new_tell(void)
{
	struct tell *t;

	ck_assert_int_eq(tell_new(&t, START), 0);
	return t;
}

/* ---------------------------------------------------------------------------------------- the ring */

/* Each is there at once, from the first flush on, over several laps. */
START_TEST(test_told)
{
	struct host *h = new_host(0);
	struct tell *t = new_tell();
	__u64 nr = 0, number;
	struct guest g;

	tell_flush(t, header(h), START + 1);
	number = header(h)->telling;
	ck_assert_uint_ne(number, 0);
	guest_open(&g, h);
	for (unsigned int i = 0; nr < 5 * RING / EXIT_LEN; i++) {
		__u64 before = nr;

		tell_some(t, &nr, i % TELL_BATCH);
		tell_flush(t, header(h), START + nr);
		ck_assert_int_eq(guest_read(&g), (long)(nr - before));
		ck_assert_uint_eq(g.next, nr);
		ck_assert_uint_eq(header(h)->told_clock, nr);
		ck_assert_uint_eq(header(h)->telling, number);
	}
	ck_assert_uint_eq(g.lost + g.before, 0);
	tell_end(t, header(h));
	ck_assert_uint_eq(header(h)->telling, 0);
	guest_close(&g);
	tell_free(t);
	free(h);
}
END_TEST

/* A guest that looks too late knows how many it missed; one that comes late, too. */
START_TEST(test_late)
{
	struct host *h = new_host(0);
	struct tell *t = new_tell();
	struct guest g, late;
	__u64 nr = 0;

	tell_flush(t, header(h), START);
	guest_open(&g, h);
	for (int i = 0; i < 10; i++) {
		tell_some(t, &nr, TELL_BATCH);
		tell_flush(t, header(h), START);
	}
	guest_open(&late, h);
	ck_assert_int_gt(guest_read(&g), 300);
	ck_assert_uint_eq(g.next, nr);
	ck_assert_uint_gt(g.lost, 0);
	ck_assert_int_gt(guest_read(&late), 300);
	ck_assert_uint_eq(late.next, nr);
	ck_assert_uint_eq(late.lost, 0);
	ck_assert_uint_eq(late.before, g.lost);
	guest_close(&g);
	guest_close(&late);
	tell_free(t);
	free(h);
}
END_TEST

/* Another region gets what the ring still holds, and never what was there. */
START_TEST(test_elsewhere)
{
	struct host *h = new_host(0), *other = new_host(0xa5);
	struct tell *t = new_tell();
	struct guest g;
	__u64 nr = 0;

	for (int i = 0; i < 3; i++) {
		tell_some(t, &nr, TELL_BATCH);
		tell_flush(t, header(h), START);
	}
	tell_flush(t, header(other), START);
	ck_assert_uint_ne(header(other)->telling, header(h)->telling);
	ck_assert_mem_eq(image(h), image(other), HTRACE_TOLD_DATA_OFF);
	guest_open(&g, other);
	ck_assert_int_gt(guest_read(&g), 300);
	ck_assert_uint_eq(g.next, nr);
	for (unsigned int i = 0; i < IMAGE; i += 8)
		ck_assert_uint_ne(*(__u64 *)(image(other) + i), 0xa5a5a5a5a5a5a5a5ULL);
	guest_close(&g);
	tell_free(t);
	free(h);
	free(other);
}
END_TEST

/*
 * The guest writes whatever it likes there, at any time. Nothing of it gets into what the host
 * writes: a lap later all is as it is where nobody scribbled.
 */
START_TEST(test_scribbled)
{
	struct host *good = new_host(0), *bad = new_host(0);
	struct tell *t = new_tell(), *twin = new_tell();
	unsigned long long state = 1;
	__u64 nr = 0, same = 0;

	for (int i = 0; i < 100; i++) {
		tell_some(t, &nr, 100);
		tell_some(twin, &same, 100);
		tell_flush(t, header(bad), START);
		tell_flush(twin, header(good), START);
		for (unsigned int k = 0; i < 80 && k < IMAGE; k += 8)
			*(__u64 *)(image(bad) + k) = unit_random(&state);
	}
	/*
	 * Words that no record reaches, and the header's that are never written, may stay
	 * scribbled.
	 */
	ck_assert_mem_eq(image(good) + HTRACE_TOLD_DATA_OFF, image(bad) + HTRACE_TOLD_DATA_OFF,
			 RING);
	for (unsigned int i = 0; i < RING >> HTRACE_TOLD_BLOCK_SHIFT; i++) {
		unsigned int at = HTRACE_TOLD_DESC_OFF + i * 64;

		ck_assert_mem_eq(image(good) + at, image(bad) + at, 60);
	}
	ck_assert_uint_eq(((struct htrace_ring *)image(bad))->head,
			  ((struct htrace_ring *)image(good))->head);
	tell_free(t);
	tell_free(twin);
	free(good);
	free(bad);
}
END_TEST

/* Nothing but what was told: the host's own clock, which says since when it runs, is nowhere. */
START_TEST(test_no_host_time)
{
	struct host *h = new_host(0);
	struct tell *t = new_tell();
	__u64 nr = 0;

	for (int i = 0; i < 20; i++) {
		tell_some(t, &nr, 100);
		tell_flush(t, header(h), time_nr(nr));
	}
	for (unsigned int i = 0; i < HTRACE_GRANULE; i += 8) {
		__u64 word = *(__u64 *)(h->bytes + i);

		ck_assert(word < START || word > START + 1000000000 || word == header(h)->telling);
	}
	ck_assert_uint_eq(header(h)->told_clock, time_nr(nr) - START);
	tell_free(t);
	free(h);
}
END_TEST

/* --------------------------------------------------------------------------------------- the table */

static void add_exit(struct follow_table *t, __u16 vcpu, __u32 reason, __u64 out, __u64 preempted,
		     __u64 woken)
{
	const struct htrace_told_exit e = {
		.reason = reason,
		.vcpu = vcpu,
		.isa = HTRACE_ISA_SVM,
		.out_ns = out,
		.preempted_ns = preempted,
		.woken_ns = woken,
	};

	follow_table_exit(t, &e);
}

static char *printed(const struct follow_table *t, __u64 ns)
{
	size_t len;
	char *text;
	FILE *out = open_memstream(&text, &len);

	follow_table_print(t, ns, out);
	fclose(out);
	return text;
}

START_TEST(test_table)
{
	static const char want[] =
		"\n"
		"vCPU  exit                        exits       out ms     p50 us     p99 us preempted ms     woken ms"
		"    asleep ms\n"
		"   0  hlt                           100        5.050       50.2      100.4        0.000        1.000"
		"        0.000\n"
		"   0  io                              2        0.003        1.5        1.5        0.001        0.000"
		"        0.000\n"
		"   3  npf                         70000      900.000          -          -        1.000        2.000"
		"        3.000\n"
		"\n"
		"of 1.000 s that the host told of:\n"
		"vCPU 0: 102 exits, out of guest mode 0.51 % of the time; stolen 0.10 %: preempted 0.00 %, waiting to run "
		"after a halt 0.10 %, after other waits 0.00 %\n"
		"vCPU 3: 70000 exits, out of guest mode 90.00 % of the time; stolen 0.30 %: preempted 0.10 %, waiting to run "
		"after a halt 0.00 %, after other waits 0.20 %\n"
		"p50 and p99 are of 102 of these 70102 exits: the others are not over, or came faster than exits are told one "
		"by one\n";
	const struct htrace_told_total total = {
		.sum = {.reason = 0x400,
			.vcpu = 3,
			.isa = HTRACE_ISA_SVM,
			.out_ns = 900000000,
			.preempted_ns = 1000000,
			.woken_ns = 2000000,
			.slept_ns = 3000000},
		.exits = 70000,
	};
	struct htrace_told_total older = total;
	struct follow_table *t = follow_table_new();
	char *text;

	follow_table_total(t, &total);
	older.exits = 5;
	follow_table_total(t, &older);
	add_exit(t, 0, 0x7b, 1500, 1000, 0);
	add_exit(t, 0, 0x7b, 1500, 0, 0);
	for (unsigned int i = 1; i <= 100; i++)
		add_exit(t, 0, 0x78, i * 1000, 0, 10000);
	text = printed(t, 1000000000);
	ck_assert_str_eq(text, want);
	free(text);
	follow_table_free(t);
}
END_TEST

/* A host may say anything: all of it is counted, or said to be left out. */
START_TEST(test_table_bounds)
{
	struct follow_table *t = follow_table_new();
	unsigned long long state = 7;
	char *text;

	for (unsigned int i = 0; i < 20000; i++) {
		const struct htrace_told_exit e = {
			.reason = (__u32)unit_random(&state),
			.vcpu = (__u16)unit_random(&state),
			.isa = (__u16)(unit_random(&state) % 4),
			.out_ns = unit_random(&state) >> unit_random(&state) % 64,
			.preempted_ns = unit_random(&state),
			.woken_ns = ~0ULL,
			.slept_ns = 1,
		};
		const struct htrace_told_total total = {.sum = e, .exits = unit_random(&state)};

		follow_table_exit(t, &e);
		follow_table_total(t, &total);
	}
	text = printed(t, 0);
	/* 4096 of them have room. */
	ck_assert_ptr_nonnull(
		strstr(text, "31808 records of further virtual CPUs or reasons are left out\n"));
	free(text);
	follow_table_free(t);
}
END_TEST

START_TEST(test_names)
{
	static const struct {
		__u32 isa, reason;
		const char *name;
	} names[] = {
		{HTRACE_ISA_SVM, 0x60, "intr"},
		{HTRACE_ISA_SVM, 0x72, "cpuid"},
		{HTRACE_ISA_SVM, 0x7b, "io"},
		{HTRACE_ISA_SVM, 0x81, "vmmcall"},
		{HTRACE_ISA_SVM, 0x400, "npf"},
		{HTRACE_ISA_SVM, 0x404, "svm_0x404"},
		{HTRACE_ISA_SVM, 0x00, "read_cr0"},
		{HTRACE_ISA_SVM, 0x1f, "write_cr15"},
		{HTRACE_ISA_SVM, 0x37, "write_dr7"},
		{HTRACE_ISA_SVM, 0x4e, "excp_14"},
		{HTRACE_ISA_SVM, 0x5f, "excp_31"},
		{HTRACE_ISA_SVM, 0x94, "cr4_write_trap"},
		{HTRACE_ISA_SVM, 0xffffffff, "invalid"},
		{HTRACE_ISA_SVM, 0xa0, "svm_0xa0"},
		{HTRACE_ISA_VMX, 1, "external_interrupt"},
		{HTRACE_ISA_VMX, 12, "hlt"},
		{HTRACE_ISA_VMX, 48, "ept_violation"},
		{HTRACE_ISA_VMX, 75, "notify"},
		{HTRACE_ISA_VMX, 5, "vmx_5"},
		{HTRACE_ISA_VMX, 76, "vmx_76"},
		{HTRACE_ISA_VMX, 0xffff, "vmx_65535"},
		{7, 12, "unknown_0xc"},
		{HTRACE_ISA_VMX, HTRACE_TOLD_OTHER, "other"},
	};
	char buf[24];

	for (unsigned int i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		ck_assert_str_eq(exit_name(names[i].isa, names[i].reason, buf, sizeof(buf)),
				 names[i].name);
	ck_assert(exit_is_halt(HTRACE_ISA_SVM, 0x78) && exit_is_halt(HTRACE_ISA_VMX, 12));
	ck_assert(!exit_is_halt(HTRACE_ISA_SVM, 12) && !exit_is_halt(HTRACE_ISA_VMX, 0x78));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tell");
	TCase *ring = tcase_create("ring"), *table = tcase_create("table");

	tcase_add_test(ring, test_told);
	tcase_add_test(ring, test_late);
	tcase_add_test(ring, test_elsewhere);
	tcase_add_test(ring, test_scribbled);
	tcase_add_test(ring, test_no_host_time);
	suite_add_tcase(s, ring);
	tcase_add_test(table, test_table);
	tcase_add_test(table, test_table_bounds);
	tcase_add_test(table, test_names);
	suite_add_tcase(s, table);
	return unit_run(s);
}

// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Structs that state their size (docs/versioning.md): the library takes today's and each smaller one that
 * has what cannot be missing, reads or writes nothing behind its end, and refuses a larger one.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/clock.h>
#include <htrace/consumer.h>
#include <htrace/declare.h>
#include <htrace/filter.h>
#include <htrace/producer.h>
#include <htrace/sync.h>

#include "unit.h"

#define SIZE (4u << 20)
#define MOST 256 /* bytes of any of them */
#define END(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))

struct call {
	__u32 nr, result;
};

static const struct htrace_field call_fields[] = {
	HTRACE_FIELD(struct call, nr),
	HTRACE_FIELD(struct call, result),
};
static const struct htrace_struct call = HTRACE_STRUCT(struct call, call_fields);
static const struct htrace_region_opts region_opts = {
	.sz = sizeof(region_opts), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
	.kind = HTRACE_RING_PER_THREAD, .nr_rings = 2, .ring_size = 65536, .block_size = 4096,
	.clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = 1,
};

/* What they are tried on: a ring with one record. */
static struct {
	struct htrace_region *region;
	struct htrace_producer producer;
	struct htrace_view *view;
	struct htrace_image image;
	struct htrace_consumer *consumer;
	struct htrace_schema_builder *builder;
	struct htrace_schema *schema;
	const struct htrace_event *event;
	struct htrace_clock *clock;
	int fd;
	char *page_end; /* nothing behind it may be touched */
} fix;

static void declare(void)
{
	const void *entries;
	char err[256] = "";
	size_t len;

	ck_assert_int_eq(htrace_builder_new(&fix.builder, NULL, 0), 0);
	ck_assert_int_eq(htrace_builder_declare(fix.builder, "call", &call), 1);
	entries = htrace_builder_entries(fix.builder, &len);
	ck_assert_msg(!htrace_schema_parse(&fix.schema, entries, len, err, sizeof(err)), "%s", err);
	fix.event = htrace_schema_event_by_name(fix.schema, "call");
}

static void setup(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char err[256] = "";

	declare();
	ck_assert_int_eq(htrace_region_create_local(&fix.region, NULL, SIZE, &region_opts, &fix.fd), 0);
	htrace_region_publish(fix.region);
	ck_assert_int_eq(htrace_producer_get(&fix.producer, fix.region, 0, 0), 0);
	ck_assert_int_eq(htrace_push(&fix.producer, 1, "12345678", 8), 0);
	ck_assert_msg(!htrace_view_open_fd(&fix.view, fix.fd, true, err, sizeof(err)), "%s", err);
	ck_assert_msg(!htrace_view_attach(fix.view, err, sizeof(err)), "%s", err);
	ck_assert_int_eq(htrace_view_ring(fix.view, 0, 0, &fix.image), 0);
	ck_assert_int_eq(htrace_consumer_new(&fix.consumer, &fix.image, NULL), 0);
	ck_assert_int_eq(htrace_clock_new(&fix.clock, HTRACE_CLOCK_MONOTONIC), 0);
	fix.page_end = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ck_assert_ptr_ne(fix.page_end, MAP_FAILED);
	fix.page_end += page;
	ck_assert_int_eq(mprotect(fix.page_end, page, PROT_NONE), 0);
}

static void teardown(void)
{
	htrace_clock_free(fix.clock);
	htrace_consumer_free(fix.consumer);
	htrace_view_close(fix.view);
	htrace_producer_put(&fix.producer);
	htrace_region_release(fix.region);
	htrace_schema_free(fix.schema);
	htrace_builder_free(fix.builder);
	close(fix.fd);
}

/* ------------------------------------------------------------- options that the library reads */

static int use_region(const void *o)
{
	struct htrace_region *r;
	int fd, ret = htrace_region_fits(SIZE, o);

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, o, &fd), ret);
	if (!ret) {
		htrace_region_release(r);
		close(fd);
	}
	return ret;
}

static int use_consumer(const void *o)
{
	struct htrace_consumer *c;
	struct htrace_batch b;
	int ret = htrace_consumer_new(&c, &fix.image, o);

	if (!ret) {
		ck_assert_int_eq(htrace_consumer_read(c, &b), 1);
		htrace_consumer_free(c);
	}
	return ret;
}

static int count(void *ctx, const struct htrace_record *r, const struct htrace_batch *b)
{
	return 0;
}

static int use_each(const void *o)
{
	struct htrace_consumer *c;
	long nr;

	ck_assert_int_eq(htrace_consumer_new(&c, &fix.image, NULL), 0);
	nr = htrace_consumer_each(c, o);
	htrace_consumer_free(c);
	ck_assert(nr == 1 || nr < 0);
	return nr < 0 ? (int)nr : 0;
}

static bool always(void *ctx)
{
	return true;
}

static int wait_none(void *priv, __u64 max_ns)
{
	return 1;
}

static int calls;

static void called(void *priv)
{
	calls++;
}

static void told(void *priv, __u64 events, __u64 backlog)
{
	calls++;
}

static int arm_none(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	ck_assert_uint_eq(target->sz, sizeof(*target));
	ck_assert(target->ready == always && !target->ctx);
	return 0;
}

/* Policies stay registered: each has a name of its own. The calls come that the struct reaches to. */
static int use_ops(const void *o)
{
	static const struct htrace_sync_target target = { sizeof(target), always, NULL };
	static char names[8][8];
	static int nr;
	size_t sz = *(const size_t *)o, copied = sz < MOST ? sz : MOST;
	union {
		struct htrace_sync_ops ops;
		char bytes[MOST];
	} mine;
	char *at = fix.page_end - (copied + 7) / 8 * 8;
	struct htrace_sync *s;
	int ret;

	if (sz < END(struct htrace_sync_ops, name) || sz > sizeof(mine.ops))
		return htrace_sync_register(o);
	snprintf(names[nr], sizeof(names[nr]), "p%d", nr);
	memcpy(&mine, o, copied);
	mine.ops.name = names[nr];
	memcpy(at, &mine, copied);
	ret = htrace_sync_register((const void *)at);
	memset(at, 0x5a, copied); /* the library has its own copy */
	if (ret)
		return ret;
	ck_assert_int_eq(htrace_sync_new(&s, names[nr++], &target), 0);
	ck_assert_int_eq(htrace_sync_wait(s, 1), 1);
	calls = 0;
	htrace_sync_did(s, 1, 1);
	htrace_sync_wake(s);
	htrace_sync_free(s);
	ck_assert_int_eq(calls, (sz >= END(struct htrace_sync_ops, did)) +
					(sz >= END(struct htrace_sync_ops, wake)) +
					(sz >= END(struct htrace_sync_ops, close)));
	return 0;
}

static int use_target(const void *o)
{
	struct htrace_sync *s;
	int ret = htrace_sync_new(&s, "spin", o);

	if (!ret) {
		ck_assert_int_eq(htrace_sync_wait(s, 1000000000), 1);
		htrace_sync_free(s);
	}
	return ret;
}

static void see_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 value)
{
}

static int use_visitor(const void *o)
{
	static const struct call record = { 1, 2 };

	return htrace_event_visit(fix.event, &record, sizeof(record), o, NULL);
}

static int use_struct(const void *o)
{
	struct htrace_schema_builder *b;
	int ret;

	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
	ret = htrace_builder_declare(b, "call", o);
	ck_assert(ret == 1 || ret < 0);
	htrace_builder_free(b);
	return ret < 0 ? ret : 0;
}

static const struct htrace_consumer_opts consumer_opts = { .sz = sizeof(consumer_opts) };
static const struct htrace_each_opts each_opts = { .sz = sizeof(each_opts), .record = count };
static const struct htrace_sync_ops sync_ops = {
	.sz = sizeof(sync_ops), .arm = arm_none, .wait = wait_none, .did = told, .wake = called,
	.close = called,
};
static const struct htrace_sync_target sync_target = { sizeof(sync_target), always, NULL };
static const struct htrace_visitor visitor = { .sz = sizeof(visitor), .integer = see_integer };

static const struct {
	const char *name;
	const void *today;
	size_t sz;
	size_t needs; /* bytes: what cannot be missing */
	int (*use)(const void *o);
} read_by_library[] = {
	{ "region_opts", &region_opts, sizeof(region_opts), sizeof(size_t), use_region },
	{ "consumer_opts", &consumer_opts, sizeof(consumer_opts), sizeof(size_t), use_consumer },
	{ "each_opts", &each_opts, sizeof(each_opts), END(struct htrace_each_opts, record), use_each },
	{ "sync_ops", &sync_ops, sizeof(sync_ops), END(struct htrace_sync_ops, wait), use_ops },
	{ "sync_target", &sync_target, sizeof(sync_target), END(struct htrace_sync_target, ready), use_target },
	{ "visitor", &visitor, sizeof(visitor), sizeof(size_t), use_visitor },
	{ "struct", &call, sizeof(call), END(struct htrace_struct, fields), use_struct },
};
#define NR_READ ((int)(sizeof(read_by_library) / sizeof(read_by_library[0])))

/* The first @sz bytes, which say that they are all, at the end of what may be read. */
static void *cut(const void *today, size_t known, size_t sz, char behind)
{
	char *at = fix.page_end - sz;

	memset(at, behind, sz);
	memcpy(at, today, sz < known ? sz : known);
	memcpy(at, &sz, sizeof(sz));
	return at;
}

START_TEST(test_read)
{
	const char *name = read_by_library[_i].name;
	const void *today = read_by_library[_i].today;
	size_t known = read_by_library[_i].sz, needs = read_by_library[_i].needs;
	int (*use)(const void *o) = read_by_library[_i].use;
	char whole[MOST];

	ck_assert_uint_eq(*(const size_t *)today, known);
	for (size_t sz = 8; sz <= known; sz += 8) {
		int ret = use(cut(today, known, sz, 0));

		ck_assert_msg(ret == (sz < needs ? -EINVAL : 0), "%s of %zu bytes: %d", name, sz, ret);
	}
	ck_assert_msg(use(cut(today, known, known + 8, 0)) == -EINVAL, "%s, larger, zeros behind", name);
	ck_assert_msg(use(cut(today, known, known + 8, 1)) == -EINVAL, "%s, larger", name);
	memcpy(whole, today, known);
	for (size_t sz = 0; sz < 8; sz++) { /* the caller forgot it */
		memcpy(whole, &sz, sizeof(sz));
		ck_assert_msg(use(whole) == -EINVAL, "%s that says %zu", name, sz);
	}
	memset(whole, 0xff, sizeof(size_t));
	ck_assert_msg(use(whole) == -EINVAL, "%s of any size", name);
}
END_TEST

/* ------------------------------------------------------------------- what the library fills in */

static int get_stats(void *s)
{
	htrace_consumer_get_stats(fix.consumer, s);
	return 0;
}

static int get_line(void *s)
{
	return htrace_clock_get_line(fix.clock, s);
}

static int get_owner(void *s)
{
	return htrace_view_owner(fix.view, &fix.image, s);
}

/* Statistics and the line are told as far as both know them, and their sz says how far. */
static const struct {
	const char *name;
	size_t sz;
	bool larger; /* is taken */
	int (*get)(void *s);
} filled[] = {
	{ "consumer_stats", sizeof(struct htrace_consumer_stats), true, get_stats },
	{ "clock_line", sizeof(struct htrace_clock_line), true, get_line },
	{ "owner", sizeof(struct htrace_owner), false, get_owner },
};

START_TEST(test_filled)
{
	const char *name = filled[_i].name;
	size_t known = filled[_i].sz, larger = known + 8;
	struct htrace_batch b;
	char whole[MOST];
	char *at;

	ck_assert_int_eq(htrace_consumer_read(fix.consumer, &b), 1);
	memcpy(whole, cut("", 0, known, 0x5a), known);
	ck_assert_msg(!filled[_i].get(whole), "%s", name);
	ck_assert_uint_eq(*(size_t *)whole, known);
	ck_assert_ptr_null(memmem(whole, known, "\x5a\x5a\x5a\x5a", 4)); /* all of it */
	for (size_t sz = 8; sz <= known; sz += 8) {
		at = cut("", 0, sz, 0x5a);
		ck_assert_msg(!filled[_i].get(at), "%s of %zu bytes", name, sz);
		ck_assert_uint_eq(*(size_t *)at, sz);
		ck_assert_msg(!memcmp(at + 8, whole + 8, sz - 8), "%s of %zu bytes differs", name, sz);
	}
	for (size_t sz = 0; sz < 8; sz++) { /* the caller forgot it */
		at = cut("", 0, 64, 0x5a);
		memcpy(at, &sz, sizeof(sz));
		filled[_i].get(at);
		ck_assert_msg(*(size_t *)at == sz && at[8] == 0x5a && !memcmp(at + 8, at + 9, 55),
			      "%s that says %zu", name, sz);
	}
	at = cut("", 0, larger, 0x5a);
	ck_assert_msg(filled[_i].get(at) == (filled[_i].larger ? 0 : -EINVAL), "%s, larger", name);
	if (filled[_i].larger) {
		ck_assert_uint_eq(*(size_t *)at, known);
		ck_assert(!memcmp(at + 8, whole + 8, known - 8));
	}
	ck_assert_mem_eq(at + known, "ZZZZZZZZ", 8);
}
END_TEST

/* ---------------------------------------------------------------------------------- the others */

static bool matches(const char *text, const void *context)
{
	static const struct call record = { 1, 2 };
	struct htrace_filter_bound *b;
	struct htrace_filter_error err;
	struct htrace_filter *f;
	bool yes;

	ck_assert_msg(!htrace_filter_parse(&f, text, &err), "%s", err.msg);
	ck_assert_int_eq(htrace_filter_bind(&b, f, fix.event), 0);
	yes = htrace_filter_matches(b, &record, sizeof(record), context);
	htrace_filter_unbind(b);
	htrace_filter_free(f);
	return yes;
}

/* A context cannot be refused: of a smaller one the rest is not known, of a larger one not asked for. */
START_TEST(test_context)
{
	static const struct htrace_filter_context today = {
		.sz = sizeof(today), .tid_known = true, .tid = 7, .cpu_known = true, .cpu = 3,
		.comm = "bash", .comm_len = 4,
	};
	const size_t known = sizeof(today);

	for (size_t sz = 8; sz <= known + 8; sz += 8) {
		const void *c = cut(&today, known, sz, 0x5a);
		bool words = sz >= END(struct htrace_filter_context, cpu);

		ck_assert(matches("nr == 1 && result == 2", c));
		ck_assert(matches("!(pid == 0)", c));
		ck_assert_msg(matches("tid == 7 && cpu == 3", c) == words, "%zu", sz);
		ck_assert_msg(matches("comm == bash", c) == (sz >= known), "%zu", sz);
	}
	ck_assert(!matches("tid == 7", cut(&today, known, 8, 0x5a)));
}
END_TEST

/* The elements of a description, too, say their size: those of an older header lack what was added. */
START_TEST(test_fields)
{
	struct htrace_struct s = call;

	for (size_t sz = 8; sz <= sizeof(struct htrace_field) + 8; sz += 8) {
		bool fine = sz >= END(struct htrace_field, reserved) && sz <= sizeof(struct htrace_field);
		char *at = fix.page_end - 2 * sz;

		memset(at, 0x5a, 2 * sz);
		for (size_t i = 0; i < 2; i++)
			memcpy(at + i * sz, &call_fields[i], sz < sizeof(call_fields[i]) ? sz : sizeof(call_fields[i]));
		s.fields = (const void *)at;
		s.field_size = sz;
		ck_assert_msg(use_struct(&s) == (fine ? 0 : -EINVAL), "%zu", sz);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("options");
	TCase *t = tcase_create("all");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_loop_test(t, test_read, 0, NR_READ);
	tcase_add_loop_test(t, test_filled, 0, 3);
	tcase_add_test(t, test_context);
	tcase_add_test(t, test_fields);
	suite_add_tcase(s, t);
	return unit_run(s);
}

// SPDX-License-Identifier: LGPL-2.1-or-later
/* Schemas at their limits, and damaged ones. */
#include "schema_blob.h"
#include "unit.h"

/* ------------------------------------------------------------------------------------- limits */

START_TEST(test_open_struct_nested)
{
	add_valid();
	STRUCT(48, { "o", OUTER, 0, 0 });
	expect_refused("'o' reaches to the end");
}
END_TEST

START_TEST(test_empty_elements)
{
	add_valid();
	add_type(HTRACE_TYPE_ARRAY, 0, EMPTY, 1000000, 0);
	expect_refused("elements are empty");
}
END_TEST

/* Structs without members have a size, but nothing in them that would count as a field. */
START_TEST(test_hollow_elements)
{
	add_struct(HTRACE_TYPE_STRUCT, 1, NULL, 0);
	add_type(HTRACE_TYPE_ARRAY, 60000, 1, 60000, 0);
	expect_refused("more than 4096 fields");
}
END_TEST

START_TEST(test_depth)
{
	add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	for (__u32 i = 1; i <= HTRACE_MAX_DEPTH; i++) {
		if (i % 2)
			STRUCT(4, { "x", i, 0, 0 });
		else
			add_type(HTRACE_TYPE_ARRAY, 4, i, 1, 0);
	}
	expect_accepted();
	UNION(4, { "x", HTRACE_MAX_DEPTH + 1, 0, 0 });
	expect_refused("nested deeper than 8");
}
END_TEST

START_TEST(test_fields)
{
	struct htrace_schema_type *t;

	add_valid();
	t = (void *)(blob->at + blob->len);
	add_type(HTRACE_TYPE_ARRAY, 2048 * 8, INNER, 2048, 0);
	expect_accepted();
	t->nr++;
	t->size += 8;
	expect_refused("more than 4096 fields");
	/* an array of integers is one field, however long */
	t->ref = S32;
	t->nr = 16382;
	t->size = 65528;
	expect_accepted();
}
END_TEST

START_TEST(test_fields_of_struct)
{
	struct item *items = calloc(HTRACE_MAX_FIELDS + 1, sizeof(*items));
	char (*names)[8] = calloc(HTRACE_MAX_FIELDS + 1, 8);

	for (__u32 i = 0; i <= HTRACE_MAX_FIELDS; i++) {
		snprintf(names[i], 8, "m%u", i);
		items[i] = (struct item){ names[i], U8, 8 * i, 0 };
	}
	add_valid();
	add_struct(HTRACE_TYPE_STRUCT, 5000, items, HTRACE_MAX_FIELDS);
	expect_accepted();
	add_struct(HTRACE_TYPE_STRUCT, 5000, items, HTRACE_MAX_FIELDS + 1);
	expect_refused("more than 4096 fields");
	free(items);
	free(names);
}
END_TEST

/* Members of a union lie over each other: their sum is what decoding a record costs. */
START_TEST(test_expanded)
{
	static const struct item all[] = { { "a", 1, 0, 0 }, { "b", 1, 0, 0 }, { "c", 1, 0, 0 },
		{ "d", 1, 0, 0 }, { "e", 1, 0, 0 }, { "f", 1, 0, 0 }, { "g", 1, 0, 0 },
		{ "h", 1, 0, 0 } };

	add_type(HTRACE_TYPE_STRING, HTRACE_REC_MAX, 0, 0, 0);
	add_struct(HTRACE_TYPE_UNION, HTRACE_REC_MAX, all, 7);
	expect_accepted();
	add_struct(HTRACE_TYPE_UNION, HTRACE_REC_MAX, all, 8);
	expect_refused("unions that expand");
}
END_TEST

/* Likewise in an array that reaches to the end: as if the record was as long as can be. */
START_TEST(test_expanded_open)
{
	struct item items[9];
	static const char *const names[] = { "a", "b", "c", "d", "e", "f", "g", "h", "i" };

	for (int i = 0; i < 9; i++)
		items[i] = (struct item){ names[i], 1, 0, 0 };
	add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	add_struct(HTRACE_TYPE_UNION, 4, items, 7);
	add_type(HTRACE_TYPE_ARRAY, 0, 2, 0, 0);
	expect_accepted();
	add_struct(HTRACE_TYPE_UNION, 4, items, 9);
	add_type(HTRACE_TYPE_ARRAY, 0, 4, 0, 0);
	expect_refused("unions that expand");
}
END_TEST

START_TEST(test_number_of_types)
{
	for (__u32 i = 0; i < HTRACE_MAX_TYPES; i++)
		add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	expect_accepted();
	add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	expect_refused("more than 65536 types");
}
END_TEST

START_TEST(test_schema_length)
{
	add_entry(3, HTRACE_SCHEMA_MAX);
	expect_accepted();
	add_entry(3, 8);
	expect_refused("more than 16777216");
}
END_TEST

/* As many events as can be, in an order that is bad for trees and sorting. */
START_TEST(test_number_of_events)
{
	struct htrace_schema *s;
	char name[32], err[256];

	add_struct(HTRACE_TYPE_STRUCT, 0, NULL, 0);
	for (__u32 id = HTRACE_MAX_EVENTS; id; id--) {
		snprintf(name, sizeof(name), "e%05u", id);
		add_event(id, name, 1);
	}
	ck_assert_msg(!parse(&s, blob->at, blob->len, err), "%s", err);
	for (__u32 id = 1; id <= HTRACE_MAX_EVENTS; id++) {
		snprintf(name, sizeof(name), "e%05u", id);
		ck_assert_str_eq(htrace_schema_event(s, id)->name, name);
		ck_assert_uint_eq(htrace_schema_event_by_name(s, name)->id, id);
	}
	htrace_schema_free(s);
}
END_TEST

/* ----------------------------------------------------------------------------------- damage */

START_TEST(test_truncated)
{
	__u32 whole = 0;

	add_valid();
	for (size_t len = 0; len < blob->len; len++) {
		struct htrace_schema *s;
		char err[256];
		bool border = whole < blob->nr_entries && blob->entry[whole] == len;

		ck_assert_int_eq(parse(&s, blob->at, len, err), border ? 0 : -EPROTO);
		htrace_schema_free(s);
		whole += border;
	}
	ck_assert_uint_eq(whole, blob->nr_entries);
}
END_TEST

struct damage {
	__u64 calls, sum;
};

static void count_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	struct damage *d = ctx;

	d->calls++;
	d->sum += (name ? strlen(name) : 0) + t->nr;
}

static void count_end(void *ctx, const struct htrace_type *t)
{
	((struct damage *)ctx)->calls += t->number != 0;
}

static void count_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 value)
{
	const char *label = htrace_enum_name(t, value);

	count_begin(ctx, name ? name : label, t);
}

static void count_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
			 size_t len)
{
	count_begin(ctx, name, t);
	for (size_t i = 0; i < len; i++)
		((struct damage *)ctx)->sum += (unsigned char)s[i];
}

static void count_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
			size_t len)
{
	count_string(ctx, name, t, p, len);
}

/* Whatever was accepted can be decoded: within the record, and at a bounded price. */
static void visit_all(const struct htrace_schema *s, unsigned long long *seed)
{
	static const struct htrace_visitor v = { sizeof(v), count_begin, count_end,
						 count_integer, count_string, count_bytes };

	for (__u32 i = 0; i < htrace_schema_nr_events(s); i++) {
		const struct htrace_event *e = htrace_schema_event_at(s, i);
		size_t len = unit_random(seed) % 8 ? unit_random(seed) % 128 : 65528;
		unsigned char *payload = malloc(len ? len : 1);
		struct damage d = { 0 };
		__u64 value;

		memset(payload, (int)unit_random(seed), len);
		ck_assert_int_ne(htrace_event_visit(e, payload, len, &v, &d), -EINVAL);
		htrace_event_get(e, payload, len, "flags", &value);
		ck_assert_uint_le(d.calls, 8 * HTRACE_REC_MAX * (2 * HTRACE_MAX_DEPTH + 1));
		free(payload);
	}
}

static void flip(char *at, size_t len, unsigned long long *seed)
{
	__u64 r = unit_random(seed);
	size_t byte = r % len;

	if (r >> 60)
		at[byte] ^= (char)(1 << (r >> 32 & 7));
	else
		at[byte] = (char)(r >> 40);
}

START_TEST(test_damaged)
{
	unsigned long long seed = (unsigned long long)_i * 1000003;
	__u32 accepted = 0;
	char *copy;

	add_valid();
	copy = malloc(blob->len);
	for (int round = 0; round < 5000; round++) {
		int flips = 1 + (int)(unit_random(&seed) % 4);
		struct htrace_schema *s;
		char err[256];

		memcpy(copy, blob->at, blob->len);
		while (flips--)
			flip(copy, blob->len, &seed);
		if (parse(&s, copy, blob->len, err))
			continue;
		accepted++;
		visit_all(s, &seed);
		htrace_schema_free(s);
	}
	ck_assert_uint_gt(accepted, 100);
	ck_assert_uint_lt(accepted, 4900);
	free(copy);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schema-limits");
	TCase *t = tcase_create("limits"), *damage = tcase_create("damage");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_open_struct_nested);
	tcase_add_test(t, test_empty_elements);
	tcase_add_test(t, test_hollow_elements);
	tcase_add_test(t, test_depth);
	tcase_add_test(t, test_fields);
	tcase_add_test(t, test_fields_of_struct);
	tcase_add_test(t, test_expanded);
	tcase_add_test(t, test_expanded_open);
	tcase_add_test(t, test_number_of_types);
	tcase_add_test(t, test_schema_length);
	tcase_add_test(t, test_number_of_events);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(damage, setup, teardown);
	tcase_set_timeout(damage, 120);
	tcase_add_test(damage, test_truncated);
	tcase_add_loop_test(damage, test_damaged, 0, 4);
	suite_add_tcase(s, damage);
	return unit_run(s);
}

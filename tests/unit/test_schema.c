// SPDX-License-Identifier: LGPL-2.1-or-later
/* Parsing schemas that somebody else wrote: what is accepted, what is refused, and why. */
#include "schema_blob.h"
#include "schema_text.h"
#include "unit.h"

START_TEST(test_valid)
{
	struct text text = { .len = 0 };
	struct htrace_schema *s;
	char err[256];

	add_valid();
	ck_assert_msg(!parse(&s, blob->at, blob->len, err), "%s", err);
	ck_assert_uint_eq(htrace_schema_nr_types(s), 13);
	ck_assert_uint_eq(htrace_schema_nr_events(s), 2);
	ck_assert_str_eq(htrace_schema_event(s, 7)->name, "first");
	ck_assert_str_eq(htrace_schema_event(s, 60000)->name, "second");
	ck_assert_ptr_null(htrace_schema_event(s, 0));
	ck_assert_ptr_null(htrace_schema_event(s, 8));
	ck_assert_ptr_null(htrace_schema_event(s, 60001));
	ck_assert_ptr_null(htrace_schema_event(s, ~0u));
	ck_assert_uint_eq(htrace_schema_event_by_name(s, "second")->id, 60000);
	ck_assert_uint_eq(htrace_schema_event_by_name(s, "first")->id, 7);
	ck_assert_ptr_null(htrace_schema_event_by_name(s, "third"));
	ck_assert_str_eq(htrace_schema_event_at(s, 1)->name, "second");
	ck_assert_ptr_null(htrace_schema_event_at(s, 2));
	describe(&text, htrace_schema_event(s, 7)->type);
	ck_assert_str_eq(text.s, "{48: id@0 s4, flags@4.0/3 s4, u@8 <8: a@0 s4, b@0 u8>, "
				 "in@16 {8: x@0 s4, y@4 s4}, text@24 \"16\", rest@40 \"0\"}");
	htrace_schema_free(s);
}
END_TEST

START_TEST(test_nothing)
{
	struct htrace_schema *s;

	ck_assert_int_eq(htrace_schema_parse(&s, NULL, 0, NULL, 0), 0);
	ck_assert_uint_eq(htrace_schema_nr_events(s), 0);
	ck_assert_ptr_null(htrace_schema_event(s, 1));
	ck_assert_ptr_null(htrace_schema_event_by_name(s, "x"));
	htrace_schema_free(s);
	htrace_schema_free(NULL);
}
END_TEST

/* ----------------------------------------------------------------------------------- refusals */

#define FIELD(at, type, field) (at) + offsetof(type, field), sizeof(((type *)0)->field)
#define ITEM(i, type, field) \
	FIELD(sizeof(struct htrace_schema_type) + (i) * sizeof(type), type, field)
#define TYPE(field) FIELD(0, struct htrace_schema_type, field)
#define EV(field) FIELD(0, struct htrace_schema_event, field)
#define MEM(i, field) ITEM(i, struct htrace_schema_member, field)
#define VAL(i, field) ITEM(i, struct htrace_schema_value, field)

/* A field of the valid schema is set to a value, names to a text. */
struct patch {
	size_t off, size;
	__u64 value;
	const char *text;
};

static const struct {
	const char *why;
	int entry;
	struct patch patch[3];
} refused[] = {
	{ "length 0 is not a multiple of 8", U8, { { TYPE(entry.len), 0 } } },
	{ "length 100 is not a multiple of 8", U8, { { TYPE(entry.len), 100 } } },
	{ "bytes are left", SECOND, { { EV(entry.len), 96 } } },
	{ "bytes are left", OUTER, { { TYPE(entry.len), 0xfffffff8 } } },
	{ "88 bytes are too few for a type", U8, { { TYPE(entry.len), 88 } } },
	{ "80 bytes are too few for an event", SECOND, { { EV(entry.len), 80 } } },
	{ "type 2 where 1 is due", U8, { { TYPE(type), 2 } } },
	{ "type 0 where 13 is due", OUTER, { { TYPE(type), 0 } } },
	{ "unknown kind 7", U8, { { TYPE(kind), 7 } } },
	{ "unknown kind 0", U8, { { TYPE(kind), 0 } } },
	{ "name of type 2", S32, { { TYPE(name), 0, "3s" } } },
	{ "name of type 2", S32, { { TYPE(name), 0, "a\x1b[0m" } } },
	{ "name of type 2", S32, { { TYPE(name), 0, "sp ace" } } },
	{ "name of type 2", S32, { { TYPE(name), 0, "UNTERMINATED" } } },
	{ "size 3 is not one of", S32, { { TYPE(size), 3 } } },
	{ "size 0 is not one of", S32, { { TYPE(size), 0 } } },
	{ "size 32 is not one of", S32, { { TYPE(size), 32 } } },
	{ "size 16 is not one of", COLOR, { { TYPE(size), 16 } } },
	{ "3 members do not fit", COLOR, { { TYPE(nr), 3 } } },
	{ "members do not fit", COLOR, { { TYPE(nr), 0x80000000 } } },
	{ "name of value 1", COLOR, { { VAL(1, name), 0, "" } } },
	{ "name of value 0", COLOR, { { VAL(0, name), 0, "UNTERMINATED" } } },
	{ "element's type 0", ARRAY, { { TYPE(ref), 0 } } },
	{ "element's type 6", ARRAY, { { TYPE(ref), ARRAY } } },
	{ "element's type 4294967295", ARRAY, { { TYPE(ref), ~0u } } },
	{ "elements reach to the end", OPEN_ARRAY, { { TYPE(ref), OPEN_TEXT } } },
	{ "size 12 is not that of 4", ARRAY, { { TYPE(size), 12 } } },
	{ "size 0 is not that of", ARRAY, { { TYPE(size), 0 }, { TYPE(nr), 0x40000000 } } },
	{ "size 8 is not that of 0", OPEN_ARRAY, { { TYPE(size), 8 } } },
	{ "larger than a record", ARRAY, { { TYPE(size), 65532 }, { TYPE(nr), 16383 } } },
	{ "larger than a record", TEXT, { { TYPE(size), 65529 } } },
	{ "a union needs members", CHOICE, { { TYPE(nr), 0 } } },
	{ "'b' of a union is not at its start", CHOICE, { { MEM(1, bit_off), 8 } } },
	{ "'b' ends behind", CHOICE, { { TYPE(size), 4 } } },
	{ "'a' reaches to the end", CHOICE, { { MEM(0, type), OPEN_TEXT } } },
	{ "'b' reaches to the end", CHOICE, { { MEM(1, type), OPEN_TEXT } } },
	{ "3 members do not fit", INNER, { { TYPE(nr), 3 } } },
	{ "members do not fit", INNER, { { TYPE(nr), 0x40000000 } } },
	{ "larger than a record", OUTER, { { TYPE(size), 65536 } } },
	{ "type 0 of member 'x'", INNER, { { MEM(0, type), 0 } } },
	{ "type 11 of member 'x'", INNER, { { MEM(0, type), INNER } } },
	{ "'y' does not begin at a byte", INNER, { { MEM(1, bit_off), 33 } } },
	{ "'y' ends behind", INNER, { { MEM(1, bit_off), 40 } } },
	{ "'y' ends behind", INNER, { { MEM(1, bit_off), 0xfffffff8 } } },
	{ "'y' ends behind", INNER, { { MEM(1, bit_off), 33 }, { MEM(1, bit_size), 32 } } },
	{ "'y' ends behind", INNER, { { MEM(1, bit_off), ~0u }, { MEM(1, bit_size), 1 } } },
	{ "'y' overlaps", INNER, { { MEM(1, bit_off), 24 } } },
	{ "'y' overlaps", INNER, { { MEM(1, bit_off), 0 } } },
	{ "name of member 0", INNER, { { MEM(0, name), 0, "" } } },
	{ "name of member 1", INNER, { { MEM(1, name), 0, "UNTERMINATED" } } },
	{ "two members are called 'x'", INNER, { { MEM(1, name), 0, "x" } } },
	{ "'flags' has 33 bits, its type has 32", OUTER, { { MEM(1, bit_size), 33 } } },
	{ "'flags' has 4294967295 bits", OUTER, { { MEM(1, bit_size), ~0u } } },
	{ "'in' is no integer", OUTER, { { MEM(3, bit_size), 3 } } },
	{ "'flags' is no integer of up to 8", OUTER, { { MEM(1, type), U128 } } },
	{ "'flags' spreads over more than 8 bytes", OUTER,
	  { { MEM(1, type), U64 }, { MEM(1, bit_off), 33 }, { MEM(1, bit_size), 64 } } },
	{ "'id' is empty", OUTER, { { MEM(0, type), EMPTY } } },
	{ "'text' reaches to the end", OUTER, { { MEM(4, type), OPEN_TEXT } } },
	{ "'rest' ends behind", OUTER, { { MEM(5, bit_off), 49 * 8 } } },
	{ "id 0 is not within", EVENT, { { EV(id), 0 } } },
	{ "id 60001 is not within", EVENT, { { EV(id), HTRACE_MAX_EVENTS + 1 } } },
	{ "id 4294967295 is not within", EVENT, { { EV(id), ~0u } } },
	{ "'second': id 7 is taken", SECOND, { { EV(id), 7 } } },
	{ "type 0 is no struct", EVENT, { { EV(type), 0 } } },
	{ "type 14 is no struct", EVENT, { { EV(type), OUTER + 1 } } },
	{ "type 3 is no struct", EVENT, { { EV(type), U64 } } },
	{ "type 10 is no struct", EVENT, { { EV(type), CHOICE } } },
	{ "event's name", EVENT, { { EV(name), 0, "" } } },
	{ "event's name", EVENT, { { EV(name), 0, "UNTERMINATED" } } },
	{ "event's name", EVENT, { { EV(name), 0, "a/../b" } } },
	{ "two events are called 'first'", SECOND, { { EV(name), 0, "first" } } },
};

static void apply(char *entry, const struct patch *p)
{
	if (!p->text) {
		memcpy(entry + p->off, &p->value, p->size);
	} else if (!strcmp(p->text, "UNTERMINATED")) {
		memset(entry + p->off, 'a', p->size);
	} else {
		memset(entry + p->off, 0, p->size);
		strcpy(entry + p->off, p->text);
	}
}

START_TEST(test_refused)
{
	add_valid();
	for (int i = 0; i < 3 && refused[_i].patch[i].size; i++)
		apply(blob->at + blob->entry[refused[_i].entry - 1], &refused[_i].patch[i]);
	expect_refused(refused[_i].why);
}
END_TEST

START_TEST(test_tail)
{
	add_valid();
	blob->len += 4;
	expect_refused("4 bytes are left, too few for an entry");
}
END_TEST

/* Names up to 63 bytes, all their characters; what is behind a name's end does not matter. */
START_TEST(test_names)
{
	struct htrace_schema_event *e;

	add_valid();
	e = (void *)(blob->at + blob->entry[EVENT - 1]);
	memset(e->name, 'z', 63);
	expect_accepted();
	strcpy(e->name, "_azAZ09");
	expect_accepted();
	for (int c = 1; c < 256; c++) {
		bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';

		snprintf(e->name, sizeof(e->name), "%cx", c);
		if (letter)
			expect_accepted();
		else
			expect_refused("event's name");
		snprintf(e->name, sizeof(e->name), "x%c", c);
		if (letter || (c >= '0' && c <= '9'))
			expect_accepted();
		else
			expect_refused("event's name");
	}
}
END_TEST

/* What a newer minor version may add: entries, hints, flags, bytes behind members. */
START_TEST(test_newer)
{
	struct htrace_schema_type *t;
	struct htrace_schema *s;
	char err[256];

	add_entry(0xfffe, 24);
	add_entry(0xffff, 8);
	t = (void *)(blob->at + blob->len);
	add_type(HTRACE_TYPE_INT, 4, 0, 0, 16);
	t->hint = 200;
	t->flags = 0xfe;
	t->reserved = 77;
	STRUCT(4, { "x", 1, 0, 0 });
	add_event(1, "e", 2);
	ck_assert_msg(!parse(&s, blob->at, blob->len, err), "%s", err);
	ck_assert_int_eq(htrace_schema_event(s, 1)->type->members[0].type->hint, HTRACE_HINT_NONE);
	ck_assert(!htrace_schema_event(s, 1)->type->members[0].type->is_signed);
	htrace_schema_free(s);
}
END_TEST

static struct htrace_schema_filter *add_filter(__u32 id, __u32 flags, const char *text, size_t room)
{
	struct htrace_schema_filter *f = add_entry(HTRACE_SCHEMA_FILTER, sizeof(*f) + room);

	f->id = id;
	f->flags = flags;
	memset(f + 1, 'x', room);
	memcpy(f + 1, text, strlen(text) + 1 < room ? strlen(text) + 1 : room);
	return f;
}

/* The last filter of all events holds; what is said of one event holds until then. */
START_TEST(test_filter)
{
	struct htrace_schema *s;
	char err[256];

	add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	STRUCT(4, { "x", 1, 0, 0 });
	add_event(1, "e", 2);
	add_event(7, "f", 2);
	ck_assert(!parse(&s, blob->at, blob->len, err));
	ck_assert_ptr_null(htrace_schema_filter(s));
	htrace_schema_free(s);

	add_filter(0, 0, "x == 1", 8);
	add_filter(7, HTRACE_FILTER_IN_GUEST, "", 8);
	ck_assert_msg(!parse(&s, blob->at, blob->len, err), "%s", err);
	ck_assert_str_eq(htrace_schema_filter(s), "x == 1");
	ck_assert(htrace_schema_is_filtered(s, 7) && !htrace_schema_is_filtered(s, 1));
	ck_assert(!htrace_schema_is_filtered(s, 0) && !htrace_schema_is_filtered(s, 60001));
	htrace_schema_free(s);

	add_filter(0, HTRACE_FILTER_IN_GUEST, "\x1b[", 16);
	add_filter(1, HTRACE_FILTER_IN_GUEST, "", 8);
	add_filter(1, 0, "", 8);
	ck_assert(!parse(&s, blob->at, blob->len, err));
	ck_assert_str_eq(htrace_schema_filter(s), "\x1b[");
	ck_assert(!htrace_schema_is_filtered(s, 7) && !htrace_schema_is_filtered(s, 1));
	htrace_schema_free(s);

	add_filter(0, 0, "", 8);
	ck_assert(!parse(&s, blob->at, blob->len, err));
	ck_assert_ptr_null(htrace_schema_filter(s));
	htrace_schema_free(s);
}
END_TEST

START_TEST(test_filter_refused)
{
	static char text[HTRACE_FILTER_TEXT_MAX + 2];
	size_t len;

	add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	STRUCT(4, { "x", 1, 0, 0 });
	add_event(1, "e", 2);
	len = blob->len;
	add_filter(2, 0, "", 8);
	expect_refused("filter of event 2, which was not declared before");
	blob->len = len;
	add_filter(0xffffffff, 0, "", 8);
	expect_refused("filter of event 4294967295");
	blob->len = len;
	add_filter(0, 0, "xxxxxxxx", 8);
	expect_refused("filter's text has no end");
	blob->len = len;
	add_filter(0, 0, "", 0);
	expect_refused("too few for a filter");
	blob->len = len;
	memset(text, 'x', sizeof(text) - 1);
	add_filter(0, 0, text, sizeof(text) + 6);
	expect_refused("or is too long");
	blob->len = len;
	text[sizeof(text) - 2] = 0;
	add_filter(0, 0, text, sizeof(text) + 6);
	expect_accepted();
}
END_TEST

/* What a builder writes is read so; a filter of an earlier agent's is noticed. */
START_TEST(test_filter_built)
{
	struct htrace_schema_member m = { .name = "x" };
	struct htrace_schema_builder *b, *next;
	struct htrace_schema *s;
	const void *entries;
	char err[256], text[HTRACE_FILTER_TEXT_MAX + 2];
	size_t len;
	int id;

	ck_assert(!htrace_builder_new(&b, NULL, 0));
	m.type = (__u32)htrace_builder_int(b, NULL, 4, false, 0);
	id = htrace_builder_event(b, "e", htrace_builder_struct(b, NULL, false, 4, &m, 1));
	ck_assert(!htrace_builder_has_filter(b));
	ck_assert(!htrace_builder_filter(b, "x == 12"));
	ck_assert(!htrace_builder_filtered(b, (__u32)id));
	ck_assert_int_eq(htrace_builder_filtered(b, 99), -EINVAL);
	ck_assert(htrace_builder_has_filter(b));
	memset(text, '1', sizeof(text));
	text[sizeof(text) - 1] = 0;
	ck_assert_int_eq(htrace_builder_filter(b, text), -EINVAL);
	entries = htrace_builder_entries(b, &len);
	ck_assert(!parse(&s, entries, len, err));
	ck_assert_str_eq(htrace_schema_filter(s), "x == 12");
	ck_assert(htrace_schema_is_filtered(s, (__u32)id));
	htrace_schema_free(s);
	ck_assert(!htrace_builder_new(&next, entries, len));
	ck_assert(htrace_builder_has_filter(next));
	ck_assert(!htrace_builder_filter(next, ""));
	ck_assert(!htrace_builder_has_filter(next));
	/* Of single events, as the host's commands have it: the next agent has to end that, too. */
	ck_assert(!htrace_builder_unfiltered(next, (__u32)id));
	ck_assert(!htrace_builder_has_filter(next));
	ck_assert(!htrace_builder_filtered(next, (__u32)id));
	ck_assert(htrace_builder_has_filter(next));
	ck_assert(!htrace_builder_filter(next, ""));
	ck_assert(!htrace_builder_has_filter(next));
	htrace_builder_free(next);
	htrace_builder_free(b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schema");
	TCase *t = tcase_create("parse");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_valid);
	tcase_add_test(t, test_nothing);
	tcase_add_loop_test(t, test_refused, 0, sizeof(refused) / sizeof(refused[0]));
	tcase_add_test(t, test_tail);
	tcase_add_test(t, test_names);
	tcase_add_test(t, test_newer);
	tcase_add_test(t, test_filter);
	tcase_add_test(t, test_filter_refused);
	tcase_add_test(t, test_filter_built);
	suite_add_tcase(s, t);
	return unit_run(s);
}

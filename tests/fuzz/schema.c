// SPDX-License-Identifier: LGPL-2.1-or-later
/* Schemas: refused, or good for every record; and the builder takes what the parser does. */
#include <errno.h>

#include <htrace/schema.h>

#include "fuzz.h"
#include "fuzz_schema.h"

/* Everything that a walk hands out lies in the record. */
struct walk {
	const char *from, *to;
	unsigned int depth;
	__u64 calls, sum;
};

static void on_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	struct walk *w = ctx;

	w->calls++;
	w->sum += name ? strlen(name) : 0;
	CHECK(++w->depth <= HTRACE_MAX_DEPTH);
}

static void on_end(void *ctx, const struct htrace_type *t)
{
	((struct walk *)ctx)->depth--;
}

static void on_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 value)
{
	struct walk *w = ctx;
	const char *label = htrace_enum_name(t, value);

	w->calls++;
	w->sum += value + (label ? strlen(label) : 0);
}

static void on_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		     size_t len)
{
	struct walk *w = ctx;

	w->calls++;
	CHECK((const char *)p >= w->from && len <= (size_t)(w->to - (const char *)p));
	for (size_t i = 0; i < len; i++)
		w->sum += ((const unsigned char *)p)[i];
}

static void on_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		      size_t len)
{
	on_bytes(ctx, name, t, s, len);
}

static void visit(const struct htrace_event *e, const void *payload, size_t len)
{
	static const struct htrace_visitor all = {
		.sz = sizeof(all), .begin = on_begin, .end = on_end, .integer = on_integer,
		.string = on_string, .bytes = on_bytes,
	};
	static const struct htrace_visitor none = { .sz = sizeof(none) }, bad = { .sz = 1 };
	struct walk w = { .from = payload, .to = (const char *)payload + len };
	int ret = htrace_event_visit(e, payload, len, &all, &w);
	__u64 value;

	CHECK(!ret || ret == -EMSGSIZE);
	CHECK(!w.depth);
	CHECK(w.calls <= HTRACE_MAX_EXPANDED + HTRACE_MAX_FIELDS);
	CHECK(htrace_event_visit(e, payload, len, &none, &w) == ret);
	CHECK(htrace_event_visit(e, payload, len, &bad, &w) == -EINVAL);
	for (__u32 i = 0; i < e->type->nr; i++)
		htrace_event_get(e, payload, len, e->type->members[i].name, &value);
	CHECK(!htrace_event_get(e, payload, len, "no such member", &value));
}

static void use(const struct htrace_schema *s, struct input *in)
{
	unsigned int most = 64;

	for (__u32 i = 0; i < htrace_schema_nr_events(s) && most; i++, most--) {
		const struct htrace_event *e = htrace_schema_event_at(s, i);
		size_t len;
		void *payload;

		CHECK(htrace_schema_event(s, e->id) == e);
		CHECK(htrace_schema_event_by_name(s, e->name) == e);
		htrace_schema_is_filtered(s, e->id);
		visit(e, "", 0);
		payload = take_exact(in, take(in, 1) * 2, &len);
		visit(e, payload, len);
		free(payload);
		/* Its fixed part to the byte, and one less. */
		payload = calloc(1, e->type->size + 1);
		visit(e, payload, e->type->size);
		payload = realloc(payload, e->type->size ? e->type->size - 1 : 0);
		if (e->type->size > 1)
			visit(e, payload, e->type->size - 1);
		free(payload);
	}
	CHECK(!htrace_schema_event(s, ~0u));
	CHECK(!htrace_schema_event_at(s, htrace_schema_nr_events(s)));
	htrace_schema_filter(s);
}

/* An agent that takes over a region parses what lies there too. */
static void adopt(const void *entries, size_t len)
{
	struct htrace_schema_builder *b;

	if (!htrace_builder_new(&b, entries, len))
		htrace_builder_free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct schema_maker maker;
	struct input in = { data, size };
	struct htrace_schema *s;
	char err[160] = "";
	__u64 how = take(&in, 1);
	size_t len;
	void *blob;
	int ret;

	maker.len = maker.nr_types = maker.nr_events = 0;
	if (how & 1) {
		blob = take_exact(&in, in.left, &len);
	} else {
		struct input made;

		schema_make(&maker, &in, 64);
		made = (struct input){ (const uint8_t *)maker.at, maker.len };
		blob = take_exact(&made, maker.len - (how & 2 ? take(&in, 1) % (maker.len + 1) : 0), &len);
	}
	fail_allocation(how & 4 ? (unsigned int)(how >> 3) : 0);
	ret = htrace_schema_parse(&s, blob, len, err, sizeof(err));
	fail_allocation(0);
	CHECK(!ret == (s != NULL));
	CHECK(!ret || ret == -EPROTO || ret == -ENOMEM);
	CHECK(!ret || err[0]);
	if (!ret)
		use(s, &in);
	if (!ret || ret == -EPROTO)
		adopt(blob, len);
	htrace_schema_free(s);
	free(blob);
	return 0;
}

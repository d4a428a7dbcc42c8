/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tsdl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#define TEXT_BEGIN 4096
#define OFFSET_MAX (1ULL << 61)

void tsdl_put(struct tsdl *t, const char *fmt, ...)
{
	char piece[1024];
	va_list args;
	size_t len;
	int n;

	va_start(args, fmt);
	n = vsnprintf(piece, sizeof(piece), fmt, args);
	va_end(args);
	len = n > 0 ? (size_t)n : 0;
	if (len >= sizeof(piece) || t->len + len > t->max)
		t->full = true;
	if (t->full)
		return;
	if (t->len + len + 1 > t->room) {
		size_t room = 2 * (t->len + len) + TEXT_BEGIN;
		char *p = realloc(t->p, room);

		if (!p) {
			t->full = true;
			return;
		}
		t->p = p;
		t->room = room;
	}
	memcpy(t->p + t->len, piece, len + 1);
	t->len += len;
}

void tsdl_free(struct tsdl *t)
{
	free(t->p);
	memset(t, 0, sizeof(*t));
}

/* Text of anybody's between quotes: made harmless, and then the backslashes of that doubled. */
static void put_quoted(struct tsdl *t, const char *s, size_t len)
{
	tsdl_put(t, "\"");
	for (size_t i = 0; i < len; i++) {
		char safe[4];
		size_t n = htrace_escape(safe, sizeof(safe), s + i, 1);

		if (safe[0] == '\\')
			tsdl_put(t, "\\");
		tsdl_put(t, "%.*s", (int)n, safe);
	}
	tsdl_put(t, "\"");
}

void tsdl_env(struct tsdl *t, const char *key, const char *value, size_t max)
{
	tsdl_put(t, "\t%s = ", key);
	put_quoted(t, value, strnlen(value, max));
	tsdl_put(t, ";\n");
}

void tsdl_uuid(struct tsdl *t, const __u8 *u)
{
	tsdl_put(t, "\tuuid = \"");
	for (int i = 0; i < 16; i++)
		tsdl_put(t, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
	tsdl_put(t, "\";\n");
}

static bool is_zero(const __u8 *u)
{
	static const __u8 zero[16];

	return !memcmp(u, zero, sizeof(zero));
}

/* From the region's clock to the wall clock of its machine. */
static __u64 offset_of(const struct sink_session *s)
{
	if (s->ticks || s->clock.real <= s->clock.mono ||
	    s->clock.real - s->clock.mono > OFFSET_MAX)
		return 0;
	return s->clock.real - s->clock.mono;
}

void tsdl_clock(struct tsdl *t, const struct sink_session *s)
{
	__u64 offset = offset_of(s);

	tsdl_put(t, "clock {\n\tname = \"monotonic\";\n");
	if (!is_zero(s->boot_id))
		tsdl_uuid(t, s->boot_id);
	tsdl_put(t, "\tdescription = \"%s\";\n\tfreq = 1000000000; /* Hz */\n",
		 s->ticks ? "TSC, ticks of unknown frequency" : "Monotonic Clock");
	/* Machines are told from each other by their clocks' ids, and put side by side if this is. */
	if (offset)
		tsdl_put(t, "\tabsolute = TRUE;\n");
	tsdl_put(t, "\toffset_s = %" PRIu64 ";\n\toffset = %" PRIu64 ";\n};\n\n",
		 (uint64_t)(offset / 1000000000), (uint64_t)(offset % 1000000000));
}

static void put_plain(struct tsdl *t, const struct htrace_type *type, unsigned int bits,
		      unsigned int align)
{
	bool hex = type->hint == HTRACE_HINT_HEX || type->hint == HTRACE_HINT_POINTER;

	tsdl_put(t, "integer { size = %u; align = %u; signed = %s;%s }", bits, align,
		 type->is_signed ? "true" : "false", hex ? " base = 16;" : "");
}

/* A value that the enum's integer can have: what a guest declares need not be one. */
static bool in_range(const struct htrace_type *type, unsigned int bits, __s64 v)
{
	if (bits >= 64)
		return true;
	if (type->is_signed)
		return v >= -(1LL << (bits - 1)) && v < 1LL << (bits - 1);
	return v >= 0 && v < 1LL << bits;
}

void tsdl_integer(struct tsdl *t, const struct htrace_type *type, unsigned int bits,
		  unsigned int align)
{
	__u32 nr = type->kind == HTRACE_TYPE_ENUM ? type->nr : 0;
	bool any = false;

	for (__u32 i = 0; i < nr && !t->full; i++) {
		__s64 v = type->values[i].value;

		if (!in_range(type, bits, v))
			continue;
		if (!any) {
			tsdl_put(t, "enum : ");
			put_plain(t, type, bits, align);
		}
		tsdl_put(t, "%s \"%s\" = ", any ? "," : " {", type->values[i].name);
		if (type->is_signed)
			tsdl_put(t, "%" PRId64, (int64_t)v);
		else
			tsdl_put(t, "%" PRIu64, (uint64_t)v);
		any = true;
	}
	if (any)
		tsdl_put(t, " }");
	else
		put_plain(t, type, bits, align);
}

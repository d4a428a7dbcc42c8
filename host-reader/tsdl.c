/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tsdl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#include "host_clock.h"

#define TEXT_BEGIN 4096
#define OFFSET_MAX (1ULL << 61)
#define NS 1000000000ULL
#define TICKS_MIN 500000000 /* Hz */

__extension__ typedef unsigned __int128 wide;

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

void tsdl_uuid(struct tsdl *t, const char *name, const __u8 *u)
{
	tsdl_put(t, "\t%s = \"", name);
	for (int i = 0; i < 16; i++)
		tsdl_put(t, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
	tsdl_put(t, "\";\n");
}

static bool is_zero(const __u8 *u)
{
	static const __u8 zero[16];

	return !memcmp(u, zero, sizeof(zero));
}

/* From the clock that times are shown by to the wall clock of the same machine. */
static __u64 offset_of(const struct sink_session *s)
{
	if (s->on_host)
		return s->host_real <= OFFSET_MAX ? s->host_real : 0;
	if (s->ticks || s->clock.real <= s->clock.mono ||
	    s->clock.real - s->clock.mono > OFFSET_MAX)
		return 0;
	return s->clock.real - s->clock.mono;
}

struct description {
	const char *text;
	__u64 hz, offset_s, offset; /* the last in ticks */
	__u64 precision;            /* likewise; 0: not known */
	const __u8 *uuid;
	bool absolute;
};

static void put_clock(struct tsdl *t, const struct description *d)
{
	tsdl_put(t, "clock {\n\tname = \"monotonic\";\n");
	if (!is_zero(d->uuid))
		tsdl_uuid(t, "uuid", d->uuid);
	tsdl_put(t, "\tdescription = \"%s\";\n\tfreq = %" PRIu64 "; /* Hz */\n", d->text,
		 (uint64_t)d->hz);
	if (d->precision)
		tsdl_put(t, "\tprecision = %" PRIu64 ";\n", (uint64_t)d->precision);
	/* Machines are told from each other by their clocks' ids, and put side by side if this is. */
	if (d->absolute)
		tsdl_put(t, "\tabsolute = TRUE;\n");
	tsdl_put(t, "\toffset_s = %" PRIu64 ";\n\toffset = %" PRIu64 ";\n};\n\n",
		 (uint64_t)d->offset_s, (uint64_t)d->offset);
}

void tsdl_clock(struct tsdl *t, const struct sink_session *s)
{
	__u64 offset = offset_of(s);
	struct description d = {
		.text = s->ticks ? "TSC, ticks of unknown frequency" :
			s->on_host ? "Monotonic Clock of the host" : "Monotonic Clock",
		.hz = NS, .offset_s = offset / NS, .offset = offset % NS, .absolute = offset != 0,
		.precision = s->bound && *s->bound != HOST_CLOCK_UNKNOWN ? *s->bound : 0,
		.uuid = s->on_host ? s->host_boot_id : s->boot_id,
	};

	put_clock(t, &d);
}

/*
 * Ticks are at most a few ns long, else 2^61 of them and the offset were more than readers count. The
 * offset is such that the line's own time is right to the tick.
 */
void tsdl_clock_ticks(struct tsdl *t, const struct sink_session *s,
		      const struct htrace_clock_line *line)
{
	struct description d = { .text = "TSC, ticks of unknown frequency", .hz = NS, .uuid = s->boot_id };
	__u64 then = line->real > line->mono && line->real <= OFFSET_MAX ? line->real : line->mono;
	wide ticks = (wide)then * line->hz / NS;

	if (line->hz >= TICKS_MIN && then <= OFFSET_MAX && ticks >= line->time) {
		ticks -= line->time;
		d = (struct description){
			.text = "TSC, by a straight line through samples of it and the Monotonic Clock",
			.hz = line->hz, .offset_s = (__u64)(ticks / line->hz),
			.offset = (__u64)(ticks % line->hz), .absolute = then == line->real,
			.uuid = s->boot_id,
		};
	}
	put_clock(t, &d);
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

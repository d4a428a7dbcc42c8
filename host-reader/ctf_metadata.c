/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <htrace/version.h>

#include "ctf.h"

#define TEXT_BEGIN 4096
#define NAME (HTRACE_NAME_MAX + 16)

void ctf_put(struct ctf_text *t, const char *fmt, ...)
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

void ctf_text_free(struct ctf_text *t)
{
	free(t->p);
	memset(t, 0, sizeof(*t));
}

/* ---------------------------------------------------------------------------------------- trace */

/* Text of anybody's between quotes: made harmless, and then the backslashes of that doubled. */
static void put_quoted(struct ctf_text *t, const char *s, size_t len)
{
	ctf_put(t, "\"");
	for (size_t i = 0; i < len; i++) {
		char safe[4];
		size_t n = htrace_escape(safe, sizeof(safe), s + i, 1);

		if (safe[0] == '\\')
			ctf_put(t, "\\");
		ctf_put(t, "%.*s", (int)n, safe);
	}
	ctf_put(t, "\"");
}

static void put_env(struct ctf_text *t, const char *key, const char *value, size_t max)
{
	ctf_put(t, "\t%s = ", key);
	put_quoted(t, value, strnlen(value, max));
	ctf_put(t, ";\n");
}

static void put_uuid(struct ctf_text *t, const __u8 *u)
{
	ctf_put(t, "\tuuid = \"");
	for (int i = 0; i < 16; i++)
		ctf_put(t, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
	ctf_put(t, "\";\n");
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
	    s->clock.real - s->clock.mono > CTF_OFFSET_MAX)
		return 0;
	return s->clock.real - s->clock.mono;
}

static void put_clock(struct ctf_text *t, const struct sink_session *s)
{
	__u64 offset = offset_of(s);

	ctf_put(t, "clock {\n\tname = \"monotonic\";\n");
	if (!is_zero(s->boot_id))
		put_uuid(t, s->boot_id);
	ctf_put(t, "\tdescription = \"%s\";\n\tfreq = 1000000000; /* Hz */\n",
		s->ticks ? "TSC, ticks of unknown frequency" : "Monotonic Clock");
	/* Machines are told from each other by their clocks' ids, and put side by side if this is. */
	if (offset)
		ctf_put(t, "\tabsolute = TRUE;\n");
	ctf_put(t, "\toffset_s = %" PRIu64 ";\n\toffset = %" PRIu64 ";\n};\n\n",
		(uint64_t)(offset / 1000000000), (uint64_t)(offset % 1000000000));
}

/* When, in LTTng's form. */
static void put_date(struct ctf_text *t, time_t when)
{
	char text[64];
	struct tm tm;

	if (localtime_r(&when, &tm) && strftime(text, sizeof(text), "%Y%m%dT%H%M%S%z", &tm))
		put_env(t, "trace_creation_datetime", text, sizeof(text));
}

#define U8 "integer { size = 8; align = 8; signed = false; }"
#define U16 "integer { size = 16; align = 8; signed = false; }"
#define U32 "integer { size = 32; align = 8; signed = false; }"
#define U64 "integer { size = 64; align = 8; signed = false; }"
#define S32 "integer { size = 32; align = 8; signed = true; }"
#define TIMESTAMP "integer { size = 64; align = 8; signed = false; map = clock.monotonic.value; }"

static const char trace_head[] =
	"/* CTF 1.8 */\n\n"
	"trace {\n"
	"\tmajor = 1;\n"
	"\tminor = 8;\n"
	"\tbyte_order = le;\n"
	"\tpacket.header := struct {\n"
	"\t\t" U32 " magic;\n"
	"\t\t" U8 " uuid[16];\n"
	"\t\t" U32 " stream_id;\n"
	"\t};\n";

/* Tools go by these: the version is that of the LTTng whose fields the events have. */
static const char env_kernel[] =
	"\tdomain = \"kernel\";\n"
	"\tsysname = \"Linux\";\n"
	"\ttracer_name = \"lttng-modules\";\n"
	"\ttracer_major = 2;\n"
	"\ttracer_minor = 13;\n"
	"\ttracer_patchlevel = 0;\n"
	"\ttrace_buffering_scheme = \"global\";\n";

static const char stream_head[] =
	"\tevent.header := struct {\n"
	"\t\t" U16 " id;\n"
	"\t\t" TIMESTAMP " timestamp;\n"
	"\t};\n"
	"\tevent.context := struct {\n"
	"\t\t" S32 " _pid;\n"
	"\t\t" S32 " _tid;\n"
	"\t\tstring _procname;\n"
	"\t};\n"
	"\tpacket.context := struct {\n"
	"\t\t" TIMESTAMP " timestamp_begin;\n"
	"\t\t" TIMESTAMP " timestamp_end;\n"
	"\t\t" U64 " content_size;\n"
	"\t\t" U64 " packet_size;\n"
	"\t\t" U64 " packet_seq_num;\n"
	"\t\t" U64 " events_discarded;\n";

#define RAW                           \
	"\t\t" U32 " _raw_length;\n" \
	"\t\tinteger { size = 8; align = 8; signed = false; base = 16; } _raw[_raw_length];\n"

const char ctf_fields_none[] = "struct { }";
const char ctf_fields_raw[] = "struct {\n" RAW "\t}";
const char ctf_fields_undecoded[] = "struct {\n\t\t" U32 " _id;\n" RAW "\t}";
const char ctf_fields_process_state[] =
	"struct {\n"
	"\t\t" S32 " _tid;\n"
	"\t\t" S32 " _vtid;\n"
	"\t\t" S32 " _pid;\n"
	"\t\t" S32 " _vpid;\n"
	"\t\t" S32 " _ppid;\n"
	"\t\t" S32 " _vppid;\n"
	"\t\tstring _name;\n"
	"\t\t" S32 " _type;\n"
	"\t\t" S32 " _mode;\n"
	"\t\t" S32 " _submode;\n"
	"\t\t" S32 " _status;\n"
	"\t\t" S32 " _ns_level;\n"
	"\t\t" U32 " _ns_inum;\n"
	"\t}";

/* @text may be long. */
static void put_text(struct ctf_text *t, const char *text)
{
	size_t len = strlen(text);

	for (size_t at = 0; at < len && !t->full; at += 1000)
		ctf_put(t, "%.1000s", text + at);
}

void ctf_put_trace(struct ctf_text *t, const struct ctf_trace_info *info)
{
	const struct sink_session *s = info->session;

	put_text(t, trace_head);
	put_uuid(t, info->uuid);
	ctf_put(t, "};\n\nenv {\n");
	put_env(t, "hostname", s->hostname, sizeof(s->hostname));
	if (info->per_cpu)
		put_text(t, env_kernel);
	put_env(t, "kernel_release", s->release, sizeof(s->release));
	put_env(t, "trace_name", info->name, 256);
	put_date(t, info->created);
	put_env(t, "htrace_version", htrace_version(), 64);
	put_env(t, "htrace_source", s->path, 4096);
	ctf_put(t, "};\n\n");
	put_clock(t, s);
}

void ctf_put_stream(struct ctf_text *t, unsigned int kind)
{
	ctf_put(t, "stream {\n\tid = %u;\n", kind);
	put_text(t, stream_head);
	ctf_put(t, "\t\t" U32 " %s;\n", kind & CTF_RING ? "ring" : "cpu_id");
	if (kind & CTF_UNVERIFIED)
		ctf_put(t, "\t\t" U8 " unverified;\n");
	ctf_put(t, "\t};\n};\n\n");
}

void ctf_put_event(struct ctf_text *t, unsigned int kind, __u32 id, const char *name,
		   const char *fields)
{
	ctf_put(t, "event {\n\tid = %u;\n\tname = \"%s\";\n\tstream_id = %u;\n\tfields := ", id,
		name, kind);
	put_text(t, fields);
	ctf_put(t, ";\n};\n\n");
}

/* --------------------------------------------------------------------------------------- fields */

/* What stands in front of a field's name and behind it. */
static void put_type(struct ctf_text *t, const struct htrace_type *type, unsigned int depth);

static void put_indent(struct ctf_text *t, unsigned int depth)
{
	ctf_put(t, "\n\t\t%.*s", (int)depth, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t");
}

static void put_integer(struct ctf_text *t, const struct htrace_type *type)
{
	bool hex = type->hint == HTRACE_HINT_HEX || type->hint == HTRACE_HINT_POINTER;

	/* Tasks are signed numbers, as LTTng has them. */
	ctf_put(t, "integer { size = %u; align = 8; signed = %s;%s }", 8 * type->size,
		type->is_signed || type->hint == HTRACE_HINT_TID ? "true" : "false",
		hex ? " base = 16;" : "");
}

/* A value that the enum's integer can have: what a guest declares need not be one. */
static bool in_range(const struct htrace_type *type, __s64 v)
{
	if (type->size >= 8)
		return true;
	if (type->is_signed)
		return v >= -(1LL << (8 * type->size - 1)) && v < 1LL << (8 * type->size - 1);
	return v >= 0 && v < 1LL << 8 * type->size;
}

static void put_enum(struct ctf_text *t, const struct htrace_type *type)
{
	bool any = false;

	for (__u32 i = 0; i < type->nr && !t->full; i++) {
		__s64 v = type->values[i].value;

		if (!in_range(type, v))
			continue;
		if (!any) {
			ctf_put(t, "enum : ");
			put_integer(t, type);
		}
		ctf_put(t, "%s \"%s\" = ", any ? "," : " {", type->values[i].name);
		if (type->is_signed)
			ctf_put(t, "%" PRId64, (int64_t)v);
		else
			ctf_put(t, "%" PRIu64, (uint64_t)v);
		any = true;
	}
	if (any)
		ctf_put(t, " }");
	else
		put_integer(t, type);
}

/* The name of a length, one that no member of @parent has. */
static void name_length(const struct htrace_type *parent, const char *of, char *name)
{
	int len = snprintf(name, NAME, "%s_length", of);
	bool taken = true;

	while (taken && len < NAME - 1) {
		taken = false;
		for (__u32 i = 0; i < parent->nr; i++)
			taken |= !strcmp(parent->members[i].name, name);
		if (taken)
			name[len++] = '_';
		name[len] = 0;
	}
}

static void put_array(struct ctf_text *t, const struct htrace_type *parent, const char *name,
		      const struct htrace_type *type, unsigned int depth)
{
	const struct htrace_type *elem = type->elem;
	char length[NAME];

	if (!type->size) {
		name_length(parent, name, length);
		ctf_put(t, U32 " _%s;", length);
		put_indent(t, depth);
	}
	while (elem->kind == HTRACE_TYPE_ARRAY)
		elem = elem->elem;
	put_type(t, elem, depth);
	ctf_put(t, " _%s", name);
	if (type->size)
		ctf_put(t, "[%u]", type->nr);
	else
		ctf_put(t, "[_%s]", length);
	for (elem = type->elem; elem->kind == HTRACE_TYPE_ARRAY; elem = elem->elem)
		ctf_put(t, "[%u]", elem->nr);
	ctf_put(t, ";");
}

static void put_member(struct ctf_text *t, const struct htrace_type *parent, __u32 i,
		       unsigned int depth)
{
	const struct htrace_member *m = &parent->members[i];

	put_indent(t, depth);
	if (m->type->kind == HTRACE_TYPE_ARRAY) {
		put_array(t, parent, m->name, m->type, depth);
	} else {
		put_type(t, m->type, depth);
		ctf_put(t, " _%s;", m->name);
	}
}

static void put_end(struct ctf_text *t, unsigned int depth)
{
	ctf_put(t, "\n\t%.*s}", (int)depth, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t");
}

/* Members of a union are written one after the other. */
static void put_struct(struct ctf_text *t, const struct htrace_type *type, unsigned int depth)
{
	ctf_put(t, "struct {");
	for (__u32 i = 0; i < type->nr && !t->full; i++)
		put_member(t, type, i, depth);
	put_end(t, depth);
}

static void put_type(struct ctf_text *t, const struct htrace_type *type, unsigned int depth)
{
	switch (type->kind) {
	case HTRACE_TYPE_INT:
		if (type->size > 8)
			ctf_put(t, "string");
		else
			put_integer(t, type);
		break;
	case HTRACE_TYPE_ENUM:
		put_enum(t, type);
		break;
	case HTRACE_TYPE_STRING:
		ctf_put(t, "string");
		break;
	case HTRACE_TYPE_STRUCT:
	case HTRACE_TYPE_UNION:
		put_struct(t, type, depth + 1);
		break;
	case HTRACE_TYPE_ARRAY: /* put_array() looks through them */
		break;
	}
}

static void put_argument(struct ctf_text *t, const struct ctf_item *item)
{
	bool is_signed = item->type == 'i' || item->type == 'l';
	unsigned int bits = item->type == 'i' || item->type == 'u' ? 32 : 64;

	ctf_put(t, "integer { size = %u; align = 8; signed = %s; } _%s;", bits,
		is_signed ? "true" : "false", item->name);
}

void ctf_put_fields(struct ctf_text *t, const struct htrace_event *e, const struct ctf_layout *l)
{
	ctf_put(t, "struct {");
	for (__u32 i = 0; i < l->nr && !t->full; i++) {
		const struct ctf_item *item = &l->item[i];

		if (item->what == CTF_MEMBER) {
			put_member(t, e->type, item->member, 0);
			continue;
		}
		put_indent(t, 0);
		if (item->what == CTF_COMM)
			ctf_put(t, "string _%s;", item->name);
		else
			put_argument(t, item);
	}
	put_end(t, 0);
}

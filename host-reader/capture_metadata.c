/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the capture says to readers of CTF. Records are as they were in the ring, so their fields are
 * described where C put them. A record's first four bytes, its id, flags and length, are one number
 * to CTF, the event's id: so each length of each event is an event of its own (of one name), and
 * arrays that reach to the record's end have a fixed length. Declared is what occurs, as it occurs.
 */
#include "capture_write.h"

#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>
#include <htrace/version.h>

#define MAX_CLASSES 16384u
#define MAX_TEXT (4u << 20)
#define MAX_RAW_CLASS 512
#define MAX_STREAM 2048

#define UINT(bits) "integer { size = " #bits "; align = 8; signed = false; }"
#define CHARS "integer { size = 8; align = 8; signed = false; encoding = UTF8; }"
#define HEXES(bits) "integer { size = " #bits "; align = 8; signed = false; base = 16; }"
#define TIMESTAMP(bits) \
	"integer { size = " #bits "; align = 8; signed = false; map = " TSDL_CLOCK "; }"

struct layout {
	struct tsdl *t;
	__u64 pos;           /* bits */
	unsigned int align;  /* bytes: what is known of the start */
	unsigned int indent;
	unsigned int pads;
};

static void put_struct(struct layout *l, const struct htrace_type *type);

static unsigned int low_bit(__u64 bytes, unsigned int most)
{
	return bytes & (most - 1) ? (unsigned int)(bytes & -bytes) : most;
}

static void put_indent(struct layout *l)
{
	tsdl_put(l->t, "\n\t\t%.*s", (int)l->indent, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t");
}

/* Nothing to see. No member's name begins with a digit. */
static void pad_bits(struct layout *l, unsigned int bits)
{
	put_indent(l);
	tsdl_put(l->t, "integer { size = %u; align = 1; signed = false; } _%upad;", bits, l->pads++);
}

static void pad_bytes(struct layout *l, __u64 bytes)
{
	put_indent(l);
	tsdl_put(l->t, UINT(8) " _%upad[%llu];", l->pads++, (unsigned long long)bytes);
}

/* What an array consists of in the end, if text and large integers are arrays of bytes. */
static const struct htrace_type *element(const struct htrace_type *type)
{
	while (type->kind == HTRACE_TYPE_ARRAY)
		type = type->elem;
	return type;
}

static bool is_bytes(const struct htrace_type *type)
{
	return type->kind == HTRACE_TYPE_STRING ||
	       (type->kind == HTRACE_TYPE_INT && type->size > 8);
}

/*
 * The alignment, in bits, with which CTF finds the member at @off by itself; 0: there is none. Each
 * element of an array is aligned.
 */
static unsigned int natural_align(const struct layout *l, const struct htrace_type *type, __u64 off)
{
	const struct htrace_type *elem = element(type);
	unsigned int most = is_bytes(elem) ? 1 : low_bit(elem->size, 8);

	for (unsigned int a = 8; a <= 64; a *= 2)
		if ((l->pos + a - 1) / a * a == off)
			return a / 8 <= l->align && (a == 8 || a / 8 <= most) ? a : 0;
	return 0;
}

/* Of a union the largest member: CTF has no two fields in one place. */
static const struct htrace_member *widest(const struct htrace_type *type)
{
	const struct htrace_member *best = &type->members[0];

	for (__u32 i = 1; i < type->nr; i++)
		if (type->members[i].type->size > best->type->size && !type->members[i].bit_size)
			best = &type->members[i];
	return best;
}

static void put_type(struct layout *l, const struct htrace_type *type, unsigned int align,
		     unsigned int start_align)
{
	struct layout inner = { .t = l->t, .align = start_align, .indent = l->indent + 1 };

	if (type->kind == HTRACE_TYPE_STRING) {
		tsdl_put(l->t, CHARS);
	} else if (is_bytes(type)) {
		tsdl_put(l->t, HEXES(8));
	} else if (type->kind == HTRACE_TYPE_STRUCT || type->kind == HTRACE_TYPE_UNION) {
		put_struct(&inner, type);
		if (align > 8)
			tsdl_put(l->t, " align(%u)", align);
	} else {
		tsdl_integer(l->t, type, 8 * type->size, align);
	}
}

/* @nr: elements of what reaches to the end of the record. */
static void put_member(struct layout *l, const struct htrace_member *m, __u64 off, __u64 nr)
{
	const struct htrace_type *type = m->type, *elem = element(type);
	unsigned int align = natural_align(l, type, off);
	unsigned int start = low_bit(off / 8, l->align);

	l->pos = (l->pos + 7) & ~7ULL;
	if (!align) {
		pad_bytes(l, (off - l->pos) / 8);
		align = 8;
	}
	put_indent(l);
	if (type->kind == HTRACE_TYPE_ARRAY)
		start = low_bit(elem->size, start);
	put_type(l, elem, align, start);
	tsdl_put(l->t, " _%s", m->name);
	if (!type->size)
		tsdl_put(l->t, "[%llu]", (unsigned long long)nr);
	for (; type->kind == HTRACE_TYPE_ARRAY; type = type->elem)
		if (type->size)
			tsdl_put(l->t, "[%u]", type->nr);
	if (is_bytes(elem) && elem->size)
		tsdl_put(l->t, "[%u]", elem->size);
	tsdl_put(l->t, ";");
	l->pos = off + 8ULL * m->type->size;
}

static void put_bits(struct layout *l, const struct htrace_member *m)
{
	while (l->pos < m->bit_off) {
		unsigned int bits = m->bit_off - l->pos < 64 ? (unsigned int)(m->bit_off - l->pos) : 64;

		pad_bits(l, bits);
		l->pos += bits;
	}
	put_indent(l);
	tsdl_integer(l->t, m->type, m->bit_size, 1);
	tsdl_put(l->t, " _%s;", m->name);
	l->pos = (__u64)m->bit_off + m->bit_size;
}

static void put_members(struct layout *l, const struct htrace_type *type)
{
	__u32 nr = type->kind == HTRACE_TYPE_UNION ? 0 : type->nr;

	if (type->kind == HTRACE_TYPE_UNION) {
		const struct htrace_member *m = widest(type);

		if (m->bit_size)
			put_bits(l, m);
		else
			put_member(l, m, m->bit_off, 0);
	}
	for (__u32 i = 0; i < nr && !l->t->full; i++) {
		const struct htrace_member *m = &type->members[i];

		if (m->bit_size)
			put_bits(l, m);
		else if (m->type->size)
			put_member(l, m, m->bit_off, 0);
	}
}

static void put_struct(struct layout *l, const struct htrace_type *type)
{
	tsdl_put(l->t, "struct {");
	put_members(l, type);
	l->pos = (l->pos + 7) & ~7ULL;
	if (l->pos / 8 < type->size)
		pad_bytes(l, type->size - l->pos / 8);
	tsdl_put(l->t, "\n\t%.*s}", (int)l->indent, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t");
}

/* What reaches to the end of the record: all that it can be, up to padding. */
static void put_tail(struct layout *l, const struct htrace_member *m, __u32 payload)
{
	__u64 room = payload - m->bit_off / 8, size = element(m->type)->size;

	if (m->type->kind == HTRACE_TYPE_STRING) {
		put_member(l, m, m->bit_off, room);
		l->pos = 8ULL * payload;
		return;
	}
	size = m->type->elem->size;
	put_member(l, m, m->bit_off, room / size);
	l->pos += room / size * size * 8;
}

/* Bytes at the end that are not described: padding. Records begin at multiples of 8. */
static __u8 put_fields(struct tsdl *t, const struct htrace_event *e, __u32 payload, bool fill)
{
	const struct htrace_type *type = e->type;
	const struct htrace_member *last = type->nr ? &type->members[type->nr - 1] : NULL;
	struct layout l = { .t = t, .align = 8 };

	tsdl_put(t, "struct {");
	put_members(&l, type);
	if (last && !last->type->size)
		put_tail(&l, last, payload);
	l.pos = (l.pos + 7) & ~7ULL;
	if (payload - l.pos / 8 >= (fill ? 1 : 8)) {
		pad_bytes(&l, payload - l.pos / 8);
		l.pos = 8ULL * payload;
	}
	tsdl_put(t, "\n\t}");
	return (__u8)(payload - l.pos / 8);
}

/* As htrace_event_visit() has it. */
static bool is_long_enough(const struct htrace_event *e, __u32 payload)
{
	const struct htrace_type *type = e->type;
	const struct htrace_member *last = type->nr ? &type->members[type->nr - 1] : NULL;

	return payload >= (last && !last->type->size ? last->bit_off / 8 : type->size);
}

/* False: there is no room for it. */
static bool put_class(struct tsdl *t, const struct htrace_schema *schema, struct capture_class *c)
{
	__u32 key = (__u32)c->key, id = key & 0xffff;
	__u32 payload = (key >> 16 & 0xfff8) - HTRACE_REC_HDR;
	bool extended = key >> 16 & HTRACE_REC_EXTENDED;
	const struct htrace_event *e = schema ? htrace_schema_event(schema, id) : NULL;
	size_t len = t->len;

	c->unused = 0;
	if (extended)
		payload -= 8;
	tsdl_put(t, "event {\n\tid = %u;\n\tstream_id = %u;\n", key, (__u32)(c->key >> 32));
	if (e)
		tsdl_put(t, "\tname = \"%s\";\n", e->name);
	else
		tsdl_put(t, "\tname = \"event#%u\";\n", id);
	if (extended)
		tsdl_put(t, "\tcontext := struct { " UINT(64) " _full_time; };\n");
	tsdl_put(t, "\tfields := ");
	if (e && is_long_enough(e, payload)) {
		c->unused = put_fields(t, e, payload, c->filled);
	} else {
		c->filled = true; /* what a later schema says of it has to end where this does */
		tsdl_put(t, "struct { " HEXES(64) " _raw[%u]; }", payload / 8);
	}
	tsdl_put(t, ";\n};\n\n");
	if (t->full)
		t->len = len;
	return !t->full;
}

static void put_stream(struct tsdl *t, __u32 id)
{
	tsdl_put(t, "stream {\n\tid = %u;\n\tpacket.context := struct {\n"
		 "\t\t" TIMESTAMP(64) " timestamp_begin;\n\t\t" TIMESTAMP(64) " timestamp_end;\n"
		 "\t\t" UINT(64) " content_size;\n\t\t" UINT(64) " packet_size;\n"
		 "\t\t" UINT(64) " packet_seq_num;\n\t\t" UINT(64) " events_discarded;\n", id);
	tsdl_put(t, id & CAPTURE_UNVERIFIED ?
			    "\t\t" UINT(32) " %s;\n\t\t" UINT(32) " unverified;\n\t};\n" :
			    "\t\t" UINT(64) " %s;\n\t};\n",
		 id & CAPTURE_BY_THREAD ? "ring" : "cpu_id");
	tsdl_put(t, "\tevent.header := struct {\n");
	if (id & CAPTURE_ODD)
		tsdl_put(t, "\t\t" TIMESTAMP(64) " timestamp;\n");
	else
		tsdl_put(t, "\t\t" UINT(32) " id;\n\t\t" TIMESTAMP(32) " timestamp;\n");
	tsdl_put(t, "\t} align(64);\n};\n\n");
	if (id & CAPTURE_ODD)
		tsdl_put(t, "event {\n\tid = 0;\n\tstream_id = %u;\n\tname = \"odd\";\n"
			 "\tfields := struct {\n\t\t" UINT(64) " _time;\n\t\t" UINT(16) " _id;\n"
			 "\t\t" UINT(16) " _flags;\n\t\t" UINT(32) " _length;\n"
			 "\t\t" HEXES(8) " _raw[_length];\n\t};\n};\n\n", id);
}

static void put_trace(struct tsdl *t, const struct capture_metadata *m,
		      const struct sink_session *s)
{
	tsdl_put(t, "/* CTF 1.8 */\n\ntrace {\n\tmajor = 1;\n\tminor = 8;\n");
	tsdl_uuid(t, "uuid", m->uuid);
	tsdl_put(t, "\tbyte_order = le;\n\tpacket.header := struct {\n"
		 "\t\t" UINT(32) " magic;\n\t\t" UINT(32) " stream_id;\n\t\t" UINT(8) " uuid[16];\n"
		 "\t};\n};\n\nenv {\n");
	tsdl_env(t, "hostname", s->hostname, sizeof(s->hostname));
	tsdl_env(t, "kernel_release", s->release, sizeof(s->release));
	tsdl_put(t, "\ttracer_name = \"libhtrace\";\n");
	tsdl_env(t, "htrace_version", htrace_version(), 64);
	tsdl_env(t, "htrace_source", s->path, 4096);
	tsdl_put(t, "};\n\n");
	if (s->facts.clock_id == HTRACE_CLOCK_MONOTONIC)
		tsdl_clock(t, s);
	else
		tsdl_clock_ticks(t, s, &m->line);
	for (__u32 id = 0; id < CAPTURE_STREAM_IDS; id++)
		if (m->streams & 1u << id)
			put_stream(t, id);
}

/* ----------------------------------------------------------------------- what was declared so far */

static struct capture_class *slot_of(const struct capture_metadata *m, __u64 key)
{
	__u32 at = (__u32)((key * 0x9e3779b97f4a7c15ULL) >> 32) & (m->room - 1);

	while (m->class[at].key && m->class[at].key != key)
		at = (at + 1) & (m->room - 1);
	return &m->class[at];
}

static bool grow(struct capture_metadata *m)
{
	struct capture_class *old = m->class;
	__u32 nr = m->room;

	m->class = calloc(nr ? 2 * nr : 256, sizeof(*m->class));
	if (!m->class) {
		m->class = old;
		return false;
	}
	m->room = nr ? 2 * nr : 256;
	for (__u32 i = 0; i < nr; i++)
		if (old[i].key)
			*slot_of(m, old[i].key) = old[i];
	free(old);
	return true;
}

void capture_metadata_clock(struct capture_metadata *m, const struct htrace_clock_line *line)
{
	m->line = *line;
}

void capture_metadata_begin(struct capture_metadata *m, const struct sink_session *s)
{
	m->text.max = MAX_TEXT;
	m->text.len = 0;
	m->text.full = false;
	put_trace(&m->text, m, s);
	for (__u32 i = 0; i < m->room; i++) {
		if (!m->class[i].key || put_class(&m->text, s->reading, &m->class[i]))
			continue;
		/* There is no room for what is known of it; but each has to be there. */
		m->text.max += MAX_RAW_CLASS;
		m->text.full = false;
		put_class(&m->text, NULL, &m->class[i]);
	}
}

void capture_metadata_add_stream(struct capture_metadata *m, __u32 stream)
{
	if (m->streams & 1u << stream)
		return;
	m->streams |= 1u << stream;
	m->text.max += MAX_STREAM;
	put_stream(&m->text, stream);
}

const struct capture_class *capture_metadata_class(struct capture_metadata *m,
						   const struct sink_session *s, __u32 stream,
						   __u32 key)
{
	struct capture_class fresh = { .key = (__u64)stream << 32 | key, .filled = s->lends };
	struct capture_class *c;

	if (m->last && m->last->key == fresh.key)
		return m->last;
	c = m->room ? slot_of(m, fresh.key) : NULL;
	if (c && c->key)
		return m->last = c;
	if (m->nr == MAX_CLASSES || (2 * m->nr >= m->room && !grow(m)))
		return NULL;
	m->last = NULL;
	if (!put_class(&m->text, s->reading, &fresh)) {
		m->text.full = false; /* others may be smaller */
		return NULL;
	}
	c = slot_of(m, fresh.key);
	*c = fresh;
	m->nr++;
	return m->last = c;
}

#define MAX_FORESEEN 1024 /* events; more of them are declared as they come */

/* The one length that its records have; -1: there is none. */
static long payload_of(const struct htrace_event *e)
{
	const struct htrace_type *type = e->type;
	__u32 len = (type->size + 7) & ~7u;

	if ((type->nr && !type->members[type->nr - 1].type->size) || !strcmp(e->name, "htrace_stack") ||
	    len > HTRACE_REC_MAX - 16)
		return -1;
	return len;
}

bool capture_metadata_declare_all(struct capture_metadata *m, const struct sink_session *s, __u32 stream)
{
	__u32 nr = s->reading ? htrace_schema_nr_events(s->reading) : 0;

	if (!nr || nr > MAX_FORESEEN)
		return false;
	for (__u32 i = 0; i < nr; i++) {
		const struct htrace_event *e = htrace_schema_event_at(s->reading, i);
		long payload = payload_of(e);
		__u32 words = (__u32)payload;

		if (payload < 0 ||
		    !capture_metadata_class(m, s, stream, e->id | (8 + words) << 16) ||
		    !capture_metadata_class(m, s, stream, e->id | (16 + words + HTRACE_REC_EXTENDED) << 16))
			return false;
	}
	return true;
}

void capture_metadata_free(struct capture_metadata *m)
{
	tsdl_free(&m->text);
	free(m->class);
}

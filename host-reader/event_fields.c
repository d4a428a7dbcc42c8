/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "event_fields.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define NOT_LOOKED_AT 0xff

/* One session's schema, as far as it was needed. */
struct known {
	struct known *next;
	const struct sink_session *session;
	__u64 schema;
	const struct htrace_member *field[EVENT_FIELDS][EVENT_FIELDS]; /* by kind */
	__u8 kind[65536]; /* by id */
};

struct event_fields {
	const struct event_fields_spec *spec;
	struct known *known;
};

struct event_fields *event_fields_new(const struct event_fields_spec *spec)
{
	struct event_fields *f = calloc(1, sizeof(*f));

	if (f)
		f->spec = spec;
	return f;
}

void event_fields_free(struct event_fields *f)
{
	while (f && f->known)
		event_fields_session_end(f, f->known->session);
	free(f);
}

void event_fields_session_end(struct event_fields *f, const struct sink_session *session)
{
	for (struct known **at = &f->known; *at; at = &(*at)->next) {
		struct known *k = *at;

		if (k->session != session)
			continue;
		*at = k->next;
		free(k);
		return;
	}
}

static struct known *find_known(struct event_fields *f, const struct sink_session *session)
{
	struct known *k = f->known;

	while (k && k->session != session)
		k = k->next;
	if (k && k->schema == session->schema)
		return k;
	if (!k) {
		k = malloc(sizeof(*k));
		if (!k)
			return NULL;
		k->next = f->known;
		k->session = session;
		f->known = k;
	}
	k->schema = session->schema;
	memset(k->field, 0, sizeof(k->field));
	memset(k->kind, NOT_LOOKED_AT, sizeof(k->kind));
	return k;
}

static bool can_be_taken(const struct htrace_member *m)
{
	const struct htrace_type *t = m->type;

	if (m->bit_size || m->bit_off % 8)
		return false;
	return t->kind == HTRACE_TYPE_STRING ? t->size != 0 :
	       (t->kind == HTRACE_TYPE_INT || t->kind == HTRACE_TYPE_ENUM) && t->size <= 8;
}

static unsigned int look_at(const struct event_fields *f, struct known *k, const struct htrace_event *e)
{
	const struct event_fields_spec *spec = f->spec;
	unsigned int has = 0, kind = 1;

	while (kind < EVENT_FIELDS && spec->kind[kind].name && strcmp(spec->kind[kind].name, e->name) != 0)
		kind++;
	if (kind == EVENT_FIELDS || !spec->kind[kind].name)
		return 0;
	for (__u32 m = 0; m < e->type->nr; m++)
		for (unsigned int i = 0; i < spec->nr_fields; i++)
			if (!strcmp(e->type->members[m].name, spec->field[i]) &&
			    can_be_taken(&e->type->members[m])) {
				k->field[kind][i] = &e->type->members[m];
				has |= 1u << i;
			}
	return (has & spec->kind[kind].needs) == spec->kind[kind].needs ? kind : 0;
}

/* Little-endian, as all of the format is. False: the record ends before it. */
static bool get(const struct htrace_record *r, const struct htrace_member *m, __u64 *v)
{
	__u32 from = m->bit_off / 8, len = m->type->size < 8 ? m->type->size : 8;

	if (from + len > r->len)
		return false;
	memcpy(v, (const unsigned char *)r->payload + from, len);
	return true;
}

void event_fields_take(struct event_fields *f, const struct sink_event *e, struct event_values *out)
{
	struct known *k = e->event ? find_known(f, e->from->session) : NULL;
	__u8 *kind;

	memset(out, 0, sizeof(*out));
	if (!k)
		return;
	kind = &k->kind[e->event->id & 0xffff];
	if (*kind == NOT_LOOKED_AT)
		*kind = (__u8)look_at(f, k, e->event);
	for (unsigned int i = 0; *kind && i < f->spec->nr_fields; i++) {
		const struct htrace_member *m = k->field[*kind][i];

		if (!m || !get(e->record, m, &out->v[i]))
			continue;
		out->has |= 1u << i;
		out->type[i] = m->type;
	}
	if ((out->has & f->spec->kind[*kind].needs) == f->spec->kind[*kind].needs)
		out->kind = *kind;
}

const char *event_text(const struct sink_event *e, const char *field, size_t *len)
{
	const struct htrace_type *t = e->event->type;

	for (__u32 i = 0; i < t->nr; i++) {
		const struct htrace_member *m = &t->members[i];
		size_t at = m->bit_off / 8;
		const char *text;

		if (strcmp(m->name, field) || m->type->kind != HTRACE_TYPE_STRING || at > e->record->len)
			continue;
		*len = e->record->len - at;
		*len = m->type->size && m->type->size < *len ? m->type->size : *len;
		text = (const char *)e->record->payload + at;
		*len = strnlen(text, *len);
		return text;
	}
	return NULL;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fields of events that are known by name, of any session, looked for once per schema. */
#ifndef READER_EVENT_FIELDS_H
#define READER_EVENT_FIELDS_H

#include "sink.h"

#define EVENT_FIELDS 24 /* at most, as kinds of events */

struct event_fields_spec {
	const char *const *field;
	unsigned int nr_fields;
	/* Kind 0 is every other event, and one that lacks what it should have. */
	struct {
		const char *name;
		unsigned int needs; /* a bit for each field */
	} kind[EVENT_FIELDS];
};

/* What a record says: numbers as they are, not sign-extended; of text the first 8 bytes. */
struct event_values {
	unsigned int kind;
	unsigned int has; /* a bit for each field */
	__u64 v[EVENT_FIELDS]; /* 0: it has it not */
	const struct htrace_type *type[EVENT_FIELDS];
};

struct event_fields;

/* @spec stays the caller's. NULL: memory is out. */
struct event_fields *event_fields_new(const struct event_fields_spec *spec);
void event_fields_free(struct event_fields *f);
void event_fields_take(struct event_fields *f, const struct sink_event *e, struct event_values *out);
/* The event's text of this name, bytes of any value, *@len of them; NULL: it has none. */
const char *event_text(const struct sink_event *e, const char *field, size_t *len);
void event_fields_session_end(struct event_fields *f, const struct sink_session *session);

#endif

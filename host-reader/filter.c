/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "filter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "names.h"
#include "show.h"

#define MAX_BOUND (8u << 20) /* bytes of bound filters; a guest may have very many events */
#define SAY_GUEST 3          /* filters of a guest that are told about */

struct filters {
	const struct htrace_schema *schema;
	const struct htrace_filter *own; /* or NULL */
	struct htrace_filter *guest;     /* or NULL */
	size_t bound_bytes;
	__u32 nr;
	struct bound { /* by event; made when its first record comes */
		struct htrace_filter_bound *own, *guest;
	} bound[];
};

void filter_error(const char *option, const char *text, const struct htrace_filter_error *err)
{
	char place[256];

	htrace_filter_point(text, err->column, place, sizeof(place));
	say("%s: column %u: %s\n%s", option, err->column, err->msg, place);
}

/* ------------------------------------------------------------------------------------ what is said */

static void check_own(const struct filters *f, struct filter_said *said)
{
	struct htrace_filter_error err;

	if (!f->own || said->own || !htrace_schema_nr_events(f->schema) ||
	    !htrace_filter_check(f->own, f->schema, &err))
		return;
	said->own = true;
	filter_error(said->option, htrace_filter_text(f->own), &err);
}

/* Names of the events that are left to us, stacks aside, which no filter is about; "": none. */
static void list_left(const struct htrace_schema *s, char *left, size_t len)
{
	size_t at = 0;

	left[0] = 0;
	for (__u32 i = 0; i < htrace_schema_nr_events(s); i++) {
		const struct htrace_event *e = htrace_schema_event_at(s, i);

		if (htrace_schema_is_filtered(s, e->id) || !strcmp(e->name, HTRACE_STACK_EVENT))
			continue;
		if (at < len - HTRACE_NAME_MAX - 8)
			at += (size_t)snprintf(left + at, len - at, "%s%s", at ? ", " : "", e->name);
		else if (strcmp(left + at - 3, "..."))
			at += (size_t)snprintf(left + at, len - at, ", ...");
	}
}

static void tell_guest(const struct filters *f, const char *text, struct filter_said *said,
		       const char *path, struct say_quota *quota, const char *wrong)
{
	char shown[4 * 100 + 4], left[300];
	size_t len = strnlen(text, 101), n;

	if (said->times == SAY_GUEST || !strncmp(said->guest, text, sizeof(said->guest) - 1))
		return;
	snprintf(said->guest, sizeof(said->guest), "%s", text);
	said->times++;
	n = htrace_escape(shown, sizeof(shown) - 4, text, len > 100 ? 100 : len);
	strcpy(shown + n, len > 100 ? "..." : "");
	if (wrong) {
		say_within(quota, "%s: the guest's filter '%s' cannot be used: %s; all is shown that it "
			   "recorded", path, shown, wrong);
		return;
	}
	list_left(f->schema, left, sizeof(left));
	say_within(quota, "%s: filter '%s': applied in the guest%s%s", path, shown,
		   left[0] ? "; here for: " : "", left);
}

/* ------------------------------------------------------------------------------------------- using */

static struct filters *alloc(const struct htrace_schema *schema)
{
	__u32 last = 0;
	struct filters *f;

	for (__u32 i = 0; i < htrace_schema_nr_events(schema); i++)
		if (htrace_schema_event_at(schema, i)->id > last)
			last = htrace_schema_event_at(schema, i)->id;
	f = calloc(1, sizeof(*f) + (last + 1) * sizeof(*f->bound));
	if (f) {
		f->schema = schema;
		f->nr = last + 1;
	}
	return f;
}

struct filters *filters_new(const struct htrace_filter *own, const struct htrace_schema *schema,
			    struct filter_said *said, const char *path, struct say_quota *quota)
{
	const char *text = htrace_schema_filter(schema);
	struct htrace_filter_error err;
	struct filters *f;
	bool wrong;

	if (!own && !text)
		return NULL;
	f = alloc(schema);
	if (!f)
		return NULL;
	f->own = own;
	check_own(f, said);
	if (text) {
		wrong = htrace_filter_parse(&f->guest, text, &err) != 0;
		tell_guest(f, text, said, path, quota, wrong ? err.msg : NULL);
	}
	return f;
}

static void unbind_all(struct filters *f)
{
	for (__u32 i = 0; i < f->nr; i++) {
		htrace_filter_unbind(f->bound[i].own);
		htrace_filter_unbind(f->bound[i].guest);
		f->bound[i] = (struct bound){ NULL, NULL };
	}
	f->bound_bytes = 0;
}

void filters_free(struct filters *f)
{
	if (!f)
		return;
	unbind_all(f);
	htrace_filter_free(f->guest);
	free(f);
}

static void get_context(struct htrace_filter_context *c, const struct sink_event *e, char *buf)
{
	const struct origin *from = e->from;

	*c = (struct htrace_filter_context){
		.sz = sizeof(*c), .cpu_known = from->per_cpu, .cpu = from->ring,
		.tid_known = e->task_known, .tid = e->task,
	};
	if (!e->task_known)
		return;
	c->comm = task_name(from, e->task, e->time, buf, &c->comm_len);
	c->pid = names_pid(from->names, e->task, e->time);
	c->pid_known = c->pid || !e->task;
}

static bool passes(struct filters *f, const struct htrace_filter *filter,
		   struct htrace_filter_bound **bound, const struct sink_event *e,
		   const struct htrace_filter_context *c)
{
	size_t size = htrace_filter_bound_size(filter);

	if (!*bound) {
		if (f->bound_bytes + size > MAX_BOUND)
			unbind_all(f);
		if (htrace_filter_bind(bound, filter, e->event))
			return true;
		f->bound_bytes += size;
	}
	return htrace_filter_matches(*bound, e->record->payload, e->record->len, c);
}

/* An event without a description has no fields: only where it happened can be asked for. */
static bool unknown_passes(const struct htrace_filter *filter, const struct sink_event *e,
			   const struct htrace_filter_context *c)
{
	static const struct htrace_type nothing = { .kind = HTRACE_TYPE_STRUCT };
	static const struct htrace_event event = { .type = &nothing };
	struct htrace_filter_bound *b;
	bool yes;

	if (htrace_filter_bind(&b, filter, &event))
		return true;
	yes = htrace_filter_matches(b, e->record->payload, e->record->len, c);
	htrace_filter_unbind(b);
	return yes;
}

bool filters_pass(struct filters *f, const struct sink_event *e)
{
	struct htrace_filter_context c;
	char buf[TASK_NAME];
	struct bound *b;

	if (!f)
		return true;
	get_context(&c, e, buf);
	if (!e->event)
		return (!f->own || unknown_passes(f->own, e, &c)) &&
		       (!f->guest || unknown_passes(f->guest, e, &c));
	b = &f->bound[e->event->id];
	if (f->own && !passes(f, f->own, &b->own, e, &c))
		return false;
	return !f->guest || htrace_schema_is_filtered(f->schema, e->event->id) ||
	       passes(f, f->guest, &b->guest, e, &c);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The events of a trace: one is declared when the first record of it comes. Ids never change, and
 * declarations are only added.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctf_classes.h"
#include "ctf_compass.h"
#include "show.h"

#define MAX_IDS 65535
#define NR_SYSCALLS 512
#define RECORD_IDS (HTRACE_MAX_EVENTS + 1)
/*
 * A guest can declare more than anybody wants to read: events whose declaration is longer, and all
 * new ones once the metadata are, are written undecoded.
 */
#define FIELDS_MAX (256u << 10)
#define METADATA_MAX (16u << 20)

/* What is known of the records with one id. */
struct known {
	const struct htrace_event *event;
	__u64 schema; /* in which it was found */
	char *identity; /* to tell whether it is still the same event */
	const char *prefix; /* its events are called after system calls */
	struct ctf_class *class; /* NULL: none came yet; of system calls, those without a name */
	struct ctf_class *raw; /* of records that do not decode */
	struct ctf_class **syscall; /* by number */
};

struct ctf_classes {
	struct ctf_trace_info info;
	struct tsdl head, text;
	bool clocked; /* the head has the clock's offset */
	unsigned int kinds; /* of streams that are declared: a bit for each */
	__u32 nr_ids;
	struct ctf_class fixed[CTF_FIXED];
	struct known *known[RECORD_IDS]; /* by record id */
};

void ctf_declare_stream(struct ctf_classes *t, unsigned int kind)
{
	if (t->kinds >> kind & 1)
		return;
	ctf_put_stream(&t->text, kind);
	for (int i = 0; i < CTF_FIXED; i++) /* there is always room for these */
		if (t->fixed[i].name)
			ctf_put_event(&t->text, kind, t->fixed[i].id, t->fixed[i].name,
				      t->fixed[i].fields);
	t->kinds |= 1u << kind;
}

static bool has_room(const struct ctf_classes *t)
{
	return t->text.len < METADATA_MAX;
}

/* False: there is no room for it. */
static bool declare(struct ctf_classes *t, struct ctf_class *k, unsigned int kind)
{
	if (k->declared >> kind & 1)
		return true;
	if (k->id == CTF_UNDECODED || !has_room(t))
		return false;
	ctf_put_event(&t->text, kind, k->id, k->name, k->fields);
	k->declared |= (__u8)(1u << kind);
	return true;
}

/* -------------------------------------------------------------------------------------- classes */

static void free_class(struct ctf_class *k)
{
	if (!k)
		return;
	free(k->name);
	free(k->fields);
	free(k->layout);
	free(k);
}

static void free_known(struct known *k)
{
	if (!k)
		return;
	free(k->identity);
	free_class(k->class);
	free_class(k->raw);
	for (unsigned int i = 0; k->syscall && i < NR_SYSCALLS; i++)
		free_class(k->syscall[i]);
	free(k->syscall);
	free(k);
}

/* NULL: there is no memory, or they are too many. */
static char *fields_of(const struct htrace_event *e, const struct ctf_layout *l)
{
	struct tsdl text = { .max = FIELDS_MAX };

	if (l)
		ctf_put_fields(&text, e, l);
	if (!l || text.full)
		tsdl_free(&text);
	return text.p;
}

/* Takes @layout and @fields. What lacks any of them has no id. */
static struct ctf_class *new_class(struct ctf_classes *t, const char *prefix, const char *name,
				   struct ctf_layout *layout, char *fields)
{
	struct ctf_class *k = calloc(1, sizeof(*k));

	if (!k) {
		free(layout);
		free(fields);
		return NULL;
	}
	k->layout = layout;
	k->fields = fields;
	if (asprintf(&k->name, "%s%s", prefix, name) < 0)
		k->name = NULL;
	if (k->name && fields && t->nr_ids < MAX_IDS)
		k->id = (__u16)++t->nr_ids;
	return k;
}

static struct ctf_class *event_class(struct ctf_classes *t, const struct htrace_event *e,
				     const char *prefix, const char *syscall)
{
	struct ctf_layout *layout = has_room(t) ? ctf_layout_new(e, syscall) : NULL;
	const char *name = e->name;
	char *fields;

	if (layout && t->info.role)
		ctf_compass_states(layout, e);
	fields = fields_of(e, layout);
	if (prefix)
		name = syscall ? syscall : "unknown";
	else
		prefix = ctf_compass_prefix(t->info.role, e, layout, &name);
	return new_class(t, prefix, name, layout, fields);
}

static struct ctf_class *raw_class(struct ctf_classes *t, const struct sink_event *e)
{
	const char *prefix = "", *name;
	char number[32];

	snprintf(number, sizeof(number), "event#%u", e->record->id);
	name = number;
	if (e->event)
		prefix = ctf_compass_prefix(t->info.role, e->event, NULL, &name);
	return new_class(t, prefix, name, NULL, strdup(ctf_fields_raw));
}

static char *identity_of(const struct htrace_event *e)
{
	struct ctf_layout *layout = ctf_layout_new(e, NULL);
	char *fields = fields_of(e, layout), *identity = NULL;

	if (fields && asprintf(&identity, "%s %s", e->name, fields) < 0)
		identity = NULL;
	free(fields);
	free(layout);
	return identity;
}

/* NULL: there is no memory, or no event can have the id. */
static struct known *find_known(struct ctf_classes *t, __u32 id)
{
	if (id < RECORD_IDS && !t->known[id])
		t->known[id] = calloc(1, sizeof(*t->known[id]));
	return id < RECORD_IDS ? t->known[id] : NULL;
}

/*
 * A schema that was read again says the same of an event, unless the guest is hostile: then what it
 * says now is an event of its own.
 */
static struct known *find_event(struct ctf_classes *t, const struct sink_event *e)
{
	__u64 schema = e->from->session->schema;
	struct known *k = find_known(t, e->event->id);
	char *identity;

	if (!k || (k->event && k->schema == schema))
		return k;
	identity = k->identity || has_room(t) ? identity_of(e->event) : NULL;
	if (identity && k->identity && !strcmp(identity, k->identity)) {
		free(identity);
	} else {
		free_known(k);
		t->known[e->event->id] = NULL;
		k = find_known(t, e->event->id);
		if (!k) {
			free(identity);
			return NULL;
		}
		k->identity = identity;
		k->prefix = ctf_syscall_prefix(e->event);
	}
	k->event = e->event;
	k->schema = schema;
	return k;
}

static struct ctf_class **class_of(struct ctf_classes *t, struct known *k,
				   const struct sink_event *e, const char **syscall)
{
	__u64 nr;

	*syscall = NULL;
	if (!k->prefix ||
	    !htrace_event_get(k->event, e->record->payload, e->record->len, "nr", &nr) ||
	    nr >= NR_SYSCALLS)
		return &k->class;
	*syscall = syscall_name(nr);
	if (*syscall && !k->syscall && has_room(t))
		k->syscall = calloc(NR_SYSCALLS, sizeof(*k->syscall));
	return *syscall && k->syscall ? &k->syscall[nr] : &k->class;
}

static void set_fixed(struct ctf_classes *t, enum ctf_fixed which, const char *name,
		      const char *fields)
{
	struct ctf_class *k = &t->fixed[which];

	k->name = (char *)name;
	k->fields = (char *)fields;
	k->id = (__u16)which;
}

struct ctf_classes *ctf_classes_new(const struct ctf_trace_info *info)
{
	struct ctf_classes *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->text.max = METADATA_MAX + 2 * FIELDS_MAX;
	t->nr_ids = CTF_FIXED - 1;
	set_fixed(t, CTF_UNDECODED, "undecoded", ctf_fields_undecoded);
	set_fixed(t, CTF_DUMP_START, "lttng_statedump_start", ctf_fields_none);
	set_fixed(t, CTF_DUMP_TASK, "lttng_statedump_process_state", ctf_fields_process_state);
	set_fixed(t, CTF_DUMP_END, "lttng_statedump_end", ctf_fields_none);
	set_fixed(t, CTF_NOTE, "htrace_note", ctf_fields_note);
	if (info->role == CTF_GUEST) {
		set_fixed(t, CTF_SYNC_GH_GUEST, "vmsync_gh_guest", ctf_fields_sync);
		set_fixed(t, CTF_SYNC_HG_GUEST, "vmsync_hg_guest", ctf_fields_sync);
	} else if (info->role == CTF_HOST) {
		set_fixed(t, CTF_SYNC_GH_HOST, "vmsync_gh_host", ctf_fields_sync);
		set_fixed(t, CTF_SYNC_HG_HOST, "vmsync_hg_host", ctf_fields_sync);
		set_fixed(t, CTF_KVM_EXIT, "kvm_x86_exit", ctf_fields_kvm_exit);
		set_fixed(t, CTF_KVM_ENTRY, "kvm_x86_entry", ctf_fields_kvm_entry);
		set_fixed(t, CTF_HOST_SWITCH, "sched_switch", ctf_fields_switch);
	}
	t->info = *info;
	return t;
}

void ctf_classes_free(struct ctf_classes *t)
{
	if (!t)
		return;
	for (size_t i = 0; i < RECORD_IDS; i++)
		free_known(t->known[i]);
	tsdl_free(&t->head);
	tsdl_free(&t->text);
	free(t);
}

void ctf_classes_renew_head(struct ctf_classes *t)
{
	tsdl_free(&t->head);
}

const struct tsdl *ctf_classes_head(struct ctf_classes *t)
{
	bool clocked = t->info.session->clock.real != 0;

	if (t->head.len && (t->clocked || !clocked))
		return &t->head;
	tsdl_free(&t->head);
	t->head.max = FIELDS_MAX;
	t->clocked = clocked;
	ctf_put_trace(&t->head, &t->info);
	return &t->head;
}

const struct tsdl *ctf_classes_text(const struct ctf_classes *t)
{
	return &t->text;
}

/* NULL: the record cannot be shown by its schema. */
const struct ctf_class *ctf_find_class(struct ctf_classes *t, const struct sink_event *e,
				       unsigned int kind)
{
	struct known *k = e->event ? find_event(t, e) : NULL;
	const char *syscall;
	struct ctf_class **at;

	if (!k)
		return NULL;
	at = class_of(t, k, e, &syscall);
	if (!*at)
		*at = event_class(t, e->event, k->prefix, syscall);
	return *at && declare(t, *at, kind) ? *at : NULL;
}

const struct ctf_class *ctf_find_raw(struct ctf_classes *t, const struct sink_event *e,
				     unsigned int kind)
{
	struct known *k = find_known(t, e->event ? e->event->id : e->record->id);

	if (k && !k->raw)
		k->raw = raw_class(t, e);
	return k && k->raw && declare(t, k->raw, kind) ? k->raw : &t->fixed[CTF_UNDECODED];
}

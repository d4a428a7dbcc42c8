/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <htrace/version.h>

#include "ctf.h"
#include "host_clock.h"

#define NAME (HTRACE_NAME_MAX + 16)

/* ---------------------------------------------------------------------------------------- trace */

/* When, in LTTng's form. */
static void put_date(struct tsdl *t, time_t when)
{
	char text[64];
	struct tm tm;

	if (localtime_r(&when, &tm) && strftime(text, sizeof(text), "%Y%m%dT%H%M%S%z", &tm))
		tsdl_env(t, "trace_creation_datetime", text, sizeof(text));
}

#define U8 "integer { size = 8; align = 8; signed = false; }"
#define U16 "integer { size = 16; align = 8; signed = false; }"
#define U32 "integer { size = 32; align = 8; signed = false; }"
#define U64 "integer { size = 64; align = 8; signed = false; }"
#define S32 "integer { size = 32; align = 8; signed = true; }"
#define S64 "integer { size = 64; align = 8; signed = true; }"
#define X64 "integer { size = 64; align = 8; signed = false; base = 16; }"
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
	"\t\tstring _procname;\n";

/* As enum vcpu_state and struct vcpu_view have it. */
static const char vcpu_context[] =
	"\t\t" U32 " _vm;\n"
	"\t\t" U32 " _vcpu;\n"
	"\t\t" S32 " _vcpu_thread;\n"
	"\t\tenum : " U8 " { \"unknown\" = 0, \"running\" = 1, \"out\" = 2, \"preempted\" = 3, "
	"\"asleep\" = 4 } _vcpu_state;\n"
	"\t\tstring _vcpu_why;\n"
	"\t\t" U64 " _vcpu_out_ns;\n"
	"\t\t" U64 " _vcpu_preempted_ns;\n";

static const char packet_head[] =
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
const char ctf_fields_note[] = "struct {\n\t\tstring text;\n\t}";
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

/* As lttng-modules has them; vmsync's are those of its branch for virtual machines. */
const char ctf_fields_sync[] = "struct {\n\t\t" U64 " _cnt;\n\t\t" U64 " _vm_uid;\n\t}";
const char ctf_fields_kvm_exit[] =
	"struct {\n"
	"\t\t" U32 " _exit_reason;\n"
	"\t\t" X64 " _guest_rip;\n"
	"\t\t" U32 " _isa;\n"
	"\t\t" X64 " _info1;\n"
	"\t\t" X64 " _info2;\n"
	"\t\t" U32 " _vcpu_id;\n"
	"\t}";
const char ctf_fields_kvm_entry[] = "struct {\n\t\t" U32 " _vcpu_id;\n\t}";
const char ctf_fields_switch[] =
	"struct {\n"
	"\t\tstring _prev_comm;\n"
	"\t\t" S32 " _prev_tid;\n"
	"\t\t" S32 " _prev_prio;\n"
	"\t\t" S64 " _prev_state;\n"
	"\t\tstring _next_comm;\n"
	"\t\t" S32 " _next_tid;\n"
	"\t\t" S32 " _next_prio;\n"
	"\t}";

/* @text may be long. */
static void put_text(struct tsdl *t, const char *text)
{
	size_t len = strlen(text);

	for (size_t at = 0; at < len && !t->full; at += 1000)
		tsdl_put(t, "%.1000s", text + at);
}

/*
 * Trace Compass tells machines apart by the clock's id. Who is a guest is not what that guest says: one might take
 * the host's, or another guest's.
 */
static void put_clock(struct tsdl *t, const struct ctf_trace_info *info)
{
	struct sink_session s = *info->session;

	if (info->role == CTF_GUEST)
		memcpy(s.boot_id, info->uuid, sizeof(s.boot_id));
	if (info->role)
		memcpy(s.host_boot_id, s.boot_id, sizeof(s.host_boot_id));
	tsdl_clock(t, &s);
}

void ctf_put_trace(struct tsdl *t, const struct ctf_trace_info *info)
{
	const struct sink_session *s = info->session;

	put_text(t, trace_head);
	tsdl_uuid(t, "uuid", info->uuid);
	tsdl_put(t, "};\n\nenv {\n");
	tsdl_env(t, "hostname", s->hostname, sizeof(s->hostname));
	if (info->per_cpu) { /* of a machine: a restarted one is told from a new session of its agent */
		put_text(t, env_kernel);
		tsdl_uuid(t, "htrace_boot_id", s->boot_id);
	}
	tsdl_env(t, "kernel_release", s->release, sizeof(s->release));
	tsdl_env(t, "trace_name", info->name, 256);
	put_date(t, info->created);
	tsdl_env(t, "htrace_version", htrace_version(), 64);
	tsdl_env(t, "htrace_source", s->path, 4096);
	tsdl_env(t, "htrace_clock", s->ticks ? "ticks" : s->on_host ? "host" : "own", 16);
	if (s->bound && *s->bound == HOST_CLOCK_UNKNOWN)
		tsdl_env(t, "htrace_clock_bound", "unknown", 16);
	else if (s->bound && *s->bound)
		tsdl_put(t, "\thtrace_clock_bound_ns = %llu;\n", (unsigned long long)*s->bound);
	tsdl_put(t, "};\n\n");
	put_clock(t, info);
}

void ctf_put_stream(struct tsdl *t, unsigned int kind)
{
	tsdl_put(t, "stream {\n\tid = %u;\n", kind);
	put_text(t, stream_head);
	if (kind & CTF_VCPU)
		put_text(t, vcpu_context);
	put_text(t, packet_head);
	tsdl_put(t, "\t\t" U32 " %s;\n", kind & CTF_RING ? "ring" : "cpu_id");
	if (kind & CTF_UNVERIFIED)
		tsdl_put(t, "\t\t" U8 " unverified;\n");
	tsdl_put(t, "\t};\n};\n\n");
}

void ctf_put_event(struct tsdl *t, unsigned int kind, __u32 id, const char *name,
		   const char *fields)
{
	tsdl_put(t, "event {\n\tid = %u;\n\tname = \"%s\";\n\tstream_id = %u;\n\tfields := ", id,
		name, kind);
	put_text(t, fields);
	tsdl_put(t, ";\n};\n\n");
}

/* --------------------------------------------------------------------------------------- fields */

/* What stands in front of a field's name and behind it. */
static void put_type(struct tsdl *t, const struct htrace_type *type, unsigned int depth);

static void put_indent(struct tsdl *t, unsigned int depth)
{
	tsdl_put(t, "\n\t\t%.*s", (int)depth, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t");
}

static void put_integer(struct tsdl *t, const struct htrace_type *type)
{
	struct htrace_type as = *type;

	as.is_signed |= type->hint == HTRACE_HINT_TID; /* tasks are signed numbers to LTTng */
	tsdl_integer(t, &as, 8 * type->size, 8);
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

static void put_array(struct tsdl *t, const struct htrace_type *parent, const char *name,
		      const struct htrace_type *type, unsigned int depth)
{
	const struct htrace_type *elem = type->elem;
	char length[NAME];

	if (!type->size) {
		name_length(parent, name, length);
		tsdl_put(t, U32 " _%s;", length);
		put_indent(t, depth);
	}
	while (elem->kind == HTRACE_TYPE_ARRAY)
		elem = elem->elem;
	put_type(t, elem, depth);
	tsdl_put(t, " _%s", name);
	if (type->size)
		tsdl_put(t, "[%u]", type->nr);
	else
		tsdl_put(t, "[_%s]", length);
	for (elem = type->elem; elem->kind == HTRACE_TYPE_ARRAY; elem = elem->elem)
		tsdl_put(t, "[%u]", elem->nr);
	tsdl_put(t, ";");
}

bool ctf_is_stack(const struct htrace_type *t, unsigned int depth)
{
	return !depth && t->kind == HTRACE_TYPE_INT && t->size == 8 &&
	       (t->hint == HTRACE_HINT_STACK_KERNEL || t->hint == HTRACE_HINT_STACK_USER);
}

static void put_stack(struct tsdl *t, const struct htrace_type *parent, const char *name)
{
	char length[NAME];

	name_length(parent, name, length);
	tsdl_put(t, U32 " _%s;", length);
	put_indent(t, 0);
	tsdl_put(t, "integer { size = 64; align = 8; signed = false; base = 16; } _%s[_%s];", name,
		length);
}

static void put_member(struct tsdl *t, const struct htrace_type *parent, __u32 i,
		       unsigned int depth)
{
	const struct htrace_member *m = &parent->members[i];

	put_indent(t, depth);
	if (ctf_is_stack(m->type, depth)) {
		put_stack(t, parent, m->name);
	} else if (m->type->kind == HTRACE_TYPE_ARRAY) {
		put_array(t, parent, m->name, m->type, depth);
	} else {
		put_type(t, m->type, depth);
		tsdl_put(t, " _%s;", m->name);
	}
}

static void put_end(struct tsdl *t, unsigned int depth)
{
	tsdl_put(t, "\n\t%.*s}", (int)depth, "\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t\t");
}

/* Members of a union are written one after the other. */
static void put_struct(struct tsdl *t, const struct htrace_type *type, unsigned int depth)
{
	tsdl_put(t, "struct {");
	for (__u32 i = 0; i < type->nr && !t->full; i++)
		put_member(t, type, i, depth);
	put_end(t, depth);
}

static void put_type(struct tsdl *t, const struct htrace_type *type, unsigned int depth)
{
	switch (type->kind) {
	case HTRACE_TYPE_INT:
	case HTRACE_TYPE_ENUM:
		if (type->size > 8)
			tsdl_put(t, "string");
		else
			put_integer(t, type);
		break;
	case HTRACE_TYPE_STRING:
		tsdl_put(t, "string");
		break;
	case HTRACE_TYPE_STRUCT:
	case HTRACE_TYPE_UNION:
		put_struct(t, type, depth + 1);
		break;
	case HTRACE_TYPE_ARRAY: /* put_array() looks through them */
		break;
	}
}

static void put_argument(struct tsdl *t, const struct ctf_item *item)
{
	bool is_signed = item->type == 'i' || item->type == 'l';
	unsigned int bits = item->type == 'i' || item->type == 'u' ? 32 : 64;

	tsdl_put(t, "integer { size = %u; align = 8; signed = %s; } _%s;", bits,
		is_signed ? "true" : "false", item->name);
}

void ctf_put_fields(struct tsdl *t, const struct htrace_event *e, const struct ctf_layout *l)
{
	tsdl_put(t, "struct {");
	for (__u32 i = 0; i < l->nr && !t->full; i++) {
		const struct ctf_item *item = &l->item[i];

		if (item->what == CTF_MEMBER || item->what == CTF_STATE) {
			put_member(t, e->type, item->member, 0);
			continue;
		}
		put_indent(t, 0);
		if (item->what == CTF_COMM)
			tsdl_put(t, "string _%s;", item->name);
		else
			put_argument(t, item);
	}
	put_end(t, 0);
}

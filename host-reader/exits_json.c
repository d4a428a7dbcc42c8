/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "exits_json.h"

#include <stdlib.h>

typedef unsigned long long ull;

/* The name if there is one; and the number, by which reasons without one are told apart. */
static void put_reason(struct out *o, const char *name, __u32 reason)
{
	out_printf(o, "\"number\":%u", reason);
	view_json_named(o, "reason", name);
}

static void put_row(struct out *o, const struct exits_row *r)
{
	view_json_durations(o, &r->out, "ns");
	view_json_number(o, "asleep_ns", r->asleep);
	view_json_number(o, "preempted_ns", r->preempted);
}

static void put_places(struct out *o, const struct exits *x, const struct exits_row *r)
{
	size_t nr;
	struct exits_place **place = exits_places(x, r, &nr);

	out_text(o, ",\"places\":[");
	for (size_t i = 0; i < nr; i++) {
		out_printf(o, "%s{\"rip\":\"0x%llx\"", i ? "," : "", (ull)place[i]->rip);
		view_json_named(o, "name", place[i]->name);
		view_json_number(o, "count", place[i]->count);
		view_json_number(o, "ns", place[i]->ns);
		out_char(o, '}');
	}
	out_char(o, ']');
	free(place);
}

/* @places: where they happened too, which is known of all vCPUs together. */
static void put_reasons(struct out *o, const struct exits *x, const struct exits_row *vm, __u32 vcpu, bool places)
{
	size_t nr;
	struct exits_row **row = exits_rows(x, vm, vcpu, &nr);

	out_text(o, ",\"reasons\":[");
	for (size_t i = 0; i < nr; i++) {
		out_text(o, i ? ",{" : "{");
		put_reason(o, row[i]->name, row[i]->reason);
		out_char(o, ',');
		put_row(o, row[i]);
		if (places)
			put_places(o, x, row[i]);
		out_char(o, '}');
	}
	out_char(o, ']');
	free(row);
}

static void put_thread(struct out *o, const struct exits_vcpu *c)
{
	out_printf(o, "{\"thread\":%u", c->tid);
	view_json_number(o, "exits", c->exits);
	view_json_number(o, "guest_ns", c->guest_ns);
	view_json_number(o, "out_ns", c->out_ns);
	view_json_number(o, "asleep_ns", c->asleep_ns);
	view_json_number(o, "preempted_ns", c->preempted_ns);
	out_printf(o, ",\"state\":\"%s\"", c->state == EXITS_GUEST ? "guest" : c->state == EXITS_OUT ? "out" : "unknown");
	if (c->state == EXITS_GUEST || c->state == EXITS_OUT)
		view_json_number(o, "since", c->since);
	if (c->state == EXITS_OUT) {
		out_char(o, ',');
		put_reason(o, c->name, c->reason);
		out_printf(o, ",\"thread_state\":\"%s\"", !c->off ? "runs" : c->waits ? "waits" : "sleeps");
	}
	out_char(o, '}');
}

/* With the threads that ran it, of which there may have been several. */
static void put_vcpus(struct out *o, const struct exits *x, const struct exits_row *vm)
{
	size_t nr;
	struct exits_vcpu **vcpu = exits_vcpus(x, vm, &nr);

	out_text(o, ",\"vcpus\":[");
	for (size_t i = 0; i < nr;) {
		__u32 number = vcpu[i]->vcpu;
		bool first = true;

		out_printf(o, "%s{\"vcpu\":%u,\"threads\":[", i ? "," : "", number);
		for (; i < nr && vcpu[i]->vcpu == number; i++, first = false) {
			if (!first)
				out_char(o, ',');
			put_thread(o, vcpu[i]);
		}
		out_char(o, ']');
		put_reasons(o, x, vm, number, false);
		out_char(o, '}');
	}
	out_char(o, ']');
	free(vcpu);
}

void exits_json(struct out *o, const struct exits *x, char (*source)[VIEW_SOURCE])
{
	size_t nr;
	struct exits_row **vm = exits_rows(x, NULL, EXITS_ALL, &nr);

	out_printf(o, "{\"view\":\"exits\",\"first\":%llu", (ull)x->first);
	view_json_number(o, "last", x->last);
	view_json_number(o, "no_end", exits_out_now(x) + x->left_out);
	view_json_number(o, "no_exit", x->no_exit);
	view_json_number(o, "no_entry", x->no_entry);
	view_json_number(o, "void", x->voided);
	view_json_number(o, "no_room", x->beyond);
	view_json_number(o, "lost", x->lost);
	out_text(o, ",\"vms\":[");
	for (size_t i = 0; i < nr; i++) {
		out_printf(o, "%s{\"vm\":%u", i ? "," : "", vm[i]->vm);
		view_json_named(o, "name", vm[i]->name);
		view_json_named(o, "source", source[vm[i]->source]);
		out_char(o, ',');
		put_row(o, vm[i]);
		put_reasons(o, x, vm[i], EXITS_ALL, true);
		put_vcpus(o, x, vm[i]);
		out_char(o, '}');
	}
	out_text(o, "]}");
	out_newline(o);
	free(vm);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io_json.h"

#include <stdlib.h>

typedef unsigned long long ull;

const char *const io_op_name[] = {
	[IO_READ] = "read", [IO_WRITE] = "write", [IO_FLUSH] = "flush", [IO_DISCARD] = "discard",
	[IO_OTHER] = "other",
};

const char *const io_stage_name[IO_STAGES] = {
	[IO_QUEUE] = "guest queue", [IO_DRIVER] = "guest driver", [IO_KICK] = "kick exit",
	[IO_VMM] = "VMM with disk", [IO_WAITS] = "host queue", [IO_DISK] = "host disk", [IO_REST] = "VMM and KVM",
	[IO_IRQ] = "completion", [IO_TOTAL] = "total",
};

/* What disks of guests and of hosts have in common, behind other members. */
static void put_disk(struct out *o, __u32 dev, enum io_op op, const struct durations *size, __u64 errors)
{
	view_json_number(o, "major", IO_MAJOR(dev));
	view_json_number(o, "minor", IO_MINOR(dev));
	out_printf(o, ",\"kind\":\"%s\"", io_op_name[op]);
	view_json_number(o, "failed", errors);
	out_text(o, ",\"size\":{");
	view_json_durations(o, size, "bytes");
	out_text(o, "},\"stages\":[");
}

static void begin_stage(struct out *o, enum io_stage stage, const struct durations *d, bool first)
{
	out_printf(o, "%s{\"stage\":\"%s\",", first ? "" : ",", io_stage_name[stage]);
	view_json_durations(o, d, "ns");
}

static void put_class(struct out *o, const struct io_class *c, const char *source)
{
	out_printf(o, "{\"source_nr\":%u", c->source);
	view_json_named(o, "source", source);
	put_disk(o, c->dev, c->op, &c->size, c->errors);
	for (unsigned int i = 0; i < IO_STAGES; i++) {
		begin_stage(o, i, &c->stage[i].d, !i);
		view_json_number(o, "none", c->stage[i].none);
		view_json_number(o, "unknown", c->stage[i].unknown);
		out_char(o, '}');
	}
	out_text(o, "]}");
}

static void put_host_disks(struct out *o, const struct io *x, char (*source)[VIEW_SOURCE])
{
	size_t nr;
	struct io_disk_class **c = io_disks_classes(io_disks(x), &nr);

	out_text(o, ",\"host_disks\":[");
	for (size_t i = 0; i < nr; i++) {
		out_printf(o, "%s{\"vm\":%u", i ? "," : "", c[i]->vm);
		view_json_named(o, "source", source[c[i]->host]);
		put_disk(o, c[i]->dev, c[i]->op, &c[i]->size, c[i]->errors);
		begin_stage(o, IO_WAITS, &c[i]->queue, true);
		out_char(o, '}');
		begin_stage(o, IO_DISK, &c[i]->disk, false);
		out_text(o, "}]}");
	}
	out_char(o, ']');
	free(c);
}

void io_json(struct out *o, const struct io *x, char (*source)[VIEW_SOURCE])
{
	struct io_counts n = io_counts(x);
	size_t nr;
	struct io_class **c = io_classes(x, &nr);

	out_printf(o, "{\"view\":\"io\",\"first\":%llu", (ull)n.first);
	view_json_number(o, "last", n.last);
	view_json_number(o, "in_flight", n.in_flight);
	view_json_number(o, "no_issue", n.no_issue);
	view_json_number(o, "ambiguous", n.ambiguous);
	view_json_number(o, "void", n.voided);
	view_json_number(o, "no_room", n.beyond);
	view_json_number(o, "lost", n.lost);
	out_text(o, ",\"disks\":[");
	for (size_t i = 0; i < nr; i++) {
		if (i)
			out_char(o, ',');
		put_class(o, c[i], source[c[i]->source]);
	}
	out_char(o, ']');
	put_host_disks(o, x, source);
	out_char(o, '}');
	out_newline(o);
	free(c);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view io: where guests' block requests spend their time, in the guest and on the host. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host_clock.h"
#include "host_events.h"
#include "io.h"
#include "io_json.h"
#include "vcpus.h"
#include "view.h"

typedef unsigned long long ull;

/* LTTng's bits, as bpf/request.h has them. */
#define RWBS_WRITE (1u << 0)
#define RWBS_DISCARD (1u << 1)
#define RWBS_READ (1u << 2)
#define RWBS_FLUSH (1u << 8)

enum field { F_SECTOR, F_DEV, F_BYTES, F_NR_SECTOR, F_RWBS, F_ERROR, F_VQ, F_NAME, FIELDS };
enum guest_kind { GUEST_OTHER, GUEST_INSERT, GUEST_ISSUE, GUEST_COMPLETE, GUEST_NOTIFY, GUEST_INTERRUPT };

#define BIT(field) (1u << (field))
#define WHICH (BIT(F_SECTOR) | BIT(F_DEV) | BIT(F_RWBS))

static const char *const fields[FIELDS] = {
	"sector", "dev", "bytes", "nr_sector", "rwbs", "error", "vq", "name",
};

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[GUEST_INSERT] = { "block_rq_insert", WHICH | BIT(F_BYTES) },
		[GUEST_ISSUE] = { "block_rq_issue", WHICH | BIT(F_BYTES) },
		[GUEST_COMPLETE] = { "block_rq_complete", WHICH | BIT(F_NR_SECTOR) | BIT(F_ERROR) },
		[GUEST_NOTIFY] = { "virtqueue_notify", BIT(F_VQ) | BIT(F_NAME) },
		[GUEST_INTERRUPT] = { "vring_interrupt", BIT(F_VQ) | BIT(F_NAME) },
	},
};

struct view_io {
	struct io *io;
	struct event_fields *guest, *host;
	/* By source: */
	bool is_host[IO_SOURCES];
	__u8 boot_id[IO_SOURCES][16]; /* a host's */
	bool on_host[IO_SOURCES];     /* a guest's times were */
	__u64 schema[IO_SOURCES];     /* for which it is known what is recorded, of guests and hosts */
	bool over[IO_SOURCES];        /* its session; another one has nothing to do with it */
	char source[IO_SOURCES][VIEW_SOURCE]; /* what it is called, harmless */
};

static void io_view_close(void *view)
{
	struct view_io *v = view;

	io_free(v->io);
	event_fields_free(v->guest);
	event_fields_free(v->host);
	free(v);
}

static void *io_view_open(void)
{
	struct view_io *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->io = io_new();
	v->guest = event_fields_new(&spec);
	v->host = host_events_new();
	if (v->io && v->guest && v->host)
		return v;
	io_view_close(v);
	return NULL;
}

/* ----------------------------------------------------------------------------------- what happens */

static enum io_op op_of(__u64 rwbs)
{
	return rwbs & RWBS_WRITE ? IO_WRITE : rwbs & RWBS_DISCARD ? IO_DISCARD :
	       rwbs & RWBS_FLUSH ? IO_FLUSH : rwbs & RWBS_READ ? IO_READ : IO_OTHER;
}

/* Whose virtual CPU a guest's event happened on: only as the host has it, and only in its time. */
static void place(struct view_io *v, const struct sink_event *e, struct io_at *at)
{
	const struct sink_session *session = e->from->session;

	*at = (struct io_at){ .time = e->time, .source = session->source_nr, .cpu = e->from->ring };
	if (!session->on_host || !e->vcpu || (session->bound && *session->bound == HOST_CLOCK_UNKNOWN))
		return;
	for (unsigned int i = 0; i < IO_SOURCES && !at->on_host; i++) {
		if (!v->is_host[i] || memcmp(v->boot_id[i], session->host_boot_id, sizeof(v->boot_id[i])) != 0)
			continue;
		at->on_host = true;
		at->host = i;
		at->bound = session->bound ? *session->bound : 0;
		at->vm = e->vcpu->vm;
		at->vcpu = e->vcpu->vcpu;
	}
	v->on_host[session->source_nr] |= at->on_host;
}

static bool records(const struct sink_session *session, const char *name)
{
	const struct htrace_event *e = session->reading ?
		htrace_schema_event_by_name(session->reading, name) : NULL;

	return e && !htrace_schema_is_filtered(session->reading, e->id);
}

static void look_at_schema(struct view_io *v, const struct sink_session *session)
{
	if (v->schema[session->source_nr] == session->schema)
		return;
	v->schema[session->source_nr] = session->schema;
	if (session->facts.host)
		io_host_records(v->io, session->source_nr, records(session, "kvm_disk_complete"));
	else
		io_records(v->io, session->source_nr, records(session, "block_rq_insert"),
			   records(session, "block_rq_issue"), records(session, "virtqueue_notify"));
}

static void guest_event(struct view_io *v, const struct sink_event *e)
{
	struct event_values f;
	struct io_at at;
	struct io_rq rq;

	event_fields_take(v->guest, e, &f);
	if (!f.kind || !e->from->per_cpu)
		return;
	look_at_schema(v, e->from->session);
	place(v, e, &at);
	rq = (struct io_rq){
		.sector = f.v[F_SECTOR], .dev = (__u32)f.v[F_DEV], .bytes = (__u32)f.v[F_BYTES],
		.op = op_of(f.v[F_RWBS]),
	};
	switch ((enum guest_kind)f.kind) {
	case GUEST_INSERT:
		io_insert(v->io, &at, &rq);
		break;
	case GUEST_ISSUE:
		io_issue(v->io, &at, &rq);
		break;
	case GUEST_COMPLETE:
		rq.bytes = (__u32)f.v[F_NR_SECTOR] << 9;
		if (!~rq.sector) /* a flush has none, which issue says as 0 */
			rq.sector = 0;
		io_complete(v->io, &at, &rq, f.v[F_ERROR] != 0);
		break;
	case GUEST_NOTIFY: /* virtio_blk calls its queues "req.N", and so does nobody else */
		if (!memcmp(&f.v[F_NAME], "req", 3))
			io_notify(v->io, &at, f.v[F_VQ]);
		break;
	case GUEST_INTERRUPT:
		if (!memcmp(&f.v[F_NAME], "req", 3))
			io_interrupt(v->io, &at, f.v[F_VQ]);
		break;
	case GUEST_OTHER:
		break;
	}
}

#define X2APIC_EOI 0x80bu

/* How it left guest mode, by KVM's words. */
static enum io_exit exit_kind(const struct host_event *h)
{
	static const char *const forced[] = {
		"EXTERNAL_INTERRUPT", "EPT_VIOLATION", "interrupt", "npf", "nmi", "smi",
	};

	if (h->reason_name && !strcmp(h->reason_name, "EPT_MISCONFIG"))
		return IO_EXIT_FAST;
	for (size_t i = 0; h->reason_name && i < sizeof(forced) / sizeof(*forced); i++)
		if (!strcmp(h->reason_name, forced[i]))
			return IO_EXIT_FORCED;
	return IO_EXIT_OTHER;
}

static void host_disk(struct view_io *v, unsigned int host, const struct sink_event *e, const struct host_event *h)
{
	struct io_disk_rq rq = {
		.host = host, .vm = h->vm,
		.rq = { .sector = h->sector, .dev = h->dev, .bytes = h->bytes, .op = op_of(h->rwbs) },
		.error = h->error != 0, .end = e->time, .ns = h->ns, .queue_ns = h->queue_ns,
	};

	io_host_disk(v->io, &rq);
}

static void host_event(struct view_io *v, const struct sink_event *e)
{
	unsigned int host = e->from->session->source_nr;
	struct host_event h;

	v->is_host[host] = true;
	memcpy(v->boot_id[host], e->from->session->boot_id, sizeof(v->boot_id[host]));
	look_at_schema(v, e->from->session);
	host_events_take(v->host, e, &h);
	switch (h.kind) {
	case HOST_EXIT:
		io_host_exit(v->io, host, h.vm, h.vcpu, e->time, exit_kind(&h));
		break;
	case HOST_ENTRY:
		io_host_entry(v->io, host, h.vm, h.vcpu, e->time);
		break;
	case HOST_IN_PIO:
	case HOST_IN_MMIO:
		io_host_access(v->io, host, h.vm, h.vcpu, h.write);
		break;
	case HOST_EXITED:
		io_host_whole(v->io, host, h.vm, h.vcpu, e->time, h.ns, exit_kind(&h), false);
		break;
	case HOST_IO:
	case HOST_MMIO:
	case HOST_HYPERCALL:
		io_host_whole(v->io, host, h.vm, h.vcpu, e->time, h.ns, IO_EXIT_OTHER, h.write);
		break;
	case HOST_INJECT:
		io_host_inject(v->io, host, h.vm, h.vcpu, e->time, h.vector, h.again);
		break;
	case HOST_MSR:
		if (h.write && h.msr == X2APIC_EOI)
			io_host_eoi(v->io, host, h.vm, h.vcpu);
		break;
	case HOST_DISK:
		host_disk(v, host, e, &h);
		break;
	default:
		break;
	}
}

static void io_view_event(void *view, const struct sink_event *e)
{
	const struct sink_session *session = e->from->session;
	struct view_io *v = view;

	if (session->source_nr >= IO_SOURCES)
		return;
	view_source_name(v->source[session->source_nr], session);
	if (v->over[session->source_nr]) {
		io_guest_over(v->io, session->source_nr);
		io_host_loss(v->io, session->source_nr, 0);
		v->schema[session->source_nr] = 0;
		v->over[session->source_nr] = false;
	}
	if (session->facts.host)
		host_event(v, e);
	else
		guest_event(v, e);
}

static void io_view_loss(void *view, const struct sink_loss *l)
{
	const struct sink_session *session = l->from->session;
	struct view_io *v = view;

	if (session->source_nr >= IO_SOURCES)
		return;
	if (session->facts.host)
		io_host_loss(v->io, session->source_nr, sink_lost(l));
	else
		io_guest_loss(v->io, session->source_nr, sink_lost(l));
}

static void io_view_session_end(void *view, const struct sink_session *session)
{
	struct view_io *v = view;

	if (session->source_nr < IO_SOURCES)
		v->over[session->source_nr] = true;
	event_fields_session_end(v->guest, session);
	event_fields_session_end(v->host, session);
}

/* ------------------------------------------------------------------------------------- in words */

static void print_head(struct view_page *p, const char *what, const char *more)
{
	view_line(p, "%-14s %8s %7s %9s %10s %9s %7s %9s %9s %9s%s", what, "Samples", "Time%", "Min us", "Max us",
		  "Mean us", "+-", "p50 us", "p99 us", "p99.9 us", more);
}

/* @all: ns that @d is a part of. */
static void print_row(struct view_page *p, const char *name, const struct durations *d, __u64 all, const char *more)
{
	if (!d->count) {
		view_line(p, "%-14s %8d %7s %9s %10s %9s %7s %9s %9s %9s%s", name, 0, "-", "-", "-", "-", "-",
			  "-", "-", "-", more);
		return;
	}
	view_line(p, "%-14s %8llu %6.2f%% %9.2f %10.2f %9.2f %6.2f%% %9.2f %9.2f %9.2f%s", name, (ull)d->count,
		  all ? 100.0 * (double)d->sum / (double)all : 0.0, us(d->min), us(d->max),
		  durations_mean(d) / 1e3, durations_error(d), us(durations_percentile(d, 0.5)),
		  us(durations_percentile(d, 0.99)), us(durations_percentile(d, 0.999)), more);
}

/* The three that are parts of the two above them stand back. */
static void print_stage(struct view_page *p, const struct io_class *c, enum io_stage stage)
{
	const struct io_times *t = &c->stage[stage];
	char name[24], more[40];

	snprintf(name, sizeof(name), "%s%s", stage >= IO_WAITS && stage <= IO_REST ? "  " : "", io_stage_name[stage]);
	snprintf(more, sizeof(more), " %8llu %8llu", (ull)t->none, (ull)t->unknown);
	print_row(p, name, &t->d, c->stage[IO_TOTAL].d.sum, more);
}

struct disk {
	__u32 dev;
	enum io_op op;
	const struct durations *size;
	__u64 errors;
};

static void print_title(struct view_page *p, const char *whose, const struct disk *d)
{
	char errors[40] = "";

	if (d->errors)
		snprintf(errors, sizeof(errors), ", %llu failed", (ull)d->errors);
	view_line(p, "%s", "");
	view_line(p, "%sdisk %u:%u, %s: %llu requests, %llu bytes (%llu to %llu, mean %.0f)%s", whose,
		  IO_MAJOR(d->dev), IO_MINOR(d->dev), io_op_name[d->op], (ull)d->size->count,
		  (ull)d->size->sum, (ull)d->size->min, (ull)d->size->max, durations_mean(d->size), errors);
}

static void print_class(const struct view_io *v, struct view_page *p, const struct io_class *c)
{
	struct disk d = { c->dev, c->op, &c->size, c->errors };
	char whose[sizeof(v->source[0]) + 2];

	snprintf(whose, sizeof(whose), "%s%s", v->source[c->source], *v->source[c->source] ? ", " : "");
	print_title(p, whose, &d);
	print_head(p, "STAGE", "     None  Unknown");
	for (unsigned int i = 0; i < IO_STAGES; i++)
		print_stage(p, c, i);
}

static void print_some_bars(struct view_page *p, const char *whose, const struct disk *d, const char *what,
			    const struct durations *of)
{
	if (!of->sum)
		return;
	view_line(p, "%s", "");
	view_line(p, "%sdisk %u:%u, %s, %s:", whose, IO_MAJOR(d->dev), IO_MINOR(d->dev),
		  io_op_name[d->op], what);
	view_octaves(p, of);
}

static void print_bars(struct view_page *p, const struct io_class *c)
{
	struct disk d = { c->dev, c->op, &c->size, c->errors };

	for (unsigned int i = 0; i < IO_STAGES; i++) {
		char what[24];

		snprintf(what, sizeof(what), "%s, ns", io_stage_name[i]);
		print_some_bars(p, "", &d, what, &c->stage[i].d);
	}
	print_some_bars(p, "", &d, "bytes", &c->size);
}

/* ------------------------------------------------------------------------------ disks of the host */

/* VMs of several hosts may have the same number, and their disks, too. */
static void host_disk_of(const struct view_io *v, const struct io_disk_class *c, bool several, struct disk *d,
			 char *whose, size_t len)
{
	const char *host = several ? v->source[c->host] : "";

	*d = (struct disk){ c->dev, c->op, &c->size, c->errors };
	snprintf(whose, len, "%s%sVM %u, host ", host, *host ? ", " : "", c->vm);
}

static void print_host_disks(const struct view_io *v, struct view_page *p)
{
	size_t nr;
	struct io_disk_class **c = io_disks_classes(io_disks(v->io), &nr);
	bool several = nr && c[0]->host != c[nr - 1]->host; /* they are sorted */
	char whose[sizeof(v->source[0]) + 40];
	struct disk d;

	for (size_t i = 0; i < nr; i++) {
		host_disk_of(v, c[i], several, &d, whose, sizeof(whose));
		print_title(p, whose, &d);
		print_head(p, "STAGE", "");
		print_row(p, io_stage_name[IO_WAITS], &c[i]->queue, c[i]->queue.sum + c[i]->disk.sum, "");
		print_row(p, io_stage_name[IO_DISK], &c[i]->disk, c[i]->queue.sum + c[i]->disk.sum, "");
	}
	for (size_t i = 0; i < nr; i++) {
		host_disk_of(v, c[i], several, &d, whose, sizeof(whose));
		print_some_bars(p, whose, &d, "host queue, ns", &c[i]->queue);
		print_some_bars(p, whose, &d, "host disk, ns", &c[i]->disk);
		print_some_bars(p, whose, &d, "bytes", &c[i]->size);
	}
	free(c);
}

/* What is in no table, and why. */
static void print_rest(struct view_page *p, const struct io_counts *n)
{
	const struct {
		__u64 nr;
		const char *what;
	} rest[] = {
		{ n->in_flight, "in flight" },
		{ n->no_issue, "whose issue was not seen" },
		{ n->ambiguous, "that could not be told from others" },
		{ n->voided, "in flight when events were lost, or a session ended" },
		{ n->beyond, "for which there was no room" },
	};

	for (size_t i = 0; i < sizeof(rest) / sizeof(*rest); i++)
		if (rest[i].nr)
			view_line(p, "not counted: %llu %s", (ull)rest[i].nr, rest[i].what);
	if (n->lost)
		view_line(p, "lost: %llu events", (ull)n->lost);
}

static void io_view_print(void *view, struct view_page *p)
{
	struct view_io *v = view;
	struct io_counts n = io_counts(v->io);
	bool on_host = false;
	__u64 requests = 0;
	size_t nr;
	struct io_class **c = io_classes(v->io, &nr);

	for (size_t i = 0; i < nr; i++) {
		requests += c[i]->stage[IO_TOTAL].d.count;
		on_host |= v->on_host[c[i]->source];
	}
	view_line(p, "block requests of guests in %.3f s: %llu", (double)(n.last - n.first) / 1e9, (ull)requests);
	print_rest(p, &n);
	if (nr && !on_host)
		view_line(p, "stages on the host are not known: that needs the source kvm of the guest's host, "
			  "and the guest's clock against the host's");
	for (size_t i = 0; i < nr; i++)
		print_class(v, p, c[i]);
	for (size_t i = 0; i < nr; i++)
		print_bars(p, c[i]);
	free(c);
	print_host_disks(v, p);
}

static void json_view_print(void *view, struct view_page *p)
{
	struct view_io *v = view;

	io_json(p->out, v->io, v->source);
}

#define IO_VIEW(called, how, is_lines) {              \
		.name = called,                       \
		.lines = is_lines,                    \
		.open = io_view_open,                 \
		.event = io_view_event,               \
		.loss = io_view_loss,                 \
		.session_end = io_view_session_end,   \
		.print = how,                         \
		.close = io_view_close,               \
	}

const struct view_ops view_io = IO_VIEW("io", io_view_print, false);
const struct view_ops view_io_json = IO_VIEW("io:json", json_view_print, true);

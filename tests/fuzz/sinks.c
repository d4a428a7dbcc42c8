// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The decoders of the output SINK: records of any schema, whatever their bytes, with names, stacks,
 * filters, loss and schemas that grow. Nothing in what is written steers a terminal, lines of JSON
 * are JSON, and no line and no file is without bound.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fuzz.h"
#include "fuzz_text.h"
#include "fuzz_kernel.h"
#include "fuzz_schema.h"
#include "fuzz_session.h"
#include "perfetto.pb-c.h"

#define BATCH_ROOM 32768u
#define LINE_MOST (64u * 1024 + 64)

static struct schema_maker maker;

/* ------------------------------------------------------------------------------ what is handed over */

struct batch {
	struct htrace_batch b;
	_Alignas(8) unsigned char data[BATCH_ROOM];
};

/* Framed as the consumer, or a capture's reader, lets it pass; all else is the input's. */
static void add_record(struct batch *b, struct input *in)
{
	__u64 how = take(in, 1), id = take(in, 1), time = take_number(in), head;
	__u32 hdr = how & 1 ? 16 : 8, len = (__u32)take(in, 1 + (how >> 1 & 1)) % 8192 & ~7u;
	size_t n = len < in->left ? len : in->left;
	unsigned char *at = b->data + b->b.len;

	if (how & 4)
		n = n < 16 ? n : 16;
	if (hdr + len > BATCH_ROOM - b->b.len)
		return;
	id = id < 250 ? 1 + id % (maker.nr_events + 1) : 60000 - id;
	if (hdr == 16)
		memcpy(at + 8, &time, 8);
	head = id | (__u64)(hdr + len + (how & 1)) << 16 | time << 32;
	memcpy(at, &head, 8);
	memset(at + hdr, (int)how, len);
	memcpy(at + hdr, in->at, n);
	in->at += n;
	in->left -= n;
	b->b.len += hdr + len;
	b->b.events++;
}

static void hand_batch(struct reader *r, struct input *in, __u64 op)
{
	static struct batch b;

	b.b = (struct htrace_batch){ .data = b.data, .schema = 1, .base = take_number(in) };
	for (unsigned int n = 1 + (op & 7); n && in->left; n--)
		add_record(&b, in);
	if (op & 8)
		b.b.overwritten = take_number(in);
	if (op & 16) {
		b.b.dropped = take_number(in);
		b.b.corrupt = take(in, 1);
	}
	session_batch(r->session, (unsigned int)take(in, 1) % 3, &b.b, r->now, op & 32, op >> 7);
}

static void hand_schema(struct reader *r, struct input *in, __u64 *generation)
{
	size_t before = maker.len;
	struct schema_maker *keep = malloc(sizeof(*keep));
	char err[160];

	*keep = maker;
	schema_make(&maker, in, before ? 6 : 40);
	if (session_is_behind(r->session) ||
	    session_schema(r->session, ++*generation, maker.at, maker.len, r->now, err, sizeof(err)))
		maker = *keep; /* refused: not all that comes later */
	free(keep);
}

static void hand_names(struct reader *r, struct input *in)
{
	struct htrace_name names[8] = { 0 };
	unsigned int nr = (unsigned int)take(in, 1) % 8;

	for (unsigned int i = 0; i < nr; i++) {
		names[i].tid = (__u32)take(in, 1);
		names[i].tgid = (__u32)take(in, 1);
		names[i].time = take_number(in);
		for (unsigned int k = 0; k < 16; k += 4)
			memcpy(names[i].comm + k, &(__u32){ (__u32)take(in, 4) }, 4);
	}
	session_names(r->session, names, nr, r->now);
}

/* A record of HTRACE_STACK_EVENT, if the schema has it. */
static void hand_stack(struct reader *r, struct input *in)
{
	struct htrace_stack head = { .id = take(in, 1), .pid = (__u32)take(in, 1) };
	__u64 rec[1 + sizeof(head) / 8 + 16] = { 0 };
	struct htrace_batch b = { .data = (void *)rec, .len = sizeof(rec), .events = 1, .schema = 1 };

	head.kind = (__u16)take(in, 1) % 5;
	head.nr = (__u16)take(in, 1) % 20;
	memcpy(rec + 1, &head, sizeof(head));
	for (size_t i = 1 + sizeof(head) / 8; i < ARRAY_SIZE(rec) && in->left; i++)
		rec[i] = take_number(in);
	rec[0] = (1 + take(in, 1) % (maker.nr_events + 1)) | sizeof(rec) << 16;
	session_batch(r->session, 0, &b, r->now, false, 0);
}

static void hand_guest(struct reader *r, struct input *in)
{
	struct htrace_clock_sample clock = { .mono = take_number(in), .real = take_number(in) };
	static struct htrace_guest guest;

	memset(guest.hostname, (int)take(in, 1), sizeof(guest.hostname));
	memset(guest.release, (int)take(in, 1), sizeof(guest.release));
	guest.nr_progs = (__u32)take(in, 1) % HTRACE_MAX_PROGS;
	session_guest(r->session, &guest, &clock, r->now);
}

static void hand_clock(struct reader *r, struct input *in)
{
	struct htrace_clock_sample s[8];
	__u32 nr = 1 + (__u32)take(in, 1) % ARRAY_SIZE(s);

	for (__u32 i = 0; i < nr; i++)
		s[i] = (struct htrace_clock_sample){
			.tsc = take_number(in), .mono = take_number(in), .real = take_number(in),
			.width = take_number(in),
		};
	session_clock(r->session, s, nr, r->now);
}

static void step(struct reader *r, struct input *in, __u64 *generation)
{
	__u64 op = take(in, 1);

	switch (op % 16) {
	case 0: case 1: case 2: case 3: case 4: case 5: case 6:
		hand_batch(r, in, op >> 4 | take(in, 1) << 4);
		break;
	case 7: case 8:
		hand_schema(r, in, generation);
		break;
	case 9:
		hand_names(r, in);
		break;
	case 10:
		hand_stack(r, in);
		break;
	case 11:
		hand_guest(r, in);
		break;
	case 12:
		session_broken(r->session, (unsigned int)(op >> 4) % 3, "why", r->now);
		break;
	case 13:
		fail_allocation((unsigned int)take(in, 1) >> (op >> 5));
		break;
	case 14:
		if (op & 16)
			hand_clock(r, in);
		else
			session_note(r->session, "note", r->now);
		break;
	default:
		r->now += op << 20;
		reader_emit(r, false);
	}
}

/* ------------------------------------------------------------------------------------ what comes out */

static void check_string(const char *s)
{
	size_t len = 0;

	for (; s && *s; s++, len++)
		CHECK(*s >= ' ' && *s <= '~');
	CHECK(len < 8192);
}

/* All text in a message, and in those in it, is harmless. */
static void check_message(const ProtobufCMessage *m)
{
	for (unsigned int i = 0; i < m->descriptor->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->descriptor->fields[i];
		const void *at = (const char *)m + f->offset;
		bool many = f->label == PROTOBUF_C_LABEL_REPEATED;
		size_t nr = many ? *(const size_t *)((const char *)m + f->quantifier_offset) : 1;
		void *const *list = many ? *(void *const *const *)at : (void *const *)at;

		if (f->type != PROTOBUF_C_TYPE_STRING && f->type != PROTOBUF_C_TYPE_MESSAGE)
			continue;
		for (size_t n = 0; n < nr; n++) {
			if (f->type == PROTOBUF_C_TYPE_STRING)
				check_string(list[n]);
			else if (list[n])
				check_message(list[n]);
		}
	}
}

/* It is a trace, and each number stands for a name that was told before. */
static void check_trace(const char *data, size_t len)
{
	Pf__Trace *t = pf__trace__unpack(NULL, len, (const uint8_t *)data);
	uint64_t last[8] = { 0 };

	CHECK(t && t->n_packet && t->packet[0]->clock_snapshot);
	check_message(&t->base);
	for (size_t i = 1; i < t->n_packet; i++) {
		const Pf__TracePacket *k = t->packet[i];
		const Pf__InternedData *d = k->interned_data;
		uint64_t *iid = &last[k->machine_id % ARRAY_SIZE(last)];

		CHECK(k->machine_id && k->trusted_packet_sequence_id == k->machine_id + 1);
		if (k->sequence_flags & PF__SEQUENCE_FLAGS__SEQ_INCREMENTAL_STATE_CLEARED)
			*iid = 0;
		*iid += d ? d->n_event_names + d->n_debug_annotation_names : 0;
		CHECK(!k->track_event || k->track_event->name_iid <= *iid);
		for (size_t n = 0; k->track_event && n < k->track_event->n_debug_annotations; n++)
			CHECK(k->track_event->debug_annotations[n]->name_iid <= *iid);
	}
	pf__trace__free_unpacked(t, NULL);
}

static void check_output(int fd, bool json)
{
	struct stat st;
	char *text;

	CHECK(!fstat(fd, &st));
	if (!st.st_size)
		return;
	text = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(text != MAP_FAILED);
	if (!strcmp(SINK, "perfetto"))
		check_trace(text, (size_t)st.st_size);
	else
		check_lines(text, (size_t)st.st_size, json, LINE_MOST);
	munmap(text, (size_t)st.st_size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1;
	static char path[280], spec[300];
	struct input in = { data, size };
	bool to_directory = !strcmp(SINK, "ctf") || !strcmp(SINK, "raw");
	__u64 generation = 0, how = take(&in, 1);
	bool compass = how & 16 && !strcmp(SINK, "ctf");
	struct reader r;

	if (fd < 0) {
		fd = to_directory ? 0 : memfd_create("out", 0);
		if (to_directory)
			snprintf(path, sizeof(path), "%s/out", fuzz_dir());
		else
			snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	snprintf(spec, sizeof(spec), SINK ":%s%s", path, compass ? ",trace-compass" : "");
	maker.len = maker.nr_types = maker.nr_events = 0;
	if (how & 128 && (compass || !strcmp(SINK, "perfetto")))
		kernel_schema(&maker);
	if (reader_open(&r, spec, NULL, how & 15)) {
		hand_schema(&r, &in, &generation);
		while (in.left)
			step(&r, &in, &generation);
		if (!(how & 64)) /* else some is left unwritten */
			reader_emit(&r, true);
		/* else it ends without a word */
		if (how & 32 || !session_now(r.session) || session_latest(r.session) > r.now)
			session_mark_end(r.session, "gone", r.now);
	}
	fail_allocation(0);
	reader_close(&r);
	if (to_directory)
		remove_tree(path, true);
	else
		check_output(fd, !strcmp(SINK, "json"));
	return 0;
}

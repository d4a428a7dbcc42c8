// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The ring of a guest's boot, in a file of its memory: its description and pages are the input's, and change between
 * two looks. What is taken out of it becomes records by format files, the kernel's or the input's, and a Perfetto trace.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "boot_records.h"
#include "boot_ring.h"
#include "../unit/format_text.h"
#include "fuzz.h"
#include "fuzz_session.h"

#define PAGE 4096u
#define PAGES 7u
#define BATCH_ROOM 32768u

static const char formats[] = BOOT_FORMATS
	FORMAT("dynamic", 7, FIELD("__data_loc u8[] a", 8, 4, 0) FIELD("__data_loc char[] b", 12, 4, 0)
	       FIELD("__rel_loc char[] c", 16, 4, 0) FIELD("short d", 20, 2, 1));

struct run {
	struct reader *r; /* NULL: what comes out is not shown */
	struct boot_records *records;
	const struct htrace_schema *schema;
	unsigned int room;
};

/* As the reader's own region has it, and from there its session. */
static void show(struct run *run, unsigned int cpu, __u64 time, __u32 id, const unsigned char *payload, size_t len)
{
	static struct {
		struct htrace_batch b;
		_Alignas(8) unsigned char data[BATCH_ROOM];
	} batch;
	__u32 body = ((__u32)len + 7) & ~7u;
	__u64 head = id | (__u64)((16 + body) | HTRACE_REC_EXTENDED) << 16 | time << 32;

	CHECK(16 + body <= BATCH_ROOM);
	memcpy(batch.data, &head, 8);
	memcpy(batch.data + 8, &time, 8);
	memset(batch.data + 16, 0, body);
	memcpy(batch.data + 16, payload, len);
	batch.b = (struct htrace_batch){ .data = batch.data, .len = 16 + body, .events = 1, .schema = 1, .base = time };
	session_batch(run->r->session, cpu % 3, &batch.b, run->r->now, false, 0);
}

static bool each(void *ctx, unsigned int cpu, const struct ftrace_record *rec)
{
	unsigned char payload[TRACEPOINT_PAYLOAD_MAX];
	struct run *run = ctx;
	__u64 address;
	size_t len;
	__u32 id;

	CHECK(cpu < BOOT_RING_CPUS && rec->len < PAGE);
	if (!run->room)
		return false;
	run->room--;
	boot_records_initcall(run->records, rec, &address);
	len = boot_records_payload(run->records, rec, payload, &id);
	CHECK(len <= sizeof(payload));
	if (!len)
		return true;
	CHECK(htrace_schema_event(run->schema, id) && len >= htrace_schema_event(run->schema, id)->type->size);
	CHECK(boot_records_event(run->records, ftrace_record_type(rec)));
	check_written(payload, len);
	if (run->r)
		show(run, cpu, rec->time, id, payload, len);
	return true;
}

/* What is not said is zero: a page takes as much of the input as it wants to. */
static void fill(int fd, struct input *in)
{
	while (in->left) {
		__u64 how = take(in, 1), page = (how & 7) % PAGES;
		static unsigned char bytes[PAGE];
		size_t at, n;

		if (how == 63) /* the rest comes later */
			return;
		at = how & 64 ? take(in, 2) % PAGE : 0;
		n = take(in, 1 + (how >> 7));
		memset(bytes, 0, sizeof(bytes));
		n = n % (PAGE - at) < in->left ? n % (PAGE - at) : in->left;
		memcpy(bytes, in->at, n);
		in->at += n;
		in->left -= n;
		/* only what is said, or all of it */
		CHECK(pwrite(fd, bytes, how & 64 ? n : PAGE, (off_t)(page * PAGE + at)) >= 0);
	}
}

static struct htrace_schema *declare(struct boot_records *records, struct input *in, __u64 how,
				     struct htrace_schema_builder **b, const void **entries, size_t *len)
{
	struct htrace_schema *s = NULL;
	char err[160] = "", *text;
	size_t n;
	int ret;

	if (how & 1) {
		text = take_exact(in, take(in, 2) % 4096, &n);
		ret = boot_records_add_formats(records, text, n);
		free(text);
		CHECK(ret >= 0 || ret == -ENOMEM);
	}
	boot_records_add_formats(records, formats, sizeof(formats) - 1);
	if (how & 2) {
		boot_records_name(records, 0x1000, "a_init");
		boot_records_name(records, 0x2000, how & 4 ? "3.b" : "");
	}
	if (htrace_builder_new(b, NULL, 0))
		return NULL;
	if (how & 8) /* a program's event has the name, and other fields */
		htrace_builder_event(*b, "module_load", htrace_builder_struct(*b, "m", false, 8, NULL, 0));
	ret = boot_records_functions(records, *b);
	if (boot_records_declare(records, *b, ret < 0 ? 0 : ret) < 0)
		return NULL;
	*entries = htrace_builder_entries(*b, len);
	if (htrace_schema_parse(&s, *entries, *len, err, sizeof(err)))
		CHECK(!strcmp(err, "") || strstr(err, "memory"));
	return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int fd = -1, out = -1;
	static char spec[64];
	struct input in = { data, size };
	__u64 how = take(&in, 1);
	struct run run = { .records = boot_records_new(), .room = how & 16 ? 3 : 1000 };
	struct htrace_schema_builder *b = NULL;
	struct htrace_schema *schema = NULL;
	struct boot_ring *ring = NULL;
	const void *entries = NULL;
	struct reader r;
	char err[160];
	size_t len = 0;

	if (fd < 0) {
		fd = memfd_create("ring", 0);
		out = memfd_create("out", 0);
		snprintf(spec, sizeof(spec), "perfetto:/proc/self/fd/%d", out);
	}
	CHECK(!ftruncate(fd, 0) && !ftruncate(fd, PAGES * PAGE));
	if (run.records)
		schema = declare(run.records, &in, how, &b, &entries, &len);
	run.schema = schema;
	if (!schema || !reader_open(&r, spec, NULL, 0))
		goto end;
	if (!session_schema(r.session, 1, entries, len, r.now, err, sizeof(err)))
		run.r = &r;
	fill(fd, &in);
	CHECK(boot_ring_open(&ring, fd, 0, how) == -EINVAL);
	if (!boot_ring_open(&ring, fd, 0, PAGES * PAGE)) {
		fail_allocation(how & 128 ? (unsigned int)take(&in, 1) : 0);
		while (boot_ring_find(ring) && in.left)
			fill(fd, &in);
		while (in.left) {
			run.room = how & 16 ? 3 : 1000;
			boot_ring_read(ring, each, &run);
			fill(fd, &in);
		}
		if (how & 64)
			CHECK(!ftruncate(fd, how & 32 ? 4 * PAGE : PAGE));
		for (int i = 0; i < 3; i++)
			boot_ring_read(ring, each, &run);
		CHECK(boot_ring_state(ring)->cpus <= PAGES / 2);
		fail_allocation(0);
		boot_ring_close(ring);
	}
	reader_emit(&r, true);
	reader_close(&r);
end:
	htrace_schema_free(schema);
	htrace_builder_free(b);
	boot_records_free(run.records);
	return 0;
}

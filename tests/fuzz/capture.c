// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A capture's files, spoilt, read as host-reader does: journal, streams, odd records, and the outputs
 * that come of it. They are made once by the sink that writes captures; with -DPACKED, compressed by its packer.
 */
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capture.h"
#include "fuzz.h"
#include "fuzz_session.h"
#include "capture_pack.h"
#include "source.h"
#include "vcpus.h"

#define NR_FILES 4

static const char *const names[NR_FILES] = { "htrace/journal", "cpu0", "cpu0.odd",
					     "set1-ring0.unverified" };
static char dir[300];
static struct file {
	char path[400];
	size_t len;
	char *at;
	struct memory memory;
	struct place places[40];
	bool spoilt;
} files[NR_FILES];

/* ---------------------------------------------------------------------------------------- making it */

static void add_record(struct htrace_batch *b, unsigned char *data, __u64 id, __u64 time, bool extended,
		       const char *text)
{
	__u64 hdr = extended ? 16 : 8, size = hdr + 24;
	__u64 head = id | (size + extended) << 16 | time << 32;
	unsigned char *at = data + b->len;

	memset(at, 0, size);
	memcpy(at, &head, 8);
	if (extended)
		memcpy(at + 8, &time, 8);
	snprintf((char *)at + hdr + 4, 20, "%s", text);
	b->len += (__u32)size;
	b->events++;
}

static void add_batches(struct reader *r)
{
	_Alignas(8) unsigned char data[4096];

	for (unsigned int i = 0; i < 6; i++) {
		struct htrace_batch b = { .data = data, .base = 5000 + i, .schema = 1, .pos = i * 4096 };

		for (unsigned int k = 0; k <= i; k++)
			add_record(&b, data, 1 + k % 2, 5000 + i + k, false, "some text");
		if (i == 2)
			add_record(&b, data, 1, UINT64_MAX, true, "late");
		b.overwritten = i == 2 ? 7 : 0;
		CHECK(!session_batch(r->session, i % 3 ? 0 : 2, &b, r->now, i % 3 == 0, 0));
		r->now += i == 4 ? 300000000 : 1000;
		reader_emit(r, false);
	}
}

static void make_capture(void)
{
	static const struct htrace_name names[] = { { 0, 7, 7, "seven" }, { 1, 8, 8, "eight" } };
	static const struct htrace_clock_sample clock = { 5, 1000, 1700000000000001000, 7 };
	static struct htrace_guest guest = { .nr_progs = 2, .hostname = "host", .prog = { { "a", 1, 2, 1, 0 } } };
	static const struct host_word words[] = { /* so far apart that they tell how fast it goes */
		{ HOST_WORD_KNOT, HOST_BY_PING, 4000, 1004000, 10, 1700000000000000000, { 9 } },
		{ HOST_WORD_KNOT, HOST_BY_PING, 104000, 1104000, 10, 1700000000000000000, { 9 } },
		{ HOST_WORD_STEP, HOST_BY_PING, 6000, 500, 10, 1700000000000000000, { 9 } },
		{ HOST_WORD_KNOT, HOST_BY_PING, 7000, 1007500, 10, 1700000000000000000, { 9 } },
	};
	static const struct session_vm vm = { { 9 }, 4711, 2, { 0, 3 } };
	struct capture_end end = { .attached_ns = 12345 };
	struct htrace_schema_builder *b;
	char spec[400], err[160];
	struct reader r;
	size_t len;

	snprintf(dir, sizeof(dir), "%s/capture", fuzz_dir());
	snprintf(spec, sizeof(spec), "raw:%s", dir);
	CHECK(!htrace_builder_new(&b, NULL, 0));
	__u32 u32 = (__u32)htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_TID);
	__u32 text = (__u32)htrace_builder_string(b, 0);
	struct htrace_schema_member m[] = { { u32, 0, 0, 0, "tid" }, { text, 32, 0, 0, "text" } };

	htrace_builder_event(b, "one", htrace_builder_struct(b, "s", false, 4, m, 2));
	CHECK(reader_open(&r, spec, NULL, 0));
	CHECK(!session_schema(r.session, 1, htrace_builder_entries(b, &len), len, r.now, err, sizeof(err)));
	htrace_builder_free(b);
	session_guest(r.session, &guest, &clock, r.now);
	session_tell(r.session, CAPTURE_PLACE, "place", 5, r.now);
	session_names(r.session, names, 2, r.now);
	session_host_clock(r.session, words, 2, r.now);
	session_vm(r.session, &vm, r.now);
	add_batches(&r);
	session_tell(r.session, CAPTURE_SAID, "said", 4, r.now);
	session_host_clock(r.session, words, 4, r.now);
	session_mark(r.session, "a mark", r.now);
	session_began(r.session, "restarted: it", r.now);
	session_broken(r.session, 1, "why", r.now);
	session_end(r.session, &end, r.now);
	reader_close(&r);
}

#ifdef PACKED
#define SUFFIX CAPTURE_PACKED

static void pack_capture(void)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	struct packed_part done;
	struct packer *p;

	CHECK(fd >= 0 && !packer_new(&p, fd) && packer_begin(p, "source1-session1"));
	while (!packer_take(p, &done))
		usleep(100);
	CHECK(!done.error);
	packer_free(p);
	close(fd);
}

/* The frame, and behind it what says where frames are; there is one. */
static unsigned int find_places(struct file *f, bool journal)
{
	size_t end = sizeof(struct capture_pack_end) + 16;

	f->places[0] = (struct place){ 0, 24 };
	f->places[1] = (struct place){ 0, f->len };
	f->places[2] = (struct place){ f->len - end, end };
	return 3;
}
#else
#define SUFFIX ""

static void pack_capture(void)
{
}

/* Headers of entries and packets, what describes batches, and the rest. */
static unsigned int find_places(struct file *f, bool journal)
{
	unsigned int nr = 0;

	f->places[nr++] = (struct place){ 0, f->len < 256 ? f->len : 256 };
	f->places[nr++] = (struct place){ 0, f->len };
	for (size_t at = journal ? sizeof(struct capture_journal) : 0; at < f->len && nr + 2 < 40;) {
		struct capture_entry e;
		struct capture_packet p;

		if (journal) {
			memcpy(&e, f->at + at, sizeof(e));
			f->places[nr++] = (struct place){ at, sizeof(e) };
			at += sizeof(e) + (e.len + 7) / 8 * 8;
		} else {
			memcpy(&p, f->at + at, sizeof(p));
			f->places[nr++] = (struct place){ at, sizeof(p) };
			f->places[nr++] = (struct place){ at + p.content_size / 64 * 8,
							  p.packet_size / 8 - p.content_size / 64 * 8 };
			at += p.packet_size / 8;
		}
	}
	return nr;
}
#endif

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	make_capture();
	pack_capture();
	for (unsigned int i = 0; i < NR_FILES; i++) {
		struct file *f = &files[i];
		struct stat st;
		int fd;

		snprintf(f->path, sizeof(f->path), "%s/source1-session1/%s" SUFFIX, dir, names[i]);
		fd = open(f->path, O_RDONLY);
		CHECK(fd >= 0 && !fstat(fd, &st) && st.st_size > 100);
		f->len = (size_t)st.st_size;
		f->at = malloc(f->len);
		CHECK(read(fd, f->at, f->len) == st.st_size);
		close(fd);
		memory_keep(&f->memory, f->at, f->len, f->places, find_places(f, !i));
	}
	return 0;
}

/* ------------------------------------------------------------------------------ spoiling, reading it */

static void write_file(struct file *f, size_t len, const void *more, size_t more_len)
{
	int fd = open(f->path, O_WRONLY);

	CHECK(fd >= 0 && pwrite(fd, f->at, len, 0) == (ssize_t)len);
	CHECK(pwrite(fd, more, more_len, (off_t)len) == (ssize_t)more_len);
	CHECK(!ftruncate(fd, (off_t)(len + more_len)));
	close(fd);
}

/* Values in it, what is behind them cut off, and other bytes there. */
static void spoil(struct file *f, struct input *in)
{
	__u64 how = take(in, 1);
	size_t len = f->len, more_len = 0;
	void *more;

	take_patches(&f->memory, in, 8);
	if (how & 1)
		len = take(in, 2) * 8 % (len + 1);
	more = take_exact(in, how & 2 ? take(in, 1) : 0, &more_len);
	write_file(f, len, more, more_len);
	free(more);
	memory_put_back(&f->memory);
	f->spoilt = true;
}

/* A host that knows of the virtual CPUs that the capture's VM has. */
static struct vcpu_hosts *make_hosts(void)
{
	static const __u64 known = UINT64_MAX;
	static const __u8 boot_id[16] = { 9 };
	const __u32 fields[] = { 4711, 99, 0, 1 << 16 | 30 };
	struct vcpu_hosts *hosts = vcpu_hosts_new();
	struct htrace_record r = { .payload = fields, .len = sizeof(fields) };
	struct htrace_schema_builder *b;
	struct htrace_schema *schema;
	struct vcpu_events *events;
	struct vcpus *v;
	char err[160];
	size_t len;

	CHECK(!htrace_builder_new(&b, NULL, 0));
	__u32 u32 = (__u32)htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE);
	struct htrace_schema_member m[] = { { u32, 0, 0, 0, "vm" }, { u32, 32, 0, 0, "tid" }, { u32, 64, 0, 0, "vcpu_id" },
					    { u32, 96, 0, 0, "reason" } };

	htrace_builder_event(b, "kvm_entry", htrace_builder_struct(b, "e", false, 16, m, 3));
	htrace_builder_event(b, "kvm_exit", htrace_builder_struct(b, "x", false, 16, m, 4));
	const void *entries = htrace_builder_entries(b, &len);

	CHECK(!htrace_schema_parse(&schema, entries, len, err, sizeof(err)));
	events = vcpu_events_new(schema);
	v = vcpus_open(hosts, boot_id, &known);
	CHECK(events && v);
	for (unsigned int i = 0; i < 20; i++) {
		r.id = 1 + i % 2;
		vcpus_take(v, events, &r, 1004990 + i, NULL, NULL);
	}
	vcpu_events_free(events);
	htrace_schema_free(schema);
	htrace_builder_free(b);
	return hosts;
}

static void replay(const char *to, __u64 fail)
{
	static struct vcpu_hosts *hosts; /* nothing that is read changes it */

	struct source_spec spec = { .kind = SOURCE_FILE, .path = dir };
	struct source_config config = { .sync = "-", .host_clock = true };
	struct source_round round = { 0 };
	struct sinks sinks = { 0 };
	struct source s;

	if (!hosts)
		hosts = make_hosts();
	config.hosts = hosts;
	CHECK(!sinks_open(&sinks, &to, 1) && !sinks_begin(&sinks));
	CHECK(!selection_new(&config.selection, NULL));
	config.sinks = &sinks;
	fail_allocation((unsigned int)fail);
	if (!source_open(&s, &spec, 0, &config)) {
		source_begin(&s, 0);
		for (int i = 0; source_due(&s) != UINT64_MAX && s.state != SOURCE_FAILED; i++) {
			CHECK(i < 100000);
			source_round(&s, 1, &round);
		}
		source_finish(&s, 1);
	}
	fail_allocation(0);
	source_close(&s);
	sinks_close(&sinks);
	selection_free(config.selection);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	__u64 how = take(&in, 1);
	char again[400];

	for (unsigned int i = 0; i < NR_FILES; i++)
		if (how >> i & 1)
			spoil(&files[i], &in);
	snprintf(again, sizeof(again), "raw:%s/again", fuzz_dir());
	/* Text, JSON, or, now and then, another capture. */
	replay(how & 16 ? again : how & 32 ? "json:/dev/null" : "text:/dev/null", how >> 5 == 7 ? take(&in, 1) : 0);
	if (how & 16)
		remove_tree(again + 4, true);
	for (unsigned int i = 0; i < NR_FILES; i++)
		if (files[i].spoilt) {
			write_file(&files[i], files[i].len, "", 0);
			files[i].spoilt = false;
		}
	return 0;
}

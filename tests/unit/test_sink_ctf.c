// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the CTF sink writes: metadata, packets, values; what a guest can declare and still not break
 * them. The tests read both back by themselves; the system tests let babeltrace2 do it.
 */
#define SINK sink_ctf
#include "sink_fixture.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "ctf_classes.h"
#include "outdir.h"

#define TIME 12345678901ULL

/* ---------------------------------------------------------------------------- reading it back */

/* As CTF has it, alignment is to bytes. */
struct packet {
	__u32 magic;
	__u8 uuid[16];
	__u32 stream_id;
	__u64 begin, end, content, size, seq, discarded;
	__u32 cpu;
} __attribute__((packed));

/* Whole: metadata into one buffer, streams into another one. */
static char *slurp(const char *name, size_t *len)
{
	static char both[2][20 << 20];
	char *data = both[strstr(name, "metadata") != NULL];
	const size_t size = sizeof(both[0]);
	char file[128];
	FILE *f;

	snprintf(file, sizeof(file), "%s/%s", path, name);
	f = fopen(file, "r");
	ck_assert_msg(f != NULL, "no file %s", file);
	*len = fread(data, 1, size - 1, f);
	ck_assert_uint_lt(*len, size - 1);
	data[*len] = 0;
	fclose(f);
	return data;
}

/* Some text of the metadata. */
static bool declared(const char *text)
{
	size_t len;

	return strstr(slurp("vm-1/metadata", &len), text) != NULL;
}

/* Its id in streams of @kind; 0: not declared. */
static unsigned int id_of(const char *name, unsigned int kind)
{
	char want[128];
	unsigned int id;
	size_t len;

	for (const char *at = slurp("vm-1/metadata", &len); at; at++) {
		at = strstr(at, "event {\n\tid = ");
		if (!at || sscanf(at, "event {\n\tid = %u;", &id) != 1)
			break;
		snprintf(want, sizeof(want), "event {\n\tid = %u;\n\tname = \"%s\";\n\tstream_id = %u;", id,
			 name, kind);
		if (!strncmp(at, want, strlen(want)))
			return id;
	}
	return 0;
}

/* Check a stream's packets; their number. @out gets copies of their headers. */
static unsigned int walk(const char *name, struct packet *out, unsigned int max)
{
	struct packet p, before = { 0 };
	unsigned int nr = 0;
	size_t len, at = 0;
	char *data = slurp(name, &len);

	for (; at < len; at += p.size / 8, nr++) {
		ck_assert_uint_ge(len - at, sizeof(p));
		memcpy(&p, data + at, sizeof(p));
		ck_assert_uint_eq(p.magic, 0xc1fc1fc1);
		ck_assert_uint_ge(p.content / 8, sizeof(p));
		ck_assert_uint_le(p.content, p.size);
		ck_assert_uint_eq(p.size % 8, 0);
		ck_assert_uint_ge(p.size / 8, sizeof(p));
		ck_assert_uint_le(p.size / 8, len - at);
		ck_assert_uint_le(p.begin, p.end);
		ck_assert_uint_eq(p.seq, nr);
		if (nr) {
			ck_assert_uint_ge(p.begin, before.end);
			ck_assert_uint_ge(p.discarded, before.discarded);
		}
		ck_assert_uint_lt(nr, max);
		out[nr] = before = p;
	}
	ck_assert_uint_eq(at, len);
	return nr;
}

/* What follows the first @head bytes. */
static const unsigned char *body(const char *name, size_t head, size_t *len)
{
	size_t all;
	const unsigned char *data = (const unsigned char *)slurp(name, &all);

	ck_assert_uint_gt(all, head);
	*len = all - head;
	return data + head;
}

/* Header and context of an event whose task is not known, which is called <...>. */
#define EVENT_HEAD (sizeof(struct ctf_event_header) + 6)

static const unsigned char *fields(size_t *len)
{
	const unsigned char *p;

	sink.ops->flush(&sink);
	p = body("vm-1/cpu2", sizeof(struct packet) + EVENT_HEAD, len);
	return p;
}

static void expect_fields(const void *want, size_t len)
{
	size_t got;
	const unsigned char *p = fields(&got);

	ck_assert_uint_eq(got, len);
	ck_assert_mem_eq(p, want, len);
}

/* --------------------------------------------------------------------------------------- metadata */

/* The declaration of @type's event, spaces between words made one. */
static const char *declaration(int type)
{
	static char text[4096];
	struct tsdl t = { .max = 1 << 20 };
	struct ctf_layout *l;
	__u32 id = (__u32)htrace_builder_event(builder, "e", type);
	size_t n = 0;

	finish_schema();
	l = ctf_layout_new(htrace_schema_event(schema, id), NULL);
	ctf_put_fields(&t, htrace_schema_event(schema, id), l);
	ck_assert(!t.full);
	for (size_t i = 0; i < t.len && n < sizeof(text) - 1; i++) {
		bool space = t.p[i] == '\n' || t.p[i] == '\t' || t.p[i] == ' ';

		if (!space)
			text[n++] = t.p[i];
		else if (n && text[n - 1] != ' ')
			text[n++] = ' ';
	}
	text[n] = 0;
	tsdl_free(&t);
	free(l);
	return text;
}

#define I(bits, is_signed) "integer { size = " #bits "; align = 8; signed = " #is_signed "; }"

static const struct {
	__u32 size;
	bool is_signed;
	enum htrace_hint hint;
	const char *declared;
} integers[] = {
	{ 1, false, HTRACE_HINT_NONE, I(8, false) },
	{ 2, true, HTRACE_HINT_NONE, I(16, true) },
	{ 8, true, HTRACE_HINT_NONE, I(64, true) },
	{ 4, false, HTRACE_HINT_TID, I(32, true) },
	{ 4, false, HTRACE_HINT_HEX, "integer { size = 32; align = 8; signed = false; base = 16; }" },
	{ 8, false, HTRACE_HINT_POINTER,
	  "integer { size = 64; align = 8; signed = false; base = 16; }" },
	{ 1, false, HTRACE_HINT_BOOL, I(8, false) },
	{ 16, false, HTRACE_HINT_NONE, "string" },
};

START_TEST(test_integer_types)
{
	int type = htrace_builder_int(builder, "t", integers[_i].size, integers[_i].is_signed,
				      integers[_i].hint);
	struct htrace_schema_member m = { .type = (__u32)type, .name = "v" };
	char want[256];

	snprintf(want, sizeof(want), "struct { %s _v; }", integers[_i].declared);
	ck_assert_str_eq(declaration(htrace_builder_struct(builder, "e", false, 16, &m, 1)), want);
}
END_TEST

/* Values that the integer cannot have are left out, for babeltrace2 would refuse them. */
START_TEST(test_enum_types)
{
	struct htrace_schema_value v[] = { { -1, "MINUS" }, { 5, "FIVE" }, { 300, "TOO_LARGE" } };
	struct htrace_schema_member m[] = {
		{ .type = (__u32)htrace_builder_enum(builder, "a", 1, true, v, 3), .name = "a" },
		{ .type = (__u32)htrace_builder_enum(builder, "b", 2, false, v + 1, 2),
		  .bit_off = 16, .name = "b" },
		{ .type = (__u32)htrace_builder_enum(builder, "c", 1, false, v + 2, 1),
		  .bit_off = 32, .name = "c" },
	};

	ck_assert_str_eq(declaration(htrace_builder_struct(builder, "e", false, 8, m, 3)),
			 "struct { enum : " I(8, true) " { \"MINUS\" = -1, \"FIVE\" = 5 } _a; "
			 "enum : " I(16, false) " { \"FIVE\" = 5, \"TOO_LARGE\" = 300 } _b; "
			 I(8, false) " _c; }");
}
END_TEST

START_TEST(test_compound_types)
{
	int u8 = htrace_builder_int(builder, "u8", 1, false, HTRACE_HINT_NONE);
	int row = htrace_builder_array(builder, u8, 3);
	struct htrace_schema_member in[] = {
		{ .type = (__u32)u8, .name = "a" },
		{ .type = (__u32)u8, .name = "b" },
	};
	int both = htrace_builder_struct(builder, "both", true, 1, in, 2);
	struct htrace_schema_member m[] = {
		{ .type = (__u32)htrace_builder_array(builder, row, 2), .name = "grid" },
		{ .type = (__u32)both, .bit_off = 48, .name = "event" },
		{ .type = (__u32)htrace_builder_array(builder, both, 2), .bit_off = 56,
		  .name = "struct" },
		{ .type = (__u32)htrace_builder_string(builder, 4), .bit_off = 72,
		  .name = "rest_length" },
		{ .type = (__u32)htrace_builder_array(builder, u8, 0), .bit_off = 128,
		  .name = "rest" },
	};

	ck_assert_str_eq(declaration(htrace_builder_struct(builder, "e", false, 16, m, 5)),
			 "struct { " I(8, false) " _grid[2][3]; "
			 "struct { " I(8, false) " _a; " I(8, false) " _b; } _event; "
			 "struct { " I(8, false) " _a; " I(8, false) " _b; } _struct[2]; "
			 "string _rest_length; " I(32, false) " _rest_length_; "
			 I(8, false) " _rest[_rest_length_]; }");
}
END_TEST

/* Whatever the guest's machine is called, and wherever the region is: it stays within its quotes. */
START_TEST(test_env)
{
	struct htrace_schema_member m = { .name = "v", .type = (__u32)htrace_builder_int(
		builder, "u", 1, false, HTRACE_HINT_NONE) };
	__u32 id = (__u32)htrace_builder_event(
		builder, "e", htrace_builder_struct(builder, "e", false, 1, &m, 1));

	memset(session.hostname, 'h', sizeof(session.hostname));
	memcpy(session.hostname, "a\"; }; /*\n\\\x1b[1m\xff", 16);
	strcpy(session.release, "6.1");
	session.boot_id[0] = 0xab;
	session.clock.mono = 1000000001;
	session.clock.real = 1700000003000000005;
	finish_schema();
	show(id, "\x07", 1, false);
	sink.ops->flush(&sink);
	ck_assert(declared("\thostname = \"a\\\\x22; }; /*\\\\x0a\\\\x5c\\\\x1b[1m\\\\xffhhh"));
	ck_assert(declared("hhh\";\n\tdomain = \"kernel\";\n\tsysname = \"Linux\";\n"
			   "\ttracer_name = \"lttng-modules\";\n\ttracer_major = 2;\n"));
	ck_assert(declared("\tkernel_release = \"6.1\";\n"));
	ck_assert(declared("\thtrace_source = \"/dev/shm/vm\";\n"));
	ck_assert(declared("\tuuid = \"ab000000-0000-0000-0000-000000000000\";\n"));
	ck_assert(declared("\tfreq = 1000000000; /* Hz */\n\tabsolute = TRUE;\n"
			   "\toffset_s = 1700000002;\n\toffset = 4;\n"));
}
END_TEST

/* A guest tells what time it is after its first events; what it says later counts no more. */
START_TEST(test_late_clock)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 8, false, HTRACE_HINT_NONE));
	__u64 v[2] = { 1 };

	finish_schema();
	show(id, v, 16, false);
	sink.ops->flush(&sink);
	ck_assert(declared("\toffset_s = 0;\n\toffset = 0;\n"));
	session.clock.mono = 1;
	session.clock.real = 5000000003;
	sink.ops->flush(&sink);
	ck_assert(declared("\toffset_s = 5;\n\toffset = 2;\n"));
	ck_assert_uint_ne(id_of("e", 0), 0);
	session.clock.real = 6000000003;
	show(77, v, 16, false);
	sink.ops->session_end(&sink, &session);
	ck_assert(declared("\toffset_s = 5;\n\toffset = 2;\n"));
	ck_assert_uint_ne(id_of("event#77", 0), 0);
}
END_TEST

/* Times and clocks that a guest makes up stay where readers can add them. */
START_TEST(test_mad_clock)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 8, false, HTRACE_HINT_NONE));
	struct packet p[8];
	__u64 v[2] = { 1 };

	session.clock.mono = 1;
	session.clock.real = ~0ULL;
	finish_schema();
	show_at(&origin, ~0ULL, id, v, 16, false);
	show_at(&origin, 5, id, v, 16, false);
	sink.ops->loss(&sink, &(struct sink_loss){ .from = &origin, .time = 3,
						   .overwritten = ~0ULL, .dropped = ~0ULL });
	sink.ops->loss(&sink, &(struct sink_loss){ .from = &origin, .time = 3, .corrupt = ~0ULL });
	sink.ops->flush(&sink);
	ck_assert(declared("\toffset_s = 0;\n\toffset = 0;\n"));
	ck_assert(!declared("absolute"));
	ck_assert_uint_eq(walk("vm-1/cpu2", p, 8), 3);
	ck_assert_uint_eq(p[0].begin, 1ULL << 62);
	ck_assert_uint_eq(p[2].end, 1ULL << 62);
	ck_assert_uint_eq(p[2].discarded, ~0ULL >> 1);
}
END_TEST

/* ----------------------------------------------------------------------------------------- values */

START_TEST(test_values)
{
	int u8 = htrace_builder_int(builder, "u8", 1, false, HTRACE_HINT_NONE);
	int s8 = htrace_builder_int(builder, "s8", 1, true, HTRACE_HINT_NONE);
	struct htrace_schema_member in[] = {
		{ .type = (__u32)s8, .bit_off = 0, .bit_size = 3, .name = "bits" },
		{ .type = (__u32)u8, .bit_off = 8, .name = "a" },
	};
	int inner = htrace_builder_struct(builder, "inner", false, 2, in, 2);
	struct htrace_schema_member m[] = {
		{ .type = (__u32)htrace_builder_array(builder, inner, 2), .name = "both" },
		{ .type = (__u32)htrace_builder_string(builder, 4), .bit_off = 32, .name = "text" },
		{ .type = (__u32)htrace_builder_int(builder, "w", 16, false, HTRACE_HINT_NONE),
		  .bit_off = 64, .name = "wide" },
		{ .type = (__u32)htrace_builder_array(builder, inner, 0), .bit_off = 192,
		  .name = "rest" },
	};
	__u32 id = (__u32)htrace_builder_event(
		builder, "e", htrace_builder_struct(builder, "e", false, 24, m, 4));
	const unsigned char payload[] = {
		0xff, 7, 3, 8, 'a', '"', 0xe9, 'z', 0xef, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
		0, 0, 0, 0x12, 5, 9, 0xfc, 10, 1
	};
	static const char want[] = "\xff\x07\x03\x08"
				   "a\\x22\\xe9z\0"
				   "0x120000000000000000000000000000ef\0"
				   "\2\0\0\0"
				   "\xfd\x09\xfc\x0a";

	finish_schema();
	show(id, payload, sizeof(payload), false);
	expect_fields(want, sizeof(want) - 1);
}
END_TEST

/* No string is empty: babeltrace2 2.0.4 shows another one's text then. */
START_TEST(test_empty)
{
	struct htrace_schema_member m[] = {
		{ .type = (__u32)htrace_builder_string(builder, 4), .name = "fixed" },
		{ .type = (__u32)htrace_builder_string(builder, 0), .bit_off = 32, .name = "rest" },
	};
	__u32 id = (__u32)htrace_builder_event(
		builder, "e", htrace_builder_struct(builder, "e", false, 4, m, 2));

	finish_schema();
	show(id, "\0abc", 4, false);
	expect_fields("\\x00\0\\x00", 10);
}
END_TEST

/* What no schema tells of, and what is shorter than it says. */
START_TEST(test_undecoded)
{
	__u32 id = declare("short", "v", htrace_builder_int(builder, "u", 8, false, 0));
	size_t len;
	const unsigned char *p;

	finish_schema();
	show(77, "\1\2\3\4\5\6\7\10", 8, false);
	p = fields(&len);
	ck_assert_uint_eq(len, 4 + 8);
	ck_assert_mem_eq(p, "\10\0\0\0\1\2\3\4\5\6\7\10", 12);
	show(id, "\1\2", 2, false);
	show(2000000000, "\1\2", 2, false);
	sink.ops->flush(&sink);
	ck_assert_uint_ne(id_of("event#77", 0), 0);
	ck_assert_uint_ne(id_of("short", 0), 0);
	ck_assert(declared("_raw[_raw_length];"));
	p = body("vm-1/cpu2", 0, &len);
	ck_assert_mem_eq(p + len - 10, "\x00\x94\x35\x77\2\0\0\0\1\2", 10);
}
END_TEST

/* A dead guest's are in a stream of their own, with packets that say so. */
START_TEST(test_unverified)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 1, false, 0));
	struct packet p;
	size_t len;

	finish_schema();
	show(id, "\1", 16, false);
	show_at(&origin, TIME - 1, id, "\2", 16, true);
	sink.ops->flush(&sink);
	ck_assert_uint_ne(id_of("e", 0), 0);
	ck_assert_uint_eq(id_of("e", 0), id_of("e", CTF_UNVERIFIED));
	ck_assert(declared(" cpu_id;\n\t\tinteger { size = 8; align = 8; signed = false; } unverified;"));
	memcpy(&p, body("vm-1/cpu2-unverified", 0, &len), sizeof(p));
	ck_assert_uint_eq(p.stream_id, CTF_UNVERIFIED);
	ck_assert_uint_eq(p.size, 8 * len);
	ck_assert_uint_eq(*body("vm-1/cpu2-unverified", sizeof(p), &len), 1);
}
END_TEST

/* ------------------------------------------------------------------------------------------ LTTng */

START_TEST(test_lttng_fields)
{
	struct htrace_schema_member m[] = {
		{ .name = "prev_tid", .bit_off = 0,
		  .type = (__u32)htrace_builder_int(builder, "t", 4, true, HTRACE_HINT_TID) },
		{ .name = "next_tid", .bit_off = 32,
		  .type = (__u32)htrace_builder_int(builder, "t", 4, true, HTRACE_HINT_TID) },
		{ .name = "prev_prio", .bit_off = 64,
		  .type = (__u32)htrace_builder_int(builder, "u16", 2, false, 0) },
		{ .name = "ours", .bit_off = 80,
		  .type = (__u32)htrace_builder_int(builder, "u16", 2, false, 0) },
	};
	__u32 id = (__u32)htrace_builder_event(
		builder, "sched_switch", htrace_builder_struct(builder, "s", false, 12, m, 4));
	static const char want[] = "first\0\7\0\0\0\3\0second\0\11\0\0\0\5\0";
	struct ctf_event_header h;
	size_t len;
	const unsigned char *p;

	names_set(names, 7, 6, 1, "first", 6);
	names_set(names, 9, 9, 1, "second", 7);
	finish_schema();
	show(id, "\7\0\0\0\11\0\0\0\3\0\5", 12, false);
	sink.ops->flush(&sink);
	p = body("vm-1/cpu2", sizeof(struct packet), &len);
	memcpy(&h, p, sizeof(h));
	ck_assert_uint_eq(h.id, id_of("sched_switch", 0));
	ck_assert_uint_eq(h.timestamp, TIME);
	ck_assert_int_eq(h.pid, 6);
	ck_assert_int_eq(h.tid, 7);
	ck_assert_str_eq((const char *)p + sizeof(h), "first");
	ck_assert_uint_eq(len, sizeof(h) + 6 + sizeof(want) - 1);
	ck_assert_mem_eq(p + sizeof(h) + 6, want, sizeof(want) - 1);
	ck_assert(declared("string _prev_comm;\n\t\tinteger { size = 32; align = 8; signed = true; } "
			   "_prev_tid;\n"));
}
END_TEST

START_TEST(test_syscalls)
{
	int hex = htrace_builder_int(builder, "hex", 8, false, HTRACE_HINT_HEX);
	struct htrace_schema_member m[] = {
		{ .name = "nr",
		  .type = (__u32)htrace_builder_int(builder, "n", 4, true, HTRACE_HINT_SYSCALL) },
		{ .name = "args", .bit_off = 64,
		  .type = (__u32)htrace_builder_array(builder, hex, 6) },
	};
	__u32 enter = (__u32)htrace_builder_event(
		builder, "sys_enter", htrace_builder_struct(builder, "s", false, 56, m, 2));
	__u64 payload[7] = { 257, (__u32)-100, 2, 3, 4, 5, 6 }; /* openat */
	static const __s32 named[] = { -100, 3, 4, 257 };
	const unsigned char *p;
	size_t len;

	finish_schema();
	show(enter, payload, sizeof(payload), false);
	p = fields(&len);
	ck_assert_uint_eq(len, sizeof(named) + 48);
	ck_assert_mem_eq(p, named, sizeof(named));
	ck_assert_mem_eq(p + sizeof(named), payload + 1, 48);
	payload[0] = 0;
	show(enter, payload, sizeof(payload), false);
	payload[0] = 500;
	show(enter, payload, sizeof(payload), false);
	payload[0] = (__u32)-1;
	show(enter, payload, sizeof(payload), false);
	sink.ops->flush(&sink);
	ck_assert_uint_ne(id_of("syscall_entry_openat", 0), 0);
	ck_assert_uint_ne(id_of("syscall_entry_read", 0), 0);
	ck_assert_uint_ne(id_of("syscall_entry_unknown", 0), 0);
	ck_assert(declared("} _dfd;\n"));
	ck_assert(!declared("_filename"));
}
END_TEST

/* Tasks that ran before stand at the beginning, once, and again when the table was read again. */
START_TEST(test_state_dump)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 1, false, 0));
	static const char want[] = "\7\0\0\0\7\0\0\0\5\0\0\0\5\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"
				   "a\\x22\0\xff\xff\xff\xff\5\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
	struct packet p[8];
	size_t len, all;
	const unsigned char *at;

	names_set(names, 0, 0, 1, "swapper", 8);
	names_set(names, 7, 5, 1, "a\"", 3);
	names_set(names, 8, 5, TIME + 5, "later", 6);
	session.tables = 1;
	finish_schema();
	show(id, "\1", 16, false);
	sink.ops->flush(&sink);
	at = body("vm-1/cpu2", sizeof(struct packet), &len);
	all = len;
	ck_assert_uint_eq(len, 4 * EVENT_HEAD + sizeof(want) + 1);
	ck_assert_uint_eq(at[0], id_of("lttng_statedump_start", 0));
	ck_assert_uint_eq(at[EVENT_HEAD], id_of("lttng_statedump_process_state", 0));
	at = body("vm-1/cpu2", sizeof(struct packet) + 2 * EVENT_HEAD, &len);
	ck_assert_mem_eq(at, want, sizeof(want));
	ck_assert_uint_eq(at[sizeof(want)], id_of("lttng_statedump_end", 0));
	session.tables = 2;
	show_at(&origin, TIME + 9, id, "\1", 16, false);
	sink.ops->flush(&sink);
	ck_assert_uint_eq(walk("vm-1/cpu2", p, 8), 2);
	ck_assert_uint_gt(p[1].size, 8 * (all + sizeof(struct packet)));
}
END_TEST

/* ---------------------------------------------------------------------------------------- packets */

/* Loss is a packet without events, between the ring's last event and the loss's time. */
START_TEST(test_loss)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 1, false, 0));
	struct origin other = origin;
	struct packet p[8];

	other.ring = 0;
	finish_schema();
	show_at(&origin, 100, id, "\1", 16, false);
	sink.ops->loss(&sink, &(struct sink_loss){ .from = &origin, .time = 200, .overwritten = 5,
						   .dropped = 1, .corrupt = 1, .unfinished = 1 });
	sink.ops->loss(&sink, &(struct sink_loss){ .from = &origin, .time = 200, .uncommitted = 9 });
	show_at(&origin, 250, id, "\1", 16, false);
	show_at(&origin, 260, id, "\1", 16, false);
	/* Readers tell from the packet before; where there was none, there has to be one. */
	sink.ops->loss(&sink, &(struct sink_loss){ .from = &other, .time = 270, .dropped = 3 });
	sink.ops->flush(&sink);
	ck_assert_uint_eq(walk("vm-1/cpu2", p, 8), 3);
	ck_assert_uint_eq(p[0].begin, 100);
	ck_assert_uint_eq(p[0].end, 100);
	ck_assert_uint_eq(p[0].discarded, 0);
	ck_assert_uint_eq(p[0].cpu, 2);
	ck_assert_uint_eq(p[1].begin, 100);
	ck_assert_uint_eq(p[1].end, 200);
	ck_assert_uint_eq(p[1].discarded, 8);
	ck_assert_uint_eq(p[1].size, 8 * sizeof(struct packet));
	ck_assert_uint_eq(p[2].begin, 250);
	ck_assert_uint_eq(p[2].end, 260);
	ck_assert_uint_eq(p[2].discarded, 8);
	ck_assert_uint_eq(walk("vm-1/cpu0", p, 8), 2);
	ck_assert_uint_eq(p[0].end, 100);
	ck_assert_uint_eq(p[0].discarded, 0);
	ck_assert_uint_eq(p[1].begin, 100);
	ck_assert_uint_eq(p[1].end, 270);
	ck_assert_uint_eq(p[1].discarded, 3);
}
END_TEST

/* Rings of threads are no CPUs, and a trace of them is none of a kernel. Each session is a trace. */
START_TEST(test_rings_and_sessions)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 1, false, 0));
	struct sink_session later = session;
	struct origin ring = { .session = &session, .names = names, .ring = 3 };
	struct origin again = { .session = &later, .names = names, .ring = 3 };
	struct origin twin = ring;
	struct packet p[8];
	size_t len;

	finish_schema();
	later.schema = session.schema;
	show_at(&ring, 1, id, "\1", 16, false);
	show_at(&twin, 2, id, "\1", 16, false);
	sink.ops->session_end(&sink, &session);
	later.path = "local:../v\xc3\xa4 m";
	show_at(&again, 1, id, "\1", 16, false);
	sink.ops->session_end(&sink, &later);
	ck_assert_uint_eq(walk("vm-1/ring3", p, 8), 1);
	ck_assert_uint_eq(p[0].stream_id, CTF_RING);
	ck_assert_uint_eq(walk("vm-1/ring3_1", p, 8), 1);
	ck_assert_uint_eq(walk("v___m-2/ring3", p, 8), 1);
	ck_assert(declared("} ring;\n"));
	ck_assert(!declared("lttng-modules"));
	ck_assert(strstr(slurp("v___m-2/metadata", &len), "name = \"e\"") != NULL);
}
END_TEST

/* Many events: several packets, in order, none of them broken. */
/* How a session began, if there is a word of it, comes before all else of its trace, and once. */
START_TEST(test_began)
{
	static const char began[] = "restarted: guest, kernel 6.1, 2 vCPUs";
	__u32 id = declare("e", "v", htrace_builder_int(builder, "u", 8, false, HTRACE_HINT_NONE));
	const struct sink_note note = { .text = "between", .from = &origin, .time = TIME };
	struct ctf_event_header h;
	const unsigned char *p;
	struct packet packets[4];
	__u64 v = 1;
	size_t len;

	session.began = began;
	finish_schema();
	if (_i == 1)
		sink.ops->note(&sink, &note);
	if (_i == 2)
		sink.ops->loss(&sink, &(struct sink_loss){ .from = &origin, .time = TIME, .dropped = 3 });
	show(id, &v, 8, _i == 3);
	sink.ops->note(&sink, &note);
	sink.ops->flush(&sink);
	walk("vm-1/cpu2", packets, ARRAY_SIZE(packets));
	ck_assert_uint_eq(packets[0].begin, TIME);
	p = body("vm-1/cpu2", sizeof(struct packet), &len);
	memcpy(&h, p, sizeof(h));
	ck_assert_uint_eq(h.id, CTF_NOTE);
	ck_assert_uint_eq(h.timestamp, TIME);
	ck_assert_str_eq((const char *)p + EVENT_HEAD, began);
	p = memmem(p + EVENT_HEAD + sizeof(began), len - EVENT_HEAD - sizeof(began), "restarted", 9);
	ck_assert_ptr_null(p);
}
END_TEST

START_TEST(test_many)
{
	__u32 id = declare("e", "v", htrace_builder_string(builder, 0));
	struct packet p[64];
	char text[1000];

	memset(text, 1, sizeof(text)); /* four times as long as escaped */
	finish_schema();
	for (unsigned int i = 0; i < 500; i++)
		show_at(&origin, TIME + i, id, text, sizeof(text), false);
	sink.ops->session_end(&sink, &session);
	ck_assert_uint_gt(walk("vm-1/cpu2", p, 64), 20);
}
END_TEST

/* ---------------------------------------------------------------------------------- hostile guests */

/* Ids never change; whoever declares something else under an old one gets a new event. */
START_TEST(test_schema_grows)
{
	__u32 id = declare("first", "v", htrace_builder_int(builder, "u", 1, false, 0));
	unsigned int before, second;
	char want[64];
	size_t len, len_before;

	finish_schema();
	show(id, "\1", 16, false);
	sink.ops->flush(&sink);
	before = id_of("first", 0);
	slurp("vm-1/metadata", &len_before);

	events_free(events);
	htrace_schema_free(schema);
	declare("second", "v", htrace_builder_int(builder, "u", 1, false, 0));
	finish_schema();
	show(id, "\1", 16, false);
	sink.ops->flush(&sink);
	slurp("vm-1/metadata", &len);
	ck_assert_uint_eq(len, len_before); /* nothing new was seen */
	show(id + 1, "\1", 16, false);
	sink.ops->flush(&sink);
	ck_assert_uint_eq(id_of("first", 0), before);
	ck_assert_uint_gt(id_of("second", 0), before);
	second = id_of("second", 0);

	events_free(events);
	htrace_schema_free(schema);
	htrace_builder_free(builder);
	htrace_builder_new(&builder, NULL, 0);
	ck_assert_uint_eq(declare("first", "v", htrace_builder_int(builder, "u", 2, false, 0)), id);
	finish_schema();
	show(id, "\1", 16, false);
	sink.ops->session_end(&sink, &session);
	ck_assert_uint_eq(id_of("first", 0), before);
	snprintf(want, sizeof(want), "id = %u;\n\tname = \"first\"", second + 1);
	ck_assert(declared(want));
}
END_TEST

/*
 * An enum of many values in many fields would be metadata without end: such an event is written
 * undecoded, and so are all new ones once there is too much.
 */
START_TEST(test_too_much)
{
	static struct htrace_schema_value v[8000];
	static struct htrace_schema_member m[512];
	struct packet p[4096];
	char payload[512] = "";
	struct ctf_event_header h;
	int en, type;
	size_t len;
	__u32 nr;

	for (int i = 0; i < 8000; i++) {
		v[i].value = i;
		snprintf(v[i].name, sizeof(v[i].name), "a_name_that_is_long_%d", i);
	}
	en = htrace_builder_enum(builder, "en", 1, false, v, 8000);
	for (__u32 i = 0; i < 512; i++) {
		m[i].type = (__u32)en;
		m[i].bit_off = 8 * i;
		snprintf(m[i].name, sizeof(m[i].name), "f%u", i);
	}
	type = htrace_builder_struct(builder, "huge", false, 512, m, 512);
	ck_assert_int_gt(htrace_builder_event(builder, "huge", type), 0);
	type = htrace_builder_struct(builder, "large", false, 512, m, 25);
	for (nr = 0; nr < 200; nr++) {
		char name[32];

		snprintf(name, sizeof(name), "large%u", nr);
		ck_assert_int_gt(htrace_builder_event(builder, name, type), 0);
	}
	finish_schema();
	for (__u32 id = 1; id <= nr + 1; id++) {
		show(id, payload, sizeof(payload), false);
		show(id, payload, 1, false);
	}
	show(nr + 100, payload, 1, false);
	sink.ops->session_end(&sink, &session);
	ck_assert_int_eq(sink.ops->error(&sink), 0);
	ck_assert_uint_gt(walk("vm-1/cpu2", p, 4096), 0);
	slurp("vm-1/metadata", &len);
	ck_assert_uint_gt(len, 16 << 20);
	ck_assert_uint_lt(len, 18 << 20);
	ck_assert_uint_ne(id_of("huge", 0), 0); /* as bytes */
	ck_assert_uint_ne(id_of("large0", 0), 0);
	ck_assert_uint_eq(id_of("large199", 0), 0);
	memcpy(&h, body("vm-1/cpu2", 0, &len) + len - EVENT_HEAD - 9, sizeof(h));
	ck_assert_uint_eq(h.id, 0);
}
END_TEST

/* ------------------------------------------------------------------------------------ killed */

/* Called wherever a process that is killed in a write stops: behind each page. */
static void (*behind_page)(void);

ssize_t __real_pwritev64(int fd, const struct iovec *v, int nr, off_t at);
ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int nr, off_t at);

ssize_t __wrap_pwritev64(int fd, const struct iovec *v, int nr, off_t at)
{
	static char all[1 << 20];
	size_t len = 0, done = 0;

	if (!behind_page)
		return __real_pwritev64(fd, v, nr, at);
	for (int i = 0; i < nr; i++) {
		ck_assert_uint_le(v[i].iov_len, sizeof(all) - len);
		memcpy(all + len, v[i].iov_base, v[i].iov_len);
		len += v[i].iov_len;
	}
	while (done < len) {
		size_t page = 4096 - ((size_t)at + done) % 4096, n = len - done < page ? len - done : page;

		ck_assert_int_eq(pwrite(fd, all + done, n, at + (off_t)done), (ssize_t)n);
		done += n;
		behind_page();
	}
	return (ssize_t)len;
}

static unsigned int states;

/* All packets are whole. With HTRACE_STATES=DIR babeltrace2 is to say so, too: DIR/N is the trace as it is now. */
static void expect_whole(void)
{
	const char *dir = getenv("HTRACE_STATES");
	struct packet p[4096];
	char command[256];

	walk("vm-1/cpu2", p, 4096);
	snprintf(command, sizeof(command), "cp -r %s/vm-1 %s/%u", path, dir, states++);
	ck_assert(!dir || !system(command));
}

/* Packets of many pages, of one, across two, of one event; loss; metadata that are too long to be written anew. */
START_TEST(test_killed)
{
	static struct htrace_schema_member m[512];
	int u8 = htrace_builder_int(builder, "u8", 1, false, HTRACE_HINT_NONE);
	__u32 id = declare("e", "v", htrace_builder_string(builder, 0)), large;
	struct packet p[4096];
	char text[12000];
	__u64 time = 1;

	for (__u32 i = 0; i < 512; i++) {
		m[i] = (struct htrace_schema_member){ .type = (__u32)u8, .bit_off = 8 * i };
		snprintf(m[i].name, sizeof(m[i].name), "field_%u", i);
	}
	large = (__u32)htrace_builder_event(builder, "large0", htrace_builder_struct(builder, "s", false, 512, m, 512));
	for (unsigned int i = 1; i < 10; i++) {
		char name[32];

		snprintf(name, sizeof(name), "large%u", i);
		ck_assert_int_gt(htrace_builder_event(builder, name, htrace_builder_struct(builder, "s", false, 512, m, 512)), 0);
	}
	memset(text, 'x', sizeof(text));
	finish_schema();
	behind_page = expect_whole;
	for (unsigned int i = 0; i < 40; i++)
		show_at(&origin, time++, id, text, 100 + 20 * i, false);
	sink.ops->loss(&sink, &(struct sink_loss){ .from = &origin, .time = time, .dropped = 7 });
	show_at(&origin, time++, id, text, sizeof(text), false);
	sink.ops->flush(&sink);
	for (unsigned int len = 1; len < 4000; len += 357) { /* each begins elsewhere in its page */
		show_at(&origin, time++, id, text, len, false);
		sink.ops->flush(&sink);
	}
	for (unsigned int i = 0; i < 10; i++) {
		show_at(&origin, time++, large + i, text, 512, false);
		sink.ops->flush(&sink);
	}
	sink.ops->session_end(&sink, &session);
	behind_page = NULL;
	ck_assert_int_eq(sink.ops->error(&sink), 0);
	walk("vm-1/cpu2", p, 4096);
}
END_TEST

/* ------------------------------------------------------------------------------------ directories */

static void quiet_limit(rlim_t bytes)
{
	struct rlimit l = { bytes, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &l);
}

/* A packet for which the disk has no room leaves no trace, and is told as the error. */
START_TEST(test_full_disk)
{
	__u32 id = declare("e", "v", htrace_builder_string(builder, 0));
	struct packet p[64];
	char text[1000];

	memset(text, 'x', sizeof(text));
	finish_schema();
	quiet_limit(200000);
	for (unsigned int i = 0; i < 500; i++)
		show_at(&origin, TIME + i, id, text, sizeof(text), false);
	sink.ops->flush(&sink);
	ck_assert_int_eq(sink.ops->error(&sink), EFBIG);
	quiet_limit(RLIM_INFINITY);
	show_at(&origin, TIME + 1000, id, text, sizeof(text), false);
	sink.ops->session_end(&sink, &session);
	ck_assert_uint_eq(walk("vm-1/cpu2", p, 64), 3);
	ck_assert_uint_ne(id_of("e", 0), 0);
	ck_assert_int_eq(sink.ops->close(&sink), -EFBIG);
	sink.state = NULL;
}
END_TEST

START_TEST(test_directory)
{
	char file[64];
	struct sink second = { .ops = &sink_ctf, .path = path };
	struct stat st;

	finish_schema();
	snprintf(file, sizeof(file), "%s/there", path);
	fclose(fopen(file, "w"));
	ck_assert_int_eq(second.ops->open(&second), -ENOTEMPTY);
	ck_assert_int_eq(stat(file, &st), 0);
	second.path = file; /* a file */
	ck_assert_int_eq(second.ops->open(&second), -ENOTDIR);
	ck_assert_int_eq(unlink(file), 0);

	/* Made, and taken away again if it was not used. */
	ck_assert_int_eq(second.ops->open(&second), 0);
	ck_assert(!stat(file, &st) && S_ISDIR(st.st_mode));
	second.ops->abandon(&second);
	ck_assert_int_eq(stat(file, &st), -1);
	ck_assert_int_eq(mkdir(file, 0700), 0);
	ck_assert_int_eq(second.ops->open(&second), 0);
	second.ops->abandon(&second);
	ck_assert_int_eq(stat(file, &st), 0); /* it was there before */
	ck_assert_int_eq(rmdir(file), 0);
	snprintf(file, sizeof(file), "%s/not/there", path);
	ck_assert_int_eq(second.ops->open(&second), -ENOENT);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sink_ctf");
	TCase *c = tcase_create("sink_ctf");

	tcase_add_checked_fixture(c, setup, finish_directory);
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, test_integer_types, 0, ARRAY_SIZE(integers));
	tcase_add_test(c, test_enum_types);
	tcase_add_test(c, test_compound_types);
	tcase_add_test(c, test_env);
	tcase_add_test(c, test_late_clock);
	tcase_add_test(c, test_mad_clock);
	tcase_add_test(c, test_values);
	tcase_add_test(c, test_empty);
	tcase_add_test(c, test_undecoded);
	tcase_add_test(c, test_unverified);
	tcase_add_test(c, test_lttng_fields);
	tcase_add_test(c, test_syscalls);
	tcase_add_test(c, test_state_dump);
	tcase_add_test(c, test_loss);
	tcase_add_test(c, test_rings_and_sessions);
	tcase_add_loop_test(c, test_began, 0, 4);
	tcase_add_test(c, test_many);
	tcase_add_test(c, test_killed);
	tcase_add_test(c, test_schema_grows);
	tcase_add_test(c, test_too_much);
	tcase_add_test(c, test_full_disk);
	tcase_add_test(c, test_directory);
	suite_add_tcase(s, c);
	return unit_run(s);
}

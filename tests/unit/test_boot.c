// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * From pages of the kernel's trace ring to --view boot: records as the kernel packs them, pages that nobody would
 * write, the ring in a file of guest memory, and the view's pages, in whatever order events come.
 */
#define SINK sink_text
#include "sink_fixture.h"

#include <errno.h>

#include "boot.h"
#include "boot_records.h"
#include "boot_ring.h"
#include "format_text.h"
#include "terminal.h"
#include "view.h"

static const char formats[] = BOOT_FORMATS FORMAT("odd", 16, FIELD("u8 x[3]", 8, 3, 0))
	FORMAT("broken", 17, FIELD("int x", 8, 4, 1) FIELD("int y", 9, 4, 1));

#define FUNC_A 0xffffffff81000010ULL
#define FUNC_B 0xffffffff81000020ULL

static struct boot_records *records;
static struct sinks sinks;
static unsigned char page[4096];
static size_t used;

/* ------------------------------------------------------------------------------- pages, as the kernel packs them */

static void begin_page(__u64 time)
{
	memset(page, 0, sizeof(page));
	memcpy(page, &time, 8);
	used = 0;
}

static void word(__u32 v)
{
	memcpy(page + FTRACE_PAGE_HEADER + used, &v, 4);
	used += 4;
}

static void commit(__u64 flags)
{
	__u64 v = used | flags;

	memcpy(page + 8, &v, 8);
}

static void record(__u32 delta, const void *data, size_t len)
{
	size_t words = (len + 3) / 4;

	if (words <= 28) {
		word(delta << 5 | (__u32)words);
	} else {
		word(delta << 5);
		word((__u32)(4 * words + 4));
	}
	memcpy(page + FTRACE_PAGE_HEADER + used, data, len);
	used += 4 * words;
	commit(0);
}

struct common {
	__u16 type;
	__u8 flags, preempt;
	__s32 pid;
} __attribute__((packed));

static void level(__u32 delta, const char *name)
{
	struct {
		struct common c;
		__u16 at, len;
		char text[20];
	} __attribute__((packed)) r = { { 1, 0, 0, 1 }, 12, (__u16)(strlen(name) + 1), "" };

	strcpy(r.text, name);
	record(delta, &r, 12 + r.len);
}

static void initcall(__u32 delta, __u64 func, bool finish, __s32 ret)
{
	struct {
		struct common c;
		__u64 func;
		__s32 ret;
	} __attribute__((packed)) r = { { finish ? 3 : 2, 0, 0, 1 }, func, ret };

	record(delta, &r, finish ? 20 : 16);
}

static void module(__u32 delta, const char *name)
{
	struct {
		struct common c;
		__u32 taints;
		__u16 at, len;
		char text[100];
	} __attribute__((packed)) r = { { 4, 0, 0, 77 }, 4, 16, (__u16)(strlen(name) + 1), "" };

	strcpy(r.text, name);
	record(delta, &r, 16 + r.len);
}

static void exec(__u32 delta, __s32 pid, const char *filename)
{
	struct {
		struct common c;
		__u16 at, len;
		__s32 pid, old_pid;
		char text[300];
	} __attribute__((packed)) r = { { 5, 0, 0, pid }, 20, (__u16)(strlen(filename) + 1), pid, pid, "" };

	strcpy(r.text, filename);
	record(delta, &r, 20 + r.len);
}

static void forked(__u32 delta, __s32 child)
{
	struct {
		struct common c;
		char parent[16];
		__s32 parent_pid;
		char comm[16];
		__s32 child_pid;
	} __attribute__((packed)) r = { { 6, 0, 0, 1 }, "init", 1, "child", child };

	record(delta, &r, sizeof(r));
}

/* -------------------------------------------------------------------------------------------- a session of them */

static void setup_records(const char *view)
{
	setup();
	records = boot_records_new();
	ck_assert_int_eq(boot_records_add_formats(records, formats, sizeof(formats) - 1), 7);
	ck_assert_int_eq(boot_records_name(records, FUNC_A, "a_init"), 0);
	ck_assert_int_eq(boot_records_name(records, FUNC_B, "b.init"), 0); /* as gcc may call a part of it */
	ck_assert_int_eq(boot_records_declare(records, builder, boot_records_functions(records, builder)), 0);
	finish_schema();
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	if (view) {
		ck_assert_int_eq(views_open(&sinks, view_find(view), 0, 1), 0);
		sink = sinks.sink[0];
	}
}

static void teardown_records(void)
{
	boot_records_free(records);
	teardown();
}

static void show_record(unsigned int cpu, const struct ftrace_record *r)
{
	struct origin from = origin;
	unsigned char payload[TRACEPOINT_PAYLOAD_MAX];
	__u32 id;
	size_t len = boot_records_payload(records, r, payload, &id);

	from.ring = cpu;
	ck_assert_uint_gt(len, 0);
	show_at(&from, r->time, id, payload, (__u32)len, false);
}

static unsigned int show_page(unsigned int cpu)
{
	struct ftrace_record r;
	struct ftrace_page p;
	unsigned int nr = 0;

	ck_assert(ftrace_page_open(&p, page, sizeof(page)));
	for (; ftrace_page_next(&p, &r); nr++)
		show_record(cpu, &r);
	ck_assert(!p.broken);
	return nr;
}

static const char *view_page(void)
{
	views_close(&sinks, true);
	return written();
}

/* -------------------------------------------------------------------------------------------------- its records */

START_TEST(test_texts)
{
	const char *text;

	setup_records(NULL);
	begin_page(1000000000);
	level(0, "early");
	initcall(5, FUNC_A, false, 0);
	initcall(7, FUNC_B, true, -19);
	module(1, "virtio_net");
	exec(1, 42, "/usr/lib/systemd/systemd-a-very-long-name");
	forked(1, 43);
	ck_assert_uint_eq(show_page(1), 6);
	text = written();
	ck_assert_msg(strstr(text, "1.000000000 [001]") && strstr(text, "initcall_level: level=\"early\""), "%s", text);
	ck_assert_msg(strstr(text, "1.000000005 [001]") && strstr(text, "initcall_start: func=a_init"), "%s", text);
	ck_assert_msg(strstr(text, "1.000000012 [001]") && strstr(text, "initcall_finish: func=b_init ret=-19"), "%s", text);
	ck_assert_msg(strstr(text, "module_load: tid=77(<...>) taints=0x4 name=\"virtio_net\""), "%s", text);
	/* As the kernel renames it. */
	ck_assert_msg(strstr(text, "comm=\"systemd-a-very-\" filename=\"/usr/lib/systemd/systemd-a-very-long-name\""), "%s",
		      text);
	ck_assert_msg(strstr(text, "sched_process_fork: parent_tid=1(<...>) parent_pid=0") &&
		      strstr(text, "child_tid=43(child)") && strstr(text, "child_comm=\"child\""), "%s", text);
	teardown_records();
}
END_TEST

START_TEST(test_unknown)
{
	static const struct common unknown = { 999, 0, 0, 1 }, shorter = { 3, 0, 0, 1 };
	unsigned char payload[TRACEPOINT_PAYLOAD_MAX];
	struct ftrace_record r = { 0, (const unsigned char *)&unknown, sizeof(unknown) };
	__u64 address;
	__u32 id;

	setup_records(NULL);
	ck_assert_uint_eq(boot_records_payload(records, &r, payload, &id), 0);
	r.data = (const unsigned char *)&shorter;
	ck_assert_uint_eq(boot_records_payload(records, &r, payload, &id), 0);
	ck_assert(!boot_records_initcall(records, &r, &address));
	r.len = 1;
	ck_assert_uint_eq(boot_records_payload(records, &r, payload, &id), 0);
	ck_assert_ptr_null(boot_records_event(records, 17)); /* nobody understands its format */
	ck_assert_str_eq(boot_records_event(records, 16)->name, "odd");
	teardown_records();
}
END_TEST

/* ---------------------------------------------------------------------------------------------------- its pages */

START_TEST(test_times)
{
	struct ftrace_record r;
	struct ftrace_page p;
	__u32 x = 7;

	begin_page(0xf8ULL << 56 | 1000);
	record(1, &x, 4);
	word(5 << 5 | 30); /* later by 5 + 2 << 27 */
	word(2);
	record(1, &x, 4);
	word(9 << 5 | 31); /* at 9 + 3 << 27, but for what it has no bits for */
	word(3);
	record(1, &x, 4);
	word(4 << 5 | 29); /* taken back: 4 bytes and their word */
	word(8);
	word(0);
	record(1, &x, 4);
	word(29); /* the rest is empty */
	word(0);
	commit(0);
	ck_assert(ftrace_page_open(&p, page, sizeof(page)) && !p.missed);
	ck_assert(ftrace_page_next(&p, &r) && r.time == (0xf8ULL << 56 | 1001) && r.len == 4 && *(const __u32 *)r.data == 7);
	ck_assert(ftrace_page_next(&p, &r) && r.time == (0xf8ULL << 56) + 1007 + (2ULL << 27));
	ck_assert(ftrace_page_next(&p, &r) && r.time == (0xf8ULL << 56) + 10 + (3ULL << 27));
	ck_assert(ftrace_page_next(&p, &r) && r.time == (0xf8ULL << 56) + 15 + (3ULL << 27));
	ck_assert(!ftrace_page_next(&p, &r) && !p.broken);
	commit(1ULL << 31 | 1ULL << 30); /* behind it is how many were missed */
	memset(page + FTRACE_PAGE_HEADER + used, 0, 8);
	page[FTRACE_PAGE_HEADER + used] = 200;
	ck_assert(ftrace_page_open(&p, page, sizeof(page)) && p.missed && p.nr_missed == 200);
}
END_TEST

/* Lengths that lie: nothing is read behind what was committed. */
START_TEST(test_broken)
{
	static const __u32 head[] = { 28, 0, 0, 1 << 5 | 29, 30, 31, 1, 1 << 5 | 29 };
	static const __u32 next[] = { 0, 3, 4000, 4000, 0, 0, 0, 0xffffffff };
	static const size_t len[] = { 16, 8, 16, 16, 4, 4, 3, 16 };
	struct ftrace_record r;
	struct ftrace_page p;

	begin_page(1);
	word(head[_i]);
	word(next[_i]);
	used = len[_i];
	commit(0);
	ck_assert(ftrace_page_open(&p, page, sizeof(page)));
	ck_assert(!ftrace_page_next(&p, &r) && p.broken && !ftrace_page_next(&p, &r));
	used = 4081;
	commit(0);
	ck_assert(!ftrace_page_open(&p, page, sizeof(page)));
	ck_assert(!ftrace_page_open(&p, page, 15));
}
END_TEST

/* -------------------------------------------------------------------------------------------------- the ring itself */

#define RING_PAGES 4
#define RING_CPUS 2
#define RING_SIZE ((1 + RING_PAGES) * RING_CPUS * 4096)
#define RING_AT 8192

struct meta {
	__u32 magic, struct_size;
	__u64 text, data, first, head, commit;
	__u32 page_size, nr;
	__u32 order[RING_PAGES];
};

static int ring_file;
static struct boot_ring *ring;
static __u64 took[64];
static unsigned int took_cpu[64], nr_took, room;

static void put_meta(unsigned int cpu, const struct meta *m)
{
	ck_assert_int_eq(pwrite(ring_file, m, sizeof(*m), RING_AT + (off_t)cpu * (1 + RING_PAGES) * 4096), sizeof(*m));
}

static void put_page(unsigned int cpu, unsigned int nr)
{
	off_t at = RING_AT + ((off_t)cpu * (1 + RING_PAGES) + 1 + nr) * 4096;

	ck_assert_int_eq(pwrite(ring_file, page, sizeof(page), at), sizeof(page));
}

static struct meta good_meta(void)
{
	return (struct meta){ 0x0badfeed, 56, 0x1000, 0, 0x7000, 0, 0, 4096, RING_PAGES, { 0 } };
}

static void setup_ring(void)
{
	struct meta m = good_meta();
	char name[] = "/tmp/htrace-test-XXXXXX";

	ring_file = mkstemp(name);
	unlink(name);
	ck_assert_int_eq(ftruncate(ring_file, RING_AT + RING_SIZE), 0);
	ck_assert_int_eq(boot_ring_open(&ring, ring_file, RING_AT, RING_SIZE), 0);
	ck_assert_int_eq(boot_ring_find(ring), -EAGAIN);
	put_meta(0, &m); /* there is room for another CPU's: the kernel is at it */
	ck_assert_int_eq(boot_ring_find(ring), -EAGAIN);
	put_meta(1, &m);
	ck_assert_int_eq(boot_ring_find(ring), 0);
	ck_assert_uint_eq(boot_ring_state(ring)->cpus, 2);
	ck_assert_uint_eq(boot_ring_state(ring)->text, 0x1000);
	nr_took = 0;
	room = 64;
}

static void teardown_ring(void)
{
	boot_ring_close(ring);
	close(ring_file);
}

static bool take(void *ctx, unsigned int cpu, const struct ftrace_record *r)
{
	if (nr_took == room)
		return false;
	took_cpu[nr_took] = cpu;
	took[nr_took++] = r->time;
	return true;
}

static void fill(__u64 time, unsigned int nr)
{
	begin_page(time);
	for (__u32 i = 0; i < nr; i++)
		record(i ? 10 : 0, &i, 4);
}

START_TEST(test_ring)
{
	setup_ring();
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 0);
	fill(500, 2); /* pages are in no order, but their times are */
	put_page(0, 0);
	fill(0, 3); /* where the clock has not begun */
	put_page(0, 2);
	fill(300, 1);
	put_page(1, 1);
	room = 4;
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 4);
	room = 64;
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 2);
	ck_assert(took[0] == 0 && took[1] == 10 && took[2] == 20 && took[3] == 500 && took[4] == 510 && took[5] == 300);
	ck_assert_uint_eq(took_cpu[5], 1);
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 0);
	fill(500, 4); /* the page goes on */
	put_page(0, 0);
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 2);
	ck_assert(took[6] == 520 && took[7] == 530);
	fill(700, 1); /* a lap later, of a page that was read: nothing is lost */
	put_page(0, 2);
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 1);
	ck_assert_uint_eq(boot_ring_state(ring)->overrun, 0);
	fill(900, 1); /* and of the one that was being read */
	put_page(0, 2);
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 1);
	ck_assert_uint_eq(boot_ring_state(ring)->overrun, 1);
	ck_assert(!boot_ring_state(ring)->wrapped && !boot_ring_state(ring)->corrupt);
	teardown_ring();
}
END_TEST

START_TEST(test_ring_hostile)
{
	struct meta m = good_meta();

	setup_ring();
	fill(100, 3);
	used = 7; /* a length in the middle of a record */
	commit(0);
	put_page(0, 0);
	fill(200, 1);
	put_page(0, 1);
	for (int i = 0; i < 3; i++) /* the first is given up once, the next is read */
		boot_ring_read(ring, take, NULL);
	ck_assert_uint_eq(boot_ring_state(ring)->corrupt, 1);
	ck_assert(nr_took == 1 && took[0] == 200);
	used = 5000; /* more than a page has */
	commit(0);
	put_page(0, 2);
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 0);
	ck_assert_uint_ge(boot_ring_state(ring)->corrupt, 2);
	m.first++; /* another kernel's */
	put_meta(0, &m);
	ck_assert_int_eq(boot_ring_read(ring, take, NULL), 0);
	ck_assert(boot_ring_state(ring)->anew);
	ck_assert_int_eq(ftruncate(ring_file, 4096), 0);
	ck_assert_int_eq(boot_ring_find(ring), -EIO);
	teardown_ring();
}
END_TEST

START_TEST(test_ring_meta)
{
	struct meta m = good_meta();

	setup_ring();
	m.magic = _i == 0 ? 1 : m.magic;
	m.struct_size = _i == 1 ? 64 : m.struct_size;
	m.page_size = _i == 2 ? 8192 : m.page_size;
	m.nr = _i == 3 ? RING_PAGES + 1 : _i == 4 ? 0xffffffff : _i == 5 ? 0 : m.nr;
	put_meta(1, &m);
	ck_assert_int_eq(boot_ring_find(ring), -EAGAIN);
	teardown_ring();
	ck_assert_int_eq(boot_ring_open(&ring, 0, 1, 4096), -EINVAL);
	ck_assert_int_eq(boot_ring_open(&ring, 0, 0, 0), -EINVAL);
	ck_assert_int_eq(boot_ring_open(&ring, 0, 0, BOOT_RING_MAX + 4096), -EINVAL);
	ck_assert_int_eq(boot_ring_open(&ring, 0, ~4095ULL, 8192), -EINVAL);
}
END_TEST

/* ----------------------------------------------------------------------------------------------------- the view */

static void show_some_boot(void)
{
	/* The second CPU first: what comes late is put where it belongs. */
	begin_page(2300000);
	initcall(0, FUNC_A, true, 0); /* began on the other one */
	module(500000, "m");          /* after init's first program: a module's */
	initcall(0, 0x1234, false, 0);
	initcall(100000, 0x1234, true, -5);
	show_page(1);
	begin_page(1000000);
	level(0, "early");
	initcall(100000, FUNC_B, false, 0);
	initcall(200000, FUNC_B, true, 1);
	level(700000, "late"); /* 2.0 ms */
	initcall(100000, FUNC_A, false, 0);
	forked(200000, 9);
	exec(100000, 9, "/sbin/modprobe");
	exec(100000, 1, "/init"); /* 2.5 ms */
	show_page(0);
}

START_TEST(test_json)
{
	setup_records("boot:json");
	show_some_boot();
	ck_assert_str_eq(view_page(),
		"{\"view\":\"boot\",\"events\":12,\"lost\":0,\"first\":1000000,\"last\":2900000,\"user\":2500000,"
		"\"nr_initcalls\":3,\"nr_modules\":1,\"nr_programs\":2,\"forks\":1,\"exits\":0,\"no_room\":0,\"levels\":["
		"{\"level\":\"early\",\"begin\":1000000,\"ns\":1000000,\"initcalls\":1,\"initcalls_ns\":200000},"
		"{\"level\":\"late\",\"begin\":2000000,\"ns\":500000,\"initcalls\":1,\"initcalls_ns\":200000}],\"initcalls\":["
		"{\"function\":\"b_init\",\"level\":\"early\",\"cpu\":0,\"begin\":1100000,\"ns\":200000,\"ret\":1},"
		"{\"function\":\"a_init\",\"level\":\"late\",\"cpu\":0,\"begin\":2100000,\"ns\":200000,\"ret\":0},"
		"{\"function\":\"0x1234\",\"cpu\":1,\"begin\":2800000,\"ns\":100000,\"ret\":-5}],"
		"\"modules\":[{\"module\":\"m\",\"tid\":77,\"time\":2800000}],"
		"\"programs\":[{\"path\":\"/sbin/modprobe\",\"tid\":9,\"time\":2400000},"
		"{\"path\":\"/init\",\"tid\":1,\"time\":2500000}]}\n");
	teardown_records();
}
END_TEST

START_TEST(test_table)
{
	struct sink_loss l = { .from = &origin, .dropped = 3 };
	const char *text;

	setup_records("boot");
	show_some_boot();
	sinks_loss(&sinks, &l);
	text = view_page();
	ck_assert_msg(strstr(text, "12 events in 0.002 s: the kernel 0.002 s, 3 initcalls in 2 levels; user space 0.000 s, "
				   "1 modules, 1 forks, 2 programs") == text, "%s", text);
	ck_assert_msg(strstr(text, "lost: 3 events") != NULL, "%s", text);
	ck_assert_msg(strstr(text, "early        0.000000      1.000  66.7%         1        0.200") != NULL, "%s", text);
	ck_assert_msg(strstr(text, "late            0.200   0.001100    0     0  a_init") != NULL, "%s", text);
	ck_assert_msg(strstr(text, "(others)        0.100   0.001800    1    -5  0x1234") != NULL, "%s", text);
	teardown_records();
}
END_TEST

static void one_more(void)
{
	begin_page(3100000);
	forked(0, 10);
	show_page(0);
}

START_TEST(test_terminal)
{
	setup_records("boot");
	show_some_boot();
	terminal_check(&sinks, one_more, "12 events in 0.002 s: ", "13 events in 0.002 s: ", "  /init\n", TERMINAL_CUT);
	teardown_records();
}
END_TEST

/* A guest may say anything, as often as it likes. */
START_TEST(test_bounds)
{
	struct boot *b = boot_new();
	size_t nr;
	const struct boot_initcall **slowest;

	for (unsigned int i = 0; i < BOOT_LEVELS + 3; i++)
		boot_level(b, 10 * i, "x");
	for (unsigned int i = 0; i < BOOT_INITCALLS + 7; i++) {
		boot_initcall(b, 1000 + i, i, "f", 0, false, 0);
		boot_initcall(b, 1000 + 2 * i, i, "f", 0, true, 0);
	}
	for (unsigned int i = 0; i < BOOT_STEPS + 5; i++)
		boot_module(b, i, 1, "m");
	boot_settle(b);
	ck_assert_uint_eq(b->nr_levels, BOOT_LEVELS);
	ck_assert_uint_eq(b->nr_initcalls, BOOT_INITCALLS);
	ck_assert_uint_eq(b->no_room, 3 + 2 * 7);
	ck_assert_uint_eq(b->modules.nr, BOOT_STEPS);
	ck_assert_uint_eq(b->modules.count, BOOT_STEPS + 5);
	ck_assert_uint_eq(b->level[BOOT_LEVELS - 1].nr, BOOT_INITCALLS);
	slowest = boot_slowest(b, BOOT_LEVELS - 1, &nr);
	ck_assert_uint_eq(nr, BOOT_INITCALLS);
	ck_assert_uint_eq(boot_took(slowest[0]), BOOT_INITCALLS - 1);
	free(slowest);
	boot_free(b);
}
END_TEST

/* One that is called again, as a module that is loaded again; ends without beginnings. */
START_TEST(test_again)
{
	struct boot *b = boot_new();

	boot_initcall(b, 100, 7, "f", 0, false, 0);
	boot_initcall(b, 110, 7, "f", 0, true, 0);
	boot_initcall(b, 200, 7, "f", 1, false, 0);
	boot_initcall(b, 250, 7, "f", 1, true, 0);
	boot_initcall(b, 90, 8, "g", 0, true, 0);
	boot_initcall(b, 300, 8, "g", 0, false, 0);
	ck_assert_uint_eq(b->nr_initcalls, 4);
	ck_assert_uint_eq(boot_took(&b->initcall[0]), 10);
	ck_assert_uint_eq(boot_took(&b->initcall[1]), 50);
	ck_assert_uint_eq(boot_took(&b->initcall[2]), 0);
	ck_assert_uint_eq(boot_took(&b->initcall[3]), 0);
	boot_initcall(b, 0, 9, "h", 0, false, 0); /* the clock stands still */
	boot_initcall(b, 0, 9, "h", 0, true, 0);
	boot_initcall(b, 5, 10, "i", 0, true, 0);
	boot_initcall(b, 0, 10, "i", 0, false, 0);
	ck_assert_uint_eq(b->nr_initcalls, 6);
	ck_assert(b->initcall[4].began && b->initcall[4].ended && boot_took(&b->initcall[5]) == 5);
	boot_free(b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("boot");
	TCase *tc = tcase_create("records");

	tcase_add_test(tc, test_texts);
	tcase_add_test(tc, test_unknown);
	tcase_add_test(tc, test_times);
	tcase_add_loop_test(tc, test_broken, 0, 8);
	suite_add_tcase(s, tc);
	tc = tcase_create("ring");
	tcase_add_test(tc, test_ring);
	tcase_add_test(tc, test_ring_hostile);
	tcase_add_loop_test(tc, test_ring_meta, 0, 6);
	suite_add_tcase(s, tc);
	tc = tcase_create("view");
	tcase_add_test(tc, test_json);
	tcase_add_test(tc, test_table);
	tcase_add_test(tc, test_bounds);
	tcase_add_test(tc, test_again);
	suite_add_tcase(s, tc);
	tc = tcase_create("terminal");
	tcase_add_checked_fixture(tc, terminal_open, terminal_close);
	tcase_add_test(tc, test_terminal);
	suite_add_tcase(s, tc);
	return unit_run(s);
}

// SPDX-License-Identifier: LGPL-2.1-or-later
/* Reports of --view crash, of a made-up guest; consoles that are hostile, or not what they seem. */
#define SINK sink_text
#include "sink_fixture.h"

#include <errno.h>
#include <sys/stat.h>
#include <time.h>

#include "console.h"
#include "last_events.h"
#include "view.h"

static struct sinks sinks;
static struct console *console;
static bool is_capture;
static struct origin other; /* another CPU */
static __u32 number_id, message_id, costly_id;
static char console_file[] = "/tmp/htrace-console-XXXXXX";

/* A few bytes that are much text: a union of many arrays. */
#define COSTLY_BYTES 504
static __u32 declare_costly(void)
{
	struct htrace_schema_member m[8], all = { .name = "all" };
	int id, array = htrace_builder_array(builder, htrace_builder_int(builder, "u8", 1, false, 0), COSTLY_BYTES);

	memset(m, 0, sizeof(m));
	for (unsigned int i = 0; i < ARRAY_SIZE(m); i++) {
		m[i].type = (__u32)array;
		snprintf(m[i].name, sizeof(m[i].name), "m%u", i);
	}
	all.type = (__u32)htrace_builder_struct(builder, "all", true, COSTLY_BYTES, m, ARRAY_SIZE(m));
	id = htrace_builder_event(builder, "costly", htrace_builder_struct(builder, "costly", false, COSTLY_BYTES, &all, 1));
	ck_assert_int_gt(id, 0);
	return (__u32)id;
}

/* Events of a number, and of the kernel's messages. */
static void setup_crash(const char *name)
{
	setup();
	number_id = declare("counted", "number", htrace_builder_int(builder, "u64", 8, false, 0));
	message_id = declare("console", "msg", htrace_builder_string(builder, 0));
	costly_id = declare_costly();
	finish_schema();
	session.reading = schema;
	session.facts.nr_cpus = 4;
	strcpy(session.hostname, "web\033[1m");
	strcpy(session.release, "6.1.0");
	other = origin;
	other.ring = 0;
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	ck_assert_int_eq(views_open(&sinks, view_find(name), 0, 1), 0);
	views_configure(&sinks, &(struct view_config){ .number = view_number(name), .nr = 1, .console = &console,
						       .capture = &is_capture });
	sink = sinks.sink[0];
}

static void number(const struct origin *from, __u64 time, __u64 value)
{
	__u64 payload[2] = { value, 0 }; /* as declare() has it */

	show_at(from, time, number_id, payload, sizeof(payload), false);
}

static void message(__u64 time, const char *text)
{
	show_at(&origin, time, message_id, text, (__u32)strlen(text) + 1, false);
}

static void note(const char *text)
{
	struct sink_note n = { .text = text, .session = &session }; /* perhaps before any event */

	sinks_note(&sinks, &n);
}

/* The session is over: what was printed until then. */
static const char *ended(void)
{
	sinks_session_end(&sinks, &session);
	return written();
}

static void teardown_crash(void)
{
	views_close(&sinks, true);
	teardown();
	console_close(console);
	console = NULL;
	is_capture = false;
}

/* ------------------------------------------------------------------------------------------- reports */

START_TEST(test_page)
{
	struct sink_loss l = { .from = &other, .time = 2000000000, .dropped = 7 };

	setup_crash("crash:2");
	session.clock = (struct htrace_clock_sample){ .mono = 1000000000, .real = 1700000000000000000ULL };
	for (__u64 i = 0; i < 5; i++)
		number(&origin, 1000000000 + i, i);
	number(&other, 2000000000, 8);
	sinks_loss(&sinks, &l);
	number(&other, 3000000005, 9);
	note("guest silent for 2.0 s: it hangs");
	views_rest(&sinks, 0);
	ck_assert_str_eq(written(),
		"==== web\\x1b[1m, kernel 6.1.0, 4 CPUs: its last events\n"
		"end:      guest silent for 2.0 s: it hangs\n"
		"last:     3.000000005 s, 2023-11-14 22:13:22.000000 UTC by the guest's clock; times below are seconds before that\n"
		"\n"
		"CPU 0: the last 2 of 2 events; 7 were lost\n"
		"       -1.000000005 -                      counted: number=8\n"
		"                    --- 7 events lost (dropped 7) ---\n"
		"        0.000000000 -                      counted: number=9\n"
		"\n"
		"CPU 2: the last 2 of 5 events\n"
		"       -2.000000002 -                      counted: number=3\n"
		"       -2.000000001 -                      counted: number=4\n"
		"\n"
		"without an event: CPU 1, 3\n\n");
	teardown_crash();
}
END_TEST

/* One for each end: nothing is printed twice, and whatever comes behind is another one's. */
START_TEST(test_when)
{
	size_t len;

	setup_crash("crash");
	note("guest silent for 2.0 s");
	views_rest(&sinks, 0);
	number(&origin, 100, 1);
	ck_assert_str_eq(written(), "");
	views_rest(&sinks, 0);
	ck_assert_ptr_nonnull(strstr(written(), "end:      guest silent for 2.0 s\n"));
	len = strlen(written());
	ck_assert_uint_gt(len, 100);
	views_rest(&sinks, 0);
	ck_assert_uint_eq(strlen(written()), len);
	ck_assert_uint_eq(strlen(ended()), len);
	number(&origin, 200, 2); /* another session, of the same address */
	ck_assert_ptr_nonnull(strstr(ended() + len, "was over without a word"));
	ck_assert_ptr_null(strstr(written() + len, "number=1"));
	len = strlen(written());
	session.state = HTRACE_GUEST_CLOSED;
	number(&origin, 300, 3);
	ck_assert_ptr_nonnull(strstr(ended() + len, "end:      its agent ended the session"));
	teardown_crash();
}
END_TEST

START_TEST(test_ends)
{
	setup_crash("crash");
	is_capture = _i == 1;
	views_configure(&sinks, &(struct view_config){ .nr = 1, .console = &console, .capture = &is_capture });
	number(&origin, 100, 1);
	if (_i == 0)
		views_finish(&sinks);
	ck_assert_ptr_nonnull(strstr(ended(), _i ? "end:      the capture ends here\n" :
					      "end:      host-reader was ended, the guest was not\n"));
	teardown_crash();
}
END_TEST

/* Events of the host are no guest's; ticks are not seconds. */
START_TEST(test_ticks)
{
	setup_crash("crash");
	session.facts.host = true;
	number(&origin, 100, 1);
	ck_assert_str_eq(ended(), "");
	session.facts.host = false;
	session.ticks = true;
	number(&origin, 100, 1);
	number(&origin, 107, 2);
	ck_assert_ptr_nonnull(strstr(ended(), "last:     107 ticks of the TSC; times below are ticks before that"));
	ck_assert_ptr_nonnull(strstr(written(), "                 -7 -  "));
	teardown_crash();
}
END_TEST

START_TEST(test_json)
{
	setup_crash("crash:json:1");
	number(&other, 50, 1);
	number(&origin, 100, 1);
	number(&origin, 101, 2);
	note("guest \\\" silent");
	ck_assert_str_eq(ended(),
		"{\"view\":\"crash\",\"hostname\":\"web\\u001b[1m\",\"kernel\":\"6.1.0\",\"nr_cpus\":4,"
		"\"end\":[\"guest \\\\\\\" silent\",\"its session was over without a word: it was reset, or another agent began a new one\"],"
		"\"last\":101,\"rings\":[{\"cpu\":2,\"count\":2,\"lost\":0,\"events\":["
		"{\"time\":101,\"cpu\":2,\"event\":\"counted\",\"fields\":{\"number\":2}}]},"
		"{\"cpu\":0,\"count\":1,\"lost\":0,\"events\":["
		"{\"time\":50,\"cpu\":0,\"event\":\"counted\",\"fields\":{\"number\":1}}]}]}\n");
	teardown_crash();
}
END_TEST

static __u64 cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

/* All that was written, from @from on. */
static char *written_from(size_t from)
{
	struct stat st;
	char *text;
	FILE *f;

	out_flush(sink.out);
	f = fopen(path, "re");
	ck_assert(f && !fstat(fileno(f), &st) && !fseek(f, (long)from, SEEK_SET));
	text = calloc(1, (size_t)st.st_size + 1);
	ck_assert_uint_eq(fread(text, 1, (size_t)st.st_size, f), (size_t)st.st_size - from);
	fclose(f);
	return text;
}

/* One that dies again at once, with as much to show as it can: others are not kept waiting, and it is said. */
START_TEST(test_costly)
{
	static unsigned char payload[COSTLY_BYTES];
	static struct origin ring[32];
	const char *at, *left = _i ? "],\"left_out\":" : "more CPUs are left out: it is too much work ---\n";
	unsigned int shown = 0;
	__u64 work;
	size_t len;
	char *text;

	setup_crash(_i ? "crash:json:200" : "crash:200");
	memset(payload, 0xff, sizeof(payload));
	number(&other, 1, 1);
	len = strlen(ended());
	ck_assert_ptr_null(strstr(written(), left));
	for (unsigned int i = 0; i < ARRAY_SIZE(ring); i++) {
		ring[i] = origin;
		ring[i].ring = i;
		for (__u64 k = 0; k < 200; k++)
			show_at(&ring[i], 1000 * (i + 1) + k, costly_id, payload, sizeof(payload), false);
	}
	work = cpu_ns();
	sinks_session_end(&sinks, &session);
	work = cpu_ns() - work;
	text = written_from(len);
	ck_assert_msg(strstr(text, left) != NULL, "%zu bytes in %llu ns", strlen(text), (unsigned long long)work);
	ck_assert_uint_lt(work, 1000000000);
	/* The ring of the last event comes first. */
	at = strstr(text, _i ? "{\"cpu\":31,\"count\":200," : "CPU 31: the last 200 of 200 events\n");
	ck_assert_ptr_nonnull(at);
	ck_assert_ptr_null(strstr(text, _i ? "{\"cpu\":0,\"count\"" : "CPU 0: "));
	for (; (at = strstr(at, _i ? "\"costly\"" : "costly:")) != NULL; at++)
		shown++;
	ck_assert_uint_lt(shown, 32 * 200);
	ck_assert_uint_gt(shown, 0);
	free(text);
	teardown_crash();
}
END_TEST

START_TEST(test_names)
{
	ck_assert_ptr_eq(view_find("crash:1000"), &view_crash);
	ck_assert_ptr_eq(view_find("crash:json:7"), &view_crash_json);
	ck_assert_uint_eq(view_number("crash:json:7"), 7);
	ck_assert_uint_eq(view_number("crash:json"), 0);
	ck_assert_ptr_null(view_find("crash:1001"));
	ck_assert_ptr_null(view_find("crash:0"));
	ck_assert_ptr_null(view_find("crash:-1"));
	ck_assert_ptr_null(view_find("crash:99999999999999999999999"));
	ck_assert_ptr_null(view_find("boot:5"));
	ck_assert_ptr_null(view_find("crash:"));
}
END_TEST

/* Records of any size: within what was promised, the last one is there, and none is mixed up with another. */
START_TEST(test_bounds)
{
	static unsigned char payload[65536];
	unsigned long long seed = 7;
	struct last_events *l;

	setup_crash("crash");
	l = last_events_new(16, &origin);
	for (unsigned int i = 0; i < unit_some(20000); i++) {
		struct htrace_record r = {
			.id = number_id, .payload = payload,
			.len = (__u32)(unit_random(&seed) % (i % 100 ? 300 : sizeof(payload))),
		};
		struct sink_event e = { .from = &origin, .time = i, .record = &r };

		memset(payload, (int)(i & 0xff), r.len);
		last_events_add(l, &e);
		ck_assert_uint_ge(l->nr, 1);
		ck_assert_uint_le(l->nr, 16);
		ck_assert_uint_le(l->bytes, 16 * LAST_EVENT_BYTES > r.len + 64 ? 16 * LAST_EVENT_BYTES : r.len + 64);
		for (unsigned int k = 0; k < l->nr; k++) {
			const struct last_event *of = last_events_at(l, k);
			const unsigned char *p = of->record.payload;

			ck_assert_uint_eq(of->time, i + 1 - l->nr + k);
			ck_assert(!of->record.len || (p[0] == (of->time & 0xff) && p[of->record.len - 1] == p[0]));
		}
	}
	ck_assert_uint_eq(l->count, unit_some(20000));
	last_events_free(l);
	teardown_crash();
}
END_TEST

/* ------------------------------------------------------------------------------------------ consoles */

static void says(const void *text, size_t len, bool anew)
{
	int fd = open(console_file, O_WRONLY | (anew ? O_TRUNC : O_APPEND));

	ck_assert_int_eq(write(fd, text, len), (ssize_t)len);
	close(fd);
}

static void say_line(const char *text)
{
	says(text, strlen(text), false);
}

static void setup_console(void)
{
	char err[256] = "";

	strcpy(console_file + sizeof(console_file) - 7, "XXXXXX");
	close(mkstemp(console_file));
	ck_assert_msg(!console_open(&console, console_file, err, sizeof(err)), "%s", err);
}

static void teardown_console(void)
{
	teardown_crash();
	unlink(console_file);
}

/* The part of the report that begins with @what. */
static const char *part(const char *what)
{
	const char *found = strstr(ended(), what);

	ck_assert_msg(found != NULL, "%s", written());
	return found;
}

static const char panicked[] =
	"[    0.000000] Linux version 6.1.0\r\n"
	"old\r\n"
	"[   12.000000] sysrq: Trigger a crash\r\n"
	"\033[0;32m[   12.000100] Kernel\tpanic\r\n"
	"[   12.000100] Kernel panic - not syncing: \"sysrq\" \x9b\033]0;x\007\r\n"
	"[   12.000200][  T123] Rebooting";

START_TEST(test_console)
{
	setup_console();
	setup_crash("crash");
	say_line(panicked);
	number(&origin, 100, 1);
	ck_assert_ptr_nonnull(strstr(part("console:  "), "console:  [   12.000100] Kernel panic - not syncing: \"sysrq\" "
				     "\\x9b\\x1b]0;x\\x07\n"));
	ck_assert_ptr_nonnull(strstr(written(), "console: the last 6 lines of /tmp/htrace-console-"));
	ck_assert_ptr_nonnull(strstr(written(), "(its times are of the kernel's own clock"));
	ck_assert_ptr_nonnull(strstr(written(), "\n  [   12.000100] Kernel panic\n"));
	ck_assert_ptr_null(strchr(written(), 033));
	teardown_console();
}
END_TEST

/* Messages that are events, too, say how the clocks go beside each other. */
START_TEST(test_placed)
{
	setup_console();
	setup_crash("crash");
	say_line(panicked);
	number(&origin, 13900000000, 1);
	message(13000003000, "sysrq: Trigger a crash");
	message(13000202500, "Rebooting");
	message(13000300000, "twice");
	message(13900000000, "not in the console");
	say_line("\n[   12.000300] twice\n[   13.000300] twice\nno time\n");
	ck_assert_ptr_nonnull(strstr(part("console: the"), "(placed by 2 messages that are events, too; these agree within 0.500 us)\n"));
	ck_assert_ptr_nonnull(strstr(written(), "       -0.899997500 [   12.000000] sysrq: Trigger a crash\n"));
	ck_assert_ptr_nonnull(strstr(written(), "       -0.899797500 [   12.000200][  T123] Rebooting\n"));
	ck_assert_ptr_nonnull(strstr(written(), "                    no time\n"));
	teardown_console();
}
END_TEST

/* Without a console, what was recorded of it; a panic's many lines leave the events where they are. */
START_TEST(test_messages)
{
	char text[600];

	setup_crash("crash");
	number(&origin, 1000, 7);
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	for (__u64 i = 0; i < 100; i++)
		message(2000 + i, i == 99 ? text : "Call\033[1m Trace:\x9b");
	ck_assert_ptr_nonnull(strstr(ended(), "        0.000000000 -                      counted: number=7\n"));
	ck_assert_ptr_nonnull(strstr(written(), "\nkernel messages: the last 64 of 100\n"
				     "       +0.000001036 Call Trace:\\x9b\n"));
	ck_assert_ptr_nonnull(strstr(written(), "       +0.000001099 xxxx"));
	ck_assert_ptr_null(strchr(written(), 033));
	teardown_crash();
}
END_TEST

/* What the next boot says is left out; firmware may come before it. */
START_TEST(test_next_boot)
{
	setup_console();
	setup_crash("crash");
	say_line("[    1.000000] Kernel panic - not syncing: old\n[    0.000000][    T0] Linux version 6.1.0\nearly\n");
	number(&origin, 100, 1);
	say_line("[   12.000100] Kernel panic - not syncing: x\n");
	if (_i)
		say_line("\033cSeaBIOS (version 1.16)\nBooting from ROM..\n");
	say_line("[    0.000000] Linux version 6.1.0\nreboot: new\n");
	ck_assert_ptr_nonnull(strstr(part("console: the"), " before its next boot\n"));
	ck_assert_ptr_nonnull(strstr(written(), "early\n"));
	ck_assert_ptr_nonnull(strstr(written(), "Kernel panic - not syncing: x\n\n"));
	ck_assert_ptr_nonnull(strstr(written(), "console:  [   12.000100] Kernel panic - not syncing: x\n"));
	ck_assert_ptr_null(strstr(written(), "reboot: new"));
	ck_assert_ptr_null(strstr(written(), "old"));
	teardown_console();
}
END_TEST

/* A file that was emptied and written anew has nothing of what was. */
START_TEST(test_emptied)
{
	setup_console();
	say_line("a long line of before\n");
	setup_crash("crash");
	number(&origin, 100, 1);
	says("new\n", 4, true);
	ck_assert_ptr_nonnull(strstr(part("console: the"), "the last 0 lines of"));
	teardown_console();
}
END_TEST

/* Whatever it says: harmless, and not more than so many lines of so many bytes. */
START_TEST(test_hostile)
{
	static char text[3 << 20];
	unsigned long long seed = (unsigned long long)_i;
	unsigned int lines = 0;
	const char *from;

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = _i == 0 ? 'x' : _i == 1 ? "Linux version "[i % 14] : _i == 2 ? "\033["[i % 2] :
			  _i == 3 ? "[    0.000000]"[i % 14] : _i == 4 ? "\n[ 99999999999999.999999]"[i % 25] :
			  (char)unit_random(&seed);
	setup_console();
	setup_crash("crash");
	number(&origin, 100, 1);
	says(text, sizeof(text), false);
	from = part("console: the");
	for (; *from; from++) {
		ck_assert_msg(*from == '\n' || (*from >= ' ' && *from < 0x7f), "%d", *from);
		lines += *from == '\n';
	}
	ck_assert_uint_le(lines, CONSOLE_LINES + 4);
	teardown_console();
}
END_TEST

/* Not a file: refused, at once. */
START_TEST(test_not_a_file)
{
	char name[] = "/tmp/htrace-console-XXXXXX", err[256] = "";
	struct console *c;

	close(mkstemp(name));
	unlink(name);
	ck_assert_int_eq(console_open(&c, name, err, sizeof(err)), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "start the VM first"));
	ck_assert_int_eq(mkfifo(name, 0600), 0);
	ck_assert_int_eq(console_open(&c, name, err, sizeof(err)), -EINVAL);
	ck_assert_str_eq(err, "not a regular file");
	unlink(name);
	ck_assert_int_eq(console_open(&c, "/tmp", err, sizeof(err)), -EINVAL);
	ck_assert_int_eq(console_open(&c, "/dev/null", err, sizeof(err)), -EINVAL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_crash");
	TCase *t = tcase_create("view_crash");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_page);
	tcase_add_test(t, test_when);
	tcase_add_loop_test(t, test_ends, 0, 2);
	tcase_add_test(t, test_ticks);
	tcase_add_test(t, test_json);
	tcase_add_loop_test(t, test_costly, 0, 2);
	tcase_add_test(t, test_names);
	tcase_add_test(t, test_bounds);
	tcase_add_test(t, test_console);
	tcase_add_test(t, test_placed);
	tcase_add_test(t, test_messages);
	tcase_add_loop_test(t, test_next_boot, 0, 2);
	tcase_add_test(t, test_emptied);
	tcase_add_loop_test(t, test_hostile, 0, 12);
	tcase_add_test(t, test_not_a_file);
	suite_add_tcase(s, t);
	return unit_run(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Pages of --view summary:json, of sources that never were: each number under its name, what guests say as text. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "source.h"
#include "unit.h"
#include "view.h"

static char path[64], text[1 << 16];
static struct source source[2];
static struct source_spec spec[2];
static struct source_config config;
static struct sinks sinks;

static void setup(void)
{
	char output[80];
	const char *outputs[] = { output };

	snprintf(path, sizeof(path), "/tmp/test-view-summary-XXXXXX");
	close(mkstemp(path));
	snprintf(output, sizeof(output), "text:%s", path);
	memset(source, 0, sizeof(source));
	memset(spec, 0, sizeof(spec));
	config = (struct source_config){ .sync = "adaptive" };
	for (unsigned int i = 0; i < 2; i++) {
		spec[i].kind = i ? SOURCE_FILE : SOURCE_LOCAL;
		spec[i].path = (char *)(i ? "/c" : "/dev/shm/a\"\033");
		source[i].spec = &spec[i];
		source[i].config = &config;
		source[i].name = i ? "b" : spec[i].path;
		source[i].nr = i;
		ck_assert(!stats_init(&source[i].stats));
	}
	ck_assert(!sinks_open(&sinks, outputs, 1) && !sinks_begin(&sinks));
	ck_assert(!views_open(&sinks, view_find("summary:json"), 10, 100));
}

static void teardown(void)
{
	ck_assert(!sinks_close(&sinks));
	for (unsigned int i = 0; i < 2; i++)
		stats_free(&source[i].stats);
	unlink(path);
}

static void configure(unsigned int nr)
{
	views_configure(&sinks, &(struct view_config){ .nr = nr, .source = source, .started = 5 });
}

/* What is there, but for the times at the beginning of the last page, which are others each time. */
static const char *pages(void)
{
	FILE *f = fopen(path, "r");
	unsigned long long elapsed, cpu;
	char *last, *at;
	size_t n;

	ck_assert_ptr_nonnull(f);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	fclose(f);
	ck_assert(n > 1 && text[n - 1] == '\n');
	text[n - 1] = 0;
	last = strrchr(text, '\n') ? strrchr(text, '\n') + 1 : text;
	ck_assert_int_eq(sscanf(last, "{\"view\":\"summary\",\"elapsed_ns\":%llu,\"reader_cpu_ns\":%llu,", &elapsed, &cpu), 2);
	ck_assert(elapsed > 0 && cpu > 0);
	at = strstr(last, ",\"sources\":");
	ck_assert_ptr_nonnull(at);
	return at;
}

static const char *page(void)
{
	views_finish(&sinks);
	views_close(&sinks, true);
	return pages();
}

static void has(const char *in, const char *what)
{
	ck_assert_msg(strstr(in, what), "no %s in:\n%s", what, in);
}

#define NO_COUNTS "\"received\":0,\"unverified\":0,\"bytes\":0,\"ring_bytes\":0,\"lost\":0," \
	"\"overwritten\":0,\"dropped\":0,\"corrupt\":0,\"unfinished\":0"

/* Nobody came: nothing is said of who it is. */
START_TEST(test_none)
{
	configure(2);
	ck_assert_str_eq(page(),
		",\"sources\":[{\"source_nr\":0,\"source\":\"/dev/shm/a\\\\x22\\\\x1b\",\"path\":\"/dev/shm/a\\\\x22\\\\x1b\","
		"\"kind\":\"local\",\"state\":\"waiting\",\"sessions\":0,\"attached_ns\":0," NO_COUNTS ",\"skipped\":0,"
		"\"programs\":0,\"programs_not_counted\":0,\"skipped_by\":[],\"before\":0,\"backlog_bytes\":0,"
		"\"uncommitted_bytes\":0,\"unread_bytes\":0,\"filtered\":0,\"unwritten\":0,\"late\":0,\"backwards\":0,"
		"\"stacks_forgotten\":0,\"broken\":0,\"events\":[],\"rings\":[]},"
		"{\"source_nr\":1,\"source\":\"b\",\"path\":\"/c\",\"kind\":\"file\",\"state\":\"waiting\",\"sessions\":0,"
		"\"attached_ns\":0," NO_COUNTS ",\"skipped\":0,"
		"\"programs\":0,\"programs_not_counted\":0,\"skipped_by\":[],\"before\":0,\"backlog_bytes\":0,"
		"\"uncommitted_bytes\":0,\"unread_bytes\":0,\"filtered\":0,\"unwritten\":0,\"late\":0,\"backwards\":0,"
		"\"stacks_forgotten\":0,\"broken\":0,\"events\":[],\"rings\":[]}]}");
}
END_TEST

/* As of a session that is over. Sums are of all rings; names with most events come first. */
static void fill(void)
{
	struct source *s = &source[0];
	struct stats *st = &s->stats;

	s->state = SOURCE_DONE;
	memcpy(s->guest.hostname, "h\"\033\n", 4);
	memset(s->guest.release, 'r', sizeof(s->guest.release)); /* no end */
	s->guest.state = HTRACE_GUEST_CLOSING;
	s->guest.nr_progs = 3;
	strcpy(s->guest.prog[0].name, "p\"");
	s->guest.prog[0].misses = 6;
	strcpy(s->guest.prog[2].name, "q");
	s->guest.prog[2].misses = 7;
	s->facts.nr_cpus = 4;
	s->facts.nr_sets = 1;
	s->facts.set[0] = (struct session_set){ .policy = HTRACE_DISCARD, .nr_rings = 2, .ring_shift = 20, .block_shift = 12 };
	strcpy(s->placement, "there");
	st->sessions = 2;
	st->attached_ns = 1ULL << 63 | 1;
	st->agent_cpu_ns = 11;
	st->agent_ns = 12;
	st->agent_total_ns = 13;
	st->rings = 14;
	st->misses = 15;
	st->nr_progs = 3;
	st->nr_uncounted = 1;
	st->unread = 16;
	st->filtered = 17;
	st->unwritten = 18;
	st->late = 19;
	st->backwards = 20;
	st->stacks_forgotten = 21;
	st->broken = 22;
	st->cpu[3] = (struct ring_count){
		.events = 100, .bytes = 2400, .spared = 400, .overwritten = 1, .dropped = 2, .corrupt = 3, .unfinished = 4,
		.uncommitted = 5, .before = 6, .unverified = 7, .used = true,
	};
	st->thread[0] = (struct ring_count){ .events = 1, .bytes = 24, .before = 8, .used = true };
	st->by_id[5] = (struct event_count){ 20, 480 };
	st->by_id[6] = (struct event_count){ 81, 1944 };
}

#define GUEST_END ",\"nr_cpus\":4,\"placement\":\"there\",\"buffer\":{\"policy\":\"discard\",\"nr_rings\":2," \
	"\"ring_bytes\":1048576,\"block_bytes\":4096},"

START_TEST(test_all)
{
	const char *json;

	fill();
	config.bell = SOURCE_WORD;
	configure(1);
	json = page();
	has(json, "\"state\":\"done\",\"sessions\":2,\"attached_ns\":9223372036854775809,\"hostname\":\"h\\\"\\u001b\\u000a\","
		  "\"kernel\":\"rrr");
	has(json, "r\"" GUEST_END "\"sync\":\"adaptive\",\"agent\":{\"state\":\"closing\",\"cpu_ns\":11,\"watched_ns\":12,"
		  "\"total_cpu_ns\":13},\"woken\":14,\"clock\":{\"clock\":\"monotonic\"},\"received\":101,");
	ck_assert_str_eq(strstr(json, "\"received\""),
		"\"received\":101,\"unverified\":7,\"bytes\":2424,\"ring_bytes\":2024,\"lost\":25,\"overwritten\":1,\"dropped\":2,"
		"\"corrupt\":3,\"unfinished\":4,\"skipped\":15,\"programs\":3,\"programs_not_counted\":1,\"skipped_by\":["
		"{\"program\":\"p\\\"\",\"count\":6},{\"program\":\"q\",\"count\":7}],\"before\":14,\"backlog_bytes\":0,"
		"\"uncommitted_bytes\":5,\"unread_bytes\":16,\"filtered\":17,\"unwritten\":18,\"late\":19,\"backwards\":20,"
		"\"stacks_forgotten\":21,\"broken\":22,\"events\":[{\"event\":\"event#6\",\"count\":81,\"bytes\":1944},"
		"{\"event\":\"event#5\",\"count\":20,\"bytes\":480}],\"rings\":["
		"{\"cpu\":3,\"received\":100,\"unverified\":7,\"bytes\":2400,\"ring_bytes\":2000,\"lost\":10,\"overwritten\":1,"
		"\"dropped\":2,\"corrupt\":3,\"unfinished\":4,\"before\":6,\"uncommitted_bytes\":5},"
		"{\"ring\":0,\"received\":1,\"unverified\":0,\"bytes\":24,\"ring_bytes\":24,\"lost\":0,\"overwritten\":0,"
		"\"dropped\":0,\"corrupt\":0,\"unfinished\":0,\"before\":8,\"uncommitted_bytes\":0}]}]}");
}
END_TEST

/* A capture is read as it comes, and nobody rings; an agent may say that it is in any state. */
START_TEST(test_capture)
{
	const char *json;

	fill();
	spec[0].kind = SOURCE_FILE;
	config.bell = SOURCE_WORD;
	source[0].guest.state = 0xffffffff;
	configure(1);
	json = page();
	has(json, GUEST_END "\"agent\":{\"state\":\"unknown\",");
	ck_assert_ptr_null(strstr(json, "\"sync\""));
	ck_assert_ptr_null(strstr(json, "\"woken\""));
}
END_TEST

/* A name is there once, whether of this session or of those before. */
START_TEST(test_names)
{
	struct stats *st = &source[0].stats;

	st->by_id[5].count = 1;
	stats_fold(st, NULL);
	st->by_id[5].count = 2;
	st->by_id[6].count = 3;
	configure(1);
	has(page(), "\"events\":[{\"event\":\"event#5\",\"count\":3,\"bytes\":0},"
		    "{\"event\":\"event#6\",\"count\":3,\"bytes\":0}]");
	ck_assert_uint_eq(st->by_id[5].count, 2); /* still what it was */
	ck_assert_uint_eq(st->nr_named, 1);
}
END_TEST

START_TEST(test_clock)
{
	struct stats *st = &source[0].stats;
	const char *json;

	st->sessions = 1;
	st->ticks = true;
	st->clock_hz = _i ? 3000000000 : 0;
	st->clock_bound = 31;
	st->clock_used = 32;
	st->clock_refused = 33;
	config.host_clock = true;
	st->on_host = _i > 0;
	st->host_bound = _i == 2 ? HOST_CLOCK_UNKNOWN : 34;
	st->host.same = _i == 2;
	st->host.how = HOST_BY_KVM;
	configure(1);
	json = page();
	if (!_i)
		has(json, ",\"clock\":{\"clock\":\"tsc\",\"samples\":32,\"refused\":33},"
			  "\"shown_as\":{\"clock\":\"own\"},\"received\"");
	else
		has(json, ",\"clock\":{\"clock\":\"tsc\",\"hz\":3000000000,\"bound_ns\":31,\"samples\":32,\"refused\":33},"
			  "\"shown_as\":{\"clock\":\"host\",");
	if (_i == 1)
		has(json, "\"by\":\"kvm\",\"bound_ns\":34},\"received\"");
	else if (_i == 2)
		has(json, "\"by\":\"same\"},\"received\"");
}
END_TEST

START_TEST(test_model)
{
	struct stats *st = &source[0].stats;

	st->sessions = 1;
	st->host = (struct host_clock_stats){
		.segments = 2, .knots = 41, .refused = 42, .steps = 1, .doubts = 43, .step = -44, .hz = 1000000001, .time = 45,
		.mono = 46, .bound = _i ? HOST_CLOCK_UNKNOWN : 47,
	};
	st->host_times = 48;
	for (unsigned int i = 0; i < REGION_CLOCK_LIMITS; i++)
		st->host_within[i] = i;
	source[0].clock.pongs = 49;
	source[0].clock.rounds = 50;
	source[0].clock.refused = 51;
	source[0].clock.offset.low = 52;
	source[0].clock.offset.high = 60;
	source[0].clock.drifts = true;
	config.clock = config.host_clock = true;
	configure(1);
	has(page(), _i ? ",\"model\":{\"samples\":41,\"refused\":42,\"segments\":2,\"steps\":1,\"doubts\":43,"
			 "\"last_step_ns\":-44,"
			 "\"line\":{\"hz\":1000000001,\"time\":45,\"host_ns\":46},\"times\":48,\"within\":[" :
			 "\"last_step_ns\":-44,\"line\":{\"hz\":1000000001,\"time\":45,\"host_ns\":46,\"bound_ns\":47},\"times\":48,"
			 "\"within\":[{\"ns\":100,\"count\":0},{\"ns\":200,\"count\":1},{\"ns\":500,\"count\":2},"
			 "{\"ns\":1000,\"count\":3},{\"ns\":10000,\"count\":4}],\"asked\":{\"times\":49,\"answers\":50,"
			 "\"contradictory\":51,\"offset_ticks\":8,\"drifts\":true}},\"received\":0,");
}
END_TEST

/* At its interval, one line each; what was read for exits, but not what ends their measurement. */
START_TEST(test_interval)
{
	const char *json;
	struct stat st;

	source[0].stats.exits[1] = (struct exit_count){ .exits = 61, .out = 62, .returned = 63, .inside = 64, .used = true };
	config.exits = (struct kvm_exits *)&config; /* that is not touched */
	configure(1);
	views_refresh(&sinks, 109);
	ck_assert(!stat(path, &st) && !st.st_size);
	for (__u64 now = 110; now < 130; now++)
		views_refresh(&sinks, now);
	json = pages();
	ck_assert(strchr(text, '\n') && strchr(text, '\n') == strrchr(text, '\n')); /* between two */
	has(json, "\"rings\":[],\"vcpus\":[{\"vcpu\":1,\"exits\":61,\"reads_out\":62,"
		  "\"reads_returned\":63,\"reads_inside\":64}]}]}");
	config.exits = NULL;
	ck_assert_ptr_null(strstr(page(), "\"vcpus\""));
	ck_assert_ptr_null(strstr(text, "\n\n"));
}
END_TEST

/* Nothing has to be decoded, or put in order, for it. */
START_TEST(test_no_events)
{
	configure(1);
	ck_assert(!sinks_show(&sinks) && !sinks_capture(&sinks));
	page();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_summary");
	TCase *t = tcase_create("pages");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_none);
	tcase_add_test(t, test_all);
	tcase_add_test(t, test_capture);
	tcase_add_test(t, test_names);
	tcase_add_loop_test(t, test_clock, 0, 3);
	tcase_add_loop_test(t, test_model, 0, 2);
	tcase_add_test(t, test_interval);
	tcase_add_test(t, test_no_events);
	suite_add_tcase(s, t);
	return unit_run(s);
}

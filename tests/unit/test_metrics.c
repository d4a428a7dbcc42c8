/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Metrics of sources that never were: how many series guests can make, and what their names become. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "metrics.h"
#include "unit.h"

static char dir[64], path[96], text[1 << 20];
static struct source source[2];
static struct source_spec spec[2];
static struct sinks sinks;

static void setup(void)
{
	char output[128];
	const char *outputs[] = { output };

	snprintf(dir, sizeof(dir), "/tmp/test-metrics-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
	snprintf(path, sizeof(path), "%s/x.prom", dir);
	snprintf(output, sizeof(output), "metrics:%s", path);
	memset(source, 0, sizeof(source));
	memset(spec, 0, sizeof(spec));
	for (unsigned int i = 0; i < 2; i++) {
		source[i].spec = &spec[i];
		source[i].name = i ? "second" : "first";
		source[i].nr = i;
		ck_assert(!stats_init(&source[i].stats));
	}
	ck_assert(!sinks_open(&sinks, outputs, 1));
}

static void teardown(void)
{
	ck_assert(!sinks_close(&sinks));
	for (unsigned int i = 0; i < 2; i++)
		stats_free(&source[i].stats);
	ck_assert(!unlink(path) && !rmdir(dir)); /* nothing else is there */
}

static void write_all(void)
{
	FILE *f;
	size_t n;

	metrics_refresh(&sinks, source, 2, 0, true);
	f = fopen(path, "r");
	ck_assert(f != NULL);
	n = fread(text, 1, sizeof(text) - 1, f);
	text[n] = 0;
	fclose(f);
	ck_assert(n > 6 && !strcmp(text + n - 6, "# EOF\n"));
}

/* Lines that begin so, and the sum of what they say. */
static unsigned int lines(const char *with, unsigned long long *sum)
{
	unsigned int nr = 0;

	*sum = 0;
	for (const char *p = text; p && *p; p = strchr(p, '\n') + 1) {
		if (strncmp(p, with, strlen(with)))
			continue;
		nr++;
		*sum += strtoull(strstr(p, "} ") + 2, NULL, 10);
	}
	return nr;
}

/* As of sessions that are over, with names from @from on. */
static void name_events(struct stats *s, unsigned int from, unsigned int nr)
{
	free(s->named);
	s->named = calloc(nr, sizeof(*s->named));
	ck_assert(s->named != NULL);
	s->nr_named = nr;
	for (unsigned int i = 0; i < nr; i++) {
		snprintf(s->named[i].name, sizeof(s->named[i].name), "event_%u", (from + i) * 7919 % 100003);
		s->named[i].n.count = i + 1;
	}
}

/* However many names there are, and whichever come later: so many series, and each event counts once. */
START_TEST(test_many)
{
	static const unsigned int steps[] = { 0, 1, METRICS_NAMES - 1, METRICS_NAMES, 1000, MAX_EVENT_NAMES };
	unsigned long long sum;

	ck_assert(!metrics_start(&sinks, source, 2, 0));
	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		unsigned int nr = steps[i], told = nr < METRICS_NAMES ? nr : METRICS_NAMES;

		name_events(&source[0].stats, 0, nr);
		write_all();
		ck_assert_uint_eq(lines("htrace_events_total{source=\"first\"", &sum), told);
		ck_assert_uint_eq(sum, (unsigned long long)nr * (nr + 1) / 2);
		ck_assert_int_eq(strstr(text, "event=\"(others)\"") != NULL, nr >= METRICS_NAMES);
		ck_assert_uint_eq(lines("htrace_events_total{source=\"second\"", &sum), 0);
	}
	for (unsigned int i = 1; i < 20; i++) { /* ever new ones */
		name_events(&source[0].stats, 1000 * i, 1000);
		write_all();
		ck_assert_uint_eq(lines("htrace_events_total", &sum), METRICS_NAMES);
		ck_assert_uint_eq(sum, 1000 * 1001 / 2);
	}
}
END_TEST

/* A name is there once, whether of this session or of those before; one that has no schema has a number. */
START_TEST(test_again)
{
	unsigned long long sum;

	ck_assert(!metrics_start(&sinks, source, 2, 0));
	name_events(&source[0].stats, 0, 2);
	snprintf(source[0].stats.named[1].name, sizeof(source[0].stats.named[1].name), "event#5");
	source[0].stats.by_id[5].count = 100;
	write_all();
	ck_assert_uint_eq(lines("htrace_events_total{source=\"first\",event=\"event#5\"}", &sum), 1);
	ck_assert_uint_eq(sum, 102);
	ck_assert_uint_eq(lines("htrace_events_total", &sum), 2);
}
END_TEST

/* Of sources too; two of one name are told apart. */
START_TEST(test_escaped)
{
	unsigned long long sum;

	source[0].name = source[1].name = "a\"b\\c\nd\xff";
	ck_assert(!metrics_start(&sinks, source, 2, 0));
	source[1].stats.sessions = 3;
	write_all();
	ck_assert_uint_eq(lines("htrace_sessions_total{source=\"a\\\\x22b\\\\x5cc\\\\x0ad\\\\xff\",nr=\"1\"}", &sum), 1);
	ck_assert_uint_eq(sum, 3);
	ck_assert_uint_eq(lines("htrace_sessions_total", &sum), 2);
}
END_TEST

/* What nobody knows is infinity, and what is not shown as the host's has no bound. */
START_TEST(test_bound)
{
	unsigned long long sum;

	ck_assert(!metrics_start(&sinks, source, 2, 0));
	source[0].stats.on_host = true;
	source[0].stats.host_bound = 1234567890;
	write_all();
	ck_assert_ptr_nonnull(strstr(text, "\nhtrace_clock_bound_seconds{source=\"first\"} 1.234567890\n"));
	ck_assert_uint_eq(lines("htrace_clock_bound_seconds", &sum), 1);
	source[0].stats.host_bound = HOST_CLOCK_UNKNOWN;
	write_all();
	ck_assert_ptr_nonnull(strstr(text, "\nhtrace_clock_bound_seconds{source=\"first\"} +Inf\n"));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("metrics");
	TCase *t = tcase_create("all");

	tcase_set_timeout(t, 60); /* under sanitizers, on a busy machine */
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_many);
	tcase_add_test(t, test_again);
	tcase_add_test(t, test_escaped);
	tcase_add_test(t, test_bound);
	suite_add_tcase(s, t);
	return unit_run(s);
}

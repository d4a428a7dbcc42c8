/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Filters and sampling of single events, as the host has them set, get into all programs that record the event;
 * and readers are told what is not whole. Of the built-in programs, of which none is loaded for this.
 */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "loader_internal.h"
#include "regionbox.h"
#include "unit.h"

static struct loader loader;
static struct htrace_region *region;
static struct htrace_schema_builder *builder;
static int fd;

static void begin(void)
{
	ck_assert_int_eq(htrace_region_create_local(&region, NULL, SIZE, &local_opts, &fd), 0);
	ck_assert_int_eq(loader_open_built_in(&loader), 0);
}

static void end(void)
{
	for (size_t i = 0; i < loader.nr_programs; i++)
		loader.program[i].nr_cpu_links = 0;
	loader_close(&loader);
	htrace_builder_free(builder);
	builder = NULL;
	htrace_region_release(region);
	close(fd);
}

/* A link that is none says that it is attached. */
static void choose(const char *events)
{
	const void *entries;
	size_t len;

	ck_assert_int_eq(loader_select(&loader, events), 0);
	ck_assert_int_eq(htrace_builder_new(&builder, NULL, 0), 0);
	ck_assert_int_eq(loader_declare(&loader, builder), 0);
	entries = htrace_builder_entries(builder, &len);
	ck_assert_int_eq(htrace_region_add_schema(region, entries, len), 0);
	for (size_t i = 0; i < loader.nr_programs; i++)
		loader.program[i].nr_cpu_links = 1;
}

static struct program *program(const char *name)
{
	for (size_t i = 0; i < loader.nr_programs; i++)
		if (!strcmp(loader.program[i].name, name))
			return &loader.program[i];
	ck_abort_msg("no program %s", name);
}

static int apply(void)
{
	return loader_filter_more(&loader, NULL, builder, NULL, 0);
}

/* Marks that code was put in the place of are none any more. */
static bool is_patched(const char *name)
{
	const struct bpf_program *p = program(name)->prog;
	struct loader_marks m;

	loader_count_marks(bpf_program__insns(p), bpf_program__insn_cnt(p), &m);
	return !m.begins;
}

static void tell(const char *name, const bool *whole)
{
	bool one[HTRACE_MAX_PROGS] = {false};

	one[program(name) - loader.program] = true;
	ck_assert_int_eq(loader_tell(&loader, one, whole, region), 0);
}

static bool is_told(const char *event)
{
	struct htrace_schema *s;
	const void *entries;
	bool told;
	size_t len;

	entries = htrace_region_schema_entries(region, &len);
	ck_assert_int_eq(htrace_schema_parse(&s, entries, len, err, sizeof(err)), 0);
	ck_assert_ptr_nonnull(htrace_schema_event_by_name(s, event));
	told = htrace_schema_is_filtered(s, htrace_schema_event_by_name(s, event)->id);
	htrace_schema_free(s);
	return told;
}

START_TEST(test_several_programs)
{
	choose("steal,sched_switch");
	program("steal__xen")->sample = program("steal__kvm")->sample = program("steal__rq")->sample = 10;
	ck_assert_int_eq(apply(), 0);
	ck_assert(is_patched("steal__xen"));
	ck_assert(is_patched("steal__kvm"));
	ck_assert(is_patched("steal__rq"));
	ck_assert(!is_patched("sched_switch"));
}
END_TEST

/* One that came later has none of its own. */
START_TEST(test_one_of_several)
{
	char filter[] = "stolen_ns > 5";

	choose("steal,sched_switch");
	program("steal__rq")->filter = filter;
	ck_assert_int_eq(apply(), 0);
	program("steal__rq")->filter = NULL;
	ck_assert(is_patched("steal__xen"));
	ck_assert(is_patched("steal__kvm"));
	ck_assert(is_patched("steal__rq"));
}
END_TEST

START_TEST(test_parts_without_records)
{
	choose("hypercalls");
	program("xen_mc_flush")->sample = program("xen_mc_flush__entry")->sample = 3;
	program("xen_mc_flush__calls")->sample = 3;
	ck_assert_int_eq(apply(), 0);
	ck_assert(is_patched("xen_mc_flush"));
	ck_assert(!is_patched("xen_mc_issue"));
}
END_TEST

START_TEST(test_refused)
{
	char unknown[] = "no_such_field == 1";

	choose("sched_switch,sys_enter");
	program("sys_enter")->filter = unknown;
	ck_assert_int_ne(apply(), 0);
	program("sys_enter")->filter = NULL;
	program("sched_process_fork")->sample = 2; /* names come from it */
	ck_assert_int_ne(apply(), 0);
}
END_TEST

START_TEST(test_nothing_takes_it)
{
	choose("sched_switch,sys_enter");
	strcpy(program("sys_enter")->name, "another");
	program("another")->sample = 2;
	ck_assert_int_ne(apply(), 0);
}
END_TEST

START_TEST(test_told)
{
	static const bool whole = true, missing = false;
	size_t len, again;

	choose("sched_switch,sys_enter,steal");
	tell("sched_switch", &missing);
	ck_assert(is_told("sched_switch"));
	ck_assert(!is_told("sys_enter"));
	tell("sched_switch", &whole);
	ck_assert(!is_told("sched_switch"));
	tell("sched_switch", NULL);
	ck_assert(!is_told("sched_switch"));
	program("sched_switch")->sample = 2;
	tell("sched_switch", NULL);
	ck_assert(is_told("sched_switch"));
	htrace_region_schema_entries(region, &len);
	tell("sched_switch", NULL);
	htrace_region_schema_entries(region, &again);
	ck_assert_uint_eq(again, len);
	/* Of several programs one that is off is enough. */
	tell("steal__xen", NULL);
	ck_assert(!is_told("steal"));
	program("steal__kvm")->nr_cpu_links = 0;
	tell("steal__xen", NULL);
	ck_assert(is_told("steal"));
}
END_TEST

#ifdef __x86_64__
START_TEST(test_told_of_32_bit)
{
	choose("sys_enter,sys_exit");
	program("sys_enter")->nr_cpu_links = 0;
	tell("sys_enter", NULL);
	ck_assert(is_told("sys_enter") && is_told("compat_sys_enter"));
	ck_assert(!is_told("sys_exit") && !is_told("compat_sys_exit"));
}
END_TEST
#endif

/* What is told at most has room where that was looked for. */
START_TEST(test_room)
{
	static const bool missing = false;
	bool all[HTRACE_MAX_PROGS];
	size_t before, behind;

	memset(all, true, sizeof(all));
	choose("sched,syscalls,irq,steal");
	htrace_region_schema_entries(region, &before);
	ck_assert_int_eq(loader_tell(&loader, all, &missing, region), 0);
	htrace_region_schema_entries(region, &behind);
	ck_assert_uint_gt(behind, before);
	ck_assert_uint_le(behind - before, loader_tell_room(&loader));
}
END_TEST

/* The reader's own part of --filter stays so: what it needs itself cannot be missing then. */
START_TEST(test_told_beside_filter)
{
	static const bool missing = false;
	bool one[HTRACE_MAX_PROGS] = {false};
	struct htrace_schema_builder *b;
	const void *entries, *old;
	size_t len;

	choose("sched_switch,sys_enter");
	old = htrace_region_schema_entries(region, &len);
	ck_assert_int_eq(htrace_builder_new(&b, old, len), 0);
	ck_assert_int_eq(htrace_builder_filter(b, "cpu == 1"), 0);
	entries = htrace_builder_entries(b, &len);
	ck_assert_int_eq(htrace_region_add_schema(region, entries, len), 0);
	htrace_builder_free(b);
	tell("sys_enter", &missing);
	ck_assert(!is_told("sys_enter"));
	one[program("sched_switch") - loader.program] = true;
	ck_assert_int_ne(loader_tell(&loader, one, &missing, region), 0);
	ck_assert(!is_told("sched_switch"));
}
END_TEST

START_TEST(test_full)
{
	static const bool missing = false, whole = true;
	bool one[HTRACE_MAX_PROGS] = {false};
	int told = 0;

	choose("sched_switch");
	one[program("sched_switch") - loader.program] = true;
	while (!loader_tell(&loader, one, told % 2 ? &whole : &missing, region))
		ck_assert_int_lt(++told, 1000000);
	ck_assert_int_eq(is_told("sched_switch"), told % 2);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("settings");
	TCase *t = tcase_create("settings");

	tcase_add_checked_fixture(t, begin, end);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, test_several_programs);
	tcase_add_test(t, test_one_of_several);
	tcase_add_test(t, test_parts_without_records);
	tcase_add_test(t, test_refused);
	tcase_add_test(t, test_nothing_takes_it);
	tcase_add_test(t, test_told);
#ifdef __x86_64__
	tcase_add_test(t, test_told_of_32_bit);
#endif
	tcase_add_test(t, test_room);
	tcase_add_test(t, test_told_beside_filter);
	tcase_add_test(t, test_full);
	suite_add_tcase(s, t);
	return unit_run(s);
}

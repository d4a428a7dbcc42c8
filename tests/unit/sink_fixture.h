/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A sink that writes into a file, or a directory, and a schema that a test declares. Define SINK
 * before, and SINK_OPTIONS, the text of them, if it is to have any.
 */
#ifndef SINK_FIXTURE_H
#define SINK_FIXTURE_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "events.h"
#include "names.h"
#include "sink.h"
#include "unit.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

static struct htrace_schema_builder *builder;
static struct htrace_schema *schema;
static struct names *names;
static struct events *events;
static struct selection *selection;
static struct sink_session session;
static struct origin origin;
static struct sink sink;
static char path[] = "/tmp/htrace-test-XXXXXX";
static const char *on_terminal; /* where what is written goes instead: see terminal.h */

static void setup(void)
{
	strcpy(path + sizeof(path) - 7, "XXXXXX");
	sink = (struct sink){ .ops = &SINK, .path = path };
#ifdef SINK_OPTIONS
	ck_assert_int_eq(SINK.options(&sink, (char[]){ SINK_OPTIONS }, path), 0);
#endif
	if (SINK.open && !SINK.file)
		ck_assert_ptr_nonnull(mkdtemp(path));
	else
		close(mkstemp(path));
	if (SINK.open) {
		ck_assert_int_eq(SINK.open(&sink), 0);
		ck_assert_int_eq(SINK.begin(&sink), 0);
	} else {
		ck_assert_int_eq(out_open(&sink.out, on_terminal ? on_terminal : path), 0);
	}
	names = names_new();
	session = (struct sink_session){ .path = "/dev/shm/vm", .names = names };
	origin = (struct origin){
		.session = &session, .names = names, .per_cpu = true, .ring = 2
	};
	ck_assert_int_eq(htrace_builder_new(&builder, NULL, 0), 0);
	ck_assert_int_eq(selection_new(&selection, NULL), 0);
}

static void teardown(void)
{
	if (!SINK.open) {
		out_close(sink.out);
		unlink(path);
	}
	events_free(events);
	htrace_schema_free(schema);
	htrace_builder_free(builder);
	selection_free(selection);
	names_free(names);
	events = NULL;
	schema = NULL;
}

static void remove_all(int dir)
{
	DIR *d = fdopendir(dir);
	const struct dirent *e;

	while ((e = readdir(d)) != NULL) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
			continue;
		if (unlinkat(dir, e->d_name, 0) && errno == EISDIR) {
			remove_all(openat(dir, e->d_name, O_RDONLY | O_DIRECTORY));
			unlinkat(dir, e->d_name, AT_REMOVEDIR);
		}
	}
	closedir(d);
}

/* Of a sink that writes into one: in place of teardown(). */
__attribute__((unused)) static void finish_directory(void)
{
	if (sink.state)
		sink.ops->close(&sink);
	remove_all(open(path, O_RDONLY | O_DIRECTORY));
	rmdir(path);
	teardown();
}

/* Declare an event of one field at offset 0. */
__attribute__((unused)) static __u32 declare(const char *name, const char *field, int type)
{
	struct htrace_schema_member m = { .type = (__u32)type };
	int id;

	ck_assert_int_gt(type, 0);
	strcpy(m.name, field);
	id = htrace_builder_event(builder, name,
				  htrace_builder_struct(builder, name, false, 0, &m, 1));
	if (id < 0) /* not an open one */
		id = htrace_builder_event(builder, name,
					  htrace_builder_struct(builder, name, false, 16, &m, 1));
	ck_assert_int_gt(id, 0);
	return (__u32)id;
}

static void finish_schema(void)
{
	char err[160];
	size_t len;
	const void *entries = htrace_builder_entries(builder, &len);

	ck_assert_msg(!htrace_schema_parse(&schema, entries, len, err, sizeof(err)), "%s", err);
	events = events_new(schema, selection);
	session.schema++;
}

/* Something that happens at @time in @from. */
static void show_at(const struct origin *from, __u64 time, __u32 id, const void *payload, __u32 len,
		    bool unverified)
{
	struct htrace_record r = {
		.id = id, .len = len, .time = time, .payload = payload,
	};
	const struct event_info *info = events_find(events, id);
	struct sink_event e = {
		.from = from, .time = r.time, .record = &r, .unverified = unverified,
		.event = info ? info->event : NULL,
	};

	if (info)
		event_before(info, names, &e);
	sink.ops->event(&sink, &e);
}

__attribute__((unused)) static void show(__u32 id, const void *payload, __u32 len, bool unverified)
{
	show_at(&origin, 12345678901ULL, id, payload, len, unverified);
}

__attribute__((unused)) static const char *written(void)
{
	static char text[2 * 65536];
	ssize_t n;
	int fd;

	out_flush(sink.out);
	fd = open(path, O_RDONLY);
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	ck_assert_int_ge(n, 0);
	text[n] = 0;
	return text;
}

#endif /* SINK_FIXTURE_H */

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "boot_internal.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "tracepoints.h"

#define TRACEFS "/sys/kernel/tracing"
#define KERNEL_SAYS "have the kernel's command line say what to trace, such as trace_event=initcall:*,module:* " \
	"trace_clock=local"

/* ------------------------------------------------------------------------------------ which buffer */

static bool read_line(const struct boot *b, const char *file, char *line, size_t len)
{
	char path[300];
	FILE *f;
	bool got;

	snprintf(path, sizeof(path), "%s/%s", b->dir, file);
	f = fopen(path, "re");
	got = f && fgets(line, (int)len, f);
	if (f)
		fclose(f);
	return got;
}

/* Does the kernel trace anything there? */
static bool traces(const struct boot *b)
{
	char line[200];

	return read_line(b, "set_event", line, sizeof(line));
}

/* Of the instances that the command line made the one that traces; false: none, or several. */
static bool find_instance(struct boot *b)
{
	DIR *d = opendir(TRACEFS "/instances");
	char found[sizeof(b->dir)] = "";
	struct dirent *e;
	int nr = 0;

	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(b->dir, sizeof(b->dir), TRACEFS "/instances/%.64s", e->d_name);
		if (traces(b) && !nr++)
			memcpy(found, b->dir, sizeof(found));
	}
	if (d)
		closedir(d);
	if (nr == 1)
		memcpy(b->dir, found, sizeof(b->dir));
	return nr == 1;
}

static int choose_buffer(struct boot *b, const char *word)
{
	const char *name = word[4] ? word + 5 : NULL;

	if (name && (!*name || strlen(name) > 64 || strchr(name, '/'))) {
		say("--events %s: no instance of tracefs has such a name", word);
		return -1;
	}
	if (name)
		snprintf(b->dir, sizeof(b->dir), TRACEFS "/instances/%s", name);
	else
		snprintf(b->dir, sizeof(b->dir), TRACEFS);
	if (traces(b) || (!name && find_instance(b)))
		return 0;
	say("--events %s: the kernel traces no events of its boot%s; " KERNEL_SAYS, word,
	    name ? " there" : ", or in several instances (then name one: boot:INSTANCE)");
	return -1;
}

/* ---------------------------------------------------------------------------------- which events */

static int add_event(struct boot *b, const char *system, const char *name)
{
	struct tracepoint *tp;
	char path[300];
	unsigned int type;
	FILE *f;
	int nr;

	snprintf(path, sizeof(path), TRACEFS "/events/%s/%s/id", system, name);
	f = fopen(path, "re");
	nr = f ? fscanf(f, "%u", &type) : 0;
	if (f)
		fclose(f);
	if (nr != 1 || tracepoint_open(&tp, system, name))
		return 0; /* what is not known is left out, and counted */
	nr = boot_records_add(b->records, type, tp);
	if (nr == -ENOMEM)
		return nr;
	if (!nr && b->nr_types < BOOT_EVENTS)
		b->type[b->nr_types++] = type;
	return 0;
}

static int read_events(struct boot *b)
{
	char path[300], line[200], *colon;
	FILE *f;
	int err;

	snprintf(path, sizeof(path), "%s/set_event", b->dir);
	f = fopen(path, "re");
	if (!f)
		return -errno;
	err = 0;
	while (!err && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = 0;
		colon = strchr(line, ':');
		if (!colon)
			continue;
		*colon = 0;
		err = add_event(b, line, colon + 1);
	}
	fclose(f);
	return err ? err : add_event(b, "ftrace", "print"); /* our own marks */
}

int boot_events(const struct boot *b, int (*each)(void *ctx, const char *system, const char *event), void *ctx)
{
	int ret = 0;

	for (size_t i = 0; i < b->nr_types && !ret; i++) {
		const struct tracepoint *tp = boot_records_event(b->records, b->type[i]);

		if (strcmp(tp->system, "ftrace"))
			ret = each(ctx, tp->system, tp->name);
	}
	return ret;
}

int boot_open(struct boot **out, const char *word)
{
	struct boot *b = calloc(1, sizeof(*b));
	int err;

	*out = NULL;
	if (!b)
		return -1;
	if (tracepoints_check() || choose_buffer(b, word)) {
		free(b);
		return -1;
	}
	b->records = boot_records_new();
	err = b->records ? read_events(b) : -ENOMEM;
	if (err) {
		say("--events %s: cannot read what %s traces: %s", word, b->dir, strerror(-err));
		boot_close(b);
		return -1;
	}
	*out = b;
	return 0;
}

void boot_close(struct boot *b)
{
	if (!b)
		return;
	for (size_t i = 0; b->cpu && i < b->nr_cpus; i++)
		free(b->cpu[i].page);
	free(b->cpu);
	free(b->initcall);
	boot_records_free(b->records);
	free(b);
}

/* ------------------------------------------------------------------------------- names of initcalls */

static int by_address(const void *a, const void *b)
{
	__u64 x = *(const __u64 *)a, y = *(const __u64 *)b;

	return x < y ? -1 : x > y;
}

int boot_name_initcalls(struct boot *b)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	unsigned long long address;
	char line[1024], name[512];
	size_t nr = 0;
	int err = 0;

	if (b->nr_initcalls)
		qsort(b->initcall, b->nr_initcalls, sizeof(*b->initcall), by_address);
	for (size_t i = 0; i < b->nr_initcalls; i++) /* each once */
		if (!nr || b->initcall[i] != b->initcall[nr - 1])
			b->initcall[nr++] = b->initcall[i];
	b->nr_initcalls = nr;
	while (f && nr && !err && fgets(line, sizeof(line), f)) {
		char type;
		__u64 key, *at;

		if (sscanf(line, "%llx %c %511s", &address, &type, name) != 3 || !strchr("tTwW", type))
			continue;
		key = address;
		at = bsearch(&key, b->initcall, b->nr_initcalls, sizeof(key), by_address);
		if (!at || !*at || b->named[at - b->initcall])
			continue;
		b->named[at - b->initcall] = true; /* of aliases the first */
		nr--;
		err = boot_records_name(b->records, key, name);
	}
	if (f)
		fclose(f);
	if (err)
		say("names of initcalls: %s; they are shown as addresses", strerror(-err));
	return 0;
}

int boot_functions(const struct boot *b, struct htrace_schema_builder *s)
{
	int ret = boot_records_functions(b->records, s);

	if (ret < 0)
		say("names of initcalls cannot be described: %s", htrace_builder_error(s));
	return ret;
}

int boot_declare(struct boot *b, struct htrace_schema_builder *s, int functions)
{
	int ret = boot_records_declare(b->records, s, functions);

	if (ret < 0)
		say("the events of the boot cannot be described: %s", strerror(-ret));
	else if (ret)
		say("%d events of the boot are left out: they cannot be described: %s", ret, htrace_builder_error(s));
	return ret < 0 ? -1 : 0;
}

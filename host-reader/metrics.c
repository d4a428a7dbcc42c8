/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/version.h>

#include "exits.h"
#include "message.h"
#include "view.h"

#define INTERVAL_NS 5000000000ULL
#define OTHER 0 /* the place of what is not told apart */

typedef unsigned long long ull;

struct name {
	char text[HTRACE_NAME_MAX];
	__u64 count;
};

/* Of a source. By text, but for the first, which has none. */
struct names_of {
	struct name *name;
	unsigned int nr;
};

struct metrics {
	char *directory, *name, *beside; /* the file, and the one that takes its place */
	int dir;
	__u64 interval, next;
	void *exits; /* a view of them; NULL: no source tells of any */
	struct names_of names[MAX_SOURCES];
	int said; /* an errno, until it works again */
};

/* ---------------------------------------------------------------------------------------- the text */

/* No types but counter and gauge: the node exporter refuses a file with OpenMetrics' others. */
static void family(struct out *o, const char *name, const char *type, const char *unit, const char *help)
{
	out_printf(o, "# TYPE %s %s\n", name, type);
	if (unit)
		out_printf(o, "# UNIT %s %s\n", name, unit);
	out_printf(o, "# HELP %s %s\n", name, help);
}

/* Harmless text has no quotes and no newlines; what backslashes it has stand for themselves. */
static void label(struct out *o, char before, const char *name, const char *value)
{
	char text[4 * 256 + 1];

	text[htrace_escape(text, sizeof(text) - 1, value, strnlen(value, 256))] = 0;
	out_char(o, before);
	out_printf(o, "%s=\"", name);
	for (const char *p = text; *p; p++) {
		if (*p == '\\')
			out_char(o, '\\');
		out_char(o, *p);
	}
	out_char(o, '"');
}

static void number(struct out *o, const char *name, __u64 v)
{
	out_printf(o, ",%s=\"%llu\"", name, (ull)v);
}

static void value(struct out *o, __u64 v)
{
	out_printf(o, "} %llu", (ull)v);
	out_newline(o);
}

static void seconds(struct out *o, __u64 ns)
{
	out_printf(o, "} %llu.%09llu", (ull)(ns / 1000000000), (ull)(ns % 1000000000));
	out_newline(o);
}

static bool numbered; /* captures of sources of one name are read */

static void begin(struct out *o, const char *metric, const struct source *s)
{
	out_text(o, metric);
	label(o, '{', "source", s->name);
	if (numbered)
		number(o, "nr", s->nr);
}

/* ------------------------------------------------------------------------------------ events by name */

/* Its place, also of a new one, if there is room. */
static struct name *name_of(struct names_of *n, const char *text)
{
	unsigned int from = OTHER + 1, to = n->nr;

	while (from < to) {
		unsigned int mid = (from + to) / 2;
		int c = strcmp(text, n->name[mid].text);

		if (!c)
			return &n->name[mid];
		if (c > 0)
			from = mid + 1;
		else
			to = mid;
	}
	if (n->nr == METRICS_NAMES)
		return &n->name[OTHER];
	memmove(&n->name[from + 1], &n->name[from], (n->nr++ - from) * sizeof(*n->name));
	snprintf(n->name[from].text, sizeof(n->name[from].text), "%s", text);
	n->name[from].count = 0;
	return &n->name[from];
}

static void count_name(void *ctx, const char *text, const struct event_count *n)
{
	name_of(ctx, text)->count += n->count;
}

static void write_events(struct out *o, struct names_of *n, const struct source *s)
{
	const struct session *session = s->session ? s->session : s->ending;

	for (unsigned int i = 0; i < n->nr; i++)
		n->name[i].count = 0;
	stats_names(&s->stats, session ? session_now(session) : NULL, count_name, n);
	for (unsigned int i = 0; i < n->nr; i++) {
		if (i == OTHER && !n->name[i].count)
			continue;
		begin(o, "htrace_events_total", s);
		label(o, ',', "event", i == OTHER ? "(others)" : n->name[i].text);
		value(o, n->name[i].count);
	}
}

/* --------------------------------------------------------------------------------------- of sources */

static void write_info(struct out *o, const struct source *s)
{
	begin(o, "htrace_source_info", s);
	label(o, ',', "kind", source_kind_name[s->spec->kind]);
	if (s->vcpus_pid)
		number(o, "pid", (__u64)s->vcpus_pid);
	value(o, 1);
}

static void write_lost(struct out *o, const struct source *s)
{
	const struct ring_count sum = stats_total(&s->stats);
	__u64 skipped = s->stats.misses;

	for (__u32 i = 0; s->session && i < s->guest.nr_progs; i++)
		skipped += s->guest.prog[i].misses;
	const struct {
		const char *why;
		__u64 nr;
	} lost[] = {
		{ "overwritten", sum.overwritten }, { "dropped", sum.dropped }, { "corrupt", sum.corrupt },
		{ "unfinished", sum.unfinished }, { "skipped", skipped },
	};

	for (size_t i = 0; i < sizeof(lost) / sizeof(*lost); i++) {
		begin(o, "htrace_lost_total", s);
		label(o, ',', "reason", lost[i].why);
		value(o, lost[i].nr);
	}
}

static void write_bound(struct out *o, const struct source *s)
{
	__u64 bound = s->stats.host_bound;
	bool known = s->stats.on_host;

	if (s->session)
		known = session_bound(s->session, &bound);
	if (!known)
		return;
	begin(o, "htrace_clock_bound_seconds", s);
	if (bound != HOST_CLOCK_UNKNOWN) {
		seconds(o, bound);
		return;
	}
	out_text(o, "} +Inf");
	out_newline(o);
}

static void write_sources(struct out *o, struct metrics *m, const struct source *source, unsigned int nr, bool end)
{
	family(o, "htrace_source_info", "gauge", NULL, "What is read, and the process that runs it, if KVM tells.");
	for (unsigned int i = 0; i < nr; i++)
		write_info(o, &source[i]);
	family(o, "htrace_reading", "gauge", NULL, "1 while a guest is there and read.");
	for (unsigned int i = 0; i < nr; i++) {
		begin(o, "htrace_reading", &source[i]);
		value(o, !end && source[i].state == SOURCE_READING);
	}
	family(o, "htrace_sessions", "counter", NULL, "Lives of the guest's agent that were read.");
	for (unsigned int i = 0; i < nr; i++) {
		begin(o, "htrace_sessions_total", &source[i]);
		value(o, source[i].stats.sessions);
	}
	family(o, "htrace_events", "counter", NULL, "Events received, by name.");
	for (unsigned int i = 0; i < nr; i++)
		write_events(o, &m->names[i], &source[i]);
	family(o, "htrace_lost", "counter", NULL, "Events that were recorded, or should have been, and did not come.");
	for (unsigned int i = 0; i < nr; i++)
		write_lost(o, &source[i]);
	family(o, "htrace_clock_bound_seconds", "gauge", "seconds",
	       "By how much times that are shown as the host's may be off.");
	for (unsigned int i = 0; i < nr; i++)
		write_bound(o, &source[i]);
}

/* -------------------------------------------------------------------------------------- of exits */

/* Durations are taken back when a loss puts them in doubt; a counter never is. */
static __u64 rising(__u64 *before, __u64 now)
{
	if (now > *before)
		*before = now;
	return *before;
}

static void begin_exit(struct out *o, const char *metric, const struct source *source, const struct exits_row *r)
{
	char code[16];

	begin(o, metric, &source[r->source]);
	number(o, "pid", r->vm);
	snprintf(code, sizeof(code), "0x%x", r->reason);
	label(o, ',', "reason", *r->name ? r->name : code);
	label(o, ',', "code", code);
}

static void write_reasons(struct out *o, const struct source *source, struct exits_row *const *row, size_t nr, bool time)
{
	for (size_t i = 0; i < nr; i++) {
		if (row[i]->reason == EXITS_ALL)
			continue;
		begin_exit(o, time ? "htrace_exit_seconds_total" : "htrace_exits_total", source, row[i]);
		if (time)
			seconds(o, rising(&row[i]->before_ns, row[i]->out.sum));
		else
			value(o, rising(&row[i]->before, row[i]->out.count));
	}
}

static void write_steal(struct out *o, const struct source *source, const struct exits *x, const struct exits_row *vm)
{
	struct exits_vcpu **v;
	size_t nr;

	v = exits_vcpus(x, vm, &nr);
	for (size_t i = 0; i < nr; i++) {
		begin(o, "htrace_steal_seconds_total", &source[v[i]->source]);
		number(o, "pid", v[i]->vm);
		number(o, "vcpu", v[i]->vcpu);
		number(o, "thread", v[i]->tid);
		seconds(o, rising(&v[i]->before, v[i]->preempted_ns));
	}
	free(v);
}

static void write_exits(struct out *o, const struct source *source, const struct exits *x)
{
	static const char *const what[] = { "htrace_exits", "htrace_exit_seconds", "htrace_steal_seconds" };
	static const char *const help[] = {
		"Exits from guest mode whose end was seen, by process and reason.",
		"Time from these exits to the entries that followed.",
		"Time in which a virtual CPU could have run, and its thread was not on a CPU.",
	};
	struct exits_row **vm, **row;
	size_t nr, rows;

	vm = exits_rows(x, NULL, EXITS_ALL, &nr);
	for (int k = 0; k < 3; k++) {
		family(o, what[k], "counter", k ? "seconds" : NULL, help[k]);
		for (size_t i = 0; i < nr; i++) {
			if (k == 2) {
				write_steal(o, source, x, vm[i]);
				continue;
			}
			row = exits_rows(x, vm[i], EXITS_ALL, &rows);
			write_reasons(o, source, row, rows, k == 1);
			free(row);
		}
	}
	free(vm);
}

/* --------------------------------------------------------------------------------------- the file */

static int write_beside(struct metrics *m, const struct source *source, unsigned int nr, bool end)
{
	int fd, ret;
	struct out *o;

	unlinkat(m->dir, m->beside, 0);
	fd = openat(m->dir, m->beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd < 0)
		return -errno;
	ret = out_open_fd(&o, fd);
	if (!ret) {
		family(o, "htrace_build_info", "gauge", NULL, "The host-reader that writes this.");
		out_printf(o, "htrace_build_info{version=\"%s\"} 1\n", htrace_version());
		write_sources(o, m, source, nr, end);
		if (m->exits)
			write_exits(o, source, view_exits_numbers(m->exits));
		out_text(o, "# EOF\n");
		ret = out_close(o);
	}
	if (!ret && fchmod(fd, 0644)) /* collectors are other users */
		ret = -errno;
	close(fd);
	return ret;
}

/* What cannot be written now, can perhaps the next time: who reads the file sees how old it is. */
static void write_file(struct metrics *m, const struct source *source, unsigned int nr, bool end)
{
	int ret = write_beside(m, source, nr, end);

	if (!ret && renameat(m->dir, m->beside, m->dir, m->name))
		ret = -errno;
	if (ret && ret != m->said)
		say("cannot write metrics to %s/%s: %s; trying again", m->directory, m->name, strerror(-ret));
	m->said = ret;
}

void metrics_refresh(struct sinks *s, const struct source *source, unsigned int nr, __u64 now, bool end)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct metrics *m = metrics_directory(&s->sink[i]) ? s->sink[i].state : NULL;

		if (!m || (now < m->next && !end))
			continue;
		m->next = now + m->interval;
		write_file(m, source, nr, end);
	}
}

/* -------------------------------------------------------------------------------------- as a sink */

static void metrics_free(struct sink *s)
{
	struct metrics *m = s->state;

	if (!m)
		return;
	if (m->exits)
		view_exits.close(m->exits);
	for (unsigned int i = 0; i < MAX_SOURCES; i++)
		free(m->names[i].name);
	if (m->dir >= 0)
		close(m->dir);
	free(m->directory);
	free(m->name);
	free(m->beside);
	free(m);
	s->state = NULL;
}

static int metrics_open(struct sink *s)
{
	struct metrics *m = s->state = calloc(1, sizeof(*m));
	const char *slash = strrchr(s->path, '/');
	struct stat st;
	int ret = 0;

	if (!m)
		return -ENOMEM;
	m->dir = -1;
	m->name = strdup(slash ? slash + 1 : s->path);
	m->directory = !slash ? strdup(".") : slash == s->path ? strdup("/") : strndup(s->path, (size_t)(slash - s->path));
	if (!m->name || !m->directory || asprintf(&m->beside, ".%s.new", m->name) < 0)
		ret = -ENOMEM;
	if (!ret)
		m->dir = open(m->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (!ret && (m->dir < 0 || faccessat(m->dir, ".", W_OK | X_OK, AT_EACCESS)))
		ret = -errno;
	if (!ret && !*m->name)
		ret = -EISDIR;
	/* What takes its place is a file. */
	if (!ret && !fstatat(m->dir, m->name, &st, AT_SYMLINK_NOFOLLOW) && !S_ISREG(st.st_mode))
		ret = -EEXIST;
	if (ret)
		metrics_free(s);
	return ret;
}

static int metrics_begin(struct sink *s)
{
	return 0;
}

static void metrics_flush(struct sink *s)
{
}

static int metrics_error(const struct sink *s)
{
	return 0;
}

static int metrics_close(struct sink *s)
{
	struct metrics *m = s->state;
	int ret = m->said;

	unlinkat(m->dir, m->beside, 0);
	metrics_free(s);
	return ret;
}

static void metrics_event(struct sink *s, const struct sink_event *e)
{
	struct metrics *m = s->state;

	if (e->from->session->facts.host)
		view_exits.event(m->exits, e);
}

static void metrics_loss(struct sink *s, const struct sink_loss *l)
{
	struct metrics *m = s->state;

	view_exits.loss(m->exits, l);
}

static void metrics_session_end(struct sink *s, const struct sink_session *session)
{
	struct metrics *m = s->state;

	view_exits.session_end(m->exits, session);
}

/* Without a source that tells of exits no event is wanted: all else is counted when it is read. */
const struct sink_ops sink_metrics = {
	.name = "metrics",
	.file = true,
	.open = metrics_open,
	.abandon = metrics_free,
	.begin = metrics_begin,
	.flush = metrics_flush,
	.error = metrics_error,
	.close = metrics_close,
};

static const struct sink_ops sink_metrics_exits = {
	.name = "metrics",
	.file = true,
	.open = metrics_open,
	.abandon = metrics_free,
	.begin = metrics_begin,
	.flush = metrics_flush,
	.error = metrics_error,
	.close = metrics_close,
	.event = metrics_event,
	.loss = metrics_loss,
	.session_end = metrics_session_end,
};

const char *metrics_directory(const struct sink *s)
{
	return s->ops->open == metrics_open ? ((const struct metrics *)s->state)->directory : NULL;
}

int metrics_start(struct sinks *s, const struct source *source, unsigned int nr, __u64 interval)
{
	bool host = false;

	for (unsigned int i = 0; i < nr; i++) {
		host |= source[i].spec->kind == SOURCE_KVM || source[i].spec->kind == SOURCE_FILE;
		for (unsigned int k = 0; k < i; k++)
			numbered |= !strcmp(source[i].name, source[k].name);
	}
	for (unsigned int i = 0; i < s->nr; i++) {
		struct metrics *m = metrics_directory(&s->sink[i]) ? s->sink[i].state : NULL;

		if (!m)
			continue;
		m->interval = interval ? interval : INTERVAL_NS;
		for (unsigned int k = 0; k < nr; k++) {
			m->names[k].name = calloc(METRICS_NAMES, sizeof(struct name));
			m->names[k].nr = OTHER + 1;
			if (!m->names[k].name)
				return -ENOMEM;
		}
		m->exits = host ? view_exits.open() : NULL;
		if (host && !m->exits)
			return -ENOMEM;
		if (host)
			s->sink[i].ops = &sink_metrics_exits;
	}
	return 0;
}

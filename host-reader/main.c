/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* host-reader: shows what guests trace. */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <htrace/sync.h>

#include "console.h"
#include "ctl.h"
#include "message.h"
#include "metrics.h"
#include "options.h"
#include "sandbox.h"
#include "select.h"
#include "sink.h"
#include "source.h"
#include "summary.h"
#include "sync_kvm_exit.h"
#include "vcpus.h"
#include "view.h"

#define MS 1000000ULL
#define TICK_NS (100 * MS)  /* the longest sleep: heartbeats, states */
#define IDLE_NS (20 * MS)   /* while no rings are read */
#define FINISH_READ_NS (1000 * MS) /* at the end: to read what is there */
#define FINISH_NS (3000 * MS)      /* and to show it */
#define FLUSH_NS (200 * MS) /* of outputs that are not terminals */

struct reader {
	struct options options;
	struct sinks sinks;
	struct selection *selection;
	struct source_config config;
	struct snapshot_config snapshot;
	struct source *source;
	struct statistics *statistics;
	unsigned int nr; /* of the sources that were opened */
	struct htrace_sync *sync, *idle;
	struct kvm_exits *exits; /* or NULL */
	struct teller *teller;   /* or NULL */
	struct order *order;
	struct vcpu_hosts *hosts;
	struct console *console[MAX_SOURCES]; /* or NULL */
	__u64 started, next_flush, next_stats, next_progress;
	bool output_failed, warned_unused;
};

static volatile sig_atomic_t stop, snapshot;
static struct htrace_sync *volatile waiting[2]; /* for the handler to wake */

static __u64 clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (__u64)t.tv_sec * 1000 * MS + (__u64)t.tv_nsec;
}

static void on_signal(int sig)
{
	stop = 1;
	signal(sig, SIG_DFL); /* a second one does not wait for outputs that are stuck */
	for (int i = 0; i < 2; i++)
		if (waiting[i])
			htrace_sync_wake(waiting[i]);
}

static void on_snapshot(int sig)
{
	snapshot = sig;
	for (int i = 0; i < 2; i++)
		if (waiting[i])
			htrace_sync_wake(waiting[i]);
}

/* SIGUSR1 ends a reader that has no flight recorder, as it ends most programs. */
static void catch_signals(bool recorder)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct sigaction usr = { .sa_handler = on_snapshot };

	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	if (recorder)
		sigaction(SIGUSR1, &usr, NULL);
	signal(SIGPIPE, SIG_IGN); /* writing says EPIPE */
	signal(SIGXFSZ, SIG_IGN); /* and EFBIG, which is told */
}

/* Descriptors that we were started without: no file that we open may take their place. */
static void fill_descriptors(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd > STDERR_FILENO)
		close(fd);
}

static bool any_ready(void *ctx)
{
	const struct reader *r = ctx;

	for (unsigned int i = 0; i < r->nr; i++)
		if (source_ready(&r->source[i]))
			return true;
	return false;
}

/* Before the policy sleeps until it is rung. */
static int arm_all(void *ctx, struct htrace_bell *bell, int max, bool *all)
{
	const struct reader *r = ctx;
	int nr = 0;

	for (unsigned int i = 0; i < r->nr; i++)
		if (!source_arm(&r->source[i], bell, &nr, max))
			*all = false;
	htrace_sync_armed();
	return nr;
}

/* ------------------------------------------------------------------------------------- the loop */

static enum source_bell bell_of(const char *policy)
{
	return !strcmp(policy, "futex") ? SOURCE_WORD :
	       !strcmp(policy, "doorbell") ? SOURCE_DOORBELL_FD : SOURCE_NO_BELL;
}

/* What cannot be watched is no reason to read nothing. */
static void begin_exits(struct reader *r)
{
	char err[256] = "";

	if (!sync_kvm_exit_is(r->options.sync))
		return;
	if (kvm_exits_open(&r->exits, err, sizeof(err))) {
		say("exits cannot be watched: %s; sync adaptive instead of %s", err, r->options.sync);
		r->options.sync = "adaptive";
	}
	sync_kvm_exit_use(r->exits);
}

/* Likewise: what cannot be told is no reason to read nothing. */
static void begin_telling(struct reader *r)
{
	char err[256] = "";

	if (r->options.tell_guest && teller_open(&r->teller, err, sizeof(err)))
		say("guests cannot be told of their exits: %s; going on without", err);
}

/* 0, or an exit status after having said why. */
static int begin_recorder(struct reader *r)
{
	const struct options *o = &r->options;

	r->snapshot = (struct snapshot_config){
		.bytes = o->snapshot.bytes, .filter = o->snapshot.filter,
	};
	if (!o->snapshot.events || !selection_new(&r->snapshot.events, o->snapshot.events))
		return 0;
	say("--snapshot '%s': which event? Give names such as 'sched_switch', or SIZE alone",
	    o->snapshot.events);
	return 2;
}

/* 0, or an exit status after having said why. */
static int open_consoles(struct reader *r)
{
	for (unsigned int i = 0; i < r->options.nr_sources; i++) {
		const char *path = r->options.source[i].console;
		char err[256] = "";

		if (!path || !console_open(&r->console[i], path, err, sizeof(err)))
			continue;
		say("console '%s': %s", path, err);
		return 1;
	}
	return 0;
}

/* Of text outputs, views. False: memory is out. */
static bool begin_views(struct reader *r)
{
	const struct options *o = &r->options;
	bool capture[MAX_SOURCES];

	if (!o->tables)
		return true;
	if (views_open(&r->sinks, o->tables, o->stats_ns, r->started))
		return false;
	for (unsigned int i = 0; i < r->nr; i++)
		capture[i] = o->source[i].kind == SOURCE_FILE;
	views_configure(&r->sinks, &(struct view_config){
		.number = o->view_number, .nr = r->nr, .console = r->console, .capture = capture,
		.source = r->source, .started = r->started });
	return true;
}

/* Nothing is written before all that can be refused was looked at. */
static int begin(struct reader *r)
{
	struct options *o = &r->options;
	bool any = false;
	int ret;

	if (selection_new(&r->selection, o->events)) {
		say("--events '%s': an empty pattern; give names such as 'sched_*,sys_enter'",
		    o->events);
		return 2;
	}
	ret = begin_recorder(r);
	if (ret)
		return ret;
	source_streams_begin(o);
	ret = sinks_open(&r->sinks, o->output, o->nr_outputs);
	if (ret)
		return ret;
	if (source_file_expand(o) || open_consoles(r))
		return 1;
	begin_exits(r);
	begin_telling(r);
	r->order = order_new();
	r->hosts = vcpu_hosts_new();
	r->config = (struct source_config){
		.exits = r->exits,
		.teller = r->teller,
		.hosts = r->hosts,
		.sinks = o->view == VIEW_SUMMARY ? NULL : &r->sinks,
		.selection = r->selection,
		.filter = o->filter,
		.snapshot = o->snapshot.bytes ? &r->snapshot : NULL,
		.sync = o->sync,
		.bell = bell_of(o->sync),
		.several = o->nr_sources > 1,
		.copy = o->copy,
		.order = r->order,
		.host_clock = o->nr_sources > 1 || o->clock,
		.clock = o->clock,
	};
	r->source = calloc(o->nr_sources, sizeof(*r->source));
	r->statistics = calloc(o->nr_sources, sizeof(*r->statistics));
	if (!r->source || !r->statistics || !r->order || !r->hosts) {
		say("out of memory");
		return 1;
	}
	for (; r->nr < o->nr_sources; r->nr++) {
		struct source *s = &r->source[r->nr];
		const char *same;
		__u64 dev, ino;

		ret = source_open(s, &o->source[r->nr], r->nr, &r->config);
		if (ret < 0)
			return 1;
		if (ret) /* the others are read all the same */
			continue;
		any = true;
		if (!s->view)
			continue;
		htrace_view_file(s->view, &dev, &ino);
		same = sinks_find_file(&r->sinks, dev, ino);
		if (same) {
			say("output %s is the region '%s' itself", same, s->spec->path);
			source_close(s);
			return 1;
		}
	}
	if (!any)
		return 1;
	ret = sinks_begin(&r->sinks);
	if (!ret && !begin_views(r)) {
		say("out of memory");
		ret = 1;
	}
	if (!ret && metrics_start(&r->sinks, r->source, r->nr, o->stats_ns)) {
		say("out of memory");
		ret = 1;
	}
	for (unsigned int i = 0; i < r->nr && !ret; i++)
		if (r->source[i].state != SOURCE_FAILED)
			source_begin(&r->source[i], r->started);
	return ret;
}

static int begin_sync(struct reader *r)
{
	struct htrace_sync_target target = {
		.sz = sizeof(target), .ready = any_ready, .arm = arm_all, .ctx = r
	};
	int ret = htrace_sync_new(&r->sync, r->options.sync, &target);

	if (!ret)
		ret = htrace_sync_new(&r->idle, "timer:20000", &target);
	if (ret) {
		say("sync policy '%s': %s", r->options.sync, strerror(-ret));
		return 1;
	}
	waiting[0] = r->sync;
	waiting[1] = r->idle;
	return 0;
}

static void show_progress(struct reader *r, __u64 now)
{
	const char *awaits = NULL;

	if (now < r->next_progress)
		return;
	r->next_progress = now + 1000 * MS;
	for (unsigned int i = 0; i < r->nr; i++) {
		awaits = source_awaits(&r->source[i]);
		if (!awaits && r->source[i].state != SOURCE_FAILED)
			break;
	}
	if (awaits)
		progress("waiting for %s, %llu s", awaits,
			 (unsigned long long)((now - r->started) / (1000 * MS)));
	else
		progress_end();
}

static void show_statistics(struct reader *r, __u64 now)
{
	if (!r->options.stats_ns || now < r->next_stats)
		return;
	if (r->next_stats)
		for (unsigned int i = 0; i < r->nr; i++)
			statistics_say(&r->statistics[i], &r->source[i], now);
	else
		for (unsigned int i = 0; i < r->nr; i++)
			r->statistics[i].at = now;
	r->next_stats = now + r->options.stats_ns;
}

static void flush(struct reader *r, __u64 now)
{
	bool all = now >= r->next_flush;

	if (all)
		r->next_flush = now + FLUSH_NS;
	views_refresh(&r->sinks, now);
	for (unsigned int i = 0; i < r->nr; i++)
		if (source_rests(&r->source[i]))
			views_rest(&r->sinks, i);
	metrics_refresh(&r->sinks, r->source, r->nr, now, false);
	sinks_flush(&r->sinks, all);
	r->output_failed = sinks_failed(&r->sinks);
}

/* One look at every source. Returns how long to wait at most. */
static __u64 round_of_all(struct reader *r, __u64 now, bool *reading, bool *alive)
{
	struct source_round round = { 0 };
	__u64 due = now + TICK_NS;

	*reading = *alive = false;
	for (unsigned int i = 0; i < r->nr; i++) {
		struct source *s = &r->source[i];

		source_round(s, now, &round);
		*alive |= (s->state != SOURCE_FAILED && s->state != SOURCE_DONE) || s->ending;
		*reading |= source_is_reading(s);
		if (source_due(s) < due)
			due = source_due(s);
	}
	if (*reading)
		htrace_sync_did(r->sync, round.events, round.backlog);
	return round.more || due <= now ? 0 : due - now;
}

static bool all_failed(const struct reader *r)
{
	for (unsigned int i = 0; i < r->nr; i++)
		if (r->source[i].state != SOURCE_FAILED)
			return false;
	return true;
}

static void take_snapshots(struct reader *r, __u64 now)
{
	if (!snapshot)
		return;
	snapshot = 0;
	for (unsigned int i = 0; i < r->nr; i++)
		source_snapshot(&r->source[i], "SIGUSR1", now);
}

/* Said once: as soon as the only source's events are known, else at the end. */
static void warn_unused(struct reader *r)
{
	const char *like, *pattern = selection_unused(r->selection, &like);
	bool any = false;

	for (unsigned int i = 0; i < r->nr; i++)
		any |= r->source[i].stats.sessions != 0;
	if (!any || !pattern || r->warned_unused)
		return;
	r->warned_unused = true;
	if (like[0])
		say("--events: no event is called '%s'; there are %s", pattern, like);
	else
		say("--events: no event is called '%s'; the guest-agent's --events says what is "
		    "traced", pattern);
}

/* Until the end, whatever it is. Returns whether all sources failed. */
static bool run(struct reader *r)
{
	__u64 end = r->options.duration_ns ? r->started + r->options.duration_ns : UINT64_MAX;
	bool reading, alive;

	while (!stop && !r->output_failed) {
		__u64 now = clock_ns(CLOCK_MONOTONIC), wait;

		if (now >= end)
			return false;
		wait = round_of_all(r, now, &reading, &alive);
		if (snapshot)
			wait = 0;
		take_snapshots(r, now);
		if (!alive)
			return all_failed(r);
		if (reading && r->nr == 1)
			warn_unused(r);
		flush(r, now);
		show_statistics(r, now);
		show_progress(r, now);
		if (wait > end - now)
			wait = end - now;
		if (wait > r->next_flush - now) /* what is held back is not held longer than that */
			wait = r->next_flush - now;
		if (r->options.stats_ns && wait > r->next_stats - now)
			wait = r->next_stats > now ? r->next_stats - now : 0;
		if (stop || !wait)
			continue;
		if (reading)
			htrace_sync_wait(r->sync, wait);
		else
			htrace_sync_wait(r->idle, wait < IDLE_NS ? wait : IDLE_NS);
	}
	return false;
}

/* -------------------------------------------------------------------------------------- the end */

static __u64 cpu_ns(void)
{
	return clock_ns(CLOCK_PROCESS_CPUTIME_ID);
}

static void write_summary(struct reader *r, struct out *o, __u64 elapsed)
{
	__u64 cpu = cpu_ns();

	for (unsigned int i = 0; i < r->nr; i++) {
		if (i)
			out_newline(o);
		summary_write(o, &r->source[i], elapsed, cpu);
	}
	out_flush(o);
}

/*
 * All in turn, so that one whose end is much work does not take the time of the others; and within
 * a time in which nobody takes us for stuck.
 */
static void finish_sources(struct reader *r, __u64 start)
{
	__u64 now = start;
	bool more = true, late;

	while (more && now - start < FINISH_NS && !r->output_failed) {
		more = false;
		late = now - start > FINISH_READ_NS;
		for (unsigned int i = 0; i < r->nr; i++)
			more |= source_finish_some(&r->source[i], now, late);
		r->output_failed = sinks_failed(&r->sinks);
		if (more)
			usleep(100);
		now = clock_ns(CLOCK_MONOTONIC);
	}
}

static int finish(struct reader *r, bool failed)
{
	__u64 now = clock_ns(CLOCK_MONOTONIC);
	bool came = false;
	struct out *err;
	int ret;

	progress_end();
	if (r->exits)
		kvm_exits_read_all(r->exits, true);
	views_finish(&r->sinks);
	finish_sources(r, now);
	for (unsigned int i = 0; i < r->nr; i++) {
		failed |= r->source[i].state == SOURCE_FAILED;
		source_finish(&r->source[i], now);
		came |= r->source[i].guest_came;
	}
	if (r->options.view == VIEW_SUMMARY && !r->output_failed)
		for (unsigned int i = 0; i < r->sinks.nr; i++)
			write_summary(r, r->sinks.sink[i].out, now - r->started);
	metrics_refresh(&r->sinks, r->source, r->nr, now, true);
	views_close(&r->sinks, !r->output_failed);
	ret = sinks_close(&r->sinks);
	if ((r->options.view != VIEW_SUMMARY || ret) && !out_open_fd(&err, STDERR_FILENO)) {
		write_summary(r, err, now - r->started);
		out_close(err);
	}
	warn_unused(r);
	if (!came && !stop && !failed && !ret) {
		if (r->options.duration_ns)
			say("no guest came within %.3f s", (double)r->options.duration_ns / 1e9);
		else
			say("no guest came");
		return 1;
	}
	return failed || ret || r->output_failed ? 1 : 0;
}

int main(int argc, char **argv)
{
	struct reader r = { 0 };
	int ret;

	fill_descriptors();
	if (argc > 1 && !strcmp(argv[1], "ctl"))
		return ctl_main(argc - 1, argv + 1);
	sync_kvm_exit_register();
	if (options_parse(&r.options, argc, argv, &ret)) {
		options_free(&r.options);
		return ret;
	}
	r.started = clock_ns(CLOCK_MONOTONIC);
	/* Before anything is said: who reads that may end us at once, and what a shell began by `&` ignores SIGINT. */
	catch_signals(r.options.snapshot.bytes != 0);
	ret = begin(&r);
	if (!ret)
		ret = begin_sync(&r);
	if (!ret)
		ret = sandbox_enter(&r.options, &r.sinks, r.source, r.nr);
	if (!ret) {
		ret = finish(&r, run(&r));
	} else {
		views_close(&r.sinks, false);
		sinks_abandon(&r.sinks);
	}
	waiting[0] = waiting[1] = NULL;
	htrace_sync_free(r.sync);
	htrace_sync_free(r.idle);
	for (unsigned int i = 0; i < r.nr; i++)
		source_close(&r.source[i]);
	source_streams_end(&r.options);
	for (unsigned int i = 0; i < r.options.nr_sources; i++)
		console_close(r.console[i]);
	order_free(r.order);
	kvm_exits_close(r.exits);
	teller_close(r.teller);
	vcpu_hosts_free(r.hosts);
	free(r.source);
	free(r.statistics);
	selection_free(r.selection);
	selection_free(r.snapshot.events);
	sandbox_leave();
	options_free(&r.options);
	return ret;
}

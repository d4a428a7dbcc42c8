/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sandbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "clock.h"
#include "confine.h"
#include "finder.h"
#include "message.h"
#include "metrics.h"

static void add_read(struct confine_plan *p, const char *path)
{
	if (p->nr_read < CONFINE_PATHS)
		p->read[p->nr_read++] = path;
}

/* @room keeps the path. */
static bool add_below(struct confine_plan *p, char room[4096], const char *variable, const char *what)
{
	const char *dir = getenv(variable);
	bool fits = dir && *dir == '/' && snprintf(room, 4096, "%s/%s", dir, what) < 4096;

	if (fits)
		add_read(p, room);
	return fits;
}

static void add_outputs(struct confine_plan *p, const struct sinks *sinks)
{
	struct stat st;

	for (unsigned int i = 0; i < sinks->nr; i++) {
		const char *path = sinks->sink[i].path;

		if (metrics_directory(&sinks->sink[i]))
			p->outdir[p->nr_outdirs++] = metrics_directory(&sinks->sink[i]);
		/* What is no directory is open already, and the only file that is written. */
		if (path && !stat(path, &st) && S_ISDIR(st.st_mode))
			p->outdir[p->nr_outdirs++] = path;
	}
}

static void add_captures(struct confine_plan *p, const struct options *o)
{
	for (unsigned int i = 0; i < o->nr_sources; i++) {
		const char *path = o->source[i].path;

		/* All the sources of one capture have its path. */
		if (o->source[i].kind == SOURCE_FILE && (!p->nr_read || strcmp(p->read[p->nr_read - 1], path)))
			add_read(p, path);
	}
}

/* Names of functions (elf_symbols.c); owners of rings (/proc); the clocks, guests' too (kvm_tsc.c). */
static void add_system(struct confine_plan *p, char debug[4096], char cache[4096], char xdg[4096])
{
	add_read(p, "/proc");
	add_read(p, "/usr");
	add_read(p, "/sys/devices/system/clocksource");
	add_read(p, "/sys/kernel/debug/kvm");
	if (add_below(p, debug, "HOME", ".debug"))
		p->debug = debug;
	add_below(p, cache, "HOME", ".cache/debuginfod_client");
	add_below(p, xdg, "XDG_CACHE_HOME", "debuginfod_client");
	if (getenv("DEBUGINFOD_CACHE_PATH"))
		add_read(p, getenv("DEBUGINFOD_CACHE_PATH"));
}

/* Its programs are attached when its region, which is ours, is attached to: at once. */
static void begin_kvm(struct source *source, unsigned int nr)
{
	struct source_round round = { 0 };

	for (unsigned int i = 0; i < nr; i++) {
		struct source *s = &source[i];

		for (int n = 0; n < 4 && s->kvm && (s->state == SOURCE_WAITING || s->state == SOURCE_MAPPING); n++)
			source_round(s, clock_now(), &round);
	}
}

/* Are maps of programs on the host's KVM looked at, or changed? */
static bool has_bpf(const struct source *source, unsigned int nr)
{
	bool has = source[0].config->exits || source[0].config->teller;

	for (unsigned int i = 0; i < nr; i++)
		has |= source[i].kvm != NULL;
	return has;
}

int sandbox_enter(const struct options *o, const struct sinks *sinks, struct source *source, unsigned int nr)
{
	char debug[4096], cache[4096], xdg[4096], said[256] = "";
	struct confine_plan plan = { .bpf = has_bpf(source, nr) };
	int ret;

	if (o->no_sandbox)
		return 0;
	begin_kvm(source, nr);
	add_system(&plan, debug, cache, xdg);
	add_outputs(&plan, sinks);
	add_captures(&plan, o);
	ret = finder_start(source, nr, plan.bpf);
	if (!ret)
		ret = confine(&plan, said, sizeof(said));
	if (ret) {
		say("cannot give up what reading does not need: %s (%s); --no-sandbox goes on without",
		    strerror(-ret), said);
		return 1;
	}
	if (o->stats_ns)
		say("sandbox: %s", said);
	return 0;
}

void sandbox_leave(void)
{
	finder_stop();
}

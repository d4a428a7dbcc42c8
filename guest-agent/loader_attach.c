/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Programs that are loaded, attached to what they record, and detached: all of them, or single ones later. */
#include "loader_internal.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/membarrier.h>

#include "health.h"
#include "message.h"

/* Of profile and functions: 0, or -1 after saying why. */
static int attach_by_itself(struct program *p)
{
	return p->hz ? loader_attach_profile(p) : loader_attach_functions(p);
}

/* Of all others: 0, or -1 after saying @left_out. */
static int attach_link(struct program *p, const char *left_out)
{
	p->link = p->tp ? bpf_program__attach_tracepoint(p->prog, p->tp->system, p->tp->name) :
			  bpf_program__attach(p->prog);
	if (p->link) {
		p->attached = monotonic_ns();
		return 0;
	}
	say("%s%s: cannot attach to %s: %s", p->name, left_out, bpf_program__section_name(p->prog),
	    strerror(errno));
	return -1;
}

int loader_attach_one(struct program *p)
{
	return p->hz || p->functions ? attach_by_itself(p) : attach_link(p, "");
}

int loader_attach(struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs;) {
		struct program *p = &l->program[i];

		if (p->hz || p->functions) {
			if (attach_by_itself(p))
				return -1;
			i++;
		} else if (attach_link(p, " is left out")) {
			loader_leave_out(l, i);
		} else {
			i++;
		}
	}
	if (!l->nr_programs)
		say("nothing to trace: no program could be attached");
	return l->nr_programs ? 0 : -1;
}

void loader_detach_one(struct program *p)
{
	bpf_link__destroy(p->link);
	p->link = NULL;
	while (p->nr_cpu_links)
		bpf_link__destroy(p->cpu_link[--p->nr_cpu_links]);
	free(p->cpu_link);
	p->cpu_link = NULL;
	if (p->link_fd > 0) {
		p->misses_before += loader_not_called(p->link_fd); /* the kernel counts by link */
		close(p->link_fd);
	}
	p->link_fd = 0;
}

void loader_let_end(void)
{
	/* Waits for an RCU grace period, within which programs that are under way end. */
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		usleep(50000);
}

void loader_detach(struct loader *l, void (*between)(void *arg), void *arg)
{
	/* Where functions are entered before where they return: else what is under way would be lost. */
	for (size_t i = l->nr_programs; i-- > 0;) {
		loader_detach_one(&l->program[i]);
		if (between)
			between(arg);
	}
	loader_let_end();
}

/* ---------------------------------------------------------------------------------- single events */

bool loader_is_on(const struct program *p)
{
	return p->link || p->nr_cpu_links || p->link_fd > 0;
}

void loader_event_name(const struct loader *l, const struct program *p, char name[64])
{
	const struct tracer *t = loader_tracer_of(l, p);
	const char *part = strstr(p->name, "__");

	if (t && t->tp)
		snprintf(name, 64, "%s", t->name);
	else if (t && t->built_in && part && part != p->name)
		snprintf(name, 64, "%.*s", (int)(part - p->name), p->name);
	else
		snprintf(name, 64, "%s", p->name);
}

bool loader_is_kept(const struct program *p)
{
	return loader_is_name_source(p->name) || !strcmp(p->name, "sched_process_exit");
}

bool loader_is_named(const struct loader *l, const struct program *p, const char *word)
{
	const struct tracer *t = loader_tracer_of(l, p);
	char name[64];

	loader_event_name(l, p, name);
	return !fnmatch(word, name, 0) || (t && !strcmp(word, t->name));
}

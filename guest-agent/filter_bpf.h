/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Filters as BPF instructions, for the window in htrace_filter.bpf.h. */
#ifndef AGENT_FILTER_BPF_H
#define AGENT_FILTER_BPF_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/bpf.h>

#include <htrace/filter.h>

#include "../bpf/htrace_filter_marks.h"

/* Instructions, as far as they were made. */
struct filter_code {
	struct bpf_insn insn[HTRACE_FILTER_INSNS];
	size_t nr;
	bool wants_task, wants_comm, wants_cpu;
	const char *error; /* why it cannot be compiled; NULL: it can */
	/* jumps whose target is not known yet: insn[at] to label */
	struct {
		__u16 at, label;
	} jump[HTRACE_FILTER_INSNS];
	size_t nr_jumps;
	__u16 nr_labels;
	__u16 label[HTRACE_FILTER_INSNS]; /* where each is */
};

/* An event that a program records: its number there, and the filter for it; NULL: all pass. */
struct filter_case {
	__u32 number;
	const struct htrace_filter_bound *bound;
	const struct htrace_event *event;
	__u32 sample; /* of those that pass, keep one in so many, at random; 0, 1: all */
};

/*
 * What sets r0 to 1 if the record that r1 points to, of event number r2, is to be kept, else to 0.
 * Uses r3 to r5. 0, or -1 with code->error.
 */
int filter_compile(struct filter_code *code, const struct filter_case *cases, size_t nr);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings of htrace.bpf.h for benchmarks: BPF programs, and what guest-agent would tell them. */
#ifndef BENCH_BPF_RINGS_H
#define BENCH_BPF_RINGS_H

#include <bpf/libbpf.h>

#include <htrace/consumer.h>

struct bpf_rings {
	struct bpf_object *obj;
	struct htrace_geometry geometry;
	void *mem; /* of all CPUs */
	size_t image_size;
};

struct bpf_rings_event {
	const char *name; /* NULL: the end */
	__u32 id;
};

/*
 * Load @object, a file beside this program, with a ring of @size bytes for each CPU, that overwrites. 0, or
 * -errno and @why in words.
 */
int bpf_rings_open(struct bpf_rings *r, const char *object, __u64 size, const struct bpf_rings_event *events,
		   const char **why);
void bpf_rings_close(struct bpf_rings *r);
/* For a consumer of @cpu's ring. */
struct htrace_image bpf_rings_image(const struct bpf_rings *r, int cpu);

#endif

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Any tracepoint, by name: the agent loads this once for each, with another `config`. The context
 * of programs of this type is the kernel's own record of the event.
 */
#define HTRACE_NO_MODULE /* not for this type of program */
#include "htrace.bpf.h"
#include "tracepoint.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct tracepoint_config config;

/* Described by the agent, from the tracepoint's format file. */
struct tracepoint {
	char data[1];
};
HTRACE_EVENT(tracepoint);

static __always_inline __u32 load_word(const char *record, __u32 at)
{
	__u32 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), record + at);
	return word;
}

SEC("tracepoint")
int by_name(void *ctx)
{
	const char *record = ctx, *text = record;
	struct htrace_slot slot;
	struct tracepoint *e;
	__u32 len = 0;
	char *p;

	if (config.last.word) {
		__u32 word = load_word(record, config.last.word);

		text += config.last.base + (word & 0xffff);
		len = word >> 16;
		if (len > TRACEPOINT_TEXT_MAX)
			len = TRACEPOINT_TEXT_MAX;
	}
	e = htrace_begin_len(tracepoint, config.size + len, &slot);
	if (!e)
		return 0;
	p = e->data;
	bpf_probe_read_kernel(p, config.fixed, record + TRACEPOINT_COMMON);
#pragma unroll
	for (int i = 0; i < TRACEPOINT_DYN_MAX; i++) {
		char *place = p + config.places + i * TRACEPOINT_PLACE;

		if (config.dyn[i].word) {
			__u32 word = load_word(record, config.dyn[i].word), n = word >> 16;
			const char *from = record + config.dyn[i].base + (word & 0xffff);

			/* Reading fails, and zeroes it all. */
			bpf_probe_read_kernel(place, TRACEPOINT_PLACE, (void *)0);
			if (n > TRACEPOINT_PLACE)
				n = TRACEPOINT_PLACE;
			if (config.dyn[i].is_text)
				bpf_probe_read_kernel_str(place, TRACEPOINT_PLACE, from);
			else
				bpf_probe_read_kernel(place, n, from);
		}
	}
	if (len) /* the verifier has forgotten the bound by now */
		bpf_probe_read_kernel_str(p + config.size,
					  ((len - 1) & (TRACEPOINT_TEXT_MAX - 1)) + 1, text);
	htrace_end(&slot);
	return 0;
}

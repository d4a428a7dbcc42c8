/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether the kernel counts what it skips of BPF programs. */
#ifndef MISSES_H
#define MISSES_H

#include <stdbool.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

/*
 * Does this kernel count the calls that it skips of programs of @type (recursion_misses)?
 * - tp_btf, raw_tp, fentry, fexit: every kernel with the counter does, or skips nothing.
 * - lsm: nothing is ever skipped.
 * - kprobe, uprobe and tracepoint programs are skipped whenever another one runs on the CPU; this
 *   is counted since 6.7, which also gave the links' info a member `missed`.
 * - other types: not known.
 */
bool counts_misses(const struct btf *kernel, enum bpf_prog_type type);

#endif

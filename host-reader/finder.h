/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process beside the reader that keeps the rights which the reader gives up: who is confined by
 * Landlock may not look into other processes, not even as root. It opens for the reader what the command
 * line names or what belongs to it, and nothing else: a region's file that took another one's place, a
 * VM's memory, the VM's process. It touches no memory of any guest, and of the reader's questions
 * believes nothing. It ends with the reader.
 */
#ifndef READER_FINDER_H
#define READER_FINDER_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

#include "kvm_process.h"
#include "pass_fd.h"
#include "source.h"

#define FINDER_FILES PASS_FDS

/* Make it, for @nr sources that are open; @bpf_stats: finder_bpf_stats() may be asked. 0, or -errno. */
int finder_start(const struct source *source, unsigned int nr, bool bpf_stats);
/* Is it there? Else the caller does all that by itself. */
bool finder_runs(void);
/* It is not needed any more; when this returns, it is gone. */
void finder_stop(void);

/* As region_file_open(), of a source's path. */
int finder_region(const char *path, bool *writable, char *err, size_t errlen);
/* As htrace_ram_find(), for the region's source: as its ram= and pid= say. */
int finder_ram(const struct htrace_view *v, int fd[FINDER_FILES], char *err, size_t errlen);
/* As kvm_process_find(). */
int finder_process(struct kvm_process *p, const struct htrace_view *v, int pid, char *err,
		   size_t errlen);
/* As vmm_scan(), of the region's file. */
int finder_vmm(const struct htrace_view *v);
/* Remove the file of a region that was made for a VM (source_plug.c), if it is still that one. 0, or -errno. */
int finder_remove(const struct htrace_view *v);
/* As bpf_enable_stats(). */
int finder_bpf_stats(void);

#endif

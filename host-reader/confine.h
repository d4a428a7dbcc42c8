/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the reader gives up once all is set up, so that a guest that finds a way to run code in it has not
 * got the host: capabilities, system calls (seccomp), files (Landlock). docs/threat-model.md has the whole.
 */
#ifndef READER_CONFINE_H
#define READER_CONFINE_H

#include <stdbool.h>
#include <stddef.h>

#define CONFINE_PATHS 96 /* a capture for each source, and the system's */

/* What is still needed, which follows from the command line. */
struct confine_plan {
	const char *outdir[CONFINE_PATHS]; /* directories to make, rename and delete files in */
	unsigned int nr_outdirs;
	const char *read[CONFINE_PATHS]; /* files or directories to read; what is not there is left out */
	unsigned int nr_read;
	bool bpf; /* maps of BPF programs are changed */
};

/*
 * From here on there is no way back. What this kernel does not offer is left out; @said gets one line: what
 * holds, and what does not and why. 0, or -errno: the kernel offers it, and refused it.
 */
int confine(const struct confine_plan *plan, char *said, size_t len);
/* Of the finder: capabilities other than those to look into processes. */
void confine_finder(void);

#endif

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
	const char *debug; /* one of the latter, in which links lead elsewhere; or NULL */
	bool bpf; /* maps of BPF programs are changed */
};

/*
 * From here on there is no way back. What this kernel does not offer is left out; @said gets one line: what
 * holds, and what does not and why. 0, or -errno: the kernel offers it, and refused it.
 */
int confine(const struct confine_plan *plan, char *said, size_t len);

/* What the finder still does beside looking at processes and opening files. */
struct confine_finder_plan {
	bool bpf_stats; /* has the kernel measure BPF programs */
	bool unlink;    /* removes files of ours: a socket at its end, a region that is not needed any more */
};

/*
 * Likewise of the finder: it may open files that are there, hand them over, and look at processes. Landlock would
 * forbid the latter, so which files these are is its capabilities' and its owner's matter.
 */
int confine_finder(const struct confine_finder_plan *plan);

/* Likewise of the process that speaks with a VM's monitor (plug_keeper.h): it has its sockets, and nothing else. */
int confine_keeper(void);

/* Likewise of the process that receives a stream (stream_receiver.h). @handed: its connections, by another one. */
int confine_receiver(bool handed);
/*
 * Likewise of that one, which connects to UNIX sockets and hands over, and ends the process @receiver. To be able to, it
 * gives up the files first and then forks that one: Landlock has no signals that leave its domain.
 */
int confine_connector_files(void);
int confine_connector(int receiver);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef AGENT_AGENT_H
#define AGENT_AGENT_H

#include <htrace/abi.h>

#include "loader.h"

enum mode {
	MODE_AUTO,   /* relay until the host has found the rings in this machine's memory */
	MODE_DIRECT, /* rings in guest memory, which the host maps */
	MODE_MODULE, /* in the region, where the kernel module puts the records */
	MODE_RELAY,  /* mirrored into the region */
};

struct options {
	const char *region; /* "auto", a PCI address, a path, or: */
#define REGION_RAM "ram" /* this machine's own memory, where the host looks for it */
	enum mode mode;
	enum htrace_policy policy;
	__u64 buffer; /* bytes of data per CPU */
	bool policy_given, buffer_given;
	bool compress;    /* pack what can be */
	bool follow_host; /* record nothing, show what the host tells */
	bool wait;        /* for a device that is plugged in later, and again after it was removed */
	__u64 allows;     /* what the host may command: enum htrace_allow */
	char **argv;      /* as we were started */
	struct htrace_filter *filter; /* NULL: record everything */
};

/*
 * Offer the rings, trace with the programs that @l has selected until a signal ends it, close.
 * Returns the exit status.
 */
int agent_run(const struct options *o, struct loader *l);

#endif

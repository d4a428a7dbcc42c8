/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel module (kmod/), as the agent sees it. */
#ifndef AGENT_MODULE_H
#define AGENT_MODULE_H

#include <stdbool.h>

#include <htrace/region.h>

#include "kmod/htrace_module.h"

#define MODULE_BTF "/sys/kernel/btf/htrace"

struct module {
	int fd; /* -1: not opened */
	struct htrace_module_info info;
};

/* Open it if it is there and has bound a device. 0; -1 with why not in @why. */
int module_open(struct module *m, char *why, size_t len);
void module_close(struct module *m);
/* Whose rings programs write into; 0: nobody's. */
__u64 module_session(const struct module *m);
/* Have them write into the region's ring set 0. 0, or -1 after saying why not. */
int module_start(const struct module *m, struct htrace_region *r);
/* Have them write nowhere. */
void module_stop(const struct module *m);
/* Has the host interrupted since the last call? */
bool module_interrupts(const struct module *m);
/* How it has the memory mapped, in words. */
const char *module_caching(const struct module *m);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What leaving guest mode is called. */
#ifndef AGENT_EXIT_NAMES_H
#define AGENT_EXIT_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

/* Of reason @reason of @isa (enum htrace_told_isa): in @buf, of 24 bytes or more, or a constant. */
const char *exit_name(__u32 isa, __u32 reason, char *buf, size_t len);
/* Did the virtual CPU have nothing to do? */
bool exit_is_halt(__u32 isa, __u32 reason);

#endif

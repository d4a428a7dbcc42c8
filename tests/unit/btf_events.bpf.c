// SPDX-License-Identifier: LGPL-2.1-or-later
/* Compiled for its BTF only: a variable of each type keeps it. */
#include "btf_events.h"

struct everything *everything __attribute__((section(".data")));
struct stack *stack __attribute__((section(".data")));

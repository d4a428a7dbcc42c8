// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Compiled for its BTF only: a variable of each type keeps it. */
#include "btf_events.h"
#include "declared.h"

struct everything *everything __attribute__((section(".data")));
struct stack *stack __attribute__((section(".data")));
struct declared *declared __attribute__((section(".data")));

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of l2vmm.c: what the small guest does in rounds of records, by the same code, without a virtual CPU. */
#ifndef TESTS_L2NATIVE_H
#define TESTS_L2NATIVE_H

#include "l2/l2.h"

/* @c has addresses of this process. All of its rounds; nothing is done between them. */
void l2native_run(struct l2_cpu *c);

#endif

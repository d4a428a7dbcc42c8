/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "l2native.h"

#include "l2/record.h"

void l2native_run(struct l2_cpu *c)
{
	for (__u64 round = 0; round < htrace_load(&c->rounds); round++) {
		write_records(c);
		for (__u32 i = 0; i < c->pause; i++)
			__asm__ volatile("pause" ::: "memory");
	}
}

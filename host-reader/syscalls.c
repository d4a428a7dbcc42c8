/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "show.h"

static const char *const names[] = {
#include "syscall-names.h"
};

const char *syscall_name(__u64 nr)
{
	return nr < sizeof(names) / sizeof(*names) ? names[nr] : NULL;
}

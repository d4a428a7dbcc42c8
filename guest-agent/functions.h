/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Functions by name: the kernel's, as far as it can trace them, and those of programs' files. */
#ifndef AGENT_FUNCTIONS_H
#define AGENT_FUNCTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

struct function {
	__u64 address; /* in the kernel, or in the file */
	char *path;    /* of the file; NULL: the kernel */
	char name[HTRACE_NAME_MAX]; /* as the schema allows it, unlike all others' */
	bool left_out; /* it cannot be attached to */
};

#define FUNCTIONS_PATTERNS 64

struct functions {
	struct function *at;
	size_t nr, room;
	bool user;
	struct functions_pattern { /* of the kernel's */
		char *glob;
		bool there, hidden, found;
	} pattern[FUNCTIONS_PATTERNS];
	size_t nr_patterns;
};

/* Look for those that match the glob @pattern. 0, or -1 after saying why not. */
int functions_want_kernel(struct functions *f, const char *pattern);
/* Add all that are looked for. 0, or -1 after saying why there are none. */
int functions_add_kernel(struct functions *f);
/* Add those of the program or library @path. Likewise. */
int functions_add_user(struct functions *f, const char *path, const char *pattern);
/* In order of names, each once, under names of its own. */
void functions_sort(struct functions *f);
/* NULL is allowed. */
void functions_free(struct functions *f);

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a machine does from its kernel's first events on: levels of initcalls, initcalls, then user space. Events
 * of several CPUs may come late, so that nothing here rests on their order but their times.
 */
#ifndef READER_BOOT_H
#define READER_BOOT_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

#include "table.h"

#define BOOT_LEVELS 32
#define BOOT_INITCALLS 16384
#define BOOT_STEPS 1024 /* modules, programs: more are only counted */
#define BOOT_TEXT 96

struct boot_level {
	char name[24];
	__u64 begin, end; /* of the last, its last initcall's, or user space's beginning */
	__u32 nr;         /* initcalls that were called, */
	__u64 ns;         /* and the time that those took which returned */
};

struct boot_initcall {
	char name[HTRACE_NAME_MAX];
	__u64 begin, end;
	bool began, ended; /* as far as that was seen; early in a boot, clocks may stand at 0 */
	__s32 ret;
	unsigned int cpu; /* where it was seen last */
	unsigned int level; /* as of boot_settle(); nr_levels: it is a module's, or none is known */
};

/* A module that was loaded, a program that was begun. */
struct boot_step {
	__u64 time;
	__u32 tid;
	char text[BOOT_TEXT];
};

struct boot_steps {
	struct boot_step *at; /* in their order, as of boot_settle() */
	size_t nr;   /* of them */
	__u64 count; /* of all */
};

struct boot {
	__u64 events, lost, first, last;
	struct boot_level level[BOOT_LEVELS]; /* likewise */
	unsigned int nr_levels;
	__u64 before; /* initcalls before the first level that was seen */
	struct boot_initcall *initcall;
	size_t nr_initcalls;
	__u64 no_room;
	struct table open; /* by address: those that only one end was seen of */
	struct boot_steps modules, programs;
	__u64 forks, exits;
	__u64 user; /* when the first task began a program; 0: that was not seen */
	bool unordered;
};

/* NULL: memory is out. */
struct boot *boot_new(void);
void boot_free(struct boot *b);

/* Any event, those below too. */
void boot_event(struct boot *b, __u64 time);
/* Texts are harmless, and cut to fit. */
void boot_level(struct boot *b, __u64 time, const char *name);
void boot_initcall(struct boot *b, __u64 time, __u64 address, const char *name, unsigned int cpu, bool finish,
		   __s32 ret);
void boot_module(struct boot *b, __u64 time, __u32 tid, const char *name);
void boot_program(struct boot *b, __u64 time, __u32 tid, const char *path);
/* Put all that came into its order; cheap if nothing did. */
void boot_settle(struct boot *b);
/*
 * The initcalls of level @level, slowest first, which nr_levels are modules' and others: @nr of them. The
 * caller's to free; NULL: memory is out, or there are none.
 */
const struct boot_initcall **boot_slowest(const struct boot *b, unsigned int level, size_t *nr);

static inline __u64 boot_took(const struct boot_initcall *i)
{
	return i->began && i->ended && i->end > i->begin ? i->end - i->begin : 0;
}

#endif

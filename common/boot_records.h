/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records of the kernel's own trace ring as records of ours: what each event is called here, how it is
 * declared, and its payload. Events that our BPF programs have too become those (bpf/sched.bpf.c,
 * module.bpf.c), so that whoever reads knows them; all others are as their format files say.
 */
#ifndef COMMON_BOOT_RECORDS_H
#define COMMON_BOOT_RECORDS_H

#include "ftrace_page.h"
#include "tracepoint_format.h"

#define BOOT_TYPES 8192 /* numbers of events in the kernel */
#define BOOT_FUNCTIONS 8192 /* initcalls that get a name */

struct boot_records;

/* NULL: memory is out. */
struct boot_records *boot_records_new(void);
void boot_records_free(struct boot_records *b);
/* Events of number @type are described by @tp, which is @b's from here on, whatever comes of it. 0 or -errno. */
int boot_records_add(struct boot_records *b, __u32 type, struct tracepoint *tp);
/* Likewise for all of @text, format files one behind the other. The number of events, or -errno. */
int boot_records_add_formats(struct boot_records *b, const char *text, size_t len);

/*
 * The function at @address is @name: initcalls are shown by it. Before boot_records_functions(), for each
 * address once. 0, -ENOSPC, -ENOMEM.
 */
int boot_records_name(struct boot_records *b, __u64 address, const char *name);
/* The type of addresses of functions, declared in @s; 0: there are no names; or -errno. */
int boot_records_functions(const struct boot_records *b, struct htrace_schema_builder *s);
/*
 * Declare in @s all that were added, but what it has as a program's of ours: the session's entries are @s's alone.
 * After all names were added; @functions as above. How many had to be left out, or -errno.
 */
int boot_records_declare(struct boot_records *b, struct htrace_schema_builder *s, int functions);

/* An initcall's address, if the record is of one. */
bool boot_records_initcall(const struct boot_records *b, const struct ftrace_record *r, __u64 *address);
/*
 * After boot_records_declare(): bytes of the payload that is made of @r in @out, and the event's record id.
 * 0: nobody knows such an event, or the record is too short.
 */
size_t boot_records_payload(const struct boot_records *b, const struct ftrace_record *r,
			    unsigned char out[TRACEPOINT_PAYLOAD_MAX], __u32 *id);
/* What the kernel calls it; NULL: nobody knows. */
const struct tracepoint *boot_records_event(const struct boot_records *b, __u32 type);

#endif

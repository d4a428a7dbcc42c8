/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Constants by which the agent finds the places that it changes in programs, before it loads them.
 * Each stands in a `rN = constant`.
 */
#ifndef HTRACE_FILTER_MARKS_H
#define HTRACE_FILTER_MARKS_H

#define HTRACE_FILTER_BEGIN 0x48540000   /* + the event's number: 1 if its records are filtered */
#define HTRACE_FILTER_END 0x48550000     /* 1 if records are filtered */
#define HTRACE_FILTER_TASK 0x48550001    /* 1 if the filter wants pid_tgid, */
#define HTRACE_FILTER_COMM 0x48550002    /* the task's name, */
#define HTRACE_FILTER_CPU 0x48550003     /* the CPU */
#define HTRACE_FILTER_ELEMENT 0x48550004 /* the program's element of htrace_filter_scratch */
#define HTRACE_FILTER_WINDOW 0x48550005  /* the filter begins here; room for so many instructions: */
#define HTRACE_FILTER_STACK 0x48550006   /* 1 if stacks come with some of the program's records */
#define HTRACE_FILTER_INSNS 256
#define HTRACE_FILTER_RECORD 4000 /* longest record; 64 bytes of the scratch lie before it */
#define HTRACE_FILTER_EVENTS 0xffff

#endif /* HTRACE_FILTER_MARKS_H */

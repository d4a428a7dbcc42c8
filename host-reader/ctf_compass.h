/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the analyses of Trace Compass need beside LTTng's names, with -o ctf:DIR,trace-compass. They go by the rules
 * that tests/system/compass.py has.
 *
 * Of the source kvm's events those become LTTng's that say when a virtual CPU ran: kvm_x86_exit, kvm_x86_entry and
 * sched_switch. Which thread of the host is which virtual CPU of which guest, the program learns from events of a
 * module on both sides, vmsync_*: they are made up here, of an exit and the entry behind it, a few each second.
 *
 * A guest's events get other names if they would be taken for what only the host knows, or lack what the analyses
 * take without looking.
 */
#ifndef READER_CTF_COMPASS_H
#define READER_CTF_COMPASS_H

#include "ctf_trace.h"

struct ctf_compass *ctf_compass_new(void);
/* NULL is allowed. */
void ctf_compass_free(struct ctf_compass *m);

/*
 * What @e is called, behind the prefix that is returned. @l: its fields, or NULL: it is written as bytes.
 */
const char *ctf_compass_prefix(enum ctf_role role, const struct htrace_event *e, const struct ctf_layout *l,
			       const char **name);
/* States of tasks become those that it knows. */
void ctf_compass_states(struct ctf_layout *l, const struct htrace_event *e);

/* Of the source kvm, before it is written. True: all there is to it was. Else ctf.pid is set for it. */
bool ctf_compass_host(struct ctf *c, struct stream *st, const struct sink_event *e, __u64 time);
/* Of a guest. */
void ctf_compass_guest(struct ctf *c, struct stream *st, const struct sink_event *e);
void ctf_compass_end(struct ctf *c, const struct trace *t);

#endif

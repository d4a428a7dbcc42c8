/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which events a trace has, and the text of its metadata, which declares them. */
#ifndef READER_CTF_CLASSES_H
#define READER_CTF_CLASSES_H

#include "ctf.h"

/* An event as the trace has it. */
struct ctf_class {
	__u16 id; /* CTF_UNDECODED: it cannot be declared */
	__u8 declared; /* in which kinds of streams: a bit for each */
	char *name;
	char *fields;
	struct ctf_layout *layout; /* NULL: it is made from no schema */
};

/* Those that every stream of such a trace may have, by id. */
enum ctf_fixed {
	CTF_UNDECODED, /* what no other event can be made of */
	CTF_DUMP_START,
	CTF_DUMP_TASK,
	CTF_DUMP_END,
	CTF_NOTE, /* what befell the source */
	/* For Trace Compass: the guest's, */
	CTF_SYNC_GH_GUEST,
	CTF_SYNC_HG_GUEST,
	/* and the host's */
	CTF_SYNC_GH_HOST,
	CTF_SYNC_HG_HOST,
	CTF_KVM_EXIT,
	CTF_KVM_ENTRY,
	CTF_HOST_SWITCH,
	CTF_FIXED,
};

struct ctf_classes;

struct ctf_classes *ctf_classes_new(const struct ctf_trace_info *info);
void ctf_classes_free(struct ctf_classes *c);
/*
 * The metadata: what is said of the trace, and then what was declared so far. The former changes
 * once, when the guest has told what time it is; the latter only grows. `full`: memory is out.
 */
const struct tsdl *ctf_classes_head(struct ctf_classes *c);
/* It says by how much times may be off, which is known at the end. */
void ctf_classes_renew_head(struct ctf_classes *c);
const struct tsdl *ctf_classes_text(const struct ctf_classes *c);

void ctf_declare_stream(struct ctf_classes *c, unsigned int kind);
/* The class of @e in a stream of @kind, declared there. NULL: @e's schema does not lead to one. */
const struct ctf_class *ctf_find_class(struct ctf_classes *c, const struct sink_event *e,
				       unsigned int kind);
/* Likewise for a record as bytes; CTF_UNDECODED at worst. */
const struct ctf_class *ctf_find_raw(struct ctf_classes *c, const struct sink_event *e,
				     unsigned int kind);

#endif

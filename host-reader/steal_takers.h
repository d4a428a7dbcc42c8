/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Who took the CPUs of virtual CPUs that were preempted: of each, by the thread that the host's scheduler put in
 * its place, until its own was back. What runs there after that thread counts with it, as nobody says what that is.
 *
 * Memory is bounded: where there are more threads than TAKERS, those that took least are put together.
 */
#ifndef READER_STEAL_TAKERS_H
#define READER_STEAL_TAKERS_H

#include "table.h"
#include "vcpus.h"
#include "view.h"

#define TAKERS 8192u       /* of all virtual CPUs */
#define TAKERS_VCPUS 1024u /* of others it is only counted that there are any */

struct taken {
	__u64 ns, times;
};

/* A virtual CPU that was preempted. */
struct taken_vcpu {
	struct table_key key; /* source, process, number */
	struct taken all;
	char name[VIEW_SOURCE + 56]; /* the view's, harmless */
};

struct steal_takers {
	struct table vcpus, by;
	__u64 beyond; /* times that one of the virtual CPUs beyond the limit was preempted */
};

/* -ENOMEM; it is to be closed all the same. */
int steal_takers_init(struct steal_takers *t);
void steal_takers_close(struct steal_takers *t);
/* @source: of the host that says so. */
void steal_takers_change(struct steal_takers *t, unsigned int source, const struct vcpu_change *c);
/* Those with most time first; to be freed. NULL, and then *@nr is 0: memory is out. */
struct taken_vcpu **steal_takers_vcpus(const struct steal_takers *t, size_t *nr);
/* A table of @vcpus, which have their names; nothing if there are none. */
void steal_takers_print(const struct steal_takers *t, struct view_page *p, struct taken_vcpu *const *vcpus, size_t nr);
/* An array of the same; @sources are their hosts' names, or "". */
void steal_takers_json(const struct steal_takers *t, struct out *o, struct taken_vcpu *const *vcpus, size_t nr,
		       const char (*sources)[VIEW_SOURCE]);

#endif

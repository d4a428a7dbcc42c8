/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "relay.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "health.h"
#include "message.h"
#include "pace.h"

#define FAST_NS_PER_BYTE 10    /* a burst of 100 MB/s out of silence must not overtake us */
#define BUDGET (256u << 10)    /* bytes of a ring before the next one has its turn */
#define ROUNDS 64              /* of that, until the heart has to beat */

static void resume(struct relay *r)
{
	for (__u32 i = 0; i < r->rings->nr; i++)
		htrace_relay_resume(r->mirror[i]);
	r->active = true;
	r->next = 0;
	r->every = PACE_NS;
}

int relay_init(struct relay *r, struct htrace_region *region, const struct rings *rings,
	       struct bell *bell, bool option)
{
	const struct htrace_ringset *set = htrace_region_super(region)->ringset;
	__u64 fill = (1ULL << set->ring_shift) / 2 * FAST_NS_PER_BYTE;

	memset(r, 0, sizeof(*r));
	r->region = region;
	r->rings = rings;
	r->bell = bell;
	r->option = option;
	r->idle_most = fill < PACE_NS ? PACE_NS : fill;
	r->every = PACE_NS;
	r->mirror = calloc(rings->nr, sizeof(*r->mirror));
	r->told = calloc(rings->nr, sizeof(*r->told));
	if (!r->told)
		relay_free(r);
	for (__u32 i = 0; r->mirror && i < rings->nr; i++) {
		if (htrace_relay_new(&r->mirror[i], region, option ? 1 : 0, i, rings_at(rings, i))) {
			relay_free(r);
			break;
		}
	}
	if (!r->mirror) {
		say("cannot relay: out of memory");
		return -1;
	}
	for (__u32 i = 0; i < rings->nr; i++)
		r->active |= !htrace_relay_handed_over(r->mirror[i]);
	if (r->active) /* an agent that was killed handing over got through with some of them */
		resume(r);
	return 0;
}

void relay_free(struct relay *r)
{
	for (__u32 i = 0; r->mirror && i < r->rings->nr; i++)
		htrace_relay_free(r->mirror[i]);
	free(r->mirror);
	free(r->told);
	r->mirror = NULL;
	r->told = NULL;
	r->active = false;
}

/* What was copied is visible: wake the reader, once, if a mirror has passed where it sleeps. */
static void wake_reader(struct relay *r)
{
	__u32 first = r->option ? r->rings->nr : 0;
	bool due = false;

	for (__u32 i = 0; i < r->rings->nr; i++) {
		__u64 pos = htrace_relay_position(r->mirror[i]);

		due |= bell_due(r->bell, first + i, r->told[i], pos);
		r->told[i] = pos;
	}
	if (due)
		bell_ring(r->bell);
}

/* One turn of each ring. Is there more at once? @bytes grows by what was copied. */
static bool copy_round(struct relay *r, __u64 *bytes)
{
	bool more = false;

	for (__u32 i = 0; i < r->rings->nr; i++) {
		__u64 before = htrace_relay_position(r->mirror[i]);
		int ret = htrace_relay_copy(r->mirror[i], BUDGET);

		*bytes += htrace_relay_position(r->mirror[i]) - before;
		more |= ret > 0;
		if (ret < 0 && !r->broken) {
			say("the ring of CPU %u is damaged and cannot be relayed any more", i);
			r->broken = true;
		}
	}
	/* What is still in write-combining buffers is on its way from here on. */
	htrace_region_fence(r->region);
	wake_reader(r);
	return more;
}

__u64 relay_work(struct relay *r)
{
	__u64 now, bytes = 0;

	/* Where direct placement is possible too, nobody needs mirrors while nobody reads. */
	if (!r->active || (r->option && !r->reader))
		return UINT64_MAX;
	now = monotonic_ns();
	if (now < r->next)
		return r->next - now;
	for (int i = 0; i < ROUNDS && copy_round(r, &bytes); i++)
		;
	r->every = pace_next(r->every, bytes, r->idle_most);
	r->next = monotonic_ns() + r->every;
	return r->every;
}

void relay_finish(struct relay *r)
{
	__u64 bytes = r->active;

	for (int i = 0; bytes && i < 10 * ROUNDS; i++) {
		bytes = 0;
		copy_round(r, &bytes);
	}
}

static void go_direct(struct relay *r)
{
	__u64 bytes = 0;

	copy_round(r, &bytes);
	for (__u32 i = 0; i < r->rings->nr; i++)
		htrace_relay_hand_over(r->mirror[i]);
	r->active = false;
	say("direct placement from now on: the host has found the rings in this machine's memory");
}

static const char *reason_text(__u32 reason)
{
	switch (reason) {
	case HTRACE_REASON_NO_RAM:
		return "the host cannot map this machine's memory; direct placement needs a VM with "
		       "shared memory: -object memory-backend-memfd,...,share=on";
	case HTRACE_REASON_UNVERIFIED:
		return "the memory that the host mapped is not this machine's, or laid out unlike what "
		       "it knows";
	default:
		return "the host has not found the rings in this machine's memory";
	}
}

void relay_host(struct relay *r, bool verified, __u32 reason)
{
	if (!r->option)
		return;
	if (verified) {
		r->unverified = 0;
		r->said_why = false;
		if (r->active)
			go_direct(r);
		return;
	}
	/* Once may be a reader that is just leaving: the words do not change all at once. */
	if (++r->unverified < 2)
		return;
	if (!r->active)
		resume(r);
	if (!r->said_why)
		say("relaying: %s", reason_text(reason));
	r->said_why = true;
}

void relay_reader(struct relay *r, bool reads)
{
	r->reader = reads;
}

bool relay_active(const struct relay *r)
{
	return r->active;
}

bool relay_is_option(const struct relay *r)
{
	return r->option;
}

__u64 relay_position(const struct relay *r, __u32 i)
{
	return htrace_relay_position(r->mirror[i]);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Commands for a running agent, and its answers: two mailboxes, one of each side, and a number that goes
 * up with each command. Both sides copy what the other one wrote, once, and look at the copy.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "core.h"

_Static_assert(sizeof(struct htrace_control) == 4096, "a page");
_Static_assert(HTRACE_TOLD_OFF + HTRACE_TOLD_DATA_OFF + (1 << HTRACE_TOLD_RING_SHIFT) <= HTRACE_CONTROL_OFF,
	       "behind the told ring");
_Static_assert(HTRACE_CONTROL_OFF + sizeof(struct htrace_control) <= HTRACE_HOST_RINGS_OFF, "in the host's granule");
_Static_assert(sizeof(struct htrace_guest) <= HTRACE_REPLY_OFF, "behind the guest header");
_Static_assert(HTRACE_REPLY_OFF + sizeof(struct htrace_reply) == HTRACE_GRANULE, "to the end of its area");

#define HEAD offsetof(struct htrace_reply, text)

/* Device memory takes whole words. @len bytes of @to may be up to 7 more, which are zeroed. */
static void store_words(void *to, const void *from, size_t len)
{
	htrace_word *at = to;
	__u64 word;

	for (size_t i = 0; i < len; i += 8) {
		word = 0;
		memcpy(&word, (const char *)from + i, len - i < 8 ? len - i : 8);
		htrace_store(at++, word);
	}
}

/* ---------------------------------------------------------------------------------------- the agent */

static __u64 command_number(const struct htrace_region *r)
{
	return __atomic_load_n(&htrace_region_host(r)->command, __ATOMIC_ACQUIRE);
}

/* What a region of before there was control lacks, but for a header that just fits. */
static struct htrace_reply *reply_of(struct htrace_region *r)
{
	struct htrace_guest *g = htrace_region_guest(r);

	return htrace_region_super(r)->guest.len < HTRACE_GRANULE ? NULL : (void *)((char *)g + HTRACE_REPLY_OFF);
}

void htrace_region_reply(struct htrace_region *r, enum htrace_reply_status status, const char *text,
			 size_t len, __u64 next)
{
	struct htrace_guest *g = htrace_region_guest(r);
	struct htrace_reply head = { .status = status, .next = next };
	struct htrace_reply *reply = reply_of(r);

	if (!reply)
		return;
	head.len = len > HTRACE_REPLY_MAX ? HTRACE_REPLY_MAX : (__u32)len;
	store_words(reply->text, text, head.len);
	store_words(reply, &head, HEAD);
	htrace_region_fence(r);
	__atomic_store_n(&g->answer, htrace_region_taken(r)->number, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

void htrace_region_control(struct htrace_region *r, __u64 allows)
{
	struct htrace_taken *taken = htrace_region_taken(r);
	struct htrace_guest *g = htrace_region_guest(r);

	if (!reply_of(r))
		return;
	if (!taken->begun) {
		taken->begun = true;
		taken->number = command_number(r);
		if (taken->number != htrace_load(&g->answer))
			htrace_region_reply(r, HTRACE_REPLY_LOST, "", 0, 0);
	}
	__atomic_store_n(&g->control, allows, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

size_t htrace_region_command(struct htrace_region *r, char text[HTRACE_CONTROL_MAX + 1])
{
	const struct htrace_control *c = (const void *)((const char *)htrace_region_host(r) + HTRACE_CONTROL_OFF -
							HTRACE_HOST_OFF);
	struct htrace_taken *taken = htrace_region_taken(r);
	struct htrace_control copy;
	__u64 number = command_number(r);

	if (!taken->begun || number == taken->number)
		return 0;
	htrace_copy_once(&copy, c, sizeof(copy));
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (command_number(r) != number) /* by who does not wait for answers: next time */
		return 0;
	taken->number = number;
	if (!copy.len || copy.len > HTRACE_CONTROL_MAX) {
		htrace_region_reply(r, HTRACE_REPLY_INVALID, "", 0, 0);
		return 0;
	}
	memcpy(text, copy.text, copy.len);
	text[copy.len] = 0;
	return copy.len;
}

/* ----------------------------------------------------------------------------------------- the host */

static const struct htrace_guest *guest_of(const struct htrace_view *v)
{
	return (const void *)((const char *)v->mem + v->super.guest.off);
}

__u64 htrace_view_control(const struct htrace_view *v)
{
	__u64 allows;

	if (!v->attached || v->super.guest.len < HTRACE_GRANULE)
		return 0;
	allows = __atomic_load_n(&guest_of(v)->control, __ATOMIC_ACQUIRE);
	return allows & HTRACE_CONTROL_TAKEN ? allows : 0;
}

static int lock_control(const struct htrace_view *v)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HTRACE_CONTROL_OFF,
			      .l_len = sizeof(struct htrace_control) };

	if (!fcntl(v->fd, F_OFD_SETLK, &lock))
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

int htrace_view_command(struct htrace_view *v, const char *text)
{
	struct htrace_host *h = htrace_view_host(v);
	struct htrace_control *c;
	size_t len = strlen(text);
	__u64 number;
	int err;

	if (!h)
		return -EACCES;
	if (!v->attached || !htrace_view_may_write(v))
		return -EINVAL;
	if (!htrace_view_control(v))
		return -EOPNOTSUPP;
	if (!len || len > HTRACE_CONTROL_MAX)
		return -EMSGSIZE;
	err = lock_control(v);
	if (err)
		return err;
	number = htrace_load(&h->command);
	/* Whoever gave that one ended before it was answered: its text may be read just now. */
	if (__atomic_load_n(&guest_of(v)->answer, __ATOMIC_ACQUIRE) != number)
		return -EBUSY;
	c = (void *)((char *)h + HTRACE_CONTROL_OFF - HTRACE_HOST_OFF);
	store_words(c->text, text, len);
	__atomic_store_n(&c->len, (__u32)len, __ATOMIC_RELAXED);
	__atomic_store_n(&h->command, number + 1 ? number + 1 : 1, __ATOMIC_RELEASE);
	v->command = number + 1 ? number + 1 : 1;
	return 0;
}

int htrace_view_reply(const struct htrace_view *v, struct htrace_reply *reply)
{
	const char *at = (const char *)guest_of(v) + HTRACE_REPLY_OFF;

	if (!v->command || !htrace_view_control(v) ||
	    __atomic_load_n(&guest_of(v)->answer, __ATOMIC_ACQUIRE) != v->command)
		return -EAGAIN;
	htrace_copy_once(reply, at, sizeof(*reply));
	return reply->len > HTRACE_REPLY_MAX || reply->status > HTRACE_REPLY_LOST ? -EPROTO : 0;
}

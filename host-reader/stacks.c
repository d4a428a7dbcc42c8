/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stacks.h"

#include <search.h>
#include <stdlib.h>
#include <string.h>

#define MAX_STACKS 65536
#define MAX_BYTES (48u << 20)

struct known_stack {
	__u64 id; /* first: what the tree compares */
	struct known_stack *older, *newer;
	__u32 pid, nr, nr_files;
	__u64 *address;
	struct htrace_stack_file_frame *file;
};

struct stacks {
	void *by_id; /* tsearch(3) tree: no worst case for a guest to hit */
	struct known_stack *oldest, *newest;
	size_t nr, bytes;
	__u64 forgotten;
};

struct stacks *stacks_new(void)
{
	return calloc(1, sizeof(struct stacks));
}

static int compare(const void *a, const void *b)
{
	__u64 x = *(const __u64 *)a, y = *(const __u64 *)b;

	return x < y ? -1 : x > y;
}

static size_t size_of(const struct known_stack *e)
{
	return sizeof(*e) + e->nr * sizeof(*e->address) + e->nr_files * sizeof(*e->file);
}

static void free_entry(struct known_stack *e)
{
	free(e->address);
	free(e->file);
	free(e);
}

void stacks_free(struct stacks *s)
{
	struct known_stack *next;

	if (!s)
		return;
	for (struct known_stack *e = s->oldest; e; e = next) {
		next = e->newer;
		tdelete(e, &s->by_id, compare);
		free_entry(e);
	}
	free(s);
}

static void unlink_entry(struct stacks *s, struct known_stack *e)
{
	*(e->older ? &e->older->newer : &s->oldest) = e->newer;
	*(e->newer ? &e->newer->older : &s->newest) = e->older;
	e->older = e->newer = NULL;
}

static void link_newest(struct stacks *s, struct known_stack *e)
{
	e->older = s->newest;
	*(s->newest ? &s->newest->newer : &s->oldest) = e;
	s->newest = e;
}

static void forget_oldest(struct stacks *s)
{
	struct known_stack *e = s->oldest;

	unlink_entry(s, e);
	tdelete(e, &s->by_id, compare);
	s->nr--;
	s->bytes -= size_of(e);
	s->forgotten++;
	free_entry(e);
}

static struct known_stack *get(struct stacks *s, __u64 id)
{
	struct known_stack **at = tfind(&id, &s->by_id, compare), *e;

	if (at) {
		unlink_entry(s, *at);
		link_newest(s, *at);
		return *at;
	}
	if (s->nr == MAX_STACKS)
		forget_oldest(s);
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->id = id;
	if (!tsearch(e, &s->by_id, compare)) {
		free(e);
		return NULL;
	}
	link_newest(s, e);
	s->nr++;
	s->bytes += sizeof(*e);
	return e;
}

/* @nr frames of @each bytes in the place of those that were there. Most are what they were. */
static void set_frames(void *place, __u32 *old_nr, __u32 nr, size_t each, const void *frames)
{
	void **at = place, *copy;

	if (*old_nr == nr && !memcmp(*at, frames, nr * each))
		return;
	copy = malloc(nr * each);
	if (!copy)
		return;
	memcpy(copy, frames, nr * each);
	free(*at);
	*at = copy;
	*old_nr = nr;
}

/* Code without frame pointers leads to frames at 0: there the stack ends. */
static __u16 without_end(const struct htrace_stack *head, const void *payload)
{
	__u64 address;

	for (__u16 i = 0; i < head->nr; i++) {
		memcpy(&address, (const char *)payload + sizeof(*head) + 8 * (size_t)i, 8);
		if (!address)
			return i;
	}
	return head->nr;
}

void stacks_add(struct stacks *s, const void *payload, size_t len)
{
	const char *frames = (const char *)payload + sizeof(struct htrace_stack);
	struct htrace_stack head;
	struct known_stack *e;
	size_t each;

	if (len < sizeof(head))
		return;
	memcpy(&head, payload, sizeof(head));
	each = head.kind == HTRACE_STACK_USER_FILES ? sizeof(struct htrace_stack_file_frame) : 8;
	if (!head.id || head.kind < HTRACE_STACK_KERNEL || head.kind > HTRACE_STACK_USER_FILES ||
	    !head.nr || head.nr > HTRACE_STACK_FRAMES || (len - sizeof(head)) / each < head.nr)
		return;
	if (head.kind == HTRACE_STACK_USER)
		head.nr = without_end(&head, payload);
	e = head.nr ? get(s, head.id) : NULL;
	if (!e)
		return;
	s->bytes -= size_of(e);
	if (head.kind == HTRACE_STACK_USER_FILES) {
		set_frames(&e->file, &e->nr_files, head.nr, each, frames);
	} else {
		e->pid = head.pid;
		set_frames(&e->address, &e->nr, head.nr, each, frames);
	}
	s->bytes += size_of(e);
	while (s->bytes > MAX_BYTES && s->oldest != e)
		forget_oldest(s);
}

bool stacks_find(const struct stacks *s, __u64 id, struct stack *out)
{
	struct known_stack *const *at = s ? tfind(&id, &s->by_id, compare) : NULL;

	if (!at || !(*at)->nr)
		return false;
	*out = (struct stack){
		.id = id,
		.pid = (*at)->pid,
		.nr = (*at)->nr,
		.nr_files = (*at)->nr_files < (*at)->nr ? (*at)->nr_files : (*at)->nr,
		.address = (*at)->address,
		.file = (*at)->file,
	};
	return true;
}

__u64 stacks_forgotten(const struct stacks *s)
{
	return s->forgotten;
}

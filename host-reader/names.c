/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "names.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define MAX_TASKS (128u << 10)
#define MAX_VERSIONS 4
#define BUCKET_BITS 14
#define KEEP_NS 5000000000ULL /* after a task's end: late records still name it */
#define GRACE 1000000000ULL /* region clock: it ends before it leaves its CPU for good */

struct version {
	__u64 time;
	__u32 pid;
	__u32 len; /* of comm */
	char comm[NAMES_COMM];
};

struct link {
	struct link *prev, *next;
};

struct task {
	struct link link; /* first: a list of live or of ended tasks, oldest first */
	struct task *chain;
	__u32 tid;
	__u32 nr;
	__u64 end;   /* region clock; 0: it lives */
	__u64 ended; /* host time at which we learned it */
	struct version version[MAX_VERSIONS]; /* by time */
};

struct names {
	__u32 key; /* random: a guest must not be able to choose tids that collide */
	__u32 nr;
	struct link live, dead;
	struct task *bucket[1u << BUCKET_BITS];
};

static void list_init(struct link *l)
{
	l->prev = l->next = l;
}

static void list_remove(struct link *l)
{
	l->prev->next = l->next;
	l->next->prev = l->prev;
}

static void list_append(struct link *list, struct link *l)
{
	l->prev = list->prev;
	l->next = list;
	list->prev->next = l;
	list->prev = l;
}

struct names *names_new(void)
{
	struct names *n = calloc(1, sizeof(*n));

	if (!n)
		return NULL;
	if (getrandom(&n->key, sizeof(n->key), 0) != sizeof(n->key))
		n->key = 0x9e3779b1;
	n->key |= 1;
	list_init(&n->live);
	list_init(&n->dead);
	return n;
}

static struct task **bucket_of(struct names *n, __u32 tid)
{
	return &n->bucket[(tid * n->key) >> (32 - BUCKET_BITS)];
}

static struct task *find(const struct names *n, __u32 tid)
{
	struct task *t = *bucket_of((struct names *)n, tid);

	while (t && t->tid != tid)
		t = t->chain;
	return t;
}

static void forget(struct names *n, struct task *t)
{
	struct task **at = bucket_of(n, t->tid);

	while (*at != t)
		at = &(*at)->chain;
	*at = t->chain;
	list_remove(&t->link);
	free(t);
	n->nr--;
}

void names_free(struct names *n)
{
	if (!n)
		return;
	while (n->live.next != &n->live)
		forget(n, (struct task *)n->live.next);
	while (n->dead.next != &n->dead)
		forget(n, (struct task *)n->dead.next);
	free(n);
}

static struct task *add(struct names *n, __u32 tid)
{
	struct task **bucket = bucket_of(n, tid), *t;

	if (n->nr == MAX_TASKS)
		forget(n, (struct task *)(n->dead.next != &n->dead ? n->dead.next : n->live.next));
	t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->tid = tid;
	t->chain = *bucket;
	*bucket = t;
	list_append(&n->live, &t->link);
	n->nr++;
	return t;
}

/* The number of versions that hold from @time or before. */
static __u32 until(const struct task *t, __u64 time)
{
	__u32 i = t->nr;

	while (i && t->version[i - 1].time > time)
		i--;
	return i;
}

/* Note that @v holds from its time on, in order. What it only repeats, or is too old, is not. */
static void add_version(struct task *t, const struct version *v)
{
	__u32 at = until(t, v->time);
	const struct version *before = at ? &t->version[at - 1] : NULL;

	if (before && before->time == v->time)
		at--; /* replaces it */
	else if (before && before->pid == v->pid && !memcmp(before->comm, v->comm, NAMES_COMM))
		return;
	else if (t->nr < MAX_VERSIONS)
		memmove(&t->version[at + 1], &t->version[at], (t->nr++ - at) * sizeof(*t->version));
	else if (at--) /* the oldest goes */
		memmove(&t->version[0], &t->version[1], at * sizeof(*t->version));
	else
		return;
	t->version[at] = *v;
}

void names_set(struct names *n, __u32 tid, __u32 pid, __u64 time, const char *comm, size_t len)
{
	struct version v = { .time = time, .pid = pid };
	struct task *t = find(n, tid);
	bool again;
	__u32 at;

	v.len = (__u32)strnlen(comm, len < NAMES_COMM ? len : NAMES_COMM);
	memcpy(v.comm, comm, v.len);
	if (!t)
		t = add(n, tid);
	if (!t)
		return;
	again = t->ended && time > t->end; /* the number is used again */
	if (again) {
		t->end = t->ended = 0;
		list_remove(&t->link);
		list_append(&n->live, &t->link);
	}
	at = until(t, time);
	if (!pid && at && !again)
		v.pid = t->version[at - 1].pid;
	add_version(t, &v);
}

void names_exit(struct names *n, __u32 tid, __u64 time, __u64 now)
{
	struct task *t = find(n, tid);

	if (!t || t->ended)
		return;
	t->end = time;
	t->ended = now;
	list_remove(&t->link);
	list_append(&n->dead, &t->link);
}

void names_expire(struct names *n, __u64 now)
{
	while (n->dead.next != &n->dead) {
		struct task *t = (struct task *)n->dead.next;

		if (now - t->ended < KEEP_NS)
			break;
		forget(n, t);
	}
}

/* What held of it at @time; NULL: nothing is known, or it had ended. */
static const struct version *version_at(const struct task *t, __u64 time)
{
	__u32 at = until(t, time);

	if (!at || (t->ended && time > t->end && time - t->end > GRACE))
		return NULL;
	return &t->version[at - 1];
}

const char *names_get(const struct names *n, __u32 tid, __u64 time, size_t *len)
{
	const struct task *t = find(n, tid);
	const struct version *v = t ? version_at(t, time) : NULL;

	if (!v)
		return NULL;
	*len = v->len;
	return v->comm;
}

__u32 names_pid(const struct names *n, __u32 tid, __u64 time)
{
	const struct task *t = find(n, tid);
	const struct version *v = t ? version_at(t, time) : NULL;

	return v ? v->pid : 0;
}

static bool each_of(const struct link *list, __u64 time,
		    bool (*fn)(void *ctx, const struct names_task *task), void *ctx)
{
	for (const struct link *l = list->next; l != list; l = l->next) {
		const struct task *t = (const struct task *)l;
		const struct version *v = version_at(t, time);
		struct names_task task = { .tid = t->tid };

		if (!v || (t->ended && time >= t->end))
			continue;
		task.pid = v->pid;
		task.comm = v->comm;
		task.len = v->len;
		if (!fn(ctx, &task))
			return false;
	}
	return true;
}

void names_each(const struct names *n, __u64 time,
		bool (*fn)(void *ctx, const struct names_task *task), void *ctx)
{
	if (each_of(&n->live, time, fn, ctx))
		each_of(&n->dead, time, fn, ctx);
}

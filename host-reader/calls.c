/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "calls.h"

#include <stdlib.h>
#include <string.h>

#define SAME_HASH 4 /* names */
#define SETTLE_AFTER 1024 /* losses */
#define LOOK_AFTER 1024   /* tasks for which there was no room: which are over? */
#define GONE_NS 100000000 /* no event's time is off by so much, and no number of a task is used again so soon */

/* Of a task or of a CPU's interrupts: calls that have returned, by depth, until their callers do. */
struct stack {
	struct table_key key;
	unsigned int source;
	enum calls_kind kind;
	struct calls_node *waiting[CALLS_DEPTH];
	__u32 deepest; /* below it nothing waits */
	__u64 losses;  /* of the source, as far as they were looked at here */
};

struct calls *calls_new(void)
{
	struct calls *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	if (!table_init(&c->functions, CALLS_FUNCTIONS, sizeof(struct calls_function)) &&
	    !table_init(&c->stacks, CALLS_STACKS, sizeof(struct stack)))
		return c;
	calls_free(c);
	return NULL;
}

/* Without recursion: how deep they are is told by what is read. */
static void free_nodes(struct calls_node *n)
{
	while (n) {
		struct calls_node *next = n->next, *last = n->child;

		while (last && last->next)
			last = last->next;
		if (last) {
			last->next = next;
			next = n->child;
		}
		free(n);
		n = next;
	}
}

void calls_free(struct calls *c)
{
	struct stack *s;

	if (!c)
		return;
	for (size_t i = 0; c->stacks.slot && (s = table_next(&c->stacks, &i)) != NULL;)
		for (size_t d = 0; d < CALLS_DEPTH; d++)
			free_nodes(s->waiting[d]);
	for (size_t i = 0; i < CALLS_SOURCES; i++)
		for (size_t k = 0; k < CALLS_KINDS; k++) {
			free_nodes(c->root[i][k].seen.child);
			free_nodes(c->root[i][k].unseen.child);
		}
	table_free(&c->functions);
	table_free(&c->stacks);
	free(c);
}

/* ----------------------------------------------------------------------------------------- counting */

static __u64 hash_name(const char *name)
{
	__u64 hash = 0xcbf29ce484222325ULL;

	for (; *name; name++)
		hash = (hash ^ (unsigned char)*name) * 0x100000001b3ULL;
	return hash;
}

static struct calls_function *find_function(struct calls *c, unsigned int source, const char *name)
{
	struct table_key key = { hash_name(name), source, 0 };

	for (; key.c < SAME_HASH; key.c++) {
		struct calls_function *f = table_get(&c->functions, &key);

		if (f && !*f->name) {
			strncpy(f->name, name, sizeof(f->name) - 1);
			f->source = source;
		}
		if (!f || !strcmp(f->name, name))
			return f;
	}
	return NULL;
}

/* @function in a list, which it then is the first of. NULL: no room. */
static struct calls_node *in_list(struct calls *c, struct calls_node **list,
				  const struct calls_function *function)
{
	struct calls_node **at = list, *n;

	while (*at && (*at)->function != function)
		at = &(*at)->next;
	n = *at;
	if (n) {
		*at = n->next;
	} else {
		n = c->nodes < CALLS_NODES ? calloc(1, sizeof(*n)) : NULL;
		if (!n)
			return NULL;
		c->nodes++;
		n->function = function;
	}
	n->next = *list;
	*list = n;
	return n;
}

static struct calls_node *last_of(struct calls_node *n)
{
	while (n->next)
		n = n->next;
	return n;
}

/*
 * Move all of @from into @to, whose children they become, merged with those that are there: nodes of
 * @from that are not needed any more are free. Without recursion: what remains to be moved is in front
 * of the list, with its new parent.
 */
static void move_into(struct calls *c, struct calls_node *to, struct calls_node *from)
{
	for (struct calls_node *n = from; n; n = n->next)
		n->parent = to;
	while (from) {
		struct calls_node *n = from, *into, **at = &n->parent->child;

		from = n->next;
		while (*at && (*at)->function != n->function)
			at = &(*at)->next;
		into = *at;
		if (!into) { /* all that is below it comes with it */
			n->next = n->parent->child;
			n->parent->child = n;
			continue;
		}
		into->count += n->count;
		into->ns += n->ns;
		into->self += n->self;
		if (n->child) {
			for (struct calls_node *k = n->child; k; k = k->next)
				k->parent = into;
			last_of(n->child)->next = from;
			from = n->child;
		}
		free(n);
		c->nodes--;
	}
}

static __u64 sum_of(const struct calls_node *n)
{
	__u64 ns = 0;

	for (; n; n = n->next)
		ns += n->ns;
	return ns;
}

/* What waits for a caller at @depth, or for ones between that are not recorded. */
static struct calls_node *take_waiting(struct stack *s, __u32 depth)
{
	struct calls_node *all = NULL;

	for (__u32 d = depth + 1; d <= s->deepest; d++) {
		if (!s->waiting[d])
			continue;
		last_of(s->waiting[d])->next = all;
		all = s->waiting[d];
		s->waiting[d] = NULL;
	}
	s->deepest = depth;
	return all;
}

/* Where events were lost since, what waits for its caller waits in vain. */
static void settle(struct calls *c, struct stack *s)
{
	if (s->losses == c->losses[s->source])
		return;
	s->losses = c->losses[s->source];
	move_into(c, &c->root[s->source][s->kind].unseen, take_waiting(s, 0));
}

/* Does anything wait? Else it is as a new one: of a task that is over, or that will call again. */
static bool is_used(const void *stack)
{
	const struct stack *s = stack;

	for (__u32 d = 1; d <= s->deepest; d++)
		if (s->waiting[d])
			return true;
	return false;
}

static struct stack *get_stack(struct calls *c, const struct table_key *key)
{
	struct stack *s = table_get(&c->stacks, key);
	size_t before = c->stacks.nr;

	if (s || (c->refused && ++c->refused < LOOK_AFTER))
		return s;
	calls_settle(c);
	table_keep(&c->stacks, is_used);
	c->refused = before - c->stacks.nr < LOOK_AFTER; /* not worth it for each */
	return table_get(&c->stacks, key);
}

static struct stack *find_stack(struct calls *c, const struct calls_at *at)
{
	struct table_key key = { (__u64)at->kind << 32 | at->source,
				 at->kind == CALLS_INTERRUPT ? at->cpu : at->tid, at->level };
	struct stack *s = get_stack(c, &key);

	if (s) {
		s->source = at->source;
		s->kind = at->kind;
		settle(c, s);
	}
	return s;
}

/* What @called has of a task that had this one's number before goes to callers that are not seen. */
static struct calls_node *leave_gone(struct calls *c, const struct calls_at *at, __u64 ns, struct calls_node *called)
{
	struct calls_node *gone = NULL, **next = &called;

	if (at->kind == CALLS_INTERRUPT || at->time < ns || at->time - ns < GONE_NS)
		return called;
	while (*next) {
		struct calls_node *n = *next;

		if (n->since >= at->time - ns - GONE_NS) {
			next = &n->next;
			continue;
		}
		*next = n->next;
		n->next = gone;
		gone = n;
	}
	move_into(c, &c->root[at->source][at->kind].unseen, gone);
	return called;
}

void calls_returned(struct calls *c, const struct calls_at *at, const char *function, __u64 ns)
{
	struct calls_function *f = find_function(c, at->source, function);
	struct stack *s = find_stack(c, at);
	struct calls_node one = { 0 }, *n, *called = s ? take_waiting(s, at->depth) : NULL;
	__u64 inside, self;

	called = leave_gone(c, at, ns, called);
	inside = sum_of(called);
	self = ns > inside ? ns - inside : 0;
	c->first = c->first ? c->first : at->time;
	c->last = at->time > c->last ? at->time : c->last;
	c->count++;
	if (!at->depth)
		c->outermost += ns;
	if (f) {
		durations_add(&f->d, ns);
		f->self += self;
	} else {
		c->beyond++;
	}
	n = f && s ? in_list(c, at->depth ? &s->waiting[at->depth] :
					    &c->root[at->source][at->kind].seen.child, f) : NULL;
	if (!n) { /* those that it called are known all the same */
		c->beyond_graph++;
		n = s ? &c->root[at->source][at->kind].unseen : &one;
	}
	if (!n->count++)
		n->since = at->time;
	n->ns += ns;
	n->self += self;
	move_into(c, n, called);
}

/*
 * Stacks are many, and a guest can have losses often: each is looked at when it is used; all of them sometimes, for
 * what waits takes room among the nodes.
 */
void calls_loss(struct calls *c, unsigned int source, __u64 lost)
{
	c->lost += lost;
	c->losses[source]++;
	if (++c->unsettled == SETTLE_AFTER)
		calls_settle(c);
}

void calls_settle(struct calls *c)
{
	struct stack *s;

	c->unsettled = 0;
	for (size_t i = 0; (s = table_next(&c->stacks, &i)) != NULL;)
		settle(c, s);
}

__u64 calls_waiting(const struct calls *c)
{
	const struct stack *s;
	__u64 nr = 0;

	for (size_t i = 0; (s = table_next(&c->stacks, &i)) != NULL;)
		for (__u32 d = 1; d <= s->deepest && s->losses == c->losses[s->source]; d++)
			for (const struct calls_node *n = s->waiting[d]; n; n = n->next)
				nr += n->count;
	return nr;
}

/* ------------------------------------------------------------------------------------------- orders */

static int by_time(const void *a, const void *b)
{
	const struct calls_function *x = *(struct calls_function *const *)a;
	const struct calls_function *y = *(struct calls_function *const *)b;

	if (x->d.sum != y->d.sum)
		return x->d.sum < y->d.sum ? 1 : -1;
	return strcmp(x->name, y->name);
}

static int by_number(const void *a, const void *b)
{
	const struct calls_function *x = *(struct calls_function *const *)a;
	const struct calls_function *y = *(struct calls_function *const *)b;

	if (x->d.count != y->d.count)
		return x->d.count < y->d.count ? 1 : -1;
	return by_time(a, b);
}

struct calls_function **calls_functions(const struct calls *c, bool by_count, size_t *nr)
{
	struct calls_function **all = calloc(c->functions.nr + 1, sizeof(struct calls_function *)), *f;

	*nr = 0;
	if (!all)
		return NULL;
	for (size_t i = 0; (f = table_next(&c->functions, &i)) != NULL;)
		all[(*nr)++] = f;
	qsort(all, *nr, sizeof(struct calls_function *), by_count ? by_number : by_time);
	return all;
}

static bool is_before(const struct calls_node *a, const struct calls_node *b)
{
	return a->ns != b->ns ? a->ns > b->ns : strcmp(a->function->name, b->function->name) < 0;
}

/* Halves, sorted each, merged: the list has as many as there are functions. */
static struct calls_node *sort_list(struct calls_node *list)
{
	struct calls_node *half = list, *end, *sorted = NULL, **last = &sorted, *other;

	if (!list || !list->next)
		return list;
	for (end = list->next; end && end->next; end = end->next->next)
		half = half->next;
	other = sort_list(half->next);
	half->next = NULL;
	list = sort_list(list);
	while (list && other) {
		struct calls_node **first = is_before(other, list) ? &other : &list;

		*last = *first;
		last = &(*first)->next;
		*first = *last;
	}
	*last = list ? list : other;
	return sorted;
}

void calls_sort(struct calls_node *n)
{
	n->child = sort_list(n->child);
	for (struct calls_node *k = n->child; k; k = k->next) { /* as deep as CALLS_DEPTH */
		k->parent = n;
		calls_sort(k);
	}
}

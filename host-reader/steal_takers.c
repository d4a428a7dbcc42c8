/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "steal_takers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

#define SHOWN 10u
#define SHOWN_IN_PLACE 3u /* on a terminal, where there is less room */

/* A thread that took the CPU of one virtual CPU, while it was called so. */
struct taker {
	struct table_key key; /* source and process, number and thread, hash of the name */
	const struct taken_vcpu *of;
	struct taken took;
	__u64 most; /* ns at a time */
	__u32 tid;
	bool kept;
	char name[4 * VCPUS_COMM + 1]; /* harmless */
};

int steal_takers_init(struct steal_takers *t)
{
	int ret = table_init(&t->vcpus, TAKERS_VCPUS, sizeof(struct taken_vcpu));

	return ret ? ret : table_init(&t->by, TAKERS, sizeof(struct taker));
}

void steal_takers_close(struct steal_takers *t)
{
	table_free(&t->vcpus);
	table_free(&t->by);
}

static void add(struct taken *t, __u64 ns)
{
	t->ns += ns;
	t->times++;
}

static bool is_kept(const void *thing)
{
	return ((const struct taker *)thing)->kept;
}

/* More than half of them cannot be above twice the mean: so that much room there is for a while. */
static void forget_small(struct table *by)
{
	struct taker *k;
	double sum = 0;

	for (size_t i = 0; (k = table_next(by, &i)) != NULL;)
		sum += (double)k->took.ns;
	for (size_t i = 0; (k = table_next(by, &i)) != NULL;)
		k->kept = (double)k->took.ns * (double)by->nr > 2 * sum;
	table_keep(by, is_kept);
}

static struct taker *get_taker(struct steal_takers *t, const struct taken_vcpu *of, const struct vcpu_taker *who)
{
	struct table_key text = { 0 }, key;
	struct taker *k;

	_Static_assert(sizeof(text) >= VCPUS_COMM, "it has room for a name");
	memcpy(&text, who->comm, strnlen(who->comm, VCPUS_COMM));
	key = (struct table_key){
		of->key.a << 32 | of->key.b, of->key.c << 32 | who->tid, table_hash(&t->by, &text),
	};
	if (t->by.nr == t->by.max && !table_find(&t->by, &key))
		forget_small(&t->by);
	k = table_get(&t->by, &key);
	if (!k || k->of)
		return k;
	k->of = of;
	k->tid = who->tid;
	htrace_escape(k->name, sizeof(k->name) - 1, who->comm, strnlen(who->comm, VCPUS_COMM));
	return k;
}

void steal_takers_change(struct steal_takers *t, unsigned int source, const struct vcpu_change *c)
{
	struct table_key key = { source, c->vm, c->vcpu };
	struct taken_vcpu *of;
	struct taker *k;
	__u64 ns;

	if (c->before != VCPU_PREEMPTED || c->time < c->since)
		return;
	ns = c->time - c->since;
	of = table_get(&t->vcpus, &key);
	if (!of) {
		t->beyond++;
		return;
	}
	add(&of->all, ns);
	k = c->taker ? get_taker(t, of, c->taker) : NULL;
	if (!k)
		return;
	add(&k->took, ns);
	k->most = ns > k->most ? ns : k->most;
}

/* ------------------------------------------------------------------------------------ in an order */

static int compare_vcpus(const struct taken_vcpu *x, const struct taken_vcpu *y)
{
	return x->all.ns == y->all.ns ? table_compare(&x->key, &y->key) : x->all.ns < y->all.ns ? 1 : -1;
}

static int vcpus_by_time(const void *a, const void *b)
{
	return compare_vcpus(*(struct taken_vcpu *const *)a, *(struct taken_vcpu *const *)b);
}

/* Those of a virtual CPU stand together, in the virtual CPUs' order. */
static int takers_by_time(const void *a, const void *b)
{
	const struct taker *x = *(struct taker *const *)a, *y = *(struct taker *const *)b;
	int c = compare_vcpus(x->of, y->of);

	if (c)
		return c;
	return x->took.ns == y->took.ns ? table_compare(&x->key, &y->key) : x->took.ns < y->took.ns ? 1 : -1;
}

struct taken_vcpu **steal_takers_vcpus(const struct steal_takers *t, size_t *nr)
{
	return (struct taken_vcpu **)table_sorted(&t->vcpus, vcpus_by_time, nr);
}

static struct taker **all_takers(const struct steal_takers *t, size_t *nr)
{
	return (struct taker **)table_sorted(&t->by, takers_by_time, nr);
}

/* Of @nr from @k on: how many are @of's. */
static size_t takers_of(const struct taken_vcpu *of, struct taker *const *k, size_t nr)
{
	size_t n = 0;

	while (n < nr && k[n]->of == of)
		n++;
	return n;
}

/* What is left of all when @nr of them have theirs. */
static struct taken others(const struct taken_vcpu *of, struct taker *const *k, size_t nr)
{
	struct taken left = of->all;

	for (size_t i = 0; i < nr; i++) {
		left.ns -= k[i]->took.ns;
		left.times -= k[i]->took.times;
	}
	return left;
}

/* ----------------------------------------------------------------------------------------- as text */

struct widths {
	int vcpu, name;
};

static void print_row(struct view_page *p, const struct widths *w, const struct taken_vcpu *of, bool first,
		      const char *name, const char *tid, const struct taken *took, const char *most)
{
	view_line(p, "%-*s %-*s %8s %9llu %12.3f %7.2f%% %10.2f %10s", w->vcpu, first ? of->name : "", w->name, name, tid,
		  (ull)took->times, (double)took->ns / 1e6, percent(took->ns, of->all.ns),
		  took->times ? us(took->ns) / (double)took->times : 0.0, most);
}

static void print_vcpu(struct view_page *p, const struct widths *w, const struct taken_vcpu *of,
		       struct taker *const *k, size_t nr)
{
	size_t most = p->rows ? SHOWN_IN_PLACE : SHOWN;
	struct taken left;
	char tid[16], at_most[24];

	nr = nr > most ? most : nr;
	for (size_t i = 0; i < nr; i++) {
		snprintf(tid, sizeof(tid), "%u", k[i]->tid);
		snprintf(at_most, sizeof(at_most), "%.2f", us(k[i]->most));
		print_row(p, w, of, !i, k[i]->name, tid, &k[i]->took, at_most);
	}
	left = others(of, k, nr);
	if (left.times)
		print_row(p, w, of, !nr, "(others)", "-", &left, "-");
}

static int wider(int width, const char *text)
{
	return (int)strlen(text) > width ? (int)strlen(text) : width;
}

void steal_takers_print(const struct steal_takers *t, struct view_page *p, struct taken_vcpu *const *vcpus, size_t nr)
{
	struct widths w = { .vcpu = 6, .name = VCPUS_COMM };
	size_t nr_takers, at = 0;
	struct taker **k = all_takers(t, &nr_takers);

	for (size_t i = 0; i < nr; i++)
		w.vcpu = wider(w.vcpu, vcpus[i]->name);
	for (size_t i = 0; i < nr_takers; i++)
		w.name = wider(w.name, k[i]->name);
	if (nr) {
		view_line(p, "%s", "");
		view_line(p, "%-*s %-*s %8s %9s %12s %8s %10s %10s", w.vcpu, "vCPU", w.name, "TAKEN BY", "Thread", "Times",
			  "Taken ms", "Share", "Mean us", "Max us");
	}
	for (size_t i = 0; i < nr; i++) {
		size_t of_it = takers_of(vcpus[i], k + at, nr_takers - at);

		print_vcpu(p, &w, vcpus[i], k + at, of_it);
		at += of_it;
	}
	free(k);
}

/* ----------------------------------------------------------------------------------------- as JSON */

static void json_taken(struct out *o, const char *prefix, const struct taken *t)
{
	out_printf(o, ",\"%sns\":%llu,\"%scount\":%llu", prefix, (ull)t->ns, prefix, (ull)t->times);
}

void steal_takers_json(const struct steal_takers *t, struct out *o, struct taken_vcpu *const *vcpus, size_t nr,
		       const char (*sources)[VIEW_SOURCE])
{
	size_t nr_takers, at = 0;
	struct taker **k = all_takers(t, &nr_takers);
	struct taken left;

	out_char(o, '[');
	for (size_t i = 0; i < nr; i++) {
		size_t of_it = takers_of(vcpus[i], k + at, nr_takers - at);

		out_printf(o, "%s{\"vm\":%llu,\"vcpu\":%llu", i ? "," : "", (ull)vcpus[i]->key.b, (ull)vcpus[i]->key.c);
		view_json_named(o, "source", sources[vcpus[i]->key.a]);
		json_taken(o, "", &vcpus[i]->all);
		out_text(o, ",\"by\":[");
		for (size_t j = at; j < at + of_it; j++) {
			out_printf(o, "%s{\"tid\":%u,\"comm\":", j > at ? "," : "", k[j]->tid);
			view_json_text(o, k[j]->name);
			json_taken(o, "", &k[j]->took);
			view_json_number(o, "max_ns", k[j]->most);
			out_char(o, '}');
		}
		left = others(vcpus[i], k + at, of_it);
		out_char(o, ']');
		json_taken(o, "others_", &left);
		out_char(o, '}');
		at += of_it;
	}
	out_char(o, ']');
	free(k);
}

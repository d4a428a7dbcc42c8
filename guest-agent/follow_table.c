/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "follow_table.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "exit_names.h"

#define MAX_ROWS 4096 /* a virtual CPU has a dozen reasons */
#define BUCKETS_EACH 16 /* of a power of two: a value is known to 1/32 */
#define NR_BUCKETS (16 + 60 * BUCKETS_EACH)

struct row {
	struct htrace_told_exit sum; /* of those that were told one by one */
	__u64 told;
	struct htrace_told_total total; /* by the host's own account */
	__u32 bucket[NR_BUCKETS]; /* of out_ns */
};

struct follow_table {
	struct row *row[MAX_ROWS]; /* by virtual CPU, ISA and reason */
	unsigned int nr;
	__u64 no_room;
};

struct follow_table *follow_table_new(void)
{
	return calloc(1, sizeof(struct follow_table));
}

void follow_table_free(struct follow_table *t)
{
	if (!t)
		return;
	for (unsigned int i = 0; i < t->nr; i++)
		free(t->row[i]);
	free(t);
}

/* --------------------------------------------------------------------------------------- filling */

static int compare(const struct htrace_told_exit *a, const struct htrace_told_exit *b)
{
	if (a->vcpu != b->vcpu)
		return a->vcpu < b->vcpu ? -1 : 1;
	if (a->isa != b->isa)
		return a->isa < b->isa ? -1 : 1;
	return a->reason < b->reason ? -1 : a->reason > b->reason;
}

/* NULL: there is no room. */
static struct row *row_for(struct follow_table *t, const struct htrace_told_exit *e)
{
	unsigned int low = 0, high = t->nr;
	struct row *r;

	while (low < high) {
		unsigned int mid = (low + high) / 2;
		int c = compare(e, &t->row[mid]->sum);

		if (!c)
			return t->row[mid];
		if (c < 0)
			high = mid;
		else
			low = mid + 1;
	}
	r = t->nr < MAX_ROWS ? calloc(1, sizeof(*r)) : NULL;
	if (!r) {
		t->no_room++;
		return NULL;
	}
	r->sum.vcpu = e->vcpu;
	r->sum.isa = e->isa;
	r->sum.reason = e->reason;
	memmove(&t->row[low + 1], &t->row[low], (t->nr - low) * sizeof(t->row[0]));
	t->row[low] = r;
	t->nr++;
	return r;
}

static unsigned int bucket_of(__u64 v)
{
	unsigned int top;

	if (v < 16)
		return (unsigned int)v;
	top = 63 - (unsigned int)__builtin_clzll(v);
	return 16 + (top - 4) * BUCKETS_EACH +
	       ((unsigned int)(v >> (top - 4)) & (BUCKETS_EACH - 1));
}

/* The middle of what is in a bucket. */
static double value_of(unsigned int bucket)
{
	unsigned int top = (bucket - 16) / BUCKETS_EACH + 4, sub = (bucket - 16) % BUCKETS_EACH;

	if (bucket < 16)
		return bucket;
	return (double)(1ULL << top) * (1 + (sub + 0.5) / BUCKETS_EACH);
}

static void add(struct htrace_told_exit *to, const struct htrace_told_exit *e)
{
	to->out_ns += e->out_ns;
	to->preempted_ns += e->preempted_ns;
	to->woken_ns += e->woken_ns;
	to->slept_ns += e->slept_ns;
}

void follow_table_exit(struct follow_table *t, const struct htrace_told_exit *e)
{
	struct row *r = row_for(t, e);

	if (!r)
		return;
	add(&r->sum, e);
	r->told++;
	r->bucket[bucket_of(e->out_ns)]++;
}

void follow_table_total(struct follow_table *t, const struct htrace_told_total *total)
{
	struct row *r = row_for(t, &total->sum);

	if (r && total->exits >= r->total.exits)
		r->total = *total;
}

/* -------------------------------------------------------------------------------------- printing */

/* Totals come once a second: what was told one by one may be ahead of them. */
static __u64 exits_of(const struct row *r)
{
	return r->total.exits > r->told ? r->total.exits : r->told;
}

static const struct htrace_told_exit *times_of(const struct row *r)
{
	return r->total.sum.out_ns > r->sum.out_ns ? &r->total.sum : &r->sum;
}

/* 0 <= @part < 1: the time that so many of the exits were shorter than. */
static double quantile(const struct row *r, double part)
{
	__u64 rank = (__u64)(part * (double)r->told), seen = 0;

	for (unsigned int i = 0; i < NR_BUCKETS; i++) {
		seen += r->bucket[i];
		if (seen > rank)
			return value_of(i);
	}
	return 0;
}

static double ms(__u64 ns)
{
	return (double)ns / 1e6;
}

static void print_row(const struct row *r, FILE *out)
{
	const struct htrace_told_exit *t = times_of(r);
	char name[32];

	fprintf(out, "%4u  %-22s %10" PRIu64 " %12.3f ", r->sum.vcpu,
		exit_name(r->sum.isa, r->sum.reason, name, sizeof(name)), (uint64_t)exits_of(r),
		ms(t->out_ns));
	if (r->told)
		fprintf(out, "%10.1f %10.1f", quantile(r, 0.5) / 1e3, quantile(r, 0.99) / 1e3);
	else
		fprintf(out, "%10s %10s", "-", "-");
	fprintf(out, " %12.3f %12.3f %12.3f\n", ms(t->preempted_ns), ms(t->woken_ns),
		ms(t->slept_ns));
}

/* All of a virtual CPU, rows @first to @end. */
static void print_stolen(struct row *const *row, unsigned int first, unsigned int end, __u64 ns,
			 FILE *out)
{
	double part = ns ? 100 / (double)ns : 0, halted = 0, other = 0;
	struct htrace_told_exit sum = {0};
	__u64 exits = 0;

	for (unsigned int i = first; i < end; i++) {
		const struct htrace_told_exit *t = times_of(row[i]);

		add(&sum, t);
		exits += exits_of(row[i]);
		if (exit_is_halt(row[i]->sum.isa, row[i]->sum.reason))
			halted += (double)t->woken_ns;
		else
			other += (double)t->woken_ns;
	}
	fprintf(out,
		"vCPU %u: %" PRIu64
		" exits, out of guest mode %.2f %% of the time; stolen %.2f %%: preempted %.2f %%, "
		"waiting to run after a halt %.2f %%, after other waits %.2f %%\n",
		row[first]->sum.vcpu, (uint64_t)exits, (double)sum.out_ns * part,
		(double)(sum.preempted_ns + sum.woken_ns) * part, (double)sum.preempted_ns * part,
		halted * part, other * part);
}

/* By virtual CPU, what took longest first. */
static int by_cost(const void *a, const void *b)
{
	const struct row *x = *(struct row *const *)a, *y = *(struct row *const *)b;
	__u64 p = times_of(x)->out_ns, q = times_of(y)->out_ns;

	if (x->sum.vcpu != y->sum.vcpu)
		return x->sum.vcpu < y->sum.vcpu ? -1 : 1;
	return p != q ? (p > q ? -1 : 1) : compare(&x->sum, &y->sum);
}

void follow_table_print(const struct follow_table *t, __u64 ns, FILE *out)
{
	struct row *row[MAX_ROWS];
	__u64 told = 0, exits = 0;

	memcpy(row, t->row, t->nr * sizeof(row[0]));
	qsort(row, t->nr, sizeof(row[0]), by_cost);
	fprintf(out, "\nvCPU  %-22s %10s %12s %10s %10s %12s %12s %12s\n", "exit", "exits",
		"out ms", "p50 us", "p99 us", "preempted ms", "woken ms", "asleep ms");
	for (unsigned int i = 0; i < t->nr; i++) {
		print_row(row[i], out);
		told += row[i]->told;
		exits += exits_of(row[i]);
	}
	fprintf(out, "\nof %.3f s that the host told of:\n", (double)ns / 1e9);
	for (unsigned int i = 0, end; i < t->nr; i = end) {
		for (end = i + 1; end < t->nr && row[end]->sum.vcpu == row[i]->sum.vcpu;)
			end++;
		print_stolen(row, i, end, ns, out);
	}
	if (told < exits)
		fprintf(out,
			"p50 and p99 are of %" PRIu64 " of these %" PRIu64
			" exits: the others are not over, or came faster "
			"than exits are told one by one\n",
			(uint64_t)told, (uint64_t)exits);
	if (t->no_room)
		fprintf(out,
			"%" PRIu64 " records of further virtual CPUs or reasons are left out\n",
			(uint64_t)t->no_room);
	fflush(out);
}

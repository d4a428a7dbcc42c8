/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io_disk.h"

#include <stdlib.h>

struct vm {
	struct table_key key;
	struct io_disk_span past[IO_DISK_PAST]; /* by their end, the last one at (nr - 1) % IO_DISK_PAST */
	__u64 nr;
	__u64 forgotten; /* the latest end of those that are not there any more */
};

struct io_disks {
	struct table classes, vms;
	__u64 beyond;
};

struct io_disks *io_disks_new(void)
{
	struct io_disks *d = calloc(1, sizeof(*d));

	if (!d || table_init(&d->classes, IO_DISK_CLASSES, sizeof(struct io_disk_class)) ||
	    table_init(&d->vms, IO_DISK_VMS, sizeof(struct vm))) {
		io_disks_free(d);
		return NULL;
	}
	return d;
}

void io_disks_free(struct io_disks *d)
{
	if (!d)
		return;
	table_free(&d->classes);
	table_free(&d->vms);
	free(d);
}

/* From @ns before @time, if there was such a time: what a capture says may be anything. */
static __u64 before(__u64 time, __u64 ns)
{
	return time > ns ? time - ns : 0;
}

/* They come in the order of their ends, but for what the merge could not order. */
static void remember(struct vm *vm, struct io_disk_span s)
{
	__u64 at = vm->nr, oldest = vm->nr < IO_DISK_PAST ? 0 : vm->nr + 1 - IO_DISK_PAST;

	if (vm->nr >= IO_DISK_PAST && vm->past[vm->nr % IO_DISK_PAST].end > vm->forgotten)
		vm->forgotten = vm->past[vm->nr % IO_DISK_PAST].end;
	for (; at > oldest && vm->past[(at - 1) % IO_DISK_PAST].end > s.end; at--)
		vm->past[at % IO_DISK_PAST] = vm->past[(at - 1) % IO_DISK_PAST];
	vm->past[at % IO_DISK_PAST] = s;
	vm->nr++;
}

void io_disks_add(struct io_disks *d, const struct io_disk_rq *rq)
{
	struct table_key vm_key = { rq->host, rq->vm, 0 };
	struct table_key key = { rq->host, rq->vm, (__u64)rq->rq.dev << 8 | rq->rq.op };
	struct io_disk_class *c = table_get(&d->classes, &key);
	struct vm *vm = table_get(&d->vms, &vm_key);
	struct io_disk_span s = {
		.issued = before(rq->end, rq->ns), .end = rq->end, .rq = rq->rq, .error = rq->error,
	};

	s.asked = before(s.issued, rq->queue_ns);
	if (vm)
		remember(vm, s);
	if (!c) {
		d->beyond++;
		return;
	}
	c->host = rq->host;
	c->vm = rq->vm;
	c->dev = rq->rq.dev;
	c->op = rq->rq.op;
	c->errors += rq->error;
	durations_add(&c->size, rq->rq.bytes);
	durations_add(&c->queue, rq->queue_ns);
	durations_add(&c->disk, rq->ns);
}

/* What a set of spans covers, of which each that is added ends no later than those before it. */
struct cover {
	__u64 low, sum;
};

static void cover_add(struct cover *c, __u64 from, __u64 until)
{
	__u64 top = until < c->low ? until : c->low;

	if (from >= top)
		return;
	c->sum += top - from;
	c->low = from;
}

int io_disks_past(const struct io_disks *d, unsigned int host, __u32 vm_nr, __u64 from, __u64 until,
		  const struct io_disk_span **list)
{
	struct table_key key = { host, vm_nr, 0 };
	const struct vm *vm = table_find(&d->vms, &key);
	int nr = 0;

	if (!vm) /* none yet; unless there was no room for it */
		return d->vms.nr < d->vms.max ? 0 : -1;
	if (vm->forgotten >= from)
		return -1;
	for (__u64 i = 0; i < vm->nr && i < IO_DISK_PAST; i++) {
		const struct io_disk_span *s = &vm->past[(vm->nr - 1 - i) % IO_DISK_PAST];

		if (s->end < from)
			break;
		if (s->end <= until)
			list[nr++] = s;
	}
	return nr;
}

unsigned int io_disks_since(const struct io_disk_span **list, unsigned int nr, __u64 from)
{
	unsigned int since = 0;

	for (unsigned int i = 0; i < nr; i++)
		if (list[i]->asked >= from)
			list[since++] = list[i];
	return since;
}

static __u64 later(__u64 a, __u64 b)
{
	return a > b ? a : b;
}

struct io_disk_time io_disks_time(const struct io_disk_span *const *list, unsigned int nr, __u64 from)
{
	struct cover asked = { ~0ULL, 0 }, disk = { ~0ULL, 0 };

	for (unsigned int i = 0; i < nr; i++) {
		cover_add(&asked, later(list[i]->asked, from), list[i]->end);
		cover_add(&disk, later(list[i]->issued, from), list[i]->end);
	}
	return (struct io_disk_time){ nr, asked.sum, disk.sum };
}

__u64 io_disks_beyond(const struct io_disks *d)
{
	return d->beyond;
}

static int compare(const void *a, const void *b)
{
	return table_compare(*(struct table_key *const *)a, *(struct table_key *const *)b);
}

struct io_disk_class **io_disks_classes(const struct io_disks *d, size_t *nr)
{
	struct io_disk_class **list = calloc(d->classes.nr + 1, sizeof(*list)), *c;

	*nr = 0;
	for (size_t i = 0; list && (c = table_next(&d->classes, &i)) != NULL;)
		list[(*nr)++] = c;
	if (list)
		qsort(list, *nr, sizeof(*list), compare);
	return list;
}

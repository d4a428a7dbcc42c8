/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The small guest's disk driver: a part of l2.c. It says what Linux's would, in records of the same form. */

static void *disk_record(struct l2_cpu *c, __u32 event, __u32 size, struct htrace_slot *slot)
{
	return htrace_reserve((struct htrace_ring *)c->ring, &c->geometry, (const __u64 *)c->consumed, event, size, 1,
			      now(c), slot);
}

static void tell_request(struct l2_cpu *c, __u32 event)
{
	struct htrace_slot slot;
	struct l2_request *r = disk_record(c, event, sizeof(*r), &slot);

	if (!r)
		return; /* the test misses it */
	*r = c->disk.request;
	htrace_commit(&slot);
}

static void tell_queue(struct l2_cpu *c, __u32 event)
{
	struct htrace_slot slot;
	struct l2_queue_event *q = disk_record(c, event, sizeof(*q), &slot);

	if (!q)
		return;
	*q = (struct l2_queue_event){ .vq = L2_DISK_QUEUE + c->cpu, .name = "req.0" };
	htrace_commit(&slot);
}

static void tell_completion(struct l2_cpu *c)
{
	const struct l2_request *r = &c->disk.request;
	struct htrace_slot slot;
	struct l2_completion *e = disk_record(c, c->disk.complete, sizeof(*e), &slot);

	if (!e)
		return;
	*e = (struct l2_completion){
		.sector = r->bytes ? r->sector : ~0ULL, .dev = r->dev, .nr_sector = r->bytes >> 9,
		.error = c->disk.error, .rwbs = r->rwbs,
	};
	htrace_commit(&slot);
}

/* The device's interrupt; made + 1 is the number of the request that is under way. */
static void on_disk_interrupt(struct l2_cpu *c)
{
	tell_queue(c, c->disk.interrupt);
	if (*(volatile __u64 *)&c->disk.answered == c->made + 1)
		tell_completion(c);
}

/* In turn: reads and writes of several sizes, a read that the host may have in memory, and a flush. */
static void make_request(struct l2_cpu *c)
{
	static const struct {
		__u32 bytes, rwbs;
	} kinds[] = {
		{ 4096, L2_READ_BLOCKS }, { 8192, L2_WRITE }, { 65536, L2_READ_BLOCKS }, { 4096, L2_READ_BLOCKS },
		{ 0, L2_FLUSH },
	};
	__u64 turn = c->made / 5, kind = c->made % 5;

	c->disk.request = (struct l2_request){
		.sector = turn * 128 % 32768 + c->cpu * 32768ULL / 2, .dev = L2_DISK_DEV,
		.bytes = kinds[kind].bytes, .rwbs = kinds[kind].rwbs,
	};
	if (kind == 3)
		c->disk.request.sector = L2_DISK_CACHED + turn % 4 * 8;
	if (kind == 4)
		c->disk.request.sector = 0;
}

/* One request, until it is complete. Flushes are not queued. */
static void use_disk(struct l2_cpu *c)
{
	struct l2_disk *d = &c->disk;

	wait_for_room(c); /* for all records of it */
	make_request(c);
	if (d->request.bytes)
		tell_request(c, d->insert);
	tell_request(c, d->issue);
	d->asked++;
	tell_queue(c, d->notify);
	outb(L2_PORT_DISK, 0);
	while (*(volatile __u64 *)&c->irqs != d->asked)
		__asm__ volatile("pause" ::: "memory");
}

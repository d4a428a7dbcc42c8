/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io.h"

#include <stdlib.h>
#include <string.h>

#include "io_offsets.h"

#define ALL IO_OPS /* operations */
#define UNSAID 1024u /* lists */

/* A notification: one that is waiting for its exit, or has found it. */
struct kick {
	__u64 nr; /* 0: none */
	__u64 time, bound;
	__u64 exit, entry; /* 0: not seen */
	unsigned int host;
	__u32 vm;
	__u64 losses; /* of that host's, until then */
};

struct request {
	struct request *next; /* in its bucket, or free */
	struct request *next_unsaid, **unsaid_by; /* issued, and the device was not notified since */
	bool unsaid, doubtful;
	unsigned int source, cpu;
	struct io_rq rq;
	__u64 inserted, issued; /* 0: not seen */
	__u64 notified;
	__u64 kick; /* its number; 0: not known */
	__u64 more;  /* times that one like it was issued, and not completed */
	bool left;   /* one of those, of which the first completed */
	/* Its number among those issued by the source, of its operation and of all; 0: others were in flight. */
	__u64 alone_of_op, alone;
};

/* Of a source: of one operation, or all. */
struct flights {
	__u64 issued, flying;
};

/* A virtqueue, or the CPU that uses it. */
struct queue {
	struct table_key key;
	__u64 vq;
	__u64 interrupt, injected; /* the last one; 0: not known */
};

struct vcpu {
	struct table_key key;
	unsigned int host;
	__u64 exit;     /* 0: not out */
	bool fast;      /* it is a write, unless more is said of it */
	__u64 written;  /* the last exit with a write that no notification was found for */
	__u64 written_entry; /* its end; 0: not yet */
	__u64 waits;    /* for the exit of this kick */
	__u64 ends;     /* the exit that it is in is that of this kick */
	__u64 injected; /* of the last interrupt of a device's that the guest took, or will, before anything else */
	__u32 vector;   /* likewise */
	__u64 taken;    /* what @injected was before the exit that it is in; 0: that says nothing of it */
};

struct io {
	struct request pool[IO_REQUESTS];
	struct request *bucket[IO_REQUESTS], *unused;
	struct request *unsaid[UNSAID]; /* by source and CPU: one cannot have all of them looked at by each event */
	struct kick kick[IO_KICKS];
	__u64 nr_kicks;
	struct table classes, queues, vcpus;
	bool inserts[IO_SOURCES], issues[IO_SOURCES], notifies[IO_SOURCES]; /* are recorded */
	struct flights flights[IO_SOURCES][IO_OPS + 1];
	struct {
		__u64 nr, since; /* requests that may be in flight, though not in the pool */
	} doubt[IO_SOURCES];
	struct io_disks *disks;
	struct io_offsets *offsets[IO_SOURCES]; /* of a guest's disks; NULL: none yet */
	bool tells_disks[IO_SOURCES]; /* the host does */
	__u64 losses[IO_SOURCES];
	struct io_counts counts;
};

struct io *io_new(void)
{
	struct io *x = calloc(1, sizeof(*x));

	if (x)
		x->disks = io_disks_new();
	if (!x || !x->disks || table_init(&x->classes, IO_CLASSES, sizeof(struct io_class)) ||
	    table_init(&x->queues, IO_QUEUES, sizeof(struct queue)) ||
	    table_init(&x->vcpus, IO_VCPUS, sizeof(struct vcpu))) {
		io_free(x);
		return NULL;
	}
	for (unsigned int i = 0; i < IO_REQUESTS; i++) {
		x->pool[i].next = x->unused;
		x->unused = &x->pool[i];
	}
	return x;
}

void io_free(struct io *x)
{
	if (!x)
		return;
	table_free(&x->classes);
	table_free(&x->queues);
	table_free(&x->vcpus);
	io_disks_free(x->disks);
	for (unsigned int i = 0; i < IO_SOURCES; i++)
		io_offsets_free(x->offsets[i]);
	free(x);
}

static void seen(struct io *x, __u64 time)
{
	if (!x->counts.first)
		x->counts.first = time;
	if (time > x->counts.last)
		x->counts.last = time;
}

/* ------------------------------------------------------------------------------ requests in flight */

/* By the table's seed: what comes to lie where is not the guest's to know. */
static struct request **bucket_of(struct io *x, unsigned int source, const struct io_rq *rq)
{
	struct table_key key = { (__u64)source << 32 | rq->dev, rq->sector, rq->op };

	return &x->bucket[table_hash(&x->classes, &key) % IO_REQUESTS];
}

static struct request *find(struct io *x, unsigned int source, const struct io_rq *rq)
{
	struct request *r = *bucket_of(x, source, rq);

	while (r && (r->source != source || r->rq.dev != rq->dev || r->rq.sector != rq->sector ||
		     r->rq.op != rq->op))
		r = r->next;
	return r;
}

static void depart(struct io *x, unsigned int source, enum io_op op)
{
	x->flights[source][op].issued++;
	x->flights[source][ALL].issued++;
}

/* Which one it is, if no other one is in flight. */
static __u64 take_off(struct flights *f)
{
	return f->flying++ ? 0 : f->issued;
}

static void land(struct io *x, const struct request *r)
{
	x->flights[r->source][r->rq.op].flying--;
	x->flights[r->source][ALL].flying--;
}

static struct request **unsaid_of(struct io *x, unsigned int source, unsigned int cpu)
{
	struct table_key key = { source, cpu, 0 };

	return &x->unsaid[table_hash(&x->classes, &key) % UNSAID];
}

static void link_unsaid(struct io *x, struct request *r)
{
	struct request **list = unsaid_of(x, r->source, r->cpu);

	r->unsaid = true;
	r->next_unsaid = *list;
	r->unsaid_by = list;
	if (*list)
		(*list)->unsaid_by = &r->next_unsaid;
	*list = r;
}

static void unlink_unsaid(struct request *r)
{
	if (!r->unsaid)
		return;
	*r->unsaid_by = r->next_unsaid;
	if (r->next_unsaid)
		r->next_unsaid->unsaid_by = r->unsaid_by;
	r->unsaid = false;
}

static void drop(struct io *x, struct request *r)
{
	struct request **at = bucket_of(x, r->source, &r->rq);

	unlink_unsaid(r);
	if (r->left && x->doubt[r->source].nr)
		x->doubt[r->source].nr--;
	else if (r->issued && !r->left)
		land(x, r);
	while (*at != r)
		at = &(*at)->next;
	*at = r->next;
	r->next = x->unused;
	x->unused = r;
	x->counts.in_flight--;
}

static struct request *add(struct io *x, unsigned int source, const struct io_rq *rq)
{
	struct request *r = x->unused, **at;

	if (!r) {
		x->counts.beyond++;
		return NULL;
	}
	x->unused = r->next;
	at = bucket_of(x, source, rq);
	*r = (struct request){ .next = *at, .source = source, .rq = *rq };
	*at = r;
	x->counts.in_flight++;
	return r;
}

void io_records(struct io *x, unsigned int source, bool inserts, bool issues, bool notifies)
{
	x->inserts[source] = inserts;
	x->issues[source] = issues;
	x->notifies[source] = notifies;
}

/*
 * Of requests that are alike nobody can say which one completes first: those that are left stay, and make doubtful what
 * is like them. If it was the same one that was issued again none completes, so that is over some time. Likewise of one
 * that completes by parts.
 */
static bool doubts(const struct io *x, unsigned int source, __u64 time)
{
	return x->doubt[source].nr && time < x->doubt[source].since + IO_DOUBT_NS;
}

static void begin_doubt(struct io *x, const struct io_at *at)
{
	if (!doubts(x, at->source, at->time))
		x->doubt[at->source].nr = 0;
	x->doubt[at->source].nr++;
	x->doubt[at->source].since = at->time;
}

/* True: there are others, which have yet to complete. */
static bool leave(struct io *x, const struct io_at *at, struct request *r)
{
	if (!r->more)
		return false;
	r->more--;
	if (!r->left) {
		land(x, r);
		begin_doubt(x, at);
	}
	r->left = true;
	return true;
}

/* A completion of one that is not in the pool: if nothing was known of it, those in the pool were not alone. */
static void unseen(struct io *x, const struct io_at *at, enum io_op op)
{
	if (doubts(x, at->source, at->time))
		x->doubt[at->source].nr--;
	else
		depart(x, at->source, op);
}

/* What is in the pool like @rq, unless it was left there too long ago. */
static struct request *find_like(struct io *x, const struct io_at *at, const struct io_rq *rq)
{
	struct request *r = find(x, at->source, rq);

	if (!r || !r->left || doubts(x, at->source, at->time))
		return r;
	drop(x, r);
	return NULL;
}

void io_insert(struct io *x, const struct io_at *at, const struct io_rq *rq)
{
	struct request *r = find_like(x, at, rq);

	seen(x, at->time);
	if (r) { /* once more, or another one that cannot be told from it */
		r->doubtful = true;
		return;
	}
	r = add(x, at->source, rq);
	if (r)
		r->inserted = at->time;
}

void io_issue(struct io *x, const struct io_at *at, const struct io_rq *rq)
{
	struct request *r = find_like(x, at, rq);

	seen(x, at->time);
	depart(x, at->source, rq->op);
	if (r && r->issued) {
		r->doubtful = true;
		r->more++;
		return;
	}
	if (!r)
		r = add(x, at->source, rq);
	if (!r)
		return;
	r->alone_of_op = take_off(&x->flights[at->source][rq->op]);
	r->alone = take_off(&x->flights[at->source][ALL]);
	if (doubts(x, at->source, at->time))
		r->alone_of_op = r->alone = 0;
	r->issued = at->time;
	r->cpu = at->cpu;
	r->rq.bytes = rq->bytes; /* others may have been merged with it */
	link_unsaid(x, r);
}

/* -------------------------------------------------------------------------- notifications and exits */

static struct vcpu *get_vcpu(struct io *x, unsigned int host, __u32 vm, __u32 vcpu)
{
	struct table_key key = { host, vm, vcpu };
	struct vcpu *v = table_get(&x->vcpus, &key);

	if (v)
		v->host = host;
	return v;
}

static struct queue *get_queue(struct io *x, unsigned int source, bool cpu, __u64 nr)
{
	struct table_key key = { source, cpu, nr };

	return table_get(&x->queues, &key);
}

static struct kick *find_kick(struct io *x, __u64 nr)
{
	struct kick *k = &x->kick[nr % IO_KICKS];

	return nr && k->nr == nr ? k : NULL;
}

/*
 * The exit comes right behind the notification. By the host's clock it may seem to have begun up to the bound
 * before it.
 */
static void expect_exit(struct io *x, const struct io_at *at, struct kick *k)
{
	struct vcpu *v = get_vcpu(x, at->host, at->vm, at->vcpu);

	if (!v)
		return;
	v->waits = k->nr;
	if (!v->written || v->written + at->bound < at->time)
		return;
	k->exit = v->written;
	k->entry = v->written_entry;
	v->ends = k->entry ? 0 : k->nr;
	v->written = v->waits = 0;
}

void io_notify(struct io *x, const struct io_at *at, __u64 vq)
{
	struct queue *q = get_queue(x, at->source, true, at->cpu);
	struct request *next = *unsaid_of(x, at->source, at->cpu);
	struct kick *k = NULL;

	seen(x, at->time);
	if (q)
		q->vq = vq;
	while (next) {
		struct request *this = next;

		next = this->next_unsaid;
		if (this->source != at->source || this->cpu != at->cpu)
			continue;
		unlink_unsaid(this);
		this->notified = at->time;
		if (!at->on_host)
			continue;
		if (!k) {
			k = &x->kick[++x->nr_kicks % IO_KICKS];
			*k = (struct kick){
				.nr = x->nr_kicks, .time = at->time, .bound = at->bound, .host = at->host,
				.vm = at->vm, .losses = x->losses[at->host],
			};
		}
		this->kick = k->nr;
	}
	if (k)
		expect_exit(x, at, k);
}

void io_host_exit(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time, enum io_exit kind)
{
	struct vcpu *v = get_vcpu(x, host, vm, vcpu);

	seen(x, time);
	if (!v)
		return;
	v->exit = time;
	v->fast = kind == IO_EXIT_FAST;
	v->ends = v->written = 0;
	v->taken = 0;
	if (kind == IO_EXIT_FORCED)
		return;
	v->taken = v->injected;
	v->injected = 0;
}

static void write_of(struct io *x, struct vcpu *v)
{
	struct kick *k = find_kick(x, v->waits);

	if (!v->exit || v->ends)
		return;
	if (k && v->exit + k->bound >= k->time) {
		k->exit = v->exit;
		v->ends = k->nr;
		v->waits = 0;
	} else {
		v->written = v->exit;
		v->written_entry = 0;
	}
}

void io_host_access(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, bool write)
{
	struct vcpu *v = get_vcpu(x, host, vm, vcpu);

	if (!v)
		return;
	v->fast = false;
	if (v->injected < v->exit) /* what the guest did was more than to be stopped */
		v->injected = 0;
	if (write)
		write_of(x, v);
}

void io_host_entry(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time)
{
	struct vcpu *v = get_vcpu(x, host, vm, vcpu);
	struct kick *k;

	seen(x, time);
	if (!v)
		return;
	if (v->fast)
		write_of(x, v);
	k = find_kick(x, v->ends);
	if (k)
		k->entry = time;
	if (v->written)
		v->written_entry = time;
	v->exit = v->ends = 0;
	v->fast = false;
}

void io_host_whole(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time, __u64 ns, enum io_exit kind,
		   bool write)
{
	struct vcpu *v = get_vcpu(x, host, vm, vcpu);
	__u64 injected;

	if (!v)
		return;
	injected = v->injected;
	io_host_exit(x, host, vm, vcpu, time - ns, kind);
	if (!ns) {
		v->exit = 0;
		return;
	}
	if (injected > time - ns) /* within it */
		v->injected = injected;
	if (write)
		write_of(x, v);
	io_host_entry(x, host, vm, vcpu, time);
}

void io_host_inject(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time, __u32 vector, bool again)
{
	struct vcpu *v = get_vcpu(x, host, vm, vcpu);

	seen(x, time);
	if (!v || (again && v->injected && v->vector == vector))
		return;
	v->injected = vector < IO_SYSTEM_VECTORS ? time : 0;
	v->vector = vector;
}

void io_host_eoi(struct io *x, unsigned int host, __u32 vm, __u32 vcpu)
{
	struct vcpu *v = get_vcpu(x, host, vm, vcpu);

	if (!v || !v->exit || v->injected)
		return;
	v->injected = v->taken;
	v->taken = 0;
}

void io_host_records(struct io *x, unsigned int host, bool disks)
{
	x->tells_disks[host] = disks;
}

void io_host_disk(struct io *x, const struct io_disk_rq *rq)
{
	seen(x, rq->end);
	io_disks_add(x->disks, rq);
}

/* ------------------------------------------------------------------------------------- completion */

void io_interrupt(struct io *x, const struct io_at *at, __u64 vq)
{
	struct queue *q = get_queue(x, at->source, false, vq);
	const struct vcpu *v = at->on_host ? get_vcpu(x, at->host, at->vm, at->vcpu) : NULL;

	seen(x, at->time);
	if (!q)
		return;
	q->interrupt = at->time;
	q->injected = v && v->injected && v->injected < at->time + at->bound ? v->injected : 0;
}

/* When the interrupt was given to a virtual CPU that told of @r's completion; 0: not known. */
static __u64 injected_for(struct io *x, const struct request *r)
{
	const struct queue *cpu = get_queue(x, r->source, true, r->cpu), *q;

	if (!cpu || !cpu->vq)
		return 0;
	q = get_queue(x, r->source, false, cpu->vq);
	return q && q->interrupt > r->issued && q->injected > r->issued ? q->injected : 0;
}

static void took(struct io_times *t, __u64 from, __u64 until)
{
	durations_add(&t->d, until > from ? until - from : 0);
}

static void unless(struct io_times *t, bool none)
{
	if (none)
		t->none++;
	else
		t->unknown++;
}

static bool is_alone(const struct io *x, const struct request *r)
{
	return r->alone && r->alone == x->flights[r->source][ALL].issued;
}

static bool is_alone_of_op(const struct io *x, const struct request *r)
{
	return r->alone_of_op && r->alone_of_op == x->flights[r->source][r->rq.op].issued;
}

/* Where @r's disk is on the disks of its host. NULL: memory is out. */
static struct io_offsets *offsets_of(struct io *x, const struct request *r, const struct kick *k)
{
	struct io_offsets **o = &x->offsets[r->source];

	if (!*o)
		*o = io_offsets_new();
	if (*o)
		io_offsets_of(*o, k->host, k->vm);
	return *o;
}

static void learn(struct io *x, struct io_offsets *o, const struct request *r, const struct kick *k, __u64 injected,
		  const struct io_disk_span **list)
{
	__u64 since = io_offsets_since(o, r->rq.op, k->exit);
	int nr = io_disks_past(x->disks, k->host, k->vm, since, injected, list);

	io_offsets_learn(o, &r->rq, k->exit, injected, list, nr);
}

/* What the host's disks did for @r, from its notification's exit until the interrupt was given. False: it is not known. */
static bool share(struct io *x, const struct request *r, const struct kick *k, __u64 injected, struct io_disk_time *t)
{
	const struct io_disk_span *list[IO_DISK_PAST];
	struct io_offsets *o;
	unsigned int own;
	int nr;

	if (!k || injected <= k->exit || !x->issues[r->source] || !x->tells_disks[k->host] ||
	    k->losses != x->losses[k->host])
		return false;
	o = offsets_of(x, r, k);
	if (o && is_alone_of_op(x, r))
		learn(x, o, r, k, injected, list);
	nr = io_disks_past(x->disks, k->host, k->vm, k->exit, injected, list);
	if (nr < 0)
		return false;
	own = (unsigned int)nr;
	if (is_alone(x, r)) {
		own = io_disks_since(list, own, k->exit);
	} else if (nr) { /* else there was nothing that could be whose it is not */
		own = o ? io_offsets_own(o, &r->rq, k->exit, list, own) : 0;
		if (!own)
			return false;
	}
	*t = io_disks_time(list, own, k->exit);
	return true;
}

static void count_disk(struct io *x, struct io_class *c, const struct request *r, const struct kick *k, __u64 injected)
{
	struct io_disk_time t;

	if (!share(x, r, k, injected, &t)) {
		for (unsigned int i = IO_WAITS; i <= IO_REST; i++)
			c->stage[i].unknown++;
		return;
	}
	durations_add(&c->stage[IO_REST].d, injected - k->exit - t.asked);
	if (!t.requests) {
		c->stage[IO_WAITS].none++;
		c->stage[IO_DISK].none++;
		return;
	}
	durations_add(&c->stage[IO_WAITS].d, t.asked - t.disk);
	durations_add(&c->stage[IO_DISK].d, t.disk);
}

static void count(struct io *x, struct io_class *c, const struct request *r, __u64 done)
{
	const struct kick *k = find_kick(x, r->kick);
	__u64 injected = injected_for(x, r);
	bool silent = !r->notified && x->notifies[r->source];

	if (k && (!k->exit || !k->entry || k->exit >= done))
		k = NULL;
	durations_add(&c->size, r->rq.bytes);
	took(&c->stage[IO_TOTAL], r->inserted ? r->inserted : r->issued, done);
	if (r->inserted)
		took(&c->stage[IO_QUEUE], r->inserted, r->issued);
	else
		unless(&c->stage[IO_QUEUE], x->inserts[r->source]);
	if (r->notified)
		took(&c->stage[IO_DRIVER], r->issued, r->notified);
	else
		unless(&c->stage[IO_DRIVER], silent);
	if (k)
		took(&c->stage[IO_KICK], k->exit, k->entry);
	else
		unless(&c->stage[IO_KICK], silent);
	if (k && injected > k->exit)
		took(&c->stage[IO_VMM], k->entry, injected);
	else
		c->stage[IO_VMM].unknown++;
	count_disk(x, c, r, k, injected);
	if (injected)
		took(&c->stage[IO_IRQ], injected, done);
	else
		c->stage[IO_IRQ].unknown++;
}

void io_complete(struct io *x, const struct io_at *at, const struct io_rq *rq, bool error)
{
	struct table_key key = { at->source, rq->dev, rq->op };
	struct request *r = find(x, at->source, rq);
	struct io_class *c;

	seen(x, at->time);
	if (!r && !rq->bytes && rq->op == IO_WRITE)
		return; /* asked for a flush, which was one of its own; no driver got it */
	if (!r || !r->issued) {
		x->counts.no_issue++;
		unseen(x, at, rq->op);
	} else if (r->doubtful || rq->bytes != r->rq.bytes) {
		x->counts.ambiguous++;
		if (leave(x, at, r))
			return;
		if (rq->bytes < r->rq.bytes)
			begin_doubt(x, at);
	} else {
		c = table_get(&x->classes, &key);
		if (c) {
			c->source = at->source;
			c->dev = rq->dev;
			c->op = rq->op;
			c->errors += error;
			count(x, c, r, at->time);
		} else {
			x->counts.beyond++;
		}
	}
	if (r)
		drop(x, r);
}

/* -------------------------------------------------------------------------------------------- loss */

void io_guest_loss(struct io *x, unsigned int source, __u64 lost)
{
	struct queue *q;

	x->counts.lost += lost;
	for (unsigned int i = 0; i < IO_REQUESTS; i++)
		while (x->bucket[i]) {
			struct request *r = x->bucket[i];

			while (r && r->source != source)
				r = r->next;
			if (!r)
				break;
			x->counts.voided++;
			drop(x, r);
		}
	for (size_t i = 0; (q = table_next(&x->queues, &i)) != NULL;)
		if (q->key.a == source)
			q->interrupt = q->injected = 0;
	x->doubt[source].nr = 0;
}

void io_guest_over(struct io *x, unsigned int source)
{
	io_guest_loss(x, source, 0);
	io_offsets_free(x->offsets[source]);
	x->offsets[source] = NULL;
}

void io_host_loss(struct io *x, unsigned int host, __u64 lost)
{
	struct vcpu *v;

	x->counts.lost += lost;
	x->losses[host]++;
	for (unsigned int i = 0; i < IO_SOURCES; i++)
		if (x->offsets[i])
			io_offsets_lost(x->offsets[i], host);
	for (size_t i = 0; (v = table_next(&x->vcpus, &i)) != NULL;)
		if (v->host == host)
			v->exit = v->written = v->waits = v->ends = v->injected = v->taken = 0;
}

/* ------------------------------------------------------------------------------------------ results */

struct io_counts io_counts(const struct io *x)
{
	struct io_counts n = x->counts;

	n.beyond += io_disks_beyond(x->disks);
	return n;
}

const struct io_disks *io_disks(const struct io *x)
{
	return x->disks;
}

static int compare(const void *a, const void *b)
{
	return table_compare(*(struct table_key *const *)a, *(struct table_key *const *)b);
}

struct io_class **io_classes(const struct io *x, size_t *nr)
{
	struct io_class **list = calloc(x->classes.nr + 1, sizeof(*list)), *c;

	*nr = 0;
	for (size_t i = 0; list && (c = table_next(&x->classes, &i)) != NULL;)
		list[(*nr)++] = c;
	if (list)
		qsort(list, *nr, sizeof(*list), compare);
	return list;
}

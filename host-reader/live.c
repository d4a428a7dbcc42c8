/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "live_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/clock.h>

#include "clock.h"
#include "message.h"
#include "source_clock.h"

#define RING_BUDGET (256u << 10) /* bytes of a ring per pass, in batches */
#define LEND_BUDGET (1u << 20)   /* likewise, without copying */
#define BATCH_COST 4096u         /* what a batch counts for at least */
#define LEND_FROM (32u << 10)    /* in a ring; less is copied */
#define SCHEMA_NS 100000000ULL   /* between two looks at a changed schema */
#define SCHEMA_TRIES 3
#define NAMES_NS 200000000ULL
#define COST_SHARE 20    /* what took so long is not done again for so many times as long */
#define READ_NS 20000000 /* of a round; other sources wait meanwhile */
#define OWNERS 64        /* whose life is looked at, at once */

/* ----------------------------------------------------------------------------- schema and names */

/* False: there is nothing new. */
static bool load_schema(struct live *s, __u64 now)
{
	__u64 generation = s->schema_generation;
	char why[160] = "";
	size_t len;
	void *buf;
	int ret;

	if (htrace_view_schema(s->view, &generation, &buf, &len) != 1)
		return false;
	ret = session_schema(s->session, generation, buf, len, now, why, sizeof(why));
	free(buf);
	/* It may have been read while it was written: only what stays wrong is worth a word. */
	if (ret && ++s->schema_refused < SCHEMA_TRIES)
		return true;
	s->schema_generation = generation;
	s->schema_refused = 0;
	if (!ret)
		return true;
	if (!s->said_refused)
		say_within(s->quota, "%s: the schema was refused: %s; events that it would add are "
			   "shown by number", s->path, why[0] ? why : strerror(-ret));
	s->said_refused = true; /* once: a guest does not get to fill logs */
	return true;
}

/* When to do again what began at @start: a guest that makes it costly makes it rare. */
static __u64 again_at(__u64 start, __u64 pause)
{
	__u64 end = clock_now(), least = COST_SHARE * (end - start);

	return end + (least > pause ? least : pause);
}

static void refresh_schema(struct live *s, __u64 now)
{
	__u64 start;

	if (now < s->schema_next || session_is_behind(s->session))
		return;
	start = clock_now();
	if (load_schema(s, now))
		s->schema_soonest = again_at(start, 0);
	s->schema_next = again_at(start, SCHEMA_NS);
}

/*
 * What describes the events of a batch was there before them, whatever schema the batch's block was
 * opened under: read it first.
 */
static void schema_for_batch(struct live *s, __u64 now)
{
	__u64 start = clock_now();

	if (start >= s->schema_soonest && !session_is_behind(s->session) && load_schema(s, now))
		s->schema_soonest = again_at(start, 0);
}

static void load_names(struct live *s, __u64 now)
{
	struct htrace_name *table;
	__u64 generation;
	int nr = htrace_view_names(s->view, &generation, &table);

	if (nr < 0)
		return; /* being written: next time */
	session_names(s->session, table, (__u32)nr, now);
	free(table);
	s->names_read = true;
}

static void refresh_names(struct live *s, __u64 now)
{
	struct htrace_guest guest;
	__u64 start;

	if (now < s->names_next || session_is_behind(s->session))
		return;
	start = clock_now();
	htrace_view_guest(s->view, &guest, false);
	if (guest.names_served != s->names_served || guest.agent_starts != s->agent_starts)
		s->names_read = false;
	s->names_served = guest.names_served;
	s->agent_starts = guest.agent_starts;
	if (!s->names_read)
		load_names(s, now);
	s->names_next = again_at(start, NAMES_NS);
}

void live_refresh(struct live *s, __u64 now)
{
	refresh_schema(s, now);
	if (session_wants_names(s->session))
		refresh_names(s, now);
}

void live_clock(struct live *s, __u64 now)
{
	struct htrace_clock_sample sample[HTRACE_CLOCK_SAMPLES + 1];
	int nr;

	if (htrace_view_super(s->view)->clock_id == HTRACE_CLOCK_MONOTONIC)
		return;
	nr = htrace_view_clock_samples(s->view, &s->clock_next, sample);
	/* Who traces itself may take none for long, or be dead. */
	if (s->own_clocks)
		htrace_clock_take(&sample[nr++]);
	if (nr)
		session_clock(s->session, sample, (__u32)nr, now);
}

/* ----------------------------------------------------------------------------- opening, closing */

/* The set that mirrors @set in the region; nr_ringsets: none does. */
static __u32 mirror_of(const struct live *s, __u32 set)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	__u32 i = 0;

	while (i < super->nr_ringsets && super->ringset[i].relays != set + 1)
		i++;
	return i;
}

/* Where the reader tells how far it has read; NULL: nobody wants to know. */
static __u64 *consumed_word(const struct live *s, const struct htrace_image *image)
{
	struct htrace_host_ring *words = htrace_view_host_ring(s->view, image->slot);

	return words && image->geometry.policy == HTRACE_DISCARD ? &words->consumed : NULL;
}

/* Where the consumer tells it. */
static __u64 *consumer_word(struct live *s, struct live_ring *r, const struct htrace_image *image)
{
	__u64 *word = consumed_word(s, image);

	if (!word || !session_captures(s->session))
		return word;
	r->told = word;
	r->told_last = 0;
	r->read = __atomic_load_n(word, __ATOMIC_RELAXED);
	return &r->read;
}

/* An error leaves what was not written to the next reader. */
static void tell_written(struct live *s, unsigned int ring)
{
	struct live_ring *r = &s->ring[ring];
	__u64 at = r->read;

	if (!r->told || r->drained || at == r->told_last)
		return;
	if (session_unwritten(s->session, ring) < at)
		at = session_unwritten(s->session, ring);
	if (at <= r->told_last)
		return;
	__atomic_store_n(r->told, at, __ATOMIC_RELEASE);
	r->told_last = at;
}

static __u64 load_handover(const __u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/*
 * Of a ring and its mirror the one to begin with: the mirror until it is handed over, and if guest
 * RAM is not mapped, for then the agent takes that back.
 */
static int choose_image(struct live *s, struct live_ring *r, struct htrace_image *image)
{
	__u32 mirror = mirror_of(s, r->set);
	__u64 *there, read;
	int ret;

	if (mirror == htrace_view_super(s->view)->nr_ringsets)
		return htrace_view_ring(s->view, r->set, r->index, image);
	ret = htrace_view_ring(s->view, mirror, r->index, image);
	if (ret)
		return ret;
	if (!s->no_ram) {
		if (load_handover(&image->ring->handover))
			return htrace_view_ring(s->view, r->set, r->index, image);
		r->handover = &image->ring->handover;
	}
	/* An earlier reader may have gone over, and further. */
	there = consumed_word(s, image);
	if (there) {
		const struct htrace_ringset *of = &htrace_view_super(s->view)->ringset[r->set];

		read = __atomic_load_n(&htrace_view_host_ring(s->view, of->first_slot + r->index)
						->consumed, __ATOMIC_RELAXED);
		if (read > __atomic_load_n(there, __ATOMIC_RELAXED))
			__atomic_store_n(there, read, __ATOMIC_RELEASE);
	}
	return 0;
}

/* The mirror was read to its end, and the agent has handed over: go on in the ring itself. */
static bool go_direct(struct live *s, struct live_ring *r)
{
	struct htrace_image image;
	__u64 at;

	if (!r->handover)
		return false;
	at = load_handover(r->handover);
	if (!at || htrace_consumer_position(r->consumer) < at - 1)
		return false;
	if (htrace_view_ring(s->view, r->set, r->index, &image) ||
	    htrace_consumer_move(r->consumer, &image, consumer_word(s, r, &image)))
		return false;
	r->header = image.ring;
	r->slot = image.slot;
	r->handover = NULL;
	return true;
}

unsigned int live_relayed(const struct live *s)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < s->nr_rings; i++)
		nr += s->ring[i].handover != NULL;
	return nr;
}

/* Discard: an earlier reader had all that a dead one left, and said so. */
static bool drained_before(struct live *s, struct live_ring *r)
{
	r->owner.sz = sizeof(r->owner);
	return r->image.geometry.policy == HTRACE_DISCARD &&
	       !htrace_view_owner(s->view, &r->image, &r->owner) && r->owner.drained;
}

/* The mirror of a ring may be behind it. */
static __u64 read_before(const struct live *s, const struct live_config *config,
			 const struct htrace_image *image)
{
	__u64 head = __atomic_load_n(&image->ring->head, __ATOMIC_ACQUIRE);
	__u64 end = s->nr_rings < config->nr_ends ? config->ends[s->nr_rings] : NO_END;

	if (end == NO_END || image->kind != HTRACE_RING_PER_CPU)
		return 0;
	return end < head ? end : head;
}

static int open_ring(struct live *s, const struct live_config *config, struct live_ring *r, __u32 set,
		     __u32 index)
{
	struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
	struct htrace_image image;
	int ret;

	r->set = set;
	r->index = index;
	ret = choose_image(s, r, &image);
	if (ret)
		return ret;
	opts.consumed = consumer_word(s, r, &image);
	opts.from = read_before(s, config, &image);
	r->header = image.ring;
	r->image = image;
	r->slot = image.slot;
	r->size = 1ULL << htrace_view_super(s->view)->ringset[set].ring_shift;
	ret = htrace_consumer_new(&r->consumer, &image, &opts);
	if (ret)
		return ret;
	r->drained = drained_before(s, r);
	r->backlog = r->drained ? 0 : htrace_consumer_backlog(r->consumer);
	return 0;
}

/* In the order in which struct session_facts numbers them. */
static int open_rings(struct live *s, const struct live_config *config, char *err, size_t errlen)
{
	const struct htrace_super *super = htrace_view_super(s->view);

	for (__u32 set = 0; set < super->nr_ringsets; set++) {
		if (super->ringset[set].relays)
			continue; /* in the place of another */
		for (__u32 i = 0; i < super->ringset[set].nr_rings; i++) {
			int ret = open_ring(s, config, &s->ring[s->nr_rings], set, i);

			if (ret) {
				snprintf(err, errlen, "ring %u of set %u: %s", i, set,
					 strerror(-ret));
				return ret;
			}
			s->nr_rings++;
		}
	}
	return 0;
}

int live_open(struct live **out, struct session *session, const struct live_config *config,
	      char *err, size_t errlen)
{
	const struct htrace_super *super = htrace_view_super(config->view);
	unsigned int nr = 0;
	struct live *s;
	int ret;

	for (__u32 set = 0; set < super->nr_ringsets; set++)
		nr += super->ringset[set].nr_rings;
	s = calloc(1, sizeof(*s) + nr * sizeof(*s->ring));
	if (s)
		s->end = calloc(nr ? nr : 1, sizeof(*s->end));
	if (!s || !s->end) {
		free(s);
		snprintf(err, errlen, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	s->session = session;
	s->view = config->view;
	s->no_ram = config->no_ram;
	s->vm = config->vm;
	s->path = config->path;
	s->quota = config->quota;
	s->clock = config->clock;
	s->own_clocks = htrace_view_same_boot(s->view);
	s->steps_back = config->steps_back;
	ret = open_rings(s, config, err, errlen);
	if (ret) {
		live_close(s, false);
		return ret;
	}
	refresh_schema(s, clock_now());
	*out = s;
	return 0;
}

/* What is in a ring now. Its head is the guest's word: no more than fits. */
static __u64 unread(const struct live_ring *r)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };
	__u64 head = __atomic_load_n(&r->header->head, __ATOMIC_RELAXED);

	htrace_consumer_get_stats(r->consumer, &st);
	if (r->broken || r->drained || head <= st.position)
		return 0;
	return head - st.position < r->size ? head - st.position : r->size;
}

__u64 live_close(struct live *s, bool look)
{
	__u64 left = 0;

	session_take_back(s->session, TAKE_BACK_ALL);
	for (unsigned int i = 0; i < s->nr_rings; i++) {
		struct live_ring *r = &s->ring[i];

		tell_written(s, i);
		left += look ? unread(r) : r->backlog;
		htrace_consumer_free(r->consumer);
	}
	free(s->end);
	free(s);
	return left;
}

/* -------------------------------------------------------------------------------------- reading */

/* Does, or may, an agent copy what is in it? Until then it was in memory that we do not see. */
static bool is_relayed(const struct live *s, const struct live_ring *r)
{
	return r->handover || htrace_view_super(s->view)->ringset[r->set].placement == HTRACE_PLACEMENT_IVSHMEM;
}

/* What came into an empty ring did so after we had looked; its first record is the oldest. */
static void check_time(struct live *s, struct live_ring *r, const struct htrace_batch *b, __u64 now)
{
	struct htrace_record first;
	struct htrace_iter it;

	htrace_iter_init(&it, b);
	if (s->clock->used && htrace_iter_next(&it, &first))
		source_clock_check(s->clock, first.time, r->empty, is_relayed(s, r), session_latest(s->session), now);
	r->empty = 0;
}

static int take_batch(struct live *s, unsigned int ring, const struct htrace_batch *b, bool lent,
		      __u64 now, bool unverified, struct live_pass *pass)
{
	pass->events += b->events;
	pass->lost |= b->overwritten || b->dropped || b->corrupt || b->unfinished;
	if (b->events)
		schema_for_batch(s, now);
	if (b->len)
		check_time(s, &s->ring[ring], b, now);
	unverified |= b->doubtful != 0;
	if (lent)
		return session_lent(s->session, ring, s->ring[ring].consumer, b, now, unverified);
	return session_batch(s->session, ring, b, now, unverified, 0);
}

/* What is not much is better copied. */
static bool is_worth_lending(const struct live *s, const struct live_ring *r)
{
	__u64 head = __atomic_load_n(&r->header->head, __ATOMIC_RELAXED);

	return session_lends(s->session) && !r->image.packed &&
	       head - htrace_consumer_position(r->consumer) >= LEND_FROM;
}

void live_give_up_ring(struct live *s, unsigned int ring, __u64 now)
{
	struct live_ring *r = &s->ring[ring];

	r->broken = true;
	r->backlog = 0;
	session_broken(s->session, ring, htrace_consumer_error(r->consumer), now);
}

/* As of a guest whose earlier state is being loaded: its head is behind us, or what lies there is of another time. */
static bool may_have_gone_back(const struct live *s, const struct live_ring *r)
{
	return s->steps_back && !r->broken && !r->finished;
}

/* ---------------------------------------------------------------------------- rings of threads */

static void look_at_owner(struct live *s, struct live_ring *r)
{
	struct htrace_owner o = { .sz = sizeof(o) };

	if (r->image.kind != HTRACE_RING_PER_THREAD || r->finished || r->drained || r->broken ||
	    htrace_view_owner(s->view, &r->image, &o) || o.state != HTRACE_OWNER_DIED)
		return;
	r->owner = o;
	r->finished = true;
	htrace_consumer_finish(r->consumer);
}

void live_look_at_owners(struct live *s, bool all)
{
	for (unsigned int i = 0; i < s->nr_rings && (all || i < OWNERS); i++)
		look_at_owner(s, &s->ring[s->next_owner++ % s->nr_rings]);
}

/* Say what a dead process left unfinished, and that its ring may be used again. */
static void end_life(struct live *s, unsigned int ring, __u64 now)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };
	struct live_ring *r = &s->ring[ring];
	char text[160];

	if (!session_take_back(s->session, TAKE_BACK_ALL))
		return;
	tell_written(s, ring);
	r->drained = true;
	htrace_view_drained(s->view, &r->image, r->owner.generation);
	htrace_consumer_get_stats(r->consumer, &st);
	if (st.unfinished == r->unfinished && st.uncommitted == r->uncommitted)
		return;
	snprintf(text, sizeof(text), "ring %u: its process %u died; %llu events and %llu bytes are "
		 "unfinished", session_ring_number(s->session, ring), r->owner.pid,
		 (unsigned long long)(st.unfinished - r->unfinished),
		 (unsigned long long)(st.uncommitted - r->uncommitted));
	r->unfinished = st.unfinished;
	r->uncommitted = st.uncommitted;
	say_within(s->quota, "%s: %s", s->path, text);
	session_tell(s->session, CAPTURE_SAID, text, strlen(text), now);
}

/* Did another process take the ring that had been a dead one's? Then its positions begin anew. */
static bool begin_life(struct live_ring *r)
{
	if (htrace_consumer_restart(r->consumer))
		return false;
	r->told_last = 0;
	r->finished = r->drained = false;
	return true;
}

/* Until then there is nothing in it for us. */
static bool rests(struct live_ring *r)
{
	return r->drained && !begin_life(r);
}

/* 0: nothing more; 1: stopped before that, to be fair; 2: or for want of memory. */
static int read_ring(struct live *s, unsigned int ring, __u64 now, __u64 until, bool unverified,
		     struct live_pass *pass)
{
	struct live_ring *r = &s->ring[ring];
	bool lent = is_worth_lending(s, r);
	__u32 used = 0;
	__u64 looked;
	int ret = 0;

	if (rests(r))
		return 0;
	if (r->went_back) {
		pass->went_back = true;
		return 0;
	}
	while (used < (lent ? LEND_BUDGET : RING_BUDGET)) {
		struct htrace_batch b;

		if (!session_has_room(s->session, ring))
			return 2;
		looked = clock_now();
		ret = lent ? htrace_consumer_borrow_unseen(r->consumer, &b) :
			     htrace_consumer_read(r->consumer, &b);
		if (!ret && go_direct(s, r))
			continue;
		if (ret != 1)
			break;
		now = clock_now(); /* no record in it is of later: by that they are put in order */
		used += b.len > BATCH_COST ? b.len : BATCH_COST;
		ret = take_batch(s, ring, &b, lent, now, unverified, pass);
		if (ret)
			break;
		ret = 1;
		if (clock_now() >= until)
			break;
	}
	r->backlog = htrace_consumer_backlog(r->consumer);
	r->empty = !ret && !r->backlog ? looked : 0;
	if (ret == -EILSEQ) {
		if (may_have_gone_back(s, r))
			r->went_back = pass->went_back = true;
		else
			live_give_up_ring(s, ring, now);
		return 0;
	}
	if (ret == -ENOBUFS) /* so many are out: when some are back */
		return 2;
	if (ret == -EOWNERDEAD) /* retired for another reader, before we had read it */
		return begin_life(r);
	if (!ret && r->finished && !r->backlog)
		end_life(s, ring, now);
	return ret;
}

void live_set_vm(struct live *s, struct kvm_vm *vm)
{
	s->vm = vm;
}

/* Whose exits say when to read this ring. A mirror's writer is not the virtual CPU. */
static struct kvm_vm *vm_of(const struct live *s, const struct live_ring *r)
{
	const struct htrace_super *super = htrace_view_super(s->view);

	return super->ringset[r->set].kind == HTRACE_RING_PER_CPU && !r->handover && !s->no_ram ?
		       s->vm : NULL;
}

/* As read_ring(), if its virtual CPU's exits leave it to be read; else 0. */
static int read_if_wanted(struct live *s, unsigned int ring, __u64 now, __u64 until, bool all,
			  bool unverified, struct live_pass *pass)
{
	const struct live_ring *r = &s->ring[ring];
	struct kvm_vm *vm = vm_of(s, r);
	__u64 events = pass->events;
	struct kvm_look look;
	int ret;

	if (!kvm_vm_look(vm, r->index, now, &look) && !all) {
		pass->drained &= !htrace_consumer_ready(r->consumer);
		return 0;
	}
	ret = read_ring(s, ring, now, until, unverified, pass);
	kvm_vm_looked(vm, r->index, &look, now, pass->events != events, ret == 0);
	return ret;
}

int live_read(struct live *s, __u64 now, bool all, bool unverified, struct live_pass *pass)
{
	__u64 until = clock_now() + READ_NS;

	memset(pass, 0, sizeof(*pass));
	pass->drained = true;
	for (unsigned int i = 0; i < s->nr_rings; i++) {
		unsigned int ring = (s->first + i) % s->nr_rings;
		int ret;

		if (i && clock_now() >= until) { /* the others come first the next time */
			s->first = ring;
			pass->more = pass->cut = true;
			pass->drained = false;
			break;
		}
		ret = read_if_wanted(s, ring, now, until, all, unverified, pass);
		if (ret < 0)
			return ret;
		pass->more |= ret == 1;
		pass->cut |= ret == 2;
		pass->drained &= ret == 0;
	}
	session_take_back(s->session, pass->more ? TAKE_BACK_DONE : TAKE_BACK_BEGUN);
	for (unsigned int i = 0; i < s->nr_rings; i++)
		tell_written(s, i);
	pass->backlog = live_backlog(s);
	return 0;
}

static bool ring_ready(const struct live_ring *r)
{
	if (r->drained) /* what there is to wait for is another life */
		return __atomic_load_n(&r->header->generation, __ATOMIC_RELAXED) != r->owner.generation;
	return htrace_consumer_ready(r->consumer);
}

bool live_ready(const struct live *s)
{
	for (unsigned int i = 0; i < s->nr_rings; i++)
		if (ring_ready(&s->ring[i]) ||
		    (s->ring[i].handover && load_handover(s->ring[i].handover)))
			return true;
	return false;
}

bool live_arm(const struct live *s)
{
	bool all = true;

	for (unsigned int i = 0; i < s->nr_rings; i++) {
		const struct live_ring *r = &s->ring[i];
		struct htrace_host_ring *words = htrace_view_host_ring(s->view, r->slot);

		if (!words)
			all = false;
		else if (r->drained) /* where its next life begins */
			__atomic_store_n(&words->event_idx, 0, __ATOMIC_RELAXED);
		else
			htrace_consumer_arm(r->consumer, &words->event_idx);
	}
	return all;
}

__u64 live_backlog(const struct live *s)
{
	__u64 sum = 0;

	for (unsigned int i = 0; i < s->nr_rings; i++)
		sum += s->ring[i].backlog;
	return sum;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source_clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "kvm_process.h"
#include "merge.h"
#include "source_internal.h"

#define DRIFT_PPB 20ULL /* of two TSCs that are one but for an offset */
#define STEP_NS (100 * 1000ULL) /* from here on it is one */
#define SLACK_NS (20 * MS)  /* from a time's reading until it is seen, where nothing stands still */
#define OFTEN 8             /* bursts at first with each beat; then once a second */
#define LOOK_NS (2 * MS)    /* between two looks for the answer, when it is due; a guest listens for 30 ms */
#define SELDOM_NS (8 * MS)  /* likewise, when it did not come */
#define AROUND_NS (12 * MS) /* a beat comes as late */
#define LISTENS_NS (5 * MS) /* not to be asked again before */
#define HOLD_NS (5 * SEC)   /* for a step that is suspected */
#define BEGIN_NS (5 * SEC)  /* until the first times are shown at the latest */
#define SETTLED_NS (1500 * MS)
#define GOOD_NS 900 /* bound, to begin with */
#define DRIFT_MAX_PPM 1000
#define LOST_NS (3 * SEC) /* an answer is not waited for any longer: the question may be gone, as by a migration */
#define UNKNOWN (1ULL << 61) /* ns, of what times are off */
#define NARROW 20000 /* ticks: answers that say as much are used, others where there are no better ones */

__extension__ typedef __int128 wide;

/* ---------------------------------------------------------------------------------- host's clocks */

static void take_own(struct source_clock *c)
{
	if (c->nr_own == SOURCE_CLOCK_KEPT)
		memmove(c->own, c->own + 1, --c->nr_own * sizeof(*c->own));
	htrace_clock_take(&c->own[c->nr_own++]);
}

/* CLOCK_MONOTONIC at a TSC that lies between two samples, or a bit behind. */
static bool own_time(const struct source_clock *c, __u64 tsc, __u64 *ns, __u64 *error)
{
	const struct htrace_clock_sample *a, *b;
	unsigned int i = c->nr_own;

	while (i > 1 && c->own[i - 2].tsc > tsc)
		i--;
	if (i < 2)
		return false;
	a = &c->own[i - 2];
	b = &c->own[i - 1];
	if (tsc < a->tsc || b->tsc <= a->tsc || tsc - a->tsc > 2 * (b->tsc - a->tsc) + (1ULL << 32))
		return false;
	*ns = a->mono + (__u64)((wide)(tsc - a->tsc) * (b->mono - a->mono) / (b->tsc - a->tsc));
	*error = (__u64)((wide)(a->width > b->width ? a->width : b->width) / 2 * (b->mono - a->mono) /
			 (b->tsc - a->tsc)) + 1;
	return true;
}

static __u64 to_ns(const struct source_clock *c, __u64 ticks)
{
	const struct htrace_clock_sample *a = &c->own[0], *b = &c->own[c->nr_own - 1];

	if (c->nr_own < 2 || b->tsc <= a->tsc)
		return ticks;
	return (__u64)((wide)ticks * (b->mono - a->mono) / (b->tsc - a->tsc));
}

/* ------------------------------------------------------------------------------------------ words */

static void host_boot_id(__u8 *id)
{
	char text[40] = "";
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t len = fd < 0 ? 0 : read(fd, text, 36);
	unsigned int n = 0, byte;

	if (fd >= 0)
		close(fd);
	for (const char *p = text; len == 36 && n < 16 && *p; p += 2) {
		p += *p == '-';
		if (sscanf(p, "%2x", &byte) != 1)
			return;
		id[n++] = (__u8)byte;
	}
}

/* CLOCK_REALTIME less CLOCK_MONOTONIC: one for all sources, so that they stay beside each other. */
static __u64 real_less_mono(void)
{
	static __u64 ahead, width = ~0ULL;
	struct timespec t;

	for (int i = 0; i < 16 && (i || !ahead); i++) {
		__u64 before = clock_now(), after, real;

		clock_gettime(CLOCK_REALTIME, &t);
		after = clock_now();
		real = (__u64)t.tv_sec * SEC + (__u64)t.tv_nsec;
		if (after - before < width)
			ahead = real - (before + (after - before) / 2);
		if (after - before < width)
			width = after - before;
	}
	return ahead;
}

static void tell(struct source *s, struct host_word *w, unsigned int nr, __u64 now)
{
	for (unsigned int i = 0; i < nr; i++) {
		w[i].real = real_less_mono();
		w[i].how = s->clock.kvm.known ? HOST_BY_KVM : HOST_BY_PING;
		host_boot_id(w[i].boot_id);
		host_clock_add(&s->clock.model, &w[i]);
	}
	session_host_clock(s->session, w, nr, now);
}

static void keep_knot(struct source_clock *c, const struct host_word *w)
{
	if (c->nr_knots == SOURCE_CLOCK_KEPT)
		memmove(c->knot, c->knot + 1, --c->nr_knots * sizeof(*c->knot));
	c->knot[c->nr_knots++] = *w;
}

static void owe(struct source_clock *c, __u64 bound)
{
	if (bound > c->owed)
		c->owed = bound < UNKNOWN ? bound : UNKNOWN;
}

static struct host_word owed_word(struct source_clock *c)
{
	struct host_word w = { .kind = HOST_WORD_DOUBT, .region = c->sure.region + 1, .host = c->owed };

	c->owed = 0;
	return w;
}

/*
 * How far off is what was told around a step that an answer shows to be one of @by, in all? Let d(t) be how far off
 * the line before it is at the guest's time t: 0 at the answer before, @by at this one, and between them it only grows,
 * by one step or by several.
 *
 *   up to the latest time L that was read by then:	d(t) <= d(L) <= lag, as what was read had happened
 *   from a time F on, of a record that came later than
 *   by that line, F being the first one:		d(t) >= d(F) >= off
 *
 * Those up to L were told by the line before, those from F on by that behind: off by lag, and by @by - off. Of what
 * lies between L and F nothing is known. (Known to be of one side only: the guest jumps ahead, as by an older state.)
 */
static __u64 unsure(const struct source_clock *c, __s64 by, __u64 wrong)
{
	__u64 all = (__u64)(by < 0 ? -by : by), before, behind;

	if (by < 0 || c->unclear || c->doubted || !c->sure.region || (c->suspected && c->off > all + wrong))
		return all > c->off ? all : c->off;
	before = c->latest > c->sure.region ? c->lag : 0;
	behind = c->suspected && all > c->off ? all - c->off : 0;
	if (behind > before)
		before = behind;
	return before < all ? before : all;
}

/* Where it lies: behind what was read before, and not behind what was read since, or the answer. */
static void place_step(struct source_clock *c)
{
	const struct host_word *last = &c->knot[c->nr_knots - 1];

	if (!c->suspected || c->step_from > c->answered) {
		c->unclear |= c->latest >= c->answered;
		c->step_from = c->latest < c->answered ? c->latest + 1 : last->region + 1;
		c->step_until = c->answered;
	}
	if (c->step_from < c->from)
		c->step_from = c->from;
	c->from = c->step_from;
}

/*
 * From where it happened on, as far as that is known, other lines hold. Rates do not step: the knots
 * before, moved by the step, say what they are.
 */
static void tell_step(struct source *s, const struct host_word *w, __s64 by, __u64 wrong, __u64 now)
{
	struct source_clock *c = &s->clock;
	struct host_word words[SOURCE_CLOCK_KEPT + 3];
	unsigned int nr = 0;
	__u64 late, off;

	place_step(c);
	late = (__u64)(by < 0 ? -by : by) + wrong;
	c->by = late > c->by ? late : c->by;
	off = unsure(c, by, wrong);
	if (off)
		owe(c, off + wrong + c->strayed);
	if (c->owed)
		words[nr++] = owed_word(c);
	words[nr++] = (struct host_word){
		.kind = HOST_WORD_STEP, .region = c->step_from, .host = (__u64)by, .error = w->error,
	};
	for (unsigned int i = 0; i < c->nr_knots; i++) {
		struct host_word *k = &c->knot[i];

		k->host += (__u64)by;
		k->error += w->error;
		words[nr++] = *k;
	}
	words[nr++] = *w;
	say_within(&s->quota, "%s: its clock made a step of %+.6f s against the host's; its times are right "
		   "again from there on", s->spec->path, (double)by / 1e9);
	tell(s, words, nr, now);
	keep_knot(c, w);
}

static void take_knot(struct source *s, struct host_word *w, __u64 now)
{
	struct source_clock *c = &s->clock;
	__u64 ns, bound, off;

	if (c->nr_knots && w->region <= c->knot[c->nr_knots - 1].region)
		return;
	if (!host_clock_time(&c->model, w->region, &ns, &bound)) {
		off = ns > w->host ? ns - w->host : w->host - ns;
		if (off > STEP_NS + bound + w->error) {
			tell_step(s, w, (__s64)(w->host - ns), bound + w->error, now);
			return;
		}
		if (off > bound + w->error) { /* so it was until now, and by what the line had drifted, more before */
			off += bound + w->error;
			c->strayed = off > c->strayed ? off : c->strayed;
			owe(c, off);
		}
	}
	if (c->better && c->nr_knots) { /* rates by those before would be as far off as these */
		if (c->from <= c->knot[c->nr_knots - 1].region)
			c->from = c->knot[c->nr_knots - 1].region + 1;
		tell(s, &(struct host_word){ .kind = HOST_WORD_BETTER, .region = c->from }, 1, now);
		c->nr_knots = 0;
	}
	c->better = false;
	if (!c->nr_knots)
		c->first_knot = now;
	tell(s, w, 1, now);
	keep_knot(c, w);
}

/* ---------------------------------------------------------------------------------------- samples */

/* What a sample of the guest's says of its region's clock and the host's. False: nothing yet. */
static bool word_of(const struct source *s, const struct htrace_clock_sample *g, struct host_word *w)
{
	const struct source_clock *c = &s->clock;
	bool ticks = s->facts.clock_id == HTRACE_CLOCK_TSC;
	__u64 tsc, error = 0, own_error, away;

	if (c->kvm.known) {
		tsc = kvm_tsc_host(&c->kvm, g->tsc);
	} else {
		error = (c->offset.high - c->offset.low) / 2 + 1;
		tsc = g->tsc - (c->offset.low + error);
		away = tsc > c->offset.tsc ? tsc - c->offset.tsc : c->offset.tsc - tsc;
		if (c->drifts)
			error += away / (1000000 / DRIFT_MAX_PPM);
		else
			error += (__u64)((wide)away * DRIFT_PPB / 1000000000);
	}
	if (!ticks)
		error += g->width / 2 + 1;
	*w = (struct host_word){ .kind = HOST_WORD_KNOT, .region = ticks ? g->tsc : g->mono };
	if (error > 1ULL << 32 || !own_time(c, tsc, &w->host, &own_error))
		return false;
	w->error = to_ns(c, error) + own_error;
	return true;
}

/* When the guest gave its answer, or a bit later, by its own clock: a step may have been behind its @g, too. */
static __u64 answered_at(const struct source *s, const struct htrace_clock_sample *g, __u64 region)
{
	const struct source_clock *c = &s->clock;
	__u64 ahead = c->offset.tsc + c->offset.high - g->tsc;

	if (c->kvm.known || (__s64)ahead < 0)
		return region;
	if (s->facts.clock_id != HTRACE_CLOCK_TSC)
		ahead = to_ns(c, ahead + ahead / (1000000 / DRIFT_MAX_PPM)) + 1;
	return region + ahead;
}

/* By how much the line is off at @latest at most, and at all times before: it was read by now. */
static void note_latest(struct source_clock *c, __u64 latest)
{
	__u64 seen = clock_now(), ns, bound;

	if (latest == c->latest)
		return;
	c->latest = latest;
	c->lag = UNKNOWN;
	if (!host_clock_time(&c->model, latest, &ns, &bound) && ns <= seen + bound)
		c->lag = seen + bound - ns;
}

/* Behind @latest, region time, and before @time, where the line is @off ns behind, or more; or ahead. */
static void suspect(struct source_clock *c, __u64 latest, __u64 time, __s64 off, __u64 now)
{
	if (c->suspected || !host_clock_usable(&c->model))
		return;
	note_latest(c, latest);
	c->suspected = true;
	c->off = (__u64)(off < 0 ? -off : off);
	c->unclear = off < 0 || latest >= time;
	c->step_from = latest < time ? latest + 1 : time;
	c->step_until = time;
	if (!c->begins)
		c->held = now;
	c->hold_until = now + HOLD_NS;
	c->next_ask = now;
	c->look_from = now;
}

/* The latest times that were told of are over, and it goes on; or it was none. */
static void resolve(struct source_clock *c)
{
	c->suspected = c->doubted = c->unclear = false;
	c->off = 0;
	if (!c->begins)
		c->hold_until = 0;
}

/* Nobody answers: what was held goes out, and how far off it is is not claimed, until somebody does. */
static void doubt(struct source *s, __u64 now)
{
	struct source_clock *c = &s->clock;
	struct host_word w = { .kind = HOST_WORD_DOUBT, .region = c->step_from, .error = c->off };

	if (!c->suspected || c->doubted)
		return;
	c->doubted = true;
	if (!c->begins)
		c->hold_until = 0;
	say_within(&s->quota, "%s: its clock seems to have made a step of %.6f s or more against the host's, and it does "
		   "not answer: how far off its times are is not known until it does", s->spec->path,
		   (double)c->off / 1e9);
	tell(s, &w, 1, now);
}

static bool possible(const struct source_clock *c, const struct host_word *w, __u64 now)
{
	return w->host + w->error + SLACK_NS >= c->looked && w->host <= now + w->error;
}

static void suspect_sample(struct source *s, const struct host_word *w, __u64 now)
{
	struct source_clock *c = &s->clock;
	__u64 seen = clock_now();
	__s64 off = w->host < c->looked ? (__s64)(c->looked - w->host - w->error) : -(__s64)(w->host - seen);

	suspect(c, session_latest(s->session), w->region, off, now);
}

/*
 * KVM's offset is another one once a state of the VM was loaded, and no more told once it was migrated. So it is read
 * again behind samples: if it is as before, it is theirs. Where it is not told any more there is ping-pong.
 */
static bool kvm_holds(struct source_clock *c)
{
	struct kvm_tsc before = c->kvm;

	if (!before.known)
		return true;
	kvm_tsc_read(&c->kvm, c->kvm_pid);
	return c->kvm.known && c->kvm.offset == before.offset && c->kvm.ratio == before.ratio &&
	       c->kvm.bits == before.bits;
}

static void take_samples(struct source *s, __u64 now, bool sure)
{
	struct htrace_clock_sample sample[HTRACE_CLOCK_SAMPLES];
	struct source_clock *c = &s->clock;
	__u64 next = c->sample_next, looked = clock_now();
	int nr = htrace_view_clock_samples(s->view, &next, sample);
	struct host_word w;

	if (!nr) {
		c->looked = looked;
		return;
	}
	take_own(c);
	if (!kvm_holds(c) || !word_of(s, &sample[nr - 1], &w)) {
		c->sample_next = next;
		return;
	}
	if (c->nr_knots && !sure && !possible(c, &w, clock_now())) {
		suspect_sample(s, &w, now);
		return; /* when it has answered */
	}
	c->sample_next = next;
	c->looked = looked;
	c->answered = sure ? answered_at(s, &sample[nr - 1], w.region) : w.region;
	/* Of rates that differ nothing is known but near an answer, nor what it was before a step. */
	for (int i = c->drifts || c->suspected || c->moved ? nr - 1 : 0; i < nr; i++)
		if (word_of(s, &sample[i], &w))
			take_knot(s, &w, now);
	if (!sure)
		return;
	c->moved = false;
	resolve(c);
	c->sure = w;
	c->sure.region = c->answered;
}

/* -------------------------------------------------------------------------------------- ping-pong */

static __u64 beat_ns(const struct source *s)
{
	__u64 ms = s->guest.heartbeat_ms;

	return (ms < 50 ? 50 : ms > 5000 ? 5000 : ms) * MS;
}

/*
 * The narrowest that both these answers and those before allow. False: they say too little; the guest's
 * CPU had lost its own, and it had stopped listening.
 */
static bool narrow(struct source_clock *c, const struct htrace_pong *p)
{
	struct tsc_offset *o = &c->offset;
	__u64 wide_by = (__u64)((wide)(p->tsc - o->tsc) * DRIFT_PPB / 1000000000) + 1;
	__u64 low = o->low - wide_by, high = o->high + wide_by, gap;

	if ((__s64)(p->low - low) > 0)
		low = p->low;
	if ((__s64)(p->high - high) < 0)
		high = p->high;
	if (!o->any || (__s64)(high - low) < 0) {
		if (o->known && p->high - p->low >= NARROW) /* which of both is wrong, the next one will tell */
			return false;
		gap = o->any ? to_ns(c, low - high) : 0;
		if (gap >= STEP_NS && !host_clock_usable(&c->model)) { /* what is before it is of another line */
			owe(c, gap + to_ns(c, p->high - p->low));
			c->better = true;
		}
		c->moved |= gap >= STEP_NS;
		gap = o->known ? gap : 0;
		c->drifts |= gap && gap < STEP_NS && p->high - p->low < gap;
		low = p->low;
		high = p->high;
	}
	c->better |= o->wide && high - low < NARROW;
	*o = (struct tsc_offset){
		.any = true, .known = high - low < NARROW || o->known,
		.wide = o->wide && high - low >= NARROW, .low = low, .high = high, .tsc = p->tsc,
	};
	/* A wide one in which the old offset lies as well does not say that it still holds. */
	return high - low < NARROW && p->high - p->low < NARROW;
}

static void plan(struct source *s, bool missed, __u64 now)
{
	struct source_clock *c = &s->clock;
	__u64 beat = beat_ns(s), pause = c->pongs < OFTEN || c->drifts || beat > SEC / 2 ? beat : SEC;
	__u64 last = c->nr_knots ? c->knot[c->nr_knots - 1].host : 0;

	c->missed = missed;
	if (missed)
		pause = beat;
	/* A sample is taken with each beat. */
	last = last < now && last + beat > now ? last : now;
	c->look_from = missed ? now : last + pause - AROUND_NS;
	c->next_ask = last + pause - beat + LISTENS_NS;
	if (c->next_ask < now + LISTENS_NS)
		c->next_ask = now + LISTENS_NS;
}

/* When the next beat comes is known from the last one, unless time stood still. */
static __u64 look_for(const struct source *s)
{
	const struct source_clock *c = &s->clock;

	return 2 * AROUND_NS + (c->suspected || c->missed || !c->offset.known ? beat_ns(s) : 0);
}

static void hear(struct source *s, __u64 now)
{
	struct source_clock *c = &s->clock;
	struct htrace_pong p;
	bool missed = false;
	int ret = htrace_view_pong(s->view, &p);

	if (ret == -EAGAIN && now >= c->asked_at + LOST_NS + beat_ns(s)) {
		c->asked = false;
		c->next_ask = now;
		return;
	}
	if (ret == -EAGAIN) {
		c->next_look = now + (now < c->look_from + look_for(s) ? LOOK_NS : SELDOM_NS);
		if (now < c->look_from)
			c->next_look = c->look_from;
		return;
	}
	c->asked = false;
	c->last_pong = clock_now();
	if (ret)
		c->refused++;
	else
		c->rounds += p.rounds;
	if (!ret && narrow(c, &p)) {
		c->pongs++;
		take_samples(s, now, true);
	} else {
		missed = true;
		if (c->offset.known && !c->suspected) /* it lasts a while */
			take_samples(s, now, false);
	}
	plan(s, missed, clock_now());
}

static void ask(struct source *s, __u64 now)
{
	struct source_clock *c = &s->clock;
	int ret = htrace_view_ping(s->view);

	c->next_ask = now + SEC;
	if (ret) /* -EOPNOTSUPP: an agent that has not begun, perhaps */
		return;
	c->asked = true;
	c->asked_at = now;
	c->next_look = c->look_from > now ? c->look_from : now;
}

/* ------------------------------------------------------------------------------------ begin, end */

static void find_kvm(struct source *s)
{
	__u64 start = clock_now(), end;
	struct kvm_process p;
	char err[256];

	if (s->local || s->spec->nested || access("/sys/kernel/debug/kvm", X_OK) || start < s->kvm_again)
		return;
	if (!kvm_process_find(&p, s->view, s->spec->pid, err, sizeof(err))) {
		s->clock.kvm_pid = p.pid;
		kvm_tsc_read(&s->clock.kvm, p.pid);
		close(p.pidfd);
	}
	end = clock_now();
	s->kvm_again = end + COST_SHARE * (end - start); /* also if its sessions begin all the time */
}

/* Other sources' records with it: of its first session, for one that begins again and again delays nobody. */
static void wait_for_times(struct source *s, __u64 until)
{
	if (s->stats.sessions == 1)
		session_awaited(s->session, s->state == SOURCE_READING ? until : 0);
}

void source_clock_begin(struct source *s, __u64 now)
{
	struct source_clock *c = &s->clock;
	struct host_word w = { .kind = HOST_WORD_SAME };

	source_clock_end(s);
	c->used = s->config->host_clock || (s->config->sinks && sinks_capture(s->config->sinks));
	if (!c->used)
		return;
	c->same = htrace_view_same_boot(s->view);
	if (c->same) {
		tell(s, &w, 1, now);
		return;
	}
	find_kvm(s);
	take_own(c);
	c->looked = c->next_ask = c->look_from = now;
	if (s->config->host_clock) {
		c->begins = true;
		c->held = now;
		c->hold_until = now + BEGIN_NS;
	}
}

void source_clock_end(struct source *s)
{
	host_clock_close(&s->clock.model);
	memset(&s->clock, 0, sizeof(s->clock));
}

/* Times may be shown when they are good, or will not become so. */
static void begin_times(struct source *s, __u64 now)
{
	struct source_clock *c = &s->clock;
	__u64 ns, bound = UINT64_MAX;
	struct htrace_guest g;

	if (!c->begins)
		return;
	if (s->state == SOURCE_LISTENING) /* nothing was read yet: its agent may have much to do */
		c->hold_until = now + BEGIN_NS;
	wait_for_times(s, c->hold_until);
	if (c->nr_knots > 1)
		host_clock_time(&c->model, c->knot[c->nr_knots - 1].region, &ns, &bound);
	htrace_view_guest(s->view, &g, false);
	/* Who runs and has not said that it answers never will. */
	if (now < c->hold_until && !(g.state != HTRACE_GUEST_NONE && !g.clock_pong && !c->kvm.known) &&
	    !(bound < GOOD_NS && now - c->first_knot > SETTLED_NS))
		return;
	if (c->offset.any && !c->offset.known) { /* a wide one is better than none; two more samples */
		c->offset.known = c->offset.wide = true;
		wait_for_times(s, c->hold_until = now + SEC);
		return;
	}
	c->begins = false;
	if (!c->suspected || c->doubted)
		c->hold_until = 0;
	wait_for_times(s, 0);
}

static void tell_owed(struct source *s, __u64 now)
{
	struct host_word w;

	if (!s->clock.owed)
		return;
	w = owed_word(&s->clock);
	tell(s, &w, 1, now);
}

void source_clock_look(struct source *s, __u64 now)
{
	struct source_clock *c = &s->clock;

	if (!c->used || c->same || !s->session || !htrace_view_current(s->view))
		return;
	if (!c->suspected)
		note_latest(c, session_latest(s->session));
	if (c->kvm.known) {
		if (now >= c->next_ask) { /* each look is one at files */
			take_samples(s, now, true);
			c->next_ask = now + 50 * MS;
		}
	} else if (c->asked) {
		if (now >= c->next_look)
			hear(s, now);
		/* Samples that come with the answer are read by what it says. */
	} else {
		if (c->offset.known && !c->suspected)
			take_samples(s, now, false);
		if (now >= c->next_ask)
			ask(s, now);
	}
	begin_times(s, now);
	if (now >= c->hold_until)
		doubt(s, now);
	tell_owed(s, now);
}

void source_clock_settle(struct source *s, __u64 now)
{
	if (!s->clock.used || s->clock.same || !s->session)
		return;
	doubt(s, now);
	tell_owed(s, now);
}

__u64 source_clock_due(const struct source *s, __u64 due)
{
	const struct source_clock *c = &s->clock;
	__u64 mine = c->asked ? c->next_look : c->next_ask;

	if (!c->used || c->same || !s->session)
		return due;
	if (c->hold_until && due >= c->held && due < c->hold_until) /* it does not go out yet */
		due = c->hold_until;
	return mine < due ? mine : due;
}

__u64 source_clock_emit(const struct source *s, __u64 now)
{
	const struct source_clock *c = &s->clock;

	return c->hold_until && c->held + MERGE_DELAY_NS - 1 < now ? c->held + MERGE_DELAY_NS - 1 : now;
}

/*
 * How far behind, or ahead, of the truth the line is at @time at least: it was read now, and was not yet there at
 * @empty, or 0. 0: it may hold.
 */
static __s64 off_by(struct source_clock *c, __u64 time, __u64 empty, __u64 seen)
{
	__u64 ns, bound;

	if (!empty || host_clock_time(&c->model, time, &ns, &bound))
		return 0;
	if (ns + bound + SLACK_NS < empty)
		return (__s64)(empty - ns - bound);
	return ns > seen + bound + SLACK_NS ? -(__s64)(ns - seen) : 0;
}

void source_clock_check(struct source_clock *c, __u64 time, __u64 empty, bool relayed, __u64 latest, __u64 now)
{
	__s64 off;

	if (!c->used || c->same || !c->nr_knots)
		return;
	off = off_by(c, time, empty, clock_now());
	if (!c->suspected && off) {
		suspect(c, latest, time, off, now);
		c->unclear |= relayed;
	} else if (c->suspected) {
		if (off > 0 && !relayed && time >= c->step_from && time < c->step_until) {
			c->step_until = time;
			c->off = (__u64)off;
		}
		c->unclear |= time < c->step_until;
	} else if (c->by && time < c->step_until) {
		owe(c, c->by);
		c->by = 0;
	}
}

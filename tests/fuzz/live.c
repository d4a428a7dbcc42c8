// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * All of the reader at a region: attach, guest RAM, rings and their mirrors, hand-over, schema,
 * names, merge, text. With CHANGING a thread changes the memory and puts it back, all the time;
 * without, the input does, between two steps.
 */
#include <errno.h>
#include <pthread.h>

#include "fuzz.h"
#include "fuzz_region.h"
#include "fuzz_session.h"
#include "live.h"
#include "source_clock.h"

#define MAX_CHANGES 24

/* ------------------------------------------------------------------------------------ the changer */

#ifdef CHANGING
struct change {
	char *at;
	unsigned int width;
	__u64 now, was;
};

static struct changer {
	pthread_t thread;
	bool stop;
	__u64 seed;
	unsigned int nr;
	struct change change[MAX_CHANGES];
} changer;

static void store(const struct change *c, __u64 value)
{
	switch (c->width) {
	case 1:
		__atomic_store_n((__u8 *)c->at, (__u8)value, __ATOMIC_RELAXED);
		break;
	case 2:
		__atomic_store_n((__u16 *)c->at, (__u16)value, __ATOMIC_RELAXED);
		break;
	case 4:
		__atomic_store_n((__u32 *)c->at, (__u32)value, __ATOMIC_RELAXED);
		break;
	default:
		__atomic_store_n((__u64 *)c->at, value, __ATOMIC_RELAXED);
	}
}

/* Wrong for a moment, right for another: so that what was checked is not what is used. */
static void *run_changer(void *ctx)
{
	struct changer *c = ctx;
	__u64 x = c->seed | 1;

	while (!__atomic_load_n(&c->stop, __ATOMIC_RELAXED)) {
		const struct change *k;

		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		k = &c->change[(x >> 8) % c->nr];
		store(k, x & 3 ? k->now : x >> 16);
		for (unsigned int i = x >> 58; i; i--)
			__asm__ volatile("" ::: "memory");
		store(k, k->was);
	}
	return NULL;
}

static void take_changes(struct memory *m, struct input *in, unsigned int most)
{
	struct patch p;

	for (unsigned int n = (unsigned int)take(in, 1) % most; n && take_patch(m, in, &p); n--) {
		struct change *c = &changer.change[changer.nr];

		if (p.off % p.width) /* a store is one store */
			continue;
		*c = (struct change){ m->at + p.off, p.width, p.value, 0 };
		memcpy(&c->was, c->at, p.width);
		memory_touch(m, p.off, p.width);
		changer.nr++;
	}
}

static void changer_start(struct guest *g, struct input *in)
{
	changer.nr = 0;
	changer.stop = false;
	changer.seed = take(in, 2);
	take_changes(&g->memory, in, MAX_CHANGES - 8);
	if (g->space)
		take_changes(&g->ram_memory, in, 8);
	if (changer.nr)
		CHECK(!pthread_create(&changer.thread, NULL, run_changer, &changer));
}

static void changer_stop(void)
{
	__atomic_store_n(&changer.stop, true, __ATOMIC_RELAXED);
	if (changer.nr)
		pthread_join(changer.thread, NULL);
}

static void change_some(struct guest *g, struct input *in)
{
}
#else
static void changer_start(struct guest *g, struct input *in)
{
	take_patches(&g->memory, in, 8);
	if (g->space)
		take_patches(&g->ram_memory, in, 4);
}

static void changer_stop(void)
{
}

static void change_some(struct guest *g, struct input *in)
{
	take_patches(g->space && take(in, 1) & 1 ? &g->ram_memory : &g->memory, in, 6);
}
#endif

/* ------------------------------------------------------------------------------------- the reader */

static void read_some(struct live *l, struct reader *r, bool all, bool unverified)
{
	struct live_pass pass;
	int ret = live_read(l, r->now, all, unverified, &pass);

	CHECK(!ret || ret == -ESTALE || ret == -ENOMEM);
	CHECK(live_backlog(l) >= pass.backlog || ret);
	if (!live_ready(l))
		live_arm(l);
	live_relayed(l);
}

static void follow(struct htrace_view *v, struct live *l, struct reader *r, struct guest *g,
		   struct input *in)
{
	struct htrace_clock_sample clock = { 0 };
	struct htrace_guest guest;

	for (unsigned int steps = 12; steps && (in->left || steps > 8); steps--) {
		__u64 op = take(in, 1);

		switch (op % 8) {
		case 0: case 1: case 2:
			read_some(l, r, (op & 48) != 48, op & 8);
			break;
		case 3:
			live_refresh(l, r->now);
			if (op & 8)
				live_look_at_owners(l, op & 16);
			if (op & 32)
				live_clock(l, r->now);
			break;
		case 4:
			r->now += 60000000;
			reader_emit(r, op & 8);
			break;
		case 5:
			htrace_view_guest(v, &guest, op & 8);
			if (htrace_view_clock(v, &clock))
				clock.mono = 0;
			session_guest(r->session, &guest, &clock, r->now);
			break;
		default:
			change_some(g, in);
		}
	}
	reader_emit(r, true);
}

static void attached(struct htrace_view *v, struct guest *g, struct input *in, __u64 how)
{
	struct source_clock clock = { .used = false };
	struct live_config config = { .view = v, .path = "here", .clock = &clock };
	bool lent = how >= 128 && how < 224; /* into a capture */
	char raw[300];
	struct reader r;
	struct live *l;
	char err[256] = "";

	if (g->space && how & 8)
		config.no_ram = htrace_view_map_ram(v, 0, g->ram_path, err, sizeof(err)) != 0;
	else
		config.no_ram = true;
	snprintf(raw, sizeof(raw), "raw:%s/live", fuzz_dir());
	if (!reader_open(&r, lent ? raw : "text:/dev/null", htrace_view_super(v),
			 (how & 64 ? 16 : 0) | (lent ? 32 : 0))) {
		reader_close(&r);
		return;
	}
	config.quota = &r.quota;
	fail_allocation(how >= 224 ? (unsigned int)how - 223 : 0);
	if (!live_open(&l, r.session, &config, err, sizeof(err))) {
		follow(v, l, &r, g, in);
		live_give_up(l, r.now);
		live_salvage(l);
		read_some(l, &r, true, true);
		session_mark(r.session, "its end", r.now);
		session_snapshot(r.session, "its end", r.now);
		reader_emit(&r, true);
		live_close(l, how & 16);
	}
	fail_allocation(0);
	reader_close(&r);
	if (lent)
		remove_tree(raw + 4, true);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	__u64 how = take(&in, 1);
	struct guest *g = guest_get((how & 7) % NR_SHAPES);
	struct htrace_view *v;
	char err[256];
	int ret = -EAGAIN;

	changer_start(g, &in);
	CHECK(!htrace_view_open_fd(&v, g->fd, !(how & 32), err, sizeof(err)));
	for (int tries = 0; tries < 20 && ret; tries++)
		ret = htrace_view_attach(v, err, sizeof(err));
	if (!ret)
		attached(v, g, &in, how);
	changer_stop();
	htrace_view_close(v);
	guest_put_back(g);
	return 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ram_mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/region.h>

#include "beacon_scan.h"
#include "clock.h"
#include "ram_rings.h"

#define MS 1000000ULL
#define SEC 1000000000ULL
#define LOOK_NS MS             /* between two looks at rings that are copied */
#define LOOK_MOST_NS (8 * MS)  /* likewise, when there is nothing in them */
#define HEADER_NS (10 * MS)    /* at what says that the session ends */
#define HOUSE_NS (100 * MS)    /* at all else of the region */
#define SLICE_NS (10 * MS)     /* of looking for a beacon, or of copying rings, between other work */
#define LAST_NS (500 * MS)     /* of copying rings at the end */
#define BEAT_NS (3 * SEC)      /* a heart that beats does so within this */
#define SILENT_NS (2 * SEC)    /* one that does not any more: look for another */
#define SCAN_NS SEC            /* between two looks through memory: at least, */
#define SCAN_SHARE 20          /* so many times as long as one takes, */
#define SCAN_MOST_NS (16 * SEC) /* or twice as long as before, up to this */
#define MAPPINGS_NS SEC        /* between two looks whether its RAM is where it was */
#define REGION HTRACE_BEACON_REGION

enum state { IDLE, SCANNING, WATCHING, GONE };

struct ram_mirror {
	struct guest_ram *ram;
	struct beacon_scan scan;
	__u64 beat[BEACONS_MAX];
	bool heard[BEACONS_MAX];
	enum state state; /* of looking for a region, which also goes on beside a silent one */
	__u64 next_scan, scan_pause, watch_until;
	struct ram_region region; /* that is copied; gpfn NULL: none */
	struct htrace_super super; /* its, as copied when it was found: not checked but for the places of areas */
	struct htrace_runs *runs;  /* as the guest wrote them */
	struct ram_rings *rings;   /* or NULL */
	bool copied, midway;       /* once all of them; in a round of it, after which @head is shown */
	struct htrace_guest head;
	bool has_head, hurry;
	char *mem;
	int fd, copies, pid; /* copies: memory for those of rings */
	__u64 next, pause, next_header, next_house, next_mappings;
	__u64 heartbeat, beat_at;
	bool said_none, said_stale;
	char said[512];
};

/* ------------------------------------------------------------------------------------ opening, closing */

int ram_mirror_open(struct ram_mirror **out, int pid, char *err, size_t errlen)
{
	struct ram_mirror *m = calloc(1, sizeof(*m));
	int ret;

	if (!m)
		return -ENOMEM;
	m->pid = pid;
	m->fd = m->copies = -1;
	ret = guest_ram_open(&m->ram, pid, err, errlen);
	if (!ret) {
		m->fd = memfd_create("htrace-pid", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		m->copies = memfd_create("htrace-pid-rings", MFD_CLOEXEC);
		if (m->fd < 0 || m->copies < 0 || ftruncate(m->fd, REGION) || fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
			ret = -errno;
		else
			m->mem = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
		if (m->mem == MAP_FAILED) {
			m->mem = NULL;
			ret = -errno;
		}
		if (ret)
			snprintf(err, errlen, "making memory: %s", strerror(-ret));
	}
	if (ret)
		ram_mirror_close(m);
	else
		*out = m;
	return ret;
}

static void forget(struct ram_mirror *m)
{
	__atomic_store_n(&((struct htrace_super *)m->mem)->magic, 0, __ATOMIC_RELEASE);
	ram_region_free(&m->region);
	ram_rings_close(m->rings);
	free(m->runs);
	m->rings = NULL;
	m->runs = NULL;
	m->copied = m->midway = m->has_head = false;
}

void ram_mirror_close(struct ram_mirror *m)
{
	if (!m)
		return;
	if (m->mem) {
		forget(m);
		munmap(m->mem, REGION);
	}
	beacon_scan_end(&m->scan, NULL);
	if (m->fd >= 0)
		close(m->fd);
	if (m->copies >= 0)
		close(m->copies);
	guest_ram_close(m->ram);
	free(m);
}

int ram_mirror_file(const struct ram_mirror *m)
{
	int fd = fcntl(m->fd, F_DUPFD_CLOEXEC, 0);

	return fd < 0 ? -errno : fd;
}

void ram_mirror_hurry(struct ram_mirror *m)
{
	m->next = m->next_header = m->next_house = 0;
	m->hurry = true;
}

bool ram_mirror_gone(const struct ram_mirror *m)
{
	return m->state == GONE;
}

bool ram_mirror_copies(const struct ram_mirror *m)
{
	return m->rings != NULL;
}

__u64 ram_mirror_due(const struct ram_mirror *m)
{
	return m->state == GONE ? UINT64_MAX : m->next;
}

/* ------------------------------------------------------------------------------------ the region's parts */

static int copy(struct ram_mirror *m, __u64 off, void *to, size_t len)
{
	return ram_region_read(m->ram, &m->region, off, to, len);
}

/* Is it a place where an area can be, of at least @least bytes, that is not the host's? */
static bool is_area(const struct htrace_area *a, size_t least)
{
	return a->len >= least && a->off >= HTRACE_FIXED_END && !(a->off % HTRACE_GRANULE) &&
	       htrace_inside(a->off, a->len, REGION);
}

static bool has_areas(const struct htrace_super *s)
{
	return is_area(&s->guest, sizeof(struct htrace_guest)) && is_area(&s->schema, sizeof(struct htrace_schema_area)) &&
	       is_area(&s->names, sizeof(struct htrace_names)) && is_area(&s->runs, sizeof(struct htrace_runs));
}

/* State and heart, which are shown when what was in the rings at that time is. */
static int copy_head(struct ram_mirror *m)
{
	int ret = copy(m, m->super.guest.off, &m->head, offsetof(struct htrace_guest, clock));

	m->has_head = !ret;
	return ret;
}

static void show_head(struct ram_mirror *m)
{
	struct htrace_guest *shown = (void *)(m->mem + m->super.guest.off);

	if (m->has_head) {
		m->head.clock_head = shown->clock_head; /* what the samples are is told with them */
		memcpy(shown, &m->head, offsetof(struct htrace_guest, clock));
	}
	m->has_head = false;
}

/* Its clock and its programs, as they are together at one moment; with @all also its head. */
static int copy_guest(struct ram_mirror *m, bool all)
{
	struct htrace_guest g, *shown = (void *)(m->mem + m->super.guest.off);
	__u64 clock_head;
	int ret = copy(m, m->super.guest.off, &g, sizeof(g));

	if (!ret)
		ret = copy(m, m->super.guest.off + offsetof(struct htrace_guest, clock_head), &clock_head, 8);
	if (ret)
		return ret;
	if (g.clock_head != clock_head)
		return -EAGAIN;
	memcpy(shown->clock, g.clock, sizeof(g) - offsetof(struct htrace_guest, clock));
	if (all)
		memcpy(shown, &g, offsetof(struct htrace_guest, clock));
	else
		shown->clock_head = clock_head;
	return 0;
}

static int copy_schema(struct ram_mirror *m)
{
	struct htrace_schema_area a, *shown = (void *)(m->mem + m->super.schema.off);
	__u64 off = m->super.schema.off;
	int ret = copy(m, off, &a, sizeof(a));

	if (ret || a.generation == shown->generation)
		return ret;
	if (a.bytes > m->super.schema.len - sizeof(a))
		a.bytes = (__u32)(m->super.schema.len - sizeof(a));
	ret = copy(m, off + sizeof(a), shown + 1, a.bytes);
	if (!ret)
		*shown = a;
	return ret;
}

static int copy_names(struct ram_mirror *m)
{
	struct htrace_names a, again, *shown = (void *)(m->mem + m->super.names.off);
	__u64 off = m->super.names.off, room = (m->super.names.len - sizeof(a)) / sizeof(struct htrace_name);
	int ret = copy(m, off, &a, sizeof(a));

	if (ret || a.generation == shown->generation || a.generation & 1)
		return ret;
	if (a.nr > room)
		a.nr = (__u32)room;
	shown->generation = a.generation | 1;
	ret = copy(m, off + sizeof(a), shown + 1, a.nr * sizeof(struct htrace_name));
	if (!ret)
		ret = copy(m, off, &again, sizeof(again));
	if (!ret && again.generation == a.generation)
		*shown = a;
	return ret;
}

/* Such as are written once. */
static int copy_runs(struct ram_mirror *m)
{
	m->runs = malloc(m->super.runs.len);
	return m->runs ? copy(m, m->super.runs.off, m->runs, m->super.runs.len) : -ENOMEM;
}

/* A session begins: all of it, and magic last. */
static int begin(struct ram_mirror *m)
{
	struct htrace_super *shown = (void *)m->mem;
	int ret = copy(m, HTRACE_SUPER_OFF, &m->super, sizeof(m->super));

	if (ret)
		return ret;
	memset(m->mem, 0, HTRACE_HOST_OFF);
	memset(m->mem + HTRACE_FIXED_END, 0, REGION - HTRACE_FIXED_END);
	if (m->super.session != m->region.session || m->super.region_size != REGION || !has_areas(&m->super)) {
		/* What is wrong there is said by who reads it. */
		memcpy((char *)shown + 8, (char *)&m->super + 8, sizeof(*shown) - 8);
		shown->magic = m->super.magic;
		return 0;
	}
	ret = copy_runs(m);
	if (!ret)
		ret = copy_schema(m);
	if (!ret)
		ret = copy_names(m);
	for (int i = 0; i < 8 && (!ret || ret == -EAGAIN) && (i == 0 || ret); i++)
		ret = copy_guest(m, true);
	if (ret)
		return ret;
	memcpy(m->mem + m->super.runs.off, m->runs, m->super.runs.len);
	memcpy((char *)shown + 8, (char *)&m->super + 8, sizeof(*shown) - 8);
	if (!ram_region_current(m->ram, &m->region))
		return -EAGAIN;
	__atomic_store_n(&shown->magic, HTRACE_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

/* -------------------------------------------------------------------------------------- looking for it */

/* False: it cannot be read, which is no sign of life. */
static bool heart_of(const struct ram_mirror *m, const struct ram_region *r, __u64 *beat)
{
	struct htrace_super s;

	return !ram_region_read(m->ram, r, HTRACE_SUPER_OFF, &s, sizeof(s)) &&
	       is_area(&s.guest, sizeof(struct htrace_guest)) &&
	       !ram_region_read(m->ram, r, s.guest.off + offsetof(struct htrace_guest, heartbeat), beat, 8);
}

static void plan_scan(struct ram_mirror *m, __u64 now, bool again)
{
	__u64 cost = SCAN_SHARE * m->scan.ns;

	m->scan_pause = again ? 2 * m->scan_pause : SCAN_NS;
	if (m->scan_pause < SCAN_NS)
		m->scan_pause = SCAN_NS;
	if (m->scan_pause > SCAN_MOST_NS)
		m->scan_pause = SCAN_MOST_NS;
	m->next_scan = now + (cost > m->scan_pause ? cost : m->scan_pause);
	m->state = IDLE;
}

static const char *tell_scan(struct ram_mirror *m)
{
	double gib = (double)m->scan.pages * GUEST_RAM_PAGE / (1ULL << 30), s = (double)m->scan.ns / 1e9;
	int at = snprintf(m->said, sizeof(m->said), "looked through %.2f GiB of guest RAM in %.3f s (%.3f s a GiB; %.0f%% of "
			  "it in use): ", gib, s, gib > 0 ? s / gib : 0,
			  m->scan.pages ? 100.0 * (double)m->scan.present / (double)m->scan.pages : 0);
	size_t len = sizeof(m->said) - (size_t)at;
	char *to = m->said + at;

	if (m->scan.nr)
		snprintf(to, len, "%u region%s", m->scan.nr, m->scan.nr > 1 ? "s" : "");
	else if (m->scan.refused)
		snprintf(to, len, "%u beacon%s refused (%s)", m->scan.refused, m->scan.refused > 1 ? "s" : "", m->scan.why);
	else
		snprintf(to, len, "no guest-agent's beacon; in the guest: guest-agent --region ram");
	return m->said;
}

static const char *end_scan(struct ram_mirror *m, __u64 now)
{
	bool tell = m->scan.nr ? !m->region.gpfn : !m->said_none && !m->region.gpfn;

	m->said_none |= !m->scan.nr;
	if (!m->scan.nr) {
		plan_scan(m, now, true);
		return tell ? tell_scan(m) : NULL;
	}
	for (unsigned int i = 0; i < m->scan.nr; i++)
		m->heard[i] = heart_of(m, &m->scan.found[i], &m->beat[i]);
	m->state = WATCHING;
	m->watch_until = now + BEAT_NS;
	return tell ? tell_scan(m) : NULL;
}

/* In memory of its own first: what is shown, of a region that is silent, stays if nothing can take its place. */
static void take(struct ram_mirror *m, struct ram_region *r, __u64 now)
{
	struct ram_mirror made = { .ram = m->ram, .region = *r, .mem = calloc(1, REGION) };
	struct htrace_super *shown = (void *)m->mem;

	if (!made.mem || begin(&made)) {
		free(made.runs);
		free(made.mem);
		beacon_scan_end(&m->scan, NULL);
		plan_scan(m, now, false);
		return;
	}
	forget(m);
	m->region = *r;
	m->super = made.super;
	m->runs = made.runs;
	beacon_scan_end(&m->scan, r);
	plan_scan(m, now, false);
	memcpy(m->mem + 8, made.mem + 8, HTRACE_HOST_OFF - 8);
	memcpy(m->mem + HTRACE_FIXED_END, made.mem + HTRACE_FIXED_END, REGION - HTRACE_FIXED_END);
	__atomic_store_n(&shown->magic, ((struct htrace_super *)made.mem)->magic, __ATOMIC_RELEASE);
	free(made.mem);
	m->beat_at = now;
	m->heartbeat = 0;
	m->said_none = m->said_stale = false;
	m->next_header = m->next_house = m->next_mappings = 0;
}

/* Beacons outlive their agents in memory that nobody used since: that one counts whose heart beats. */
static const char *watch(struct ram_mirror *m, __u64 now)
{
	unsigned int nr = m->scan.nr;

	for (unsigned int i = 0; i < nr; i++) {
		struct ram_region *r = &m->scan.found[i];

		if (m->region.gpfn && r->session == m->region.session)
			continue;
		__u64 beat, before = m->beat[i];

		if (!heart_of(m, r, &beat))
			continue;
		m->beat[i] = beat;
		if (m->heard[i] && beat != before) {
			take(m, r, now);
			return NULL;
		}
		m->heard[i] = true;
	}
	if (now < m->watch_until)
		return NULL;
	beacon_scan_end(&m->scan, NULL);
	plan_scan(m, now, true);
	if (m->region.gpfn || m->said_stale)
		return NULL;
	m->said_stale = true;
	snprintf(m->said, sizeof(m->said), "none of the %u region%s in guest RAM is one whose agent lives: not read; start "
		 "guest-agent --region ram there", nr, nr > 1 ? "s" : "");
	return m->said;
}

static const char *search(struct ram_mirror *m, __u64 now)
{
	int ret;

	if (m->state == WATCHING)
		return watch(m, now);
	if (m->state == IDLE && now < m->next_scan)
		return NULL;
	if (m->state == IDLE) {
		ret = guest_ram_look(m->ram);
		if (ret < 0) {
			m->state = GONE;
			return NULL;
		}
		beacon_scan_end(&m->scan, NULL);
		beacon_scan_begin(&m->scan, m->ram);
		m->state = SCANNING;
	}
	ret = beacon_scan_step(&m->scan, SLICE_NS);
	if (ret < 0)
		m->state = GONE;
	return ret ? NULL : end_scan(m, now);
}

/* -------------------------------------------------------------------------------------------- its work */

/* The VMM may have given memory back, and use the addresses for other things. */
static bool ram_moved(struct ram_mirror *m, __u64 now)
{
	__u64 took;
	int ret;

	if (now < m->next_mappings)
		return false;
	took = clock_now();
	ret = guest_ram_look(m->ram);
	took = SCAN_SHARE * (clock_now() - took);
	m->next_mappings = now + (took > MAPPINGS_NS ? took : MAPPINGS_NS);
	return ret < 0 || guest_ram_part(m->ram, m->region.part)->id != m->region.id;
}

/* Go on with the round that there is, or begin one. 1: there was something; 0; -EAGAIN: there is more. */
static int copy_rings(struct ram_mirror *m, __u64 most)
{
	__u64 start = clock_now(), took;
	int ret = m->rings ? ram_rings_update(m->rings, start + most) : 0;

	m->midway = ret == -EAGAIN;
	m->copied |= m->rings && ret >= 0;
	took = clock_now() - start;
	if (ret > 0 || m->midway) /* half of the time at most */
		m->pause = took > LOOK_NS ? took : LOOK_NS;
	if (ret >= 0)
		show_head(m);
	return ret;
}

static int follow(struct ram_mirror *m, __u64 now)
{
	__u64 most = m->hurry ? LAST_NS : SLICE_NS;
	int ret = 0;

	if (m->hurry && m->midway)
		ret = copy_rings(m, most);
	if (ret >= 0 && now >= m->next_header) {
		m->next_header = now + HEADER_NS;
		if (ram_moved(m, now))
			return -ENOENT;
		if (!ram_region_current(m->ram, &m->region))
			return -ENOENT;
		ret = m->midway ? 0 : copy_head(m);
	}
	/* State first: what was committed when it changed is in the rings then. Names last: they are of what is there. */
	if (ret >= 0)
		ret = copy_rings(m, most);
	if (ret == -EAGAIN)
		return 0;
	if (ret >= 0 && now >= m->next_house) {
		m->next_house = now + HOUSE_NS;
		ret = copy_guest(m, false);
		ret = ret == -EAGAIN ? 0 : ret;
		if (!ret)
			ret = copy_schema(m);
		if (!ret)
			ret = copy_names(m);
	}
	return ret < 0 ? ret : 0;
}

static void watch_heart(struct ram_mirror *m, __u64 now)
{
	const struct htrace_guest *g = (const void *)(m->mem + m->super.guest.off);

	if (g->heartbeat != m->heartbeat) {
		m->heartbeat = g->heartbeat;
		m->beat_at = now;
	}
}

const char *ram_mirror_work(struct ram_mirror *m, __u64 now)
{
	int ret = 0;

	if (m->state == GONE || now < m->next)
		return NULL;
	if (m->runs) {
		m->pause = m->pause < LOOK_NS ? LOOK_NS : 2 * m->pause < LOOK_MOST_NS ? 2 * m->pause : LOOK_MOST_NS;
		m->pause = m->rings ? m->pause : HEADER_NS;
		ret = follow(m, now);
		watch_heart(m, now);
	}
	if (ret == -ESRCH) {
		m->state = GONE;
		return NULL;
	}
	if (ret) {
		forget(m);
		beacon_scan_end(&m->scan, NULL);
		m->scan_pause = 0;
		plan_scan(m, now, false);
	}
	m->next = now + (m->runs ? m->pause : 10 * MS);
	if (m->state == SCANNING)
		m->next = now + MS;
	if (m->region.gpfn && now - m->beat_at < SILENT_NS)
		return NULL;
	return search(m, now);
}

/* ------------------------------------------------------------------------------------------- its rings */

static const struct htrace_ringset *ram_set(const struct htrace_view *view)
{
	const struct htrace_super *s = htrace_view_super(view);

	for (__u32 i = 0; i < s->nr_ringsets; i++)
		if (s->ringset[i].placement == HTRACE_PLACEMENT_VSHMEM)
			return &s->ringset[i];
	return NULL;
}

int ram_mirror_map(struct ram_mirror *m, struct htrace_view *view, char *err, size_t errlen)
{
	const struct htrace_ringset *set = ram_set(view);
	struct htrace_runs *shown = (void *)(m->mem + m->super.runs.off);
	int ret = -ENOENT, file;

	if (!m->runs || !set) {
		snprintf(err, errlen, "the region is gone");
		return -ENOENT;
	}
	if (set->policy != HTRACE_OVERWRITE) {
		snprintf(err, errlen, "its rings wait for a reader that writes (policy discard)");
		return -EPROTO;
	}
	if (htrace_view_super(view)->guest_page_shift != m->region.page_shift) {
		snprintf(err, errlen, "its pages are not as large as its beacon says");
		return -EPROTO;
	}
	if (!m->rings) {
		memcpy(shown, m->runs, m->super.runs.len);
		file = guest_ram_part(m->ram, m->region.part)->file;
		if (file >= 0)
			ret = htrace_view_map_ram_fds(view, &file, 1, err, errlen);
		if (!ret || ret == -EPROTO)
			return ret;
		/* Private memory, or huge pages, of which a part cannot be mapped. */
		ret = ram_rings_open(&m->rings, m->copies, m->ram, &m->region, set, m->runs, m->super.runs.len, err,
				     errlen);
		if (!ret)
			ret = copy_rings(m, SLICE_NS);
		if (ret < 0 && ret != -EAGAIN)
			return ret;
	}
	if (!m->copied) { /* it goes on without us */
		snprintf(err, errlen, "its rings are being copied");
		return -EAGAIN;
	}
	ret = ram_rings_describe(m->rings, shown, m->super.runs.len);
	return ret ? ret : htrace_view_map_ram_fds(view, &m->copies, 1, err, errlen);
}

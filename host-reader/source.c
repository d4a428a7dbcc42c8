/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "message.h"
#include "region_file.h"

#define MS 1000000ULL
#define SEC 1000000000ULL

#define ATTACH_NS (20 * MS)      /* between two looks for a guest */
#define MAP_NS (250 * MS)        /* between two tries to map guest RAM */
#define MAP_GIVE_UP (3 * SEC)    /* of a guest that lives */
#define HOUSE_NS (200 * MS)      /* housekeeping: our heartbeat, the guest's header, names */
#define NAMES_NS SEC
#define REFUSALS 10              /* in a row, before a region that changes is given up */
#define REFUSAL_NS (100 * MS)
#define STALE_NS (2 * SEC)       /* no heartbeat for so long, or for so many of its periods: */
#define STALE_BEATS 8
#define BEAT_MS_DEFAULT 250
#define BEAT_MS_MAX 5000
#define AWAY_NS (500 * MS)       /* after such a pause of ours we wait for the next heartbeat */
#define STUCK_NS (500 * MS)      /* what is uncommitted for so long at the end stays so */

static void enter(struct source *s, enum source_state state, __u64 now)
{
	s->state = state;
	s->since = now;
	s->next_try = 0;
}

static void fail(struct source *s, enum htrace_host_reason reason, const char *why)
{
	say("%s: %s", s->spec->path, why);
	if (reason)
		host_refused(s->view, s->session_id, reason);
	s->state = SOURCE_FAILED;
}

/* -------------------------------------------------------------------------------------- opening */

static const char *hint(int err)
{
	switch (err) {
	case -ENOSPC:
		return "; is the path right, and the device's size a power of two from 1M on?";
	case -EINVAL:
		return "; give the file behind the region";
	default:
		return "";
	}
}

static int open_view(struct source *s)
{
	char err[256] = "";
	int ret;

	s->fd = region_file_open(s->spec->path, &s->writable, err, sizeof(err));
	if (s->fd < 0) {
		say("cannot open region '%s': %s", s->spec->path, err);
		return s->fd;
	}
	ret = htrace_view_open_fd(&s->view, s->fd, s->writable, err, sizeof(err));
	if (ret) {
		say("cannot open region '%s': %s%s", s->spec->path, err[0] ? err : strerror(-ret),
		    hint(ret));
		close(s->fd);
		s->fd = -1;
	}
	return ret;
}

static void close_view(struct source *s)
{
	htrace_view_close(s->view);
	s->view = NULL;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

int source_open(struct source *s, const struct source_spec *spec,
		const struct source_config *config)
{
	char err[256] = "";
	int ret;

	memset(s, 0, sizeof(*s));
	s->spec = spec;
	s->config = config;
	s->fd = -1;
	if (stats_init(&s->stats)) {
		say("out of memory");
		return 1;
	}
	if (open_view(s))
		return 1;
	ret = htrace_view_attach(s->view, err, sizeof(err));
	if (ret && ret != -EAGAIN) {
		say("'%s' cannot be read: %s%s", spec->path, err[0] ? err : strerror(-ret),
		    ret == -EPROTONOSUPPORT ? "; use the host-reader of the guest-agent's version" :
					      "; nothing was written to it");
		return 1;
	}
	return 0;
}

/* May we write into the file? What is being made when we look is a region a moment later. */
static bool is_ours(struct source *s)
{
	enum region_content content = region_file_inspect(s->fd);

	for (int i = 0; i < 100 && content == CONTENT_UNKNOWN; i++) {
		usleep(10000);
		content = region_file_inspect(s->fd);
	}
	return content == CONTENT_EMPTY || content == CONTENT_REGION;
}

int source_begin(struct source *s, __u64 now)
{
	if (!is_ours(s)) {
		say("'%s' holds data that is not a libhtrace region; nothing was written to it. To "
		    "use the file all the same, fill it with zeroes", s->spec->path);
		return 1;
	}
	if (!s->writable)
		say("%s: no permission to write: the guest will not know that it is read",
		    s->spec->path);
	host_waiting(s->view);
	enter(s, SOURCE_WAITING, now);
	return 0;
}

/* ------------------------------------------------------------------------------------ attaching */

static const struct htrace_ringset *ram_set(const struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);

	for (__u32 i = 0; i < super->nr_ringsets; i++)
		if (super->ringset[i].placement == HTRACE_PLACEMENT_VSHMEM)
			return &super->ringset[i];
	return NULL;
}

static void human_size(char *text, size_t len, __u64 bytes)
{
	if (bytes >= 1 << 20 && !(bytes & ((1 << 20) - 1)))
		snprintf(text, len, "%" PRIu64 " MiB", (uint64_t)(bytes >> 20));
	else
		snprintf(text, len, "%" PRIu64 " KiB", (uint64_t)(bytes >> 10));
}

static void describe(struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	const struct htrace_ringset *set = ram_set(s);
	char host[4 * 64 + 1], release[4 * 64 + 1], ring[32], block[32];
	const struct htrace_guest *g = &s->guest;

	host[htrace_escape(host, sizeof(host) - 1, g->hostname,
			   strnlen(g->hostname, sizeof(g->hostname)))] = 0;
	release[htrace_escape(release, sizeof(release) - 1, g->release,
			      strnlen(g->release, sizeof(g->release)))] = 0;
	s->nr_vcpus = super->nr_cpus;
	snprintf(s->who, sizeof(s->who), "%s, kernel %s, %u %sCPUs", *host ? host : "(no name)",
		 *release ? release : "(unknown)", super->nr_cpus,
		 s->spec->kind == SOURCE_LOCAL ? "" : "v");
	if (set)
		snprintf(s->placement, sizeof(s->placement), "direct: guest RAM mapped from %s",
			 htrace_view_ram_name(s->view));
	else
		snprintf(s->placement, sizeof(s->placement), "%s",
			 s->spec->kind == SOURCE_LOCAL ? "local: rings in the file" :
							 "ivshmem: rings in the region");
	set = super->nr_ringsets ? &super->ringset[0] : NULL;
	if (!set) {
		snprintf(s->buffer, sizeof(s->buffer), "no rings");
		return;
	}
	human_size(ring, sizeof(ring), 1ULL << set->ring_shift);
	human_size(block, sizeof(block), 1ULL << set->block_shift);
	snprintf(s->buffer, sizeof(s->buffer), "%s, %u rings of %s in blocks of %s",
		 set->policy == HTRACE_DISCARD ? "discard" : "overwrite", set->nr_rings, ring, block);
}

static void announce(struct source *s, bool rebooted)
{
	struct sink_note note = { .source = s->config->several ? s->spec->path : NULL };
	char text[720];

	say("%s: %s%s; %s; %s; sync %s", s->spec->path,
	    s->stats.sessions == 1 ? "" : rebooted ? "restarted: " : "new session: ", s->who,
	    s->placement, s->buffer, s->config->sync);
	if (s->stats.sessions == 1 || !s->config->sinks)
		return;
	snprintf(text, sizeof(text), "%s: %s", rebooted ? "restarted" : "new session", s->who);
	note.text = text;
	sinks_note(s->config->sinks, &note);
}

/* Does this session beat its heart at all? A tracer on this machine need not. */
static bool has_heart(const struct source *s)
{
	return s->spec->kind != SOURCE_LOCAL || s->guest.heartbeat_ms;
}

static void start_session(struct source *s, __u64 now)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	struct session_config c = {
		.view = s->view,
		.path = s->spec->path,
		.source = s->config->several ? s->spec->path : NULL,
		.stats = &s->stats,
		.sinks = s->config->sinks,
		.selection = s->config->selection,
	};
	bool rebooted = memcmp(s->boot_id, super->boot_id, sizeof(s->boot_id)) != 0;
	char err[256] = "";

	host_forget_other(s->view, super->session);
	if (session_open(&s->session, &c, err, sizeof(err))) {
		fail(s, HTRACE_REASON_INVALID, err);
		return;
	}
	memcpy(s->boot_id, super->boot_id, sizeof(s->boot_id));
	htrace_view_guest(s->view, &s->guest, true);
	s->stats.sessions++;
	s->closing = s->drained = s->salvaged = s->said_stale = false;
	s->salvaged_events = 0;
	s->attached = now;
	s->heartbeat = htrace_view_heartbeat(s->view);
	s->heart_beat_at = now;
	s->next_house = s->next_names = 0;
	s->lost_names = true;
	describe(s);
	host_attached(s->view, super->session, ram_set(s) != NULL);
	announce(s, rebooted);
	enter(s, has_heart(s) ? SOURCE_LISTENING : SOURCE_READING, now);
	s->guest_came |= s->state == SOURCE_READING;
	s->looked = now;
}

/* The file was made anew beside us, as by a VM that was started again: go over to it. */
static void follow_file(struct source *s, __u64 now)
{
	if (!region_file_replaced(s->view, s->spec->path))
		return;
	close_view(s);
	if (open_view(s)) {
		s->state = SOURCE_FAILED;
		return;
	}
	say("%s: another file took its place; going on there", s->spec->path);
	source_begin(s, now);
}

static void try_attach(struct source *s, __u64 now)
{
	char err[256] = "";
	int ret;

	if (now < s->next_try)
		return;
	s->next_try = now + ATTACH_NS;
	ret = htrace_view_attach(s->view, err, sizeof(err));
	if (ret == -EPROTO || ret == -EPROTONOSUPPORT) {
		/* What a guest that starts leaves half written must settle; then it is an error. */
		s->next_try = now + REFUSAL_NS;
		if (++s->refused < REFUSALS)
			return;
		s->session_id = 0;
		fail(s, ret == -EPROTONOSUPPORT ? HTRACE_REASON_VERSION : HTRACE_REASON_INVALID,
		     err);
		return;
	}
	s->refused = 0;
	if (ret || htrace_view_super(s->view)->session == s->done_id)
		return;
	s->session_id = htrace_view_super(s->view)->session;
	if (htrace_view_state(s->view) == HTRACE_GUEST_CLOSED) {
		s->done_id = s->session_id; /* was over before we came */
		return;
	}
	htrace_view_guest(s->view, &s->guest, true);
	s->heartbeat = htrace_view_heartbeat(s->view);
	enter(s, SOURCE_MAPPING, now);
}

static void try_map(struct source *s, __u64 now)
{
	char err[300] = "";
	int ret;

	if (!htrace_view_current(s->view)) {
		enter(s, SOURCE_WAITING, now);
		return;
	}
	if (now < s->next_try)
		return;
	s->next_try = now + MAP_NS;
	ret = ram_set(s) ? htrace_view_map_ram(s->view, s->spec->pid, s->spec->ram, err,
					       sizeof(err)) : 0;
	if (!ret) {
		start_session(s, now);
		return;
	}
	if (ret == -EPROTO || ret == -ENOMEM) {
		fail(s, HTRACE_REASON_INVALID, err);
		return;
	}
	/* A VM that is gone leaves its region behind: then another one is to come. */
	if (htrace_view_heartbeat(s->view) == s->heartbeat) {
		if (!s->said_stale && now - s->since > MAP_GIVE_UP)
			say("%s: it holds the session of a guest that gives no sign of life (%s); "
			    "waiting for a new one", s->spec->path, err);
		s->said_stale |= now - s->since > MAP_GIVE_UP;
		return;
	}
	if (now - s->since < MAP_GIVE_UP)
		return;
	fail(s, ret == -ENXIO ? HTRACE_REASON_UNVERIFIED : HTRACE_REASON_NO_RAM, err);
}

/* --------------------------------------------------------------------------------------- ending */

/* The rings are no longer the session's, or read to their end: their memory is not touched. */
static void end_session(struct source *s, __u64 now)
{
	__u64 left = session_backlog(s->session);

	session_close(s->session);
	s->session = NULL;
	s->stats.attached_ns += now - s->attached;
	s->stats.unread += left;
	if (left)
		say("%s: %" PRIu64 " bytes of the session's rings were not read", s->spec->path,
		    (uint64_t)left);
	htrace_view_unmap(s->view);
	s->done_id = s->session_id;
	host_waiting(s->view);
	enter(s, SOURCE_WAITING, now);
}

/* Sum up what the kernel skipped, and the agent's time. */
static void fold_guest(struct source *s)
{
	(void)s;
}

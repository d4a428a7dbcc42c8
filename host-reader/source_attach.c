/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source's beginnings: opening its file, and attaching to the sessions that come in it. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finder.h"
#include "message.h"
#include "region_file.h"
#include "source_internal.h"

#define QUIET_NS (100 * MS)      /* a guest that is there is not waited for */
#define SETTLE_LOOKS 30          /* 10 ms apart, at what may be a region in the making */
#define UNSETTLED 5              /* looks, FILE_NS apart, at one that took a region's place */
#define LOCK_USEC 10000           /* between two tries to lock a region */
#define LOCK_TRIES 50
#define ATTACH_NS (20 * MS)      /* between two looks for a guest */
#define MAP_NS (250 * MS)        /* between two tries to map guest RAM */
#define MAP_TRIES 4              /* before the relay has to do */
#define MAP_GIVE_UP (3 * SEC)    /* of a guest that lives */
#define VM_TRIES 6               /* to find whose exits to watch: each a look through /proc, */
#define VM_NS (250 * MS)         /* after this, and then after twice as long each time */
#define REFUSALS 10              /* in a row, before a region that changes is given up */
#define FILE_NS (200 * MS)       /* between two looks for a file that took the region's place */
#define REFUSAL_NS (100 * MS)

/* -------------------------------------------------------------------------------------- opening */

static const char *hint(int err, enum source_kind kind)
{
	if (kind == SOURCE_KVM || kind == SOURCE_BOOTRING || kind == SOURCE_PID || kind == SOURCE_STREAM ||
	    (kind == SOURCE_QMP && err != -ENOENT && err != -EACCES))
		return "";
	switch (err) {
	case -ENOENT:
		if (kind == SOURCE_QMP)
			return "; it is the socket of QEMU's -qmp unix:SOCKET,server=on,wait=off";
		if (kind == SOURCE_DOORBELL)
			return "; is its directory there?";
		return kind == SOURCE_LOCAL ? "; start the tracer first" :
					      "; start the VM first, or make the file";
	case -EACCES:
		return "; are you root?";
	case -ENOSPC:
		return "; is the path right, and the device's size a power of two from 1M on?";
	case -EINVAL:
		return "; give the file behind the region";
	default:
		return "";
	}
}

static int open_kvm(struct source *s, char *err, size_t errlen)
{
	const struct kvm_events_config config = { .pid = s->spec->pid, .aggregate = s->spec->aggregate };
	int ret = kvm_events_open(&s->kvm, &config, err, errlen);

	if (ret)
		return ret;
	if (*kvm_events_missing(s->kvm))
		say("%s: this kernel does not have the tracepoints %s; their events are left out",
		    s->spec->path, kvm_events_missing(s->kvm));
	s->writable = true;
	s->next_tell = UINT64_MAX; /* there is no guest to tell anything */
	return kvm_events_file(s->kvm);
}

static int open_bootring(struct source *s, char *err, size_t errlen)
{
	const struct boot_events_config config = {
		.ram = s->spec->path, .at = s->spec->at, .size = s->spec->size, .formats = s->spec->formats,
		.symbols = s->spec->symbols,
	};
	int ret = boot_events_open(&s->boot, &config, err, errlen);

	s->writable = true;
	s->next_tell = UINT64_MAX; /* nobody would hear it */
	return ret ? ret : boot_events_file(s->boot);
}

static int open_pid(struct source *s, char *err, size_t errlen)
{
	int ret = ram_mirror_open(&s->mirror, s->spec->pid, err, errlen);

	s->writable = true;
	s->next_tell = UINT64_MAX; /* nothing is written to the guest */
	return ret ? ret : ram_mirror_file(s->mirror);
}

/*
 * A reader that was killed holds its lock until it, and the finder it may just have started, are gone: at the
 * start that is waited for. Later others would have to wait, too.
 */
int source_open_file(struct source *s, const char *path, bool follow, char *err, size_t errlen)
{
	int fd = region_file_open(path, follow, &s->writable, err, errlen);

	for (int i = 0; i < LOCK_TRIES && fd == -EWOULDBLOCK && !finder_runs(); i++) {
		usleep(LOCK_USEC);
		fd = region_file_open(path, follow, &s->writable, err, errlen);
	}
	return fd;
}

static const char *what_of(enum source_kind kind)
{
	if (kind == SOURCE_PID)
		return "process";
	return kind == SOURCE_KVM || kind == SOURCE_BOOTRING ? "source" : kind == SOURCE_QMP ? "monitor" :
	       kind == SOURCE_STREAM ? "stream" : "region";
}

static int open_view(struct source *s, bool follow)
{
	char err[640] = "";
	int ret;

	if (s->spec->kind == SOURCE_DOORBELL)
		s->fd = source_open_server(s, err, sizeof(err));
	else if (s->spec->kind == SOURCE_KVM)
		s->fd = open_kvm(s, err, sizeof(err));
	else if (s->spec->kind == SOURCE_QMP)
		s->fd = source_plug_in(s, err, sizeof(err));
	else if (s->spec->kind == SOURCE_STREAM)
		s->fd = source_open_stream(s, err, sizeof(err));
	else if (s->spec->kind == SOURCE_BOOTRING)
		s->fd = open_bootring(s, err, sizeof(err));
	else if (s->spec->kind == SOURCE_PID)
		s->fd = open_pid(s, err, sizeof(err));
	else
		s->fd = source_open_file(s, s->spec->path, follow, err, sizeof(err));
	if (s->fd < 0) {
		say("cannot open %s '%s': %s%s", what_of(s->spec->kind), s->spec->path, err, hint(s->fd, s->spec->kind));
		return s->fd;
	}
	ret = htrace_view_open_fd(&s->view, s->fd, s->writable, err, sizeof(err));
	if (ret) {
		say("cannot open region '%s': %s%s", s->spec->path, err[0] ? err : strerror(-ret),
		    hint(ret, s->spec->kind));
		close(s->fd);
		s->fd = -1;
	}
	return ret;
}

void source_close_view(struct source *s)
{
	htrace_view_close(s->view);
	s->view = NULL;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* May we write into the file? What is being made when we look is a region a moment later. */
static int check_contents(struct source *s)
{
	enum region_content content = region_file_inspect(s->fd);
	char err[256] = "";
	int ret;

	for (int i = 0; i < SETTLE_LOOKS && content == CONTENT_UNKNOWN; i++) {
		usleep(10000);
		content = region_file_inspect(s->fd);
	}
	ret = htrace_view_attach(s->view, err, sizeof(err));
	if (ret && ret != -EAGAIN) {
		say("'%s' cannot be read: %s%s", s->spec->path, err[0] ? err : strerror(-ret),
		    ret == -EPROTONOSUPPORT ? "; use the host-reader of the guest-agent's version" :
					      "; nothing was written to it");
		return ret;
	}
	if (content == CONTENT_EMPTY || content == CONTENT_REGION)
		return 0;
	say("'%s' cannot be read: something other than a libhtrace region is in it; nothing was "
	    "written to it (fill it with zeroes to use it all the same)", s->spec->path);
	return -EPROTO;
}

int source_open_region(struct source *s)
{
	const struct source_spec *spec = s->spec;
	struct stat st;

	s->local = spec->kind == SOURCE_LOCAL || spec->kind == SOURCE_KVM;
	s->linked = !lstat(spec->path, &st) && S_ISLNK(st.st_mode);
	if (!open_view(s, true) && !check_contents(s)) {
		s->owner = fstat(s->fd, &st) ? 0 : st.st_uid;
		return 0;
	}
	source_close_view(s);
	s->state = SOURCE_FAILED;
	return 1;
}

void source_begin_region(struct source *s, __u64 now)
{
	if (!s->writable)
		say("%s: no permission to write: the guest will not know that it is read",
		    s->spec->path);
	source_announce(s, now);
	source_enter(s, SOURCE_WAITING, now);
	s->next_try = 0;
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

static const struct htrace_ringset *mirror_set(const struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);

	for (__u32 i = 0; i < super->nr_ringsets; i++)
		if (super->ringset[i].relays)
			return &super->ringset[i];
	return NULL;
}

static void describe(struct source *s, __u64 now)
{
	const struct htrace_ringset *set = ram_set(s);

	if (s->no_ram)
		snprintf(s->placement, sizeof(s->placement), "relay: copied by the agent");
	else if (set && live_relayed(s->live))
		snprintf(s->placement, sizeof(s->placement), "relay for a moment, while guest RAM, "
			 "mapped from %s, is taken over", htrace_view_ram_name(s->view));
	else if (set && s->mirror && ram_mirror_copies(s->mirror))
		snprintf(s->placement, sizeof(s->placement), "direct: guest RAM, copied from process %d", s->spec->pid);
	else if (set)
		snprintf(s->placement, sizeof(s->placement), "direct: guest RAM mapped from %s",
			 htrace_view_ram_name(s->view));
	else
		snprintf(s->placement, sizeof(s->placement), "%s",
			 s->kvm ? "local: rings of BPF programs on KVM" :
			 s->stream ? "stream: copied by the agent and sent" :
			 s->boot ? "the ring of its boot, in the guest's memory" :
			 s->spec->kind == SOURCE_LOCAL ? "local: rings in the file" :
							 "rings in the region, by relay or by the guest's kernel module");
	source_describe(s);
	session_tell(s->session, CAPTURE_PLACE, s->placement, strlen(s->placement), now);
}

void source_watch_relay(struct source *s, __u64 now)
{
	if (!s->relayed || live_relayed(s->live))
		return;
	s->relayed = false;
	describe(s, now);
	say("%s: from now on %s", s->spec->path, s->placement);
}

/*
 * Exits are watched before the guest hears that it is read. A VMM may make the region before the
 * virtual CPUs, so it is tried again a few times.
 */
static void find_vm(struct source *s, __u64 now)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	unsigned int rings = 0;
	char err[256] = "";

	for (__u32 i = 0; i < super->nr_ringsets; i++)
		if (super->ringset[i].kind == HTRACE_RING_PER_CPU && super->ringset[i].nr_rings > rings)
			rings = super->ringset[i].nr_rings;
	if (!s->config->exits || s->kvm || s->boot || s->vm_tries == VM_TRIES)
		return;
	if (!rings || s->no_ram || s->stream || s->spec->nested) {
		s->vm_tries = VM_TRIES;
		say_within(&s->quota, "%s: exits cannot be watched: its rings are %s; looking as sync "
			   "adaptive does", s->spec->path, !rings ? "those of threads" :
			   s->spec->nested ? "those of a guest of the VM's" : "copied by the agent");
		return;
	}
	s->next_vm = now + (VM_NS << s->vm_tries);
	if (kvm_vm_watch(&s->vm, s->config->exits, s->view, s->spec->pid, rings, err, sizeof(err))) {
		if (s->vm_tries++)
			return;
		say_within(&s->quota, "%s: exits cannot be watched: %s; looking as sync adaptive does",
			   s->spec->path, err);
		return;
	}
	say_within(&s->quota, "%s: watching the exits of process %d: %u of %u rings have a vCPU",
		   s->spec->path, kvm_vm_pid(s->vm), kvm_vm_vcpus(s->vm), rings);
}

void source_watch_vm(struct source *s, __u64 now)
{
	if (s->config->exits)
		kvm_exits_account(s->config->exits, now);
	if (!s->vm && now >= s->next_vm) {
		find_vm(s, now);
		live_set_vm(s->live, s->vm);
	}
	if (!s->vm || s->vm_gone || !kvm_vm_gone(s->vm))
		return;
	s->vm_gone = true;
	source_say(s, now, "process %d, which ran the VM, is gone", kvm_vm_pid(s->vm));
}

/* Does this session beat its heart at all? A tracer on this machine need not. */
bool source_has_heart(const struct source *s)
{
	return !s->local || s->guest.heartbeat_ms;
}

static int open_session(struct source *s, char *err, size_t errlen)
{
	struct live_config c = {
		.view = s->view, .no_ram = s->no_ram, .vm = s->vm, .path = s->spec->path, .quota = &s->quota,
		.clock = &s->clock,
	};
	struct session_facts facts;
	int ret;

	session_facts(&facts, htrace_view_super(s->view));
	facts.local = s->local;
	facts.host = s->kvm != NULL;
	ret = source_open_session(s, &facts, err, errlen);
	if (ret)
		return ret;
	c.steps_back = source_steps_back(s);
	if (s->back_id == htrace_view_super(s->view)->session) {
		c.ends = s->ends;
		c.nr_ends = s->nr_ends;
	}
	ret = live_open(&s->live, s->session, &c, err, errlen);
	if (ret) {
		session_close(s->session);
		s->session = NULL;
	}
	return ret;
}

static void start_session(struct source *s, __u64 now)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	char err[256] = "";

	if (!source_may_write(s, now)) /* overwritten just now: the next round finds it so */
		return;
	htrace_view_claim(s->view); /* it is locked already, or mapped read-only */
	s->vm_gone = false;
	s->vm_tries = 0;
	find_vm(s, now);
	source_tell(s, now); /* likewise */
	if (open_session(s, err, sizeof(err))) {
		kvm_vm_unwatch(s->vm, NULL);
		s->vm = NULL;
		source_fail(s, HTRACE_REASON_INVALID, err, now);
		return;
	}
	source_forget_ends(s);
	source_ask_bell(s);
	source_clock_begin(s, now);
	source_forget_vcpus(s);
	source_find_vcpus(s, now);
	source_look_at_guest(s, now);
	s->was_read = s->closing = s->drained = s->salvaged = s->said_stale = false;
	s->salvaged_events = 0;
	s->attached = now;
	s->heartbeat = htrace_view_heartbeat(s->view);
	s->heart_beat_at = now;
	s->next_house = s->next_names = 0;
	s->lost_names = true;
	describe(s, now);
	htrace_view_announce(s->view, HTRACE_HOST_ATTACHED, super->session,
			     ram_set(s) && !s->no_ram, s->no_ram ? s->no_ram : HTRACE_REASON_NONE);
	s->relayed = live_relayed(s->live) != 0;
	source_announce_session(s, now);
	s->own_beats = 0;
	source_beat(s);
	s->fine = now;
	source_enter(s, source_has_heart(s) ? SOURCE_LISTENING : SOURCE_READING, now);
	s->guest_came |= s->state == SOURCE_READING;
	s->looked = now;
}

/*
 * Who may replace the file may put a link to any other there, or somebody else's. And what is being
 * made there is given time, while others are read.
 */
static bool may_follow(struct source *s)
{
	char err[256];
	enum region_content content;
	struct stat st;
	bool writable;
	int fd = region_file_open(s->spec->path, s->linked, &writable, err, sizeof(err));

	if (fd < 0)
		return true; /* why is said when it is opened */
	if (fstat(fd, &st) || st.st_uid != s->owner) {
		if (st.st_ino != s->not_followed)
			say_within(&s->quota, "%s: another file took its place, and has another "
				   "owner; it is not read", s->spec->path);
		s->not_followed = st.st_ino;
		close(fd);
		return false;
	}
	content = region_file_inspect(fd);
	close(fd);
	return content != CONTENT_UNKNOWN || ++s->unsettled > UNSETTLED;
}

/* The file was made anew beside us, as by a VM that was started again: go over to it. */
static void follow_file(struct source *s, __u64 now)
{
	if (source_made_its_file(s) || !region_file_replaced(s->view, s->spec->path) || !may_follow(s))
		return;
	source_tell_end(s, now);
	s->next_tell = s->tell_pause = 0;
	source_close_view(s);
	if (open_view(s, s->linked) || check_contents(s)) {
		s->state = SOURCE_FAILED;
		return;
	}
	s->unsettled = 0;
	say_within(&s->quota, "%s: another file took its place; going on there", s->spec->path);
	source_begin_region(s, now);
}

static void await_message(struct source *s, __u64 now)
{
	if (!s->said_waiting && now - s->since > QUIET_NS) {
		say("%s: waiting for a guest ...", s->spec->path);
		s->said_waiting = true;
	}
	if (now >= s->next_file) {
		s->next_file = now + FILE_NS;
		follow_file(s, now);
	}
}

/* The guest is told why only if it is one of ours: nothing else is written to. */
static void fail_attach(struct source *s, int ret, const char *why, __u64 now)
{
	enum htrace_host_reason reason = HTRACE_REASON_NONE;
	struct htrace_super super;

	if (region_file_inspect(s->fd) == CONTENT_REGION &&
	    pread(s->fd, &super, sizeof(super), HTRACE_SUPER_OFF) == sizeof(super)) {
		reason = ret == -EPROTONOSUPPORT ? HTRACE_REASON_VERSION : HTRACE_REASON_INVALID;
		s->session_id = super.session;
	}
	source_fail(s, reason, why, now);
}

void source_try_attach(struct source *s, __u64 now)
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
		fail_attach(s, ret, err, now);
		return;
	}
	s->refused = 0;
	if (ret || htrace_view_super(s->view)->session == s->done_id) {
		await_message(s, now);
		return;
	}
	s->session_id = htrace_view_super(s->view)->session;
	if (htrace_view_state(s->view) == HTRACE_GUEST_CLOSED) {
		s->done_id = s->session_id;
		say_within(&s->quota, "%s: it holds a session that is over; waiting for a new one",
			   s->spec->path);
		s->said_waiting = true;
		if (s->closed_at && now - s->closed_at < SEC)
			s->next_try = now + BRIEF_NS;
		s->closed_at = now;
		return;
	}
	htrace_view_guest(s->view, &s->guest, true);
	s->heartbeat = htrace_view_heartbeat(s->view);
	s->map_tries = 0;
	source_enter(s, SOURCE_MAPPING, now);
}

static int map_ram(struct source *s, char *err, size_t errlen)
{
	int fd[FINDER_FILES], nr, ret;

	if (s->mirror)
		return ram_mirror_map(s->mirror, s->view, err, errlen);
	if (!finder_runs())
		return htrace_view_map_ram(s->view, s->spec->pid, s->spec->ram, err, errlen);
	nr = finder_ram(s->view, fd, err, errlen);
	if (nr < 0)
		return nr;
	ret = htrace_view_map_ram_fds(s->view, fd, nr, err, errlen);
	for (int i = 0; i < nr; i++)
		close(fd[i]);
	return ret;
}

void source_try_map(struct source *s, __u64 now)
{
	char err[300] = "";
	int ret;

	if (!htrace_view_current(s->view)) {
		source_enter(s, SOURCE_WAITING, now);
		return;
	}
	/* Not at once for each session of a guest that has many: it may be a look through /proc. */
	if (now < s->next_map)
		return;
	s->next_map = now + MAP_NS;
	s->no_ram = HTRACE_REASON_NONE;
	ret = ram_set(s) ? map_ram(s, err, sizeof(err)) : 0;
	if (ret == -EAGAIN && s->mirror) { /* copies are being made */
		s->next_map = now + MS;
		return;
	}
	if (s->kvm && kvm_events_begin(s->kvm, s->view, err, sizeof(err))) {
		source_fail(s, HTRACE_REASON_NONE, err, now);
		return;
	}
	if (!ret) {
		start_session(s, now);
		return;
	}
	if (!htrace_view_current(s->view))
		return;
	/* A guest that lives relays what is in memory that we do not get at. */
	if (mirror_set(s) && ret != -EPROTO && htrace_view_heartbeat(s->view) != s->heartbeat &&
	    (ret == -ENOENT || ++s->map_tries >= MAP_TRIES)) {
		say("%s: guest RAM cannot be read (%s); keeping to the agent's relay", s->spec->path,
		    err);
		s->no_ram = ret == -ENXIO ? HTRACE_REASON_UNVERIFIED : HTRACE_REASON_NO_RAM;
		start_session(s, now);
		return;
	}
	if (ret == -EPROTO && now - s->since < MAP_GIVE_UP) /* memory of a guest that moves here comes page by page */
		return;
	if (ret == -EPROTO || ret == -ENOMEM) {
		source_fail(s, HTRACE_REASON_INVALID, err, now);
		return;
	}
	/* A VM that is gone leaves its region behind: then another one is to come. */
	if (htrace_view_heartbeat(s->view) == s->heartbeat) {
		if (!s->said_stale && now - s->since > MAP_GIVE_UP)
			say_within(&s->quota, "%s: it holds the session of a guest that gives no "
				   "sign of life (%s); waiting for a new one", s->spec->path, err);
		s->said_stale |= now - s->since > MAP_GIVE_UP;
		return;
	}
	if (now - s->since < MAP_GIVE_UP)
		return;
	source_fail(s, ret == -ENXIO ? HTRACE_REASON_UNVERIFIED : HTRACE_REASON_NO_RAM, err, now);
}

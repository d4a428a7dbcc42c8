/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's life: find the region, take over what an earlier agent left or begin anew, publish,
 * attach, idle, close.
 *
 * The order is made so that a failure leaves an older session as it was (programs are loaded
 * before the region is touched), that pages are pinned before they are published, and that they
 * carry no nonce any more when they are given back.
 */
#include "agent_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "boot.h"
#include "message.h"
#include "proc_names.h"
#include "symbols.h"

#define DRAIN_NS 3000000000ULL
#define UNSEEN_NS 500000000ULL /* for a reader of whom nothing is known */
#define FIRST_SCHEMA 1 /* of a session's schemas */

/* --------------------------------------------------------------------------- what it stands on */

static int check_machine(void)
{
	if (geteuid()) {
		say("not root: loading BPF programs and finding guest memory need it; use sudo");
		return -1;
	}
	if (access("/sys/kernel/btf/vmlinux", R_OK)) {
		say("this kernel has no BTF (/sys/kernel/btf/vmlinux): %s; it needs one built with "
		    "CONFIG_DEBUG_INFO_BTF, as distributions' are",
		    strerror(errno));
		return -1;
	}
	return 0;
}

/* --------------------------------------------------------------------------- the kernel module */

/*
 * Open the module, which @fits if the programs can record through it. It is there for being used, so
 * mode auto takes it; else whatever mode there is works beside it.
 */
static int find_module(struct agent *a, const struct options *o, const struct loader *l, bool *fits)
{
	char why[512] = "";
	int err = module_open(&a->module, why, sizeof(why));
	bool other = !err && strcmp(o->region, "auto") && strcmp(o->region, a->module.info.pci);

	*fits = false;
	if (other)
		snprintf(why, sizeof(why), "it has bound device %s, not %s", a->module.info.pci,
			 o->region);
	if (err || other) {
		module_close(&a->module);
		if (o->mode != MODE_MODULE)
			return 0;
		say("--mode module: %s", why);
		return -1;
	}
	*fits = !loader_check_module(l, why, sizeof(why));
	if (*fits)
		return 0;
	if (o->mode == MODE_MODULE) {
		say("--mode module: %s", why);
		return -1;
	}
	if (o->mode == MODE_AUTO)
		say("without the kernel module: %s", why);
	return 0;
}

/* The session's schema so far is in the builder, the new part of it is not yet in the region. */
static int declare_events(struct agent *a, const struct options *o, struct loader *l)
{
	size_t len = 0;
	const void *old = a->adopted ? htrace_region_schema_entries(a->region, &len) : NULL;

	if (htrace_builder_new(&a->schema, old, len)) {
		say("the session's schema cannot be continued; stop the agent properly (SIGTERM) and "
		    "start it again");
		return -1;
	}
	return loader_declare(l, a->schema) || loader_filter(l, o->filter, a->schema, old, len);
}

static const char *why_not_packed(const struct agent *a, const struct options *o, struct loader *l)
{
	if (a->mode == MODE_MODULE)
		return "the kernel module writes records, in full; --mode direct does without it";
	if (o->filter)
		return "with --filter records are made aside, in full";
	if (a->adopted && !(htrace_region_super(a->region)->features_required & HTRACE_FEATURE_PACKED))
		return "the session of an earlier agent goes on, without; stop the agent properly (SIGTERM) to "
		       "change that";
	return loader_use_packing(l) ? NULL : "what it compresses is sched_switch, without stacks";
}

/* Whether programs are to pack is known before the session begins, as its readers are told. */
static void use_packing(struct agent *a, const struct options *o, struct loader *l)
{
	const char *why = o->compress ? why_not_packed(a, o, l) : NULL;

	a->packs = o->compress && !why;
	if (why)
		say("--compress has no effect: %s", why);
}

static int load_programs(struct agent *a, const struct options *o, struct loader *l)
{
	const struct htrace_schema_area *old = a->adopted ? htrace_region_schema(a->region) : NULL;
	size_t added;

	if (declare_events(a, o, l)) {
		if (a->adopted)
			say("the session is one that an earlier agent left; to record other fields, "
			    "start the agent as it was, and stop it properly (SIGTERM)");
		return -1;
	}
	htrace_builder_entries(a->schema, &added);
	if (a->mode == MODE_MODULE && loader_use_module(l))
		return -1;
	use_packing(a, o, l);
	return loader_load(l, a->rings.fd, &a->geometry,
			   (__u32)((old ? old->generation : 0) + (added ? 1 : 0)));
}

/* --------------------------------------------------------------------------------- start, stop */

static const char *placement(const struct agent *a)
{
	switch (a->mode) {
	case MODE_MODULE:
		return "module: the kernel module writes into the region";
	case MODE_RELAY:
		return a->stream ? "stream: rings are copied and sent" : "relay: rings are copied into the region";
	case MODE_AUTO:
		return relay_active(&a->relay) ?
			       "relay until the host has found this machine's memory" :
			       "direct placement: rings in guest memory";
	default:
		return "direct placement: rings in guest memory";
	}
}

static int start_stream(struct agent *a)
{
	struct htrace_ring *ring[HTRACE_MAX_CPUS];

	for (__u32 i = 0; i < a->rings.nr; i++)
		ring[i] = rings_at(&a->rings, i);
	return stream_start(a->stream, a->region, ring, a->rings.nr);
}

static int start(struct agent *a, const struct options *o, struct loader *l)
{
	bool relays, module_fits;
	struct rings old = {0};

	if (loader_check_hooks(l) || pins_lock() ||
	    find_module(a, o, l, &module_fits) ||
	    agent_open_region(a, o, a->module.fd < 0 ? o->region : a->module.info.pci, o->wait ? o->argv : NULL))
		return -1;
	bell_open(&a->bell, a->bar ? htrace_bar_pci(a->bar) : NULL, &a->module);
	agent_try_adopt(a, o, module_fits);
	if (!a->adopted) {
		old = a->rings;
		if (agent_make_rings(a, o))
			return -1;
	}
	if (l->boot && a->adopted) {
		say("the session is one that an earlier agent left, and the boot lies before it: --events boot adds "
		    "nothing to it; stop that one properly (SIGTERM) to begin anew");
		boot_close(l->boot);
		l->boot = NULL;
	}
	if ((l->boot && boot_read(l->boot)) || load_programs(a, o, l))
		return -1;
	if (old.mem) {
		say("an earlier agent's rings are discarded: region %s does not hold their session",
		    agent_region_name(a, o));
		rings_discard(&old);
	}
	a->ours = true;
	if (a->adopted ? agent_publish_adopted(a, l) : agent_publish_new(a, o, l))
		return -1;
	if (agent_light_beacon(a))
		return -1;
	if (l->boot && boot_write(l->boot, &a->rings, &a->geometry, FIRST_SCHEMA))
		return -1;
	/* Tasks that come up between the names and the attached programs: read the names again. */
	if (loader_attach(l))
		return -1;
	if (l->boot)
		boot_end(l->boot, l, &a->rings);
	proc_names_update(a->region);
	if (loader_has_stacks(l) && loader_uses_trampolines(l))
		symbols_attached(a->region);
	relays = (a->mode == MODE_RELAY || a->mode == MODE_AUTO) && !a->stream;
	if (bell_start(&a->bell, a->region, &a->rings) ||
	    (relays &&
	     relay_init(&a->relay, a->region, &a->rings, &a->bell, a->mode == MODE_AUTO)))
		return -1;
	health_init(&a->health, a->region, l, &a->rings, &a->geometry,
		    relays ? &a->relay : NULL, a->mode != MODE_MODULE);
	if (agent_begin_control(a, o, l))
		return -1;
	if (a->stream && start_stream(a))
		return -1;
	htrace_region_set_state(a->region, HTRACE_GUEST_RUNNING);
	say("tracing%s: %zu programs, %u CPUs x %llu KiB (%s), %s%s%s; region %s",
	    a->adopted ? ", session adopted from an earlier agent" : "", l->nr_programs,
	    a->rings.nr, (a->geometry.ring_mask + 1) >> 10,
	    a->geometry.policy == HTRACE_DISCARD ? "discard" : "overwrite", placement(a),
	    a->mode == MODE_MODULE ? ", mapped " : "",
	    a->mode == MODE_MODULE ? module_caching(&a->module) : "", agent_region_name(a, o));
	return 0;
}

__u64 agent_work(struct agent *a)
{
	__u64 relay, ns, bell = UINT64_MAX;

	agent_notice_removal(a);
	relay = relay_work(&a->relay);
	if (a->stream && stream_asked(a->stream))
		health_listen(&a->health);
	ns = health_work(&a->health);
	if (a->stream)
		relay = stream_work(a->stream);
	if (a->mode == MODE_DIRECT || (a->mode == MODE_AUTO && !relay_active(&a->relay)))
		bell = bell_watch(&a->bell);
	if (bell < ns)
		ns = bell;
	return relay < ns ? relay : ns;
}

/* Until a signal comes: true; or @ns are over, or the host interrupts: there is something to do. */
static bool wait_for_end(struct agent *a, struct pollfd fds[3], __u64 ns)
{
	struct timespec t = {(time_t)(ns / 1000000000ULL), (long)(ns % 1000000000ULL)};

	fds[2].fd = a->stream ? stream_poll_fd(a->stream, &fds[2].events) : -1;
	if (ppoll(fds, 3, &t, NULL) <= 0)
		return false;
	if (fds[1].revents && module_interrupts(&a->module))
		health_listen(&a->health);
	else if (fds[1].revents)
		fds[1].fd = -1; /* the device goes: its memory tells */
	return fds[0].revents;
}

static void idle(struct agent *a)
{
	struct pollfd fds[3] = {{.fd = signalfd(-1, &a->stop, SFD_CLOEXEC), .events = POLLIN},
				{.fd = a->module.fd, .events = POLLIN}};

	if (fds[0].fd < 0) {
		say("cannot wait for signals, so this ends: %s", strerror(errno));
		return;
	}
	while (!wait_for_end(a, fds, agent_work(a)))
		control_work(a->control);
	close(fds[0].fd);
}

/* Let a reader that is there read the rings to their end. */
static void wait_for_reader(struct agent *a)
{
	const struct htrace_host *host = htrace_region_host(a->region);
	__u64 session = htrace_region_super(a->region)->session;
	__u64 end = monotonic_ns() + (a->beacon ? UNSEEN_NS : DRAIN_NS);

	/* Whoever reads this machine's memory writes nothing there: it may be that somebody does. */
	while ((a->beacon || health_reader_attached(&a->health)) && monotonic_ns() < end) {
		if (__atomic_load_n(&host->drained, __ATOMIC_ACQUIRE) == session)
			return;
		usleep(10000);
		agent_work(a); /* under discard, a mirror may have room only now */
	}
}

/*
 * The kernel waits for RCU with each tracepoint by name, so that a hundred take it seconds. Meanwhile
 * the others record on: the rings have to be relayed, and the heart has to beat.
 */
static void keep_up(void *arg)
{
	agent_work(arg);
}

/* All that was recorded is to be there before it is said that no more comes. */
static void finish_stream(struct agent *a)
{
	__u64 left = a->stream ? stream_finish(a->stream) : 0;

	if (left)
		say("stream: %llu bytes were not sent: the host did not take them in time", (unsigned long long)left);
}

static void stop(struct agent *a, struct loader *l)
{
	__u64 dropped = 0;

	control_free(a->control);
	loader_detach(l, keep_up, a);
	relay_finish(&a->relay);
	finish_stream(a);
	health_final(&a->health);
	mappings_update(a->region, l->stacks.pids_fd);
	htrace_region_set_state(a->region, HTRACE_GUEST_CLOSING);
	wait_for_reader(a);
	for (__u32 i = 0; i < a->rings.nr; i++)
		dropped += rings_at(&a->rings, i)->dropped;
	say("stopped after %.1f s; %.1f ms of CPU time, %llu events dropped",
	    (double)(monotonic_ns() - htrace_region_guest(a->region)->agent_start_mono) / 1e9,
	    (double)cpu_time_ns() / 1e6, (unsigned long long)dropped);
}

/* Give the pages back, whether the session ran or failed to start. */
static void give_up(struct agent *a)
{
	if (a->ours && a->region) {
		if (a->mode == MODE_MODULE)
			module_stop(&a->module);
		else
			htrace_vshmem_retire(a->region, a->rings.mem, a->rings.len);
		rings_unpin();
		htrace_region_set_state(a->region, HTRACE_GUEST_CLOSED);
		agent_put_out_beacon(a);
		finish_stream(a);
	} else if (a->beacon && !a->beacon->magic) { /* never lit: nobody's session */
		agent_put_out_beacon(a);
	}
	stream_free(a->stream);
	relay_free(&a->relay);
	bell_close(&a->bell);
	htrace_builder_free(a->schema);
	htrace_region_release(a->region);
	rings_close(&a->rings);
	agent_close_region(a);
	module_close(&a->module);
	proc_names_free();
	symbols_free();
	mappings_free();
}

int agent_run(const struct options *o, struct loader *l)
{
	struct agent a = {.module.fd = -1, .device_fd = -1};
	int err;

	sigemptyset(&a.stop);
	sigaddset(&a.stop, SIGTERM);
	sigaddset(&a.stop, SIGINT);
	sigaddset(&a.stop, SIGHUP);
	sigprocmask(SIG_BLOCK, &a.stop, NULL);
	if (check_machine())
		return EXIT_FAILURE;
	if (o->wait && agent_await_region(o->region, &a.stop))
		return EXIT_SUCCESS;
	err = start(&a, o, l);
	if (!err) {
		idle(&a);
		stop(&a, l);
	} else if (l->nr_programs) {
		control_free(a.control);
		loader_detach(l, NULL, NULL);
	}
	give_up(&a);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

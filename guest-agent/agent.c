/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent's life: find the region, take over what an earlier agent left or begin anew, publish,
 * attach, idle, close.
 *
 * The order is made so that a failure leaves an older session as it was (programs are loaded
 * before the region is touched), that pages are pinned before they are published, and that they
 * carry no nonce any more when they are given back.
 */
#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <htrace/region.h>

#include "health.h"
#include "message.h"
#include "module.h"
#include "names.h"
#include "pins.h"
#include "relay.h"
#include "symbols.h"

#define DRAIN_NS 3000000000ULL
#define BUFFER_LEAST (64ULL << 10) /* that we make of our own accord */

struct agent {
	struct htrace_bar *bar; /* NULL: the region is in a file */
	void *mem;
	size_t size;
	bool write_combining;
	struct htrace_region *region;
	struct rings rings;
	struct htrace_geometry geometry;
	struct htrace_schema_builder *schema;
	bool adopted;
	bool ours; /* the region and its session, to be closed at the end */
	enum mode mode;
	struct health health;
	struct relay relay;
	struct module module; /* fd -1: there is none, or it has bound another device */
	sigset_t stop;
};

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

static int map_file(struct agent *a, int fd, const char *path)
{
	struct stat st;

	if (fstat(fd, &st) || st.st_size < (off_t)HTRACE_REGION_MIN) {
		say("the region %s is too small: %lld bytes; give it at least 1M", path,
		    (long long)st.st_size);
		return -1;
	}
	a->size = (size_t)st.st_size;
	a->mem = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (a->mem == MAP_FAILED) {
		a->mem = NULL;
		say("cannot map the region %s: %s", path, strerror(errno));
		return -1;
	}
	if (htrace_bar_content(a->mem, a->size) == HTRACE_BAR_FOREIGN) {
		say("%s holds something that is not a region; use another file", path);
		return -1;
	}
	return 0;
}

static int open_file(struct agent *a, const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC), ret;

	if (fd < 0) {
		say("cannot open the region %s: %s%s", path, strerror(errno),
		    errno == ENOENT ? "; make one: truncate -s 16M PATH" : "");
		return -1;
	}
	ret = map_file(a, fd, path);
	close(fd);
	return ret;
}

static struct {
	const char *from, *to;
} mapped; /* the device's memory, for the signal handler */

/*
 * A device that is removed takes its memory along. Programs end with us; what they recorded is the
 * host's.
 */
static void on_bus_error(int number, siginfo_t *info, void *context)
{
	static const char text[] = "guest-agent: the ivshmem device was removed while it was in use; "
				   "add it again, and start the agent again\n";
	const char *at = info->si_addr;

	if (at < mapped.from || at >= mapped.to) {
		signal(number, SIG_DFL); /* none of ours: happens again on return */
		return;
	}
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(EXIT_FAILURE);
	_exit(EXIT_FAILURE);
}

static void expect_removal(const struct agent *a)
{
	struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

	mapped.from = a->mem;
	mapped.to = mapped.from + a->size;
	sigaction(SIGBUS, &action, NULL);
}

static int open_region(struct agent *a, const char *where)
{
	char why[256] = "";

	if (strchr(where, '/'))
		return open_file(a, where);
	if (htrace_bar_open(&a->bar, where, why, sizeof(why))) {
		say("cannot use a region: %s", why);
		return -1;
	}
	a->mem = htrace_bar_mem(a->bar, &a->size);
	a->write_combining = htrace_bar_write_combining(a->bar);
	expect_removal(a);
	return 0;
}

static const char *region_name(const struct agent *a, const struct options *o)
{
	return a->bar ? htrace_bar_pci(a->bar) : o->region;
}

/* --------------------------------------------------------------------------- the kernel module */

/*
 * Open the module, and the region in the device that it has bound. It is there for being used, so
 * mode auto takes it; else whatever mode there is works beside it.
 */
static int find_module(struct agent *a, const struct options *o, const struct loader *l, bool *use)
{
	char why[512] = "";
	int err = module_open(&a->module, why, sizeof(why));
	bool other = !err && strcmp(o->region, "auto") && strcmp(o->region, a->module.info.pci);

	*use = false;
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
	if (o->mode != MODE_MODULE && o->mode != MODE_AUTO)
		return 0;
	*use = !loader_check_module(l, why, sizeof(why));
	if (*use)
		return 0;
	if (o->mode == MODE_MODULE) {
		say("--mode module: %s", why);
		return -1;
	}
	say("without the kernel module: %s", why);
	return 0;
}

/* The rings are the region's own. */
static void use_rings_of_region(struct agent *a)
{
	const struct htrace_ringset *s = &htrace_region_super(a->region)->ringset[0];

	a->rings = (struct rings){
		.fd = -1,
		.borrowed = true,
		.nr = s->nr_rings,
		.stride = s->stride,
		.mem = (char *)a->mem + s->off,
		.len = s->nr_rings * s->stride,
	};
}

/* ------------------------------------------------------------------------- taking over, or anew */

/* The rings' shape as the region says; false unless it is exactly what we would make of it. */
static bool shape_of(const struct agent *a, struct htrace_geometry *g)
{
	const struct htrace_ringset *s = &htrace_region_super(a->region)->ringset[0];

	return !htrace_geometry_init(g, 1ULL << s->ring_shift, 1ULL << s->block_shift, s->policy) &&
	       g->desc_off == s->desc_off && g->data_off == s->data_off &&
	       s->stride == a->rings.stride && s->nr_rings == a->rings.nr &&
	       s->stride == htrace_image_size(g, (size_t)sysconf(_SC_PAGESIZE)) &&
	       (int)s->nr_rings == libbpf_num_possible_cpus();
}

/* Which of our modes the region was made for; false: for something else. */
static bool mode_of(struct agent *a, enum mode *mode)
{
	const struct htrace_super *s = htrace_region_super(a->region);
	const struct htrace_ringset *set = s->ringset;

	if (s->nr_ringsets == 1 && set[0].placement == HTRACE_PLACEMENT_IVSHMEM)
		*mode = MODE_RELAY;
	else if (s->nr_ringsets == 1 && set[0].placement == HTRACE_PLACEMENT_VSHMEM)
		*mode = MODE_DIRECT;
	else if (s->nr_ringsets == 2 && set[0].placement == HTRACE_PLACEMENT_VSHMEM &&
		 set[1].relays == 1)
		*mode = MODE_AUTO;
	else
		return false;
	return true;
}

/* Is the pinned memory that of the region's session? */
static bool rings_match(struct agent *a)
{
	if (a->mode != MODE_RELAY)
		return !htrace_region_super(a->region)->ringset[0].off &&
		       !htrace_vshmem_check(a->region, a->rings.mem, a->rings.len);
	for (__u32 i = 0; i < a->rings.nr; i++)
		if (rings_at(&a->rings, i)->anchor != htrace_region_super(a->region)->session)
			return false;
	return true;
}

/*
 * The programs of an agent that was killed end a little after it. Give them time, so that no event
 * is recorded twice.
 */
static void wait_for_quiet(const struct rings *r)
{
	__u64 before = ~0ULL, sum;

	for (int i = 0; i < 50; i++) {
		sum = 0;
		for (__u32 k = 0; k < r->nr; k++)
			sum += __atomic_load_n(&rings_at(r, k)->head, __ATOMIC_RELAXED);
		if (sum == before)
			return;
		before = sum;
		usleep(20000);
	}
}

/* The session that an earlier agent left, if both its region and its rings are still there. */
static void try_adopt(struct agent *a, const struct options *o, bool use_module)
{
	bool pinned = !rings_open_pinned(&a->rings);
	__u64 by_module = module_session(&a->module);

	if (htrace_region_adopt(&a->region, a->mem, a->size, a->write_combining))
		a->region = NULL;
	if (a->region && by_module == htrace_region_super(a->region)->session) {
		rings_close(&a->rings);
		use_rings_of_region(a);
		a->mode = MODE_MODULE;
		a->adopted = shape_of(a, &a->geometry);
		if (!a->adopted)
			memset(&a->rings, 0, sizeof(a->rings));
	} else {
		a->adopted = pinned && a->region && mode_of(a, &a->mode) &&
			     shape_of(a, &a->geometry) && rings_match(a);
	}
	if (a->adopted) {
		wait_for_quiet(&a->rings);
		if ((o->mode != MODE_AUTO && o->mode != a->mode) ||
		    (o->policy_given && o->policy != (enum htrace_policy)a->geometry.policy) ||
		    (o->buffer_given && o->buffer != a->geometry.ring_mask + 1))
			say("the session of an earlier agent goes on, with its mode, policy and "
			    "buffer size; stop the agent properly (SIGTERM) to change them");
		return;
	}
	htrace_region_release(a->region);
	a->region = NULL;
	a->mode = use_module ? MODE_MODULE : o->mode;
}

static int check_memory(__u64 need)
{
	__u64 have = (__u64)sysconf(_SC_AVPHYS_PAGES) * (__u64)sysconf(_SC_PAGESIZE), kb;
	char line[128];
	FILE *f = fopen("/proc/meminfo", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "MemAvailable: %llu kB", &kb) == 1)
			have = kb << 10;
	if (f)
		fclose(f);
	if (need <= have / 2)
		return 0;
	say("the rings would take %llu MiB, more than half of the memory that is available (%llu "
	    "MiB); use a smaller --buffer",
	    (unsigned long long)need >> 20, (unsigned long long)have >> 20);
	return -1;
}

/* What the region is to be made with. */
static struct htrace_region_opts region_opts(const struct agent *a, __u64 buffer, __u32 nr,
					     enum htrace_policy policy)
{
	return (struct htrace_region_opts){
		.sz = sizeof(struct htrace_region_opts),
		.placement = a->mode == MODE_RELAY || a->mode == MODE_MODULE ?
				     HTRACE_PLACEMENT_IVSHMEM :
				     HTRACE_PLACEMENT_VSHMEM,
		.policy = policy,
		.kind = HTRACE_RING_PER_CPU,
		.nr_rings = nr,
		.ring_size = buffer,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
		.nr_cpus = nr,
		.io_memory = a->write_combining,
		.relay = a->mode == MODE_AUTO,
	};
}

/*
 * Mirrors take as much of the region as the rings do of memory. Where they do not fit: smaller
 * rings if the size was not asked for and there is no other way, or no relay.
 */
static int fit_region(struct agent *a, const struct options *o, __u32 nr, __u64 *buffer)
{
	struct htrace_region_opts opts;

	*buffer = o->buffer;
	for (;;) {
		opts = region_opts(a, *buffer, nr, o->policy);
		if (htrace_region_fits(a->size, &opts) != -ENOSPC)
			return 0; /* other errors are told later */
		if (a->mode == MODE_AUTO) {
			say("no relay: region %s (%zu KiB) is too small for copies of %u rings of %llu "
			    "KiB; the host has to map this machine's memory. Give the device more "
			    "memory, or use a smaller --buffer",
			    region_name(a, o), a->size >> 10, nr,
			    (unsigned long long)o->buffer >> 10);
			a->mode = MODE_DIRECT;
			return 0;
		}
		if (a->mode == MODE_DIRECT)
			return 0;
		if (o->buffer_given || *buffer <= BUFFER_LEAST)
			break;
		*buffer >>= 1;
	}
	say("region %s (%zu KiB) is too small for %u rings of %llu KiB; give the device more "
	    "memory%s", region_name(a, o), a->size >> 10, nr,
	    (unsigned long long)*buffer >> 10, o->buffer_given ? ", or use a smaller --buffer" : "");
	return -1;
}

static int make_rings(struct agent *a, const struct options *o)
{
	int nr = libbpf_num_possible_cpus();
	__u64 buffer;

	if (nr < 1 || nr > HTRACE_MAX_CPUS) {
		say("%d possible CPUs; this version serves 1 to %d", nr, HTRACE_MAX_CPUS);
		return -1;
	}
	if (fit_region(a, o, (__u32)nr, &buffer))
		return -1;
	if (htrace_geometry_init(&a->geometry, buffer, 0, o->policy)) {
		say("rings of %llu bytes cannot be", (unsigned long long)buffer);
		return -1;
	}
	if (a->mode == MODE_MODULE) { /* they come with the region */
		a->rings = (struct rings){.fd = -1, .borrowed = true, .nr = (__u32)nr};
		return 0;
	}
	if (check_memory((__u64)nr *
			 htrace_image_size(&a->geometry, (size_t)sysconf(_SC_PAGESIZE))))
		return -1;
	return rings_create(&a->rings, &a->geometry, (__u32)nr);
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
	return loader_load(l, a->rings.fd, &a->geometry,
			   (__u32)((old ? old->generation : 0) + (added ? 1 : 0)));
}

static int format_region(struct agent *a, const struct options *o)
{
	struct htrace_region_opts opts = region_opts(a, a->geometry.ring_mask + 1, a->rings.nr,
						     a->geometry.policy);
	int err;

	module_stop(&a->module); /* a killed agent's: their place may become another's */
	err = htrace_region_format(&a->region, a->mem, a->size, &opts);
	if (!err && a->mode == MODE_MODULE) {
		use_rings_of_region(a);
		return module_start(&a->module, a->region);
	}
	if (!err)
		return 0;
	a->region = NULL;
	if (err == -ENOSPC)
		say("region %s is too small: %zu KiB; give the device more memory",
		    region_name(a, o), a->size >> 10);
	else
		say("region %s cannot be used: %s", region_name(a, o), strerror(-err));
	return -1;
}

static int publish_pages(struct agent *a, const struct options *o)
{
	int err;

	if (a->mode == MODE_MODULE)
		return 0;
	if (a->mode == MODE_RELAY) { /* whoever adopts them knows them by that */
		for (__u32 i = 0; i < a->rings.nr; i++)
			rings_at(&a->rings, i)->anchor = htrace_region_super(a->region)->session;
		return 0;
	}
	err = htrace_vshmem_publish(a->region, a->rings.mem, a->rings.len);
	if (err == -ENOSPC)
		say("region %s is too small for the list of %llu MiB of ring pages; give the device "
		    "more memory, or use a smaller --buffer",
		    region_name(a, o), (unsigned long long)a->rings.len >> 20);
	else if (err == -EPERM)
		say("cannot find the rings in guest memory: page frame numbers are hidden; the agent "
		    "needs CAP_SYS_ADMIN in the initial user namespace");
	else if (err)
		say("cannot find the rings in guest memory: %s", strerror(-err));
	return err;
}

static int add_schema(struct agent *a)
{
	const void *entries;
	size_t len;
	int err;

	entries = htrace_builder_entries(a->schema, &len);
	err = len ? htrace_region_add_schema(a->region, entries, len) : 0;
	if (err == -ENOSPC)
		say("the region's schema area is full; use fewer tracers, or give the device more "
		    "memory");
	else if (err)
		say("the events' description is refused: %s", strerror(-err));
	htrace_builder_free(a->schema);
	a->schema = NULL;
	return err;
}

/* Before the first event, so that no stack is shown without names. */
static void publish_names_of_stacks(struct agent *a, const struct loader *l)
{
	if (!loader_has_stacks(l))
		return;
	symbols_publish(a->region, a->adopted);
	mappings_start(a->region);
}

static int publish_new(struct agent *a, const struct options *o, const struct loader *l)
{
	struct htrace_guest *g;

	if (format_region(a, o) || add_schema(a) ||
	    (a->mode != MODE_MODULE && rings_pin(&a->rings)) || publish_pages(a, o))
		return -1;
	publish_names_of_stacks(a, l);
	g = htrace_region_guest(a->region);
	g->agent_starts = 1;
	g->agent_start_mono = monotonic_ns();
	g->heartbeat_ms = HEARTBEAT_MS;
	names_update(a->region);
	htrace_region_publish(a->region);
	return 0;
}

static int publish_adopted(struct agent *a, const struct loader *l)
{
	struct htrace_guest *g = htrace_region_guest(a->region);

	if (add_schema(a))
		return -1;
	publish_names_of_stacks(a, l);
	g->agent_starts++;
	g->agent_start_mono = monotonic_ns();
	return 0;
}

/* --------------------------------------------------------------------------------- start, stop */

static const char *placement(const struct agent *a)
{
	switch (a->mode) {
	case MODE_MODULE:
		return "module: the kernel module writes into the region";
	case MODE_RELAY:
		return "relay: rings are copied into the region";
	case MODE_AUTO:
		return relay_active(&a->relay) ?
			       "relay until the host has found this machine's memory" :
			       "direct placement: rings in guest memory";
	default:
		return "direct placement: rings in guest memory";
	}
}

static int start(struct agent *a, const struct options *o, struct loader *l)
{
	bool relays, use_module;
	struct rings old = {0};

	if (check_machine() || loader_check_hooks(l) || pins_lock() ||
	    find_module(a, o, l, &use_module) ||
	    open_region(a, a->module.fd < 0 ? o->region : a->module.info.pci))
		return -1;
	try_adopt(a, o, use_module);
	if (!a->adopted) {
		old = a->rings;
		if (make_rings(a, o))
			return -1;
	}
	if (load_programs(a, o, l))
		return -1;
	if (old.mem) {
		say("an earlier agent's rings are discarded: region %s does not hold their session",
		    region_name(a, o));
		rings_discard(&old);
	}
	a->ours = true;
	if (a->adopted ? publish_adopted(a, l) : publish_new(a, o, l))
		return -1;
	/* Tasks that come up between the names and the attached programs: read the names again. */
	if (loader_attach(l))
		return -1;
	names_update(a->region);
	if (loader_has_stacks(l) && loader_uses_trampolines(l))
		symbols_attached(a->region);
	relays = a->mode == MODE_RELAY || a->mode == MODE_AUTO;
	if (relays &&
	    relay_init(&a->relay, a->region, &a->rings, a->mode == MODE_AUTO))
		return -1;
	health_init(&a->health, a->region, l, &a->rings, &a->geometry,
		    relays ? &a->relay : NULL, a->mode != MODE_MODULE);
	htrace_region_set_state(a->region, HTRACE_GUEST_RUNNING);
	say("tracing%s: %zu programs, %u CPUs x %llu KiB (%s), %s%s%s; region %s",
	    a->adopted ? ", session adopted from an earlier agent" : "", l->nr_programs,
	    a->rings.nr, (a->geometry.ring_mask + 1) >> 10,
	    a->geometry.policy == HTRACE_DISCARD ? "discard" : "overwrite", placement(a),
	    a->mode == MODE_MODULE ? ", mapped " : "",
	    a->mode == MODE_MODULE ? module_caching(&a->module) : "", region_name(a, o));
	return 0;
}

static void idle(struct agent *a)
{
	for (;;) {
		__u64 relay = relay_work(&a->relay), ns = health_work(&a->health);
		struct timespec t;

		if (relay < ns)
			ns = relay;
		t = (struct timespec) {(time_t)(ns / 1000000000ULL), (long)(ns % 1000000000ULL)};

		if (sigtimedwait(&a->stop, NULL, &t) >= 0)
			return;
	}
}

/* Let a reader that is there read the rings to their end. */
static void wait_for_reader(struct agent *a)
{
	const struct htrace_host *host = htrace_region_host(a->region);
	__u64 session = htrace_region_super(a->region)->session;
	__u64 end = monotonic_ns() + DRAIN_NS;

	while (health_reader_attached(&a->health) && monotonic_ns() < end) {
		if (__atomic_load_n(&host->drained, __ATOMIC_ACQUIRE) == session)
			return;
		usleep(10000);
		relay_work(&a->relay); /* under discard, room may come up only now */
		health_work(&a->health);
	}
}

/*
 * The kernel waits for RCU with each tracepoint by name, so that a hundred take it seconds. Meanwhile
 * the others record on: the rings have to be relayed, and the heart has to beat.
 */
static void keep_up(void *arg)
{
	struct agent *a = arg;

	relay_work(&a->relay);
	health_work(&a->health);
}

static void stop(struct agent *a, struct loader *l)
{
	__u64 dropped = 0;

	loader_detach(l, keep_up, a);
	relay_finish(&a->relay);
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
	}
	relay_free(&a->relay);
	htrace_builder_free(a->schema);
	htrace_region_release(a->region);
	rings_close(&a->rings);
	if (!a->bar && a->mem)
		munmap(a->mem, a->size);
	htrace_bar_close(a->bar);
	module_close(&a->module);
	names_free();
	symbols_free();
	mappings_free();
}

int agent_run(const struct options *o, struct loader *l)
{
	struct agent a = {.module.fd = -1};
	int err;

	sigemptyset(&a.stop);
	sigaddset(&a.stop, SIGTERM);
	sigaddset(&a.stop, SIGINT);
	sigaddset(&a.stop, SIGHUP);
	sigprocmask(SIG_BLOCK, &a.stop, NULL);
	err = start(&a, o, l);
	if (!err) {
		idle(&a);
		stop(&a, l);
	} else if (l->nr_programs) {
		loader_detach(l, NULL, NULL);
	}
	give_up(&a);
	return err ? EXIT_FAILURE : EXIT_SUCCESS;
}

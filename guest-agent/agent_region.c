/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The region, in a file or in an ivshmem device, and rings of a size that fits it. */
#include "agent_internal.h"

#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "core.h"
#include "message.h"

#define REMOVAL_NS 50000000ULL    /* between two looks whether the device is still there */
#define AWAIT_NS 500000000L       /* between two looks for a device */
#define STREAM_AREAS (16ULL << 20) /* beside the rings: what is not used takes no memory */
#define STREAM_RING_MORE (256ULL << 10) /* of a ring beside its data and descriptors */
#define BUFFER_LEAST (64ULL << 10) /* that we make of our own accord */

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
	char **again;
} mapped; /* the device's memory, for the signal handler */

/*
 * A device that is removed takes its memory along. Programs end with us; what they recorded is the
 * host's.
 */
static void end_removed(void)
{
	static const char text[] = "guest-agent: the ivshmem device was removed while it was in use; "
				   "add it again, and start the agent again\n";
	static const char next[] = "guest-agent: the ivshmem device was removed; waiting for the next one\n";

	if (mapped.again && write(STDERR_FILENO, next, sizeof(next) - 1) > 0) {
		syscall(SYS_close_range, STDERR_FILENO + 1, ~0U, 0); /* programs are detached by that */
		execv("/proc/self/exe", mapped.again);
	}
	if (write(STDERR_FILENO, text, sizeof(text) - 1) < 0)
		_exit(EXIT_FAILURE);
	_exit(EXIT_FAILURE);
}

static void on_bus_error(int number, siginfo_t *info, void *context)
{
	const char *at = info->si_addr;

	if (at >= mapped.from && at < mapped.to)
		end_removed();
	else
		signal(number, SIG_DFL); /* none of ours: happens again on return */
}

/*
 * What sysfs maps stays mapped when the device goes, and may be another one's then. Its files say that it is gone, also
 * where one came in its place.
 */
void agent_notice_removal(struct agent *a)
{
	__u64 now = monotonic_ns();
	char c;

	if (a->device_fd < 0 || now < a->next_removal)
		return;
	a->next_removal = now + REMOVAL_NS;
	if (pread(a->device_fd, &c, 1, 0) < 0 && errno == ENODEV)
		end_removed();
}

static void open_device(struct agent *a)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/vendor", htrace_bar_pci(a->bar));
	a->device_fd = open(path, O_RDONLY | O_CLOEXEC);
}

static void expect_removal(const struct agent *a, char **again)
{
	/* SA_NODEFER: who is started anew from the handler must not have it blocked. */
	struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_NODEFER};

	mapped.again = again;
	mapped.from = a->mem;
	mapped.to = mapped.from + a->size;
	sigaction(SIGBUS, &action, NULL);
}

/* Is it there, and in order as far as a look tells? Else @why, if it is not just missing. */
static bool is_there(const char *where, char *why, size_t len)
{
	struct htrace_bar *bar;
	int err;

	*why = 0;
	if (!strncmp(where, STREAM_PREFIX, strlen(STREAM_PREFIX)))
		return true; /* it waits by itself */
	if (strchr(where, '/'))
		return !access(where, R_OK | W_OK);
	err = htrace_bar_open(&bar, where, why, len);
	if (!err)
		htrace_bar_close(bar);
	if (err == -ENODEV)
		*why = 0;
	/* Others' devices may be there before it, and its address comes a moment after it. */
	return err != -ENODEV && err != -EEXIST && err != -ENOENT;
}

int agent_await_region(const char *where, const sigset_t *stop)
{
	const struct timespec pause = {0, AWAIT_NS};
	char why[256], said[256] = "";

	for (int i = 0; !is_there(where, why, sizeof(why)); i++) {
		if (!i)
			say("waiting for an ivshmem device");
		else if (*why && strcmp(why, said))
			say("still waiting: %s", strcpy(said, why));
		if (sigtimedwait(stop, NULL, &pause) > 0)
			return 1;
	}
	return 0;
}

/* In a map of BPF's: no other pages of ours stay where they are. */
static int open_ram(struct agent *a)
{
	a->size = HTRACE_BEACON_REGION;
	if (pins_open_region(&a->mem, a->size + htrace_beacon_len(a->size)))
		return -1;
	a->beacon = (struct htrace_beacon *)((char *)a->mem + a->size);
	return 0;
}

/* That of an agent that was killed: this one has another. */
static void discard_ram(void)
{
	struct agent old = {.device_fd = -1};

	if (!pins_has_region() || open_ram(&old))
		return;
	agent_put_out_beacon(&old);
	agent_close_region(&old);
}

int agent_light_beacon(struct agent *a)
{
	int err = a->beacon ? htrace_beacon_light(a->beacon, a->mem, a->size) : 0;

	if (err)
		say("cannot tell the host where the region is in this machine's memory: %s%s", strerror(-err),
		    err == -EPERM ? "; page frame numbers are hidden: the agent needs CAP_SYS_ADMIN in the initial "
				    "user namespace" : "");
	return err;
}

void agent_put_out_beacon(struct agent *a)
{
	if (!a->beacon)
		return;
	htrace_beacon_clear(a->beacon);
	pins_unpin_region();
}

/* Rings are relayed past it, so that of them only the headers take memory. */
static int open_stream(struct agent *a, const char *where, __u64 buffer)
{
	__u64 nr = (__u64)sysconf(_SC_NPROCESSORS_CONF);
	int possible = libbpf_num_possible_cpus();

	if (possible > 0)
		nr = (__u64)possible;
	if (stream_new(&a->stream, where))
		return -1;
	a->size = STREAM_AREAS + nr * (buffer + buffer / 32 + STREAM_RING_MORE);
	a->mem = mmap(NULL, a->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (a->mem != MAP_FAILED)
		return 0;
	a->mem = NULL;
	say("no memory for a region of %zu MiB; use a smaller --buffer", a->size >> 20);
	return -1;
}

int agent_open_region(struct agent *a, const struct options *o, const char *where, char **again)
{
	char why[256] = "";
	int err;

	if (!strcmp(where, REGION_RAM))
		return open_ram(a);
	if (!o->follow_host) /* which does not hold the lock of the pins: it may be a living one's */
		discard_ram();
	if (!strncmp(where, STREAM_PREFIX, strlen(STREAM_PREFIX)))
		return open_stream(a, where + strlen(STREAM_PREFIX), o->buffer);

	if (strchr(where, '/'))
		return open_file(a, where);
	err = htrace_bar_open(&a->bar, where, why, sizeof(why));
	if (err) {
		say("cannot use a region: %s%s", why,
		    err == -ENODEV ? "; without a device: --region ram, and on the host host-reader pid:PID" : "");
		return -1;
	}
	a->mem = htrace_bar_mem(a->bar, &a->size);
	a->io_memory = htrace_bar_io_memory(a->bar);
	expect_removal(a, again);
	open_device(a);
	return 0;
}

const char *agent_region_name(const struct agent *a, const struct options *o)
{
	return a->bar ? htrace_bar_pci(a->bar) : a->beacon ? "in this machine's memory" : o->region;
}

void agent_close_region(struct agent *a)
{
	if (!a->bar && a->mem)
		munmap(a->mem, a->beacon ? a->size + htrace_beacon_len(a->size) : a->size);
	htrace_bar_close(a->bar);
	if (a->device_fd >= 0)
		close(a->device_fd);
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
		.io_memory = a->io_memory,
		.relay = a->mode == MODE_AUTO,
		.bell = bell_exists(&a->bell),
		.packed = a->packs,
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
			    agent_region_name(a, o), a->size >> 10, nr,
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
	    "memory%s", agent_region_name(a, o), a->size >> 10, nr,
	    (unsigned long long)*buffer >> 10, o->buffer_given ? ", or use a smaller --buffer" : "");
	return -1;
}

int agent_make_rings(struct agent *a, const struct options *o)
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

/* The rings are the region's own. */
void agent_use_rings_of_region(struct agent *a)
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

int agent_format_region(struct agent *a, const struct options *o)
{
	struct htrace_region_opts opts = region_opts(a, a->geometry.ring_mask + 1, a->rings.nr,
						     a->geometry.policy);
	int err;

	module_stop(&a->module); /* a killed agent's: their place may become another's */
	err = htrace_region_format(&a->region, a->mem, a->size, &opts);
	if (!err && a->mode == MODE_MODULE) {
		agent_use_rings_of_region(a);
		return module_start(&a->module, a->region);
	}
	if (!err)
		return 0;
	a->region = NULL;
	if (err == -ENOSPC)
		say("region %s is too small: %zu KiB; give the device more memory",
		    agent_region_name(a, o), a->size >> 10);
	else
		say("region %s cannot be used: %s", agent_region_name(a, o), strerror(-err));
	return -1;
}

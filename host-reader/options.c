/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/sync.h>
#include <htrace/version.h>

#include "filter.h"
#include "last_events.h"
#include "list_vms.h"
#include "message.h"
#include "view.h"

#define USAGE_ERROR 2
#define DOORBELL_SIZE (64ULL << 20)
#define STREAM_SIZE (256ULL << 20)
#define SNAPSHOT_SIZE (4ULL << 20)
#define SNAPSHOT_MIN (64ULL << 10)
#define SNAPSHOT_MAX (1ULL << 30)

static const char usage[] =
	"Usage: host-reader [options] SOURCE...\n"
	"\n"
	"Shows what guest-agent traces in a virtual machine, live, from shared memory.\n"
	"\n"
	"SOURCE:\n"
	"  ivshmem:PATH[,ram=auto|PATH][,pid=PID][,console=PATH][,nested][,trusted]\n"
	"                        the file behind a VM's ivshmem device. The guest's RAM is found\n"
	"                        through the process that maps PATH, unless that process (pid=) or\n"
	"                        the file of its RAM (ram=) is given. Commas in paths are doubled.\n"
	"                        trusted: -o raw:DIR writes from the guest's memory, without a copy;\n"
	"                        console=: file with its console, of which --view crash shows the end;\n"
	"                        nested: the VM has given its device to a guest of its own\n"
	"  doorbell:SOCKET[,size=SIZE][,ram=auto|PATH][,pid=PID][,trusted]\n"
	"                        an ivshmem device with a doorbell, whose server host-reader is, for\n"
	"                        one VM: memory of SIZE (64M), for QEMU's -chardev socket,path=SOCKET.\n"
	"                        Start host-reader first; see --sync doorbell\n"
	"  qmp:SOCKET[,size=SIZE][,ram=auto|PATH][,pid=PID][,trusted]\n"
	"                        a VM that runs, and has no such device: it is plugged in by QEMU's\n"
	"                        monitor (-qmp unix:SOCKET,server=on,wait=off), and taken out at the end\n"
	"  pid:PID               a VM that runs, and has no device at all: where guest-agent --region ram\n"
	"                        runs in it, its memory is read in the process PID, and never written\n"
	"  stream:PATH|ADDRESS:PORT|vsock:CID:PORT|FD[,size=SIZE][,pid=PID][,trusted]\n"
	"                        what guest-agent --region stream:... sends, where nothing can be shared: by\n"
	"                        the socket of QEMU's virtio-serial port or a serial device (PATH), TCP, at an\n"
	"                        address of this machine's own such as 127.0.0.1:7000, vsock, from the\n"
	"                        guest CID or any, or a descriptor. SIZE: memory that it may take (256M)\n"
	"  local:PATH[,trusted]  a region of processes of this machine\n"
	"  kvm[,pid=PID][,aggregate]\n"
	"                        exits and entries of this host's VMs, or of process PID's: why, how\n"
	"                        long, and when their vCPUs' threads do not run. aggregate: exits for\n"
	"                        hypercalls, I/O and MMIO are one event each, with their entry\n"
	"  file:DIR[,console=PATH]  a capture that -o raw:DIR made\n"
	"\n"
	"Options:\n"
	"  -o, --output SINK     where events go, repeatable (default: text)\n"
	"                          text[:FILE]  one line per event\n"
	"                          json[:FILE]  one JSON object per line\n"
	"                          ctf:DIR      traces for babeltrace2 and Trace Compass\n"
	"                          perfetto:FILE  a trace for ui.perfetto.dev\n"
	"                          metrics:FILE   numbers of events, losses, exits and steal, for\n"
	"                                         Prometheus, every 5 s or as --stats says\n"
	"                          raw:DIR[,rotate=SIZE][,rotate=SECs][,keep=SIZE][,direct]\n"
	"                                       a capture of all there is, for file:DIR to show\n"
	"                                       later, and for babeltrace2; rotate=64M, rotate=60s: in\n"
	"                                       parts; keep=1G: the oldest are deleted\n"
	"      --view VIEW       what text outputs show instead of the events:\n"
	"                          summary      the final summary; summary:json: an object a page\n"
	"                          exits        of sources kvm (and captures of it): why vCPUs leave\n"
	"                                       guest mode, how often, how long, where in the guest;\n"
	"                                       exits:json: all of it, an object a page\n"
	"                          io           of guests that record block and virtio: where their\n"
	"                                       disk requests spend their time; with source kvm\n"
	"                                       beside them also on the host; io:json\n"
	"                          functions    of guests that record function: which are called\n"
	"                                       most and take most time; functions:graph: by who\n"
	"                                       called them; functions:folded: for flame graphs;\n"
	"                                       functions:json: all of it, an object a page\n"
	"                          steal        of guests that record steal: time that their virtual\n"
	"                                       CPUs did not get; with source kvm beside them what\n"
	"                                       the host did; steal:json: as an object a page\n"
	"                          hypercalls   of Xen guests that record hypercalls: which, in which\n"
	"                                       batches, how long; upcalls; hypercalls:folded: stacks,\n"
	"                                       for flame graphs; hypercalls:json\n"
	"                          boot         of guests that record it: levels, initcalls, and what\n"
	"                                       user space then begins; boot:json: all of it\n"
	"                          crash        when a guest dies, is reset or shut down: the last 20\n"
	"                                       (crash:NUMBER) events of each CPU, and its console's\n"
	"                                       end; crash:json, crash:json:NUMBER\n"
	"                        but for summary and crash: on a terminal every second, else at the end, or as\n"
	"                        --stats says\n"
	"      --events LIST     show only events whose names match one of these patterns, as in\n"
	"                        'sched_*,sys_enter'; all are counted\n"
	"      --filter EXPR     show only events that match, as in 'prev_tid != 0 && cpu < 2' or\n"
	"                        'comm == \"kworker*\" && !(flags & 4)': fields of the event, comm, tid,\n"
	"                        pid and cpu; all are counted\n"
	"      --snapshot [SIZE:]WHEN\n"
	"                        flight recorder: hold the last SIZE (4M) of each vCPU's records, write\n"
	"                        them at SIGUSR1, when the guest dies, and at an event WHEN says, as\n"
	"                        'sched_switch if prev_tid == 7'; with SIZE alone at no event\n"
	"      --sync POLICY     when to look for events: adaptive[:MAX_USEC], timer:USEC, spin, or\n"
	"                        kvm-exit[:MAX_USEC], of vCPUs that left guest mode, or when producers\n"
	"                        wake the reader: futex (local:), doorbell (default: adaptive)\n"
	"      --copy            copy and check what trusted sources wrote, too\n"
	"      --tell-guest      tell each guest of its own vCPUs' exits and stolen time, for guest-agent\n"
	"                        --follow-host; never of other guests (needs KVM and root)\n"
	"      --list            show the virtual machines of this host, and how each can be traced\n"
	"  ctl --help            how to command a guest's agent, as in: ctl SOURCE disable sched_switch\n"
	"      --clock           show the host's CLOCK_MONOTONIC, as several sources are shown anyway, and\n"
	"                        at the end how each source's clock goes beside it, and within what\n"
	"      --duration SEC    end after this time; without a guest until then, that is a failure\n"
	"      --stats SEC       a line of statistics on standard error at this interval\n"
	"      --no-sandbox      keep all rights after the start, for debugging\n"
	"  -h, --help            this text\n"
	"  -V, --version         the version\n"
	"\n"
	"Ends at SIGINT or SIGTERM with a summary (on standard error when events are shown).\n"
	"Exit status: 0 success, 1 failure, 2 wrong usage.\n";

enum {
	OPT_VIEW = 256,
	OPT_EVENTS,
	OPT_FILTER,
	OPT_SNAPSHOT,
	OPT_SYNC,
	OPT_COPY,
	OPT_TELL_GUEST,
	OPT_LIST,
	OPT_CLOCK,
	OPT_DURATION,
	OPT_STATS,
	OPT_NO_SANDBOX,
};

static const struct option long_options[] = {
	{ "output", required_argument, NULL, 'o' },
	{ "view", required_argument, NULL, OPT_VIEW },
	{ "events", required_argument, NULL, OPT_EVENTS },
	{ "filter", required_argument, NULL, OPT_FILTER },
	{ "snapshot", required_argument, NULL, OPT_SNAPSHOT },
	{ "sync", required_argument, NULL, OPT_SYNC },
	{ "copy", no_argument, NULL, OPT_COPY },
	{ "tell-guest", no_argument, NULL, OPT_TELL_GUEST },
	{ "list", no_argument, NULL, OPT_LIST },
	{ "clock", no_argument, NULL, OPT_CLOCK },
	{ "duration", required_argument, NULL, OPT_DURATION },
	{ "stats", required_argument, NULL, OPT_STATS },
	{ "no-sandbox", no_argument, NULL, OPT_NO_SANDBOX },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

/* ------------------------------------------------------------------------------------- sources */

char *options_cut(char **rest)
{
	char *start = *rest, *to = start, *from = start;

	if (!start)
		return NULL;
	while (*from && !(from[0] == ',' && from[1] != ',')) {
		from += from[0] == ',';
		*to++ = *from++;
	}
	*rest = *from ? from + 1 : NULL;
	*to = 0;
	return start;
}

static bool parse_pid(const char *text, int *pid)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(text, &end, 10);
	if (errno || end == text || *end || v <= 0 || v > INT_MAX)
		return false;
	*pid = (int)v;
	return true;
}

/* A power of two, as PCI wants it. */
static bool parse_size(const char *text, __u64 min, __u64 max, __u64 *size)
{
	const char *units = "KMGT", *unit;
	unsigned long long v;
	unsigned int shift;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	shift = unit ? 10 * (unsigned int)(unit - units + 1) : 0;
	if (errno || v > max >> shift || (*end && (!unit || end[1])))
		return false;
	v <<= shift;
	*size = v;
	return v >= min && v <= max && !(v & (v - 1));
}

/* A number of bytes or an address, as the kernel's command line has them: 12M, 0x18000000. A multiple of 4096. */
static bool parse_place(const char *text, __u64 *v)
{
	const char *units = "KMG", *unit;
	unsigned int shift = 0;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*v = strtoull(text, &end, 0);
	unit = *end ? strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end) : NULL;
	if (errno || (*end && (!unit || end[1])))
		return false;
	if (unit)
		shift = 10 * (unsigned int)(unit - units + 1);
	if (*v > UINT64_MAX >> 1 >> shift)
		return false;
	*v <<= shift;
	return !(*v % 4096);
}

static int parse_bootring_option(struct source_spec *s, const char *arg, const char *option)
{
	const char *value = strchr(option, '=') ? strchr(option, '=') + 1 : "";
	char **file = !strncmp(option, "formats=", 8) ? &s->formats : !strncmp(option, "symbols=", 8) ? &s->symbols : NULL;
	__u64 *place = !strncmp(option, "at=", 3) ? &s->at : !strncmp(option, "size=", 5) ? &s->size : NULL;

	if (place && parse_place(value, place))
		return 0;
	if (file && *value) {
		free(*file);
		*file = strdup(value);
		return 0;
	}
	if (place)
		say("'%s' in source '%s': give it as the kernel's command line does, such as at=0x18000000 or size=12M; "
		    "multiples of 4096", option, arg);
	else
		say("unknown option '%s' in source '%s'; there are at=, size=, formats= and symbols=", option, arg);
	return USAGE_ERROR;
}

static int check_bootring(const struct source_spec *s, const char *arg)
{
	if (s->size && s->formats)
		return 0;
	say("source '%s' needs size=, of the ring that the kernel's command line names, and formats=, a file with the "
	    "descriptions of its events; see host-reader(1)", arg);
	return USAGE_ERROR;
}

static bool of_vm(const struct source_spec *s)
{
	return s->kind == SOURCE_IVSHMEM || s->kind == SOURCE_DOORBELL || s->kind == SOURCE_QMP;
}

static int parse_source_option(struct source_spec *s, const char *arg, const char *option)
{
	if (s->kind == SOURCE_BOOTRING)
		return parse_bootring_option(s, arg, option);
	if (of_vm(s) && !strncmp(option, "ram=", 4) && option[4]) {
		free(s->ram);
		s->ram = strcmp(option + 4, "auto") ? strdup(option + 4) : NULL;
		return 0;
	}
	if ((of_vm(s) || s->kind == SOURCE_FILE) && !strncmp(option, "console=", 8) && option[8]) {
		free(s->console);
		s->console = strdup(option + 8);
		return 0;
	}
	if (s->kind == SOURCE_IVSHMEM && !strcmp(option, "nested")) {
		s->nested = true;
		return 0;
	}
	if (s->kind == SOURCE_KVM && !strcmp(option, "aggregate")) {
		s->aggregate = true;
		return 0;
	}
	if ((of_vm(s) || s->kind == SOURCE_KVM || s->kind == SOURCE_STREAM) && !strncmp(option, "pid=", 4)) {
		if (parse_pid(option + 4, &s->pid))
			return 0;
		say("'%s' is not a process id in source '%s'", option + 4, arg);
		return USAGE_ERROR;
	}
	if ((s->kind == SOURCE_DOORBELL || s->kind == SOURCE_QMP || s->kind == SOURCE_STREAM) && !strncmp(option, "size=", 5)) {
		if (parse_size(option + 5, HTRACE_REGION_MIN, HTRACE_REGION_MAX, &s->size))
			return 0;
		say("'%s' in source '%s' is not a size that a device can have; give a power of two from 1M "
		    "on, as in size=64M", option + 5, arg);
		return USAGE_ERROR;
	}
	if (s->kind != SOURCE_FILE && s->kind != SOURCE_KVM && s->kind != SOURCE_PID && !strcmp(option, "trusted")) {
		s->trusted = true;
		return 0;
	}
	say("unknown option '%s' in source '%s'%s", option, arg,
	    s->kind == SOURCE_IVSHMEM ? "; there are ram=, pid=, console=, nested and trusted" :
	    s->kind == SOURCE_DOORBELL || s->kind == SOURCE_QMP ? "; there are size=, ram=, pid=, console= and trusted" :
	    s->kind == SOURCE_STREAM ? "; there are size=, pid= and trusted" :
	    s->kind == SOURCE_FILE ? "; there is console=" : s->kind == SOURCE_LOCAL ? "; there is trusted" :
	    s->kind == SOURCE_KVM ? "; there are pid= and aggregate" : "");
	return USAGE_ERROR;
}

static int parse_source(struct options *o, const char *arg)
{
	struct source_spec *s = &o->source[o->nr_sources];
	char *copy, *rest, *part;
	int ret = 0;

	if (o->nr_sources == MAX_SOURCES) {
		say("more than %d sources", MAX_SOURCES);
		return USAGE_ERROR;
	}
	if (!strncmp(arg, "ivshmem:", 8)) {
		s->kind = SOURCE_IVSHMEM;
		rest = copy = strdup(arg + 8);
	} else if (!strncmp(arg, "doorbell:", 9)) {
		s->kind = SOURCE_DOORBELL;
		s->size = DOORBELL_SIZE;
		rest = copy = strdup(arg + 9);
	} else if (!strncmp(arg, "qmp:", 4)) {
		s->kind = SOURCE_QMP;
		rest = copy = strdup(arg + 4);
	} else if (!strncmp(arg, "stream:", 7)) {
		s->kind = SOURCE_STREAM;
		s->size = STREAM_SIZE;
		rest = copy = strdup(arg + 7);
	} else if (!strncmp(arg, "local:", 6)) {
		s->kind = SOURCE_LOCAL;
		rest = copy = strdup(arg + 6);
	} else if (!strncmp(arg, "bootring:", 9)) {
		s->kind = SOURCE_BOOTRING;
		rest = copy = strdup(arg + 9);
	} else if (!strncmp(arg, "file:", 5)) {
		s->kind = SOURCE_FILE;
		rest = copy = strdup(arg + 5);
	} else if (!strncmp(arg, "pid:", 4)) {
		s->kind = SOURCE_PID;
		rest = copy = strdup(arg + 4);
	} else if (!strcmp(arg, "kvm") || !strncmp(arg, "kvm,", 4)) {
		s->kind = SOURCE_KVM;
		rest = copy = strdup(arg);
	} else {
		say("unknown source '%s'; sources are ivshmem:PATH, doorbell:SOCKET, qmp:SOCKET, "
		    "pid:PID, stream:..., local:PATH, bootring:PATH, kvm and file:DIR", arg);
		return USAGE_ERROR;
	}
	part = options_cut(&rest);
	if (part && *part) {
		s->path = strdup(s->kind == SOURCE_KVM || s->kind == SOURCE_PID ? arg : part); /* several are told apart by it */
		o->nr_sources++;
		if (s->kind == SOURCE_PID && !parse_pid(part, &s->pid)) {
			say("'%s' is not a process id in source '%s'; host-reader --list shows those of VMs", part, arg);
			ret = USAGE_ERROR;
		}
		while (!ret && (part = options_cut(&rest)) != NULL)
			ret = parse_source_option(s, arg, part);
		if (!ret && s->kind == SOURCE_BOOTRING)
			ret = check_bootring(s, arg);
	} else {
		say("source '%s' names no file", arg);
		ret = USAGE_ERROR;
	}
	free(copy);
	return ret;
}

const char *const source_kind_name[] = {
	[SOURCE_IVSHMEM] = "ivshmem", [SOURCE_LOCAL] = "local", [SOURCE_FILE] = "file", [SOURCE_DOORBELL] = "doorbell",
	[SOURCE_QMP] = "qmp", [SOURCE_STREAM] = "stream", [SOURCE_KVM] = "kvm", [SOURCE_PID] = "pid",
	[SOURCE_BOOTRING] = "bootring",
};

int options_add_source(struct options *o, const struct source_spec *like)
{
	struct source_spec *s = &o->source[o->nr_sources];

	if (o->nr_sources == MAX_SOURCES)
		return -1;
	*s = *like;
	s->console = NULL;
	s->path = strdup(like->path);
	s->ram = like->ram ? strdup(like->ram) : NULL;
	return s->path ? (int)o->nr_sources++ : -1;
}

/* ------------------------------------------------------------------------------------- options */

static int parse_seconds(const char *option, const char *arg, double min, __u64 *ns)
{
	char *end;
	double v;

	errno = 0;
	v = strtod(arg, &end);
	if (errno || end == arg || *end || !isfinite(v) || v < min || v > 1e9) {
		say("%s '%s': not a number of seconds from %g on", option, arg, min);
		return USAGE_ERROR;
	}
	*ns = (__u64)(v * 1e9);
	return 0;
}

static int parse_view(struct options *o, const char *arg)
{
	o->tables = view_find(arg);
	o->view_number = view_number(arg);
	o->view = o->tables ? VIEW_TABLES : VIEW_SUMMARY;
	if (o->tables || !strcmp(arg, "summary"))
		return 0;
	say("unknown view '%s'; there are: summary (and summary:json), exits (and exits:json), io (and io:json), "
	    "functions (and functions:graph, functions:folded, functions:json), steal (and steal:json), hypercalls (and hypercalls:folded, "
	    "hypercalls:json), boot (and boot:json), crash (and crash:NUMBER, crash:json, crash:json:NUMBER; up to %u)",
	    arg, LAST_EVENTS_MAX);
	return USAGE_ERROR;
}

static bool never_ready(void *ctx)
{
	(void)ctx;
	return false;
}

/* Whether there is such a policy is the library's to say. */
static int check_sync(struct options *o, const char *policy)
{
	struct htrace_sync_target target = { .sz = sizeof(target), .ready = never_ready };
	struct htrace_sync *s;
	int ret = htrace_sync_new(&s, policy, &target);

	if (!ret)
		htrace_sync_free(s);
	if (ret == -ENOSYS) {
		say("sync policy '%s' needs a newer kernel (futex_waitv, Linux 5.16); sync adaptive instead",
		    policy);
		o->sync = "adaptive";
		return 0;
	}
	if (ret == -ENOENT)
		say("unknown sync policy '%s'; there are: %s", policy, htrace_sync_names());
	else if (ret)
		say("sync policy '%s': %s", policy,
		    ret == -EINVAL ? "wrong argument; see --help" : strerror(-ret));
	return ret ? USAGE_ERROR : 0;
}

static int parse_filter(struct options *o, const char *arg)
{
	struct htrace_filter_error err;

	if (o->filter) {
		say("--filter: given twice; join both by &&, in parentheses");
		return USAGE_ERROR;
	}
	if (!htrace_filter_parse(&o->filter, arg, &err))
		return 0;
	filter_error("--filter", arg, &err);
	return USAGE_ERROR;
}

/* [SIZE][:][EVENTS [if EXPR]]; no event's name begins with a digit. */
static int parse_snapshot(struct options *o, const char *arg)
{
	size_t len = *arg >= '0' && *arg <= '9' ? strcspn(arg, ":") : 0;
	struct htrace_filter_error err;
	char size[32], *cond;

	if (o->snapshot.bytes) {
		say("--snapshot: given twice; one condition can name several events, as in 'a,b if x == 1'");
		return USAGE_ERROR;
	}
	snprintf(size, sizeof(size), "%.*s", (int)len, arg);
	o->snapshot.bytes = SNAPSHOT_SIZE;
	if (len && (len >= sizeof(size) || !parse_size(size, SNAPSHOT_MIN, SNAPSHOT_MAX,
						       &o->snapshot.bytes))) {
		say("--snapshot '%s': the size is no power of two from 64K to 1G", arg);
		return USAGE_ERROR;
	}
	arg += len + (arg[len] == ':');
	if (!*arg && len && arg[-1] != ':')
		return 0;
	o->snapshot.events = strdup(arg);
	if (!o->snapshot.events)
		return USAGE_ERROR;
	cond = strstr(o->snapshot.events, " if ");
	if (!cond)
		return 0;
	*cond = 0;
	if (!htrace_filter_parse(&o->snapshot.filter, cond + 4, &err))
		return 0;
	filter_error("--snapshot", cond + 4, &err);
	return USAGE_ERROR;
}

static int parse_option(struct options *o, int c, int *status)
{
	switch (c) {
	case 'o':
		if (o->nr_outputs == MAX_OUTPUTS) {
			say("more than %d outputs", MAX_OUTPUTS);
			return USAGE_ERROR;
		}
		o->output[o->nr_outputs++] = optarg;
		return 0;
	case OPT_VIEW:
		return parse_view(o, optarg);
	case OPT_EVENTS:
		o->events = optarg;
		return 0;
	case OPT_FILTER:
		return parse_filter(o, optarg);
	case OPT_SNAPSHOT:
		return parse_snapshot(o, optarg);
	case OPT_SYNC:
		o->sync = optarg;
		return check_sync(o, optarg);
	case OPT_COPY:
		o->copy = true;
		return 0;
	case OPT_TELL_GUEST:
		o->tell_guest = true;
		return 0;
	case OPT_LIST:
		*status = list_vms();
		return -1;
	case OPT_CLOCK:
		o->clock = true;
		return 0;
	case OPT_DURATION:
		return parse_seconds("--duration", optarg, 0.001, &o->duration_ns);
	case OPT_STATS:
		return parse_seconds("--stats", optarg, 0.1, &o->stats_ns);
	case OPT_NO_SANDBOX:
		o->no_sandbox = true;
		return 0;
	case 'h':
		fputs(usage, stdout);
		*status = 0;
		return -1;
	case 'V':
		printf("host-reader (libhtrace) %s\n", htrace_version());
		*status = 0;
		return -1;
	}
	return USAGE_ERROR;
}

/* What is not text can be had beside such a view, but not in one stream with it. */
static int place_view(struct options *o)
{
	bool text = false, taken = false, host = false;

	for (unsigned int i = 0; i < o->nr_sources; i++)
		host |= o->source[i].kind == SOURCE_KVM || o->source[i].kind == SOURCE_FILE;
	if (o->tables->needs_host && !host) {
		say("--view %s shows what the host says of VMs: give the source kvm, too, or a capture of it",
		    o->tables->name);
		return USAGE_ERROR;
	}
	for (unsigned int i = 0; i < o->nr_outputs; i++) {
		text |= !strncmp(o->output[i], "text", 4);
		taken |= !strcmp(o->output[i], "json");
	}
	if (text)
		return 0;
	if (taken || o->nr_outputs == MAX_OUTPUTS) {
		say("--view %s is text on standard output, as is -o json; give one of them a file, as in "
		    "-o json:FILE or -o text:FILE", o->tables->name);
		return USAGE_ERROR;
	}
	o->output[o->nr_outputs++] = "text";
	return 0;
}

/* getopt's own messages begin with the path that we were started as, so we say it. */
static void say_bad_option(int c, int argc, char **argv)
{
	const char *arg = optind > 0 && optind <= argc ? argv[optind - 1] : "?";

	if (c == ':')
		say("option '%s' needs a value; see --help", arg);
	else if (optopt && optopt < 256)
		say("unknown option '-%c'; see --help", optopt);
	else
		say("unknown option '%s'; see --help", arg);
}

int options_parse(struct options *o, int argc, char **argv, int *status)
{
	int c, ret = 0;

	memset(o, 0, sizeof(*o));
	o->sync = "adaptive";
	opterr = 0;
	*status = USAGE_ERROR;
	while (!ret && (c = getopt_long(argc, argv, ":o:hV", long_options, NULL)) != -1) {
		if (c == '?' || c == ':') {
			say_bad_option(c, argc, argv);
			ret = USAGE_ERROR;
		} else {
			ret = parse_option(o, c, status);
		}
	}
	for (int i = optind; !ret && i < argc; i++)
		ret = parse_source(o, argv[i]);
	if (!ret && !o->nr_sources) {
		say("no source given, such as ivshmem:/dev/shm/vm; see --help");
		ret = USAGE_ERROR;
	}
	for (unsigned int i = 0; !ret && o->view == VIEW_SUMMARY && i < o->nr_outputs; i++) {
		if (!strncmp(o->output[i], "text", 4))
			continue;
		say("--view summary is text; it cannot be written as '%s'", o->output[i]);
		ret = USAGE_ERROR;
	}
	if (!ret && o->view == VIEW_TABLES)
		ret = place_view(o);
	for (unsigned int i = 0; !ret && i < o->nr_sources; i++) {
		if (!o->source[i].console || (o->tables && o->tables->most))
			continue;
		say("source '%s': console= is for --view crash", o->source[i].path);
		ret = USAGE_ERROR;
	}
	if (!ret && o->view == VIEW_SUMMARY && o->snapshot.bytes) {
		say("--snapshot writes events, and --view summary shows none; leave one of them out");
		ret = USAGE_ERROR;
	}
	if (!o->nr_outputs)
		o->output[o->nr_outputs++] = "text";
	return ret;
}

void options_free(struct options *o)
{
	for (unsigned int i = 0; i < o->nr_sources; i++) {
		free(o->source[i].path);
		free(o->source[i].ram);
		free(o->source[i].console);
		free(o->source[i].formats);
		free(o->source[i].symbols);
	}
	htrace_filter_free(o->filter);
	free(o->snapshot.events);
	htrace_filter_free(o->snapshot.filter);
}

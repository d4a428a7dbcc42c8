/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/version.h>

#include "agent.h"
#include "control.h"
#include "follow.h"
#include "message.h"
#include "probe.h"
#include "stream.h"

#define EXIT_USAGE 2

#define BUFFER_DEFAULT (4ULL << 20)
#define BUFFER_MIN (4ULL << 10)
#define BUFFER_MAX (1ULL << 30)

static struct loader loader;

static void usage(FILE *out)
{
	fprintf(out,
		"Usage: guest-agent [options]\n"
		"\n"
		"Records this machine's kernel events into rings that the host reads directly, without\n"
		"a copy, through an ivshmem device. Runs until SIGTERM or SIGINT.\n"
		"\n"
		"  --events LIST     what to record: comma-separated events, globs and groups, or\n"
		"                    'none' (default: sched,syscalls); any tracepoint as SYSTEM:NAME,\n"
		"                    globs allowed; profile:HZ samples what CPUs do, with stacks,\n"
		"                    HZ times a second; function:GLOB calls of the kernel's functions,\n"
		"                    function:FILE:GLOB of a program's; boot what the kernel's command\n"
		"                    line (trace_event=...) had it record since its boot, and go on;\n"
		"                    'help' lists what this machine offers\n"
		"  --bpf FILE        load a tracer of your own, all of it; repeatable\n"
		"  --filter EXPR     record only events that match, as in 'prev_tid != 0 && cpu < 2';\n"
		"                    see FILTERS in host-reader(1)\n"
		"  --stack EVENTS    record kernel and user stacks with these of the events;\n"
		"                    comma-separated names and globs, repeatable\n"
		"  --region WHERE    auto (default), a PCI address, a file's path (with a '/'), or ram:\n"
		"                    in this machine's memory, for a host that reads that (pid:PID);\n"
		"                    stream:PATH|ADDRESS:PORT|vsock:CID:PORT|FD: nothing is shared, all\n"
		"                    that is recorded is sent to host-reader stream:..., by a virtio-serial\n"
		"                    port such as /dev/virtio-ports/NAME, a serial line, TCP, or vsock\n"
		"                    (the host is 2)\n"
		"  --mode MODE       direct: the host maps the rings in this machine's memory;\n"
		"                    module: the kernel module writes into the region; relay: the\n"
		"                    agent copies rings into the region; auto (default): the module\n"
		"                    if it is loaded, else relay until the host has found the\n"
		"                    memory, then direct\n"
		"  --policy POLICY   overwrite (default): when a ring is full the oldest events go;\n"
		"                    discard: the newest\n"
		"  --buffer SIZE     ring size per CPU, a power of two from 4K to 1G (default: 4M)\n"
		"  --allow LIST      what the host may command (host-reader ctl), separated by commas: events\n"
		"                    (default), filters, sampling, flush; all; none\n"
		"  --wait            wait for a device that is plugged in later, and for the next one when\n"
		"                    it was removed\n"
		"  --until-off       stay when systemd shuts the machine down and kills what is left, so\n"
		"                    that events come until the end; see docs/crash.md for the unit\n"
		"  --compress        record task switches in a third of the bytes; needs a host-reader that\n"
		"                    knows how (format 1.1)\n"
		"  --follow-host     record nothing; show this machine's own exits from guest mode and the\n"
		"                    time that was stolen from it, as far as the host tells of them\n"
		"  --probe           say what this machine runs on, what can be traced here, and how\n"
		"                    that gets to the host; changes nothing\n"
		"  -v, --verbose     say more\n"
		"  -h, --help        this text\n"
		"  -V, --version     the version\n"
		"\n"
		"Events by group; those that task names come from (sched_process_fork,\n"
		"sched_process_exec, task_rename) are recorded with any other:\n");
	loader_list(&loader, out, false);
}

/* A power of two with an optional K, M or G. */
static int parse_size(const char *text, __u64 *size)
{
	static const char units[] = "KMG";
	unsigned long long v;
	const char *unit;
	char *end;

	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || end == text || text[0] == '-')
		return -1;
	if (*end) {
		unit = strchr(units, *end >= 'a' ? *end - 'a' + 'A' : *end);
		if (!unit || end[1] || v > BUFFER_MAX)
			return -1;
		v <<= 10 * (unit - units + 1);
	}
	if (v < BUFFER_MIN || v > BUFFER_MAX || v & (v - 1))
		return -1;
	*size = v;
	return 0;
}

static int parse_mode(const char *text, struct options *o)
{
	if (!strcmp(text, "auto")) {
		o->mode = MODE_AUTO;
	} else if (!strcmp(text, "direct")) {
		o->mode = MODE_DIRECT;
	} else if (!strcmp(text, "module")) {
		o->mode = MODE_MODULE;
	} else if (!strcmp(text, "relay")) {
		o->mode = MODE_RELAY;
	} else {
		say("--mode: no mode '%s'; there are auto, direct, module and relay", text);
		return -1;
	}
	return 0;
}

static int parse_policy(const char *text, struct options *o)
{
	o->policy_given = true;
	if (!strcmp(text, "overwrite"))
		o->policy = HTRACE_OVERWRITE;
	else if (!strcmp(text, "discard"))
		o->policy = HTRACE_DISCARD;
	else {
		say("--policy: no policy '%s'; there are overwrite and discard", text);
		return -1;
	}
	return 0;
}

static int parse_buffer(const char *text, struct options *o)
{
	o->buffer_given = true;
	if (!parse_size(text, &o->buffer))
		return 0;
	say("--buffer: '%s' is no power of two from 4K to 1G", text);
	return -1;
}

static int parse_filter(const char *text, struct options *o)
{
	struct htrace_filter_error err;

	if (o->filter) {
		say("--filter: given twice; join both by &&, in parentheses");
		return -1;
	}
	if (!htrace_filter_parse(&o->filter, text, &err))
		return 0;
	say_filter_error(text, &err);
	return -1;
}

static bool is_stream(const struct options *o)
{
	return !strncmp(o->region, STREAM_PREFIX, strlen(STREAM_PREFIX));
}

/* There is one way to copy into a stream. */
static int check_stream(struct options *o)
{
	if (!is_stream(o))
		return 0;
	if (o->mode == MODE_DIRECT || o->mode == MODE_MODULE) {
		say("--mode %s: into a stream rings are copied; leave --mode away",
		    o->mode == MODE_DIRECT ? "direct" : "module");
		return -1;
	}
	o->mode = MODE_RELAY;
	return 0;
}

enum {
	OPT_EVENTS = 256, OPT_BPF, OPT_FILTER, OPT_STACK, OPT_REGION, OPT_MODE, OPT_POLICY,
	OPT_BUFFER, OPT_ALLOW, OPT_COMPRESS, OPT_WAIT, OPT_UNTIL_OFF, OPT_FOLLOW_HOST, OPT_PROBE,
};

static const struct option long_options[] = {
	{"events", required_argument, NULL, OPT_EVENTS},
	{"bpf", required_argument, NULL, OPT_BPF},
	{"filter", required_argument, NULL, OPT_FILTER},
	{"stack", required_argument, NULL, OPT_STACK},
	{"region", required_argument, NULL, OPT_REGION},
	{"mode", required_argument, NULL, OPT_MODE},
	{"policy", required_argument, NULL, OPT_POLICY},
	{"buffer", required_argument, NULL, OPT_BUFFER},
	{"allow", required_argument, NULL, OPT_ALLOW},
	{"wait", no_argument, NULL, OPT_WAIT},
	{"until-off", no_argument, NULL, OPT_UNTIL_OFF},
	{"compress", no_argument, NULL, OPT_COMPRESS},
	{"follow-host", no_argument, NULL, OPT_FOLLOW_HOST},
	{"probe", no_argument, NULL, OPT_PROBE},
	{"verbose", no_argument, NULL, 'v'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{0},
};

/* The host only looks: it answers nothing, and there is no device to copy into, or to wait for. */
static int check_ram_region(struct options *o)
{
	if (strcmp(o->region, REGION_RAM))
		return 0;
	if (o->mode == MODE_RELAY || o->mode == MODE_MODULE)
		say("--region ram is for rings in this machine's memory: --mode direct, or none");
	else if (o->policy == HTRACE_DISCARD)
		say("--policy discard takes a host that says how far it has read; one that reads this machine's memory "
		    "(--region ram) writes nothing there");
	else if (o->wait)
		say("--wait is for devices, and --region ram needs none");
	else
		return o->mode = MODE_DIRECT, 0;
	return -1;
}

/* -1: go on; else the exit status. */
static int parse_options(int argc, char **argv, struct options *o)
{
	const char *events = NULL, *files[MAX_FILES], *stacks[MAX_STACK_WORDS];
	int opt, bad = 0, nr_files = 0, nr_stacks = 0;

	opterr = 0;
	while (!bad && (opt = getopt_long(argc, argv, ":vhV", long_options, NULL)) != -1) {
		switch (opt) {
		case OPT_EVENTS:
			events = optarg;
			break;
		case OPT_BPF:
			if (nr_files == MAX_FILES) {
				say("--bpf: more than %d files", MAX_FILES);
				bad = 1;
				break;
			}
			files[nr_files++] = optarg;
			break;
		case OPT_FILTER:
			bad = parse_filter(optarg, o);
			break;
		case OPT_STACK:
			if (nr_stacks == MAX_STACK_WORDS) {
				say("--stack: more than %d of them", MAX_STACK_WORDS);
				bad = 1;
				break;
			}
			stacks[nr_stacks++] = optarg;
			break;
		case OPT_REGION:
			o->region = optarg;
			break;
		case OPT_MODE:
			bad = parse_mode(optarg, o);
			break;
		case OPT_POLICY:
			bad = parse_policy(optarg, o);
			break;
		case OPT_BUFFER:
			bad = parse_buffer(optarg, o);
			break;
		case OPT_ALLOW:
			bad = control_parse(optarg, &o->allows);
			break;
		case OPT_WAIT:
			o->wait = true;
			break;
		case OPT_UNTIL_OFF: /* how systemd-shutdown(8) knows whom to leave alone */
			argv[0][0] = '@';
			break;
		case OPT_COMPRESS:
			o->compress = true;
			break;
		case OPT_FOLLOW_HOST:
			o->follow_host = true;
			break;
		case OPT_PROBE:
			probe_print();
			return EXIT_SUCCESS;
		case 'v':
			verbose = true;
			break;
		case 'h':
			usage(stdout);
			return EXIT_SUCCESS;
		case 'V':
			printf("guest-agent %s\n", htrace_version());
			return EXIT_SUCCESS;
		case ':':
			say("%s needs a value; see guest-agent --help", argv[optind - 1]);
			return EXIT_USAGE;
		default:
			say("unknown option '%s'; see guest-agent --help", argv[optind - 1]);
			return EXIT_USAGE;
		}
	}
	if (!bad && optind < argc) {
		say("'%s' is not an option; see guest-agent --help", argv[optind]);
		bad = 1;
	}
	if (!bad && events && !strcmp(events, "help")) {
		loader_list(&loader, stdout, true);
		return EXIT_SUCCESS;
	}
	if (!bad && o->follow_host) {
		if (!is_stream(o) && strcmp(o->region, REGION_RAM) && !events && !nr_files && !nr_stacks && !o->filter &&
		    !o->policy_given && !o->buffer_given && !o->compress && !o->wait && o->mode == MODE_AUTO)
			return follow_run(o);
		say("--follow-host records nothing, and goes with --region only (a device or file); start another guest-agent to record");
		bad = 1;
	}
	if (!bad)
		bad = check_ram_region(o) || check_stream(o);
	for (int i = 0; !bad && i < nr_files; i++)
		if (loader_open_file(&loader, files[i]))
			return EXIT_FAILURE;
	if (bad || loader_select(&loader, events))
		return EXIT_USAGE;
	if (loader.boot && o->filter) {
		say("--events boot takes over all of what the kernel recorded: --filter does not go with it; have "
		    "host-reader filter");
		return EXIT_USAGE;
	}
	for (int i = 0; i < nr_stacks; i++)
		if (loader_select_stacks(&loader, stacks[i]))
			return EXIT_USAGE;
	return -1;
}

int main(int argc, char **argv)
{
	struct options o = {
		.region = "auto",
		.policy = HTRACE_OVERWRITE,
		.buffer = BUFFER_DEFAULT,
		.allows = HTRACE_CONTROL_TAKEN | HTRACE_ALLOW_EVENTS,
		.argv = argv,
	};
	int status;

	message_init();
	if (loader_open_built_in(&loader))
		return EXIT_FAILURE;
	status = parse_options(argc, argv, &o);
	if (status < 0)
		status = agent_run(&o, &loader);
	loader_close(&loader);
	htrace_filter_free(o.filter);
	return status;
}

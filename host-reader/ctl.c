/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One command and its answer. It goes by the region's file, beside whoever reads that: it holds another lock
 * than readers do, and writes nothing but the command.
 */
#include "ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <htrace/region.h>
#include <htrace/schema.h>

#include "clock.h"
#include "message.h"
#include "options.h"
#include "source.h"

#define MS 1000000ULL
#define LOOK_NS (5 * MS)
#define ALIVE_NS (3000 * MS) /* a heart that stands still so long does not beat */
#define MAX_PARTS 64 /* of a list */
#define EXIT_USAGE 2
#define EXIT_DENIED 3
#define EXIT_UNKNOWN 4

static const char usage[] =
	"Usage: host-reader ctl [options] SOURCE COMMAND [ARGUMENT]\n"
	"\n"
	"Has the agent of a running guest do something, beside a host-reader that reads the same\n"
	"SOURCE or without one. The guest decides what it allows: guest-agent --allow.\n"
	"\n"
	"SOURCE   as for host-reader: ivshmem:PATH, local:PATH or qmp:SOCKET; or the region's file\n"
	"\n"
	"  list                     the events of the agent, and how they are recorded\n"
	"  enable EVENTS            names, globs and groups as of guest-agent --events\n"
	"  disable EVENTS\n"
	"  filter 'EVENTS: EXPR'    record what matches; without EXPR: all again\n"
	"  sample 'EVENTS: 1/N'     record one in N, at random\n"
	"  flush                    all that was recorded until now can be read\n"
	"  snapshot                 the flight recorder of this SOURCE's host-reader --snapshot\n"
	"\n"
	"      --json               the answer as JSON, on one line\n"
	"      --timeout SECONDS    wait so long for it (default: 10)\n"
	"  -h, --help               this text\n"
	"\n"
	"Exit status: 0 done; 1 not done; 2 usage; 3 the guest does not allow it; 4 not known.\n";

struct ctl {
	const char *source;
	char path[512]; /* of the region's file */
	char command[HTRACE_CONTROL_MAX + 2];
	bool json;
	bool plugged; /* the region is the file of a reader's qmp: */
	__u64 wait_ns, end;
	struct htrace_view *view;
	struct htrace_reply reply;
	char *list;
	size_t list_len;
};

static void rest(void)
{
	struct timespec t = {.tv_nsec = LOOK_NS};

	nanosleep(&t, NULL);
}

/* --------------------------------------------------------------------------------------- what is meant */

static void take_plugged(struct ctl *c, const struct stat *monitor)
{
	c->plugged = true;
	source_plug_path(c->path, sizeof(c->path), monitor);
}

static int parse_source(struct ctl *c)
{
	static const char *const kinds[] = {"ivshmem:", "local:", "qmp:"};
	char *copy = NULL, *at, *path = NULL;
	const char *kind = "";
	struct stat st;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (!strncmp(c->source, kinds[i], strlen(kinds[i])))
			kind = kinds[i];
	if (!*kind && strchr(c->source, '/')) {
		snprintf(c->path, sizeof(c->path), "%s", c->source);
		return 0;
	}
	at = copy = strdup(c->source + strlen(kind));
	if (copy && *kind)
		path = options_cut(&at);
	if (!path || !*path) {
		say("'%s' is no source of a guest that can be commanded: ivshmem:PATH, local:PATH, qmp:SOCKET, or the "
		    "region's file", c->source);
		free(copy);
		return -1;
	}
	if (strcmp(kind, "qmp:"))
		snprintf(c->path, sizeof(c->path), "%s", path);
	else if (!stat(path, &st))
		take_plugged(c, &st);
	else
		say("cannot find the monitor '%s': %s", path, strerror(errno));
	free(copy);
	return c->path[0] ? 0 : -1;
}

/* Those of the agent; snapshot is the reader's. */
static int parse_command(struct ctl *c, int argc, char **argv)
{
	static const char *const with[] = {"enable", "disable", "filter", "sample"}, *const without[] = {"list", "flush",
													 "snapshot"};
	const char *name = argc ? argv[0] : "";
	int want = -1;

	for (size_t i = 0; i < sizeof(with) / sizeof(*with); i++)
		if (!strcmp(name, with[i]))
			want = 2;
	for (size_t i = 0; i < sizeof(without) / sizeof(*without); i++)
		if (!strcmp(name, without[i]))
			want = 1;
	if (want != argc) {
		if (want < 0)
			say("no command '%s'; see host-reader ctl --help", name);
		else
			say("%s: %s; see host-reader ctl --help", name,
			    want == 1 ? "it takes no argument" : "it takes one argument, in quotes if it has blanks");
		return -1;
	}
	if ((size_t)snprintf(c->command, sizeof(c->command), want == 2 ? "%s %s" : "%s", name, argv[want - 1]) >
	    HTRACE_CONTROL_MAX) {
		say("%s: more than %d bytes", name, HTRACE_CONTROL_MAX);
		return -1;
	}
	return 0;
}

static int parse_timeout(struct ctl *c, const char *text)
{
	char *end;
	double s = strtod(text, &end);

	if (end == text || *end || !(s >= 0.1 && s <= 3600)) {
		say("--timeout '%s': not 0.1 ... 3600 seconds", text);
		return -1;
	}
	c->wait_ns = (__u64)(s * 1e9);
	return 0;
}

/* -1: go on; else the exit status. */
static int parse(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"timeout", required_argument, NULL, 't'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int o;

	opterr = 0;
	c->wait_ns = 10000 * MS;
	while ((o = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
		if (o == 'h') {
			fputs(usage, stdout);
			return 0;
		}
		if (o == 'j') {
			c->json = true;
		} else if (o != 't' || parse_timeout(c, optarg)) {
			if (o != 't')
				say("option '%s' is not known, or needs a value; see host-reader ctl --help",
				    argv[optind - 1]);
			return EXIT_USAGE;
		}
	}
	if (argc - optind < 2) {
		say("which SOURCE, and what with it? See host-reader ctl --help");
		return EXIT_USAGE;
	}
	c->source = argv[optind];
	if (parse_command(c, argc - optind - 1, argv + optind + 1))
		return EXIT_USAGE;
	return parse_source(c) ? 1 : -1;
}

/* --------------------------------------------------------------------------------- there and back again */

/* Is there an agent that will answer? 0, or -1 after saying why not. */
static int find_agent(struct ctl *c)
{
	__u64 start = clock_now(), beat;
	char err[256] = "";

	if (htrace_view_attach(c->view, err, sizeof(err))) {
		say("%s: no agent has begun a session%s%s", c->path, err[0] ? ": " : "", err);
		return -1;
	}
	if (htrace_view_state(c->view) != HTRACE_GUEST_RUNNING) {
		say("%s: its agent has ended", c->path);
		return -1;
	}
	if (!htrace_view_control(c->view)) {
		say("%s: its agent takes no commands: it is too old", c->path);
		return -1;
	}
	beat = htrace_view_heartbeat(c->view);
	while (htrace_view_heartbeat(c->view) == beat) {
		if (clock_now() - start > ALIVE_NS) {
			say("%s: its agent does not answer: no heartbeat; is the guest paused?", c->path);
			return -1;
		}
		rest();
	}
	return 0;
}

/* One after the other: whoever is there first has its answer soon. */
static int give(struct ctl *c, const char *command)
{
	int err;

	while ((err = htrace_view_command(c->view, command)) == -EBUSY && clock_now() < c->end)
		rest();
	if (!err)
		return 0;
	if (err == -EBUSY)
		say("%s: a command before this one is not done yet; nothing was done", c->path);
	else
		say("%s: cannot give the command: %s", c->path, strerror(-err));
	return -1;
}

/* 0, or the exit status after saying why. */
static int await(struct ctl *c)
{
	int err;

	while ((err = htrace_view_reply(c->view, &c->reply)) == -EAGAIN) {
		if (!htrace_view_current(c->view) || !htrace_view_control(c->view)) {
			say("%s: the agent ended before it answered; whether it was done is not known", c->path);
			return EXIT_UNKNOWN;
		}
		if (clock_now() >= c->end) {
			say("%s: no answer in time; whether it is done is not known", c->path);
			return EXIT_UNKNOWN;
		}
		rest();
	}
	if (!err)
		return 0;
	say("%s: the agent's answer makes no sense", c->path);
	return EXIT_UNKNOWN;
}

static int add_to_list(struct ctl *c)
{
	char *longer = realloc(c->list, c->list_len + c->reply.len + 1);

	if (!longer)
		return -1;
	c->list = longer;
	memcpy(longer + c->list_len, c->reply.text, c->reply.len);
	c->list_len += c->reply.len;
	return 0;
}

/* The parts of a list, which go on behind where the one before ended: what does not is no list. */
static int exchange(struct ctl *c)
{
	bool list = !strcmp(c->command, "list");
	char command[40] = "";
	__u64 next = 0;
	int status;

	for (int part = 0; part < MAX_PARTS; part++) {
		if (give(c, part ? command : c->command))
			return 1;
		status = await(c);
		if (status)
			return status;
		if (!list || c->reply.status != HTRACE_REPLY_DONE)
			return 0;
		if (add_to_list(c))
			break;
		if (!c->reply.next)
			return 0;
		if (c->reply.next <= next)
			break;
		next = c->reply.next;
		snprintf(command, sizeof(command), "list %llu", (unsigned long long)next);
	}
	say("%s: the list has no end", c->path);
	return 1;
}

static int show(struct ctl *c)
{
	static const struct {
		const char *name;
		int exit;
	} statuses[] = {
		[HTRACE_REPLY_DONE] = {"done", 0}, [HTRACE_REPLY_FAILED] = {"failed", 1},
		[HTRACE_REPLY_DENIED] = {"denied", EXIT_DENIED}, [HTRACE_REPLY_INVALID] = {"invalid", 1},
		[HTRACE_REPLY_LOST] = {"unknown", EXIT_UNKNOWN},
	};
	const char *lost = "another agent took over before this was answered; whether it was done is not known";
	bool list = c->list && c->reply.status == HTRACE_REPLY_DONE, was_lost = c->reply.status == HTRACE_REPLY_LOST;
	int status = statuses[c->reply.status].exit, err;
	struct out *o;

	/* What went wrong goes where all such goes, unless a program reads it. */
	if (out_open_fd(&o, status && !c->json ? STDERR_FILENO : STDOUT_FILENO))
		return 1;
	if (status && !c->json)
		out_text(o, "host-reader: ");
	if (list)
		ctl_show_list(o, c->list, c->list_len, c->json);
	else
		ctl_show_text(o, statuses[c->reply.status].name, was_lost ? lost : c->reply.text,
			      was_lost ? strlen(lost) : c->reply.len, c->json);
	err = out_close(o);
	if (err)
		say("cannot write the answer: %s", strerror(-err));
	return err ? 1 : status;
}

static int command_agent(struct ctl *c, int fd)
{
	char err[256] = "";
	int status = htrace_view_open_fd(&c->view, fd, true, err, sizeof(err));

	if (status) {
		say("cannot use region '%s': %s", c->path, err);
		return 1;
	}
	status = find_agent(c) ? 1 : 0;
	c->end = clock_now() + c->wait_ns;
	if (!status)
		status = exchange(c);
	if (!status)
		status = show(c);
	htrace_view_close(c->view);
	return status;
}

static int ask_reader(struct ctl *c, int fd)
{
	static const char asked[] = "its reader lets go of what it holds";
	struct out *o;

	if (ctl_snapshot(fd, c->path) || out_open_fd(&o, STDOUT_FILENO))
		return 1;
	ctl_show_text(o, "done", asked, sizeof(asked) - 1, c->json);
	return out_close(o) ? 1 : 0;
}

int ctl_main(int argc, char **argv)
{
	struct ctl *c = calloc(1, sizeof(*c));
	int status = c ? parse(c, argc, argv) : 1, fd;

	signal(SIGPIPE, SIG_IGN);
	if (status >= 0) {
		free(c);
		return status;
	}
	fd = open(c->path, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (c->plugged ? O_NOFOLLOW : 0));
	if (fd < 0) {
		say("cannot open region '%s': %s", c->path, strerror(errno));
		status = 1;
	} else if (c->plugged && !source_plug_is_ours(fd)) { /* anybody could have made one of that name */
		say("region '%s' is somebody else's file", c->path);
		close(fd);
		status = 1;
	} else {
		status = strcmp(c->command, "snapshot") ? command_agent(c, fd) : ask_reader(c, fd);
		close(fd);
	}
	free(c->list);
	free(c);
	return status;
}

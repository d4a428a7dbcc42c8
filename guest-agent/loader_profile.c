/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* profile:HZ: a timer event on each CPU, to which profile.bpf.c is attached. */
#include "loader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/perf_event.h>

#include "message.h"

#define HZ_MAX 10000

unsigned int loader_parse_profile(const char *word)
{
	const char *text = word + strlen("profile");
	unsigned long hz;
	char *end;

	if (!*text) {
		say("--events: profile needs a frequency: profile:HZ, such as profile:99");
		return 0;
	}
	hz = strtoul(++text, &end, 10);
	if (*text >= '0' && *text <= '9' && !*end && hz >= 1 && hz <= HZ_MAX)
		return (unsigned int)hz;
	say("--events: profile:%s: the frequency is a number from 1 to %d, such as profile:99", text,
	    HZ_MAX);
	return 0;
}

static int open_timer(int cpu, unsigned int hz)
{
	struct perf_event_attr attr = {
		.type = PERF_TYPE_SOFTWARE,
		.size = sizeof(attr),
		.config = PERF_COUNT_SW_CPU_CLOCK,
		.freq = 1,
		.sample_freq = hz,
	};

	return (int)syscall(SYS_perf_event_open, &attr, -1, cpu, -1, PERF_FLAG_FD_CLOEXEC);
}

static void say_refused(unsigned int hz, int error)
{
	const char *hint = "";

	if (error == EINVAL)
		hint = "; is it above /proc/sys/kernel/perf_event_max_sample_rate?";
	else if (error == EACCES || error == EPERM)
		hint = "; the kernel forbids perf events (lockdown, or a container without "
		       "CAP_PERFMON?)";
	else if (error == ENOSYS || error == ENOENT)
		hint = "; is the kernel built without CONFIG_PERF_EVENTS?";
	say("profile:%u: cannot open a timer event: %s%s", hz, strerror(error), hint);
}

int loader_attach_profile(struct program *p)
{
	int nr = libbpf_num_possible_cpus(), error = ENODEV;

	p->cpu_link = nr > 0 ? calloc((size_t)nr, sizeof(*p->cpu_link)) : NULL;
	if (!p->cpu_link) {
		say("out of memory");
		return -1;
	}
	for (int cpu = 0; cpu < nr; cpu++) {
		int fd = open_timer(cpu, p->hz);
		struct bpf_link *link;

		if (fd < 0 && errno == ENODEV)
			continue; /* the CPU is offline */
		link = fd < 0 ? NULL : bpf_program__attach_perf_event(p->prog, fd);
		if (link) {
			p->cpu_link[p->nr_cpu_links++] = link;
			continue;
		}
		error = errno;
		if (fd >= 0)
			close(fd);
		break;
	}
	if (p->nr_cpu_links && error == ENODEV)
		return 0;
	say_refused(p->hz, error);
	return -1;
}

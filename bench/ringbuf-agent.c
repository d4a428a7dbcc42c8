/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An agent of the usual kind, for comparison: drains a BPF ring buffer and copies each record into
 * memory of its own, as one would that ships them on.
 *
 *   ringbuf-agent OBJECT wakeup       woken by the kernel's default policy
 *   ringbuf-agent OBJECT poll USEC    no wake-ups, looks every USEC
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static volatile sig_atomic_t stop;
static unsigned long events;
static char copy[1 << 20];
static size_t at;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static int on_record(void *ctx, void *data, size_t size)
{
	(void)ctx;
	if (at + size > sizeof(copy))
		at = 0;
	memcpy(copy + at, data, size);
	at += size;
	events++;
	return 0;
}

static int fail(const char *what)
{
	fprintf(stderr, "ringbuf-agent: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	int poll_us = argc > 3 && !strcmp(argv[2], "poll") ? atoi(argv[3]) : 0;
	struct sigaction sa = { .sa_handler = on_term };
	struct ring_buffer *rb;
	struct bpf_program *prog;
	struct bpf_object *obj;
	struct bpf_link *link;
	struct rusage ru;
	__u64 flags = BPF_RB_NO_WAKEUP;
	struct bpf_map *rodata;

	if (argc < 3)
		return fprintf(stderr, "ringbuf-agent: see the head of its source\n"), 2;
	sigaction(SIGTERM, &sa, NULL);
	obj = bpf_object__open_file(argv[1], NULL);
	if (!obj)
		return fail("open");
	rodata = bpf_object__find_map_by_name(obj, ".rodata");
	if (poll_us && (!rodata || bpf_map__set_initial_value(rodata, &flags, sizeof(flags))))
		return fail("submit flags");
	if (bpf_object__load(obj))
		return fail("load");
	rb = ring_buffer__new(bpf_object__find_map_fd_by_name(obj, "records"), on_record, NULL, NULL);
	prog = bpf_object__find_program_by_name(obj, "sys_enter");
	link = rb ? bpf_program__attach(prog) : NULL;
	if (!link)
		return fail("attach");
	printf("ready\n");
	fflush(stdout);
	while (!stop) {
		if (poll_us) {
			ring_buffer__consume(rb);
			usleep((useconds_t)poll_us);
		} else {
			ring_buffer__poll(rb, 100);
		}
	}
	bpf_link__destroy(link);
	ring_buffer__consume(rb);
	getrusage(RUSAGE_SELF, &ru);
	printf("events %lu cpu_us %ld\n", events,
	       (ru.ru_utime.tv_sec + ru.ru_stime.tv_sec) * 1000000L + ru.ru_utime.tv_usec +
		       ru.ru_stime.tv_usec);
	return 0;
}

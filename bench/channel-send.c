/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The guest's end of bench/channels: sends what the host orders, by one channel.
 *
 *	channel-send MAIL NUMBER call            system calls, which a BPF program takes for messages
 *	channel-send MAIL NUMBER file PATH       write() to a virtio-serial port
 *	channel-send MAIL NUMBER tcp PORT        likewise to a socket of 10.0.2.2
 *
 * MAIL: struct channel_mail is at its beginning; NUMBER: the channel's, for the host.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <htrace/clock.h>

#include "channels.h"

#define KICKS "/sys/kernel/tracing/kprobe_profile"
#define IDLE_LOOKS 2000

static struct channel_mail *mail;
static int fd = -1; /* -1: by system calls */
/* What lies behind the longest message goes with its last part. */
static __u64 message[CHANNEL_PARTS * CHANNEL_PART / 8];

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "channel-send: %s: %s\n", what, strerror(errno));
		exit(1);
	}
}

static __u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
}

static void nap(__u64 ns)
{
	struct timespec t = { .tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000) };

	nanosleep(&t, NULL);
}

static __u64 load(const __u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/* ------------------------------------------------------------------------- what the kernel counted */

/* Of the lines of @path that have @name: their first numbers behind the word with it, or with @all all of them. */
static __u64 count(const char *path, const char *name, bool all)
{
	FILE *f = fopen(path, "re");
	__u64 sum = 0;
	char line[1024];

	while (f && fgets(line, sizeof(line), f)) {
		char *at = strstr(line, name), *end;

		if (!at)
			continue;
		at = all ? strchr(line, ':') + 1 : at + strlen(name);
		for (__u64 n = strtoull(at, &end, 10); end != at; n = strtoull(at, &end, 10)) {
			sum += n;
			at = end;
			if (!all)
				break;
		}
	}
	if (f)
		fclose(f);
	return sum;
}

static void say_counts(void)
{
	check(!access(KICKS, R_OK), KICKS);
	mail->kicks = count(KICKS, " kick ", false); /* the probe that the guest's script has set */
	mail->interrupts = count("/proc/interrupts", "virtio", true);
}

/* ------------------------------------------------------------------------------------- sending */

static int send_one(__u32 size)
{
	size_t done = 0;

	if (fd < 0) {
		syscall(SYS_getpgid, CHANNEL_VALUE, size, message, 0, 0, 0);
		return 0;
	}
	while (done < size) {
		ssize_t n = write(fd, (char *)message + done, size - done);

		if (n < 0 && errno != EINTR)
			return errno;
		if (n > 0)
			done += (size_t)n;
	}
	return 0;
}

static void send_all(void)
{
	const struct channel_mail order = *mail;
	__u32 last = order.size / 8 - 1;
	__u64 start = now_ns(), seen = 0, i, now;
	int err = 0;

	for (__u32 w = 1; w < sizeof(message) / 8; w++)
		message[w] = channel_filler(w);
	mail->begin = htrace_clock_tsc();
	for (i = 0; i < order.count && !err; i++) {
		if (i % 16 == 0 && now_ns() - start > order.last_ns)
			break;
		while (i >= seen + order.window) {
			seen = load(&mail->received);
			if (i >= seen + order.window)
				nap(50000);
			if (now_ns() - start > 10 * order.last_ns + 5000000000ULL) /* they are lost: the host finds out */
				break;
		}
		message[0] = channel_word(order.ask & 15, i, htrace_clock_tsc());
		if (last)
			message[last] = ~message[0];
		err = send_one(order.size);
		now = now_ns();
		if (order.period_ns && start + (i + 1) * order.period_ns > now)
			nap(start + (i + 1) * order.period_ns - now);
	}
	mail->end = htrace_clock_tsc();
	mail->sent = i;
	mail->failed = (__u64)err;
}

static void answer_pings(__u64 nr)
{
	for (__u64 n = 1; n <= nr; n++) {
		while (load(&mail->ping) < n)
			__builtin_ia32_pause();
		mail->pong_tsc = htrace_clock_tsc();
		__atomic_store_n(&mail->pong, n, __ATOMIC_RELEASE);
	}
}

static void obey(void)
{
	__u64 done = load(&mail->answer);

	for (unsigned int idle = 0;; idle++) {
		__u64 ask = load(&mail->ask);

		if (ask == done) {
			if (idle > IDLE_LOOKS)
				nap(1000000);
			continue;
		}
		idle = 0;
		done = ask;
		if (mail->order == CHANNEL_PING)
			answer_pings(mail->count);
		else if (mail->order == CHANNEL_SEND)
			send_all();
		else if (mail->order == CHANNEL_COUNT)
			say_counts();
		__atomic_store_n(&mail->answer, done, __ATOMIC_RELEASE);
		if (mail->order == CHANNEL_END)
			return;
	}
}

static int connect_to(const char *port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	int s = socket(AF_INET, SOCK_STREAM, 0), yes = 1;

	inet_pton(AF_INET, "10.0.2.2", &a.sin_addr);
	check(s >= 0 && !connect(s, (struct sockaddr *)&a, sizeof(a)), "connecting");
	check(!setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)), "TCP_NODELAY");
	return s;
}

int main(int argc, char **argv)
{
	cpu_set_t set;
	int m;

	if (argc < 4 || (strcmp(argv[3], "call") && argc < 5)) {
		fprintf(stderr, "channel-send: see the head of its source for how to call it\n");
		return 2;
	}
	m = open(argv[1], O_RDWR);
	check(m >= 0, argv[1]);
	mail = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m, 0);
	check(mail != MAP_FAILED, "mapping the page");
	if (!strcmp(argv[3], "file")) {
		fd = open(argv[4], O_WRONLY);
		check(fd >= 0, argv[4]);
	} else if (!strcmp(argv[3], "tcp")) {
		fd = connect_to(argv[4]);
	}
	CPU_ZERO(&set);
	CPU_SET(sysconf(_SC_NPROCESSORS_ONLN) - 1, &set); /* devices interrupt the first one */
	check(!sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
	__atomic_store_n(&mail->channel, strtoull(argv[2], NULL, 10), __ATOMIC_RELEASE);
	obey();
	return 0;
}

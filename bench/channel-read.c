/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's end of bench/channels: orders messages of each size from the guest, by one channel after the other, and
 * prints what came of each order as a line of JSON.
 *
 *	channel-read DIR AGENT-PORT RAW-PORT MESSAGES SECONDS DELAYS CHANNEL...
 *
 * DIR has the page of orders as `mail`, and the machine's sockets; the doorbell's is made there. Then a line is
 * read from standard input: the machine's process id. MESSAGES: at most so many of each size, in SECONDS at most;
 * DELAYS: so many, a millisecond apart. CHANNEL: NAME=WAY,POLICY, see channel-source.h. NAME is for the output.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/clock.h>

#include "bench.h"
#include "channel-source.h"
#include "channels.h"

#define PINGS 200
#define PERIOD_NS 1000000
#define WINDOW_BYTES (512u << 10) /* that may be on their way: rings are of 4 MiB */
#define OVERHEAD 64               /* of a message, at most */
#define QUIET_NS 4000000000ULL    /* nothing more comes */
#define GUEST_NS 60000000000ULL

static const __u32 sizes[] = { 8, 64, 1024, CHANNEL_LONGEST };

static struct channel_mail *mail;
static double tick_ns;

/* What came of an order. */
struct intake {
	struct channel_taker taker;
	__u32 size, at; /* words of a message that are there */
	__u64 order, received, lost, expected;
	__u64 first, latest; /* words */
	double *delay;       /* in ticks, with the clocks' distance; or NULL */
	bool wrong;
	__u64 last; /* ticks when the latest came */
};

struct distance {
	double low, high; /* ticks */
};

/* So far. */
struct cost {
	__u64 guest, device, reader; /* ns of CPU time: virtual CPUs, the rest of the machine's process, ours */
	__u64 kicks, interrupts;     /* of virtio devices */
	__u64 bells;
};

/* ----------------------------------------------------------------------------------------- CPU time */

static __u64 number_in(const char *path)
{
	FILE *f = fopen(path, "re");
	unsigned long long n = 0;

	if (f && fscanf(f, "%llu", &n) != 1)
		n = 0;
	if (f)
		fclose(f);
	return n;
}

static bool is_vcpu(int pid, const char *thread)
{
	char path[300], comm[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", pid, thread);
	f = fopen(path, "re");
	if (f && !fgets(comm, sizeof(comm), f))
		comm[0] = 0;
	if (f)
		fclose(f);
	return !strncmp(comm, "CPU ", 4);
}

/* Of the threads of a process that are virtual CPUs, or not. */
static __u64 threads_ns(int pid, bool vcpus)
{
	char path[300];
	struct dirent *e;
	__u64 sum = 0;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	d = opendir(path);
	while (d && (e = readdir(d))) {
		if (e->d_name[0] == '.' || is_vcpu(pid, e->d_name) != vcpus)
			continue;
		snprintf(path, sizeof(path), "/proc/%d/task/%s/schedstat", pid, e->d_name);
		sum += number_in(path);
	}
	if (d)
		closedir(d);
	return sum;
}

/* And its children: a stream has its receiver. */
static __u64 family_ns(int pid)
{
	__u64 sum = threads_ns(pid, false);
	char path[300];
	FILE *f;
	int child;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	f = fopen(path, "re");
	while (f && fscanf(f, "%d", &child) == 1)
		sum += family_ns(child);
	if (f)
		fclose(f);
	return sum;
}

/* --------------------------------------------------------------------------------------- messages */

/* As they have to be: those of other orders are none. */
static void begin_message(struct intake *in, __u64 word)
{
	__u64 number = channel_key(word) & CHANNEL_MOST;

	in->wrong |= channel_key(word) >> CHANNEL_NUMBER_BITS != (in->order & 15) || number < in->expected;
	in->expected = number + 1;
	in->first = word;
}

static void end_message(struct intake *in, __u64 now)
{
	__u64 mask = (1ULL << CHANNEL_TSC_BITS) - 1;

	if (in->delay)
		in->delay[in->received] = (double)((now - in->first) & mask);
	in->received++;
	in->last = now;
	in->at = 0;
}

static void take(struct channel_taker *t, const __u64 *word, __u32 nr, __u64 now)
{
	struct intake *in = (struct intake *)t;
	__u32 end = in->size / 8;

	for (__u32 i = 0; i < nr; i++) {
		__u64 w = word[i];

		if (!in->at)
			begin_message(in, w);
		else if (in->at < end - 1)
			in->wrong |= w != channel_filler(in->at);
		else
			in->wrong |= w != ~in->first;
		if (++in->at < end)
			continue;
		end_message(in, now);
		if (in->size == CHANNEL_LONGEST && nr == CHANNEL_PART / 8)
			break; /* the last part is padded */
	}
}

/* A message that is not whole goes with them. */
static void lost(struct channel_taker *t, __u64 events)
{
	struct intake *in = (struct intake *)t;

	in->lost += events;
	in->at = 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* ----------------------------------------------------------------------------------------- orders */

static void order(enum channel_order what, __u32 size, __u64 count, double seconds, __u64 period)
{
	mail->order = what;
	mail->size = size;
	mail->count = count < CHANNEL_MOST ? count : CHANNEL_MOST;
	mail->last_ns = (__u64)(seconds * 1e9);
	mail->period_ns = period;
	mail->window = WINDOW_BYTES / (size + OVERHEAD) + 1;
	mail->received = 0;
	mail->ping = 0;
	__atomic_store_n(&mail->ask, mail->ask + 1, __ATOMIC_RELEASE);
}

static bool is_answered(void)
{
	return __atomic_load_n(&mail->answer, __ATOMIC_ACQUIRE) == mail->ask;
}

static void await(bool (*is_so)(void), const char *what)
{
	__u64 end = bench_now() + GUEST_NS;

	while (!is_so()) {
		if (bench_now() > end)
			bench_die(what, ETIMEDOUT);
		usleep(500);
	}
}

/*
 * The guest's ticks less ours, as found now, are between the two. An emulator's clock goes forth a little whenever it would
 * have gone back, so they grow.
 */
static struct distance compare_clocks(void)
{
	struct distance d = { .low = -1e30, .high = 1e30 };

	order(CHANNEL_PING, 0, PINGS, 0, 0);
	mail->pong = 0;
	for (__u64 n = 1; n <= PINGS; n++) {
		__u64 end = bench_now() + GUEST_NS, before = htrace_clock_tsc(), after;

		__atomic_store_n(&mail->ping, n, __ATOMIC_RELEASE);
		while (__atomic_load_n(&mail->pong, __ATOMIC_ACQUIRE) != n)
			if (bench_now() > end)
				bench_die("the guest does not answer", ETIMEDOUT);
		after = htrace_clock_tsc();
		d.low = fmax(d.low, (double)(__s64)(mail->pong_tsc - after));
		d.high = fmin(d.high, (double)(__s64)(mail->pong_tsc - before));
	}
	await(is_answered, "the guest does not end its answers");
	return d.low <= d.high ? d : (struct distance){ d.high, d.low }; /* it went forth meanwhile */
}

static double middle(struct distance d)
{
	return (d.low + d.high) / 2;
}

/* Until all is here, or nothing more comes. */
static void receive(struct channel_source *s, struct intake *in)
{
	__u64 quiet = bench_now() + GUEST_NS, seen = 0;

	for (;;) {
		bool answered = is_answered(), nothing = channel_source_is_nothing(s);

		channel_source_look(s, &in->taker);
		__atomic_store_n(&mail->received, nothing ? ~0ULL >> 1 : in->received + in->lost, __ATOMIC_RELEASE);
		if (answered && (nothing || in->received >= mail->sent))
			return;
		if (in->received != seen || !answered)
			quiet = bench_now() + (answered ? QUIET_NS : GUEST_NS);
		seen = in->received;
		if (bench_now() > quiet)
			return;
	}
}

static struct cost cost_so_far(const struct channel_machine *m, struct channel_source *s)
{
	order(CHANNEL_COUNT, 0, 0, 0, 0);
	await(is_answered, "the guest does not count");
	return (struct cost){
		.guest = threads_ns(m->pid, true),
		.device = threads_ns(m->pid, false),
		.reader = family_ns(getpid()),
		.kicks = mail->kicks,
		.interrupts = mail->interrupts,
		.bells = channel_source_bells(s),
	};
}

/* What was sent, and what it cost. */
static void print_rate(const char *name, const struct intake *in, const struct cost *a, const struct cost *b,
		       double distance)
{
	bool nothing = !in->received;
	double begin = (double)(__s64)mail->begin - distance, end = nothing ? (double)(__s64)mail->end - distance :
									(double)(__s64)in->last;

	printf("{\"channel\": \"%s\", \"size\": %u, \"what\": \"rate\", \"sent\": %llu, \"received\": %llu, "
	       "\"lost\": %llu, \"right\": %s, \"ns\": %.0f, \"send_ns\": %.0f, \"guest_ns\": %llu, \"device_ns\": %llu, "
	       "\"reader_ns\": %llu, \"kicks\": %llu, \"interrupts\": %llu, \"bells\": %llu}\n",
	       name, in->size, (unsigned long long)mail->sent, (unsigned long long)in->received,
	       (unsigned long long)in->lost, in->wrong ? "false" : "true", (end - begin) * tick_ns,
	       (double)(mail->end - mail->begin) * tick_ns, (unsigned long long)(b->guest - a->guest),
	       (unsigned long long)(b->device - a->device), (unsigned long long)(b->reader - a->reader),
	       (unsigned long long)(b->kicks - a->kicks), (unsigned long long)(b->interrupts - a->interrupts),
	       (unsigned long long)(b->bells - a->bells));
}

/* From right before a message was sent until it was found; distance and bound are ticks. */
static void print_delay(const char *name, struct intake *in, double distance, double bound)
{
	double mask = (double)(1ULL << CHANNEL_TSC_BITS);
	__u64 n = in->received;

	for (__u64 i = 0; i < n; i++) {
		double d = in->delay[i] + distance;

		d -= mask * (double)(__s64)(d / mask);
		in->delay[i] = (d > mask / 2 ? d - mask : d < -mask / 2 ? d + mask : d) * tick_ns;
	}
	qsort(in->delay, n, sizeof(*in->delay), by_value);
	printf("{\"channel\": \"%s\", \"size\": %u, \"what\": \"delay\", \"sent\": %llu, \"received\": %llu, "
	       "\"lost\": %llu, \"right\": %s, \"bound_ns\": %.0f, \"min\": %.0f, \"p50\": %.0f, \"p90\": %.0f, "
	       "\"p99\": %.0f, \"max\": %.0f}\n",
	       name, in->size, (unsigned long long)mail->sent, (unsigned long long)n, (unsigned long long)in->lost,
	       in->wrong ? "false" : "true", bound * tick_ns, n ? in->delay[0] : 0, n ? in->delay[n / 2] : 0,
	       n ? in->delay[n * 9 / 10] : 0, n ? in->delay[n * 99 / 100] : 0, n ? in->delay[n - 1] : 0);
}

static struct intake place_order(struct channel_source *s, __u32 size, __u64 count, double seconds, __u64 period,
				 double *delay)
{
	struct intake in = { .taker = { take, lost }, .size = size, .delay = delay };

	order(CHANNEL_SEND, size, count, seconds, period);
	in.order = mail->ask;
	receive(s, &in);
	await(is_answered, "the guest does not end its messages");
	if (mail->failed)
		bench_die("sending", (int)mail->failed);
	return in;
}

static void measure(struct channel_machine *m, struct channel_source *s, const char *name, __u64 most, double seconds,
		    __u64 delays)
{
	double *delay = calloc(delays, sizeof(*delay));

	if (!delay)
		bench_die("memory", ENOMEM);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct distance from = compare_clocks(), to;
		struct cost before = cost_so_far(m, s), after;
		struct intake in = place_order(s, sizes[i], most, seconds, 0, NULL);

		after = cost_so_far(m, s);
		print_rate(name, &in, &before, &after, middle(from));
		if (channel_source_is_nothing(s))
			continue;
		from = compare_clocks();
		in = place_order(s, sizes[i], delays, 3600, PERIOD_NS, delay);
		to = compare_clocks();
		from = (struct distance){ fmin(from.low, to.low), fmax(from.high, to.high) };
		print_delay(name, &in, middle(from), (from.high - from.low) / 2);
		fflush(stdout);
	}
	free(delay);
}

static __u64 wanted;

static bool is_at_channel(void)
{
	return __atomic_load_n(&mail->channel, __ATOMIC_ACQUIRE) == wanted;
}

static void map_mail(const char *dir)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/mail", dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		bench_die(path, errno);
	mail = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mail == MAP_FAILED)
		bench_die(path, errno);
	close(fd);
}

int main(int argc, char **argv)
{
	struct channel_machine m = { 0 };

	if (argc < 8) {
		fprintf(stderr, "channel-read: see the head of its source for how to call it\n");
		return 2;
	}
	m.dir = argv[1];
	m.agent_port = atoi(argv[2]);
	m.raw_port = atoi(argv[3]);
	map_mail(m.dir);
	tick_ns = bench_tick_ns();
	bench_no_timer_slack();
	channel_machine_open(&m);
	if (scanf("%d", &m.pid) != 1)
		bench_die("the machine's process id", EINVAL);
	channel_machine_await(&m);
	for (int i = 7; i < argc; i++) {
		char *way = strchr(argv[i], '='), *policy = way ? strchr(way, ',') : NULL;
		struct channel_source *s;

		if (!policy)
			bench_die(argv[i], EINVAL);
		*way++ = *policy++ = 0;
		s = channel_source_open(&m, way, policy);
		channel_source_attach(s);
		wanted = (__u64)(i - 6);
		await(is_at_channel, "the guest does not come to the next channel");
		measure(&m, s, argv[i], strtoull(argv[4], NULL, 10), atof(argv[5]), strtoull(argv[6], NULL, 10));
		order(CHANNEL_END, 0, 0, 0, 0);
		await(is_answered, "the guest does not end");
		channel_source_close(s);
	}
	return 0;
}

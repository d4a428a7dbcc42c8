/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What runs inside test guests (and the demo): work whose system calls and task switches are known.
 *
 *   workload mark VALUE            on each CPU: getpgid(VALUE)
 *   workload mix SECONDS [N [R]]   N pairs of tasks per CPU (default 2): calls, pipes, sleeps, forks;
 *                                  at most R rounds of about 22 events per second and pair
 *   workload count N VALUE         on each CPU: N times getpgid(VALUE, i)
 *   workload pace RATE SECONDS VALUE [CPUS]
 *                                  on each CPU, or the first CPUS: getpgid(VALUE, i), RATE times a
 *                                  second; prints how many
 *   workload steady RATE VALUE FILE LIFE
 *                                  on each CPU, RATE times a second, until it is killed:
 *                                  getpgid(VALUE, (LIFE * 16 + CPU) << 32 | i); FILE holds how many were done
 *   workload timed N VALUE LIFE    N times the same on CPU 0; prints the median of their nanoseconds
 *   workload told FILE             prints that: "TOLD WHO=NUMBER ...", WHO being LIFE * 16 + CPU
 *   workload calls N               N cheap system calls; prints their nanoseconds
 *   workload switches N            two tasks on CPU 0 wake each other N times in turn, which are 2 N task switches
 *                                  or some more; prints their nanoseconds
 *   workload nest N VALUE          N times getpgid(VALUE, i) in nest_inner, of nest_middle, of nest_outer
 *   workload spin SECONDS          computes, in spin_here
 *   workload compat N              N 32-bit system calls getpid (number 20)
 *   workload tasklet               makes the kernel run a tasklet: the keyboard's, for its lamps
 *   workload name TEXT             calls itself TEXT, runs a little
 *   workload fill MIB [SECONDS]    fills memory with random bytes and holds it
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/kd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		exit(3);
}

static int wait_all(void)
{
	int status, bad = 0;

	while (wait(&status) > 0 || errno == EINTR)
		bad |= status;
	return bad ? 1 : 0;
}

static int mark(long value, int cpus)
{
	for (int cpu = 0; cpu < cpus; cpu++) {
		pin(cpu);
		syscall(SYS_getpgid, value, cpu, 0, 0, 0, 0);
	}
	return 0;
}

static int count(long n, long value, int cpus)
{
	for (int cpu = 0; cpu < cpus; cpu++) {
		if (fork())
			continue;
		pin(cpu);
		for (long i = 0; i < n; i++)
			syscall(SYS_getpgid, value, i, 0, 0, 0, 0);
		_exit(0);
	}
	return wait_all();
}

static void nap(long ns)
{
	struct timespec t = { .tv_nsec = ns };

	nanosleep(&t, NULL);
}

/* Two tasks that wake each other through pipes, with calls, yields, sleeps and forks between. */
static void partner(int in, int out, double end, int first, double rate)
{
	double start = now(), ahead;
	unsigned long round = 0;
	char c = 'x';

	if (first && write(out, &c, 1) != 1)
		_exit(1);
	while (now() < end && read(in, &c, 1) == 1) {
		for (long i = 0; i < 6; i++)
			syscall(SYS_getpriority, i, round, round * i, -1L, 1L << 40, 0x1234);
		if (round % 16 == 0)
			sched_yield();
		if (round % 64 == 0)
			nap(200000);
		if (rate > 0 && first && (ahead = start + (double)round / rate - now()) > 0)
			nap((long)(ahead * 1e9) % 999999999);
		if (first && round % 512 == 0) {
			pid_t pid = fork();

			if (!pid) {
				execl("/proc/self/exe", "workload", "nothing", NULL);
				_exit(1);
			}
			if (pid > 0)
				waitpid(pid, NULL, 0);
		}
		round++;
		if (write(out, &c, 1) != 1)
			break;
	}
	_exit(0);
}

static int mix(double seconds, int pairs, double rate, int cpus)
{
	double end = now() + seconds;

	for (int cpu = 0; cpu < cpus; cpu++) {
		for (int p = 0; p < pairs; p++) {
			int a[2], b[2];

			if (pipe(a) || pipe(b))
				return 1;
			for (int side = 0; side < 2; side++) {
				if (fork())
					continue;
				pin(cpu);
				close(side ? a[1] : a[0]);
				close(side ? b[0] : b[1]);
				signal(SIGPIPE, SIG_IGN);
				if (side)
					partner(a[0], b[1], end, 0, rate);
				partner(b[0], a[1], end, 1, rate);
			}
			close(a[0]), close(a[1]), close(b[0]), close(b[1]);
		}
	}
	wait_all(); /* partners of those that stopped first get SIGPIPE or EOF */
	return 0;
}

/* What is due is made up for at once: the rate is kept where the machine is fast enough. */
static void pace_one(double rate, double seconds, long value)
{
	double start = now(), t;
	long i = 0, due;

	while ((t = now() - start) < seconds) {
		for (due = (long)(t * rate) - i; due > 0; due--, i++)
			syscall(SYS_getpgid, value, i, 0, 0, 0, 0);
		t = start + (double)(i + 1) / rate - now();
		if (t > 1e-4) /* else a sleep takes longer than that */
			nap((long)(t * 1e9) % 999999999);
	}
	printf("paced %ld in %.3f s\n", i, now() - start);
}

static int pace(double rate, double seconds, long value, int cpus)
{
	for (int cpu = 0; cpu < cpus; cpu++) {
		if (fork())
			continue;
		pin(cpu);
		pace_one(rate, seconds, value);
		exit(0);
	}
	return wait_all();
}

/* ------------------------------------------------------------------------ work that is killed */

#define LIFE_CPUS 16
#define LIVES 64

/* How many calls each process of each life made, in a file that outlives them. */
static unsigned long *map_done(const char *path)
{
	size_t len = sizeof(unsigned long) * LIVES * LIFE_CPUS;
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	void *mem;

	if (fd < 0 || ftruncate(fd, (off_t)len))
		exit(1);
	mem = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		exit(1);
	close(fd);
	return mem;
}

static void steady_one(double rate, long value, unsigned long who, unsigned long *done)
{
	double start = now(), ahead;

	for (unsigned long i = 0;; i++) {
		syscall(SYS_getpgid, value, who << 32 | i, 0, 0, 0, 0);
		__atomic_store_n(done, i + 1, __ATOMIC_RELEASE);
		ahead = start + (double)(i + 1) / rate - now();
		if (ahead > 1e-4)
			nap((long)(ahead * 1e9) % 999999999);
	}
}

static int steady(double rate, long value, const char *path, unsigned long life, int cpus)
{
	unsigned long *done = map_done(path);

	if (life >= LIVES || cpus > LIFE_CPUS)
		return 2;
	for (int cpu = 0; cpu < cpus; cpu++) {
		unsigned long who = life * LIFE_CPUS + (unsigned long)cpu;

		if (fork())
			continue;
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pin(cpu);
		steady_one(rate, value, who, done + who);
	}
	return wait_all();
}

#define CHUNK 100 /* calls between two looks at the clock */

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int timed(unsigned long n, long value, unsigned long life)
{
	unsigned long chunks = n / CHUNK, i = 0;
	double *took = calloc(chunks ? chunks : 1, sizeof(*took)), start;

	if (!took)
		return 1;
	pin(0);
	for (unsigned long c = 0; c < chunks; c++) {
		start = now();
		for (int k = 0; k < CHUNK; k++, i++)
			syscall(SYS_getpgid, value, (life * LIFE_CPUS) << 32 | i, 0, 0, 0, 0);
		took[c] = now() - start;
	}
	qsort(took, chunks, sizeof(*took), by_value);
	printf("%.0f\n", took[chunks / 2] * 1e9 / CHUNK);
	free(took);
	return 0;
}

static int told(const char *path)
{
	const unsigned long *done = map_done(path);

	printf("TOLD");
	for (int who = 0; who < LIVES * LIFE_CPUS; who++)
		if (done[who])
			printf(" %d=%lu", who, __atomic_load_n(&done[who], __ATOMIC_ACQUIRE));
	putchar('\n');
	return 0;
}

static int calls(long n)
{
	double start;

	pin(0);
	for (long i = 0; i < n / 10; i++)
		syscall(SYS_getppid);
	start = now();
	for (long i = 0; i < n; i++)
		syscall(SYS_getppid);
	printf("%.0f\n", (now() - start) * 1e9);
	return 0;
}

static bool ping(int in, int out)
{
	char c = 'x';

	return write(out, &c, 1) == 1 && read(in, &c, 1) == 1;
}

static int switches(long n)
{
	int there[2], back[2];
	double start;
	char c;

	pin(0);
	if (pipe(there) || pipe(back))
		return 1;
	if (!fork()) {
		close(there[1]);
		while (read(there[0], &c, 1) == 1 && write(back[1], &c, 1) == 1)
			;
		_exit(0);
	}
	for (long i = 0; i < n / 10; i++)
		if (!ping(back[0], there[1]))
			return 1;
	start = now();
	for (long i = 0; i < n; i++)
		if (!ping(back[0], there[1]))
			return 1;
	printf("%.0f\n", (now() - start) * 1e9);
	close(there[1]);
	return wait_all();
}

/* Compilers give functions that call none a frame only if they have a use for it. */
#define HAS_FRAME() __asm__ volatile("" : : "r"(__builtin_frame_address(0)))

/* The call is made right there: libc's functions have no frame pointers. */
__attribute__((noinline)) static long nest_inner(long value, long i)
{
	HAS_FRAME();
#ifdef __x86_64__
	long ret = SYS_getpgid;

	__asm__ volatile("syscall" : "+a"(ret) : "D"(value), "S"(i) : "rcx", "r11", "memory");
	return ret;
#else
	register long nr __asm__("x8") = SYS_getpgid;
	register long a __asm__("x0") = value;
	register long b __asm__("x1") = i;

	__asm__ volatile("svc 0" : "+r"(a) : "r"(nr), "r"(b) : "memory");
	return a;
#endif
}

__attribute__((noinline)) static long nest_middle(long value, long i)
{
	return nest_inner(value, i) + 1;
}

__attribute__((noinline)) static long nest_outer(long value, long i)
{
	return nest_middle(value, i) + 1;
}

static int nest(long n, long value)
{
	long sum = 0;

	for (long i = 0; i < n; i++)
		sum |= nest_outer(value, i);
	return sum == 0; /* each call failed, or else added 2 */
}

__attribute__((noinline)) static unsigned long spin_here(unsigned long x)
{
	HAS_FRAME();
	for (int i = 0; i < 1000000; i++)
		x = x * 6364136223846793005UL + 1442695040888963407UL + (x >> 33);
	return x;
}

static int spin(double seconds)
{
	double end = now() + seconds;
	volatile unsigned long x = 1;

	while (now() < end)
		x = spin_here(x);
	return 0;
}

/* As a 32-bit program makes them: they have numbers of their own. */
static int compat(long n)
{
#ifdef __x86_64__
	for (long i = 0; i < n; i++) {
		long nr = 20;

		__asm__ volatile("int $0x80" : "+a"(nr) : : "memory", "r8", "r9", "r10", "r11");
		if (nr != getpid())
			return 1;
	}
	return 0;
#else
	fprintf(stderr, "workload: %ld 32-bit calls: only on x86-64\n", n);
	return 2;
#endif
}

static int tasklet(void)
{
	int fd = open("/dev/tty0", O_RDWR);

	return fd < 0 || ioctl(fd, KDSETLED, 0);
}

static int rename_self(const char *text)
{
	prctl(PR_SET_NAME, text);
	for (int i = 0; i < 20; i++)
		nap(1000000);
	return 0;
}

static int fill(size_t mib, int seconds)
{
	size_t len = mib << 20, i;
	unsigned long x = 88172645463325252UL, *p;

	p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return 1;
	for (i = 0; i < len / sizeof(*p); i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		p[i] = x;
	}
	sleep((unsigned int)seconds);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	int cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);

	if (!strcmp(what, "nothing"))
		return 0;
	if (!strcmp(what, "mark") && argc == 3)
		return mark(atol(argv[2]), cpus);
	if (!strcmp(what, "mix") && argc >= 3)
		return mix(atof(argv[2]), argc > 3 ? atoi(argv[3]) : 2,
			   argc > 4 ? atof(argv[4]) : 0, cpus);
	if (!strcmp(what, "count") && argc == 4)
		return count(atol(argv[2]), atol(argv[3]), cpus);
	if (!strcmp(what, "pace") && argc >= 5)
		return pace(atof(argv[2]), atof(argv[3]), atol(argv[4]),
			    argc > 5 ? atoi(argv[5]) : cpus);
	if (!strcmp(what, "steady") && argc == 6)
		return steady(atof(argv[2]), atol(argv[3]), argv[4], strtoul(argv[5], NULL, 10), cpus);
	if (!strcmp(what, "timed") && argc == 5)
		return timed(strtoul(argv[2], NULL, 10), atol(argv[3]), strtoul(argv[4], NULL, 10));
	if (!strcmp(what, "told") && argc == 3)
		return told(argv[2]);
	if (!strcmp(what, "calls") && argc == 3)
		return calls(atol(argv[2]));
	if (!strcmp(what, "switches") && argc == 3)
		return switches(atol(argv[2]));
	if (!strcmp(what, "nest") && argc == 4)
		return nest(atol(argv[2]), atol(argv[3]));
	if (!strcmp(what, "spin") && argc == 3)
		return spin(atof(argv[2]));
	if (!strcmp(what, "compat") && argc == 3)
		return compat(atol(argv[2]));
	if (!strcmp(what, "tasklet"))
		return tasklet();
	if (!strcmp(what, "name") && argc == 3)
		return rename_self(argv[2]);
	if (!strcmp(what, "fill") && argc >= 3)
		return fill((size_t)atol(argv[2]), argc > 3 ? atoi(argv[3]) : 0);
	fprintf(stderr, "workload: see the head of its source for what it does\n");
	return 2;
}

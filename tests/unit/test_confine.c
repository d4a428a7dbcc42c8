/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is left to a reader that is confined: each attempt is made by a process of its own, the way code
 * would that a guest got to run in the reader.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef HAVE_SECCOMP
#include <seccomp.h>
#endif

#include "confine.h"
#include "unit.h"

static char dir[64], out[80], other[80], kept[80];
static pid_t parent; /* is not confined */

static void setup(void)
{
	parent = getpid();
	snprintf(dir, sizeof(dir), "/tmp/test-confine-XXXXXX");
	ck_assert(mkdtemp(dir) != NULL);
	snprintf(out, sizeof(out), "%s/out", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	ck_assert(!mkdir(out, 0700) && !mkdir(other, 0700));
	snprintf(kept, sizeof(kept), "%s/kept", dir);
	close(open(kept, O_WRONLY | O_CREAT, 0600));
}

static void teardown(void)
{
	char command[160];

	snprintf(command, sizeof(command), "rm -rf %s", dir);
	ck_assert(system(command) == 0);
}

static struct confine_plan plan_of(void)
{
	return (struct confine_plan){
		.outdir = { out }, .nr_outdirs = 1, .read = { "/proc", "/nonexistent" }, .nr_read = 2,
	};
}

/* What @attempt says in a process that is confined: 0, or an errno. Which parts hold is told by @said. */
static int confined(const struct confine_plan *plan, int (*attempt)(void), char said[256])
{
	int pipefd[2], status;
	pid_t child;

	ck_assert(!pipe(pipefd));
	child = fork();
	if (!child) {
		char line[256] = "";

		if (confine(plan, line, sizeof(line)))
			_exit(255);
		if (write(pipefd[1], line, sizeof(line)) != sizeof(line))
			_exit(254);
		_exit(attempt());
	}
	close(pipefd[1]);
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(read(pipefd[0], said, 256), 256);
	close(pipefd[0]);
	ck_assert_msg(WIFEXITED(status), "status %#x", status);
	return WEXITSTATUS(status);
}

static bool has_landlock(void)
{
	return syscall(444 /* landlock_create_ruleset */, NULL, 0, 1 /* which version? */) >= 1;
}

/* Sanitizers do without: confine_calls.c. */
#if defined(HAVE_SECCOMP) && !defined(__SANITIZE_ADDRESS__)
#define FILTERS true
#else
#define FILTERS false
#endif

static bool has_seccomp(void)
{
	return FILTERS && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL) < 0 && errno == EFAULT;
}

static int result(long ret)
{
	return ret < 0 ? errno : 0;
}

/* ------------------------------------------------------------------------------------ what is needed */

static void *in_thread(void *arg)
{
	*(int *)arg = !setpriority(PRIO_PROCESS, 0, 19); /* its own may fall */
	return NULL;
}

/* Rotation: make, write, rename, delete, in directories, too; memory, threads, time, owners of rings. */
static int work(void)
{
	char a[128], b[128], c[128];
	pthread_t thread;
	struct stat st;
	int fd, ran = 0;
	void *mem;

	snprintf(a, sizeof(a), "%s/session", out);
	snprintf(b, sizeof(b), "%s/session/stream", out);
	snprintf(c, sizeof(c), "%s/moved", out);
	if (mkdir(a, 0777))
		return 1;
	fd = open(b, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0 || write(fd, "x", 1) != 1 || fallocate(fd, 0, 0, 4096) || ftruncate(fd, 1) || fdatasync(fd))
		return 2;
	mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (close(fd) || mem == MAP_FAILED || mprotect(mem, 4096, PROT_READ))
		return 3;
	if (rename(b, c)) /* to another directory */
		return 4;
	if (truncate(c, 0) && errno != EPERM) /* by name: nobody does */
		return 5;
	if (stat("/etc/passwd", &st) || unlink(c) || rmdir(a))
		return 6;
	fd = open("/proc/1/stat", O_RDONLY);
	if (fd < 0 || close(fd))
		return 7;
	if (pthread_create(&thread, NULL, in_thread, &ran) || pthread_join(thread, NULL) || !ran)
		return 8;
	return usleep(1) ? 9 : 0;
}

START_TEST(test_work)
{
	struct confine_plan plan = plan_of();
	char said[256];

	ck_assert_int_eq(confined(&plan, work, said), 0);
	fprintf(stderr, "# %s\n", said);
	ck_assert_msg(!strstr(said, "(seccomp)") == !has_seccomp(), "%s", said);
	ck_assert_msg(!strstr(said, "(Landlock") == !has_landlock(), "%s", said);
}
END_TEST

/* ---------------------------------------------------------------------------------- what is forbidden */

static int read_passwd(void)
{
	return result(open("/etc/passwd", O_RDONLY));
}

static int make_beside(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/file", other);
	return result(open(path, O_WRONLY | O_CREAT, 0600));
}

static int make_above(void)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/../file", out);
	return result(open(path, O_WRONLY | O_CREAT, 0600));
}

static int delete_beside(void)
{
	return result(unlink(kept));
}

static int move_out(void)
{
	char from[128], to[128];

	snprintf(from, sizeof(from), "%s/a", out);
	snprintf(to, sizeof(to), "%s/a", other);
	if (open(from, O_WRONLY | O_CREAT, 0600) < 0)
		return 0;
	return result(rename(from, to));
}

/* Of the process that started us, which is not confined and has the same owner. */
static int look_into_other(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", parent);
	return result(open(path, O_RDWR));
}

struct attempt {
	const char *what;
	int (*how)(void);
	int error[2];
};

static const struct attempt on_files[] = {
	{ "reads what is not its own", read_passwd, { EACCES } },
	{ "makes files in another directory", make_beside, { EACCES } },
	{ "makes files above its own", make_above, { EACCES } },
	{ "deletes files of others", delete_beside, { EACCES } },
	{ "moves a file out", move_out, { EXDEV, EACCES } },
	{ "looks into another process", look_into_other, { EACCES } },
};

static int run_program(void)
{
	return result(execl("/bin/true", "true", NULL));
}

static int make_process(void)
{
	pid_t child = fork();

	if (!child)
		_exit(0);
	return result(child);
}

static int make_socket(void)
{
	return result(socket(AF_INET, SOCK_STREAM, 0));
}

static int map_code(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? errno : 0;
}

static int make_code(void)
{
	void *mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return result(mprotect(mem, 4096, PROT_READ | PROT_EXEC));
}

static int kill_other(void)
{
	return result(kill(parent, 0));
}

static int trace_other(void)
{
	return result(ptrace(PTRACE_SEIZE, parent, NULL, NULL));
}

static int read_memory(void)
{
	char byte = 0;
	struct iovec here = { &byte, 1 }, there = { &byte, 1 };

	return result(process_vm_readv(parent, &here, 1, &there, 1, 0));
}

static int make_uring(void)
{
	struct io_uring_params p = { 0 };

	return result(syscall(SYS_io_uring_setup, 4, &p));
}

static int load_bpf(void)
{
	return result(syscall(SYS_bpf, 5 /* BPF_PROG_LOAD */, NULL, 0));
}

static int type_ahead(void)
{
	return result(ioctl(STDIN_FILENO, TIOCSTI, "x"));
}

static int slow_others(void)
{
	return result(setpriority(PRIO_PGRP, 0, 19)) == EPERM ? result(setpriority(PRIO_PROCESS, (id_t)getppid(), 19)) : 0;
}

static const struct attempt on_calls[] = {
	{ "runs a program", run_program, { EPERM } },
	{ "makes a process", make_process, { EPERM, ENOSYS } },
	{ "makes a socket", make_socket, { EPERM } },
	{ "maps code", map_code, { EPERM } },
	{ "makes code of memory", make_code, { EPERM } },
	{ "sends signals", kill_other, { EPERM } },
	{ "traces", trace_other, { EPERM } },
	{ "reads another's memory", read_memory, { EPERM } },
	{ "makes an io_uring", make_uring, { EPERM } },
	{ "loads BPF", load_bpf, { EPERM } },
	{ "slows others down", slow_others, { EPERM } },
	{ "types ahead", type_ahead, { EPERM } },
};

static void check(const struct attempt *a, const struct confine_plan *plan, const char *part)
{
	char said[256];
	int error = confined(plan, a->how, said);

	ck_assert_msg(strstr(said, part) != NULL, "%s", said);
	ck_assert_msg(error && (error == a->error[0] || error == a->error[1]), "%s: %s", a->what,
		      error ? strerror(error) : "it can");
}

START_TEST(test_files)
{
	struct confine_plan plan = plan_of();

	check(&on_files[_i], &plan, "Landlock");
}
END_TEST

/* perf's ~/.debug: what links in it lead to can be read, and no more. */
static int read_linked(void)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/.debug/.build-id/ab/cd", dir);
	fd = open(path, O_RDONLY);
	if (fd < 0 || close(fd))
		return 1;
	snprintf(path, sizeof(path), "%s/.debug/.build-id/ab/ef/elf", dir);
	fd = open(path, O_RDONLY);
	if (fd < 0 || close(fd))
		return 2;
	if (open(path, O_RDWR) >= 0)
		return 3;
	snprintf(path, sizeof(path), "%s/.debug/.build-id/ab/outside", dir); /* a directory: not what is in it */
	if (open(path, O_RDONLY | O_DIRECTORY) >= 0)
		return 4;
	snprintf(path, sizeof(path), "%s/secret", other);
	return open(path, O_RDONLY) >= 0 ? 5 : 0;
}

START_TEST(test_links)
{
	char command[800], debug[100], said[256];
	struct confine_plan plan = plan_of();

	snprintf(debug, sizeof(debug), "%s/.debug", dir);
	snprintf(command, sizeof(command),
		 "cd %s && mkdir -p .debug/.build-id/ab other/programs && touch other/secret other/programs/elf && "
		 "ln -s %s .debug/.build-id/ab/cd && ln -s ../../../other/programs .debug/.build-id/ab/ef && "
		 "ln -s ../../../other .debug/.build-id/ab/outside && ln -s . .debug/.build-id/loop",
		 dir, kept);
	ck_assert_int_eq(system(command), 0);
	plan.read[plan.nr_read++] = debug;
	ck_assert_int_eq(confined(&plan, read_linked, said), 1); /* Landlock follows no link */
	plan.debug = debug;
	ck_assert_int_eq(confined(&plan, read_linked, said), 0);
	plan.debug = "/nonexistent";
	ck_assert_int_eq(confined(&plan, read_linked, said), 1);
}
END_TEST

START_TEST(test_calls)
{
	struct confine_plan plan = plan_of();

	check(&on_calls[_i], &plan, "(seccomp)");
}
END_TEST

/* Who watches exits changes maps, and may do nothing else of bpf(2). */
static int change_map(void)
{
	return result(syscall(SYS_bpf, 2 /* BPF_MAP_UPDATE_ELEM */, NULL, 0));
}

START_TEST(test_bpf)
{
	struct confine_plan plan = plan_of();
	char said[256];

	plan.bpf = true;
	ck_assert_int_ne(confined(&plan, change_map, said), EPERM);
	check(&on_calls[9], &plan, "(seccomp)");
}
END_TEST

static int count_capabilities(void)
{
	char line[128];
	unsigned long long set = 1;
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &set) == 1)
			break;
	return __builtin_popcountll(set);
}

START_TEST(test_capabilities)
{
	struct confine_plan plan = plan_of();
	char said[256];

	if (count_capabilities() < 2) { /* not root, who has none to give up */
		ck_assert_int_eq(confined(&plan, count_capabilities, said), 0);
		return;
	}
	ck_assert_int_eq(confined(&plan, count_capabilities, said), strstr(said, "built without libcap-ng") ? 41 : 0);
	/* Somebody else's directory takes the one that lets us write there. */
	ck_assert(!chown(out, 65534, 65534));
	ck_assert_int_eq(confined(&plan, work, said), 0);
	ck_assert_int_eq(confined(&plan, count_capabilities, said), 1);
	ck_assert_msg(strstr(said, "dac_override") != NULL, "%s", said);
}
END_TEST

/* --------------------------------------------------------------------------------------- the finder */

/* Who is confined in_helper(): who receives a stream from whoever connects, from whom it is handed; who does that. */
static enum { KEEPER, RECEIVER, HANDED_RECEIVER, CONNECTOR } helper;

static pid_t self;

static int confine_as_helper(void)
{
	self = getpid();
	return helper == KEEPER ? confine_keeper() : helper == CONNECTOR ? confine_connector_files() || confine_connector(self) :
	       confine_receiver(helper == HANDED_RECEIVER);
}

/* 0, or an errno; no @plan: as the helper. @attempt knows of no other process than @parent, which is not confined. */
static int in_helper(const struct confine_finder_plan *plan, int (*attempt)(void))
{
	int status;
	pid_t child = fork();

	if (!child) {
		if (plan ? confine_finder(plan) : confine_as_helper())
			_exit(255);
		_exit(attempt());
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_msg(WIFEXITED(status), "status %#x", status);
	return WEXITSTATUS(status);
}

/* A region that is replaced, who maps what, and his descriptors. */
static int find_things(void)
{
	char name[64], line[512], to[64];
	struct dirent *e;
	struct stat st;
	FILE *maps;
	DIR *d;
	int fd;

	fd = open(kept, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
	if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) || fstat(fd, &st) || close(fd))
		return 1;
	snprintf(name, sizeof(name), "/proc/%d/maps", parent);
	maps = fopen(name, "re");
	if (!maps || !fgets(line, sizeof(line), maps) || fclose(maps))
		return 2;
	snprintf(name, sizeof(name), "/proc/%d/map_files", parent);
	d = opendir(name);
	while (d && (e = readdir(d)) != NULL && e->d_name[0] == '.')
		;
	if (!d || !e || fstatat(dirfd(d), e->d_name, &st, 0))
		return 3;
	snprintf(line, sizeof(line), "%s/%s", name, e->d_name);
	fd = open(line, O_RDONLY | O_CLOEXEC);
	if ((fd < 0 && errno != EPERM) || (fd >= 0 && close(fd)) || closedir(d)) /* EPERM: not root */
		return 4;
	snprintf(name, sizeof(name), "/proc/%d/fd/0", parent);
	if (readlink(name, to, sizeof(to)) <= 0 || syscall(SYS_kcmp, parent, parent, KCMP_FILE, 0, 0))
		return 5;
	return syscall(SYS_pidfd_open, parent, 0) < 0 ? 6 : 0;
}

START_TEST(test_finder_works)
{
	struct confine_finder_plan plan = { 0 };

	ck_assert_int_eq(in_helper(&plan, find_things), 0);
#ifdef HAVE_LIBCAP_NG /* CAP_SYS_ADMIN only where nothing less shows what others map */
	ck_assert_int_le(in_helper(&plan, count_capabilities), prctl(PR_CAPBSET_READ, 40, 0, 0, 0) < 0 ? 5 : 4);
#endif
}
END_TEST

#ifdef HAVE_LIBCAP_NG
#define CHECKPOINT_RESTORE 40

/* 0, or an errno. */
static int open_mapped(void)
{
	char name[64], path[400];
	struct dirent *e;
	DIR *d;

	snprintf(name, sizeof(name), "/proc/%d/map_files", parent);
	d = opendir(name);
	while (d && (e = readdir(d)) != NULL && e->d_name[0] == '.')
		;
	if (!d || !e)
		return ENOENT;
	snprintf(path, sizeof(path), "%s/%s", name, e->d_name);
	return result(open(path, O_RDONLY | O_CLOEXEC));
}

/* As in a container that was given CAP_SYS_ADMIN beside what containers have. */
static int open_without_checkpoint_restore(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];
	struct confine_finder_plan plan = { 0 };
	unsigned int bit = 1u << (CHECKPOINT_RESTORE - 32);
	int before;

	if (syscall(SYS_capget, &head, data))
		return errno;
	data[1].effective &= ~bit;
	data[1].permitted &= ~bit;
	data[1].inheritable &= ~bit;
	if (syscall(SYS_capset, &head, data))
		return errno;
	before = open_mapped();
	return confine_finder(&plan) ? EINVAL : before ? 0 : open_mapped();
}

START_TEST(test_finder_elsewhere)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(open_without_checkpoint_restore());
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}
END_TEST
#endif

static int write_there(void)
{
	int fd = open(kept, O_RDWR);

	return fd < 0 ? 0 : result(write(fd, "x", 1));
}

static int map_there(void)
{
	int fd = open(kept, O_RDWR);

	if (fd < 0)
		return 0;
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED ? errno : 0;
}

static int cut_there(void)
{
	return result(open(kept, O_RDWR | O_TRUNC));
}

static int make_file(void)
{
	return result(openat(AT_FDCWD, "made", O_WRONLY | O_CREAT, 0600));
}

/* Where its memory is; that it may open the file says nothing. */
static int seek_memory(void)
{
	char name[64];
	int fd;

	snprintf(name, sizeof(name), "/proc/%d/mem", parent);
	fd = open(name, O_RDWR);
	return fd < 0 ? EPERM : result(lseek(fd, 4096, SEEK_SET));
}

static int measure_bpf(void)
{
	return result(syscall(SYS_bpf, 32 /* BPF_ENABLE_STATS */, NULL, 0));
}

static const struct attempt of_finder[] = {
	{ "writes", write_there, { EPERM } },
	{ "maps to write", map_there, { EPERM } },
	{ "truncates", cut_there, { EPERM } },
	{ "makes a file", make_file, { EPERM } },
	{ "deletes", delete_beside, { EPERM } },
	{ "reads another's memory by its file", seek_memory, { EPERM } },
	{ "reads another's memory", read_memory, { EPERM } },
	{ "runs a program", run_program, { EPERM } },
	{ "makes a process", make_process, { EPERM } },
	{ "makes a socket", make_socket, { EPERM } },
	{ "maps code", map_code, { EPERM } },
	{ "sends signals", kill_other, { EPERM } },
	{ "traces", trace_other, { EPERM } },
	{ "makes an io_uring", make_uring, { EPERM } },
	{ "loads BPF", load_bpf, { EPERM } },
	{ "measures BPF", measure_bpf, { EPERM } },
};

START_TEST(test_finder_calls)
{
	const struct attempt *a = &of_finder[_i];
	struct confine_finder_plan plan = { 0 };
	int error = in_helper(&plan, a->how);

	ck_assert_msg(error && error == a->error[0], "%s: %s", a->what, error ? strerror(error) : "it can");
	/* What is its work in some cases. */
	plan = (struct confine_finder_plan){ .bpf_stats = true, .unlink = true };
	error = in_helper(&plan, a->how);
	ck_assert_int_eq(error == EPERM, a->how != measure_bpf && a->how != delete_beside);
}
END_TEST

/* --------------------------------------------------------------------------------------- the keeper */

static int pair[2];

/* What it does with its sockets, and memory and time for that. */
static int speak(void)
{
	struct pollfd p = { .fd = pair[0], .events = POLLIN };
	char *memory = malloc(1 << 20), c = 'x';

	if (!memory || send(pair[1], &c, 1, MSG_NOSIGNAL) != 1 || poll(&p, 1, 1000) != 1 || recv(pair[0], memory, 1, 0) != 1)
		return 1;
	memory = realloc(memory, 4 << 20);
	free(memory);
	return memory && !usleep(1) ? 0 : 2;
}

START_TEST(test_keeper_works)
{
	ck_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	ck_assert_int_eq(in_helper(NULL, speak), 0);
	close(pair[0]);
	close(pair[1]);
}
END_TEST

static int look_at_process(void)
{
	return result(syscall(SYS_pidfd_open, parent, 0));
}

/* Its connection, which may be a device, and the region's memory, which it gives back. */
static int receive(void)
{
	struct pollfd p = { .fd = pair[0], .events = POLLIN };
	char *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), c = 'x';

	if (memory == MAP_FAILED || write(pair[1], &c, 1) != 1 || poll(&p, 1, 1000) != 1 || read(pair[0], memory, 1) != 1)
		return 1;
	if (accept4(pair[0], NULL, NULL, SOCK_NONBLOCK) >= 0 || errno == EPERM || madvise(memory, 1 << 20, MADV_DONTNEED))
		return 2;
	return getrandom(memory, 8, 0) == 8 ? 0 : 3;
}

START_TEST(test_receiver_works)
{
	ck_assert(!socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
	for (helper = RECEIVER; helper <= HANDED_RECEIVER; helper++)
		ck_assert_int_eq(in_helper(NULL, receive), 0);
	close(pair[0]);
	close(pair[1]);
	helper = KEEPER;
}
END_TEST

static struct sockaddr_un somebody = { .sun_family = AF_UNIX };

static int speak_to_somebody(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	return fd < 0 ? errno : result(connect(fd, (struct sockaddr *)&somebody, sizeof(somebody)));
}

static int connect_for_another(void)
{
	struct iovec v = { (char[]){ 'x' }, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	int error = speak_to_somebody();

	if (kill(self, 0)) /* which it was told to be the receiver's */
		return 1;
	return error ? error : result(sendmsg(pair[0], &m, MSG_NOSIGNAL));
}

START_TEST(test_connector_works)
{
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(somebody.sun_path, sizeof(somebody.sun_path), "%s/socket", dir);
	ck_assert(!bind(listener, (struct sockaddr *)&somebody, sizeof(somebody)) && !listen(listener, 1));
	ck_assert(!socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair));
	helper = CONNECTOR;
	ck_assert_int_eq(in_helper(NULL, connect_for_another), 0);
	helper = KEEPER;
	close(pair[0]);
	close(pair[1]);
	close(listener);
}
END_TEST

static const struct attempt of_keeper[] = {
	{ "opens a file", read_passwd }, { "truncates", cut_there }, { "makes a file", make_file },
	{ "deletes", delete_beside }, { "reads another's memory", read_memory }, { "looks at a process", look_at_process },
	{ "runs a program", run_program }, { "makes a process", make_process }, { "makes a socket", make_socket },
	{ "maps code", map_code }, { "sends signals", kill_other }, { "traces", trace_other },
	{ "makes an io_uring", make_uring }, { "loads BPF", load_bpf },
	{ "speaks with whoever listens", speak_to_somebody }, /* the last one: who connects does that */
};

START_TEST(test_keeper_calls)
{
	int error = in_helper(NULL, of_keeper[_i].how);

	ck_assert_msg(error == EPERM, "%s: %s", of_keeper[_i].what, error ? strerror(error) : "it can");
}
END_TEST

START_TEST(test_receiver_calls)
{
	const bool connects = _i + 1 == sizeof(of_keeper) / sizeof(*of_keeper);

	for (helper = RECEIVER; helper <= (connects ? HANDED_RECEIVER : CONNECTOR); helper++) {
		int error = in_helper(NULL, of_keeper[_i].how);

		ck_assert_msg(error == EPERM, "%s: %s", of_keeper[_i].what, error ? strerror(error) : "it can");
	}
	helper = KEEPER;
}
END_TEST

/* -------------------------------------------------------------------------------------- old kernels */

#ifdef HAVE_SECCOMP

static void make_old(int call, int error)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ALLOW);

	if (seccomp_rule_add(c, SCMP_ACT_ERRNO((unsigned int)error), call, 0) || seccomp_load(c))
		_exit(253);
	seccomp_release(c);
}

/* A kernel without a part: that is said, and the other parts hold. */
START_TEST(test_without)
{
	static const struct { int call, error; const char *says; } lacks[] = {
		{ 444, ENOSYS, "files: not confined (no Landlock" }, /* landlock_create_ruleset */
		{ 444, EOPNOTSUPP, "files: not confined (no Landlock" }, /* built in, switched off */
	};
	struct confine_plan plan = plan_of();
	pid_t child = fork();
	char said[256] = "";
	int status;

	if (!child) {
		make_old(lacks[_i].call, lacks[_i].error);
		if (confine(&plan, said, sizeof(said)) || !strstr(said, lacks[_i].says))
			_exit(1);
		_exit(read_passwd() ? 2 : strstr(said, "(seccomp)") && make_socket() != EPERM ? 3 : 0);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert_int_eq(status, 0);
}
END_TEST

#endif

int main(void)
{
	Suite *s = suite_create("confine");
	TCase *t = tcase_create("all");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_work);
	tcase_add_test(t, test_capabilities);
	tcase_add_test(t, test_finder_works);
	tcase_add_test(t, test_keeper_works);
	tcase_add_test(t, test_receiver_works);
	tcase_add_test(t, test_connector_works);
#ifdef HAVE_LIBCAP_NG
	tcase_add_test(t, test_finder_elsewhere);
#endif
	if (has_landlock()) {
		tcase_add_loop_test(t, test_files, 0, sizeof(on_files) / sizeof(*on_files));
		tcase_add_test(t, test_links);
	} else {
		unit_skip("files", "the kernel has no Landlock");
	}
	if (has_seccomp()) {
		tcase_add_loop_test(t, test_calls, 0, sizeof(on_calls) / sizeof(*on_calls));
		tcase_add_test(t, test_bpf);
		tcase_add_loop_test(t, test_finder_calls, 0, sizeof(of_finder) / sizeof(*of_finder));
		tcase_add_loop_test(t, test_keeper_calls, 0, sizeof(of_keeper) / sizeof(*of_keeper));
		tcase_add_loop_test(t, test_receiver_calls, 0, sizeof(of_keeper) / sizeof(*of_keeper));
#ifdef HAVE_SECCOMP
		tcase_add_loop_test(t, test_without, 0, 2);
#endif
	} else if (FILTERS) {
		unit_skip("system calls", "the kernel has no seccomp filters");
	}
	suite_add_tcase(s, t);
	return unit_run(s);
}

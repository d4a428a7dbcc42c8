/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "confine_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Sanitizers call what they like: at their end they trace their own process. */
#if defined(HAVE_SECCOMP) && !defined(__SANITIZE_ADDRESS__)

#include <linux/bpf.h>
#include <linux/perf_event.h>
#include <seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>

/*
 * By name: not each architecture has each of them, and not each libseccomp knows the newest. What is
 * here works on descriptors that are there, on files, which Landlock confines, on memory and on time.
 * No program is started, nobody is connected to, no other process is looked into.
 */
static const char *const plain[] = {
	/* descriptors */
	"read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "preadv2", "pwritev2",
	"lseek", "close", "fcntl", "dup", "dup2", "dup3", "flock", "ftruncate", "fallocate", "fsync", "fdatasync",
	"sync_file_range", "fadvise64", "copy_file_range", "fstat", "fstatfs", "getdents64",
	/* files */
	"open", "openat", "stat", "lstat", "newfstatat", "statx", "statfs", "access", "faccessat", "faccessat2",
	"readlink", "readlinkat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "unlink", "unlinkat",
	"rmdir", "fchmod",
	/* memory */
	"munmap", "mremap", "brk", "madvise", "membarrier", "mincore",
	/* waiting; who wakes us, and VMs that come to the socket that is there */
	"futex", "futex_waitv", "poll", "ppoll", "select", "pselect6", "epoll_create1", "epoll_ctl", "epoll_wait",
	"epoll_pwait", "eventfd2", "timerfd_create", "timerfd_settime", "timerfd_gettime", "nanosleep",
	"clock_nanosleep", "sched_yield", "accept4", "sendmsg", "sendto", "recvmsg", "recvfrom", "shutdown",
	"io_uring_enter",
	/* time, and ourselves */
	"clock_gettime", "clock_getres", "gettimeofday", "time", "getcpu", "getrandom", "getpid", "gettid",
	"getuid", "geteuid", "getgid", "getegid", "getrusage", "getrlimit", "uname", "sysinfo",
	"sched_getaffinity", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "rt_sigpending", "sigaltstack",
	"restart_syscall", "rseq", "set_robust_list", "exit", "exit_group",
	/* of others: whether they live; the finder's end */
	"pidfd_open", "wait4",
};

static int add_names(scmp_filter_ctx c, const char *const *name, size_t n)
{
	int ret = 0;

	for (size_t i = 0; i < n && !ret; i++) {
		int nr = seccomp_syscall_resolve_name(name[i]);

		if (nr != __NR_SCMP_ERROR)
			ret = seccomp_rule_add(c, SCMP_ACT_ALLOW, nr, 0);
	}
	return ret;
}

static int allow_bits(scmp_filter_ctx c, int call, unsigned int arg, __u64 mask, __u64 value)
{
	return seccomp_rule_add(c, SCMP_ACT_ALLOW, call, 1, SCMP_CMP64(arg, SCMP_CMP_MASKED_EQ, mask, value));
}

static int allow_value(scmp_filter_ctx c, int call, unsigned int arg, __u64 value)
{
	return seccomp_rule_add(c, SCMP_ACT_ALLOW, call, 1, SCMP_CMP64(arg, SCMP_CMP_EQ, value));
}

/* Where what they may do depends on an argument. */
static int add_conditions(scmp_filter_ctx c)
{
	int ret = allow_bits(c, SCMP_SYS(mmap), 2, PROT_EXEC, 0);

	if (!ret)
		ret = allow_bits(c, SCMP_SYS(mprotect), 2, PROT_EXEC, 0);
	if (!ret)
		ret = allow_bits(c, SCMP_SYS(clone), 0, CLONE_THREAD, CLONE_THREAD);
	if (!ret) /* it hides its flags: the C library then takes the other one */
		ret = seccomp_rule_add(c, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
	if (!ret) /* abort() */
		ret = allow_value(c, SCMP_SYS(tgkill), 0, (__u64)getpid());
	if (!ret) /* a thread's own priority, which only falls */
		ret = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(setpriority), 2, SCMP_CMP64(0, SCMP_CMP_EQ, PRIO_PROCESS),
				       SCMP_CMP64(1, SCMP_CMP_EQ, 0));
	if (!ret) /* what a limit is, not to change one */
		ret = allow_value(c, SCMP_SYS(prlimit64), 2, 0);
	if (!ret)
		ret = allow_value(c, SCMP_SYS(ioctl), 1, TCGETS);
	return ret ? ret : allow_value(c, SCMP_SYS(ioctl), 1, TIOCGWINSZ);
}

/* Programs were loaded before; what they are told, and what they tell, is in maps that are open. */
static int add_bpf(scmp_filter_ctx c)
{
	static const int commands[] = { BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
					BPF_MAP_GET_NEXT_KEY, BPF_OBJ_GET_INFO_BY_FD };
	int ret = 0;

	for (size_t i = 0; i < sizeof(commands) / sizeof(*commands) && !ret; i++)
		ret = allow_value(c, SCMP_SYS(bpf), 0, (__u64)commands[i]);
	/* They are detached at the end. */
	return ret ? ret : allow_value(c, SCMP_SYS(ioctl), 1, PERF_EVENT_IOC_DISABLE);
}

/* The kernel says what it has: an older one, or a container, may lack or forbid it. */
static bool lacks(int ret)
{
	return ret == -EINVAL || ret == -ENOSYS || ret == -EOPNOTSUPP || ret == -ECANCELED;
}

int confine_calls(const struct confine_plan *plan, char *said, size_t len)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	size_t at = strlen(said);
	int ret;

	if (!c)
		return -ENOMEM;
	ret = add_names(c, plain, sizeof(plain) / sizeof(*plain));
	if (!ret)
		ret = add_conditions(c);
	if (!ret && plan->bpf)
		ret = add_bpf(c);
	if (!ret)
		ret = seccomp_load(c);
	seccomp_release(c);
	if (lacks(ret)) {
		snprintf(said + at, len - at, "; system calls: all (no seccomp: %s)", strerror(-ret));
		return 0;
	}
	snprintf(said + at, len - at, "; system calls: those needed (seccomp)");
	return ret;
}

/*
 * The finder's: it opens, looks and answers. It writes nowhere, and reads files from their beginning only, which
 * another process' memory does not have.
 */
static const char *const finders[] = {
	"recvfrom", "recvmsg", "sendmsg", "sendto", "read", "close", "fcntl", "flock", "getdents64",
	"fstat", "stat", "lstat", "newfstatat", "statx", "readlink", "readlinkat", "kcmp", "pidfd_open",
	"munmap", "mremap", "brk", "madvise", "sysinfo", "getpid", "getppid", "gettid", "getrandom", "futex",
	"clock_gettime", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "exit", "exit_group",
};

/* Memory of its own, and none that is code. */
static int allow_own_memory(scmp_filter_ctx c)
{
	int ret = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 2, SCMP_CMP64(2, SCMP_CMP_MASKED_EQ, PROT_EXEC, 0),
				   SCMP_CMP64(3, SCMP_CMP_MASKED_EQ, MAP_SHARED, 0));

	return ret ? ret : allow_bits(c, SCMP_SYS(mprotect), 2, PROT_EXEC, 0);
}

static int add_finders_conditions(scmp_filter_ctx c, const struct confine_finder_plan *plan)
{
	const __u64 makes = O_CREAT | O_TRUNC | (O_TMPFILE & ~O_DIRECTORY);
	int ret = allow_bits(c, SCMP_SYS(openat), 2, makes, 0);

#ifdef __NR_open
	if (!ret)
		ret = allow_bits(c, SCMP_SYS(open), 1, makes, 0);
#endif
	if (!ret)
		ret = allow_own_memory(c);
	if (!ret && plan->bpf_stats)
		ret = allow_value(c, SCMP_SYS(bpf), 0, BPF_ENABLE_STATS);
	if (!ret && plan->unlink)
		ret = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(unlinkat), 0);
#ifdef __NR_unlink
	if (!ret && plan->unlink)
		ret = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(unlink), 0);
#endif
	return ret;
}

int confine_finder_calls(const struct confine_finder_plan *plan)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int ret;

	if (!c)
		return -ENOMEM;
	ret = add_names(c, finders, sizeof(finders) / sizeof(*finders));
	if (!ret)
		ret = add_finders_conditions(c, plan);
	if (!ret)
		ret = seccomp_load(c);
	seccomp_release(c);
	return lacks(ret) ? 0 : ret;
}

/* The keeper's: it speaks with the two whom it is connected to. */
static const char *const keepers[] = {
	"recvfrom", "sendto", "poll", "ppoll", "close", "munmap", "mremap", "brk", "madvise", "futex", "nanosleep",
	"clock_nanosleep", "clock_gettime", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "exit",
	"exit_group",
};

/* Those of @names, and memory of its own. NULL: out of memory; *@ret: what became of it. */
static scmp_filter_ctx begin_helper(const char *const *names, size_t nr, int *ret)
{
	scmp_filter_ctx c = seccomp_init(SCMP_ACT_ERRNO(EPERM));

	*ret = c ? add_names(c, names, nr) : -ENOMEM;
	if (!*ret)
		*ret = allow_own_memory(c);
	return c;
}

static int load_helper(scmp_filter_ctx c, int ret)
{
	if (!ret)
		ret = seccomp_load(c);
	if (c)
		seccomp_release(c);
	return lacks(ret) ? 0 : ret;
}

int confine_keeper_calls(void)
{
	int ret;
	scmp_filter_ctx c = begin_helper(keepers, sizeof(keepers) / sizeof(*keepers), &ret);

	return load_helper(c, ret);
}

/* The receiver's: one connection at a time, and its memory. */
static const char *const receivers[] = {
	"read", "write", "recvfrom", "sendto", "accept4", "getsockopt", "poll", "ppoll", "close", "munmap", "mremap", "brk",
	"madvise", "futex", "getrandom", "clock_gettime", "getpid", "time", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
	"restart_syscall", "exit", "exit_group",
};

int confine_receiver_calls(bool handed)
{
	int ret;
	scmp_filter_ctx c = begin_helper(receivers, sizeof(receivers) / sizeof(*receivers), &ret);

	if (!ret && handed)
		ret = seccomp_rule_add(c, SCMP_ACT_ALLOW, SCMP_SYS(recvmsg), 0);
	return load_helper(c, ret);
}

/* Who connects for it: to whom is not seen here, and no byte comes to it that a guest sent. */
static const char *const connectors[] = {
	"recvfrom", "sendmsg", "connect", "poll", "ppoll", "close", "munmap", "mremap", "brk", "madvise", "futex",
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "restart_syscall", "exit", "exit_group",
};

int confine_connector_calls(int receiver)
{
	int ret;
	scmp_filter_ctx c = begin_helper(connectors, sizeof(connectors) / sizeof(*connectors), &ret);

	if (!ret)
		ret = allow_value(c, SCMP_SYS(socket), 0, AF_UNIX);
	if (!ret)
		ret = allow_value(c, SCMP_SYS(kill), 0, (__u64)receiver);
	return load_helper(c, ret);
}

#else

int confine_finder_calls(const struct confine_finder_plan *plan)
{
	return 0;
}

int confine_keeper_calls(void)
{
	return 0;
}

int confine_receiver_calls(bool handed)
{
	return 0;
}

int confine_connector_calls(int receiver)
{
	return 0;
}

int confine_calls(const struct confine_plan *plan, char *said, size_t len)
{
	size_t at = strlen(said);

	snprintf(said + at, len - at, "; system calls: all (built without seccomp)");
	return 0;
}

#endif

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The policy kvm-exit without KVM: virtual CPUs are descriptors in a /proc of our own, and what the BPF
 * programs would write is an array that the tests write. And which process runs a source's guest.
 */
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/region.h>
#include <htrace/sync.h>

#define KVM_PROCESS_PROC "proc"
#include "../../host-reader/kvm_exits.c"
#include "../../host-reader/kvm_process.c"
#include "../../host-reader/source_vm.c"
#include "../../host-reader/sync_kvm_exit.c"
#include "regionbox.h"
#include "unit.h"

/* ---------------------------------------------------------------------------------- the finder */

bool finder_runs(void)
{
	return false;
}

int finder_process(struct kvm_process *p, const struct htrace_view *v, int pid, char *text, size_t len)
{
	ck_abort_msg("there is no finder");
	return -EPIPE;
}

/* --------------------------------------------------------------------------------- the session */

static struct {
	struct session_vm vm; /* that it was told last */
	unsigned int said;
} told;

void session_vm(struct session *s, const struct session_vm *vm, __u64 now)
{
	(void)s;
	(void)now;
	told.vm = *vm;
}

void say_within(struct say_quota *q, const char *fmt, ...)
{
	(void)q;
	ck_assert_ptr_nonnull(strstr(fmt, "runs more than one VM"));
	told.said++;
}

/* It is captured, so that virtual CPUs are wanted. */
bool sinks_capture(const struct sinks *s)
{
	return s != NULL;
}

struct vcpus *vcpus_find(const struct vcpu_hosts *h, const __u8 *boot_id)
{
	(void)h;
	(void)boot_id;
	return NULL;
}

/* --------------------------------------------------------------------------------- the programs */

static struct {
	struct kvm_exit_epoch epoch[KVM_EXIT_VCPUS];
	int refuse; /* opening them */
	struct kvm_exit_vm vm[4]; /* that they were told */
	unsigned int nr;
	int measuring, measured;
} programs;

int kvm_programs_open(struct kvm_programs **out, char *text, size_t len)
{
	*out = NULL;
	if (programs.refuse)
		snprintf(text, len, "refused");
	return programs.refuse;
}

void kvm_programs_close(struct kvm_programs *p)
{
	ck_assert_ptr_null(p);
}

const struct kvm_exit_epoch *kvm_programs_epochs(const struct kvm_programs *p)
{
	ck_assert_ptr_null(p);
	return programs.epoch;
}

int kvm_programs_tell(struct kvm_programs *p, const struct kvm_exit_vm *vm)
{
	ck_assert_ptr_null(p);
	for (unsigned int i = 0; i < programs.nr; i++)
		if (programs.vm[i].pid == vm->pid)
			return -EEXIST;
	if (programs.nr == 4)
		return -E2BIG;
	memset(&programs.epoch[vm->first], 0, vm->nr * sizeof(programs.epoch[0]));
	programs.vm[programs.nr++] = *vm;
	return 0;
}

void kvm_programs_untell(struct kvm_programs *p, int pid)
{
	ck_assert_ptr_null(p);
	for (unsigned int i = 0; i < programs.nr; i++)
		if (programs.vm[i].pid == (unsigned int)pid)
			programs.vm[i] = programs.vm[--programs.nr];
}

void kvm_programs_measure(struct kvm_programs *p)
{
	ck_assert_ptr_null(p);
	programs.measuring++;
}

struct exit_cost kvm_programs_measured(struct kvm_programs *p)
{
	ck_assert_ptr_null(p);
	programs.measured++;
	return (struct exit_cost){ 3, 300, 4, 800 };
}

/* As they do it, on the thread of virtual CPU @nr. */
static void leave(unsigned int nr)
{
	__u64 *e = (__u64 *)&programs.epoch[nr].epoch;

	__atomic_store_n(e, (*e + 1) | 1, __ATOMIC_RELEASE);
}

static void enter(unsigned int nr)
{
	__u64 *e = (__u64 *)&programs.epoch[nr].epoch;

	__atomic_store_n(e, (*e + 1) & ~1ULL, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------------------ a /proc of ours */

static char dir[] = "/tmp/htrace-test-XXXXXX";
static struct htrace_region *region;
static struct htrace_view *view;

static void link_to(const char *to, int pid, const char *what, const char *name)
{
	char path[200];

	snprintf(path, sizeof(path), "proc/%d", pid);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "proc/%d/%s", pid, what);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "proc/%d/%s/%s", pid, what, name);
	ck_assert_int_eq(symlink(to, path), 0);
}

/* Process @pid has these descriptors; @maps: and the region's file. */
static void process(int pid, const char *const *fds, bool maps)
{
	char name[20];

	for (int i = 0; fds[i]; i++) {
		snprintf(name, sizeof(name), "%d", i);
		link_to(fds[i], pid, "fd", name);
	}
	link_to("/dev/null", pid, "map_files", "1000-2000");
	if (maps)
		link_to("../../../region", pid, "map_files", "3000-4000");
}

/* One that lives until it is killed: VMs are watched by descriptors of processes. */
static int live(void)
{
	int pid = fork();

	ck_assert_int_ge(pid, 0);
	if (!pid)
		for (;;)
			pause();
	return pid;
}

static void die(int pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void set_up(void)
{
	int fd;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(chdir(dir), 0);
	mkdir("proc", 0700);
	mkdir("proc/self", 0700); /* no number */
	ck_assert_int_eq(htrace_region_create_local(&region, "region", SIZE, &local_opts, &fd), 0);
	htrace_region_publish(region);
	ck_assert_msg(!htrace_view_open(&view, "region", true, err, sizeof(err)), "%s", err);
	memset(&programs, 0, sizeof(programs));
}

static void tear_down(void)
{
	char command[PATH_MAX];

	htrace_view_close(view);
	htrace_region_release(region);
	snprintf(command, sizeof(command), "rm -r %s", dir);
	ck_assert_int_eq(system(command), 0);
}

static const char *const no_fds[] = { "/dev/null", "anon_inode:kvm-vm", "anon_inode:[eventfd]", NULL };
static const char *const one_fd[] = { "/dev/null", "anon_inode:kvm-vm", "anon_inode:kvm-vcpu:0", NULL };
/* In any order, one twice; and what is none. */
static const char *const three_fds[] = {
	"anon_inode:kvm-vcpu:4", "anon_inode:kvm-vcpu:0", "socket:[12]", "anon_inode:kvm-vcpu:3",
	"/anon_inode:kvm-vcpu:1", "anon_inode:kvm-vcpu:", "anon_inode:kvm-vcpu:1024",
	"anon_inode:kvm-vcpu:-1", "anon_inode:kvm-vcpu-stats:2", "anon_inode:kvm-vcpu:4", NULL,
};

START_TEST(test_descriptors)
{
	struct kvm_process p;
	int pid = live();

	process(pid, three_fds, true);
	ck_assert_msg(!kvm_process_find(&p, view, 0, err, sizeof(err)), "%s", err);
	ck_assert_int_eq(p.pid, pid);
	ck_assert_uint_eq(p.nr_vcpus, 3);
	ck_assert(p.vcpu[0] == 0 && p.vcpu[1] == 3 && p.vcpu[2] == 4);
	close(p.pidfd);
	die(pid);
}
END_TEST

/* More than there may be are left out, however many descriptors there are. */
START_TEST(test_many_descriptors)
{
	static char text[1100][40];
	static const char *fds[1101];
	struct kvm_process p;
	int pid = live();

	for (int i = 0; i < 1100; i++) {
		snprintf(text[i], sizeof(text[i]), "anon_inode:kvm-vcpu:%d", i);
		fds[i] = text[i];
	}
	process(pid, fds, true);
	ck_assert_int_eq(kvm_process_find(&p, view, 0, err, sizeof(err)), 0);
	ck_assert_uint_eq(p.nr_vcpus, KVM_PROCESS_VCPUS);
	ck_assert_uint_eq(p.vcpu[KVM_PROCESS_VCPUS - 1], KVM_PROCESS_VCPUS - 1);
	close(p.pidfd);
	die(pid);
}
END_TEST

START_TEST(test_which_process)
{
	struct kvm_process p;
	int vmm = live(), other = live(), agent = live();

	ck_assert_int_eq(kvm_process_find(&p, view, 0, err, sizeof(err)), -ENOENT);
	ck_assert_str_eq(err, "no process that maps the region's file runs a VM on KVM");
	process(other, one_fd, false); /* another VM */
	process(agent, no_fds, true);  /* maps the file, and is no VMM */
	ck_assert_int_eq(kvm_process_find(&p, view, 0, err, sizeof(err)), -ENOENT);
	ck_assert_int_eq(kvm_process_find(&p, view, agent, err, sizeof(err)), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "has no virtual CPUs of KVM's that we may see"));
	process(vmm, one_fd, true);
	ck_assert_int_eq(kvm_process_find(&p, view, 0, err, sizeof(err)), 0);
	ck_assert_int_eq(p.pid, vmm);
	close(p.pidfd);
	/* Named, it need not map anything. */
	ck_assert_int_eq(kvm_process_find(&p, view, other, err, sizeof(err)), 0);
	ck_assert_int_eq(p.pid, other);
	close(p.pidfd);
	link_to("../../../region", other, "map_files", "5000-6000");
	ck_assert_int_eq(kvm_process_find(&p, view, 0, err, sizeof(err)), -ENOTUNIQ);
	ck_assert_ptr_nonnull(strstr(err, "2 processes run VMs on KVM and map the region's file"));
	die(vmm);
	/* It is still in our /proc, as one that ends between two looks. */
	ck_assert_int_eq(kvm_process_find(&p, view, vmm, err, sizeof(err)), -ESRCH);
	die(other);
	die(agent);
}
END_TEST

/* Two VMs in one process: their virtual CPUs are not told apart. One of which there are two descriptors is one. */
START_TEST(test_several_vms)
{
	bool judges = !syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, 0, 0);
	struct kvm_process p;
	int pid = live();

	process(pid, one_fd, true);
	ck_assert_int_eq(kvm_process_find(&p, view, 0, err, sizeof(err)), 0);
	ck_assert(!p.several_vms);
	close(p.pidfd);
	link_to("anon_inode:kvm-vm", pid, "fd", "1000");
	ck_assert_int_eq(kvm_process_find(&p, view, pid, err, sizeof(err)), 0);
	ck_assert(p.several_vms && p.nr_vcpus == 1);
	close(p.pidfd);
	die(pid);
	dup2(1, 1000);
	pid = live();
	process(pid, one_fd, true);
	link_to("anon_inode:kvm-vm", pid, "fd", "1000");
	ck_assert_int_eq(kvm_process_find(&p, view, pid, err, sizeof(err)), 0);
	ck_assert(p.several_vms == !judges);
	close(p.pidfd);
	die(pid);
}
END_TEST

/* Whose a source's guest is: told once it is known, no more when there is another VM, and again. */
START_TEST(test_whose_guest)
{
	char path[] = "region";
	struct source_spec spec = { .path = path };
	struct source_config config = { .sinks = (struct sinks *)&config };
	struct source s = { .spec = &spec, .config = &config, .view = view, .session = (struct session *)&s };
	__u64 now = clock_now();
	char second[100];
	int pid = live();

	s.facts.nr_sets = 1;
	s.facts.set[0].kind = HTRACE_RING_PER_CPU;
	memset(&told, 0, sizeof(told));
	source_find_vcpus(&s, now);
	ck_assert_uint_eq(told.vm.pid, 0);
	process(pid, one_fd, true);
	source_find_vcpus(&s, now += 1000 * SEC);
	ck_assert_int_eq((int)told.vm.pid, pid);
	ck_assert(told.vm.nr == 1 && s.vcpus_pid == pid && !told.said);
	link_to("anon_inode:kvm-vm", pid, "fd", "1000");
	for (int i = 0; i < 3; i++) {
		source_find_vcpus(&s, now += 1000 * SEC);
		ck_assert(!told.vm.pid && !told.vm.nr && !s.vcpus_pid);
		ck_assert_uint_eq(told.said, 1);
	}
	snprintf(second, sizeof(second), "proc/%d/fd/1000", pid);
	unlink(second);
	source_find_vcpus(&s, now += 1000 * SEC);
	ck_assert(told.vm.pid == (__u32)pid && told.vm.nr == 1);
	/* There from the beginning on. */
	link_to("anon_inode:kvm-vm", pid, "fd", "1000");
	memset(&told, 0, sizeof(told));
	source_forget_vcpus(&s);
	source_find_vcpus(&s, now += 1000 * SEC);
	ck_assert(!told.vm.pid && told.said == 1);
	die(pid);
}
END_TEST

/* ------------------------------------------------------------------------------------------ VMs */

static struct kvm_exits *open_exits(void)
{
	struct kvm_exits *e;

	ck_assert_int_eq(kvm_exits_open(&e, err, sizeof(err)), 0);
	return e;
}

static struct kvm_vm *watch(struct kvm_exits *e, int pid, unsigned int rings)
{
	struct kvm_vm *vm;

	ck_assert_msg(!kvm_vm_watch(&vm, e, view, pid, rings, err, sizeof(err)), "%s", err);
	return vm;
}

/* One look at a ring, which is read, and then empty, if it may be. */
static bool read_ring(struct kvm_vm *vm, unsigned int ring, __u64 now)
{
	struct kvm_look look;

	if (!kvm_vm_look(vm, ring, now, &look))
		return false;
	kvm_vm_looked(vm, ring, &look, now, true, true);
	return true;
}

START_TEST(test_refused)
{
	struct kvm_exits *e;

	programs.refuse = -EPERM;
	ck_assert_int_eq(kvm_exits_open(&e, err, sizeof(err)), -EPERM);
	ck_assert_ptr_null(e);
	ck_assert_str_eq(err, "refused");
	kvm_exits_close(e);
}
END_TEST

/* The lowest number is ring 0's, whatever the numbers are. */
START_TEST(test_mapping)
{
	struct kvm_exits *e = open_exits();
	int pid = live();
	struct kvm_vm *vm;

	process(pid, three_fds, true);
	vm = watch(e, 0, 3);
	ck_assert_int_eq(kvm_vm_pid(vm), pid);
	ck_assert_uint_eq(kvm_vm_vcpus(vm), 3);
	ck_assert_uint_eq(programs.nr, 1);
	ck_assert(programs.vm[0].first == 0 && programs.vm[0].nr == 5);
	ck_assert_int_eq((int)programs.vm[0].pid, pid);
	kvm_exits_set_bound(e, 1000 * MS);
	for (unsigned int ring = 0; ring < 3; ring++) /* from here on not by the bound */
		read_ring(vm, ring, 2000 * MS);
	ck_assert(!kvm_exits_pending(e));
	leave(3);
	ck_assert(kvm_exits_pending(e));
	ck_assert(!read_ring(vm, 0, 2000 * MS) && !read_ring(vm, 2, 2000 * MS));
	ck_assert(read_ring(vm, 1, 2000 * MS));
	ck_assert(!kvm_exits_pending(e));
	leave(4);
	ck_assert(!read_ring(vm, 0, 2000 * MS) && !read_ring(vm, 1, 2000 * MS));
	ck_assert(read_ring(vm, 2, 2000 * MS));
	leave(1); /* there is none */
	ck_assert(!kvm_exits_pending(e));
	/* Of rings without a virtual CPU nothing is known, nor without a VM. */
	ck_assert(read_ring(vm, 3, 2000 * MS) && read_ring(vm, UINT_MAX, 2000 * MS));
	ck_assert(read_ring(NULL, 0, 2000 * MS));
	kvm_vm_unwatch(vm, NULL);
	ck_assert_uint_eq(programs.nr, 0);
	/* There may be more virtual CPUs than rings. */
	vm = watch(e, pid, 2);
	ck_assert_uint_eq(kvm_vm_vcpus(vm), 2);
	kvm_exits_close(e);
	ck_assert_uint_eq(programs.nr, 0);
	die(pid);
}
END_TEST

START_TEST(test_when)
{
	struct kvm_exits *e = open_exits();
	int pid = live();
	struct kvm_vm *vm;
	struct kvm_look look;

	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	kvm_exits_set_bound(e, 5 * MS);
	ck_assert(read_ring(vm, 0, 100 * MS)); /* by the bound: never read yet */
	ck_assert(!read_ring(vm, 0, 104 * MS));
	ck_assert(read_ring(vm, 0, 105 * MS));
	leave(0);
	ck_assert(read_ring(vm, 0, 106 * MS));
	ck_assert(!read_ring(vm, 0, 107 * MS)); /* it is still out, and wrote nothing since */
	enter(0);
	ck_assert(!read_ring(vm, 0, 107 * MS));
	leave(0);
	/* What was not read up to the end is read again. */
	ck_assert(kvm_vm_look(vm, 0, 107 * MS, &look) && look.wanted);
	kvm_vm_looked(vm, 0, &look, 107 * MS, true, false);
	ck_assert(kvm_exits_pending(e));
	ck_assert(read_ring(vm, 0, 107 * MS));
	ck_assert(!read_ring(vm, 0, 107 * MS));
	kvm_exits_read_all(e, true);
	ck_assert(read_ring(vm, 0, 107 * MS));
	kvm_exits_read_all(e, false);
	ck_assert(!read_ring(vm, 0, 107 * MS));
	/* An entry whose exit was not seen, and the other way round. */
	enter(0);
	enter(0);
	ck_assert(!kvm_exits_pending(e));
	leave(0);
	leave(0);
	ck_assert(kvm_exits_pending(e));
	kvm_exits_close(e);
	die(pid);
}
END_TEST

START_TEST(test_counts)
{
	struct exit_count count[2] = { { .exits = 100, .out = 10 } };
	struct kvm_exits *e = open_exits();
	int pid = live();
	struct kvm_vm *vm;
	struct kvm_look look;

	process(pid, one_fd, true);
	vm = watch(e, 0, 2);
	leave(0);
	read_ring(vm, 0, 100 * MS); /* out all the time */
	enter(0);
	leave(0);
	ck_assert(kvm_vm_look(vm, 0, 100 * MS, &look));
	enter(0); /* comes back meanwhile */
	kvm_vm_looked(vm, 0, &look, 100 * MS, true, true);
	read_ring(vm, 0, 200 * MS); /* inside */
	leave(0);
	ck_assert(kvm_vm_look(vm, 0, 200 * MS, &look));
	kvm_vm_looked(vm, 0, &look, 200 * MS, false, true); /* nothing was there */
	enter(0);
	leave(0);
	ck_assert(kvm_vm_look(vm, 0, 200 * MS, &look));
	enter(0);
	leave(0); /* out again, and yet it was not all the time */
	kvm_vm_looked(vm, 0, &look, 200 * MS, true, true);
	kvm_vm_unwatch(vm, count);
	ck_assert(count[0].used && !count[1].used);
	ck_assert_uint_eq(count[0].exits, 100 + 5);
	ck_assert_uint_eq(count[0].out, 10 + 1);
	ck_assert_uint_eq(count[0].returned, 2);
	ck_assert_uint_eq(count[0].inside, 1);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

/* VMs beside each other, as many as there is room for, and each once. */
START_TEST(test_several)
{
	static const char *const wide[] = { "anon_inode:kvm-vcpu:1023", NULL };
	struct kvm_exits *e = open_exits();
	struct kvm_vm *vm[4], *none;
	int pid[5];

	for (int i = 0; i < 5; i++) {
		pid[i] = live();
		process(pid[i], wide, false);
	}
	for (int i = 0; i < 4; i++) {
		vm[i] = watch(e, pid[i], 1);
		ck_assert_uint_eq(programs.vm[i].first, (unsigned int)i * 1024);
	}
	ck_assert_int_eq(kvm_vm_watch(&none, e, view, pid[4], 1, err, sizeof(err)), -ENOSPC);
	ck_assert_ptr_null(none);
	ck_assert_ptr_nonnull(strstr(err, "too many VMs or virtual CPUs to watch"));
	kvm_vm_unwatch(vm[1], NULL);
	ck_assert_int_eq(kvm_vm_watch(&none, e, view, pid[2], 1, err, sizeof(err)), -EEXIST);
	ck_assert_ptr_nonnull(strstr(err, "its exits are watched for another source already"));
	vm[1] = watch(e, pid[4], 1);
	ck_assert_uint_eq(programs.vm[3].first, 1024); /* where there is room again */
	read_ring(vm[0], 0, 1000 * MS);
	read_ring(vm[1], 0, 1000 * MS);
	leave(1024 + 1023);
	ck_assert(!read_ring(vm[0], 0, 1000 * MS));
	ck_assert(read_ring(vm[1], 0, 1000 * MS));
	kvm_exits_close(e);
	for (int i = 0; i < 5; i++)
		die(pid[i]);
}
END_TEST

START_TEST(test_gone)
{
	struct kvm_exits *e = open_exits();
	struct exit_count count = { 0 };
	int pid = live();
	struct kvm_vm *vm;
	bool inside;

	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	enter(0);
	leave(0);
	enter(0);
	read_ring(vm, 0, 1000 * MS);
	ck_assert(!kvm_vm_gone(vm) && !read_ring(vm, 0, 1000 * MS));
	die(pid);
	ck_assert(kvm_vm_gone(vm));
	ck_assert(kvm_vm_gone(vm));
	ck_assert_uint_eq(programs.nr, 0); /* its id may be another process' now */
	/* It is not inside for ever, and what it left is read. */
	ck_assert(!kvm_exits_pending(e));
	ck_assert(kvm_exits_sum(e, &inside) == 0 && !inside);
	ck_assert(read_ring(vm, 0, 1000 * MS) && read_ring(vm, 0, 1000 * MS));
	kvm_vm_unwatch(vm, &count);
	ck_assert_uint_eq(count.exits, 1);
	kvm_exits_close(e);
}
END_TEST

/* The programs are measured for a second, once. */
START_TEST(test_cost)
{
	struct kvm_exits *e = open_exits();
	int pid = live();
	struct kvm_vm *vm;
	__u64 now;

	process(pid, one_fd, true);
	kvm_exits_account(e, clock_now());
	ck_assert_int_eq(programs.measuring, 0); /* nothing to measure yet */
	ck_assert_uint_eq(kvm_exits_cost(e)->exits, 0);
	vm = watch(e, 0, 1);
	now = clock_now();
	ck_assert_int_eq(programs.measuring, 1);
	kvm_exits_account(e, now - 100 * MS); /* its clock was read before that one's */
	kvm_exits_account(e, now + 100 * MS);
	ck_assert_int_eq(programs.measured, 0);
	kvm_exits_account(e, now + 1000 * MS);
	ck_assert_int_eq(programs.measured, 1);
	kvm_vm_unwatch(vm, NULL);
	watch(e, 0, 1);
	kvm_exits_account(e, now + 5000 * MS);
	ck_assert(programs.measuring == 1 && programs.measured == 1);
	ck_assert_uint_eq(kvm_exits_cost(e)->exits_ns, 300);
	ck_assert_uint_eq(kvm_exits_cost(e)->entries, 4);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

/* --------------------------------------------------------------------------------- the policy */

static bool ready;

static bool is_ready(void *ctx)
{
	(void)ctx;
	return __atomic_load_n(&ready, __ATOMIC_ACQUIRE);
}

static const struct htrace_sync_target target = { sizeof(target), is_ready, NULL };

static struct htrace_sync *make(const char *policy, struct kvm_exits *e)
{
	struct htrace_sync *s;

	sync_kvm_exit_register();
	sync_kvm_exit_use(e);
	ck_assert_int_eq(htrace_sync_new(&s, policy, &target), 0);
	return s;
}

START_TEST(test_names)
{
	static const char *const bad[] = { "kvm-exit:", "kvm-exit:10", "kvm-exit:1000001", "kvm-exit:1x",
					   "kvm-exit:1000000000000000000000000000000000" };
	struct htrace_sync *s;

	sync_kvm_exit_register();
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_int_eq(htrace_sync_new(&s, bad[i], &target), -EINVAL);
	ck_assert(sync_kvm_exit_is("kvm-exit") && sync_kvm_exit_is("kvm-exit:100"));
	ck_assert(!sync_kvm_exit_is("kvm-exits") && !sync_kvm_exit_is("kvm") && !sync_kvm_exit_is(""));
}
END_TEST

/* Nothing can be watched: as adaptive. */
START_TEST(test_no_exits)
{
	struct htrace_sync *s = make("kvm-exit", NULL);
	__u64 start = clock_now();

	ck_assert_int_eq(htrace_sync_wait(s, 20 * MS), 0);
	ck_assert_uint_ge(clock_now() - start, 20 * MS);
	ready = true;
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	htrace_sync_wake(s);
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), -EINTR);
	htrace_sync_free(s);
}
END_TEST

/* It is exits that it waits for, not records. */
START_TEST(test_exit)
{
	struct kvm_exits *e = open_exits();
	struct htrace_sync *s = make("kvm-exit:1000000", e);
	int pid = live();
	struct kvm_vm *vm;

	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	leave(0);
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	ck_assert(read_ring(vm, 0, 0));
	enter(0);
	ready = true;
	ck_assert_int_eq(htrace_sync_wait(s, 20 * MS), 0);
	ck_assert(!read_ring(vm, 0, 0));
	leave(0);
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	htrace_sync_free(s);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

/* One that stays inside is read by the bound. */
START_TEST(test_bound)
{
	struct kvm_exits *e = open_exits();
	struct htrace_sync *s = make("kvm-exit:20000", e);
	int pid = live();
	struct kvm_vm *vm;
	__u64 start;

	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	leave(0);
	enter(0);
	start = clock_now();
	read_ring(vm, 0, start);
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	ck_assert_uint_ge(clock_now() - start, 20 * MS);
	ck_assert(read_ring(vm, 0, clock_now()));
	htrace_sync_free(s);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

static __u64 cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

/* While all are halted it sleeps, and reads what is there nevertheless. */
START_TEST(test_halted)
{
	struct kvm_exits *e = open_exits();
	struct htrace_sync *s = make("kvm-exit", e);
	int pid = live();
	struct kvm_vm *vm;
	__u64 cpu;

	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	leave(0);
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	ck_assert(read_ring(vm, 0, clock_now()));
	cpu = cpu_ns();
	ck_assert_int_eq(htrace_sync_wait(s, 300 * MS), 0);
	ck_assert_uint_lt(cpu_ns() - cpu, 150 * MS);
	ready = true; /* by somebody else, an agent for example */
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	ck_assert(read_ring(vm, 0, clock_now()));
	ready = false;
	leave(0);
	ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), 1);
	htrace_sync_free(s);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

static void *wake_later(void *arg)
{
	usleep(30000);
	htrace_sync_wake(arg);
	return NULL;
}

/* However it waits: looking for exits, and asleep. */
START_TEST(test_wake)
{
	struct kvm_exits *e = open_exits();
	struct htrace_sync *s = make("kvm-exit:1000000", e);
	int pid = live();
	pthread_t thread;
	struct kvm_vm *vm;

	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	for (int out = 0; out < 2; out++) {
		out ? leave(0) : enter(0);
		read_ring(vm, 0, clock_now());
		htrace_sync_wake(s);
		ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), -EINTR);
		ck_assert_int_eq(htrace_sync_wait(s, 5 * MS), 0); /* was taken */
		pthread_create(&thread, NULL, wake_later, s);
		ck_assert_int_eq(htrace_sync_wait(s, 10000 * MS), -EINTR);
		pthread_join(thread, NULL);
	}
	htrace_sync_free(s);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

#define EXITS 20000

static __u64 written, got, done;

static bool is_unread(void *ctx)
{
	(void)ctx;
	return __atomic_load_n(&written, __ATOMIC_ACQUIRE) != got;
}

static const struct htrace_sync_target unread = { sizeof(unread), is_unread, NULL };

/* A virtual CPU: writes, leaves, comes back. */
static void *be_vcpu(void *arg)
{
	(void)arg;
	for (int i = 0; i < EXITS; i++) {
		__atomic_add_fetch(&written, 1, __ATOMIC_RELEASE);
		leave(0);
		if (i % 64 == 0)
			sched_yield();
		if (i < EXITS - 1)
			enter(0);
	}
	__atomic_store_n(&done, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* At full speed: all that was written is read. */
START_TEST(test_threads)
{
	struct kvm_exits *e = open_exits();
	struct exit_count count = { 0 };
	struct htrace_sync *s;
	int pid = live();
	pthread_t thread;
	struct kvm_vm *vm;
	__u64 reads = 0;

	sync_kvm_exit_register();
	sync_kvm_exit_use(e);
	ck_assert_int_eq(htrace_sync_new(&s, "kvm-exit:1000000", &unread), 0);
	process(pid, one_fd, true);
	vm = watch(e, 0, 1);
	pthread_create(&thread, NULL, be_vcpu, NULL);
	while (got < EXITS) {
		__u64 now = clock_now(), seen;
		struct kvm_look look;

		ck_assert_int_eq(htrace_sync_wait(s, 30000 * MS), 1);
		if (!kvm_vm_look(vm, 0, now, &look))
			continue;
		seen = __atomic_load_n(&written, __ATOMIC_ACQUIRE);
		kvm_vm_looked(vm, 0, &look, now, seen != got, true);
		reads += seen != got;
		got = seen;
	}
	pthread_join(thread, NULL);
	ck_assert(done);
	kvm_vm_unwatch(vm, &count);
	ck_assert_uint_eq(count.exits, EXITS);
	ck_assert_uint_eq(count.out + count.returned + count.inside, reads);
	htrace_sync_free(s);
	kvm_exits_close(e);
	die(pid);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("kvm_exits");
	TCase *t = tcase_create("kvm_exits");

	tcase_add_checked_fixture(t, set_up, tear_down);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_descriptors);
	tcase_add_test(t, test_many_descriptors);
	tcase_add_test(t, test_which_process);
	tcase_add_test(t, test_several_vms);
	tcase_add_test(t, test_whose_guest);
	tcase_add_test(t, test_refused);
	tcase_add_test(t, test_mapping);
	tcase_add_test(t, test_when);
	tcase_add_test(t, test_counts);
	tcase_add_test(t, test_several);
	tcase_add_test(t, test_gone);
	tcase_add_test(t, test_cost);
	tcase_add_test(t, test_names);
	tcase_add_test(t, test_no_exits);
	tcase_add_test(t, test_exit);
	tcase_add_test(t, test_bound);
	tcase_add_test(t, test_halted);
	tcase_add_test(t, test_wake);
	tcase_add_test(t, test_threads);
	suite_add_tcase(s, t);
	return unit_run(s);
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What host-reader --sync kvm-exit adds to each exit of a VM, natively: the same code, on a tracepoint
 * that a thread comes by with each system call. By the clock, against none and against programs that do nothing; and as the
 * kernel accounts for its programs, which is what host-reader tells of real exits.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../bpf/kvm_exit.h"
#include "bench.h"
#include "exit-cost.h"

#define NAME "exit-cost"
#define CALLS 200000
#define QUICK 5000
#define VCPU 5
#define FIRST 100 /* number of its VM's first epoch */

/* A pair is an exit and an entry. */
struct way {
	const char *name;
	const char *exit, *entry; /* programs; NULL: none */
	bool watched, account;
	struct bench_rounds ns;
	const char *wrong;
};

static struct way ways[] = {
	{ .name = "nothing" },
	{ .name = "one empty", .exit = "empty_exit" },
	{ .name = "empty", .exit = "empty_exit", .entry = "empty_entry" },
	{ .name = "watched", .exit = "on_exit", .entry = "on_entry", .watched = true },
	{ .name = "another VM", .exit = "on_exit", .entry = "on_entry" },
	{ .name = "watched, kernel's account", .exit = "on_exit", .entry = "on_entry", .watched = true,
	  .account = true },
};
#define NR_WAYS (sizeof(ways) / sizeof(*ways))

static struct bpf_object *obj;

static double timed_calls(unsigned long calls)
{
	uint64_t start = bench_now();

	for (unsigned long i = 0; i < calls; i++)
		syscall(SYS_getppid, EXIT_MAGIC, 0, 0, VCPU);
	return (double)(bench_now() - start) / (double)calls;
}

static struct bpf_program *program(const char *name)
{
	return bpf_object__find_program_by_name(obj, name);
}

/* Times and numbers of both programs together. */
static void account(const struct way *w, uint64_t *runs, uint64_t *ns)
{
	const char *names[] = { w->exit, w->entry };

	*runs = *ns = 0;
	for (int i = 0; i < 2; i++) {
		struct bpf_prog_info info = { 0 };
		__u32 len = sizeof(info);

		if (bpf_obj_get_info_by_fd(bpf_program__fd(program(names[i])), &info, &len))
			return;
		*runs += info.run_cnt;
		*ns += info.run_time_ns;
	}
}

static double accounted_calls(struct way *w, unsigned long calls)
{
	uint64_t runs, ns, runs_before, ns_before;
	int fd = bpf_enable_stats(BPF_STATS_RUN_TIME);

	if (fd < 0)
		bench_die("the kernel's account of BPF programs", errno);
	account(w, &runs_before, &ns_before);
	timed_calls(calls);
	account(w, &runs, &ns);
	close(fd);
	if (runs - runs_before < 2 * calls)
		w->wrong = "the kernel ran the programs less often";
	return 2 * (double)(ns - ns_before) / (double)(runs - runs_before);
}

/* Whether this process is a VM that is watched; its virtual CPU begins anew. */
static void set_watched(bool yes)
{
	static struct kvm_exit_vms vms;
	int vms_fd = bpf_object__find_map_fd_by_name(obj, "kvm_vms");
	int epochs_fd = bpf_object__find_map_fd_by_name(obj, "kvm_epochs");
	__u32 pid = (__u32)getpid(), nr = FIRST + VCPU, zero = 0;
	const struct kvm_exit_epoch none = { 0 };

	bpf_map_update_elem(epochs_fd, &nr, &none, BPF_ANY);
	vms.vm[pid % KVM_EXIT_SLOTS] = (struct kvm_exit_vm){ yes ? pid : pid + 1, FIRST, VCPU + 1 };
	bpf_map_update_elem(vms_fd, &zero, &vms, BPF_ANY);
}

static unsigned long long epoch(void)
{
	int epochs = bpf_object__find_map_fd_by_name(obj, "kvm_epochs");
	struct kvm_exit_epoch e = { .epoch = ~0ULL };
	__u32 nr = FIRST + VCPU;

	bpf_map_lookup_elem(epochs, &nr, &e);
	return e.epoch;
}

static struct bpf_link *attach(const char *name)
{
	struct bpf_link *link = bpf_program__attach(program(name));

	if (!link)
		bench_die("attaching to sys_enter", errno);
	return link;
}

static void run(struct way *w, unsigned long calls)
{
	struct bpf_link *exit = NULL, *entry = NULL;

	set_watched(w->watched);
	/* In this order they are called. */
	if (w->exit)
		exit = attach(w->exit);
	if (w->entry)
		entry = attach(w->entry);
	bench_add(&w->ns, w->account ? accounted_calls(w, calls) : timed_calls(calls));
	bpf_link__destroy(exit);
	bpf_link__destroy(entry);
	if (epoch() != (w->watched ? 2 * calls : 0))
		w->wrong = "the epoch does not tell the calls";
}

static int silent(enum libbpf_print_level level, const char *format, va_list args)
{
	(void)level, (void)format, (void)args;
	return 0;
}

static void skip(const char *what, int err)
{
	char why[200];

	snprintf(why, sizeof(why), "%s: %s", what, strerror(-err));
	for (size_t i = 0; i < NR_WAYS; i++)
		bench_skip(NAME, ways[i].name, "", why);
}

int main(int argc, char **argv)
{
	unsigned long calls = CALLS, rounds = 21;
	char path[4096];
	int cpu, err;

	if (argc > 1 && !strcmp(argv[1], "--quick"))
		calls = QUICK, rounds = 3;
	libbpf_set_print(silent);
	obj = bpf_object__open(bench_beside(path, sizeof(path), "exit-cost.bpf.o"));
	if (!obj)
		bench_die("the BPF object beside the program", errno);
	err = bpf_object__load(obj);
	if (err) {
		skip(err == -EPERM || !access("/sys/kernel/btf/vmlinux", R_OK) ?
			     "the kernel does not let BPF programs in" :
			     "the kernel's types cannot be read from /sys/kernel/btf/vmlinux", err);
		return 0;
	}
	if (bench_cpus(&cpu, 1))
		bench_pin(cpu);
	for (unsigned long r = 0; r < rounds; r++)
		for (size_t i = 0; i < NR_WAYS; i++)
			run(&ways[(r + i) % NR_WAYS], calls); /* not always after the same */
	for (size_t i = 0; i < NR_WAYS; i++)
		bench_print(NAME, ways[i].name, "", "ns", &ways[i].ns, ways[i].wrong);
	bpf_object__close(obj);
	return 0;
}

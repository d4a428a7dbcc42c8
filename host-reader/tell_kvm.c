/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tell_kvm.h"

#include <dirent.h>
#include <errno.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef HAVE_LIBBPF
#include <bpf/bpf.h>
#endif

#include "../bpf/kvm_tell.h"
#include "host_bpf.h"
#include "kvm_process.h"

#define EXITS_PER_LOOK 256
#define TOTALS_PER_LOOK 64
#define TURN_NS \
	1000000000ULL /* in which each total comes once, of VMs that are not too large for that */
#define ENTRIES_PER_LOOK 2048 /* looked at for totals */

_Static_assert(EXITS_PER_LOOK + TOTALS_PER_LOOK <= TELL_BATCH,
	       "the ring holds what one look tells");
_Static_assert(sizeof(struct kvm_tell_vcpu) % 4096 == 0, "virtual CPUs are whole pages");

struct teller {
	struct host_bpf bpf;
	const struct kvm_tell_vcpu *vcpu; /* the programs' map, read-only */
	int vms_fd, vcpus_fd, threads_fd;
	bool taken[KVM_TELL_VCPUS];
};

struct told_vcpu {
	const struct kvm_tell_vcpu *from;
	unsigned int number; /* KVM's */
	__u64 told; /* exits, or passed over */
	__u64 exits[KVM_TELL_REASONS]; /* as told in totals, */
	__u64 out[KVM_TELL_REASONS]; /* which changed if one of these did */
};

struct told_vm {
	struct teller *teller;
	int pid, pidfd;
	bool gone;
	unsigned int first, nr_numbers; /* in the map: up to the virtual CPU's of the highest number */
	unsigned int nr, next; /* virtual CPUs, and whose turn is next */
	__u64 next_total; /* likewise of vcpu * KVM_TELL_REASONS + entry */
	__u64 totals_at; /* that was looked on until then */
	struct told_vcpu vcpu[];
};

/* ---------------------------------------------------------------------------------- the programs */

#ifdef HAVE_LIBBPF

extern const char kvm_tell_bpf_start[], kvm_tell_bpf_end[];

int teller_open(struct teller **out, char *err, size_t errlen)
{
	struct teller *t = calloc(1, sizeof(*t));
	int ret;

	*out = NULL;
	if (!t) {
		snprintf(err, errlen, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	ret = host_bpf_open(&t->bpf, "kvm_tell", kvm_tell_bpf_start, kvm_tell_bpf_end, "tell_vcpus",
			    KVM_TELL_VCPUS * sizeof(*t->vcpu), "is tracefs mounted, is this x86, and does the "
			    "kernel have BTF, also of its kvm module?", err, errlen);
	if (ret) {
		teller_close(t);
		return ret;
	}
	t->vcpu = t->bpf.map;
	t->vms_fd = host_bpf_map_fd(&t->bpf, "tell_vms");
	t->vcpus_fd = host_bpf_map_fd(&t->bpf, "tell_vcpus");
	t->threads_fd = host_bpf_map_fd(&t->bpf, "tell_threads");
	*out = t;
	return 0;
}

void teller_close(struct teller *t)
{
	if (!t)
		return;
	host_bpf_close(&t->bpf);
	free(t);
}

static int tell_programs(const struct told_vm *vm)
{
	static const struct kvm_tell_vcpu none;
	const struct kvm_tell_vm value = {vm->first, vm->nr_numbers};
	__u32 pid = (__u32)vm->pid;

	for (__u32 i = vm->first; i < vm->first + vm->nr_numbers; i++)
		bpf_map_update_elem(vm->teller->vcpus_fd, &i, &none, BPF_ANY);
	return bpf_map_update_elem(vm->teller->vms_fd, &pid, &value, BPF_NOEXIST) ? -errno : 0;
}

/* Their ids may become other processes'. */
static void untell_programs(const struct told_vm *vm)
{
	__u32 pid = (__u32)vm->pid;

	bpf_map_delete_elem(vm->teller->vms_fd, &pid);
	/* Also of a vCPU that was not there yet when they were listed: the numbers are another VM's next. */
	for (unsigned int i = vm->first; i < vm->first + vm->nr_numbers; i++) {
		__u32 thread = __atomic_load_n(&vm->teller->vcpu[i].thread, __ATOMIC_RELAXED);

		if (thread)
			bpf_map_delete_elem(vm->teller->threads_fd, &thread);
	}
}

#else

int teller_open(struct teller **out, char *err, size_t errlen)
{
	*out = NULL;
	snprintf(err, errlen, "host-reader was built without libbpf or clang");
	return -ENOSYS;
}

void teller_close(struct teller *t)
{
	(void)t;
}

static int tell_programs(const struct told_vm *vm)
{
	(void)vm;
	return -ENOSYS;
}

static void untell_programs(const struct told_vm *vm)
{
	(void)vm;
}

#endif

/* --------------------------------------------------------------------------------------- one VM */

static int make_vm(struct told_vm **out, struct teller *t, const struct kvm_process *p)
{
	unsigned int numbers = p->vcpu[p->nr_vcpus - 1] + 1, first = kvm_process_place(t->taken, KVM_TELL_VCPUS, numbers);
	struct told_vm *vm;
	int ret;

	if (first == KVM_TELL_VCPUS)
		return -ENOSPC;
	vm = calloc(1, sizeof(*vm) + p->nr_vcpus * sizeof(vm->vcpu[0]));
	if (!vm)
		return -ENOMEM;
	vm->teller = t;
	vm->pid = p->pid;
	vm->pidfd = p->pidfd;
	vm->first = first;
	vm->nr_numbers = numbers;
	vm->nr = p->nr_vcpus;
	for (unsigned int i = 0; i < vm->nr; i++) {
		vm->vcpu[i].number = p->vcpu[i];
		vm->vcpu[i].from = &t->vcpu[first + p->vcpu[i]];
	}
	ret = tell_programs(vm);
	if (ret) {
		free(vm);
		return ret;
	}
	memset(&t->taken[first], true, numbers);
	*out = vm;
	return 0;
}

/* Is what two descriptors of a process are the same? If the kernel does not say: no. */
static bool same_file(int pid, const char *a, const char *b)
{
	return syscall(SYS_kcmp, pid, pid, KCMP_FILE, atol(a), atol(b)) == 0;
}

/* Its virtual CPUs could not be told apart, and one VM would be told of the other. */
static bool has_several_vms(int pid)
{
	char path[64], first[16] = "", to[64];
	bool several = false;
	struct dirent *e;
	ssize_t len;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	while (d && !several && (e = readdir(d)) != NULL) {
		len = readlinkat(dirfd(d), e->d_name, to, sizeof(to) - 1);
		to[len > 0 ? len : 0] = 0;
		if (strcmp(to, "anon_inode:kvm-vm"))
			continue;
		if (first[0])
			several = !same_file(pid, first, e->d_name);
		else
			snprintf(first, sizeof(first), "%.15s", e->d_name);
	}
	if (d)
		closedir(d);
	return several || !d;
}

int told_vm_new(struct told_vm **out, struct teller *t, const struct htrace_view *v, int pid,
		char *err, size_t errlen)
{
	struct kvm_process p;
	int ret;

	*out = NULL;
	ret = kvm_process_find(&p, v, pid, err, errlen);
	if (ret)
		return ret;
	ret = has_several_vms(p.pid) ? -EMLINK : make_vm(out, t, &p);
	if (!ret)
		return 0;
	close(p.pidfd);
	snprintf(err, errlen, "process %d: %s", p.pid,
		ret == -EMLINK ? "it runs more than one VM, which would be told of each other" :
		ret == -EEXIST ? "its guest is told through another source already" :
		ret == -ENOSPC || ret == -E2BIG ? "too many VMs or virtual CPUs to tell" :
						  strerror(-ret));
	return ret;
}

void told_vm_free(struct told_vm *vm)
{
	if (!vm)
		return;
	if (!vm->gone)
		untell_programs(vm);
	memset(&vm->teller->taken[vm->first], false, vm->nr_numbers);
	close(vm->pidfd);
	free(vm);
}

bool told_vm_gone(struct told_vm *vm)
{
	struct pollfd fd = {.fd = vm->pidfd, .events = POLLIN};

	if (!vm->gone && poll(&fd, 1, 0) == 1) {
		vm->gone = true;
		untell_programs(vm);
	}
	return vm->gone;
}

bool told_vm_changed(const struct told_vm *vm, const struct htrace_view *v)
{
	struct kvm_process p;
	bool changed;

	if (vm->gone || kvm_process_find(&p, v, vm->pid, NULL, 0))
		return false;
	changed = p.nr_vcpus != vm->nr || has_several_vms(vm->pid);
	for (unsigned int i = 0; i < vm->nr && !changed; i++)
		changed = p.vcpu[i] != vm->vcpu[i].number;
	close(p.pidfd);
	return changed;
}

int told_vm_pid(const struct told_vm *vm)
{
	return vm->pid;
}

unsigned int told_vm_vcpus(const struct told_vm *vm)
{
	return vm->nr;
}

/* ---------------------------------------------------------------------------------------- exits */

/* An exit of one virtual CPU that is to be told, and when it began: they go out in that order. */
struct due {
	struct htrace_told_exit exit;
	__u64 at;
};

static void convert(struct htrace_told_exit *to, const struct told_vcpu *v, __u32 reason,
		    const struct kvm_tell_times *t)
{
	to->reason = reason;
	to->vcpu = (__u16)v->number;
	to->isa = (__u16)__atomic_load_n(&v->from->isa, __ATOMIC_RELAXED);
	to->out_ns = t->out;
	to->preempted_ns = t->preempted;
	to->woken_ns = t->woken;
	to->slept_ns = t->slept;
}

/* The newest that are there, at most @room. */
static unsigned int take_exits(struct told_vcpu *v, struct due *due, unsigned int room)
{
	__u64 nr = __atomic_load_n(&v->from->nr_exits, __ATOMIC_ACQUIRE), from = v->told;
	unsigned int taken = 0;

	if (nr - from > KVM_TELL_EXITS - 1)
		from = nr - (KVM_TELL_EXITS - 1);
	if (nr - from > room)
		from = nr - room;
	for (__u64 i = from; i != nr; i++) {
		struct kvm_tell_exit e = v->from->exit[i % KVM_TELL_EXITS];

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		/* Its place may be being written again, of the exit that comes next. */
		if (__atomic_load_n(&v->from->nr_exits, __ATOMIC_RELAXED) - i >= KVM_TELL_EXITS)
			continue;
		convert(&due[taken].exit, v, e.reason, &e.times);
		due[taken++].at = e.at;
	}
	v->told = nr;
	return taken;
}

static int by_time(const void *a, const void *b)
{
	const struct due *x = a, *y = b;

	return x->at < y->at ? -1 : x->at > y->at;
}

static unsigned int tell_exits(struct told_vm *vm, struct tell *tell)
{
	struct due due[EXITS_PER_LOOK];
	unsigned int nr = 0;

	for (unsigned int i = 0; i < vm->nr && nr < EXITS_PER_LOOK; i++) {
		nr += take_exits(&vm->vcpu[vm->next], due + nr, EXITS_PER_LOOK - nr);
		vm->next = (vm->next + 1) % vm->nr;
	}
	qsort(due, nr, sizeof(due[0]), by_time);
	for (unsigned int i = 0; i < nr; i++)
		tell_exit(tell, &due[i].exit, due[i].at);
	return nr;
}

/* --------------------------------------------------------------------------------------- totals */

static __u32 reason_of(unsigned int entry)
{
	if (entry == KVM_TELL_OTHER)
		return HTRACE_TOLD_OTHER;
	return entry < KVM_TELL_HIGH ? entry : entry - KVM_TELL_HIGH + KVM_TELL_HIGH_FIRST;
}

/*
 * Returns whether there was something to tell. @changed: only if it is another one than the last
 * time.
 */
static bool tell_one_total(struct told_vcpu *v, unsigned int entry, struct tell *tell, __u64 now,
			   bool changed)
{
	struct kvm_tell_reason r = v->from->counted[entry];
	struct htrace_told_total total;

	if (!r.exits || (changed && r.exits == v->exits[entry] && r.times.out == v->out[entry]))
		return false;
	v->exits[entry] = r.exits;
	v->out[entry] = r.times.out;
	convert(&total.sum, v, reason_of(entry), &r.times);
	total.exits = r.exits;
	tell_total(tell, &total, now);
	return true;
}

/* In turn, whether they changed or not: a guest may come to the ring at any time. */
static void tell_totals(struct told_vm *vm, struct tell *tell, __u64 now)
{
	__u64 all = (__u64)vm->nr * KVM_TELL_REASONS, gone = now - vm->totals_at;
	__u64 due = gone < TURN_NS ? all * gone / TURN_NS : all;
	unsigned int told = 0;

	if (!due)
		return;
	vm->totals_at = now;
	if (due > ENTRIES_PER_LOOK)
		due = ENTRIES_PER_LOOK;
	for (__u64 i = 0; i < due && told < TOTALS_PER_LOOK; i++) {
		__u64 at = vm->next_total;

		told += tell_one_total(&vm->vcpu[at / KVM_TELL_REASONS], at % KVM_TELL_REASONS,
				       tell, now, false);
		vm->next_total = (at + 1) % all;
	}
}

/* At the end: as many as the ring holds stay in it. */
static void tell_changed_totals(struct told_vm *vm, struct tell *tell, struct htrace_host *host,
				__u64 now)
{
	unsigned int told = 0;

	for (unsigned int i = 0; i < vm->nr; i++) {
		for (unsigned int entry = 0; entry < KVM_TELL_REASONS; entry++) {
			told += tell_one_total(&vm->vcpu[i], entry, tell, now, true);
			if (told < TOTALS_PER_LOOK)
				continue;
			tell_flush(tell, host, now);
			told = 0;
		}
	}
}

unsigned int told_vm_look(struct told_vm *vm, struct tell *tell, struct htrace_host *host,
			  __u64 now, bool all)
{
	unsigned int nr = tell_exits(vm, tell);

	tell_flush(tell, host, now);
	if (all)
		tell_changed_totals(vm, tell, host, now);
	else
		tell_totals(vm, tell, now);
	tell_flush(tell, host, now);
	return nr;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kvm_exits.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef HAVE_LIBBPF
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#endif

#include "../bpf/kvm_exit.h"
#include "kvm_process.h"

#define DEFAULT_BOUND_NS 2000000

struct kvm_exits {
	struct kvm_vm *vms;
	struct bpf_object *object;
	struct bpf_link *link[2];
	const struct kvm_exit_epoch *epoch; /* the programs' map, read-only */
	int vms_fd, epochs_fd;
	bool all;
	__u64 bound_ns;
	bool taken[KVM_EXIT_VCPUS];
};

struct vcpu {
	const struct kvm_exit_epoch *epoch;
	__u64 read;    /* epoch up to which its ring was read */
	__u64 read_at; /* host time */
	struct exit_count count;
};

struct kvm_vm {
	struct kvm_vm *next;
	struct kvm_exits *exits;
	int pid, pidfd;
	bool gone;
	unsigned int first, nr_numbers; /* of epochs: up to the virtual CPU's of the highest number */
	unsigned int nr;                /* virtual CPUs with rings */
	struct vcpu vcpu[];
};

static __u64 load(const struct vcpu *v)
{
	/* Pairs with nothing: what the virtual CPU wrote before it left is found as any record is. */
	return __atomic_load_n(&v->epoch->epoch, __ATOMIC_ACQUIRE);
}

static bool is_out(__u64 epoch)
{
	return epoch & 1;
}

__attribute__((format(printf, 3, 4))) static void explain(char *err, size_t errlen, const char *fmt,
							  ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(err, errlen, fmt, args);
	va_end(args);
}

/* ---------------------------------------------------------------------------------- the programs */

#ifdef HAVE_LIBBPF

extern const char kvm_exit_bpf_start[], kvm_exit_bpf_end[];

static int quiet(enum libbpf_print_level level, const char *fmt, va_list args)
{
	(void)level, (void)fmt, (void)args; /* what it means is said in our own words */
	return 0;
}

static const char *hint(int err)
{
	switch (err) {
	case -EPERM:
	case -EACCES:
		return "; are you root?";
	case -ENOENT:
		return "; is tracefs mounted?";
	default:
		return "; does the kernel have BTF, also of its kvm module, and is this x86?";
	}
}

static int load_programs(struct kvm_exits *e, char *err, size_t errlen)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "kvm_exit");
	struct bpf_program *p;
	int ret, i = 0;

	e->object = bpf_object__open_mem(kvm_exit_bpf_start,
					 (size_t)(kvm_exit_bpf_end - kvm_exit_bpf_start), &opts);
	if (!e->object) {
		explain(err, errlen, "opening the BPF programs: %s", strerror(errno));
		return -errno;
	}
	ret = bpf_object__load(e->object);
	if (ret) {
		explain(err, errlen, "loading the BPF programs: %s%s", strerror(-ret), hint(ret));
		return ret;
	}
	e->vms_fd = bpf_object__find_map_fd_by_name(e->object, "kvm_vms");
	e->epochs_fd = bpf_object__find_map_fd_by_name(e->object, "kvm_epochs");
	bpf_object__for_each_program(p, e->object) {
		e->link[i] = bpf_program__attach(p);
		if (!e->link[i++]) {
			ret = -errno;
			explain(err, errlen, "attaching to kvm:%s: %s%s", bpf_program__name(p),
				strerror(-ret), hint(ret));
			return ret;
		}
	}
	return 0;
}

static int map_epochs(struct kvm_exits *e, char *err, size_t errlen)
{
	void *mem = mmap(NULL, KVM_EXIT_VCPUS * sizeof(*e->epoch), PROT_READ, MAP_SHARED,
			 e->epochs_fd, 0);

	if (mem == MAP_FAILED) {
		explain(err, errlen, "mapping the exits' map: %s", strerror(errno));
		return -errno;
	}
	e->epoch = mem;
	return 0;
}

static int tell_programs(struct kvm_vm *vm)
{
	const struct kvm_exit_vm value = { vm->first, vm->nr_numbers };
	const struct kvm_exit_epoch none = { 0 };
	__u32 pid = (__u32)vm->pid;

	for (__u32 i = vm->first; i < vm->first + vm->nr_numbers; i++)
		bpf_map_update_elem(vm->exits->epochs_fd, &i, &none, BPF_ANY);
	return bpf_map_update_elem(vm->exits->vms_fd, &pid, &value, BPF_NOEXIST) ? -errno : 0;
}

static void untell_programs(struct kvm_vm *vm)
{
	__u32 pid = (__u32)vm->pid;

	bpf_map_delete_elem(vm->exits->vms_fd, &pid);
}

int kvm_exits_open(struct kvm_exits **out, char *err, size_t errlen)
{
	struct kvm_exits *e = calloc(1, sizeof(*e));
	int ret;

	*out = NULL;
	if (!e) {
		explain(err, errlen, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	e->bound_ns = DEFAULT_BOUND_NS;
	libbpf_set_print(quiet);
	if (access("/sys/module/kvm", F_OK)) {
		explain(err, errlen, "KVM is not loaded (modprobe kvm)");
		ret = -ENOENT;
	} else {
		ret = load_programs(e, err, errlen);
	}
	if (!ret)
		ret = map_epochs(e, err, errlen);
	if (ret)
		kvm_exits_close(e);
	else
		*out = e;
	return ret;
}

void kvm_exits_close(struct kvm_exits *e)
{
	if (!e)
		return;
	while (e->vms)
		kvm_vm_unwatch(e->vms, NULL);
	if (e->epoch)
		munmap((void *)e->epoch, KVM_EXIT_VCPUS * sizeof(*e->epoch));
	for (int i = 0; i < 2; i++)
		bpf_link__destroy(e->link[i]);
	bpf_object__close(e->object);
	free(e);
}

#else

static int tell_programs(struct kvm_vm *vm)
{
	(void)vm;
	return -ENOSYS;
}

static void untell_programs(struct kvm_vm *vm)
{
	(void)vm;
}

int kvm_exits_open(struct kvm_exits **out, char *err, size_t errlen)
{
	*out = NULL;
	explain(err, errlen, "host-reader was built without libbpf or clang");
	return -ENOSYS;
}

void kvm_exits_close(struct kvm_exits *e)
{
	(void)e;
}

#endif

/* ------------------------------------------------------------------------------------ all of them */

void kvm_exits_set_bound(struct kvm_exits *e, __u64 ns)
{
	e->bound_ns = ns;
}

void kvm_exits_read_all(struct kvm_exits *e, bool all)
{
	e->all = all;
}

bool kvm_exits_pending(const struct kvm_exits *e)
{
	for (const struct kvm_vm *vm = e->vms; vm; vm = vm->next) {
		for (unsigned int i = 0; i < vm->nr && !vm->gone; i++) {
			__u64 epoch = load(&vm->vcpu[i]);

			if (is_out(epoch) && epoch != vm->vcpu[i].read)
				return true;
		}
	}
	return false;
}

__u64 kvm_exits_sum(const struct kvm_exits *e, bool *inside)
{
	__u64 sum = 0;

	*inside = false;
	for (const struct kvm_vm *vm = e->vms; vm; vm = vm->next) {
		for (unsigned int i = 0; i < vm->nr && !vm->gone; i++) {
			__u64 epoch = load(&vm->vcpu[i]);

			sum += epoch;
			*inside |= !is_out(epoch);
		}
	}
	return sum;
}

/* --------------------------------------------------------------------------------------- one VM */

/* So many neighbours that are free, from the first on; KVM_EXIT_VCPUS: there are none. */
static unsigned int find_numbers(const struct kvm_exits *e, unsigned int nr)
{
	unsigned int run = 0;

	for (unsigned int i = 0; i < KVM_EXIT_VCPUS; i++) {
		run = e->taken[i] ? 0 : run + 1;
		if (run == nr)
			return i + 1 - nr;
	}
	return KVM_EXIT_VCPUS;
}

static int new_vm(struct kvm_vm **out, struct kvm_exits *e, const struct kvm_process *p,
		  unsigned int nr_rings)
{
	unsigned int numbers = p->vcpu[p->nr_vcpus - 1] + 1;
	unsigned int first = find_numbers(e, numbers);
	unsigned int nr = p->nr_vcpus < nr_rings ? p->nr_vcpus : nr_rings;
	struct kvm_vm *vm;

	if (first == KVM_EXIT_VCPUS)
		return -ENOSPC;
	vm = calloc(1, sizeof(*vm) + nr * sizeof(vm->vcpu[0]));
	if (!vm)
		return -ENOMEM;
	vm->exits = e;
	vm->pid = p->pid;
	vm->pidfd = p->pidfd;
	vm->first = first;
	vm->nr_numbers = numbers;
	vm->nr = nr;
	for (unsigned int i = 0; i < nr; i++)
		vm->vcpu[i].epoch = &e->epoch[first + p->vcpu[i]];
	*out = vm;
	return 0;
}

int kvm_vm_watch(struct kvm_vm **out, struct kvm_exits *e, const struct htrace_view *v, int pid,
		 unsigned int nr_rings, char *err, size_t errlen)
{
	struct kvm_process p;
	struct kvm_vm *vm;
	int ret;

	*out = NULL;
	ret = kvm_process_find(&p, v, pid, err, errlen);
	if (ret)
		return ret;
	ret = new_vm(&vm, e, &p, nr_rings);
	if (!ret) {
		ret = tell_programs(vm);
		if (ret)
			free(vm);
	}
	if (ret) {
		close(p.pidfd);
		explain(err, errlen, "process %d: %s", p.pid,
			ret == -EEXIST ? "its exits are watched for another source already" :
			ret == -ENOSPC || ret == -E2BIG ? "too many VMs or virtual CPUs to watch" :
							  strerror(-ret));
		return ret;
	}
	memset(&e->taken[vm->first], true, vm->nr_numbers);
	vm->next = e->vms;
	e->vms = vm;
	*out = vm;
	return 0;
}

void kvm_vm_unwatch(struct kvm_vm *vm, struct exit_count *count)
{
	struct kvm_vm **at;

	if (!vm)
		return;
	at = &vm->exits->vms;
	for (unsigned int i = 0; i < vm->nr && count; i++) {
		count[i].exits += (load(&vm->vcpu[i]) + 1) / 2;
		count[i].out += vm->vcpu[i].count.out;
		count[i].returned += vm->vcpu[i].count.returned;
		count[i].inside += vm->vcpu[i].count.inside;
		count[i].used = true;
	}
	untell_programs(vm);
	memset(&vm->exits->taken[vm->first], false, vm->nr_numbers);
	while (*at != vm)
		at = &(*at)->next;
	*at = vm->next;
	close(vm->pidfd);
	free(vm);
}

bool kvm_vm_gone(struct kvm_vm *vm)
{
	struct pollfd fd = { .fd = vm->pidfd, .events = POLLIN };

	if (!vm->gone && poll(&fd, 1, 0) == 1) {
		vm->gone = true;
		untell_programs(vm); /* its id may become another process' */
	}
	return vm->gone;
}

int kvm_vm_pid(const struct kvm_vm *vm)
{
	return vm->pid;
}

unsigned int kvm_vm_vcpus(const struct kvm_vm *vm)
{
	return vm->nr;
}

/* -------------------------------------------------------------------------------------- one ring */

bool kvm_vm_look(struct kvm_vm *vm, unsigned int ring, __u64 now, struct kvm_look *look)
{
	const struct vcpu *v;

	if (!vm || vm->gone || ring >= vm->nr)
		return true;
	v = &vm->vcpu[ring];
	look->epoch = load(v);
	look->wanted = is_out(look->epoch) && look->epoch != v->read;
	return look->wanted || vm->exits->all || now - v->read_at >= vm->exits->bound_ns;
}

void kvm_vm_looked(struct kvm_vm *vm, unsigned int ring, const struct kvm_look *look, __u64 now,
		   bool events, bool all)
{
	struct vcpu *v;

	if (!vm || vm->gone || ring >= vm->nr)
		return;
	v = &vm->vcpu[ring];
	v->read_at = now;
	if (all)
		v->read = look->epoch;
	if (!events)
		return;
	if (!is_out(look->epoch))
		v->count.inside++;
	else if (load(v) == look->epoch)
		v->count.out++;
	else
		v->count.returned++;
}

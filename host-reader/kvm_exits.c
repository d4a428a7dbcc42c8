/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kvm_exits.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "kvm_process.h"

#define DEFAULT_BOUND_NS 2000000
#define MEASURE_NS 1000000000 /* that the programs are measured, from the first VM on */

struct kvm_exits {
	struct kvm_vm *vms;
	struct kvm_programs *programs;
	const struct kvm_exit_epoch *epoch; /* that they write */
	enum { COST_UNKNOWN, COST_MEASURED, COST_KNOWN } measuring;
	__u64 measured_since;
	struct exit_cost cost;
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

/* ------------------------------------------------------------------------------------ all of them */

int kvm_exits_open(struct kvm_exits **out, char *err, size_t errlen)
{
	struct kvm_exits *e = calloc(1, sizeof(*e));
	int ret;

	*out = NULL;
	if (!e) {
		snprintf(err, errlen, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	ret = kvm_programs_open(&e->programs, err, errlen);
	if (ret) {
		free(e);
		return ret;
	}
	e->epoch = kvm_programs_epochs(e->programs);
	e->bound_ns = DEFAULT_BOUND_NS;
	*out = e;
	return 0;
}

void kvm_exits_close(struct kvm_exits *e)
{
	if (!e)
		return;
	while (e->vms)
		kvm_vm_unwatch(e->vms, NULL);
	kvm_programs_close(e->programs);
	free(e);
}

/* Once, and not for long: all BPF programs of the host pay for it. */
void kvm_exits_account(struct kvm_exits *e, __u64 now)
{
	if (e->measuring == COST_UNKNOWN && e->vms) {
		e->measuring = COST_MEASURED;
		e->measured_since = now;
		kvm_programs_measure(e->programs);
	} else if (e->measuring == COST_MEASURED && now > e->measured_since &&
		   now - e->measured_since >= MEASURE_NS) {
		kvm_exits_cost(e);
	}
}

const struct exit_cost *kvm_exits_cost(struct kvm_exits *e)
{
	if (e->measuring == COST_MEASURED) {
		e->measuring = COST_KNOWN;
		e->cost = kvm_programs_measured(e->programs);
	}
	return &e->cost;
}

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

static int new_vm(struct kvm_vm **out, struct kvm_exits *e, const struct kvm_process *p,
		  unsigned int nr_rings)
{
	unsigned int numbers = p->vcpu[p->nr_vcpus - 1] + 1;
	unsigned int first = kvm_process_place(e->taken, KVM_EXIT_VCPUS, numbers);
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
		const struct kvm_exit_vm numbers = { (unsigned int)p.pid, vm->first, vm->nr_numbers };

		ret = kvm_programs_tell(e->programs, &numbers);
		if (ret)
			free(vm);
	}
	if (ret) {
		close(p.pidfd);
		snprintf(err, errlen, "process %d: %s", p.pid,
			ret == -EEXIST ? "its exits are watched for another source already" :
			ret == -ENOSPC || ret == -E2BIG ? "too many VMs or virtual CPUs to watch" :
							  strerror(-ret));
		return ret;
	}
	memset(&e->taken[vm->first], true, vm->nr_numbers);
	vm->next = e->vms;
	e->vms = vm;
	kvm_exits_account(e, clock_now());
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
	if (!vm->gone)
		kvm_programs_untell(vm->exits->programs, vm->pid);
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
		/* Its id may become another process'. */
		kvm_programs_untell(vm->exits->programs, vm->pid);
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

	*look = (struct kvm_look){ 0 };
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

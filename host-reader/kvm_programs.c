/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kvm_programs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef HAVE_LIBBPF

#include <bpf/bpf.h>

#include "host_bpf.h"

struct kvm_programs {
	struct host_bpf bpf; /* kvm_exit, kvm_entry; the map is of epochs */
	int vms_fd, epochs_fd;
	int stats_fd; /* while it is open, the kernel measures; or -1 */
	struct exit_cost before;
	struct kvm_exit_vms vms; /* as the programs have it */
};

extern const char kvm_exit_bpf_start[], kvm_exit_bpf_end[];

int kvm_programs_open(struct kvm_programs **out, char *err, size_t errlen)
{
	struct kvm_programs *p = calloc(1, sizeof(*p));
	int ret;

	*out = NULL;
	if (!p) {
		snprintf(err, errlen, "%s", strerror(ENOMEM));
		return -ENOMEM;
	}
	p->stats_fd = -1;
	ret = host_bpf_open(&p->bpf, "kvm_exit", kvm_exit_bpf_start, kvm_exit_bpf_end, "kvm_epochs",
			    KVM_EXIT_VCPUS * sizeof(struct kvm_exit_epoch), "is this x86, Linux 5.16 or later, "
			    "and does the kernel have BTF, also of its kvm module?", err, errlen);
	if (ret) {
		kvm_programs_close(p);
		return ret;
	}
	p->vms_fd = host_bpf_map_fd(&p->bpf, "kvm_vms");
	p->epochs_fd = host_bpf_map_fd(&p->bpf, "kvm_epochs");
	*out = p;
	return 0;
}

void kvm_programs_close(struct kvm_programs *p)
{
	if (!p)
		return;
	if (p->stats_fd >= 0)
		close(p->stats_fd);
	host_bpf_close(&p->bpf);
	free(p);
}

const struct kvm_exit_epoch *kvm_programs_epochs(const struct kvm_programs *p)
{
	return p->bpf.map;
}

/* Of @pid's slots the one with this in it: @pid or, 0, nothing. NULL: none. */
static struct kvm_exit_vm *slot_of(struct kvm_programs *p, unsigned int pid, unsigned int content)
{
	for (unsigned int i = 0; i < KVM_EXIT_PROBES; i++) {
		struct kvm_exit_vm *vm = &p->vms.vm[(pid + i) % KVM_EXIT_SLOTS];

		if (vm->pid == content)
			return vm;
	}
	return NULL;
}

/* What they find in the middle of this is an epoch too few or too many, of somebody's. */
static int tell_vms(struct kvm_programs *p)
{
	__u32 key = 0;

	return bpf_map_update_elem(p->vms_fd, &key, &p->vms, BPF_ANY) ? -errno : 0;
}

int kvm_programs_tell(struct kvm_programs *p, const struct kvm_exit_vm *vm)
{
	const struct kvm_exit_epoch none = { 0 };
	struct kvm_exit_vm *slot = slot_of(p, vm->pid, 0);
	int ret;

	if (slot_of(p, vm->pid, vm->pid))
		return -EEXIST;
	if (!slot)
		return -E2BIG;
	for (__u32 i = vm->first; i < vm->first + vm->nr; i++)
		bpf_map_update_elem(p->epochs_fd, &i, &none, BPF_ANY);
	*slot = *vm;
	ret = tell_vms(p);
	if (ret)
		*slot = (struct kvm_exit_vm){ 0 };
	return ret;
}

void kvm_programs_untell(struct kvm_programs *p, int pid)
{
	struct kvm_exit_vm *slot = slot_of(p, (unsigned int)pid, (unsigned int)pid);

	if (!slot)
		return;
	*slot = (struct kvm_exit_vm){ 0 };
	tell_vms(p);
}

static void account(int fd, __u64 *runs, __u64 *ns)
{
	struct bpf_prog_info info = { 0 };
	__u32 len = sizeof(info);

	if (bpf_obj_get_info_by_fd(fd, &info, &len))
		return;
	*runs = info.run_cnt;
	*ns = info.run_time_ns;
}

static struct exit_cost cost_so_far(const struct kvm_programs *p)
{
	struct exit_cost c = { 0 };

	account(p->bpf.program_fd[0], &c.exits, &c.exits_ns);
	account(p->bpf.program_fd[1], &c.entries, &c.entries_ns);
	return c;
}

void kvm_programs_measure(struct kvm_programs *p)
{
	if (p->stats_fd >= 0)
		return;
	p->before = cost_so_far(p);
	p->stats_fd = bpf_enable_stats(BPF_STATS_RUN_TIME);
}

struct exit_cost kvm_programs_measured(struct kvm_programs *p)
{
	struct exit_cost c;

	if (p->stats_fd < 0)
		return (struct exit_cost){ 0 };
	c = cost_so_far(p);
	close(p->stats_fd);
	p->stats_fd = -1;
	c.exits -= p->before.exits;
	c.exits_ns -= p->before.exits_ns;
	c.entries -= p->before.entries;
	c.entries_ns -= p->before.entries_ns;
	return c;
}

#else

int kvm_programs_open(struct kvm_programs **out, char *err, size_t errlen)
{
	*out = NULL;
	snprintf(err, errlen, "host-reader was built without libbpf or clang");
	return -ENOSYS;
}

/* There is none, so nothing of these is called. */

void kvm_programs_close(struct kvm_programs *p)
{
	(void)p;
}

const struct kvm_exit_epoch *kvm_programs_epochs(const struct kvm_programs *p)
{
	(void)p;
	return NULL;
}

int kvm_programs_tell(struct kvm_programs *p, const struct kvm_exit_vm *vm)
{
	(void)p, (void)vm;
	return -ENOSYS;
}

void kvm_programs_untell(struct kvm_programs *p, int pid)
{
	(void)p, (void)pid;
}

void kvm_programs_measure(struct kvm_programs *p)
{
	(void)p;
}

struct exit_cost kvm_programs_measured(struct kvm_programs *p)
{
	(void)p;
	return (struct exit_cost){ 0 };
}

#endif

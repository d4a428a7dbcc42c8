/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The process of this host that runs a source's guest, so that what the kvm source says of its
 * virtual CPUs is told of the guest's events. Its CPUs are KVM's in the order of their numbers. KVM's
 * events name the process, and no VM: where it runs several, nobody can say whose virtual CPU it was.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"
#include "kvm_process.h"
#include "message.h"
#include "source_internal.h"
#include "vcpus.h"

#define FIND_NS (250 * MS) /* between two looks through /proc, twice as long each time, */
#define FIND_MAX_NS (8 * SEC) /* up to this */
#define LOOK_NS SEC /* between two looks whether it has other virtual CPUs */

/* False: the kernel does not say. */
static bool host_boot_id(__u8 *id)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC), nr = 0;
	char text[64] = "";
	unsigned int byte;
	ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (fd >= 0)
		close(fd);
	for (const char *p = text; len > 0 && nr < 16 && *p; p++) {
		if (*p == '-')
			continue;
		if (!p[1] || sscanf(p++, "%2x", &byte) != 1)
			break;
		id[nr++] = (__u8)byte;
	}
	return nr == 16;
}

/* Rings of CPUs: also a local region can be that of a VMM, whose guest writes there. */
static bool may_be_guest(const struct source *s)
{
	bool cpus = false;

	for (__u32 i = 0; i < s->facts.nr_sets; i++)
		cpus |= s->facts.set[i].kind == HTRACE_RING_PER_CPU;
	return cpus && !s->facts.host && !s->spec->nested;
}

/* Also for who captures: the kvm source may be captured by another reader. */
static bool is_wanted(const struct source *s, const __u8 *boot_id)
{
	return s->config->sinks && may_be_guest(s) &&
	       (vcpus_find(s->config->hosts, boot_id) || sinks_capture(s->config->sinks));
}

/* What was told of the session before is not true of what comes. */
static void disown(struct source *s, int pid, __u64 now)
{
	static const struct session_vm none;

	if (!s->said_several)
		say_within(&s->quota, "%s: process %d runs more than one VM: what virtual CPUs do is not told of this guest's events",
			   s->spec->path, pid);
	s->said_several = true;
	session_vm(s->session, &none, now);
}

static bool find(struct source *s, struct session_vm *vm, __u64 now)
{
	struct kvm_process p;
	char err[256];

	/* Once it was found, it is that one as long as it has the region's file. */
	if (kvm_process_find(&p, s->view, s->spec->pid ? s->spec->pid : s->vcpus_pid, err, sizeof(err)))
		return false;
	close(p.pidfd);
	if (p.several_vms) {
		disown(s, p.pid, now);
		return false;
	}
	s->said_several = false;
	vm->pid = (__u32)p.pid;
	vm->nr = p.nr_vcpus;
	memcpy(vm->vcpu, p.vcpu, p.nr_vcpus * sizeof(vm->vcpu[0]));
	s->vcpus_pid = p.pid;
	return true;
}

void source_find_vcpus(struct source *s, __u64 now)
{
	struct session_vm vm = { 0 };
	__u64 start, end;
	bool found;

	if (!s->session || now < s->next_find || now < s->find_again)
		return;
	s->next_find = now + FIND_NS;
	if (!host_boot_id(vm.boot_id) || !is_wanted(s, vm.boot_id))
		return;
	start = clock_now();
	found = find(s, &vm, now);
	end = clock_now();
	s->find_again = end + COST_SHARE * (end - start); /* also if its sessions begin all the time */
	if (found) {
		session_vm(s->session, &vm, now);
		s->find_pause = 0;
		s->next_find = now + LOOK_NS;
		return;
	}
	s->vcpus_pid = 0;
	s->find_pause = s->find_pause ? 2 * s->find_pause : FIND_NS;
	if (s->find_pause > FIND_MAX_NS)
		s->find_pause = FIND_MAX_NS;
	s->next_find = now + s->find_pause;
}

void source_forget_vcpus(struct source *s)
{
	s->vcpus_pid = 0;
	s->next_find = s->find_pause = 0;
}

/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vm_process.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool vm_process_program(int pid, char *name, size_t len)
{
	char path[64], exe[256];
	const char *base;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	n = readlink(path, exe, sizeof(exe) - 1);
	if (n <= 0)
		return false;
	exe[n] = 0;
	base = strrchr(exe, '/');
	snprintf(name, len, "%s", base ? base + 1 : exe);
	return true;
}

bool vm_process_has_kvm(int pid, unsigned int *vcpus)
{
	bool has = false;
	unsigned int nr;
	struct dirent *e;
	char path[64], to[64];
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	d = opendir(path);
	while (d && (e = readdir(d)) != NULL) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, to, sizeof(to) - 1);

		to[len > 0 ? len : 0] = 0;
		has |= !strcmp(to, "anon_inode:kvm-vm");
		if (vcpus && sscanf(to, "anon_inode:kvm-vcpu:%u", &nr) == 1 && nr >= *vcpus)
			*vcpus = nr + 1;
	}
	if (d)
		closedir(d);
	return has;
}

bool vm_process_is_qemu(const char *name)
{
	return !strncmp(name, "qemu-system", 11) || !strcmp(name, "qemu-kvm");
}

bool vm_process_is(int pid)
{
	char name[256];

	return (vm_process_program(pid, name, sizeof(name)) && vm_process_is_qemu(name)) || vm_process_has_kvm(pid, NULL);
}

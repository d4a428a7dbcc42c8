/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tells the process of a virtual machine from others. */
#ifndef READER_VM_PROCESS_H
#define READER_VM_PROCESS_H

#include <stdbool.h>
#include <stddef.h>

/* The program's name, without its directory. False: the process is gone, or hidden from us. */
bool vm_process_program(int pid, char *name, size_t len);
/* Has it a virtual machine of KVM's? @vcpus (or NULL): raised to how many virtual CPUs it has. */
bool vm_process_has_kvm(int pid, unsigned int *vcpus);
/* Is that the name of a QEMU that emulates a machine? */
bool vm_process_is_qemu(const char *name);
/* Is it a virtual machine's? */
bool vm_process_is(int pid);

#endif

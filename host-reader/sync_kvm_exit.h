/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The policy "kvm-exit", for host-reader and whoever else has a struct kvm_exits. It is registered
 * as any caller's own policy: the library needs no libbpf.
 */
#ifndef READER_SYNC_KVM_EXIT_H
#define READER_SYNC_KVM_EXIT_H

#include <stdbool.h>

#include "kvm_exits.h"

/* Once, before the policy's name is used. */
void sync_kvm_exit_register(void);
/* Is @policy this one, with or without an argument? */
bool sync_kvm_exit_is(const char *policy);
/* What policies that are made from now on look at; NULL: they do as adaptive does. */
void sync_kvm_exit_use(struct kvm_exits *e);

#endif

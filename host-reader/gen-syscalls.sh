#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Writes the names of x86-64's system calls, as initialisers of an array, to standard output.
# They come from this machine's headers where it is one; guests may run newer kernels, hence
# the list below, whose numbers are the same everywhere. Usage: gen-syscalls.sh COMPILER...
set -eu

newer='424 pidfd_send_signal
425 io_uring_setup
426 io_uring_enter
427 io_uring_register
434 pidfd_open
435 clone3
436 close_range
437 openat2
438 pidfd_getfd
439 faccessat2
440 process_madvise
441 epoll_pwait2
442 mount_setattr
443 quotactl_fd
444 landlock_create_ruleset
445 landlock_add_rule
446 landlock_restrict_self
447 memfd_secret
448 process_mrelease
449 futex_waitv
450 set_mempolicy_home_node
451 cachestat
452 fchmodat2
453 map_shadow_stack
454 futex_wake
455 futex_wait
456 futex_requeue
457 statmount
458 listmount
459 lsm_get_self_attr
460 lsm_set_self_attr
461 lsm_list_modules
462 mseal
463 setxattrat
464 getxattrat
465 listxattrat
466 removexattrat
467 open_tree_attr
468 file_getattr
469 file_setattr'

{
	printf '#if defined(__x86_64__) && !defined(__ILP32__)\n#include <asm/unistd_64.h>\n#endif\n' |
		"$@" -E -dM -x c - |
		sed -n 's/^#define __NR_\([a-z0-9_]*\) \([0-9][0-9]*\)$/\2 \1/p'
	echo "$newer"
} | sort -n -u -k1,1 | while read -r nr name; do
	echo "[$nr] = \"$name\","
done

#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Writes bpf/kvm_reasons.h to standard output: what exits are called, with the kernel's own words, from
# this machine's asm/vmx.h, asm/svm.h and linux/kvm.h. Usage, on x86: gen-kvm-reasons.sh COMPILER
set -eu

table() { # ISA LIST: of { number, "NAME" }, ...
	printf '#include <asm/kvm.h>\n#include <asm/vmx.h>\n#include <asm/svm.h>\n@@ %s\n' "$2" | "$cc" -E -P - |
		sed -n '/^@@/,$p' | { tr '\n{' ' \n'; echo; } |
		sed -n 's/^ *\([^,]*\), *"\([^"]*\)".*/\1:\2/p' | tr ' ' '_' |
		while IFS=: read -r nr name; do
			nr=$(($(echo "$nr" | tr -d _)))
			[ $nr = -1 ] || [ $nr -lt 65536 ] || continue
			printf '\t%s = 0x%x,\n' "$name" $(($1 << 16 | nr & 0xffff))
		done
}

cc=$1
cat <<EOF
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Made by gen-kvm-reasons.sh. */
#ifndef KVM_REASONS_H
#define KVM_REASONS_H

/* Why guest mode was left: KVM's number of the instruction set (VMX 1, SVM 2) << 16 | its reason's low half. */
enum kvm_exit_reason {
EOF
table 1 VMX_EXIT_REASONS
table 2 SVM_EXIT_REASONS
cat <<EOF
};

/* Why KVM_RUN returned to the VMM. */
enum kvm_userspace_reason {
EOF
printf '#include <linux/kvm.h>\n' | "$cc" -E -dM - |
	sed -n 's/^#define KVM_EXIT_\([A-Z0-9_]*\) *\([0-9][0-9]*\)$/\2 \1/p' |
	grep -v -e ' IO_IN$' -e ' IO_OUT$' -e ' HYPERV_' -e ' XEN_HCALL$' | sort -n |
	while read -r nr name; do
		printf '\tKVM_EXIT_%s = %s,\n' "$name" "$nr"
	done
cat <<EOF
};

#endif
EOF

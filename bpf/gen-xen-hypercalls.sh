#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Writes enum xen_hypercall to standard output: what Xen's hypercalls are called, by the words of Xen's
# own header xen/xen.h (Debian: libxen-dev). Without that they have numbers only.
# Usage: gen-xen-hypercalls.sh COMPILER
set -eu

cc=$1

# The header as a guest of the newest interface sees it.
header() {
	printf '#define __XEN_TOOLS__ 1\n#include <xen/xen.h>\n'
}

# Names that stand for others, as mca for arch_0, are in some headers; the number decides.
numbers() {
	names=$(header | "$cc" -E -dM -x c - | sed -n 's/^#define __HYPERVISOR_\([a-z][a-z0-9_]*\) .*/\1/p')
	{
		header
		for name in $names; do
			echo "@@ $name __HYPERVISOR_$name"
		done
	} | "$cc" -E -P -x c - | sed -n 's/^@@ \([a-z0-9_]*\) \([0-9][0-9]*\)$/\2 \1/p' | sort -n -u -k1,1
}

cat <<EOF
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Made by gen-xen-hypercalls.sh. */
#ifndef XEN_HYPERCALLS_H
#define XEN_HYPERCALLS_H

enum __attribute__((packed)) xen_hypercall {
EOF
if header | "$cc" -E -x c - >/dev/null 2>&1; then
	numbers | while read -r nr name; do
		printf '\t%s = %s,\n' "$name" "$nr"
	done
fi
cat <<EOF
	none = 255, /* what fills an array up */
};

#endif
EOF

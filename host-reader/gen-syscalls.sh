#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Writes the names of x86-64's system calls, as initialisers of an array, to standard output: those
# of the list, and what this machine's headers have beyond it where it is one. The list makes them
# known to a reader on another machine. Usage: gen-syscalls.sh LIST COMPILER...
set -eu

list=$1
shift
{
	grep -v '^#' "$list"
	printf '#if defined(__x86_64__) && !defined(__ILP32__)\n#include <asm/unistd_64.h>\n#endif\n' |
		"$@" -E -dM -x c - |
		sed -n 's/^#define __NR_\([a-z0-9_]*\) \([0-9][0-9]*\)$/\2 \1/p'
} | sort -n -u -k1,1 | while read -r nr name; do
	echo "[$nr] = \"$name\","
done

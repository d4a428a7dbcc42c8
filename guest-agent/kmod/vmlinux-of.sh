#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# vmlinux-of.sh FILE: what holds a kernel's BTF, on stdout. FILE is a vmlinuz, which is unpacked, or
# a vmlinux or raw BTF, which are given as they are.

set -eu

die() { echo "vmlinux-of.sh: $*" >&2; exit 1; }
[ $# -eq 1 ] || die "usage: vmlinux-of.sh FILE"
[ -r "$1" ] || die "cannot read '$1': give the kernel's BTF, vmlinux or vmlinuz with BTF=FILE"

number() { # OFFSET LENGTH: a little-endian number in the file
	od -A n -t "u$2" -j "$1" -N "$2" "$file" | tr -d ' '
}

file=$1
if [ "$(dd if="$file" bs=1 skip=514 count=4 2>/dev/null)" != HdrS ]; then
	exec cat "$file"
fi
# The boot protocol's header: real-mode sectors, then the payload, its unpacked length at its end.
sectors=$(number 497 1)
[ "$sectors" != 0 ] || sectors=4
start=$(((sectors + 1) * 512 + $(number 584 4)))
length=$(($(number 588 4) - 4))
case $(od -A n -t x1 -j "$start" -N 4 "$file" | tr -d ' ') in
28b52ffd) unpack='zstd -dcq' ;;
fd377a58) unpack='xz -dcq' ;;
02214c18) unpack='lz4 -dcq' ;;
1f8b*) unpack='gzip -dcq' ;;
*) die "'$file' is packed in a way that is not known" ;;
esac
command -v "${unpack%% *}" >/dev/null || die "'$file' cannot be unpacked: install ${unpack%% *}"
tail -c "+$((start + 1))" "$file" | head -c "$length" | $unpack

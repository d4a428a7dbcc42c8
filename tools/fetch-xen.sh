#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Downloads Debian's Xen: the hypervisor and what a dom0 needs to have virtual
# disks and networks. Unpacks it, installs nothing: Xen's packages would change
# how this machine boots.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: fetch-xen.sh [--refresh]

Prints a directory with, in it:
  xen              the hypervisor, for QEMU's -kernel
  bin/             xenstored, xenstore
  lib/             the libraries that these need, but for libc

  --refresh    download again

They are kept below $HTRACE_CACHE (default: ~/.cache/htrace). Needs no root, but package lists
(apt-get update) if they are not there yet.
USAGE
}

die() { echo "fetch-xen: error: $*" >&2; exit 1; }

refresh=
case ${1-} in
'') ;;
--refresh) refresh=1 ;;
-h | --help) usage; exit 0 ;;
*) echo "fetch-xen: unknown argument '$1' (see --help)" >&2; exit 2 ;;
esac

cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}
version=4.17 # Debian 12's
dir=$cache/xen/$version
if [ -n "$refresh" ] || [ ! -e "$dir/xen" ]; then
	for tool in apt-get dpkg gunzip; do
		command -v $tool >/dev/null || die "'$tool' is not installed: this needs Debian's tools"
	done
	mkdir -p "$cache/xen" || die "cannot create $cache/xen: set HTRACE_CACHE to a directory you can write"
	tmp=$(mktemp -d "$cache/xen/.tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 1' HUP INT TERM
	# libxenmisc holds libxenctrl; the others are what xenstored needs
	(cd "$tmp" && apt-get -qq -o APT::Sandbox::User=root download "xen-hypervisor-$version-amd64" \
		"xen-utils-$version" xenstore-utils "libxenmisc$version" libxenstore4 libxencall1 \
		libxenevtchn1 libxenforeignmemory1 libxengnttab1 libxentoollog1 libxendevicemodel1 \
		libxentoolcore1) >"$tmp/log" 2>&1 ||
		die "download failed: $(grep -m1 '^E:' "$tmp/log" || tail -n 1 "$tmp/log"); is this Debian 12, and did 'apt-get update' run?"
	mkdir -p "$tmp/out/bin" "$tmp/out/lib"
	for deb in "$tmp"/*.deb; do
		dpkg -x "$deb" "$tmp/tree" || die "cannot unpack ${deb##*/}: is the disk full?"
	done
	cp "$tmp/tree/usr/lib/xen-$version/bin/xenstored" "$tmp/tree/usr/bin/xenstore" "$tmp/out/bin"
	cp -P "$tmp"/tree/usr/lib/x86_64-linux-gnu/libxen*.so.* "$tmp/out/lib"
	gunzip -c "$tmp/tree/boot/xen-$version-amd64.gz" >"$tmp/out/xen"
	rm -rf "$dir"
	mv -T "$tmp/out" "$dir"
fi
echo "$dir"

#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Builds everything for aarch64 on an x86-64 Debian machine, and runs the unit tests in user-mode
# emulation.
#
# The arm64 libraries are downloaded through a private apt configuration and unpacked into the
# cache directory; none is installed, and the machine's architectures stay as they are.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: cross-aarch64.sh [options] [DIR]

Builds the library, the programs, their BPF objects and the unit tests for
aarch64 in DIR (default: build-aarch64 beside this script's directory), with
warnings as errors.

Options:
  --test      then run the unit tests under qemu-aarch64-static
  --clang     compile with clang instead of gcc
  --quick     optimise less: for tests, in half the time
  --sysroot   build nothing: print the directory with the arm64 libraries
  --refresh   download the arm64 libraries anew
  -h, --help  this text

The libraries are kept in ${HTRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/htrace}/aarch64;
once they are there, no network is needed. A program of the build runs by
  qemu-aarch64-static -L "$(cross-aarch64.sh --sysroot)" DIR/host-reader/host-reader --version
USAGE
}

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tools/private-apt.sh
. "$here/private-apt.sh"

say() { echo "cross-aarch64: $*" >&2; }
die() { say "error: $*"; exit 1; }

compiler=gcc
optimization=3
print_sysroot=
refresh=
run_tests=
build=$(dirname "$here")/build-aarch64
while [ $# -gt 0 ]; do
	case $1 in
	--test) run_tests=1 ;;
	--clang) compiler=clang ;;
	--quick) optimization=1 ;;
	--sysroot) print_sysroot=1 ;;
	--refresh) refresh=1 ;;
	-h | --help) usage; exit 0 ;;
	-*) say "unknown option '$1' (see --help)"; exit 2 ;;
	*) build=$1 ;;
	esac
	shift
done

for tool in apt-get dpkg flock meson ninja aarch64-linux-gnu-gcc qemu-aarch64-static; do
	command -v "$tool" >/dev/null ||
		die "'$tool' is not installed: run tools/install-deps.sh --tests (on Debian or its relatives)"
done

cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}/aarch64
mkdir -p "$cache" || die "cannot create $cache: set HTRACE_CACHE to a directory you can write"
cache=$(cd "$cache" && pwd)

log=$(mktemp)
tmp=
trap 'rm -rf "$log" "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

# The libraries that the native build installs, as arm64's, and what they need in turn.
# Not the peers of the benchmarks, nor the fuzzers' runtime, nor Xen's header, which is read on this machine.
mapfile -t packages < <("$here/install-deps.sh" --tests --print |
	grep -xE 'lib.*-dev|zlib1g-dev|check' | grep -vxE 'lib(clang-rt|ck|dpdk|lttng-ust|xen)-dev')
packages+=(libgcc-12-dev)
wanted="${packages[*]}"
sysroot=$cache/sysroot-$(cksum <<<"$wanted" | cut -d' ' -f1)

fetch_sysroot() {
	private_apt_init "$cache/apt" arm64
	private_apt_sources ''
	private_apt_update "$log"
	tmp=$(mktemp -d "$cache/.tmp.XXXXXX")
	say "downloading arm64's $wanted"
	private_apt_closure "$log" "$tmp" "${packages[@]}"
	[ -e "$tmp/usr/lib/aarch64-linux-gnu/libbpf.a" ] || die "the arm64 packages hold no libbpf.a"
	rm -rf "$sysroot"
	mv -T "$tmp" "$sysroot" # by rename: one that is there is complete
	tmp=
}

if [ -n "$refresh" ] || [ ! -d "$sysroot" ]; then
	exec 9>"$cache/lock"
	flock 9
	if [ -n "$refresh" ] || [ ! -d "$sysroot" ]; then
		rm -rf "$cache"/.tmp.* # left by one that was killed
		fetch_sysroot
	fi
	exec 9>&-
fi
if [ -n "$print_sysroot" ]; then
	echo "$sysroot"
	exit 0
fi

case $compiler in
gcc)
	cc="'aarch64-linux-gnu-gcc'"
	ld=
	;;
clang)
	cc="'clang', '--target=aarch64-linux-gnu'"
	ld=", '-B/usr/bin/aarch64-linux-gnu-'"
	;;
esac
write_cross_file() {
	cat <<CROSS
# Written by tools/cross-aarch64.sh.
[binaries]
c = [$cc]
ar = 'aarch64-linux-gnu-ar'
strip = 'aarch64-linux-gnu-strip'
pkgconfig = 'pkg-config'
exe_wrapper = ['qemu-aarch64-static', '-L', '$sysroot']

[properties]
sys_root = '$sysroot'
pkg_config_libdir = '$sysroot/usr/lib/aarch64-linux-gnu/pkgconfig:$sysroot/usr/share/pkgconfig'

[built-in options]
optimization = '$optimization'
c_args = ['--sysroot=$sysroot']
c_link_args = ['--sysroot=$sysroot'$ld]

[host_machine]
system = 'linux'
cpu_family = 'aarch64'
cpu = 'aarch64'
endian = 'little'
CROSS
}

quietly() { # COMMAND...: shows what it printed only if it fails
	"$@" >"$log" 2>&1 || { cat "$log" >&2; die "$1 failed in $build: see above"; }
}
# Another compiler or other libraries than last time need a fresh directory.
write_cross_file >"$log"
if ! cmp -s "$log" "$build/cross.ini" || [ ! -f "$build/build.ninja" ]; then
	rm -rf "$build"
	mkdir -p "$build"
	cp "$log" "$build/cross.ini"
	quietly meson setup "$build" "$(dirname "$here")" --cross-file "$build/cross.ini" \
		-Dwerror=true -Dtests=enabled -Dagent=enabled
fi
quietly ninja -C "$build"
say "built with $compiler in $build"
[ -z "$run_tests" ] || exec meson test -C "$build" --print-errorlogs

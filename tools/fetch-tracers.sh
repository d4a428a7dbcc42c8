#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Downloads the tracers that bench/tracers compares ours with, as Debian 12 has
# them, and unpacks what a guest needs of them. Installs nothing.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: fetch-tracers.sh [--refresh]
       fetch-tracers.sh --lttng-modules KERNEL [--built]

The first prints a directory with perf, trace-cmd, LTTng's tools and babeltrace2, and the libraries
that these need, libc included: its usr/ and lib64/ belong at the root of a guest that has none.

The second builds Debian's LTTng-modules for KERNEL (a version for fetch-kernel.sh, or what that
printed): the tracer, its rings, and the probe of the scheduler. Prints a directory, which is to be
/lib/modules/RELEASE in the guest. It fails for kernels that are too new for Debian's package; with
--built also if they have not been built before, which takes three minutes of CPU time.

They are kept below $HTRACE_CACHE (default: ~/.cache/htrace). Needs no root, but package lists
(apt-get update) if they are not there yet; the second gcc and make besides.
USAGE
}

here=$(dirname "$(readlink -f "$0")")
# shellcheck source=tools/private-apt.sh
. "$here/private-apt.sh"

say() { echo "fetch-tracers: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_usage() { say "$* (see --help)"; exit 2; }

refresh=
kernel=
built=
case ${1-} in
'') ;;
--refresh) refresh=1 ;;
--lttng-modules)
	[ $# -ge 2 ] || bad_usage "$1 needs a KERNEL"
	kernel=$2
	shift
	[ "${2-}" != --built ] || { built=1; shift; }
	;;
-h | --help) usage; exit 0 ;;
*) bad_usage "unknown argument '$1'" ;;
esac
[ $# -le 1 ] || bad_usage "unknown argument '$2'"

cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}
mkdir -p "$cache/tracers" "$cache/apt" || die "cannot create $cache: set HTRACE_CACHE to a directory you can write"
apt=$(cd "$cache/apt" && pwd)
dir=$(cd "$cache/tracers" && pwd)
programs=$dir/programs
libs=lib/x86_64-linux-gnu

fetch_programs() {
	local tree=$tmp/tree out=$tmp/out program path
	say 'downloading perf, trace-cmd, lttng-tools, babeltrace2 and their libraries'
	private_apt_init "$apt" amd64
	private_apt_sources
	private_apt_update "$tmp/log"
	private_apt_closure "$tmp/log" "$tree" linux-perf trace-cmd lttng-tools babeltrace2
	mkdir -p "$out/usr/bin" "$out/usr/$libs/babeltrace2/plugins" "$out/usr/$libs/lttng/libexec" "$out/lib64" \
		"$out/usr/share/xml/lttng"
	for program in bin/perf bin/trace-cmd bin/lttng bin/lttng-sessiond bin/babeltrace2 \
		"$libs/lttng/libexec/lttng-consumerd" \
		"$libs/babeltrace2/plugins/babeltrace-plugin-ctf.so" \
		"$libs/babeltrace2/plugins/babeltrace-plugin-text.so" \
		"$libs/babeltrace2/plugins/babeltrace-plugin-utils.so"; do
		cp "$tree/usr/$program" "$out/usr/$program" || die "Debian's packages hold no /usr/$program"
		# by their own loader: this machine's libraries have no say
		"$tree/$libs/ld-linux-x86-64.so.2" --library-path "$tree/$libs:$tree/usr/$libs" \
			--list "$tree/usr/$program" >"$tmp/list" || die "cannot list the libraries of $program"
		while read -r _ _ path _; do
			[ ! -e "$path" ] || cp -Ln "$path" "$out/usr/$libs/"
		done <"$tmp/list"
	done
	cp -L "$tree/$libs/ld-linux-x86-64.so.2" "$out/lib64/"
	# without which lttng-sessiond ends at once
	cp "$tree/usr/share/xml/lttng/session.xsd" "$out/usr/share/xml/lttng/" ||
		die "Debian's packages hold no /usr/share/xml/lttng/session.xsd"
	rm -rf "$programs"
	mv -T "$out" "$programs" # by rename: one that is there is complete
}

build_modules() {
	local package=lttng-modules-dkms log=$tmp/build.log headers source
	headers=$("$here/fetch-headers.sh" "$kernel") # it takes the lock itself
	exec 9>"$apt/lock"
	flock 9
	private_apt_init "$apt" amd64
	private_apt_sources
	private_apt_update "$tmp/log"
	private_apt_download "$tmp" $package
	exec 9>&-
	private_apt_unpack "$tmp" "$tmp/tree"
	source=$(echo "$tmp"/tree/usr/src/lttng-modules-*)
	# The others take minutes.
	echo 'obj-m := lttng-probe-sched.o lttng-kprobes.o lttng-kretprobes.o lttng-uprobes.o' >>"$source/src/probes/Kbuild"
	say "building ${source##*/} for $release"
	make -j"$(nproc)" -C "$headers" M="$source" CONFIG_DEBUG_INFO_BTF_MODULES= CONFIG_LTTNG=m modules >"$log" 2>&1 ||
		die "Debian's ${source##*/} does not build for $release: $(grep -m1 -E 'ERROR:|error:|\*\*\*' "$log" || tail -n 1 "$log")"
	mkdir -p "$tmp/out/lib/modules/$release"
	find "$source" -name '*.ko' -exec strip -g {} + -exec cp -t "$tmp/out/lib/modules/$release" {} +
	cp "${kernel%/boot/*}/lib/modules/$release"/modules.builtin* "$tmp/out/lib/modules/$release/" # libkmod wants its index
	depmod -b "$tmp/out" "$release" 2>"$log" || die "depmod failed: $(tail -n 1 "$log")"
	mkdir -p "$dir/lttng-modules"
	mv -T "$tmp/out/lib/modules/$release" "$dir/lttng-modules/$release"
}

for tool in apt-get dpkg flock make depmod; do
	command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin
	command -v "$tool" >/dev/null || die "'$tool' is not installed: run tools/install-deps.sh --tests"
done
exec 8>"$dir/lock"
flock 8 # the others wait, then find the result
rm -rf "$dir"/.tmp.* # left by one that was killed
tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

if [ -n "$kernel" ]; then
	[[ $kernel == */* ]] || kernel=$("$here/fetch-kernel.sh" "$kernel")
	release=${kernel##*/vmlinuz-}
	[ -e "$dir/lttng-modules/$release" ] || [ -z "$built" ] || die "they were not built for $release yet"
	[ -e "$dir/lttng-modules/$release" ] || build_modules
	echo "$dir/lttng-modules/$release"
	exit 0
fi
if [ -n "$refresh" ] || [ ! -e "$programs" ]; then
	exec 9>"$apt/lock"
	flock 9
	fetch_programs
fi
echo "$programs"

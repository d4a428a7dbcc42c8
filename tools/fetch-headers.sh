#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Downloads the headers of a Debian kernel and unpacks them without installing
# them, to build modules for it: the way of fetch-kernel.sh. The path for
# make -C is the only thing printed on stdout.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: fetch-headers.sh KERNEL

Downloads and unpacks the headers that modules for KERNEL are built with; prints their path, for
make -C PATH M=... modules.

KERNEL is a version for fetch-kernel.sh, which is called then, or the path of a vmlinuz that it
printed. The headers are kept beside the kernels, in
  ${HTRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/htrace}/headers

Once fetched, they are found there at once and without network access.
USAGE
}

# shellcheck source=tools/private-apt.sh
. "$(dirname "$(readlink -f "$0")")/private-apt.sh"

say() { echo "fetch-headers: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_usage() { say "$* (see --help)"; exit 2; }

case ${1:-} in -h | --help) usage; exit 0 ;; -*) bad_usage "unknown option '$1'" ;; esac
[ $# -eq 1 ] || bad_usage "give one KERNEL"

here=$(dirname "$(readlink -f "$0")")
cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}
kernel=$1
[[ $kernel == */* ]] || kernel=$("$here/fetch-kernel.sh" "$kernel")
[ -e "$kernel" ] || die "there is no kernel '$kernel'"
kernel=$(realpath "$kernel")
release=${kernel##*/vmlinuz-}
[[ $release != */* ]] || die "'$kernel' is not what fetch-kernel.sh printed: its name tells no release"

mkdir -p "$cache/headers" "$cache/apt" ||
	die "cannot create $cache/headers: set HTRACE_CACHE to a directory you can write"
dir=$(cd "$cache/headers" && pwd)
apt=$(cd "$cache/apt" && pwd)
headers=$dir/$release/usr/src/linux-headers-$release

print_if_cached() { [ -e "$headers/Makefile" ] && echo "$headers"; }
! print_if_cached || exit 0

for tool in apt-get apt-cache dpkg flock; do
	command -v "$tool" >/dev/null ||
		die "'$tool' is not installed: run tools/install-deps.sh (Debian's kernels need Debian's tools)"
done

# One fetch at a time, with fetch-kernel.sh: they share apt's directories.
exec 9>"$apt/lock"
flock -n 9 || { say "waiting for another fetch"; flock 9; }
! print_if_cached || exit 0

rm -rf "$dir"/.tmp.* # left by one that was killed
tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

private_apt_init "$apt" "${release##*-}"
private_apt_sources ""
private_apt_update "$tmp/log"

# What is common to the flavours, and Kbuild's programs: not the compiler, nor the kernel itself.
package=linux-headers-$release
mapfile -t packages < <(apt-cache "${apt_options[@]}" depends "$package" 2>/dev/null |
	sed -nE 's/^ *\|?Depends: (linux-(headers|kbuild)-.*)/\1/p')
[ ${#packages[@]} -ge 2 ] ||
	die "no package $package: its kernel may be too old; fetch a newer one by fetch-kernel.sh --refresh"
say "downloading $package ${packages[*]}"
private_apt_download "$tmp" "$package" "${packages[@]}"

say "unpacking into $dir/$release"
tree=$tmp/tree
private_apt_unpack "$tmp" "$tree"
[ -e "$tree/usr/src/linux-headers-$release/Makefile" ] || die "$package holds no Makefile"
# Its path is what they would have if they were installed.
sed -i "s,/usr/src/,$dir/$release/usr/src/," "$tree/usr/src/linux-headers-$release/Makefile"
rm -rf "${dir:?}/$release"
mv -T "$tree" "$dir/$release"
echo "$headers"

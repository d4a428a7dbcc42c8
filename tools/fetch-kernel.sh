#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Downloads a Debian kernel and unpacks it without installing it. The path of
# its vmlinuz is the only thing printed on stdout.
#
# The package comes from the Debian mirror that this machine's apt already
# uses, through a private apt configuration in the cache directory: neither the
# machine's sources nor its package lists are read for more than the mirror's
# address, nothing is written outside the cache, and no root is needed.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: fetch-kernel.sh [options] VERSION [DIR]

Downloads and unpacks a Debian kernel package; prints the path of its vmlinuz.

VERSION is one of
  6.1, 6.12, ...                     a series: its newest kernel is taken
  6.1.0-50, 6.12.95+deb12            a release, without its flavour
  6.12.95+deb12-cloud-amd64          a release
  linux-image-6.1.0-5?-cloud-amd64   a package name, or a pattern: the newest match
DIR is where the kernels are kept, one directory per release. Default:
  ${HTRACE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/htrace}/kernels

Options:
  --flavour cloud|generic   cloud (default) is small, boots fast, and has all that
                            htrace needs; generic has drivers for real hardware and Xen
  --suite SUITE             look in this Debian suite too (sid, trixie-backports, ...);
                            the machine's own release and its backports always are
  --refresh                 ask the mirror for the series' newest kernel again
  -h, --help                this text

Once fetched, a kernel is found in DIR at once and without network access.
The kernel's modules are in DIR/RELEASE/lib/modules/RELEASE, its configuration
in DIR/RELEASE/boot.
USAGE
}

# shellcheck source=tools/private-apt.sh
. "$(dirname "$(readlink -f "$0")")/private-apt.sh"

say() { echo "fetch-kernel: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_usage() { say "$* (see --help)"; exit 2; }

flavour=cloud
suite=
refresh=
args=()
while [ $# -gt 0 ]; do
	case $1 in
	--flavour | --suite)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in --flavour) flavour=$2 ;; --suite) suite=$2 ;; esac
		shift
		;;
	--flavour=*) flavour=${1#*=} ;;
	--suite=*) suite=${1#*=} ;;
	--refresh) refresh=1 ;;
	-h | --help) usage; exit 0 ;;
	-*) bad_usage "unknown option '$1'" ;;
	*) args+=("$1") ;;
	esac
	shift
done
[ ${#args[@]} -ge 1 ] || bad_usage "no VERSION given"
[ ${#args[@]} -le 2 ] || bad_usage "too many arguments"

cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}
version=${args[0]#linux-image-}
dir=${args[1]:-$cache/kernels}
arch=amd64

case $version in
'' | */* | .* | *[!A-Za-z0-9.+~:_*?[\]-]*) bad_usage "'${args[0]}' is not a kernel version" ;;
esac
case $flavour in
cloud) suffix=cloud-$arch ;;
generic) suffix=$arch ;;
*) bad_usage "--flavour '$flavour' is neither cloud nor generic" ;;
esac

# pattern: what the release has to match; alias: the name to remember the answer under.
alias=
if [[ $version == *-$arch ]]; then
	pattern=$version
elif [[ $version =~ ^[0-9]+\.[0-9]+$ ]]; then
	pattern="$version.*-$suffix"
	alias=$version-$flavour
else
	pattern="$version-$suffix"
fi

vmlinuz_of() { echo "$dir/$1/boot/vmlinuz-$1"; }

# A kernel is unpacked elsewhere and renamed into place, so one that is there is complete.
print_if_cached() {
	local name=$pattern
	[ -z "$alias" ] || name=$(readlink "$dir/$alias") || return 1
	case $name in *[*?[]*) return 1 ;; esac
	[ -e "$(vmlinuz_of "$name")" ] || return 1
	vmlinuz_of "$name"
}

mkdir -p "$dir" "$cache/apt" || die "cannot create $dir: set HTRACE_CACHE to a directory you can write"
dir=$(cd "$dir" && pwd)
apt=$(cd "$cache/apt" && pwd)

[ -n "$refresh" ] || ! print_if_cached || exit 0

for tool in apt-get apt-cache dpkg flock depmod; do
	command -v "$tool" >/dev/null || PATH=$PATH:/usr/sbin:/sbin
	command -v "$tool" >/dev/null ||
		die "'$tool' is not installed: run tools/install-deps.sh (Debian's kernels need Debian's tools)"
done

# One fetch at a time: the others wait, then find the result.
exec 9>"$apt/lock"
flock -n 9 || { say "waiting for another fetch-kernel.sh"; flock 9; }
[ -n "$refresh" ] || ! print_if_cached || exit 0

rm -rf "$dir"/.tmp.* # left by one that was killed
tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

find_package() {
	local name
	apt-cache "${apt_options[@]}" pkgnames linux-image- | sort -V | while read -r name; do
		# shellcheck disable=SC2053 # the right side is a pattern
		[[ ${name#linux-image-} == $pattern ]] || continue
		# a version of three numbers: not a meta-package such as linux-image-6.12-amd64
		[[ $name == linux-image-+([0-9]).+([0-9]).+([0-9])*-"$arch" ]] || continue
		# "6.1.*-amd64" is not meant to match the other flavours
		[[ $pattern == *@(cloud|rt)* || $name != *-@(cloud|rt)-"$arch" ]] || continue
		echo "$name"
	done | tail -n 1
}

shopt -s extglob
private_apt_init "$apt" "$arch"
private_apt_sources "$suite"
private_apt_update "$tmp/log"

package=$(find_package)
[ -n "$package" ] ||
	die "no kernel package linux-image-$pattern in $(awk '{ print $(NF - 1) }' "$apt/sources.list" | xargs); try another VERSION, --flavour or --suite"
release=${package#linux-image-}

if [ ! -e "$(vmlinuz_of "$release")" ]; then
	packages=("$package")
	# Newer suites have the kernel in several packages.
	for part in base binary modules; do
		! apt-cache "${apt_options[@]}" show "linux-$part-$release" >/dev/null 2>&1 ||
			packages+=("linux-$part-$release")
	done
	say "downloading ${packages[*]}"
	private_apt_download "$tmp" "${packages[@]}"

	say "unpacking into $dir/$release"
	tree=$tmp/tree
	private_apt_unpack "$tmp" "$tree"
	# Newer packages have all under usr/; what users rely on is DIR/RELEASE/{boot,lib}.
	[ -e "$tree/lib" ] || ln -s usr/lib "$tree/lib"
	if [ ! -e "$tree/boot/vmlinuz-$release" ]; then
		[ -e "$tree/lib/modules/$release/vmlinuz" ] || die "$package holds no vmlinuz"
		mkdir -p "$tree/boot"
		ln -s "../lib/modules/$release/vmlinuz" "$tree/boot/vmlinuz-$release"
	fi
	depmod -b "$tree" "$release" || die "depmod failed for $release"
	config=$tree/boot/config-$release
	[ -e "$config" ] || config=$tree/lib/modules/$release/config
	for option in DEBUG_INFO_BTF BPF_SYSCALL BPF_EVENTS FTRACE_SYSCALLS SYSFS PCI; do
		grep -qs "^CONFIG_$option=y" "$config" ||
			say "warning: $release was built without CONFIG_$option; htrace needs it in a guest"
	done
	rm -rf "${dir:?}/$release"
	mv -T "$tree" "$dir/$release"
fi

[ -z "$alias" ] || ln -sfnT "$release" "$dir/$alias"
vmlinuz_of "$release"

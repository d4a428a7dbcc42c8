#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Installs what building libhtrace and running its demo need, on Debian 12 and
# its relatives. Calls apt only if something is missing.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: install-deps.sh [--tests] [--bench] [--print]

Installs the Debian packages that building and the demo in a VM need. Needs root
unless all of them are installed already.

Options:
  --tests      also what the test suite needs, with --bench
  --bench      also what bench/run compares with
  --print      install nothing: print the packages' names
  -h, --help   this text
USAGE
}

say() { echo "install-deps: $*" >&2; }
die() { say "error: $*"; exit 1; }

packages=(
	# the build
	meson ninja-build gcc libc6-dev pkg-config clang
	libbpf-dev libelf-dev zlib1g-dev libzstd-dev liburing-dev libprotobuf-c-dev protobuf-c-compiler libseccomp-dev libcap-ng-dev
	libjansson-dev libxen-dev # names of hypercalls
	# a guest: its kernel, its initramfs, QEMU with its firmware
	qemu-system-x86 qemu-system-data seabios ipxe-qemu
	busybox-static cpio kmod gzip xz-utils zstd ca-certificates
)
bench=(libck-dev libdpdk-dev liblttng-ust-dev lttng-tools babeltrace2 python3)
print=
while [ $# -gt 0 ]; do
	case $1 in
	--tests)
		packages+=(check python3 make g++ babeltrace2 protobuf-compiler spin groff-base)
		packages+=(libclang-rt-dev llvm) # libFuzzer, and its coverage
		# kernel modules; tools/fetch-headers.sh fetches the headers
		packages+=(gcc-12 binutils dkms lz4 ovmf)
		# the truth of what is written for Prometheus
		packages+=(python3-prometheus-client)
		# the Debian packages; lint and units of what they install
		packages+=(build-essential dpkg-dev debhelper dh-dkms lintian systemd)
		# Perfetto's trace processor, which tools/fetch-trace-processor.sh fetches; other packages than Debian's have both
		command -v node >/dev/null && command -v npm >/dev/null || packages+=(nodejs npm)
		# the build for aarch64; tools/cross-aarch64.sh fetches the arm64 libraries
		packages+=(gcc-aarch64-linux-gnu qemu-user-static "${bench[@]}")
		;;
	--bench) packages+=("${bench[@]}") ;;
	--print) print=1 ;;
	-h | --help) usage; exit 0 ;;
	*) say "unknown argument '$1' (see --help)"; exit 2 ;;
	esac
	shift
done

if [ -n "$print" ]; then
	printf '%s\n' "${packages[@]}"
	exit 0
fi
command -v apt-get >/dev/null ||
	die "there is no apt-get here; install by other means: ${packages[*]}"

missing=()
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | sed -n 's/ installed$//p')
for package in "${packages[@]}"; do
	grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
	say 'everything is installed'
	exit 0
fi
[ "$(id -u)" = 0 ] || die "not root, and these packages are missing: ${missing[*]}; run it as root (sudo)"

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
trap 'exit 1' HUP INT TERM

update() {
	say 'updating the package lists'
	apt-get -qq -o Acquire::Retries=3 update >"$log" 2>&1 ||
		say "warning: apt-get update failed: $(grep -m1 '^E:' "$log" || tail -n 1 "$log")"
}
install() {
	say "installing ${missing[*]}"
	apt-get -qq -y -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 \
		install --no-install-recommends "${missing[@]}" </dev/null >"$log" 2>&1
}

# Lists are updated when there are none, or when they turn out to be too old to install from.
updated=
# shellcheck disable=SC2016 # apt expands it
if [ -z "$(apt-get indextargets --format '$(FILENAME)' 'Created-By: Packages' 2>/dev/null)" ]; then
	update
	updated=1
fi
if ! install; then
	failed=1
	if [ -z "$updated" ]; then
		update
		! install || failed=
	fi
	[ -z "$failed" ] || die "apt-get install failed: $(grep -m1 '^E:' "$log" || tail -n 1 "$log")"
fi
say 'done'

#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Builds a small busybox initramfs for a guest: loads modules, mounts what
# tracing needs, runs one script or a shell, reports the exit status on the
# console, powers off.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: make-initramfs.sh [options] OUT

Writes an initramfs to OUT, for run-vm.sh --initrd.

Options:
  --run SCRIPT         copy SCRIPT in as /run.sh and run it as the guest's job; without it
                       the guest offers a shell. Afterwards the guest prints
                       "htrace-vm: exit N" on its console and powers off. The script may
                       restart the guest with "reboot -f"; it then runs again from the start.
  --add FILE[:DEST]    copy a file or directory in, mode kept, links followed; to
                       /NAME, or to DEST (a DEST with / at its end is a directory). Repeatable.
  --module NAME        load a kernel module at boot, after those it depends on. Repeatable.
                       A virtio_* module brings virtio_pci along. Needs --kernel.
  --kernel KERNEL      where the modules come from: what fetch-kernel.sh printed, or
                       a version for fetch-kernel.sh, or a directory with lib/modules in it
  --compress METHOD    none (default: boots fastest), gzip, or zstd
  -h, --help           this text

The guest has busybox's commands in /bin, and proc, sysfs, devtmpfs, tracefs
(/sys/kernel/tracing), bpffs (/sys/fs/bpf), debugfs, /tmp and /dev/shm mounted.
Added programs must be static, or their libraries must be added too.
USAGE
}

say() { echo "make-initramfs: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_usage() { say "$* (see --help)"; exit 2; }

here=$(dirname "$(readlink -f "$0")")
run=
kernel=
compress=none
add=()
modules=()
out=
while [ $# -gt 0 ]; do
	case $1 in
	--run=* | --add=* | --module=* | --kernel=* | --compress=*)
		set -- "${1%%=*}" "${1#*=}" "${@:2}"
		continue
		;;
	--run | --add | --module | --kernel | --compress)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in
		--run) run=$2 ;;
		--add) add+=("$2") ;;
		--module) modules+=("$2") ;;
		--kernel) kernel=$2 ;;
		--compress) compress=$2 ;;
		esac
		shift
		;;
	-h | --help) usage; exit 0 ;;
	-*) bad_usage "unknown option '$1'" ;;
	*) [ -z "$out" ] || bad_usage "more than one OUT given"; out=$1 ;;
	esac
	shift
done
[ -n "$out" ] || bad_usage "no OUT given"
case $compress in
none) pack=(cat) ;;
gzip) pack=(gzip -n -1) ;;
zstd) pack=(zstd -q -3) ;;
*) bad_usage "--compress '$compress' is none of none, gzip, zstd" ;;
esac
[ -z "$run" ] || [ -r "$run" ] || die "cannot read the script '$run'"
[ ${#modules[@]} -eq 0 ] || [ -n "$kernel" ] || bad_usage "--module needs --kernel"

PATH=$PATH:/usr/sbin:/sbin
for tool in busybox cpio "${pack[0]}"; do
	command -v "$tool" >/dev/null || die "'$tool' is not installed: run tools/install-deps.sh"
done
busybox=$(command -v busybox)
! ldd "$busybox" >/dev/null 2>&1 ||
	die "$busybox is not static: install the package busybox-static"

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM
root=$tmp/root
mkdir -p "$root"/{bin,dev,etc,lib/modules,proc,root,run,sys,tmp}
ln -s bin "$root/sbin"
cp -L "$busybox" "$root/bin/busybox"
ln -s busybox "$root/bin/sh"

# Sets base and release: modules are in base/lib/modules/release.
find_modules() {
	local candidates
	if [ -d "$kernel" ]; then
		base=$kernel
	elif [[ $kernel == */* ]]; then
		[ -e "$kernel" ] || die "there is no kernel '$kernel'"
		base=$(dirname "$(dirname "$(realpath -s "$kernel")")")
	else
		kernel=$("$here/fetch-kernel.sh" "$kernel")
		base=${kernel%/boot/*}
	fi
	release=${kernel##*/vmlinuz-}
	if [ ! -d "$base/lib/modules/$release" ]; then
		candidates=("$base"/lib/modules/*)
		if [ ${#candidates[@]} -ne 1 ] || [ ! -d "${candidates[0]}" ]; then
			die "'$kernel' does not lead to one lib/modules/RELEASE: give the path that fetch-kernel.sh printed"
		fi
		release=${candidates[0]##*/}
	fi
	[ -e "$base/lib/modules/$release/modules.dep" ] ||
		die "$base/lib/modules/$release has no modules.dep: run depmod -b '$base' '$release'"
}

# Copies one module and those before it; lists them in the order of loading.
add_module() {
	local what path rest name plain
	modprobe -C /dev/null -d "$base" -S "$release" --show-depends "$1" >"$tmp/depends" 2>"$tmp/log" ||
		die "kernel $release has no module '$1': $(tail -n 1 "$tmp/log")"
	while read -r what path rest; do
		[ "$what" = insmod ] || continue # builtin
		name=${path##*/}
		plain=${name%.[gxz]*}
		[ ! -e "$root/lib/modules/$plain" ] || continue
		case $name in
		*.xz) xz -dc "$path" ;;
		*.gz) gzip -dc "$path" ;;
		*.zst) zstd -qdc "$path" ;;
		*) cat "$path" ;;
		esac >"$root/lib/modules/$plain"
		echo "/lib/modules/$plain $rest" >>"$root/etc/modules"
	done <"$tmp/depends"
}

: >"$root/etc/modules"
if [ ${#modules[@]} -gt 0 ]; then
	command -v modprobe >/dev/null || die "'modprobe' is not installed: run tools/install-deps.sh"
	find_modules
	for module in "${modules[@]}"; do
		[[ $module != virtio[_-]* ]] || add_module virtio_pci
		add_module "$module"
	done
fi

for item in ${add[@]+"${add[@]}"}; do
	file=$item
	dest=
	if [ ! -e "$file" ]; then
		file=${item%:*}
		dest=${item##*:}
	fi
	[ -e "$file" ] || die "cannot add '$item': there is no such file"
	[ -n "$dest" ] || dest=/
	case $dest in */) dest=$dest$(basename "$file") ;; esac
	mkdir -p "$(dirname "$root/$dest")"
	cp -rL --preserve=mode,timestamps "$file" "$root/$dest" || die "cannot copy '$file'"
done
[ -z "$run" ] || { cp -L "$run" "$root/run.sh" && chmod 755 "$root/run.sh"; }

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
# The guest's first process; written by make-initramfs.sh.
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=${TERM:-linux}
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpffs /sys/fs/bpf
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
while read -r module options; do
	# shellcheck disable=SC2086
	insmod "$module" $options || echo "htrace-vm: cannot load $module"
done </etc/modules

cd /root || exit
if [ ! -e /run.sh ]; then
	setsid cttyhack sh -l
elif [ "$(head -c 2 /run.sh)" = '#!' ]; then
	/run.sh
else
	sh /run.sh
fi
status=$?
echo "htrace-vm: exit $status"
stty -F /dev/console 2>/dev/null >&2 # returns when the console has sent all
poweroff -f
INIT
chmod 755 "$root/init"

# Written beside OUT and renamed, so that OUT is never half an archive.
[ -d "$(dirname "$out")" ] || die "cannot write '$out': its directory does not exist"
(cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) | "${pack[@]}" >"$out.$$.tmp" ||
	{ rm -f "$out.$$.tmp"; die "cannot write '$out': is the disk full, or the directory read-only?"; }
mv -f "$out.$$.tmp" "$out"

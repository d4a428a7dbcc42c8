#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Starts a guest under QEMU whose RAM and ivshmem regions are shared memory
# that another process, such as host-reader, can map. The script becomes QEMU
# (exec), so its process id is the VM's.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: run-vm.sh [options] --initrd FILE [-- QEMU-ARGUMENT...]

Options:
  --kernel KERNEL       a version for fetch-kernel.sh, or the path of a vmlinuz (default: 6.1)
  --initrd FILE         the initramfs, see make-initramfs.sh
  --append STRING       add to the kernel's command line
  --cpus N              number of virtual CPUs (default: 1)
  --memory SIZE         guest RAM, in M or G (default: 512M)
  --ram PATH            file that backs the guest's RAM (default: a memfd)
  --private-ram         RAM of QEMU's own, which no other process can map
  --region PATH         add an ivshmem device backed by this file, made if it is missing.
                        Repeatable; without it there is no ivshmem device.
  --region-size SIZE    size of regions that are made, a power of two (default: 16M)
  --disk FILE           add a raw disk: /dev/vda, /dev/vdb, ... (module virtio_blk). Repeatable.
  --console FILE|stdio  where the serial console goes (default: stdio)
  --qmp SOCKET          listen for QMP on this Unix socket
  --machine q35|pc      (default: q35)
  --accel auto|kvm|tcg  auto (default) takes KVM if a trial shows that the kernel runs under it
  --tcg-thread multi|single
                        emulate the virtual CPUs in a thread each (default), or all in one,
                        which is slow: for guests that stop with "Oops: int3", see README.md
  --no-reboot           end QEMU where the guest restarts or panics, instead of booting again
  --dry-run             print QEMU's command line, start nothing
  -h, --help            this text

The trial boots the kernel under KVM for at most 15 seconds; its outcome is remembered
until the host reboots, or its kernel, QEMU or the guest's kernel changes.
USAGE
}

say() { echo "run-vm: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_usage() { say "$* (see --help)"; exit 2; }

here=$(dirname "$(readlink -f "$0")")
cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}
qemu='qemu-system-x86_64'
kernel=6.1
initrd=
append=
cpus=1
memory=512M
ram=
private_ram=
regions=()
region_size=16M
disks=()
console=stdio
qmp=
machine=q35
accel=auto
tcg_thread=multi
no_reboot=
dry_run=
while [ $# -gt 0 ]; do
	case $1 in
	--) shift; break ;;
	--no-reboot) no_reboot=1 ;;
	--private-ram) private_ram=1 ;;
	--dry-run) dry_run=1 ;;
	-h | --help) usage; exit 0 ;;
	--*=*)
		set -- "${1%%=*}" "${1#*=}" "${@:2}"
		continue
		;;
	--kernel | --initrd | --append | --cpus | --memory | --ram | --region | --region-size | \
		--disk | --console | --qmp | --machine | --accel | --tcg-thread)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in
		--kernel) kernel=$2 ;;
		--initrd) initrd=$2 ;;
		--append) append="$append $2" ;;
		--cpus) cpus=$2 ;;
		--memory) memory=$2 ;;
		--ram) ram=$2 ;;
		--region) regions+=("$2") ;;
		--region-size) region_size=$2 ;;
		--disk) disks+=("$2") ;;
		--console) console=$2 ;;
		--qmp) qmp=$2 ;;
		--machine) machine=$2 ;;
		--accel) accel=$2 ;;
		--tcg-thread) tcg_thread=$2 ;;
		esac
		shift
		;;
	*) bad_usage "unknown argument '$1'; QEMU's own go after --" ;;
	esac
	shift
done

# Prints a size, such as 64K, 512M or 4G, in bytes; a bare number means M, as it does to QEMU.
bytes() {
	[[ $1 =~ ^([0-9]{1,9})([KkMmGg]?)$ ]] || return 1
	case ${BASH_REMATCH[2]} in
	[Kk]) echo $((10#${BASH_REMATCH[1]} << 10)) ;;
	[Mm] | '') echo $((10#${BASH_REMATCH[1]} << 20)) ;;
	[Gg]) echo $((10#${BASH_REMATCH[1]} << 30)) ;;
	esac
}
# QEMU's option lists are cut at commas; a doubled one stands for itself.
esc() { echo "${1//,/,,}"; }

[[ $cpus =~ ^[1-9][0-9]*$ ]] || bad_usage "--cpus '$cpus' is not a number"
memory_bytes=$(bytes "$memory") || bad_usage "--memory '$memory' is not a size such as 512M or 4G"
region_bytes=$(bytes "$region_size") || bad_usage "--region-size '$region_size' is not a size such as 16M"
case $machine in q35 | pc) ;; *) bad_usage "--machine '$machine' is neither q35 nor pc" ;; esac
case $accel in auto | kvm | tcg) ;; *) bad_usage "--accel '$accel' is none of auto, kvm, tcg" ;; esac
case $tcg_thread in multi | single) ;; *) bad_usage "--tcg-thread '$tcg_thread' is neither multi nor single" ;; esac
[ -n "$initrd" ] || [ ${#disks[@]} -gt 0 ] ||
	bad_usage "no --initrd given: make one with tools/make-initramfs.sh"
[ -z "$initrd" ] || [ -r "$initrd" ] || die "cannot read the initrd '$initrd'"
command -v $qemu >/dev/null || die "'$qemu' is not installed: run tools/install-deps.sh"
[[ $kernel == */* || -f $kernel ]] || kernel=$("$here/fetch-kernel.sh" "$kernel")
[ -r "$kernel" ] || die "cannot read the kernel '$kernel'"

# Boots the kernel under KVM and waits for a sign from user space. Sets verdict and why.
kvm_trial() {
	local pid='' i sign='^user space runs' failure='KVM internal error|emulation failure|KVM: entry failed'
	say "trying whether $(basename "$kernel") runs under KVM here"
	tmp=$(mktemp -d)
	trap 'kill $pid 2>/dev/null; rm -rf "$tmp"' EXIT
	trap 'exit 1' HUP INT TERM
	echo 'echo user space runs' >"$tmp/run.sh"
	"$here/make-initramfs.sh" --run "$tmp/run.sh" "$tmp/initrd"
	(
		ulimit -c 0 # QEMU aborts on some hosts
		exec "$qemu" -no-user-config -nodefaults -display none -no-reboot -M "$machine" \
			-accel kvm -cpu host -smp 2 -m 256M -kernel "$kernel" -initrd "$tmp/initrd" \
			-append 'console=ttyS0 panic=-1 tsc=reliable' -serial "file:$tmp/console"
	) </dev/null >"$tmp/log" 2>&1 &
	pid=$!
	disown $pid
	verdict=tcg
	why='a trial guest under KVM did not reach user space within 15 seconds'
	for ((i = 0; i < 150; i++)); do
		kill -0 $pid 2>/dev/null || i=150 # it has ended: look once more
		if grep -qs "$sign" "$tmp/console"; then
			verdict=kvm
			why='a trial guest under KVM reached user space'
			break
		elif grep -qE "$failure" "$tmp/log"; then
			why="a trial guest under KVM failed: $(grep -m1 -E "$failure" "$tmp/log")"
			break
		elif [ $i = 150 ]; then
			why="a trial guest under KVM failed: $(grep -m1 . "$tmp/log" || echo 'it ended before user space ran')"
		fi
		sleep 0.1
	done
	kill $pid 2>/dev/null || :
	rm -rf "$tmp"
	trap - EXIT HUP INT TERM
	why=${why/"$qemu: "/}
}

# Sets verdict and why: whether this kernel runs under KVM on this host.
choose_accel() {
	local boot_id key file
	verdict=tcg
	[ -e /dev/kvm ] || { why='there is no /dev/kvm'; return; }
	if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then
		why='no permission for /dev/kvm: is this user in the group kvm?'
		return
	fi
	boot_id=$(cat /proc/sys/kernel/random/boot_id)
	key=$({
		uname -r
		$qemu --version
		echo "$machine"
		stat -Lc '%n %s %Y' "$kernel"
	} | sha256sum | cut -c 1-16)
	file=$cache/kvm-trial/$boot_id/$key
	if [ -s "$file" ]; then
		IFS='|' read -r verdict why <"$file"
		return
	fi
	kvm_trial
	mkdir -p "${file%/*}" || return 0
	find "$cache/kvm-trial" -mindepth 1 -maxdepth 1 ! -name "$boot_id" -exec rm -rf {} +
	echo "$verdict|$why" >"$file.$$" && mv -f "$file.$$" "$file"
}

if [ "$accel" = auto ]; then
	choose_accel
	if [ "$verdict" = kvm ]; then
		say "accelerator: kvm ($why)"
	else
		say "accelerator: tcg ($why)"
	fi
	accel=$verdict
fi
case $accel in
kvm) cpu=(-accel kvm -cpu host) ;;
# With cx16, guests from 6.12 on fault at random under QEMU 7.2's TCG. la57 is one more level of page tables to walk.
tcg) cpu=(-accel "tcg,thread=$tcg_thread" -cpu 'max,-cx16,-la57') ;;
esac

[ -z "$ram" ] || [ -z "$private_ram" ] || bad_usage '--ram and --private-ram exclude each other'
if [ -n "$ram" ]; then
	size=$(stat -Lc %s "$ram" 2>/dev/null || echo 0)
	[ "$size" = 0 ] || [ "$size" = "$memory_bytes" ] ||
		die "'$ram' has $size bytes but --memory is $memory_bytes: remove the file, or give its size"
	ram_object="memory-backend-file,id=ram,size=$memory_bytes,mem-path=$(esc "$ram"),share=on"
else
	ram_object="memory-backend-memfd,id=ram,size=$memory_bytes,share=on"
fi

cmd=(
	"$qemu" -no-user-config -nodefaults -display none
	-m "size=${memory_bytes}B"
	"${cpu[@]}" -smp "$cpus"
	-kernel "$kernel"
	# tsc=reliable: 6.1 guests would fall back to the slow hpet under TCG.
	# no_timer_check: on a busy host the check of the timer's interrupt may fail, and then panics.
	# cryptomgr.notests: its tests of itself take a second of a 6.12 guest's boot under TCG.
	-append "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check cryptomgr.notests$append"
)
if [ -n "$private_ram" ]; then
	cmd+=(-machine "$machine")
else
	cmd+=(-object "$ram_object" -machine "$machine,memory-backend=ram")
fi
[ -z "$initrd" ] || cmd+=(-initrd "$initrd")
[ -z "$no_reboot" ] || cmd+=(-no-reboot)
case $console in
stdio) if [ -t 0 ]; then cmd+=(-serial mon:stdio); else cmd+=(-serial stdio); fi ;;
*) cmd+=(-chardev "file,id=console,path=$(esc "$console")" -serial chardev:console) ;;
esac
[ -z "$qmp" ] || cmd+=(-qmp "unix:$(esc "$qmp"),server=on,wait=off")

for ((i = 0; i < ${#regions[@]}; i++)); do
	# A region that is there keeps its size: someone may have it mapped.
	size=$(stat -Lc %s "${regions[i]}" 2>/dev/null || echo 0)
	[ "$size" != 0 ] || size=$region_bytes
	((size >= 4096 && (size & (size - 1)) == 0)) ||
		die "region '${regions[i]}': $size bytes is not a power of two of at least 4K, as ivshmem wants"
	cmd+=(-object "memory-backend-file,id=region$i,size=$size,mem-path=$(esc "${regions[i]}"),share=on"
		-device "ivshmem-plain,id=ivshmem$i,memdev=region$i")
done
for ((i = 0; i < ${#disks[@]}; i++)); do
	[ -e "${disks[i]}" ] || die "there is no disk image '${disks[i]}': make one with truncate -s 64M"
	cmd+=(-drive "file=$(esc "${disks[i]}"),if=none,id=disk$i,format=raw"
		-device "virtio-blk-pci,drive=disk$i")
done
cmd+=("$@")

if [ -n "$dry_run" ]; then
	for word in "${cmd[@]}"; do
		case $word in
		*[!A-Za-z0-9_./,:=+@%-]*) printf '%s ' "${word@Q}" ;;
		*) printf '%s ' "$word" ;;
		esac
	done
	echo
	exit 0
fi
exec "${cmd[@]}"

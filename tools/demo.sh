#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# First light: everything from a bare Debian 12 machine to a guest's kernel
# events on this terminal. Installs packages, builds, fetches a guest kernel,
# boots a VM with guest-agent in it, works in it, and shows what host-reader
# reads from the VM's memory.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: demo.sh [options]

Options:
  --kernel VERSION   guest kernel: 6.1 (default), 6.12, or see fetch-kernel.sh
  --cpus N           virtual CPUs (default: 2)
  --seconds N        how long the guest works (default: 10)
  --events LIST      show only these events, e.g. 'sched_switch,sys_*' (default: all)
  --summary          do not show events as they happen, only the summary
  --no-install       do not install packages
  -h, --help         this text
USAGE
}

say() { echo "demo: $*" >&2; }
bad_usage() { say "$* (see --help)"; exit 2; }

top=$(dirname "$(dirname "$(readlink -f "$0")")")
kernel=6.1
cpus=2
seconds=10
view=()
install=1
while [ $# -gt 0 ]; do
	case $1 in
	--kernel | --cpus | --seconds | --events)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in
		--kernel) kernel=$2 ;;
		--cpus) cpus=$2 ;;
		--seconds) seconds=$2 ;;
		--events) view+=(--events "$2") ;;
		esac
		shift 2
		;;
	--summary) view+=(--view summary); shift ;;
	--no-install) install=; shift ;;
	-h | --help) usage; exit 0 ;;
	*) bad_usage "unknown argument '$1'" ;;
	esac
done

step() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
[ -t 2 ] || step() { printf '\n== %s\n' "$*" >&2; }

if [ -n "$install" ]; then
	step 'packages'
	"$top/tools/install-deps.sh"
fi
step 'build'
[ -f "$top/build/build.ninja" ] || meson setup "$top/build" "$top" > /dev/null
# What is shown; "ninja -C build" makes the rest.
ninja -C "$top/build" host-reader/host-reader guest-agent/guest-agent tests/workload >&2

step "guest kernel $kernel"
vmlinuz=$("$top/tools/fetch-kernel.sh" "$kernel")

dir=$(mktemp -d /dev/shm/htrace-demo-XXXXXX)
vm=
cleanup() {
	[ -z "$vm" ] || kill "$vm" 2> /dev/null || true
	rm -rf "$dir"
}
trap cleanup EXIT

step 'initramfs'
cat > "$dir/run.sh" <<GUEST
#!/bin/sh
hostname demo-guest
guest-agent &
agent=\$!
# What a machine does: programs that start, talk through pipes, read files, sleep.
end=\$((\$(cut -d. -f1 /proc/uptime) + $seconds))
while [ "\$(cut -d. -f1 /proc/uptime)" -lt "\$end" ]; do
	ls -l /proc/self | grep -c fd > /dev/null
	cat /proc/meminfo /proc/loadavg > /tmp/report
	workload mix 0.02 1
	sleep 0.2
done
kill -TERM \$agent
wait \$agent
GUEST
"$top/tools/make-initramfs.sh" --kernel "$vmlinuz" --run "$dir/run.sh" \
	--add "$top/build/guest-agent/guest-agent:/bin/" --add "$top/build/tests/workload:/bin/" \
	"$dir/initrd"

step 'virtual machine'
"$top/tools/run-vm.sh" --kernel "$vmlinuz" --initrd "$dir/initrd" --cpus "$cpus" \
	--region "$dir/region" --console "$dir/console" --no-reboot < /dev/null 2> "$dir/vm.log" &
vm=$!
for _ in $(seq 100); do
	[ -s "$dir/region" ] && break
	kill -0 "$vm" 2> /dev/null || { cat "$dir/vm.log" >&2; exit 1; }
	sleep 0.2
done
cat "$dir/vm.log" >&2

step 'the guest, live (the VM runs for itself; this reads its memory)'
"$top/build/host-reader/host-reader" "${view[@]}" --duration "$((seconds + 60))" \
	"ivshmem:$dir/region" &
reader=$!
# Whichever ends first: the guest after its work, or the reader (its output closed, say).
wait -n "$vm" "$reader" || true
status=0
if kill -0 "$vm" 2> /dev/null; then
	wait "$reader" || status=$?
	if [ "$status" != 0 ]; then
		say "the guest still runs; its console says:"
		tail -n 20 "$dir/console" >&2
	fi
	exit "$status"
fi
vm=
kill -INT "$reader" 2> /dev/null || true
wait "$reader" || status=$?
if [ "$status" != 0 ]; then
	say "host-reader failed; the guest's console said:"
	tail -n 20 "$dir/console" >&2
fi
exit "$status"

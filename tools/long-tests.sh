#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Repeats those tests that attack, kill, overflow and compare, for hours: what
# happens once in a thousand times. Prints a line for docs/testing.md.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: long-tests.sh [--hours N] [--only REGEX] [--build DIR] [--log DIR]
       long-tests.sh --timeline MINUTES [--build DIR]
       long-tests.sh --units [--build DIR]

  --hours N      how long, fractions allowed (default: 8); the last round is finished
  --only REGEX   which tests (default: truth, loss, relay, survival, hostile, built_in,
                 tracepoints, drivers, sinks, capture, lend, filter, stacks, stress,
                 faults, kvm, vcpus, one_clock, timeline, dead, snapshot, many, vandal (a minute
                 of it), strings, nested, linux_guest, host_disk, functions, view, view_io,
                 hypercalls, boot, crash, compress, compass, and the unit tests of the ring
                 and of CTF)
  --build DIR    what to test (default: build-test, as tools/test.sh leaves it)
  --log DIR      where the rounds' outputs go (default: a new directory in /tmp)
  --timeline N   instead, for N minutes each (at most 12): what caused what across the border of two VMs
                 and the host, in order on one clock; emulated VMs first (one_clock), then two guests on KVM in
                 one (timeline). Takes some 2 GiB more of memory, and 0.5 of /dev/shm. The same with Linux guests, as
                 long as QEMU does not fall there:
                 HTRACE_LINUX_GUEST=1 HTRACE_TIMELINE_SECONDS=600 tests/run.py --only linux_guest.two_guests
  --units        instead: both units for systemd, run by systemd in a guest (2 minutes); takes
                 systemd's files from this machine, which is to be Debian 12

Exit status 0 if every round passed. A round that failed does not end the run.
USAGE
}

bad_usage() { echo "long-tests: $* (see --help)" >&2; exit 2; }

top=$(dirname "$(dirname "$(readlink -f "$0")")")
hours=8
only='^(truth|loss|relay|survival|hostile|built_in|tracepoints|drivers|sinks|capture|lend|linux_guest|host_disk|functions|view|view_io|hypercalls|boot|crash|compress|compass|nested|filter|stacks|stress|faults|kvm|vcpus|one_clock|timeline|dead|snapshot|many|vandal|strings)\.|^unit\.test_(ring|schedules|region|relay|vshmem|sink_ctf)$'
build=$top/build-test
log=
units=
export HTRACE_LINUX_GUEST=1 HTRACE_THOROUGH=1 # else they are left out
timeline=
while [ $# -gt 0 ]; do
	case $1 in
	--hours | --only | --build | --log | --timeline)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in
		--hours) hours=$2 ;;
		--only) only=$2 ;;
		--build) build=$2 ;;
		--log) log=$2 ;;
		--timeline) timeline=$2 ;;
		esac
		shift 2
		;;
	--units) units=1; shift ;;
	-h | --help) usage; exit 0 ;;
	*) bad_usage "unknown argument '$1'" ;;
	esac
done
[[ $hours =~ ^[0-9]+(\.[0-9]+)?$ ]] || bad_usage "--hours '$hours' is not a number"
[ -f "$build/build.ninja" ] || bad_usage "there is no build in $build: tools/test.sh makes one, --build names another"
[ -z "$units" ] || exec "$top/tests/system/units.py" --build "$build"
if [ -n "$timeline" ]; then
	[[ $timeline =~ ^[0-9]+$ ]] && [ "$timeline" -ge 1 ] && [ "$timeline" -le 12 ] ||
		bad_usage "--timeline '$timeline' is no number of minutes from 1 to 12"
	export HTRACE_CLOCK_SECONDS=$((timeline * 60)) HTRACE_TIMELINE_SECONDS=$((timeline * 60))
	exec "$top/tests/run.py" --build "$build" --only '^one_clock\.pairs|^timeline\.'
fi
[ -n "$log" ] || log=$(mktemp -d /tmp/htrace-long.XXXXXX)
mkdir -p "$log"

export HTRACE_VANDAL_SECONDS=${HTRACE_VANDAL_SECONDS:-60}

seconds=$(awk -v h="$hours" 'BEGIN { printf "%d", h * 3600 }')
rounds=0 failed=0 passed=0
commit=$(git -C "$top" describe --always --dirty 2>/dev/null || echo unknown)
SECONDS=0
while [ "$SECONDS" -lt "$seconds" ] || [ "$rounds" = 0 ]; do
	rounds=$((rounds + 1))
	out=$log/round$rounds
	"$top/tests/run.py" --build "$build" --only "$only" >"$out" 2>&1 || :
	last=$(tail -n 1 "$out")
	[[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed ]] ||
		{ echo "long-tests: round $rounds ended without a result; see $out" >&2; exit 1; }
	passed=$((passed + BASH_REMATCH[1]))
	failed=$((failed + BASH_REMATCH[2]))
	echo "round $rounds, $((SECONDS / 60)) minutes: $last"
	grep '^FAILED' "$out" || :
done
again=$(cat "$log"/round* | grep -c 'a fault of the emulation; once more' || :)
echo "| $(date +%F) | $commit | $(awk -v s=$SECONDS 'BEGIN { printf "%.1f", s / 3600 }') | $rounds | $passed | $failed | $again |"
echo "outputs are in $log"
[ "$failed" = 0 ]

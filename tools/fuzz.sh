#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Long runs of the fuzz targets (tests/fuzz), one after the other, with corpora
# that grow outside of the tree. Prints a table for docs/testing.md.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: fuzz.sh [--minutes N] [--corpus DIR] [--take] [TARGET...]

  --minutes N    of each target, fractions allowed (default: 10)
  --corpus DIR   corpora that grow, and what was found (default: build-fuzz/corpus)
  --take         afterwards copy those few inputs into tests/fuzz/corpus that reach
                 code which no input there does
  TARGET...      which (default: all):
USAGE
	python3 "$top/tests/fuzz/targets.py" names | paste -sd ' ' | fold -s -w 60 | sed 's/^/                 /'
	cat <<'USAGE'

What is found is kept as DIR/found-TARGET-*: run build-fuzz/TARGET on it, mend what
it shows, and put it into tests/fuzz/corpus/TARGET. Exit status 0 if nothing was.
USAGE
}

bad_usage() { echo "fuzz: $* (see --help)" >&2; exit 2; }

top=$(dirname "$(dirname "$(readlink -f "$0")")")
build=$top/build-fuzz
minutes=10
corpus=$build/corpus
take=
targets=()
while [ $# -gt 0 ]; do
	case $1 in
	--minutes | --corpus)
		[ $# -ge 2 ] || bad_usage "$1 needs a value"
		case $1 in
		--minutes) minutes=$2 ;;
		--corpus) corpus=$2 ;;
		esac
		shift 2
		;;
	--take) take=1; shift ;;
	-h | --help) usage; exit 0 ;;
	-*) bad_usage "unknown option '$1'" ;;
	*) targets+=("$1"); shift ;;
	esac
done
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || bad_usage "--minutes '$minutes' is not a number"
mapfile -t known < <(python3 "$top/tests/fuzz/targets.py" names)
for t in "${targets[@]}"; do
	[[ " ${known[*]} " == *" $t "* ]] || bad_usage "unknown target '$t'; there are: ${known[*]}"
done
[ ${#targets[@]} -gt 0 ] || targets=("${known[@]}")

seconds=$(awk -v m="$minutes" 'BEGIN { s = int(m * 60); print (s > 0 ? s : 1) }')
commit=$(git -C "$top" describe --always --dirty 2>/dev/null || echo unknown)
python3 "$top/tests/fuzz/targets.py" build fuzz "$build" "${targets[@]}"
while read -r setting; do
	export "${setting?}"
done < <(python3 "$top/tests/fuzz/targets.py" environment)

# Files that are written all the time: in memory.
work=$(mktemp -d "$([ -d /dev/shm ] && echo /dev/shm || echo /tmp)/htrace-fuzz.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

bad=0
for t in "${targets[@]}"; do
	mkdir -p "$corpus/$t" "$work/$t"
	log=$corpus/log-$t
	read -ra options <<<"$(python3 "$top/tests/fuzz/targets.py" options "$t")"
	seeds=()
	[ ! -d "$top/tests/fuzz/corpus/$t" ] || seeds=("$top/tests/fuzz/corpus/$t")
	status=0
	TMPDIR=$work/$t "$build/$t" "${options[@]}" -use_value_profile=1 -print_final_stats=1 \
		"-max_total_time=$seconds" "-artifact_prefix=$corpus/found-$t-" \
		"$corpus/$t" "${seeds[@]}" >"$log" 2>&1 || status=$?
	rm -rf "${work:?}/$t"
	runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
	rate=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
	edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
	found=-
	if [ "$status" != 0 ]; then
		bad=1
		found=$(grep -m1 -oE 'not so: .*|runtime error: .*|ERROR: (AddressSanitizer|libFuzzer|LeakSanitizer): [^(]*' "$log" || echo "exit $status")
		echo "fuzz: $t: $found; see $log" >&2
	fi
	echo "| $(date +%F) | $commit | $t | $minutes | ${runs:--} | ${rate:--} | ${edges:--} | $found |"
	[ -z "$take" ] || python3 "$top/tests/fuzz/targets.py" pick "$build/$t" "$t" "$corpus/$t" "$work"
done
echo "corpora and logs are in $corpus"
exit $bad

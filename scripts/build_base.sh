#!/bin/sh
# Builds a base image from Debian's packages where none can be pulled: build_base.sh FILE.tar
#
# FILE.tar is a root file system with Python 3.11 for `docker import`. Needs root and debootstrap.
set -eu

file=$1

refuse() { printf '%s\n' "$*" >&2; exit 5; }

[ "$(uname -m)" = x86_64 ] || refuse "the base image can be built on x86-64 only, not on $(uname -m)"
[ "$(id -u)" = 0 ] || refuse "building the base image from Debian's packages takes root"
command -v debootstrap >/dev/null || refuse "debootstrap is not there: apt-get install debootstrap"

work=$(mktemp -d)
# Should debootstrap be killed, its /proc may still be mounted in there.
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 143' TERM INT
root=$work/root

debootstrap --arch=amd64 --variant=minbase --include=python3,python3-venv,ca-certificates \
  bookworm "$root" >&2

rm -rf "$root"/var/cache/apt/* "$root"/var/cache/debconf/* "$root"/var/lib/apt/lists/* \
  "$root"/var/log/* "$root"/usr/share/man "$root"/usr/share/info "$root"/usr/share/locale
find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/dev" -mindepth 1 -delete

tar --create --numeric-owner --sort=name --file "$file" --directory "$root" .

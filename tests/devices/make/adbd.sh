#!/bin/sh
# AOSP's adb daemon from Debian's source package android-platform-tools, into the new folder $1: the program, the
# libraries that it needs and their loader, so that it also runs below a chroot. Needs apt's source entries.
set -eu
out=$1 version=29.0.6
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
. /etc/os-release
echo "deb-src http://deb.debian.org/debian $VERSION_CODENAME main" >sources.list
mkdir lists
apt="apt-get -q -o Dir::Etc::sourcelist=$work/sources.list -o Dir::Etc::sourceparts=- -o Dir::State::lists=$work/lists"
$apt update
$apt source --download-only android-platform-tools
tar xzf android-platform-tools_$version.orig.tar.gz
tar xf android-platform-tools_$version-*.debian.tar.xz
cd android-platform-tools-$version
cp -r ../debian .
QUILT_PATCHES=debian/patches quilt push -q -a
sh "$here/adbd_build.sh" "$PWD" "$work/adbd"
mkdir -p "$out"
cp "$work/adbd" "$out/"
ldd "$work/adbd" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p; s/^[[:space:]]*\(\/[^ ]*ld-linux[^ ]*\).*/\1/p' | xargs -I{} cp -L {} "$out/"

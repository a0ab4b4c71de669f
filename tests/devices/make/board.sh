#!/bin/sh
# What an emulated ARM board boots, into the new folder $1: Debian's kernel for arm64 (`kernel`) and the arm64 root with
# that kernel's modules as its first and only file system (`root.cpio`). Needs root, for the owners of files.
set -eu
out=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out"
sh "$here/arm64.sh" "$out/root" linux-image-cloud-arm64,kmod,iproute2
mv "$out"/root/boot/vmlinuz-* "$out/kernel"
rm -rf "$out/root/boot"
cp "$here/board_init.sh" "$out/root/init"
chmod 755 "$out/root/init"
(cd "$out/root" && find . | cpio -o -H newc --quiet) >"$out/root.cpio"
rm -rf "$out/root"

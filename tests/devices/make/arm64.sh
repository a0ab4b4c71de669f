#!/bin/sh
# A Debian arm64 root in the new folder $1, with Python, an ssh server and the packages $2 (commas between them); needs
# root. Packages are only unpacked, so nothing runs under emulation here. What their install scripts would have made and
# the tests need stands below.
set -eu
root=$1
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
debootstrap --foreign --arch=arm64 --variant=minbase --keyring=$keyring \
    --include="python3-minimal,libpython3-stdlib,python3-distutils,openssh-server,openssh-sftp-server${2:+,$2}" \
    bookworm "$root" http://deb.debian.org/debian
for package in "$root"/var/cache/apt/archives/*.deb; do dpkg-deb --fsys-tarfile "$package" | tar x -C "$root" --keep-directory-symlink; done
rm -rf "$root"/var/cache/apt/archives "$root"/debootstrap "$root"/usr/share/doc "$root"/usr/share/locale
cp "$root"/usr/share/base-passwd/passwd.master "$root"/etc/passwd
cp "$root"/usr/share/base-passwd/group.master "$root"/etc/group
echo 'sshd:x:100:65534::/run/sshd:/usr/sbin/nologin' >>"$root"/etc/passwd
sed -i 's|^root:[^:]*:|root:x:|' "$root"/etc/passwd
printf 'root:*:19700:0:99999:7:::\n' >"$root"/etc/shadow  # no password: keys only
rm -rf "$root"/proc "$root"/dev && mkdir "$root"/proc "$root"/dev  # links to themselves and device files: mounted in use
mkdir -p "$root"/run/sshd "$root"/root/.ssh "$root"/opt/rt "$root"/data/local/tmp
chmod 700 "$root"/root "$root"/root/.ssh

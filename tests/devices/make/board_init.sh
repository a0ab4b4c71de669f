#!/bin/sh
# The first process of an emulated board: file systems, the network of qemu's user mode, the ssh server.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
depmod
modprobe virtio_pci
modprobe virtio_net
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
hostname board
exec /usr/sbin/sshd -D -e -f /etc/edge-deploy-test/sshd_config

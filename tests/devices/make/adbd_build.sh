#!/bin/sh
# Compiles adbd in the unpacked and patched source $1 into the program $2.
set -eu
source=$1 program=$2
cd "$source/system/core"
# Three edits: Clang's annotations, listening on loopback only and not on vsock, and a check that errno alone misleads.
sed -i 's/^#define THREAD_ANNOTATION_ATTRIBUTE__(x).*/#define THREAD_ANNOTATION_ATTRIBUTE__(x)/' base/include/android-base/thread_annotations.h
sed -i 's|StringPrintf("tcp:%d", port)|StringPrintf("tcp:localhost:%d", port)|; s|addrs.push_back(android::base::StringPrintf("vsock:%d", port));||' adb/daemon/main.cpp
sed -i 's/if (errno == EAFNOSUPPORT || errno == EINVAL || errno == EPROTONOSUPPORT) {/if (serverfd < 0 \&\& (errno == EAFNOSUPPORT || errno == EINVAL || errno == EPROTONOSUPPORT)) {/' adb/transport_local.cpp
sources="adb/adb.cpp adb/adb_io.cpp adb/adb_listeners.cpp adb/adb_trace.cpp adb/adb_unique_fd.cpp adb/adb_utils.cpp
adb/fdevent/fdevent.cpp adb/fdevent/fdevent_poll.cpp adb/fdevent/fdevent_epoll.cpp adb/services.cpp adb/sockets.cpp
adb/socket_spec.cpp adb/sysdeps/errno.cpp adb/transport.cpp adb/transport_fd.cpp adb/transport_local.cpp
adb/transport_usb.cpp adb/types.cpp adb/sysdeps_unix.cpp adb/sysdeps/posix/network.cpp adb/daemon/auth.cpp
adb/daemon/jdwp_service.cpp adb/daemon/usb_dummy.cpp adb/daemon/file_sync_service.cpp adb/daemon/services.cpp
adb/daemon/shell_service.cpp adb/shell_service_protocol.cpp adb/daemon/main.cpp
adb/adbconnection/adbconnection_server.cpp diagnose_usb/diagnose_usb.cpp
../../frameworks/native/libs/adbd_auth/adbd_auth.cpp libcrypto_utils/android_pubkey.c libasyncio/AsyncIO.cpp"
includes="adb adb/daemon/include adb/adbconnection/include base/include include diagnose_usb/include
libcrypto_utils/include libasyncio/include libcutils/include liblog/include libutils/include
../../frameworks/native/libs/adbd_auth/include /usr/include/android"
flags="-O1 -w -fpermissive -fPIC -D_GNU_SOURCE -UADB_HOST -DADB_HOST=0 -DALLOW_ADBD_ROOT=1 -DALLOW_ADBD_NO_AUTH
-DALLOW_ADBD_DISABLE_VERITY -DADB_VERSION=\"29.0.6-debian\" -DPLATFORM_TOOLS_VERSION=\"29.0.6\""
for folder in $includes; do flags="$flags -I$folder"; done
mkdir objects
compile() {
    object=objects/$(echo "$1" | tr '/.' '__').o
    case $1 in
        *.c) g++ -c -std=gnu11 -x c $flags "$1" -o "$object" ;;
        *file_sync*) g++ -c -std=gnu++2a -include atomic -include optional -include libcutils/include/private/fs_config.h $flags "$1" -o "$object" ;;
        *) g++ -c -std=gnu++2a -include atomic -include optional $flags "$1" -o "$object" ;;
    esac
}
for file in $sources; do compile "$file"; done
libraries=/usr/lib/$(gcc -print-multiarch)/android
g++ -o "$program" objects/*.o -L"$libraries" -Wl,-rpath,"$libraries" -lbase -lcrypto -lcutils -llog -lcap -lpthread -lresolv -lutil

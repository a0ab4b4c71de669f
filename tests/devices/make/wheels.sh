#!/bin/sh
# Runtimes for Python 3.11 on arm64 into the new folder $1, fetched by the pip $2; the other arguments are what to install.
set -eu
to=$1 pip=$2
shift 2
platforms=
for glibc in 17 24 26 27 28 31 34 35 36; do platforms="$platforms --platform manylinux_2_${glibc}_aarch64"; done
# shellcheck disable=SC2086
"$pip" --disable-pip-version-check install -q --only-binary=:all: --implementation cp --python-version 3.11 \
    --abi cp311 --abi abi3 --abi none $platforms --platform manylinux2014_aarch64 --platform any --target "$to" "$@"

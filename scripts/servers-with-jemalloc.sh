#!/usr/bin/env bash
# Builds the servers of the tests, Redis 7.0 and 8.0 and Valkey 8.1, with the jemalloc that their sources bring, into
# .tools/servers/own-jemalloc. Debian's packages use the system's, which cannot tell what lies scattered: with them no
# server moves data while it runs (active defragmentation), and what the module does for it could not be tried.
#
# The sources are Debian's. Takes some minutes, once. Prints nothing if all is there; fails if something can't be had.
set -euo pipefail
cd "$(dirname "$0")/.."
servers=$PWD/.tools/servers
. scripts/debian.sh
built=$servers/own-jemalloc

# build NAME SUITE SOURCE: makes the server of a source package, as .tools/servers/own-jemalloc/NAME.
build() {
    local name=$1 suite=$2 source=$3
    [ ! -x "$built/$name" ] || return 0
    echo "servers-with-jemalloc: building $name from the sources of Debian $suite (once)"
    download deb-src "$suite" --download-only --only-source source "$source"
    mkdir "$work/source"
    tar -x -C "$work/source" --strip-components=1 --no-same-owner -f "$work"/root/"$source"_*.orig.tar.*
    # Optimised less: it is built oftener than it serves.
    make -C "$work/source/src" -j"$(nproc)" MALLOC=jemalloc OPTIMIZATION=-O1 "$source-server" >"$work/log" 2>&1 || {
        tail -n 10 "$work/log" >&2
        give_up "$name could not be built"
    }
    mkdir -p "$built"
    mv "$work/source/src/$source-server" "$built/$name"
    forget_download
}

build redis-7.0 bookworm redis
build redis-8.0 trixie redis
build valkey-8.1 trixie valkey

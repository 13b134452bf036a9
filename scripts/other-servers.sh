#!/usr/bin/env bash
# Brings the servers that the tests compare beside the machine's own Redis: Redis 7.0 (where the
# machine has another), Redis 8.0 and Valkey 8.1, from Debian's packages, into .tools/servers.
#
# Nothing is installed and no root is needed: apt downloads the packages and all they depend on,
# their C library too, into a private folder, and each server is started by its own dynamic loader.
# So it works on other Debian releases and in containers, where a chroot may be forbidden.
#
# Prints nothing if all is there. Fails if something can't be had; `make test` then skips those
# servers, and CI does not.
set -euo pipefail
cd "$(dirname "$0")/.."
servers=$PWD/.tools/servers
. scripts/debian.sh

# fetch SUITE PACKAGE...: unpacks the packages of a Debian release into .tools/servers/SUITE.
fetch() {
    local suite=$1 root=$servers/$1
    shift
    echo "other-servers: fetching $* of Debian $suite into ${root#"$PWD"/} (nothing is installed)"
    download deb "$suite" --download-only install "$@"
    local package
    for package in "$work"/cache/archives/*.deb; do
        # Old packages hold /lib, new ones /usr/lib: the same folder on a Debian of today.
        dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/root" --no-same-owner \
            --exclude='./usr/share' --exclude='./var' --exclude='./etc' \
            --transform='s,^\./lib,./usr/lib,;s,^\./bin,./usr/bin,'
    done
    rm -rf "$root"
    mv "$work/root" "$root"
    forget_download
}

# starter NAME SUITE PROGRAM: writes .tools/servers/NAME, which runs PROGRAM of the unpacked SUITE.
starter() {
    local root=$servers/$2 loader libraries
    loader=$(find "$root/usr" -type f -name 'ld-linux*.so.*' | head -n1)
    libraries=$(dirname "$(find "$root/usr/lib" -name libc.so.6 | head -n1)")
    [ -n "$loader" ] || give_up "no dynamic loader among the packages of Debian $2"
    cat >"$servers/$1" <<STARTER
#!/bin/sh
here=\$(dirname "\$0")
exec "\$here/${loader#"$servers"/}" --library-path "\$here/${libraries#"$servers"/}" "\$here/$2/usr/bin/$3" "\$@"
STARTER
    chmod +x "$servers/$1"
    "$servers/$1" --version >/dev/null || {
        rm -f "$servers/$1"
        give_up "$1 does not start"
    }
}

if ! redis-server --version 2>/dev/null | grep -q 'v=7\.0\.' && [ ! -x "$servers/redis-7.0" ]; then
    fetch bookworm redis-server
    starter redis-7.0 bookworm redis-server
fi
if [ ! -x "$servers/redis-8.0" ] || [ ! -x "$servers/valkey-8.1" ]; then
    fetch trixie redis-server valkey-server
    starter redis-8.0 trixie redis-server
    starter valkey-8.1 trixie valkey-server
fi

#!/usr/bin/env bash
# Installs what this project needs on a Debian machine, and only what is missing.
#
#   scripts/setup.sh build    a Rust toolchain and what the module and Pingora need to compile
#   scripts/setup.sh demo     build, and a Redis server and Python for the demo shop
#   scripts/setup.sh test     demo, and the clients in other languages that the tests drive
#   scripts/setup.sh bench    test, and the tools that count instructions and send load
#
# A second run finds everything in place, prints nothing and takes no time.
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-build}
case $purpose in
build | demo | test | bench) ;;
*)
    echo "usage: scripts/setup.sh build|demo|test|bench" >&2
    exit 2
    ;;
esac

needs() { # needs PURPOSE: is what PURPOSE needs also needed now?
    case "$purpose:$1" in
    *:build | demo:demo | test:demo | test:test | bench:*) return 0 ;;
    *) return 1 ;;
    esac
}

missing=()
reasons=()
want() { # want PACKAGES REASON: they are missing
    missing+=($1)
    reasons+=("$2")
}
has() { command -v "$1" >/dev/null 2>&1; }
has_libclang() {
    # bindgen loads libclang at run time and needs clang's own headers beside it.
    [ -n "${LIBCLANG_PATH:-}" ] || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null
}

has curl || want curl "curl (downloads the Rust toolchain, tries the demo)"
[ -e /etc/ssl/certs/ca-certificates.crt ] || want ca-certificates "certificates (cargo's downloads)"
has cc || want "gcc libc6-dev" "a C compiler (C parts of TLS and compression)"
has c++ || want "g++" "a C++ compiler (cmake's projects)"
has make || want make "make"
has pkg-config || want pkg-config "pkg-config (finds C libraries)"
has cmake || want cmake "cmake (Pingora's zlib-ng)"
has_libclang || want libclang-dev "libclang (bindings to the Redis module API)"

if needs demo; then
    has redis-server || want redis-server "redis-server (holds the stock)"
    has redis-cli || want redis-tools "redis-cli"
    has python3 || want python3 "Python (the demo shop)"
fi
if needs test; then
    scripts/python-with-redis.sh >/dev/null 2>&1 || want python3-redis "redis-py (tests drive the module from Python)"
    has node && has npm || want "nodejs npm" "Node.js (tests drive a sharded sale with ioredis)"
    has dpkg-deb || want dpkg "dpkg-deb (unpacks other Redis versions)"
    has xz || want xz-utils "xz (unpacks the source of Valkey)"
fi
if needs bench; then
    has valgrind || want valgrind "valgrind (counts instructions)"
    has wrk || want wrk "wrk (HTTP load)"
    has nginx || [ -x /usr/sbin/nginx ] || want nginx-light "nginx (what the edge is measured beside)"
    has taskset || want util-linux "taskset (a core for each)"
fi

stop_service() { # stop_service NAME: and it does not start again by itself
    if [ -d /run/systemd/system ]; then
        "${as_root[@]}" systemctl disable --now "$1.service" >/dev/null 2>&1 || true
    elif [ -x "/etc/init.d/$1" ]; then
        "${as_root[@]}" "/etc/init.d/$1" stop >/dev/null 2>&1 || true
    fi
}

install_packages() {
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! has sudo; then
            echo "setup: please install as root: apt-get install ${missing[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    if ! has apt-get; then
        echo "setup: this is no Debian machine; please install by its own means: ${missing[*]}" >&2
        exit 1
    fi
    local why
    printf -v why '%s, ' "${reasons[@]}"
    echo "setup: installing ${missing[*]} for ${why%, }"

    # Debian starts a service when it installs one. This project starts its own servers on free ports,
    # so a Redis on 6379 or an nginx on 80 that was not there before must not be there afterwards.
    local redis_was_installed=no
    has redis-server && redis_was_installed=yes

    local nginx_was_installed=no
    [ -x /usr/sbin/nginx ] && nginx_was_installed=yes

    local log
    log=$(mktemp)
    export DEBIAN_FRONTEND=noninteractive
    if ! { "${as_root[@]}" apt-get -q update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -q -y --no-install-recommends install "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        echo "setup: apt-get failed; everything it said is in $log" >&2
        exit 1
    fi
    rm -f "$log"

    [ $redis_was_installed = yes ] || stop_service redis-server
    [ $nginx_was_installed = yes ] || stop_service nginx
}
[ ${#missing[@]} -eq 0 ] || install_packages

# --- Rust ---------------------------------------------------------------------------------------
. scripts/rust-env.sh
minimum=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if ! has cargo; then
    installer=$(mktemp)
    if curl --proto '=https' --tlsv1.2 -sSf -o "$installer" https://sh.rustup.rs 2>/dev/null; then
        echo "setup: installing Rust by rustup into ~/.cargo (no cargo was found)"
        sh "$installer" -y -q --no-modify-path --profile minimal -c rustfmt -c clippy </dev/null
        . scripts/rust-env.sh
    fi
    rm -f "$installer"
fi
if ! has cargo; then
    echo "setup: Rust $minimum or newer is needed and rustup could not be downloaded: see https://rustup.rs" >&2
    exit 1
fi
found=$(rustc --version | cut -d' ' -f2)
if [ "$(printf '%s\n%s\n' "$minimum" "$found" | sort -V | head -n1)" != "$minimum" ]; then
    echo "setup: Rust $minimum or newer is needed, this is $found: run 'rustup update stable'" >&2
    exit 1
fi
if needs test; then
    for component in rustfmt:rustfmt clippy:cargo-clippy; do
        has "${component#*:}" || rustup component add "${component%:*}"
    done
fi

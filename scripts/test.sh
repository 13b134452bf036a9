#!/usr/bin/env bash
# Checks, builds and tests everything. The runner's own line that counts the tests comes last.
#
#   scripts/test.sh all       what `make test` and CI run
#   scripts/test.sh faults    only the tests that kill, stop and starve servers
#   scripts/test.sh nightly   all, with many more random cases, the long tests, the fuzzer and memcheck
set -euo pipefail
cd "$(dirname "$0")/.."
which_tests=${1:-all}

step() { printf '\n== %s\n' "$*"; }

scripts/setup.sh test
. scripts/rust-env.sh

# Redis 8.0 and Valkey 8.1 may be out of reach of a developer on a train; never in CI.
if ! scripts/other-servers.sh; then
    if [ -n "${CI:-}" ]; then
        echo "test: CI must test every server version, and could not get them" >&2
        exit 1
    fi
    echo "test: SKIPPING the server versions that are not here; the tests run on the others"
fi
if ! scripts/servers-with-jemalloc.sh; then
    if [ -n "${CI:-}" ]; then
        echo "test: CI must test active defragmentation, and could not build servers that can do it" >&2
        exit 1
    fi
    echo "test: SKIPPING active defragmentation, which needs servers with a jemalloc of their own"
fi
[ -z "${CI:-}" ] || export FLASHSALE_ALL_SERVERS=required
FLASHSALE_PYTHON=$(scripts/python-with-redis.sh --install)
export FLASHSALE_PYTHON
if ! scripts/node-with-ioredis.sh --install >/dev/null; then
    if [ -n "${CI:-}" ]; then
        echo "test: CI must test the Node.js client, and could not get it" >&2
        exit 1
    fi
    echo "test: SKIPPING what runs with Node.js and ioredis"
fi

if [ "$which_tests" != faults ]; then
    step "cargo fmt"
    cargo fmt --all --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check
    step "cargo clippy"
    cargo clippy --workspace --all-targets --locked -- -D warnings
    # A workspace of its own, which nothing else here compiles.
    cargo clippy --manifest-path fuzz/Cargo.toml --locked -- -D warnings
fi

# The system tests start the module and the proxy as they are built here: one profile, so that the
# heavy dependencies are compiled once.
step "cargo build"
# First the module with faults on demand, for the tests that prove that a bug stops a command and not the server.
cargo build -p flashsale-module --features fault-injection --locked
cp "${CARGO_TARGET_DIR:-target}/debug/libflashsale.so" "${CARGO_TARGET_DIR:-target}/debug/libflashsale-faulty.so"
cargo build --workspace --lib --bins --tests --locked

runner=test
cargo nextest --version >/dev/null 2>&1 && runner=nextest

if [ "$which_tests" != faults ]; then
    step "documentation examples"
    cargo test --workspace --doc --locked -q
fi

case $which_tests in
all)
    step "tests"
    if [ $runner = nextest ]; then
        exec cargo nextest run --workspace --locked --no-fail-fast
    else
        exec cargo test --workspace --lib --bins --tests --locked --no-fail-fast
    fi
    ;;
faults)
    step "tests of faults"
    # Files of tests/ that are about servers which die, stop or lose each other.
    if [ $runner = nextest ]; then
        exec cargo nextest run --workspace --locked --no-fail-fast \
            -E 'package(flashsale-tests) and test(/^(blocking|cluster|durability|edge_durability|hostile_data|paused_servers|redis_away|relay|replication|whole_path)/)'
    else
        exec cargo test -p flashsale-tests --test system --locked --no-fail-fast -- \
            blocking:: cluster:: durability:: hostile_data:: paused_servers:: redis_away:: relay replication:: whole_path::
    fi
    ;;
nightly)
    FUZZ_SECONDS=${FUZZ_SECONDS:-600} scripts/fuzz.sh
    step "memcheck"
    VALGRIND_COMMANDS=${VALGRIND_COMMANDS:-50000} scripts/valgrind.sh
    step "tests, long"
    # Read by the property tests: how many times the usual number of random cases.
    export FLASHSALE_CASES_FACTOR=${FLASHSALE_CASES_FACTOR:-50}
    # How many commands the module, the Lua library and the naive model are asked, on each server.
    export FLASHSALE_DIFFERENTIAL_STEPS=${FLASHSALE_DIFFERENTIAL_STEPS:-1000000}
    if [ $runner = nextest ]; then
        exec cargo nextest run --workspace --locked --no-fail-fast --profile nightly --run-ignored all
    else
        exec cargo test --workspace --lib --bins --tests --locked --no-fail-fast -- --include-ignored
    fi
    ;;
*)
    echo "usage: scripts/test.sh all|faults|nightly" >&2
    exit 2
    ;;
esac

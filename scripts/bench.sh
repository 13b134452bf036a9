#!/usr/bin/env bash
# Measures, with the optimised build, and prints tables. docs/performance.md keeps what was measured.
#
#   scripts/bench.sh commands   what each command of the module costs beside DECR and a Lua script
#   scripts/bench.sh edge       what the edge costs beside nginx and bare Pingora; BENCH_SECONDS=10 for each row
#   scripts/bench.sh sharding   what a sale spread over a cluster costs and brings: three primaries, three replicas
#   scripts/bench.sh scale      what millions of holds cost: memory, the slowest command, expiry, saving and loading
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-commands}
scripts/setup.sh bench
. scripts/rust-env.sh
target=${CARGO_TARGET_DIR:-target}
[[ $target = /* ]] || target=$PWD/$target

case $what in
commands | edge | scale | sharding) ;;
*)
    echo "usage: scripts/bench.sh commands|edge|scale|sharding" >&2
    exit 2
    ;;
esac
cargo build --release --locked -p flashsale-module
export FLASHSALE_MODULE=$target/release/libflashsale.so
if [ "$what" = edge ]; then
    cargo build --release --locked -p flashsale-edge --bin flashsale --example bare
    export FLASHSALE_BIN=$target/release/flashsale FLASHSALE_BARE=$target/release/examples/bare
fi

echo "machine: $(nproc) cores, $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n1), $(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo '?')"
if [ "$what" = scale ]; then
    cargo bench --locked -p flashsale-core --bench steps
fi
# The client is built as the tests are; only what it measures is optimised to the end.
cargo bench --profile dev --locked -p flashsale-tests --bench "$what"

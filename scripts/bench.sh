#!/usr/bin/env bash
# Measures, with the optimised build, and prints tables. docs/performance.md keeps what was measured.
#
#   scripts/bench.sh commands   what each command of the module costs beside DECR and a Lua script
#   scripts/bench.sh edge       how many requests a second the edge refuses, reserves, passes through
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-commands}
scripts/setup.sh bench
. scripts/rust-env.sh
target=${CARGO_TARGET_DIR:-target}
[[ $target = /* ]] || target=$PWD/$target

case $what in
commands) packages=(-p flashsale-module) ;;
edge) packages=(-p flashsale-module -p flashsale-edge) ;;
*)
    echo "usage: scripts/bench.sh commands|edge" >&2
    exit 2
    ;;
esac
if [ ! -e "tests/benches/$what.rs" ]; then
    echo "bench: there is no benchmark of the $what yet: tests/benches/$what.rs is missing" >&2
    exit 1
fi
cargo build --release --locked "${packages[@]}"
export FLASHSALE_MODULE=$target/release/libflashsale.so FLASHSALE_BIN=$target/release/flashsale

echo "machine: $(nproc) cores, $(sed -n 's/^model name\s*: //p' /proc/cpuinfo | head -n1), $(date -u +%F), commit $(git rev-parse --short HEAD 2>/dev/null || echo '?')"
# The client is built as the tests are; only what it measures is optimised to the end.
cargo bench --profile dev --locked -p flashsale-tests --bench "$what"

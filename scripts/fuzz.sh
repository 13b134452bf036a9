#!/usr/bin/env bash
# Fuzzes what reads bytes of strangers: the targets of fuzz/fuzz_targets, one after another.
#
#   scripts/fuzz.sh [TARGET ...]    all targets, or these; FUZZ_SECONDS each (60)
#
# What it learns is kept in fuzz/corpus; an input that breaks something stays in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build
. scripts/rust-env.sh

export PATH=$PWD/.tools/bin:$PATH
if ! command -v cargo-fuzz >/dev/null 2>&1; then
    echo "fuzz: building cargo-fuzz into .tools (once, a minute or two)"
    CARGO_TARGET_DIR=.tools/build cargo install --locked --quiet --root .tools cargo-fuzz
    rm -rf .tools/build
fi

# The flags of sanitizers and coverage are unstable; a stable compiler takes them when told that it may.
export RUSTC_BOOTSTRAP=1
seconds=${FUZZ_SECONDS:-60}
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo fuzz list --fuzz-dir fuzz); fi

for target in "${targets[@]}"; do
    printf '\n== fuzz %s, %s s\n' "$target" "$seconds"
    mkdir -p "fuzz/corpus/$target"
    # A few kilobytes of input justify no large allocation. -timeout: no input may take long.
    cargo fuzz run --fuzz-dir fuzz "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -malloc_limit_mb=64 -timeout=10 -print_final_stats=1
done

#!/usr/bin/env bash
# Checks the dependencies: licences, banned crates and sources always; known vulnerabilities where
# the advisory database can be reached. The rules are in deny.toml.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh build
. scripts/rust-env.sh

deny=.tools/bin/cargo-deny
if command -v cargo-deny >/dev/null 2>&1; then
    deny=cargo-deny
elif [ ! -x $deny ]; then
    echo "audit: building cargo-deny into .tools (once, a few minutes)"
    CARGO_TARGET_DIR=.tools/build cargo install --locked --quiet --root .tools cargo-deny
    rm -rf .tools/build
fi

"$deny" --all-features check licenses bans sources

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if "$deny" --all-features check advisories >"$log" 2>&1; then
    tail -n 1 "$log"
elif grep -qiE 'failed to (fetch|clone|open|load|acquire|prepare)|unable to (fetch|clone)|could ?n.t (resolve|connect)' "$log"; then
    echo "audit: advisories NOT checked: the advisory database can't be reached from here"
else
    cat "$log"
    exit 1
fi

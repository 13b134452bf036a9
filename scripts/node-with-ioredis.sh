#!/usr/bin/env bash
# Prints the node_modules folder that has what tests/node/package-lock.json names (ioredis and its key slot
# function), for NODE_PATH, or fails. With --install it puts them into .tools/node from npm.
cd "$(dirname "$0")/.." || exit 1

lock=tests/node/package-lock.json
if ! command -v node >/dev/null 2>&1; then
    echo "no Node.js: install nodejs and npm" >&2
    exit 1
fi
if [ "${1:-}" = --install ] && ! cmp -s $lock .tools/node/package-lock.json; then
    command -v npm >/dev/null 2>&1 || { echo "no npm: install it" >&2 && exit 1; }
    rm -rf .tools/node .tools/node.new
    mkdir -p .tools/node.new
    cp tests/node/package.json $lock .tools/node.new
    # Nothing of these packages is to run while they are installed.
    (cd .tools/node.new && npm ci --ignore-scripts --no-audit --no-fund --silent) || exit 1
    mv .tools/node.new .tools/node
fi
if cmp -s $lock .tools/node/package-lock.json && [ -d .tools/node/node_modules/ioredis ]; then
    echo "$PWD/.tools/node/node_modules"
    exit 0
fi
echo "no ioredis: run scripts/node-with-ioredis.sh --install" >&2
exit 1

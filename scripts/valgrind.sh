#!/usr/bin/env bash
# Runs redis-server with the module under valgrind's memcheck and sends it thousands of mixed commands. Fails if the
# stack of any error goes through the module: a block used after it was freed or past its end, a decision by memory
# that was never written, a block that was lost.
#
# FLASHSALE_MODULE: the module to check, if not the one of the debug build. VALGRIND_COMMANDS: how many (4000).
# VALGRIND_SERVER: the server, if not redis-server 7.0.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh bench
. scripts/rust-env.sh
if [ -z "${FLASHSALE_MODULE:-}" ]; then
    # Checked as it is tested: with debug assertions, and lines in the stacks.
    cargo build --locked -p flashsale-module
    FLASHSALE_MODULE=${CARGO_TARGET_DIR:-target}/debug/libflashsale.so
fi
FLASHSALE_MODULE=$(realpath "$FLASHSALE_MODULE")
python=$(scripts/python-with-redis.sh --install)
driver=$PWD/tests/memcheck/commands.py

dir=$(mktemp -d)
server=
finish() {
    [ -z "$server" ] || kill -9 "$server" 2>/dev/null || true
    rm -rf "$dir"
}
trap finish EXIT

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
# The server's allocator is replaced by valgrind's, which knows every block.
(
    cd "$dir"
    # Without compression: LZF reads a table that it never fills, by design.
    exec valgrind --tool=memcheck --soname-synonyms=somalloc='libjemalloc*' --num-callers=40 \
        --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --log-file="$dir/memcheck.log" \
        "${VALGRIND_SERVER:-redis-server}" --port "$port" --bind 127.0.0.1 --save "" --rdbcompression no --appendonly yes \
        --enable-debug-command yes --enable-module-command yes --notify-keyspace-events KEAd \
        --loadmodule "$FLASHSALE_MODULE"
) >"$dir/server.log" 2>&1 &
server=$!

if ! "$python" "$driver" "$port" "${VALGRIND_COMMANDS:-4000}"; then
    tail -n 60 "$dir/server.log" "$dir/memcheck.log" >&2
    exit 1
fi
# It has been told to shut down.
wait "$server" || true
server=

"$python" - "$dir/memcheck.log" "${VALGRIND_COMMANDS:-4000}" <<'PYTHON'
import collections, re, sys

# The server and its children, which save and rewrite, write into one file.
by_process = collections.defaultdict(list)
for line in open(sys.argv[1], errors="replace"):
    if match := re.match(r"==(\d+)== ?(.*)", line):
        by_process[match[1]].append(match[2])
logs = ["\n".join(lines) for lines in by_process.values()]
if not logs or "ERROR SUMMARY" not in logs[0]:
    sys.exit("valgrind: the server did not end as it should:\n" + "\n".join(logs)[-3000:])
usage = re.search(r"total heap usage: ([\d,]+) allocs", logs[0])
if not usage or int(usage[1].replace(",", "")) < int(sys.argv[2]):
    sys.exit("valgrind: the server's allocator was not replaced, so its blocks were not watched")
reports = [report for log in logs for report in re.split(r"\n\s*\n", log) if re.search(r"^ +(at|by) 0x", report, re.M)]
ours = [report for report in reports if "libflashsale" in report or ".rs:" in report]
for report in ours:
    print(report, end="\n\n")
print(
    f"valgrind: {usage[1]} blocks, {len(logs) - 1} child processes, {len(ours)} errors with a frame of the module, "
    f"{len(reports) - len(ours)} of the server alone"
)
sys.exit(1 if ours else 0)
PYTHON

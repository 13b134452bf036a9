#!/usr/bin/env bash
# Prints a Python interpreter that has redis-py, or fails. With --install it makes a virtual
# environment in .tools/venv where Debian's python3-redis is not to be had.
cd "$(dirname "$0")/.." || exit 1

for python in "${FLASHSALE_PYTHON:-}" .tools/venv/bin/python /usr/bin/python3 python3; do
    if [ -n "$python" ] && "$python" -c 'import redis' >/dev/null 2>&1; then
        echo "$python"
        exit 0
    fi
done
if [ "${1:-}" = --install ]; then
    python3 -m venv .tools/venv && .tools/venv/bin/pip install -q redis && exec "$0"
fi
echo "no Python with redis-py: install python3-redis, or set FLASHSALE_PYTHON" >&2
exit 1

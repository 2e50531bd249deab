#!/usr/bin/env bash
# Makes .venv with the pinned packages and this project in it; quick when nothing has changed.
# PYTHON names the interpreter to start from (python3 by default).
set -euo pipefail
cd "$(dirname "$0")/.."
# What the caller's shell has set for other projects must not leak in.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV

base=${PYTHON:-python3}
python=.venv/bin/python
stamp=.venv/installed
# The folder is part of the key: an environment does not work where it was moved or copied to.
key=$({ pwd; cat pyproject.toml constraints.txt; } | cksum)

say() { printf 'env: %s\n' "$*"; }
fail() { printf 'env: %s\n' "$*" >&2; exit 1; }

knows_pullback() { "$python" -c 'from importlib.util import find_spec as f; exit(not f("pullback"))'; }

if [[ -f $stamp && $(<"$stamp") == "$key" ]] && knows_pullback 2>/dev/null; then
    say 'up to date'
    exit 0
fi

if ! "$python" -m pip --version >/dev/null 2>&1; then
    command -v "$base" >/dev/null || fail "$base was not found; install Python 3.11 or newer"
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "Python 3.11 or newer is needed, but $base is $("$base" -V); set PYTHON to a newer one"
    say "stage 1 of 3: creating .venv with $("$base" -V)"
    "$base" -m venv --clear .venv ||
        fail 'the environment could not be created (on Debian: apt-get install python3-venv)'
else
    say 'stage 1 of 3: .venv is there'
fi

say 'stage 2 of 3: installing torch (about 200 MB, up to a few minutes)'
scripts/install.sh torch
say 'stage 3 of 3: installing the other packages and pullback itself'
scripts/install.sh -e '.[dev]'
printf '%s\n' "$key" >"$stamp"
say 'ready in .venv'

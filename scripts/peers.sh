#!/usr/bin/env bash
# Installs the libraries that the benchmarks compare with into .venv.
set -euo pipefail
cd "$(dirname "$0")/.."

echo 'peers: installing what the peers need'
scripts/install.sh einconv einops linear_operator opt-einsum tqdm unfoldNd
# They declare torchvision, which they never import and whose only build needs CUDA.
echo 'peers: installing the peers'
scripts/install.sh --no-deps backpack-for-pytorch curvlinops-for-pytorch nngeometry

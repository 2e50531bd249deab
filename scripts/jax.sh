#!/usr/bin/env bash
# Makes benchmarks/.jax, the environment in which the benchmarks run neural-tangents.
set -euo pipefail
cd "$(dirname "$0")/.."
# What the caller's shell has set for other projects must not leak in.
unset PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_TARGET PIP_PREFIX PIP_USER PIP_CONSTRAINT

python=benchmarks/.jax/bin/python
install() {
    # A machine's pip settings may name package folders that it does not have: no use here.
    $python -m pip install --quiet --disable-pip-version-check "$@" \
        2> >(grep -v 'it is neither a file nor a directory' >&2)
}
if [[ ! -x $python ]]; then
    .venv/bin/python -m venv benchmarks/.jax
fi
# The last release of neural-tangents runs with no later jax.
echo 'jax: installing jax'
install 'jax==0.4.23' 'jaxlib==0.4.23' 'numpy<2' 'scipy<1.13' frozendict
# It declares tf2jax, hence tensorflow, which its empirical kernels do without.
echo 'jax: installing neural-tangents'
install --no-deps 'neural-tangents==0.6.5'

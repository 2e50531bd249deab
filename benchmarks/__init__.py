"""Time and memory of pullback beside its peers and beside the best hand-written program.

`python -m benchmarks` measures, prints a table and writes `results.json`; `README.md` says how to
read it.
"""

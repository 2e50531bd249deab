# Each target only calls what works without make.
# ARGS reaches the command: make test ARGS="-k fisher", make bench ARGS="--help".
.PHONY: env demo test data bench lint types

unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV
python := .venv/bin/python

env:
	@scripts/env.sh

demo: env
	.venv/bin/pullback report $(ARGS)

test: env
	@scripts/browser.sh
	$(python) -m pytest $(ARGS)

data: env
	$(python) -m pullback.data.fetch $(ARGS)

bench: env
	@scripts/peers.sh
	$(python) -m benchmarks $(ARGS)
	$(if $(ARGS),,$(python) -m benchmarks.linear)
	$(if $(ARGS),,$(python) -m benchmarks.anisotropy)

lint: env
	$(python) -m ruff check
	$(python) -m ruff format --check

types: env
	$(python) -m mypy

PYTHON ?= python3
BIN := .venv/bin

# Where it is set, each of the thousands of processes that tests start compiles all of this package again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check prove matrix clean

demo: .venv/bin/durable-store  ## an agent is killed five times and ends where it would have ended
	$(BIN)/durable-store demo

# A worker more than cores, at least: many tests wait for processes, and leave their core to another meanwhile.
test: check  ## everything that every change must pass
	$(BIN)/pytest -n 3 --dist worksteal

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks examples
	$(BIN)/basedpyright

prove: .venv/ready  ## the long proofs, with a figure each; never part of CI
	$(BIN)/pytest -m prove --prove -n 2 --dist worksteal -q

matrix: .venv/ready  ## which clause finds which broken backend out, into docs/CONFORMANCE.md; takes an hour
	$(BIN)/python -m tests.mutants.matrix

clean:
	rm -rf .venv

.venv/bin/durable-store: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[cli]'
	touch $@

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ .venv/bin/durable-store

.PHONY: scorecard
scorecard: .venv/ready  ## asks checkpoint stores of other projects, writes docs/SCORECARD.md
	$(BIN)/python -m benchmarks.scorecard

.PHONY: bench
bench: .venv/ready  ## what a commit costs, beside peers and floors, into docs/BENCHMARKS.md; takes half an hour
	$(BIN)/python -m benchmarks.bench

# `make demo` and `make test` do all the set-up themselves; both need only python3 (>= 3.11) with venv.
PYTHON ?= python3
VENV   ?= .venv
PHOTOS ?=
MINUTES ?= 3
BIN    := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help setup demo stack test test-slow soak fuzz lint types bench bench-gpu lock sbom audit clean
help:
	@echo "make demo [PHOTOS=folder]  the whole way of a photo on the embedded stack"
	@echo "make stack                 the processes of docker-compose.yml without containers, until Ctrl-C"
	@echo "make test                  all tests (lint and types: make lint)"
	@echo "make soak [MINUTES=3]      real processes killed at random, then every table against an oracle"
	@echo "make fuzz [ROUNDS=1000000] damaged events and photos, many more than in the tests"
	@echo "make lint                  ruff and mypy"
	@echo "make bench                 benchmarks, writes CSV"
	@echo "make bench-gpu             those of a GPU, on a machine with one"
	@echo "make lock                  resolve the dependencies anew"
	@echo "make sbom                  bill of materials (CycloneDX) of the locked dependencies"
	@echo "make audit                 known vulnerabilities of the locked dependencies, where a service can be asked"

setup: $(INSTALLED)

$(INSTALLED): requirements/dev.lock requirements/uv.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "listing-dedup needs Python >= 3.11; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV): some minutes and 6 GB at the first time."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no venv module: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.lock
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --require-hashes -r requirements/dev.lock
	VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	@$(BIN)/dedup demo $(if $(PHOTOS),--photos "$(PHOTOS)")

stack: setup
	@exec $(BIN)/python -m tests.stack

test-slow: setup  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

# Two at a time: what the tests of whole processes do most is wait for these to start.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: setup
	$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(OUTPUT),--output)

fuzz: setup
	FUZZ_ROUNDS=$(or $(ROUNDS),1000000) FUZZ_SEED=$(or $(SEED),$(shell date +%s)) $(BIN)/python -m pytest --timeout=0 tests/unit/test_fuzz.py

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python -m benchmarks $(BENCH)

bench-gpu: setup
	$(BIN)/python -m benchmarks.gpu

lock: setup
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 --extra traces pyproject.toml -o requirements/runtime.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 --overrides requirements/light.overrides --constraints requirements/runtime.lock --extra traces pyproject.toml -o requirements/light.lock
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 --all-extras pyproject.toml -o requirements/dev.lock
	echo uv | $(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --python-version 3.11 - -o requirements/uv.lock

SBOM ?= dist/listing-dedup.cdx.json
sbom: setup
	@mkdir -p $(dir $(SBOM))
	$(BIN)/cyclonedx-py requirements --of JSON --sv 1.6 --output-reproducible --pyproject pyproject.toml -o $(SBOM) requirements/runtime.lock

audit: setup
	$(BIN)/python -m tests.audit

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

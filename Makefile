# make demo   set everything up and run the whole main job on the imagery that ships with the project
# make test   set everything up and run every check
# make check  make test plus the slow and browser tests that this machine can run
# make bench  measure what benchmarks/README.md names, as ratios in one run; 25 minutes
# make lock   write requirements.lock anew from pyproject.toml

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed

.PHONY: demo test check bench lint lock clean

demo: $(READY)
	$(BIN)/dlslicer-geo run experiments/demo/config.yaml --out runs/demo
	$(BIN)/dlslicer-geo apply runs/demo data/banepa/banepa_oam_z19.tif --out runs/demo/banepa

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m "not slow and not browser and not qgis and not gpu"

check: lint
	$(BIN)/pytest -m "not gpu"

bench: $(READY)
	$(BIN)/python benchmarks/bench.py --out benchmarks
	$(BIN)/python benchmarks/relevance.py --out benchmarks/relevance.md

# uv is bootstrapped with pip, into its own environment, when it is missing
$(READY): requirements.lock pyproject.toml
	@command -v uv >/dev/null 2>&1 || test -x .uv/bin/uv || { $(PYTHON) -m venv .uv && .uv/bin/pip install --quiet uv; }
	@UV=$$(command -v uv || echo .uv/bin/uv); set -e; \
	  test -x $(BIN)/python || $$UV venv --quiet --no-python-downloads --python $(PYTHON) $(VENV); \
	  $$UV pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock; \
	  $$UV pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

lock:
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --quiet --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .uv runs build dist

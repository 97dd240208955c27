# make demo   set everything up and run the whole main job on the imagery that ships with the project
# make test   set everything up and run every check
# make check  make test plus the slow and browser tests that this machine can run
# make bench  measure what benchmarks/README.md names, as ratios in one run; 25 minutes
# make assets  fetch the JavaScript that draws the tiles of large maps; without it they show an overview
# make lock   write requirements.lock anew from pyproject.toml

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
WEBMAP := dlslicer_geo/webmap

.PHONY: demo test check bench lint lock assets clean

demo: $(READY)
	$(BIN)/dlslicer-geo run experiments/demo/config.yaml --out runs/demo
	$(BIN)/dlslicer-geo apply runs/demo data/banepa/banepa_oam_z19.tif --out runs/demo/banepa

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m "not slow and not browser and not qgis and not gpu"

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
	@$(MAKE) --no-print-directory assets || echo "no npm or no registry: large maps show an overview only (make assets)"
	@touch $@

# exact versions and hashes stand in package-lock.json; nothing that is fetched is run
assets:
	@set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; from=$$work/node_modules; to=$(WEBMAP)/assets; \
	  cp $(WEBMAP)/package.json $(WEBMAP)/package-lock.json $(WEBMAP)/.npmrc "$$work"; \
	  (cd "$$work" && npm ci --ignore-scripts --no-audit --no-fund --silent --fetch-retries=1); \
	  mkdir -p $$to; cp "$$from/pmtiles/dist/pmtiles.js" "$$from/protomaps-leaflet/dist/protomaps-leaflet.js" $$to; \
	  cd "$$from"; for name in $$(find . -iname 'license*' | grep -v @types | sort); do echo "== $$name"; cat "$$name"; echo; \
	  done >"$(CURDIR)/$$to/LICENSES.txt"; sed -n '/"author"/p;/"license"/p' pmtiles/package.json >>"$(CURDIR)/$$to/LICENSES.txt"

lock:
	uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --quiet --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .uv runs build dist

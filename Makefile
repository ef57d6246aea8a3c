# Every target first updates .venv from requirements.lock. It needs Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Without an NVIDIA GPU, torch's CPU build saves gigabytes: see docs/install.md.
TORCH_INDEX ?=
# Name of the file in benchmarks/ that `make bench` writes. docs/speed.md shows one file per machine.
RESULT ?= cpu
# Options of benchmarks/gpu.py.
GPU_ARGS ?=
# Options of `make lab`; run and options of `make explore`.
ARGS ?=
# The sweep of `make sweep`, and its options, such as SWEEP_ARGS='--engine ray --run-dir /shared/mine'.
SWEEP ?= warmup_rho
SWEEP_ARGS ?=
# Each process takes one test file or one notebook at a time and computes on one thread. There is one process more than CI has
# cores, because some tests wait for kernels and clusters. The files keep their order: xdist would put files with few, long
# tests last, and then a core would be idle.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# pip compiles nothing, so the first import must write the compiled files. Otherwise every process would compile them again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install reproduce test test-slow test-rounding driven beside together coverage fuzz lab explore screenshot \
	figures bench gpu sweep clean notebooks docs wheel

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Create or update .venv from the lock, with all extras but docs and dev

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	@echo "Installing packages into $(VENV). The first time, this takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --prefer-binary $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --constraint requirements.lock --editable '.[test]'
	@touch $@

reproduce: install ## Train v5.5 and write the report (QUICK=1: in small; ALL=1: every seed and counterfactual)
	$(BIN)/ternary-lab reproduce $(if $(QUICK),--quick) $(if $(ALL),--all)

test: install ## Lint, type-check, tests and notebooks
	$(BIN)/ruff check .
	$(BIN)/oxlint ternary_lab docs
	$(BIN)/ternary-lab check-notebooks
	$(BIN)/python -m pytest -m alone $$(grep -rl mark.alone tests --include="*.py") $(PYTEST_ARGS)
	$(MAKE) --no-print-directory --jobs 2 together beside

# The tests that drive a browser run before the others, so that the browser has a core of its own.
driven: install
	$(BIN)/python -m pytest -m driven $$(grep -rl mark.driven tests --include="*.py") $(PYTEST_ARGS)

together: driven
	$(SIDE_BY_SIDE) -m "not alone and not driven" --nbval-lax --nbval-current-env \
		$(addprefix --ignore=,$(BESIDE) $(TRAINS)) notebooks tests $(PYTEST_ARGS)

# Runs beside the other tests, on the other core: the tests of a cluster, types, and the notebook whose outputs are all
# compared. The cluster is first: its processes lower their own priority, and later the other tests take both cores.
BESIDE := notebooks/01_ternary_space.ipynb tests/sweeps/test_cluster.py
# Trains v5.5 at its defaults. tests/notebooks/test_stored_outputs.py runs it on the published run and on a small one instead.
TRAINS := notebooks/02_train.ipynb
beside: install
	$(BIN)/python -m pytest tests/sweeps/test_cluster.py $(PYTEST_ARGS)
	$(BIN)/mypy
	$(BIN)/python -m pytest --nbval --nbval-current-env notebooks/01_ternary_space.ipynb

test-slow: install ## All tests, also those that take minutes
	$(BIN)/python -m pytest --slow $(PYTEST_ARGS)
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env $(TRAINS)

# Each setting selects other kernels on the same machine: of torch, of MKL, of oneDNN (unused so far). They add in another
# order, so the last bits differ, as between processors. Tests that use a browser, Ray or a clock are left out.
ROUNDINGS := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41
test-rounding: install ## Tests and notebooks with kernels that round differently (half an hour)
	@failed=; for setting in $(ROUNDINGS); do \
		echo "test-rounding: $$setting"; \
		env $$setting $(SIDE_BY_SIDE) -m "not alone and not driven" --nbval-lax --nbval-current-env \
			$(addprefix --ignore=,$(BESIDE) $(TRAINS)) notebooks tests $(PYTEST_ARGS) && \
		env $$setting $(BIN)/python -m pytest --nbval --nbval-current-env $(firstword $(BESIDE)) || failed="$$failed $$setting"; \
	done; \
	[ -z "$$failed" ] || { echo "error: tests fail under$$failed"; exit 1; }

coverage: install ## Measure the share of the library that the tests reach: less than 90 % fails
	$(SIDE_BY_SIDE) -m "not alone and not driven" --cov --cov-report term:skip-covered $(PYTEST_ARGS)

fuzz: install ## Test over 30,000 generated inputs: configurations, parameters, tensors, files, command lines
	TERNARY_LAB_FUZZ=1 $(BIN)/python -m pytest -q tests/repository/test_fuzz.py

# Jupyter refuses to run as root without the option. In a container, root is often the only user.
lab: install ## Open JupyterLab on the start notebook (ARGS='--no-browser --port 9999': options of jupyter lab)
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS) \
		notebooks/00_start_here.ipynb

explore: install ## Write the latent explorer as a page, and open it (ARGS: a run, and options of ternary-lab explore)
	$(BIN)/ternary-lab explore -o build/explorer.html --open $(ARGS)

screenshot: install ## Take figures/explorer.png of the explorer in Chromium (apt install chromium)
	$(BIN)/ternary-lab explore -o build/explorer.html
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1400,900 --virtual-time-budget=9000 \
		--screenshot=$(CURDIR)/figures/explorer.png build/explorer.html

# Notebooks that save the figures that they show. 11 also draws the history of one run, which tools/figures.py replaces.
GALLERY := 04_epoch50_disruption 07_generalisation 08_checkpoints_and_ensembles 09_beyond_v55 10_sweep 11_report
figures: install ## Rebuild figures/ from the published runs: the notebooks save what they show (some minutes)
	mkdir -p build
	for name in $(GALLERY); do \
		$(BIN)/ternary-lab run notebooks/$$name.ipynb -p figures_dir ../figures -o build/$$name.ipynb || exit 1; \
	done
	$(BIN)/python tools/figures.py figures

bench: install ## Measure the speed of this machine, write benchmarks/RESULT.json and draw all results (minutes)
	$(BIN)/python benchmarks/bench.py --output benchmarks/$(RESULT).json --device cpu
	$(BIN)/python benchmarks/scaling.py benchmarks

# Installs nothing: a machine with a GPU may have no network, and it already has torch with CUDA.
gpu: ## Check and measure an NVIDIA GPU with the packages of PYTHON, write benchmarks/cuda.json (6 minutes)
	PYTHONPATH=$(CURDIR) $(PYTHON) benchmarks/gpu.py $(GPU_ARGS)

sweep: install ## Train many settings and seeds into one table in runs/sweeps/ (SWEEP=FILE)
	$(BIN)/ternary-lab sweep $(SWEEP) $(SWEEP_ARGS)

notebooks: install ## Execute every notebook in place at its committed defaults
	for notebook in notebooks/*.ipynb; do $(BIN)/ternary-lab run $$notebook -o $$notebook || exit 1; done

docs: install ## Build the documentation into site/: README, executed notebooks, how-to pages, reference
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --constraint requirements.lock --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: install ## Build the package, with configurations, notebooks and published runs inside, into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove installed and built files, but no runs
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache

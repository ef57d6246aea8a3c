# Every target first brings .venv up to date with the lock; Python 3.11 or newer and make are all it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# On a machine without an NVIDIA GPU the CPU-only wheel of torch saves gigabytes: see README.md.
TORCH_INDEX ?=
# The file in benchmarks/ that `make bench` writes: one for each machine that the README is to show.
RESULT ?= cpu
# Options of benchmarks/gpu.py.
GPU_ARGS ?=
# What `make sweep` trains, and with which options: SWEEP_ARGS='--engine ray --run-dir /shared/mine'.
SWEEP ?= warmup_rho
SWEEP_ARGS ?=
# A file of tests, or a notebook, to a process, each of which computes on one thread. One process more than CI has cores,
# for some wait for kernels and clusters. In their own order: those of few long tests, which would otherwise come last, leave
# a core idle.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# pip is told to compile nothing, so what is imported first must be kept: it would be compiled in every process.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install reproduce test test-slow test-rounding driven beside together coverage fuzz lab explore screenshot \
	figures bench gpu sweep clean notebooks docs wheel

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

install: $(VENV)/.installed ## Create or update .venv from the lock

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --prefer-binary $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --constraint requirements.lock --editable '.[test]'
	@touch $@

reproduce: install ## Train v5.5 and write the report (QUICK=1: in small; ALL=1: every seed and counterfactual)
	$(BIN)/ternary-lab reproduce $(if $(QUICK),--quick) $(if $(ALL),--all)

test: install ## Lint, type-check, tests and notebooks
	$(BIN)/ruff check .
	$(BIN)/ternary-lab check-notebooks
	$(BIN)/python -m pytest -m alone $$(grep -rl mark.alone tests --include="*.py") $(PYTEST_ARGS)
	$(MAKE) --no-print-directory --jobs 2 together beside

# A browser has one core to itself, more or less; everything else then waits for nobody.
driven: install
	$(BIN)/python -m pytest -m driven $$(grep -rl mark.driven tests --include="*.py") $(PYTEST_ARGS)

together: driven
	$(SIDE_BY_SIDE) -m "not alone and not driven" --nbval-lax --nbval-current-env \
		$(addprefix --ignore=,$(BESIDE) $(TRAINS)) notebooks tests $(PYTEST_ARGS)

# On the core that a browser leaves: types, the notebook of which every output is compared, and processes that wait for one
# another.
BESIDE := notebooks/01_ternary_space.ipynb tests/sweeps/test_cluster.py
# At its defaults it trains v5.5: tests/notebooks/test_stored_outputs.py has it show the published run, and train a small one.
TRAINS := notebooks/02_train.ipynb
beside: install
	$(BIN)/mypy
	$(BIN)/python -m pytest --nbval --nbval-current-env notebooks/01_ternary_space.ipynb
	$(BIN)/python -m pytest tests/sweeps/test_cluster.py $(PYTEST_ARGS)

test-slow: install ## The tests that take minutes as well
	$(BIN)/python -m pytest --slow $(PYTEST_ARGS)
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env $(TRAINS)

# Settings that choose other kernels on the same machine. Sums are taken in another order, so last bits differ as they do
# between processors: of torch's own kernels, of MKL's matrix products, of oneDNN's, which computes
# nothing here today: the third setting is for the day it does. Left out is what drives a browser, Ray or a clock.
ROUNDINGS := ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41
test-rounding: install ## Tests and notebooks under kernels that round otherwise (some half an hour)
	@failed=; for setting in $(ROUNDINGS); do \
		echo "test-rounding: $$setting"; \
		env $$setting $(SIDE_BY_SIDE) -m "not alone and not driven" --nbval-lax --nbval-current-env \
			$(addprefix --ignore=,$(BESIDE) $(TRAINS)) notebooks tests $(PYTEST_ARGS) && \
		env $$setting $(BIN)/python -m pytest --nbval --nbval-current-env $(firstword $(BESIDE)) || failed="$$failed $$setting"; \
	done; \
	[ -z "$$failed" ] || { echo "error: tests fail under$$failed"; exit 1; }

coverage: install ## How much of the library the tests reach: less than 90 % fails
	$(SIDE_BY_SIDE) -m "not alone and not driven" --cov --cov-report term:skip-covered $(PYTEST_ARGS)

fuzz: install ## Over 30,000 generated inputs: configurations, parameters, tensors, files, command lines
	TERNARY_LAB_FUZZ=1 $(BIN)/python -m pytest -q tests/repository/test_fuzz.py

lab: install ## Open JupyterLab on the start notebook
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 notebooks/00_start_here.ipynb

explore: install ## The latent explorer as a page, on this machine only
	$(BIN)/voila notebooks/06_latent_explorer.ipynb --Voila.ip=127.0.0.1 --preheat_kernel=True

screenshot: install ## Take figures/explorer.png of the explorer in Chromium (apt install chromium)
	TERNARY_LAB_BROWSER=required TERNARY_LAB_SCREENSHOT=$(CURDIR)/figures/explorer.png \
		$(BIN)/python -m pytest -q tests/explorer/test_browser.py -k voila

figures: install ## Rebuild figures/ from the published runs
	$(BIN)/python tools/figures.py figures

bench: install ## Measure speed on this machine: benchmarks/RESULT.json and the figure of all (some minutes)
	$(BIN)/python benchmarks/bench.py --output benchmarks/$(RESULT).json --device cpu
	$(BIN)/python benchmarks/scaling.py benchmarks

# Installs nothing: a machine with a GPU may have no network, and torch with CUDA already.
gpu: ## Check and measure an NVIDIA GPU with the packages of PYTHON: benchmarks/cuda.json (6 minutes)
	PYTHONPATH=$(CURDIR) $(PYTHON) benchmarks/gpu.py $(GPU_ARGS)

sweep: install ## Many settings, many seeds, one table: runs/sweeps/ (SWEEP=FILE)
	$(BIN)/ternary-lab sweep $(SWEEP) $(SWEEP_ARGS)

notebooks: install ## Execute every notebook in place at its committed defaults
	for notebook in notebooks/*.ipynb; do $(BIN)/ternary-lab run $$notebook -o $$notebook || exit 1; done

docs: install ## Build the documentation into site/: README, notebooks as executed, recipes, reference
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --prefer-binary --constraint requirements.lock --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

wheel: install ## Build the package, with configurations, notebooks and published runs inside, into dist/
	$(BIN)/python -m build --no-isolation

clean: ## Remove what was installed and built, not what was trained
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache

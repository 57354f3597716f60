# `make search` and `make test` do everything from a bare Python of one of these versions.
VERSIONS := 3.14 3.13 3.12 3.11
PYTHON ?= python3 $(VERSIONS:%=python%)
PRINT_VERSION := 'import sys; print("%d.%d" % sys.version_info[:2])'
VENV := .venv
BIN := $(VENV)/bin

# Files that say what is installed: what a search needs, and also what tests and linters need.
SEARCHES := $(VENV)/.ready-search
READY := $(VENV)/.ready

# Two processes run the tests, a file of them at a time.
TWO := --numprocesses 2 --dist loadfile

# The files with tests of this mark: collecting all files takes ten seconds in every process.
marked = $(shell grep --files-with-matches pytest.mark.$(1) tests/test_*.py)

.PHONY: help search test test-checked test-slow test-cluster lint format docs bench wheel clean

help:
	@echo "make search        run a real study in minutes, and draw it in report/report.html"
	@echo "make test          all tests but the following"
	@echo "make test-checked  the kernels' tests, with every memory access checked"
	@echo "make test-slow     tests that kill, fill and stop things; databases, a browser"
	@echo "make test-cluster  tests on clusters of Linux namespaces; needs root"
	@echo "make lint          ruff and mypy"
	@echo "make format        format the code and fix what ruff can"
	@echo "make docs          build the reference of the Python interface in site/"
	@echo "make bench         time the model and the data pipeline on this machine"
	@echo "make wheel         build the wheel that nodes of a cluster install"
	@echo "make clean         remove .venv and caches"

search: $(SEARCHES)
	$(BIN)/sabtune search search_spaces/copying_quick.py
	$(BIN)/sabtune report copying_quick --out report

test: $(READY)
	$(BIN)/pytest $(TWO) -m "not slow and not cluster"

# The build of the kernels that checks every access. Offsets are the same whatever the dtype, and a
# dtype takes a minute to compile. Tests of the other passes run no kernel.
test-checked: $(READY)
	SABTUNE_CHECKED_KERNELS=1 $(BIN)/pytest $(TWO) \
		-k "not float32 and not eager and not gradcheck" tests/test_kernel_bounds.py \
		tests/test_kernel_fuzz.py tests/test_batch_independence.py tests/test_fused.py \
		tests/test_fused_rules.py tests/test_dense.py tests/test_reference.py

# They kill, fill and stop things at moments of their own; the second failure is the test's.
test-slow: $(READY)
	$(BIN)/pytest $(TWO) -m "slow and not cluster" --reruns 1 --rerun-show-tracebacks \
		$(call marked,slow)

# On hosts of their own, made of Linux namespaces: root alone may make those.
test-cluster: $(READY)
	$(BIN)/pytest -m cluster $(call marked,cluster)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# With an allocator that keeps what it has: torch.nn.LSTM gains most by that.
bench: $(READY)
	MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=1000000000 $(BIN)/python benchmarks/cpu.py
	$(BIN)/python benchmarks/data.py

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)
	$(BIN)/pdoc --docformat google --output-directory site sabtune '!sabtune\.' sabtune.testing '!sabtune\.testing\.'

# What `ray up` installs on every node of a cluster.
wheel: $(SEARCHES)
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	cp constraints.txt dist/

$(SEARCHES): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing what a search needs in $(VENV), which takes a minute or two"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(READY): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing what searches and tests need in $(VENV), which takes minutes"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(SEARCHES) $@

# The first Python that runs, has one of the versions and can make virtual environments: pyenv has a
# python3.11 that fails unless it is active, and Debian packages the module venv apart.
$(BIN)/pip:
	@for python in $(PYTHON); do \
		version=$$($$python -c $(PRINT_VERSION) 2>/dev/null) || continue; \
		case " $(VERSIONS) " in \
			*" $$version "*) ;; \
			*) others="$$others, $$python is $$version"; continue ;; \
		esac; \
		$$python -c 'import ensurepip, venv' 2>/dev/null || { bare=python$$version; continue; }; \
		echo "Making $(VENV) with $$python, Python $$version"; \
		exec $$python -m venv --clear $(VENV); \
	done; \
	if [ "$$bare" ]; then \
		echo "$$bare has no module venv: install it, as with apt install $$bare-venv"; \
	else \
		echo "no Python $(lastword $(VERSIONS)) to $(firstword $(VERSIONS)) runs here$$others:" \
			"install one, or name it: make PYTHON=/path/to/python"; \
	fi >&2; exit 1

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

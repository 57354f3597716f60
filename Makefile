# `make search` and `make test` do everything from a bare Python 3.11 to 3.13.
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell command -v $(p))))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Two processes run the tests, a file of them at a time.
TWO := --numprocesses 2 --dist loadfile

# The files with tests of this mark: collecting all files takes ten seconds in every process.
marked = $(shell grep --files-with-matches pytest.mark.$(1) tests/test_*.py)

.PHONY: help search test test-checked test-slow test-cluster lint format docs bench wheel clean

help:
	@echo "make search        run a real study in minutes: search_spaces/copying_quick.py"
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

search: $(READY)
	$(BIN)/sabtune search search_spaces/copying_quick.py

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
wheel: $(READY)
	rm -rf dist
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	cp constraints.txt dist/

# Torch comes first and pinned: left to itself, pip takes a build with gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache

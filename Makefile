# One virtual environment, made where it is absent; every target is what a new user types.
PYTHON ?= python3
BIN := .venv/bin
# modules are compiled where they are first imported: compiling all of them takes a quarter of the time of an install
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check --no-compile

# two workers; each runs files as a whole, since tests of one file share what is slow to make, and helps the other out
# when it has done its own
PYTEST := $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: demo test lint types doctest readme pages figures pairs docs notebooks check bench gpu stress clean

demo: .venv/ready
	$(BIN)/ppl-vae train --epochs 100 --batch-size 64 --lr 2e-3 --schedule linear

# the second line: what runs on a CPU, on a device that is none; the third: the code that a GPU would run
test: .venv/ready-dev
	$(PYTEST)
	$(PYTEST) tests/on_device.py --device sham
	$(PYTEST) tests/gpu_code.py

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready-dev
	$(BIN)/mypy

doctest: .venv/ready-dev
	$(PYTEST) -p no:cacheprovider --doctest-modules ppl_vae

readme: .venv/ready-dev
	$(PYTEST) -p no:cacheprovider tests/blocks.py

# doctest and readme at once: the long blocks first
pages: .venv/ready-dev
	$(PYTEST) -p no:cacheprovider --doctest-modules tests/blocks.py ppl_vae

# the figures of the README and of the docs; make figures FIGURES="--only demo", or "--all --data-root DIR"
figures: .venv/ready-dev
	$(BIN)/python docs/figures.py $(FIGURES)

# the picture and the figure of each pair's page; make pairs PAIRS="vae linear"; without PAIRS, those whose command is new
pairs: .venv/ready-dev
	$(BIN)/python docs/pairs/measure.py $(PAIRS)

docs: .venv/ready-docs
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

# execute the notebooks of the docs and store their outputs; make notebooks NOTEBOOKS=own_pair
notebooks: .venv/ready-docs
	$(BIN)/python docs/notebooks/store.py $(NOTEBOOKS)

check: test lint types pages docs

# the peers have an environment of their own; make bench BENCH="--quick --only likelihood"
bench: benchmarks/.venv/ready
	benchmarks/.venv/bin/python -m benchmarks $(BENCH)

# laws and times of a GPU; make gpu GPU="--data-root DIR", or GPU="--device cpu --quick" where there is none
gpu: .venv/ready-dev
	$(BIN)/python -m benchmarks.device $(GPU)

# kills, damaged files and hostile places, for half an hour; make stress STRESS="--quick"
stress: .venv/ready-dev
	cd tests && ../$(BIN)/python -m stress $(STRESS)

clean:
	rm -rf .venv benchmarks/.venv docs/_build .pytest_cache .mypy_cache .ruff_cache

benchmarks/.venv/ready: pyproject.toml benchmarks/requirements.txt
	test -x benchmarks/.venv/bin/python || $(PYTHON) -m venv benchmarks/.venv
	benchmarks/.venv/bin/python -m pip install -q --disable-pip-version-check -e . -r benchmarks/requirements.txt
	@touch $@

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or later is needed; name one: make PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

.venv/ready-dev: .venv/ready
	$(PIP) -e ".[dev]"
	@touch $@

.venv/ready-docs: .venv/ready
	$(PIP) -e ".[docs]"
	@touch $@

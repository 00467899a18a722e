# make demo   trains, tests and reports on real photographs, on a CPU, in minutes
# make test   lint and the test suite (make test-slow: the long checks)
# make bench  speed and memory against the plain build, on this machine
# All create .venv first, where it is missing. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow bench lint clean

.venv/.installed: setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv (the first time, PyTorch alone is a download of gigabytes)'
	@$(PIP) --upgrade 'setuptools<82' wheel cython numpy
	@$(PIP) torch torchvision
	@$(BIN)/python -I -c 'import importlib.util as u; exit(not u.find_spec("basicsr"))' || $(PIP) --no-build-isolation basicsr
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: .venv/.installed
	@$(BIN)/python -m airnet_basicsr.demo

test: .venv/.installed lint
	@$(BIN)/python -m pytest

test-slow: .venv/.installed
	@$(BIN)/python -m pytest -m slow

bench: .venv/.installed
	@$(BIN)/python benchmarks/bench.py

lint: .venv/.installed
	@$(BIN)/ruff check .

clean:
	rm -rf .venv build *.egg-info

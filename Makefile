# make demo   trains, tests and reports on real photographs, on a CPU, in minutes
# make test   lint and the test suite (make test-slow: the long checks)
# make docs   the documents and the API as a site, in build/docs; warnings are errors
# make bench  speed and memory against the plain build, on this machine
# make reference PHOTOS='FOLDER FOLDER' RAIN=FOLDER HAZE=FOLDER KODAK=FOLDER  the network that ships, trained, tested and
#             compared with CBM3D: hours on two cores, and minutes on a GPU (make reference-ablations: what its parts contribute,
#             another hour)
# All create .venv first, where it is missing. PYTHON=python3.12 chooses another interpreter.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow docs keys bench reference reference-ablations lint clean

.venv/.installed: pyproject.toml setup.py constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo 'Installing into .venv (the first time, PyTorch alone is a download of gigabytes)'
	@$(PIP) --upgrade 'setuptools<82' wheel cython numpy
	@$(PIP) torch torchvision
	@$(BIN)/python -I -c 'import importlib.util as u; exit(not u.find_spec("basicsr"))' || $(PIP) --no-build-isolation basicsr
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

demo: .venv/.installed
	@$(BIN)/python -m airnet_basicsr.report.demo

# A file is one process's, since its tests share what they have trained. Each process has PyTorch in memory, and tests
# start programs of their own.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile

test: .venv/.installed lint docs
	@$(BIN)/python -m pytest $(PARALLEL)

test-slow: .venv/.installed
	@$(BIN)/python -m pytest -m slow

# After a change of plugin/option_schema.py.
keys: .venv/.installed
	@$(BIN)/python -m airnet_basicsr.plugin.option_page > docs/option_keys.md
	@$(BIN)/python -m airnet_basicsr.plugin.option_page --json > docs/option_keys.schema.json

docs: .venv/.installed
	@$(BIN)/mkdocs build --strict

bench: .venv/.installed
	@$(BIN)/python benchmarks/bench.py

ABLATIONS := full wo_contrast wo_dcn wo_sft
# Each starts from the weights of the one before.
CPU_PARTS := train_reference train_reference_2 train_reference_3
GPU_PARTS := train_reference_4 train_reference_5 train_reference_6
PARTS := $(CPU_PARTS) $(GPU_PARTS)
LAST := experiments/$(lastword $(PARTS))
# What ships is written anew. A trial run gives others, and changes to the option files in FORCE.
SHIPPED := airnet_basicsr/weights/airnet_small.safetensors
CARD := airnet_basicsr/weights/README.md
FORCE :=
COUNT := 300
DATA = PYTHON=$(BIN)/python sh datasets_prep/reference.sh '$(PHOTOS)' '$(RAIN)' '$(HAZE)' '$(KODAK)'

reference: .venv/.installed
	@$(DATA)
	@set -e; for part in $(CPU_PARTS); do \
		$(BIN)/torchrun --standalone --nproc_per_node=2 basicsr/train.py -opt options/reference/$$part.yml --launcher pytorch --auto_resume $(FORCE); \
	done
	@set -e; for part in $(GPU_PARTS); do \
		$(BIN)/python basicsr/train.py -opt options/reference/$$part.yml --auto_resume $(FORCE); \
	done
	@$(BIN)/airnet model reference $(LAST)/models/net_g_latest.pth -opt options/reference/explained.yml --count $(COUNT) -o $(LAST)/explaining.pth
	@$(BIN)/airnet model slim $(LAST)/explaining.pth -o $(SHIPPED)
	@$(BIN)/python basicsr/test.py -opt options/reference/test_reference.yml --force_yml path:pretrain_network_g=$(SHIPPED)
	@$(BIN)/python basicsr/test.py -opt options/reference/test_reference_cbm3d.yml
	@$(BIN)/airnet report results/test_reference results/test_reference_cbm3d
	@$(BIN)/python -m airnet_basicsr.report.card $(SHIPPED) --training $(PARTS:%=experiments/%) \
		--tests results/test_reference results/test_reference_cbm3d --about options/reference/about.md -o $(CARD)

reference-ablations: .venv/.installed
	@$(DATA)
	@set -e; for name in $(ABLATIONS); do \
		$(BIN)/python basicsr/train.py -opt options/reference/ablation_$$name.yml --auto_resume; \
		$(BIN)/python basicsr/test.py -opt options/reference/test_ablation_$$name.yml; \
	done
	@$(BIN)/python -m airnet_basicsr.report $(ABLATIONS:%=results/test_ablation_%)
	@$(BIN)/python -m airnet_basicsr.report.curves $(ABLATIONS:%=tb_logger/ablation_%) -o results/test_ablation_full/report/curves.svg

lint: .venv/.installed
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/mypy

clean:
	rm -rf .venv build *.egg-info

# make demo | test | test-all | lowered | check | docs | verify-numbers | gpu-check | browser; PYTHON chooses the interpreter the environment is made from.
PYTHON ?= python3
BIN := .venv/bin
TWO := --numprocesses 2 --dist loadfile # tests of a file share fixtures
INSTALL = $(BIN)/python -m pip install --constraint constraints.txt --editable

.PHONY: demo test test-all lowered check docs verify-numbers gpu-check lint browser scan-models clean

demo: .venv/installed-demo
	$(BIN)/penultimate demo

# Every verb and every guarantee once: minutes. test-all adds what takes longer: kills, clusters, large problems.
test: .venv/installed-test
	$(BIN)/python -m pytest $(TWO) -m "not slow"

test-all: .venv/installed-test
	$(BIN)/python -m pytest $(TWO)

# What depends on the processor once more, as a plain AVX2 machine computes it.
lowered: .venv/installed-test
	PENULTIMATE_CPU=avx2 $(BIN)/python -m pytest $(TWO) -m capability

check: lint test-all lowered

# On a machine with a GPU, as it is: tests of GPUs, then the report. Installs nothing; GPU_PYTHON chooses the interpreter.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_REPORT ?= gpu_$(shell date +%Y%m).md
gpu-check: export PYTHONPATH := $(CURDIR)/src:$(PYTHONPATH)
gpu-check:
	$(GPU_PYTHON) -m pytest -m gpu $$(grep -rl mark.gpu tests); tests=$$?; \
	$(GPU_PYTHON) -m penultimate bench gpu --out $(GPU_REPORT) && { [ $$tests -eq 0 ] || [ $$tests -eq 5 ]; }

lint: .venv/installed-test verify-numbers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# Figures of README and docs against the JSON of their reports. `python tools/verify_numbers.py --renew` renews the pages.
verify-numbers: .venv/installed-test
	$(BIN)/python tools/verify_numbers.py

# The documentation, into site/: the tutorial is run, the references are read from the code, a broken link is an error.
docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/installed-docs
	$(BIN)/mkdocs build --strict

# The report's page is tested in a headless Chromium; where none can be had, those tests skip and nothing fails.
browser:
	@command -v chromium || command -v chromium-browser || command -v google-chrome \
	|| { export DEBIAN_FRONTEND=noninteractive; [ "$$(id -u)" = 0 ] && timeout 120 apt-get update -qq \
	     && timeout 300 apt-get install -y -qq --no-install-recommends chromium >/dev/null && command -v chromium; } \
	|| echo "no Chromium here and none could be installed (Debian: apt-get install chromium); its tests will skip"

# Every architecture of timm, smallest first; hours. Stopped and started again, it goes on where it was.
scan-models: .venv/installed-test
	nice $(BIN)/python benchmarks/scan_models.py scan_models.jsonl benchmarks/results/scan_models_202611.md

.venv/installed-demo: pyproject.toml constraints.txt engine/probe/kernels/kernels.c engine/probe/kernels/float_passes.c
	$(PYTHON) -m venv .venv
	$(INSTALL) '.[demo]'
	touch $@

.venv/installed-test: .venv/installed-demo
	$(INSTALL) '.[demo,weights,test]'
	touch $@

.venv/installed-docs: .venv/installed-test
	$(INSTALL) '.[demo,weights,test,docs]'
	touch $@

clean:
	rm -rf .venv demo build dist site

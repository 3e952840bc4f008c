# Needs git, make and Python 3.11 or newer; everything else goes into .venv on first use.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.PHONY: help test lint demo bench docs site clean

help:
	@echo 'make test    lint, types and all tests'
	@echo 'make demo    the whole story in demo/'
	@echo 'make bench   the measurements behind the numbers in docs'
	@echo 'make docs    regenerate docs/reference, the manual page, the completions'
	@echo 'make site    build docs/ into build/site'
	@echo 'make lint    ruff and mypy alone'
	@echo 'make clean   remove what these made, .venv too'

test: lint
	$(BIN)/python -m pytest -n 2

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

demo: $(INSTALLED)
	$(BIN)/git-soup demo demo/

bench: $(INSTALLED)
	set -e; for script in benchmarks/*.py; do PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python "$$script"; done

docs: $(INSTALLED)
	$(BIN)/python -m soup_git.manual .

site: $(INSTALLED)
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet --fresh-env \
		--doctree-dir build/doctrees docs build/site

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch comes alone and first: where a CPU build lies at hand, pip takes it and the
# gigabytes of CUDA libraries that the default build depends on are never asked for.
# An editable install brings no manual page; `git soup --help` looks for it below the prefix.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "git-soup needs Python 3.11 or newer; try: make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[eval,embedding,quantized,dask,docs,dev]'
	mkdir -p $(VENV)/share/man/man1
	ln -sf '$(CURDIR)/share/man/man1/git-soup.1' $(VENV)/share/man/man1/
	touch $@

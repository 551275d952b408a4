# Everything a newcomer needs: make demo, make test, make lab. See README.md.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo lab test check bench clean

help:
	@echo "make demo    start three sites on real data, run the first notebook against them"
	@echo "make lab     the same sites, and JupyterLab opened on notebooks/"
	@echo "make test    install what tests need, run everything"
	@echo "make check   lint, format, types and the walls between rooms"
	@echo "make bench   print the benchmarks' ratios"
	@echo "make clean   remove .venv and .demo"

.venv/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "privnb needs Python 3.11, 3.12 or 3.13; say which with: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/demo: .venv/pip pyproject.toml constraints.txt
	@echo "Installing privnb into .venv (some minutes the first time)"
	@$(INSTALL) --editable '.[demo]'
	@touch $@

.venv/test: .venv/pip pyproject.toml constraints.txt
	@echo "Installing privnb and what its tests need into .venv (some minutes the first time)"
	@$(INSTALL) --editable '.[test]'
	@touch $@ .venv/demo

demo: .venv/demo
	@$(BIN)/privnb demo

lab: .venv/demo
	@$(BIN)/privnb lab

# Hundreds of processes are started: each would compile our code anew where none may keep it.
test: .venv/test
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup

check: .venv/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p privnb -p privnb.magics -p privnb.widgets
	$(BIN)/python -m pytest --quiet tests/test_rooms.py

.venv/bench: .venv/test
	@$(INSTALL) --editable '.[bench]'
	@touch $@

bench: .venv/bench
	@for script in tests/benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:
	rm -rf .venv .demo

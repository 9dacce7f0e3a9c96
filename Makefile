# `make demo` and `make test` do all their own set-up: they need Python >= 3.11 and, the first time, a network and some minutes.
# PYTHON=/path/to/python chooses the Python that .venv is made with,
# TORCH=cpu (or cu128, ...) the index of https://download.pytorch.org/whl that PyTorch is taken from.

BIN := .venv/bin
READY := .venv/.ready
MAKING := .venv/.unfinished
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
WHEELS := https://download.pytorch.org/whl

ifneq ($(and $(TORCH),$(wildcard $(READY))),)
$(info .venv is there already, so TORCH=$(TORCH) changes nothing; remove .venv first)
endif

.DEFAULT_GOAL := help
.PHONY: help demo test quick docs

help:
	@echo "make demo   follow an object through the demo clip with the small model"
	@echo "make test   check everything: ruff, the tests, every notebook, the pages"
	@echo "make quick  check what an uncommitted change touches"
	@echo "make docs   export the library from the notebooks; build docs/ and README.md"
	@echo "The first of them makes .venv, which takes some minutes; TORCH=cpu then leaves out CUDA."

# One thread: other rounding leads to other masks where the cat hides the cup
demo: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/eosvos demo

# Two processes side by side, one thread each
test: export OMP_NUM_THREADS ?= 1
test: $(READY)
	$(BIN)/ruff check
	$(BIN)/pytest -n 2 --dist worksteal

quick: export OMP_NUM_THREADS ?= 1
quick: $(READY)
	$(BIN)/nbdev-export
	$(BIN)/ruff check
	$(BIN)/python tests/quick.py

docs: $(READY)
	$(BIN)/nbdev-export
	$(BIN)/python nbs/_build_docs.py

# Begins anew after an interruption midway; otherwise a changed pyproject.toml only brings the packages up to date.
$(READY): pyproject.toml
	@set -e; trap 'exit 130' INT TERM; \
	if [ -e $(MAKING) ] || ! $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
		for python in $(or $(PYTHON),python3.13 python3.12 python3.11 python3.14 python3 python); do \
			if "$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
		done; \
		if [ -z "$$found" ]; then \
			echo "eosvos needs Python >= 3.11 with its venv module$(if $(PYTHON),; PYTHON=$(PYTHON) is not such a one)." >&2; \
			echo "Install one (on Debian and Ubuntu also the package python3-venv) or say PYTHON=/path/to/python." >&2; exit 1; \
		fi; \
		echo "Making .venv with $$found ($$("$$found" --version))"; \
		"$$found" -m venv --clear .venv; \
	fi; \
	touch $(MAKING); \
	echo "Installing eosvos and its packages into .venv; the first time this takes some minutes"; \
	$(if $(TORCH),$(PIP) torch torchvision --index-url $(WHEELS)/$(TORCH) && )$(PIP) -e ".[dev]" \
		|| { rm -f $(MAKING); exit 1; }; \
	rm -f $(MAKING); touch $(READY); \
	echo "Set-up is done"

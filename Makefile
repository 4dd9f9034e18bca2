# `make` lists what there is to make. Everything runs inside .venv, which the first target that needs it sets up; what cannot be
# installed beside the rest, inside .venv-NAME.
#
# Programs run as `python -m NAME`, never as .venv/bin/NAME: those scripts hold the absolute path of the interpreter in their first
# line, where a space breaks it. For the same reason every path here is relative.

PYTHON ?= python3
VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# pip builds source packages in an environment of its own; older pips pin that one by the first of these, newer ones by the second.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
# Into the environment that the target lies in.
PIP = $(@D)/bin/python -m pip --quiet --disable-pip-version-check
PYTEST_ARGS ?= --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder --durations=10

.DEFAULT_GOAL := help
.PHONY: help demo test lint notebooks test-tensorflow test-encodec clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.installed ## make songs, train a small model on them and let it sing; writes demo/
	$(VENV_PYTHON) -m benchmarks.demo --output demo

test: $(VENV)/.installed-test ## run all tests
	$(VENV_PYTHON) -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-test ## check the code with ruff
	$(VENV_PYTHON) -m ruff check .

notebooks: $(VENV)/.installed-test ## write colab/*.ipynb from their twins, colab/*.py
	$(VENV_PYTHON) -m colab.notebooks

test-tensorflow: $(VENV)/.installed-tensorflow ## install TensorFlow and check that it reads the datasets
	$(VENV_PYTHON) -m pytest -m tensorflow

test-encodec: $(VENV)-encodec/.installed ## install Meta's encodec into .venv-encodec and check that its codes are ours
	$(VENV)-encodec/bin/python -m pytest -m encodec -rA

clean: ## remove .venv, .venv-encodec and caches; songs, datasets and trained models stay
	rm -rf $(VENV) $(VENV)-encodec build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What a stamp stands for is installed again whenever the project's dependencies or their pins change.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing autosong_jax into $(VENV) (one to three minutes) ..."
	@$(PIP) install -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing autosong_jax with what its tests need, PyTorch among it, into $(VENV) (a few minutes) ..."
	@$(PIP) install -e ".[test]"
	@touch $(VENV)/.installed $@

$(VENV)/.installed-tensorflow: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing autosong_jax with its tests and TensorFlow into $(VENV) (a few minutes) ..."
	@$(PIP) install -e ".[test,tensorflow]"
	@touch $(VENV)/.installed $(VENV)/.installed-test $@

# The package's source distribution holds the recordings that the tests encode.
$(VENV)-encodec/.installed: export PIP_CONSTRAINT := constraints.txt constraints-encodec.txt
$(VENV)-encodec/.installed: pyproject.toml constraints.txt constraints-encodec.txt | $(VENV)-encodec/.created
	@echo "Installing autosong_jax with its tests and the encodec package into $(@D) (a few minutes) ..."
	@$(PIP) install -e ".[test,encodec]"
	@$(PIP) download --no-deps --no-binary=encodec --dest=$(@D) encodec
	@touch $@

$(VENV)/.created $(VENV)-encodec/.created:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "error: $(PYTHON) not found: install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12"; exit 2; } >&2
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || { \
	  echo "error: $(PYTHON) is `"$(PYTHON)" -V 2>&1`; autosong_jax needs 3.11, 3.12 or 3.13: make PYTHON=python3.12"; exit 2; } >&2
	@"$(PYTHON)" -m venv --clear $(@D) || { \
	  echo "error: $(PYTHON) could not create $(@D); on Debian or Ubuntu, apt install python3-venv"; exit 2; } >&2
	@touch $@

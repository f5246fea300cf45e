# The few commands there are. Paths are relative throughout, so the folder may have any name, spaces included.
PYTHON      ?= python3
CONSTRAINTS ?= $(wildcard constraints.txt)

PY      := .venv/bin/python
PIP     := $(PY) -m pip --no-input --disable-pip-version-check install $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
START   := /lab/tree/notebooks/00_start_here.ipynb
TESTS    = tests $(if $(wildcard notebooks/*.ipynb),notebooks) $(if $(wildcard solutions/*.ipynb),solutions)

.DEFAULT_GOAL := help
.PHONY: help lab setup test check build html checkpoints bench classroom marks

help:  ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

lab: setup  ## set up if needed, then open the course in JupyterLab
	@flags=--no-browser; \
	if [ "$$(uname)" = Darwin ] || [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then \
	  $(PY) -c 'import webbrowser; webbrowser.get()' 2>/dev/null && flags=; \
	fi; \
	[ "$$(id -u)" != 0 ] || flags="$$flags --allow-root"; \
	exec $(PY) -m jupyterlab $$flags --LabApp.default_url=$(START) --LanguageServerManager.autodetect=False

setup: .venv/.lab-installed  ## only set up: the course and JupyterLab in .venv

test: check  ## every gate there is: lint, types, unit tests, all notebooks on the fast profile
	COURSE_PROFILE=fast COURSE_STRICT=1 OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist loadscope \
	  --nbval-lax --nbval-current-env --nbval-cell-timeout 120 --nbval-sanitize-with tests/nbval_sanitize.cfg $(TESTS)

check: .venv/.test-installed  ## in seconds: lint, types, and whether the notebooks are in step with their sources
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) authoring/build.py --check

build: .venv/.test-installed  ## execute and regenerate every notebook at full length (half an hour)
	$(PY) authoring/build.py

html: .venv/.test-installed  ## the whole course as a website in site/, to read without Python and without a network
	$(PY) authoring/website.py

checkpoints: .venv/.test-installed  ## retrain the bundled checkpoints on real MNIST
	$(PY) benchmarks/train_checkpoints.py

classroom: .venv/.classroom-installed  ## make an nbgrader course in classroom/: what students get is in classroom/release
	$(PY) authoring/classroom.py release $(if $(EDITION),--edition $(EDITION))

marks: .venv/.classroom-installed  ## mark what lies in classroom/submitted, with feedback, into classroom/marks.csv
	$(PY) authoring/classroom.py grade

bench: .venv/.lab-installed  ## measure speed against the loop everybody writes, side by side
	$(PY) benchmarks/bench.py


# A stamp is written only after an install that finished, so an interrupted one is taken up again.
.venv/.lab-installed: pyproject.toml $(CONSTRAINTS) | .venv/.created
	$(PIP) -e '.[lab]'
	@mkdir -p .venv/share/jupyter/lab/settings
	@cp authoring/lab_settings.json .venv/share/jupyter/lab/settings/overrides.json
	@touch $@

.venv/.test-installed: pyproject.toml $(CONSTRAINTS) | .venv/.lab-installed
	$(PIP) -e '.[test]'
	@touch $@

.venv/.classroom-installed: pyproject.toml $(CONSTRAINTS) | .venv/.lab-installed
	$(PIP) -e '.[authoring,classroom]'
	@touch $@

.venv/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "The course needs Python 3.11 or newer, and '$(PYTHON)' is not: install one and name it, as in 'make lab PYTHON=python3.12'." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' has no venv module: install it (on Debian and Ubuntu 'sudo apt install python3-venv'), then call make again." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

# make        list what there is, which is this
# make run    start the example services (ARGS="--once" ends after one job of each)
# make test   run the tests
# make test-fast  those of the rooms that need no server, in less than a minute
# make docs   build the documentation, as a site, into build/docs
# make man    the manual page, man -l build/man/uwsd.1
# make linkcheck      ask all addresses elsewhere that it refers to whether they are still there (it needs the internet)
# make crash  kill stores and servers under load, 300 times, and look at what is left
# make slurm  run 200 jobs of mixed fate in a real Slurm, while servers and its daemons are killed
# make nodes  kill, and cut off, three servers of one log and their database, for five minutes (ARGS="--nodes-seed N" repeats)
# make fuzz   make 50,000 requests of all kinds to real servers, and look at what is left (ARGS="--fuzz-seed N" repeats)
# make replay replay 500 made-up histories and 500 jobs of a real trace, and hold them against what was watched
# make check  everything a change must pass
# make release-notes      print what has changed since the last release
# make lint   the part of it that reads the code without running it
# make audit  look for known holes in the pinned versions (it asks PyPI); a part of check where PyPI can be reached
# make screenshots        every page, narrow and wide, light and dark, into docs/pages/
# make bench      all figures beside the machine's floor and a peer: an hour (ARGS="--jobs N --output DIRECTORY --no-peer"; needs wrk)
# make bench-quick        the same in five minutes: fewer jobs and clients
# make bench-eventstore   what the log does in a second, beside plain SQLite (ARGS="--json FILE")
# make bench-feed         what it costs to tell thousands of listeners (ARGS="--listeners N")
# make bench-crowd        how fast others are answered while 5,000 wait and 500 are slow (ARGS="--slow N --waiting N")
# make bench-growth       what a job costs on disk, from a real trace (ARGS="--trace FILE")
# make bench-quotes       how good quotes are, for a real trace (ARGS="--trace FILE")
# make bench-scale        what a server with a million jobs costs (ARGS="--jobs N --output DIRECTORY")
# make bench-audit        how long an auditor of a million jobs waits (ARGS="--jobs N --output DIRECTORY")
# make bench-execution    what a job costs beyond its program (ARGS="--jobs N --slots N --output DIRECTORY")
# make bench-pages        what a page costs beside its XML (ARGS="--requests N --output DIRECTORY")
# make bench-requests     what frequent requests cost beside a bare handler's (ARGS="--jobs N --output DIRECTORY"; needs wrk)
# make bench-guard        instructions of hot paths, held against those that are committed (ARGS=--commit | "--against REVISION"; needs valgrind)
# make bench-nodes        what one log costs one server, and up to three nodes (ARGS="--nodes N --directory DIRECTORY")
# make bench-fairness     a real trace: who waits how long (ARGS="--days N --slots N --output DIRECTORY")

# The system's, also where the environment's own, which has no pip, is first on the PATH.
PYTHON ?= $(shell PATH="$(subst $(CURDIR)/.venv/bin:,,$(PATH))" && command -v python3)
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
UWS_CLIENT := .venv-uws-client
AUDIT := .venv-audit
AXE := tests/browser/node_modules/axe-core/axe.min.js
FAST := tests/model tests/eventstore tests/test_config.py tests/test_store_urls.py -k "not postgres"
# Three processes for two cores: what tests of nodes and of Slurm wait for takes as long as all that others compute.
PARALLEL := --numprocesses $(shell expr \( 3 \* $$(nproc) + 1 \) / 2) --maxprocesses 8 --dist worksteal
# pip reads the versions from here, for what packages are built with too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Tests start hundreds of processes: what these import is compiled once, and not by each of them.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run test test-fast docs man linkcheck release-notes crash nodes slurm fuzz replay check lint audit audit-where-it-can screenshots bench bench-quick bench-audit bench-eventstore bench-crowd \
	bench-feed bench-growth bench-quotes bench-scale bench-execution bench-pages bench-requests bench-fairness bench-nodes bench-guard clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^# make/make/p' Makefile

# Debian's venv module comes without ensurepip: the system's pip fills the environment from outside.
$(VENV)/run: pyproject.toml constraints.txt
	$(PYTHON) -m venv --without-pip --clear $(VENV)
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[examples]'
	touch $@

$(VENV)/test: $(VENV)/run
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[examples,tests,check]'
	touch $@

$(VENV)/docs: $(VENV)/run
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[examples,docs]'
	touch $@

$(VENV)/bench: $(VENV)/run
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --editable '.[examples,bench]'
	touch $@

run: $(VENV)/run
	$(BIN)/python -m examples $(ARGS)

# uws-client is Python 2 and imports as `uws`: it is converted, in an environment of its own.
$(UWS_CLIENT)/ready: tests/clients/uws_client/convert.py constraints.txt
	$(PYTHON) -m venv --without-pip --clear $(UWS_CLIENT)
	$(PYTHON) -m pip --python $(UWS_CLIENT)/bin/python install --quiet --use-pep517 uws-client fissix
	$(UWS_CLIENT)/bin/python tests/clients/uws_client/convert.py
	touch $@

# Where there is no npm, the tests that need this say that they are skipped.
$(AXE): tests/browser/package-lock.json
	if command -v npm; then npm ci --prefix tests/browser --loglevel error --no-audit --no-fund && touch $@; fi

# ARGS="-n 0" keeps to one process, for a debugger.
test: $(VENV)/test $(UWS_CLIENT)/ready $(AXE)
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-fast: $(VENV)/test
	$(BIN)/python -m pytest $(PARALLEL) $(FAST) $(ARGS)

# A warning is an error: a link that leads nowhere, a page that is in no list.
docs: $(VENV)/docs
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo build/docs/index.html

man: $(VENV)/docs
	$(BIN)/sphinx-build -W --keep-going -q -b man docs build/man
	@echo build/man/uwsd.1

linkcheck: $(VENV)/docs
	$(BIN)/sphinx-build -q -b linkcheck docs build/linkcheck

release-notes:
	@awk '/^## / { n++; next } n == 1' CHANGELOG.md

crash: $(VENV)/test
	$(BIN)/python -m pytest tests/crash --kills 300 $(ARGS)

nodes: $(VENV)/test
	$(BIN)/python -m pytest tests/nodes/campaign --long $(ARGS)

slurm: $(VENV)/test
	$(BIN)/python -m pytest tests/slurm --jobs 200 $(ARGS)

fuzz: $(VENV)/test
	$(BIN)/python -m pytest $(PARALLEL) tests/fuzz --requests 50000 $(ARGS)

replay: $(VENV)/test
	$(BIN)/python -m pytest tests/audit/test_past.py --histories 500 $(ARGS)

# Last: whether all that the packages offer has a type that every checker reads alike; the interpreter is looked for on the PATH.
lint: $(VENV)/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell
	@for package in eventstore projections uws; do \
	    told=$$(PATH="$(CURDIR)/$(BIN):$$PATH" basedpyright --ignoreexternal --verifytypes $$package) || { echo "$$told"; exit 1; }; \
	    echo "$$package: $$(echo "$$told" | grep score)"; \
	done

check: lint audit-where-it-can $(UWS_CLIENT)/ready $(AXE)
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-report=term-missing:skip-covered $(ARGS)

# In an environment of its own: what looks for holes brings much along.
$(AUDIT)/ready: constraints.txt
	$(PYTHON) -m venv --without-pip --clear $(AUDIT)
	$(PYTHON) -m pip --python $(AUDIT)/bin/python install --quiet pip-audit
	touch $@

# --strict: a version of which nothing can be found out is an error, too.
audit: $(AUDIT)/ready
	$(AUDIT)/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict $(ARGS)

# A mirror that knows nothing of the versions that are pinned is not asked.
FIRST_PIN = $(shell sed -n 's/^\([^\#=]*\)==\(.*\)$$/\1\/\2/p' constraints.txt | head -1)
audit-where-it-can:
	if curl --silent --fail --max-time 10 --output /dev/null https://pypi.org/pypi/$(FIRST_PIN)/json; then $(MAKE) audit; \
	else echo "https://pypi.org cannot be asked for known holes from here: make audit is left out"; fi

screenshots: $(VENV)/test
	$(BIN)/python -m tests.browser.screenshots

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.suite $(ARGS)

bench-quick: $(VENV)/bench
	$(BIN)/python -m benchmarks.suite --quick $(ARGS)

bench-eventstore: $(VENV)/run
	$(BIN)/python -m benchmarks.eventstore $(ARGS)

bench-crowd: $(VENV)/run
	$(BIN)/python -m benchmarks.crowd $(ARGS)

bench-feed: $(VENV)/run
	$(BIN)/python -m benchmarks.feed $(ARGS)

bench-growth: $(VENV)/run
	$(BIN)/python -m benchmarks.growth $(ARGS)

bench-quotes: $(VENV)/run
	$(BIN)/python -m benchmarks.quotes $(ARGS)

bench-scale: $(VENV)/run
	$(BIN)/python -m benchmarks.scale $(ARGS)

bench-audit: $(VENV)/run
	$(BIN)/python -m benchmarks.audit $(ARGS)

bench-execution: $(VENV)/run
	$(BIN)/python -m benchmarks.execution $(ARGS)

bench-pages: $(VENV)/run
	$(BIN)/python -m benchmarks.pages $(ARGS)

bench-requests: $(VENV)/run
	$(BIN)/python -m benchmarks.requests $(ARGS)

bench-fairness: $(VENV)/run
	$(BIN)/python -m benchmarks.fairness $(ARGS)

bench-guard: $(VENV)/run
	$(BIN)/python -m benchmarks.guard $(ARGS)

bench-nodes: $(VENV)/test
	$(BIN)/python -m benchmarks.nodes $(ARGS)

clean:
	rm -rf $(VENV) .venv-* tests/browser/node_modules dist .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache

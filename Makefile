# Everything happens inside this checkout: the virtual environment is .venv, builds go to build and dist.
# Each step leaves a stamp file, so nothing is done twice while its sources stay the same.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
T      ?= tests

SOURCES := setup.py pyproject.toml MANIFEST.in $(shell find src -name '*.py' -o -name '*.pyx' -o -name '*.pxd' \
             -o -name '*.pxi' -o -name '*.pyi' -o -name py.typed) $(shell find packaging/share -type f)
PYTEST  := $(BIN)/python -m pytest
# One process more than there are processors, because many tests wait. WORKERS=0 runs all tests in one process.
WORKERS ?= $(shell expr $$(nproc) + 1)
SHARED  := -n $(WORKERS) --dist worksteal
QUICK   := -m 'not slow'
# For special builds: what real beanstalkd replies to the same requests runs no line of ours.
OURS    := -m 'not slow and not real_beanstalkd'

.DEFAULT_GOAL := help
.PHONY: help run test test-all soak test-pythons wheel-check bench bench-all performance bench-check instructions lint pages \
        format build tools special-builds wheel sdist clean sanitize fuzz coverage valgrind

help: ## list the targets
	@echo 'make TARGET [PYTHON=python3.12]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

run: ARGS ?= -l 127.0.0.1 -p 11300
run: $(VENV)/installed ## run the daemon on 127.0.0.1:11300; ARGS='-p 11301 -V' sets other flags
	@exec $(BIN)/python -m fastbean $(ARGS)

test: $(VENV)/installed $(VENV)/test-tools ## run the tests without the slow ones; T=tests/unit runs a part of them
	$(PYTEST) $(SHARED) $(QUICK) $(T)

test-all: $(VENV)/installed $(VENV)/test-tools ## run all tests, including the slow ones
	$(PYTEST) $(SHARED) $(T)

test-pythons: $(VENV)/wheel-tools ## build, install and run all tests on each CPython of this machine; ARGS=--help
	$(BIN)/python .ci/check_wheels.py $(or $(ARGS),--pythons all --tests whole)

wheel-check: $(VENV)/wheel-tools ## build the sdist and from it a portable wheel; try both in empty environments
	$(BIN)/python .ci/check_wheels.py $(ARGS)

soak: SECONDS ?= 600
soak: $(VENV)/installed $(VENV)/test-tools ## all kinds of load and kills for SECONDS=600; every job is accounted for
	cd tests && $(abspath $(BIN))/python -m crash.soak --seconds $(SECONDS)

sanitize: build/sanitize/built ## run the tests under AddressSanitizer and UndefinedBehaviorSanitizer; T= as for test
	$(BIN)/python tests/fuzz/sanitizers.py $(STACKS) $(PYTEST) $(SHARED) -p no:cacheprovider $(OURS) $(T)

fuzz: build/sanitize/targets-built ## fuzz for a minute and a million executions each; ARGS=--help
	$(BIN)/python tests/fuzz/run.py $(ARGS)

coverage: build/coverage/built ## measure which lines of the compiled modules the tests reach; ARGS=--missing lists the others
	@find build/coverage -name '*.gcda' -delete
	FASTBEAN_COVERAGE=1 PYTHONPATH=$(CURDIR)/build/coverage/lib PYTHONDONTWRITEBYTECODE=1 \
	    $(PYTEST) $(SHARED) -p no:cacheprovider $(OURS) $(COVERED)
	$(BIN)/python tests/quality/coverage_of_lines.py build/coverage $(LEAST) $(ARGS)

valgrind: $(VENV)/installed $(VENV)/test-tools ## run a short session under valgrind
	$(PYTEST) tests/quality/test_valgrind.py

# A slow bench is no hang: without faulthandler_timeout pytest would print stack dumps of it.
BENCH := $(PYTEST) bench -o faulthandler_timeout=0

bench: $(VENV)/installed $(VENV)/bench-tools ## compare with beanstalkd in less than three minutes
	$(BENCH) -m 'not long' --benchmark-columns=median,ops,rounds

bench-all: $(VENV)/installed $(VENV)/bench-tools ## run all benches, the long ones too
	$(BENCH)

performance: $(VENV)/installed $(VENV)/bench-tools ## measure everything in docs/performance.md, and write it; ARGS=--help
	$(BIN)/python -m bench.performance $(ARGS)

bench-check: $(VENV)/installed ## measure a few rows; fail if one is much worse than in docs/performance.json
	$(BIN)/python -m bench.check

instructions: $(VENV)/installed ## count the instructions of each command under valgrind; ARGS=--help
	$(BIN)/python -m bench.instructions $(ARGS)

lint: $(VENV)/installed $(VENV)/lint-tools ## ruff, cython-lint, mypy and stubtest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH $(BIN)/cython-lint src tests bench
	$(BIN)/mypy
	$(BIN)/stubtest fastbean --ignore-disjoint-bases --allowlist tests/quality/stubtest-allow.txt

pages: $(VENV)/installed ## regenerate manual pages, completions and docs/statistics.md after a change of flags or figures
	$(BIN)/python packaging/make_pages.py

format: $(VENV)/lint-tools ## let ruff format the code and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/installed ## compile and install into .venv

tools: $(VENV)/test-tools $(VENV)/lint-tools $(VENV)/wheel-tools ## install into .venv what tests, lint and wheel-check need

# While these run, nothing in .venv may change: `build` and `tools` come first.
special-builds: build/sanitize/targets-built build/coverage/built ## build what sanitize, fuzz and coverage run

wheel: $(VENV)/build-tools ## build the wheel in dist
	@.ci/drop-old-copies
	$(BIN)/python -m build --wheel --no-isolation

sdist: $(VENV)/build-tools ## build the sdist in dist
	$(BIN)/python -m build --sdist --no-isolation

clean: ## remove .venv and all builds
	rm -rf $(VENV) build dist src/*.egg-info  .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Coverage of the compiled modules comes from these; the others add time and no lines. (test_pytest_plugin starts pytest
# again and again.)
COVERED ?= tests/unit tests/daemon tests/model/test_long_work.py tests/model/test_long_times.py \
             tests/wire/test_transcripts_*.py tests/wire/test_limits_of_input.py tests/crash/test_kept.py \
             tests/crash/test_kill.py --ignore=tests/unit/test_pytest_plugin.py
# The percentage of lines that must run. Most of the others handle system calls that fail, which slow tests provoke.
LEAST   ?= 96
# Each special build has a folder of its own, and is rebuilt as a whole, because setuptools does not notice when flags
# change. Bytecode is written here, because the tests write none: the servers that they start would compile it each time.
BUILD_IN = rm -rf $(1)/lib && $(2) $(BIN)/python setup.py -q build --build-base $(1) --build-lib $(1)/lib && \
           $(BIN)/python -m compileall -q $(1)/lib

build/sanitize/built: $(SOURCES) tests/fuzz/coverage-allow.txt $(VENV)/installed $(VENV)/test-tools
	$(call BUILD_IN,build/sanitize,CC=clang FASTBEAN_SANITIZE=1)
	@touch $@

build/sanitize/targets-built: build/sanitize/built $(wildcard tests/fuzz/*.pyx tests/fuzz/*.pxd tests/fuzz/setup.py)
	CC=clang PYTHONPATH=build/sanitize/lib $(BIN)/python tests/fuzz/setup.py -q build_ext \
	    --build-lib build/sanitize/targets --build-temp build/sanitize
	@touch $@

build/coverage/built: $(SOURCES) $(VENV)/installed $(VENV)/test-tools
	$(call BUILD_IN,build/coverage,FASTBEAN_COVERAGE=1)
	@touch $@

$(VENV)/installed: $(SOURCES) $(VENV)/build-tools
	@.ci/drop-old-copies
	$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	@touch $@

$(VENV)/build-tools $(VENV)/test-tools $(VENV)/bench-tools $(VENV)/lint-tools $(VENV)/wheel-tools: $(VENV)/%-tools: pyproject.toml $(VENV)/created
	$(PIP) install --group $*
	@touch $@

$(VENV)/created:
	@PYTHON='$(PYTHON)' sh .ci/make-venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

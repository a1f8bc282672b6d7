# Everything happens inside this checkout: the virtual environment in .venv, what is built in build and dist.
# Each step leaves a stamp in .venv, so that nothing is done twice while its sources stay the same.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
T      ?= tests

SOURCES := setup.py pyproject.toml MANIFEST.in $(shell find src -name '*.py' -o -name '*.pyx' -o -name '*.pxd' \
             -o -name '*.pxi' -o -name '*.pyi' -o -name py.typed) $(shell find packaging/share -type f)
PYTEST  := $(BIN)/python -m pytest
# One process more than there are processors: many tests wait for something. WORKERS=0 runs all in one.
WORKERS ?= $(shell expr $$(nproc) + 1)
SHARED  := -n $(WORKERS) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help run test test-all soak test-pythons wheel-check bench bench-all performance bench-check lint pages \
        format build wheel sdist clean sanitize fuzz coverage valgrind

help: ## list the targets
	@echo 'make TARGET [PYTHON=python3.12]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

run: ARGS ?= -l 127.0.0.1 -p 11300
run: $(VENV)/installed ## run the daemon on 127.0.0.1:11300; ARGS='-p 11301 -V' gives it other flags
	@exec $(BIN)/python -m fastbean $(ARGS)

test: $(VENV)/installed $(VENV)/test-tools ## run the tests but the slow ones; T=tests/unit runs some of them
	$(PYTEST) $(SHARED) -m 'not slow' $(T)

test-all: $(VENV)/installed $(VENV)/test-tools ## run all tests, the slow ones too
	$(PYTEST) $(SHARED) $(T)

test-pythons: $(VENV)/wheel-tools ## build, install and test whole on each CPython of this machine; ARGS=--help
	$(BIN)/python .ci/check_wheels.py $(or $(ARGS),--pythons all --tests whole)

wheel-check: $(VENV)/wheel-tools ## make the sdist, from it a wheel for others, and try both in empty environments
	$(BIN)/python .ci/check_wheels.py $(ARGS)

soak: SECONDS ?= 600
soak: $(VENV)/installed $(VENV)/test-tools ## mix everything for SECONDS=600, with kills, and account for every job
	cd tests && $(abspath $(BIN))/python -m crash.soak --seconds $(SECONDS)

sanitize: build/sanitize/built ## run the tests under AddressSanitizer and UndefinedBehaviorSanitizer; T= as for test
	$(BIN)/python tests/fuzz/sanitizers.py $(STACKS) $(PYTEST) $(SHARED) -p no:cacheprovider -m 'not slow' $(OURS) $(T)

fuzz: build/sanitize/targets-built ## fuzz for a minute and a million executions each; ARGS=--help
	$(BIN)/python tests/fuzz/run.py $(ARGS)

coverage: build/coverage/built ## measure which lines of the compiled modules the tests reach; ARGS=--missing names the others
	@find build/coverage -name '*.gcda' -delete
	FASTBEAN_COVERAGE=1 PYTHONPATH=$(CURDIR)/build/coverage/lib PYTHONDONTWRITEBYTECODE=1 \
	    $(PYTEST) $(SHARED) -p no:cacheprovider -m 'not slow' $(OURS) $(COVERED)
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

lint: $(VENV)/installed $(VENV)/lint-tools ## ruff, cython-lint, mypy and stubtest
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH=$(BIN):$$PATH $(BIN)/cython-lint src tests bench
	$(BIN)/mypy
	$(BIN)/stubtest fastbean --ignore-disjoint-bases --allowlist tests/quality/stubtest-allow.txt

pages: $(VENV)/installed ## write the manual pages and shell completions anew, after a change of flags
	$(BIN)/python packaging/make_pages.py

format: $(VENV)/lint-tools ## let ruff lay out and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: $(VENV)/installed ## compile and install into .venv

wheel: $(VENV)/build-tools ## make the wheel in dist
	@$(DROP_OLD_COPIES)
	$(BIN)/python -m build --wheel --no-isolation

sdist: $(VENV)/build-tools ## make the sdist in dist
	$(BIN)/python -m build --sdist --no-isolation

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist src/*.egg-info  .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What an earlier build copied and the sources no longer have must not get into a wheel; compiled files stay, they are
# slow to make and known to the build by their time.
DROP_OLD_COPIES = find build/lib* -type f ! -name '*.so' -delete 2>/dev/null || true

# What real beanstalkd answers to the same questions runs no line of ours, nor does a comparison of it with itself.
OURS := -k 'not (beanstalkd and (test_transcripts or test_limits_of_input) \
            or beanstalkd] and (test_clients or test_departures) \
            or test_comparison and not fastbean_answers)'

# What is built in another way lies in a folder of its own. Nothing of it is kept when sources change: setuptools would
# not notice that a flag is another one. test_pytest_plugin starts pytest again and again, and of our code runs what all
# others run.
COVERED ?= tests/unit tests/daemon tests/model/test_long_work.py tests/model/test_long_times.py \
             tests/wire/test_transcripts_*.py tests/wire/test_limits_of_input.py tests/crash/test_kept.py \
             tests/crash/test_kill.py --ignore=tests/unit/test_pytest_plugin.py
# Lines of 100 that have to be run. What is not: calls of the system that fail, mostly, which slow tests let fail.
LEAST   ?= 96
# The tests write no bytecode there, and the hundreds of servers that they start would compile the sources each time.
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
	@$(DROP_OLD_COPIES)
	$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	@touch $@

$(VENV)/build-tools $(VENV)/test-tools $(VENV)/bench-tools $(VENV)/lint-tools $(VENV)/wheel-tools: $(VENV)/%-tools: pyproject.toml $(VENV)/created
	$(PIP) install --group $*
	@touch $@

$(VENV)/created:
	@PYTHON='$(PYTHON)' sh .ci/make-venv $(VENV)
	$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

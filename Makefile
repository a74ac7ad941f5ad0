# Everything lives in .venv, which is set up again only when pyproject.toml or the locked requirements have changed.
# PYTHON names another interpreter (3.11 or newer); PYTEST_ARGS are handed to pytest.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>&- && echo $$python && break; done)
# Most tests wait for something most of the time, so more of them than cores may run side by side.
TEST_PROCESSES ?= 8
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_ROOT_USER_ACTION = ignore
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url
# Where `make run` keeps its database. A checkout below /root is out of reach for the user that PostgreSQL then runs as.
STATE := $(or $(abspath $(HIGHLANDER_STATE)),$(if $(filter /root/%,$(CURDIR)),/var/lib/highlander-quickstart,$(CURDIR)/state))
.PHONY: run demo test test-long lint types chaos hostile soak explore bench profile docs packages packages-test requirements clean

run: .venv/ready    ## try it: an embedded PostgreSQL and two example programs, until Ctrl-C
	HIGHLANDER_STATE="$(STATE)" exec .venv/bin/highlanderd -c conf.d/quickstart.toml

demo: .venv/ready   ## watch it: three nodes on this host, and somebody who kills whoever leads; DEMO_ARGS='--rounds 6'
	exec .venv/bin/python -m tests.demo $(DEMO_ARGS)

PYTEST := .venv/bin/python -m pytest -n $(TEST_PROCESSES) --dist worksteal

test: .venv/ready   ## the tests; PYTEST_ARGS='tests/unit -x -n0' narrows it down, here in one process
	$(PYTEST) -m "not long" $(PYTEST_ARGS)

test-long: .venv/ready  ## the tests that `make test` leaves out: failovers and other faults with servers of their own
	$(PYTEST) -m long $(PYTEST_ARGS)

lint: .venv/ready   ## style, formatting, and that imports point downwards only
	.venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/lint-imports

types: .venv/ready  ## mypy, strict: code, tests, packaging, docs
	.venv/bin/mypy

chaos: .venv/ready  ## up to an hour of real faults on real daemons; CHAOS_ARGS='--minutes 55 --seed N --only PATTERN --faults N'
	exec .venv/bin/python -m tests.chaos $(CHAOS_ARGS)

hostile: .venv/ready  ## ten minutes of a program and a client that misbehave in every way; HOSTILE_ARGS='--minutes 2'
	exec .venv/bin/python -m tests.hostile $(HOSTILE_ARGS)

soak: .venv/ready  ## ten minutes of 200 programs that misbehave on three nodes: nothing grows or stays; SOAK_ARGS='--minutes 2'
	exec .venv/bin/python -m tests.soak $(SOAK_ARGS)

explore: .venv/ready  ## every way through a small world, as far as time allows; EXPLORE_ARGS='--faults 2 --nodes 3 --minutes 30'
	exec .venv/bin/python -m tests.exploration $(EXPLORE_ARGS)

bench: .venv/ready  ## half an hour of measurements beside peers: they print, and never fail for being slow; BENCH_ARGS='handover start'
	exec .venv/bin/python -m tests.benchmarks $(BENCH_ARGS)

profile: .venv/ready  ## which functions of a worker take the time; PROFILE_ARGS='--programs 1000 --seconds 30 --replaced'
	exec .venv/bin/python -m tests.benchmarks.profile $(PROFILE_ARGS)

docs: .venv/ready   ## write into docs/ what the code says: keys, options, metrics, states, modules
	.venv/bin/python docs/generate/generate.py

packages: .venv/ready .make/packages/ready  ## into dist/: .deb and .rpm for amd64 and arm64, wheel and sdist; PACKAGES_ARGS='--arch amd64'
	.venv/bin/python packaging/build/build.py $(PACKAGES_ARGS)

packages-test: packages  ## everything about them that this machine can try
	HIGHLANDER_PACKAGES=dist .venv/bin/python -m pytest tests/packaging $(PYTEST_ARGS)

requirements: .make/uv  ## lock the newest versions that pyproject.toml admits, with the hash of every wheel
	UV_CUSTOM_COMPILE_COMMAND='make requirements' .make/uv pip compile $(LOCK) pyproject.toml -o packaging/requirements/package.txt
	UV_CUSTOM_COMPILE_COMMAND='make requirements' .make/uv pip compile $(LOCK) packaging/requirements/tools.in -o packaging/requirements/tools.txt
	UV_CUSTOM_COMPILE_COMMAND='make requirements' .make/uv pip compile $(LOCK) --extra embedded --group dev pyproject.toml packaging/requirements/build.in -o packaging/requirements/dev.txt

clean:              ## forget what was set up; ./state, which holds the quickstart's database, stays
	rm -rf .venv .make

# What is set up here is set up once: of two makes in one checkout the second waits, and finds it done.
define once
@mkdir -p .make; exec 9>.make/lock; flock 9; [ -e $@ ] && [ -z "$$(find $^ -newer $@)" ] || { set -e; \
	$(or $(PYTHON),false) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "highlanderd needs Python 3.11 or newer,\
 and $(or $(PYTHON),what is installed) is not: install it, or name it with make PYTHON=/path/to/python3" >&2; exit 1; }; \
	echo "setting up $(@D)"; $(1); touch $@; }
endef

.venv/ready: pyproject.toml packaging/requirements/dev.txt
	$(call once,$(PYTHON) -m venv --clear .venv; \
	.venv/bin/pip install --quiet --require-hashes -r packaging/requirements/dev.txt; \
	.venv/bin/pip install --quiet --no-deps --no-build-isolation -e .)

.make/packages/ready: packaging/requirements/tools.txt
	$(call once,$(PYTHON) -m venv --clear .make/packages; \
	.make/packages/bin/pip install --quiet --require-hashes -r packaging/requirements/tools.txt)

.make/uv:
	$(PYTHON) -m venv --clear .make/tools && .make/tools/bin/pip install --quiet uv && ln -sf tools/bin/uv $@

# Everything from nothing: `make demo` and `make test` need Python 3.10-3.12, a C++ compiler, CMake and make, and no ROS
# installation. In a ROS 2 workspace use colcon instead (README).

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
# A sourced ROS installation puts its own packages before those of the virtual environment.
export PYTHONPATH :=
export PYTHONNOUSERSITE := 1
export PYTHONDONTWRITEBYTECODE := # else every process that a test starts compiles the suite again
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PACKAGES := gr00t_training gr00t_recorder gr00t_policy_node gr00t_bringup gr00t_console gr00t_test_support # the last for tests
INTERFACES := $(wildcard gr00t_msgs/*/*.msg gr00t_msgs/*/*.srv gr00t_msgs/*/*.action gr00t_msgs/cmake/*.cmake) \
	gr00t_msgs/CMakeLists.txt gr00t_msgs/package.xml gr00t_msgs/pyproject.toml
WORKERS ?= 2 # files that are tested at the same time
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
RAY_TESTS := $(shell grep -l 'pytest.mark.ray' gr00t_*/test/test_*.py)
TEST_INTERFACES := $(shell find gr00t_policy_node/test/interfaces -type f)

.PHONY: help setup demo loop test test-fast test-ray lint docs messages reference version clean

help:
	@echo "make demo    simulated robot driven through three tasks by the shipped policy; results in out/demo"
	@echo "make loop    the whole circle in miniature: record, convert, fine-tune, run the result; results in out/loop"
	@echo "make test    checks and tests"
	@echo "make test-fast   tests without ROS, GPU and slow ones; about two minutes"
	@echo "make test-ray    tests of what runs on Ray, in an environment of their own"
	@echo "make messages  the list of error messages that a test compares"
	@echo "make reference the documentation's tables of commands, nodes, files and messages, from the code"
	@echo "make docs    the documentation as a website in out/docs"
	@echo "make setup   only the virtual environment ($(VENV)) with everything in it"
	@echo "make version VERSION=0.2.0   set the version of all packages"
	@echo "make clean   remove the virtual environment, builds and results"

demo: setup
	@$(BIN)/gr00t_demo --output out/demo

loop: setup
	@$(BIN)/gr00t_loop --output out/loop

test: lint
	@echo "== tests"
	@$(PYTEST) $(PYTEST_ARGS)

test-fast: setup $(VENV)/.dev
	@$(PYTEST) -m "not slow and not gpu and not ros" $(PYTEST_ARGS)

test-ray: setup $(VENV)/.ray
	@echo "== tests with Ray"
	@$(VENV)/ray/bin/python -m pytest -m ray $(RAY_TESTS) $(PYTEST_ARGS)

lint: setup $(VENV)/.dev
	@echo "== checks: ruff, import order, types, spelling"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/codespell

messages: # after a message was reworded
	@PYTHONPATH=gr00t_test_support $(BIN)/python -m gr00t_test_support.messages > gr00t_bringup/test/messages.txt
	@git diff --stat gr00t_bringup/test/messages.txt

reference: # after a parameter, topic, key or option was changed
	@PYTHONPATH=gr00t_test_support $(BIN)/python -m gr00t_test_support.ros.reference docs/reference
	@git diff --stat docs/reference

docs: $(VENV)/.docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "out/docs/index.html"

# setup.py reads package.xml; a test compares these files.
version:
	@test -n "$(VERSION)" || { echo "make version VERSION=0.2.0"; exit 1; }
	@sed -i 's|<version>[^<]*</version>|<version>$(VERSION)</version>|' gr00t_*/package.xml
	@sed -i 's|^version = .*|version = "$(VERSION)"|' gr00t_msgs/pyproject.toml

setup: $(VENV)/.packages

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v <= (3, 12) or sys.exit("Python %d.%d found, 3.10 to 3.12 expected: make PYTHON=python3.11 ..." % v)'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "missing system package: python3-venv"; exit 1; }
	@for need in g++ cmake make; do \
		command -v $$need >/dev/null || { echo "missing system package: $$need"; exit 1; }; \
	done
	@$(PYTHON) -c 'from ctypes.util import find_library as f; f("EGL") and f("GL") or f("OSMesa") or exit(1)' || \
		{ echo "missing system package: libegl1 and libgl1 (the simulated robot renders with them)"; exit 1; }
	@echo "== virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade pip # the pip that old Pythons bring takes very long to resolve the requirements

$(VENV)/.requirements: requirements-run.txt requirements-build.txt | $(VENV)/bin/python
	@echo "== ROS 2 Jazzy and libraries, pinned (once; a few minutes)"
	@$(PIP) install -r requirements-run.txt -r requirements-build.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.test_interfaces
	@echo "== test tools"
	@$(PIP) install -r requirements-dev.txt
	@touch $@

# An environment on top of the suite's: Ray brings libraries that other ones use when they find them.
$(VENV)/.ray: requirements-ray.txt $(VENV)/.dev
	@echo "== Ray"
	@$(BIN)/python -m venv $(VENV)/ray
	@$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' > \
		$$($(VENV)/ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/suite.pth
	@$(VENV)/ray/bin/python -m pip --quiet --disable-pip-version-check install -r requirements-ray.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt | $(VENV)/bin/python
	@$(PIP) install -r requirements-docs.txt
	@touch $@

# Tests alone need them; one that is there already, such as a real control_msgs, is left as it is.
$(VENV)/.test_interfaces: $(TEST_INTERFACES) $(VENV)/.requirements
	@echo "== compiling the interfaces that only tests need (about a minute)"
	@if $(PIP) show ros-control-msgs-for-tests >/dev/null 2>&1 || ! $(BIN)/python -c 'import control_msgs' 2>/dev/null; then \
		$(PIP) install --no-build-isolation --no-deps --force-reinstall ./gr00t_policy_node/test/interfaces/control_msgs; \
	fi
	@touch $@

$(VENV)/.interfaces: $(INTERFACES) $(VENV)/.requirements
	@echo "== compiling gr00t_msgs (about a minute)"
	@$(PIP) install --no-build-isolation --no-deps --force-reinstall ./gr00t_msgs
	@touch $@

$(VENV)/.packages: $(PACKAGES:%=%/setup.py) $(VENV)/.interfaces
	@echo "== installing the suite (editable)"
	@$(PIP) install --no-build-isolation --no-deps $(PACKAGES:%=-e ./%)
	@touch $@

clean:
	rm -rf $(VENV) build install log out

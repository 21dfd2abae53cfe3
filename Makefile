# SPDX-License-Identifier: GPL-2.0-or-later
# make setup   install what is needed; leaves the command at .venv/bin/livegraft
# make demo    the main job on a real bug in a real kernel (KERNEL=RELEASE: the sample fix on that kernel;
#              METHOD=extract: the patch cut out of the source; MODEL=hybrid, stop or task: under the engine)
# make test    all tests, guests and a small survey included
# make flavours   build for and boot the cloud and rt kernels of both lines (FLAVOURS="RELEASE ...")
# make soak    what takes hours of a quiet machine: patches under load; the engine in a kernel with KASAN,
#              lockdep, kmemleak and fault injection, built for that (SOAK="--cycles 100"); and CYCLES=1000
#              times of each model in the kernel as it is shipped
# make bench   measure what the README claims (bench-compare: comparing alone, with its plot)
# make golden  compile the pairs of other architectures anew (needs their cross compilers)
# make fuzz    fuzz the reading and comparing of objects (FUZZ_SECONDS=600)
# make deb     the Debian packages livegraft-runtime and livegraft, into build/deb
# make lint    ruff and mypy; make man: the manual page; make reference: pages of docs/reference;
#              make example: the extracted live patch of docs/example
MAKEFLAGS += --no-builtin-rules
PYTHON := .venv/bin/python
KERNEL ?=
FUZZ_SECONDS ?= 600
SOAK ?=
CYCLES ?= 1000

FLAVOURS ?= 6.1.0-55-cloud-amd64 6.1.0-53-rt-amd64 \
	6.12.117+deb12-cloud-amd64 6.12.107+deb12-rt-amd64

.PHONY: deb soak setup demo test flavours golden fuzz bench bench-compare lint man reference example lock clean
setup:
	@setup/setup.sh

demo: setup
	@$(PYTHON) demo/demo.py $(if $(KERNEL),--kernel $(KERNEL)) $(if $(METHOD),--method $(METHOD)) \
		$(if $(MODEL),--model $(MODEL))

test:
	@setup/setup.sh setup/debian-packages-tests setup/debian-packages-deb
	@$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# New inputs go to build/fuzz; one that fails is kept there too, and belongs into tests/fuzz/corpus.
fuzz: setup
	@$(PYTHON) -m pip install -q --disable-pip-version-check 'atheris>=3.0'
	@mkdir -p build/fuzz
	@OPENBLAS_NUM_THREADS=1 $(PYTHON) -m tests.fuzz.run $(FUZZ_SECONDS) build/fuzz tests/fuzz/corpus

golden: setup
	@$(PYTHON) -m tests.golden.make_pairs

flavours:
	@setup/setup.sh setup/debian-packages-tests
	@LIVEGRAFT_TEST_FLAVOURS="$(FLAVOURS)" $(PYTHON) -m pytest -m "soak or not soak" \
		tests/guest/test_flavours.py

soak:
	@setup/setup.sh setup/debian-packages-tests setup/debian-packages-deb
	@$(PYTHON) -m pytest -m soak
	@$(PYTHON) -m tests.soak.run $(SOAK)
	@$(PYTHON) -m tests.soak.run --shipped --cycles $(CYCLES)

bench: setup
	@$(PYTHON) -m benchmarks.bench

# Renews the plot of docs/compare-speed.md.
bench-compare: setup
	@$(PYTHON) -m benchmarks.bench --only compare --plot docs/compare-speed.svg

deb:
	@setup/setup.sh setup/debian-packages-deb
	@setup/make-deb.sh

lint: setup
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

man: setup
	@mkdir -p build && $(PYTHON) docs/build_man.py build/livegraft.1

# Renews the pages of docs/reference that are made from the command line.
reference: setup
	@$(PYTHON) docs/build_reference.py

# Renews docs/example, which is cut out of a kernel's source.
example: setup
	@$(PYTHON) docs/build_example.py

# Renews the lock file from pyproject.toml; the one target that needs pip-tools.
lock:
	python3 -m venv build/lock
	build/lock/bin/python -m pip install -q pip-tools
	build/lock/bin/pip-compile -q --extra dev --generate-hashes --allow-unsafe --strip-extras \
		--no-emit-index-url --no-emit-find-links --no-emit-trusted-host -o requirements.lock pyproject.toml

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache

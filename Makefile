# make demo   set everything up in .venv and run the main job on real images
# make test   set everything up in .venv, then lint, type-check and test
# make sanitize  the C++ kernels' tests under the address and undefined-behavior sanitizers; a part of make test
# make docs   the documentation as a site, in build/site
# make wheel  build the wheel, install it into an empty environment, and score with it
# make dist   the source distribution and a wheel from it, checked as a package index would
# make constraints  constraints.txt anew, from .venv: what the tests passed with
# make test-all  the tests on every Python found, with and without the C++ kernels, lowest and newest dependencies (an hour or more)
# make test-zoo  real architectures of timm, transformers, torchvision, MONAI and others against plain PyTorch (some minutes)
# make soak   faults by chance against every verb: flips, failing reads and writes, kills, races, swaps, appends (MINUTES=10, SEED=0)
# make test-label-studio  to a real Label Studio server and back; the server is installed in build/label-studio (some minutes)
# make evidence-quick  the experiments of benchmarks/evidence at their small size, on real data (half an hour)
# make bench  measure (needs a quiet machine)

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin
SEED   ?= 0
MINUTES ?= 10
WORKERS ?= 2# processes of pytest; each with one thread, so that they do not wait for each other

# Where nothing compiled is kept every process compiles what it imports again: torch takes 4.6 s then, and 2.1 otherwise.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test types doctests docs wheel dist constraints test-all test-zoo sanitize sanitized-build sanitized-tests soak bench clean

demo: $(VENV)/installed
	$(BIN)/mcscore demo --out demo-out

# What takes one core runs side by side, before what takes all.
test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --jobs $(WORKERS) --output-sync types docs doctests sanitized-build
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)
	$(MAKE) sanitized-tests

types: $(VENV)/installed
	$(BIN)/mypy

doctests: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --doctest-modules mcscore --ignore=mcscore/cli/__main__.py

# A copy of package and tests with a build of its own. The sanitizer must be loaded before Python, and libstdc++ with it: it looks up
# the function that throws when it is loaded, and ends the process at the first exception if it found none.
sanitize:
	$(MAKE) sanitized-build
	$(MAKE) sanitized-tests

sanitized-build: $(VENV)/installed
	MCSCORE_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitized --build-temp build/sanitize-objects

sanitized-tests: $(VENV)/installed
	rm -rf build/sanitized/tests && cp -r pyproject.toml tests build/sanitized
	cd build/sanitized && LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest -n $(WORKERS) -p no:cacheprovider -W ignore tests/kernels/native tests/kernels/test_topk.py tests/kernels/test_joint.py tests/selection/test_stochastic.py

docs: $(VENV)/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir build/site

wheel: $(VENV)/installed
	rm -rf dist build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet "$(TORCH)" dist/mcscore-*.whl
	cd build/wheel && bin/python $(abspath tests/check_wheel.py)

dist: $(VENV)/installed
	rm -rf dist
	$(BIN)/uv tool run --from build pyproject-build --outdir dist
	$(BIN)/uv tool run twine check --strict dist/*

# Not Triton: a build of torch for CUDA asks for the one that fits it.
constraints: $(VENV)/installed
	$(BIN)/python -m pip freeze --exclude-editable --exclude triton | sed 's/+cpu$$//' > constraints.txt

test-all: $(VENV)/installed
	$(BIN)/python tests/every_python.py --torch "$(TORCH)"

test-zoo: $(VENV)/installed-zoo
	$(BIN)/python -m pytest tests/zoo

soak: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --seed $(SEED) --minutes $(MINUTES)

.PHONY: test-label-studio
test-label-studio: build/label-studio/installed
	MCSCORE_LABEL_STUDIO=$(abspath build/label-studio/bin/label-studio) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/label_studio

# Each exits with 1 if a claim does not hold; all are run.
.PHONY: evidence-quick
evidence-quick: $(VENV)/installed
	failed=; for name in $$($(BIN)/python -c "from benchmarks.evidence import EXPERIMENTS; print(*EXPERIMENTS)"); do \
		OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.evidence $$name --quick || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed"; exit 1; }

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks -s --benchmark-disable-gc -p no:cacheprovider

# Without --no-compile all modules of all packages would be compiled, a minute on one core; those that are used are when they are imported.
# torch comes first, so that the choice of its build is yours: make TORCH=torch==2.10.0, or an index of your own by PIP_INDEX_URL.
$(VENV)/installed: pyproject.toml setup.py MANIFEST.in $(wildcard csrc/*.h csrc/*.cpp)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-compile -e ".[dev]"
	touch $@

# torch is named again, so that torchvision adapts to it and not the other way round.
$(VENV)/installed-zoo: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[dev,zoo]"
	touch $@

# The server has an environment of its own: it pins a hundred packages.
build/label-studio/installed: $(VENV)/installed
	$(PYTHON) -m venv build/label-studio
	build/label-studio/bin/python -m pip install --quiet label-studio==1.23.2
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[dev,label-studio]"
	touch $@

clean:
	rm -rf $(VENV) build dist demo-out *.egg-info mcscore/*.so

# make demo   set everything up in .venv and run the main job on real images
# make test   set everything up in .venv, then lint, type-check and test
# make sanitize  the C++ kernels' tests under the address and undefined-behavior sanitizers; a part of make test
# make test-zoo  real architectures of timm, transformers, torchvision, MONAI and others against plain PyTorch (some minutes)
# make bench  measure (needs a quiet machine)

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test test-zoo sanitize bench clean

demo: $(VENV)/installed
	$(BIN)/mcscore demo --out demo-out

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest
	$(MAKE) sanitize

# A copy of package and tests with a build of its own. The sanitizer's library must be loaded before Python.
sanitize: $(VENV)/installed
	MCSCORE_SANITIZE=1 $(BIN)/python setup.py -q build --build-lib build/sanitized --build-temp build/sanitize-objects
	rm -rf build/sanitized/tests && cp -r pyproject.toml tests build/sanitized
	cd build/sanitized && LD_PRELOAD=$$($(CXX) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
		$(abspath $(BIN))/python -m pytest -p no:cacheprovider -W ignore tests/kernels/native tests/kernels/test_topk.py

test-zoo: $(VENV)/installed-zoo
	$(BIN)/python -m pytest tests/zoo

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks -s --benchmark-disable-gc -p no:cacheprovider

# torch comes first, so that the choice of its build is yours: make TORCH=torch==2.10.0, or an index of your own by PIP_INDEX_URL.
$(VENV)/installed: pyproject.toml setup.py MANIFEST.in $(wildcard csrc/*.h csrc/*.cpp)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

# torch is named again, so that torchvision adapts to it and not the other way round.
$(VENV)/installed-zoo: $(VENV)/installed
	$(BIN)/python -m pip install --quiet "$(TORCH)" -e ".[dev,zoo]"
	touch $@

clean:
	rm -rf $(VENV) build demo-out *.egg-info mcscore/*.so

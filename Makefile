# make demo   set everything up in .venv and run the main job on real images
# make test   set everything up in .venv, then lint, type-check and test
# make bench  measure (needs a quiet machine)

PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test bench clean

demo: $(VENV)/installed
	$(BIN)/mcscore demo --out demo-out

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks -s --benchmark-disable-gc -p no:cacheprovider

# torch comes first, so that the choice of its build is yours: make TORCH=torch==2.10.0, or an index of your own by PIP_INDEX_URL.
$(VENV)/installed: pyproject.toml setup.py MANIFEST.in $(wildcard csrc/*.h csrc/*.cpp)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build demo-out *.egg-info mcscore/*.so

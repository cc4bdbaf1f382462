// Causal attention of a tile of query tokens over one sequence's paged cache, one KV head.
//
// A running softmax over KV blocks. The tile's rows are its tokens times the query heads that
// share the KV head. With few rows (decode) scores are dot products over head_dim; with many, the
// block of keys is transposed once and scores are sums of vectors over the block's tokens.
#pragma once

#include <cmath>

#include "vector.h"

namespace steelyard {

constexpr int kTileTokens = 16;
constexpr int kFewRows = 8;
constexpr int kMaxBlockTokens = 256;
constexpr int kMaxGroup = 16;

struct KVLayer {
  float* data;         // keys of block 0, KV head 0
  long block_stride;   // floats from one block to the next
  long value_stride;   // floats from keys to values
  long block_tokens;
  long head_dim;

  float* keys(long block, long kv_head) const {
    return data + block * block_stride + kv_head * block_tokens * head_dim;
  }
  float* values(long block, long kv_head) const { return keys(block, kv_head) + value_stride; }
};

struct AttentionTile {
  const float* query;  // first token's first head of this KV head
  long query_stride;   // floats from one token to the next
  float* out;
  long out_stride;
  long tokens;          // of this tile, at most kTileTokens
  long group;           // query heads of this KV head
  long first_position;  // of the tile's first token
  const int64_t* table;
  float scale;
};

// Scores of `count` keys for one row; keys are (tokens, head_dim).
template <int kHeadDim>
inline void scores_by_dot(const float* q, const float* keys, long count, float scale, float* s) {
  for (long t = 0; t < count; ++t) {
    Vec dot = {};
    for (int d = 0; d < kHeadDim; d += kLanes) dot += load(q + d) * load(keys + t * kHeadDim + d);
    s[t] = sum(dot) * scale;
  }
}

// The same from transposed keys (head_dim, width); width is a multiple of kLanes.
template <int kHeadDim>
inline void scores_by_column(const float* q, const float* transposed, long width, float scale,
                             float* s) {
  for (long t = 0; t < width; t += kLanes) {
    Vec dot = {};
    for (int d = 0; d < kHeadDim; ++d) dot += q[d] * load(transposed + d * width + t);
    store(s + t, dot * scale);
  }
}

template <int kHeadDim>
inline void add_block(const float* values, long visible, float* s, float& largest, float& total,
                      float* acc) {
  float block_largest = s[0];
  for (long t = 1; t < visible; ++t) block_largest = s[t] > block_largest ? s[t] : block_largest;
  if (block_largest > largest) {
    const float shrink = std::exp(largest - block_largest);
    total *= shrink;
    for (int d = 0; d < kHeadDim; d += kLanes) store(acc + d, load(acc + d) * shrink);
    largest = block_largest;
  }
  const long padded = (visible + kLanes - 1) / kLanes * kLanes;
  for (long t = visible; t < padded; ++t) s[t] = largest;
  for (long t = 0; t < padded; t += kLanes) store(s + t, exp(load(s + t) - largest));
  Vec sums[kHeadDim / kLanes];
  for (int d = 0; d < kHeadDim; d += kLanes) sums[d / kLanes] = load(acc + d);
  for (long t = 0; t < visible; ++t) {
    total += s[t];
    for (int d = 0; d < kHeadDim; d += kLanes)
      sums[d / kLanes] += s[t] * load(values + t * kHeadDim + d);
  }
  for (int d = 0; d < kHeadDim; d += kLanes) store(acc + d, sums[d / kLanes]);
}

template <int kHeadDim>
inline void attend(const AttentionTile& tile, const KVLayer& kv, long kv_head) {
  constexpr int kMaxRowsOfTile = kTileTokens * kMaxGroup;
  alignas(64) float acc[kMaxRowsOfTile * kHeadDim];
  alignas(64) float transposed[kHeadDim * kMaxBlockTokens];
  alignas(64) float s[kMaxBlockTokens + kLanes];
  float largest[kMaxRowsOfTile], total[kMaxRowsOfTile];
  const long rows = tile.tokens * tile.group;
  for (long r = 0; r < rows; ++r) {
    largest[r] = -INFINITY;
    total[r] = 0.0f;
  }
  std::memset(acc, 0, sizeof(float) * rows * kHeadDim);

  const long context = tile.first_position + tile.tokens;
  const long size = kv.block_tokens;
  const long width = (size + kLanes - 1) / kLanes * kLanes;
  for (long start = 0, b = 0; start < context; start += size, ++b) {
    const long count = context - start < size ? context - start : size;
    const float* keys = kv.keys(tile.table[b], kv_head);
    const float* values = kv.values(tile.table[b], kv_head);
    if (rows > kFewRows)
      for (long t = 0; t < width; ++t)
        for (int d = 0; d < kHeadDim; ++d)
          transposed[d * width + t] = t < count ? keys[t * kHeadDim + d] : 0.0f;
    for (long token = 0; token < tile.tokens; ++token) {
      const long seen = tile.first_position + token + 1 - start;
      const long visible = seen < count ? seen : count;
      if (visible <= 0) continue;
      for (long g = 0; g < tile.group; ++g) {
        const long r = token * tile.group + g;
        const float* q = tile.query + token * tile.query_stride + g * kHeadDim;
        if (rows > kFewRows)
          scores_by_column<kHeadDim>(q, transposed, width, tile.scale, s);
        else
          scores_by_dot<kHeadDim>(q, keys, visible, tile.scale, s);
        add_block<kHeadDim>(values, visible, s, largest[r], total[r], acc + r * kHeadDim);
      }
    }
  }
  for (long token = 0; token < tile.tokens; ++token)
    for (long g = 0; g < tile.group; ++g) {
      const long r = token * tile.group + g;
      float* out = tile.out + token * tile.out_stride + g * kHeadDim;
      for (int d = 0; d < kHeadDim; ++d) out[d] = acc[r * kHeadDim + d] / total[r];
    }
}

}  // namespace steelyard

// Attention with many rows: rows are the lanes, so that keys and values need no transposing and
// the softmax no sums across lanes. Queries and outputs are transposed once per tile.
#pragma once

#include "attention.h"

namespace steelyard {

constexpr int kRowVectors = kLanes == 16 ? 3 : 2;  // row vectors that one inner loop holds
constexpr int kUnroll = 4;                         // keys, or dimensions, that it holds
static_assert(kTileRows % (kRowVectors * kLanes) == 0, "a tile is whole inner loops");

// scores[t][rows] of kKeys keys.
template <int kHeadDim, int kKeys>
inline void row_scores(const float* queries, const float* keys, float scale, float* scores) {
  Vec dots[kKeys][kRowVectors] = {};
  for (int d = 0; d < kHeadDim; ++d) {
    Vec q[kRowVectors];
    for (int v = 0; v < kRowVectors; ++v) q[v] = load(queries + d * kTileRows + v * kLanes);
#pragma GCC unroll 4
    for (int t = 0; t < kKeys; ++t)
#pragma GCC unroll 3
      for (int v = 0; v < kRowVectors; ++v) dots[t][v] += keys[t * kHeadDim + d] * q[v];
  }
  for (int t = 0; t < kKeys; ++t)
    for (int v = 0; v < kRowVectors; ++v)
      store(scores + t * kTileRows + v * kLanes, dots[t][v] * scale);
}

// acc[d][rows] = acc * shrink + sum over the keys of value * probability, kUnroll dimensions.
template <int kHeadDim>
inline void row_values(const float* probabilities, const float* values, long count,
                       const float* shrink, float* acc) {
  Vec sums[kUnroll][kRowVectors];
  for (int d = 0; d < kUnroll; ++d)
    for (int v = 0; v < kRowVectors; ++v)
      sums[d][v] = load(acc + d * kTileRows + v * kLanes) * load(shrink + v * kLanes);
  for (long t = 0; t < count; ++t) {
    Vec p[kRowVectors];
    for (int v = 0; v < kRowVectors; ++v) p[v] = load(probabilities + t * kTileRows + v * kLanes);
#pragma GCC unroll 4
    for (int d = 0; d < kUnroll; ++d)
#pragma GCC unroll 3
      for (int v = 0; v < kRowVectors; ++v) sums[d][v] += values[t * kHeadDim + d] * p[v];
  }
  for (int d = 0; d < kUnroll; ++d)
    for (int v = 0; v < kRowVectors; ++v) store(acc + d * kTileRows + v * kLanes, sums[d][v]);
}

template <int kHeadDim>
inline void attend_many(const AttentionTile& tile, const KVLayer& kv, long kv_head) {
  constexpr int kStep = kRowVectors * kLanes;
  alignas(64) float queries[kHeadDim * kTileRows] = {};
  alignas(64) float acc[kHeadDim * kTileRows] = {};
  alignas(64) float s[kMaxBlockTokens * kTileRows];
  alignas(64) float peak[kTileRows], total[kTileRows] = {}, shrink[kTileRows];
  alignas(64) int32_t position[kTileRows] = {};
  const long rows = tile.rows();
  const long used = (rows + kStep - 1) / kStep * kStep;
  for (long r = 0; r < kTileRows; ++r) peak[r] = -INFINITY;
  for (long r = 0; r < rows; ++r) {
    position[r] = static_cast<int32_t>(tile.first_position + r / tile.group);
    const float* q = tile.query + tile.offset<kHeadDim>(r);
    for (int d = 0; d < kHeadDim; ++d) queries[d * kTileRows + r] = q[d];
  }

  for (long start = 0, b = 0; start < tile.context(); start += kv.block_tokens, ++b) {
    const float* keys = kv.keys(tile.table[b], kv_head);
    const float* values = kv.values(tile.table[b], kv_head);
    const long left = tile.context() - start;
    const long count = left < kv.block_tokens ? left : kv.block_tokens;
    const bool masked = start + count > tile.first_position + 1;
    for (long row = 0; row < used; row += kStep) {
      long t = 0;
      for (; t + kUnroll <= count; t += kUnroll)
        row_scores<kHeadDim, kUnroll>(queries + row, keys + t * kHeadDim, tile.scale,
                                      s + t * kTileRows + row);
      for (; t < count; ++t)
        row_scores<kHeadDim, 1>(queries + row, keys + t * kHeadDim, tile.scale,
                                s + t * kTileRows + row);
    }
    for (long row = 0; row < used; row += kLanes) {
      IntVec at;
      std::memcpy(&at, position + row, sizeof at);
      const Vec before = load(peak + row);
      Vec top = before;
      for (long t = 0; t < count; ++t) {
        Vec score = load(s + t * kTileRows + row);
        if (masked) {
          score = at < static_cast<int32_t>(start + t) ? splat(-INFINITY) : score;
          store(s + t * kTileRows + row, score);
        }
        top = max(top, score);
      }
      const Vec factor = exp(before - top);
      Vec sum = load(total + row) * factor;
      for (long t = 0; t < count; ++t) {
        const Vec p = exp(load(s + t * kTileRows + row) - top);
        sum += p;
        store(s + t * kTileRows + row, p);
      }
      store(peak + row, top);
      store(shrink + row, factor);
      store(total + row, sum);
    }
    for (long row = 0; row < used; row += kStep)
      for (int d = 0; d < kHeadDim; d += kUnroll)
        row_values<kHeadDim>(s + row, values + d, count, shrink + row,
                             acc + d * kTileRows + row);
  }
  for (long r = 0; r < rows; ++r) {
    float* out = tile.out + tile.offset<kHeadDim>(r);
    for (int d = 0; d < kHeadDim; ++d) out[d] = acc[d * kTileRows + r] / total[r];
  }
}

}  // namespace steelyard

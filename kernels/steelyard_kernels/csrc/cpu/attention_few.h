// Attention with few rows: each score is a dot product over head_dim.
#pragma once

#include "attention.h"

namespace steelyard {

// Scores of keys [0, visible) of one block for one row; what is beyond them in the last vector is
// minus infinity. Nothing beyond `visible` is read: it may be anything.
template <int kHeadDim>
inline void dot_scores(const float* q, const float* keys, long visible, float scale, float* s) {
  IntVec lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (long first = 0; first < visible; first += kLanes) {
    const long count = visible - first < kLanes ? visible - first : kLanes;
    Vec dots[kLanes] = {};
    for (long t = 0; t < count; ++t) {
      const float* key = keys + (first + t) * kHeadDim;
      Vec dot = {};
      for (int d = 0; d < kHeadDim; d += kLanes) dot += load(q + d) * load(key + d);
      dots[t] = dot;
    }
    const Vec scores = sums(dots) * scale;
    store(s + first, lane < static_cast<int>(count) ? scores : splat(-INFINITY));
  }
}

template <int kHeadDim>
inline void attend_few(const AttentionTile& tile, const KVLayer& kv, long kv_head) {
  constexpr int kVectors = kHeadDim / kLanes;
  alignas(64) float acc[kFewRows * kHeadDim] = {};
  alignas(64) float s[kMaxBlockTokens + kLanes];
  float peak[kFewRows];
  Vec total[kFewRows] = {};
  const long rows = tile.rows();
  for (long r = 0; r < rows; ++r) peak[r] = -INFINITY;

  for (long start = 0, b = 0; start < tile.context(); start += kv.block_tokens, ++b) {
    const float* keys = kv.keys(tile.table[b], kv_head);
    const float* values = kv.values(tile.table[b], kv_head);
    if (start + kv.block_tokens < tile.context()) prefetch_block(kv, tile.table[b + 1], kv_head);
    for (long r = 0; r < rows; ++r) {
      const long seen = tile.first_position + r / tile.group + 1 - start;
      const long visible = seen < kv.block_tokens ? seen : kv.block_tokens;
      if (visible <= 0) continue;
      dot_scores<kHeadDim>(tile.query + tile.offset<kHeadDim>(r), keys, visible, tile.scale, s);
      Vec top = load(s);
      for (long t = kLanes; t < visible; t += kLanes) top = max(top, load(s + t));
      const float block_peak = largest(top);
      Vec sums[kVectors];
      for (int v = 0; v < kVectors; ++v) sums[v] = load(acc + r * kHeadDim + v * kLanes);
      if (block_peak > peak[r]) {
        const float shrink = std::exp(peak[r] - block_peak);
        total[r] *= shrink;
        for (int v = 0; v < kVectors; ++v) sums[v] *= shrink;
        peak[r] = block_peak;
      }
      for (long t = 0; t < visible; t += kLanes) {
        const Vec p = exp(load(s + t) - peak[r]);
        total[r] += p;
        store(s + t, p);
      }
      for (long t = 0; t < visible; ++t)
        for (int v = 0; v < kVectors; ++v)
          sums[v] += s[t] * load(values + t * kHeadDim + v * kLanes);
      for (int v = 0; v < kVectors; ++v) store(acc + r * kHeadDim + v * kLanes, sums[v]);
    }
  }
  for (long r = 0; r < rows; ++r) {
    float* out = tile.out + tile.offset<kHeadDim>(r);
    const float all = sum(total[r]);
    for (int d = 0; d < kHeadDim; ++d) out[d] = acc[r * kHeadDim + d] / all;
  }
}

}  // namespace steelyard

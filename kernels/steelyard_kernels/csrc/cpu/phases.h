// The phases of a forward pass as ranges of independent work for a Team.
#pragma once

#include "attention_few.h"
#include "attention_many.h"
#include "elementwise.h"
#include "linear.h"
#include "team.h"

namespace steelyard {

struct Sequences {
  const int64_t* query_starts;  // (count + 1,)
  const int64_t* context_lens;  // (count,)
  const int64_t* block_tables;  // (count, table_width)
  long table_width;
  long count;
};

inline void linear_phase(Team& team, int phase, const float* x, long rows, long inputs,
                         const float* packed, const float* bias, float* y, long outputs) {
  team.phase_ahead(phase, panels(outputs), [&](long panel, long next) {
    linear_panel(x, rows, inputs, packed, bias, y, outputs, panel, next);
  });
}

inline void rope_write_phase(Team& team, int phase, const float* qkv, long tokens, long heads,
                             const float* cos_sin, const int64_t* positions, const int64_t* slots,
                             const KVLayer& kv, long kv_heads, float* query) {
  const long head_dim = kv.head_dim;
  team.phase(phase, tokens, [&](long t) {
    const float* row = qkv + t * (heads + 2 * kv_heads) * head_dim;
    const float* angles = cos_sin + positions[t] * head_dim;
    for (long h = 0; h < heads; ++h)
      rotate(row + h * head_dim, angles, head_dim, query + (t * heads + h) * head_dim);
    const long block = slots[t] / kv.block_tokens, offset = slots[t] % kv.block_tokens;
    for (long h = 0; h < kv_heads; ++h) {
      rotate(row + (heads + h) * head_dim, angles, head_dim,
             kv.keys(block, h) + offset * head_dim);
      std::memcpy(kv.values(block, h) + offset * head_dim,
                  row + (heads + kv_heads + h) * head_dim, sizeof(float) * head_dim);
    }
  });
}

template <int kHeadDim>
inline void attention_item(long item, const Sequences& seqs, const float* query, long heads,
                           const KVLayer& kv, long kv_heads, float scale, float* out) {
  // Items of one sequence follow one another: its tiles, and within a tile the KV heads.
  const long kv_head = item % kv_heads;
  const long group = heads / kv_heads, size = tile_tokens(group);
  long tile_index = item / kv_heads, s = 0;
  for (;; ++s) {
    const long tokens = seqs.query_starts[s + 1] - seqs.query_starts[s];
    const long tiles = (tokens + size - 1) / size;
    if (tile_index < tiles) break;
    tile_index -= tiles;
  }
  const long start = seqs.query_starts[s], end = seqs.query_starts[s + 1];
  const long first = start + tile_index * size;
  const long offset = (first * heads + kv_head * group) * kHeadDim;
  AttentionTile tile;
  tile.query = query + offset;
  tile.out = out + offset;
  tile.token_stride = heads * kHeadDim;
  tile.tokens = end - first < size ? end - first : size;
  tile.group = group;
  tile.first_position = seqs.context_lens[s] - (end - first);
  tile.table = seqs.block_tables + s * seqs.table_width;
  tile.scale = scale;
  if (tile.rows() <= kFewRows)
    attend_few<kHeadDim>(tile, kv, kv_head);
  else
    attend_many<kHeadDim>(tile, kv, kv_head);
}

template <int kHeadDim>
inline void attention_phase_of(Team& team, int phase, const Sequences& seqs, const float* query,
                               long heads, const KVLayer& kv, long kv_heads, float scale,
                               float* out) {
  long tiles = 0;
  const long size = tile_tokens(heads / kv_heads);
  for (long s = 0; s < seqs.count; ++s)
    tiles += (seqs.query_starts[s + 1] - seqs.query_starts[s] + size - 1) / size;
  team.phase(phase, tiles * kv_heads, [&](long item) {
    attention_item<kHeadDim>(item, seqs, query, heads, kv, kv_heads, scale, out);
  });
}

// The head dimensions that `dispatch.py` lets through: HEAD_DIMS in cpu/library.py.
inline void attention_phase(Team& team, int phase, const Sequences& seqs, const float* query,
                            long heads, const KVLayer& kv, long kv_heads, float scale,
                            float* out) {
#define STEELYARD_HEAD_DIM(D) \
  case D:                     \
    return attention_phase_of<D>(team, phase, seqs, query, heads, kv, kv_heads, scale, out)
  switch (kv.head_dim) {
    STEELYARD_HEAD_DIM(16);
    STEELYARD_HEAD_DIM(32);
    STEELYARD_HEAD_DIM(64);
    STEELYARD_HEAD_DIM(96);
    STEELYARD_HEAD_DIM(128);
    STEELYARD_HEAD_DIM(256);
  }
#undef STEELYARD_HEAD_DIM
}

}  // namespace steelyard

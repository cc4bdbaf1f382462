// Causal attention of a tile of query tokens over one sequence's paged cache, one KV head.
//
// A running softmax over KV blocks (Milakov and Gimelshein 2018). A tile's rows are its tokens
// times the query heads that share the KV head. Few rows (decode): attention_few.h, vectors over
// head_dim. Many rows (prefill): attention_many.h, vectors over the rows.
#pragma once

#include <cmath>

#include "vector.h"

namespace steelyard {

constexpr int kTileRows = 48;
constexpr int kFewRows = 8;
constexpr int kMaxBlockTokens = 256;
constexpr int kMaxGroup = 16;

struct KVLayer {
  float* data;        // keys of block 0, KV head 0
  long block_stride;  // floats from one block to the next
  long value_stride;  // floats from keys to values
  long block_tokens;
  long head_dim;

  float* keys(long block, long kv_head) const {
    return data + block * block_stride + kv_head * block_tokens * head_dim;
  }
  float* values(long block, long kv_head) const { return keys(block, kv_head) + value_stride; }
};

// Ask for the keys and values of a block: blocks lie apart, where no hardware prefetcher looks.
inline void prefetch_block(const KVLayer& kv, long block, long kv_head) {
  const char* keys = reinterpret_cast<const char*>(kv.keys(block, kv_head));
  const char* values = reinterpret_cast<const char*>(kv.values(block, kv_head));
  const long bytes = kv.block_tokens * kv.head_dim * static_cast<long>(sizeof(float));
  for (long at = 0; at < bytes; at += 64) __builtin_prefetch(keys + at);
  for (long at = 0; at < bytes; at += 64) __builtin_prefetch(values + at);
}

struct AttentionTile {
  const float* query;  // first token's first head of this KV head
  float* out;
  long token_stride;    // floats from one token to the next, in both
  long tokens;          // of this tile
  long group;           // query heads of this KV head
  long first_position;  // of the tile's first token
  const int64_t* table;
  float scale;

  long rows() const { return tokens * group; }
  long context() const { return first_position + tokens; }
  // Floats from the tile's first row to row r, in query and out.
  template <int kHeadDim>
  long offset(long r) const {
    return r / group * token_stride + r % group * kHeadDim;
  }
};

// Tokens of a tile; what a sequence's tiles are does not depend on the batch.
inline long tile_tokens(long group) { return group < kTileRows ? kTileRows / group : 1; }

}  // namespace steelyard

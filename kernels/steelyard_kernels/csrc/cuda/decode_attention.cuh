// Decode attention over a paged cache: one query token a sequence, grouped heads, split over the
// context (Dao et al., "Flash-Decoding", 2023), bf16 in and out, float in between.
//
// It is bound by the reads of the cache, so everything serves those: the heads of a group are the
// rows of one tensor core tile, so that a key is read once for all of them; each warp reads its own
// tiles of 16 tokens, four times 16 bytes a lane at a time, through a ring of its own, and waits for
// nobody. Warps keep their own softmax and are merged at the end. There is one launch: on Hopper the
// splits of a context are a cluster of blocks, which merge through each other's shared memory; before
// Hopper the block that finishes last merges, through device memory, which takes 3 us longer.
#pragma once

#include "decode_tile.cuh"

namespace steelyard {

// A row's weight of the part with this maximum, and what its sink adds to the sum of weights.
struct Sink {
  float keep, add;
};

__device__ __forceinline__ Sink with_sink(const DecodeArguments& a, int head, float maximum) {
  if (a.sinks == nullptr) return {1.f, 0.f};
  const float sink = a.sinks[head] * kLog2E;
  // exp2f of a large number is infinite, so the larger of both is the reference.
  const float larger = fmaxf(sink, maximum);
  return {exp2f(maximum - larger), exp2f(sink - larger)};
}

// One block's share of the outputs of a sequence and group, from the rows of `used` blocks.
// `read(part, index)` gives the index-th float of a block's rows.
template <int D, typename Read>
__device__ __forceinline__ void merge_splits(const DecodeArguments& a, int64_t first_head, int head,
                                             int begin, int end, int used, Read read) {
  constexpr int kRow = D + 2;
  for (int index = begin + threadIdx.x; index < end; index += kDecodeWarps * 32) {
    const int row = index / D, column = index % D;
    float maximum[kMaxSplits], sum[kMaxSplits], value[kMaxSplits];
    float top = -INFINITY;
#pragma unroll
    for (int part = 0; part < kMaxSplits; ++part) {
      if (part >= used) break;
      maximum[part] = read(part, row * kRow + D);
      sum[part] = read(part, row * kRow + D + 1);
      value[part] = read(part, row * kRow + column);
    }
#pragma unroll
    for (int part = 0; part < kMaxSplits; ++part) {
      if (part < used) top = fmaxf(top, maximum[part]);
    }
    float total = 0.f, out = 0.f;
#pragma unroll
    for (int part = 0; part < kMaxSplits; ++part) {
      if (part >= used) break;
      const float weight = exp2f(maximum[part] - top);
      total += weight * sum[part];
      out += weight * value[part];
    }
    const Sink sink = with_sink(a, head + row, top);
    a.out[first_head * D + index] =
        __float2bfloat16(out * sink.keep / (total * sink.keep + sink.add));
  }
}

template <int D>
__global__ void __launch_bounds__(kDecodeWarps * 32, kDecodeBlocks) decode_attention(DecodeArguments a) {
  using Shape = DecodeShape<D>;
  extern __shared__ __align__(128) unsigned char shared[];
  const int split = blockIdx.x, kv_head = blockIdx.y;
  const int64_t sequence = blockIdx.z;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int head = kv_head * a.group;
  const int64_t first_head = sequence * a.kv_heads * a.group + head;

  const int length = static_cast<int>(a.context_lens[sequence]);
  const int begin = a.window > 0 ? max(0, length - a.window) : 0;
  const int first_tile = begin / kTileTokens;
  const int tiles = (length + kTileTokens - 1) / kTileTokens - first_tile;
  if (length <= 0) {
    if (split == 0) {
      for (int i = threadIdx.x; i < a.group * D; i += kDecodeWarps * 32) {
        a.out[first_head * D + i] = __float2bfloat16(0.f);
      }
    }
    return;
  }
  const int each = max((tiles + a.splits - 1) / a.splits, a.min_tiles);
  const int used = (tiles + each - 1) / each;
  if (split >= used) {
#if __CUDA_ARCH__ >= 900
    if (used > 1) {  // The others wait for the whole cluster.
      sync_cluster();
      sync_cluster();
    }
#endif
    return;
  }
  const int stop = first_tile + min(tiles, (split + 1) * each);
  int tile = first_tile + split * each + warp;

  const int64_t* table = a.block_tables + sequence * a.table_width;
  const bf16* kv = a.kv + static_cast<int64_t>(kv_head) * a.block_tokens * D;
  const uint32_t ring = shared_address(shared) + warp * Shape::kWarpBytes;
  // A tile's copies wait for its entry of the block table, so entries are read one tile ahead.
  auto block_of = [&](int of) {
    return of < stop ? __ldg(table + of * kTileTokens / a.block_tokens) : 0;
  };
  int64_t blocks[kDecodeStages];
#pragma unroll
  for (int stage = 0; stage < kDecodeStages; ++stage) {
    blocks[stage] = block_of(tile + stage * kDecodeWarps);
  }
  int issue = tile;
#pragma unroll
  for (int stage = 0; stage < kDecodeStages - 1; ++stage) {
    if (issue < stop) {
      load_tile<D>(a, kv, blocks[stage], issue, length, ring + stage * Shape::kStageBytes, lane);
    }
    commit_copies();
    issue += kDecodeWarps;
  }
  int64_t next_block = blocks[kDecodeStages - 1];

  // The first reads are under way; the queries come meanwhile.
  uint32_t q[D / 16][4];
  {
    const bf16* rows = a.query + first_head * D;
    const int row = lane / 4, column = 2 * (lane % 4);
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int r = row + 8 * (i & 1), c = 16 * k + column + 8 * (i >> 1);
        q[k][i] = r < a.group ? *reinterpret_cast<const uint32_t*>(rows + r * D + c) : 0u;
      }
    }
  }
  WarpState<D> state = {};
  state.maximum[0] = state.maximum[1] = -INFINITY;
  const float scale = a.scale * kLog2E;
  int stage = 0;
  for (; tile < stop; tile += kDecodeWarps) {
    wait_copies<kDecodeStages - 2>();
    __syncwarp();  // Also: every lane is done with the stage that is filled next.
    if (issue < stop) {
      const int target = (stage + kDecodeStages - 1) % kDecodeStages;
      load_tile<D>(a, kv, next_block, issue, length, ring + target * Shape::kStageBytes, lane);
    }
    commit_copies();
    issue += kDecodeWarps;
    next_block = block_of(issue);
    attend_tile<D>(state, q, ring + stage * Shape::kStageBytes, tile * kTileTokens, begin, length,
                   scale, lane);
    stage = (stage + 1) % kDecodeStages;
  }

  // Merge the warps: each leaves its rows at the start of its own ring.
  wait_copies<0>();
  __syncwarp();
  constexpr int kRow = Shape::kRow;
  float* mine = reinterpret_cast<float*>(shared + warp * Shape::kWarpBytes);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = lane / 4 + 8 * h;
    const float sum = quad_sum(state.sum[h]);
    if (row < a.group) {
#pragma unroll
      for (int j = 0; j < D / 8; ++j) {
        float* target = mine + row * kRow + 8 * j + 2 * (lane % 4);
        target[0] = state.out[j][2 * h];
        target[1] = state.out[j][2 * h + 1];
      }
      if (lane % 4 == 0) {
        mine[row * kRow + D] = state.maximum[h];
        mine[row * kRow + D + 1] = sum;
      }
    }
  }
  __syncthreads();
  // Warps beyond the last tile hold nothing.
  const int working = min(kDecodeWarps, stop - first_tile - split * each);
#if __CUDA_ARCH__ >= 900
  float* merged = reinterpret_cast<float*>(shared + Shape::kRingBytes);
#else
  const int64_t pair = sequence * a.kv_heads + kv_head;
  float* partial = a.partial + pair * a.splits * a.group * kRow;
  float* merged = partial + split * a.group * kRow;
#endif
  for (int index = threadIdx.x; index < a.group * D; index += kDecodeWarps * 32) {
    const int row = index / D, column = index % D;
    const float* rows = reinterpret_cast<const float*>(shared) + row * kRow;
    constexpr int kWarpFloats = Shape::kWarpBytes / 4;
    float maximum = -INFINITY;
    for (int part = 0; part < working; ++part) {
      maximum = fmaxf(maximum, rows[part * kWarpFloats + D]);
    }
    float sum = 0.f, value = 0.f;
    for (int part = 0; part < working; ++part) {
      const float* of_warp = rows + part * kWarpFloats;
      const float weight = exp2f(of_warp[D] - maximum);
      sum += weight * of_warp[D + 1];
      value += weight * of_warp[column];
    }
    if (used == 1) {
      const Sink sink = with_sink(a, head + row, maximum);
      a.out[first_head * D + index] =
          __float2bfloat16(value * sink.keep / (sum * sink.keep + sink.add));
      continue;
    }
    merged[row * kRow + column] = value;
    if (column == 0) {
      merged[row * kRow + D] = maximum;
      merged[row * kRow + D + 1] = sum;
    }
  }
  if (used == 1) return;

#if __CUDA_ARCH__ >= 900
  sync_cluster();
  const uint32_t address = shared_address(merged);
  const int share = (a.group * D + used - 1) / used;
  merge_splits<D>(a, first_head, head, split * share, min(a.group * D, (split + 1) * share), used,
                  [&](int part, int index) { return load_of_block(address + 4 * index, part); });
  sync_cluster();  // Nobody leaves while its rows are read.
#else
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(a.arrived + pair, 1) == used - 1;
    if (last) a.arrived[pair] = 0;  // Ready for the next launch.
  }
  __syncthreads();
  if (!last) return;
  __threadfence();
  merge_splits<D>(a, first_head, head, 0, a.group * D, used, [&](int part, int index) {
    return __ldcg(partial + part * a.group * kRow + index);
  });
#endif
}

}  // namespace steelyard

// The grouped product of a mixture of experts with MXFP4 weights, for few tokens, and its epilogues. The
// work list of (expert, tokens) is made by the routing kernel, and the grid is the longest list that so
// many tokens can give.
//
// For few tokens the product is bound by reading the weights. So weights go from device memory to
// registers, 16 bytes a lane, several tiles ahead, each read by one warp; activations are small and
// come from the caches.
#pragma once

#include "expert_rows.cuh"
#include "mxfp4.cuh"

namespace steelyard {

constexpr int kMoeWarps = 4;
constexpr int kWarpTiles = 2;  // row tiles of a warp: an activation is loaded once for both
constexpr int kAhead = 4;      // column tiles of weights under way

struct MoeArguments {
  Mxfp4Arguments weight;
  const bf16* x;     // (rows, columns)
  const bf16* bias;  // (experts, rows of the weight, in the order of its tiles)
  bf16* out;         // (assignments, width)
  const int* sorted;
  const int4* items;
  int top;    // a row of x is shared by so many assignments
  int width;  // of a row of `out`
  float alpha, limit;
};

// The epilogue of both products below: bias, activation, and to where the token's row is.
template <int kTokens, bool kGated>
__device__ __forceinline__ void write_rows(const MoeArguments& a, const int4& item, int first_tile,
                                           const float (&sum)[kWarpTiles][kTokens][4], int lane) {
  const int row = lane / 4, c = lane % 4;
#pragma unroll
  for (int r = 0; r < kWarpTiles; ++r) {
    const int tile = first_tile + r;
    if (tile >= a.weight.row_tiles) break;
    const bf16* bias = a.bias + (static_cast<int64_t>(item.x) * a.weight.row_tiles + tile) * 16;
    const float low = __bfloat162float(bias[row]), high = __bfloat162float(bias[row + 8]);
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = 8 * n + 2 * c + i;
        if (token >= item.z) continue;
        bf16* target = a.out + static_cast<int64_t>(a.sorted[item.y + token]) * a.width;
        const float first = sum[r][n][i] + low, second = sum[r][n][2 + i] + high;
        if constexpr (kGated) {
          target[tile * 8 + row] =
              __float2bfloat16(clamped_swiglu(first, second, a.alpha, a.limit));
        } else {
          target[tile * 16 + row] = __float2bfloat16(first);
          target[tile * 16 + row + 8] = __float2bfloat16(second);
        }
      }
    }
  }
}

// The weights of a warp's row tiles, `kAhead` column tiles under way.
struct WeightStream {
  const uint4* words[kWarpTiles];
  const uint16_t* scales[kWarpTiles];
  int end;
  uint4 w[kAhead][kWarpTiles];
  uint32_t s[kAhead][kWarpTiles];

  __device__ __forceinline__ WeightStream(const MoeArguments& a, const int4& item, int first_tile,
                                          int begin, int end, int lane)
      : end(end) {
    const int tiles = a.weight.column_tiles;
    const int64_t at = static_cast<int64_t>(item.x) * a.weight.row_tiles + first_tile;
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      // The last warp may have one row tile only: it computes that one twice.
      const int64_t tile = at + min(r, a.weight.row_tiles - 1 - first_tile);
      words[r] = a.weight.words + tile * tiles * 32 + lane;
      scales[r] = a.weight.scales + tile * tiles * 16 + lane / 4 * 2 + lane % 4 / 2;
    }
#pragma unroll
    for (int p = 0; p < kAhead; ++p) load(p, begin + p);
  }

  __device__ __forceinline__ void load(int p, int tile) {
    tile = min(tile, end - 1);
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      w[p][r] = load_streaming(words[r] + tile * 32);
      s[p][r] = __ldg(scales[r] + tile * 16);
    }
  }

  // Unpacks column tile `tile`, which is number p of the ring. What follows there is asked for first:
  // unpacking waits for the data.
  __device__ __forceinline__ void take(int p, int tile, uint32_t (&left)[kWarpTiles][4][4]) {
    uint4 here[kWarpTiles];
    uint32_t scale[kWarpTiles];
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) here[r] = w[p][r], scale[r] = s[p][r];
    load(p, tile + kAhead);
#pragma unroll
    for (int r = 0; r < kWarpTiles; ++r) {
      const uint32_t low = scale_of(scale[r] & 0xff), high = scale_of(scale[r] >> 8);
      unpack_weights(left[r][0], here[r].x, low, high);
      unpack_weights(left[r][1], here[r].y, low, high);
      unpack_weights(left[r][2], here[r].z, low, high);
      unpack_weights(left[r][3], here[r].w, low, high);
    }
  }
};

// The products of one column tile for 8 kCount tokens, of which a lane has 16 activations each. The
// sums of a product wait for those of the last one, so all accumulators take turns.
template <int kCount, int kTokens>
__device__ __forceinline__ void multiply_tile(float (&sum)[kWarpTiles][kTokens][4], int first,
                                              const uint32_t (&left)[kWarpTiles][4][4],
                                              const uint4 (&right)[kCount][2]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
#pragma unroll
    for (int n = 0; n < kCount; ++n) {
      const uint4& part = right[n][j / 2];
#pragma unroll
      for (int r = 0; r < kWarpTiles; ++r) {
        if (j % 2 == 0) {
          multiply_add(sum[r][first + n], left[r][j], part.x, part.y);
        } else {
          multiply_add(sum[r][first + n], left[r][j], part.z, part.w);
        }
      }
    }
  }
}

// Up to eight tokens of item y: activations come from the caches, one tile ahead. Block (x, y): 32
// rows of the weight for each warp, or (`kSplit`) 32 for all, each warp a quarter of the columns.
template <bool kSplit, bool kGated>
__global__ void __launch_bounds__(kMoeWarps * 32) moe_product_few(MoeArguments a) {
  const int4 item = a.items[blockIdx.y];
  if (item.z == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles = a.weight.column_tiles;
  const int first_tile = (kSplit ? blockIdx.x : blockIdx.x * kMoeWarps + warp) * kWarpTiles;
  if (first_tile >= a.weight.row_tiles) return;  // Only without a split, which has a barrier.
  const int begin = kSplit ? tiles * warp / kMoeWarps : 0;
  const int end = kSplit ? tiles * (warp + 1) / kMoeWarps : tiles;
  WeightStream stream(a, item, first_tile, begin, end, lane);
  const int assignment = a.sorted[item.y + min(lane / 4, item.z - 1)];
  const uint4* x = reinterpret_cast<const uint4*>(
      a.x + static_cast<int64_t>(assignment / a.top) * tiles * kTileColumns + lane % 4 * 16);

  float sum[kWarpTiles][1][4] = {};
  uint4 next[2] = {__ldg(x + begin * 8), __ldg(x + begin * 8 + 1)};
  for (int base = begin; base < end; base += kAhead) {
#pragma unroll
    for (int p = 0; p < kAhead; ++p) {
      const int tile = base + p;
      if (tile >= end) break;
      const uint4 here[1][2] = {{next[0], next[1]}};
      const int following = min(tile + 1, end - 1) * 8;
      next[0] = __ldg(x + following);
      next[1] = __ldg(x + following + 1);
      uint32_t left[kWarpTiles][4][4];
      stream.take(p, tile, left);
      multiply_tile<1, 1>(sum, 0, left, here);
    }
  }
  if constexpr (kSplit) {
    __shared__ float parts[kMoeWarps][kWarpTiles * 4][32];
#pragma unroll
    for (int k = 0; k < kWarpTiles * 4; ++k) parts[warp][k][lane] = sum[k / 4][0][k % 4];
    __syncthreads();
    if (warp != 0) return;
#pragma unroll
    for (int k = 0; k < kWarpTiles * 4; ++k) {
      sum[k / 4][0][k % 4] =
          parts[0][k][lane] + parts[1][k][lane] + parts[2][k][lane] + parts[3][k][lane];
    }
  }
  write_rows<1, kGated>(a, item, first_tile, sum, lane);
}

constexpr int kStageTiles = 2;  // column tiles of activations between two barriers
constexpr int kMoeStages = 4;

template <int kTokens>
constexpr int kMoeShared = kMoeStages * 8 * kTokens * kStageTiles * kTileColumns * 2;

// Up to 8 kTokens tokens of item y: activations go through shared memory, which all warps read.
// Block (x, y): 32 rows of the weight for each warp.
template <int kTokens, bool kGated>
__global__ void __launch_bounds__(kMoeWarps * 32) moe_product_many(MoeArguments a) {
  extern __shared__ __align__(128) unsigned char shared[];
  const int4 item = a.items[blockIdx.y];
  if (item.z == 0) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles = a.weight.column_tiles;
  // A warp beyond the last row computes the last ones again and writes nothing.
  const int wanted = (blockIdx.x * kMoeWarps + warp) * kWarpTiles;
  const int first_tile = min(wanted, a.weight.row_tiles - 1);
  WeightStream stream(a, item, first_tile, 0, tiles, lane);

  // A row of a stage is 16 chunks of 16 bytes; the eight of a tile are spread over the banks.
  constexpr int kRowChunks = kStageTiles * 8;
  constexpr int kStageBytes = 8 * kTokens * kRowChunks * 16;
  const int chunk = threadIdx.x % kRowChunks, my_row = threadIdx.x / kRowChunks;
  const bf16* rows[kTokens];
#pragma unroll
  for (int n = 0; n < kTokens; ++n) {
    const int assignment = a.sorted[item.y + min(my_row + 8 * n, item.z - 1)];
    rows[n] = a.x + static_cast<int64_t>(assignment / a.top) * tiles * kTileColumns + chunk * 8;
  }
  const uint32_t base_address = shared_address(shared);
  const uint32_t place = my_row * kRowChunks * 16 + (chunk & ~7) * 16 + ((chunk ^ my_row) & 7) * 16;
  auto load_stage = [&](int stage) {
    const int first = stage * kStageTiles;
    const bool valid = first + chunk / 8 < tiles;
    const uint32_t target = base_address + stage % kMoeStages * kStageBytes + place;
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      if (8 * n < item.z) {
        copy_async(target + n * 8 * kRowChunks * 16,
                   valid ? rows[n] + static_cast<int64_t>(first) * kTileColumns : rows[n], valid);
      }
    }
    commit_copies();
  };
#pragma unroll
  for (int stage = 0; stage < kMoeStages - 1; ++stage) load_stage(stage);

  float sum[kWarpTiles][kTokens][4] = {};
  const int row = lane / 4, c = lane % 4;
  const uint32_t mine = row * kRowChunks * 16;
  const uint32_t first_chunk = ((2 * c) ^ row) * 16, second_chunk = ((2 * c + 1) ^ row) * 16;
  for (int base = 0; base < tiles; base += kAhead) {
#pragma unroll
    for (int p = 0; p < kAhead; ++p) {
      const int tile = base + p;
      if (tile >= tiles) break;
      const int stage = tile / kStageTiles;
      if (p % kStageTiles == 0) {
        wait_copies<kMoeStages - 2>();
        __syncthreads();  // The stage is here, and nobody reads the one that is filled next.
        load_stage(stage + kMoeStages - 1);
      }
      uint32_t left[kWarpTiles][4][4];
      stream.take(p, tile, left);
      const uint32_t at = base_address + stage % kMoeStages * kStageBytes + mine +
                          (p % kStageTiles) * 128;
#pragma unroll
      for (int n = 0; n < kTokens; n += 2) {
        if (8 * n >= item.z) break;
        // The second eight may be nobody's: then their place holds anything, and so does the sum.
        uint4 right[2][2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint32_t of_tokens = at + (n + i) * 8 * kRowChunks * 16;
          right[i][0] = load_shared(of_tokens + first_chunk);
          right[i][1] = load_shared(of_tokens + second_chunk);
        }
        multiply_tile<2, kTokens>(sum, n, left, right);
      }
    }
  }
  wait_copies<0>();
  if (wanted < a.weight.row_tiles) write_rows<kTokens, kGated>(a, item, first_tile, sum, lane);
}

}  // namespace steelyard

// MXFP4 weights (OCP Microscaling Formats, 2023): 4-bit floats e2m1 with one exponent e8m0 for 32 of
// them along the inner dimension, repacked at load (cuda/mxfp4.py) for the tensor core product.
//
// A tile is 16 rows x 64 columns, 512 bytes: 16 bytes for each lane, which are the first operand of
// four products m16n8k16. The columns of a product are a permutation of the tile's, so that lane c of
// a row's four has the 16 columns from 16 c on, all under one exponent, and finds the same 16 of an
// activation in 32 contiguous bytes. The bits of the eight values of a word are spread so that a mask
// and at most two shifts give each pair as bf16 times 2^-126: sign at 15, exponent and mantissa at 8
// to 6, bf16's own subnormals included. The product with the exponent's power of two is exact.
#pragma once

#include "tiles.cuh"

namespace steelyard {

constexpr int kTileRows = 16;
constexpr int kTileColumns = 64;
constexpr int kTileWords = 128;        // 32 lanes x 4
constexpr int kTileScales = 32;        // bytes: 8 rows x 2 blocks x (row, row + 8)
constexpr uint32_t kPairMask = 0x81c081c0u;

__device__ __forceinline__ uint32_t scale_pair(uint32_t pair, uint32_t scale) {
  __nv_bfloat162 product = __hmul2(*reinterpret_cast<__nv_bfloat162*>(&pair),
                                   *reinterpret_cast<__nv_bfloat162*>(&scale));
  return *reinterpret_cast<uint32_t*>(&product);
}

// A scale byte is the exponent field of 2^(e8m0 - 127 + 126) as bf16; twice, for a pair.
__device__ __forceinline__ uint32_t scale_of(uint32_t byte) { return (byte << 7) * 0x10001u; }

// The first operand of one product: rows r and r + 8, the lane's columns 4 j to 4 j + 3.
__device__ __forceinline__ void unpack_weights(uint32_t (&a)[4], uint32_t word, uint32_t low,
                                               uint32_t high) {
  a[0] = scale_pair(word & kPairMask, low);
  a[1] = scale_pair((word << 3) & kPairMask, high);
  a[2] = scale_pair((word << 6) & kPairMask, low);
  const uint32_t last = ((word << 1) & 0x80008000u) | ((word >> 3) & 0x01800180u) |
                        ((word >> 7) & 0x00400040u);
  a[3] = scale_pair(last, high);
}

__device__ __forceinline__ uint4 load_streaming(const uint4* source) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(source));
  return value;
}

struct Mxfp4Arguments {
  const uint4* words;      // (experts, row tiles, column tiles, 32)
  const uint16_t* scales;  // (experts, row tiles, column tiles, 8, 2): bytes of row and row + 8
  int row_tiles, column_tiles;
};

// All weights of all experts as bf16 rows, for a library's product. One warp a tile.
__global__ void __launch_bounds__(256) unpack_mxfp4(Mxfp4Arguments w, bf16* out, int64_t tiles) {
  const int64_t tile = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / 32;
  if (tile >= tiles) return;
  const int lane = threadIdx.x % 32, row = lane / 4, c = lane % 4;
  const uint4 packed = load_streaming(w.words + tile * 32 + lane);
  const uint32_t scales = w.scales[tile * 16 + row * 2 + c / 2];
  const uint32_t low = scale_of(scales & 0xff), high = scale_of(scales >> 8);
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
  uint32_t rows[2][8];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    uint32_t a[4];
    unpack_weights(a, words[j], low, high);
    rows[0][2 * j] = a[0];
    rows[0][2 * j + 1] = a[2];
    rows[1][2 * j] = a[1];
    rows[1][2 * j + 1] = a[3];
  }
  const int64_t width = static_cast<int64_t>(w.column_tiles) * kTileColumns;
  const int64_t first_row = tile / w.column_tiles * kTileRows;
  const int64_t column = tile % w.column_tiles * kTileColumns + 16 * c;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    uint4* target = reinterpret_cast<uint4*>(out + (first_row + row + 8 * h) * width + column);
    target[0] = {rows[h][0], rows[h][1], rows[h][2], rows[h][3]};
    target[1] = {rows[h][4], rows[h][5], rows[h][6], rows[h][7]};
  }
}

}  // namespace steelyard

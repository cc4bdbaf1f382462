// The C interface of the mixture of experts; a part of abi.cu.
#pragma once

#include "moe_product.cuh"
#include "routing.cuh"

namespace steelyard {

template <bool kSplit>
cudaError_t launch_few(const MoeArguments& a, int max_items, bool gated, cudaStream_t stream) {
  const int rows = kWarpTiles * (kSplit ? 1 : kMoeWarps);
  const dim3 grid((a.weight.row_tiles + rows - 1) / rows, max_items);
  if (gated) {
    moe_product_few<kSplit, true><<<grid, kMoeWarps * 32, 0, stream>>>(a);
  } else {
    moe_product_few<kSplit, false><<<grid, kMoeWarps * 32, 0, stream>>>(a);
  }
  return cudaGetLastError();
}

template <int kTokens, bool kGated>
cudaError_t launch_many(const MoeArguments& a, int max_items, cudaStream_t stream) {
  constexpr int kShared = kMoeShared<kTokens>;
  static const cudaError_t raised =
      cudaFuncSetAttribute(moe_product_many<kTokens, kGated>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, kShared);
  if (raised != cudaSuccess) return raised;
  const int rows = kWarpTiles * kMoeWarps;
  const dim3 grid((a.weight.row_tiles + rows - 1) / rows, max_items);
  moe_product_many<kTokens, kGated><<<grid, kMoeWarps * 32, kShared, stream>>>(a);
  return cudaGetLastError();
}

template <int kTokens>
cudaError_t launch_many(const MoeArguments& a, int max_items, bool gated, cudaStream_t stream) {
  return gated ? launch_many<kTokens, true>(a, max_items, stream)
               : launch_many<kTokens, false>(a, max_items, stream);
}

}  // namespace steelyard

extern "C" {

int steelyard_route(const void* logits, void* weights, void* chosen, void* ranks, void* sorted,
                    void* positions, void* ends, void* items, int tokens, int experts, int top,
                    int tile, int max_items, cudaStream_t stream) {
  using namespace steelyard;
  if (experts > kExpertsMax || top > kTopMax) return cudaErrorInvalidValue;
  const RouteArguments a{static_cast<const bf16*>(logits), static_cast<float*>(weights),
                         static_cast<int*>(chosen),        static_cast<int*>(ranks),
                         static_cast<int*>(sorted),        static_cast<int*>(positions),
                         static_cast<int*>(ends),          static_cast<int4*>(items),
                         tokens,                           experts,
                         top,                              tile,
                         max_items};
  route<<<1, std::min(1024, (tokens * 32 + 31) / 32 * 32), 0, stream>>>(a);
  return cudaGetLastError();
}

int steelyard_moe_product(const void* words, const void* scales, int row_tiles, int column_tiles,
                          const void* x, const void* bias, void* out, const void* sorted,
                          const void* items, int top, int width, int max_items, int tile, int gated,
                          int split, float alpha, float limit, cudaStream_t stream) {
  using namespace steelyard;
  const MoeArguments a{{static_cast<const uint4*>(words), static_cast<const uint16_t*>(scales),
                        row_tiles, column_tiles},
                       static_cast<const bf16*>(x),
                       static_cast<const bf16*>(bias),
                       static_cast<bf16*>(out),
                       static_cast<const int*>(sorted),
                       static_cast<const int4*>(items),
                       top,
                       width,
                       alpha,
                       limit};
  switch (tile) {
    case 8:
      return split ? launch_few<true>(a, max_items, gated, stream)
                   : launch_few<false>(a, max_items, gated, stream);
    case 16:
      return launch_many<2>(a, max_items, gated, stream);
    case 32:
      return launch_many<4>(a, max_items, gated, stream);
    case 64:
      return launch_many<8>(a, max_items, gated, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

int steelyard_unpack_mxfp4(const void* words, const void* scales, int row_tiles, int column_tiles,
                           void* out, int64_t tiles, cudaStream_t stream) {
  using namespace steelyard;
  unpack_mxfp4<<<static_cast<unsigned>((tiles + 7) / 8), 256, 0, stream>>>(
      {static_cast<const uint4*>(words), static_cast<const uint16_t*>(scales), row_tiles,
       column_tiles},
      static_cast<bf16*>(out), tiles);
  return cudaGetLastError();
}

int steelyard_gate_rows(const void* x, const void* bias, const void* sorted, const void* experts,
                        void* out, int64_t rows, int width, float alpha, float limit,
                        cudaStream_t stream) {
  using namespace steelyard;
  const int64_t items = rows * width;
  gate_rows<<<static_cast<unsigned>((items + 255) / 256), 256, 0, stream>>>(
      static_cast<const bf16*>(x), static_cast<const bf16*>(bias), static_cast<const int*>(sorted),
      static_cast<const int*>(experts), static_cast<bf16*>(out), rows, width, alpha, limit);
  return cudaGetLastError();
}

int steelyard_combine(const void* y, const void* weights, const void* positions,
                      const void* experts, const void* bias, void* out, int64_t tokens, int top,
                      int width, cudaStream_t stream) {
  using namespace steelyard;
  const int64_t items = tokens * (width / kVector);
  combine<<<static_cast<unsigned>((items + 255) / 256), 256, 0, stream>>>(
      static_cast<const bf16*>(y), static_cast<const float*>(weights),
      static_cast<const int*>(positions), static_cast<const int*>(experts),
      static_cast<const bf16*>(bias), static_cast<bf16*>(out), tokens, top, width);
  return cudaGetLastError();
}

}  // extern "C"

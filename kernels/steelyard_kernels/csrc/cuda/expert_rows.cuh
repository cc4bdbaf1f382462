// What happens to the rows of a mixture around its products.
#pragma once

#include "elementwise.cuh"

namespace steelyard {

// gpt-oss's activation: both sides clamped, gate * sigmoid(alpha * gate) * (up + 1).
__device__ __forceinline__ float clamped_swiglu(float gate, float up, float alpha, float limit) {
  gate = fminf(gate, limit);
  up = fminf(fmaxf(up, -limit), limit);
  return gate / (1.f + __expf(-alpha * gate)) * (up + 1.f);
}

// After a library's product: bias and activation of rows in the order of the weight's tiles. One
// thread an output; `experts[sorted[row]]` is the row's.
__global__ void __launch_bounds__(256) gate_rows(const bf16* x, const bf16* bias, const int* sorted,
                                                 const int* experts, bf16* out, int64_t rows,
                                                 int width, float alpha, float limit) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= rows * width) return;
  const int64_t row = index / width;
  const int column = static_cast<int>(index % width);
  const int at = column / 8 * 16 + column % 8;
  const bf16* source = x + row * 2 * width + at;
  const bf16* shift = bias + static_cast<int64_t>(experts[sorted[row]]) * 2 * width + at;
  out[index] = __float2bfloat16(
      clamped_swiglu(__bfloat162float(source[0]) + __bfloat162float(shift[0]),
                     __bfloat162float(source[8]) + __bfloat162float(shift[8]), alpha, limit));
}

// out[token] = sum over its experts of weight * row. With `positions`, rows are in sorted order and
// their bias is still to be added. One thread eight columns.
__global__ void __launch_bounds__(256) combine(const bf16* y, const float* weights,
                                               const int* positions, const int* experts,
                                               const bf16* bias, bf16* out, int64_t tokens, int top,
                                               int width) {
  const int per_row = width / kVector;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= tokens * per_row) return;
  const int64_t token = index / per_row;
  const int column = static_cast<int>(index % per_row) * kVector;
  float sum[kVector] = {};
  for (int i = 0; i < top; ++i) {
    const int64_t assignment = token * top + i;
    const int64_t row = positions == nullptr ? assignment : positions[assignment];
    float values[kVector];
    unpack(*reinterpret_cast<const uint4*>(y + row * width + column), values);
    if (positions != nullptr) {
      float shift[kVector];
      const bf16* of_expert = bias + static_cast<int64_t>(experts[assignment]) * width + column;
      unpack(*reinterpret_cast<const uint4*>(of_expert), shift);
#pragma unroll
      for (int j = 0; j < kVector; ++j) values[j] += shift[j];
    }
    const float weight = weights[assignment];
#pragma unroll
    for (int j = 0; j < kVector; ++j) sum[j] += weight * values[j];
  }
  *reinterpret_cast<uint4*>(out + token * width + column) = pack(sum);
}

}  // namespace steelyard

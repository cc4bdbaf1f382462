// What happens to one token between two matrix multiplications.
#pragma once

#include <cmath>

#include "vector.h"

namespace steelyard {

inline void rms_norm(const float* x, const float* weight, long width, float eps, float* out) {
  Vec sums = {};
  long i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec v = load(x + i);
    sums += v * v;
  }
  float squares = sum(sums);
  for (; i < width; ++i) squares += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
  for (long j = 0; j < width; ++j) out[j] = weight[j] * (x[j] * scale);
}

inline void add(const float* x, float* residual, long width) {
  for (long i = 0; i < width; ++i) residual[i] += x[i];
}

// gate and up lie one after the other, `width` each.
inline void silu_and_mul(const float* gate, long width, float* out) {
  const float* up = gate + width;
  long i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    const Vec g = load(gate + i);
    store(out + i, g / (1.0f + exp(-g)) * load(up + i));
  }
  for (; i < width; ++i) out[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// Rotate pairs (i, i + head_dim / 2); cos_sin holds the cosines, then the sines.
inline void rotate(const float* x, const float* cos_sin, long head_dim, float* out) {
  const long half = head_dim / 2;
  for (long i = 0; i < half; ++i) {
    const float first = x[i], second = x[i + half];
    const float c = cos_sin[i], s = cos_sin[i + half];
    out[i] = first * c - second * s;
    out[i + half] = second * c + first * s;
  }
}

}  // namespace steelyard

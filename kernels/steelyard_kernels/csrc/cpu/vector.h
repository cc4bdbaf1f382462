// Vectors of float at the width of the machine that compiles: 16 with AVX-512, else 8.
// GCC's and Clang's vector extensions; nothing here names an instruction set.
#pragma once

#include <cstdint>
#include <cstring>

namespace steelyard {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kMaxRows = 12;  // 12 x 2 accumulators, two weight vectors: 26 of 32 registers
#else
constexpr int kLanes = 8;
constexpr int kMaxRows = 6;  // 6 x 2 accumulators, two weight vectors: 14 of 16 registers
#endif
constexpr int kPanelVectors = 2;
constexpr int kPanel = kPanelVectors * kLanes;  // output columns of one weight panel

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef int32_t IntVec __attribute__((vector_size(kLanes * 4)));

inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

inline Vec splat(float x) { return x - Vec{}; }

inline float sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

// e^x, relative error below 2e-7; Cephes' polynomial. x below -87 gives 0 to within 1e-38.
inline Vec exp(Vec x) {
  const Vec low = splat(-87.0f), high = splat(88.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  const Vec scaled = x * 1.44269504088896341f;
  const Vec rounded = (scaled + 12582912.0f) - 12582912.0f;  // to the nearest integer
  Vec r = x - rounded * 0.693359375f;
  r = r + rounded * 2.12194440e-4f;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const IntVec exponent = (__builtin_convertvector(rounded, IntVec) + 127) << 23;
  Vec power;
  std::memcpy(&power, &exponent, sizeof power);
  return p * power;
}

}  // namespace steelyard

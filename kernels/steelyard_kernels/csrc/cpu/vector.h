// Vectors of float at the width of the machine that compiles: 16 with AVX-512, else 8.
// GCC's and Clang's vector extensions; nothing here names an instruction set.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

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

inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

// Lanes of `a` where the bit of the lane number is clear, else of `b`; kSwap takes each lane's
// partner (lane ^ kBit) instead.
template <int kBit, bool kSwap, int... kLane>
inline Vec blend(Vec a, Vec b, std::integer_sequence<int, kLane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(
      a, b, (((kLane & kBit) ? kLanes : 0) + (kSwap ? kLane ^ kBit : kLane))...);
#else
  return __builtin_shuffle(
      a, b, IntVec{(((kLane & kBit) ? kLanes : 0) + (kSwap ? kLane ^ kBit : kLane))...});
#endif
}

template <int kBit, bool kSwap>
inline Vec blend(Vec a, Vec b) {
  return blend<kBit, kSwap>(a, b, std::make_integer_sequence<int, kLanes>{});
}

template <int kBit>
inline void merge_sums(Vec* v) {
  for (int i = 0; i < kLanes / 2 / kBit; ++i)
    v[i] = blend<kBit, false>(v[2 * i], v[2 * i + 1]) + blend<kBit, true>(v[2 * i], v[2 * i + 1]);
}

// Lane i of the result is the sum of the lanes of v[i]; v is overwritten.
inline Vec sums(Vec (&v)[kLanes]) {
  merge_sums<1>(v);
  merge_sums<2>(v);
  merge_sums<4>(v);
  if constexpr (kLanes == 16) merge_sums<8>(v);
  return v[0];
}

inline float sum(Vec v) {
  v += blend<1, true>(v, v);
  v += blend<2, true>(v, v);
  v += blend<4, true>(v, v);
  if constexpr (kLanes == 16) v += blend<8, true>(v, v);
  return v[0];
}

inline float largest(Vec v) {
  v = max(v, blend<1, true>(v, v));
  v = max(v, blend<2, true>(v, v));
  v = max(v, blend<4, true>(v, v));
  if constexpr (kLanes == 16) v = max(v, blend<8, true>(v, v));
  return v[0];
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

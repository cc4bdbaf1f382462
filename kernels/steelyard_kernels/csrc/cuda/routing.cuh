// Which token goes to which expert, on the device: no host waits for it.
#pragma once

#include "tiles.cuh"

namespace steelyard {

constexpr int kExpertsMax = 128;
constexpr int kTopMax = 8;

struct RouteArguments {
  const bf16* logits;  // (tokens, experts)
  float* weights;      // (tokens, top): softmax over the chosen
  int* chosen;         // (tokens * top,)
  int* ranks;          // (tokens * top,) scratch
  int* sorted;         // (tokens * top,): token * top + slot, by expert
  int* positions;      // (tokens * top,): the inverse of `sorted`
  int* ends;           // (experts,): cumulative counts
  int4* items;         // (max_items,): expert, first of `sorted`, how many
  int tokens, experts, top, tile, max_items;
};

// Steps of so few tokens take a warp for each: a thread would walk over the experts alone.
constexpr int kFewTokens = 128;

__device__ __forceinline__ void choose_by_warp(const RouteArguments& a, int token, int* counts) {
  const int lane = threadIdx.x % 32;
  const bf16* row = a.logits + static_cast<int64_t>(token) * a.experts;
  float values[kExpertsMax / 32];
#pragma unroll
  for (int i = 0; i < kExpertsMax / 32; ++i) {
    const int e = lane + 32 * i;
    values[i] = e < a.experts ? __bfloat162float(row[e]) : -INFINITY;
  }
  float largest = 0.f, sum = 0.f, mine = 0.f;
  int my_expert = 0;
  for (int slot = 0; slot < a.top; ++slot) {
    float value = values[0];
    int index = lane;
#pragma unroll
    for (int i = 1; i < kExpertsMax / 32; ++i) {
      if (values[i] > value) value = values[i], index = lane + 32 * i;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, value, step);
      const int j = __shfl_xor_sync(0xffffffffu, index, step);
      if (v > value || (v == value && j < index)) value = v, index = j;
    }
    if (slot == 0) largest = value;
    const float weight = __expf(value - largest);
    sum += weight;
    if (lane == slot) mine = weight, my_expert = index;
#pragma unroll
    for (int i = 0; i < kExpertsMax / 32; ++i) {
      if (index == lane + 32 * i) values[i] = -INFINITY;
    }
  }
  if (lane < a.top) {
    const int assignment = token * a.top + lane;
    a.weights[assignment] = mine / sum;
    a.chosen[assignment] = my_expert;
    a.ranks[assignment] = atomicAdd(counts + my_expert, 1);
  }
}

__device__ __forceinline__ void choose_by_thread(const RouteArguments& a, int token, int* counts) {
  const bf16* row = a.logits + static_cast<int64_t>(token) * a.experts;
  float value[kTopMax];
  int index[kTopMax];
#pragma unroll
  for (int i = 0; i < kTopMax; ++i) value[i] = -INFINITY, index[i] = 0;
  for (int e = 0; e < a.experts; ++e) {
    // Insertion; of equal ones the first stays.
    float x = __bfloat162float(row[e]);
    int at = e;
    bool inserted = false;
#pragma unroll
    for (int i = 0; i < kTopMax; ++i) {
      inserted = inserted || x > value[i];
      if (inserted) {
        const float v = value[i];
        const int j = index[i];
        value[i] = x, index[i] = at;
        x = v, at = j;
      }
    }
  }
  float sum = 0.f, weight[kTopMax];
#pragma unroll
  for (int i = 0; i < kTopMax; ++i) {
    weight[i] = i < a.top ? __expf(value[i] - value[0]) : 0.f;
    sum += weight[i];
  }
#pragma unroll
  for (int i = 0; i < kTopMax; ++i) {
    if (i >= a.top) break;
    const int assignment = token * a.top + i;
    a.weights[assignment] = weight[i] / sum;
    a.chosen[assignment] = index[i];
    a.ranks[assignment] = atomicAdd(counts + index[i], 1);
  }
}

// One block. The order within an expert is that of arrival: results do not depend on it.
__global__ void __launch_bounds__(1024) route(RouteArguments a) {
  __shared__ int counts[kExpertsMax], starts[kExpertsMax];
  __shared__ int num_items;
  for (int e = threadIdx.x; e < a.experts; e += blockDim.x) counts[e] = 0;
  __syncthreads();
  if (a.tokens <= kFewTokens) {
    for (int token = threadIdx.x / 32; token < a.tokens; token += blockDim.x / 32) {
      choose_by_warp(a, token, counts);
    }
  } else {
    for (int token = threadIdx.x; token < a.tokens; token += blockDim.x) {
      choose_by_thread(a, token, counts);
    }
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    // A warp's sums over experts, 32 at a time.
    int start = 0, first_item = 0;
    for (int base = 0; base < a.experts; base += 32) {
      const int e = base + threadIdx.x;
      const int count = e < a.experts ? counts[e] : 0;
      const int items = (count + a.tile - 1) / a.tile;
      int ends = count, last_item = items;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int c = __shfl_up_sync(0xffffffffu, ends, step);
        const int i = __shfl_up_sync(0xffffffffu, last_item, step);
        if (threadIdx.x >= step) ends += c, last_item += i;
      }
      if (e < a.experts) {
        starts[e] = start + ends - count;
        a.ends[e] = start + ends;
        for (int i = 0; i < items; ++i) {
          const int first = i * a.tile;
          a.items[first_item + last_item - items + i] = {e, starts[e] + first,
                                                         min(a.tile, count - first), 0};
        }
      }
      start += __shfl_sync(0xffffffffu, ends, 31);
      first_item += __shfl_sync(0xffffffffu, last_item, 31);
    }
    if (threadIdx.x == 0) num_items = first_item;
  }
  __syncthreads();
  for (int i = num_items + threadIdx.x; i < a.max_items; i += blockDim.x) a.items[i] = {0, 0, 0, 0};
  for (int i = threadIdx.x; i < a.tokens * a.top; i += blockDim.x) {
    const int place = starts[a.chosen[i]] + a.ranks[i];
    a.sorted[place] = i;
    a.positions[i] = place;
  }
}

}  // namespace steelyard

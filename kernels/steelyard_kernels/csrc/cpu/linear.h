// y = x W^T + b over packed weights.
//
// W (outputs x inputs) is packed in panels of kPanel outputs, each inputs x kPanel, so that one
// pass reads memory in order. A panel (at most some 200 kB here) stays in the L2 cache while all
// rows of x pass over it. Each output is one chain of sums over the inputs in order, whatever the
// number of rows: a token's result does not depend on the batch that it is in.
//
// Some ten rows compute about as long as their weights take from memory. While a panel is
// multiplied, the next one is therefore fetched into the L2 cache: the two times overlap instead of
// adding up.
#pragma once

#include "vector.h"

namespace steelyard {

constexpr int kLineFloats = 16;                    // a cache line
constexpr int kPanelLines = kPanel / kLineFloats;  // of one input's weights in a panel
constexpr int kIntoL2 = 2;                         // of __builtin_prefetch

inline long panels(long outputs) { return (outputs + kPanel - 1) / kPanel; }

// Pack one panel; missing outputs are zero.
inline void pack_panel(const float* weight, long outputs, long inputs, long panel, float* packed) {
  float* out = packed + panel * inputs * kPanel;
  const long first = panel * kPanel;
  // A few columns at a time: what is written stays in the L1 cache until its lines are whole.
  constexpr long kColumns = 64;
  for (long begin = 0; begin < inputs; begin += kColumns) {
    const long end = begin + kColumns < inputs ? begin + kColumns : inputs;
    for (long j = 0; j < kPanel; ++j) {
      const float* row = weight + (first + j) * inputs;
      const bool missing = first + j >= outputs;
      for (long k = begin; k < end; ++k) out[k * kPanel + j] = missing ? 0.0f : row[k];
    }
  }
}

// kLines cache lines of `ahead` are fetched for each input.
template <int kRows, int kLines>
inline void linear_rows(const float* x, long inputs, const float* panel, const float* ahead,
                        const float* bias, float* y, long outputs, long columns) {
  Vec sums[kRows][kPanelVectors] = {};
  for (long k = 0; k < inputs; ++k) {
#pragma GCC unroll 2
    for (int line = 0; line < kLines; ++line)
      __builtin_prefetch(ahead + (k * kLines + line) * kLineFloats, 0, kIntoL2);
    Vec w[kPanelVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kPanelVectors; ++v) w[v] = load(panel + k * kPanel + v * kLanes);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVectors; ++v) sums[row][v] += x[row * inputs + k] * w[v];
  }
  for (int row = 0; row < kRows; ++row) {
    float* out = y + row * outputs;
    if (columns == kPanel) {
      for (int v = 0; v < kPanelVectors; ++v) {
        Vec s = sums[row][v];
        if (bias) s += load(bias + v * kLanes);
        store(out + v * kLanes, s);
      }
    } else {
      float lanes[kPanel];
      for (int v = 0; v < kPanelVectors; ++v) store(lanes + v * kLanes, sums[row][v]);
      for (long j = 0; j < columns; ++j) out[j] = lanes[j] + (bias ? bias[j] : 0.0f);
    }
  }
}

template <int kRows, int kLines>
inline void linear_few(int rows, const float* x, long inputs, const float* panel,
                       const float* ahead, const float* bias, float* y, long outputs,
                       long columns) {
  if (rows == kRows)
    linear_rows<kRows, kLines>(x, inputs, panel, ahead, bias, y, outputs, columns);
  else if constexpr (kRows > 1)
    linear_few<kRows - 1, kLines>(rows, x, inputs, panel, ahead, bias, y, outputs, columns);
}

// One panel of outputs for all rows of x; `next` is the panel to fetch meanwhile, or -1.
inline void linear_panel(const float* x, long rows, long inputs, const float* packed,
                         const float* bias, float* y, long outputs, long panel, long next) {
  const long first = panel * kPanel;
  const long columns = outputs - first < kPanel ? outputs - first : kPanel;
  const float* weights = packed + panel * inputs * kPanel;
  const float* ahead = packed + (next < 0 ? 0 : next) * inputs * kPanel;
  const float* b = bias ? bias + first : nullptr;
  // Equal groups: 16 rows are 8 + 8, not 12 + 4.
  const long groups = (rows + kMaxRows - 1) / kMaxRows;
  // Each of the first groups fetches its share of the next panel; one group alone fetches all.
  const bool shared = groups >= kPanelLines;
  const long fetching = next < 0 ? 0 : shared ? kPanelLines : 1;
  long row = 0;
  for (long g = 0; g < groups; ++g) {
    const int count = static_cast<int>((rows - row + groups - g - 1) / (groups - g));
    const float* in = x + row * inputs;
    float* out = y + row * outputs + first;
    const float* part = ahead + g * inputs * kLineFloats;
    if (g >= fetching)
      linear_few<kMaxRows, 0>(count, in, inputs, weights, part, b, out, outputs, columns);
    else if (shared)
      linear_few<kMaxRows, 1>(count, in, inputs, weights, part, b, out, outputs, columns);
    else
      linear_few<kMaxRows, kPanelLines>(count, in, inputs, weights, part, b, out, outputs,
                                        columns);
    row += count;
  }
}

}  // namespace steelyard

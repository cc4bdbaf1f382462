// y = x W^T + b over packed weights.
//
// W (outputs x inputs) is packed in panels of kPanel outputs, each inputs x kPanel, so that one
// pass reads memory in order. A panel (at most some 200 kB here) stays in the L2 cache while all
// rows of x pass over it. Each output is one chain of sums over the inputs in order, whatever the
// number of rows: a token's result does not depend on the batch that it is in.
#pragma once

#include "vector.h"

namespace steelyard {

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

template <int kRows>
inline void linear_rows(const float* x, long inputs, const float* panel, const float* bias,
                        float* y, long outputs, long columns) {
  Vec sums[kRows][kPanelVectors] = {};
  for (long k = 0; k < inputs; ++k) {
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

template <int kRows>
inline void linear_few(int rows, const float* x, long inputs, const float* panel,
                       const float* bias, float* y, long outputs, long columns) {
  if (rows == kRows)
    linear_rows<kRows>(x, inputs, panel, bias, y, outputs, columns);
  else if constexpr (kRows > 1)
    linear_few<kRows - 1>(rows, x, inputs, panel, bias, y, outputs, columns);
}

// One panel of outputs for all rows of x.
inline void linear_panel(const float* x, long rows, long inputs, const float* packed,
                         const float* bias, float* y, long outputs, long panel) {
  const long first = panel * kPanel;
  const long columns = outputs - first < kPanel ? outputs - first : kPanel;
  const float* weights = packed + panel * inputs * kPanel;
  const float* b = bias ? bias + first : nullptr;
  // Equal groups: 16 rows are 8 + 8, not 12 + 4.
  const long groups = (rows + kMaxRows - 1) / kMaxRows;
  long row = 0;
  for (long g = 0; g < groups; ++g) {
    const int count = static_cast<int>((rows - row + groups - g - 1) / (groups - g));
    linear_few<kMaxRows>(count, x + row * inputs, inputs, weights, b, y + row * outputs + first,
                         outputs, columns);
    row += count;
  }
}

}  // namespace steelyard

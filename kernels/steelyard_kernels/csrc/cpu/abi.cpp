// The C interface of the CPU kernels: raw pointers, float32, row-major; cpu/library.py calls it.
// Shapes are checked by the caller.

#include "phases.h"

using namespace steelyard;

namespace {

constexpr int kPhasesOfLayer = 9;

template <typename Body>
void in_team(int threads, int phases, const Body& body) {
  Team team(phases);
#pragma omp parallel num_threads(threads)
  body(team);
}

}  // namespace

extern "C" {

// Mirrors of the ctypes structures in cpu/library.py; all fields have eight bytes.
struct SteelyardLayer {
  const float *input_norm, *qkv, *qkv_bias, *output, *output_bias;
  const float *post_attention_norm, *gate_up, *gate_up_bias, *down, *down_bias;
};

struct SteelyardStep {
  int64_t tokens, rows, layers, hidden, heads, kv_heads, head_dim, intermediate, vocab;
  int64_t block_tokens, block_stride, layer_stride, value_stride;
  int64_t sequences, table_width;
  const int64_t *token_ids, *positions, *slots, *query_starts, *context_lens, *block_tables;
  const int64_t* logit_rows;
  const float *embedding, *final_norm, *head, *cos_sin;
  float* kv_pool;
  // Scratch: (tokens, hidden) three times, (tokens, heads * head_dim),
  // (tokens, max(qkv, 2 * intermediate)), (tokens, intermediate).
  float *residual, *x, *y, *attention, *wide, *activation;
  float* logits;  // (rows, vocab)
  double eps, scale;
};

int64_t steelyard_panel() { return kPanel; }

void steelyard_pack(const float* weight, int64_t outputs, int64_t inputs, float* packed,
                    int threads) {
  in_team(threads, 1, [&](Team& team) {
    team.phase(0, panels(outputs),
               [&](long p) { pack_panel(weight, outputs, inputs, p, packed); });
  });
}

void steelyard_linear(const float* x, int64_t rows, int64_t inputs, const float* packed,
                      const float* bias, float* y, int64_t outputs, int threads) {
  in_team(threads, 1, [&](Team& team) {
    linear_phase(team, 0, x, rows, inputs, packed, bias, y, outputs);
  });
}

void steelyard_rms_norm(const float* x, const float* weight, int64_t rows, int64_t width,
                        double eps, float* out, int threads) {
  in_team(threads, 1, [&](Team& team) {
    team.phase(0, rows, [&](long r) {
      rms_norm(x + r * width, weight, width, static_cast<float>(eps), out + r * width);
    });
  });
}

void steelyard_add_rms_norm(const float* x, float* residual, const float* weight, int64_t rows,
                            int64_t width, double eps, float* out, int threads) {
  in_team(threads, 1, [&](Team& team) {
    team.phase(0, rows, [&](long r) {
      add(x + r * width, residual + r * width, width);
      rms_norm(residual + r * width, weight, width, static_cast<float>(eps), out + r * width);
    });
  });
}

void steelyard_silu_and_mul(const float* gate_up, int64_t rows, int64_t width, float* out,
                            int threads) {
  in_team(threads, 1, [&](Team& team) {
    team.phase(0, rows,
               [&](long r) { silu_and_mul(gate_up + r * 2 * width, width, out + r * width); });
  });
}

void steelyard_rope_write_kv(const float* qkv, int64_t tokens, int64_t heads, const float* cos_sin,
                             const int64_t* positions, const int64_t* slots, float* kv,
                             int64_t block_stride, int64_t value_stride, int64_t kv_heads,
                             int64_t block_tokens, int64_t head_dim, float* query, int threads) {
  const KVLayer layer{kv, block_stride, value_stride, block_tokens, head_dim};
  in_team(threads, 1, [&](Team& team) {
    rope_write_phase(team, 0, qkv, tokens, heads, cos_sin, positions, slots, layer, kv_heads,
                     query);
  });
}

void steelyard_paged_attention(const float* query, int64_t heads, float* kv, int64_t block_stride,
                               int64_t value_stride, int64_t kv_heads, int64_t block_tokens,
                               int64_t head_dim, const int64_t* query_starts,
                               const int64_t* context_lens, const int64_t* block_tables,
                               int64_t table_width, int64_t sequences, double scale, float* out,
                               int threads) {
  const KVLayer layer{kv, block_stride, value_stride, block_tokens, head_dim};
  const Sequences seqs{query_starts, context_lens, block_tables, table_width, sequences};
  in_team(threads, 1, [&](Team& team) {
    attention_phase(team, 0, seqs, query, heads, layer, kv_heads, static_cast<float>(scale), out);
  });
}

// A whole Llama forward pass in one parallel region.
void steelyard_llama(const SteelyardStep* step, const SteelyardLayer* layers, int threads) {
  const SteelyardStep& s = *step;
  const long queries = s.heads * s.head_dim;
  const long qkv_width = queries + 2 * s.kv_heads * s.head_dim;
  const float eps = static_cast<float>(s.eps), scale = static_cast<float>(s.scale);
  const Sequences seqs{s.query_starts, s.context_lens, s.block_tables, s.table_width, s.sequences};
  in_team(threads, static_cast<int>(s.layers) * kPhasesOfLayer + 3, [&](Team& team) {
    int phase = 0;
    const auto add_norm = [&](const float* weight) {
      team.phase(phase++, s.tokens, [&](long t) {
        add(s.y + t * s.hidden, s.residual + t * s.hidden, s.hidden);
        rms_norm(s.residual + t * s.hidden, weight, s.hidden, eps, s.x + t * s.hidden);
      });
    };
    const auto linear = [&](const float* x, long inputs, const float* weight, const float* bias,
                            float* y, long outputs) {
      linear_phase(team, phase++, x, s.tokens, inputs, weight, bias, y, outputs);
    };
    team.phase(phase++, s.tokens, [&](long t) {
      float* residual = s.residual + t * s.hidden;
      std::memcpy(residual, s.embedding + s.token_ids[t] * s.hidden, sizeof(float) * s.hidden);
      rms_norm(residual, layers[0].input_norm, s.hidden, eps, s.x + t * s.hidden);
    });
    for (long l = 0; l < s.layers; ++l) {
      const SteelyardLayer& w = layers[l];
      const KVLayer kv{s.kv_pool + l * s.layer_stride, s.block_stride, s.value_stride,
                       s.block_tokens, s.head_dim};
      if (l > 0) add_norm(w.input_norm);
      linear(s.x, s.hidden, w.qkv, w.qkv_bias, s.wide, qkv_width);
      rope_write_phase(team, phase++, s.wide, s.tokens, s.heads, s.cos_sin, s.positions, s.slots,
                       kv, s.kv_heads, s.activation);
      attention_phase(team, phase++, seqs, s.activation, s.heads, kv, s.kv_heads, scale,
                      s.attention);
      linear(s.attention, queries, w.output, w.output_bias, s.y, s.hidden);
      add_norm(w.post_attention_norm);
      linear(s.x, s.hidden, w.gate_up, w.gate_up_bias, s.wide, 2 * s.intermediate);
      team.phase(phase++, s.tokens, [&](long t) {
        silu_and_mul(s.wide + t * 2 * s.intermediate, s.intermediate,
                     s.activation + t * s.intermediate);
      });
      linear(s.activation, s.intermediate, w.down, w.down_bias, s.y, s.hidden);
    }
    // Only the wanted rows go through the last norm and the vocabulary.
    team.phase(phase++, s.rows, [&](long r) {
      const long t = s.logit_rows[r];
      for (long i = 0; i < s.hidden; ++i)
        s.wide[r * s.hidden + i] = s.residual[t * s.hidden + i] + s.y[t * s.hidden + i];
      rms_norm(s.wide + r * s.hidden, s.final_norm, s.hidden, eps, s.x + r * s.hidden);
    });
    linear_phase(team, phase++, s.x, s.rows, s.hidden, s.head, nullptr, s.logits, s.vocab);
  });
}

}  // extern "C"

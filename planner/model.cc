#include "planner/model.h"

#include <numeric>

#include "sim/check.h"
#include "sim/work.h"

namespace reckon::plan {

namespace {

std::int64_t prod(std::int64_t a, std::int64_t b) {
  return a * b;
}

std::int64_t norm_params(const ModelShape& m, std::int64_t width) {
  return m.norm == Norm::LayerNorm ? 2 * width : width;
}

std::int64_t attention_params(const ModelShape& m) {
  const std::int64_t h = m.hidden;
  std::int64_t n = norm_params(m, h) * (m.parallel_residual ? 1 : 2);
  if (m.mla) {
    const Mla& a = *m.mla;
    const std::int64_t qk = a.qk_nope + a.qk_rope;
    if (a.q_lora > 0)
      n += prod(h, a.q_lora) + a.q_lora + prod(a.q_lora, m.heads * qk);
    else
      n += prod(h, m.heads * qk);
    n += prod(h, a.kv_lora + a.qk_rope) + a.kv_lora;
    n += prod(a.kv_lora, prod(m.heads, a.qk_nope + a.v));
    n += prod(prod(m.heads, a.v), h);
    return n;
  }
  const std::int64_t q = prod(m.heads, m.head_dim), kv = prod(m.kv_heads, m.head_dim);
  n += prod(h, q + 2 * kv) + prod(q, h);
  if (m.qkv_bias || m.linear_bias) n += q + 2 * kv;
  if (m.linear_bias) n += h;
  if (m.qk_norm) n += 2 * static_cast<std::int64_t>(m.head_dim);
  return n;
}

std::int64_t mlp_params(const ModelShape& m, std::int64_t width, bool bias) {
  const bool gated = is_gated(m.mlp);
  std::int64_t n = prod(gated ? 3 : 2, prod(m.hidden, width));
  if (bias) n += (gated ? 2 : 1) * width + m.hidden;
  return n;
}

// Router and shared experts.
std::int64_t moe_common_params(const ModelShape& m) {
  const Moe& e = *m.moe;
  std::int64_t n = prod(m.hidden, e.experts);
  if (e.score == RouterScore::Sigmoid || e.expert_bias) n += e.experts;  // selection or router bias
  if (e.shared_ffn > 0) n += mlp_params(m, e.shared_ffn, false);
  if (e.shared_gate) n += m.hidden;
  return n;
}

}  // namespace

bool is_moe_layer(const ModelShape& model, int layer) {
  return model.moe && model.moe->layers[static_cast<std::size_t>(layer)];
}

std::int64_t Params::total(bool with_mtp) const {
  std::int64_t n = embedding + head + final_norm + (with_mtp ? mtp : 0);
  for (const auto* part : {&attention, &mlp, &experts})
    n = std::accumulate(part->begin(), part->end(), n);
  return n;
}

Params parameters(const ModelShape& m) {
  Params p;
  p.embedding = m.vocab * m.hidden;
  if (m.positions == Positions::Learned) p.embedding += prod(m.max_positions, m.hidden);
  p.head = m.tied_embeddings ? 0 : m.vocab * m.hidden;
  p.final_norm = norm_params(m, m.hidden);
  for (int l = 0; l < m.layers; ++l) {
    p.attention.push_back(attention_params(m));
    if (is_moe_layer(m, l)) {
      p.mlp.push_back(moe_common_params(m));
      p.experts.push_back(m.moe->experts * mlp_params(m, m.moe->ffn, m.moe->expert_bias));
    } else {
      p.mlp.push_back(mlp_params(m, m.ffn, m.linear_bias));
      p.experts.push_back(0);
    }
  }
  if (m.mtp_depth > 0) {
    // One more layer of the last kind, two norms and the 2h -> h projection; embedding and head are
    // shared (DeepSeek-V3 report, section 2.2).
    const auto last = static_cast<std::size_t>(m.layers - 1);
    p.mtp = m.mtp_depth * (p.attention[last] + p.mlp[last] + p.experts[last] +
                           3 * norm_params(m, m.hidden) + prod(2 * m.hidden, m.hidden));
  }
  return p;
}

std::int64_t activated_parameters(const ModelShape& m) {
  Params p = parameters(m);
  std::int64_t n = p.total(false);
  for (int l = 0; l < m.layers; ++l) {
    if (!is_moe_layer(m, l)) continue;
    const std::int64_t all = p.experts[static_cast<std::size_t>(l)];
    n -= all - all / m.moe->experts * m.moe->top_k;
  }
  return n;
}

Flops train_flops_per_token(const ModelShape& m, int seq, bool causal) {
  const Params p = parameters(m);
  // Matrix parameters that a token meets; norms and biases are left out of nothing: they are below
  // 0.01 %.
  double matrix = static_cast<double>(m.vocab) * m.hidden * (1 + m.mtp_depth);
  double attention = 0;
  const auto layer = [&](std::size_t l, bool moe, int window) {
    matrix += static_cast<double>(p.attention[l] + p.mlp[l]);
    if (moe) matrix += static_cast<double>(p.experts[l] / m.moe->experts * m.moe->top_k);
    sim::Attention a{
        .heads = m.heads, .seq_q = seq, .seq_k = seq, .window = window, .causal = causal};
    a.qk_dim = m.mla ? m.mla->qk_nope + m.mla->qk_rope : m.head_dim;
    a.v_dim = m.mla ? m.mla->v : m.head_dim;
    attention += 3 * sim::flops(a).si / seq;
  };
  for (int l = 0; l < m.layers; ++l) {
    const auto i = static_cast<std::size_t>(l);
    layer(i, is_moe_layer(m, l), m.windows.empty() ? 0 : m.windows[i]);
  }
  for (int d = 0; d < m.mtp_depth; ++d) {
    layer(static_cast<std::size_t>(m.layers - 1), is_moe_layer(m, m.layers - 1), 0);
    matrix += 2.0 * m.hidden * m.hidden;
  }
  return Flops(6 * matrix + attention);
}

}  // namespace reckon::plan

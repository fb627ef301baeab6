// Activation memory as tables of tensors, per layer kind. For an unfused GPT layer with dropout the
// rows add up to Korthikanti et al. 2022, equation 1: s b h (34 + 5 a s / h) bytes; what W still
// needs after B adds up to the 32 s b h of Qi et al. 2024, table 1.
#include "planner/activations.h"

#include <algorithm>

#include "planner/groups.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

using Needed = SavedTensor::Needed;

// Bytes of one element of an activation.
double element(const Plan& p) {
  return p.precision == Precision::Fp32 ? 4 : 2;
}

// Bytes per element of a linear map's saved input: fp8 payload and scales where the recipe keeps
// fp8.
double saved_input(const Plan& p, const hw::Stack& stack) {
  if (!stack.fp8_saves) return element(p);
  switch (p.precision) {
    case Precision::Fp8: return 1;
    case Precision::Fp8DeepSeek: return 1 + 4. / 128;
    case Precision::Mxfp8: return 1 + 1. / 32;
    default: return element(p);
  }
}

// Per-op checkpointing stores the outputs of every second product: query, value, one of the gated
// MLP's two first maps, and the MLP's output, which nothing else would keep.
bool keeps_per_op(const Plan& p) {
  return p.recompute.mode == Recompute::Mode::Selective && (p.recompute.modules & kPerOp) != 0;
}

struct Sizes {
  RankShape rank;
  // Bytes per element: activations; what a linear map keeps of its input, and of its output's
  // gradient between B and W (an fp8 map has quantised both by then).
  double e, in;
  double h;
  bool gathers;  // tensor-parallel maps gather their input along the sequence first
};

Sizes sizes(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq) {
  return {.rank = rank_shape(m, p, stack, seq),
          .e = element(p),
          .in = saved_input(p, stack),
          .h = static_cast<double>(m.hidden),
          .gathers = p.tp > 1 && p.sequence_parallel};
}

// Scores of an unfused attention on one GPU, in elements.
double scores(const Sizes& z, const Plan& p, int seq) {
  return static_cast<double>(z.rank.heads) * z.rank.tokens * seq / p.cp;
}

void core_attention(std::vector<SavedTensor>& out, const ModelShape& m, const Plan& p,
                    const hw::Stack& stack, int seq, const Sizes& z) {
  const double t = z.rank.tokens;
  if (stack.attention == hw::AttentionKernel::Unfused) {
    const double n = scores(z, p, seq);
    out.push_back({"attention", "softmax", n, z.e, kCoreAttention | kPerOp});
    if (stack.dropout) {
      out.push_back({"attention", "dropout mask", n, 1, kCoreAttention | kPerOp});
      out.push_back({"attention", "dropped softmax", n, z.e, kCoreAttention | kPerOp});
    }
  } else {
    out.push_back(
        {"attention", "log-sum-exp", t * static_cast<double>(z.rank.heads), 4, kCoreAttention});
  }
  const double width = static_cast<double>(z.rank.heads) * (m.mla ? m.mla->v : m.head_dim);
  // The output of flash attention is an operand of its own backward pass as well, in bf16; an fp8
  // projection keeps a second copy. DeepSeek keeps one for both, in E5M6 (V3 report, 3.3.3).
  const bool flash = stack.attention != hw::AttentionKernel::Unfused;
  const bool shared = flash && p.precision == Precision::Fp8DeepSeek && stack.fp8_saves;
  out.push_back(
      {"attention", "projection input", t * width, shared ? 1.5 : z.in, 0, Needed::ForBAndW});
  if (flash && !shared && z.in < z.e) out.push_back({"attention", "output", t * width, z.e});
}

void attention(std::vector<SavedTensor>& out, const ModelShape& m, const Plan& p,
               const hw::Stack& stack, int seq, const Sizes& z) {
  const double t = z.rank.tokens, r = z.rank.split_tokens, h = z.h;
  const auto heads = static_cast<double>(z.rank.heads);
  out.push_back({"norm", "input of attention norm", r * h, z.e, 0});
  out.push_back({"norm", "attention input", r * h, z.in, kNorm | kPerOp, Needed::ForBAndW});
  double qkv = 0;
  if (m.mla) {
    const Mla& a = *m.mla;
    if (a.q_lora > 0) {
      out.push_back({"attention", "compressed query", r * a.q_lora, z.e, kPerOp});
      out.push_back({"attention", "query up-projection input", r * a.q_lora, z.in, kMlaUp | kPerOp,
                     Needed::ForBAndW});
      out.push_back(
          {"attention", "compressed query gradient", r * a.q_lora, z.in, 0, Needed::ForW});
    }
    out.push_back({"attention", "compressed key-value", r * (a.kv_lora + a.qk_rope), z.e, kPerOp});
    out.push_back({"attention", "key-value up-projection input", r * a.kv_lora, z.in,
                   kMlaUp | kPerOp, Needed::ForBAndW});
    const double qk = heads * (a.qk_nope + a.qk_rope), v = heads * a.v;
    out.push_back({"attention", "query", t * qk, z.e, kMlaUp | kPerOp});
    out.push_back({"attention", "key", t * qk, z.e, kMlaUp | kPerOp});
    out.push_back({"attention", "value", t * v, z.e, kMlaUp | kPerOp});
    qkv = qk + heads * (a.qk_nope + a.v) + a.kv_lora + a.qk_rope;
  } else {
    const auto kv = static_cast<double>(z.rank.kv_heads) * m.head_dim;
    const double q = heads * m.head_dim;
    if (m.qk_norm)
      out.push_back({"attention", "query and key before norm", t * (q + kv), z.e, kPerOp});
    out.push_back({"attention", "query", t * q, z.e});
    out.push_back({"attention", "key", t * kv, z.e, kPerOp});
    out.push_back({"attention", "value", t * kv, z.e});
    qkv = q + 2 * kv;
  }
  core_attention(out, m, p, stack, seq, z);
  if (stack.dropout) out.push_back({"residual", "dropout mask", r * h, 1, kPerOp});
  out.push_back({"attention", "qkv gradient", t * qkv, z.in, 0, Needed::ForW});
  out.push_back({"attention", "projection gradient", r * h, z.in, 0, Needed::ForW});
}

// A pair of linear maps with an activation between, `rows` tokens wide.
struct MlpNames {
  const char* module;
  std::uint32_t dropped_by;
};

void mlp(std::vector<SavedTensor>& out, const ModelShape& m, const Plan& p, const hw::Stack& stack,
         const Sizes& z, MlpNames names, double rows, double width) {
  const double in = is_gated(m.mlp) ? 2 * width : width;
  const bool deepseek = p.precision == Precision::Fp8DeepSeek;
  // DeepSeek-V3 report, section 3.3.3: the activation's input is cached in fp8 and its output
  // recomputed.
  const double cached = deepseek ? z.in : z.e;
  out.push_back({names.module, "activation input", rows * width, cached, names.dropped_by});
  if (is_gated(m.mlp))
    out.push_back({names.module, "gate input", rows * width, cached, names.dropped_by | kPerOp});
  if (is_gated(m.mlp) && !stack.fused_activation)
    out.push_back({names.module, "activated gate", rows * width, z.e,
                   names.dropped_by | kActivation | kPerOp});
  if (!deepseek)
    out.push_back({names.module, "second map input", rows * width, z.in,
                   names.dropped_by | kActivation | kPerOp, Needed::ForBAndW});
  else
    out.push_back({names.module, "second map input", rows * width, z.in, 0, Needed::ForW});
  out.push_back({names.module, "first map gradient", rows * in, z.in, 0, Needed::ForW});
}

void dense_mlp(std::vector<SavedTensor>& out, const ModelShape& m, const Plan& p,
               const hw::Stack& stack, const Sizes& z) {
  const double t = z.rank.tokens, r = z.rank.split_tokens;
  if (!m.parallel_residual) out.push_back({"norm", "input of MLP norm", r * z.h, z.e, kPerOp});
  out.push_back({"norm", "MLP input", r * z.h, z.in, kNorm | kMlp | kPerOp, Needed::ForBAndW});
  mlp(out, m, p, stack, z, {"MLP", kMlp}, t, static_cast<double>(m.ffn) / p.tp);
  if (stack.dropout) out.push_back({"residual", "dropout mask", r * z.h, 1, kPerOp});
  if (keeps_per_op(p)) out.push_back({"MLP", "output", r * z.h, z.e});
  out.push_back({"MLP", "second map gradient", r * z.h, z.in, 0, Needed::ForW});
}

void mixture(std::vector<SavedTensor>& out, const ModelShape& m, const Plan& p,
             const hw::Stack& stack, const Sizes& z) {
  const Moe& e = *m.moe;
  const double t = z.rank.tokens, r = z.rank.split_tokens, rows = z.rank.expert_rows;
  out.push_back({"norm", "input of MLP norm", r * z.h, z.e, kPerOp});
  out.push_back(
      {"norm", "router and shared expert input", r * z.h, z.e, kNorm | kPerOp, Needed::ForBAndW});
  out.push_back({"router", "scores and probabilities", 2 * r * e.experts, 4, kMoe});
  out.push_back({"experts", "dispatched tokens", rows * z.h, z.in, kMoe, Needed::ForBAndW});
  mlp(out, m, p, stack, z, {"experts", kMoe}, rows, static_cast<double>(e.ffn) / p.etp);
  // Unless the routing weights are applied inside the activation, the weighted sum over experts
  // needs their outputs (Megatron-Core's memory-efficient permutation avoids it).
  if (!stack.fused_permute) out.push_back({"experts", "expert outputs", rows * z.h, z.e, kMoe});
  out.push_back({"experts", "second map gradient", rows * z.h, z.in, 0, Needed::ForW});
  if (e.shared_ffn > 0) {
    mlp(out, m, p, stack, z, {"shared expert", kSharedExpert | kMoe}, t,
        static_cast<double>(e.shared_ffn) / p.tp);
    if (e.shared_gate) out.push_back({"shared expert", "output", r * z.h, z.e, kSharedExpert});
    out.push_back({"shared expert", "second map gradient", r * z.h, z.in, 0, Needed::ForW});
  }
}

TensorSums sum(const std::vector<SavedTensor>& tensors, const Plan& p) {
  TensorSums s;
  const std::uint32_t dropped =
      p.recompute.mode == Recompute::Mode::Selective ? p.recompute.modules : 0;
  for (const SavedTensor& t : tensors) {
    const double bytes = t.elements * t.bytes_each;
    if (t.needed != Needed::ForW) s.all += bytes;
    if (t.needed != Needed::ForW && (t.dropped_by & dropped) == 0) s.kept += bytes;
    if (t.needed != Needed::ForB) s.for_w += bytes;
  }
  return s;
}

// Gradients alive at the widest point of a layer's backward pass: those of the activation's two
// sides, or of the scores and q, k, v; three residual-sized tensors; and the gathered input and
// output gradient of a tensor-parallel map.
double working_set(const ModelShape& m, const Plan& p, const hw::Stack& stack, int seq, bool moe,
                   const Sizes& z) {
  const double t = z.rank.tokens, r = z.rank.split_tokens;
  const double sides = is_gated(m.mlp) ? 3 : 2;
  double widest = t * sides * m.ffn / p.tp;
  if (moe) widest = z.rank.expert_rows * (sides * m.moe->ffn / p.etp + 2 * z.h);
  const double qk = m.mla ? m.mla->qk_nope + m.mla->qk_rope : m.head_dim;
  const double v = m.mla ? m.mla->v : m.head_dim;
  const auto kv_heads = static_cast<double>(m.mla ? z.rank.heads : z.rank.kv_heads);
  double attention = t * (static_cast<double>(z.rank.heads) * (qk + v) + kv_heads * (qk + v));
  if (stack.attention == hw::AttentionKernel::Unfused) attention += 2 * scores(z, p, seq);
  return z.e * (std::max(widest, attention) + 3 * r * z.h + (z.gathers ? 2 * t * z.h : 0));
}

}  // namespace

std::vector<SavedTensor> layer_tensors(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                                       int seq, bool moe) {
  check(!moe || m.moe.has_value(), "a mixture layer needs Moe");
  const Sizes z = sizes(m, p, stack, seq);
  std::vector<SavedTensor> out;
  out.reserve(32);
  attention(out, m, p, stack, seq, z);
  if (moe)
    mixture(out, m, p, stack, z);
  else
    dense_mlp(out, m, p, stack, z);
  return out;
}

std::vector<SavedTensor> head_tensors(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                                      int seq) {
  const Sizes z = sizes(m, p, stack, seq);
  const double r = z.rank.split_tokens;
  const double logits = z.rank.tokens * static_cast<double>(m.vocab) / p.tp;
  return {{"norm", "input of final norm", r * z.h, z.e},
          {"head", "head input", r * z.h, z.e, 0, Needed::ForBAndW},
          // Fused: the gradient is written over the logits; else an fp32 softmax is kept.
          {"head", "logits", logits, stack.fused_cross_entropy ? z.e : 4.},
          {"head", "logit gradient", logits, z.e, 0, Needed::ForW}};
}

std::vector<SavedTensor> embedding_tensors(const ModelShape& m, const Plan& p,
                                           const hw::Stack& stack, int seq) {
  if (!stack.dropout) return {};
  const Sizes z = sizes(m, p, stack, seq);
  return {{"embedding", "dropout mask", z.rank.split_tokens * z.h, 1}};
}

ActivationSums activation_sums(const ModelShape& m, const Plan& p, const hw::Stack& stack,
                               int seq) {
  const Sizes z = sizes(m, p, stack, seq);
  ActivationSums s;
  s.dense = sum(layer_tensors(m, p, stack, seq, false), p);
  s.dense.working = working_set(m, p, stack, seq, false, z);
  if (m.moe) {
    s.moe = sum(layer_tensors(m, p, stack, seq, true), p);
    s.moe.working = working_set(m, p, stack, seq, true, z);
  }
  const std::vector<SavedTensor> head = head_tensors(m, p, stack, seq);
  s.head = sum(head, p);
  s.embedding = sum(embedding_tensors(m, p, stack, seq), p);
  s.checkpoint = z.rank.split_tokens * z.h * z.e;
  const double logits = z.rank.tokens * static_cast<double>(m.vocab) / p.tp;
  s.loss = std::max(0., logits * (stack.logit_bytes.si - head[2].bytes_each)) +
           (z.gathers ? 2 * z.rank.tokens * z.h * z.e : 0);
  if (m.mtp_depth > 0) {
    // A layer of the last kind; before it two norms and the 2h -> h map (their inputs and the
    // map's); behind it the head again.
    s.mtp = is_moe_layer(m, m.layers - 1) ? s.moe : s.dense;
    for (double* part : {&s.mtp.all, &s.mtp.kept}) *part += 4 * s.checkpoint + s.head.all;
    s.mtp.for_w += 3 * s.checkpoint + s.head.for_w;
  }
  return s;
}

}  // namespace reckon::plan

#include "tests/real/training.h"

#include <algorithm>
#include <cmath>
#include <mutex>

#include "hw-models/catalog.h"
#include "planner/feasible.h"
#include "planner/predict.h"
#include "sim/check.h"

namespace reckon::real {

namespace {

// Puts a piece where it belongs in the whole tensor.
void place(const SavedPiece& saved, std::vector<float>& whole) {
  const Piece& p = saved.piece;
  std::int64_t size = 1;
  for (std::int64_t n : p.shape) size *= n;
  if (whole.empty()) whole.assign(static_cast<std::size_t>(size), std::nanf(""));
  for (std::int64_t k = 0; k < p.count; ++k) {
    std::int64_t rest = p.first + k, at = 0, stride = 1;
    for (std::size_t d = p.shape.size(); d-- > 0;) {
      at += (p.begin[d] + rest % p.extent[d]) * stride;
      rest /= p.extent[d];
      stride *= p.shape[d];
    }
    whole[static_cast<std::size_t>(at)] = saved.values[k];
  }
}

}  // namespace

Outcome trained(const Job& job, int steps, const Equip& equip) {
  Outcome out;
  std::mutex mutex;
  run_local(plan::world_size(job.plan), [&](Transport& transport) {
    Trainer trainer(job, transport, nullptr, equip(transport));
    std::vector<double> losses;
    for (int i = 0; i < steps; ++i) {
      const StepResult r = trainer.step();
      losses.push_back(r.loss);
      losses.push_back(r.mtp_loss);
    }
    const std::lock_guard lock(mutex);
    if (transport.rank() == 0) out.losses = losses;
    for (const SavedPiece& p : trainer.optimizer().saved()) place(p, out.tensors[p.piece.tensor]);
  });
  return out;
}

bool identical(const Outcome& a, const Outcome& b) {
  return a.losses == b.losses && a.tensors == b.tensors;
}

double difference(const Outcome& a, const Outcome& b) {
  if (a.losses.size() != b.losses.size() || a.tensors.size() != b.tensors.size()) return INFINITY;
  double worst = 0;
  for (std::size_t i = 0; i < a.losses.size(); ++i)
    worst = std::max(worst, std::abs(a.losses[i] - b.losses[i]) / std::max(1e-3, a.losses[i]));
  for (const auto& [name, values] : a.tensors) {
    if (name.find('/') != std::string::npos || name.find("attn.k.bias") != std::string::npos)
      continue;
    const auto it = b.tensors.find(name);
    if (it == b.tensors.end() || it->second.size() != values.size()) return INFINITY;
    double largest = 0, most = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      largest = std::max<double>(largest, std::abs(values[i]));
      const double d = std::abs(static_cast<double>(values[i]) - it->second[i]);
      if (!(d <= most)) most = d;  // NaN counts
    }
    if (largest > 0) worst = !(most / largest <= worst) ? most / largest : worst;
  }
  return worst;
}

plan::ModelShape tiny_deepseek() {
  plan::ModelShape m;
  m.name = "tiny-deepseek";
  m.layers = 4, m.hidden = 32, m.ffn = 64, m.heads = 4, m.kv_heads = 4, m.head_dim = 8;
  m.mla = plan::Mla{.q_lora = 16, .kv_lora = 16, .qk_nope = 8, .qk_rope = 4, .v = 8};
  m.moe = plan::Moe{.experts = 8,
                    .top_k = 2,
                    .ffn = 16,
                    .shared_ffn = 16,
                    .score = plan::RouterScore::Sigmoid,
                    .groups = 4,
                    .limited_groups = 2,
                    .layers = {false, true, true, true}};
  m.vocab = 64;
  m.mtp_depth = 1;
  return m;
}

plan::ModelShape tiny_mixture() {
  plan::ModelShape m;
  m.name = "tiny-mixture";
  m.layers = 4, m.hidden = 32, m.ffn = 64, m.heads = 4, m.kv_heads = 2, m.head_dim = 8;
  m.moe = plan::Moe{.experts = 4,
                    .top_k = 2,
                    .ffn = 16,
                    .score = plan::RouterScore::Softmax,
                    .layers = {true, true, true, true}};
  m.vocab = 64;
  m.qk_norm = true;
  return m;
}

plan::ModelShape tiny_gpt() {
  plan::ModelShape m;
  m.name = "tiny-gpt";
  m.layers = 4, m.hidden = 32, m.ffn = 64, m.heads = 4, m.kv_heads = 4, m.head_dim = 8;
  m.vocab = 64, m.max_positions = 32;
  m.tied_embeddings = true;
  m.mlp = plan::Mlp::Gelu;
  m.norm = plan::Norm::LayerNorm;
  m.positions = plan::Positions::Learned;
  m.linear_bias = true;
  return m;
}

Job tiny_job(const plan::ModelShape& model, plan::Plan plan) {
  Job job{.model = model,
          .cluster = hw::cluster("cpu-2"),
          .stack = hw::stack("reckon-cpu"),
          .plan = std::move(plan),
          .step = {.seq = 32, .global_batch = 8}};
  job.cluster.gpus = 64;
  job.recipe.lr = 5e-4;
  job.recipe.init_std = 0.1;  // so that no gradient is lost in rounding errors
  job.recipe.warmup_steps = 2;
  job.plan.precision = plan::Precision::Fp32;
  if (job.plan.layout.empty())
    job.plan.layout = plan::balanced_layout({.layers = model.layers, .mtp = model.mtp_depth},
                                            job.plan.pp * job.plan.vpp);
  const auto no = plan::why_illegal(model, job.cluster, job.stack, job.plan, job.step);
  check(!no, no ? no->why : "");
  if (const auto why = why_untrainable(job)) throw std::invalid_argument(*why);
  return job;
}

}  // namespace reckon::real

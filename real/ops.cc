#include "real/ops.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "real/rotary.h"
#include "sim/check.h"

namespace reckon::real {

const Ops::Entry Ops::kEntries[] = {
    {"attn.norm", &Ops::attn_norm, &Ops::attn_norm_backward, nullptr},
    {"attn.gather", &Ops::attn_gather, &Ops::attn_gather_backward, nullptr},
    {"attn.regather", &Ops::attn_regather, &Ops::attn_regather, nullptr},
    {"attn.qkv", &Ops::attn_qkv, &Ops::attn_qkv_backward, &Ops::attn_qkv_weights},
    {"attn.qk_norm", &Ops::attn_qk_norm, &Ops::attn_qk_norm_backward, nullptr},
    {"attn.q_down", &Ops::attn_q_down, &Ops::attn_q_down_backward, &Ops::attn_q_down_weights},
    {"attn.kv_down", &Ops::attn_kv_down, &Ops::attn_kv_down_backward, &Ops::attn_kv_down_weights},
    {"attn.q_norm", &Ops::attn_q_norm, &Ops::attn_q_norm_backward, nullptr},
    {"attn.kv_norm", &Ops::attn_kv_norm, &Ops::attn_kv_norm_backward, nullptr},
    {"attn.q_up", &Ops::attn_q_up, &Ops::attn_q_up_backward, &Ops::attn_q_up_weights},
    {"attn.kv_up", &Ops::attn_kv_up, &Ops::attn_kv_up_backward, &Ops::attn_kv_up_weights},
    {"attn.rope", &Ops::attn_rope, &Ops::attn_rope_backward, nullptr},
    {"attn.assemble", &Ops::attn_assemble, &Ops::attn_assemble_backward, nullptr},
    {"attn.context.gather", &Ops::attn_context_gather, nullptr, nullptr},
    {"attn.context.regather", nullptr, &Ops::attn_context_gather, nullptr},
    {"attn.context.reduce", nullptr, &Ops::attn_context_reduce, nullptr},
    {"attn.core", &Ops::attn_core, &Ops::attn_core_backward, nullptr},
    {"attn.out", &Ops::attn_out, &Ops::attn_out_backward, &Ops::attn_out_weights},
    {"attn.reduce", &Ops::attn_reduce, &Ops::attn_reduce_backward, nullptr},
    {"attn.residual", &Ops::attn_residual, nullptr, nullptr},
    {"mlp.norm", &Ops::mlp_norm, &Ops::mlp_norm_backward, nullptr},
    {"mlp.gather", &Ops::mlp_gather, &Ops::mlp_gather_backward, nullptr},
    {"mlp.regather", nullptr, &Ops::mlp_regather, nullptr},
    {"mlp.up", &Ops::mlp_up, &Ops::mlp_up_backward, &Ops::mlp_up_weights},
    {"mlp.activation", &Ops::mlp_activation, &Ops::mlp_activation_backward, nullptr},
    {"mlp.down", &Ops::mlp_down, &Ops::mlp_down_backward, &Ops::mlp_down_weights},
    {"mlp.reduce", &Ops::mlp_reduce, &Ops::mlp_reduce_backward, nullptr},
    {"mlp.residual", &Ops::mlp_residual, nullptr, nullptr},
    {"shared.gather", &Ops::mlp_gather, &Ops::mlp_gather_backward, nullptr},
    {"shared.regather", nullptr, &Ops::mlp_regather, nullptr},
    {"shared.up", &Ops::shared_up, &Ops::shared_up_backward, &Ops::shared_up_weights},
    {"shared.activation", &Ops::shared_activation, &Ops::shared_activation_backward, nullptr},
    {"shared.down", &Ops::shared_down, &Ops::shared_down_backward, &Ops::shared_down_weights},
    {"shared.reduce", &Ops::shared_reduce, &Ops::shared_reduce_backward, nullptr},
    {"router.gemm", &Ops::router_gemm, &Ops::router_gemm_backward, &Ops::router_gemm_weights},
    {"router", &Ops::router, &Ops::router_backward, nullptr},
    {"router.balance", &Ops::router_balance, nullptr, nullptr},
    {"permute", &Ops::permute, &Ops::permute_backward, nullptr},
    {"dispatch", &Ops::dispatch, nullptr, nullptr},
    {"dispatch.grad", nullptr, &Ops::dispatch_backward, nullptr},
    {"permute.local", &Ops::permute_local, &Ops::permute_local_backward, nullptr},
    {"experts.up", &Ops::experts_up, &Ops::experts_up_backward, &Ops::experts_up_weights},
    {"experts.activation", &Ops::experts_activation, &Ops::experts_activation_backward, nullptr},
    {"experts.down", &Ops::experts_down, &Ops::experts_down_backward, &Ops::experts_down_weights},
    {"unpermute.local", &Ops::unpermute_local, &Ops::unpermute_local_backward, nullptr},
    {"combine", &Ops::combine, nullptr, nullptr},
    {"combine.grad", nullptr, &Ops::combine_backward, nullptr},
    {"unpermute", &Ops::unpermute, &Ops::unpermute_backward, nullptr},
    {"embedding", &Ops::embedding, nullptr, &Ops::embedding_weights},
    {"embedding.positions", &Ops::embedding_positions, nullptr, nullptr},
    {"embedding.reduce", &Ops::embedding_reduce, nullptr, nullptr},
    {"embedding.gather", nullptr, nullptr, &Ops::embedding_gather},
    {"head.norm", &Ops::head_norm, &Ops::head_norm_backward, nullptr},
    {"head.gather", &Ops::head_gather, nullptr, nullptr},
    {"head", &Ops::head, &Ops::head_backward, &Ops::head_weights},
    {"head.loss", &Ops::head_loss, &Ops::head_loss_backward, nullptr},
    {"head.loss.reduce", &Ops::head_loss_reduce, nullptr, nullptr},
    {"head.reduce", nullptr, &Ops::head_reduce_backward, nullptr},
    {"mtp.norm", &Ops::mtp_norm, &Ops::mtp_norm_backward, nullptr},
    {"mtp.projection", &Ops::mtp_projection, &Ops::mtp_projection_backward,
     &Ops::mtp_projection_weights},
};

Ops::Action Ops::action(const sim::Op& op, const sim::Work& work) {
  const auto pass_of = [&]() -> std::optional<sim::Pass> {
    if (const auto* m = std::get_if<sim::MatMul>(&work)) return m->pass;
    if (const auto* g = std::get_if<sim::GroupedMatMul>(&work)) return g->pass;
    return std::nullopt;
  };
  for (const Entry& e : kEntries) {
    if (std::strcmp(e.label, op.label) != 0) continue;
    Action a = nullptr;
    if (const auto pass = pass_of())
      a = *pass == sim::Pass::Forward     ? e.forward
          : *pass == sim::Pass::InputGrad ? e.backward
                                          : e.weights;
    else
      a = op.phase == sim::Phase::F || op.recompute ? e.forward
          : op.phase == sim::Phase::W               ? e.weights
                                                    : e.backward;
    // A second gather inside a recomputed stretch fetches what the first one does.
    if (a == nullptr && op.recompute) a = e.backward;
    if (a != nullptr) return a;
  }
  throw std::invalid_argument(std::string("the trainer has no op ") + op.label);
}

Ops::Ops(const Setting& setting, Weights& weights, Groups& groups, Meter& meter, Device& device)
    : setting_(setting), weights_(weights), groups_(groups), meter_(meter), device_(device) {
  const plan::ModelShape& m = setting.model;
  const plan::Plan& p = setting.plan;
  batch_ = p.micro_batch;
  seq_local_ = setting.seq / p.cp;
  t_ = batch_ * seq_local_;
  s_ = t_ / p.tp;
  h_ = m.hidden;
  heads_ = m.heads / p.tp;
  kv_heads_ = m.mla ? heads_ : m.kv_heads / p.tp;
  qk_dim_ = m.mla ? m.mla->qk_nope + m.mla->qk_rope : m.head_dim;
  v_dim_ = m.mla ? m.mla->v : m.head_dim;
  bf16_ = p.precision != plan::Precision::Fp32;
  element_ = bf16_ ? device.narrow() : Element::Fp32;
  if (m.positions == plan::Positions::Rope)
    rope_ = device.rope_table(
        cpu::rope_table(rope_settings(m), setting.seq, m.mla ? m.mla->qk_rope : m.head_dim));
  std::vector<std::int32_t> positions, token_positions;
  // One slice from each end of the sequence, so that causal work is equal.
  const int half = static_cast<int>(seq_local_) / 2;
  for (std::int64_t i = 0; i < seq_local_; ++i) {
    if (p.cp == 1)
      positions.push_back(static_cast<std::int32_t>(i));
    else if (i < half)
      positions.push_back(static_cast<std::int32_t>(setting.place.cp * half + i));
    else
      positions.push_back(
          static_cast<std::int32_t>((2 * p.cp - 1 - setting.place.cp) * half + (i - half)));
  }
  for (std::int64_t b = 0; b < batch_; ++b)
    token_positions.insert(token_positions.end(), positions.begin(), positions.end());
  positions_ = {device, std::move(positions)};
  token_positions_ = {device, std::move(token_positions)};
  losses_ = {device, std::vector<double>(3, 0.0)};
}

void Ops::clear_losses() {
  losses_.write(device_, {0.0, 0.0, 0.0});
}

Ops::Losses Ops::losses() {
  const std::vector<double> sums = losses_.read(device_);
  return {.next = sums[0], .mtp = sums[1]};
}

LayerState& Ops::at(const Call& c) const {
  return c.pass.parts[static_cast<std::size_t>(c.op.part)];
}

const LayerRefs& Ops::refs(const Call& c) const {
  return c.chunk.parts[static_cast<std::size_t>(c.op.part)];
}

HeadState& Ops::head_at(const Call& c) const {
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  return c.pass.heads[static_cast<std::size_t>(module)];
}

bool Ops::is_moe(const Call& c) const {
  return static_cast<bool>(refs(c).router.w);
}

cpu::Numbers Ops::numbers(const Call& c) const {
  const auto dtype = [&] {
    if (const auto* m = std::get_if<sim::MatMul>(&c.work)) return m->dtype;
    if (const auto* g = std::get_if<sim::GroupedMatMul>(&c.work)) return g->dtype;
    return sim::DType::Fp32;
  }();
  if (dtype == sim::DType::Fp8Block) return cpu::Numbers::Fp8Block;
  return bf16_ ? cpu::Numbers::Bf16 : cpu::Numbers::Fp32;
}

Tensor Ops::copied(const Call& c, const Tensor& t) const {
  Tensor copy = made(c, t.count(), t.element());
  c.q.copy(c.q(t), c.q(copy), t.count());
  return copy;
}

void Ops::settle(const Call& c, Tensor& t) const {
  if (bf16_) c.q.round_bf16(c.q(t), t.count());
}

Tensor Ops::product(const Call& c, const Tensor& x, Ref w, std::int64_t m, std::int64_t n,
                    std::int64_t k) {
  Tensor y = make(c, m * n);
  c.q.linear_forward({m, n, k, numbers(c)}, c.q(x), w.w, c.q(y));
  settle(c, y);
  return y;
}

void Ops::product_grad(const Call& c, const Tensor& dy, Ref w, std::int64_t m, std::int64_t n,
                       std::int64_t k, Tensor& dx) {
  const bool add = static_cast<bool>(dx);
  if (!add) dx = make(c, m * k);
  c.q.linear_input_grad({m, n, k, numbers(c)}, c.q(dy), w.w, c.q(dx), add);
  settle(c, dx);
}

void Ops::weight_grad(const Call& c, const Tensor& dy, const Tensor& x, Ref w, std::int64_t m,
                      std::int64_t n, std::int64_t k) {
  c.q.linear_weight_grad({m, n, k, numbers(c)}, c.q(dy), c.q(x), w.g);
}

void Ops::norm(const Call& c, const Tensor& x, Ref w, Ref bias, std::int64_t rows,
               std::int64_t width, Tensor& y, Tensor& stat) {
  const bool layer = setting_.model.norm == plan::Norm::LayerNorm;
  y = make(c, rows * width);
  stat = make_floats(c, rows * (layer ? 2 : 1));
  c.q.norm_forward({rows, width, static_cast<float>(setting_.model.norm_eps), layer}, c.q(x), w.w,
                   bias.w, c.q(y), floats(c.q(stat)));
  settle(c, y);
}

Tensor Ops::norm_grad(const Call& c, const Tensor& dy, const Tensor& x, Ref w, Ref bias,
                      const Tensor& stat, std::int64_t rows, std::int64_t width, Tensor skip) {
  const bool layer = setting_.model.norm == plan::Norm::LayerNorm;
  const bool add = static_cast<bool>(skip);
  Tensor dx = add ? std::move(skip) : make(c, rows * width);
  c.q.norm_backward({rows, width, static_cast<float>(setting_.model.norm_eps), layer}, c.q(dy),
                    c.q(x), w.w, floats(c.q(stat)),
                    {.x = c.q(dx), .w = w.g, .b = bias.g, .accumulate_x = add});
  settle(c, dx);
  return dx;
}

Tensor Ops::gathered(const Call& c, TensorGroup& group, const Tensor& part, std::int64_t n) const {
  Tensor whole = made(c, n * group.size(), part.element());
  group.all_gather(c.q, c.q(part), c.q(whole), static_cast<std::size_t>(n));
  return whole;
}

Tensor Ops::scattered(const Call& c, TensorGroup& group, const Tensor& whole,
                      std::int64_t n) const {
  Tensor part = made(c, n, whole.element());
  group.reduce_scatter(c.q, c.q(whole), c.q(part), static_cast<std::size_t>(n));
  settle(c, part);
  return part;
}

bool Ops::drops(std::uint32_t module) const {
  const plan::Recompute& r = setting_.plan.recompute;
  return r.mode == plan::Recompute::Mode::Selective && (r.modules & module) != 0;
}

bool Ops::unread(const Call& c) const {
  return c.op.recompute && setting_.plan.recompute.mode == plan::Recompute::Mode::Selective;
}

bool Ops::serves_weights(const Call& c) const {
  return c.op.recompute && drops(plan::kMlaUp);
}

void Ops::after_forward(Pass& pass, const plan::ChunkLayout& layout, int part) {
  if (part < 0) return;
  LayerState& s = pass.parts[static_cast<std::size_t>(part)];
  const plan::Plan& p = setting_.plan;
  const bool full = p.recompute.mode == plan::Recompute::Mode::Full && part < layout.layers &&
                    (p.recompute.full_layers == 0 || part < p.recompute.full_layers);
  if (full) {
    LayerState kept;
    kept.x = std::move(s.x);
    kept.out = std::move(s.out);
    // Experts are chosen again from the same scores: the balance sums are the same.
    s = std::move(kept);
    return;
  }
  if (drops(plan::kNorm)) s.n1 = s.n1_stat = s.n2 = s.n2_stat = Tensor();
  if (drops(plan::kMlaUp)) s.q_lat = s.kv_lat = s.q = s.k = s.v = Tensor();
  if (drops(plan::kActivation)) s.act = s.e_act = s.s_act = Tensor();
  if (drops(plan::kMlp)) s.up = s.act = Tensor();
  if (drops(plan::kMoe))
    s.sent = s.sent_weight = s.arrived = s.arrived_weight = s.rows = s.row_weight = s.e_up =
        s.e_act = s.s_up = s.s_act = s.copy_of = s.expert_counts = s.expert_offsets = s.by_expert =
            s.by_member = Tensor();
  if (drops(plan::kCoreAttention)) s.lse = Tensor();
}

}  // namespace reckon::real

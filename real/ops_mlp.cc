// The dense MLP, shared experts, the router, and routed experts with their exchanges. Shapes as in
// pass.h. Copies of tokens are sorted by expert at the sender; the routing weight of a copy travels
// with it and is applied behind the activation, so that results need not be kept for the backward
// pass.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "real/ops.h"

namespace reckon::real {

namespace {

cpu::Activation activation_of(plan::Mlp mlp) {
  switch (mlp) {
    case plan::Mlp::Gelu: return cpu::Activation::Gelu;
    case plan::Mlp::SquaredRelu: return cpu::Activation::SquaredRelu;
    case plan::Mlp::SwiGlu: return cpu::Activation::SwiGlu;
    case plan::Mlp::GeGlu: return cpu::Activation::GeGlu;
  }
  return cpu::Activation::SwiGlu;
}

std::int64_t gates(const plan::ModelShape& m) {
  return plan::is_gated(m.mlp) ? 2 : 1;
}

}  // namespace

void Ops::mlp_norm(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  norm(s.x_mid, w.mlp_norm, w.mlp_norm_bias, s_, h_, s.n2, s.n2_stat);
}

void Ops::mlp_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  // The weight gradient of the dense or shared down map reads d_out, or else its gathered copy.
  const bool reads =
      is_moe(c) ? w.shared_down.g != nullptr && !has_tp() : !has_tp() || w.down_bias.g != nullptr;
  Tensor skip = reads && !s.mlp_weights ? s.d_out.copy(meter_) : std::move(s.d_out);
  s.d_mid =
      norm_grad(s.d_n2, s.x_mid, w.mlp_norm, w.mlp_norm_bias, s.n2_stat, s_, h_, std::move(skip));
  s.d_n2 = s.x_mid = s.n2_stat = Tensor();
}

void Ops::mlp_gather(const Call& c) {
  LayerState& s = at(c);
  s.n2_all = gathered(*groups_.tp, s.n2, s_ * h_);
}

void Ops::mlp_gather_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_out_all = gathered(*groups_.tp, s.d_out, s_ * h_);
}

void Ops::mlp_regather(const Call& c) {
  mlp_gather(c);
  if (!is_moe(c)) at(c).n2 = Tensor();  // the router still reads it
}

// ---- dense

void Ops::mlp_up(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.ffn / setting_.plan.tp;
  s.up = product(c, has_tp() ? s.n2_all : s.n2, refs(c).up, t_, n, h_);
  if (refs(c).up_bias.w != nullptr) cpu::add_bias(s.up.floats(), refs(c).up_bias.w, t_, n);
  s.n2_all = Tensor();
}

void Ops::mlp_up_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.ffn / setting_.plan.tp;
  product_grad(c, s.d_up, refs(c).up, t_, n, h_, s.d_n2);
}

void Ops::mlp_up_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.ffn / setting_.plan.tp;
  weight_grad(c, s.d_up, has_tp() ? s.n2_all : s.n2, refs(c).up, t_, n, h_);
  if (refs(c).up_bias.g != nullptr) cpu::bias_grad(s.d_up.floats(), refs(c).up_bias.g, t_, n);
  s.d_up = s.n2 = s.n2_all = Tensor();
}

void Ops::mlp_activation(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.ffn / setting_.plan.tp;
  s.act = make(t_ * width);
  cpu::activation_forward(activation_of(setting_.model.mlp), s.up.floats(), s.act.floats(), t_,
                          width);
  settle(s.act);
}

void Ops::mlp_activation_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.ffn / setting_.plan.tp;
  const bool again = !s.act;  // recomputed with the gradient
  if (again) s.act = make(t_ * width);
  s.d_up = make(s.up.count());
  cpu::activation_backward(activation_of(setting_.model.mlp), s.up.floats(), s.d_act.floats(),
                           s.d_up.floats(), again ? s.act.floats() : nullptr, t_, width);
  settle(s.d_up);
  if (again) settle(s.act);
  s.d_act = s.up = Tensor();
}

void Ops::mlp_down(const Call& c) {
  LayerState& s = at(c);
  s.mlp_out = product(c, s.act, refs(c).down, t_, h_, setting_.model.ffn / setting_.plan.tp);
}

void Ops::mlp_down_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_act = Tensor();
  product_grad(c, has_tp() ? s.d_out_all : s.d_out, refs(c).down, t_, h_,
               setting_.model.ffn / setting_.plan.tp, s.d_act);
}

void Ops::mlp_down_weights(const Call& c) {
  LayerState& s = at(c);
  weight_grad(c, has_tp() ? s.d_out_all : s.d_out, s.act, refs(c).down, t_, h_,
              setting_.model.ffn / setting_.plan.tp);
  if (refs(c).down_bias.g != nullptr) cpu::bias_grad(s.d_out.floats(), refs(c).down_bias.g, s_, h_);
  s.act = Tensor();
  down_weights_done(s);
}

// The input gradients of this layer still need d_out where they come later.
void Ops::down_weights_done(LayerState& s) {
  s.mlp_weights = true;
  s.d_out_all = Tensor();
  if (!s.x_mid) s.d_out = Tensor();
}

void Ops::mlp_reduce(const Call& c) {
  LayerState& s = at(c);
  s.mlp_out = scattered(*groups_.tp, s.mlp_out, s_ * h_);
}

void Ops::mlp_reduce_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_n2 = scattered(*groups_.tp, s.d_n2, s_ * h_);
}

void Ops::mlp_residual(const Call& c) {
  LayerState& s = at(c);
  s.out = std::move(is_moe(c) ? s.moe_out : s.mlp_out);
  float* out = s.out.floats();
  cpu::add_to(out, s.x_mid.floats(), s_ * h_);
  if (s.s_out) cpu::add_to(out, s.s_out.floats(), s_ * h_);
  if (refs(c).down_bias.w != nullptr) cpu::add_bias(out, refs(c).down_bias.w, s_, h_);
  settle(s.out);
  s.s_out = Tensor();
  if (c.op.recompute) s.out = Tensor();  // the next layer has had it
}

// ---- shared experts

void Ops::shared_up(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->shared_ffn / setting_.plan.tp;
  s.s_up = product(c, has_tp() ? s.n2_all : s.n2, refs(c).shared_up, t_, n, h_);
  s.n2_all = Tensor();
}

void Ops::shared_up_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->shared_ffn / setting_.plan.tp;
  product_grad(c, s.d_s_up, refs(c).shared_up, t_, n, h_, s.d_n2);
}

void Ops::shared_up_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->shared_ffn / setting_.plan.tp;
  weight_grad(c, s.d_s_up, has_tp() ? s.n2_all : s.n2, refs(c).shared_up, t_, n, h_);
  s.d_s_up = s.n2_all = Tensor();
  if (!s.x_mid) s.n2 = Tensor();  // the router is through with it
}

void Ops::shared_activation(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->shared_ffn / setting_.plan.tp;
  s.s_act = make(t_ * width);
  cpu::activation_forward(activation_of(setting_.model.mlp), s.s_up.floats(), s.s_act.floats(), t_,
                          width);
  settle(s.s_act);
}

void Ops::shared_activation_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->shared_ffn / setting_.plan.tp;
  const bool again = !s.s_act;
  if (again) s.s_act = make(t_ * width);
  s.d_s_up = make(s.s_up.count());
  cpu::activation_backward(activation_of(setting_.model.mlp), s.s_up.floats(), s.d_s_act.floats(),
                           s.d_s_up.floats(), again ? s.s_act.floats() : nullptr, t_, width);
  settle(s.d_s_up);
  if (again) settle(s.s_act);
  s.d_s_act = s.s_up = Tensor();
}

void Ops::shared_down(const Call& c) {
  LayerState& s = at(c);
  s.s_out = product(c, s.s_act, refs(c).shared_down, t_, h_,
                    setting_.model.moe->shared_ffn / setting_.plan.tp);
  if (!has_tp() && unread(c)) s.s_out = Tensor();
}

void Ops::shared_down_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_s_act = Tensor();
  product_grad(c, has_tp() ? s.d_out_all : s.d_out, refs(c).shared_down, t_, h_,
               setting_.model.moe->shared_ffn / setting_.plan.tp, s.d_s_act);
}

void Ops::shared_down_weights(const Call& c) {
  LayerState& s = at(c);
  weight_grad(c, has_tp() ? s.d_out_all : s.d_out, s.s_act, refs(c).shared_down, t_, h_,
              setting_.model.moe->shared_ffn / setting_.plan.tp);
  s.s_act = Tensor();
  down_weights_done(s);
}

void Ops::shared_reduce(const Call& c) {
  LayerState& s = at(c);
  s.s_out = scattered(*groups_.tp, s.s_out, s_ * h_);
  if (unread(c)) s.s_out = Tensor();
}

void Ops::shared_reduce_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_n2 = scattered(*groups_.tp, s.d_n2, s_ * h_);
}

// ---- router

namespace {

cpu::RouterShape router_shape(const plan::Moe& m, std::int64_t tokens) {
  return {.tokens = tokens,
          .experts = m.experts,
          .top_k = m.top_k,
          .groups = m.groups,
          .limited_groups = m.limited_groups,
          .sigmoid = m.score == plan::RouterScore::Sigmoid,
          .normalise = m.normalised_weights,
          .scale = static_cast<float>(m.route_scale)};
}

}  // namespace

void Ops::router_gemm(const Call& c) {
  LayerState& s = at(c);
  s.logits = make(s_ * setting_.model.moe->experts);
  cpu::linear_forward({s_, setting_.model.moe->experts, h_}, s.n2.floats(), refs(c).router.w,
                      s.logits.floats());  // scores stay in fp32
}

void Ops::router(const Call& c) {
  LayerState& s = at(c);
  const plan::Moe& moe = *setting_.model.moe;
  const std::int64_t experts = moe.experts;
  s.scores = make(s_ * experts);
  s.chosen = make(s_ * moe.top_k);
  s.weight = make(s_ * moe.top_k);
  cpu::router_forward(router_shape(moe, s_), s.logits.floats(), refs(c).router_bias,
                      s.scores.floats(), s.chosen.ints(), s.weight.floats());
  s.logits = Tensor();
  const std::int32_t* chosen = s.chosen.ints();
  if (!c.op.recompute)
    for (std::int64_t i = 0; i < s_ * moe.top_k; ++i) refs(c).load[chosen[i]] += 1;
  // Per sequence: how many copies each expert got, and the sum of its normalised scores.
  s.balance = Tensor::zeros(meter_, 2 * batch_ * experts);
  for (std::int64_t i = 0; i < s_; ++i) {
    const std::int64_t sequence = (setting_.place.tp * s_ + i) / seq_local_;
    float* counts = s.balance.floats() + 2 * sequence * experts;
    float* sums = counts + experts;
    const float* score = s.scores.floats() + i * experts;
    float total = 0;
    for (std::int64_t e = 0; e < experts; ++e) total += score[e];
    for (std::int64_t e = 0; e < experts; ++e) sums[e] += score[e] / total;
    for (int j = 0; j < moe.top_k; ++j) counts[chosen[i * moe.top_k + j]] += 1;
  }
}

void Ops::router_balance(const Call& c) {
  LayerState& s = at(c);
  groups_.tp_cp->all_reduce(s.balance.floats(), static_cast<std::size_t>(s.balance.count()));
}

// The balance loss of a sequence of n tokens (V3 report, eq. 17-20):
//   alpha sum_e f_e P_e,  f_e = E / (k n) copies_e,  P_e = 1/n sum_t p_te
// counted once per sequence of the step, so d/dp_te = alpha f_e / (n sequences).
void Ops::router_backward(const Call& c) {
  LayerState& s = at(c);
  const plan::Moe& moe = *setting_.model.moe;
  const std::int64_t experts = moe.experts, k = moe.top_k;
  Tensor d_weight = make(s_ * k), d_p;
  for (std::int64_t i = 0; i < s_ * k; ++i)
    d_weight.floats()[i] = s.d_back_weight.floats()[s.copy_of.ints()[i]];
  if (setting_.recipe.balance_loss > 0) {
    d_p = make(s_ * experts);
    const double n = setting_.seq;
    const double factor =
        setting_.recipe.balance_loss * static_cast<double>(experts) /
        (static_cast<double>(k) * n * n * static_cast<double>(setting_.global_sequences));
    for (std::int64_t i = 0; i < s_; ++i) {
      const std::int64_t sequence = (setting_.place.tp * s_ + i) / seq_local_;
      const float* counts = s.balance.floats() + 2 * sequence * experts;
      for (std::int64_t e = 0; e < experts; ++e)
        d_p.floats()[i * experts + e] = static_cast<float>(factor * counts[e]);
    }
  }
  s.logits = make(s_ * experts);  // their gradient
  cpu::router_backward(router_shape(moe, s_), s.scores.floats(), s.chosen.ints(), s.weight.floats(),
                       d_weight.floats(), d_p ? d_p.floats() : nullptr, s.logits.floats());
  s.d_back_weight = s.copy_of = s.scores = s.chosen = s.weight = s.balance = Tensor();
}

void Ops::router_gemm_backward(const Call& c) {
  LayerState& s = at(c);
  cpu::linear_input_grad({s_, setting_.model.moe->experts, h_}, s.logits.floats(), refs(c).router.w,
                         s.d_n2.floats(), true);
  settle(s.d_n2);
}

void Ops::router_gemm_weights(const Call& c) {
  LayerState& s = at(c);
  cpu::linear_weight_grad({s_, setting_.model.moe->experts, h_}, s.logits.floats(), s.n2.floats(),
                          refs(c).router.g);
  s.logits = Tensor();
  if (s.mlp_weights || has_tp() || refs(c).shared_up.g == nullptr) s.n2 = Tensor();
}

// ---- copies of tokens, sorted by expert

void Ops::permute(const Call& c) {
  LayerState& s = at(c);
  const plan::Moe& moe = *setting_.model.moe;
  const std::int64_t k = moe.top_k, copies = s_ * k;
  std::vector<std::int32_t> next(static_cast<std::size_t>(moe.experts) + 1, 0);
  for (std::int64_t i = 0; i < copies; ++i)
    ++next[static_cast<std::size_t>(s.chosen.ints()[i]) + 1];
  std::partial_sum(next.begin(), next.end(), next.begin());
  const auto per_member = static_cast<std::size_t>(local_experts());
  s.send_counts.clear();
  for (std::size_t member = 0; member < static_cast<std::size_t>(groups_.ep->size()); ++member)
    s.send_counts.push_back(
        static_cast<std::size_t>(next[(member + 1) * per_member] - next[member * per_member]));
  // How many copies of each expert this rank sends, until the exchange says what it receives.
  s.received_per.clear();
  for (std::size_t e = 0; e + 1 < next.size(); ++e) s.received_per.push_back(next[e + 1] - next[e]);

  s.token_of = make(copies);
  s.copy_of = make(copies);
  s.sent_weight = make(copies);
  for (std::int64_t i = 0; i < copies; ++i) {
    const std::int32_t to = next[static_cast<std::size_t>(s.chosen.ints()[i])]++;
    s.token_of.ints()[to] = static_cast<std::int32_t>(i / k);
    s.copy_of.ints()[i] = to;
    s.sent_weight.floats()[to] = s.weight.floats()[i];
  }
  s.sent = make(copies * h_);
  cpu::gather_rows(s.n2.floats(), s.token_of.ints(), copies, h_, s.sent.floats());
  s.receive_counts = s.send_counts;
  if (unread(c)) s.token_of = Tensor();
}

void Ops::permute_backward(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1)
    s.d_back = std::move(local_experts() == 1 ? s.d_in_rows : s.d_left),
    s.d_back_weight = std::move(local_experts() == 1 ? s.d_row_weight : s.d_left_weight);
  const bool add = static_cast<bool>(s.d_n2);  // the shared experts' part
  if (!add) s.d_n2 = make(s_ * h_);
  cpu::combine_rows(s.d_back.floats(), s.copy_of.ints(), nullptr, s_, setting_.model.moe->top_k, h_,
                    s.d_n2.floats(), add);
  settle(s.d_n2);
  s.d_back = Tensor();
}

Tensor Ops::exchanged(const Tensor& in, const std::vector<std::size_t>& send,
                      const std::vector<std::size_t>& receive, std::int64_t width) {
  const auto scaled = [width](std::vector<std::size_t> counts) {
    for (std::size_t& n : counts) n *= static_cast<std::size_t>(width);
    return counts;
  };
  const std::vector<std::size_t> incoming = scaled(receive);
  Tensor out = make(
      static_cast<std::int64_t>(std::accumulate(incoming.begin(), incoming.end(), std::size_t{0})));
  groups_.ep->all_to_all(in.floats(), scaled(send), out.floats(), incoming);
  return out;
}

void Ops::dispatch(const Call& c) {
  LayerState& s = at(c);
  const auto per_member = static_cast<std::size_t>(local_experts());
  std::vector<std::int32_t> received;
  groups_.ep->all_to_all_counts(s.received_per, per_member, received);
  s.received_per = std::move(received);
  s.receive_counts.clear();
  for (std::size_t i = 0; i < s.received_per.size(); i += per_member)
    s.receive_counts.push_back(static_cast<std::size_t>(
        std::accumulate(s.received_per.begin() + static_cast<std::ptrdiff_t>(i),
                        s.received_per.begin() + static_cast<std::ptrdiff_t>(i + per_member), 0)));
  s.arrived = exchanged(s.sent, s.send_counts, s.receive_counts, h_);
  s.arrived_weight = exchanged(s.sent_weight, s.send_counts, s.receive_counts, 1);
  s.sent = s.sent_weight = Tensor();
}

void Ops::dispatch_backward(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1)
    s.d_left = std::move(s.d_in_rows), s.d_left_weight = std::move(s.d_row_weight);
  s.d_back = exchanged(s.d_left, s.receive_counts, s.send_counts, h_);
  s.d_back_weight = exchanged(s.d_left_weight, s.receive_counts, s.send_counts, 1);
  s.d_left = s.d_left_weight = Tensor();
}

void Ops::combine(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1) s.left = std::move(s.e_out);
  s.returned = exchanged(s.left, s.receive_counts, s.send_counts, h_);
  s.left = Tensor();
  if (unread(c)) s.returned = Tensor();
}

void Ops::combine_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_arrived = exchanged(s.d_sent, s.send_counts, s.receive_counts, h_);
  s.d_sent = Tensor();
}

void Ops::unpermute(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1)
    s.returned = local_experts() == 1 ? std::move(s.e_out) : std::move(s.left);
  s.moe_out = make(s_ * h_);
  cpu::combine_rows(s.returned.floats(), s.copy_of.ints(), nullptr, s_, setting_.model.moe->top_k,
                    h_, s.moe_out.floats(), false);
  s.returned = Tensor();
}

void Ops::unpermute_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t copies = s.token_of.count();
  s.d_sent = make(copies * h_);
  cpu::gather_rows(s.d_out.floats(), s.token_of.ints(), copies, h_, s.d_sent.floats());
  s.token_of = Tensor();
}

Tensor Ops::regrouped(const LayerState& s, const Tensor& in, std::int64_t width, bool to_experts) {
  const auto experts = static_cast<std::size_t>(local_experts());
  const std::size_t members = s.received_per.size() / experts;
  Tensor out = make(in.count());
  // Where each (member, expert) run starts, in order of members.
  std::vector<std::int64_t> start(s.received_per.size() + 1, 0);
  for (std::size_t i = 0; i < s.received_per.size(); ++i)
    start[i + 1] = start[i] + s.received_per[i];
  std::int64_t row = 0;  // in order of experts
  for (std::size_t e = 0; e < experts; ++e)
    for (std::size_t member = 0; member < members; ++member) {
      const std::size_t run = member * experts + e;
      const std::int64_t by_member = start[run] * width, by_expert = row * width;
      std::memcpy(out.floats() + (to_experts ? by_expert : by_member),
                  in.floats() + (to_experts ? by_member : by_expert),
                  static_cast<std::size_t>(s.received_per[run] * width) * sizeof(float));
      row += s.received_per[run];
    }
  return out;
}

void Ops::permute_local(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1)
    s.arrived = std::move(s.sent), s.arrived_weight = std::move(s.sent_weight);
  s.rows = regrouped(s, s.arrived, h_, true);
  s.row_weight = regrouped(s, s.arrived_weight, 1, true);
  s.arrived = s.arrived_weight = Tensor();
}

void Ops::permute_local_backward(const Call& c) {
  LayerState& s = at(c);
  if (groups_.ep->size() == 1) s.d_arrived = std::move(s.d_sent);
  s.d_rows = regrouped(s, s.d_arrived, h_, true);
  s.d_arrived = Tensor();
}

void Ops::unpermute_local(const Call& c) {
  LayerState& s = at(c);
  s.left = regrouped(s, s.e_out, h_, false);
  s.e_out = Tensor();
  if (groups_.ep->size() == 1 && unread(c)) s.left = Tensor();
}

void Ops::unpermute_local_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_left = regrouped(s, s.d_in_rows, h_, false);
  s.d_left_weight = regrouped(s, s.d_row_weight, 1, false);
  s.d_in_rows = s.d_row_weight = Tensor();
}

// ---- experts

std::int64_t Ops::local_experts() const {
  return setting_.model.moe->experts / setting_.plan.ep;
}

// Rows of each local expert.
const std::vector<std::int32_t>& Ops::expert_rows(const LayerState& s,
                                                  std::vector<std::int32_t>& out) const {
  const auto experts = static_cast<std::size_t>(local_experts());
  out.assign(experts, 0);
  for (std::size_t i = 0; i < s.received_per.size(); ++i) out[i % experts] += s.received_per[i];
  return out;
}

namespace {

// One product per expert. `each(expert's rows, first row, expert)`.
template <class Each>
void for_experts(const std::vector<std::int32_t>& rows, Each each) {
  std::int64_t first = 0;
  for (std::size_t e = 0; e < rows.size(); ++e) {
    if (rows[e] > 0) each(std::int64_t{rows[e]}, first, static_cast<std::int64_t>(e));
    first += rows[e];
  }
}

}  // namespace

void Ops::experts_up(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1) {
    const bool alone = groups_.ep->size() == 1;
    s.rows = std::move(alone ? s.sent : s.arrived);
    s.row_weight = std::move(alone ? s.sent_weight : s.arrived_weight);
  }
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->ffn;
  s.e_up = make(s.rows.count() / h_ * n);
  std::vector<std::int32_t> rows;
  for_experts(expert_rows(s, rows), [&](std::int64_t m, std::int64_t first, std::int64_t e) {
    cpu::linear_forward({m, n, h_, numbers(c)}, s.rows.floats() + first * h_,
                        refs(c).experts_up.w + e * n * h_, s.e_up.floats() + first * n);
  });
  settle(s.e_up);
}

void Ops::experts_up_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->ffn;
  s.d_in_rows = make(s.d_e_up.count() / n * h_);
  std::vector<std::int32_t> rows;
  for_experts(expert_rows(s, rows), [&](std::int64_t m, std::int64_t first, std::int64_t e) {
    cpu::linear_input_grad({m, n, h_, numbers(c)}, s.d_e_up.floats() + first * n,
                           refs(c).experts_up.w + e * n * h_, s.d_in_rows.floats() + first * h_);
  });
  settle(s.d_in_rows);
}

void Ops::experts_up_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t n = gates(setting_.model) * setting_.model.moe->ffn;
  std::vector<std::int32_t> rows;
  for_experts(expert_rows(s, rows), [&](std::int64_t m, std::int64_t first, std::int64_t e) {
    cpu::linear_weight_grad({m, n, h_, numbers(c)}, s.d_e_up.floats() + first * n,
                            s.rows.floats() + first * h_, refs(c).experts_up.g + e * n * h_);
  });
  s.d_e_up = s.rows = Tensor();
}

namespace {

void scale_rows(float* x, const float* weight, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t i = 0; i < width; ++i) x[r * width + i] *= weight[r];
}

}  // namespace

void Ops::experts_activation(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn, rows = s.row_weight.count();
  s.e_act = make(rows * width);
  cpu::activation_forward(activation_of(setting_.model.mlp), s.e_up.floats(), s.e_act.floats(),
                          rows, width);
  scale_rows(s.e_act.floats(), s.row_weight.floats(), rows, width);
  settle(s.e_act);
}

// y = weight act(x): d weight = dot(dy, act(x)), d x = act'(x) weight dy.
void Ops::experts_activation_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn, rows = s.row_weight.count();
  const cpu::Activation kind = activation_of(setting_.model.mlp);
  Tensor act = make(rows * width);
  cpu::activation_forward(kind, s.e_up.floats(), act.floats(), rows, width);
  s.d_row_weight = make(rows);
  for (std::int64_t r = 0; r < rows; ++r) {
    double sum = 0;
    const float *dy = s.d_e_act.floats() + r * width, *y = act.floats() + r * width;
    for (std::int64_t i = 0; i < width; ++i) sum += static_cast<double>(dy[i]) * y[i];
    s.d_row_weight.floats()[r] = static_cast<float>(sum);
  }
  if (s.e_act) {
    act = Tensor();
  } else {  // dropped: made again for the weight gradient
    s.e_act = std::move(act);
    scale_rows(s.e_act.floats(), s.row_weight.floats(), rows, width);
    settle(s.e_act);
  }
  scale_rows(s.d_e_act.floats(), s.row_weight.floats(), rows, width);
  s.d_e_up = make(s.e_up.count());
  cpu::activation_backward(kind, s.e_up.floats(), s.d_e_act.floats(), s.d_e_up.floats(), nullptr,
                           rows, width);
  settle(s.d_e_up);
  s.d_e_act = s.e_up = s.row_weight = Tensor();
}

void Ops::experts_down(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn;
  s.e_out = make(s.row_weight.count() * h_);
  std::vector<std::int32_t> rows;
  for_experts(expert_rows(s, rows), [&](std::int64_t m, std::int64_t first, std::int64_t e) {
    cpu::linear_forward({m, h_, width, numbers(c)}, s.e_act.floats() + first * width,
                        refs(c).experts_down.w + e * h_ * width, s.e_out.floats() + first * h_);
  });
  settle(s.e_out);
  if (local_experts() == 1 && groups_.ep->size() == 1 && unread(c)) s.e_out = Tensor();
}

void Ops::experts_down_backward(const Call& c) {
  LayerState& s = at(c);
  if (local_experts() == 1) s.d_rows = std::move(groups_.ep->size() == 1 ? s.d_sent : s.d_arrived);
  const std::int64_t width = setting_.model.moe->ffn;
  s.d_e_act = make(s.row_weight.count() * width);
  std::vector<std::int32_t> rows;
  for_experts(expert_rows(s, rows), [&](std::int64_t m, std::int64_t first, std::int64_t e) {
    cpu::linear_input_grad({m, h_, width, numbers(c)}, s.d_rows.floats() + first * h_,
                           refs(c).experts_down.w + e * h_ * width,
                           s.d_e_act.floats() + first * width);
  });
  settle(s.d_e_act);
}

void Ops::experts_down_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->ffn;
  std::vector<std::int32_t> rows;
  for_experts(expert_rows(s, rows), [&](std::int64_t m, std::int64_t first, std::int64_t e) {
    cpu::linear_weight_grad({m, h_, width, numbers(c)}, s.d_rows.floats() + first * h_,
                            s.e_act.floats() + first * width,
                            refs(c).experts_down.g + e * h_ * width);
  });
  s.d_rows = s.e_act = Tensor();
}

}  // namespace reckon::real

// The dense MLP and the shared experts; routed ones are in ops_experts.cc. Shapes as in pass.h.
#include "real/mlp_kind.h"
#include "real/ops.h"

namespace reckon::real {

void Ops::mlp_norm(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  norm(c, s.x_mid, w.mlp_norm, w.mlp_norm_bias, s_, h_, s.n2, s.n2_stat);
}

void Ops::mlp_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  // The weight gradient of the dense or shared down map reads d_out, or else its gathered copy.
  const bool reads = is_moe(c) ? w.shared_down.g && !has_tp() : !has_tp() || w.down_bias.g;
  Tensor skip = reads && !s.mlp_weights ? copied(c, s.d_out) : std::move(s.d_out);
  s.d_mid = norm_grad(c, s.d_n2, s.x_mid, w.mlp_norm, w.mlp_norm_bias, s.n2_stat, s_, h_,
                      std::move(skip));
  s.d_n2 = s.x_mid = s.n2_stat = Tensor();
}

void Ops::mlp_gather(const Call& c) {
  LayerState& s = at(c);
  s.n2_all = gathered(c, *groups_.tp, s.n2, s_ * h_);
}

void Ops::mlp_gather_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_out_all = gathered(c, *groups_.tp, s.d_out, s_ * h_);
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
  if (refs(c).up_bias.w) c.q.add_bias(c.q(s.up), refs(c).up_bias.w, t_, n);
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
  if (refs(c).up_bias.g) c.q.bias_grad(c.q(s.d_up), refs(c).up_bias.g, t_, n);
  s.d_up = s.n2 = s.n2_all = Tensor();
}

void Ops::mlp_activation(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.ffn / setting_.plan.tp;
  s.act = make(c, t_ * width);
  c.q.activation_forward(activation_of(setting_.model.mlp), c.q(s.up), c.q(s.act), t_, width);
  settle(c, s.act);
}

void Ops::mlp_activation_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.ffn / setting_.plan.tp;
  const bool again = !s.act;  // recomputed with the gradient
  if (again) s.act = make(c, t_ * width);
  s.d_up = make(c, s.up.count());
  c.q.activation_backward(activation_of(setting_.model.mlp), c.q(s.up), c.q(s.d_act), c.q(s.d_up),
                          again ? c.q(s.act) : View(), t_, width);
  settle(c, s.d_up);
  if (again) settle(c, s.act);
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
  if (refs(c).down_bias.g) c.q.bias_grad(c.q(s.d_out), refs(c).down_bias.g, s_, h_);
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
  s.mlp_out = scattered(c, *groups_.tp, s.mlp_out, s_ * h_);
}

void Ops::mlp_reduce_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_n2 = scattered(c, *groups_.tp, s.d_n2, s_ * h_);
}

void Ops::mlp_residual(const Call& c) {
  LayerState& s = at(c);
  s.out = std::move(is_moe(c) ? s.moe_out : s.mlp_out);
  const View out = c.q(s.out);
  c.q.add_to(out, c.q(s.x_mid), s_ * h_);
  if (s.s_out) c.q.add_to(out, c.q(s.s_out), s_ * h_);
  if (refs(c).down_bias.w) c.q.add_bias(out, refs(c).down_bias.w, s_, h_);
  settle(c, s.out);
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
  s.s_act = make(c, t_ * width);
  c.q.activation_forward(activation_of(setting_.model.mlp), c.q(s.s_up), c.q(s.s_act), t_, width);
  settle(c, s.s_act);
}

void Ops::shared_activation_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t width = setting_.model.moe->shared_ffn / setting_.plan.tp;
  const bool again = !s.s_act;
  if (again) s.s_act = make(c, t_ * width);
  s.d_s_up = make(c, s.s_up.count());
  c.q.activation_backward(activation_of(setting_.model.mlp), c.q(s.s_up), c.q(s.d_s_act),
                          c.q(s.d_s_up), again ? c.q(s.s_act) : View(), t_, width);
  settle(c, s.d_s_up);
  if (again) settle(c, s.s_act);
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
  s.s_out = scattered(c, *groups_.tp, s.s_out, s_ * h_);
  if (unread(c)) s.s_out = Tensor();
}

void Ops::shared_reduce_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_n2 = scattered(c, *groups_.tp, s.d_n2, s_ * h_);
}

}  // namespace reckon::real

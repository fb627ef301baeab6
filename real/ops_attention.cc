// Attention, from its norm to the residual behind it. Shapes as in pass.h.
#include <cmath>

#include "real/ops.h"
#include "real/rotary.h"

namespace reckon::real {

void Ops::attn_norm(const Call& c) {
  LayerState& s = at(c);
  if (!s.x) {  // an MTP layer's input is made by its projection
    const auto part = static_cast<std::size_t>(c.op.part);
    s.x = std::move(part == 0 ? c.pass.input : c.pass.parts[part - 1].out);
  }
  const LayerRefs& w = refs(c);
  norm(c, s.x, w.attn_norm, w.attn_norm_bias, s_, h_, s.n1, s.n1_stat);
}

void Ops::attn_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  // The weight gradient of the output projection still reads d_mid, or else its gathered copy.
  const bool read_again = !has_tp() || w.out_bias.g;
  Tensor skip = read_again ? copied(c, s.d_mid) : std::move(s.d_mid);
  s.d_x =
      norm_grad(c, s.d_n1, s.x, w.attn_norm, w.attn_norm_bias, s.n1_stat, s_, h_, std::move(skip));
  s.d_n1 = s.n1_stat = s.x = Tensor();
  if (c.op.part >= c.layout.layers) return;  // an MTP layer's is for its projection
  if (c.op.part == 0)
    c.pass.d_input = std::move(s.d_x);
  else
    c.pass.parts[static_cast<std::size_t>(c.op.part - 1)].d_out = std::move(s.d_x);
}

// GQA: the norm's output. MLA: the latent vectors.
void Ops::attn_gather(const Call& c) {
  LayerState& s = at(c);
  if (!setting_.model.mla) {
    s.n1_all = gathered(c, *groups_.tp, s.n1, s_ * h_);
    return;
  }
  const plan::Mla& a = *setting_.model.mla;
  s.q_lat_all = gathered(c, *groups_.tp, s.q_lat, s_ * a.q_lora);
  s.kv_lat_all = gathered(c, *groups_.tp, s.kv_lat, s_ * a.kv_lora);
  s.k_rot_all = gathered(c, *groups_.tp, s.k_rot, s_ * a.qk_rope);
}

void Ops::attn_regather(const Call& c) {
  attn_gather(c);
  LayerState& s = at(c);
  if (!setting_.model.mla) s.n1 = Tensor();
  s.q_lat = s.kv_lat = s.k_rot = Tensor();
  if (!drops(plan::kMlaUp)) s.k_rot_all = Tensor();
}

void Ops::attn_gather_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_mid_all = gathered(c, *groups_.tp, s.d_mid, s_ * h_);
}

// ---- queries, keys and values from one product

void Ops::attn_qkv(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const Tensor& x = has_tp() ? s.n1_all : s.n1;
  const std::int64_t q = heads_ * qk_dim_, kv = kv_heads_ * qk_dim_;
  s.q = product(c, x, w.q, t_, q, h_);
  s.k = product(c, x, w.k, t_, kv, h_);
  s.v = product(c, x, w.v, t_, kv, h_);
  if (w.q_bias.w) {
    c.q.add_bias(c.q(s.q), w.q_bias.w, t_, q);
    c.q.add_bias(c.q(s.k), w.k_bias.w, t_, kv);
    c.q.add_bias(c.q(s.v), w.v_bias.w, t_, kv);
  }
  s.n1_all = Tensor();
}

void Ops::attn_qkv_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const std::int64_t q = heads_ * qk_dim_, kv = kv_heads_ * qk_dim_;
  s.d_n1 = Tensor();
  product_grad(c, s.d_q, w.q, t_, q, h_, s.d_n1);
  product_grad(c, s.d_k, w.k, t_, kv, h_, s.d_n1);
  product_grad(c, s.d_v, w.v, t_, kv, h_, s.d_n1);
}

void Ops::attn_qkv_weights(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const Tensor& x = has_tp() ? s.n1_all : s.n1;
  const std::int64_t q = heads_ * qk_dim_, kv = kv_heads_ * qk_dim_;
  weight_grad(c, s.d_q, x, w.q, t_, q, h_);
  weight_grad(c, s.d_k, x, w.k, t_, kv, h_);
  weight_grad(c, s.d_v, x, w.v, t_, kv, h_);
  if (w.q_bias.g) {
    c.q.bias_grad(c.q(s.d_q), w.q_bias.g, t_, q);
    c.q.bias_grad(c.q(s.d_k), w.k_bias.g, t_, kv);
    c.q.bias_grad(c.q(s.d_v), w.v_bias.g, t_, kv);
  }
  s.d_q = s.d_k = s.d_v = s.n1 = s.n1_all = Tensor();
}

void Ops::attn_qk_norm(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  s.q_raw = std::move(s.q), s.k_raw = std::move(s.k);
  norm(c, s.q_raw, w.q_norm, {}, t_ * heads_, qk_dim_, s.q, s.q_raw_stat);
  norm(c, s.k_raw, w.k_norm, {}, t_ * kv_heads_, qk_dim_, s.k, s.k_raw_stat);
}

void Ops::attn_qk_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  s.d_q = norm_grad(c, s.d_q, s.q_raw, w.q_norm, {}, s.q_raw_stat, t_ * heads_, qk_dim_, {});
  s.q_raw = s.q_raw_stat = Tensor();
  s.d_k = norm_grad(c, s.d_k, s.k_raw, w.k_norm, {}, s.k_raw_stat, t_ * kv_heads_, qk_dim_, {});
  s.k_raw = s.k_raw_stat = Tensor();
}

// ---- multi-head latent attention (DeepSeek-V2 report, section 2.1)

void Ops::attn_q_down(const Call& c) {
  LayerState& s = at(c);
  s.q_low = product(c, s.n1, refs(c).q_down, s_, setting_.model.mla->q_lora, h_);
}

void Ops::attn_q_down_backward(const Call& c) {
  LayerState& s = at(c);
  product_grad(c, s.d_q_low, refs(c).q_down, s_, setting_.model.mla->q_lora, h_, s.d_n1);
}

void Ops::attn_q_down_weights(const Call& c) {
  LayerState& s = at(c);
  weight_grad(c, s.d_q_low, s.n1, refs(c).q_down, s_, setting_.model.mla->q_lora, h_);
  s.d_q_low = s.n1 = Tensor();
}

namespace {

// The rows of the rotary key in the down-projection's weights.
Ref rotary_rows(Ref w, std::int64_t kv_lora, std::int64_t h) {
  return {w.w + kv_lora * h, w.g + kv_lora * h};
}

}  // namespace

void Ops::attn_kv_down(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  const Ref w = refs(c).kv_down;
  s.kv_low = product(c, s.n1, w, s_, a.kv_lora, h_);
  s.k_rot = product(c, s.n1, rotary_rows(w, a.kv_lora, h_), s_, a.qk_rope, h_);
}

void Ops::attn_kv_down_backward(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  const Ref w = refs(c).kv_down;
  product_grad(c, s.d_kv_low, w, s_, a.kv_lora, h_, s.d_n1);
  product_grad(c, s.d_k_rot, rotary_rows(w, a.kv_lora, h_), s_, a.qk_rope, h_, s.d_n1);
}

void Ops::attn_kv_down_weights(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  const Ref w = refs(c).kv_down;
  weight_grad(c, s.d_kv_low, s.n1, w, s_, a.kv_lora, h_);
  weight_grad(c, s.d_k_rot, s.n1, rotary_rows(w, a.kv_lora, h_), s_, a.qk_rope, h_);
  s.d_kv_low = s.d_k_rot = Tensor();
  if (a.q_lora == 0) s.n1 = Tensor();
}

void Ops::attn_q_norm(const Call& c) {
  LayerState& s = at(c);
  norm(c, s.q_low, refs(c).q_norm, {}, s_, setting_.model.mla->q_lora, s.q_lat, s.q_low_stat);
}

void Ops::attn_q_norm_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_q_low = norm_grad(c, s.d_q_lat, s.q_low, refs(c).q_norm, {}, s.q_low_stat, s_,
                        setting_.model.mla->q_lora, {});
  s.d_q_lat = s.q_low = s.q_low_stat = Tensor();
}

void Ops::attn_kv_norm(const Call& c) {
  LayerState& s = at(c);
  norm(c, s.kv_low, refs(c).kv_norm, {}, s_, setting_.model.mla->kv_lora, s.kv_lat, s.kv_low_stat);
}

void Ops::attn_kv_norm_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_kv_low = norm_grad(c, s.d_kv_lat, s.kv_low, refs(c).kv_norm, {}, s.kv_low_stat, s_,
                         setting_.model.mla->kv_lora, {});
  s.d_kv_lat = s.kv_low = s.kv_low_stat = Tensor();
}

void Ops::attn_q_up(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t q_lora = setting_.model.mla->q_lora;
  const Tensor& x = q_lora == 0 ? s.n1 : has_tp() ? s.q_lat_all : s.q_lat;
  s.q = product(c, x, refs(c).q_up, t_, heads_ * qk_dim_, q_lora > 0 ? q_lora : h_);
  if (!serves_weights(c)) s.q_lat_all = Tensor();
}

void Ops::attn_q_up_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t q_lora = setting_.model.mla->q_lora;
  s.d_n1 = Tensor();
  product_grad(c, s.d_q, refs(c).q_up, t_, heads_ * qk_dim_, q_lora > 0 ? q_lora : h_,
               q_lora > 0 ? s.d_q_lat : s.d_n1);
}

void Ops::attn_q_up_weights(const Call& c) {
  LayerState& s = at(c);
  const std::int64_t q_lora = setting_.model.mla->q_lora;
  const Tensor& x = q_lora == 0 ? s.n1 : has_tp() ? s.q_lat_all : s.q_lat;
  weight_grad(c, s.d_q, x, refs(c).q_up, t_, heads_ * qk_dim_, q_lora > 0 ? q_lora : h_);
  s.d_q = s.q_lat = s.q_lat_all = Tensor();
}

void Ops::attn_kv_up(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  s.kv = product(c, has_tp() ? s.kv_lat_all : s.kv_lat, refs(c).kv_up, t_,
                 heads_ * (a.qk_nope + a.v), a.kv_lora);
  if (!serves_weights(c)) s.kv_lat_all = Tensor();
}

void Ops::attn_kv_up_backward(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  product_grad(c, s.d_kv, refs(c).kv_up, t_, heads_ * (a.qk_nope + a.v), a.kv_lora, s.d_kv_lat);
}

void Ops::attn_kv_up_weights(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  weight_grad(c, s.d_kv, has_tp() ? s.kv_lat_all : s.kv_lat, refs(c).kv_up, t_,
              heads_ * (a.qk_nope + a.v), a.kv_lora);
  s.d_kv = s.kv_lat = s.kv_lat_all = Tensor();
}

void Ops::attn_rope(const Call& c) {
  LayerState& s = at(c);
  const std::int32_t* position = token_positions_.at();
  if (!setting_.model.mla) {
    c.q.rope(*rope_, {c.q(s.q), t_, heads_, qk_dim_, 0}, position, false);
    c.q.rope(*rope_, {c.q(s.k), t_, kv_heads_, qk_dim_, 0}, position, false);
    settle(c, s.q), settle(c, s.k);
    return;
  }
  const plan::Mla& a = *setting_.model.mla;
  c.q.rope(*rope_, {c.q(s.q), t_, heads_, qk_dim_, a.qk_nope}, position, false);
  s.k_turned = has_tp()              ? std::move(s.k_rot_all)
               : drops(plan::kMlaUp) ? copied(c, s.k_rot)  // to be turned again
                                     : std::move(s.k_rot);
  c.q.rope(*rope_, {c.q(s.k_turned), t_, 1, a.qk_rope, 0}, position, false);
  settle(c, s.q), settle(c, s.k_turned);
}

void Ops::attn_rope_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int32_t* position = token_positions_.at();
  const std::int64_t offset = setting_.model.mla ? setting_.model.mla->qk_nope : 0;
  c.q.rope(*rope_, {c.q(s.d_q), t_, heads_, qk_dim_, offset}, position, true);
  c.q.rope(*rope_, {c.q(s.d_k), t_, kv_heads_, qk_dim_, offset}, position, true);
  settle(c, s.d_q), settle(c, s.d_k);
}

// kv[T, H, nope + v] and the rotated part, the same for every head -> k[T, H, nope + rope], v.
void Ops::attn_assemble(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  s.k = make(c, t_ * heads_ * qk_dim_);
  s.v = make(c, t_ * heads_ * a.v);
  c.q.assemble_keys({t_, heads_, a.qk_nope, a.qk_rope, a.v}, c.q(s.kv), c.q(s.k_turned), c.q(s.k),
                    c.q(s.v));
  s.kv = s.k_turned = Tensor();
}

void Ops::attn_assemble_backward(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  s.d_kv = make(c, t_ * heads_ * (a.qk_nope + a.v));
  s.d_k_rot = make(c, t_ * a.qk_rope);
  c.q.assemble_keys_backward({t_, heads_, a.qk_nope, a.qk_rope, a.v}, c.q(s.d_k), c.q(s.d_v),
                             c.q(s.d_kv), c.q(s.d_k_rot));
  settle(c, s.d_k_rot);
  s.d_k = s.d_v = Tensor();
  if (!has_tp()) s.k_rot = Tensor();  // else the second gather may still read it
}

// ---- context parallelism: keys and values of the whole sequence

// Slices arrive by rank, each [batch, 2 halves, width]; rank r holds halves r and 2 cp - 1 - r.
Tensor Ops::whole_context(const Call& c, const Tensor& slice, std::int64_t width) const {
  const std::int64_t cp = groups_.cp->size(), half = seq_local_ / 2 * width;
  const Tensor by_rank = gathered(c, *groups_.cp, slice, t_ * width);
  Tensor whole = made(c, by_rank.count(), by_rank.element());
  for (std::int64_t r = 0; r < cp; ++r)
    for (const bool late : {false, true})
      c.q.copy_rows({c.q(by_rank) + (r * 2 * batch_ + late) * half, 2 * half},
                    {c.q(whole) + (late ? 2 * cp - 1 - r : r) * half, 2 * cp * half}, batch_, half);
  return whole;
}

// The sum over ranks of this rank's slice.
Tensor Ops::context_slice(const Call& c, const Tensor& whole, std::int64_t width) const {
  const std::int64_t cp = groups_.cp->size(), half = seq_local_ / 2 * width;
  Tensor by_rank = made(c, whole.count(), whole.element());
  for (std::int64_t r = 0; r < cp; ++r)
    for (const bool late : {false, true})
      c.q.copy_rows({c.q(whole) + (late ? 2 * cp - 1 - r : r) * half, 2 * cp * half},
                    {c.q(by_rank) + (r * 2 * batch_ + late) * half, 2 * half}, batch_, half);
  return scattered(c, *groups_.cp, by_rank, t_ * width);
}

void Ops::attn_context_gather(const Call& c) {
  LayerState& s = at(c);
  s.k_all = whole_context(c, s.k, kv_heads_ * qk_dim_);
  s.v_all = whole_context(c, s.v, kv_heads_ * v_dim_);
}

void Ops::attn_context_reduce(const Call& c) {
  LayerState& s = at(c);
  s.d_k = context_slice(c, s.d_k_all, kv_heads_ * qk_dim_);
  s.d_k_all = Tensor();
  s.d_v = context_slice(c, s.d_v_all, kv_heads_ * v_dim_);
  s.d_v_all = Tensor();
}

// ---- the product of scores and values

namespace {

cpu::AttentionShape attention_shape(const sim::Attention& a, const Setting& setting,
                                    const std::int32_t* positions) {
  return {.batch = a.batch,
          .heads = a.heads,
          .kv_heads = a.kv_heads,
          .seq_q = a.seq_q,
          .seq_k = setting.seq,
          .qk_dim = a.qk_dim,
          .v_dim = a.v_dim,
          .scale = static_cast<float>(score_scale(setting.model) /
                                      std::sqrt(static_cast<double>(a.qk_dim))),
          .window = a.window,
          .positions = positions};
}

}  // namespace

void Ops::attn_core(const Call& c) {
  LayerState& s = at(c);
  const auto& a = std::get<sim::Attention>(c.work);
  const bool split = setting_.plan.cp > 1;
  s.o = make(c, t_ * heads_ * v_dim_);
  s.lse = make_floats(c, batch_ * heads_ * seq_local_);
  c.q.attention_forward(attention_shape(a, setting_, split ? positions_.at() : nullptr), c.q(s.q),
                        c.q(split ? s.k_all : s.k), c.q(split ? s.v_all : s.v), c.q(s.o),
                        floats(c.q(s.lse)));
  settle(c, s.o);
  s.k_all = s.v_all = Tensor();
}

void Ops::attn_core_backward(const Call& c) {
  LayerState& s = at(c);
  const auto& a = std::get<sim::Attention>(c.work);
  const bool split = setting_.plan.cp > 1;
  s.d_q = make(c, s.q.count());
  Tensor& d_k = split ? s.d_k_all : s.d_k;
  Tensor& d_v = split ? s.d_v_all : s.d_v;
  d_k = make(c, (split ? s.k_all : s.k).count());
  d_v = make(c, (split ? s.v_all : s.v).count());
  c.q.attention_backward(attention_shape(a, setting_, split ? positions_.at() : nullptr),
                         {.q = c.q(s.q),
                          .k = c.q(split ? s.k_all : s.k),
                          .v = c.q(split ? s.v_all : s.v),
                          .out = c.q(s.o),
                          .lse = floats(c.q(s.lse)),
                          .dout = c.q(s.d_o)},
                         {.q = c.q(s.d_q), .k = c.q(d_k), .v = c.q(d_v)});
  settle(c, s.d_q), settle(c, d_k), settle(c, d_v);
  s.d_o = s.lse = s.k_all = s.v_all = s.q = s.k = s.v = Tensor();
}

// ---- output projection and residual

void Ops::attn_out(const Call& c) {
  LayerState& s = at(c);
  s.y = product(c, s.o, refs(c).out, t_, h_, heads_ * v_dim_);
}

void Ops::attn_out_backward(const Call& c) {
  LayerState& s = at(c);
  product_grad(c, has_tp() ? s.d_mid_all : s.d_mid, refs(c).out, t_, h_, heads_ * v_dim_, s.d_o);
}

void Ops::attn_out_weights(const Call& c) {
  LayerState& s = at(c);
  weight_grad(c, has_tp() ? s.d_mid_all : s.d_mid, s.o, refs(c).out, t_, h_, heads_ * v_dim_);
  if (refs(c).out_bias.g) c.q.bias_grad(c.q(s.d_mid), refs(c).out_bias.g, s_, h_);
  s.o = s.d_mid = s.d_mid_all = Tensor();
}

void Ops::attn_reduce(const Call& c) {
  LayerState& s = at(c);
  s.y = scattered(c, *groups_.tp, s.y, s_ * h_);
}

void Ops::attn_reduce_backward(const Call& c) {
  LayerState& s = at(c);
  if (!setting_.model.mla) {
    s.d_n1 = scattered(c, *groups_.tp, s.d_n1, s_ * h_);
    return;
  }
  const plan::Mla& a = *setting_.model.mla;
  s.d_q_lat = scattered(c, *groups_.tp, s.d_q_lat, s_ * a.q_lora);
  s.d_kv_lat = scattered(c, *groups_.tp, s.d_kv_lat, s_ * a.kv_lora);
  s.d_k_rot = scattered(c, *groups_.tp, s.d_k_rot, s_ * a.qk_rope);
}

void Ops::attn_residual(const Call& c) {
  LayerState& s = at(c);
  s.x_mid = std::move(s.y);
  c.q.add_to(c.q(s.x_mid), c.q(s.x), s_ * h_);
  if (refs(c).out_bias.w) c.q.add_bias(c.q(s.x_mid), refs(c).out_bias.w, s_, h_);
  settle(c, s.x_mid);
}

}  // namespace reckon::real

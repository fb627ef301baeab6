// Attention, from its norm to the residual behind it. Shapes as in pass.h.
#include <cmath>
#include <cstring>

#include "real/ops.h"

namespace reckon::real {

void Ops::attn_norm(const Call& c) {
  LayerState& s = at(c);
  if (!s.x) {  // an MTP layer's input is made by its projection
    const auto part = static_cast<std::size_t>(c.op.part);
    s.x = std::move(part == 0 ? c.pass.input : c.pass.parts[part - 1].out);
  }
  const LayerRefs& w = refs(c);
  norm(s.x, w.attn_norm, w.attn_norm_bias, s_, h_, s.n1, s.n1_stat);
}

void Ops::attn_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  // The weight gradient of the output projection still reads d_mid, or else its gathered copy.
  const bool read_again = !has_tp() || w.out_bias.g != nullptr;
  Tensor skip = read_again ? s.d_mid.copy(meter_) : std::move(s.d_mid);
  s.d_x = norm_grad(s.d_n1, s.x, w.attn_norm, w.attn_norm_bias, s.n1_stat, s_, h_, std::move(skip));
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
    s.n1_all = gathered(*groups_.tp, s.n1, s_ * h_);
    return;
  }
  const plan::Mla& a = *setting_.model.mla;
  s.q_lat_all = gathered(*groups_.tp, s.q_lat, s_ * a.q_lora);
  s.kv_lat_all = gathered(*groups_.tp, s.kv_lat, s_ * a.kv_lora);
  s.k_rot_all = gathered(*groups_.tp, s.k_rot, s_ * a.qk_rope);
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
  s.d_mid_all = gathered(*groups_.tp, s.d_mid, s_ * h_);
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
  if (w.q_bias.w != nullptr) {
    cpu::add_bias(s.q.floats(), w.q_bias.w, t_, q);
    cpu::add_bias(s.k.floats(), w.k_bias.w, t_, kv);
    cpu::add_bias(s.v.floats(), w.v_bias.w, t_, kv);
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
  if (w.q_bias.g != nullptr) {
    cpu::bias_grad(s.d_q.floats(), w.q_bias.g, t_, q);
    cpu::bias_grad(s.d_k.floats(), w.k_bias.g, t_, kv);
    cpu::bias_grad(s.d_v.floats(), w.v_bias.g, t_, kv);
  }
  s.d_q = s.d_k = s.d_v = s.n1 = s.n1_all = Tensor();
}

void Ops::attn_qk_norm(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  s.q_raw = std::move(s.q), s.k_raw = std::move(s.k);
  norm(s.q_raw, w.q_norm, {}, t_ * heads_, qk_dim_, s.q, s.q_raw_stat);
  norm(s.k_raw, w.k_norm, {}, t_ * kv_heads_, qk_dim_, s.k, s.k_raw_stat);
}

void Ops::attn_qk_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  s.d_q = norm_grad(s.d_q, s.q_raw, w.q_norm, {}, s.q_raw_stat, t_ * heads_, qk_dim_, {});
  s.q_raw = s.q_raw_stat = Tensor();
  s.d_k = norm_grad(s.d_k, s.k_raw, w.k_norm, {}, s.k_raw_stat, t_ * kv_heads_, qk_dim_, {});
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
  norm(s.q_low, refs(c).q_norm, {}, s_, setting_.model.mla->q_lora, s.q_lat, s.q_low_stat);
}

void Ops::attn_q_norm_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_q_low = norm_grad(s.d_q_lat, s.q_low, refs(c).q_norm, {}, s.q_low_stat, s_,
                        setting_.model.mla->q_lora, {});
  s.d_q_lat = s.q_low = s.q_low_stat = Tensor();
}

void Ops::attn_kv_norm(const Call& c) {
  LayerState& s = at(c);
  norm(s.kv_low, refs(c).kv_norm, {}, s_, setting_.model.mla->kv_lora, s.kv_lat, s.kv_low_stat);
}

void Ops::attn_kv_norm_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_kv_low = norm_grad(s.d_kv_lat, s.kv_low, refs(c).kv_norm, {}, s.kv_low_stat, s_,
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
  const std::int32_t* position = token_positions_.data();
  if (!setting_.model.mla) {
    cpu::rope(rope_, {s.q.floats(), t_, heads_, qk_dim_, 0}, position, false);
    cpu::rope(rope_, {s.k.floats(), t_, kv_heads_, qk_dim_, 0}, position, false);
    settle(s.q), settle(s.k);
    return;
  }
  const plan::Mla& a = *setting_.model.mla;
  cpu::rope(rope_, {s.q.floats(), t_, heads_, qk_dim_, a.qk_nope}, position, false);
  s.k_turned = has_tp()              ? std::move(s.k_rot_all)
               : drops(plan::kMlaUp) ? s.k_rot.copy(meter_)  // to be turned again
                                     : std::move(s.k_rot);
  cpu::rope(rope_, {s.k_turned.floats(), t_, 1, a.qk_rope, 0}, position, false);
  settle(s.q), settle(s.k_turned);
}

void Ops::attn_rope_backward(const Call& c) {
  LayerState& s = at(c);
  const std::int32_t* position = token_positions_.data();
  const std::int64_t offset = setting_.model.mla ? setting_.model.mla->qk_nope : 0;
  cpu::rope(rope_, {s.d_q.floats(), t_, heads_, qk_dim_, offset}, position, true);
  cpu::rope(rope_, {s.d_k.floats(), t_, kv_heads_, qk_dim_, offset}, position, true);
  settle(s.d_q), settle(s.d_k);
}

// kv[T, H, nope + v] and the rotated part, the same for every head -> k[T, H, nope + rope], v.
void Ops::attn_assemble(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  s.k = make(t_ * heads_ * qk_dim_);
  s.v = make(t_ * heads_ * a.v);
  const float* kv = s.kv.floats();
  float *k = s.k.floats(), *v = s.v.floats();
  const auto copy = [](float* to, const float* from, std::int64_t n) {
    std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(float));
    return to + n;
  };
  for (std::int64_t t = 0; t < t_; ++t)
    for (std::int64_t head = 0; head < heads_; ++head, kv += a.qk_nope + a.v) {
      k = copy(copy(k, kv, a.qk_nope), s.k_turned.floats() + t * a.qk_rope, a.qk_rope);
      v = copy(v, kv + a.qk_nope, a.v);
    }
  s.kv = s.k_turned = Tensor();
}

void Ops::attn_assemble_backward(const Call& c) {
  LayerState& s = at(c);
  const plan::Mla& a = *setting_.model.mla;
  s.d_kv = make(t_ * heads_ * (a.qk_nope + a.v));
  s.d_k_rot = Tensor::zeros(meter_, t_ * a.qk_rope);
  const float *dk = s.d_k.floats(), *dv = s.d_v.floats();
  float* d_kv = s.d_kv.floats();
  for (std::int64_t t = 0; t < t_; ++t) {
    float* d_rot = s.d_k_rot.floats() + t * a.qk_rope;
    for (std::int64_t head = 0; head < heads_; ++head) {
      std::memcpy(d_kv, dk, static_cast<std::size_t>(a.qk_nope) * sizeof(float));
      std::memcpy(d_kv + a.qk_nope, dv, static_cast<std::size_t>(a.v) * sizeof(float));
      cpu::add_to(d_rot, dk + a.qk_nope, a.qk_rope);
      dk += qk_dim_, dv += a.v, d_kv += a.qk_nope + a.v;
    }
  }
  settle(s.d_k_rot);
  s.d_k = s.d_v = Tensor();
  if (!has_tp()) s.k_rot = Tensor();  // else the second gather may still read it
}

// ---- context parallelism: keys and values of the whole sequence

// Slices arrive by rank, each [batch, 2 halves, width]; rank r holds halves r and 2 cp - 1 - r.
Tensor Ops::whole_context(const Tensor& slice, std::int64_t width) {
  const std::int64_t cp = groups_.cp->size(), half = seq_local_ / 2 * width;
  const Tensor by_rank = gathered(*groups_.cp, slice, t_ * width);
  Tensor whole = make(by_rank.count());
  const float* from = by_rank.floats();
  for (std::int64_t r = 0; r < cp; ++r)
    for (std::int64_t b = 0; b < batch_; ++b)
      for (const std::int64_t place : {r, 2 * cp - 1 - r}) {
        std::memcpy(whole.floats() + (b * 2 * cp + place) * half, from,
                    static_cast<std::size_t>(half) * sizeof(float));
        from += half;
      }
  return whole;
}

// The sum over ranks of this rank's slice.
Tensor Ops::context_slice(const Tensor& whole, std::int64_t width) {
  const std::int64_t cp = groups_.cp->size(), half = seq_local_ / 2 * width;
  Tensor by_rank = make(whole.count());
  float* to = by_rank.floats();
  for (std::int64_t r = 0; r < cp; ++r)
    for (std::int64_t b = 0; b < batch_; ++b)
      for (const std::int64_t place : {r, 2 * cp - 1 - r}) {
        std::memcpy(to, whole.floats() + (b * 2 * cp + place) * half,
                    static_cast<std::size_t>(half) * sizeof(float));
        to += half;
      }
  return scattered(*groups_.cp, by_rank, t_ * width);
}

void Ops::attn_context_gather(const Call& c) {
  LayerState& s = at(c);
  s.k_all = whole_context(s.k, kv_heads_ * qk_dim_);
  s.v_all = whole_context(s.v, kv_heads_ * v_dim_);
}

void Ops::attn_context_reduce(const Call& c) {
  LayerState& s = at(c);
  s.d_k = context_slice(s.d_k_all, kv_heads_ * qk_dim_);
  s.d_k_all = Tensor();
  s.d_v = context_slice(s.d_v_all, kv_heads_ * v_dim_);
  s.d_v_all = Tensor();
}

// ---- the product of scores and values

namespace {

cpu::AttentionShape attention_shape(const sim::Attention& a, std::int64_t seq_k,
                                    const std::int32_t* positions) {
  return {.batch = a.batch,
          .heads = a.heads,
          .kv_heads = a.kv_heads,
          .seq_q = a.seq_q,
          .seq_k = seq_k,
          .qk_dim = a.qk_dim,
          .v_dim = a.v_dim,
          .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(a.qk_dim))),
          .window = a.window,
          .positions = positions};
}

}  // namespace

void Ops::attn_core(const Call& c) {
  LayerState& s = at(c);
  const auto& a = std::get<sim::Attention>(c.work);
  const bool split = setting_.plan.cp > 1;
  s.o = make(t_ * heads_ * v_dim_);
  s.lse = make(batch_ * heads_ * seq_local_);
  cpu::attention_forward(attention_shape(a, setting_.seq, split ? positions_.data() : nullptr),
                         s.q.floats(), (split ? s.k_all : s.k).floats(),
                         (split ? s.v_all : s.v).floats(), s.o.floats(), s.lse.floats());
  settle(s.o);
  s.k_all = s.v_all = Tensor();
}

void Ops::attn_core_backward(const Call& c) {
  LayerState& s = at(c);
  const auto& a = std::get<sim::Attention>(c.work);
  const bool split = setting_.plan.cp > 1;
  s.d_q = make(s.q.count());
  Tensor& d_k = split ? s.d_k_all : s.d_k;
  Tensor& d_v = split ? s.d_v_all : s.d_v;
  d_k = make((split ? s.k_all : s.k).count());
  d_v = make((split ? s.v_all : s.v).count());
  cpu::attention_backward(attention_shape(a, setting_.seq, split ? positions_.data() : nullptr),
                          s.q.floats(), (split ? s.k_all : s.k).floats(),
                          (split ? s.v_all : s.v).floats(), s.o.floats(), s.lse.floats(),
                          s.d_o.floats(), s.d_q.floats(), d_k.floats(), d_v.floats());
  settle(s.d_q), settle(d_k), settle(d_v);
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
  if (refs(c).out_bias.g != nullptr) cpu::bias_grad(s.d_mid.floats(), refs(c).out_bias.g, s_, h_);
  s.o = s.d_mid = s.d_mid_all = Tensor();
}

void Ops::attn_reduce(const Call& c) {
  LayerState& s = at(c);
  s.y = scattered(*groups_.tp, s.y, s_ * h_);
}

void Ops::attn_reduce_backward(const Call& c) {
  LayerState& s = at(c);
  if (!setting_.model.mla) {
    s.d_n1 = scattered(*groups_.tp, s.d_n1, s_ * h_);
    return;
  }
  const plan::Mla& a = *setting_.model.mla;
  s.d_q_lat = scattered(*groups_.tp, s.d_q_lat, s_ * a.q_lora);
  s.d_kv_lat = scattered(*groups_.tp, s.d_kv_lat, s_ * a.kv_lora);
  s.d_k_rot = scattered(*groups_.tp, s.d_k_rot, s_ * a.qk_rope);
}

void Ops::attn_residual(const Call& c) {
  LayerState& s = at(c);
  s.x_mid = std::move(s.y);
  cpu::add_to(s.x_mid.floats(), s.x.floats(), s_ * h_);
  if (refs(c).out_bias.w != nullptr) cpu::add_bias(s.x_mid.floats(), refs(c).out_bias.w, s_, h_);
  settle(s.x_mid);
}

}  // namespace reckon::real

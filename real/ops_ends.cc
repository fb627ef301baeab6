// The embedding, the head with its loss, and the projection in front of an MTP layer. Shapes as in
// pass.h.
#include <cstring>

#include "real/ops.h"

namespace reckon::real {

namespace {

// Id `shift` places behind each of the rank's tokens.
std::vector<std::int32_t> ids_at(const Pass& pass, const std::vector<std::int32_t>& positions,
                                 std::int64_t batch, std::int64_t stride, std::int64_t shift) {
  std::vector<std::int32_t> ids;
  ids.reserve(positions.size() * static_cast<std::size_t>(batch));
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int32_t p : positions) ids.push_back(pass.tokens.ints()[b * stride + p + shift]);
  return ids;
}

struct Slice {
  std::int32_t begin, end;
};
Slice vocabulary_slice(const Setting& s) {
  const std::int64_t v = s.model.vocab, tp = s.plan.tp, at = s.place.tp;
  return {static_cast<std::int32_t>(v * at / tp), static_cast<std::int32_t>(v * (at + 1) / tp)};
}

}  // namespace

// ---- embedding: part -1 the model's input, else the tokens that an MTP module looks ahead to

void Ops::embedding(const Call& c) {
  const int module = c.op.part < 0 ? -1 : c.op.part - c.layout.layers;
  const auto ids = ids_at(c.pass, positions_, batch_, token_stride(), module + 1);
  const Slice v = vocabulary_slice(setting_);
  Tensor x = make(t_ * h_);
  cpu::embedding_forward(weights_.embedding.w, ids.data(), t_, h_, v.begin, v.end, x.floats());
  (module < 0 ? c.pass.input : at(c).embedded) = x;
}

void Ops::embedding_weights(const Call& c) {
  const int module = c.op.part < 0 ? -1 : c.op.part - c.layout.layers;
  const auto ids = ids_at(c.pass, positions_, batch_, token_stride(), module + 1);
  const Slice v = vocabulary_slice(setting_);
  Tensor& d = module < 0 ? c.pass.d_input : at(c).d_embedded;
  cpu::embedding_backward(d.floats(), ids.data(), t_, h_, v.begin, v.end, weights_.embedding.g);
  if (module < 0 && setting_.model.positions == plan::Positions::Learned && setting_.place.tp == 0)
    cpu::embedding_backward(d.floats(), token_positions_.data(), t_, h_, 0,
                            setting_.model.max_positions, weights_.positions.g);
  d = Tensor();
}

// One tensor-parallel rank adds them, before the sum.
void Ops::embedding_positions(const Call& c) {
  if (c.op.part >= 0 || setting_.place.tp != 0) return;
  Tensor p = make(t_ * h_);
  cpu::embedding_forward(weights_.positions.w, token_positions_.data(), t_, h_, 0,
                         setting_.model.max_positions, p.floats());
  cpu::add_to(c.pass.input.floats(), p.floats(), t_ * h_);
  settle(c.pass.input);
}

void Ops::embedding_reduce(const Call& c) {
  Tensor& x = c.op.part < 0 ? c.pass.input : at(c).embedded;
  x = scattered(*groups_.tp, x, s_ * h_);
}

void Ops::embedding_gather(const Call& c) {
  Tensor& d = c.op.part < 0 ? c.pass.d_input : at(c).d_embedded;
  d = gathered(*groups_.tp, d, s_ * h_);
}

// ---- head

namespace {

// What the head reads: the output of the chunk's last layer, or of an MTP layer.
Tensor& head_input(Pass& pass, const plan::ChunkLayout& layout, int part) {
  if (part >= 0) return pass.parts[static_cast<std::size_t>(part)].out;
  return layout.layers > 0 ? pass.parts[static_cast<std::size_t>(layout.layers - 1)].out
                           : pass.input;
}

Ref head_norm_of(const ChunkWeights& c, int part) {
  return part < 0 ? c.head_norm : c.parts[static_cast<std::size_t>(part)].head_norm;
}
Ref head_bias_of(const ChunkWeights& c, int part) {
  return part < 0 ? c.head_norm_bias : c.parts[static_cast<std::size_t>(part)].head_norm_bias;
}

// Adds a gradient of the hidden state in front of module `module` (0: of the chunk's last layer).
Tensor& hidden_gradient(Pass& pass, const plan::ChunkLayout& layout, int module) {
  if (module == 0) return pass.d_hidden;
  return pass.parts[static_cast<std::size_t>(layout.layers + module - 1)].d_out;
}

}  // namespace

void Ops::head_norm(const Call& c) {
  HeadState& s = head_at(c);
  norm(head_input(c.pass, c.layout, c.op.part), head_norm_of(c.chunk, c.op.part),
       head_bias_of(c.chunk, c.op.part), s_, h_, s.n, s.n_stat);
}

void Ops::head_norm_backward(const Call& c) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  Tensor& d = hidden_gradient(c.pass, c.layout, module);
  Tensor& x = head_input(c.pass, c.layout, c.op.part);
  d = norm_grad(s.d_n, x, head_norm_of(c.chunk, c.op.part), head_bias_of(c.chunk, c.op.part),
                s.n_stat, s_, h_, std::move(d));
  s.d_n = s.n_stat = x = Tensor();  // MTP modules, which read x too, are behind us
  if (module == 0) end_of_hidden(c.pass, c.layout);
}

void Ops::end_of_hidden(Pass& pass, const plan::ChunkLayout& layout) {
  if (layout.layers > 0)
    pass.parts[static_cast<std::size_t>(layout.layers - 1)].d_out = std::move(pass.d_hidden);
  else
    pass.d_input = std::move(pass.d_hidden);
  pass.d_hidden = Tensor();
}

void Ops::head_gather(const Call& c) {
  HeadState& s = head_at(c);
  s.n_all = gathered(*groups_.tp, s.n, s_ * h_);
  s.n = Tensor();
}

void Ops::head(const Call& c) {
  HeadState& s = head_at(c);
  const Slice v = vocabulary_slice(setting_);
  s.logits = make(t_ * (v.end - v.begin));
  cpu::linear_forward({t_, v.end - v.begin, h_}, (has_tp() ? s.n_all : s.n).floats(),
                      weights_.head.w, s.logits.floats());
}

void Ops::head_backward(const Call& c) {
  HeadState& s = head_at(c);
  const Slice v = vocabulary_slice(setting_);
  s.d_n = make(t_ * h_);
  cpu::linear_input_grad({t_, v.end - v.begin, h_}, s.logits.floats(), weights_.head.w,
                         s.d_n.floats());
  settle(s.d_n);
}

void Ops::head_weights(const Call& c) {
  HeadState& s = head_at(c);
  const Slice v = vocabulary_slice(setting_);
  cpu::linear_weight_grad({t_, v.end - v.begin, h_}, s.logits.floats(),
                          (has_tp() ? s.n_all : s.n).floats(), weights_.head.g);
  s = HeadState();
}

void Ops::head_loss(const Call& c) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  const auto target = ids_at(c.pass, positions_, batch_, token_stride(), module + 1);
  const Slice v = vocabulary_slice(setting_);
  s.partial = make(3 * t_);
  s.lse = make(t_);
  cpu::loss_partial(s.logits.floats(), target.data(), t_, v.end - v.begin, v.begin,
                    s.partial.floats());
  if (!has_tp()) finish_loss(c, s.partial);
}

void Ops::head_loss_reduce(const Call& c) {
  finish_loss(c, gathered(*groups_.tp, head_at(c).partial, 3 * t_));
}

void Ops::finish_loss(const Call& c, const Tensor& partials) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  const auto target = ids_at(c.pass, positions_, batch_, token_stride(), module + 1);
  const double sum =
      cpu::loss_combine(partials.floats(), target.data(), setting_.plan.tp, t_, s.lse.floats());
  s.partial = Tensor();
  if (setting_.place.tp == 0) (module == 0 ? loss : mtp_loss) += sum;
}

void Ops::head_loss_backward(const Call& c) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  const auto target = ids_at(c.pass, positions_, batch_, token_stride(), module + 1);
  const Slice v = vocabulary_slice(setting_);
  const double weight = module == 0 ? 1 : setting_.recipe.mtp_weight / setting_.model.mtp_depth;
  cpu::loss_backward(s.logits.floats(), target.data(), s.lse.floats(), t_, v.end - v.begin, v.begin,
                     static_cast<float>(weight / static_cast<double>(setting_.global_tokens)));
  s.lse = Tensor();
}

void Ops::head_reduce_backward(const Call& c) {
  HeadState& s = head_at(c);
  s.d_n = scattered(*groups_.tp, s.d_n, s_ * h_);
}

// ---- MTP: h' = M [norm(h); norm(embedding)] (V3 report, eq. 21)

void Ops::mtp_norm(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const int module = c.op.part - c.layout.layers;
  const Tensor& hidden = head_input(c.pass, c.layout, module == 0 ? -1 : c.op.part - 1);
  Tensor a, b;
  norm(hidden, w.hidden_norm, w.hidden_norm_bias, s_, h_, a, s.joined_stat_h);
  norm(s.embedded, w.embedding_norm, w.embedding_norm_bias, s_, h_, b, s.joined_stat_e);
  s.joined = make(2 * s_ * h_);
  for (std::int64_t i = 0; i < s_; ++i) {
    float* to = s.joined.floats() + 2 * i * h_;
    std::memcpy(to, a.floats() + i * h_, static_cast<std::size_t>(h_) * sizeof(float));
    std::memcpy(to + h_, b.floats() + i * h_, static_cast<std::size_t>(h_) * sizeof(float));
  }
}

void Ops::mtp_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const int module = c.op.part - c.layout.layers;
  Tensor a = make(s_ * h_), b = make(s_ * h_);
  for (std::int64_t i = 0; i < s_; ++i) {
    const float* from = s.d_joined.floats() + 2 * i * h_;
    std::memcpy(a.floats() + i * h_, from, static_cast<std::size_t>(h_) * sizeof(float));
    std::memcpy(b.floats() + i * h_, from + h_, static_cast<std::size_t>(h_) * sizeof(float));
  }
  s.d_joined = Tensor();
  Tensor& d = hidden_gradient(c.pass, c.layout, module);
  const Tensor& hidden = head_input(c.pass, c.layout, module == 0 ? -1 : c.op.part - 1);
  d = norm_grad(a, hidden, w.hidden_norm, w.hidden_norm_bias, s.joined_stat_h, s_, h_,
                std::move(d));
  s.d_embedded = norm_grad(b, s.embedded, w.embedding_norm, w.embedding_norm_bias, s.joined_stat_e,
                           s_, h_, {});
  s.joined_stat_h = s.joined_stat_e = s.embedded = Tensor();
}

void Ops::mtp_projection(const Call& c) {
  LayerState& s = at(c);
  s.x = product(c, s.joined, refs(c).projection, s_, h_, 2 * h_);
}

void Ops::mtp_projection_backward(const Call& c) {
  LayerState& s = at(c);
  s.d_joined = Tensor();
  product_grad(c, s.d_x, refs(c).projection, s_, h_, 2 * h_, s.d_joined);
}

void Ops::mtp_projection_weights(const Call& c) {
  LayerState& s = at(c);
  weight_grad(c, s.d_x, s.joined, refs(c).projection, s_, h_, 2 * h_);
  s.d_x = s.joined = Tensor();
}

}  // namespace reckon::real

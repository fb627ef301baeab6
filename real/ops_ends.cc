// The embedding, the head with its loss, and the projection in front of an MTP layer. Shapes as in
// pass.h.
#include "real/ops.h"

namespace reckon::real {

namespace {

Queue::Vocabulary vocabulary_slice(const Setting& s) {
  const std::int64_t v = s.model.vocab, tp = s.plan.tp, at = s.place.tp;
  return {static_cast<std::int32_t>(v * at / tp), static_cast<std::int32_t>(v * (at + 1) / tp)};
}

}  // namespace

Ops::Ids Ops::ids_at(const Call& c, std::int64_t shift) const {
  const std::int64_t n = batch_ * positions_.size();
  Ids ids;
  if (device_.remote())
    ids.tensor = make_ints(c, n);
  else
    ids.host.resize(static_cast<std::size_t>(n));
  ids.at = device_.remote() ? ints(c.q(ids.tensor)) : ids.host.data();
  c.q.token_ids({.tokens = ints(c.q(c.pass.tokens)),
                 .batch = batch_,
                 .stride = token_stride(),
                 .position = positions_.at(),
                 .positions = positions_.size()},
                shift, ids.at);
  return ids;
}

// ---- embedding: part -1 the model's input, else the tokens that an MTP module looks ahead to

void Ops::embedding(const Call& c) {
  const int module = c.op.part < 0 ? -1 : c.op.part - c.layout.layers;
  const Ids ids = ids_at(c, module + 1);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  Tensor x = make(c, t_ * h_);
  c.q.embedding_forward(weights_.embedding.w, ids.at, t_, h_, v, c.q(x));
  (module < 0 ? c.pass.input : at(c).embedded) = x;
}

void Ops::embedding_weights(const Call& c) {
  const int module = c.op.part < 0 ? -1 : c.op.part - c.layout.layers;
  const Ids ids = ids_at(c, module + 1);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  Tensor& d = module < 0 ? c.pass.d_input : at(c).d_embedded;
  c.q.embedding_backward(c.q(d), ids.at, t_, h_, v, weights_.embedding.g);
  if (module < 0 && setting_.model.positions == plan::Positions::Learned && setting_.place.tp == 0)
    c.q.embedding_backward(c.q(d), token_positions_.at(), t_, h_, {0, setting_.model.max_positions},
                           weights_.positions.g);
  d = Tensor();
}

// One tensor-parallel rank adds them, before the sum.
void Ops::embedding_positions(const Call& c) {
  if (c.op.part >= 0 || setting_.place.tp != 0) return;
  Tensor p = make(c, t_ * h_);
  c.q.embedding_forward(weights_.positions.w, token_positions_.at(), t_, h_,
                        {0, setting_.model.max_positions}, c.q(p));
  c.q.add_to(c.q(c.pass.input), c.q(p), t_ * h_);
  settle(c, c.pass.input);
}

void Ops::embedding_reduce(const Call& c) {
  Tensor& x = c.op.part < 0 ? c.pass.input : at(c).embedded;
  x = scattered(c, *groups_.tp, x, s_ * h_);
}

void Ops::embedding_gather(const Call& c) {
  Tensor& d = c.op.part < 0 ? c.pass.d_input : at(c).d_embedded;
  d = gathered(c, *groups_.tp, d, s_ * h_);
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
  norm(c, head_input(c.pass, c.layout, c.op.part), head_norm_of(c.chunk, c.op.part),
       head_bias_of(c.chunk, c.op.part), s_, h_, s.n, s.n_stat);
}

void Ops::head_norm_backward(const Call& c) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  Tensor& d = hidden_gradient(c.pass, c.layout, module);
  Tensor& x = head_input(c.pass, c.layout, c.op.part);
  d = norm_grad(c, s.d_n, x, head_norm_of(c.chunk, c.op.part), head_bias_of(c.chunk, c.op.part),
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
  s.n_all = gathered(c, *groups_.tp, s.n, s_ * h_);
  s.n = Tensor();
}

void Ops::head(const Call& c) {
  HeadState& s = head_at(c);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  s.logits = make(c, t_ * (v.end - v.begin));
  c.q.linear_forward({t_, v.end - v.begin, h_}, c.q(has_tp() ? s.n_all : s.n), weights_.head.w,
                     c.q(s.logits));
}

void Ops::head_backward(const Call& c) {
  HeadState& s = head_at(c);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  s.d_n = make(c, t_ * h_);
  c.q.linear_input_grad({t_, v.end - v.begin, h_}, c.q(s.logits), weights_.head.w, c.q(s.d_n),
                        false);
  settle(c, s.d_n);
}

void Ops::head_weights(const Call& c) {
  HeadState& s = head_at(c);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  c.q.linear_weight_grad({t_, v.end - v.begin, h_}, c.q(s.logits), c.q(has_tp() ? s.n_all : s.n),
                         weights_.head.g);
  s = HeadState();
}

void Ops::head_loss(const Call& c) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  const Ids target = ids_at(c, module + 1);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  s.partial = make_floats(c, 3 * t_);
  s.lse = make_floats(c, t_);
  c.q.loss_partial(c.q(s.logits), target.at, t_, v, floats(c.q(s.partial)));
  if (!has_tp()) finish_loss(c, s.partial);
}

void Ops::head_loss_reduce(const Call& c) {
  finish_loss(c, gathered(c, *groups_.tp, head_at(c).partial, 3 * t_));
}

void Ops::finish_loss(const Call& c, const Tensor& partials) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  const Ids target = ids_at(c, module + 1);
  // Tensor-parallel ranks all know it; the first counts it.
  double* const sums = losses_.at();
  c.q.loss_combine(floats(c.q(partials)), target.at, setting_.plan.tp, t_, floats(c.q(s.lse)),
                   sums + (setting_.place.tp > 0 ? 2
                           : module == 0         ? 0
                                                 : 1));
  s.partial = Tensor();
}

void Ops::head_loss_backward(const Call& c) {
  HeadState& s = head_at(c);
  const int module = c.op.part < 0 ? 0 : c.op.part - c.layout.layers + 1;
  const Ids target = ids_at(c, module + 1);
  const Queue::Vocabulary v = vocabulary_slice(setting_);
  const double weight = module == 0 ? 1 : setting_.recipe.mtp_weight / setting_.model.mtp_depth;
  c.q.loss_backward(c.q(s.logits), target.at, floats(c.q(s.lse)), t_, v,
                    static_cast<float>(weight / static_cast<double>(setting_.global_tokens)));
  s.lse = Tensor();
}

void Ops::head_reduce_backward(const Call& c) {
  HeadState& s = head_at(c);
  s.d_n = scattered(c, *groups_.tp, s.d_n, s_ * h_);
}

// ---- MTP: h' = M [norm(c, h); norm(c, embedding)] (V3 report, eq. 21)

void Ops::mtp_norm(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const int module = c.op.part - c.layout.layers;
  const Tensor& hidden = head_input(c.pass, c.layout, module == 0 ? -1 : c.op.part - 1);
  Tensor a, b;
  norm(c, hidden, w.hidden_norm, w.hidden_norm_bias, s_, h_, a, s.joined_stat_h);
  norm(c, s.embedded, w.embedding_norm, w.embedding_norm_bias, s_, h_, b, s.joined_stat_e);
  s.joined = make(c, 2 * s_ * h_);
  c.q.copy_rows({c.q(a), h_}, {c.q(s.joined), 2 * h_}, s_, h_);
  c.q.copy_rows({c.q(b), h_}, {c.q(s.joined) + h_, 2 * h_}, s_, h_);
}

void Ops::mtp_norm_backward(const Call& c) {
  LayerState& s = at(c);
  const LayerRefs& w = refs(c);
  const int module = c.op.part - c.layout.layers;
  Tensor a = make(c, s_ * h_), b = make(c, s_ * h_);
  c.q.copy_rows({c.q(s.d_joined), 2 * h_}, {c.q(a), h_}, s_, h_);
  c.q.copy_rows({c.q(s.d_joined) + h_, 2 * h_}, {c.q(b), h_}, s_, h_);
  s.d_joined = Tensor();
  Tensor& d = hidden_gradient(c.pass, c.layout, module);
  const Tensor& hidden = head_input(c.pass, c.layout, module == 0 ? -1 : c.op.part - 1);
  d = norm_grad(c, a, hidden, w.hidden_norm, w.hidden_norm_bias, s.joined_stat_h, s_, h_,
                std::move(d));
  s.d_embedded = norm_grad(c, b, s.embedded, w.embedding_norm, w.embedding_norm_bias,
                           s.joined_stat_e, s_, h_, {});
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

#include "real/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "sim/check.h"

namespace reckon::real {

Range Optimizer::Shard::bucket(std::uint32_t index) const {
  const std::int64_t n = flat().count;
  return {n * index / buckets, n * (index + 1) / buckets};
}

Range Optimizer::Shard::owned(std::uint32_t index, int member) const {
  const Range b = bucket(index);
  if (!sharded) return b;
  const std::int64_t n = b.end - b.begin, size = group->size();
  return {b.begin + n * member / size, b.begin + n * (member + 1) / size};
}

Optimizer::Optimizer(const Setting& setting, Weights& weights, Groups& groups,
                     const sim::Role& role, Meter& meter, Device& device)
    : setting_(setting),
      weights_(weights),
      groups_(groups),
      meter_(meter),
      device_(device),
      masters_(setting.plan.precision != plan::Precision::Fp32),
      square_(device, {0.0}) {
  Queue& q = device.compute();
  const Element moments =
      setting.plan.precision == plan::Precision::Fp8DeepSeek ? device.narrow() : Element::Fp32;
  const auto room = [&](std::int64_t n, Element e) {
    return Tensor(meter, n, {.element = e, .what = Holds::Optimizer, .queue = q.index()});
  };
  const bool zero = setting.plan.zero != plan::Zero::None;
  for (ChunkWeights& c : weights.chunks())
    for (const bool expert : {false, true}) {
      Shard s{.chunk = &c, .expert = expert};
      if (s.flat().count == 0) continue;
      s.group = expert ? groups.edp.get() : groups.dp_cp.get();
      s.sharded = zero && s.group->size() > 1;
      for (const sim::Sync& sync : role.syncs)
        if (sync.chunk == c.chunk && !sync.before &&
            std::strcmp(sync.label, expert ? "grad.experts" : "grad.dense") == 0)
          s.buckets = sync.buckets;

      std::int64_t state = 0;
      for (std::uint32_t b = 0; b < s.buckets; ++b) {
        const Range own = s.owned(b, s.group->index());
        for (const Param& p : c.table.params) {
          if (p.expert != expert) continue;
          const Range r{std::max(own.begin, p.offset), std::min(own.end, p.offset + p.count())};
          if (r.begin >= r.end) continue;
          const bool first_copy = !c.owns_embedding || groups.copies == nullptr ||
                                  groups.copies->index() == 0 || p.name.rfind("embedding", 0) != 0;
          s.segments.push_back({.param = &p,
                                .range = r,
                                .state = state,
                                .counted = first_copy && (!p.replicated || setting.place.tp == 0) &&
                                           (s.sharded || s.group->index() == 0)});
          state += r.end - r.begin;
        }
      }
      s.m = room(state, moments), s.v = room(state, moments);
      q.zero(s.m.view(), state), q.zero(s.v.view(), state);
      if (masters_) s.master = room(state, Element::Fp32);
      shards_.push_back(std::move(s));
    }
  if (!masters_) return;
  for (Shard& s : shards_)
    for (const Segment& g : s.segments) {
      const std::int64_t n = g.range.end - g.range.begin;
      if (device.remote())
        q.upload(s.flat().start.data() + g.range.begin, s.master.view() + g.state, n);
      else
        q.copy(s.flat().weights.view() + g.range.begin, s.master.view() + g.state, n);
    }
  for (ChunkWeights& c : weights.chunks())
    for (Flat* f : {&c.dense, &c.experts}) {
      if (device.remote())
        narrow(f->start, f->weights.view());
      else
        q.round_bf16(f->weights.view(), f->count);
      f->start = {};
    }
}

Optimizer::Shard& Optimizer::shard(int chunk, bool expert) {
  for (Shard& s : shards_)
    if (s.chunk->chunk == chunk && s.expert == expert) return s;
  check(false, "a sync is about parameters that the rank has");
  return shards_.front();
}

// ---- collectives

void Optimizer::reduce(Queue& q, Shard& s) {
  const View g = s.flat().grads.view();
  if (!s.sharded) {
    s.group->all_reduce(q, g, static_cast<std::size_t>(s.flat().count));
    return;
  }
  for (std::uint32_t b = 0; b < s.buckets; ++b) {
    std::vector<std::size_t> counts;
    for (int member = 0; member < s.group->size(); ++member) {
      const Range r = s.owned(b, member);
      counts.push_back(static_cast<std::size_t>(r.end - r.begin));
    }
    s.group->reduce_scatter_parts(q, g + s.bucket(b).begin, g + s.owned(b, s.group->index()).begin,
                                  counts);
  }
}

void Optimizer::gather(Queue& q, Shard& s) {
  if (!s.sharded) return;
  const View w = s.flat().weights.view();
  for (std::uint32_t b = 0; b < s.buckets; ++b) {
    std::vector<std::size_t> counts;
    for (int member = 0; member < s.group->size(); ++member) {
      const Range r = s.owned(b, member);
      counts.push_back(static_cast<std::size_t>(r.end - r.begin));
    }
    s.group->all_gather_parts(q, w + s.owned(b, s.group->index()).begin, w + s.bucket(b).begin,
                              counts);
  }
}

// Parameters that each tensor-parallel rank has used on its own tokens.
void Optimizer::sum_replicated(Queue& q, ChunkWeights& c) {
  std::int64_t n = 0;
  for (const Param& p : c.table.params) n += p.replicated ? p.count() : 0;
  const Tensor all(meter_, n, {.what = Holds::Buffers, .queue = q.index()});
  const auto each = [&](auto copy) {
    View at = q(all);
    for (const Param& p : c.table.params) {
      if (!p.replicated) continue;
      copy(at, c.of(p).grads.view() + p.offset, p.count());
      at = at + p.count();
    }
  };
  each([&](View to, View from, std::int64_t k) { q.copy(from, to, k); });
  groups_.tp_data->all_reduce(q, q(all), static_cast<std::size_t>(n));
  each([&](View from, View to, std::int64_t k) { q.copy(from, to, k); });
}

void Optimizer::sync(const sim::Sync& sync) {
  const std::string_view label = sync.label;
  Queue& q = device_.queue(sim::Stream::Data);
  if (label == "grad.dense" || label == "grad.experts")
    return reduce(q, shard(sync.chunk, label == "grad.experts"));
  if (label == "param.dense" || label == "param.experts")
    return gather(q, shard(sync.chunk, label == "param.experts"));
  if (label == "grad.replicated") return sum_replicated(q, weights_.chunk(sync.chunk));
  if (label == "grad.tied") {
    const ChunkWeights& c = weights_.chunk(sync.chunk);
    const Param& p = c.table.at("embedding");
    return groups_.copies->all_reduce(q, c.dense.grads.view() + p.offset,
                                      static_cast<std::size_t>(p.count()));
  }
  throw std::invalid_argument("the trainer has no collective " + std::string(label));
}

// ---- the step

void Optimizer::norm() {
  square_.write(device_, {0.0});
  for (const Shard& s : shards_)
    for (const Segment& g : s.segments)
      if (g.counted)
        device_.compute().square_sum(s.flat().grads.view() + g.range.begin,
                                     g.range.end - g.range.begin, square_.at());
}

void Optimizer::sum_norm() {
  double square = square_.read(device_)[0];
  groups_.world->host().all_reduce(&square, 1);
  square_.write(device_, {square});
  for (RouterState& r : weights_.routers())
    groups_.stage->all_reduce(device_.compute(), r.load.view(),
                              static_cast<std::size_t>(r.load.count()));
}

// The bias of an expert that had more than its share this step falls, else it rises (V3 report,
// section 2.1.2).
void Optimizer::move_router_biases() {
  const bool moves = setting_.model.moe && setting_.model.moe->score == plan::RouterScore::Sigmoid;
  for (RouterState& r : weights_.routers())
    device_.compute().move_router_bias(floats(r.load.view()), floats(r.bias.view()), r.load.count(),
                                       moves ? setting_.recipe.bias_speed : 0);
}

void Optimizer::update(std::int64_t step) {
  // The host waits for a device here (and in sum_norm, which a lone rank has not): whether the
  // weights may be updated depends on it. Rounded, so that the order in which ranks have added it
  // does not reach the weights.
  norm_ = static_cast<float>(std::sqrt(square_.read(device_)[0]));
  if (!std::isfinite(norm_))
    throw Diverged("step " + std::to_string(step) +
                   ": the gradient is not finite; lower the learning rate, or resume "
                   "from an earlier checkpoint");
  const Recipe& r = setting_.recipe;
  const cpu::Adam adam{.lr = learning_rate(r, step),
                       .beta1 = r.beta1,
                       .beta2 = r.beta2,
                       .eps = r.eps,
                       .weight_decay = r.weight_decay,
                       .gradient_scale = r.clip > 0 && norm_ > r.clip ? r.clip / norm_ : 1,
                       .step = step,
                       .bf16_moments = setting_.plan.precision == plan::Precision::Fp8DeepSeek};
  std::vector<AdamPiece> pieces;
  for (Shard& s : shards_)
    for (const Segment& g : s.segments)
      pieces.push_back({.grad = s.flat().grads.view() + g.range.begin,
                        .w = s.flat().weights.view() + g.range.begin,
                        .master = masters_ ? floats(s.master.view()) + g.state : nullptr,
                        .m = s.m.view() + g.state,
                        .v = s.v.view() + g.state,
                        .n = g.range.end - g.range.begin,
                        .weight_decay = g.param->decays() ? r.weight_decay : 0});
  device_.compute().adam_update(adam, pieces);
  move_router_biases();
}

void Optimizer::clear() {
  for (ChunkWeights& c : weights_.chunks())
    for (Flat* f : {&c.dense, &c.experts}) device_.compute().zero(f->grads.view(), f->count);
}

void Optimizer::run(const char* name, std::int64_t step) {
  const std::string_view label = name;
  if (label == "optimizer.norm") {
    gathered_dense_ = false;
    return norm();
  }
  if (label == "optimizer.norm.sum") return sum_norm();
  if (label == "optimizer.update") return update(step);
  if (label == "optimizer.clear") return clear();
  if (label == "optimizer.gather") {
    // One op for the dense parameters of all chunks, one for the experts'.
    gathered_dense_ = !gathered_dense_;
    for (Shard& s : shards_)
      if (s.expert != gathered_dense_) gather(device_.compute(), s);
    return;
  }
  throw std::invalid_argument("the trainer has no op " + std::string(label));
}

// ---- checkpoints

std::vector<SavedPiece> Optimizer::saved() const {
  std::vector<SavedPiece> out;
  Queue& q = device_.compute();
  const auto add = [&](Piece piece, View at) {
    const std::int64_t n = piece.count;
    if (!device_.remote()) {
      out.push_back({std::move(piece), floats(at)});
      return;
    }
    auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(n));
    Tensor wide;
    if (at.element != Element::Fp32) {
      wide = Tensor(meter_, n, {.what = Holds::Buffers, .queue = q.index()});
      q.copy(at, q(wide), n);
      at = q(wide);
    }
    q.download(at, values->data(), n);
    out.push_back({std::move(piece), values->data(), values});
  };
  for (const Shard& s : shards_)
    for (const Segment& g : s.segments) {
      if (!g.counted) continue;
      const std::int64_t first = g.range.begin - g.param->offset, n = g.range.end - g.range.begin;
      add(g.param->piece("", first, n),
          masters_ ? s.master.view() + g.state : s.flat().weights.view() + g.range.begin);
      add(g.param->piece("adam.m/", first, n), s.m.view() + g.state);
      add(g.param->piece("adam.v/", first, n), s.v.view() + g.state);
    }
  if (groups_.stage->index() == 0)
    for (const RouterState& r : weights_.routers()) {
      const std::int64_t n = r.bias.count();
      add({.tensor = r.name, .shape = {n}, .begin = {0}, .extent = {n}, .count = n}, r.bias.view());
    }
  return out;
}

// Fp32 values of the host into what is stored as bf16.
void Optimizer::narrow(const std::vector<float>& from, View to) const {
  constexpr std::size_t kPiece = 1 << 24;
  Queue& q = device_.compute();
  for (std::size_t at = 0; at < from.size(); at += kPiece) {
    const auto n = static_cast<std::int64_t>(std::min(kPiece, from.size() - at));
    const Tensor wide(meter_, n, {.what = Holds::Buffers, .queue = q.index()});
    q.upload(from.data() + at, q(wide), n);
    q.copy(q(wide), to + static_cast<std::int64_t>(at), n);
  }
}

void Optimizer::read(const Checkpoint& from, const Piece& piece, View to) const {
  if (!device_.remote()) return from.read(piece, floats(to));
  std::vector<float> values(static_cast<std::size_t>(piece.count));
  from.read(piece, values.data());
  if (to.element == Element::Fp32)
    device_.compute().upload(values.data(), to, piece.count);
  else
    narrow(values, to);
}

void Optimizer::load(const Checkpoint& from) {
  for (ChunkWeights& c : weights_.chunks()) {
    for (const Param& p : c.table.params)
      read(from, p.piece("", 0, p.count()), c.of(p).weights.view() + p.offset);
    if (masters_ && !device_.remote())
      for (Flat* f : {&c.dense, &c.experts})
        device_.compute().round_bf16(f->weights.view(), f->count);
  }
  for (Shard& s : shards_)
    for (const Segment& g : s.segments) {
      const std::int64_t first = g.range.begin - g.param->offset, n = g.range.end - g.range.begin;
      if (masters_) read(from, g.param->piece("", first, n), s.master.view() + g.state);
      read(from, g.param->piece("adam.m/", first, n), s.m.view() + g.state);
      read(from, g.param->piece("adam.v/", first, n), s.v.view() + g.state);
    }
  for (RouterState& r : weights_.routers()) {
    const std::int64_t n = r.bias.count();
    read(from, {.tensor = r.name, .shape = {n}, .begin = {0}, .extent = {n}, .count = n},
         r.bias.view());
  }
}

double learning_rate(const Recipe& r, std::int64_t step) {
  if (step <= r.warmup_steps)
    return r.lr * static_cast<double>(step) / static_cast<double>(r.warmup_steps);
  if (r.decay_steps <= 0) return r.lr;
  const double done = std::min(
      1.0, static_cast<double>(step - r.warmup_steps) / static_cast<double>(r.decay_steps));
  return r.min_lr + 0.5 * (r.lr - r.min_lr) * (1 + std::cos(3.14159265358979323846 * done));
}

}  // namespace reckon::real

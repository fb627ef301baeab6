#include "real/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "real/kernels.h"
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
                     const sim::Role& role, Meter& meter)
    : setting_(setting),
      weights_(weights),
      groups_(groups),
      meter_(meter),
      masters_(setting.plan.precision != plan::Precision::Fp32) {
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
      s.m = Tensor::zeros(meter, state, Holds::Optimizer);
      s.v = Tensor::zeros(meter, state, Holds::Optimizer);
      if (masters_) s.master = Tensor(meter, state, Holds::Optimizer);
      shards_.push_back(std::move(s));
    }
  for (Shard& s : shards_) {
    if (!masters_) continue;
    float* w = s.flat().weights.floats();
    for (const Segment& g : s.segments)
      std::copy(w + g.range.begin, w + g.range.end, s.master.floats() + g.state);
  }
  if (masters_)
    for (ChunkWeights& c : weights.chunks())
      for (Flat* f : {&c.dense, &c.experts}) cpu::round_bf16(f->weights.floats(), f->count);
}

Optimizer::Shard& Optimizer::shard(int chunk, bool expert) {
  for (Shard& s : shards_)
    if (s.chunk->chunk == chunk && s.expert == expert) return s;
  check(false, "a sync is about parameters that the rank has");
  return shards_.front();
}

// ---- collectives

void Optimizer::reduce(Shard& s) {
  float* g = s.flat().grads.floats();
  if (!s.sharded) {
    s.group->all_reduce(g, static_cast<std::size_t>(s.flat().count));
    return;
  }
  for (std::uint32_t b = 0; b < s.buckets; ++b) {
    std::vector<std::size_t> counts;
    for (int member = 0; member < s.group->size(); ++member) {
      const Range r = s.owned(b, member);
      counts.push_back(static_cast<std::size_t>(r.end - r.begin));
    }
    s.group->reduce_scatter_parts(g + s.bucket(b).begin, g + s.owned(b, s.group->index()).begin,
                                  counts);
  }
}

void Optimizer::gather(Shard& s) {
  if (!s.sharded) return;
  float* w = s.flat().weights.floats();
  for (std::uint32_t b = 0; b < s.buckets; ++b) {
    std::vector<std::size_t> counts;
    for (int member = 0; member < s.group->size(); ++member) {
      const Range r = s.owned(b, member);
      counts.push_back(static_cast<std::size_t>(r.end - r.begin));
    }
    s.group->all_gather_parts(w + s.owned(b, s.group->index()).begin, w + s.bucket(b).begin,
                              counts);
  }
}

// Parameters that each tensor-parallel rank has used on its own tokens.
void Optimizer::sum_replicated(ChunkWeights& c) {
  std::int64_t n = 0;
  for (const Param& p : c.table.params) n += p.replicated ? p.count() : 0;
  Tensor all(meter_, n, Holds::Buffers);
  const auto each = [&](auto copy) {
    float* at = all.floats();
    for (const Param& p : c.table.params) {
      if (!p.replicated) continue;
      copy(at, c.of(p).grads.floats() + p.offset, p.count());
      at += p.count();
    }
  };
  each([](float* to, const float* from, std::int64_t k) { std::copy(from, from + k, to); });
  groups_.tp_data->all_reduce(all.floats(), static_cast<std::size_t>(n));
  each([](const float* from, float* to, std::int64_t k) { std::copy(from, from + k, to); });
}

void Optimizer::sync(const sim::Sync& sync) {
  const std::string_view label = sync.label;
  if (label == "grad.dense" || label == "grad.experts")
    return reduce(shard(sync.chunk, label == "grad.experts"));
  if (label == "param.dense" || label == "param.experts")
    return gather(shard(sync.chunk, label == "param.experts"));
  if (label == "grad.replicated") return sum_replicated(weights_.chunk(sync.chunk));
  if (label == "grad.tied") {
    const ChunkWeights& c = weights_.chunk(sync.chunk);
    const Param& p = c.table.at("embedding");
    return groups_.copies->all_reduce(c.dense.grads.floats() + p.offset,
                                      static_cast<std::size_t>(p.count()));
  }
  throw std::invalid_argument("the trainer has no collective " + std::string(label));
}

// ---- the step

void Optimizer::norm() {
  square_ = 0;
  for (const Shard& s : shards_)
    for (const Segment& g : s.segments)
      if (g.counted)
        square_ +=
            cpu::square_sum(s.flat().grads.floats() + g.range.begin, g.range.end - g.range.begin);
}

void Optimizer::sum_norm() {
  groups_.world->all_reduce(&square_, 1);
  for (RouterState& r : weights_.routers())
    groups_.stage->all_reduce(r.load.floats(), static_cast<std::size_t>(r.load.count()));
}

// The bias of an expert that had more than its share this step falls, else it rises (V3 report,
// section 2.1.2).
void Optimizer::move_router_biases() {
  for (RouterState& r : weights_.routers()) {
    const std::int64_t n = r.load.count();
    double mean = 0;
    for (std::int64_t e = 0; e < n; ++e) mean += r.load.floats()[e] / static_cast<double>(n);
    for (std::int64_t e = 0; e < n; ++e) {
      const double over = r.load.floats()[e] - mean;
      if (setting_.model.moe->score == plan::RouterScore::Sigmoid && over != 0)
        r.bias.floats()[e] +=
            static_cast<float>(over > 0 ? -setting_.recipe.bias_speed : setting_.recipe.bias_speed);
      r.load.floats()[e] = 0;
    }
  }
}

void Optimizer::update(std::int64_t step) {
  // Rounded, so that the order in which ranks have added it does not reach the weights.
  norm_ = static_cast<float>(std::sqrt(square_));
  if (!std::isfinite(norm_))
    throw Diverged("step " + std::to_string(step) +
                   ": the gradient is not finite; lower the learning rate, or resume "
                   "from an earlier checkpoint");
  const Recipe& r = setting_.recipe;
  cpu::Adam adam{.lr = learning_rate(r, step),
                 .beta1 = r.beta1,
                 .beta2 = r.beta2,
                 .eps = r.eps,
                 .weight_decay = r.weight_decay,
                 .gradient_scale = r.clip > 0 && norm_ > r.clip ? r.clip / norm_ : 1,
                 .step = step,
                 .bf16_moments = setting_.plan.precision == plan::Precision::Fp8DeepSeek};
  for (Shard& s : shards_) {
    float* weights = s.flat().weights.floats();
    for (const Segment& g : s.segments) {
      const std::int64_t n = g.range.end - g.range.begin;
      adam.weight_decay = g.param->decays() ? r.weight_decay : 0;
      float* w = masters_ ? s.master.floats() + g.state : weights + g.range.begin;
      cpu::adam_update(adam, s.flat().grads.floats() + g.range.begin, w, s.m.floats() + g.state,
                       s.v.floats() + g.state, n);
      if (!masters_) continue;
      std::copy(w, w + n, weights + g.range.begin);
      cpu::round_bf16(weights + g.range.begin, n);
    }
  }
  move_router_biases();
}

void Optimizer::clear() {
  for (ChunkWeights& c : weights_.chunks())
    for (Flat* f : {&c.dense, &c.experts})
      std::memset(f->grads.floats(), 0, static_cast<std::size_t>(f->count) * sizeof(float));
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
      if (s.expert != gathered_dense_) gather(s);
    return;
  }
  throw std::invalid_argument("the trainer has no op " + std::string(label));
}

// ---- checkpoints

std::vector<SavedPiece> Optimizer::saved() const {
  std::vector<SavedPiece> out;
  for (const Shard& s : shards_)
    for (const Segment& g : s.segments) {
      if (!g.counted) continue;
      const std::int64_t first = g.range.begin - g.param->offset, n = g.range.end - g.range.begin;
      const float* w =
          masters_ ? s.master.floats() + g.state : s.flat().weights.floats() + g.range.begin;
      out.push_back({g.param->piece("", first, n), w});
      out.push_back({g.param->piece("adam.m/", first, n), s.m.floats() + g.state});
      out.push_back({g.param->piece("adam.v/", first, n), s.v.floats() + g.state});
    }
  if (groups_.stage->index() == 0)
    for (const RouterState& r : weights_.routers()) {
      const std::int64_t n = r.bias.count();
      out.push_back({{.tensor = r.name, .shape = {n}, .begin = {0}, .extent = {n}, .count = n},
                     r.bias.floats()});
    }
  return out;
}

void Optimizer::load(const Checkpoint& from) {
  for (ChunkWeights& c : weights_.chunks()) {
    for (const Param& p : c.table.params)
      from.read(p.piece("", 0, p.count()), c.of(p).weights.floats() + p.offset);
    if (masters_)
      for (Flat* f : {&c.dense, &c.experts}) cpu::round_bf16(f->weights.floats(), f->count);
  }
  for (Shard& s : shards_)
    for (const Segment& g : s.segments) {
      const std::int64_t first = g.range.begin - g.param->offset, n = g.range.end - g.range.begin;
      if (masters_) from.read(g.param->piece("", first, n), s.master.floats() + g.state);
      from.read(g.param->piece("adam.m/", first, n), s.m.floats() + g.state);
      from.read(g.param->piece("adam.v/", first, n), s.v.floats() + g.state);
    }
  for (RouterState& r : weights_.routers()) {
    const std::int64_t n = r.bias.count();
    from.read({.tensor = r.name, .shape = {n}, .begin = {0}, .extent = {n}, .count = n},
              r.bias.floats());
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

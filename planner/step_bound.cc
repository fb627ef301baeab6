// Two cuts make the bound cheap.
//
// Passes. A chunk is cut into segments: its layers, embedding, head, MTP modules. Ops of a stream
// run in order and never faster than alone, and every op waits, directly or not, for the last
// compute op of the segment before it. So a pass takes at least the sum over its segments of the
// time until their last compute op ends, without contention; and at least the launches. In an F&B
// pair, whose segments interleave, only expert exchanges run beside the compute of other segments:
// it takes at least the same sum as if they took no time, and at least what they take.
//
// Schedules. On each rank: the forward passes that lead to its first task, then all its tasks. Or
// these up to its last backward task, then the backward passes that this one's micro-batch still
// has to take to the first chunk. The longest such chain bounds the step.
//
// Left out: messages, data-parallel collectives, the optimizer, contention.
#include "planner/step_bound.h"

#include <algorithm>

#include "hw-models/cost.h"
#include "planner/chunk_block.h"
#include "planner/lower.h"
#include "sim/check.h"

namespace reckon::plan {

using sim::Phase;

namespace {

// Sums in another order than the simulator's, and its ticks: one part in 10^9 covers both.
constexpr double kRounding = 1 - 1e-9;

bool has_forward(Phase p) {
  return p == Phase::F || p == Phase::FB;
}
bool has_backward(Phase p) {
  return p == Phase::B || p == Phase::BW || p == Phase::FB;
}

}  // namespace

StepBound::StepBound(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack)
    : model_(model), cluster_(cluster), stack_(stack), params_(parameters(model)) {
  std::map<std::pair<int, bool>, int> kinds;  // window, mixture
  for (int l = 0; l < model.layers; ++l) {
    const int window = model.windows.empty() ? 0 : model.windows[static_cast<std::size_t>(l)];
    const auto [it, fresh] =
        kinds.try_emplace({window, is_moe_layer(model, l)}, static_cast<int>(kinds.size()));
    if (fresh) first_of_kind_.push_back(l);
    kind_of_layer_.push_back(it->second);
  }
}

StepBound::Segment StepBound::segment(const Plan& plan, const Groups& groups, int seq,
                                      const ChunkLayout& chunk) {
  const ChunkContext context{
      model_, params_, plan, stack_, groups, footprints_.of(model_, plan, groups), seq};
  const bool no_input_gradient = chunk.layers == 0 && chunk.embedding;
  Segment result;
  std::vector<double> end, hidden_end;
  std::vector<hw::Cost> costs;
  for (const auto& [index, phase] :
       {std::pair{kF, Phase::F}, {kB, Phase::B}, {kW, Phase::W}, {kBW, Phase::BW}}) {
    if (phase == Phase::B && no_input_gradient) continue;
    const bool forward = phase == Phase::F;
    const auto block =
        chunk_block(context, phase, forward ? &chunk : nullptr, forward ? nullptr : &chunk);
    Pass& pass = result[static_cast<std::size_t>(index)];
    std::array<double, sim::kStreams> free{}, hidden_free{};
    end.assign(block->ops.size(), 0);
    hidden_end.assign(block->ops.size(), 0);
    long kernels = 0;
    costs.clear();
    for (const sim::Work& w : block->works) costs.push_back(hw::cost(w, cluster_, stack_));
    for (std::size_t i = 0; i < block->ops.size(); ++i) {
      const sim::Op& op = block->ops[i];
      const hw::Cost& cost = costs[op.work];
      const bool expert = op.stream == sim::Stream::Expert;
      double& stream = free[static_cast<std::size_t>(op.stream)];
      double& hidden_stream = hidden_free[static_cast<std::size_t>(op.stream)];
      for (std::uint32_t w = 0; w < op.waits; ++w) {
        const std::uint32_t before = block->waits[op.first_wait + w];
        stream = std::max(stream, end[before]);
        hidden_stream = std::max(hidden_stream, hidden_end[before]);
      }
      end[i] = stream += cost.alone.si;
      hidden_end[i] = hidden_stream += expert ? 0 : cost.alone.si;
      kernels += cost.kernels;
      if (op.stream == sim::Stream::Compute) {
        pass.path = end[i];
        pass.hidden_path = hidden_end[i];
      }
      if (expert) pass.expert += cost.alone.si;
    }
    pass.host = static_cast<double>(kernels) * stack_.host_per_kernel.si;
  }
  return result;
}

const StepBound::Segments& StepBound::segments(const Plan& given, int seq) {
  Plan p = given;
  if (p.zero == Zero::Full) p.zero = Zero::Optimizer;  // gathers and reductions only add
  if (p.recompute.full_layers > 0) p.recompute = {};   // so does recomputing some layers
  const Groups g = groups(p, cluster_);
  std::vector<int> key{seq,
                       p.tp,
                       p.cp,
                       p.ep,
                       p.etp,
                       p.micro_batch,
                       static_cast<int>(p.precision),
                       static_cast<int>(p.recompute.mode),
                       static_cast<int>(p.recompute.modules),
                       p.recompute.full_layers,
                       p.sequence_parallel,
                       p.overlap.tp,
                       g.tp.per_node,
                       g.cp.per_node,
                       g.ep.per_node,
                       g.etp.per_node};
  const auto [it, fresh] = segments_.try_emplace(std::move(key));
  Segments& s = it->second;
  if (!fresh) return s;
  for (int layer : first_of_kind_)
    s.layers.push_back(segment(p, g, seq, {.first_layer = layer, .layers = 1}));
  s.embedding = segment(p, g, seq, {.embedding = true});
  s.head = segment(p, g, seq, {.head = true});
  if (model_.mtp_depth > 0) s.mtp = segment(p, g, seq, {.mtp = 1});
  return s;
}

const StepBound::Profile& StepBound::profile(const Plan& plan, int micro_batches) {
  const bool pairs = plan.overlap.expert == Overlap::Expert::OneFOneB;
  const auto [it, fresh] = profiles_.try_emplace(
      {static_cast<int>(plan.schedule), plan.pp, plan.vpp, micro_batches, pairs});
  Profile& result = it->second;
  if (!fresh) return result;

  Schedule schedule = make_schedule(plan.schedule, plan.pp, plan.vpp, micro_batches);
  if (pairs) schedule = pair_backward_with_next_forward(schedule);
  const auto m = static_cast<std::size_t>(micro_batches);
  const auto chunks = static_cast<std::size_t>(schedule.chunks);
  std::vector<const Task*> forward(chunks * m), backward(chunks * m), weight(chunks * m);
  for (const auto& order : schedule.order)
    for (const Task& t : order) {
      if (has_forward(t.phase)) forward[t.chunk * m + t.micro_batch] = &t;
      if (t.phase == Phase::FB)
        backward[t.chunk2 * m + t.micro_batch2] = &t;
      else if (has_backward(t.phase))
        backward[t.chunk * m + t.micro_batch] = &t;
      if (t.phase == Phase::W) weight[t.chunk * m + t.micro_batch] = &t;
    }

  std::map<Run, std::uint32_t> index;
  const auto add = [&](std::vector<Count>& chain, const Task& t) {
    const Run run{t.phase, t.chunk, t.phase == Phase::FB ? t.chunk2 : std::uint16_t{0}};
    const auto [at, fresh_run] =
        index.try_emplace(run, static_cast<std::uint32_t>(result.runs.size()));
    if (fresh_run) result.runs.push_back(run);
    for (Count& c : chain)
      if (c.run == at->second) {
        ++c.times;
        return;
      }
    chain.push_back({at->second, 1});
  };
  // A bidirectional schedule is its own mirror image: half of the ranks say everything.
  const std::size_t ranks = schedule.order.size() / (schedule.bidirectional ? 2 : 1);
  for (std::size_t r = 0; r < ranks; ++r) {
    const auto& order = schedule.order[r];
    std::vector<Count> chain;
    const Task& first = order.front();
    for (std::size_t c = 0; c < first.chunk; ++c) add(chain, *forward[c * m + first.micro_batch]);
    std::size_t last = order.size();
    while (!has_backward(order[last - 1].phase)) --last;
    for (std::size_t i = 0; i < last; ++i) add(chain, order[i]);
    std::vector<Count> all = chain;
    for (std::size_t i = last; i < order.size(); ++i) add(all, order[i]);
    const Task& t = order[last - 1];
    const std::size_t mb = t.phase == Phase::FB ? t.micro_batch2 : t.micro_batch;
    for (std::size_t c = t.phase == Phase::FB ? t.chunk2 : t.chunk; c-- > 0;)
      add(chain, *backward[c * m + mb]);
    if (weight[mb]) add(chain, *weight[mb]);  // of chunk 0
    result.chains.push_back(std::move(all));
    result.chains.push_back(std::move(chain));
  }
  return result;
}

Seconds StepBound::of(const Plan& plan, const StepShape& step) {
  const auto m =
      static_cast<int>(step.global_batch / (static_cast<std::int64_t>(plan.dp) * plan.micro_batch));
  const Segments& s = segments(plan, step.seq);
  const Profile& profile = this->profile(plan, m);

  std::vector<Segment> chunk(plan.layout.size());
  for (std::size_t c = 0; c < chunk.size(); ++c) {
    const ChunkLayout& layout = plan.layout[c];
    const auto add = [&](const Segment& part) {
      for (std::size_t phase = 0; phase < kPhases; ++phase) chunk[c][phase] += part[phase];
    };
    for (int l = layout.first_layer; l < layout.first_layer + layout.layers; ++l)
      add(s.layers[static_cast<std::size_t>(kind_of_layer_[static_cast<std::size_t>(l)])]);
    if (layout.embedding) add(s.embedding);
    if (layout.head) add(s.head);
    for (int d = 0; d < layout.mtp; ++d) add(s.mtp);
  }

  std::vector<double> seconds;
  seconds.reserve(profile.runs.size());
  for (const Run& run : profile.runs) {
    const Segment& c = chunk[run.chunk];
    const auto alone = [](const Pass& p) { return std::max(p.path, p.host); };
    switch (run.phase) {
      case Phase::F: seconds.push_back(alone(c[kF])); break;
      case Phase::B: seconds.push_back(alone(c[kB])); break;
      case Phase::W: seconds.push_back(alone(c[kW])); break;
      case Phase::BW: seconds.push_back(alone(c[kBW])); break;
      case Phase::FB: {
        Pass both = c[kF];
        both += chunk[run.chunk2][kBW];
        seconds.push_back(std::max({both.hidden_path, both.expert, both.host}));
        break;
      }
      case Phase::Optimizer: check(false, "a schedule holds no optimizer");
    }
  }
  double longest = 0;
  for (const auto& chain : profile.chains) {
    double length = 0;
    for (const Count& c : chain) length += c.times * seconds[c.run];
    longest = std::max(longest, length);
  }
  return Seconds(longest * kRounding) + stack_.host_per_step;
}

}  // namespace reckon::plan

// Blocks are accounted once, interval by interval between starts and ends of their ops; slots add
// up their blocks. The path is walked from the end of the step backwards: through a block from the
// op that ends it to the op whose end it started at, through the pipeline from a pass to what it
// waited for. Starts and ends are ticks of one calendar, so "at the end of" is equality.
#include "planner/step_causes.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string_view>

#include "sim/check.h"

namespace reckon::plan {

namespace {

using sim::SimTime;

struct Name {
  const char *key, *description;
};

constexpr Name kCauseNames[kStepCauses] = {
    {"products", "dense matrix products"},
    {"expert_products", "experts' matrix products"},
    {"attention", "attention"},
    {"quantise", "quantise and transpose"},
    {"permute", "routing and permutation of tokens"},
    {"elementwise", "norms and elementwise"},
    {"ends", "embedding table and loss"},
    {"optimizer", "optimizer"},
    {"gaps", "gaps between kernels"},
    {"contention", "compute held up by communication beside it"},
    {"exchange", "token exchanges (EP), exposed"},
    {"tensor", "tensor-parallel collectives (TP), exposed"},
    {"context", "context-parallel collectives (CP), exposed"},
    {"pipeline", "messages between stages (PP), exposed"},
    {"reduction", "gradient reductions (DP), exposed"},
    {"gather", "parameter gathers (DP), exposed"},
    {"launches", "waiting for the host's launches"},
    {"host", "host work between steps"},
    {"bubble", "pipeline bubble"},
};

constexpr std::size_t index(StepCause cause) {
  return static_cast<std::size_t>(cause);
}

StepCause compute_cause(const sim::Work& work) {
  if (std::holds_alternative<sim::MatMul>(work)) return StepCause::Products;
  if (std::holds_alternative<sim::GroupedMatMul>(work)) return StepCause::Experts;
  if (std::holds_alternative<sim::Attention>(work)) return StepCause::Attention;
  const auto* m = std::get_if<sim::MemoryBound>(&work);
  if (m == nullptr) return StepCause::Contention;  // communication on a compute stream: none is
  switch (m->kind) {
    case sim::MemoryKind::Elementwise:
    case sim::MemoryKind::Norm: return StepCause::Elementwise;
    case sim::MemoryKind::Quantise:
    case sim::MemoryKind::Transpose: return StepCause::Quantise;
    case sim::MemoryKind::Permute:
    case sim::MemoryKind::Router: return StepCause::Permute;
    case sim::MemoryKind::Embedding:
    case sim::MemoryKind::CrossEntropy: return StepCause::Ends;
    case sim::MemoryKind::Optimizer: return StepCause::Optimizer;
  }
  return StepCause::Elementwise;
}

// Context- and tensor-parallel collectives share a stream; their labels tell them apart
// (layer_attention.cc).
StepCause communication_cause(const sim::Op& op) {
  const std::string_view label = op.label;
  switch (op.stream) {
    case sim::Stream::Expert: return StepCause::Exchange;
    case sim::Stream::Model:
      return label == "attn.ring" || label.starts_with("attn.context") ? StepCause::Context
                                                                       : StepCause::Tensor;
    case sim::Stream::Pipe: return StepCause::Pipeline;
    case sim::Stream::Data:
      return label.find("gather") != std::string_view::npos ? StepCause::Gather
                                                            : StepCause::Reduction;
    case sim::Stream::Compute:
    case sim::Stream::Compute2: break;
  }
  return StepCause::Contention;
}

bool is_compute(const sim::Op& op) {
  return op.stream == sim::Stream::Compute || op.stream == sim::Stream::Compute2;
}

class Accountant {
 public:
  Accountant(const Predictor::Run& run, Predictor& predictor, const hw::Stack& stack)
      : program_(run.program), run_(run.folded), times_(predictor.times()), stack_(stack) {
    for (const auto& block : program_.blocks) blocks_.push_back(account_of(block));
  }

  StepAccount account();

 private:
  // One block, alone.
  struct Account {
    const sim::Block* block = nullptr;
    const sim::BlockTime* time = nullptr;
    std::vector<char> launched;  // per op: it ended when the host had launched its last kernel
    Causes causes{};             // add up to the block's duration
    Seconds recompute;
    std::map<std::string_view, Seconds> ops;  // those of `causes` that are ops
    std::optional<Causes> path;               // of the path through it, once asked for
  };

  Account account_of(const std::shared_ptr<const sim::Block>& block);
  // Adds `part` of the span of one op to what it consists of.
  void add_op(const Account& a, std::uint32_t op, Seconds part, Causes& causes);
  const Causes& path_through(Account& a);
  // When a message to a slot is there.
  SimTime arrival(const sim::Role& role, const sim::Slot& slot, std::uint32_t k);
  // Of a slot's time, what is not its block: messages waited for, parameters, SMs lent to
  // reductions.
  void add_beyond_block(std::size_t role, std::uint32_t slot, Causes& causes);
  bool needs_parameters(const sim::Role& role, std::uint32_t slot) const {
    return std::any_of(role.syncs.begin(), role.syncs.end(),
                       [&](const sim::Sync& s) { return s.before && s.slot == slot; });
  }
  void mean(StepAccount& a);
  void path(Causes& path);

  const sim::Program& program_;
  const sim::FoldedRun& run_;
  sim::BlockTimes& times_;
  const hw::Stack& stack_;
  std::vector<Account> blocks_;  // as Program::blocks
};

void Accountant::add_op(const Account& a, std::uint32_t i, Seconds part, Causes& causes) {
  const sim::Op& op = a.block->ops[i];
  if (!is_compute(op)) {
    causes[index(communication_cause(op))] += part;
    return;
  }
  const Seconds took = sim::seconds(a.time->spans[i].end - a.time->spans[i].start);
  if (took.si <= 0) return;
  const sim::Work& work = a.block->works[op.work];
  const sim::OpCost& cost = times_.cost(work);
  const Seconds alone = std::min(cost.alone, took);
  const Seconds gaps = std::min(alone, cost.kernels * stack_.kernel_gap);
  const double share = part / took;
  causes[index(compute_cause(work))] += share * (alone - gaps);
  causes[index(StepCause::Gaps)] += share * gaps;
  causes[index(a.launched[i] != 0 ? StepCause::Launches : StepCause::Contention)] +=
      share * (took - alone);
}

Accountant::Account Accountant::account_of(const std::shared_ptr<const sim::Block>& shared) {
  Account a{.block = shared.get(), .time = &times_.of(shared)};
  const std::vector<sim::OpSpan>& spans = a.time->spans;
  const auto n = static_cast<std::uint32_t>(spans.size());
  const Seconds per_kernel = stack_.cuda_graphs ? Seconds(0) : stack_.host_per_kernel;
  long kernels = 0;
  for (std::uint32_t i = 0; i < n; ++i) {
    const sim::OpCost& cost = times_.cost(a.block->works[a.block->ops[i].work]);
    kernels += cost.kernels;
    const SimTime last = sim::ticks(static_cast<double>(kernels) * per_kernel);
    const SimTime took = spans[i].end - spans[i].start;
    a.launched.push_back(std::abs(last.ps - spans[i].end.ps) <= 1 &&
                         took > sim::ticks(cost.alone) + SimTime{1});
  }

  std::vector<SimTime> cuts{SimTime{}, a.time->duration};
  for (const sim::OpSpan& s : spans) cuts.insert(cuts.end(), {s.start, s.end});
  std::sort(cuts.begin(), cuts.end());
  cuts.erase(std::unique(cuts.begin(), cuts.end()), cuts.end());
  std::vector<std::uint32_t> by_start(n);
  for (std::uint32_t i = 0; i < n; ++i) by_start[i] = i;
  std::sort(by_start.begin(), by_start.end(), [&](std::uint32_t x, std::uint32_t y) {
    return std::pair(spans[x].start, x) < std::pair(spans[y].start, y);
  });
  std::vector<std::uint32_t> running, counted;
  std::size_t next = 0;
  for (std::size_t c = 0; c + 1 < cuts.size(); ++c) {
    const SimTime from = cuts[c], to = cuts[c + 1];
    std::erase_if(running, [&](std::uint32_t i) { return spans[i].end <= from; });
    for (; next < n && spans[by_start[next]].start <= from; ++next)
      if (spans[by_start[next]].end > from) running.push_back(by_start[next]);
    // Compute if there is any, else what the compute streams wait for.
    counted.clear();
    for (const bool compute : {true, false}) {
      for (const std::uint32_t i : running)
        if (is_compute(a.block->ops[i]) == compute) counted.push_back(i);
      if (!counted.empty()) break;
    }
    const Seconds time = sim::seconds(to - from);
    if (counted.empty()) a.causes[index(StepCause::Launches)] += time;
    for (const std::uint32_t i : counted) {
      const Seconds part = time / static_cast<double>(counted.size());
      const sim::Op& op = a.block->ops[i];
      add_op(a, i, part, a.causes);
      a.ops[op.label] += part;
      if (op.recompute && is_compute(op)) a.recompute += part;
    }
  }
  return a;
}

const Causes& Accountant::path_through(Account& a) {
  if (a.path) return *a.path;
  Causes& causes = a.path.emplace();
  const std::vector<sim::OpSpan>& spans = a.time->spans;
  const sim::Block& block = *a.block;
  // Of several that end at once: compute before communication, then the earliest in the block.
  const auto first_that_ends_at = [&](SimTime t, const auto& candidates) {
    std::optional<std::uint32_t> found;
    for (const std::uint32_t i : candidates)
      if (spans[i].end == t && spans[i].start < t &&
          (!found || (is_compute(block.ops[i]) && !is_compute(block.ops[*found]))))
        found = i;
    return found;
  };
  std::vector<std::uint32_t> all(spans.size());
  for (std::uint32_t i = 0; i < all.size(); ++i) all[i] = i;
  SimTime t = a.time->duration;
  std::optional<std::uint32_t> at = first_that_ends_at(t, all);
  while (at) {
    add_op(a, *at, sim::seconds(spans[*at].end - spans[*at].start), causes);
    t = spans[*at].start;
    const sim::Op& op = block.ops[*at];
    const auto* waits = block.waits.data() + op.first_wait;
    std::vector<std::uint32_t> before(waits, waits + op.waits);
    for (std::uint32_t i = *at; i-- > 0;)  // the last op of its own stream
      if (block.ops[i].stream == op.stream) {
        before.push_back(i);
        break;
      }
    // An op that takes no time starts and ends at t: what it waited for stands in for it.
    for (std::size_t k = 0; k < before.size(); ++k) {
      const std::uint32_t i = before[k];
      if (spans[i].start != t || spans[i].end != t) continue;
      const auto* more = block.waits.data() + block.ops[i].first_wait;
      before.insert(before.end(), more, more + block.ops[i].waits);
      for (std::uint32_t j = i; j-- > 0;)
        if (block.ops[j].stream == block.ops[i].stream) {
          before.push_back(j);
          break;
        }
    }
    at = first_that_ends_at(t, before);
  }
  causes[index(StepCause::Launches)] += sim::seconds(t);  // nothing but the host came before
  return causes;
}

// As the folded engine has it (sim/folded.cc).
SimTime Accountant::arrival(const sim::Role& role, const sim::Slot& slot, std::uint32_t k) {
  const sim::Message* messages = role.messages.data() + slot.first_message;
  const sim::Message& m = messages[k];
  SimTime t = run_.slots[m.role][m.slot].end;
  if (program_.blocking_messages) return t;
  const double nic = blocks_[slot.block].time->nic_share;
  for (std::uint32_t o = 0; o < slot.messages; ++o) {
    if (o != k && (messages[o].role != m.role || messages[o].slot != m.slot)) continue;
    const sim::OpCost& cost = times_.cost(program_.works[messages[o].work]);
    t += sim::ticks(sim::seconds(sim::ticks(cost.alone)) / std::max(0.1, 1 - nic * cost.nic_share));
  }
  return t;
}

void Accountant::add_beyond_block(std::size_t r, std::uint32_t s, Causes& causes) {
  const sim::Role& role = program_.roles[r];
  const sim::Slot& slot = role.slots[s];
  const sim::SlotSpan span = run_.slots[r][s];
  SimTime rest = span.end - span.start - blocks_[slot.block].time->duration;
  if (program_.blocking_messages)
    for (std::uint32_t k = 0; k < slot.messages; ++k) {
      const sim::Work& work = program_.works[role.messages[slot.first_message + k].work];
      const SimTime held = std::min(rest, sim::ticks(times_.cost(work).alone));
      causes[index(StepCause::Pipeline)] += sim::seconds(held);
      rest = rest - held;
    }
  causes[index(needs_parameters(role, s) ? StepCause::Gather : StepCause::Reduction)] +=
      sim::seconds(rest);
}

void Accountant::mean(StepAccount& a) {
  double ranks = 0;
  std::map<std::string_view, Seconds> ops;
  for (std::size_t r = 0; r < program_.roles.size(); ++r) {
    const sim::Role& role = program_.roles[r];
    const double n = role.ranks;
    ranks += n;
    Causes own{};
    const auto add_block = [&](std::uint32_t block) {
      const Account& b = blocks_[block];
      for (std::size_t c = 0; c < own.size(); ++c) own[c] += b.causes[c];
      a.recompute += n * b.recompute;
      for (const auto& [label, time] : b.ops) ops[label] += n * time;
    };
    SimTime clock;
    for (std::uint32_t s = 0; s < role.slots.size(); ++s) {
      const sim::Slot& slot = role.slots[s];
      const SimTime start = run_.slots[r][s].start;
      // The flight of the last message; before it, other stages were at work.
      SimTime flight, last = clock;
      for (std::uint32_t k = 0; k < slot.messages; ++k) {
        const sim::Message& m = role.messages[slot.first_message + k];
        const SimTime there = arrival(role, slot, k);
        if (there > last) last = there, flight = there - run_.slots[m.role][m.slot].end;
      }
      const SimTime wait = start - clock;
      const SimTime for_parameters = std::min(wait, start - std::min(start, last));
      const SimTime for_message = std::min(wait - for_parameters, flight);
      own[index(StepCause::Gather)] += sim::seconds(for_parameters);
      own[index(StepCause::Pipeline)] += sim::seconds(for_message);
      own[index(StepCause::Bubble)] += sim::seconds(wait - for_parameters - for_message);
      add_block(slot.block);
      add_beyond_block(r, s, own);
      clock = run_.slots[r][s].end;
    }
    own[index(StepCause::Reduction)] += sim::seconds(run_.tail_start[r] - clock);
    add_block(role.tail);
    own[index(StepCause::Bubble)] += sim::seconds(run_.roles[r].idle);
    for (std::size_t c = 0; c < own.size(); ++c) a.mean[c] += n * own[c];
  }
  for (Seconds& t : a.mean) t /= ranks;
  a.recompute /= ranks;
  for (const auto& [label, time] : ops) a.ops.push_back({std::string(label), time / ranks});
  std::stable_sort(a.ops.begin(), a.ops.end(),
                   [](const auto& x, const auto& y) { return x.time > y.time; });
}

void Accountant::path(Causes& path) {
  const auto add_block = [&](std::uint32_t block) {
    const Causes& through = path_through(blocks_[block]);
    for (std::size_t c = 0; c < path.size(); ++c) path[c] += through[c];
  };
  std::size_t r = run_.slowest;
  add_block(program_.roles[r].tail);
  // Until the last role was there, the chain runs through its gradients; what the norm of more or
  // fewer of them takes is the optimizer's too.
  const sim::BlockTime& tail = *blocks_[program_.roles[r].tail].time;
  if (sim::wait_in_tail(tail, run_.late[r]) > SimTime{}) {
    const std::size_t last = run_.last_there;
    const sim::BlockTime& other = *blocks_[program_.roles[last].tail].time;
    path[index(StepCause::Optimizer)] +=
        sim::seconds(other.meeting.start - tail.meeting.start - tail.meeting.slack);
    r = last;
  }
  if (program_.roles[r].slots.empty()) {
    path[index(StepCause::Reduction)] += sim::seconds(run_.tail_start[r]);
    return;
  }
  auto s = static_cast<std::uint32_t>(program_.roles[r].slots.size() - 1);
  path[index(StepCause::Reduction)] += sim::seconds(run_.tail_start[r] - run_.slots[r][s].end);
  for (;;) {
    const sim::Role& role = program_.roles[r];
    const sim::Slot& slot = role.slots[s];
    const sim::SlotSpan span = run_.slots[r][s];
    const SimTime duration = blocks_[slot.block].time->duration;
    // A slot that is longer than its block because its parameters came late: they have been moving
    // since the step began.
    if (needs_parameters(role, s) && !program_.blocking_messages &&
        span.end - span.start > duration) {
      path[index(StepCause::Gather)] += sim::seconds(span.end);
      return;
    }
    add_block(slot.block);
    add_beyond_block(r, s, path);
    if (s > 0 && run_.slots[r][s - 1].end == span.start) {
      --s;
      continue;
    }
    std::optional<std::uint32_t> last;
    for (std::uint32_t k = 0; k < slot.messages && !last; ++k)
      if (arrival(role, slot, k) == span.start) last = k;
    if (!last) {  // the first bucket of its parameters
      path[index(StepCause::Gather)] += sim::seconds(span.start);
      return;
    }
    const sim::Message& m = role.messages[slot.first_message + *last];
    path[index(StepCause::Pipeline)] += sim::seconds(span.start - run_.slots[m.role][m.slot].end);
    r = m.role;
    s = m.slot;
  }
}

StepAccount Accountant::account() {
  StepAccount a;
  mean(a);
  path(a.path);
  return a;
}

}  // namespace

const char* key(StepCause cause) {
  return kCauseNames[index(cause)].key;
}

const char* description(StepCause cause) {
  return kCauseNames[index(cause)].description;
}

Seconds sum(const Causes& causes) {
  Seconds total;
  for (const Seconds t : causes) total += t;
  return total;
}

StepAccount step_account(const Predictor::Run& run, Predictor& predictor, const hw::Stack& stack) {
  StepAccount a = Accountant(run, predictor, stack).account();
  a.mean[index(StepCause::Host)] += run.prediction.phases.host;
  a.path[index(StepCause::Host)] += run.prediction.phases.host;
  return a;
}

}  // namespace reckon::plan

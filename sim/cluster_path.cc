// Walks a finished run backwards: from the last op to the op, message or collective whose end it
// started at, and so on to the start of the step. Slots on the way are evaluated again.
#include <algorithm>
#include <cmath>
#include <limits>

#include "sim/check.h"
#include "sim/cluster_blocks.h"

namespace reckon::sim {

namespace {

class Walk {
 public:
  Walk(const Program& program, ClusterBlocks& blocks, const ClusterRun& run)
      : program_(program), blocks_(blocks), run_(run), n_(run.members), rank_(run.slowest) {}

  std::vector<PathStep> path();

 private:
  const Role& role() const { return program_.roles[rank_.role]; }
  SimTime slot_end(std::uint32_t slot, std::uint32_t member) const {
    return run_.slots[rank_.role][std::size_t{slot} * n_ + member].end;
  }
  void add(PathStep::Kind kind, SimTime time) {
    if (time.ps > 0) path_.push_back({.kind = kind, .rank = rank_, .slot = slot_, .time = time});
  }
  SimTime through_block(const std::vector<SimTime>& starts, std::uint32_t block,
                        std::uint32_t entry = kEnd);
  bool through_slot();
  bool before_slot();

  static constexpr std::uint32_t kEnd = ~0u;  // of a block

  const Program& program_;
  ClusterBlocks& blocks_;
  const ClusterRun& run_;
  const std::uint32_t n_;
  RankId rank_;
  std::uint32_t slot_ = 0;
  std::vector<PathStep> path_;
};

// From the end of a block, or the start of one op, to the block's start, maybe on another rank of
// the role; from a collective of several roles on, on one of the last to come. Returns when the
// block ended on the rank where the walk entered it.
SimTime Walk::through_block(const std::vector<SimTime>& starts, std::uint32_t block_index,
                            std::uint32_t entry) {
  const Block& block = *program_.blocks[block_index];
  const BlockPlan& plan = blocks_.plan(block_index);
  const std::uint32_t n = plan.together, first = rank_.member / n * n;
  const SimTime base = *std::min_element(starts.begin(), starts.end());
  std::vector<double> late(n);
  for (std::uint32_t i = 0; i < n; ++i)
    late[i] = static_cast<double>((starts[first + i] - base).ps);
  const std::vector<double> at_start = late;
  const Lateness& rows = blocks_.run(rank_.role, slot_, {first, base}, late.data());

  std::uint32_t i = rank_.member - first;
  const SimTime ended = base + blocks_.time(block_index).duration + SimTime{std::llround(late[i])};
  std::uint32_t op = entry;  // kEnd: none yet
  for (const BlockPlan::Dependency& d : plan.ends)
    if (op == kEnd && rows.end[std::size_t{d.op} * n + i] - d.slack == late[i]) op = d.op;
  if (op == kEnd) {
    add(PathStep::Kind::Host, ended - starts[rank_.member]);
    return ended;
  }
  for (;;) {
    const BlockPlan::Op& o = plan.ops[op];
    const double start = rows.start[std::size_t{op} * n + i];
    const double end = rows.end[std::size_t{op} * n + i];
    if (op != entry)
      path_.push_back({.rank = rank_,
                       .slot = slot_,
                       .label = block.ops[op].label,
                       .stream = block.ops[op].stream,
                       .time = {std::llround(o.duration + end - start)}});
    const bool met = slot_ == role().slots.size() && blocks_.meeting(rank_.role) == op &&
                     rank_.role != run_.last_there;
    if (met && base + SimTime{std::llround(o.start + start)} == run_.met) {
      rank_ = {run_.last_there, 0};
      slot_ = static_cast<std::uint32_t>(role().slots.size());
      blocks_.hold(rank_.role, std::nullopt, {});
      through_block(run_.tail_start[rank_.role], role().tail, *blocks_.meeting(rank_.role));
      return ended;
    }
    // The rank of the group that was there last: this one if it was.
    const auto own_start = [&](std::uint32_t j, std::uint32_t* from) {
      double latest = at_start[j] - o.host_slack;  // its launch
      *from = ~0u;
      for (std::uint32_t k = 0; k < o.count; ++k) {
        const BlockPlan::Dependency& d = plan.dependencies[o.first + k];
        const double t = rows.end[std::size_t{d.op} * n + j] - d.slack;
        if (t > latest) latest = t, *from = d.op;
      }
      return latest;
    };
    std::uint32_t from = ~0u, last = i;
    if (own_start(i, &from) < start) {
      const std::uint32_t base_of = o.stride > 1 ? i % o.stride : i / o.group * o.group;
      for (std::uint32_t g = 0; g < o.group; ++g) {
        const std::uint32_t j = base_of + g * o.stride;
        if (own_start(j, &from) == start) {
          last = j;
          break;
        }
      }
      own_start(last, &from);
    }
    i = last;
    rank_.member = first + i;
    if (from == ~0u) {  // the host's launches up to it
      if (const double launched = o.start - o.host_slack; launched >= 1)
        add(PathStep::Kind::Host, {std::llround(launched)});
      return ended;
    }
    op = from;
  }
}

// Through slot_ to its start. False: the chain ends there.
bool Walk::through_slot() {
  const Slot& slot = role().slots[slot_];
  const SimTime end = slot_end(slot_, rank_.member);
  std::vector<SimTime> starts(n_);
  for (std::uint32_t i = 0; i < n_; ++i)
    starts[i] = run_.slots[rank_.role][std::size_t{slot_} * n_ + i].start;
  SimTime messages;
  for (std::uint32_t k = 0; program_.blocking_messages && k < slot.messages; ++k)
    messages += blocks_.alone(role().messages[slot.first_message + k].work);

  const std::size_t at = path_.size();
  const RankId entered = rank_;
  const SimTime ended = through_block(starts, slot.block) + messages;
  if (end > ended) {
    const auto& syncs = role().syncs;
    const bool gathered = std::any_of(syncs.begin(), syncs.end(),
                                      [&](const Sync& s) { return s.before && s.slot == slot_; });
    if (gathered) {  // it waited for its parameters, which move from the start of the step on
      path_.resize(at);
      rank_ = entered;
      add(PathStep::Kind::Gather, end);
      return false;
    }
    path_.insert(
        path_.begin() + static_cast<std::ptrdiff_t>(at),
        {.kind = PathStep::Kind::Sync, .rank = entered, .slot = slot_, .time = end - ended});
  }
  add(PathStep::Kind::Message, messages);
  return before_slot();
}

// From the start of slot_ to the end of what it waited for.
bool Walk::before_slot() {
  const Slot& slot = role().slots[slot_];
  const SimTime start = run_.slots[rank_.role][std::size_t{slot_} * n_ + rank_.member].start;
  if (slot_ > 0 && slot_end(slot_ - 1, rank_.member) == start) {
    --slot_;
    return true;
  }
  for (std::uint32_t k = 0; k < slot.messages; ++k) {
    const Message& m = role().messages[slot.first_message + k];
    const std::uint32_t from = blocks_.sender(rank_.role, m, rank_.member);
    const SimTime sent = run_.slots[m.role][std::size_t{m.slot} * n_ + from].end;
    if (blocks_.arrival(rank_, m, slot, sent) != start) continue;
    add(PathStep::Kind::Message, start - sent);
    rank_ = {m.role, from};
    slot_ = m.slot;
    return true;
  }
  add(PathStep::Kind::Gather, start);
  return false;
}

std::vector<PathStep> Walk::path() {
  slot_ = static_cast<std::uint32_t>(role().slots.size());
  const std::vector<SimTime>& starts = run_.tail_start[rank_.role];
  if (blocks_.meeting(rank_.role))
    blocks_.hold(rank_.role, run_.met, *std::min_element(starts.begin(), starts.end()));
  through_block(starts, role().tail);
  const auto slots = static_cast<std::uint32_t>(role().slots.size());
  if (slots == 0) return std::move(path_);
  // The reductions that the tail waited for.
  const SimTime start = run_.tail_start[rank_.role][rank_.member];
  if (start > slot_end(slots - 1, rank_.member)) {
    std::vector<SimTime> ends(n_);
    for (std::uint32_t i = 0; i < n_; ++i) ends[i] = slot_end(slots - 1, i);
    const RankId waiting = rank_;
    for (const Sync& s : role().syncs)
      if (!s.before) rank_.member = blocks_.latest(s.work, waiting.member, ends);
    path_.push_back({.kind = PathStep::Kind::Sync,
                     .rank = waiting,
                     .slot = slots,
                     .time = start - slot_end(slots - 1, rank_.member)});
  }
  slot_ = slots - 1;
  while (through_slot()) {
  }
  return std::move(path_);
}

}  // namespace

std::vector<PathStep> critical_path(const Program& program, BlockTimes& times,
                                    const Disturbances& disturbances, const ClusterRun& run) {
  ClusterBlocks blocks(program, times, disturbances);
  return Walk(program, blocks, run).path();
}

}  // namespace reckon::sim

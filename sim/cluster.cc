// run_folded's walk over the slots (folded.cc), for all members of a role at once. Where folded has
// one time, this has one a member; the formulas are the same, so that undisturbed ticks are too.
#include "sim/cluster.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "sim/check.h"
#include "sim/cluster_blocks.h"

namespace reckon::sim {

namespace {

// One role on its way through its slots; times by member.
struct Progress {
  std::vector<SimTime> clock, data_free;
  std::uint32_t next = 0;
  std::size_t next_sync = 0;
  struct Gather {
    std::vector<SimTime> first, last;
  };
  std::vector<Gather> gathers;  // by slot; empty where a slot needs none
};

class Engine {
 public:
  Engine(const Program& program, BlockTimes& times, const Disturbances& disturbances)
      : program_(program), blocks_(program, times, disturbances), n_(blocks_.members()) {}

  ClusterRun run();

 private:
  bool ready(std::uint32_t r) const;
  void slot(std::uint32_t r);
  void gathers(std::uint32_t r);
  void reductions(std::uint32_t r, std::uint32_t slot_index);
  void tail(std::uint32_t r);
  void finish(std::uint32_t r);
  // One bucket of the data-parallel collective `sync` on each member, if it takes `piece` alone and
  // starts at `begin`.
  std::vector<SimTime> pieces(std::uint32_t r, const Sync& sync, SimTime piece,
                              const std::vector<SimTime>& begin) const;
  SimTime first_tail(std::uint32_t r) const {
    return *std::min_element(out_.tail_start[r].begin(), out_.tail_start[r].end());
  }
  const Lateness* run_tail(std::uint32_t r);

  const Program& program_;
  ClusterBlocks blocks_;
  std::uint32_t n_;
  std::vector<Progress> progress_;
  std::vector<double> late_;
  ClusterRun out_;
};

// One bucket of a data-parallel collective on each member: as slow as the slowest NIC of its group.
std::vector<SimTime> Engine::pieces(std::uint32_t r, const Sync& sync, SimTime piece,
                                    const std::vector<SimTime>& begin) const {
  const SimTime all = static_cast<std::int64_t>(sync.buckets) * piece;
  std::vector<SimTime> out(n_, piece);
  for (std::uint32_t i = 0; i < n_; ++i)
    out[i] = blocks_.slowed(piece, sync.work, blocks_.nic({r, i}, begin[i], all));
  blocks_.level(sync.work, out);
  return out;
}

void Engine::gathers(std::uint32_t r) {
  const Role& role = program_.roles[r];
  Progress& p = progress_[r];
  for (const Sync& sync : role.syncs) {
    if (!sync.before) continue;
    p.gathers.resize(role.slots.size());
    const auto piece = pieces(r, sync, blocks_.alone(sync.work), p.data_free);
    Progress::Gather& g = p.gathers[sync.slot];
    const bool set = !g.first.empty();
    g.first.resize(n_);
    g.last.resize(n_);
    for (std::uint32_t i = 0; i < n_; ++i) {
      if (!set) g.first[i] = p.data_free[i] + piece[i];
      p.data_free[i] += static_cast<std::int64_t>(sync.buckets) * piece[i];
    }
    blocks_.level(sync.work, p.data_free);
    g.last = p.data_free;
  }
}

bool Engine::ready(std::uint32_t r) const {
  const Role& role = program_.roles[r];
  if (progress_[r].next >= role.slots.size()) return false;
  const Slot& slot = role.slots[progress_[r].next];
  for (std::uint32_t k = 0; k < slot.messages; ++k) {
    const Message& m = role.messages[slot.first_message + k];
    if (m.slot >= progress_[m.role].next) return false;
  }
  return true;
}

void Engine::slot(std::uint32_t r) {
  const Role& role = program_.roles[r];
  Progress& p = progress_[r];
  const std::uint32_t index = p.next;
  const Slot& slot = role.slots[index];
  const BlockTime& bt = blocks_.time(slot.block);
  const Progress::Gather* gather =
      p.gathers.empty() || p.gathers[index].first.empty() ? nullptr : &p.gathers[index];
  SlotSpan* spans = &out_.slots[r][std::size_t{index} * n_];

  SimTime messages;  // both ends hold their stream while a message moves
  for (std::uint32_t k = 0; program_.blocking_messages && k < slot.messages; ++k)
    messages += blocks_.alone(role.messages[slot.first_message + k].work);

  SimTime base{std::numeric_limits<std::int64_t>::max()};
  for (std::uint32_t i = 0; i < n_; ++i) {
    SimTime start = p.clock[i];
    for (std::uint32_t k = 0; k < slot.messages; ++k) {
      const Message& m = role.messages[slot.first_message + k];
      const std::size_t from = std::size_t{m.slot} * n_ + blocks_.sender(r, m, i);
      start = std::max(start, blocks_.arrival({r, i}, m, slot, out_.slots[m.role][from].end));
    }
    if (gather != nullptr) start = std::max(start, gather->first[i]);
    spans[i].start = start;
    base = std::min(base, start);
  }
  late_.resize(n_);
  for (std::uint32_t i = 0; i < n_; ++i) late_[i] = static_cast<double>((spans[i].start - base).ps);
  const std::uint32_t together = blocks_.plan(slot.block).together;
  for (std::uint32_t first = 0; first < n_; first += together)
    blocks_.run(r, index, {first, base}, &late_[first]);

  const Sync* running = p.next_sync > 0 ? &role.syncs[p.next_sync - 1] : nullptr;
  for (std::uint32_t i = 0; i < n_; ++i) {
    const SimTime start = spans[i].start;
    SimTime end = base + bt.duration + messages + SimTime{std::llround(late_[i])};
    if (gather != nullptr) end = std::max(end, gather->last[i]);
    // Gradient reductions of earlier slots that still run take SMs from this one.
    if (running != nullptr && !running->before && p.data_free[i] > start) {
      const SimTime shared = std::min(p.data_free[i], end) - start;
      end += ticks(seconds(shared) * (0.5 * blocks_.cost(running->work).sm_share));
    }
    spans[i].end = end;
    RoleTime& account = out_.ranks[r][i];
    account.wait += start - p.clock[i];
    switch (slot.phase) {
      case Phase::F: account.f += end - start; break;
      case Phase::B: account.b += end - start; break;
      case Phase::W: account.w += end - start; break;
      case Phase::BW: account.bw += end - start; break;
      case Phase::FB: account.fb += end - start; break;
      case Phase::Optimizer: check(false, "the optimizer is a role's tail, not a slot");
    }
    p.clock[i] = end;
  }
  reductions(r, index);
  ++p.next;
}

// Reductions that a slot feeds: the first bucket is ready after 1/buckets of it, the last at its
// end; a bucket moves when all of its group are there.
void Engine::reductions(std::uint32_t r, std::uint32_t slot_index) {
  const Role& role = program_.roles[r];
  Progress& p = progress_[r];
  const SlotSpan* spans = &out_.slots[r][std::size_t{slot_index} * n_];
  const double busy = blocks_.time(role.slots[slot_index].block).nic_share;
  for (; p.next_sync < role.syncs.size(); ++p.next_sync) {
    const Sync& sync = role.syncs[p.next_sync];
    if (sync.before) continue;
    if (sync.slot != slot_index) break;
    const auto buckets = static_cast<std::int64_t>(sync.buckets);
    const SimTime alone = blocks_.alone(sync.work);
    std::vector<SimTime> begin(n_), end(n_);
    for (std::uint32_t i = 0; i < n_; ++i) {
      const SimTime first = spans[i].start + SimTime{(spans[i].end - spans[i].start).ps / buckets};
      begin[i] = std::max(p.data_free[i], first);
      end[i] = std::max(spans[i].end, p.data_free[i]);
    }
    blocks_.level(sync.work, begin);
    blocks_.level(sync.work, end);
    const auto piece = pieces(r, sync, buckets > 1 ? stretched(alone, busy) : alone, begin);
    for (std::uint32_t i = 0; i < n_; ++i)
      p.data_free[i] = std::max(begin[i] + buckets * piece[i], end[i] + piece[i]);
  }
}

// Evaluates a role's tail into late_, against the first of its ranks to start it. Returns the rows
// of the last of them.
const Lateness* Engine::run_tail(std::uint32_t r) {
  const Role& role = program_.roles[r];
  const SimTime base = first_tail(r);
  for (std::uint32_t i = 0; i < n_; ++i)
    late_[i] = static_cast<double>((out_.tail_start[r][i] - base).ps);
  const std::uint32_t together = blocks_.plan(role.tail).together;
  const Lateness* rows = nullptr;
  for (std::uint32_t first = 0; first < n_; first += together)
    rows = &blocks_.run(r, static_cast<std::uint32_t>(role.slots.size()), {first, base},
                        &late_[first]);
  return rows;
}

// To the end of a role's tail, had it not to wait for others.
void Engine::tail(std::uint32_t r) {
  const Role& role = program_.roles[r];
  Progress& p = progress_[r];
  for (std::uint32_t i = 0; i < n_; ++i) {
    if (p.data_free[i] <= p.clock[i]) continue;
    out_.ranks[r][i].gradients = p.data_free[i] - p.clock[i];
    p.clock[i] = p.data_free[i];
  }
  out_.tail_start[r] = p.clock;
  const Lateness* rows = run_tail(r);
  const SimTime base = first_tail(r);
  for (std::uint32_t i = 0; i < n_; ++i) {
    const SimTime end = base + blocks_.time(role.tail).duration + SimTime{std::llround(late_[i])};
    out_.ranks[r][i].tail = end - p.clock[i];
    p.clock[i] = end;
  }
  if (const auto op = blocks_.meeting(r)) {  // of all members at once
    const SimTime there = base + blocks_.time(role.tail).meeting.start +
                          SimTime{std::llround(rows->start[std::size_t{*op} * n_])};
    if (there > out_.met) out_.met = there, out_.last_there = r;
  }
}

void Engine::finish(std::uint32_t r) {
  const Role& role = program_.roles[r];
  Progress& p = progress_[r];
  if (blocks_.meeting(r)) {
    const SimTime base = first_tail(r);
    blocks_.hold(r, out_.met, base);
    run_tail(r);
    for (std::uint32_t i = 0; i < n_; ++i) {
      const SimTime end = base + blocks_.time(role.tail).duration + SimTime{std::llround(late_[i])};
      out_.ranks[r][i].idle = end - p.clock[i];
      p.clock[i] = end;
    }
  }
  for (std::uint32_t i = 0; i < n_; ++i) {
    const SimTime end = p.clock[i];
    if (end > out_.end) {
      out_.end = end;
      out_.slowest = {r, i};
    }
  }
}

ClusterRun Engine::run() {
  const auto roles = static_cast<std::uint32_t>(program_.roles.size());
  out_.members = n_;
  out_.ranks.assign(roles, std::vector<RoleTime>(n_));
  out_.slots.resize(roles);
  out_.tail_start.resize(roles);
  progress_.resize(roles);
  late_.resize(n_);
  std::size_t left = 0;
  for (std::uint32_t r = 0; r < roles; ++r) {
    progress_[r].clock.resize(n_);
    progress_[r].data_free.resize(n_);
    out_.slots[r].resize(program_.roles[r].slots.size() * n_);
    left += program_.roles[r].slots.size();
    gathers(r);
  }
  while (left > 0) {
    const std::size_t before = left;
    for (std::uint32_t r = 0; r < roles; ++r)
      for (; ready(r); --left) slot(r);
    check(left < before, "slots do not wait for each other in a circle");
  }
  for (std::uint32_t r = 0; r < roles; ++r) tail(r);
  for (std::uint32_t r = 0; r < roles; ++r) finish(r);
  for (std::uint32_t r = 0; r < roles; ++r)
    for (std::uint32_t i = 0; i < n_; ++i)
      out_.ranks[r][i].idle += out_.end - progress_[r].clock[i];
  return std::move(out_);
}

}  // namespace

ClusterRun run_cluster(const Program& program, BlockTimes& times,
                       const Disturbances& disturbances) {
  return Engine(program, times, disturbances).run();
}

}  // namespace reckon::sim

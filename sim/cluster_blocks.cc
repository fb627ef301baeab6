#include "sim/cluster_blocks.h"

#include <algorithm>
#include <cmath>
#include <variant>

#include "sim/check.h"

namespace reckon::sim {

ClusterBlocks::ClusterBlocks(const Program& program, BlockTimes& times, const Disturbances& d)
    : program_(program), draws_(d), reference_(d.load.reference) {
  check(!program.roles.empty(), "a program has roles");
  members_ = program.roles[0].ranks;
  for (const Role& role : program.roles)
    check(role.ranks == members_, "every role is played by as many ranks");
  for (const Work& w : program.works) {
    costs_.push_back(times.cost(w));
    alone_.push_back(ticks(costs_.back().alone));
  }
  for (const auto& block : program.blocks) {
    times_.push_back(&times.of(block));
    plans_.push_back(block_plan(*block, *times_.back(), times, members_));
  }
  per_slot_ = d.slot.any();
  compute_ = per_slot_ || d.device.any() || !d.devices.empty();
  uneven_ = d.load.any();
  const auto roles = static_cast<std::uint32_t>(program.roles.size());
  if (compute_) {
    device_.resize(roles);
    for (std::uint32_t r = 0; r < roles; ++r)
      for (std::uint32_t i = 0; i < members_; ++i) device_[r].push_back(draws_.device({r, i}));
  }
  const auto slow = [&](std::vector<std::vector<double>>& factors, const SlowRank& s) {
    check(s.rank.role < roles && s.rank.member < members_, "a slow rank exists");
    check(s.speed > 0, "a slow rank is not dead");
    factors[s.rank.role][s.rank.member] /= s.speed;
  };
  for (const SlowRank& s : d.devices) slow(device_, s);
  if (!d.links.empty() || !d.flaps.empty()) nic_.assign(roles, std::vector<double>(members_, 1));
  for (const SlowRank& s : d.links) slow(nic_, s);
  if (!d.flaps.empty()) flaps_.assign(roles, std::vector<std::vector<Flap>>(members_));
  for (const Flap& f : d.flaps) {
    check(f.rank.role < roles && f.rank.member < members_, "a rank whose link flaps exists");
    check(f.speed >= 0 && f.speed <= 1 && f.duration.ps >= 0, "a flap has a speed and a length");
    flaps_[f.rank.role][f.rank.member].push_back(f);
  }
  for (auto& role : flaps_)
    for (auto& list : role)
      std::stable_sort(list.begin(), list.end(),
                       [](const Flap& a, const Flap& b) { return a.start < b.start; });
}

// Walks over the flaps: outside them the exchange gets on at full speed.
double ClusterBlocks::nic(RankId rank, SimTime from, SimTime length) const {
  const double always = nic_.empty() ? 1 : nic_[rank.role][rank.member];
  if (flaps_.empty() || length.ps <= 0) return always;
  double left = static_cast<double>(length.ps), now = static_cast<double>(from.ps);
  for (const Flap& f : flaps_[rank.role][rank.member]) {
    const auto start = static_cast<double>(f.start.ps);
    const double end = start + static_cast<double>(f.duration.ps);
    if (end <= now) continue;
    if (now + left <= start) break;
    if (start > now) left -= start - now, now = start;
    if ((end - now) * f.speed >= left) {  // it ends within the flap
      now += left / f.speed;
      left = 0;
      break;
    }
    left -= (end - now) * f.speed;
    now = end;
  }
  const double taken = now + left - static_cast<double>(from.ps);
  return always * std::max(1.0, taken / static_cast<double>(length.ps));
}

const Lateness& ClusterBlocks::run(std::uint32_t role, std::uint32_t slot_index, At at,
                                   double* late) {
  const std::uint32_t first = at.first;
  const Role& r = program_.roles[role];
  const bool tail = slot_index == r.slots.size();
  const Slot slot = tail ? Slot{.block = r.tail, .phase = Phase::Optimizer} : r.slots[slot_index];
  const BlockPlan& plan = plans_[slot.block];
  const std::uint32_t n = plan.together;
  Factors f;
  if (tail) f.held_op = held_op_, f.held = held_;
  if (compute_) {
    factors_.resize(n);
    for (std::uint32_t i = 0; i < n; ++i) {
      factors_[i] = device_[role][first + i];
      if (per_slot_) factors_[i] *= draws_.slot({role, first + i}, slot_index);
    }
    f.compute = factors_.data();
  }
  if (!nic_.empty()) f.nic = nic_[role].data() + first;
  if (!flaps_.empty()) {
    nic_factors_.resize(n);
    for (std::uint32_t i = 0; i < n; ++i)
      nic_factors_[i] = nic({role, first + i}, at.base + SimTime{std::llround(late[i])},
                            times_[slot.block]->duration);
    f.nic = nic_factors_.data();
  }
  if (uneven_ && !plan.uneven.empty()) {
    for (int half : {0, 1}) {
      loads_[half].assign(std::size_t{plan.parts} * n, 1);
      f.load[half] = loads_[half].data();
    }
    for (const BlockPlan::Uneven& u : plan.uneven) {
      const bool second = !u.first_half && slot.phase == Phase::FB;
      double* parts = loads_[u.first_half ? 0 : 1].data() + std::size_t{u.part} * n;
      for (std::uint32_t base = 0; base < n; base += u.group)
        draws_.load({.group = role * members_ + first + base,
                     .chunk = second ? slot.chunk2 : slot.chunk,
                     .part = u.part,
                     .micro_batch = second ? slot.micro_batch2 : slot.micro_batch},
                    u.group, parts + base);
      for (std::uint32_t i = 0; i < n; ++i) parts[i] /= reference_;
    }
  }
  evaluate(plan, f, n, late, rows_);
  return rows_;
}

std::optional<std::uint32_t> ClusterBlocks::meeting(std::uint32_t role) const {
  const Meeting& m = times_[program_.roles[role].tail]->meeting;
  if (program_.roles.size() == 1 || m.ranks <= static_cast<std::int64_t>(members_))
    return std::nullopt;
  return m.op;
}

void ClusterBlocks::hold(std::uint32_t role, std::optional<SimTime> met, SimTime base) {
  const Meeting& m = times_[program_.roles[role].tail]->meeting;
  held_op_ = met ? m.op : ~0u;
  if (met) held_ = static_cast<double>((*met - base - m.start).ps);
}

SimTime ClusterBlocks::slowed(SimTime time, std::uint32_t work, double nic) const {
  const double factor = std::max(1.0, costs_[work].nic_share * nic);
  return factor == 1 ? time : ticks(factor * seconds(time));
}

SimTime ClusterBlocks::arrival(RankId to, const Message& m, const Slot& slot, SimTime sent) const {
  if (program_.blocking_messages) return sent;
  const RankId from{m.role, sender(to.role, m, to.member)};
  const SimTime alone = alone_[m.work];
  const double slow = std::max(nic(from, sent, alone), nic(to, sent, alone));
  // What the slot leaves free of the NIC, at least a tenth; as in folded.cc.
  const auto flight = [&](std::uint32_t work) {
    const double busy = times_[slot.block]->nic_share * costs_[work].nic_share;
    return ticks(seconds(slowed(alone_[work], work, slow)) / std::max(0.1, 1 - busy));
  };
  SimTime at = sent + flight(m.work);
  // The two messages of a pair for one neighbour share the NIC; as in folded.cc.
  const Message* messages = program_.roles[to.role].messages.data() + slot.first_message;
  for (std::uint32_t o = 0; o < slot.messages; ++o)
    if (&messages[o] != &m && messages[o].role == m.role && messages[o].slot == m.slot)
      at += flight(messages[o].work);
  return at;
}

std::uint32_t ClusterBlocks::stride(std::uint32_t work) const {
  const auto* c = std::get_if<Collective>(&program_.works[work]);
  const auto size = c == nullptr ? members_ : static_cast<std::uint32_t>(c->group.size);
  return size < members_ && members_ % size == 0 ? members_ / size : 1;
}

void ClusterBlocks::level(std::uint32_t work, std::vector<SimTime>& values) const {
  const std::uint32_t step = stride(work);
  for (std::uint32_t offset = 0; offset < step; ++offset) {
    SimTime most = values[offset];
    for (std::uint32_t i = offset; i < members_; i += step) most = std::max(most, values[i]);
    for (std::uint32_t i = offset; i < members_; i += step) values[i] = most;
  }
}

std::uint32_t ClusterBlocks::latest(std::uint32_t work, std::uint32_t member,
                                    const std::vector<SimTime>& values) const {
  const std::uint32_t step = stride(work);
  std::uint32_t best = member % step;
  for (std::uint32_t i = best; i < members_; i += step)
    if (values[i] > values[best]) best = i;
  return best;
}

}  // namespace reckon::sim

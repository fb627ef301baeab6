// The blocks of one Program under one set of disturbances: what run_cluster and critical_path
// share.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "sim/cluster.h"
#include "sim/cluster_block.h"

namespace reckon::sim {

class ClusterBlocks {
 public:
  ClusterBlocks(const Program& program, BlockTimes& times, const Disturbances& disturbances);

  std::uint32_t members() const { return members_; }
  const BlockTime& time(std::uint32_t block) const { return *times_[block]; }
  const BlockPlan& plan(std::uint32_t block) const { return plans_[block]; }
  const OpCost& cost(std::uint32_t work) const { return costs_[work]; }
  SimTime alone(std::uint32_t work) const { return alone_[work]; }

  // Evaluates one slot (or the tail: slot == slots.size()) on plan.together ranks from `at.first`
  // on. `late` as of evaluate(), against a start at `at.base`. Rows stay valid until the next call.
  struct At {
    std::uint32_t first = 0;
    SimTime base;
  };
  const Lateness& run(std::uint32_t role, std::uint32_t slot, At at, double* late);

  // The collective in a role's tail in which it meets other roles: an index into the ops of the
  // tail's plan. No rank is left out of it.
  std::optional<std::uint32_t> meeting(std::uint32_t role) const;
  // From now on run() of tails that start at `base` waits there until `met`; nothing: no longer.
  void hold(std::uint32_t role, std::optional<SimTime> met, SimTime base);

  // 1 / speed of a rank's NIC; 1 where links are not disturbed. For an exchange that would take
  // `length` from `from` on: over the time that it takes.
  double nic(RankId rank, SimTime from, SimTime length) const;

  // Time of a program's work (message, data-parallel collective) that keeps the NIC busy for
  // `nic_share` of it, on a NIC that is slower by a factor. Exact where the factor is 1.
  SimTime slowed(SimTime time, std::uint32_t work, double nic) const;

  // The member of Message::role that sends a message to a member of `role`.
  std::uint32_t sender(std::uint32_t role, const Message& m, std::uint32_t member) const {
    return m.role == role ? (member + members_ / 2) % members_ : member;
  }
  // When a message that was made at `sent` reaches a member of `role`, for a slot of block `block`.
  SimTime arrival(RankId to, const Message& m, const Slot& slot, SimTime sent) const;

  // The largest of `values` in each data-parallel group of the role, in place.
  void level(std::uint32_t work, std::vector<SimTime>& values) const;
  // The member of rank's data-parallel group with the largest value; the first of those.
  std::uint32_t latest(std::uint32_t work, std::uint32_t member,
                       const std::vector<SimTime>& values) const;

 private:
  std::uint32_t stride(std::uint32_t work) const;

  const Program& program_;
  Draws draws_;
  std::uint32_t members_ = 0;
  bool compute_ = false, uneven_ = false, per_slot_ = false;
  double reference_ = 1;
  std::vector<const BlockTime*> times_;
  std::vector<BlockPlan> plans_;
  std::vector<OpCost> costs_;
  std::vector<SimTime> alone_;
  std::vector<std::vector<double>> device_, nic_;      // by role and member
  std::vector<std::vector<std::vector<Flap>>> flaps_;  // likewise, in order
  std::uint32_t held_op_ = ~0u;
  double held_ = 0;
  std::vector<double> factors_, nic_factors_, loads_[2];  // scratch
  Lateness rows_;
};

}  // namespace reckon::sim

// One block on many ranks at once: how late each op ends on each rank, against the calendar of the
// block alone on an undisturbed device (BlockTime).
//
// An op starts when its stream is free and its waits are over, on a collective's every rank; so
//   lateness at its start = max over those ops of (their lateness at the end - slack),
// where slack is the time between their end and this op's start on the undisturbed calendar. An op
// that takes longer by a factor adds its duration times that. Without disturbance every lateness is
// 0: an undisturbed op starts exactly when the last of those ops ends.
//
// Not modelled: that ops which move against each other share the device's resources differently;
// the stretch that contention gave an op on the undisturbed calendar stays.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/disturbances.h"
#include "sim/folded.h"
#include "sim/op_cost.h"
#include "sim/program.h"

namespace reckon::sim {

// The ops of a block as the evaluation needs them. Times are picoseconds.
struct BlockPlan {
  enum class Kind : std::uint8_t { Compute, Grouped, Local, Collective, Dispatch, Combine };
  struct Dependency {
    std::uint32_t op = 0;
    double slack = 0;
  };
  struct Op {
    Kind kind = Kind::Compute;
    bool first_half = true;  // works for Slot::chunk and micro_batch; else for chunk2, micro_batch2
    std::uint16_t part = 0;
    std::uint32_t group = 1;             // ranks that start it together
    std::uint32_t stride = 1;            // distance of those ranks
    std::uint32_t first = 0, count = 0;  // range in dependencies
    double start = 0, duration = 0;
    double host_slack = 0;  // between its launch by the host and its start
    double nic_share = 0;
  };
  std::vector<Op> ops;
  std::vector<Dependency> dependencies;
  std::vector<Dependency> ends;  // last ops of the streams; slack to the end of the block
  // Whose grouped work is shared unevenly: a half's part, among the ranks of a group.
  struct Uneven {
    bool first_half = true;
    std::uint16_t part = 0;
    std::uint32_t group = 1;
  };
  std::vector<Uneven> uneven;
  std::uint16_t parts = 0;  // more than any part of `uneven`
  double host_slack = 0;    // between the end of the host's launches and the end of the block
  double duration = 0;
  std::uint32_t together = 1;  // ranks that must be evaluated at once; divides `ranks`
};

// `ranks`: of the role. Groups on the Data stream lie ranks / size apart, others side by side.
BlockPlan block_plan(const Block& block, const BlockTime& time, BlockTimes& costs,
                     std::uint32_t ranks);

// Factors on the times of `n` ranks; nullptr: 1.
struct Factors {
  const double* compute = nullptr;
  const double* nic = nullptr;  // 1 / speed
  // Parts of grouped work over the reference, per half and part: [half][part * n + rank].
  const double* load[2] = {nullptr, nullptr};
  // An op that every rank starts at least `held` late, as others take part in it that come then.
  std::uint32_t held_op = ~0u;
  double held = 0;
};

// Lateness of each op on each rank, at its start (of the group) and at its end; row by op.
struct Lateness {
  std::vector<double> start, end;
};

// `late`: at the block's start on each of n ranks, replaced by that at its end.
// REQUIRES: n is plan.together.
void evaluate(const BlockPlan& plan, const Factors& factors, std::uint32_t n, double* late,
              Lateness& rows);

}  // namespace reckon::sim

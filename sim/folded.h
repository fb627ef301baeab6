// The folded engine: one rank per role, peers by symmetry. Blocks are timed once (block_time.h);
// then the pipeline runs slot by slot. With no disturbance every rank of a role does the same at
// the same time, so this is exact for them all.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "sim/block_time.h"
#include "sim/op_cost.h"
#include "sim/program.h"
#include "sim/sim_time.h"

namespace reckon::sim {

// Block times, kept by the block's identity, and op costs by what the op does. Holds the blocks
// alive; grows until it dies.
class BlockTimes {
 public:
  BlockTimes(CostOf cost_of, Seconds host_per_kernel)
      : cost_of_(std::move(cost_of)), host_per_kernel_(host_per_kernel) {}

  const BlockTime& of(const std::shared_ptr<const Block>& block);
  const OpCost& cost(const Work& work);

 private:
  struct Entry {
    std::shared_ptr<const Block> block;
    BlockTime time;
  };
  CostOf cost_of_;
  Seconds host_per_kernel_;
  struct WorkHash {
    std::size_t operator()(const Work& work) const { return hash(work); }
  };
  std::unordered_map<Work, OpCost, WorkHash> costs_;  // looked up, never iterated
  std::unordered_map<const Block*, Entry> entries_;   // looked up, never iterated
};

// One role's calendar. The parts add up to `end`.
struct RoleTime {
  SimTime f, b, w, bw, fb;  // sums over its slots
  SimTime wait;             // for messages of other roles, and at the start for parameters
  SimTime gradients;        // after its last slot, for reductions
  SimTime tail;             // the optimizer block
  SimTime idle;             // until the slowest role ends, or the last one comes to the meeting
};

struct SlotSpan {
  SimTime start, end;
};

struct FoldedRun {
  SimTime end;  // of the slowest role
  std::vector<RoleTime> roles;
  std::vector<std::vector<SlotSpan>> slots;  // per role
  std::vector<SimTime> tail_start;           // per role
  std::uint32_t slowest = 0;                 // role; the lowest index of those that end last
  // Where the tails' collective spans several roles (BlockTime::meeting): how long each waits there
  // for the last of them, `last_there`. Otherwise 0.
  std::vector<SimTime> late;
  std::uint32_t last_there = 0;
};

// Duration of a transfer that leaves (1 - busy) of the NIC to itself; at least a tenth, as fair
// sharing would give.
inline SimTime stretched(SimTime alone, double busy) {
  return ticks(seconds(alone) / std::max(0.1, 1 - busy));
}

// By how much a role's tail ends later because others come to the meeting in it `late` after it.
inline SimTime wait_in_tail(const BlockTime& tail, SimTime late) {
  return late > tail.meeting.slack ? late - tail.meeting.slack : SimTime{};
}

// Errors: a Program whose slots wait for each other in a circle is a broken invariant.
FoldedRun run_folded(const Program& program, BlockTimes& times);

// The same into `run`, whose storage is used again.
void run_folded(const Program& program, BlockTimes& times, FoldedRun& run);

}  // namespace reckon::sim

// Times one block op by op on its streams, with contention for the device's and the node's
// resources.
#pragma once

#include <vector>

#include "sim/op_cost.h"
#include "sim/program.h"
#include "sim/sim_time.h"

namespace reckon::sim {

struct OpSpan {
  SimTime start, end;  // from the start of the block
};

// A tail's collective of the most ranks, the first of those: where roles meet if it spans several.
struct Meeting {
  std::uint32_t op = 0;
  int ranks = 1;
  SimTime start;  // from the start of the block
  SimTime slack;  // it may start so much later without the block ending later
};

struct BlockTime {
  SimTime duration;                       // to the end of the last op
  SimTime host;                           // of launching every kernel of the block
  SimTime compute_busy;                   // union of the compute streams' ops
  double nic_share = 0;                   // mean over `duration` of the NIC's reachable rate in use
  double sm_share = 0;                    // mean of the SMs that communication holds
  std::vector<OpSpan> spans;              // per op
  Meeting meeting;                        // of ops of Phase::Optimizer
  std::vector<const char*> uncalibrated;  // labels of ops whose cost had no measurement behind it
};

// In-order streams; an op starts when its stream is free and its waits are over. Running ops share
// resources: communication keeps its SMs and compute kernels divide the rest; on memory, NVLink and
// NIC the running ops' speeds are max-min fair (all grow together until a resource is full).
// `host_per_kernel`: time to launch one kernel. The host issues kernels in the order of ops, from
// the start of the block on; an op starts when the host has issued all before it and ends after its
// own last launch.
BlockTime time_block(const Block& block, const CostOf& cost_of, Seconds host_per_kernel);

// By how much one op may start later until others do, on the calendar of the block: by op; the
// largest SimTime for those that never wait for it.
std::vector<SimTime> slack_after(const Block& block, const BlockTime& time, std::uint32_t op);

// The max-min fair speeds, each in [0, 1], of ops that run together. Exposed for its test.
std::vector<double> fair_speeds(const std::vector<OpCost>& running,
                                const std::vector<bool>& communication);

}  // namespace reckon::sim

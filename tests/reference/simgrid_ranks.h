// A Program on every rank as SimGrid actors: one a stream, walking the Program's ops; compute is
// execution on the rank's CPU, messages and collectives are communications over its links. Slow;
// the cluster engine (sim/cluster.h) is held against it. Only where SimGrid is installed
// (RECKON_SIMGRID).
//
// The platform: each rank has a NIC and an NVLink port, both full duplex, behind switches that
// never block, and SMs. An op's OpCost says what it moves: for `alone` seconds its NIC carries
// nic_share of the link's rate, from the member of the group that precedes the rank on another
// node; likewise NVLink, from the one that precedes it in the node. Flows share links max-min
// fairly and none is faster than in isolation. SMs that a communication holds are lost to compute.
//
// Left out, here and therefore in what is compared: hbm_share, beside_compute, drift.
#pragma once

#include <optional>
#include <vector>

#include "sim/disturbances.h"
#include "sim/folded.h"
#include "sim/program.h"

namespace reckon::reference {

struct SimGridRanks {
  double end = 0;                                      // of the step, in seconds
  std::vector<std::vector<std::vector<double>>> ends;  // of slots, by [role][slot][member]
  double cpu_seconds = 0;
};

struct SimGridCase {
  const sim::Program& program;
  sim::BlockTimes& times;  // has the op costs
  Seconds host_per_kernel;
  const sim::Disturbances& disturbances;
};

// `shared`: links and SMs are shared; otherwise every op has the whole of each. Nothing: SimGrid
// failed, and said why on stderr. Runs in a child process, as SimGrid allows one engine a process.
std::optional<SimGridRanks> run_simgrid_ranks(const SimGridCase& c, bool shared);

}  // namespace reckon::reference

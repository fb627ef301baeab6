// The same flows in SimGrid (simgrid.org): the truth that sim/fluid.h is held against. Only where
// SimGrid is installed (RECKON_SIMGRID); nothing else in the project uses it.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/fluid.h"

namespace reckon::sim {

// A batch of flows between hosts. SimGrid routes by host pair: one route a pair.
struct HostFlows {
  struct Route {
    std::uint32_t from = 0, to = 0;  // hosts
    std::vector<LinkId> links;
  };
  std::uint32_t hosts = 0;
  std::vector<BytesPerSecond> link_rates;
  std::vector<Route> routes;
  std::vector<FlowOf> flows;
};

struct SimGridRun {
  std::vector<SimTime> ends;  // of each flow; empty: SimGrid failed, and said why on stderr
  double cpu_seconds = 0;     // of the simulation, platform and actors included
};

// One actor per host starts its flows and waits for them all. Network factors are those of RDMA,
// not of SimGrid's TCP calibration: links carry their whole rate (bandwidth factor 1, no crossing
// acknowledgements, no window) and add no latency. Runs in a child process, as SimGrid allows one
// engine a process. Sizes are rounded to whole bytes. REQUIRES: no link is dead.
SimGridRun simgrid_flow_ends(const HostFlows& batch);

}  // namespace reckon::sim

// One communication op that every group of the cluster runs at the same time, as flows on the
// cluster's topology: what single links make of it.
//
// Sources of the patterns: as network_model.cc. Rings (also for trees, which load NICs as rings
// do): one a member of a node, each of which leaves the node over that member's NIC and enters the
// next one over the NIC of the same position. Exchanges that forward inside nodes: one message to
// the GPU of the own position on each other node, and over NVLink to the others of the own node.
// Plain all-to-alls: one message to every other GPU.
//
// Not modelled: the steps of a ring (its pipeline is taken as full), the two stages of a forwarded
// exchange waiting for each other, other ops at the same time, hosts' and protocols' rates (the
// cost model has those); one connection between two GPUs has one way, NCCL may open several.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hw-models/topology.h"
#include "sim/simgrid_flows.h"
#include "sim/work.h"

namespace reckon::hw {

// What one GPU sends another while the op runs once.
struct PhaseMessage {
  int from = 0, to = 0;
  Bytes bytes;
};

// `groups`: GPUs of each group, in the order of its ranks. Those of a Transfer: sender, receiver.
std::vector<PhaseMessage> phase_messages(const sim::Work& op,
                                         const std::vector<std::vector<int>>& groups,
                                         const Topology& topology);

// Messages between nodes and those inside nodes are told apart: a cost takes the two on their own.
template <class T>
struct Both {
  T network{}, inside{};
};

struct PhaseFlows {
  // Sizes are scaled to a fixed time at the busiest GPU's own link, and rounded to whole bytes:
  // flows that start together share links in the same way at any size, so ops that differ in size
  // alone are one problem. The first `network_flows` are those between nodes.
  sim::HostFlows batch;
  std::size_t network_flows = 0;
  double scale = 1;               // bytes of `batch` over those of the op
  Both<Seconds> ideal;            // the busiest GPU's own link, at its nameplate rate
  Both<Bytes> sent;               // by the busiest GPU
  std::vector<Bytes> link_bytes;  // by link of the topology, in one run of the op
  Seconds latency;  // the longest of the ways between nodes; 0: the topology does not state it
  std::string bottleneck;                  // layer of the link that is busy longest
  std::optional<std::pair<int, int>> cut;  // two GPUs with no way between them; nothing else counts
};

PhaseFlows phase_flows(const std::vector<PhaseMessage>& messages, const Topology& topology,
                       const Cluster& cluster, std::uint64_t salt);

// When the last flow of each kind ends, over the ideal; 1 where there is none. `ends`: of the
// batch.
Both<double> slow_down(const PhaseFlows& flows, const std::vector<sim::SimTime>& ends);

// The cluster on which an op that flows slow down takes as long as the flows say: its links are
// slower by that factor, and nothing above the leaf slows it down a second time. `latency`: of the
// topology's ways; 0: the fabric's.
Cluster slowed(const Cluster& cluster, const Both<double>& slow_down, Seconds latency = {});

}  // namespace reckon::hw

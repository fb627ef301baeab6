// Traffic on a topology, flow by flow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hw-models/topology.h"

namespace reckon::hw {

// All-to-alls at the same time, in groups that share out the cluster: every GPU sends every other
// of its group one message.
struct AllToAll {
  int group = 0;         // GPUs; divides the cluster
  bool strided = false;  // a group's GPUs lie cluster / group apart instead of side by side
  Bytes message;
  double spread = 0;  // sizes vary by up to this part either way, evenly distributed
  std::uint64_t seed = 1;
};

struct LayerUse {  // of the links of one layer that carry anything, over the whole time
  std::string layer;
  double mean = 0, most = 0;  // part of their rate
};

struct TrafficResult {
  std::int64_t flows = 0;
  Seconds end;        // of the last flow
  Seconds endpoints;  // if only GPUs' own links were there: the busiest one's bytes over its rate
  BytesPerSecond per_gpu;  // mean bytes sent by a GPU over `end`
  std::vector<LayerUse> layers;
};

// Every flow starts after the latency of its kind of way. Flows share links to 0.1 % of their
// rates. REQUIRES: group >= 2 divides the cluster, 0 <= spread < 1.
TrafficResult run(const AllToAll& pattern, const Topology& topology, const Cluster& cluster);

}  // namespace reckon::hw

// What a few lines of JSON say about the network between nodes; topology.h builds it.
#pragma once

#include <string>
#include <vector>

#include "sim/units.h"

namespace reckon::hw {

// Cables between two ends of a network that is given end by end. "gpu0" is the NIC of GPU 0, any
// other name a switch; "gpu[0-7]" stands for eight ends.
struct TopologyLink {
  std::string from, to;
  BytesPerSecond bandwidth;  // of one cable, per direction
  Seconds latency;           // 0: not given
  int count = 1;             // cables beside each other
};

struct TopologyShape {
  enum class Kind {
    FatTree,
    Dragonfly,
    Edges,    // as `links` say
    Platform  // as a SimGrid platform file says: hosts, links, and the ways between hosts
  } kind = Kind::FatTree;
  int layers = 0;  // of a fat-tree's switches; 0: as few as hold the cluster
  int radix = 0;   // ports of a switch, each as fast as a NIC
  // Where the NICs of one node go. Node: to one leaf, as far as it has ports. Rail: NIC i to a leaf
  // of rail i; all rails meet above the leaves (multi-rail fat-tree, MRFT). Plane: NIC i to plane
  // i, a fat-tree of its own that the others don't meet (multi-plane, MPFT).
  enum class Wiring { Node, Rail, Plane } wiring = Wiring::Node;
  int rails = 0;  // or planes; 0: one for each GPU of a node
  // Ecmp: a hash of the two ends picks one cable at each step, so flows collide. Adaptive: packets
  // are sprayed over all cables, which then act as one; over 16 shortest ways in a network of
  // edges.
  enum class Routing { Ecmp, Adaptive } routing = Routing::Ecmp;
  double switch_price = 0, cable_price = 0;  // in the cluster's currency; 0: not given
  std::vector<TopologyLink> links;           // of Edges
  std::string platform;                      // of Platform: path of the file
};

}  // namespace reckon::hw

// What a few lines of JSON say about the network between nodes; topology.h builds it.
#pragma once

namespace reckon::hw {

struct TopologyShape {
  enum class Kind { FatTree, Dragonfly } kind = Kind::FatTree;
  int layers = 0;  // of a fat-tree's switches; 0: as few as hold the cluster
  int radix = 0;   // ports of a switch, each as fast as a NIC
  // Where the NICs of one node go. Node: to one leaf, as far as it has ports. Rail: NIC i to a leaf
  // of rail i; all rails meet above the leaves (multi-rail fat-tree, MRFT). Plane: NIC i to plane
  // i, a fat-tree of its own that the others don't meet (multi-plane, MPFT).
  enum class Wiring { Node, Rail, Plane } wiring = Wiring::Node;
  int rails = 0;  // or planes; 0: one for each GPU of a node
  // Ecmp: a hash of the two ends picks one cable at each step, so flows collide. Adaptive: packets
  // are sprayed over all cables, which then act as one.
  enum class Routing { Ecmp, Adaptive } routing = Routing::Ecmp;
  double switch_price = 0, cable_price = 0;  // in the cluster's currency; 0: not given
};

}  // namespace reckon::hw

// The cluster as a graph: GPUs, NVLink switches, NICs' cables, switches; and the way of a message
// through it.
//
// Not modelled: PCIe switches (a NIC is as fast as the slower of itself and its PCIe link), optics
// and cable lengths apart from their price.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hw-models/machine.h"
#include "sim/fluid.h"

namespace reckon::hw {

class Platform;  // platform.h

enum class VertexKind : std::uint8_t { Gpu, NvSwitch, Leaf, Aggregation, Spine, Router };

// Full duplex. `from` is the end nearer to the GPUs, or the lower number.
struct Cable {
  std::uint32_t from = 0, to = 0;  // vertices
  BytesPerSecond rate;             // per direction
};

// Cables that carry nothing, by the names of their ends: "gpu17" (its NIC), "leaf3",
// "aggregation0", "spine12", "router5", counted from 0 in each kind, or as the links of the network
// name them.
struct DeadCables {
  std::string from, to;
  int count = 0;  // of the cables between them; 0: all
};

class Topology {
 public:
  // With dead cables, messages take the shortest ways that are left, and a GPU without a NIC uses
  // the others' of its node over NVLink.
  // Errors: InputError that says how many GPUs fit, which end does not exist, what is wrong with a
  // platform file. REQUIRES: cluster.fabric.topology.
  explicit Topology(const Cluster& cluster, const std::vector<DeadCables>& dead = {});

  int gpus() const { return gpus_; }
  int node_of(int gpu) const { return gpu / per_node_; }
  int layers() const { return layers_; }  // of switches; of a dragonfly: 2
  const TopologyShape& shape() const { return shape_; }
  const std::vector<VertexKind>& vertices() const { return vertices_; }  // GPUs come first
  const std::vector<Cable>& cables() const { return cables_; }
  int count(VertexKind kind) const;
  int switches() const;                          // NVLink switches not counted
  int endpoint_cables() const;                   // from GPUs to switches
  int fabric_cables() const;                     // between switches
  std::string name(std::uint32_t vertex) const;  // as in DeadCables

  // Links of the fluid solver: 2 c goes along cable c, 2 c + 1 back; then pools of cables that
  // adaptive routing makes one, or the links of a platform. Dead ones have no rate.
  const std::vector<BytesPerSecond>& link_rates() const { return links_; }
  // What a link belongs to, for reports: "NVLink", "NIC", "leaf uplinks", ...
  const char* layer(sim::LinkId link) const;

  // The way from one GPU to another. Inside a node: NVLink. To a GPU of another rail or plane: over
  // NVLink to the GPU of that rail first, as NCCL's PXN does; without NVLink, and between rails, up
  // and down the tree. `salt` stands for the ports that a hash sees.
  // Empty: no way is left.
  // REQUIRES: from != to; planes need NVLink.
  std::vector<sim::LinkId> route(int from, int to, std::uint64_t salt = 0) const;

  // The ways of a message that is sent in equal parts: one, unless packets are sprayed over a
  // network of edges.
  std::vector<std::vector<sim::LinkId>> routes(int from, int to, std::uint64_t salt = 0) const;

  // Switches that a message crosses; 0: NVLink alone. REQUIRES: there is a way.
  int hops(int from, int to) const;

  // Of a way, as far as the network's links state it; 0: they don't.
  Seconds latency(const std::vector<sim::LinkId>& way) const;

 private:
  struct Place {  // of a GPU's NIC
    std::uint32_t leaf = 0, cable = 0;
  };
  // Where a message enters and leaves the fabric: GPUs and their NICs.
  struct Ends {
    int from = 0, to = 0;
    Place up, down;
    int length = 0;  // cables between
  };

  std::uint32_t add_vertex(VertexKind kind);
  std::uint32_t add_cable(std::uint32_t from, std::uint32_t to, BytesPerSecond rate);
  sim::LinkId add_pool(double rate, const char* layer);
  void build_nodes();
  void build_tree(const std::vector<int>& gpus, const std::vector<int>& leaf_of);
  void build_fat_tree();
  void build_dragonfly();
  void build_edges();
  void build_platform();
  void kill(const std::vector<DeadCables>& dead);
  void measure_distances();
  void index_cables();
  int sender(int from, int to) const;
  std::uint32_t host_of(int gpu) const;  // of the platform
  void climb(std::uint32_t from, std::uint32_t to, std::uint64_t hash,
             std::vector<sim::LinkId>& way) const;
  std::uint32_t pick(std::uint32_t low, std::uint32_t high, std::uint64_t hash) const;
  bool climb_shortest(const Ends& ends, std::uint64_t hash, std::uint64_t lane,
                      std::vector<sim::LinkId>& way) const;
  std::optional<Ends> nearest_ends(int from, int to, std::uint64_t hash) const;
  std::vector<sim::LinkId> route_left(int from, int to, std::uint64_t salt,
                                      std::uint64_t lane) const;

  Cluster cluster_;
  TopologyShape shape_;
  int gpus_ = 0, per_node_ = 1, rails_ = 1, layers_ = 0;
  std::vector<VertexKind> vertices_;
  std::vector<Cable> cables_;
  std::vector<BytesPerSecond> links_;
  std::vector<const char*> layer_of_pool_;
  std::vector<std::uint32_t> nvlink_;       // cable of each GPU
  std::vector<std::vector<Place>> places_;  // NICs of each GPU that work
  std::vector<char> dead_;                  // of each cable
  // By shortest ways alone: networks of edges, and those with dead cables.
  bool by_distance_ = false;
  std::map<std::uint32_t, std::vector<std::uint16_t>> distance_;  // by switch with NICs, to it
  std::vector<std::vector<std::pair<sim::LinkId, std::uint32_t>>> next_;  // links from each vertex
  std::vector<std::string> names_;        // of vertices, where the network names them
  std::vector<Seconds> latency_;          // of links, where the network states it
  std::vector<std::string> layer_names_;  // of networks without rules
  std::vector<std::uint32_t> layer_of_;   // of each cable, or of each link of a platform
  std::shared_ptr<const Platform> platform_;
  std::vector<int> pod_;       // of each vertex: pod of a switch, or group
  std::vector<int> position_;  // of each vertex: of an aggregation switch in its pod
  std::vector<std::vector<std::uint32_t>> up_;  // cables from each vertex to higher ones
  std::map<std::pair<std::uint32_t, std::uint32_t>, std::vector<std::uint32_t>> between_;
  std::vector<std::uint32_t> aggregation_;  // by pod * size + position
  int pod_size_ = 1;                        // aggregation switches of a pod
  // Adaptive routing: pools by leaf (vertex) and by pod, up and down; by pair of groups.
  std::vector<sim::LinkId> leaf_up_, leaf_down_, pod_up_, pod_down_;
  std::map<std::pair<int, int>, sim::LinkId> pair_;
  std::map<std::pair<int, int>, std::vector<sim::LinkId>> global_;  // links from group to group
};

// Bandwidth between the first half of the nodes and the second over the fabric, in one direction:
// the maximum flow. REQUIRES: at least two nodes.
BytesPerSecond bisection(const Topology& topology);

// A fabric of the largest size that its switches allow, one NIC port a GPU.
struct FabricSize {
  const char* name;
  std::int64_t endpoints = 0, switches = 0, cables = 0;  // cables between switches
};
// Two- and three-layer fat-trees, `planes` two-layer planes, slim fly and dragonfly: the rows of
// table 3 of DeepSeek, arXiv 2505.09343.
std::vector<FabricSize> largest_fabrics(int radix, int planes);

}  // namespace reckon::hw

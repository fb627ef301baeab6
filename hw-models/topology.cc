// Building the graph, and finding ways in it.
//
// Fat-tree of radix k: a leaf has k/2 ports down and k/2 up. Two layers: leaves and spines, up to k
// leaves. Three: pods of k/2 leaves and k/2 aggregation switches; aggregation switch i of every pod
// is connected to the i-th set of spines. Oversubscription thins the cables into the topmost layer.
// Dragonfly, balanced (Kim et al., ISCA 2008, section 3.1): p = (k + 1) / 4 GPUs a router, groups
// of a = 2 p fully connected routers, h = p global cables a router, shortest ways only.
#include "hw-models/topology.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hw-models/platform.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

using Shape = TopologyShape;

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

[[noreturn]] void too_large(const Cluster& c, int most) {
  throw InputError(fmt::format(
      "cluster \"{}\": its fabric's topology holds at most {} GPUs, got {}; give it more layers or "
      "switches with more ports",
      c.name, most, c.gpus));
}

}  // namespace

std::uint32_t Topology::add_vertex(VertexKind kind) {
  vertices_.push_back(kind);
  pod_.push_back(0);
  position_.push_back(0);
  return static_cast<std::uint32_t>(vertices_.size() - 1);
}

std::uint32_t Topology::add_cable(std::uint32_t from, std::uint32_t to, BytesPerSecond rate) {
  cables_.push_back({from, to, rate});
  return static_cast<std::uint32_t>(cables_.size() - 1);
}

Topology::Topology(const Cluster& cluster, const std::vector<DeadCables>& dead)
    : cluster_(cluster), gpus_(cluster.gpus), per_node_(std::min(cluster.node.gpus, cluster.gpus)) {
  check(cluster.fabric.topology.has_value(), "the fabric has a topology");
  shape_ = *cluster.fabric.topology;
  rails_ = shape_.rails > 0 ? std::min(shape_.rails, per_node_) : per_node_;
  if (shape_.wiring == Shape::Wiring::Node || shape_.kind != Shape::Kind::FatTree) rails_ = 1;
  if (shape_.wiring == Shape::Wiring::Plane && cluster.node.nvlink.si <= 0 && rails_ > 1)
    throw InputError(fmt::format(
        "cluster \"{}\": planes meet only over NVLink, and its nodes have none; expected wiring "
        "\"node\" or \"rail\"",
        cluster.name));
  build_nodes();
  switch (shape_.kind) {
    case Shape::Kind::FatTree: build_fat_tree(); break;
    case Shape::Kind::Dragonfly: build_dragonfly(); break;
    case Shape::Kind::Edges: build_edges(); break;
    case Shape::Kind::Platform: build_platform(); break;
  }
  dead_.assign(cables_.size(), 0);
  if (!dead.empty()) kill(dead);
  index_cables();
  by_distance_ = shape_.kind == Shape::Kind::Edges || !dead.empty();
  if (by_distance_) measure_distances();
  for (int g = per_node_; shape_.kind == Shape::Kind::Edges && dead.empty() && g < gpus_; ++g)
    if (!nearest_ends(0, g, 0))
      throw InputError(
          fmt::format("cluster \"{}\": /fabric/topology/links: expected a way from every GPU to "
                      "every other, gpu0 "
                      "has none to gpu{}",
                      cluster_.name, g));
}

// GPUs, and one NVLink switch a node that stands for all of its planes. Without NVLink it stands
// for the PCIe root.
void Topology::build_nodes() {
  for (int g = 0; g < gpus_; ++g) add_vertex(VertexKind::Gpu);
  places_.resize(static_cast<std::size_t>(gpus_));
  const BytesPerSecond inside =
      cluster_.node.nvlink.si > 0 ? cluster_.node.nvlink : cluster_.node.pcie;
  std::uint32_t hub = 0;
  for (int g = 0; g < gpus_; ++g) {
    if (g % per_node_ == 0) hub = add_vertex(VertexKind::NvSwitch);
    nvlink_.push_back(add_cable(static_cast<std::uint32_t>(g), hub, inside));
  }
}

// One tree of switches over some GPUs; leaf_of: their leaves, counted from 0.
void Topology::build_tree(const std::vector<int>& gpus, const std::vector<int>& leaf_of) {
  const int k = shape_.radix, half = k / 2;
  const int leaves = 1 + *std::max_element(leaf_of.begin(), leaf_of.end());
  const BytesPerSecond port = cluster_.fabric.nic;
  const BytesPerSecond nic = cluster_.node.pcie.si > 0 ? std::min(port, cluster_.node.pcie) : port;
  const double over = std::max(1.0, cluster_.fabric.oversubscription);

  std::vector<std::uint32_t> leaf;
  for (int l = 0; l < leaves; ++l) {
    leaf.push_back(add_vertex(VertexKind::Leaf));
    pod_[leaf.back()] = layers_ == 3 ? l / half : 0;
  }
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    const std::uint32_t at = leaf[static_cast<std::size_t>(leaf_of[i])];
    const auto g = static_cast<std::uint32_t>(gpus[i]);
    places_[g] = {{at, add_cable(g, at, nic)}};
  }
  if (layers_ == 1) return;
  if (layers_ == 2) {
    const int up = static_cast<int>(k / (1 + over));
    const int spines = ceil_div(leaves * up, k);
    std::vector<std::uint32_t> spine;
    for (int s = 0; s < spines; ++s) spine.push_back(add_vertex(VertexKind::Spine));
    for (int l = 0; l < leaves; ++l)
      for (int j = 0; j < up; ++j)
        add_cable(leaf[static_cast<std::size_t>(l)],
                  spine[static_cast<std::size_t>((l * up + j) % spines)], port);
    return;
  }
  const int pods = ceil_div(leaves, half), first_pod = static_cast<int>(aggregation_.size()) / half;
  const int up = std::max(1, static_cast<int>(half / over));
  const int per_set = ceil_div(pods * up, k);
  pod_size_ = half;
  for (int p = 0; p < pods; ++p)
    for (int a = 0; a < half; ++a) {
      aggregation_.push_back(add_vertex(VertexKind::Aggregation));
      pod_[aggregation_.back()] = first_pod + p;
      position_[aggregation_.back()] = a;
    }
  const auto aggregation = [&](int p, int a) {
    return aggregation_[static_cast<std::size_t>((first_pod + p) * half + a)];
  };
  for (int l = 0; l < leaves; ++l) {
    pod_[leaf[static_cast<std::size_t>(l)]] += first_pod;
    for (int a = 0; a < half; ++a)
      add_cable(leaf[static_cast<std::size_t>(l)], aggregation(l / half, a), port);
  }
  for (int a = 0; a < half; ++a) {
    std::vector<std::uint32_t> spine;
    for (int s = 0; s < per_set; ++s) spine.push_back(add_vertex(VertexKind::Spine));
    for (int p = 0; p < pods; ++p)
      for (int j = 0; j < up; ++j)
        add_cable(aggregation(p, a), spine[static_cast<std::size_t>((p * up + j) % per_set)], port);
  }
}

void Topology::build_fat_tree() {
  const int k = shape_.radix, half = k / 2;
  const bool planes = shape_.wiring == Shape::Wiring::Plane;
  const int trees = planes ? rails_ : 1;
  // Ports of a leaf that go down, by the number of layers.
  const int up = static_cast<int>(k / (1 + std::max(1.0, cluster_.fabric.oversubscription)));
  const auto down = [&](int layers) { return layers == 1 ? k : layers == 2 ? k - up : half; };

  // Leaves over which a tree's GPUs are spread. With rails a leaf takes NICs of one rail, of as
  // many nodes as fit.
  const int nics = per_node_ / rails_;  // of one node on one rail
  const auto leaf_of = [&](int gpu, int layers) {
    const int node = gpu / per_node_, local = gpu % per_node_;
    const int ports = down(layers);
    if (shape_.wiring == Shape::Wiring::Node || (layers == 1 && !planes)) return gpu / ports;
    const int nodes = std::max(1, ports / std::max(1, nics));
    const int block = node / nodes;
    return planes ? block : block * rails_ + local % rails_;
  };
  const auto leaves = [&](int layers) {
    int most = 0;
    for (int g = 0; g < gpus_; ++g) most = std::max(most, leaf_of(g, layers) + 1);
    return most;
  };
  const auto holds = [&](int layers) {
    const int most = layers == 1 ? 1 : layers == 2 ? k : half * k;
    return nics <= down(layers) && leaves(layers) <= most;
  };
  layers_ = shape_.layers > 0 ? shape_.layers : 1;
  while (shape_.layers == 0 && layers_ < 3 && !holds(layers_)) ++layers_;
  if (!holds(layers_))
    too_large(cluster_, trees * down(layers_) * (layers_ == 1 ? 1 : layers_ == 2 ? k : half * k));

  for (int t = 0; t < trees; ++t) {
    std::vector<int> gpus, at;
    for (int g = 0; g < gpus_; ++g)
      if (!planes || g % per_node_ % rails_ == t) {
        gpus.push_back(g);
        at.push_back(leaf_of(g, layers_));
      }
    build_tree(gpus, at);
  }
}

void Topology::build_dragonfly() {
  layers_ = 2;
  const int p = (shape_.radix + 1) / 4, a = 2 * p, h = p;
  const int groups = ceil_div(gpus_, a * p);
  if (groups > a * h + 1) too_large(cluster_, (a * h + 1) * a * p);
  const BytesPerSecond port = cluster_.fabric.nic;
  const BytesPerSecond nic = cluster_.node.pcie.si > 0 ? std::min(port, cluster_.node.pcie) : port;
  std::vector<std::uint32_t> router;
  for (int i = 0; i < groups * a; ++i) {
    router.push_back(add_vertex(VertexKind::Router));
    pod_[router.back()] = i / a;
  }
  for (int g = 0; g < gpus_; ++g) {
    const std::uint32_t at = router[static_cast<std::size_t>(g / p)];
    places_[static_cast<std::size_t>(g)] = {
        {at, add_cable(static_cast<std::uint32_t>(g), at, nic)}};
  }
  for (int g = 0; g < groups; ++g)
    for (int i = 0; i < a; ++i)
      for (int j = i + 1; j < a; ++j)
        add_cable(router[static_cast<std::size_t>(g * a + i)],
                  router[static_cast<std::size_t>(g * a + j)], port);
  if (groups == 1) return;
  const int cables = a * h / (groups - 1);  // between two groups
  std::vector<int> next(static_cast<std::size_t>(groups), 0);
  for (int c = 0; c < cables; ++c)
    for (int g = 0; g < groups; ++g)
      for (int o = g + 1; o < groups; ++o) {
        const int i = next[static_cast<std::size_t>(g)]++ % a;
        const int j = next[static_cast<std::size_t>(o)]++ % a;
        add_cable(router[static_cast<std::size_t>(g * a + i)],
                  router[static_cast<std::size_t>(o * a + j)], port);
      }
}

sim::LinkId Topology::add_pool(double rate, const char* layer) {
  links_.emplace_back(rate);
  layer_of_pool_.push_back(layer);
  return static_cast<sim::LinkId>(links_.size() - 1);
}

void Topology::index_cables() {
  up_.resize(vertices_.size());
  for (std::uint32_t c = 0; c < cables_.size(); ++c) {
    links_.insert(links_.end(), 2, dead_[c] != 0 ? BytesPerSecond(0) : cables_[c].rate);
    if (dead_[c] != 0 || cables_[c].from < static_cast<std::uint32_t>(gpus_)) continue;
    up_[cables_[c].from].push_back(c);
    between_[{cables_[c].from, cables_[c].to}].push_back(c);
    const int a = pod_[cables_[c].from], b = pod_[cables_[c].to];
    if (shape_.kind != Shape::Kind::Dragonfly || a == b) continue;
    global_[{a, b}].push_back(2 * c);
    global_[{b, a}].push_back(2 * c + 1);
  }
  if (shape_.kind == Shape::Kind::Platform) {
    const auto& links = platform_->links();
    for (std::size_t l = 0; l < links.size(); ++l) links_.push_back(links[l].rate);
    return;
  }
  if (shape_.routing != Shape::Routing::Adaptive || shape_.kind == Shape::Kind::Edges) return;
  const double port = cluster_.fabric.nic.si;
  leaf_up_.resize(vertices_.size());
  leaf_down_.resize(vertices_.size());
  if (shape_.kind == Shape::Kind::Dragonfly) {
    for (const auto& [groups, cables] : global_)
      pair_[groups] = add_pool(static_cast<double>(cables.size()) * port, "global cables");
    const int a = 2 * ((shape_.radix + 1) / 4);
    std::vector<int> in_group(vertices_.size(), 0);  // cables of a router that work
    for (std::uint32_t c = 0; c < cables_.size(); ++c)
      if (dead_[c] == 0 && cables_[c].from >= static_cast<std::uint32_t>(gpus_) &&
          pod_[cables_[c].from] == pod_[cables_[c].to])
        ++in_group[cables_[c].from], ++in_group[cables_[c].to];
    for (std::uint32_t v = 0; v < vertices_.size(); ++v) {
      if (vertices_[v] != VertexKind::Router) continue;
      const double rate = std::min<double>(a - 1, in_group[v]) * port;
      leaf_up_[v] = add_pool(rate, "cables in a group");
      leaf_down_[v] = add_pool(rate, "cables in a group");
    }
    return;
  }
  std::vector<double> pod_rate(aggregation_.size() / static_cast<std::size_t>(pod_size_), 0);
  for (std::uint32_t v = 0; v < vertices_.size(); ++v) {
    const double rate = static_cast<double>(up_[v].size()) * port;
    if (vertices_[v] == VertexKind::Leaf) {
      leaf_up_[v] = add_pool(rate, "leaf uplinks");
      leaf_down_[v] = add_pool(rate, "leaf uplinks");
    } else if (vertices_[v] == VertexKind::Aggregation) {
      pod_rate[static_cast<std::size_t>(pod_[v])] += rate;
    }
  }
  for (double rate : pod_rate) {
    pod_up_.push_back(add_pool(rate, "pod uplinks"));
    pod_down_.push_back(add_pool(rate, "pod uplinks"));
  }
}

}  // namespace reckon::hw

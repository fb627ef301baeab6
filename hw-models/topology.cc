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

#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

using Shape = TopologyShape;

int ceil_div(int a, int b) {
  return (a + b - 1) / b;
}

// Sebastiano Vigna, splitmix64.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
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

Topology::Topology(const Cluster& cluster)
    : cluster_(cluster), gpus_(cluster.gpus), per_node_(std::min(cluster.node.gpus, cluster.gpus)) {
  check(cluster.fabric.topology.has_value(), "the fabric has a topology");
  shape_ = *cluster.fabric.topology;
  rails_ = shape_.rails > 0 ? std::min(shape_.rails, per_node_) : per_node_;
  if (shape_.wiring == Shape::Wiring::Node || shape_.kind == Shape::Kind::Dragonfly) rails_ = 1;
  if (shape_.wiring == Shape::Wiring::Plane && cluster.node.nvlink.si <= 0 && rails_ > 1)
    throw InputError(fmt::format(
        "cluster \"{}\": planes meet only over NVLink, and its nodes have none; expected wiring "
        "\"node\" or \"rail\"",
        cluster.name));
  build_nodes();
  if (shape_.kind == Shape::Kind::Dragonfly)
    build_dragonfly();
  else
    build_fat_tree();
  index_cables();
}

// GPUs, and one NVLink switch a node that stands for all of its planes. Without NVLink it stands
// for the PCIe root.
void Topology::build_nodes() {
  for (int g = 0; g < gpus_; ++g) add_vertex(VertexKind::Gpu);
  place_.resize(static_cast<std::size_t>(gpus_));
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
    place_[g] = {at, add_cable(g, at, nic)};
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
    place_[static_cast<std::size_t>(g)] = {at, add_cable(static_cast<std::uint32_t>(g), at, nic)};
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
    links_.insert(links_.end(), 2, cables_[c].rate);
    if (cables_[c].from < static_cast<std::uint32_t>(gpus_)) continue;
    up_[cables_[c].from].push_back(c);
    between_[{cables_[c].from, cables_[c].to}].push_back(c);
    const int a = pod_[cables_[c].from], b = pod_[cables_[c].to];
    if (shape_.kind != Shape::Kind::Dragonfly || a == b) continue;
    global_[{a, b}].push_back(2 * c);
    global_[{b, a}].push_back(2 * c + 1);
  }
  if (shape_.routing != Shape::Routing::Adaptive) return;
  const double port = cluster_.fabric.nic.si;
  leaf_up_.resize(vertices_.size());
  leaf_down_.resize(vertices_.size());
  if (shape_.kind == Shape::Kind::Dragonfly) {
    for (const auto& [groups, cables] : global_)
      pair_[groups] = add_pool(static_cast<double>(cables.size()) * port, "global cables");
    const int a = 2 * ((shape_.radix + 1) / 4);
    for (std::uint32_t v = 0; v < vertices_.size(); ++v) {
      if (vertices_[v] != VertexKind::Router) continue;
      leaf_up_[v] = add_pool((a - 1) * port, "cables in a group");
      leaf_down_[v] = add_pool((a - 1) * port, "cables in a group");
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

int Topology::count(VertexKind kind) const {
  return static_cast<int>(std::count(vertices_.begin(), vertices_.end(), kind));
}

int Topology::switches() const {
  return static_cast<int>(vertices_.size()) - gpus_ - count(VertexKind::NvSwitch);
}

int Topology::endpoint_cables() const {
  return gpus_;
}

int Topology::fabric_cables() const {
  return static_cast<int>(cables_.size()) - 2 * gpus_;
}

const char* Topology::layer(sim::LinkId link) const {
  if (link >= 2 * cables_.size()) return layer_of_pool_[link - 2 * cables_.size()];
  const Cable& c = cables_[link / 2];
  switch (vertices_[c.to]) {
    case VertexKind::NvSwitch: return cluster_.node.nvlink.si > 0 ? "NVLink" : "PCIe";
    case VertexKind::Router:
      if (c.from < static_cast<std::uint32_t>(gpus_)) return "NIC";
      return pod_[c.from] == pod_[c.to] ? "cables in a group" : "global cables";
    case VertexKind::Leaf: return "NIC";
    case VertexKind::Aggregation: return "leaf uplinks";
    case VertexKind::Spine:
      return vertices_[c.from] == VertexKind::Leaf ? "leaf uplinks" : "pod uplinks";
    case VertexKind::Gpu: break;
  }
  check_failed("no cable leads up to a GPU");
}

// The GPU whose NIC a message takes: of the receiver's rail, if NVLink leads there.
int Topology::sender(int from, int to) const {
  if (rails_ == 1 || from % per_node_ % rails_ == to % per_node_ % rails_ ||
      cluster_.node.nvlink.si <= 0)
    return from;
  return from - from % per_node_ + to % per_node_;
}

int Topology::hops(int from, int to) const {
  if (from / per_node_ == to / per_node_) return 0;
  const std::uint32_t a = place_[static_cast<std::size_t>(sender(from, to))].leaf;
  const std::uint32_t b = place_[static_cast<std::size_t>(to)].leaf;
  if (a == b) return 1;
  if (shape_.kind == Shape::Kind::FatTree) return layers_ == 3 && pod_[a] != pod_[b] ? 5 : 3;
  if (pod_[a] == pod_[b]) return 2;
  // Two switches and the global cable between them, and those of the ends where they are others.
  int least = 4;
  for (sim::LinkId l : global_.at({pod_[a], pod_[b]})) {
    const Cable& c = cables_[l / 2];
    const bool back = l % 2 == 1;
    least = std::min(least, 2 + ((back ? c.to : c.from) != a) + ((back ? c.from : c.to) != b));
  }
  return least;
}

// One of the cables between two switches.
std::uint32_t Topology::pick(std::uint32_t low, std::uint32_t high, std::uint64_t hash) const {
  const auto it = between_.find({low, high});
  check(it != between_.end(), "the switches are connected");
  return it->second[hash % it->second.size()];
}

// From leaf to leaf, or router to router.
void Topology::climb(std::uint32_t a, std::uint32_t b, std::uint64_t hash,
                     std::vector<sim::LinkId>& way) const {
  if (a == b) return;
  const bool adaptive = shape_.routing == Shape::Routing::Adaptive;
  const bool same_pod = pod_[a] == pod_[b];
  if (shape_.kind == Shape::Kind::Dragonfly) {
    const auto local = [&](std::uint32_t x, std::uint32_t y) {
      if (x == y) return;
      const std::uint32_t c = pick(std::min(x, y), std::max(x, y), 0);
      way.push_back(2 * c + (x > y));
    };
    if (adaptive) {
      way.push_back(leaf_up_[a]);
      if (!same_pod) way.push_back(pair_.at({pod_[a], pod_[b]}));
      way.push_back(leaf_down_[b]);
    } else if (same_pod) {
      local(a, b);
    } else {
      const auto& links = global_.at({pod_[a], pod_[b]});
      const sim::LinkId global = links[hash % links.size()];
      const Cable& c = cables_[global / 2];
      const bool back = global % 2 == 1;
      local(a, back ? c.to : c.from);
      way.push_back(global);
      local(back ? c.from : c.to, b);
    }
    return;
  }
  if (adaptive) {
    way.push_back(leaf_up_[a]);
    if (layers_ == 3 && !same_pod) {
      way.push_back(pod_up_[static_cast<std::size_t>(pod_[a])]);
      way.push_back(pod_down_[static_cast<std::size_t>(pod_[b])]);
    }
    way.push_back(leaf_down_[b]);
    return;
  }
  const std::uint32_t first = up_[a][mix(hash) % up_[a].size()];
  way.push_back(2 * first);
  std::uint32_t top = cables_[first].to;
  if (layers_ == 3 && !same_pod) {
    const std::uint32_t second = up_[top][mix(hash + 1) % up_[top].size()];
    way.push_back(2 * second);
    const std::uint32_t lower =
        aggregation_[static_cast<std::size_t>(pod_[b] * pod_size_ + position_[top])];
    way.push_back(2 * pick(lower, cables_[second].to, mix(hash + 2)) + 1);
    top = lower;
  }
  way.push_back(2 * pick(b, top, mix(hash + 3)) + 1);
}

std::vector<sim::LinkId> Topology::route(int from, int to, std::uint64_t salt) const {
  check(from != to && from >= 0 && to >= 0 && from < gpus_ && to < gpus_,
        "a route has two different ends");
  std::vector<sim::LinkId> way;
  const auto hop = [&](int a, int b) {
    way.push_back(2 * nvlink_[static_cast<std::size_t>(a)]);
    way.push_back(2 * nvlink_[static_cast<std::size_t>(b)] + 1);
  };
  if (from / per_node_ == to / per_node_) {
    hop(from, to);
    return way;
  }
  const int via = sender(from, to);
  if (via != from) hop(from, via);
  const Place a = place_[static_cast<std::size_t>(via)], b = place_[static_cast<std::size_t>(to)];
  way.push_back(2 * a.cable);
  const auto ends = static_cast<std::uint64_t>(via) << 32 | static_cast<std::uint64_t>(to);
  climb(a.leaf, b.leaf, mix(ends ^ mix(salt)), way);
  way.push_back(2 * b.cable + 1);
  return way;
}

}  // namespace reckon::hw

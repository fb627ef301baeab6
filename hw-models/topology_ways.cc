// Finding ways in the graph: by the rules of fat-trees and dragonflies, or, where cables are dead
// and in networks that are given cable by cable, by shortest distance: at each switch a hash picks
// one of the cables that lead nearer to the receiver's switch, as equal-cost multipath does.
#include <fmt/format.h>

#include <algorithm>
#include <deque>

#include "hw-models/platform.h"
#include "hw-models/topology.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

using Shape = TopologyShape;

constexpr std::uint16_t kFar = 0xffff;
constexpr std::uint64_t kLanes = 16;  // ways that sprayed packets of one message take

// Sebastiano Vigna, splitmix64.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

void expect_short(const std::vector<sim::LinkId>& way, int from, int to) {
  if (way.size() > sim::Fluid::kMaxLinks)
    throw InputError(fmt::format(
        "/cluster/fabric/topology: GPU {} to GPU {}: expected a way of at most {} links, got {}",
        from, to, sim::Fluid::kMaxLinks, way.size()));
}

}  // namespace

int Topology::count(VertexKind kind) const {
  return static_cast<int>(std::count(vertices_.begin(), vertices_.end(), kind));
}

int Topology::switches() const {
  return static_cast<int>(vertices_.size()) - gpus_ - count(VertexKind::NvSwitch);
}

int Topology::endpoint_cables() const {
  return static_cast<int>(std::count_if(cables_.begin(), cables_.end(), [&](const Cable& c) {
    return vertices_[c.from] == VertexKind::Gpu && vertices_[c.to] != VertexKind::NvSwitch;
  }));
}

int Topology::fabric_cables() const {
  return static_cast<int>(cables_.size()) - gpus_ - endpoint_cables();
}

const char* Topology::layer(sim::LinkId link) const {
  if (link >= 2 * cables_.size()) {
    const std::size_t pool = link - 2 * cables_.size();
    return platform_ ? layer_names_[layer_of_[pool]].c_str() : layer_of_pool_[pool];
  }
  const Cable& c = cables_[link / 2];
  if (vertices_[c.to] == VertexKind::NvSwitch)
    return cluster_.node.nvlink.si > 0 ? "NVLink" : "PCIe";
  if (c.from < static_cast<std::uint32_t>(gpus_)) return "NIC";
  if (shape_.kind == Shape::Kind::Edges) return layer_names_[layer_of_[link / 2]].c_str();
  switch (vertices_[c.to]) {
    case VertexKind::Router:
      return pod_[c.from] == pod_[c.to] ? "cables in a group" : "global cables";
    case VertexKind::Aggregation: return "leaf uplinks";
    case VertexKind::Spine:
      return vertices_[c.from] == VertexKind::Leaf ? "leaf uplinks" : "pod uplinks";
    case VertexKind::Leaf:
    case VertexKind::NvSwitch:
    case VertexKind::Gpu: break;
  }
  check_failed("cables lead up");
}

// The GPU whose NIC a message takes: of the receiver's rail, if NVLink leads there.
int Topology::sender(int from, int to) const {
  if (rails_ == 1 || from % per_node_ % rails_ == to % per_node_ % rails_ ||
      cluster_.node.nvlink.si <= 0)
    return from;
  return from - from % per_node_ + to % per_node_;
}

int Topology::hops(int from, int to) const {
  if (node_of(from) == node_of(to)) return 0;
  if (platform_) return static_cast<int>(route(from, to).size()) - 1;
  if (by_distance_) {
    const auto ends = nearest_ends(from, to, 0);
    check(ends.has_value(), "there is a way");
    return ends->length + 1;
  }
  const std::uint32_t a = places_[static_cast<std::size_t>(sender(from, to))].front().leaf;
  const std::uint32_t b = places_[static_cast<std::size_t>(to)].front().leaf;
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

Seconds Topology::latency(const std::vector<sim::LinkId>& way) const {
  Seconds sum;
  for (sim::LinkId l : way)
    if (l < latency_.size()) sum += latency_[l];
  return sum;
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

// Breadth first from every switch that has NICs.
void Topology::measure_distances() {
  next_.resize(vertices_.size());
  for (std::uint32_t c = 0; c < cables_.size(); ++c) {
    if (dead_[c] != 0 || cables_[c].from < static_cast<std::uint32_t>(gpus_)) continue;
    next_[cables_[c].from].emplace_back(2 * c, cables_[c].to);
    next_[cables_[c].to].emplace_back(2 * c + 1, cables_[c].from);
  }
  for (auto& list : places_)
    std::erase_if(list, [&](const Place& p) { return dead_[p.cable] != 0; });
  for (const auto& list : places_)
    for (const Place& p : list) {
      auto& distance = distance_[p.leaf];
      if (!distance.empty()) continue;
      distance.assign(vertices_.size(), kFar);
      distance[p.leaf] = 0;
      std::deque<std::uint32_t> queue = {p.leaf};
      for (; !queue.empty(); queue.pop_front())
        for (const auto& [link, v] : next_[queue.front()])
          if (distance[v] == kFar) {
            distance[v] = static_cast<std::uint16_t>(distance[queue.front()] + 1);
            queue.push_back(v);
          }
    }
}

// The nearest NICs of the two GPUs; where none are connected, the nearest of their nodes. Of equal
// ones the hash picks.
std::optional<Topology::Ends> Topology::nearest_ends(int from, int to, std::uint64_t hash) const {
  std::vector<Ends> best;
  int least = kFar;
  const auto offer = [&](int a, int b, int detour) {
    for (const Place& up : places_[static_cast<std::size_t>(a)])
      for (const Place& down : places_[static_cast<std::size_t>(b)]) {
        const std::uint16_t d = distance_.at(down.leaf)[up.leaf];
        if (d == kFar || d + detour > least) continue;
        if (d + detour < least) best.clear();
        least = d + detour;
        best.push_back({a, b, up, down, d});
      }
  };
  offer(sender(from, to), to, 0);
  if (best.empty()) offer(from, to, 0);
  if (best.empty() && cluster_.node.nvlink.si > 0) {
    const int a = node_of(from) * per_node_, b = node_of(to) * per_node_;
    for (int i = a; i < a + per_node_; ++i)
      for (int j = b; j < b + per_node_; ++j) offer(i, j, (i != from) + (j != to));
  }
  if (best.empty()) return std::nullopt;
  return best[hash % best.size()];
}

// False: the pools of adaptive routing, which stand for cables, are empty.
bool Topology::climb_shortest(const Ends& e, std::uint64_t hash, std::uint64_t lane,
                              std::vector<sim::LinkId>& way) const {
  const bool pools =
      shape_.routing == Shape::Routing::Adaptive && shape_.kind != Shape::Kind::Edges &&
      e.up.leaf != e.down.leaf &&
      (shape_.kind != Shape::Kind::Dragonfly || pod_[e.up.leaf] == pod_[e.down.leaf] ||
       pair_.contains({pod_[e.up.leaf], pod_[e.down.leaf]}));
  if (pools) {
    const std::size_t before = way.size();
    climb(e.up.leaf, e.down.leaf, hash, way);
    return std::all_of(way.begin() + static_cast<std::ptrdiff_t>(before), way.end(),
                       [&](sim::LinkId l) { return links_[l].si > 0; });
  }
  const auto& distance = distance_.at(e.down.leaf);
  for (std::uint32_t v = e.up.leaf; v != e.down.leaf;) {
    std::vector<std::pair<sim::LinkId, std::uint32_t>> nearer;
    for (const auto& next : next_[v])
      if (distance[next.second] + 1 == distance[v]) nearer.push_back(next);
    const auto& [link, at] = nearer[(mix(hash++) + lane) % nearer.size()];
    way.push_back(link);
    v = at;
  }
  return true;
}

std::vector<sim::LinkId> Topology::route_left(int from, int to, std::uint64_t salt,
                                              std::uint64_t lane) const {
  std::vector<sim::LinkId> way;
  const auto pair = static_cast<std::uint64_t>(from) << 32 | static_cast<std::uint64_t>(to);
  const std::uint64_t hash = mix(pair ^ mix(salt));
  const auto e = nearest_ends(from, to, hash + lane);
  if (!e) return way;
  const auto over_nvlink = [&](int a, int b) {
    if (a == b) return;
    way.push_back(2 * nvlink_[static_cast<std::size_t>(a)]);
    way.push_back(2 * nvlink_[static_cast<std::size_t>(b)] + 1);
  };
  over_nvlink(from, e->from);
  way.push_back(2 * e->up.cable);
  if (!climb_shortest(*e, hash, lane, way)) return {};
  way.push_back(2 * e->down.cable + 1);
  over_nvlink(e->to, to);
  expect_short(way, from, to);
  return way;
}

std::vector<sim::LinkId> Topology::route(int from, int to, std::uint64_t salt) const {
  check(from != to && from >= 0 && to >= 0 && from < gpus_ && to < gpus_,
        "a route has two different ends");
  std::vector<sim::LinkId> way;
  const auto hop = [&](int a, int b) {
    way.push_back(2 * nvlink_[static_cast<std::size_t>(a)]);
    way.push_back(2 * nvlink_[static_cast<std::size_t>(b)] + 1);
  };
  if (node_of(from) == node_of(to)) {
    hop(from, to);
    return way;
  }
  if (platform_) {
    for (std::uint32_t l : platform_->way(host_of(from), host_of(to)))
      way.push_back(static_cast<sim::LinkId>(2 * cables_.size() + l));
    expect_short(way, from, to);
    return way;
  }
  if (by_distance_) return route_left(from, to, salt, 0);
  const int via = sender(from, to);
  if (via != from) hop(from, via);
  const Place a = places_[static_cast<std::size_t>(via)].front(),
              b = places_[static_cast<std::size_t>(to)].front();
  way.push_back(2 * a.cable);
  const auto ends = static_cast<std::uint64_t>(via) << 32 | static_cast<std::uint64_t>(to);
  climb(a.leaf, b.leaf, mix(ends ^ mix(salt)), way);
  way.push_back(2 * b.cable + 1);
  return way;
}

std::vector<std::vector<sim::LinkId>> Topology::routes(int from, int to, std::uint64_t salt) const {
  if (shape_.kind != Shape::Kind::Edges || shape_.routing != Shape::Routing::Adaptive ||
      node_of(from) == node_of(to))
    return {route(from, to, salt)};
  std::vector<std::vector<sim::LinkId>> out;
  for (std::uint64_t lane = 0; lane < kLanes; ++lane)
    out.push_back(route_left(from, to, salt, lane));
  return out;
}

}  // namespace reckon::hw

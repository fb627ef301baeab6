// Networks that are given cable by cable or by a platform file, and cables that are dead.
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <set>

#include "hw-models/platform.h"
#include "hw-models/strict_json.h"
#include "hw-models/topology.h"
#include "sim/check.h"
#include "sim/input_error.h"

namespace reckon::hw {

namespace {

using Shape = TopologyShape;

std::string without_digits(const std::string& name) {
  std::string out;
  for (char c : name)
    if (std::isdigit(static_cast<unsigned char>(c)) == 0) out += c;
  while (!out.empty() && (out.back() == '-' || out.back() == '_' || out.back() == '.'))
    out.pop_back();
  return out.empty() ? "links" : out;
}

// "gpu[0-7]" as "gpu0" ... "gpu7"; any other name as it is.
std::vector<std::string> expanded(const std::string& text) {
  const auto open = text.find('['), dash = text.find('-', open), close = text.find(']', dash);
  if (open == std::string::npos || dash == std::string::npos || close != text.size() - 1)
    return {text};
  int first = 0, last = 0;
  const char* const t = text.data();
  const auto a = std::from_chars(t + open + 1, t + dash, first);
  const auto b = std::from_chars(t + dash + 1, t + close, last);
  constexpr int kMost = 1'000'000;
  if (a.ec != std::errc() || a.ptr != t + dash || b.ec != std::errc() || b.ptr != t + close ||
      first > last || first < 0 || last > kMost)
    return {text};
  std::vector<std::string> out;
  for (int i = first; i <= last; ++i) out.push_back(text.substr(0, open) + std::to_string(i));
  return out;
}

// The number of "gpu12"; nothing: not the name of a GPU.
std::optional<int> gpu_number(const std::string& name) {
  if (name.size() < 4 || name.compare(0, 3, "gpu") != 0) return std::nullopt;
  int n = 0;
  const auto r = std::from_chars(name.data() + 3, name.data() + name.size(), n);
  if (r.ec != std::errc() || r.ptr != name.data() + name.size()) return std::nullopt;
  return n;
}

const char* kind_name(VertexKind kind) {
  switch (kind) {
    case VertexKind::Gpu: return "gpu";
    case VertexKind::NvSwitch: return "node";
    case VertexKind::Leaf: return "leaf";
    case VertexKind::Aggregation: return "aggregation";
    case VertexKind::Spine: return "spine";
    case VertexKind::Router: return "router";
  }
  return "?";
}

}  // namespace

std::string Topology::name(std::uint32_t vertex) const {
  if (vertex < names_.size() && !names_[vertex].empty()) return names_[vertex];
  const VertexKind kind = vertices_[vertex];
  const auto before = std::count(vertices_.begin(), vertices_.begin() + vertex, kind);
  return kind_name(kind) + std::to_string(before);
}

// Switches in the order in which links name them. A switch is as far up as it is from the GPUs.
void Topology::build_edges() {
  struct Line {
    std::uint32_t from, to;
    const TopologyLink* link;
  };
  std::map<std::string, std::uint32_t> switches;
  std::vector<Line> lines;
  std::vector<std::string> labels(vertices_.size());
  const auto at = [&](std::size_t i) { return fmt::format("/fabric/topology/links/{}", i); };
  const auto vertex = [&](const std::string& end, std::size_t i) {
    if (const auto gpu = gpu_number(end)) {
      if (*gpu >= gpus_)
        throw InputError(fmt::format("cluster \"{}\": {}: expected GPUs from 0 to {}, got \"{}\"",
                                     cluster_.name, at(i), gpus_ - 1, end));
      return static_cast<std::uint32_t>(*gpu);
    }
    const auto [it, added] = switches.emplace(end, 0);
    if (added) {
      it->second = add_vertex(VertexKind::Spine);
      labels.push_back(end);
    }
    return it->second;
  };
  constexpr std::size_t kMostLines = 10'000'000;
  for (std::size_t i = 0; i < shape_.links.size(); ++i) {
    const auto from_ends = expanded(shape_.links[i].from), to_ends = expanded(shape_.links[i].to);
    if (from_ends.size() * to_ends.size() > kMostLines - lines.size())
      throw InputError(
          fmt::format("cluster \"{}\": {}: expected at most {} links in all, got {} by "
                      "these two ranges",
                      cluster_.name, at(i), kMostLines, from_ends.size() * to_ends.size()));
    for (const std::string& from : from_ends)
      for (const std::string& to : to_ends) {
        Line l{vertex(from, i), vertex(to, i), &shape_.links[i]};
        const bool gpus =
            vertices_[l.from] == VertexKind::Gpu && vertices_[l.to] == VertexKind::Gpu;
        if (gpus || l.from == l.to)
          throw InputError(
              fmt::format("cluster \"{}\": {}: expected two ends of which one is a switch, got "
                          "\"{}\" and \"{}\"",
                          cluster_.name, at(i), from, to));
        if (vertices_[l.to] == VertexKind::Gpu) std::swap(l.from, l.to);
        lines.push_back(l);
      }
  }
  names_ = labels;
  for (std::uint32_t v = 0; v < names_.size(); ++v)
    if (names_[v].empty())
      names_[v] =
          kind_name(vertices_[v]) + std::to_string(v < static_cast<std::uint32_t>(gpus_)
                                                       ? v
                                                       : v - static_cast<std::uint32_t>(gpus_));

  std::vector<std::vector<std::uint32_t>> beside(vertices_.size());
  std::vector<int> level(vertices_.size(), 0);
  std::vector<std::uint32_t> queue;
  for (const Line& l : lines) {
    beside[l.from].push_back(l.to);
    beside[l.to].push_back(l.from);
    if (vertices_[l.from] == VertexKind::Gpu && level[l.to] == 0) {
      level[l.to] = 1;
      queue.push_back(l.to);
    }
  }
  for (std::size_t i = 0; i < queue.size(); ++i)
    for (std::uint32_t v : beside[queue[i]])
      if (level[v] == 0 && vertices_[v] != VertexKind::Gpu) {
        level[v] = level[queue[i]] + 1;
        queue.push_back(v);
      }
  for (std::uint32_t v : queue) {
    layers_ = std::max(layers_, level[v]);
    vertices_[v] = level[v] == 1   ? VertexKind::Leaf
                   : level[v] == 2 ? VertexKind::Aggregation
                                   : VertexKind::Spine;
  }
  for (std::uint32_t v : queue)  // the topmost layer
    if (level[v] == layers_ && layers_ > 1) vertices_[v] = VertexKind::Spine;

  std::map<std::string, std::uint32_t> layers;
  layer_of_.assign(cables_.size(), 0);  // NVLink's, which is never asked for
  latency_.assign(2 * cables_.size(), Seconds(0));
  // GPUs' own cables first.
  std::stable_sort(lines.begin(), lines.end(), [&](const Line& a, const Line& b) {
    return (vertices_[a.from] == VertexKind::Gpu) > (vertices_[b.from] == VertexKind::Gpu);
  });
  for (Line& l : lines) {
    const bool nic = vertices_[l.from] == VertexKind::Gpu;
    if (!nic && (level[l.from] > level[l.to] || (level[l.from] == level[l.to] && l.from > l.to)))
      std::swap(l.from, l.to);
    const std::string low = without_digits(names_[l.from]), high = without_digits(names_[l.to]);
    const auto [it, added] =
        layers.emplace(low == high ? low + " cables" : low + "-" + high, layer_names_.size());
    if (added) layer_names_.push_back(it->first);
    BytesPerSecond rate = l.link->bandwidth;
    if (nic && cluster_.node.pcie.si > 0) rate = std::min(rate, cluster_.node.pcie);
    for (int i = 0; i < l.link->count; ++i) {
      const std::uint32_t c = add_cable(l.from, l.to, rate);
      layer_of_.push_back(it->second);
      latency_.insert(latency_.end(), 2, l.link->latency);
      if (nic) places_[l.from].push_back({l.to, c});
    }
  }
  for (int g = 0; g < gpus_; ++g)
    if (places_[static_cast<std::size_t>(g)].empty() && gpus_ > per_node_)
      throw InputError(fmt::format(
          "cluster \"{}\": /fabric/topology/links: expected a cable to every GPU, gpu{} has none",
          cluster_.name, g));
}

void Topology::build_platform() {
  platform_ = std::make_shared<const Platform>(read_platform(shape_.platform));
  const int hosts = static_cast<int>(platform_->hosts().size()), nodes = gpus_ / per_node_;
  if (hosts != gpus_ && hosts != nodes)
    throw InputError(fmt::format("{}: expected {} hosts (one a GPU) or {} (one a node), got {}",
                                 shape_.platform, gpus_, nodes, hosts));
  std::map<std::string, std::uint32_t> layers;
  latency_.assign(2 * cables_.size(), Seconds(0));
  for (const Platform::Link& l : platform_->links()) {
    const auto [it, added] = layers.emplace(without_digits(l.name), layer_names_.size());
    if (added) layer_names_.push_back(it->first);
    layer_of_.push_back(it->second);
    latency_.push_back(l.latency);
  }
  layers_ = 1;
}

std::uint32_t Topology::host_of(int gpu) const {
  const bool each = platform_->hosts().size() == static_cast<std::size_t>(gpus_);
  return static_cast<std::uint32_t>(each ? gpu : node_of(gpu));
}

void Topology::kill(const std::vector<DeadCables>& dead) {
  if (platform_)
    throw InputError(fmt::format(
        "cluster \"{}\": links of a platform file can't be dead: the file says the ways",
        cluster_.name));
  std::map<std::string, std::uint32_t> vertices;
  std::vector<std::string> known;
  std::map<VertexKind, int> seen;
  for (std::uint32_t v = 0; v < vertices_.size(); ++v) {
    const std::string name = v < names_.size() && !names_[v].empty()
                                 ? names_[v]
                                 : kind_name(vertices_[v]) + std::to_string(seen[vertices_[v]]);
    ++seen[vertices_[v]];
    if (vertices_[v] == VertexKind::NvSwitch) continue;
    vertices[name] = v;
    known.push_back(name);
  }
  const auto find = [&](const std::string& name) {
    const auto it = vertices.find(name);
    if (it != vertices.end()) return it->second;
    const std::string nearest = nearest_spelling(name, known);
    throw InputError(fmt::format(
        "/disturbances/dead_links: expected a GPU or a switch of the fabric, e.g. \"{}\", got "
        "\"{}\"{}",
        known.back(), name, nearest.empty() ? "" : "; did you mean \"" + nearest + "\"?"));
  };
  for (const DeadCables& d : dead) {
    const std::uint32_t a = find(d.from), b = find(d.to);
    int left = d.count > 0 ? d.count : static_cast<int>(cables_.size()), killed = 0;
    for (std::uint32_t c = 0; c < cables_.size() && left > 0; ++c) {
      const bool between = (cables_[c].from == a && cables_[c].to == b) ||
                           (cables_[c].from == b && cables_[c].to == a);
      if (!between || dead_[c] != 0) continue;
      dead_[c] = 1;
      --left;
      ++killed;
    }
    if (killed == 0 || (d.count > 0 && left > 0)) {
      std::set<std::string> beside;
      for (const Cable& c : cables_)
        if (vertices_[c.to] != VertexKind::NvSwitch && (c.from == a || c.to == a))
          beside.insert(name(c.from == a ? c.to : c.from));
      throw InputError(fmt::format(
          "/disturbances/dead_links: expected {} between \"{}\" and \"{}\", got {}; \"{}\" is "
          "connected to {}{}",
          d.count > 0 ? fmt::format("{} cables", d.count) : "a cable", d.from, d.to, killed, d.from,
          beside.empty() ? "nothing" : *beside.begin(),
          beside.size() > 1 ? fmt::format(" ... {}", *beside.rbegin()) : ""));
    }
  }
}

}  // namespace reckon::hw

#include "hw-models/traffic.h"

#include <algorithm>
#include <map>
#include <random>

#include "sim/check.h"

namespace reckon::hw {

namespace {
constexpr double kTolerance = 1e-3;
}

TrafficResult run(const AllToAll& pattern, const Topology& topology, const Cluster& cluster) {
  const int gpus = topology.gpus(), groups = gpus / pattern.group;
  check(pattern.group >= 2 && gpus % pattern.group == 0, "groups share out the cluster");
  check(pattern.spread >= 0 && pattern.spread < 1, "sizes stay positive");
  const auto member = [&](int group, int i) {
    return pattern.strided ? i * groups + group : group * pattern.group + i;
  };

  std::vector<std::vector<sim::LinkId>> routes;
  std::vector<sim::FlowOf> flows;
  std::vector<double> bytes(topology.link_rates().size(), 0);
  std::vector<char> outer(bytes.size(), 0);  // links that a way begins or ends with
  std::mt19937_64 random(pattern.seed);
  double sent = 0;
  for (int g = 0; g < groups; ++g)
    for (int i = 0; i < pattern.group; ++i)
      for (int j = 0; j < pattern.group; ++j) {
        if (i == j) continue;
        const int from = member(g, i), to = member(g, j);
        // 53 bits, as numbers in [-1, 1): std's distributions differ between libraries.
        const double u = static_cast<double>(random() >> 11) * 0x1p-52 - 1;
        const Bytes size = pattern.message * (1 + pattern.spread * u);
        const bool inside = topology.node_of(from) == topology.node_of(to);
        auto ways = topology.routes(from, to, pattern.seed);
        const Bytes part = size / static_cast<double>(ways.size());
        for (auto& way : ways) {
          flows.push_back(
              {.route = static_cast<sim::RouteId>(routes.size()),
               .bytes = part,
               .start = sim::ticks(inside ? cluster.node.nvlink_latency : cluster.fabric.latency)});
          routes.push_back(std::move(way));
          for (sim::LinkId l : routes.back()) bytes[l] += part.si;
          outer[routes.back().front()] = outer[routes.back().back()] = 1;
        }
        sent += size.si;
      }

  TrafficResult result{.flows = std::int64_t{gpus} * (pattern.group - 1)};
  for (const auto& end : sim::flow_ends(topology.link_rates(), routes, flows, kTolerance))
    result.end = std::max(result.end, sim::seconds(end.value()));
  result.per_gpu = Bytes(sent / gpus) / result.end;
  struct Sum {
    double use = 0, most = 0, links = 0;
  };
  std::map<std::string, Sum> layers;
  for (sim::LinkId l = 0; l < bytes.size(); ++l) {
    if (bytes[l] <= 0) continue;
    const std::string layer = topology.layer(l);
    const Seconds busy = Bytes(bytes[l]) / topology.link_rates()[l];
    if (layer == "NIC" || layer == "NVLink" || layer == "PCIe" || outer[l] != 0)
      result.endpoints = std::max(result.endpoints, busy);
    Sum& sum = layers[layer];
    sum.use += busy / result.end;
    sum.most = std::max(sum.most, busy / result.end);
    sum.links += 1;
  }
  for (const auto& [layer, sum] : layers)
    result.layers.push_back({layer, sum.use / sum.links, sum.most});
  return result;
}

}  // namespace reckon::hw

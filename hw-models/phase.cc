#include "hw-models/phase.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "sim/check.h"

namespace reckon::hw {

namespace {

// Members of one group by node, in the order in which nodes come up.
std::vector<std::vector<int>> by_node(const std::vector<int>& group, const Topology& t) {
  std::vector<std::vector<int>> nodes;
  std::map<int, std::size_t> place;
  for (int gpu : group) {
    const auto [it, added] = place.emplace(t.node_of(gpu), nodes.size());
    if (added) nodes.emplace_back();
    nodes[it->second].push_back(gpu);
  }
  return nodes;
}

struct Messages {
  const Topology& topology;
  const std::vector<int>& group;
  std::vector<PhaseMessage>& out;

  void send(int from, int to, Bytes bytes) const {
    if (from != to && bytes.si > 0) out.push_back({from, to, bytes});
  }

  // Every member sends `inside` to the others of its node, and `outside` to those of other nodes,
  // in equal parts.
  void pairwise(Bytes inside, Bytes outside) const {
    const auto nodes = by_node(group, topology);
    for (const auto& node : nodes)
      for (int from : node)
        for (const auto& other : nodes) {
          const bool own = &other == &node;
          const double parts =
              static_cast<double>(own ? node.size() - 1 : group.size() - node.size());
          for (int to : other) send(from, to, (own ? inside : outside) / parts);
        }
  }

  void operator()(const sim::Collective& op) const {
    const auto n = static_cast<double>(group.size());
    if (op.kind == sim::CollectiveKind::AllToAll) {
      for (int from : group)
        for (int to : group) send(from, to, op.bytes / n);
      return;
    }
    const double rounds = op.kind == sim::CollectiveKind::AllReduce ? 2 : 1;
    const Bytes pass = rounds * ((n - 1) / n) * op.bytes;
    const auto nodes = by_node(group, topology);
    const std::size_t m = nodes.size();
    std::size_t rings = 0;
    for (const auto& node : nodes) rings = std::max(rings, node.size());
    for (std::size_t i = 0; i < m; ++i) {
      const auto &node = nodes[i], &next = nodes[(i + 1) % m];
      const double steps = static_cast<double>(node.size() - (m > 1 ? 1 : 0));
      for (std::size_t j = 0; j < node.size(); ++j)
        send(node[j], node[(j + 1) % node.size()],
             pass * (steps / static_cast<double>(node.size())));
      for (std::size_t r = 0; m > 1 && r < rings; ++r)
        send(node[r % node.size()], next[r % next.size()], pass / static_cast<double>(rings));
    }
  }

  void operator()(const sim::TokenExchange& op) const {
    const Bytes once = op.tokens * op.bytes_per_token;
    if (!op.node_forwarding) return pairwise(op.local_copies * once, op.off_node_copies * once);
    pairwise(op.local_copies * once, Bytes(0));
    const auto nodes = by_node(group, topology);
    const double others = static_cast<double>(nodes.size()) - 1;
    for (const auto& node : nodes)
      for (std::size_t j = 0; j < node.size(); ++j)
        for (const auto& other : nodes)
          if (&other != &node)
            send(node[j], other[j % other.size()], op.remote_nodes * once / others);
  }

  void operator()(const sim::Transfer& op) const { send(group[0], group[1], op.bytes); }

  template <class Other>
  void operator()(const Other&) const {}  // computes, or moves nothing
};

// How long the busiest GPU's own link is at work in a batch: long enough that whole bytes and ticks
// don't matter, short enough that a thousandfold slow-down stays far inside the calendar.
constexpr Seconds kScaled{1000};
constexpr double kMostSlowDown = 1000;  // beyond, the busiest of all links counts for the scale

}  // namespace

std::vector<PhaseMessage> phase_messages(const sim::Work& op,
                                         const std::vector<std::vector<int>>& groups,
                                         const Topology& topology) {
  std::vector<PhaseMessage> out;
  for (const auto& group : groups) {
    check(group.size() > 1, "a group that communicates has members");
    std::visit(Messages{topology, group, out}, op);
  }
  return out;
}

PhaseFlows phase_flows(const std::vector<PhaseMessage>& messages, const Topology& t,
                       const Cluster& cluster, std::uint64_t salt) {
  PhaseFlows p;
  const auto gpus = static_cast<std::size_t>(t.gpus());
  std::vector<Bytes> out_network(gpus), in_network(gpus), out_inside(gpus), in_inside(gpus);
  const auto is_inside = [&](const PhaseMessage& m) {
    return t.node_of(m.from) == t.node_of(m.to);
  };
  for (const PhaseMessage& m : messages) {
    const auto from = static_cast<std::size_t>(m.from), to = static_cast<std::size_t>(m.to);
    (is_inside(m) ? out_inside : out_network)[from] += m.bytes;
    (is_inside(m) ? in_inside : in_network)[to] += m.bytes;
  }
  for (std::size_t g = 0; g < gpus; ++g) {
    p.sent.network = std::max(p.sent.network, std::max(out_network[g], in_network[g]));
    p.sent.inside = std::max(p.sent.inside, std::max(out_inside[g], in_inside[g]));
  }
  p.ideal.network = p.sent.network / cluster.fabric.nic;
  p.ideal.inside =
      p.sent.inside / (cluster.node.nvlink.si > 0 ? cluster.node.nvlink : cluster.node.pcie);

  p.batch.hosts = static_cast<std::uint32_t>(t.gpus());
  p.batch.link_rates = t.link_rates();
  p.link_bytes.resize(t.link_rates().size());
  for (bool network : {true, false}) {
    for (const PhaseMessage& m : messages) {
      if (is_inside(m) == network) continue;
      auto ways = t.routes(m.from, m.to, salt);
      const auto parts = static_cast<double>(ways.size());
      for (auto& way : ways) {
        if (way.empty()) {
          p.cut = {m.from, m.to};
          return p;
        }
        if (network) p.latency = std::max(p.latency, t.latency(way));
        for (sim::LinkId l : way) p.link_bytes[l] += m.bytes / parts;
        p.batch.flows.push_back(
            {.route = static_cast<sim::RouteId>(p.batch.routes.size()), .bytes = m.bytes / parts});
        p.batch.routes.push_back(
            {static_cast<std::uint32_t>(m.from), static_cast<std::uint32_t>(m.to), std::move(way)});
      }
    }
    if (network) p.network_flows = p.batch.flows.size();
  }

  // GPUs' own links come first, and a link further up has to be busier to count.
  constexpr double kBusier = 1 + 1e-9;
  Seconds most;
  for (sim::LinkId l = 0; l < p.link_bytes.size(); ++l) {
    if (p.link_bytes[l].si <= 0) continue;
    const Seconds busy = p.link_bytes[l] / t.link_rates()[l];
    if (busy <= most * kBusier) continue;
    most = busy;
    p.bottleneck = t.layer(l);
  }
  const Seconds longest = std::max({p.ideal.network, p.ideal.inside, most / kMostSlowDown});
  if (longest.si > 0) p.scale = kScaled / longest;
  for (sim::FlowOf& f : p.batch.flows) f.bytes = Bytes(std::round(f.bytes.si * p.scale));
  return p;
}

Both<double> slow_down(const PhaseFlows& flows, const std::vector<sim::SimTime>& ends) {
  check(ends.size() == flows.batch.flows.size(), "every flow has an end");
  const auto first = ends.begin(),
             middle = first + static_cast<std::ptrdiff_t>(flows.network_flows);
  // Sizes are whole bytes and ends whole ticks: what is that little over the ideal is rounding.
  constexpr double kRounding = 1e-9;
  const auto ratio = [&](auto from, auto to, Seconds ideal) {
    if (from == to || ideal.si <= 0) return 1.0;
    const double r = sim::seconds(*std::max_element(from, to)) / (ideal * flows.scale);
    return r < 1 + kRounding ? 1.0 : r;
  };
  return {.network = ratio(first, middle, flows.ideal.network),
          .inside = ratio(middle, ends.end(), flows.ideal.inside)};
}

Cluster slowed(const Cluster& cluster, const Both<double>& slow, Seconds latency) {
  Cluster c = cluster;
  if (latency.si > 0) c.fabric.latency = latency;
  c.fabric.nic /= slow.network;
  c.fabric.oversubscription = 1;
  c.node.nvlink /= slow.inside;
  if (c.node.nvlink.si <= 0) c.node.pcie /= slow.inside;
  return c;
}

}  // namespace reckon::hw

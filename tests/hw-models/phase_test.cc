#include "hw-models/phase.h"

#include <catch2/catch.hpp>
#include <numeric>

#include "hw-models/catalog.h"
#include "hw-models/cost.h"

using namespace reckon;
using namespace reckon::hw;

namespace {

using Shape = TopologyShape;
using Groups = std::vector<std::vector<int>>;

constexpr auto kRail = Shape::Wiring::Rail, kPlane = Shape::Wiring::Plane;
constexpr auto kSprayed = Shape::Routing::Adaptive, kHash = Shape::Routing::Ecmp;

Cluster cluster_with(int gpus, Shape::Wiring wiring, Shape::Routing routing, double over = 1) {
  Cluster c = cluster("dgx-h100");
  c.gpus = gpus;
  c.fabric.oversubscription = over;
  c.fabric.topology = Shape{.layers = 2, .radix = 16, .wiring = wiring, .routing = routing};
  return c;
}

// Groups of `size` GPUs that lie `stride` apart.
Groups strided(int gpus, int size, int stride) {
  Groups out;
  for (int b = 0; b < gpus; b += size * stride)
    for (int f = 0; f < stride; ++f) {
      auto& g = out.emplace_back();
      for (int i = 0; i < size; ++i) g.push_back(b + f + i * stride);
    }
  return out;
}

sim::Work exchange(int size, bool forwarding) {
  return sim::TokenExchange{.tokens = 4096,
                            .remote_nodes = 3.1,
                            .ranks = 6,
                            .off_node_copies = 5,
                            .local_copies = 4,
                            .bytes_per_token = Bytes(7168),
                            .group = {.size = size, .per_node = 8},
                            .node_forwarding = forwarding};
}

sim::Work collective(sim::CollectiveKind kind, int size, int per_node) {
  return sim::Collective{
      .kind = kind, .bytes = 64 * MB, .group = {.size = size, .per_node = per_node}};
}

std::vector<sim::SimTime> ends_of(const PhaseFlows& p) {
  std::vector<std::vector<sim::LinkId>> routes;
  for (const auto& r : p.batch.routes) routes.push_back(r.links);
  std::vector<sim::SimTime> out;
  for (const auto& e : sim::flow_ends(p.batch.link_rates, routes, p.batch.flows))
    out.push_back(e.value());
  return out;
}

Both<double> slow(const sim::Work& op, const Groups& groups, const Cluster& c,
                  std::uint64_t salt = 1) {
  const Topology t(c);
  const PhaseFlows p = phase_flows(phase_messages(op, groups, t), t, c, salt);
  return slow_down(p, ends_of(p));
}

}  // namespace

// All NICs at their full rate at once is what a non-blocking fabric is for; sprayed packets get it.
TEST_CASE("on a non-blocking fabric with sprayed packets every op takes what its own links need") {
  using enum sim::CollectiveKind;
  for (auto wiring : {kRail, kPlane}) {
    const Cluster c = cluster_with(64, wiring, kSprayed);
    for (const auto& [op, groups] : std::vector<std::pair<sim::Work, Groups>>{
             {exchange(64, true), strided(64, 64, 1)},
             {exchange(16, true), strided(64, 16, 1)},
             {collective(AllReduce, 8, 1), strided(64, 8, 8)},
             {collective(ReduceScatter, 64, 8), strided(64, 64, 1)},
             {collective(AllGather, 16, 4), strided(64, 16, 2)},
             {collective(AllReduce, 8, 8), strided(64, 8, 1)},
             {sim::Transfer{.bytes = 10 * MB}, Groups{{0, 8}, {1, 9}, {17, 57}}}}) {
      const Both<double> s = slow(op, groups, c);
      CAPTURE(op.index(), static_cast<int>(wiring));
      CHECK(s.network == 1);
      CHECK(s.inside == 1);
      // Then the cost model says what it says without flows.
      const Stack& software = stack("deepseek");
      CHECK(cost(op, slowed(c, s), software).alone.si == cost(op, c, software).alone.si);
    }
  }
}

// A ring passes 2 (n-1)/n S over the edge between two nodes, a p-th of it over each of p NICs, and
// over NVLink between all others. A forwarded exchange sends tokens x nodes, and tokens x copies.
TEST_CASE("messages carry what the ops' formulas say") {
  const Cluster c = cluster_with(64, kRail, kSprayed);
  const Topology t(c);
  const auto total = [&](const std::vector<PhaseMessage>& messages, bool inside) {
    Bytes sum;
    for (const PhaseMessage& m : messages)
      if ((t.node_of(m.from) == t.node_of(m.to)) == inside) sum += m.bytes;
    return sum;
  };
  const auto ring =
      phase_messages(collective(sim::CollectiveKind::AllReduce, 32, 8), strided(32, 32, 1), t);
  const Bytes pass = 2 * (31.0 / 32) * 64 * MB;
  CHECK(total(ring, false).si == Approx(4 * pass.si));        // 4 edges between nodes
  CHECK(total(ring, true).si == Approx((32 - 4) * pass.si));  // of 32 in all
  const auto forwarded = phase_messages(exchange(64, true), strided(64, 64, 1), t);
  CHECK(total(forwarded, false).si == Approx(64 * 4096 * 7168 * 3.1));
  CHECK(total(forwarded, true).si == Approx(64 * 4096 * 7168.0 * 4));
  for (const PhaseMessage& m : forwarded)
    if (t.node_of(m.from) != t.node_of(m.to)) CHECK(m.from % 8 == m.to % 8);
  const auto plain = phase_messages(exchange(64, false), strided(64, 64, 1), t);
  CHECK(total(plain, false).si == Approx(64 * 4096 * 7168.0 * 5));
  // 7/64 of an all-to-all's buffer stay in the node, 56/64 leave it.
  const auto all =
      phase_messages(collective(sim::CollectiveKind::AllToAll, 64, 8), strided(64, 64, 1), t);
  CHECK(total(all, true).si == Approx(64 * 64e6 * 7 / 64));
  CHECK(total(all, false).si == Approx(64 * 64e6 * 56 / 64));
}

// Radix 16 at 3:1: 12 GPUs a leaf on 4 uplinks. Leaf 0 sends to leaf 1: each gets a third.
TEST_CASE("an oversubscribed fabric slows down what climbs, by how much it is short") {
  Cluster c = cluster_with(24, Shape::Wiring::Node, kSprayed, 3);
  c.node.gpus = 4;
  Groups pairs;
  for (int i = 0; i < 12; ++i) pairs.push_back({i, 12 + i});
  const sim::Work message = sim::Transfer{.bytes = 10 * MB};
  const Both<double> s = slow(message, pairs, c);
  CHECK(s.network == Approx(3));
  CHECK(s.inside == 1);
  const Topology t(c);
  const PhaseFlows p = phase_flows(phase_messages(message, pairs, t), t, c, 1);
  CHECK(p.bottleneck == "leaf uplinks");
  // Under the leaf nothing is short.
  CHECK(slow(message, {{0, 4}, {1, 5}, {13, 17}}, c).network == 1);
  // What the model's own factor for oversubscription says does not count twice.
  const Stack& software = stack("megatron-core-2024");
  const auto at_third = cost(message, slowed(c, s), software).alone;
  Cluster third = c;
  third.fabric.nic /= 3;
  third.fabric.oversubscription = 1;
  CHECK(at_third.si == Approx(cost(message, third, software).alone.si));
}

TEST_CASE("hashes collide, the same way each time, and size does not matter") {
  const Cluster c = cluster_with(128, Shape::Wiring::Node, kHash);
  const Groups rings = strided(128, 16, 8);
  const auto op = collective(sim::CollectiveKind::AllReduce, 16, 1);
  const Both<double> s = slow(op, rings, c);
  CHECK(s.network >= 2);  // rings are single flows: two on one cable take twice as long
  CHECK(slow(op, rings, c).network == s.network);
  const Topology t(c);
  auto larger = std::get<sim::Collective>(op);
  larger.bytes *= 1000;
  const PhaseFlows a = phase_flows(phase_messages(op, rings, t), t, c, 1);
  const PhaseFlows b = phase_flows(phase_messages(larger, rings, t), t, c, 1);
  CHECK(slow_down(b, ends_of(b)).network == s.network);
  for (std::size_t f = 0; f < a.batch.flows.size(); ++f)
    CHECK(a.batch.flows[f].bytes.si == b.batch.flows[f].bytes.si);
}

// 24 GPUs of one side share a cable that is 10,000 times too thin.
TEST_CASE("a slow-down of any size stays inside the calendar") {
  Cluster c = cluster_with(48, Shape::Wiring::Node, kHash);
  const double thin = c.fabric.nic.si * 24 / 1e4;
  Shape edges{.kind = Shape::Kind::Edges, .routing = kHash};
  edges.links = {{"gpu[0-23]", "left", c.fabric.nic},
                 {"gpu[24-47]", "right", c.fabric.nic},
                 {"left", "right", BytesPerSecond(thin)}};
  c.fabric.topology = edges;
  Groups pairs;
  for (int i = 0; i < 24; ++i) pairs.push_back({i, 24 + i});
  CHECK(slow(sim::Transfer{.bytes = 10 * MB}, pairs, c).network == Approx(1e4).epsilon(1e-3));
}

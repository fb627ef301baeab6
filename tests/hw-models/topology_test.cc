#include "hw-models/topology.h"

#include <catch2/catch.hpp>
#include <set>

#include "hw-models/catalog.h"
#include "hw-models/topology_svg.h"
#include "hw-models/traffic.h"
#include "sim/input_error.h"

using namespace reckon;
using namespace reckon::hw;

namespace {

using Shape = TopologyShape;

Cluster cluster_of(int gpus, const Shape& shape, double oversubscription = 1) {
  Cluster c = cluster("dgx-h100");
  c.gpus = gpus;
  c.fabric.oversubscription = oversubscription;
  c.fabric.topology = shape;
  return c;
}

Shape fat_tree(int layers, int radix, Shape::Wiring wiring,
               Shape::Routing routing = Shape::Routing::Ecmp) {
  return {.layers = layers, .radix = radix, .wiring = wiring, .routing = routing};
}

constexpr auto kNode = Shape::Wiring::Node, kRail = Shape::Wiring::Rail,
               kPlane = Shape::Wiring::Plane;

bool is_switch(VertexKind kind) {
  return kind != VertexKind::Gpu && kind != VertexKind::NvSwitch;
}

}  // namespace

// DeepSeek, arXiv 2505.09343, table 3: 64-port switches, 8 planes. Costs in M$ follow from two
// prices, of a switch and of a cable between switches.
TEST_CASE("the sizes and costs of five fabrics are those published") {
  struct Row {
    const char* name;
    double endpoints, switches, links, cost_per_endpoint;
  };
  const Row published[] = {{"2-layer fat-tree", 2048, 96, 2048, 4390},
                           {"multi-plane fat-tree", 16384, 768, 16384, 4390},
                           {"3-layer fat-tree", 65536, 5120, 131072, 7500},
                           {"slim fly", 32928, 1568, 32928, 4400},
                           {"dragonfly", 261632, 16352, 384272, 5800}};
  const auto sizes = largest_fabrics(64, 8);
  const Shape& prices = *fabric("mpft-400").topology;
  REQUIRE(sizes.size() == std::size(published));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const Row& row = published[i];
    const FabricSize& f = sizes[i];
    CAPTURE(row.name);
    CHECK(f.name == std::string(row.name));
    const double slack = i == 4 ? 0.005 : 0;  // two groups more than the table's
    CHECK(static_cast<double>(f.endpoints) == Approx(row.endpoints).epsilon(slack));
    CHECK(static_cast<double>(f.switches) == Approx(row.switches).epsilon(slack));
    CHECK(static_cast<double>(f.cables) == Approx(row.links).epsilon(slack));
    const double cost = static_cast<double>(f.switches) * prices.switch_price +
                        static_cast<double>(f.cables) * prices.cable_price;
    CHECK(cost / static_cast<double>(f.endpoints) == Approx(row.cost_per_endpoint).epsilon(0.012));
  }
}

TEST_CASE("DeepSeek's cluster: eight planes of eight leaves and four spines") {
  const Topology t(cluster("h800-2048"));
  CHECK(t.layers() == 2);
  CHECK(t.count(VertexKind::Leaf) == 64);
  CHECK(t.count(VertexKind::Spine) == 32);
  CHECK(t.fabric_cables() == 2048);
  CHECK(bisection(t).si == Approx(1024 * 50e9));
  CHECK(t.hops(0, 7) == 0);
  CHECK(t.hops(0, 8) == 1);       // the next node, same leaf
  CHECK(t.hops(0, 9) == 1);       // another plane: over NVLink first
  CHECK(t.hops(0, 8 * 32) == 3);  // the 33rd node
}

TEST_CASE("as few layers as hold the cluster") {
  CHECK(Topology(cluster_of(64, fat_tree(0, 64, kNode))).layers() == 1);
  CHECK(Topology(cluster_of(2048, fat_tree(0, 64, kRail))).layers() == 2);
  CHECK(Topology(cluster_of(2056, fat_tree(0, 64, kRail))).layers() == 3);
  CHECK(Topology(cluster_of(16384, fat_tree(0, 64, kPlane))).layers() == 2);
  CHECK_THROWS_AS(Topology(cluster_of(4096, fat_tree(2, 64, kNode))), InputError);
  CHECK_THROWS_AS(Topology(cluster_of(264, {.kind = Shape::Kind::Dragonfly, .radix = 7})),
                  InputError);
}

// Over fat-trees of every wiring and number of layers, and dragonflies.
TEST_CASE("no switch has more cables than ports; every route is a walk over existing cables") {
  std::vector<Cluster> clusters;
  for (int layers : {1, 2, 3})
    for (auto wiring : {kNode, kRail, kPlane})
      for (double over : {1.0, 3.0}) {
        const int most[] = {16, 64, 512};
        clusters.push_back(cluster_of(most[layers - 1] / (over > 1 && layers > 1 ? 2 : 1),
                                      fat_tree(layers, 16, wiring), over));
      }
  clusters.push_back(cluster_of(96, {.kind = Shape::Kind::Dragonfly, .radix = 11}));
  clusters.push_back(cluster_of(16, {.kind = Shape::Kind::Dragonfly, .radix = 11}));
  for (const Cluster& c : clusters) {
    const Topology t(c);
    CAPTURE(c.gpus, t.layers(), static_cast<int>(t.shape().wiring),
            static_cast<int>(t.shape().kind));
    std::vector<int> ports(t.vertices().size(), 0);
    for (const Cable& cable : t.cables()) ++ports[cable.from], ++ports[cable.to];
    for (std::size_t v = 0; v < ports.size(); ++v)
      if (is_switch(t.vertices()[v])) CHECK(ports[v] <= t.shape().radix);

    std::set<sim::LinkId> used;
    for (int from = 0; from < t.gpus(); from += 17)
      for (int to = 0; to < t.gpus(); ++to) {
        if (from == to) continue;
        const auto way = t.route(from, to, 5);
        REQUIRE(way.size() <= sim::Fluid::kMaxLinks);
        REQUIRE(std::set<sim::LinkId>(way.begin(), way.end()).size() == way.size());
        auto at = static_cast<std::uint32_t>(from);
        int switches = 0;
        for (sim::LinkId l : way) {
          const Cable& cable = t.cables()[l / 2];
          REQUIRE(at == (l % 2 == 0 ? cable.from : cable.to));
          at = l % 2 == 0 ? cable.to : cable.from;
          switches += is_switch(t.vertices()[at]);
          used.insert(l);
        }
        REQUIRE(at == static_cast<std::uint32_t>(to));
        if (t.shape().kind == Shape::Kind::FatTree)
          REQUIRE(switches == t.hops(from, to));
        else
          REQUIRE((switches >= t.hops(from, to) && switches <= 4));
      }
    CHECK(used.size() > static_cast<std::size_t>(t.gpus()));
  }
}

// Full without oversubscription; 3:1 at the top leaves a third, and what meets below the top.
TEST_CASE("a fat-tree's bisection is its GPUs' NICs, over the oversubscription") {
  for (int layers : {2, 3})
    for (auto wiring : {kNode, kRail}) {
      const int gpus = layers == 2 ? 64 : 512;
      CAPTURE(layers, static_cast<int>(wiring));
      const Cluster full = cluster_of(gpus, fat_tree(layers, 16, wiring));
      CHECK(bisection(Topology(full)).si == Approx(gpus / 2 * full.fabric.nic.si));
      // With rails the halves may meet in the leaves.
      if (wiring == kRail) continue;
      const Cluster thin = cluster_of(gpus, fat_tree(layers, 16, wiring), 3);
      CHECK(bisection(Topology(thin)).si <= 0.5 * gpus / 2 * full.fabric.nic.si);
    }
}

TEST_CASE("a hash collides, sprayed packets don't") {
  const AllToAll pattern{.group = 16, .strided = true, .message = 1 * MB, .spread = 0.2};
  const auto run_with = [&](Shape::Routing routing) {
    const Cluster c = cluster_of(128, fat_tree(2, 16, kNode, routing));
    return run(pattern, Topology(c), c);
  };
  const TrafficResult hash = run_with(Shape::Routing::Ecmp);
  const TrafficResult sprayed = run_with(Shape::Routing::Adaptive);
  CHECK(sprayed.flows == 128 * 15);
  CHECK(sprayed.end >= sprayed.endpoints);
  CHECK(sprayed.end.si == Approx(sprayed.endpoints.si).epsilon(0.05));
  CHECK(hash.end > 1.2 * sprayed.end);
  const TrafficResult again = run_with(Shape::Routing::Ecmp);
  CHECK(again.end == hash.end);
}

TEST_CASE("a picture has a box a node and a switch") {
  const Topology t(cluster_of(64, fat_tree(2, 16, kNode)));
  const std::string picture = svg(t, "a < b");
  std::size_t boxes = 0;
  for (std::size_t at = 0; (at = picture.find("<rect", at)) != std::string::npos; ++at) ++boxes;
  CHECK(boxes == 1 + 8 + 8 + 4);  // ground, nodes, leaves, spines
  CHECK(picture.find("a &lt; b") != std::string::npos);
}

#include "hw-models/topology.h"

#include <catch2/catch.hpp>
#include <set>
#include <string>

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

namespace {

// Follows a way over the cables, from GPU to GPU; false: it is none, or a cable on it is dead.
bool walks(const Topology& t, const std::vector<sim::LinkId>& way, int from, int to) {
  auto at = static_cast<std::uint32_t>(from);
  for (sim::LinkId l : way) {
    const Cable& cable = t.cables()[l / 2];
    if (at != (l % 2 == 0 ? cable.from : cable.to) || t.link_rates()[l].si <= 0) return false;
    at = l % 2 == 0 ? cable.to : cable.from;
  }
  return at == static_cast<std::uint32_t>(to) && !way.empty();
}

bool passes(const Topology& t, const std::vector<sim::LinkId>& way, const std::string& vertex) {
  return std::any_of(way.begin(), way.end(), [&](sim::LinkId l) {
    return t.name(t.cables()[l / 2].from) == vertex || t.name(t.cables()[l / 2].to) == vertex;
  });
}

}  // namespace

TEST_CASE("with dead cables messages take what is left, and say when nothing is") {
  for (int layers : {2, 3})
    for (auto wiring : {kNode, kRail, kPlane}) {
      const Cluster c = cluster_of(layers == 2 ? 64 : 512, fat_tree(layers, 16, wiring));
      CAPTURE(layers, static_cast<int>(wiring));
      const Topology whole(c);
      const std::string above = layers == 2 ? "spine0" : "aggregation0";
      std::string leaf;
      for (const Cable& cable : whole.cables())
        if (cable.from == 5 && whole.vertices()[cable.to] == VertexKind::Leaf)
          leaf = whole.name(cable.to);
      const Topology t(c, {{"leaf0", above}, {"gpu5", leaf}});
      for (int from = 0; from < t.gpus(); from += layers == 2 ? 1 : 13)
        for (int to = 0; to < t.gpus(); to += layers == 2 ? 1 : 3) {
          if (from == to) continue;
          const auto way = t.route(from, to, 7);
          REQUIRE(walks(t, way, from, to));
          REQUIRE(std::set<sim::LinkId>(way.begin(), way.end()).size() == way.size());
          REQUIRE(way.size() <= sim::Fluid::kMaxLinks);
          // GPU 5 reaches others through its neighbours.
          if (from != 5 && to != 5 && layers == 2 && wiring != kPlane)
            REQUIRE(way.size() <= whole.route(from, to, 7).size());
        }
      const auto around = t.route(5, t.gpus() - 8 + 5, 1);
      CHECK(around.size() > whole.route(5, t.gpus() - 8 + 5, 1).size());
    }
  // A leaf without uplinks: its GPUs reach each other alone.
  std::vector<DeadCables> all;
  for (int s = 0; s < 4; ++s) all.push_back({"leaf0", "spine" + std::to_string(s)});
  for (auto routing : {Shape::Routing::Ecmp, Shape::Routing::Adaptive}) {
    const Topology cut(cluster_of(64, fat_tree(2, 16, kNode, routing)), all);
    CHECK(cut.route(0, 63).empty());
    CHECK_FALSE(cut.route(0, 7).empty());
    CHECK_FALSE(cut.route(8, 63).empty());
  }
  // A dead cable takes its part of what sprayed packets have.
  const Cluster sprayed = cluster_of(64, fat_tree(2, 16, kNode, Shape::Routing::Adaptive));
  const auto narrowest = [](const Topology& t) {
    double least = 1e300;
    for (sim::LinkId l : t.route(0, 63)) least = std::min(least, t.link_rates()[l].si);
    return least;
  };
  CHECK(narrowest(Topology(sprayed, {{"leaf0", "spine0"},
                                     {"leaf0", "spine1"},
                                     {"leaf0", "spine2"},
                                     {"leaf0", "spine3", 1}})) ==
        Approx(narrowest(Topology(sprayed))));  // one of eight is left: as fast as a NIC
}

TEST_CASE("a dead cable that is none is refused with the nearest name") {
  const Cluster c = cluster_of(64, fat_tree(2, 16, kNode));
  CHECK_THROWS_WITH(Topology(c, {{"leaf0", "spin1"}}),
                    Catch::Contains("dead_links") && Catch::Contains("spine1"));
  CHECK_THROWS_WITH(Topology(c, {{"leaf0", "leaf1"}}), Catch::Contains("connected to"));
  CHECK_THROWS_WITH(Topology(c, {{"leaf0", "spine1", 99}}), Catch::Contains("99 cables"));
}

// Two leaves of 16 GPUs and two spines, 8 cables from each to each.
TEST_CASE("a network given cable by cable is the one that a rule gives") {
  Shape edges{.kind = Shape::Kind::Edges};
  edges.links = {{"gpu[0-15]", "left", 50 * GB / s, 1 * us},
                 {"right", "gpu[16-31]", 50 * GB / s, 1 * us},
                 {"left", "top[0-1]", 50 * GB / s, 2 * us, 8},
                 {"top[0-1]", "right", 50 * GB / s, 2 * us, 8}};
  const Cluster c = cluster_of(32, edges);
  const Topology t(c);
  CHECK(t.layers() == 2);
  CHECK(t.switches() == 4);
  CHECK(t.endpoint_cables() == 32);
  CHECK(t.fabric_cables() == 32);
  CHECK(bisection(t).si == Approx(16 * 50e9));
  CHECK(t.hops(0, 7) == 0);
  CHECK(t.hops(0, 8) == 1);
  CHECK(t.hops(0, 16) == 3);
  const auto way = t.route(0, 16, 3);
  CHECK(walks(t, way, 0, 16));
  CHECK(t.latency(way).si == Approx(6e-6));
  CHECK(std::string(t.layer(way[0])) == "NIC");
  CHECK(std::string(t.layer(way[1])) == "left-top");
  CHECK(std::string(t.layer(way[2])) == "right-top");
  // Hashes use all cables; sprayed packets all sixteen ways at once.
  std::set<sim::LinkId> used;
  for (std::uint64_t salt = 0; salt < 200; ++salt) used.insert(t.route(0, 16, salt)[1]);
  CHECK(used.size() == 16);
  CHECK(t.routes(0, 16).size() == 1);
  edges.routing = Shape::Routing::Adaptive;
  used.clear();
  for (const auto& lane : Topology(cluster_of(32, edges)).routes(0, 16)) used.insert(lane[1]);
  CHECK(used.size() == 16);
  // Sprayed packets fill every cable, as in the network by rule; single ways collide.
  const AllToAll all{.group = 32, .message = 10 * MB};
  const Cluster sprayed = cluster_of(32, edges);
  const Cluster by_rule = cluster_of(32, fat_tree(2, 32, kNode, Shape::Routing::Adaptive));
  const TrafficResult r = run(all, Topology(sprayed), sprayed);
  CHECK(r.flows == 32 * 31);
  CHECK(r.end.si == Approx(run(all, Topology(by_rule), by_rule).end.si).epsilon(0.01));
  CHECK(r.end.si < 1.01 * r.endpoints.si);
  const AllToAll pairs{.group = 2, .strided = true, .message = 10 * MB};
  CHECK(run(pairs, t, c).end.si > 1.9 * run(pairs, Topology(sprayed), sprayed).end.si);
  const Topology cut(c, {{"left", "top0"}, {"left", "top1"}});
  CHECK(cut.route(0, 16).empty());
  CHECK(passes(Topology(c, {{"left", "top0"}}), Topology(c, {{"left", "top0"}}).route(0, 16),
               "top1"));
  CHECK(svg(t, "edges").find("<rect") != std::string::npos);

  edges.links.pop_back();
  edges.links[1].to = "gpu[16-30]";
  CHECK_THROWS_WITH(Topology(cluster_of(32, edges)), Catch::Contains("gpu31 has none"));
  edges.links[1].to = "gpu[16-32]";
  CHECK_THROWS_WITH(Topology(cluster_of(32, edges)), Catch::Contains("links/1"));
  edges.links[1] = {"gpu0", "gpu1", 50 * GB / s};
  CHECK_THROWS_WITH(Topology(cluster_of(32, edges)), Catch::Contains("one is a switch"));
}

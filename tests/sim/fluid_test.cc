#include "sim/fluid.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>

#include "reference/share.h"
#include "sim/simgrid_flows.h"

using namespace reckon;
using namespace reckon::sim;

namespace {

using Routes = std::vector<std::vector<LinkId>>;

std::vector<BytesPerSecond> rates_of(const std::vector<double>& values) {
  std::vector<BytesPerSecond> out;
  for (double v : values) out.emplace_back(v);
  return out;
}

// Both solvers on one batch: the same ends, to two ticks of a second or more (the reference adds
// doubles up).
void expect_equal(const std::vector<double>& links, const Routes& routes,
                  const std::vector<FlowOf>& flows) {
  const auto fast = flow_ends(rates_of(links), routes, flows);
  const auto slow = reference::flow_ends(links, routes, flows);
  for (std::size_t f = 0; f < flows.size(); ++f) {
    REQUIRE(fast[f].has_value() == slow[f].has_value());
    if (fast[f]) REQUIRE(std::abs(fast[f]->ps - ticks(Seconds(*slow[f])).ps) <= 2);
  }
}

// Every way over links 0, 1, 2: the subsets but the empty one.
Routes ways() {
  Routes out;
  for (unsigned set = 1; set < 8; ++set) {
    out.emplace_back();
    for (LinkId l = 0; l < 3; ++l)
      if (set >> l & 1u) out.back().push_back(l);
  }
  return out;
}

// Calls `each` with every multiset of `n` of the 7 ways, as ascending indices.
template <class Each>
void each_set(int n, const Each& each) {
  std::vector<RouteId> set(static_cast<std::size_t>(n), 0);
  for (;;) {
    each(set);
    int i = n - 1;
    while (i >= 0 && set[static_cast<std::size_t>(i)] == 6) --i;
    if (i < 0) return;
    const RouteId next = set[static_cast<std::size_t>(i)] + 1;
    for (; i < n; ++i) set[static_cast<std::size_t>(i)] = next;
  }
}

}  // namespace

// Every set of up to 4 flows on 3 links, for links of every rate of 1, 2, 3 B/s; all equal, all
// different, started together and one after the other.
TEST_CASE("fast sharing equals the textbook loop for every set of up to 4 flows on 3 links") {
  const Routes routes = ways();
  int cases = 0;
  for (int n = 1; n <= 4; ++n)
    each_set(n, [&](const std::vector<RouteId>& set) {
      for (int rates = 0; rates < 27; ++rates) {
        const std::vector<double> links = {1.0 + rates % 3, 1.0 + rates / 3 % 3, 1.0 + rates / 9};
        for (int sizes = 0; sizes < 3; ++sizes)
          for (int starts = 0; starts < 2; ++starts) {
            std::vector<FlowOf> flows;
            for (std::size_t i = 0; i < set.size(); ++i) {
              const double bytes = sizes == 0   ? 6
                                   : sizes == 1 ? 3.0 + 2.0 * static_cast<double>(i)
                                                : 9.0 - 2.0 * static_cast<double>(i);
              const SimTime start{starts * static_cast<std::int64_t>(i) * 1'500'000'000'000};
              flows.push_back({.route = set[i], .bytes = Bytes(bytes), .start = start});
            }
            expect_equal(links, routes, flows);
            ++cases;
          }
      }
    });
  CHECK(cases == (7 + 28 + 84 + 210) * 27 * 6);
}

TEST_CASE(
    "fast sharing equals the textbook loop on random networks, rates and loads at every event") {
  std::mt19937 random(1);
  const auto below = [&](unsigned n) { return random() % n; };
  for (int round = 0; round < 150; ++round) {
    const unsigned links = 3 + below(10);
    std::vector<double> rates;
    for (unsigned l = 0; l < links; ++l) rates.push_back(1 + below(round % 2 == 0 ? 3 : 1000));
    Fluid fluid(rates_of(rates));
    Routes routes;
    for (unsigned r = 0; r < 20; ++r) {
      std::vector<LinkId> way;
      for (unsigned l = 0; l < links; ++l)
        if (below(links) < 3 && way.size() < Fluid::kMaxLinks) way.push_back(l);
      if (way.empty()) way.push_back(below(links));
      routes.push_back(way);
      fluid.add_route(way);
    }
    std::map<FlowId, RouteId> active;
    for (int event = 0; event < 120; ++event) {
      switch (below(8)) {
        case 0: {
          const LinkId l = below(links);
          rates[l] = 1 + below(5);
          fluid.set_rate(l, BytesPerSecond(rates[l]));
          break;
        }
        case 1:
        case 2:
        case 3: {
          const RouteId r = below(20);
          active[fluid.start(r, Bytes(1 + below(50)))] = r;
          break;
        }
        default:
          if (const auto end = fluid.next_end()) {
            const auto ended = fluid.advance(*end);
            REQUIRE_FALSE(ended.empty());
            for (FlowId id : ended) REQUIRE(active.erase(id) == 1);
          }
      }
      Routes flows;
      for (const auto& [id, route] : active) flows.push_back(routes[route]);
      const auto expected = reference::max_min_rates(rates, flows);
      std::size_t i = 0;
      std::vector<double> load(links, 0);
      for (const auto& [id, route] : active) {
        REQUIRE(fluid.rate(route).si == Approx(expected[i]).epsilon(1e-11));
        for (LinkId l : routes[route]) load[l] += expected[i];
        ++i;
      }
      for (LinkId l = 0; l < links; ++l) REQUIRE(fluid.load(l).si == Approx(load[l]).margin(1e-9));
    }
  }
}

TEST_CASE("flows of one route and size end in one event, the rest in the order of their sizes") {
  Fluid fluid({BytesPerSecond(12)});
  const RouteId route = fluid.add_route(std::vector<LinkId>{0});
  for (double bytes : {4., 2., 2., 8.}) fluid.start(route, Bytes(bytes));
  CHECK(fluid.next_end() == ticks(Seconds(2.0 / 3)));  // four flows at 3 B/s
  CHECK(fluid.advance(*fluid.next_end()) == std::vector<FlowId>{1, 2});
  CHECK(fluid.advance(*fluid.next_end()) == std::vector<FlowId>{0});  // 2 bytes more at 6 B/s
  CHECK(fluid.now() == SimTime{1'000'000'000'000});
  CHECK(fluid.advance(*fluid.next_end()) == std::vector<FlowId>{3});  // 4 bytes more at 12 B/s
  CHECK(std::abs(fluid.now().ps - 1'333'333'333'333) <= 1);
  CHECK_FALSE(fluid.next_end().has_value());
}

// The exact ends beside those of runs in which ends close to each other are one event: single ones
// within a few tolerances, their mean within a fraction of one.
TEST_CASE("ends to a tolerance are the exact ones, to that tolerance") {
  std::mt19937 random(3);
  for (int round = 0; round < 40; ++round) {
    constexpr unsigned n = 12;
    std::vector<BytesPerSecond> links;
    for (unsigned l = 0; l < 2 * n; ++l) links.emplace_back(1e9 * (1 + random() % 3));
    Routes routes;
    std::vector<FlowOf> flows;
    for (LinkId a = 0; a < n; ++a)
      for (LinkId b = 0; b < n; ++b) {
        if (a == b) continue;
        flows.push_back(
            {.route = static_cast<RouteId>(routes.size()),
             .bytes = Bytes(1e6 * (1 + random() % 1000 / 1000.0)),
             .start = SimTime{static_cast<std::int64_t>(random() % 3) * 2'000'000'000}});
        routes.push_back({a, n + b});
      }
    const auto exact = flow_ends(links, routes, flows);
    for (double tolerance : {1e-4, 1e-3, 5e-3}) {
      const auto coarse = flow_ends(links, routes, flows, tolerance);
      double sum = 0;
      for (std::size_t f = 0; f < flows.size(); ++f) {
        REQUIRE(coarse[f] >= flows[f].start);
        const double error = seconds(*coarse[f]) / seconds(*exact[f]) - 1;
        REQUIRE(std::abs(error) <= 5 * tolerance);
        sum += error;
      }
      REQUIRE(std::abs(sum) <= 0.5 * tolerance * static_cast<double>(flows.size()));
    }
  }
}

TEST_CASE("coasting keeps the rates until then, and makes up for it there") {
  Fluid fluid({BytesPerSecond(10)});
  const RouteId route = fluid.add_route(std::vector<LinkId>{0});
  fluid.start(route, Bytes(5));
  fluid.start(route, Bytes(20));
  // At 5 B/s the first ends after 1 s; the second goes on at 5 B/s until 2 s, where it gets the 5
  // bytes that the first left unused, then at 10: it ends when it would have without coasting.
  const auto ended = fluid.coast(SimTime{2'000'000'000'000});
  REQUIRE(ended.size() == 1);
  CHECK(ended[0].flow == 0);
  CHECK(ended[0].at == SimTime{1'000'000'000'000});
  CHECK(fluid.next_end() == SimTime{2'500'000'000'000});
  CHECK(fluid.coast(SimTime{3'000'000'000'000}).size() == 1);
  CHECK(fluid.coast(SimTime{9'000'000'000'000}).empty());
  CHECK(fluid.now() == SimTime{9'000'000'000'000});
}

TEST_CASE("a flow over a dead link waits until the link is back") {
  Fluid fluid({BytesPerSecond(10), BytesPerSecond(0)});
  const RouteId over_both = fluid.add_route(std::vector<LinkId>{0, 1});
  const RouteId alone = fluid.add_route(std::vector<LinkId>{0});
  fluid.start(over_both, Bytes(10));
  CHECK_FALSE(fluid.next_end().has_value());
  fluid.start(alone, Bytes(10));
  CHECK(fluid.rate(alone).si == 10);
  CHECK(fluid.advance(SimTime{500'000'000'000}).empty());
  fluid.set_rate(1, BytesPerSecond(2));
  CHECK(fluid.rate(over_both).si == 2);
  CHECK(fluid.rate(alone).si == 8);
  CHECK(flow_ends({BytesPerSecond(0)}, {{0}}, {{.route = 0, .bytes = Bytes(1)}})[0] ==
        std::nullopt);
  CHECK(flow_ends({BytesPerSecond(0)}, {{0}}, {{.route = 0, .bytes = Bytes(0)}})[0] == SimTime{0});
}

// An all-to-all among n ranks of rate C with equal sizes S: (n-1) S / C, in one event.
TEST_CASE("an even all-to-all takes as long as each rank's bytes take alone") {
  constexpr unsigned n = 32;
  std::vector<BytesPerSecond> links(2 * n, BytesPerSecond(50e9));
  Routes routes;
  std::vector<FlowOf> flows;
  for (LinkId a = 0; a < n; ++a)
    for (LinkId b = 0; b < n; ++b)
      if (a != b) {
        flows.push_back({.route = static_cast<RouteId>(routes.size()), .bytes = Bytes(1e6)});
        routes.push_back({a, n + b});
      }
  for (const auto& end : flow_ends(links, routes, flows))
    REQUIRE(end == ticks(Seconds((n - 1) * 1e6 / 50e9)));
}

namespace {

// An all-to-all among n ranks with a link up and a link down each, over one of `core` shared links,
// in three waves.
HostFlows uneven_all_to_all(unsigned n, unsigned core) {
  HostFlows b{.hosts = n};
  b.link_rates.assign(2 * n + core, BytesPerSecond(50e9));
  std::mt19937 random(3);
  const auto below = [&](unsigned count) { return static_cast<unsigned>(random() % count); };
  for (unsigned from = 0; from < n; ++from)
    for (unsigned to = 0; to < n; ++to) {
      if (from == to) continue;
      b.flows.push_back({.route = static_cast<RouteId>(b.routes.size()),
                         .bytes = Bytes(800e3 + below(400'000)),
                         .start = {below(3) * std::int64_t{10'000'000}}});
      b.routes.push_back(
          {.from = from, .to = to, .links = {2 * from, 2 * n + below(core), 2 * to + 1}});
    }
  return b;
}

std::vector<std::optional<SimTime>> ends_of(const HostFlows& b, double tolerance) {
  Routes routes;
  for (const auto& r : b.routes) routes.push_back(r.links);
  return flow_ends(b.link_rates, routes, b.flows, tolerance);
}

}  // namespace

TEST_CASE("a coarser tolerance moves the last end by less than itself, others by a few times it") {
  const HostFlows batch = uneven_all_to_all(24, 8);
  const auto exact = ends_of(batch, Fluid::kExact);
  const auto last = [](const auto& ends) {
    return seconds(**std::max_element(ends.begin(), ends.end()));
  };
  for (double tolerance : {1e-5, 1e-3}) {
    const auto coarse = ends_of(batch, tolerance);
    for (std::size_t f = 0; f < exact.size(); ++f)
      REQUIRE(std::abs(seconds(*coarse[f]) / seconds(*exact[f]) - 1) <= 4 * tolerance);
    CHECK(std::abs(last(coarse) / last(exact) - 1) <= tolerance);
  }
}

#if defined(RECKON_SIMGRID) && !defined(__SANITIZE_ADDRESS__)  // it switches stacks by hand
TEST_CASE("flows end when SimGrid says") {
  const HostFlows batch = uneven_all_to_all(16, 6);
  const SimGridRun truth = simgrid_flow_ends(batch);
  REQUIRE(truth.ends.size() == batch.flows.size());
  const auto ours = ends_of(batch, Fluid::kExact);
  for (std::size_t f = 0; f < ours.size(); ++f)
    REQUIRE(std::abs(seconds(*ours[f]) / seconds(truth.ends[f]) - 1) <= 1e-4);
}
#endif

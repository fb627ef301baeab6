#include "planner/best_first.h"

#include <catch2/catch.hpp>
#include <random>
#include <set>

using namespace reckon::plan;

namespace {

struct Synthetic {
  std::vector<Bounded> candidates;
  std::vector<double> cost, size;
};

// Costs, sizes and bounds from few values, so that ties are common.
Synthetic synthetic(unsigned seed, std::size_t n, int values, double slack) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> value(1, values);
  std::uniform_real_distribution<double> share(1 - slack, 1);
  Synthetic s;
  for (std::size_t i = 0; i < n; ++i) {
    s.cost.push_back(value(random));
    s.size.push_back(value(random));
    s.candidates.push_back({.bound = s.cost.back() * share(random),
                            .affinity = static_cast<std::uint32_t>(value(random))});
  }
  return s;
}

BestFirst run(const Synthetic& s, BestFirstOptions options) {
  return best_first(
      s.candidates, options, [&](int, std::size_t c) { return s.size[c]; },
      [&](int, std::size_t c) { return s.cost[c]; });
}

}  // namespace

TEST_CASE("best-first finds what brute force finds: the best, and every point of the front") {
  for (unsigned seed = 0; seed < 40; ++seed)
    for (double slack : {0.0, 0.1, 0.9})
      for (double within : {1.0, 1.5, 1e9}) {
        const int values = seed % 2 == 0 ? 30 : 3000;
        const Synthetic s = synthetic(seed, 50 * (1 + seed), values, slack);
        const double max_size = 0.8 * values;
        INFO("seed " << seed << " slack " << slack << " within " << within);
        const BestFirst found = run(s, {.keep = 7, .max_size = max_size, .front_within = within});

        std::vector<std::size_t> all;
        for (std::size_t c = 0; c < s.cost.size(); ++c)
          if (s.size[c] <= max_size) all.push_back(c);
        std::sort(all.begin(), all.end(), [&](std::size_t a, std::size_t b) {
          return std::pair(s.cost[a], a) < std::pair(s.cost[b], b);
        });
        REQUIRE(found.best == std::vector<std::size_t>(all.begin(), all.begin() + 7));

        std::set<std::pair<double, double>> front, of_found;
        double smallest = 1e300;
        for (std::size_t a : all) {  // by cost: on the front if smaller than all before
          if (s.cost[a] > within * s.cost[all[0]]) break;
          bool beaten = s.size[a] >= smallest;
          for (std::size_t b : all) beaten |= s.cost[b] == s.cost[a] && s.size[b] < s.size[a];
          if (!beaten) front.insert({s.cost[a], s.size[a]});
          smallest = std::min(smallest, s.size[a]);
        }
        for (std::size_t c : found.front) of_found.insert({s.cost[c], s.size[c]});
        REQUIRE(of_found == front);
        REQUIRE(found.front.size() == front.size());

        // The certificate: what was pruned can't be better than the worst that was kept.
        std::size_t pruned = 0;
        for (std::size_t c = 0; c < s.cost.size(); ++c)
          if (found.state[c] == BestFirst::State::Pruned) {
            ++pruned;
            REQUIRE(s.cost[c] >= *found.smallest_unexplored_bound);
          }
        REQUIRE(found.explored + found.too_large + pruned == s.cost.size());
        if (pruned > 0)
          REQUIRE(*found.smallest_unexplored_bound > s.cost[found.best.back()]);
        else
          REQUIRE_FALSE(found.smallest_unexplored_bound);
      }
}

TEST_CASE("a tight bound saves most of the work") {
  const Synthetic s = synthetic(1, 20000, 1000000, 0.02);
  CHECK(run(s, {}).explored < 2000);
}

TEST_CASE("the number of threads changes nothing") {
  const Synthetic s = synthetic(3, 3000, 100000, 0.3);
  const BestFirstOptions options{.keep = 10, .max_size = 90000, .front_within = 2};
  const BestFirst one = run(s, options);
  for (int threads : {2, 4}) {
    BestFirstOptions more = options;
    more.threads = threads;
    const BestFirst many = run(s, more);
    CHECK(many.best == one.best);
    CHECK(many.front == one.front);
    CHECK(many.explored == one.explored);
    CHECK(many.state == one.state);
    CHECK(many.cost == one.cost);
  }
}

TEST_CASE("a search that is stopped keeps what it has, and says so") {
  const Synthetic s = synthetic(5, 3000, 100000, 0.5);
  std::atomic<bool> stop = false;
  std::atomic<int> calls = 0;
  const BestFirst found = best_first(
      s.candidates, {.threads = 2, .keep = 5, .stop = &stop},
      [&](int, std::size_t c) { return s.size[c]; },
      [&](int, std::size_t c) {
        if (++calls == 300) stop = true;
        return s.cost[c];
      });
  CHECK(found.interrupted);
  CHECK(found.best.size() == 5);
  CHECK(found.explored <= 302);
  REQUIRE(found.smallest_unexplored_bound);
  for (std::size_t c = 0; c < s.cost.size(); ++c)
    if (found.state[c] != BestFirst::State::Explored)
      CHECK(s.cost[c] >= *found.smallest_unexplored_bound);
}

TEST_CASE("nothing to search") {
  const BestFirst found = run({}, {.threads = 2, .keep = 3});
  CHECK(found.best.empty());
  CHECK(found.front.empty());
  CHECK_FALSE(found.smallest_unexplored_bound);
  CHECK_FALSE(found.interrupted);
}

#include "hw-models/routing.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace reckon::hw {
namespace {

// What one token of a sender visits, counted by the definition of Footprint.
Footprint visits(const Routing& r, const std::vector<int>& experts, int sender) {
  std::set<int> ranks, nodes;
  for (int e : experts) {
    // Rank k holds experts [k E / R, (k + 1) E / R).
    int rank = 0;
    while ((rank + 1) * r.experts / r.ranks <= e) ++rank;
    ranks.insert(rank);
    nodes.insert(rank / r.ranks_per_node);
  }
  const int home = sender / r.ranks_per_node;
  Footprint f{.nodes = static_cast<double>(nodes.size()),
              .ranks = static_cast<double>(ranks.size())};
  f.remote_nodes = f.nodes - static_cast<double>(nodes.count(home));
  f.remote_ranks = f.ranks - static_cast<double>(ranks.count(sender));
  for (int rank : ranks) {
    f.off_node_ranks += rank / r.ranks_per_node != home;
    f.forwards += rank % r.ranks_per_node != sender % r.ranks_per_node;
  }
  return f;
}

void add(Footprint& sum, const Footprint& f, double weight) {
  sum.nodes += weight * f.nodes;
  sum.remote_nodes += weight * f.remote_nodes;
  sum.ranks += weight * f.ranks;
  sum.remote_ranks += weight * f.remote_ranks;
  sum.off_node_ranks += weight * f.off_node_ranks;
  sum.forwards += weight * f.forwards;
}

void require_close(const Footprint& a, const Footprint& b, double tolerance) {
  CHECK(a.nodes == Approx(b.nodes).margin(tolerance));
  CHECK(a.remote_nodes == Approx(b.remote_nodes).margin(tolerance));
  CHECK(a.ranks == Approx(b.ranks).margin(tolerance));
  CHECK(a.remote_ranks == Approx(b.remote_ranks).margin(tolerance));
  CHECK(a.off_node_ranks == Approx(b.off_node_ranks).margin(tolerance));
  CHECK(a.forwards == Approx(b.forwards).margin(tolerance));
}

// The experts that a token takes when `order` lists all of them by falling score.
std::vector<int> taken(const Routing& r, const std::vector<int>& order,
                       const std::vector<bool>& chosen) {
  std::vector<int> experts;
  for (int e : order)
    if (chosen[static_cast<std::size_t>(e / (r.experts / r.groups))] &&
        static_cast<int>(experts.size()) < r.top_k)
      experts.push_back(e);
  return experts;
}

// The groups of the first experts in order.
std::vector<bool> groups_by_best(const Routing& r, const std::vector<int>& order) {
  std::vector<bool> chosen(static_cast<std::size_t>(r.groups));
  int left = r.limited_groups;
  for (int e : order) {
    const auto g = static_cast<std::size_t>(e / (r.experts / r.groups));
    if (!chosen[g] && left > 0) {
      chosen[g] = true;
      --left;
    }
  }
  return chosen;
}

// Every order of scores, from every sender.
Footprint enumerated(const Routing& r) {
  std::vector<int> order(static_cast<std::size_t>(r.experts));
  std::iota(order.begin(), order.end(), 0);
  Footprint sum;
  double cases = 0;
  do {
    const std::vector<int> experts = taken(r, order, groups_by_best(r, order));
    for (int sender = 0; sender < r.ranks; ++sender, ++cases)
      add(sum, visits(r, experts, sender), 1);
  } while (std::next_permutation(order.begin(), order.end()));
  Footprint mean;
  add(mean, sum, 1 / cases);
  return mean;
}

// The same by drawing orders.
Footprint sampled(const Routing& r, int tokens) {
  std::mt19937 random(7);
  std::vector<int> order(static_cast<std::size_t>(r.experts));
  std::iota(order.begin(), order.end(), 0);
  Footprint mean;
  for (int t = 0; t < tokens; ++t) {
    std::shuffle(order.begin(), order.end(), random);
    add(mean, visits(r, taken(r, order, groups_by_best(r, order)), t % r.ranks), 1.0 / tokens);
  }
  return mean;
}

// DeepSeek-V3's gate: sigmoid scores, groups by the sum of their two best.
Footprint deepseek_v3_gate(const Routing& r, int tokens) {
  std::mt19937 random(7);
  std::normal_distribution<double> logit;
  const auto size = static_cast<std::size_t>(r.experts / r.groups);
  std::vector<double> score(static_cast<std::size_t>(r.experts));
  std::vector<int> order(score.size());
  Footprint mean;
  for (int t = 0; t < tokens; ++t) {
    for (double& x : score) x = 1 / (1 + std::exp(-logit(random)));
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    std::vector<std::pair<double, std::size_t>> groups;
    for (std::size_t g = 0; g < static_cast<std::size_t>(r.groups); ++g) {
      std::vector<double> in(score.begin() + static_cast<std::ptrdiff_t>(g * size),
                             score.begin() + static_cast<std::ptrdiff_t>((g + 1) * size));
      std::partial_sort(in.begin(), in.begin() + 2, in.end(), std::greater<>());
      groups.emplace_back(-(in[0] + in[1]), g);
    }
    std::sort(groups.begin(), groups.end());
    std::vector<bool> chosen(groups.size());
    for (int i = 0; i < r.limited_groups; ++i)
      chosen[groups[static_cast<std::size_t>(i)].second] = true;
    add(mean, visits(r, taken(r, order, chosen), t % r.ranks), 1.0 / tokens);
  }
  return mean;
}

}  // namespace

TEST_CASE("footprint equals the enumeration of all score orders on tiny cases") {
  const Routing cases[] = {
      {.experts = 8, .top_k = 3, .ranks = 4, .ranks_per_node = 2},
      {.experts = 8, .top_k = 1, .ranks = 8, .ranks_per_node = 4},
      {.experts = 8, .top_k = 8, .ranks = 4, .ranks_per_node = 2},
      {.experts = 8, .top_k = 2, .ranks = 4, .ranks_per_node = 2, .groups = 4, .limited_groups = 2},
      {.experts = 8, .top_k = 3, .ranks = 4, .ranks_per_node = 2, .groups = 2, .limited_groups = 1},
      // Groups that straddle nodes, a last node that is not full, ranks of unequal size.
      {.experts = 8, .top_k = 3, .ranks = 8, .ranks_per_node = 3, .groups = 4, .limited_groups = 2},
      {.experts = 8, .top_k = 3, .ranks = 3, .ranks_per_node = 2, .groups = 4, .limited_groups = 3},
      {.experts = 6, .top_k = 2, .ranks = 1, .ranks_per_node = 8}};
  for (const Routing& r : cases) {
    CAPTURE(r.experts, r.top_k, r.ranks, r.ranks_per_node, r.groups, r.limited_groups);
    require_close(expected_footprint(r), enumerated(r), 1e-12);
  }
}

TEST_CASE("footprint equals Monte Carlo on published models") {
  const Routing cases[] = {
      // DeepSeek-V3, EP64 over 8 nodes; EP128; EP64 on nodes of 4
      {256, 8, 64, 8, 8, 4}, {256, 8, 128, 8, 8, 4},
      {256, 8, 64, 4, 8, 4}, {160, 6, 8, 8, 8, 3},  // DeepSeek-V2 in one node
      {128, 8, 32, 8, 1, 1},                        // Qwen3-235B
      {8, 2, 8, 8, 1, 1},                           // Mixtral
      {256, 8, 72, 72, 8, 4}};  // one NVL72 domain, experts not divisible by ranks
  for (const Routing& r : cases) {
    CAPTURE(r.experts, r.top_k, r.ranks, r.ranks_per_node, r.groups, r.limited_groups);
    // 40,000 draws: the standard error of these means is below 0.008.
    require_close(expected_footprint(r), sampled(r, 40'000), 0.03);
  }
}

TEST_CASE(
    "DeepSeek-V3's gate visits 3.97 nodes and 7.49 ranks of EP64, the closed form within 1 %") {
  const Routing r{256, 8, 64, 8, 8, 4};
  const Footprint exact = expected_footprint(r), drawn = deepseek_v3_gate(r, 20'000);
  CHECK(drawn.nodes == Approx(3.97).margin(0.01));
  CHECK(drawn.ranks == Approx(7.49).margin(0.02));
  CHECK(exact.nodes == Approx(drawn.nodes).epsilon(0.01));
  CHECK(exact.ranks == Approx(drawn.ranks).epsilon(0.01));
  CHECK(exact.forwards == Approx(drawn.forwards).epsilon(0.01));
  CHECK(exact.off_node_ranks == Approx(drawn.off_node_ranks).epsilon(0.01));
}

TEST_CASE("token_exchange states what crosses which link") {
  const Routing r{256, 8, 64, 8, 8, 4};
  const sim::Group group{64, 8};
  const Footprint f = expected_footprint(r);
  const auto staged = token_exchange(r, 4096, 7168 * byte, group, false, true);
  const auto plain = token_exchange(r, 4096, 7168 * byte, group, true, false);
  CHECK(staged.remote_nodes == f.remote_nodes);
  CHECK(staged.local_copies == f.forwards);
  // A copy per expert: 8, of which 1/64 stays, 7/64 stay in the node, 56/64 leave it.
  CHECK(plain.local_copies == Approx(8 * 7 / 64.));
  CHECK(plain.off_node_copies == Approx(8 * 56 / 64.));
  // The network carries a token once per node instead of once per expert.
  CHECK(plain.off_node_copies / staged.remote_nodes == Approx(8 / 3.97).epsilon(0.01));
  CHECK(plain.combine);
}

// The largest of 64 and of 8 normal draws lie 2.35 and 1.42 deviations above the mean; a node of 8
// ranks deviates 1 / sqrt(8) as much as a rank.
TEST_CASE("a node's load is more even than a rank's") {
  Routing r{256, 8, 64, 8, 8, 4, 1.18};
  CHECK(busiest_node(r) == Approx(1 + 0.18 / 2.35 * 1.42 / std::sqrt(8.0)).epsilon(0.001));
  r.busiest = 1;
  CHECK(busiest_node(r) == 1);
  r.busiest = 1.18, r.ranks_per_node = 1;
  CHECK(busiest_node(r) == Approx(1.18));
  r.ranks_per_node = 64;  // one node receives everything
  CHECK(busiest_node(r) == 1);

  r.ranks_per_node = 8;
  const Footprint f = expected_footprint(r);
  const auto staged = token_exchange(r, 4096, 7168 * byte, {64, 8}, false, true);
  CHECK(staged.remote_nodes == Approx(f.remote_nodes * busiest_node(r)));
  CHECK(staged.local_copies == Approx(f.forwards * 1.18));
  const auto plain = token_exchange(r, 4096, 7168 * byte, {64, 8}, false, false);
  CHECK(plain.off_node_copies == Approx(8 * 56 / 64. * 1.18));
}

}  // namespace reckon::hw

#include "hw-models/routing.h"

#include <algorithm>
#include <bit>
#include <catch2/catch.hpp>
#include <numeric>
#include <random>
#include <set>
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

// Every choice of groups and every choice of experts in them, from every sender.
Footprint enumerated(const Routing& r) {
  const int per_group = r.experts / r.groups;
  Footprint sum;
  double cases = 0;
  for (unsigned groups = 0; groups < 1u << r.groups; ++groups) {
    if (std::popcount(groups) != r.limited_groups) continue;
    for (unsigned picks = 0; picks < 1u << r.experts; ++picks) {
      if (std::popcount(picks) != r.top_k) continue;
      std::vector<int> experts;
      bool allowed = true;
      for (int e = 0; e < r.experts; ++e)
        if (picks >> e & 1u) {
          experts.push_back(e);
          allowed = allowed && (groups >> (e / per_group) & 1u);
        }
      if (!allowed) continue;
      for (int sender = 0; sender < r.ranks; ++sender, ++cases)
        add(sum, visits(r, experts, sender), 1);
    }
  }
  Footprint mean;
  add(mean, sum, 1 / cases);
  return mean;
}

// The same by drawing tokens.
Footprint sampled(const Routing& r, int tokens) {
  std::mt19937 random(7);
  const int per_group = r.experts / r.groups;
  std::vector<int> groups(static_cast<std::size_t>(r.groups)), experts;
  std::iota(groups.begin(), groups.end(), 0);
  Footprint mean;
  for (int t = 0; t < tokens; ++t) {
    std::shuffle(groups.begin(), groups.end(), random);
    experts.clear();
    for (int g = 0; g < r.limited_groups; ++g)
      for (int e = 0; e < per_group; ++e)
        experts.push_back(groups[static_cast<std::size_t>(g)] * per_group + e);
    std::shuffle(experts.begin(), experts.end(), random);
    experts.resize(static_cast<std::size_t>(r.top_k));
    add(mean, visits(r, experts, t % r.ranks), 1.0 / tokens);
  }
  return mean;
}

}  // namespace

TEST_CASE("footprint equals the enumeration of all choices on tiny cases") {
  const Routing cases[] = {
      {.experts = 8, .top_k = 3, .ranks = 4, .ranks_per_node = 2},
      {.experts = 8, .top_k = 1, .ranks = 8, .ranks_per_node = 4},
      {.experts = 8, .top_k = 8, .ranks = 4, .ranks_per_node = 2},
      {.experts = 8, .top_k = 2, .ranks = 4, .ranks_per_node = 2, .groups = 4, .limited_groups = 2},
      {.experts = 8, .top_k = 3, .ranks = 4, .ranks_per_node = 2, .groups = 2, .limited_groups = 1},
      // Groups that straddle nodes, a last node that is not full, ranks of unequal size.
      {.experts = 9, .top_k = 3, .ranks = 9, .ranks_per_node = 4, .groups = 3, .limited_groups = 2},
      {.experts = 10,
       .top_k = 3,
       .ranks = 4,
       .ranks_per_node = 2,
       .groups = 5,
       .limited_groups = 3},
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

TEST_CASE("token_exchange states what crosses which link") {
  const Routing r{256, 8, 64, 8, 8, 4};
  const sim::Group group{64, 8};
  const Footprint f = expected_footprint(r);
  const auto staged = token_exchange(r, 4096, 7168 * byte, group, false, true);
  const auto plain = token_exchange(r, 4096, 7168 * byte, group, true, false);
  CHECK(staged.remote_nodes == f.remote_nodes);
  CHECK(staged.local_ranks == f.forwards);
  CHECK(plain.off_node_ranks == f.off_node_ranks);
  // Without forwarding, own rank + own node + other nodes make up all ranks.
  CHECK(plain.local_ranks + plain.off_node_ranks == Approx(f.ranks * 63 / 64));
  CHECK(plain.combine);
}

}  // namespace reckon::hw

// A token avoids a set S of experts with probability C(n - s, k) / C(n, k), where n experts are on
// offer and s of them are in S. With group-limited routing n = limited_groups * experts / groups,
// and s depends on which groups were chosen, so the probability is averaged over the choices, which
// are told apart only by their overlap with S. S is the expert range of one rank or of one node; a
// mean number of distinct ranks or nodes is the sum of 1 - P(avoid) over them.
#include "hw-models/routing.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "sim/check.h"

namespace reckon::hw {

namespace {

struct Range {
  int first = 0, last = 0;  // experts [first, last)
};

int overlap(Range a, Range b) {
  return std::max(0, std::min(a.last, b.last) - std::max(a.first, b.first));
}

// C(n - s, k) / C(n, k): k picks without replacement all miss s of n.
double all_miss(int n, int s, int k) {
  double p = 1;
  for (int i = 0; i < k; ++i) p *= std::max(0.0, static_cast<double>(n - s - i)) / (n - i);
  return p;
}

// C(n, m) in floating point: exact to rounding for the group counts in use.
double choose(int n, int m) {
  if (m < 0 || m > n) return 0;
  double c = 1;
  for (int i = 1; i <= m; ++i) c *= static_cast<double>(n - m + i) / i;
  return c;
}

double probability_of_visit(const Routing& r, Range set) {
  const int per_group = r.experts / r.groups;
  const int offered = r.limited_groups * per_group;
  // (groups chosen among those that touch the set, experts of the set on offer) -> ways
  std::map<std::pair<int, int>, double> ways{{{0, 0}, 1.0}};
  int touching = 0;
  for (int g = 0; g < r.groups; ++g) {
    const int shared = overlap(set, {g * per_group, (g + 1) * per_group});
    if (shared == 0) continue;
    ++touching;
    std::map<std::pair<int, int>, double> next = ways;
    for (const auto& [state, count] : ways)
      if (state.first < r.limited_groups) next[{state.first + 1, state.second + shared}] += count;
    ways = std::move(next);
  }
  double miss = 0;
  for (const auto& [state, count] : ways)
    miss += count * choose(r.groups - touching, r.limited_groups - state.first) *
            all_miss(offered, state.second, r.top_k);
  return 1 - miss / choose(r.groups, r.limited_groups);
}

}  // namespace

Footprint expected_footprint(const Routing& r) {
  check(r.ranks >= 1 && r.ranks <= r.experts, "every rank holds an expert");
  check(r.ranks_per_node >= 1, "a node holds a rank");
  check(r.groups >= 1 && r.experts % r.groups == 0, "expert groups are equal");
  check(r.limited_groups >= 1 && r.limited_groups <= r.groups, "groups to choose from exist");
  check(r.top_k <= r.limited_groups * (r.experts / r.groups), "a token finds top_k experts");

  const auto first_expert = [&](int rank) {
    return static_cast<int>(static_cast<long long>(rank) * r.experts / r.ranks);
  };
  const auto visit = [&](int first_rank, int last_rank) {
    return probability_of_visit(r, {first_expert(first_rank), first_expert(last_rank)});
  };

  Footprint f;
  double own_rank = 0, own_node = 0, own_node_ranks = 0, own_position = 0;
  std::vector<double> at_position(static_cast<std::size_t>(r.ranks_per_node));
  std::vector<int> senders_at(static_cast<std::size_t>(r.ranks_per_node));
  for (int first = 0; first < r.ranks; first += r.ranks_per_node) {
    const int last = std::min(first + r.ranks_per_node, r.ranks);
    const double senders = static_cast<double>(last - first) / r.ranks;
    const double node = visit(first, last);
    double in_node = 0;
    for (int rank = first; rank < last; ++rank) {
      const double p = visit(rank, rank + 1);
      in_node += p;
      own_rank += p / r.ranks;
      at_position[static_cast<std::size_t>(rank - first)] += p;
      ++senders_at[static_cast<std::size_t>(rank - first)];
    }
    f.nodes += node;
    f.ranks += in_node;
    own_node += node * senders;
    own_node_ranks += in_node * senders;
  }
  for (std::size_t i = 0; i < at_position.size(); ++i)
    own_position += at_position[i] * senders_at[i] / r.ranks;
  f.remote_nodes = f.nodes - own_node;
  f.remote_ranks = f.ranks - own_rank;
  f.off_node_ranks = f.ranks - own_node_ranks;
  f.forwards = f.ranks - own_position;
  return f;
}

sim::TokenExchange token_exchange(const Routing& routing, double tokens, Bytes bytes_per_token,
                                  const sim::Group& group, bool combine, bool node_forwarding) {
  const Footprint f = expected_footprint(routing);
  return {.tokens = tokens,
          .remote_nodes = f.remote_nodes,
          .ranks = f.ranks,
          .off_node_ranks = f.off_node_ranks,
          .local_ranks = node_forwarding ? f.forwards : f.remote_ranks - f.off_node_ranks,
          .bytes_per_token = bytes_per_token,
          .group = group,
          .combine = combine,
          .node_forwarding = node_forwarding};
}

}  // namespace reckon::hw

// Experts are put in order of their scores, all orders equally likely; a token takes the first
// top_k of them, passing over experts of groups that were not chosen. Groups are chosen by their
// best expert, so the order itself opens them one by one: until limited_groups are open an expert
// of a closed group opens it, afterwards experts of closed groups do not count. This makes the
// picks a Markov chain (which groups are open, how many picks), and the probability that they all
// miss the experts of one rank or one node is exact. A mean number of distinct ranks or nodes is
// the sum of 1 - P(miss) over them.
//
// DeepSeek-V3 chooses groups by the sum of their two best scores, for which no distribution-free
// form exists; drawn with sigmoid of normal scores it visits 3.97 nodes and 7.49 ranks (EP64),
// against 3.98 and 7.46 here.
#include "hw-models/routing.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>
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
  for (int i = 0; i < k; ++i) p *= std::max(0, n - s - i) / static_cast<double>(n - i);
  return p;
}

// P(no pick is in a set), by the set's number of experts in each group that it touches.
double probability_of_miss(const Routing& r, const std::vector<int>& shared) {
  if (r.groups == r.limited_groups)
    return all_miss(r.experts, std::accumulate(shared.begin(), shared.end(), 0), r.top_k);
  const int size = r.experts / r.groups, limit = r.limited_groups;
  const int touched = static_cast<int>(shared.size()), untouched = r.groups - touched;
  const unsigned masks = 1u << touched;
  // at[mask * (limit + 1) + others]: P(no hit so far), touched groups `mask` and `others` more
  // open.
  const auto row = static_cast<std::size_t>(limit) + 1;
  std::vector<double> at(masks * row), next(masks * row);
  at[0] = 1;
  for (int picks = 0; picks < r.top_k; ++picks) {
    std::fill(next.begin(), next.end(), 0.0);
    for (unsigned mask = 0; mask < masks; ++mask)
      for (int others = 0; others <= limit - std::popcount(mask); ++others) {
        const std::size_t here = mask * row + static_cast<std::size_t>(others);
        if (at[here] == 0) continue;
        const bool all_open = std::popcount(mask) + others == limit;
        const double p = at[here] / ((all_open ? limit * size : r.experts) - picks);
        int open = others * size - picks;  // experts left in open groups, outside the set
        for (int g = 0; g < touched; ++g)
          if (mask >> g & 1u) open += size - shared[static_cast<std::size_t>(g)];
        next[here] += p * open;
        if (all_open) continue;
        if (others < untouched) next[here + 1] += p * (untouched - others) * size;
        for (int g = 0; g < touched; ++g)
          if (!(mask >> g & 1u))
            next[(mask | 1u << g) * row + static_cast<std::size_t>(others)] +=
                p * (size - shared[static_cast<std::size_t>(g)]);
      }
    std::swap(at, next);
  }
  return std::accumulate(at.begin(), at.end(), 0.0);
}

// 1 - P(miss) of expert ranges. Ranges of one length at one offset into a group share one result.
class Visits {
 public:
  explicit Visits(const Routing& routing) : routing_(routing) {}

  double probability(Range set) {
    const int size = routing_.experts / routing_.groups;
    const Known key{.offset = set.first % size, .length = set.last - set.first};
    for (const Known& k : known_)
      if (k.offset == key.offset && k.length == key.length) return k.probability;
    std::vector<int> shared;
    for (int g = set.first / size; g * size < set.last; ++g)
      shared.push_back(overlap(set, {g * size, (g + 1) * size}));
    std::sort(shared.begin(), shared.end());
    known_.push_back({key.offset, key.length, 1 - probability_of_miss(routing_, shared)});
    return known_.back().probability;
  }

 private:
  struct Known {
    int offset = 0, length = 0;
    double probability = 0;
  };
  Routing routing_;
  std::vector<Known> known_;
};

}  // namespace

Footprint expected_footprint(const Routing& r) {
  check(r.ranks >= 1 && r.ranks <= r.experts, "every rank holds an expert");
  check(r.ranks_per_node >= 1, "a node holds a rank");
  check(r.groups >= 1 && r.groups <= 24 && r.experts % r.groups == 0, "expert groups are equal");
  check(r.limited_groups >= 1 && r.limited_groups <= r.groups, "groups to choose from exist");
  check(r.top_k <= r.limited_groups * (r.experts / r.groups), "a token finds top_k experts");

  const auto first_expert = [&](int rank) {
    return static_cast<int>(static_cast<long long>(rank) * r.experts / r.ranks);
  };
  Visits visits(r);
  const auto visit = [&](int first_rank, int last_rank) {
    return visits.probability({first_expert(first_rank), first_expert(last_rank)});
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

namespace {

// Expected largest of n standard normals, from its quantile (Blom 1958): 0.5 % for n up to 1000.
double bisected_largest_normal(double n) {
  if (n <= 1) return 0;
  const double p = (n - 0.375) / (n + 0.25);
  double low = 0, high = 8;  // p >= 1/2
  for (int i = 0; i < 60; ++i) {
    const double x = (low + high) / 2;
    (0.5 * std::erfc(-x / std::sqrt(2.0)) < p ? low : high) = x;
  }
  return low;
}

// A search asks for few n, hundreds of thousands of times.
double largest_normal(double n) {
  constexpr std::size_t kKept = 1024;
  static const auto kept = [] {
    std::array<double, kKept + 1> values{};
    for (std::size_t i = 0; i <= kKept; ++i)
      values[i] = bisected_largest_normal(static_cast<double>(i));
    return values;
  }();
  if (n >= 0 && n <= kKept && n == std::floor(n)) return kept[static_cast<std::size_t>(n)];
  return bisected_largest_normal(n);
}

}  // namespace

double busiest_node(const Routing& r) {
  if (r.busiest <= 1) return 1;
  const double per_node = std::min(r.ranks, r.ranks_per_node), nodes = r.ranks / per_node;
  return 1 +
         (r.busiest - 1) * largest_normal(nodes) / (largest_normal(r.ranks) * std::sqrt(per_node));
}

sim::TokenExchange token_exchange(const Routing& routing, double tokens, Bytes bytes_per_token,
                                  const sim::Group& group, bool combine, bool node_forwarding) {
  return token_exchange(routing, expected_footprint(routing), tokens, bytes_per_token, group,
                        combine, node_forwarding);
}

sim::TokenExchange token_exchange(const Routing& routing, const Footprint& f, double tokens,
                                  Bytes bytes_per_token, const sim::Group& group, bool combine,
                                  bool node_forwarding) {
  // Experts are equally likely, so a copy per expert goes to a rank or a node by its number of
  // ranks.
  const double ranks = routing.ranks, node = std::min(routing.ranks, routing.ranks_per_node);
  return {.tokens = tokens,
          .remote_nodes = f.remote_nodes * busiest_node(routing),
          .ranks = f.ranks,
          .off_node_copies = routing.top_k * (1 - node / ranks) * routing.busiest,
          .local_copies =
              (node_forwarding ? f.forwards : routing.top_k * (node - 1) / ranks) * routing.busiest,
          .bytes_per_token = bytes_per_token,
          .group = group,
          .combine = combine,
          .node_forwarding = node_forwarding};
}

}  // namespace reckon::hw

// Expected traffic of top-k routing with balanced experts: how many distinct nodes and ranks a
// token visits.
#pragma once

#include "sim/work.h"

namespace reckon::hw {

// `experts` experts in index order over `ranks` ranks, `ranks_per_node` of them on a node; a token
// picks the `top_k` experts of highest score: of all, or (group-limited) of those `limited_groups`
// of `groups` equal expert groups (runs of neighbouring experts) that hold the best single experts.
// Scores are independent and alike for all experts.
struct Routing {
  int experts = 1, top_k = 1;
  int ranks = 1, ranks_per_node = 1;
  int groups = 1, limited_groups = 1;  // groups == limited_groups: no limit
  double busiest = 1;                  // token copies that the busiest rank receives, over the mean
};

// Means over senders on every rank, all experts equally likely.
struct Footprint {
  double nodes = 0;           // distinct nodes per token, own included when chosen
  double remote_nodes = 0;    // without its own
  double ranks = 0;           // distinct ranks per token, own included when chosen
  double remote_ranks = 0;    // ranks other than itself
  double off_node_ranks = 0;  // distinct ranks on other nodes
  double forwards =
      0;  // NVLink hops per token where a node is entered at the rank with the sender's own
          // position in its node: distinct ranks of all nodes, its own included, at other positions
};

// Exact expectation, not a simulation. Source of the scheme: DeepSeek-V3 report,
// sections 2.1.2 and 3.2.2.
// REQUIRES: 1 <= ranks <= experts; groups divides experts, groups <= 24; top_k experts exist in
// limited_groups.
Footprint expected_footprint(const Routing& routing);

// What the busiest node receives over the mean, given what the busiest rank does. Loads of ranks
// are taken for independent normal draws of deviation d around 1, so that the busiest of R lies d
// M(R) above 1, M(n) the expected largest of n standard normals. A node of p ranks deviates by d /
// sqrt(p), and the busiest of N nodes lies d M(N) / sqrt(p) above 1.
double busiest_node(const Routing& routing);

// The exchange of `tokens` tokens per rank, as long as its busiest receiver takes. With forwarding
// that is a node for the NICs (a token enters a node once, whichever of its ranks it is for) and a
// rank for NVLink; without, a rank for both. `node_forwarding`: see sim::TokenExchange.
sim::TokenExchange token_exchange(const Routing& routing, double tokens, Bytes bytes_per_token,
                                  const sim::Group& group, bool combine, bool node_forwarding);
// The same, where the caller keeps expected_footprint(routing).
sim::TokenExchange token_exchange(const Routing& routing, const Footprint& footprint, double tokens,
                                  Bytes bytes_per_token, const sim::Group& group, bool combine,
                                  bool node_forwarding);

}  // namespace reckon::hw

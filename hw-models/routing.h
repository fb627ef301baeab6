// Expected traffic of top-k routing with balanced experts: how many distinct nodes and ranks a
// token visits.
#pragma once

namespace reckon::hw {

// `experts` experts spread evenly over `ranks` ranks, `ranks_per_node` of them on a node; a token
// picks `top_k` distinct experts: uniformly, or (group-limited) from `limited_groups` of `groups`
// equal expert groups, chosen uniformly.
struct Routing {
  int experts = 1, top_k = 1;
  int ranks = 1, ranks_per_node = 1;
  int groups = 1, limited_groups = 1;  // groups == limited_groups: no limit
};

// The sender sits on one rank of the first node; all experts are equally likely.
struct Footprint {
  double nodes = 0;         // distinct nodes per token, own included when chosen
  double remote_nodes = 0;  // without its own
  double ranks = 0;         // distinct ranks per token, own included when chosen
  double remote_ranks = 0;  // ranks other than itself
  double off_node_ranks =
      0;  // distinct ranks on other nodes (what a plain all-to-all sends over the network)
  double forwards =
      0;  // NVLink hops per token on the receiving side: distinct ranks less one entry rank per
          // remote node where that rank itself is chosen, plus the own-node ranks other than itself
};

// Exact expectation (hypergeometric), not a simulation. Source of the scheme: DeepSeek-V3 report,
// section 2.1.2 and 3.2.2.
Footprint expected_footprint(const Routing& routing);

}  // namespace reckon::hw

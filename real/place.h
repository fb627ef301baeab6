// Where a rank stands: its coordinates in every parallel dimension, and who else is in its groups.
#pragma once

#include <vector>

#include "planner/plan.h"

namespace reckon::real {

// Ranks are numbered tensor-parallel first, then context, then data, then pipeline, as in
// planner/groups.h; experts fold over the ranks of a stage.
struct Place {
  int rank = 0;
  int tp = 0, cp = 0, dp = 0, pp = 0;  // coordinates
  int ep = 0, edp = 0;                 // of the experts
};
Place place_of(const plan::Plan& plan, int rank);

// Ranks that communicate, ascending, each group with this rank in it.
struct Peers {
  std::vector<int> tp, cp;
  std::vector<int> tp_cp;  // that share a sequence
  std::vector<int> ep;
  // That hold the same dense parameters, or the same experts; with DualPipe on both stages that
  // hold a chunk.
  std::vector<int> dp_cp, edp;
  std::vector<int> stage;  // all that hold the same layers
};
Peers peers_of(const plan::Plan& plan, const Place& place);

// The rank at the same place of pipeline rank `pp`.
int rank_at(const plan::Plan& plan, const Place& place, int pp);

}  // namespace reckon::real

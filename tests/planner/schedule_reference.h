// Slow, obvious execution of a schedule: every rank runs its list in order, a task starts when its
// inputs exist.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "planner/schedule.h"

namespace reckon::plan {

// Ticks of one task, the same for every chunk. `w` and `b` apart; BW takes b + w.
struct UniformCosts {
  std::int64_t f = 1, b = 1, w = 1, fb = 3;
};

struct RankRun {
  std::int64_t first_start = 0, last_end = 0, busy = 0;
  int in_flight = 0;  // most (chunk, micro-batch) passes whose W is still due, at any time
};

// Nothing: the order deadlocks.
std::optional<std::vector<RankRun>> run_in_order(const Schedule& schedule, UniformCosts costs);

// "" if every rank_of(...) runs each F, B and W of each (chunk, micro-batch) exactly once and in
// this order, else the first breach.
std::string breach(const Schedule& schedule, ScheduleKind kind, int pp, int vpp);

}  // namespace reckon::plan

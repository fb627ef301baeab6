// The task lists of single ranks, one function per family of schedules; make_schedule calls them.
#pragma once

#include <vector>

#include "planner/schedule.h"

namespace reckon::plan {

using Order = std::vector<Task>;

inline Task task(sim::Phase phase, int chunk, int micro_batch) {
  return {.phase = phase,
          .chunk = static_cast<std::uint16_t>(chunk),
          .micro_batch = static_cast<std::uint32_t>(micro_batch)};
}

// schedule_zero_bubble.cc. x: 1 for ZB-H1, 2 for ZB-H2.
Order zero_bubble_order(int rank, int pp, int micro_batches, int x);
Order zero_bubble_v_order(int rank, int pp, int micro_batches);

// schedule_dualpipe.cc
Order dualpipe_order(int rank, int pp, int micro_batches);
Order dualpipe_v_order(int rank, int pp, int micro_batches);

}  // namespace reckon::plan

// Pipeline schedules: the order in which each rank runs forward, backward and weight-gradient
// passes.
#pragma once

#include <cstdint>
#include <vector>

#include "planner/plan.h"
#include "sim/program.h"

namespace reckon::plan {

// One entry of a rank's list. Chunks are numbered in forward order along the model, micro-batches
// from 0. Phase F, B, W, BW as in sim::Phase; FB runs F of (chunk, micro_batch) with B and W of
// (chunk2, micro_batch2). Schedules without zero bubbles use BW alone; in DualPipe a backward
// outside a pair is BW, or B with a later W where the published algorithm delays it.
struct Task {
  sim::Phase phase = sim::Phase::F;
  std::uint16_t chunk = 0, chunk2 = 0;
  std::uint32_t micro_batch = 0, micro_batch2 = 0;
  bool operator==(const Task&) const = default;
};

struct Schedule {
  int chunks = 0;  // along the model
  int micro_batches = 0;
  std::vector<std::vector<Task>> order;  // per pipeline rank
  // DualPipe: every chunk lives on two ranks, rank r and pp-1-r; micro-batches of the first half
  // enter at rank 0 and use rank_of(chunk) = chunk, those of the second half enter at the last rank
  // and use pp-1-chunk.
  bool bidirectional = false;
};

// The rank that runs `chunk` for `micro_batch`.
int rank_of(ScheduleKind kind, int pp, int vpp, int micro_batches, int chunk, int micro_batch);

// REQUIRES: why_illegal(...) returned nothing.
Schedule make_schedule(ScheduleKind kind, int pp, int vpp, int micro_batches);

// A reason such as "DualPipe needs an even number of micro-batches of at least 2 pp", or nullptr.
const char* why_illegal(ScheduleKind kind, int pp, int vpp, int micro_batches);

// Published bubble of one rank over a whole step, on uniform costs. `f`, `b` (input gradient alone)
// and `w`: ticks of one rank's work for one micro-batch, all the chunks that the micro-batch passes
// there together; `fb`: ticks of one pair. It is what a rank waits between its first and its last
// task. Each formula holds where its paper draws it, and not beyond:
//   GPipe, 1F1B         (pp - 1)(f + b + w)
//   Interleaved         (pp - 1)(f + b + w) / vpp
//   ZB-H1, ZB-H2        (pp - 1)(f + b - w), (pp - 1)(f + b - 2 w), where w <= f and w <= b, and
//   for
//                       H2 with at least 2 pp - 1 micro-batches
//   ZB-V                0, where f = b = w, with at least 2 pp - 1 micro-batches
//   DualPipe, DualPipeV (pp / 2 - 1)(fb + b - 2 w), (pp - 1)(fb + b / 2 - w) where f = b and w <= b
//                       and a pair gains nothing (fb = f + b + w; of one chunk for DualPipeV)
std::int64_t published_bubble(ScheduleKind kind, int pp, int vpp, std::int64_t f, std::int64_t b,
                              std::int64_t w, std::int64_t fb);

}  // namespace reckon::plan

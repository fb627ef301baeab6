// The prediction of one step: lower the plan, run it in the folded engine, add up.
#pragma once

#include <optional>
#include <string>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/memory.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "sim/sim_time.h"

namespace reckon::plan {

struct Infeasible {
  const char* why;     // a fixed text, tallied over candidates
  std::string detail;  // figures of this case
};

// Seconds of the slowest rank's own calendar; they add up to the step.
struct Phases {
  Seconds f, b, w, fb;  // alone-running passes, and F&B pairs (or, without pairs, nothing)
  Seconds bubble;       // waiting for another stage, pipeline messages included
  Seconds gradients;    // data-parallel communication that nothing hides
  Seconds optimizer;    // update, gradient norm, parameter gather that nothing hides
  Seconds host;         // per-step host work
};

struct Prediction {
  Seconds step;
  Phases phases;
  MemoryUse memory;
  double mfu_causal = 0, mfu_full = 0;    // of the bf16 peak, recompute not counted
  bool calibrated = true;                 // false: some op had no measurement behind it
  std::vector<std::string> uncalibrated;  // which
};

// Divisibility, group sizes, schedule and stack abilities, dtype support; not memory.
std::optional<Infeasible> why_illegal(const ModelShape& model, const hw::Cluster& cluster,
                                      const hw::Stack& stack, const Plan& plan,
                                      const StepShape& step);

// REQUIRES: !why_illegal(...). A plan that does not fit in memory is still predicted; the caller
// compares memory.peak.
Prediction predict(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack,
                   const Plan& plan, const StepShape& step);

}  // namespace reckon::plan

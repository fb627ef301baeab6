// The prediction of one step: lower the plan, run it in the folded engine, add up.
#pragma once

#include <optional>
#include <string>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/lower.h"
#include "planner/memory.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "sim/folded.h"

namespace reckon::plan {

struct Infeasible {
  const char* why;     // a fixed text, tallied over candidates
  std::string detail;  // figures of this case
};

// What a rank spends its step on; the parts add up to the step.
struct Phases {
  Seconds f, b, w;    // passes that run alone; b: input gradient, or the whole backward where a
                      // schedule does not split it
  Seconds fb;         // forward and backward of two micro-batches, overlapped (F&B pairs)
  Seconds bubble;     // waiting: for messages of other stages, for the first parameters, for the
                      // slowest rank
  Seconds gradients;  // data-parallel reductions that nothing hides
  Seconds optimizer;  // gradient norm, update, parameter gathers that nothing hides
  Seconds host;       // per-step host work
};
Phases phases_of(const sim::RoleTime& t);  // of one role; the host's part stays 0

struct Prediction {
  Seconds step;
  Phases phases;        // mean over all ranks
  Phases first_phases;  // of rank 0, whose log a trainer prints: it has the first stage (and in a
                        // bidirectional schedule the last)
  MemoryUse memory;
  double mfu_causal = 0, mfu_full = 0;    // of the bf16 peak, recompute not counted
  bool calibrated = true;                 // false: some op had no measurement behind it
  std::vector<std::string> uncalibrated;  // which
};

// Divisibility, group sizes, schedule and stack abilities, dtype support; not memory.
std::optional<Infeasible> why_illegal(const ModelShape& model, const hw::Cluster& cluster,
                                      const hw::Stack& stack, const Plan& plan,
                                      const StepShape& step);

// Predicts plans of one model on one cluster with one stack, keeping what they share (blocks, their
// times). One thread.
class Predictor {
 public:
  Predictor(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack);

  // REQUIRES: !why_illegal(...). A plan that does not fit in memory is still predicted; the caller
  // compares memory.peak.
  Prediction predict(const Plan& plan, const StepShape& step);

  // Prediction::step alone.
  Seconds step(const Plan& plan, const StepShape& step);

  // The same run, kept whole: for traces and explanations.
  struct Run {
    sim::Program program;
    sim::FoldedRun folded;
    Prediction prediction;
  };
  Run run(const Plan& plan, const StepShape& step);

  // Block times and op costs of this model, cluster and stack.
  sim::BlockTimes& times() { return times_; }

  // Times of the blocks of a Run's program, op by op.
  const sim::BlockTime& block_time(const std::shared_ptr<const sim::Block>& block) {
    return times_.of(block);
  }

 private:
  ModelShape model_;
  hw::Cluster cluster_;
  hw::Stack stack_;
  Lowering lowering_;
  sim::BlockTimes times_;
  sim::FoldedRun scratch_;  // of step()
};

// One plan, one call. REQUIRES: !why_illegal(...).
Prediction predict(const ModelShape& model, const hw::Cluster& cluster, const hw::Stack& stack,
                   const Plan& plan, const StepShape& step);

}  // namespace reckon::plan

// A scenario: the question that a user asks, as read from JSON (scenario_json.h).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/disturbance_spec.h"
#include "planner/failure_spec.h"
#include "planner/launch/target.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "planner/training.h"

namespace reckon::plan {

// One stretch of training with constant shape, or a fixed bill of GPU-hours.
struct PhaseOfCampaign {
  std::string name;
  int seq = 0;                    // tokens per sequence
  std::int64_t global_batch = 0;  // sequences per step, at the end of the ramp
  double tokens = 0;              // of the phase; 0: `steps` counts
  std::int64_t steps = 0;
  std::int64_t batch_ramp_from = 0;  // sequences per step at the start; 0: no ramp
  double batch_ramp_tokens = 0;      // tokens over which the batch grows linearly
  double gpu_hours = 0;              // given, not predicted; 0: predicted
  std::optional<Plan> plan;          // published plan of this phase
};

// Values to try for each part of a plan; empty: every legal one.
struct SearchSpace {
  std::vector<int> tp, pp, vpp, cp, ep, etp, micro_batch;
  std::vector<ScheduleKind> schedule;
  std::vector<Precision> precision;
  std::vector<Recompute> recompute;
  std::vector<Zero> zero;
  std::vector<Overlap::Expert> expert_overlap;
  std::optional<launch::Framework> target;  // only plans that this framework can run
  std::string framework_version;            // of the target; empty: its default

  // REQUIRES: a target.
  launch::Target launch_target() const { return *launch::target_of(*target, framework_version); }
};

struct Constraints {
  Bytes memory_margin;        // kept free on every GPU
  std::optional<int> max_tp;  // e.g. the NVLink domain
};

struct Budget {
  std::optional<double> gpu_hours, days, money;
};

struct Scenario {
  std::string name, description;
  ModelShape model;
  hw::Cluster cluster;
  hw::Stack stack;
  std::vector<PhaseOfCampaign>
      campaign;  // at least one; the first predicted phase is the one that `plan` searches
  SearchSpace search;
  Constraints constraints;
  Budget budget;
  std::optional<Plan> plan;                     // published or proposed; `simulate` runs it
  std::optional<FailureSpec> failures;          // of the campaign; they enter its bill
  std::optional<DisturbanceSpec> disturbances;  // of single GPUs; `simulate --fidelity cluster`
  std::optional<Training> training;
};

}  // namespace reckon::plan

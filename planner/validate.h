// Prediction against measurement: a plan predicted, run for real on this machine, and compared op
// by op. The one place, with the calibration's tables, that sees both the cost models and the
// trainer.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "planner/predict.h"
#include "planner/report.h"
#include "real/trainer.h"
#include "sim/timeline.h"

namespace reckon::plan {

// Of one rank's step. The parts add up to it.
struct RankTime {
  double compute = 0;   // some compute op runs
  double exchange = 0;  // communication runs and no compute: exposed
  double idle = 0;      // neither
};

struct OpComparison {
  std::string label;
  sim::Phase phase = sim::Phase::F;
  bool recompute = false;
  double predicted = 0, measured = 0;  // seconds a step, mean over roles
};

struct PlanComparison {
  Plan plan;
  std::string why_not;                           // not run: the reason; empty: it was
  double predicted_step = 0, measured_step = 0;  // seconds; measured: median of the steps
  double fastest_step = 0, slowest_step = 0;
  // What the calibration's reference work takes between this plan's steps, over what it took
  // between the calibration's: above 1, the machine is slower now. 0: not known.
  double slowdown = 0;
  RankTime predicted_time, measured_time;                     // mean over roles
  double predicted_phase[6] = {}, measured_phase[6] = {};     // seconds of ops, by sim::Phase
  Bytes predicted_peak, measured_peak;                        // of the fullest rank
  Bytes predicted_memory[kCauses], measured_memory[kCauses];  // of it, at its peak
  std::vector<OpComparison> ops;                              // largest measured first
  sim::Timeline timeline;  // both: roles "predicted stage 0", ..., "measured stage 0", ...

  double error() const { return predicted_step / measured_step - 1; }
  // The prediction at the speed that the machine had beside the steps.
  double predicted_at_speed() const { return slowdown > 0 ? predicted_step * slowdown : 0; }
  double error_at_speed() const { return predicted_at_speed() / measured_step - 1; }
};

struct ValidationOptions {
  int warm_steps = 2, steps = 7;
  real::DeviceChoice device;
  std::function<void(int step, int of)> progress;
};

// REQUIRES: no objection by why_illegal or why_untrainable. `job.cluster` has as many devices as
// the plan, and the calibration's tables where there are some.
PlanComparison compare_plan(const real::Job& job, const ValidationOptions& options);

// The plans that a machine of `ranks` cores can run of this model and batch, one of each kind:
// serial, pipelines of every schedule, data, expert, tensor and context parallelism, recomputation.
std::vector<Plan> plan_matrix(const real::Job& job, int ranks);

struct ValidationSummary {
  int plans = 0;
  double median_error = 0, worst_error = 0;  // of step times, absolute
  double spearman = 0;                       // of predicted against measured step times
  // The same at the machine's speed beside each plan; only where all know it.
  bool at_speed = false;
  double median_error_at_speed = 0, worst_error_at_speed = 0, spearman_at_speed = 0;
  double worst_memory_error = 0;
};
ValidationSummary summary(const std::vector<PlanComparison>& plans);

std::string to_text(const PlanComparison& c);
// For the head of a report.
std::string verdict_sentence(const std::vector<PlanComparison>& plans);
std::string overview(const std::vector<PlanComparison>& plans);
ordered_json to_json(const PlanComparison& c);
ordered_json to_json(const ValidationSummary& s);

}  // namespace reckon::plan

// One step on every rank, in words and figures.
#pragma once

#include <string>
#include <vector>

#include "planner/disturbances.h"
#include "planner/predict.h"
#include "planner/report.h"
#include "sim/cluster.h"

namespace reckon::plan {

// Over all ranks.
struct Distribution {
  Seconds least, median, p99, most;
};

struct ClusterAnswer {
  std::uint64_t seed = 1;
  Seconds step, undisturbed;  // host work of the step included
  int ranks = 0;
  Phases phases, first_phases;              // mean over all ranks, and of GPU 0
  Distribution passes, waiting, gradients;  // of a rank: in passes, waiting for others or idle, in
                                            // reductions that nothing hides
  struct Cause {
    std::string name;
    Seconds cost;  // of this disturbance alone: its step over the undisturbed one
  };
  std::vector<Cause> causes;
  struct Share {
    std::string name;
    Seconds time;  // on the critical path
  };
  std::vector<Share> kinds, ops, gpus;  // by kind of step; the largest ops; the largest GPUs
  double load_reference = 1;            // see sim::Load; 1 where loads are not disturbed
  int slowest_gpu = 0;
};

// REQUIRES: run is predictor.run(plan, ...), disturbances are of that plan.
ClusterAnswer cluster_answer(const Predictor::Run& run, Predictor& predictor, const Plan& plan,
                             const sim::Disturbances& disturbances);

ordered_json to_json(const ClusterAnswer& a);
std::string to_text(const ClusterAnswer& a);

}  // namespace reckon::plan

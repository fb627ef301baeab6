// What goes wrong on single GPUs of a scenario's cluster, as its JSON says it, and as the cluster
// engine takes it for one plan.
#pragma once

#include <string>
#include <vector>

#include "planner/scenario.h"
#include "sim/disturbances.h"

namespace reckon::plan {

// REQUIRES: the plan is legal. Errors: InputError for GPUs that the cluster lacks, and for a load
// file that does not fit the model; `folder`: that load files are relative to.
sim::Disturbances disturbances(const Scenario& s, const Plan& plan, const std::string& folder,
                               std::uint64_t seed);

// Where a GPU of the cluster stands in the program of a plan. GPUs are numbered tensor-parallel
// ranks first, then context, data, pipeline.
sim::RankId rank_of_gpu(const Plan& plan, int gpu);
int gpu_of_rank(const Plan& plan, sim::RankId rank);

// The kinds of disturbance that a set has, each alone: to price them one by one.
struct NamedDisturbances {
  std::string name;
  sim::Disturbances only;
};
std::vector<NamedDisturbances> each_alone(const sim::Disturbances& all);

}  // namespace reckon::plan

// The plan nearest to one that a framework can't run: fewest parts changed, then fastest.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/launch/frameworks.h"
#include "planner/predict.h"

namespace reckon::plan::launch {

struct NearestPlan {
  ModelShape model;  // as given, or without what the framework can't train (MTP modules)
  Plan plan;
  std::vector<std::string> changes;  // "schedule: DualPipe -> interleaved, 2 chunks a stage"
  Prediction prediction;
  bool fits = true;  // in the memory of a GPU; false: no near plan does
};

// Parts that may change: schedule (with chunks, layout and message overlap), expert overlap,
// precision, recomputation, ZeRO, overlaps, etp, sequence parallelism, communication SMs, MTP.
// Degrees and micro-batch stay. nullopt: no combination of changes runs. `limit`: memory of a GPU.
// Predicted with the job's own stack, so that the difference is the plan's alone.
// REQUIRES: the job's plan is legal, and the judge objects to it.
std::optional<NearestPlan> nearest_plan(const Target& target, const Job& job, Bytes limit);

// Where no near plan runs and fits: the fastest that a search of the framework's plans finds,
// degrees and all. `constraints`: of the scenario. nullopt: the framework has none.
std::optional<NearestPlan> fastest_plan(const Target& target, const Job& job,
                                        const Constraints& constraints, int threads);

}  // namespace reckon::plan::launch

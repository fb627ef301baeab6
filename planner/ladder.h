// The ladder: each optimisation of a plan switched off in turn, everything else as it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/variant.h"

namespace reckon::plan {

struct Rung {
  std::string what, from, to;         // "schedule", "DualPipe", "1F1B"
  std::optional<Infeasible> illegal;  // what runs without it not; nothing below then
  Seconds step;                       // without it
  Seconds worth;                      // step - the plan's step: what it saves
  std::optional<double> gpu_hours;    // of the phase, likewise saved
  Bytes memory;                       // peak without it
  bool fits = true;                   // in memory
};

struct Ladder {
  Seconds step;                     // of the plan
  std::optional<double> gpu_hours;  // of the phase with it
  std::vector<Rung> rungs;  // by subject: schedule, numbers, memory, routing, overlap, kernels
};

Ladder ladder(const Variant& v, const PhaseOfCampaign& phase, Bytes memory_limit, int threads);

}  // namespace reckon::plan

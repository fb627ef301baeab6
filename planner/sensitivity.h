// How much faster a step gets with a little more of each resource, the plan held: by simulating the
// plan again on the changed machine.
#pragma once

#include <string>
#include <vector>

#include "planner/predict.h"
#include "planner/scenario.h"

namespace reckon::plan {

struct Sensitivity {
  const char* key;          // of JSON
  const char* description;  // e.g. "NIC bandwidth"
  double less = 0;          // of the step, in parts of it, with 1 % more
  Seconds half, twice;      // the step with half and twice as much
};

// Of what the cluster has, largest effect first. Nothing where measured tables stand in for the
// equations: they do not follow the nameplate. REQUIRES: the plan is legal.
std::vector<Sensitivity> sensitivities(const Scenario& s, const Plan& plan, const StepShape& step);

}  // namespace reckon::plan

// The predicted bill of a scenario's campaign, and what a change of the scenario would do to it.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "planner/campaign.h"
#include "planner/predict.h"
#include "planner/scenario.h"

namespace reckon::plan {

// The phase that `plan` searches and `simulate` runs: the first whose GPU-hours are not given.
// Nothing if all are given.
std::optional<std::size_t> searched_phase(const Scenario& s);

StepShape step_shape(const PhaseOfCampaign& phase);

// One plan a phase (ignored where GPU-hours are given): `plan` for the searched phase, its own for
// a phase that has one, else `plan` too.
std::vector<Plan> plans_of_phases(const Scenario& s, const Plan& plan);

// Why there is no bill.
struct NoBill {
  std::string phase;
  Infeasible why;
};

// REQUIRES: one plan a phase; `predictor` is made of the scenario's model, cluster and stack.
std::variant<Bill, NoBill> predicted_bill(const Scenario& s, const std::vector<Plan>& plans,
                                          Predictor& predictor);

// One change of the scenario with the plans otherwise held, and the bill that follows.
struct WhatIf {
  std::string change;  // e.g. "network twice as fast"
  Bill bill;
  bool meets = false;
};

// What would have to change for the budget: faster network, more GPUs, FP8, fewer tokens. Changes
// under which a plan can't run are left out. REQUIRES: the bill misses the budget.
std::vector<WhatIf> what_ifs(const Scenario& s, const std::vector<Plan>& plans, const Bill& bill);

}  // namespace reckon::plan

// Which phase and which plan of a scenario a command is about. Errors: InputError.
#pragma once

#include <string>

#include "planner/scenario.h"

namespace reckon::plan {

struct Choice {
  std::string scenario;  // file
  std::string plan;      // file; empty: the phase's own plan, or the scenario's
  std::string phase;     // of the campaign; empty: the first that is predicted
};

std::size_t chosen_phase(const Scenario& s, const Choice& choice);
Plan chosen_plan(const Scenario& s, const Choice& choice, std::size_t phase);

}  // namespace reckon::plan

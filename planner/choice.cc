#include "planner/choice.h"

#include <fmt/format.h>

#include "hw-models/strict_json.h"
#include "planner/bill.h"
#include "planner/plan_json.h"
#include "sim/input_error.h"

namespace reckon::plan {

std::size_t chosen_phase(const Scenario& s, const Choice& choice) {
  if (choice.phase.empty()) {
    if (const auto first = searched_phase(s)) return *first;
    throw InputError(choice.scenario +
                     ": /campaign: expected at least one phase whose gpu_hours are not given");
  }
  std::vector<std::string> names;
  for (std::size_t i = 0; i < s.campaign.size(); ++i) {
    if (s.campaign[i].name == choice.phase) {
      if (s.campaign[i].gpu_hours <= 0) return i;
      throw InputError(fmt::format("--phase {}: its gpu_hours are given, there is nothing to run",
                                   choice.phase));
    }
    names.push_back(s.campaign[i].name);
  }
  const std::string nearest = hw::nearest_spelling(choice.phase, names);
  throw InputError(fmt::format("--phase: no phase \"{}\" in {}; {}", choice.phase, choice.scenario,
                               nearest.empty()
                                   ? fmt::format("expected \"{}\"", fmt::join(names, "\", \""))
                                   : fmt::format("did you mean \"{}\"?", nearest)));
}

Plan chosen_plan(const Scenario& s, const Choice& choice, std::size_t phase) {
  if (!choice.plan.empty())
    return plan_from_json(hw::read_json_file(choice.plan), s.model, s.cluster);
  if (s.campaign[phase].plan) return *s.campaign[phase].plan;
  if (s.plan) return *s.plan;
  throw InputError(choice.scenario +
                   ": the scenario has no /plan to run; give one with --plan FILE, or let `reckon "
                   "plan` find one");
}

}  // namespace reckon::plan

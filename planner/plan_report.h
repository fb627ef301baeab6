// What `reckon plan` answers: the verdict on the budget, plans with their bills, the search behind
// them.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/bill.h"
#include "planner/report.h"
#include "planner/search.h"

namespace reckon::plan {

// One plan for the searched phase, and the campaign with it.
struct PlanRow {
  Plan plan;
  Prediction prediction;
  std::variant<Bill, NoBill> bill;
  bool fits = true;  // in memory, with the margin
  // In the cluster engine, on every rank, with the scenario's disturbances; nothing where it states
  // none, as the step is then prediction.step.
  std::optional<Seconds> disturbed;

  bool meets(const Budget& budget) const;
};

struct PlanAnswer {
  std::size_t phase = 0;        // of the campaign, that was searched
  std::vector<PlanRow> plans;   // fastest first; with disturbances, under them
  std::vector<PlanRow> pareto;  // step time against memory
  std::optional<PlanRow> published;
  std::optional<Infeasible> published_refused;  // why the published plan can't run
  std::optional<StepUse> use;                   // of the first plan
  std::vector<WhatIf> what_ifs;                 // empty if a plan meets the budget
  SearchStatistics statistics;
  bool interrupted = false;  // the search of some phase was

  bool meets(const Budget& budget) const;  // some plan does
};

// The verdict in one or two sentences, for the head of a report.
std::string verdict_sentence(const PlanAnswer& a, const Scenario& s);

ordered_json to_json(const PlanAnswer& a, const Scenario& s);
std::string to_text(const PlanAnswer& a, const Scenario& s);

}  // namespace reckon::plan

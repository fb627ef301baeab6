// A scenario's plan with something changed: its model, machines, software or plan, or a thing that
// no plan says. What it then takes.
#pragma once

#include <optional>
#include <variant>

#include "planner/predict.h"
#include "planner/scenario.h"
#include "planner/step_causes.h"

namespace reckon::plan {

struct Variant {
  ModelShape model;
  hw::Cluster cluster;
  hw::Stack stack;
  Plan plan;
  // What plans don't say:
  bool pairs_in_turn = false;  // of an F&B pair, the forward pass and then the backward pass
  bool wide_dispatch = false;  // tokens go to their experts in bf16. Not modelled: the rows are
                               // quantised after the exchange instead of before it
};

// A plan of the scenario. Plan::comm_sms, where it says something, stands for the stack's figure.
Variant variant(const Scenario& s, const Plan& plan);

struct VariantResult {
  Prediction prediction;
  StepAccount account;
};

std::variant<VariantResult, Infeasible> evaluate(const Variant& v, const StepShape& step);

// Prediction::step of the same. REQUIRES: the plan is legal.
Seconds step_of(const Variant& v, const StepShape& step);

// GPU-hours of one phase of a campaign; nothing where the plan can't run.
std::optional<double> phase_gpu_hours(const Variant& v, const PhaseOfCampaign& phase);

// Memory that a plan may use on one GPU, by its fullest rank.
const RankMemory& fullest_rank(const MemoryUse& memory);

}  // namespace reckon::plan

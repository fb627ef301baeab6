// From a published run to something that can be predicted: model, cluster, software, plan, step.
// What the source did not print comes from framework_defaults.h; what can't be expressed is a
// reason, not a guess.
#pragma once

#include <string>
#include <variant>
#include <vector>

#include "hw-models/machine.h"
#include "hw-models/stack.h"
#include "planner/framework_defaults.h"
#include "planner/memory.h"
#include "planner/model.h"
#include "planner/plan.h"
#include "planner/published_run.h"

namespace reckon::plan {

struct RunCase {
  ModelShape model;
  hw::Cluster cluster;
  std::string framework;  // whose defaults applied
  std::string stack;      // catalogue name
  Plan plan;
  StepShape step;
  std::optional<hw::Dispatcher> dispatcher;  // printed, or of the recipe; empty: the stack's own
  bool eager = false;                        // memory-bound work not fused, whatever the stack does
  std::vector<std::string> assumed;          // parts of the plan that the source did not print
};

struct NoCase {
  std::string reason;
};

std::variant<RunCase, NoCase> run_case(const PublishedRun& run);

// The stack of the case, given the catalogue's (or a fitted) entry of that name: what the row says
// of its software, applied.
hw::Stack stack_of(const RunCase& c, hw::Stack entry);

// The parts, for tests. Errors: std::string, the reason.
std::variant<ModelShape, NoCase> model_of(const PublishedRun& run);
std::variant<hw::Cluster, NoCase> cluster_of(const PublishedRun& run);

}  // namespace reckon::plan

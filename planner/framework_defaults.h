// What a training framework of some date does where a published run does not say: the stated
// defaults that fill the gaps of a row. They depend on the framework, its date and the kind of
// model, never on one row.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hw-models/stack.h"
#include "planner/plan.h"
#include "planner/published_run.h"

namespace reckon::plan {

struct FrameworkDefaults {
  std::string name;   // for reports
  std::string stack;  // name in the catalogue of software stacks
  Recompute recompute;
  Zero zero = Zero::Optimizer;
  bool sequence_parallel = true;     // with tp > 1
  bool grad_overlap = true;          // gradient reduction under the backward pass
  bool param_overlap = true;         // parameter gather under the forward pass
  bool tp_overlap = false;           // of dense models; nobody's default for mixtures
  bool expert_tp_follows_tp = true;  // etp of mixtures: tp, or 1
  Overlap::Expert expert_overlap = Overlap::Expert::None;
  std::optional<hw::Dispatcher> dispatcher;  // empty: the stack's
  int embedding_weight = 1;  // layers that the embedding counts for where layers don't divide
};

// By the words of source, plan and model. Every run gets one: what matches nothing is taken for
// Megatron-Core of 2024.
FrameworkDefaults framework_defaults(const PublishedRun& run);

}  // namespace reckon::plan

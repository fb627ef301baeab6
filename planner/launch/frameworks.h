// The frameworks behind one interface: can it run this plan, and with what.
#pragma once

#include <memory>

#include "planner/launch/job.h"
#include "planner/launch/megatron.h"
#include "planner/launch/target.h"

namespace reckon::plan::launch {

// Why a framework can't run plans of one model, asked for many of them. One thread.
class Judge {
 public:
  Judge(const Target& target, const ModelShape& model);

  // What the framework can't say, or refuses; nullptr: it runs the plan. One of a fixed set of
  // texts; `detail`, when given, receives the figures of this case. REQUIRES: the plan is legal
  // (plan::why_illegal).
  const char* objection(const Question& q, std::string* detail = nullptr) const;

 private:
  Target target_;
  MegatronJudge megatron_;
};

// The switches of a plan that the framework decides itself, set as it does.
void set_own_switches(const Target& target, Plan& plan);

// The lists of a search space that the scenario leaves open, where the framework's choices are
// others than those that a search tries by default.
void fill_search_space(const Target& target, const ModelShape& model, SearchSpace& space);

// What starts one process of the job. REQUIRES: a canonical plan, no objection.
Program program_of(const Target& target, const Job& job);

// The catalogue's name of the model that a recipe of Megatron-Bridge trains, or "".
std::string bridge_model(const std::string& recipe);

// "Megatron-LM 0.19.0", "torchtitan v0.2.2".
std::string title(const Target& target);

}  // namespace reckon::plan::launch

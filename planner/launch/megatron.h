// Plans and models as Megatron-LM's arguments, and arguments as plans and models. Megatron-Bridge
// builds the same configuration classes and shares all of it.
#pragma once

#include <memory>

#include "planner/launch/job.h"
#include "planner/launch/megatron_args.h"
#include "planner/launch/megatron_rules.h"

namespace reckon::plan::launch {

// The first thing of a model or a canonical plan that no argument says, or nullptr. A fixed text.
const char* megatron_lacks(const Question& q, std::string* detail = nullptr);

// REQUIRES: a canonical plan, !megatron_lacks(q).
MegatronArgs megatron_args_of(const Question& q, std::optional<MegatronRelease> release);

// Where they run. CUDA_DEVICE_MAX_CONNECTIONS is chosen for the arguments: 1 keeps the order of
// tensor-parallel kernels, 32 lets expert communication and FSDP overlap.
MegatronWorld megatron_world(const MegatronArgs& args, const Question& q,
                             std::optional<MegatronRelease> release);

// Asks for many plans of one model: the model's half of the arguments is built once.
class MegatronJudge {
 public:
  MegatronJudge(const ModelShape& model, std::optional<MegatronRelease> release);
  ~MegatronJudge();
  // What Megatron-LM lacks, else what it refuses; nullptr: it runs. A fixed text.
  const char* objection(const Question& q, std::string* detail = nullptr) const;

 private:
  std::unique_ptr<const MegatronArgs> model_;
  std::optional<MegatronRelease> release_;
};

// A whole job: arguments with what a benchmark run needs besides (data, optimizer).
MegatronArgs megatron_run(const Job& job, std::optional<MegatronRelease> release);

// What a command line says about model, step and plan.
struct MegatronImport {
  ModelShape model;  // vocab 0: the tokenizer decides it
  StepShape step;
  std::int64_t steps = 0;  // 0: not given
  Plan plan;               // canonical
  hw::Dispatcher dispatcher = hw::Dispatcher::AllToAll;
};
// Errors: InputError for what a plan can't say (fp4, offload, layouts that lose layers, ...).
// `refused`: nothing, or the arguments in words for the message. REQUIRES: no broken rule.
MegatronImport import_megatron(const MegatronArgs& args, const MegatronWorld& world,
                               const std::string& file);

}  // namespace reckon::plan::launch

// torchtitan: job TOML of v0.2.2 (the last release that reads TOML), and the recipe form after it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/launch/job.h"
#include "planner/launch/settings.h"

namespace reckon::plan::launch {

// The keys that a plan decides. Beside each its name after v0.2.2, "" where there is none.
struct TorchtitanConfig {
  std::string model = "llama3", flavor = "debugmodel";
  std::vector<std::string> converters;
  int local_batch = 8, seq = 2048;
  std::int64_t global_batch = -1, steps = 10000;
  std::string parameters = "bfloat16";
  int replicate = 1, shard = -1, tp = 1, pp = 1, cp = 1, ep = 1, etp = 1;
  std::string reshard = "default", schedule = "1F1B", ep_backend = "standard";
  bool async_tp = false;
  std::vector<std::vector<std::string>> stages;  // module names per stage
  int first_less = 1, last_less = 1;             // layers that the ends give up, without `stages`
  std::optional<int> layers_per_stage;
  int pipeline_micro_batch = 1;
  bool ep_overlap = true;  // of DualPipeV
  std::string checkpointing = "selective", selective = "2";
  bool compile = false;
  std::vector<std::string> compiled;
  std::optional<std::string> float8_recipe, mx_recipe;
  std::vector<std::string> float8_experts, mx_experts;
};

template <class V>
void fields(V& v, TorchtitanConfig& c) {
  v("model.name", c.model);
  v("model.flavor", c.flavor);
  v("model.converters", c.converters);
  v("training.local_batch_size", c.local_batch);
  v("training.global_batch_size", c.global_batch);
  v("training.seq_len", c.seq);
  v("training.steps", c.steps);
  v("training.mixed_precision_param", c.parameters);
  v("parallelism.data_parallel_replicate_degree", c.replicate);
  v("parallelism.data_parallel_shard_degree", c.shard);
  v("parallelism.fsdp_reshard_after_forward", c.reshard);
  v("parallelism.tensor_parallel_degree", c.tp);
  v("parallelism.enable_async_tensor_parallel", c.async_tp);
  v("parallelism.pipeline_parallel_degree", c.pp);
  v("parallelism.pipeline_parallel_schedule", c.schedule);
  v("parallelism.pipeline_parallel_microbatch_size", c.pipeline_micro_batch);
  v("parallelism.pipeline_parallel_layers_per_stage", c.layers_per_stage);
  v("parallelism.pipeline_parallel_first_stage_less_layers", c.first_less);
  v("parallelism.pipeline_parallel_last_stage_less_layers", c.last_less);
  v("parallelism.module_fqns_per_model_part", c.stages);
  v("parallelism.pipeline_parallel_expert_parallel_overlap", c.ep_overlap);
  v("parallelism.context_parallel_degree", c.cp);
  v("parallelism.expert_parallel_degree", c.ep);
  v("parallelism.expert_tensor_parallel_degree", c.etp);
  v("parallelism.expert_parallel_comm_backend", c.ep_backend);
  v("activation_checkpoint.mode", c.checkpointing);
  v("activation_checkpoint.selective_ac_option", c.selective);
  v("compile.enable", c.compile);
  v("compile.components", c.compiled);
  v("quantize.linear.float8.recipe_name", c.float8_recipe);
  v("quantize.grouped_mm.float8.fqns", c.float8_experts);
  v("quantize.linear.mx.recipe_name", c.mx_recipe);
  v("quantize.grouped_mm.mx.fqns", c.mx_experts);
}

// Why torchtitan can't run the plan, or nullptr. A fixed text. REQUIRES: a canonical plan.
const char* torchtitan_objection(const Question& q, bool main, std::string* detail = nullptr);

// REQUIRES: no objection.
TorchtitanConfig torchtitan_config(const Job& job, bool main);

// The newer form: a Python function that changes the model's own recipe, and the part of it that
// the command line can say, "--parallelism.tensor_parallel_degree=2".
std::string torchtitan_recipe(const Job& job);
std::vector<std::string> torchtitan_main_arguments(const Job& job);

// Module and function of the recipe after v0.2.2, e.g. {"deepseek_v3", "deepseek_v3_671b"}.
// REQUIRES: no objection.
std::pair<std::string, std::string> torchtitan_main_recipe(const Job& job);

struct TorchtitanImport {
  ModelShape model;
  StepShape step;
  std::int64_t steps = 0;
  Plan plan;  // canonical
  hw::Dispatcher dispatcher = hw::Dispatcher::AllToAll;
};
// `world`: GPUs. `model`: instead of the flavor's. Errors: InputError.
TorchtitanImport import_torchtitan(const TorchtitanConfig& config, int world,
                                   const std::optional<ModelShape>& model, const std::string& file);

}  // namespace reckon::plan::launch

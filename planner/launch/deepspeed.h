// DeepSpeed's JSON configuration. It says nothing of the model, which is the user's code, nor of
// how layers are laid out over pipeline stages, which is even.
#pragma once

#include <optional>
#include <string>

#include "planner/launch/job.h"
#include "planner/launch/settings.h"

namespace reckon::plan::launch {

struct DeepSpeedConfig {
  std::optional<std::int64_t> train_batch, accumulation;
  std::optional<int> micro_batch;
  int stage = 0;  // of ZeRO
  std::optional<bool> overlap_comm;
  std::optional<int> mics_shard;  // ranks of a ZeRO-3 shard group
  std::optional<int> tp;
  std::optional<bool> tp_overlap;
  std::optional<int> sequence_parallel;
  std::optional<bool> experts;
  std::optional<int> ep;
  std::optional<std::string> expert_preset;
  std::optional<int> pipeline_stages;
  std::optional<std::string> pipeline_partition;
  std::optional<int> pipeline_checkpoint_interval, checkpoints;
  std::optional<bool> partition_activations;
  std::optional<bool> bf16, fp16;
  std::optional<double> gradient_clipping;
};

template <class V>
void fields(V& v, DeepSpeedConfig& c) {
  v("train_batch_size", c.train_batch);
  v("train_micro_batch_size_per_gpu", c.micro_batch);
  v("gradient_accumulation_steps", c.accumulation);
  v("gradient_clipping", c.gradient_clipping);
  v("bf16.enabled", c.bf16);
  v("fp16.enabled", c.fp16);
  v("zero_optimization.stage", c.stage);
  v("zero_optimization.overlap_comm", c.overlap_comm);
  v("zero_optimization.mics_shard_size", c.mics_shard);
  v("tensor_parallel.autotp_size", c.tp);
  v("tensor_parallel.tp_overlap_comm", c.tp_overlap);
  v("sequence_parallel_size", c.sequence_parallel);
  v("expert_parallel.enabled", c.experts);
  v("expert_parallel.autoep_size", c.ep);
  v("expert_parallel.preset_model", c.expert_preset);
  v("pipeline.stages", c.pipeline_stages);
  v("pipeline.partition", c.pipeline_partition);
  v("pipeline.activation_checkpoint_interval", c.pipeline_checkpoint_interval);
  v("activation_checkpointing.partition_activations", c.partition_activations);
  v("activation_checkpointing.number_checkpoints", c.checkpoints);
}

// Why DeepSpeed can't run the plan, or nullptr. A fixed text. REQUIRES: a canonical plan.
const char* deepspeed_objection(const Question& q, std::string* detail = nullptr);

// REQUIRES: no objection.
DeepSpeedConfig deepspeed_config(const Job& job);

struct DeepSpeedImport {
  StepShape step;
  Plan plan;  // canonical
};
// `seq`: the file doesn't say it. Errors: InputError.
DeepSpeedImport import_deepspeed(const DeepSpeedConfig& config, int world, const ModelShape& model,
                                 int seq, const std::string& file);

}  // namespace reckon::plan::launch

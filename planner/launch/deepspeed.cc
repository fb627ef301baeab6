// Rules: deepspeedai/DeepSpeed 0.19.6 (edaa7221), the files named beside them.
#include "planner/launch/deepspeed.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/launch/models.h"

namespace reckon::plan::launch {

namespace {

// Models that AutoEP knows (module_inject/auto_ep_presets).
const char* preset_of(const ModelShape& model) {
  const std::string name = catalogue_name(model, {.without_mtp = true});
  if (name.starts_with("mixtral")) return "mixtral";
  if (name.starts_with("qwen3-")) return "qwen3_moe";
  if (name == "deepseek-v2") return "deepseek_v2";
  if (name == "deepseek-v3" || name == "kimi-k2") return "deepseek_v3";
  return nullptr;
}

bool even(const Plan& p) {
  ModelParts parts;
  for (const ChunkLayout& c : p.layout) parts.layers += c.layers, parts.mtp += c.mtp;
  return p.layout == balanced_layout(parts, p.pp);
}

}  // namespace

const char* deepspeed_objection(const Question& q, std::string* detail) {
  const Plan& p = q.plan;
  if (detail != nullptr) detail->clear();
  if (p.schedule != ScheduleKind::OneFOneB || p.vpp > 1)
    return "DeepSpeed's pipeline engine runs 1F1B only";
  if (p.pp > 1 && p.overlap.p2p) return "DeepSpeed's pipeline engine waits for its messages";
  if (p.pp > 1 && !even(p)) return "DeepSpeed lays out pipeline stages evenly, or in code";
  if (p.pp > 1 && p.zero >= Zero::Gradients)  // pipe/engine.py:76
    return "DeepSpeed's pipeline engine excludes ZeRO-2 and ZeRO-3";
  switch (p.precision) {
    case Precision::Fp32:
    case Precision::Fp16:
    case Precision::Bf16: break;
    default: return "DeepSpeed has no fp8 recipe";
  }
  if (p.recompute.mode == Recompute::Mode::Selective || p.recompute.full_layers > 0)
    return "DeepSpeed recomputes nothing or whole layers";
  if (p.tp > 1 && p.sequence_parallel)
    return "DeepSpeed's tensor parallelism has no sequence parallelism";
  if (p.cp > 1 && q.model.heads % p.cp != 0)
    return "DeepSpeed's sequence parallelism (Ulysses) splits heads: they must divide by cp";
  if (p.ep > 1) {
    if (preset_of(q.model) == nullptr) return "DeepSpeed's AutoEP has no preset of this shape";
    if (p.etp != 1) return "DeepSpeed's AutoEP has etp 1";  // engine.py:1916
    if (p.pp > 1) return "DeepSpeed's AutoEP excludes a pipeline";
    if (p.tp > 1 && (p.cp > 1 || p.zero == Zero::Full))  // auto_ep_folding.py:100-254
      return "DeepSpeed's AutoEP with tensor parallelism excludes sequence parallelism and ZeRO-3";
  }
  if (p.overlap.expert != Overlap::Expert::None)
    return "DeepSpeed does not overlap expert communication";
  // ZeRO-3 prefetches; ZeRO-1 and 2 gather after the step.
  if (p.dp * p.cp > 1 && p.zero == Zero::Full && !p.overlap.param_gather)
    return "DeepSpeed's ZeRO-3 always prefetches parameters";
  if (p.zero != Zero::Full && p.overlap.param_gather)
    return "DeepSpeed overlaps parameter gathers with ZeRO-3 only";
  if (p.shard_group > 0 && p.zero != Zero::Full)
    return "DeepSpeed has shard groups (MiCS) with ZeRO-3 only";
  if (p.comm_sms > 0) return "DeepSpeed has no number of SMs for communication";
  return nullptr;
}

DeepSpeedConfig deepspeed_config(const Job& job) {
  const Plan& p = job.plan;
  DeepSpeedConfig c;
  c.micro_batch = p.micro_batch;
  c.accumulation = job.micro_batches();
  c.train_batch = job.step.global_batch;
  c.gradient_clipping = 1.0;
  c.bf16 = p.precision == Precision::Bf16;
  c.fp16 = p.precision == Precision::Fp16;
  c.stage = static_cast<int>(p.zero);
  c.overlap_comm = p.overlap.grad_reduce;
  if (p.shard_group > 0) c.mics_shard = p.shard_group;
  if (p.tp > 1) c.tp = p.tp, c.tp_overlap = p.overlap.tp;
  if (p.cp > 1) c.sequence_parallel = p.cp;
  if (p.ep > 1) c.experts = true, c.ep = p.ep, c.expert_preset = preset_of(job.model);
  const bool full = p.recompute.mode == Recompute::Mode::Full;
  if (p.pp > 1) {
    c.pipeline_stages = p.pp;
    c.pipeline_partition = "uniform";
    c.pipeline_checkpoint_interval = full ? 1 : 0;
  } else if (full) {
    c.partition_activations = false;
    c.checkpoints = job.model.layers;
  }
  return c;
}

DeepSpeedImport import_deepspeed(const DeepSpeedConfig& c, int world, const ModelShape& model,
                                 int seq, const std::string& file) {
  const auto fail = [&](const std::string& what) {
    throw InputError(fmt::format("{}: {}", file, what));
  };
  DeepSpeedImport out;
  Plan& p = out.plan;
  p.tp = std::max(1, c.tp.value_or(1));
  p.cp = std::max(1, c.sequence_parallel.value_or(1));
  p.pp = std::max(1, c.pipeline_stages.value_or(1));
  p.ep = c.experts.value_or(false) ? std::max(1, c.ep.value_or(1)) : 1;
  const int others = p.tp * p.cp * p.pp;
  if (world % others != 0)
    fail(fmt::format("{} GPUs do not divide by tensor {} x sequence {} x pipeline {}", world, p.tp,
                     p.cp, p.pp));
  p.dp = world / others;
  // Of train batch, micro-batch and accumulation two give the third (runtime/config.py:937).
  const std::int64_t dp = p.dp;
  if (c.micro_batch && *c.micro_batch < 1)
    fail("train_micro_batch_size_per_gpu: expected at least 1");
  if (c.micro_batch && c.accumulation) {
    out.step.global_batch = *c.micro_batch * *c.accumulation * dp;
    if (c.train_batch && *c.train_batch != out.step.global_batch)
      fail(fmt::format("train_batch_size {} is not micro-batch {} x accumulation {} x dp {}",
                       *c.train_batch, *c.micro_batch, *c.accumulation, dp));
    p.micro_batch = *c.micro_batch;
  } else if (c.train_batch) {
    out.step.global_batch = *c.train_batch;
    const std::int64_t per_rank = *c.train_batch / dp;
    p.micro_batch =
        c.micro_batch
            ? *c.micro_batch
            : static_cast<int>(per_rank / std::max<std::int64_t>(1, c.accumulation.value_or(1)));
  } else {
    fail(
        "expected train_batch_size, or train_micro_batch_size_per_gpu with "
        "gradient_accumulation_steps");
  }
  out.step.seq = seq;
  if (c.stage < 0 || c.stage > 3) fail("zero_optimization.stage: expected 0 to 3");
  p.zero = static_cast<Zero>(c.stage);
  p.shard_group = c.mics_shard.value_or(0) > 0 ? *c.mics_shard : 0;
  p.precision = c.bf16.value_or(false)   ? Precision::Bf16
                : c.fp16.value_or(false) ? Precision::Fp16
                                         : Precision::Fp32;
  p.sequence_parallel = false;
  if (c.checkpoints.value_or(0) > 0 || c.pipeline_checkpoint_interval.value_or(0) > 0)
    p.recompute.mode = Recompute::Mode::Full;
  p.overlap = {.grad_reduce = c.overlap_comm.value_or(p.zero == Zero::Full),
               .param_gather = p.zero == Zero::Full,
               .tp = c.tp_overlap.value_or(false),
               .p2p = false,
               .expert = Overlap::Expert::None};
  p = canonical(p, model);
  return out;
}

}  // namespace reckon::plan::launch

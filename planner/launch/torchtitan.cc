// What torchtitan says of a plan: FSDP over dp x cp (ZeRO-2 when parameters stay gathered, ZeRO-3
// when they are released after each forward pass), module names per pipeline stage, the schedules
// of torch.distributed.pipelining. Rules: torchtitan v0.2.2 (73a0e697) and main (b5bcd76c), the
// files named beside them.
#include "planner/launch/torchtitan.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/launch/models.h"
#include "planner/plan_fields.h"

namespace reckon::plan::launch {

namespace {

struct Flavor {
  const char* model;   // in our catalogue
  const char* name;    // model.name, and the module after v0.2.2
  const char* flavor;  // model.flavor
  const char* recipe;  // function in config_registry.py after v0.2.2
};
constexpr Flavor kFlavors[] = {
    {"llama3.1-8b", "llama3", "8B", "llama3_8b"},
    {"llama3.1-70b", "llama3", "70B", "llama3_70b"},
    {"llama3.1-405b", "llama3", "405B", "llama3_405b"},
    {"deepseek-v3", "deepseek_v3", "671B", "deepseek_v3_671b"},
    {"qwen3-30b-a3b", "qwen3", "30B-A3B", "qwen3_30b_a3b"},
    {"qwen3-235b-a22b", "qwen3", "235B-A22B", "qwen3_235b_a22b"},
    {"gpt-oss-20b", "gpt_oss", "20b", "gpt_oss_20b"},
    {"gpt-oss-120b", "gpt_oss", "120b", "gpt_oss_120b"},
};

// By shape. Models of the catalogue are compared without their MTP modules, which no flavor has.
const Flavor* flavor_of(const ModelShape& model) {
  const std::string name = catalogue_name(model, {.without_mtp = true});
  for (const Flavor& f : kFlavors)
    if (name == f.model) return &f;
  return nullptr;
}

// Schedules of torch.distributed.pipelining, by get_schedule_class.
constexpr std::pair<ScheduleKind, const char*> kSchedules[] = {
    {ScheduleKind::OneFOneB, "1F1B"},       {ScheduleKind::Interleaved, "Interleaved1F1B"},
    {ScheduleKind::GPipe, "GPipe"},         {ScheduleKind::ZbV, "ZBVZeroBubble"},
    {ScheduleKind::DualPipeV, "DualPipeV"},
};
const char* schedule_name(ScheduleKind kind) {
  for (const auto& [k, name] : kSchedules)
    if (k == kind) return name;
  return nullptr;
}

bool splits_backward(ScheduleKind kind) {
  return kind == ScheduleKind::ZbV || kind == ScheduleKind::DualPipeV;
}

// torch.distributed.pipelining posts its messages ahead, except in 1F1B and GPipe.
bool overlaps_messages(const Plan& p) {
  return p.pp > 1 && p.schedule != ScheduleKind::OneFOneB && p.schedule != ScheduleKind::GPipe;
}

int shard_ranks(const Plan& p) {
  return p.shard_group > 0 ? p.shard_group : p.dp * p.cp;
}

const char* objection_to_sharding(const Plan& p) {
  if (p.zero == Zero::Optimizer)
    return "torchtitan shards gradients with the optimizer (FSDP: ZeRO-2 or ZeRO-3)";
  if (p.zero == Zero::None && p.cp > 1) return "torchtitan shards over context-parallel ranks";
  if (p.zero != Zero::None) {
    if (shard_ranks(p) == 1) return "torchtitan shards over more than one rank";
    // The FSDP mesh is dp_shard x cp.
    if (shard_ranks(p) % p.cp != 0)
      return "torchtitan's shard group holds all context-parallel ranks";
    if (p.dp * p.cp > 1 && (!p.overlap.grad_reduce || !p.overlap.param_gather))
      return "torchtitan always overlaps FSDP's collectives";
  } else if (p.dp > 1 && !p.overlap.grad_reduce) {
    return "torchtitan always overlaps gradient reduction";
  }
  return nullptr;
}

const char* objection_to_numbers(const Question& q, bool main) {
  const Plan& p = q.plan;
  switch (p.precision) {
    case Precision::Fp32:
    case Precision::Bf16: return nullptr;
    case Precision::Fp16: return "torchtitan has no fp16";
    case Precision::Fp8DeepSeek: return "torchtitan has no blockwise fp8";
    case Precision::Fp8:
    case Precision::Mxfp8: break;
  }
  if (main) return "fp8 is a converter inside the model's recipe after torchtitan v0.2.2";
  // components/quantization/float8.py:193-198
  if (p.precision == Precision::Fp8 && q.model.moe && (p.pp > 1 || p.cp > 1))
    return "torchtitan's float8 experts exclude pipeline and context parallelism";
  return nullptr;
}

const char* objection_to_recompute(const Recompute& r) {
  using enum Recompute::Mode;
  if (r.mode == None || (r.mode == Full && r.full_layers == 0) ||
      (r.mode == Selective && r.modules == kPerOp))
    return nullptr;
  return "torchtitan recomputes nothing, all layers, or per op";
}

}  // namespace

const char* torchtitan_objection(const Question& q, bool main, std::string* detail) {
  const Plan& p = q.plan;
  const auto no = [&](const char* why, const std::string& what = {}) {
    if (detail != nullptr) *detail = what;
    return why;
  };
  const Flavor* flavor = flavor_of(q.model);
  if (flavor == nullptr) return no("torchtitan has no flavor of this shape", q.model.name);
  if (q.model.mtp_depth > 0) return no("torchtitan has no multi-token prediction for this flavor");
  if (schedule_name(p.schedule) == nullptr)
    return no("torchtitan has no such pipeline schedule", hw::spelling(p.schedule));
  if (p.tp > 1 && !p.sequence_parallel)
    return no("torchtitan always uses sequence parallelism with tensor parallelism");
  // models/common/decoder.py:190-199
  if (!q.model.mla && q.model.kv_heads % p.tp != 0)
    return no("torchtitan: key-value heads must divide by tp");
  if (p.cp > 1 && q.model.mla)  // deepseek_v3/model/args.py:101
    return no("torchtitan's flavors with flex attention exclude context parallelism");
  if (q.step.seq % (p.tp * 2 * p.cp) != 0)  // distributed/parallel_dims.py:372
    return no("torchtitan: the sequence must divide by tp x 2 cp");
  if (p.etp != 1 && (main || p.etp != p.tp))  // distributed/parallel_dims.py:59
    return no(main ? "torchtitan has no tensor parallelism of experts after v0.2.2"
                   : "torchtitan: etp is 1 or tp");
  if (const char* why = objection_to_sharding(p)) return no(why);
  // distributed/parallel_dims.py:138: the experts' FSDP ranks, dp_shard cp tp / (etp ep)
  const int shard = p.zero == Zero::None ? 1 : shard_ranks(p);
  if (q.model.moe && p.ep > 1 && shard * p.tp % (p.ep * p.etp) != 0)
    return no("torchtitan: ep x etp must divide dp_shard x cp x tp");
  if (const char* why = objection_to_numbers(q, main)) return no(why);
  if (const char* why = objection_to_recompute(p.recompute)) return no(why);
  if (p.overlap.p2p != overlaps_messages(p))
    return no(p.overlap.p2p ? "torchtitan's 1F1B and GPipe wait for their messages"
                            : "torchtitan's multi-stage schedules overlap their messages");
  if (p.overlap.expert == Overlap::Expert::OneFOneB)
    return no("torchtitan overlaps expert communication in DualPipeV only");
  if (p.schedule == ScheduleKind::DualPipeV) {
    if (main && p.overlap.expert == Overlap::Expert::Pair && p.ep > 1)
      return no("torchtitan after v0.2.2 has no switch for DualPipeV's pairs");
    // dual_pipe_v.py:45
    if (p.ep > 1 && p.recompute.mode != Recompute::Mode::None)
      return no("torchtitan's DualPipeV with expert parallelism excludes recomputation");
    if (q.step.global_batch / (std::int64_t{p.dp} * p.micro_batch) < 2 * p.pp)
      return no("torchtitan's DualPipeV needs at least 2 pp micro-batches");
  }
  const std::int64_t m = q.step.global_batch / (std::int64_t{p.dp} * p.micro_batch);
  if (p.schedule == ScheduleKind::Interleaved && m % std::max<std::int64_t>(1, m / p.pp) != 0)
    return no("torchtitan's Interleaved1F1B needs M to divide by M / pp");
  if (p.pp > 1 && q.model.tied_embeddings)
    return no("torchtitan excludes tied embeddings with a pipeline");
  if (p.overlap.tp && splits_backward(p.schedule) && p.pp > 1)
    return no(
        "torchtitan: asynchronous tensor parallelism needs torch.compile, which split backward "
        "passes exclude");
  if (p.comm_sms > 0) return no("torchtitan has no number of SMs for communication");
  return nullptr;
}

TorchtitanConfig torchtitan_config(const Job& job, bool main) {
  const Plan& p = job.plan;
  TorchtitanConfig c;
  const Flavor& flavor = *flavor_of(job.model);
  c.model = flavor.name, c.flavor = flavor.flavor;
  c.seq = job.step.seq;
  c.global_batch = job.step.global_batch;
  c.steps = job.steps;
  // A pipeline's micro-batches are the slices of one local batch; without one they are accumulated.
  c.local_batch = static_cast<int>(p.pp > 1 ? p.micro_batch * job.micro_batches() : p.micro_batch);
  c.pipeline_micro_batch = p.micro_batch;
  c.parameters = p.precision == Precision::Fp32 ? "float32" : "bfloat16";
  c.tp = p.tp, c.pp = p.pp, c.cp = p.cp, c.ep = p.ep, c.etp = p.etp;
  c.shard = p.zero == Zero::None ? 1 : shard_ranks(p) / p.cp;
  c.replicate = p.dp / c.shard;
  c.reshard = p.zero == Zero::Full ? "always" : "never";
  c.async_tp = p.overlap.tp;
  c.ep_overlap = p.schedule == ScheduleKind::DualPipeV && p.ep > 1;
  c.ep_backend = job.stack.dispatcher == hw::Dispatcher::DeepEp && p.ep > 1 && p.etp == 1
                     ? "deepep"
                     : "standard";
  if (p.pp > 1) {
    c.schedule = schedule_name(p.schedule);
    for (const ChunkLayout& chunk : p.layout) {
      std::vector<std::string>& names = c.stages.emplace_back();
      if (chunk.embedding) names.emplace_back("tok_embeddings");
      for (int l = 0; l < chunk.layers; ++l)
        names.push_back(fmt::format("layers.{}", chunk.first_layer + l));
      if (chunk.head) names.emplace_back("norm"), names.emplace_back(main ? "lm_head" : "output");
    }
  }
  c.checkpointing = p.recompute.mode == Recompute::Mode::None   ? "none"
                    : p.recompute.mode == Recompute::Mode::Full ? "full"
                                                                : "selective";
  c.selective = "op";
  c.compile = true;
  c.compiled = {"loss"};
  if (!(p.pp > 1 && splits_backward(p.schedule))) c.compiled.insert(c.compiled.begin(), "model");
  if (p.precision == Precision::Fp8) {
    c.converters = {"quantize.linear.float8"};
    c.float8_recipe = job.model.moe ? "rowwise" : "tensorwise";
    if (job.model.moe) {
      c.converters.emplace_back("quantize.grouped_mm.float8");
      c.float8_experts = {"experts"};
    }
  } else if (p.precision == Precision::Mxfp8) {
    c.converters = {"quantize.linear.mx"};
    c.mx_recipe = "mxfp8_cublas";
    if (job.model.moe) {
      c.converters.emplace_back("quantize.grouped_mm.mx");
      c.mx_experts = {"experts"};
    }
  }
  return c;
}

namespace {

// Keys that kept their name and meaning after v0.2.2.
bool kept(const std::string& key) {
  return key_type(KeyTable::TorchtitanMain, key) != nullptr && key != "training.steps" &&
         key != "parallelism.module_fqns_per_model_part";
}

std::vector<Setting> main_settings(const Job& job) {
  TorchtitanConfig c = torchtitan_config(job, true);
  SettingWriter w;
  fields(w, c);
  std::vector<Setting> out;
  out.push_back({"training.num_tokens_per_microbatch_per_dp_rank",
                 std::int64_t{job.plan.micro_batch} * job.step.seq, ""});
  out.push_back({"training.num_tokens_per_train_step", job.step.global_batch * job.step.seq, ""});
  out.push_back({"training.max_context_length", job.step.seq, ""});
  out.push_back({"training.steps", job.steps, ""});
  // CUDA graphs exclude pipelines, and dispatchers that wait for the host (trainer.py:172, 192).
  out.push_back({"training.disable_cuda_graphs", job.plan.pp > 1 || job.plan.ep > 1, ""});
  for (const Setting& s : w.out)
    if (kept(s.key)) out.push_back(s);
  out.push_back({"compile.enable_async_tensor_parallel", job.plan.overlap.tp, ""});
  if (job.plan.pp > 1) out.push_back({"parallelism.num_pp_microbatches", job.micro_batches(), ""});
  return out;
}

std::string python(const nlohmann::ordered_json& v) {
  return v.is_boolean() ? (v.get<bool>() ? "True" : "False") : v.dump();
}

}  // namespace

std::pair<std::string, std::string> torchtitan_main_recipe(const Job& job) {
  const Flavor& flavor = *flavor_of(job.model);
  return {flavor.name, flavor.recipe};
}

std::string torchtitan_recipe(const Job& job) {
  const auto [module, recipe] = torchtitan_main_recipe(job);
  std::string text = fmt::format(
      "# torchtitan after v0.2.2. Put this function into torchtitan/models/{}/config_registry.py,\n"
      "# and start with --module {} --config reckon_plan. Data, optimizer and checkpoints are "
      "those\n"
      "# of {}.\n"
      "from torchtitan.distributed.activation_checkpoint import FullAC, SelectiveAC\n"
      "from torchtitan.models.{}.config_registry import {}\n\n\n"
      "def reckon_plan():\n"
      "    config = {}()\n",
      module, module, recipe, module, recipe, recipe);
  for (const Setting& s : main_settings(job))
    text += fmt::format("    config.{} = {}\n", s.key, python(s.value));
  const TorchtitanConfig c = torchtitan_config(job, true);
  if (!c.stages.empty())
    text += fmt::format("    config.parallelism.module_fqns_per_model_part = {}\n",
                        nlohmann::json(c.stages).dump());
  text += fmt::format("    config.activation_checkpoint = {}\n",
                      c.checkpointing == "full"   ? "FullAC.Config()"
                      : c.checkpointing == "none" ? "None"
                                                  : "SelectiveAC.Config()");
  return text + "    return config\n";
}

std::vector<std::string> torchtitan_main_arguments(const Job& job) {
  std::vector<std::string> out;
  for (const Setting& s : main_settings(job)) {
    if (s.value.is_boolean()) {
      if (s.value.get<bool>()) out.push_back("--" + s.key);
    } else if (s.value.is_array()) {
      out.push_back("--" + s.key);
      for (const auto& item : s.value) out.push_back(item.get<std::string>());
    } else {
      out.push_back(fmt::format("--{}={}", s.key,
                                s.value.is_string() ? s.value.get<std::string>() : s.value.dump()));
    }
  }
  return out;
}

namespace {

[[noreturn]] void fail(const std::string& file, const std::string& what) {
  throw InputError(fmt::format("{}: {}", file, what));
}

// Chunks from module names.
std::vector<ChunkLayout> layout_of(const std::vector<std::vector<std::string>>& stages,
                                   const std::string& file) {
  std::vector<ChunkLayout> layout;
  int next = 0;
  for (const auto& names : stages) {
    ChunkLayout& c = layout.emplace_back();
    c.first_layer = next;
    for (const std::string& name : names) {
      if (name == "tok_embeddings")
        c.embedding = true;
      else if (name == "output" || name == "lm_head")
        c.head = true;
      else if (name == fmt::format("layers.{}", next))
        ++next, ++c.layers;
      else if (name != "norm")
        fail(file, fmt::format("module_fqns_per_model_part: expected layers.{} or an end, got {}",
                               next, name));
    }
  }
  return layout;
}

// torchtitan's own split (generate_llm_fqn_per_model_part): the ends count as `first_less` and
// `last_less` layers, the stages share the sum, the first ones take what is left over.
std::vector<ChunkLayout> default_layout(const TorchtitanConfig& c, int layers, int chunks) {
  const int counted = layers + c.first_less + c.last_less;
  std::vector<ChunkLayout> layout(static_cast<std::size_t>(chunks));
  int next = 0;
  for (int i = 0; i < chunks; ++i) {
    ChunkLayout& chunk = layout[static_cast<std::size_t>(i)];
    int n = counted / chunks + (i < counted % chunks ? 1 : 0);
    if (i == 0) n -= c.first_less;
    if (i + 1 == chunks) n -= c.last_less;
    chunk.first_layer = next;
    chunk.layers = std::clamp(n, 0, layers - next);
    next += chunk.layers;
  }
  layout.back().layers += layers - next;
  layout.front().embedding = true;
  layout.back().head = true;
  return layout;
}

}  // namespace

TorchtitanImport import_torchtitan(const TorchtitanConfig& c, int world,
                                   const std::optional<ModelShape>& model,
                                   const std::string& file) {
  TorchtitanImport out;
  if (model) {
    out.model = *model;
  } else {
    const auto flavor =
        std::find_if(std::begin(kFlavors), std::end(kFlavors),
                     [&](const Flavor& f) { return c.model == f.name && c.flavor == f.flavor; });
    if (flavor == std::end(kFlavors))
      fail(file, fmt::format("no model for name {} and flavor {}; give one with --model", c.model,
                             c.flavor));
    out.model = plan::model(flavor->model);
    out.model.mtp_depth = 0;
  }
  Plan& p = out.plan;
  p.tp = c.tp, p.pp = c.pp, p.cp = c.cp, p.ep = c.ep, p.etp = c.etp;
  for (int degree : {p.tp, p.pp, p.cp, p.ep, p.etp, c.local_batch, c.pipeline_micro_batch, c.seq})
    if (degree < 1) fail(file, "expected degrees and batch sizes of at least 1");
  const int others = p.tp * p.pp * p.cp;
  if (world % others != 0)
    fail(file,
         fmt::format("{} GPUs do not divide by tp {} x pp {} x cp {}", world, p.tp, p.pp, p.cp));
  p.dp = world / others;
  const int shard = c.shard == -1 ? p.dp / std::max(1, c.replicate) : c.shard;
  if (shard < 1 || shard * c.replicate != p.dp)  // distributed/parallel_dims.py:53
    fail(file, fmt::format("dp_replicate {} x dp_shard {} is not {} (GPUs / tp pp cp)", c.replicate,
                           shard, p.dp));
  const std::string reshard = c.reshard == "default" ? (p.pp > 1 ? "never" : "always") : c.reshard;
  p.zero = shard * p.cp == 1 ? Zero::None : reshard == "always" ? Zero::Full : Zero::Gradients;
  p.shard_group = shard * p.cp;
  std::string schedule = c.schedule;
  std::transform(schedule.begin(), schedule.end(), schedule.begin(), ::tolower);
  p.schedule = ScheduleKind::OneFOneB;
  bool known = p.pp == 1;
  for (const auto& [kind, name] : kSchedules) {
    std::string lower = name;
    std::transform(lower.begin(), lower.end(), lower.begin(), ::tolower);
    if (p.pp > 1 && lower == schedule) p.schedule = kind, known = true;
  }
  if (!known) fail(file, fmt::format("pipeline_parallel_schedule {} is not modelled", c.schedule));
  const bool v_shaped = splits_backward(p.schedule);
  int chunks = p.pp * (v_shaped || p.schedule == ScheduleKind::Interleaved ? 2 : 1);
  if (!c.stages.empty() && p.pp > 1)
    chunks = static_cast<int>(c.stages.size());
  else if (c.layers_per_stage && p.pp > 1)
    chunks = (out.model.layers + c.first_less + c.last_less + *c.layers_per_stage - 1) /
             std::max(1, *c.layers_per_stage);
  if (chunks % p.pp != 0) fail(file, fmt::format("{} stages do not divide by pp {}", chunks, p.pp));
  p.vpp = chunks / p.pp;
  p.layout = p.pp == 1          ? balanced_layout({.layers = out.model.layers}, 1)
             : c.stages.empty() ? default_layout(c, out.model.layers, chunks)
                                : layout_of(c.stages, file);
  int held = 0;
  for (const ChunkLayout& chunk : p.layout) held += chunk.layers;
  if (held != out.model.layers)
    fail(file, fmt::format("the stages hold {} of {} layers", held, out.model.layers));

  p.micro_batch = p.pp > 1 ? c.pipeline_micro_batch : c.local_batch;
  out.step = {
      .seq = c.seq,
      .global_batch = c.global_batch > 0 ? c.global_batch : std::int64_t{c.local_batch} * p.dp};
  if (out.step.global_batch % (std::int64_t{c.local_batch} * p.dp) != 0)  // train.py:202
    fail(file, fmt::format("global_batch_size {} does not divide by local_batch_size {} x dp {}",
                           out.step.global_batch, c.local_batch, p.dp));
  if (p.pp > 1 && c.local_batch % p.micro_batch != 0)  // pipeline_parallel.py:190
    fail(file, "local_batch_size does not divide by pipeline_parallel_microbatch_size");
  out.steps = c.steps;
  if (c.checkpointing == "full")
    p.recompute.mode = Recompute::Mode::Full;
  else if (c.checkpointing == "selective" && c.selective == "op")
    p.recompute = {.mode = Recompute::Mode::Selective, .modules = kPerOp};
  else if (c.checkpointing != "none")
    fail(file, fmt::format("activation_checkpoint mode {} ({}) is not modelled", c.checkpointing,
                           c.selective));
  const auto converts = [&](const char* name) {
    return std::find(c.converters.begin(), c.converters.end(), name) != c.converters.end();
  };
  p.precision = converts("quantize.linear.mx")                             ? Precision::Mxfp8
                : converts("quantize.linear.float8") || converts("float8") ? Precision::Fp8
                : c.parameters == "float32"                                ? Precision::Fp32
                                                                           : Precision::Bf16;
  p.sequence_parallel = p.tp > 1;
  p.overlap = {.grad_reduce = true,
               .param_gather = true,
               .tp = c.async_tp,
               .p2p = overlaps_messages(p),
               .expert = p.schedule == ScheduleKind::DualPipeV ? Overlap::Expert::Pair
                                                               : Overlap::Expert::None};
  if (c.ep_backend == "deepep") out.dispatcher = hw::Dispatcher::DeepEp;
  p = canonical(p, out.model);
  return out;
}

}  // namespace reckon::plan::launch

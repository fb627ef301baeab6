// A list of rules, read from the top: the first whose words all occur in the source wins. A second
// list holds what a framework's published recipes set for one model on one kind of GPU.
#include "planner/framework_defaults.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "planner/words.h"

namespace reckon::plan {

namespace {

using Words = std::vector<std::string_view>;

bool has_all(const std::string& text, const Words& words) {
  return std::all_of(words.begin(), words.end(),
                     [&](std::string_view w) { return text.find(w) != std::string::npos; });
}

const Recompute kNoRecompute{};
const Recompute kFull{.mode = Recompute::Mode::Full};
const Recompute kCore{.mode = Recompute::Mode::Selective, .modules = kCoreAttention};

// Megatron-LM of April 2021 (Narayanan et al. 2021): all activations of a layer recomputed
// (--checkpoint-activations), plain data parallelism reduced after the last backward pass, no
// sequence parallelism.
const FrameworkDefaults kMegatron2021{.name = "Megatron-LM 2021",
                                      .stack = "megatron-2021",
                                      .recompute = kFull,
                                      .zero = Zero::None,
                                      .sequence_parallel = false,
                                      .grad_overlap = false,
                                      .param_overlap = false};
// Korthikanti et al. 2022: sequence parallelism and selective recomputation came with the same
// release.
const FrameworkDefaults kMegatron2022{.name = "Megatron-LM 2022",
                                      .stack = "megatron-2022",
                                      .recompute = kCore,
                                      .zero = Zero::None,
                                      .grad_overlap = false,
                                      .param_overlap = false};
// Forks of Megatron-LM of 2023 with FlashAttention.
const FrameworkDefaults kMegatron2023{.name = "Megatron-LM 2023",
                                      .stack = "megatron-2023",
                                      .recompute = kNoRecompute,
                                      .zero = Zero::None,
                                      .grad_overlap = false,
                                      .param_overlap = false};
// Megatron-DeepSpeed's pipeline engine reduces gradients after the last micro-batch; its examples
// switch activation checkpointing on.
const FrameworkDefaults kMegatronDeepSpeed{.name = "Megatron-DeepSpeed",
                                           .stack = "deepspeed-megatron",
                                           .recompute = kFull,
                                           .zero = Zero::None,
                                           .sequence_parallel = false,
                                           .grad_overlap = false,
                                           .param_overlap = false};
// Megatron-Core README: distributed optimizer with overlapped reduce and gather. With
// FlashAttention the default granularity "selective" (core attention) repeats nothing.
const FrameworkDefaults kMegatronCore2024{
    .name = "Megatron-Core 2024", .stack = "megatron-core-2024", .recompute = kNoRecompute};
// NeMo pre-training recipes: sequence_parallel, distributed_fused_adam or mcore_distributed_optim
// with overlap_grad_sync and overlap_param_sync, ub_tp_comm_overlap, no activation checkpointing.
const FrameworkDefaults kNemo2024{
    .name = "NeMo 2024", .stack = "nemo-2024", .recompute = kNoRecompute, .tp_overlap = true};
const FrameworkDefaults kNemo2025{.name = "NeMo 2025",
                                  .stack = "nemo-2025",
                                  .recompute = kNoRecompute,
                                  .tp_overlap = true,
                                  .expert_tp_follows_tp = false};
// Megatron-Bridge, scripts/performance/configs: expert_tensor_parallel_size = 1.
const FrameworkDefaults kBridge2025{.name = "Megatron-Bridge 2025",
                                    .stack = "megatron-bridge-2025",
                                    .recompute = kNoRecompute,
                                    .tp_overlap = true,
                                    .expert_tp_follows_tp = false};
const FrameworkDefaults kBridge2026{.name = "Megatron-Bridge 2026",
                                    .stack = "megatron-bridge-2026",
                                    .recompute = kNoRecompute,
                                    .tp_overlap = true,
                                    .expert_tp_follows_tp = false};
// torchtitan: FSDP2 with prefetch, tensor parallelism with sharded residuals, async TP off.
const FrameworkDefaults kTorchTitan{.name = "torchtitan",
                                    .stack = "torchtitan-2024",
                                    .recompute = kNoRecompute,
                                    .zero = Zero::Full};
const FrameworkDefaults kFsdp2023{
    .name = "FSDP 2023", .stack = "fsdp-2023", .recompute = kNoRecompute, .zero = Zero::Full};
// XLA: the latency-hiding scheduler overlaps collectives; rematerialisation policies of the
// published recipes keep the products and repeat what is cheap.
const FrameworkDefaults kXla2024{
    .name = "JAX/XLA 2024",
    .stack = "xla-2024",
    .recompute = {.mode = Recompute::Mode::Selective, .modules = kNorm | kActivation},
    .zero = Zero::Full};
// InternEvo configs of 2023-24: overlap_sync_grad = True, overlap_sync_param = False, tensor
// parallelism of mode "mtp" (no sequence parallelism), checkpoint = False.
const FrameworkDefaults kInternEvo{.name = "InternEvo 2024",
                                   .stack = "internevo-2024",
                                   .recompute = kNoRecompute,
                                   .sequence_parallel = false,
                                   .param_overlap = false};
// DeepSeek-V3 report, sections 3.1 to 3.3: ZeRO-1, RMSNorm and MLA up-projections recomputed.
const FrameworkDefaults kDeepSeek{
    .name = "DeepSeek",
    .stack = "deepseek",
    .recompute = {.mode = Recompute::Mode::Selective, .modules = kNorm | kMlaUp | kActivation},
    // The published step has a phase of its own for the optimizer.
    .grad_overlap = false,
    .param_overlap = false,
    .expert_tp_follows_tp = false,
    .expert_overlap = Overlap::Expert::Pair,
    .embedding_weight = 0};  // 61 layers on 16 stages: four each, the last with one, MTP and head

struct SourceRule {
  Words source;
  const FrameworkDefaults* defaults;
};

const SourceRule kRules[] = {
    {{"maxtext"}, &kXla2024},
    {{"paxml"}, &kXla2024},
    {{"jax"}, &kXla2024},
    {{"torchtitan"}, &kTorchTitan},
    {{"fms-fsdp"}, &kTorchTitan},
    {{"llm-foundry"}, &kFsdp2023},
    {{"mosaic"}, &kFsdp2023},
    {{"internevo"}, &kInternEvo},
    {{"vtrain"}, &kMegatronDeepSpeed},
    {{"deepspeed"}, &kMegatronDeepSpeed},
    {{"megatron-bridge", " 26."}, &kBridge2026},
    {{"megatron-bridge", "(2026"}, &kBridge2026},
    {{"megatron-bridge", "skill"}, &kBridge2026},
    {{"megatron-bridge"}, &kBridge2025},
    {{"model zoo"}, &kBridge2025},
    {{"megatron-core moe report"}, &kBridge2025},
    {{"megatron-lm", "deepseek-v3"}, &kBridge2025},
    {{"dgx cloud", "deepseek"}, &kNemo2025},
    {{"parallel folding"}, &kMegatronCore2024},
    {{"dgx cloud", "v25."}, &kNemo2025},
    {{"dgx cloud", "25.05"}, &kNemo2025},
    {{"dgx cloud"}, &kNemo2024},
    {{"nemo", "2022"}, &kMegatron2022},
    {{"nemo", "(25."}, &kNemo2025},
    {{"nemo", "2025"}, &kNemo2025},
    {{"nemo"}, &kNemo2024},
    {{"zero bubble"}, &kMegatron2023},
    {{"megascale"}, &kMegatron2023},
    {{"llama 3 405b"}, &kMegatronCore2024},
    {{"korthikanti"}, &kMegatron2022},
    {{"narayanan"}, &kMegatron2021},
    {{"sc21"}, &kMegatron2021},
    {{"megatron", "(2020)"}, &kMegatron2021},
    {{"megatron", "2021"}, &kMegatron2021},
    {{"megatron", "2022"}, &kMegatron2022},
    {{"megatron", "2023"}, &kMegatron2023},
    {{"megatron", "2025"}, &kNemo2025},
    {{"megatron", "2026"}, &kBridge2026},
    {{"megatron"}, &kMegatronCore2024},
    {{"deepseek"}, &kDeepSeek},
    {{"fsdp"}, &kTorchTitan},
    {{"pytorch"}, &kTorchTitan},
};

// Where no word of the source is known: what the plan itself says.
const FrameworkDefaults& by_plan(const PublishedRun& run) {
  const std::string zero = lower_case(run.plan.zero);
  if (has_all(zero, {"deepspeed"})) return kMegatronDeepSpeed;
  if (has_all(zero, {"fsdp2"})) return kTorchTitan;
  if (has_all(zero, {"fsdp"})) return kFsdp2023;
  return kMegatronCore2024;
}

struct ModelRecipe {
  const FrameworkDefaults* of;
  std::string_view model, gpu;  // parts of their names
  std::optional<Recompute> recompute;
  std::optional<Overlap::Expert> expert_overlap;
  std::optional<hw::Dispatcher> dispatcher;
};

Recompute selective(std::uint32_t modules) {
  return {.mode = Recompute::Mode::Selective, .modules = modules};
}

// Megatron-Bridge scripts/performance/configs (deepseek, qwen, gpt_oss) *_workload_base_configs.py:
// recompute_modules, moe_a2a_overlap, moe_token_dispatcher_type.
const ModelRecipe kRecipes[] = {
    {&kBridge2025, "deepseek-v3", "h100", selective(kMlaUp | kMlp), {}, {}},
    {&kBridge2026, "deepseek-v3", "h100", selective(kMlaUp | kMlp), {}, {}},
    {&kBridge2025, "deepseek-v3", "b", selective(kMlaUp), {}, hw::Dispatcher::HybridEp},
    {&kBridge2026, "deepseek-v3", "b", selective(kMlaUp), {}, {}},
    {&kBridge2025, "qwen3-235b", "h100", {}, Overlap::Expert::OneFOneB, hw::Dispatcher::AllToAll},
    {&kBridge2026, "qwen3-235b", "h100", {}, Overlap::Expert::OneFOneB, hw::Dispatcher::AllToAll},
    {&kBridge2025, "qwen3-30b", "h100", {}, {}, hw::Dispatcher::AllToAll},
    {&kBridge2025, "gpt-oss", "h100", selective(kNorm | kActivation), {}, {}},
    {&kBridge2026, "gpt-oss", "h100", selective(kNorm | kActivation), {}, {}},
    {&kBridge2025, "qwen3", "gb", {}, {}, hw::Dispatcher::HybridEp},
    {&kBridge2025, "qwen3", "b200", {}, {}, hw::Dispatcher::AllToAll},
    {&kBridge2026, "qwen3", "b200", {}, {}, hw::Dispatcher::AllToAll},
};

}  // namespace

FrameworkDefaults framework_defaults(const PublishedRun& run) {
  const std::string source = lower_case(run.source);
  const auto rule = std::find_if(std::begin(kRules), std::end(kRules),
                                 [&](const SourceRule& r) { return has_all(source, r.source); });
  const FrameworkDefaults* found = rule != std::end(kRules) ? rule->defaults : &by_plan(run);
  // A comparison inside another framework's paper.
  if (has_all(lower_case(run.plan.zero), {"deepspeed"})) found = &kMegatronDeepSpeed;
  FrameworkDefaults d = *found;
  const std::string model = lower_case(run.model.name), gpu = lower_case(run.gpu);
  for (const ModelRecipe& r : kRecipes) {
    if (r.of != found || !has_all(model, {r.model}) || !has_all(gpu, {r.gpu})) continue;
    if (r.recompute) d.recompute = *r.recompute;
    if (r.expert_overlap) d.expert_overlap = *r.expert_overlap;
    if (r.dispatcher) d.dispatcher = r.dispatcher;
    break;
  }
  return d;
}

}  // namespace reckon::plan

#include "planner/launch/frameworks.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/launch/deepspeed.h"
#include "planner/launch/megatron_text.h"
#include "planner/launch/models.h"
#include "planner/launch/torchtitan.h"
#include "planner/plan_json.h"
#include "planner/scenario_json.h"
#include "sim/check.h"

namespace reckon::plan::launch {

namespace {

// Recipes of Megatron-Bridge (src/megatron/bridge/recipes), by our model.
constexpr std::pair<const char*, const char*> kBridgeRecipes[] = {
    {"deepseek-v3", "deepseek_v3_pretrain_config"},
    {"gpt-oss-120b", "gpt_oss_120b_pretrain_config"},
    {"gpt-oss-20b", "gpt_oss_20b_pretrain_config"},
    {"kimi-k2", "kimi_k2_pretrain_config"},
    {"llama3.1-405b", "llama31_405b_pretrain_config"},
    {"llama3.1-70b", "llama31_70b_pretrain_config"},
    {"llama3.1-8b", "llama31_8b_pretrain_config"},
    {"qwen3-235b-a22b", "qwen3_235b_a22b_pretrain_config"},
    {"qwen3-30b-a3b", "qwen3_30b_a3b_pretrain_config"},
};

const char* bridge_recipe(const ModelShape& model) {
  const std::string name = catalogue_name(model);
  for (const auto& [known, recipe] : kBridgeRecipes)
    if (name == known) return recipe;
  return nullptr;
}

std::map<std::string, std::string> megatron_environment(const MegatronArgs& a, const Job& job) {
  const MegatronWorld w = megatron_world(a, job.question(), std::nullopt);
  std::map<std::string, std::string> env = {
      {"CUDA_DEVICE_MAX_CONNECTIONS", fmt::format("{}", w.max_connections)},
      {"PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"}};
  if (a.ep_overlap) {
    // SMs that the norms leave to communication (Megatron-MoE-ModelZoo, sbatch_benchmarking.sh).
    const std::string sms = fmt::format("{}", job.plan.comm_sms > 0 ? job.plan.comm_sms : 24);
    env["NVTE_FWD_LAYERNORM_SM_MARGIN"] = env["NVTE_BWD_LAYERNORM_SM_MARGIN"] = sms;
  }
  if (job.cluster.node.gpus > 8)
    env["NVLINK_DOMAIN_SIZE"] = fmt::format("{}", job.cluster.node.gpus);
  return env;
}

std::string environment_note(const std::map<std::string, std::string>& env) {
  std::string text;
  for (const auto& [name, value] : env) text += fmt::format(" {}={}", name, value);
  return text;
}

// Our own bug if the framework's parser or rules refuse what we write.
void check_emitted(const MegatronArgs& a, const std::vector<Option>& options, const Job& job,
                   const Target& target) {
  const auto parser = megatron_parser_refusal(options, target.release);
  check(!parser, "Megatron-LM's argument parser accepts what is written");
  check(broken_rule(a, megatron_world(a, job.question(), target.release)) == nullptr,
        "Megatron-LM accepts what is written");
}

Program megatron_program(const Target& target, const Job& job) {
  const MegatronArgs a = megatron_run(job, target.release);
  Program p;
  p.script = {"pretrain_gpt.py"};
  p.options = megatron_options(a);
  check_emitted(a, p.options, job, target);
  p.environment = megatron_environment(a, job);
  std::string text = fmt::format(
      "# {}: {} on {} GPUs\n# environment:{}\n# data, tokenizer, learning rate and checkpoints are "
      "yours to set\n",
      title(target), describe(job.plan), world_size(job.plan), environment_note(p.environment));
  for (const Option& o : p.options) text += to_text(o) + "\n";
  p.files.push_back({"megatron.args", text});
  return p;
}

Program bridge_program(const Target& target, const Job& job) {
  MegatronArgs a = megatron_run(job, target.release);
  Program p;
  p.environment = megatron_environment(a, job);
  // Bridge takes the number of chunks beside the layout, and sets message overlap itself only for
  // interleaved schedules.
  if (job.plan.vpp > 1) a.virtual_stages = job.plan.vpp;
  a.overlap_p2p = job.plan.overlap.p2p;
  // A recipe may recompute; an empty list of modules says that nothing is.
  const bool keeps_all = !a.recompute;
  if (keeps_all) a.recompute = "selective";
  p.script = {"scripts/training/run_recipe.py"};
  p.options = {
      {"--recipe", {bridge_recipe(job.model)}}, {"--mode", {"pretrain"}}, {"--dataset", {"mock"}}};
  p.arguments = bridge_overrides(a);
  if (keeps_all) p.arguments.push_back("model.recompute_modules=[]");
  if (job.plan.vpp == 1) p.arguments.push_back("model.virtual_pipeline_model_parallel_size=null");
  if (job.plan.pp == 1) p.arguments.push_back("model.pipeline_model_parallel_layout=null");
  std::string text =
      fmt::format("# {}: {} on {} GPUs\n# environment:{}\n", title(target), describe(job.plan),
                  world_size(job.plan), environment_note(p.environment));
  for (const Option& o : p.options) text += to_text(o) + "\n";
  for (const std::string& word : p.arguments) text += word + "\n";
  p.files.push_back({"bridge.args", text});
  return p;
}

Program torchtitan_program(const Target& target, const Job& job) {
  Program p;
  p.script = {"-m", "torchtitan.train"};
  p.environment = {{"PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"}};
  if (target.torchtitan_main) {
    const auto [module, recipe] = torchtitan_main_recipe(job);
    p.options = {{"--module", {module}}, {"--config", {"reckon_plan"}}};
    p.files.push_back({"torchtitan_recipe.py", torchtitan_recipe(job)});
    std::string text = fmt::format("--module {}\n--config {}\n", module, recipe);
    for (const std::string& word : torchtitan_main_arguments(job)) text += word + "\n";
    p.files.push_back({"torchtitan.args", text});
    return p;
  }
  TorchtitanConfig c = torchtitan_config(job, false);
  SettingWriter w;
  fields(w, c);
  p.options = {{"--job.config_file", {"torchtitan.toml"}}};
  p.files.push_back(
      {"torchtitan.toml",
       to_toml(w.out,
               fmt::format("# {}: {} on {} GPUs\n# data, optimizer and checkpoints are yours "
                           "to set\n",
                           title(target), describe(job.plan), world_size(job.plan)))});
  return p;
}

Program deepspeed_program(const Job& job) {
  DeepSpeedConfig c = deepspeed_config(job);
  SettingWriter w;
  fields(w, c);
  Program p;
  p.script = {"train.py"};  // the user's own
  p.options = {{"--deepspeed", {}}, {"--deepspeed_config", {"deepspeed.json"}}};
  p.files.push_back({"deepspeed.json", to_nested_json(w.out)});
  return p;
}

// The scenario and plan travel with the job.
Program native_program(const Job& job) {
  Program p;
  p.mpi = true;
  p.script = {"reckon", "train", "scenario.json", "--plan", "plan.json"};
  Scenario s;
  s.name = job.name;
  s.model = job.model, s.cluster = job.cluster, s.stack = job.stack;
  s.campaign = {{.name = "training",
                 .seq = job.step.seq,
                 .global_batch = job.step.global_batch,
                 .steps = job.steps}};
  s.training = job.training;
  p.files.push_back({"scenario.json", scenario_to_json(s).dump(2) + "\n"});
  return p;
}

}  // namespace

// "deepseek_v3_pretrain_1024gpu_h100_bf16_config" trains what "deepseek_v3_pretrain_config" does.
std::string bridge_model(const std::string& recipe) {
  for (const auto& [model, known] : kBridgeRecipes) {
    const std::string stem(known);
    if (recipe.starts_with(stem.substr(0, stem.find("_config")))) return model;
  }
  return {};
}

std::optional<Target> target_of(Framework framework, const std::string& version) {
  Target t{.framework = framework};
  if (version.empty()) return t;
  switch (framework) {
    case Framework::Megatron:
    case Framework::MegatronBridge:
      t.release = megatron_release(version);
      return t.release ? std::optional(t) : std::nullopt;
    case Framework::Torchtitan:
      t.torchtitan_main = version == "main";
      return t.torchtitan_main || version == "0.2.2" || version == "v0.2.2" ? std::optional(t)
                                                                            : std::nullopt;
    case Framework::DeepSpeed:
    case Framework::Native: break;
  }
  return std::nullopt;
}

std::string versions_of(Framework framework) {
  switch (framework) {
    case Framework::Megatron:
    case Framework::MegatronBridge:
      return fmt::format("a release of Megatron-LM ({})", fmt::join(megatron_releases(), ", "));
    case Framework::Torchtitan: return "v0.2.2 (TOML) or main (recipe)";
    case Framework::DeepSpeed:
    case Framework::Native: break;
  }
  return "no version: there is one form only";
}

void set_own_switches(const Target& target, Plan& p) {
  const bool waits =
      p.pp == 1 || p.schedule == ScheduleKind::OneFOneB || p.schedule == ScheduleKind::GPipe;
  switch (target.framework) {
    case Framework::Megatron:
    case Framework::MegatronBridge:
      if (waits) p.overlap.p2p = false;
      break;
    case Framework::Torchtitan:
      p.overlap.p2p = !waits;
      p.overlap.grad_reduce = p.overlap.param_gather = true;
      p.sequence_parallel = p.tp > 1;
      break;
    case Framework::DeepSpeed:
      p.overlap.p2p = false;
      p.overlap.param_gather = p.zero == Zero::Full;
      p.sequence_parallel = false;
      p.overlap.tp = false;
      break;
    case Framework::Native: break;
  }
}

void fill_search_space(const Target& target, const ModelShape& model, SearchSpace& space) {
  using enum Recompute::Mode;
  const auto fill = [](auto& list, auto values) {
    if (list.empty()) list = std::move(values);
  };
  switch (target.framework) {
    case Framework::Megatron:
    case Framework::MegatronBridge:
      if (!model.moe)
        fill(space.recompute, std::vector<Recompute>{{.mode = None},
                                                     {.mode = Selective, .modules = kNorm},
                                                     {.mode = Selective, .modules = kNorm | kMlp},
                                                     {.mode = Full}});
      break;
    case Framework::Torchtitan:
      fill(space.zero, std::vector{Zero::Gradients, Zero::Full});
      fill(space.recompute,
           std::vector<Recompute>{
               {.mode = None}, {.mode = Selective, .modules = kPerOp}, {.mode = Full}});
      break;
    case Framework::DeepSpeed:
      fill(space.zero, std::vector{Zero::Optimizer, Zero::Gradients, Zero::Full});
      fill(space.recompute, std::vector<Recompute>{{.mode = None}, {.mode = Full}});
      break;
    case Framework::Native: break;
  }
}

std::string title(const Target& t) {
  switch (t.framework) {
    case Framework::Megatron:
    case Framework::MegatronBridge: {
      const char* name = t.framework == Framework::Megatron ? "Megatron-LM" : "Megatron-Bridge";
      return t.release ? fmt::format("{} {}", name,
                                     megatron_releases()[static_cast<std::size_t>(*t.release)])
                       : name;
    }
    case Framework::Torchtitan: return t.torchtitan_main ? "torchtitan main" : "torchtitan v0.2.2";
    case Framework::DeepSpeed: return "DeepSpeed";
    case Framework::Native: break;
  }
  return "reckon train";
}

Judge::Judge(const Target& target, const ModelShape& model)
    : target_(target), megatron_(model, target.release) {}

const char* Judge::objection(const Question& question, std::string* detail) const {
  if (target_.framework == Framework::Native) return nullptr;
  const Plan plan = canonical(question.plan, question.model);
  const Question q{question.model, question.cluster, question.stack, plan, question.step};
  if (detail != nullptr) detail->clear();
  switch (target_.framework) {
    case Framework::MegatronBridge:
      if (bridge_recipe(q.model) == nullptr) return "Megatron-Bridge has no recipe of this shape";
      [[fallthrough]];
    case Framework::Megatron: return megatron_.objection(q, detail);
    case Framework::Torchtitan: return torchtitan_objection(q, target_.torchtitan_main, detail);
    case Framework::DeepSpeed: return deepspeed_objection(q, detail);
    case Framework::Native: break;
  }
  return nullptr;
}

Program program_of(const Target& target, const Job& job) {
  switch (target.framework) {
    case Framework::Megatron: return megatron_program(target, job);
    case Framework::MegatronBridge: return bridge_program(target, job);
    case Framework::Torchtitan: return torchtitan_program(target, job);
    case Framework::DeepSpeed: return deepspeed_program(job);
    case Framework::Native: break;
  }
  return native_program(job);
}

}  // namespace reckon::plan::launch

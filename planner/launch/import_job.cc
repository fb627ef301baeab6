#include "planner/launch/import_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "planner/file.h"
#include "planner/import_hf.h"
#include "planner/launch/deepspeed.h"
#include "planner/launch/frameworks.h"
#include "planner/launch/megatron.h"
#include "planner/launch/megatron_text.h"
#include "planner/launch/models.h"
#include "planner/launch/torchtitan.h"
#include "planner/plan_json.h"
#include "planner/scenario_fields.h"

namespace reckon::plan::launch {

namespace {

enum class Kind { Arguments, ModelZoo, Toml, DeepSpeed, HuggingFace };

Kind kind_of(const std::string& file, const std::string& text) {
  const std::string extension = std::filesystem::path(file).extension().string();
  if (extension == ".toml") return Kind::Toml;
  if (extension == ".yaml" || extension == ".yml") return Kind::ModelZoo;
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (extension != ".json" && (first == std::string::npos || text[first] != '{'))
    return Kind::Arguments;
  return text.find("\"train_batch_size\"") != std::string::npos ||
                 text.find("\"train_micro_batch_size_per_gpu\"") != std::string::npos ||
                 text.find("\"zero_optimization\"") != std::string::npos
             ? Kind::DeepSpeed
             : Kind::HuggingFace;
}

// What every importer finds.
struct Found {
  Target target;
  ModelShape model;
  StepShape step;
  std::int64_t steps = 0;
  Plan plan;
  const char* stack = "";
  std::optional<hw::Dispatcher> dispatcher;
  std::vector<std::string> notes;
};

hw::Cluster cluster_of(const ImportRequest& r) {
  const auto& clusters = hw::Catalogue<hw::Cluster>::entries();
  const auto it = clusters.find(r.cluster);
  if (it == clusters.end())
    throw InputError(
        fmt::format("--cluster: no cluster \"{}\"; did you mean \"{}\"?", r.cluster,
                    hw::nearest_spelling(r.cluster, hw::catalogue_names<hw::Cluster>())));
  return it->second;
}

std::optional<ModelShape> given_model(const ImportRequest& r) {
  if (r.model.empty()) return std::nullopt;
  if (r.model.ends_with(".json")) {
    const hw::Document document = hw::read_json_file(r.model);
    return import_hf(hw::Value(document));
  }
  return plan::model(r.model);
}

int expected_world(const ImportRequest& r, std::optional<int> said) {
  const int world = r.gpus ? *r.gpus : said.value_or(0);
  if (world < 1)
    throw InputError(fmt::format(
        "{}: expected --gpus N: the file does not say on how many GPUs it runs", r.file));
  return world;
}

// The newest release that takes the command line, or the answer of `main`.
std::variant<MegatronRelease, Refusal> accepting_release(const ImportRequest& r,
                                                         const std::vector<Option>& options,
                                                         const MegatronArgs& args,
                                                         MegatronWorld world) {
  std::vector<MegatronRelease> releases = {MegatronRelease::Main,  MegatronRelease::V0_19,
                                           MegatronRelease::V0_18, MegatronRelease::V0_17,
                                           MegatronRelease::V0_16, MegatronRelease::Dev};
  if (r.release) releases = {*r.release};
  std::optional<Refusal> first;
  for (MegatronRelease release : releases) {
    world.release = release;
    auto refusal = megatron_parser_refusal(options, release);
    if (!refusal) refusal = megatron_refusal(args, world);
    if (!refusal) return release;
    if (!first) first = refusal;
  }
  return *first;
}

int max_connections(const CommandLine& line) {
  const auto it = line.environment.find("CUDA_DEVICE_MAX_CONNECTIONS");
  return it == line.environment.end() ? 0 : std::atoi(it->second.c_str());
}

std::variant<Found, Refusal> from_arguments(const ImportRequest& r, CommandLine line) {
  Found found;
  MegatronArgs args;
  const bool bridge = std::any_of(line.options.begin(), line.options.end(),
                                  [](const Option& o) { return o.name == "--recipe"; });
  const std::optional<ModelShape> given = given_model(r);
  Plan none;
  none.pp = 1;
  const hw::Cluster cluster = cluster_of(r);
  const StepShape unknown{.seq = 1, .global_batch = 1};
  if (bridge) {
    found.target.framework = Framework::MegatronBridge;
    std::vector<std::string> overrides;
    std::string recipe;
    for (const Option& o : line.options) {
      if (o.name == "--recipe" && !o.values.empty()) recipe = o.values[0];
      for (const std::string& value : o.values)
        if (value.find('=') != std::string::npos) overrides.push_back(value);
    }
    const std::string name = r.model.empty() ? bridge_model(recipe) : "";
    if (!given && name.empty())
      throw InputError(
          fmt::format("{}: no model for the recipe \"{}\"; give one with --model", r.file, recipe));
    const ModelShape shape = given ? *given : plan::model(name);
    args = megatron_args_of({shape, cluster, {}, none, unknown}, std::nullopt);
    args.recompute.reset();
    read_bridge_overrides(overrides, args);
    if (!args.layout.empty()) args.virtual_stages.reset();  // Bridge takes it beside a layout
    // An empty list of modules: nothing is recomputed.
    if (args.recompute == "selective" && std::find(overrides.begin(), overrides.end(),
                                                   "model.recompute_modules=[]") != overrides.end())
      args.recompute.reset();
    if (args.seq == unknown.seq) {
      args.seq = r.seq.value_or(4096);
      if (!r.seq) found.notes.push_back("4,096 tokens a sequence, as the recipes have it");
    }
    args.max_positions = std::max(args.max_positions, args.seq);
    args.checkpoint_format =
        args.megatron_fsdp ? std::optional<std::string>("fsdp_dtensor") : std::nullopt;
    line.options.clear();  // not pretrain_gpt.py's
  } else {
    args = megatron_args(line.options, r.file);
  }
  if (args.tp < 1 || args.pp < 1 || args.cp < 1 || args.ep < 1 || args.etp.value_or(1) < 1 ||
      args.micro_batch < 1 || args.global_batch < 1 || args.heads < 1 || args.layers < 1)
    throw InputError(r.file +
                     ": expected model sizes, parallel sizes and batch sizes of at least 1");

  MegatronWorld world = megatron_world(args, {ModelShape{}, cluster, hw::Stack{}, none, unknown},
                                       MegatronRelease::Main);
  world.processes = expected_world(r, line.world);
  if (const int given_connections = max_connections(line))
    world.max_connections = given_connections;
  const auto release = accepting_release(r, line.options, args, world);
  if (const auto* refusal = std::get_if<Refusal>(&release)) return *refusal;
  found.target.release = std::get<MegatronRelease>(release);
  if (!r.release && found.target.release != MegatronRelease::Main)
    found.notes.push_back(fmt::format("Megatron-LM's main refuses this command line; {} takes it",
                                      title(found.target)));

  MegatronImport in = import_megatron(args, world, r.file);
  found.model = given ? *given : in.model;
  if (found.model.vocab == 0) {
    const std::string known = catalogue_name(found.model, {.without_vocab = true});
    if (known.empty())
      throw InputError(
          r.file +
          ": --vocab-size is not given (the tokenizer decides it): give the model with "
          "--model");
    found.model = plan::model(known);
    found.notes.push_back("the vocabulary is that of " + known);
  }
  found.step = in.step, found.steps = in.steps, found.plan = in.plan;
  found.stack = "megatron-bridge-2026";
  if (in.model.moe) found.dispatcher = in.dispatcher;
  return found;
}

Found from_toml(const ImportRequest& r, const std::string& text) {
  const std::vector<Setting> settings = read_toml(r.file, text, KeyTable::Torchtitan);
  TorchtitanConfig config;
  SettingReader reader{settings};
  fields(reader, config);
  std::optional<int> said;
  if (config.shard > 0) said = config.shard * config.replicate * config.tp * config.pp * config.cp;
  TorchtitanImport in = import_torchtitan(config, expected_world(r, said), given_model(r), r.file);
  Found found{.target = {.framework = Framework::Torchtitan},
              .model = in.model,
              .step = in.step,
              .steps = in.steps,
              .plan = in.plan,
              .stack = "torchtitan-2024"};
  if (in.model.moe) found.dispatcher = in.dispatcher;
  if (config.stages.empty() && config.pp > 1)
    found.notes.push_back("stages as torchtitan splits layers by itself");
  return found;
}

Found from_deepspeed(const ImportRequest& r, const std::string& text) {
  const std::vector<Setting> settings = read_deepspeed_json(r.file, text);
  DeepSpeedConfig c;
  SettingReader reader{settings};
  fields(reader, c);
  const std::optional<ModelShape> model = given_model(r);
  if (!model || !r.seq)
    throw InputError(
        r.file +
        ": expected --model and --seq: a DeepSpeed configuration says neither the model "
        "nor the length of its sequences");
  std::optional<int> said;
  if (c.train_batch && c.micro_batch && c.accumulation)
    said = static_cast<int>(*c.train_batch /
                            std::max<std::int64_t>(1, *c.micro_batch * *c.accumulation)) *
           std::max(1, c.tp.value_or(1)) * std::max(1, c.sequence_parallel.value_or(1)) *
           std::max(1, c.pipeline_stages.value_or(1));
  DeepSpeedImport in = import_deepspeed(c, expected_world(r, said), *model, *r.seq, r.file);
  return {.target = {.framework = Framework::DeepSpeed},
          .model = *model,
          .step = in.step,
          .plan = in.plan,
          // Megatron-DeepSpeed's pipeline engine, or data parallelism like FSDP's.
          .stack = in.plan.pp > 1 ? "deepspeed-megatron" : "fsdp-2023"};
}

constexpr std::int64_t kSteps = 1000;  // of a job that does not say how long it runs

nlohmann::ordered_json scenario_of(const ImportRequest& r, const Found& f) {
  nlohmann::ordered_json s;
  const std::string known = catalogue_name(f.model);
  const std::string model = known.empty() ? "model" : known;
  s["name"] = fmt::format("{} on {} GPUs", model, world_size(f.plan));
  s["description"] = fmt::format(
      "Read from {} ({}).", std::filesystem::path(r.file).filename().string(), title(f.target));
  s["model"] = known.empty() ? hw::to_json(f.model) : nlohmann::ordered_json(known);
  const int gpus = world_size(f.plan);
  s["cluster"] = {{"base", r.cluster}, {"gpus", gpus}};
  // A job that leaves part of each NVLink domain out: the largest part that divides it.
  int domain = cluster_of(r).node.gpus;
  if (gpus % domain != 0) {
    while (gpus % domain != 0) --domain;
    s["cluster"]["node"] = {{"gpus", domain}};
  }
  s["stack"] = f.stack;
  if (f.dispatcher) s["stack"] = {{"base", f.stack}, {"dispatcher", hw::spelling(*f.dispatcher)}};
  if (f.target.framework == Framework::DeepSpeed && f.plan.overlap.grad_reduce && f.plan.pp > 1)
    s["stack"] = {{"base", f.stack}, {"can_overlap_grad_reduce", true}};
  s["campaign"] = nlohmann::ordered_json::array({{{"name", "training"},
                                                  {"seq", f.step.seq},
                                                  {"global_batch", f.step.global_batch},
                                                  {"steps", f.steps > 0 ? f.steps : kSteps}}});
  s["search"] = {{"target", hw::spelling(f.target.framework)}};
  s["plan"] = plan_to_json(f.plan);
  return s;
}

}  // namespace

bool is_framework_file(const std::string& file, const std::string& text) {
  return kind_of(file, text) != Kind::HuggingFace;
}

std::variant<ImportedJob, Refusal> import_job(const ImportRequest& r) {
  const std::string text = read_file(r.file);
  std::variant<Found, Refusal> found;
  switch (kind_of(r.file, text)) {
    case Kind::Arguments:
      found = from_arguments(r, read_arguments(r.file, text, r.variables));
      break;
    case Kind::ModelZoo:
      found = from_arguments(r, read_model_zoo(r.file, text, r.variables));
      break;
    case Kind::Toml: found = from_toml(r, text); break;
    case Kind::DeepSpeed: found = from_deepspeed(r, text); break;
    case Kind::HuggingFace: throw InputError(r.file + ": a model's config.json has no plan in it");
  }
  if (const auto* refusal = std::get_if<Refusal>(&found)) return *refusal;
  Found& f = std::get<Found>(found);
  if (f.steps == 0) f.notes.push_back("1,000 steps: the file does not say how long it runs");
  return ImportedJob{scenario_of(r, f), f.target, std::move(f.notes)};
}

}  // namespace reckon::plan::launch

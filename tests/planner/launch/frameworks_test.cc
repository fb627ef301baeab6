// torchtitan and DeepSpeed: what goes out comes back, what they can't run is refused by name; the
// nearest plan; searches for a target; published plans.
#include "planner/launch/frameworks.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "hw-models/hardware_fields.h"
#include "planner/candidates.h"
#include "planner/file.h"
#include "planner/launch/deepspeed.h"
#include "planner/launch/import_job.h"
#include "planner/launch/launchers.h"
#include "planner/launch/megatron_text.h"
#include "planner/launch/models.h"
#include "planner/launch/nearest.h"
#include "planner/launch/torchtitan.h"
#include "planner/plan_json.h"
#include "planner/scenario_json.h"
#include "tests/folder.h"
#include "tests/planner/launch/random_plans.h"
#include "tests/planner/scenarios.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::plan::launch;

namespace {

const std::string kLaunchData = RECKON_SOURCE_DIR "/tests/planner/launch/data/";
// `count` jobs that a framework runs.
std::vector<Job> jobs(const Target& target, int count, std::uint64_t seed) {
  test::RandomPlans plans(seed);
  std::vector<Job> all;
  for (int drawn = 0; static_cast<int>(all.size()) < count; ++drawn) {
    REQUIRE(drawn < 300000);
    Job job = plans.next();
    set_own_switches(target, job.plan);
    job.plan = canonical(job.plan, job.model);
    if (why_illegal(job.model, job.cluster, job.stack, job.plan, job.step)) continue;
    if (Judge(target, job.model).objection(job.question()) == nullptr) all.push_back(job);
  }
  return all;
}

std::string text(const Plan& plan) {
  return plan_to_json(plan).dump();
}

}  // namespace

TEST_CASE("plans go out as torchtitan TOML and come back the same") {
  for (const Job& job : jobs({.framework = Framework::Torchtitan}, 40, 2)) {
    const Program program = program_of({.framework = Framework::Torchtitan}, job);
    CAPTURE(program.files[0].text);
    const auto settings = read_toml("job.toml", program.files[0].text, KeyTable::Torchtitan);
    TorchtitanConfig config;
    SettingReader reader{settings};
    fields(reader, config);
    const TorchtitanImport back =
        import_torchtitan(config, world_size(job.plan), std::nullopt, "job.toml");
    CHECK(text(back.plan) == text(job.plan));
    CHECK(back.step.global_batch == job.step.global_batch);
    CHECK(back.step.seq == job.step.seq);
    CHECK(parameters(back.model).total() == parameters(job.model).total());
  }
}

TEST_CASE("the recipe form of torchtitan names keys that exist") {
  for (const Job& job :
       jobs({.framework = Framework::Torchtitan, .torchtitan_main = true}, 20, 3)) {
    for (const std::string& word : torchtitan_main_arguments(job)) {
      if (!word.starts_with("--")) continue;
      const std::string key = word.substr(2, word.find('=') - 2);
      CAPTURE(key);
      CHECK(key_type(KeyTable::TorchtitanMain, key) != nullptr);
    }
    CHECK(torchtitan_recipe(job).find("def reckon_plan():") != std::string::npos);
  }
}

TEST_CASE("plans go out as DeepSpeed JSON and come back the same") {
  for (const Job& job : jobs({.framework = Framework::DeepSpeed}, 60, 4)) {
    const Program program = program_of({.framework = Framework::DeepSpeed}, job);
    CAPTURE(program.files[0].text, describe(job.plan));
    const auto settings = read_deepspeed_json("ds.json", program.files[0].text);
    DeepSpeedConfig config;
    SettingReader reader{settings};
    fields(reader, config);
    const DeepSpeedImport back =
        import_deepspeed(config, world_size(job.plan), job.model, job.step.seq, "ds.json");
    CHECK(text(back.plan) == text(job.plan));
    CHECK(back.step.global_batch == job.step.global_batch);
  }
}

TEST_CASE("unknown and mistyped keys of configuration files are errors with the nearest key") {
  CHECK_THROWS_WITH(read_toml("a.toml", "[training]\nlocal_batch_sise = 1\n", KeyTable::Torchtitan),
                    Catch::Contains("a.toml:2: training.local_batch_sise") &&
                        Catch::Contains("\"training.local_batch_size\""));
  CHECK_THROWS_WITH(read_toml("a.toml", "[training]\nseq_len = true\n", KeyTable::Torchtitan),
                    Catch::Contains("expected int, got true"));
  CHECK_THROWS_WITH(read_toml("a.toml", "[training\n", KeyTable::Torchtitan),
                    Catch::Contains("a.toml:1: not TOML"));
  CHECK_THROWS_WITH(read_deepspeed_json("d.json", R"({"zero_optimization": {"stag": 1}})"),
                    Catch::Contains("zero_optimization.stage"));
  CHECK_THROWS_WITH(read_deepspeed_json("d.json", R"({"train_batch_size": 1.5})"),
                    Catch::Contains("expected int, got 1.5"));
}

TEST_CASE("what a framework can't run is refused by name, and the nearest plan runs") {
  const Scenario scenario = read_scenario(test::kScenarios + "deepseek-v3-2048-h800.json");
  Job job{.name = scenario.name,
          .model = scenario.model,
          .cluster = scenario.cluster,
          .stack = scenario.stack,
          .step = {4096, 15360},
          .steps = 10,
          .plan = canonical(*scenario.plan, scenario.model)};
  const Bytes limit{scenario.cluster.gpu.memory};
  const double given = predict(job.model, job.cluster, job.stack, job.plan, job.step).step.si;

  const Target megatron{.framework = Framework::Megatron};
  std::string detail;
  CHECK_THAT(Judge(megatron, job.model).objection(job.question(), &detail),
             Catch::Contains("no such pipeline schedule"));
  CHECK(detail == "DualPipe");
  auto near = nearest_plan(megatron, job, limit);
  REQUIRE(near);
  CHECK(near->fits);
  CHECK(near->changes.size() == 1);  // schedule, with what hangs on it
  CHECK(near->plan.tp == job.plan.tp);
  CHECK(near->plan.precision == Precision::Fp8DeepSeek);
  CHECK(near->prediction.step.si > given);  // DualPipe was there for a reason
  job.plan = near->plan;
  CHECK(Judge(megatron, job.model).objection(job.question()) == nullptr);
  CHECK_FALSE(why_illegal(job.model, job.cluster, job.stack, job.plan, job.step));

  // torchtitan has neither MTP, blockwise fp8, ZeRO-1 nor those modules.
  job.plan = canonical(*scenario.plan, scenario.model);
  const Target titan{.framework = Framework::Torchtitan};
  near = nearest_plan(titan, job, limit);
  REQUIRE(near);
  CHECK(near->model.mtp_depth == 0);
  CHECK(near->changes.size() >= 5);
  job.model = near->model, job.plan = near->plan;
  CHECK(Judge(titan, job.model).objection(job.question()) == nullptr);
}

TEST_CASE("a search for a target finds only plans that the target runs") {
  Scenario scenario = read_scenario(test::kScenarios + "qwen3-235b-256-h100.json");
  scenario.search.tp = {1, 2};
  scenario.search.pp = {4, 8};
  scenario.search.micro_batch = {1};
  for (Framework framework : {Framework::Megatron, Framework::Torchtitan, Framework::DeepSpeed}) {
    scenario.search.target = framework;
    const StepShape step{4096, 2048};
    if (framework == Framework::DeepSpeed) scenario.search.pp = {1};
    const Candidates candidates(scenario, step);
    Tally rejected;
    const auto legal = candidates.legal(rejected);
    CAPTURE(hw::spelling(framework), rejected);
    CHECK(!legal.empty());
    std::int64_t all = static_cast<std::int64_t>(legal.size());
    for (const auto& [why, count] : rejected) all += count;
    CHECK(all == candidates.combinations());
    const Judge judge({.framework = framework}, scenario.model);
    std::size_t wrong = 0;
    for (const auto& choice : legal)
      wrong += judge.objection({scenario.model, scenario.cluster, scenario.stack,
                                candidates.plan(choice), step}) != nullptr;
    CHECK(wrong == 0);
    if (framework == Framework::Megatron)
      CHECK(rejected.count(
                "Megatron-LM has no such pipeline schedule (1F1B and interleaved only)") == 1);
  }
}

TEST_CASE("published plans are imported, predicted, written again and read as the same plan") {
  const auto rows =
      nlohmann::json::parse(read_file(kLaunchData + "published_plans.json")).at("rows");
  const reckon_test::Folder folder;
  int expressed = 0;
  for (const auto& row : rows) {
    CAPTURE(row.dump());
    const std::string software = row[0], precision = row[3];
    const ModelShape shape = model(row[1]);
    const int gpus = row[4], seq = row[5], tp = row[6], pp = row[7], cp = row[8], ep = row[9],
              vpp = row[10], micro = row[11], batch = row[12];
    ImportRequest request{.cluster = row[2], .gpus = gpus, .model = row[1]};
    std::string job;
    if (software == "torchtitan") {
      request.file = (folder.path / "job.toml").string();
      request.model = "";
      job = fmt::format(
          "[model]\nname = \"deepseek_v3\"\nflavor = \"671B\"\n{}"
          "[training]\nlocal_batch_size = {}\nglobal_batch_size = {}\nseq_len = {}\n"
          "[parallelism]\ntensor_parallel_degree = {}\npipeline_parallel_degree = {}\n"
          "expert_parallel_degree = {}\n"
          "[activation_checkpoint]\nmode = \"full\"\n",
          precision == "fp8" ? "converters = [\"quantize.linear.float8\"]\n" : "", micro, batch,
          seq, tp, pp, ep);
    } else {
      // What the plan tables leave to the model: its shape, from its catalogue entry.
      const Job bare{.model = shape,
                     .cluster = hw::Catalogue<hw::Cluster>::entries().at(request.cluster),
                     .step = {seq, batch}};
      MegatronArgs a = megatron_args_of(bare.question(), std::nullopt);
      a.tp = tp, a.pp = pp, a.cp = cp, a.ep = ep, a.etp = 1;
      if (!shape.moe) a.etp.reset();
      a.sequence_parallel = tp > 1;
      a.micro_batch = micro;
      a.bf16 = true;
      if (precision != "bf16") {
        a.fp8_format = "e4m3";
        a.fp8_recipe = precision == "fp8" ? "tensorwise" : precision;
      }
      a.distributed_optimizer = a.overlap_grad_reduce = a.overlap_param_gather = true;
      if (software == "fsdp") a.megatron_fsdp = true, a.checkpoint_format = "fsdp_dtensor";
      if (shape.layers % (pp * vpp) == 0 || (shape.layers + 2) % (pp * vpp) == 0) {
        if (vpp > 1) a.virtual_stages = vpp;
        a.account_for_embedding = a.account_for_loss = shape.layers % (pp * vpp) != 0;
      } else {
        for (const ChunkLayout& c :
             balanced_layout({.layers = shape.layers, .mtp = shape.mtp_depth}, pp * vpp))
          a.layout.push_back(
              {.layers = c.layers, .mtp = c.mtp, .embedding = c.embedding, .loss = c.head});
      }
      request.file = (folder.path / "job.args").string();
      for (const Option& o : megatron_options(a)) job += to_text(o) + "\n";
    }
    std::ofstream(request.file) << job;
    const auto imported = import_job(request);
    if (const auto* no = std::get_if<Refusal>(&imported)) {
      FAIL_CHECK(fmt::format("{} {} ({})", no->why, no->detail, no->where));
      continue;
    }
    const ImportedJob& in = std::get<ImportedJob>(imported);
    const Scenario scenario = scenario_from_json(hw::parse_json("imported", in.scenario.dump()));
    const Plan& p = *scenario.plan;
    CHECK(p.tp == tp);
    CHECK(p.pp == pp);
    CHECK(p.cp == cp);
    CHECK(p.ep == ep);
    CHECK(p.vpp == vpp);
    CHECK(p.dp == gpus / (tp * pp * cp));
    CHECK(world_size(p) == gpus);

    const StepShape step{seq, batch};
    const auto illegal = why_illegal(scenario.model, scenario.cluster, scenario.stack, p, step);
    CHECK((illegal ? illegal->why + illegal->detail : "") == "");
    if (illegal) continue;
    const Prediction prediction =
        predict(scenario.model, scenario.cluster, scenario.stack, p, step);
    CHECK(prediction.step.si > 0.05);
    CHECK(prediction.step.si < 300);

    const Job again{.name = scenario.name,
                    .model = scenario.model,
                    .cluster = scenario.cluster,
                    .stack = scenario.stack,
                    .step = step,
                    .steps = 10,
                    .plan = p};
    std::string detail;
    const char* against = Judge(in.target, scenario.model).objection(again.question(), &detail);
    CHECK((against == nullptr ? "" : against + detail) == "");
    if (against != nullptr) continue;
    const Program program = program_of(in.target, again);
    std::ofstream(request.file) << program.files[0].text;
    request.gpus = gpus;
    const auto once_more = import_job(request);
    REQUIRE(std::holds_alternative<ImportedJob>(once_more));
    CHECK(std::get<ImportedJob>(once_more).scenario["plan"] == in.scenario["plan"]);
    ++expressed;
  }
  CHECK(expressed == static_cast<int>(rows.size()));
}

TEST_CASE("launchers name a job as Kubernetes and Slurm allow, and pass all words") {
  Job job = jobs({.framework = Framework::Megatron}, 1, 5)[0];
  job.name = "6 Qwen3-235B (A22B), long context: a name that is far too long for any scheduler";
  const Program program = program_of({.framework = Framework::Megatron}, job);
  for (Launcher launcher : {Launcher::JobSet, Launcher::TrainJob}) {
    const auto files = launcher_files(launcher, job, program, {});
    const auto json = nlohmann::json::parse(files[0].text);
    const std::string name = json["metadata"]["name"];
    CHECK(name.size() <= 40);
    CHECK(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") == std::string::npos);
    CHECK(name[0] >= 'a');
    CHECK(files[0].text.find("--tensor-model-parallel-size") != std::string::npos);
  }
  const std::string batch = launcher_files(Launcher::Slurm, job, program, {})[0].text;
  for (const Option& o : program.options) CHECK(batch.find(to_text(o)) != std::string::npos);
  Program native = program_of({.framework = Framework::Native}, job);
  CHECK(objection(Launcher::Torchrun, native) != nullptr);
  CHECK(objection(Launcher::MpiRun, native) == nullptr);
  const Scenario copy = scenario_from_json(hw::parse_json("copy", native.files[0].text));
  CHECK(copy.cluster.gpus == job.cluster.gpus);
  CHECK(parameters(copy.model).total() == parameters(job.model).total());
}

// Megatron-LM's own verdicts on 72 command lines, and plans that go out as arguments and come back.
#include "planner/launch/megatron.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <sstream>

#include "planner/file.h"
#include "planner/launch/frameworks.h"
#include "planner/launch/megatron_text.h"
#include "planner/plan_json.h"
#include "tests/planner/launch/random_plans.h"

using namespace reckon;
using namespace reckon::plan;
using namespace reckon::plan::launch;

namespace {

const std::string kMegatronData = RECKON_SOURCE_DIR "/tests/planner/launch/data/";

std::vector<Option> options_of(const std::string& text) {
  return read_arguments("test", text, {}).options;
}

// The base line without what a case drops, then what it adds.
std::vector<Option> case_options(const nlohmann::json& cases, const nlohmann::json& c) {
  std::string text;
  for (const auto& line : cases.at("base")) text += line.get<std::string>() + "\n";
  std::vector<Option> options = options_of(text);
  std::istringstream dropped(c.value("drop", ""));
  for (std::string name; dropped >> name;) {
    const auto gone = std::remove_if(options.begin(), options.end(),
                                     [&](const Option& o) { return o.name == name; });
    CHECK(gone != options.end());
    options.erase(gone, options.end());
  }
  if (const std::string added = c.value("add", ""); !added.empty())
    for (const Option& o : options_of(added)) options.push_back(o);
  return options;
}

std::optional<Refusal> verdict(const std::vector<Option>& options, const MegatronWorld& world) {
  if (auto no = megatron_parser_refusal(options, world.release)) return no;
  return megatron_refusal(megatron_args(options, "test"), world);
}

}  // namespace

TEST_CASE("Megatron-LM's verdicts on its own command lines, with place and release") {
  const auto cases = nlohmann::json::parse(read_file(kMegatronData + "megatron_cases.json"));
  REQUIRE(cases.at("cases").size() == 72);
  for (const auto& c : cases.at("cases")) {
    const std::string name = c.at("case");
    CAPTURE(name);
    const std::vector<Option> options = case_options(cases, c);
    MegatronWorld world{.processes = c.at("gpus"),
                        .max_connections = c.at("connections"),
                        .compute_capability = c.value("capability", 9)};
    const auto no = verdict(options, world);
    const std::string place = no ? no->where : "accepted";
    CHECK(place == c.value("refused", "accepted"));
    if (!no) {
      const MegatronSizes sizes = megatron_sizes(megatron_args(options, "test"), world);
      CHECK(sizes.dp == c.at("dp").get<int>());
      CHECK(sizes.expert_dp == c.at("expert_dp").get<int>());
      CHECK(sizes.micro_batches == c.at("micro_batches").get<int>());
      CHECK(sizes.vpp ==
            (c.at("vpp").is_null() ? std::nullopt : std::optional(c.at("vpp").get<int>())));
    }
    // The other releases that were run: 0.17.0 to dev.
    for (MegatronRelease release : {MegatronRelease::V0_17, MegatronRelease::V0_18,
                                    MegatronRelease::V0_19, MegatronRelease::Dev}) {
      world.release = release;
      const std::string text = megatron_releases()[static_cast<std::size_t>(release)];
      CAPTURE(text);
      bool accepted = !c.contains("refused");
      for (const auto& other : c.value("other_verdict", nlohmann::json::array()))
        if (other == text) accepted = !accepted;
      CHECK(!verdict(options, world) == accepted);
    }
  }
}

TEST_CASE("pipeline layouts are read and written as Megatron-LM does") {
  const auto stages = read_layout("Et|(tt|)*30mL");
  REQUIRE(stages);
  CHECK(stages->size() == 32);
  CHECK(stages->front() == PipelineStage{.layers = 1, .embedding = true});
  CHECK((*stages)[1] == PipelineStage{.layers = 2});
  CHECK(stages->back() == PipelineStage{.mtp = 1, .loss = true});
  CHECK(layout_text(*stages) == "Et|(tt|)*30mL");
  CHECK(read_layout("Et*3|t|L") == read_layout("Ettt|t|L"));
  CHECK(read_layout("E,t | tL") == read_layout("Et|tL"));
  for (const char* wrong : {"", "Ex|L", "E(t|L", "Et*9999999|L"}) CHECK(!read_layout(wrong));
  // All layouts of up to 4 stages of 0 to 3 layers.
  for (int code = 0; code < 256; ++code) {
    std::vector<PipelineStage> all;
    for (int i = 0, c = code; i < 4; ++i, c /= 4) all.push_back({.layers = c % 4});
    all.front().embedding = all.back().loss = true;
    CHECK(read_layout(layout_text(all)) == all);
  }
}

TEST_CASE("layer patterns are read and written as Megatron-LM does") {
  const auto dsv3 = read_pattern("([0]*3+[1]*58)", 61);
  REQUIRE(dsv3);
  CHECK(std::count(dsv3->begin(), dsv3->end(), true) == 58);
  CHECK(pattern_text(*dsv3) == "([0]*3+[1]*58)");
  CHECK(read_pattern("2", 4) == std::vector{true, false, true, false});
  CHECK(read_pattern("([0,1]*2)", 4) == std::vector{false, true, false, true});
  CHECK(read_pattern("[1]*3", 3) == std::vector{true, true, true});
  for (const char* wrong : {"", "[2]", "([0]*3", "__import__", "0"}) CHECK(!read_pattern(wrong, 3));
  for (int bits = 0; bits < 1024; ++bits) {
    std::vector<bool> pattern;
    for (int i = 0; i < 10; ++i) pattern.push_back((bits >> i & 1) != 0);
    CHECK(read_pattern(pattern_text(pattern), 10) == pattern);
  }
}

TEST_CASE("launch scripts are read as a shell reads them") {
  const CommandLine line = read_arguments("job.sh", R"(#!/bin/bash
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
export CUDA_DEVICE_MAX_CONNECTIONS=32 A='b c'
torchrun --nnodes 4 pretrain_gpt.py --bf16 \
  --pipeline-model-parallel-layout 'Et|tL' --tp=${TP} # a comment
  echo --done)",
                                          {{"TP", "2"}});
  CHECK(line.world == 32);
  CHECK(line.environment.at("CUDA_DEVICE_MAX_CONNECTIONS") == "32");
  REQUIRE(line.options.size() == 3);
  CHECK(line.options[0] == Option{"--bf16", {}});
  CHECK(line.options[1] == Option{"--pipeline-model-parallel-layout", {"Et|tL"}});
  CHECK(line.options[2] == Option{"--tp", {"2"}});
  CHECK_THROWS_WITH(read_arguments("a", "--tp $TP", {}), Catch::Contains("--set TP=VALUE"));
  CHECK_THROWS_WITH(read_arguments("a", "--x 'open", {}), Catch::Contains("a:1: a quote"));
  CHECK_THROWS_WITH(read_arguments("a", "nothing", {}), Catch::Contains("expected an option"));
}

TEST_CASE("plans go out to every Megatron-LM release and come back the same") {
  test::RandomPlans plans(1);
  int written = 0, refused = 0;
  while (written < 400) {
    const Job job = plans.next();
    const Judge judge({.framework = Framework::Megatron}, job.model);
    if (judge.objection(job.question()) != nullptr) {
      ++refused;
      continue;
    }
    ++written;
    CAPTURE(job.name, job.stack.name, describe(job.plan));
    for (std::size_t release = 0; release < megatron_releases().size(); ++release) {
      const auto which = static_cast<MegatronRelease>(release);
      const auto options = megatron_options(megatron_run(job, which));
      const auto no = megatron_parser_refusal(options, which);
      CAPTURE(release, no ? no->detail : "");
      CHECK(!no);
    }
    // Through text, so that quoting is in the loop.
    const Program program = program_of({.framework = Framework::Megatron}, job);
    const CommandLine line = read_arguments("args", program.files[0].text, {});
    const MegatronArgs args = megatron_args(line.options, "args");
    const MegatronWorld world = megatron_world(args, job.question(), std::nullopt);
    const MegatronImport back = import_megatron(args, world, "args");
    CHECK(plan_to_json(back.plan).dump() == plan_to_json(job.plan).dump());
    CHECK(back.step.seq == job.step.seq);
    CHECK(back.step.global_batch == job.step.global_batch);
    CHECK(back.steps == job.steps);
    CHECK(back.model.vocab == job.model.vocab);
    CHECK(parameters(back.model).total() == parameters(job.model).total());
    CHECK(train_flops_per_token(back.model, 4096, true).si ==
          train_flops_per_token(job.model, 4096, true).si);
    if (job.model.moe && job.plan.ep * job.plan.etp > 1)
      CHECK(back.dispatcher == job.stack.dispatcher);

    // The same arguments as Megatron-Bridge overrides.
    MegatronArgs read = megatron_args_of(job.question(), std::nullopt);
    read_bridge_overrides(bridge_overrides(args), read);
    CHECK(bridge_overrides(read) == bridge_overrides(args));
  }
  CHECK(refused > 100);  // the draw does hold plans that Megatron-LM can't run
}

// `reckon launch` and `reckon import` of framework files, from outside.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/planner/program.h"

using namespace reckon_test;

namespace {

namespace fs = std::filesystem;

const std::string kQwen = RECKON_SOURCE "/scenarios/qwen3-235b-256-h100.json";
const std::string kDeepSeek = RECKON_SOURCE "/scenarios/deepseek-v3-2048-h800.json";

}  // namespace

TEST_CASE("a launched job reads back as the plan that was launched") {
  const Folder folder;
  const std::string job = folder / "job";
  const auto launched = reckon("launch " + kQwen + " --target megatron -o " + job);
  CHECK(launched.err.empty());
  REQUIRE(launched.code == 0);
  CHECK(launched.out.find("job.sbatch") != std::string::npos);
  const auto plan = nlohmann::json::parse(contents(job + "/plan.json"));

  // From the argument list with the number of GPUs given, and from the batch script that says it.
  const std::string read = folder / "read.json";
  for (const std::string& file : {job + "/megatron.args --gpus 256", job + "/job.sbatch"}) {
    CAPTURE(file);
    const auto imported = reckon("import " + file + " --output " + read);
    CHECK(imported.code == 0);
    const auto scenario = nlohmann::json::parse(contents(read));
    CHECK(scenario["plan"] == plan);
    CHECK(scenario["model"] == "qwen3-235b-a22b");
    CHECK(scenario["stack"]["dispatcher"] == "deepep");
    CHECK(scenario["search"]["target"] == "megatron");
  }
  CHECK(reckon("simulate " + read + " --json").code == 0);
}

TEST_CASE("what a framework can't run is an answer, with the nearest plan; --nearest writes it") {
  const Folder folder;
  const std::string job = folder / "job";
  auto o = reckon("launch " + kDeepSeek + " --target megatron -o " + job);
  CHECK(o.code == 1);
  CHECK(o.err.empty());
  CHECK(o.out.find("no such pipeline schedule") != std::string::npos);
  CHECK(o.out.find("Nearest plan that it can run: tp1 pp16") != std::string::npos);
  CHECK_FALSE(fs::exists(job));
  o = reckon("launch " + kDeepSeek + " --target megatron --json -o " + job);
  CHECK(o.code == 1);
  const auto json = nlohmann::json::parse(o.out);
  CHECK(json["written"] == false);
  CHECK(json["nearest"]["step_over_given"].get<double>() > 1);

  o = reckon("launch " + kDeepSeek + " --target megatron --nearest -o " + job);
  CHECK(o.code == 0);
  CHECK(nlohmann::json::parse(contents(job + "/plan.json")) == json["nearest"]["plan"]);
}

TEST_CASE("every target writes its files, and nothing beside them") {
  const Folder folder;
  const std::vector<std::pair<std::string, std::vector<std::string>>> targets = {
      {"megatron", {"megatron.args", "job.sbatch"}},
      {"megatron-bridge", {"bridge.args", "job.sbatch"}},
      {"torchtitan", {"torchtitan.toml", "job.sbatch"}},
      {"torchtitan --framework-version main",
       {"torchtitan_recipe.py", "torchtitan.args", "job.sbatch"}},
      {"deepspeed", {"deepspeed.json", "job.sbatch"}},
      {"native", {"scenario.json", "job.sbatch", "run.sh"}},
      {"jobset", {"megatron.args", "jobset.json"}},
      {"trainjob --framework torchtitan", {"torchtitan.toml", "trainjob.json"}},
      {"torchrun", {"megatron.args", "run.sh"}},
      {"mpirun", {"megatron.args", "run.sh", "rank.sh"}},
      {"slurm", {"megatron.args", "job.sbatch"}},
  };
  for (const auto& [target, files] : targets) {
    CAPTURE(target);
    const std::string job = folder / "job";
    const auto o = reckon("launch " + kQwen + " --nearest --target " + target + " -o " + job);
    CAPTURE(o.out, o.err);
    REQUIRE(o.code == 0);
    std::size_t found = 0;
    for (const auto& entry : fs::directory_iterator(job)) found += entry.exists();
    CHECK(found == files.size() + 1);  // and plan.json
    for (const std::string& f : files) CHECK(fs::file_size(job + "/" + f) > 0);
    fs::remove_all(job);
  }
  std::size_t left = 0;
  for (const auto& entry : fs::directory_iterator(folder.path))
    left += entry.path().filename().string()[0] != '.';
  CHECK(left == 0);
}

TEST_CASE("bad input of launch and import exits 2 and names what was expected") {
  const Folder folder;
  std::ofstream(folder / "file") << "--no-such-thing 1\n--num-layers 2\n";
  std::ofstream(folder / "zoo.yaml") << "MODEL_ARGS:\n  --num-layers: ${LAYERS}\n";
  const std::string launch = "launch " + kQwen + " -o " + (folder / "job");
  const std::vector<std::pair<std::string, const char*>> wrong = {
      {launch + " --target megatrn", "did you mean \"megatron\"?"},
      {launch + " --target megatron --framework-version 0.1", "0.19.0"},
      {launch + " --target torchtitan --framework-version 9", "v0.2.2"},
      {launch + " --target jobset --framework native", "MPI program"},
      {launch + " --target jobset --framework mgatron", "did you mean \"megatron\"?"},
      {"launch " + kQwen + " --target megatron -o " + (folder / "file"), "expected a folder"},
      {"import " + (folder / "zoo.yaml"), "zoo.yaml:2: expected a value for the variable LAYERS"},
      {"import " + (folder / "zoo.yaml") + " --set LAYERS", "NAME=VALUE"},
      {"import " + (folder / "none.args"), "none.args"},
  };
  for (const auto& [arguments, expected] : wrong) {
    CAPTURE(arguments);
    const auto o = reckon(arguments);
    CHECK(o.code == 2);
    CHECK(o.out.empty());
    CHECK_THAT(o.err, Catch::Contains(expected));
  }
  CHECK_FALSE(fs::exists(folder / "job"));
}

TEST_CASE("a command line that Megatron-LM refuses is an answer with the place of the check") {
  const Folder folder;
  std::ofstream(folder / "a.args") << "--num-layers 8 --hidden-size 512 --num-attention-heads 8 "
                                      "--seq-length 1024 --max-position-embeddings 1024 "
                                      "--vocab-size 32000 --micro-batch-size 1 "
                                      "--global-batch-size 64 --tensor-model-parallel-size 3\n";
  const auto o = reckon("import " + (folder / "a.args") + " --gpus 48");
  CHECK(o.code == 1);
  CHECK(o.out.find("num_attention_heads must be a multiple of tp") != std::string::npos);
  CHECK(o.out.find("T:1447") != std::string::npos);
  const auto unknown = reckon("import " + (folder / "a.args") + " --gpus 47 --json");
  CHECK(unknown.code == 1);
  CHECK(nlohmann::json::parse(unknown.out)["where"] == "A:432");
}

// Sweeps: what is varied is what is priced, whatever the order, the threads, the processes or the
// interruptions.
#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <set>

#include "planner/file.h"
#include "planner/predict.h"
#include "planner/scenario_json.h"
#include "planner/sweep_report.h"
#include "tests/folder.h"
#include "tests/planner/scenarios.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

Sweep sweep_of(const std::string& scenario, std::initializer_list<const char*> vary) {
  Sweep sweep{.scenario = hw::read_json_file(test::kScenarios + scenario)};
  for (const char* text : vary) sweep.variations.push_back(read_variation(text));
  return sweep;
}

// Small enough to search in milliseconds.
Sweep small() {
  Sweep sweep = sweep_of("qwen3-235b-256-h100.json",
                         {"cluster.gpus=128,256", "cluster.fabric.nic=25 GB/s,50 GB/s"});
  sweep.scenario.root["search"] = {{"tp", {2}},
                                   {"pp", {8}},
                                   {"micro_batch", {1}},
                                   {"precision", {"bf16"}},
                                   {"schedule", {"interleaved"}}};
  return sweep;
}

std::string dump(const std::vector<nlohmann::ordered_json>& answers) {
  return nlohmann::ordered_json(answers).dump();
}

}  // namespace

TEST_CASE("variations are read as lists and ranges") {
  const auto values = [](const char* text) {
    return nlohmann::json(read_variation(text).values).dump();
  };
  CHECK(read_variation("cluster.gpus=8").path == "cluster.gpus");
  CHECK(values("a=1,2.5,x y,\"8\",true,[1,2]") == "[1,2.5,\"x y\",\"8\",true,[1,2]]");
  CHECK(values("a=1024..8192*2") == "[1024,2048,4096,8192]");
  // The unit behind the last number of a list is that of all.
  CHECK(values("a=12.5,25,50 GB/s") == "[\"12.5 GB/s\",\"25 GB/s\",\"50 GB/s\"]");
  CHECK(values("a=1,x,50 GB/s") == "[1,\"x\",\"50 GB/s\"]");
  CHECK(values("a=1..2+0.5") == "[1,1.5,2]");
  CHECK(values("a=25..100+25 GB/s") == R"(["25 GB/s","50 GB/s","75 GB/s","100 GB/s"])");
  CHECK(values("a=0.1..0.5+0.1").size() == std::string("[0.1,0.2,0.3,0.4,0.5]").size() + 16);
  for (const char* wrong : {"a", "=1", "a=", "a=1,,2", "a=1..9*1", "a=1..9+0"})
    CHECK_THROWS_AS(read_variation(wrong), InputError);
}

TEST_CASE("a grid holds every combination, one at a time each value alone") {
  Sweep sweep =
      sweep_of("qwen3-235b-256-h100.json", {"cluster.gpus=128,256,512", "model.moe.top_k=4,8"});
  CHECK(points(sweep).size() == 6);
  CHECK(points(sweep)[3] == SweepPoint{256, 8});
  sweep.one_at_a_time = true;
  CHECK(points(sweep).size() == 6);
  CHECK(points(sweep)[0] == SweepPoint{nullptr, nullptr});
  CHECK(points(sweep)[4] == SweepPoint{nullptr, 4});
}

TEST_CASE("a path changes parts that the scenario names, and only those") {
  const Sweep sweep =
      sweep_of("qwen3-235b-256-h100.json",
               {"cluster.fabric.nic=100 GB/s", "model.moe.top_k=4", "campaign.0.seq=8192",
                "search.precision=fp8", "stack.dispatcher=all-to-all"});
  const Scenario before = scenario_from_json(sweep.scenario);
  const Scenario after = scenario_from_json(scenario_at(sweep, points(sweep)[0]));
  CHECK(after.cluster.fabric.nic.si == 100e9);
  CHECK(after.cluster.fabric.latency.si == before.cluster.fabric.latency.si);
  CHECK(after.cluster.gpu.name == before.cluster.gpu.name);
  CHECK(after.model.moe->top_k == 4);
  CHECK(after.model.moe->experts == before.model.moe->experts);
  CHECK(after.campaign[0].seq == 8192);
  CHECK(after.search.precision == std::vector{Precision::Fp8});
  CHECK(after.stack.dispatcher == hw::Dispatcher::AllToAll);
  CHECK(after.stack.gemm_efficiency == before.stack.gemm_efficiency);

  const Sweep wrong = sweep_of("qwen3-235b-256-h100.json", {"cluster.gpus.x=1"});
  CHECK_THROWS_WITH(scenario_at(wrong, points(wrong)[0]),
                    Catch::Contains("nothing below \"gpus\""));
  const Sweep typo = sweep_of("qwen3-235b-256-h100.json", {"cluster.gpsu=8"});
  const auto answer = answer_at(typo, points(typo)[0]);
  CHECK_THAT(answer["reason"].get<std::string>(),
             Catch::Contains("/cluster") && Catch::Contains("gpsu"));
}

TEST_CASE("a fixed plan is priced by the same figures as simulate'sweep, dp as it fits") {
  Sweep sweep = sweep_of("qwen3-235b-256-h100.json", {"cluster.gpus=256,512,300"});
  sweep.search = false;
  const auto answers = run(sweep, {});
  const Scenario scenario = scenario_from_json(sweep.scenario);
  const Prediction p =
      predict(scenario.model, scenario.cluster, scenario.stack, *scenario.plan, {4096, 2048});
  CHECK(answers[0]["step_s"] == p.step.si);
  CHECK_THAT(answers[1]["plan"].get<std::string>(), Catch::Contains("dp32"));
  CHECK(answers[1]["step_s"].get<double>() < answers[0]["step_s"].get<double>());
  CHECK(answers[2].contains("reason"));  // 300 GPUs do not divide
}

TEST_CASE("a sweep gives the same answers from threads, from parts and after an interruption") {
  const Sweep sweep = small();
  const auto whole = run(sweep, {});
  for (const auto& a : whole) CHECK(a.contains("step_s"));
  // A faster network is not slower; more GPUs are faster.
  CHECK(whole[1]["step_s"].get<double>() <= whole[0]["step_s"].get<double>());
  CHECK(whole[2]["step_s"].get<double>() < whole[0]["step_s"].get<double>());
  CHECK(dump(run(sweep, {.threads = 3})) == dump(whole));

  const reckon_test::Folder folder;
  const std::string journal = (folder.path / "out.csv.partial").string();
  const auto first = run(sweep, {.journal = journal, .part = 1, .parts = 2});
  CHECK(first[0].is_null());
  CHECK(first[1] == whole[1]);
  const auto both = run(sweep, {.journal = journal, .part = 0, .parts = 2});
  CHECK(dump(both) == dump(whole));

  // Killed in the middle of a line: the rest is computed, and what is there is not touched.
  const std::string other = (folder.path / "b.csv.partial").string();
  run(sweep, {.journal = other});
  std::string text = read_file(other);
  std::size_t lines = 0, cut = 0;
  for (std::size_t i = 0; i < text.size() && lines < 3; ++i)
    if (text[i] == '\n') ++lines, cut = i + 1;
  text.resize(cut + 20);
  const std::string marked = "\"step_s\":";
  text.replace(text.find(marked), marked.size(), "\"marked\":1,\"step_s\":");
  std::ofstream(other) << text;
  const auto resumed = run(sweep, {.journal = other});
  CHECK(resumed[0]["marked"] == 1);  // read, not computed
  CHECK(resumed[3] == whole[3]);
  CHECK(dump(run(sweep, {.journal = other})) == dump(resumed));

  Sweep changed = sweep;
  changed.search = false;
  CHECK_THROWS_WITH(run(changed, {.journal = other}), Catch::Contains("another sweep"));
  remove_journals(other);
  CHECK_FALSE(std::filesystem::exists(other));
}

TEST_CASE("tables, CSV and chart scripts hold every point") {
  const Sweep sweep = small();
  const auto answers = run(sweep, {.threads = 2});
  const std::string csv = sweep_csv(sweep, answers);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 5);
  CHECK(csv.rfind("cluster.gpus,cluster.fabric.nic,plan,step_s,", 0) == 0);
  const std::string table = sweep_table(sweep, answers);
  CHECK(table.find("25 GB/s") != std::string::npos);
  const std::string chart = sweep_chart(sweep, answers, "gpu_hours", "x.svg");
  CHECK(chart.find("title \"nic 50 GB/s\"") != std::string::npos);
  CHECK(sweep_json(sweep, answers).size() == 4);
}

TEST_CASE("points that share bounds and blocks are answered as each alone, to the bit") {
  Sweep sweep = small();
  // Memory first: machines that can share lie apart, and come back.
  sweep.variations = {read_variation("cluster.gpu.memory=70,85 GB"),
                      read_variation("cluster.price_per_gpu_hour=2,3"),
                      read_variation("cluster.fabric.nic=25,50 GB/s")};
  std::vector<nlohmann::ordered_json> alone;
  for (const SweepPoint& point : points(sweep)) alone.push_back(answer_at(sweep, point));
  CHECK(alone[0] != alone[1]);
  CHECK(dump(run(sweep, {.threads = 1})) == dump(alone));
  CHECK(dump(run(sweep, {.threads = 3})) == dump(alone));
}

TEST_CASE("a sweep that is stopped keeps no answer that was cut short") {
  const Sweep sweep = small();
  std::atomic<bool> stop = false;
  const auto answers = run(
      sweep, {.threads = 2, .stop = &stop, .progress = [&](const SweepProgress&) { stop = true; }});
  std::size_t answered = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    if (answers[i].is_null()) continue;
    ++answered;
    CHECK(answers[i].dump() == answer_at(sweep, points(sweep)[i]).dump());
  }
  CHECK(answered >= 1);
  CHECK(answered < answers.size());
}

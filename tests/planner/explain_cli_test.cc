// `explain`, `codesign` and killed sweeps, from outside.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "tests/planner/program.h"

using namespace reckon_test;

namespace {

// A scenario whose search takes milliseconds.
std::string small_scenario(const Folder& folder,
                           const nlohmann::json& more = nlohmann::json::object()) {
  auto scenario = nlohmann::json::parse(contents(kScenarios + "qwen3-235b-256-h100.json"));
  scenario["search"] = {{"tp", {2, 4}},
                        {"pp", {8}},
                        {"micro_batch", {1}},
                        {"precision", {"bf16"}},
                        {"schedule", {"interleaved", "1F1B"}}};
  scenario.update(more);
  const std::string file = (folder.path / "scenario.json").string();
  std::ofstream(file) << scenario.dump(1);
  return file;
}

}  // namespace

TEST_CASE("explain: accounts that add up, elasticities, the ladder, rivals; the same in JSON") {
  const Folder folder;
  const std::string file = small_scenario(folder);
  const Outcome o = reckon("explain --json " + file);
  REQUIRE(o.code == 0);
  CHECK(o.err.empty());
  const auto json = nlohmann::json::parse(o.out);
  for (const char* account : {"critical_path_s", "mean_rank_s"}) {
    double sum = 0;
    for (const auto& part : json[account]) sum += part.get<double>();
    CHECK(sum == Approx(json["step_s"].get<double>()));
  }
  CHECK(json["found_by_search"] == true);
  CHECK(json["elasticities"]["nic_bandwidth"]["step_less_with_1_percent_more"] >= 0);
  CHECK(json["elasticities"].contains("memory"));
  CHECK(json["ladder"].size() > 3);
  REQUIRE(json["rivals"].size() >= 1);
  double difference = 0;
  for (const auto& part : json["rivals"][0]["difference_s"]) difference += part.get<double>();
  CHECK(difference ==
        Approx(json["rivals"][0]["step_s"].get<double>() - json["step_s"].get<double>()));

  const Outcome text = reckon("explain " + file);
  CHECK(text.code == 0);
  for (const char* part : {"The best plan", "critical path", "1 % more", "switched off",
                           "runner-up", "pipeline bubble"}) {
    CAPTURE(part);
    CHECK(text.out.find(part) != std::string::npos);
  }
  CHECK(reckon("explain --threads 1 " + file).out == reckon("explain --threads 3 " + file).out);

  const Outcome given = reckon("explain --given --json " + file);
  REQUIRE(given.code == 0);
  const auto own = nlohmann::json::parse(given.out);
  CHECK(own["found_by_search"] == false);
  CHECK(own["step_s"] == nlohmann::json::parse(reckon("simulate --json " + file).out)["step_s"]);
  CHECK(own["rivals"][0]["label"] == "best plan");
  CHECK(reckon("explain --given --plan x.json " + file).code == 2);
}

TEST_CASE("explain --why-not answers, and refuses what it does not understand") {
  const Folder folder;
  const std::string file = small_scenario(folder);
  const auto verdict = [&](const char* which, const std::string& fields) {
    const Outcome o = reckon("explain --json --why-not " + fields + " " + file);
    REQUIRE(o.code == 0);
    return nlohmann::json::parse(o.out)[which]["verdict"].get<std::string>();
  };
  CHECK(verdict("rest_as_in_best", "tp=3") == "illegal");
  CHECK(verdict("rest_searched", "schedule=GPipe,recompute=none") == "too large");
  CHECK(verdict("rest_searched", "recompute=full") == "slower");
  const Outcome text = reckon("explain --why-not recompute=full " + file);
  CHECK(text.out.find("Why not recompute=full?") != std::string::npos);
  const Outcome wrong = reckon("explain --why-not shedule=1F1B " + file);
  CHECK(wrong.code == 2);
  CHECK(wrong.out.empty());
  CHECK(wrong.err.find("did you mean \"schedule\"?") != std::string::npos);
}

TEST_CASE("explain of a scenario without any plan is an answer that is no") {
  const Folder folder;
  const std::string file = small_scenario(folder, {{"constraints", {{"memory_margin", "70 GiB"}}}});
  const Outcome o = reckon("explain " + file);
  CHECK(o.code == 1);
  CHECK(o.out.find("does not fit in memory") != std::string::npos);
}

TEST_CASE("codesign: every shape with its plan, as text, JSON, CSV and chart") {
  const Folder folder;
  const std::string file =
      small_scenario(folder, {{"codesign",
                               {{"shape", {{"top_k", {4, 8}}, {"expert_ffn", {1024, 1536}}}},
                                {"activated", {{"parameters", 22e9}, {"within", 0.35}}}}}});
  const std::string csv = (folder.path / "out.csv").string();
  const Outcome o = reckon("codesign " + file + " --output " + csv);
  CHECK(o.code == 0);
  CHECK(o.err.empty());
  CHECK(contents(csv).rfind("total_parameters,activated_parameters,", 0) == 0);
  CHECK_FALSE(std::filesystem::exists(csv + ".partial"));
  const Outcome one = reckon("codesign --json --threads 1 " + file);
  CHECK(one.out == reckon("codesign --json --threads 2 " + file).out);
  const auto json = nlohmann::json::parse(one.out);
  for (const auto& p : json["points"]) {
    const double activated = p["activated_parameters"].get<double>();
    CHECK(std::abs(activated - 22e9) <= 0.35 * 22e9);
  }
  CHECK(json["fronts"]["flops"].size() >= 1);
  CHECK(reckon("codesign " + kScenarios + "qwen3-235b-256-h100.json").code == 2);
}

// kill -9 in the middle: what was answered is kept and not computed again, the rest follows.
TEST_CASE("a sweep that was killed goes on where it stopped") {
  const Folder folder;
  const std::string file = small_scenario(folder);
  const std::string vary = " --threads 1 --vary cluster.fabric.nic=20..25+1\" GB/s\" ";
  const std::string csv = (folder.path / "out.csv").string(), journal = csv + ".partial";
  const auto answered = [&] {
    const std::string text = contents(journal);
    return std::max<long>(0, std::count(text.begin(), text.end(), '\n') - 1);
  };
  const pid_t child = ::fork();
  if (child == 0) {
    if (::freopen("/dev/null", "w", stdout) == nullptr) ::_exit(126);
    ::execl(RECKON_PROGRAM, "reckon", "sweep", file.c_str(), "--threads", "1", "--vary",
            "cluster.fabric.nic=20..25+1 GB/s", "--output", csv.c_str(), nullptr);
    ::_exit(127);
  }
  REQUIRE(child > 0);
  for (int i = 0; i < 60000 && answered() < 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(WTERMSIG(status) == SIGKILL);
  const long before = answered();
  REQUIRE(before >= 2);
  REQUIRE(before < 6);
  CHECK_FALSE(std::filesystem::exists(csv));

  // A mark in the first answer: were the point computed again, it would be gone.
  std::string text = contents(journal);
  const std::string figure = "\"gpu_hours\":";
  const std::size_t place = text.find(figure) + figure.size();
  text.replace(place, text.find_first_of(",}", place) - place, "123456789");
  std::ofstream(journal) << text;
  const Outcome resumed = reckon("sweep " + file + vary + "--output " + csv);
  CHECK(resumed.code == 0);
  CHECK_FALSE(std::filesystem::exists(journal));
  const std::string other = (folder.path / "whole.csv").string();
  REQUIRE(reckon("sweep " + file + vary + "--output " + other).code == 0);

  std::ifstream got(csv), whole(other);
  long differ = 0, lines = 0;
  for (std::string a, b; std::getline(got, a) && std::getline(whole, b); ++lines) {
    if (a == b) continue;
    ++differ;
    CHECK(a.find("123456789") != std::string::npos);
  }
  CHECK(lines == 7);
  CHECK(differ == 1);
}

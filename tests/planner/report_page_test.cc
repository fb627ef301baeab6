// Reports from outside: one file that needs no other, with the numbers of --json.
#include <catch2/catch.hpp>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/planner/program.h"

using namespace reckon_test;

namespace {

using nlohmann::json;

// The text between two marks; the whole must have the first once.
std::string between(const std::string& text, const std::string& begin, const std::string& end) {
  const std::size_t from = text.find(begin);
  REQUIRE(from != std::string::npos);
  CHECK(text.find(begin, from + 1) == std::string::npos);
  const std::size_t to = text.find(end, from);
  REQUIRE(to != std::string::npos);
  return text.substr(from + begin.size(), to - from - begin.size());
}

json content_of(const std::string& page) {
  return json::parse(
      between(page, "<script type=\"application/json\" id=\"content\">", "</script>"));
}

void check_page(const std::string& page) {
  CHECK(page.size() < 2'000'000);
  CHECK(page.starts_with("<!DOCTYPE html>"));
  CHECK(page.find("{{") == std::string::npos);
  // Nothing is fetched: no element refers to another file, and addresses are names of namespaces or
  // stand in licences.
  const auto each = [&](const std::string& mark, auto look) {
    for (std::size_t at = page.find(mark); at != std::string::npos; at = page.find(mark, at + 1))
      look(page.substr(at + mark.size(), 60));
  };
  for (const char* attribute : {" src=\"", " href=\"", "url("})
    each(attribute, [&](const std::string& target) {
      CAPTURE(target);
      CHECK((target.starts_with("data:") || target.starts_with("#")));
    });
  CHECK(page.find("@import") == std::string::npos);
  each("://", [](const std::string& target) {
    CAPTURE(target);
    CHECK((target.starts_with("www.w3.org/") || target.starts_with("d3js.org") ||
           target.starts_with("www.debian.org/doc/packaging-manuals/copyright-format/") ||
           target.starts_with("github.com/d3/") || target.starts_with("bost.ocks.org/mike")));
  });
}

bool near(double a, double b) {
  return std::abs(a - b) <= 1e-6 * std::max(std::abs(a), std::abs(b));
}

}  // namespace

TEST_CASE(
    "a report of simulate holds the numbers of --json, and a calendar that agrees with them") {
  const Folder folder;
  const std::string page_file = (folder.path / "out.html").string();
  const std::string scenario = RECKON_SOURCE "/scenarios/deepseek-v3-2048-h800.json";
  const Outcome o = reckon("simulate --json --report " + page_file + " " + scenario);
  REQUIRE(o.code == 0);
  CHECK(o.err.empty());
  const json answer = json::parse(o.out);
  const std::string page = contents(page_file);
  check_page(page);
  const json content = content_of(page);
  CHECK(content["answer"] == answer);
  CHECK(content["meets"] == true);

  // The calendar: as long as the step, stages without overlap, passes and waits as the phases say.
  const json& t = content["figures"]["timeline"];
  const double tick = t["tick_s"];
  CHECK(near(t["end"].get<double>() * tick + t["host_s"].get<double>(), answer["step_s"]));
  // DualPipe's ranks come in mirrored pairs, which do the same: one of each is shown.
  REQUIRE(2 * t["stages"].size() == answer["memory_GiB"].size());
  double pairs = 0;
  for (const json& stage : t["stages"]) {
    double before = 0;
    for (const json& slot : stage["slots"]) {
      CHECK(slot[2].get<double>() >= before);
      CHECK(slot[3] >= slot[2]);
      before = slot[3];
      if (slot[1] == 4) pairs += (slot[3].get<double>() - slot[2].get<double>()) * tick;
      const json& block = t["blocks"][slot[0].get<std::size_t>()];
      CHECK_FALSE(block["ops"].empty());
    }
    CHECK(stage["gradients"][0].get<double>() >= before);
    CHECK(stage["tail"][1] >= stage["gradients"][1]);  // where it waits for the last stage
    CHECK(stage["tail"][2] <= t["end"]);
  }
  // All stages of this pipeline have equally many ranks.
  CHECK(pairs / static_cast<double>(t["stages"].size()) ==
        Approx(answer["phases_s"]["FB"].get<double>()).epsilon(1e-5));

  // Memory: the highest of its points is the peak.
  for (const json& stage : content["figures"]["memory"]["stages"]) {
    double highest = 0;
    for (const json& point : stage["points"]) highest = std::max(highest, point[1].get<double>());
    double sum = highest / 1024;
    for (const char* cause : {"weights", "gradients", "optimizer", "buffers", "reserve"})
      sum += stage[cause].get<double>();
    CHECK(sum == Approx(stage["peak"].get<double>()).epsilon(1e-3));
  }

  // Roofline: no op beats its roof. The first runs of products are the model's flops, and somewhat
  // more: attention's backward repeats the scores, and the busiest rank has more tokens than most.
  const json& roof = content["figures"]["roofline"];
  double flops = 0;
  for (const json& op : roof["ops"]) {
    CAPTURE(op.dump());
    const double seconds = op["seconds"];
    if (seconds == 0) continue;
    CHECK(op["bytes"].get<double>() / seconds <= roof["memory_rate"].get<double>());
    if (op["flops"] > 0)
      CHECK(op["flops"].get<double>() / seconds <=
            roof["peaks"][op["dtype"].get<std::string>()].get<double>());
    if (op["recompute"] == false) flops += op["flops"].get<double>();
  }
  const double model_flops = answer["mfu"]["causal"].get<double>() *
                             roof["peaks"]["bf16"].get<double>() * answer["step_s"].get<double>();
  CHECK(flops > 0.99 * model_flops);
  CHECK(flops < 1.25 * model_flops);

  CHECK(content["figures"]["sensitivity"].size() >= 5);
  CHECK(content["figures"]["evidence"]["rows"].size() >= 9);
}

TEST_CASE("a report of plan holds the numbers of --json; text can't end its data early") {
  const Folder folder;
  // A scenario whose name would close the script element and open a comment.
  json scenario = json::parse(contents(RECKON_SOURCE "/scenarios/tiny-moe-2-cpu.json"));
  scenario["name"] = "</script><!-- {{STYLE}} \u2028 \"x\"";
  const std::string file = (folder.path / "scenario.json").string();
  std::ofstream(file) << scenario.dump();
  const std::string page_file = (folder.path / "out.html").string();
  const Outcome o = reckon("plan --json --report " + page_file + " " + file);
  CAPTURE(o.err);
  REQUIRE(o.code != 2);
  json answer = json::parse(o.out);
  answer["search"].erase("wall_s");
  std::string page = contents(page_file);
  const json content = content_of(page);
  CHECK(content["answer"] == answer);
  CHECK(content["title"] == scenario["name"]);
  const std::size_t stages = content["figures"]["timeline"]["stages"].size();
  CHECK(stages > 0);
  CHECK(stages <= answer["best"]["memory_GiB"].size());
  while (page.find("{{STYLE}}") != std::string::npos) page.erase(page.find("{{STYLE}}"), 9);
  check_page(page);

  REQUIRE(reckon("plan --threads 1 --report " + page_file + "2 " + file).code != 2);
  CHECK(contents(page_file + "2") == contents(page_file));
}

// A scenario whose search takes milliseconds.
std::string small_plan(const Folder& folder, json more = json::object()) {
  json scenario = json::parse(contents(kScenarios + "qwen3-235b-256-h100.json"));
  scenario["search"] = {{"tp", {2, 4}},
                        {"pp", {8}},
                        {"micro_batch", {1}},
                        {"precision", {"bf16"}},
                        {"schedule", {"interleaved", "1F1B"}}};
  scenario.update(more);
  std::ofstream(folder / "scenario.json") << scenario.dump();
  return folder / "scenario.json";
}

// What programs alone read is not in a page.
json without_plans(json points) {
  for (json& p : points) p["answer"].erase("plan_json");
  return points;
}

TEST_CASE("a report of explain has its accounts, which add up, and the ladder of --json") {
  const Folder folder;
  const std::string page_file = folder / "out.html";
  const Outcome o = reckon("explain --json --report " + page_file + " " + small_plan(folder));
  REQUIRE(o.code == 0);
  const json answer = json::parse(o.out);
  const std::string page = contents(page_file);
  check_page(page);
  const json content = content_of(page);
  CHECK(content["answer"] == answer);
  double path = 0, mean = 0;
  for (const json& c : content["figures"]["causes"]) {
    path += c["path_s"].get<double>();
    mean += c["mean_s"].get<double>();
  }
  CHECK(near(path, answer["step_s"]));
  CHECK(near(mean, answer["step_s"]));
  CHECK(near(content["figures"]["step"]["step_s"], answer["step_s"]));
  // The elasticities of the page are those of the answer, and more memory is one of them.
  CHECK(content["figures"]["sensitivity"].size() == answer["elasticities"].size());
  for (const json& e : content["figures"]["sensitivity"])
    CHECK(e["less"] ==
          answer["elasticities"][e["key"].get<std::string>()]["step_less_with_1_percent_more"]);
  // A question of another kind has no page.
  CHECK(reckon("explain --why-not tp=8 --report x.html " + (folder / "scenario.json")).code == 2);
}

TEST_CASE("reports of sweep and codesign hold the points of --json and where they stand") {
  const Folder folder;
  const std::string page_file = folder / "out.html", file = small_plan(folder);
  const Outcome sweep = reckon("sweep --json --report " + page_file + " " + file +
                               " --vary cluster.fabric.nic=\"25 GB/s\",\"50 GB/s\" "
                               "--vary cluster.gpus=256,257");
  REQUIRE(sweep.code == 0);
  std::string page = contents(page_file);
  check_page(page);
  json content = content_of(page);
  CHECK(content["answer"]["points"] == without_plans(json::parse(sweep.out)));
  const json& axes = content["figures"]["axes"];
  CHECK(axes["paths"] == json{"cluster.fabric.nic", "cluster.gpus"});
  CHECK(axes["labels"][3] == json{"50 GB/s", "257"});
  CHECK(axes["numbers"][3] == json{50.0, 257.0});
  CHECK(content["answer"]["points"][3]["answer"].contains("reason"));

  const std::string shapes =
      small_plan(folder, {{"codesign",
                           {{"shape", {{"top_k", {4, 8}}, {"expert_ffn", {1024, 1536}}}},
                            {"activated", {{"parameters", 22e9}, {"within", 0.35}}}}}});
  const Outcome codesign = reckon("codesign --json --report " + page_file + " " + shapes);
  REQUIRE(codesign.code == 0);
  page = contents(page_file);
  check_page(page);
  content = content_of(page);
  CHECK(content["answer"]["fronts"] == json::parse(codesign.out)["fronts"]);
  CHECK(content["figures"]["axes"]["labels"].size() == content["answer"]["points"].size());
}

TEST_CASE("a report that can't be written is bad input, before any work") {
  const Folder folder;
  for (const char* command :
       {"simulate", "plan", "explain", "sweep --vary cluster.gpus=2", "validate"}) {
    CAPTURE(command);
    const Outcome o = reckon(std::string(command) + " --report " + (folder / "no/out.html") + " " +
                             kScenarios + "tiny-moe-2-cpu.json");
    CHECK(o.code == 2);
    CHECK(o.out.empty());
    CHECK(o.err.find("out.html") != std::string::npos);
  }
  CHECK(std::filesystem::is_empty(folder.path));
}

#include <catch2/catch.hpp>

#include "planner/model_fields.h"
#include "planner/plan_json.h"
#include "planner/scenario_json.h"

using namespace reckon;
using namespace reckon::plan;
using Catch::Matchers::Contains;

namespace {

const std::string kFolder = RECKON_SOURCE_DIR "/scenarios/";

Scenario deepseek_with(const char* pointer, const nlohmann::json& value) {
  auto j = hw::read_json_file(kFolder + "deepseek-v3-2048-h800.json").root;
  j[nlohmann::json::json_pointer(pointer)] = value;
  return scenario_from_json(hw::parse_json("s.json", j.dump(2)));
}

}  // namespace

TEST_CASE("the DeepSeek-V3 scenario reads as published") {
  const Scenario s = read_scenario(kFolder + "deepseek-v3-2048-h800.json");
  CHECK(s.model.mtp_depth == 1);
  CHECK(s.cluster.gpus == 2048);
  CHECK(s.stack.name == "deepseek");
  REQUIRE(s.campaign.size() == 4);
  CHECK(s.campaign[0].tokens == 14.8e12);
  CHECK(s.campaign[0].batch_ramp_tokens == 469e9);
  CHECK(s.campaign[3].gpu_hours == 5000);
  CHECK(s.budget.days == 60.);
  REQUIRE(s.plan);
  CHECK(world_size(*s.plan) == 2048);
  CHECK(s.plan->schedule == ScheduleKind::DualPipe);
  CHECK(s.plan->recompute.modules == (kNorm | kActivation | kMlaUp));
  CHECK(s.plan->layout.size() == 16);
  CHECK(s.plan->layout.back().head);
}

TEST_CASE("a scenario written is read back the same") {
  const Scenario s = read_scenario(kFolder + "deepseek-v3-2048-h800.json");
  const std::string text = scenario_to_json(s).dump(2);
  const Scenario back = scenario_from_json(hw::parse_json("out.json", text));
  CHECK(scenario_to_json(back).dump(2) == text);
  CHECK(back.model == s.model);
  CHECK(back.plan == s.plan);
}

TEST_CASE("parts can start from a catalogue entry") {
  auto j = hw::read_json_file(kFolder + "deepseek-v3-2048-h800.json").root;
  j["plan"].erase("dp");
  j["cluster"] =
      nlohmann::json({{"base", "h800-2048"}, {"gpus", 1024}, {"fabric", {{"nic", "25 GB/s"}}}});
  const Scenario s = scenario_from_json(hw::parse_json("s.json", j.dump()));
  CHECK(s.cluster.gpus == 1024);
  CHECK(s.cluster.fabric.nic == 25 * GB / reckon::s);
  CHECK(s.cluster.node.nvlink == 200 * GB / reckon::s);
  CHECK(s.plan->dp == 64);
}

TEST_CASE("dp follows from the cluster") {
  auto plan = hw::read_json_file(kFolder + "deepseek-v3-2048-h800.json").root["plan"];
  plan.erase("dp");
  CHECK(deepseek_with("/plan", plan).plan->dp == 128);
}

TEST_CASE("a plan that is not the cluster is an error that names the key") {
  CHECK_THROWS_WITH(
      deepseek_with("/plan/dp", 64),
      Contains("/plan/dp: expected tp pp cp dp to multiply to the cluster's 2048 GPUs"));
  CHECK_THROWS_WITH(deepseek_with("/plan/ep", 48),
                    Contains("/plan/ep: expected ep etp to divide the 128 ranks"));
  CHECK_THROWS_WITH(deepseek_with("/plan/schedule", "dualpipe"),
                    Contains("did you mean \"DualPipe\"?"));
  CHECK_THROWS_WITH(deepseek_with("/model", "deepseek-v4"),
                    Contains("/model: ") && Contains("did you mean \"deepseek-v2\"?"));
  CHECK_THROWS_WITH(
      deepseek_with("/plan/layout", nlohmann::json::array({{{"first_layer", 0}, {"layers", 61}}})),
      Contains("pp * vpp = 16 chunks"));
}

TEST_CASE("degrees whose product overflows are refused like any other") {
  auto plan = hw::read_json_file(kFolder + "deepseek-v3-2048-h800.json").root["plan"];
  for (const char* key : {"tp", "pp", "cp", "dp"}) plan[key] = 1000000;
  CHECK_THROWS_WITH(deepseek_with("/plan", plan),
                    Contains("/plan/dp: expected tp pp cp dp to multiply"));
}

TEST_CASE("a layout that drops a layer is an error") {
  auto chunks = nlohmann::json::array();
  const Scenario s = read_scenario(kFolder + "deepseek-v3-2048-h800.json");
  for (const ChunkLayout& c : s.plan->layout)
    chunks.push_back(nlohmann::json::parse(hw::to_json(c).dump()));
  CHECK_NOTHROW(deepseek_with("/plan/layout", chunks));
  chunks[15]["layers"] = 2;
  CHECK_THROWS_WITH(deepseek_with("/plan/layout", chunks), Contains("add up to 61 layers, got 62"));
  chunks[15]["first_layer"] = 59;
  CHECK_THROWS_WITH(deepseek_with("/plan/layout", chunks), Contains("the next from layer 60"));
}

#include "planner/scenario_json.h"

#include <fmt/format.h>

#include <filesystem>

#include "planner/import_hf.h"
#include "planner/plan_json.h"
#include "planner/scenario_fields.h"

namespace reckon::plan {

void finish(const hw::Value& v, PhaseOfCampaign& p) {
  const bool predicted = p.gpu_hours == 0;
  const int lengths = (p.tokens > 0) + (p.steps > 0) + !predicted;
  if (lengths != 1)
    v.fail_got("exactly one of the keys \"tokens\", \"steps\", \"gpu_hours\"",
               fmt::format("{}", lengths));
  if (predicted && p.seq == 0)
    v.fail_got("the key \"seq\" (tokens per sequence)", "an object without it");
  if (predicted && p.global_batch == 0)
    v.fail_got("the key \"global_batch\" (sequences per step)", "an object without it");
  if ((p.batch_ramp_from > 0) != (p.batch_ramp_tokens > 0))
    v.fail_got("\"batch_ramp_from\" and \"batch_ramp_tokens\" together", "one of them");
  if (p.batch_ramp_from > p.global_batch)
    v.find("batch_ramp_from")->fail(fmt::format("at most the global batch {}", p.global_batch));
  if (p.batch_ramp_tokens > 0 && p.tokens > 0 && p.batch_ramp_tokens > p.tokens)
    v.find("batch_ramp_tokens")->fail("at most the tokens of the phase");
}

void finish(const hw::Value& v, SearchSpace& s) {
  if (!s.framework_version.empty()) {
    const hw::Value at = *v.find("framework_version");
    if (!s.target) at.fail("a \"target\" beside it");
    if (!launch::target_of(*s.target, s.framework_version)) at.fail(launch::versions_of(*s.target));
  }
  for (const auto& [key, list] : v.json().items())
    if (list.is_array() && list.empty())
      v.find(key)->fail("at least one value (leave the key out to try every legal one)");
}

void read_custom(const hw::Value& v, ModelPart& out, const hw::Rule&) {
  const auto path = v.json().is_object() ? v.find("hf_config") : std::nullopt;
  if (!path) {
    hw::read_value(v, out.model, {});
    return;
  }
  const std::filesystem::path file(hw::read_text(*path));
  const hw::Document config =
      hw::read_json_file((std::filesystem::path(v.document().file).parent_path() / file).string());
  out.model = import_hf(hw::Value(config));
  hw::read_fields(v, out.model, true, {"hf_config"});
}

hw::ordered_json write_custom(const ModelPart& part) {
  return hw::to_json(part.model);
}

void finish(const hw::Value& v, Scenario& s) {
  if (s.campaign.empty()) v.find("campaign")->fail("at least one phase");
  if (s.plan) complete_plan(*v.find("plan"), *s.plan, s.model, s.cluster);
  for (std::size_t i = 0; i < s.campaign.size(); ++i)
    if (auto& plan = s.campaign[i].plan)
      complete_plan(*v.find("campaign")->at(i).find("plan"), *plan, s.model, s.cluster);
}

Scenario scenario_from_json(const hw::Document& document) {
  Scenario s;
  hw::read_value(hw::Value(document), s, {});
  return s;
}

Scenario read_scenario(const std::string& path) {
  return scenario_from_json(hw::read_json_file(path));
}

hw::ordered_json scenario_to_json(const Scenario& scenario) {
  return hw::to_json(scenario);
}

}  // namespace reckon::plan

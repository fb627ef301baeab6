// Co-design: shapes keep to their targets, the front is what no point beats, and all of it is what
// brute force finds.
#include "planner/codesign.h"

#include <catch2/catch.hpp>
#include <map>
#include <random>
#include <set>

#include "planner/bill.h"
#include "planner/codesign_report.h"
#include "planner/plan_json.h"
#include "planner/scenario_json.h"
#include "planner/search.h"
#include "tests/planner/scenarios.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

// Qwen3-235B with a search of milliseconds.
hw::Document small_codesign(const nlohmann::json& codesign) {
  hw::Document d = hw::read_json_file(test::kScenarios + "qwen3-235b-256-h100.json");
  d.root["search"] = {{"tp", {2}},
                      {"pp", {8}},
                      {"micro_batch", {1}},
                      {"precision", {"bf16"}},
                      {"schedule", {"interleaved"}}};
  d.root["codesign"] = codesign;
  return hw::parse_json(d.file, d.root.dump(1));
}

const nlohmann::json kShape = {{"layers", {78, 94}},
                               {"hidden", {3584, 4096}},
                               {"experts", {64, 128, 100}},
                               {"top_k", {4, 8}},
                               {"expert_ffn", {1280, 1536, 2048, 2560}}};

bool beaten(std::size_t i, const std::vector<double>& value,
            const std::vector<std::optional<double>>& cost) {
  for (std::size_t j = 0; j < value.size(); ++j)
    if (cost[j] && value[j] >= value[i] && *cost[j] <= *cost[i] &&
        (value[j] > value[i] || *cost[j] < *cost[i]))
      return true;
  return false;
}

}  // namespace

TEST_CASE("the front is the set of points that no point beats") {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    // Few different values: many ties.
    std::vector<double> value;
    std::vector<std::optional<double>> cost;
    for (int i = 0; i < 30; ++i) {
      value.push_back(static_cast<double>(random() % 6));
      cost.push_back(random() % 8 == 0 ? std::nullopt
                                       : std::optional(static_cast<double>(random() % 6)));
    }
    std::set<std::size_t> expected;
    for (std::size_t i = 0; i < value.size(); ++i)
      if (cost[i] && !beaten(i, value, cost)) expected.insert(i);
    const auto front = pareto_front(value, cost);
    CHECK(std::set<std::size_t>(front.begin(), front.end()) == expected);
    for (std::size_t k = 1; k < front.size(); ++k) CHECK(value[front[k - 1]] <= value[front[k]]);
  }
}

TEST_CASE("shapes keep to their parameter targets, and every one that does is there") {
  const double total = 235e9, activated = 22e9, within = 0.08;
  const hw::Document d =
      small_codesign({{"shape", kShape},
                      {"total", {{"parameters", total}, {"within", within}}},
                      {"activated", {{"parameters", activated}, {"within", within}}}});
  const Codesign c = codesign(d, {});
  CHECK(c.shapes == 2 * 2 * 3 * 2 * 4);

  // By hand: the same grid, each count from the formulas' own table of tensors.
  const ModelShape base = scenario_from_json(d).model;
  std::set<std::vector<int>> expected;
  for (const int layers : {78, 94})
    for (const int hidden : {3584, 4096})
      for (const int experts : {64, 128, 100})
        for (const int top_k : {4, 8})
          for (const int ffn : {1280, 1536, 2048, 2560}) {
            ModelShape m = base;
            m.layers = layers;
            m.hidden = hidden;
            m.moe->layers.assign(static_cast<std::size_t>(layers), true);
            m.moe->experts = experts;
            m.moe->top_k = top_k;
            m.moe->ffn = ffn;
            const double all = static_cast<double>(parameters(m).total(false));
            const double used = static_cast<double>(activated_parameters(m));
            if (std::abs(all - total) <= within * total &&
                std::abs(used - activated) <= within * activated)
              expected.insert({layers, hidden, experts, top_k, ffn});
          }
  REQUIRE(expected.size() >= 2);
  std::set<std::vector<int>> kept;
  for (std::size_t i = 0; i < c.sweep.chosen.size(); ++i) {
    std::vector<int> values;
    for (const auto& v : c.sweep.chosen[i]) values.push_back(v.get<int>());
    kept.insert(values);
    const ModelShape m = scenario_from_json(scenario_at(c.sweep, c.sweep.chosen[i])).model;
    CHECK(c.figures[i].total == parameters(m).total(false));
    CHECK(c.figures[i].activated == activated_parameters(m));
    CHECK(c.figures[i].per_token == train_flops_per_token(m, 4096, true));
  }
  CHECK(kept == expected);
  CHECK(c.kept == expected.size());
  std::size_t dropped = 0;
  for (const auto& [why, n] : c.dropped) dropped += n;
  CHECK(dropped + c.kept == c.shapes);
}

TEST_CASE("of shapes that differ in one part alone, the nearest to the targets stays") {
  nlohmann::json spec = {{"shape", kShape}, {"activated", {{"parameters", 22e9}, {"within", 0.3}}}};
  const Codesign all = codesign(small_codesign(spec), {});
  spec["nearest"] = "expert_ffn";
  const Codesign nearest = codesign(small_codesign(spec), {});
  const auto others = [](SweepPoint p) {
    p.back() = nullptr;  // the expert's width is the last of the shape's parts here
    return nlohmann::json(p).dump();
  };
  REQUIRE(all.sweep.variations.back().path == "model.moe.ffn");
  const auto off = [](const ShapeFigures& f) {
    return std::abs(static_cast<double>(f.activated) / 22e9 - 1);
  };
  std::map<std::string, double> best;
  for (std::size_t i = 0; i < all.figures.size(); ++i) {
    const auto [it, fresh] = best.try_emplace(others(all.sweep.chosen[i]), off(all.figures[i]));
    it->second = std::min(it->second, off(all.figures[i]));
  }
  REQUIRE(nearest.figures.size() == best.size());
  CHECK(nearest.figures.size() < all.figures.size());
  for (std::size_t i = 0; i < nearest.figures.size(); ++i)
    CHECK(off(nearest.figures[i]) == best.at(others(nearest.sweep.chosen[i])));
}

TEST_CASE("a co-design is what searching every shape on every machine finds") {
  const hw::Document d = small_codesign(
      {{"shape", {{"top_k", {4, 8}}, {"limited_groups", {1}}, {"mtp_depth", {0, 1}}}},
       {"hardware", {{"gpus", {128, 256}}, {"nic", {"25 GB/s"}}}}});
  const Codesign c = codesign(d, {});
  REQUIRE(c.sweep.chosen.size() == 8);
  const auto answers = run(c.sweep, {.threads = 2});

  // By hand, without any JSON.
  std::vector<double> flops, total;
  std::vector<std::optional<double>> cost;
  std::size_t i = 0;
  for (const int gpus : {128, 256})
    for (const int top_k : {4, 8})
      for (const int mtp : {0, 1}) {
        Scenario s = scenario_from_json(d);
        s.plan.reset();
        for (auto& phase : s.campaign) phase.plan.reset();
        s.cluster.gpus = gpus;
        s.cluster.fabric.nic = BytesPerSecond(25e9);
        s.model.moe->top_k = top_k;
        s.model.mtp_depth = mtp;
        const StepShape step = step_shape(s.campaign[0]);
        const SearchResult found = search(s, step, {.keep = 1});
        flops.push_back(train_flops_per_token(s.model, step.seq, true).si);
        total.push_back(static_cast<double>(parameters(s.model).total(false)));
        CAPTURE(gpus, top_k, mtp);
        if (found.best.empty()) {
          CHECK_FALSE(answers[i].contains("plan"));
          cost.emplace_back();
        } else {
          CHECK(answers[i]["step_s"] == found.best.front().prediction.step.si);
          CHECK(answers[i]["plan_json"] == plan_to_json(found.best.front().plan));
          Predictor predictor(s.model, s.cluster, s.stack);
          const auto bill =
              predicted_bill(s, plans_of_phases(s, found.best.front().plan), predictor);
          cost.push_back(std::get<Bill>(bill).gpu_hours);
          CHECK(answers[i]["gpu_hours"] == *cost.back());
        }
        CHECK(c.figures[i].per_token.si == flops.back());
        ++i;
      }
  const CodesignFronts f = fronts(c, answers, CostMetric::GpuHours);
  const auto unbeaten = [&](const std::vector<double>& value) {
    std::set<std::size_t> s;
    for (std::size_t k = 0; k < value.size(); ++k)
      if (cost[k] && !beaten(k, value, cost)) s.insert(k);
    return s;
  };
  CHECK(std::set<std::size_t>(f.flops.begin(), f.flops.end()) == unbeaten(flops));
  CHECK(std::set<std::size_t>(f.total.begin(), f.total.end()) == unbeaten(total));
  CHECK_FALSE(f.flops.empty());

  // The reports hold every point, and the marks of the front.
  const std::string csv = codesign_csv(c, answers, CostMetric::GpuHours);
  CHECK(std::count(csv.begin(), csv.end(), '\n') == 9);
  const auto json = codesign_json(c, answers, CostMetric::GpuHours);
  CHECK(json["points"].size() == 8);
  CHECK(json["fronts"]["flops"].size() == f.flops.size());
  CHECK(codesign_text(c, answers, CostMetric::GpuHours).find("front") != std::string::npos);
  CHECK(codesign_chart(c, answers, CostMetric::GpuHours, "x.svg").find("$front") !=
        std::string::npos);
}

TEST_CASE("what is wrong with a co-design is an error with its place") {
  const std::tuple<nlohmann::json, const char*> wrong[] = {
      {{{"shape", {{"expert", {1}}}}}, "experts"},
      {{{"shape", nlohmann::json::object()}}, "/codesign/shape"},
      {{{"shape", {{"layers", nlohmann::json::array()}}}}, "at least one value"},
      {{{"shape", {{"layers", {4}}}}, {"nearest", "layers"}}, "total"},
      {{{"shape", {{"layers", {4}}}}, {"nearest", "hidden"}, {"total", {{"parameters", 1e9}}}},
       "varies"},
      {{{"shape", {{"layers", {4}}}}, {"hardware", {{"gpu", {"H80"}}}}}, "H800"},
      {{{"shape", {{"layers", {4}}}}, {"hardware", {{"nic", {"50"}}}}}, "/codesign/hardware/nic/0"},
      {{{"shape", {{"layers", {94}}}}, {"total", {{"parameters", 1e9}}}}, "none of the 1 shapes"},
  };
  for (const auto& [spec, says] : wrong) {
    CAPTURE(spec.dump());
    CHECK_THROWS_WITH(codesign(small_codesign(spec), {}), Catch::Contains(says));
  }
  CHECK_THROWS_WITH(codesign(hw::read_json_file(test::kScenarios + "qwen3-235b-256-h100.json"), {}),
                    Catch::Contains("codesign"));
}

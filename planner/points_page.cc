#include "planner/points_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <set>

#include "planner/report.h"
#include "planner/sweep_report.h"

namespace reckon::plan {

namespace {

bool has(const nlohmann::ordered_json& answer, const char* key) {
  return answer.is_object() && answer.contains(key);
}

// The points without what only a program reads: a page of 10,000 of them stays below 2 MB.
void strip_plans(nlohmann::ordered_json& points) {
  for (auto& p : points)
    if (p["answer"].is_object()) p["answer"].erase("plan_json");
}

// {paths, titles, one_at_a_time, labels [[of each value]...], numbers [[or null]...]} of each
// point.
nlohmann::ordered_json axes(const Sweep& sweep) {
  nlohmann::ordered_json out = {{"paths", nlohmann::ordered_json::array()},
                                {"titles", titles(sweep)},
                                {"one_at_a_time", sweep.one_at_a_time},
                                {"labels", nlohmann::ordered_json::array()},
                                {"numbers", nlohmann::ordered_json::array()}};
  for (const Variation& v : sweep.variations) out["paths"].push_back(v.path);
  std::vector<std::set<std::string>> units(sweep.variations.size());
  for (const SweepPoint& point : points(sweep)) {
    auto labels = nlohmann::ordered_json::array(), numbers = nlohmann::ordered_json::array();
    for (std::size_t k = 0; k < point.size(); ++k) {
      const std::string text = value_text(point[k]);
      char* end = nullptr;
      const double number = std::strtod(text.c_str(), &end);  // "25 GB/s": in the text's own unit
      if (end != text.c_str()) units[k].insert(end);
      labels.push_back(text);
      numbers.push_back(end == text.c_str() ? nlohmann::ordered_json()
                                            : nlohmann::ordered_json(number));
    }
    out["labels"].push_back(std::move(labels));
    out["numbers"].push_back(std::move(numbers));
  }
  for (auto& numbers : out["numbers"])
    for (std::size_t k = 0; k < units.size(); ++k)
      if (units[k].size() > 1) numbers[k] = nullptr;  // "500 GB/s" and "1 TB/s" share no axis
  return out;
}

std::string name_of(const Sweep& sweep) {
  const auto& root = sweep.scenario.root;
  return root.contains("name") && root["name"].is_string() ? root["name"].get<std::string>()
                                                           : sweep.scenario.file;
}

std::string point_text(const Sweep& sweep, std::size_t i) {
  const SweepPoint point = points(sweep)[i];
  const std::vector<std::string> names = titles(sweep);
  std::string out;
  for (std::size_t k = 0; k < point.size(); ++k)
    if (!point[k].is_null())
      out += fmt::format("{}{} {}", out.empty() ? "" : ", ", names[k], value_text(point[k]));
  return out.empty() ? "the scenario as it is" : out;
}

// Whether some point meets the budget; nothing where there is none.
std::optional<bool> any_meets(const Answers& answers) {
  std::optional<bool> meets;
  for (const auto& a : answers)
    if (has(a, "meets_budget")) meets = meets.value_or(false) || a["meets_budget"].get<bool>();
  return meets;
}

}  // namespace

PageContent sweep_page(const Sweep& sweep, const Answers& answers, const std::string& metric) {
  std::size_t planned = 0, met = 0, cheapest = answers.size();
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const auto& a = answers[i];
    planned += has(a, "plan");
    met += has(a, "meets_budget") && a["meets_budget"].get<bool>();
    if (!has(a, "gpu_hours") || (has(a, "fits") && !a["fits"].get<bool>())) continue;
    if (cheapest == answers.size() ||
        a["gpu_hours"].get<double>() < answers[cheapest]["gpu_hours"].get<double>())
      cheapest = i;
  }
  PageContent page{
      .command = "sweep",
      .title = name_of(sweep),
      .headline = fmt::format("{} points over {}", answers.size(), fmt::join(titles(sweep), ", ")),
      .meets = any_meets(answers),
      .answer = {{"points", sweep_json(sweep, answers)}}};
  page.verdict = planned == 0 ? "No point has a plan that runs."
                 : page.meets ? fmt::format("{} of {} points meet the budget.",
                                            met == 0 ? "None" : grouped(static_cast<double>(met)),
                                            answers.size())
                 : planned == answers.size()
                     ? "Every point has a plan."
                     : fmt::format("{} of {} points have a plan.", planned, answers.size());
  if (cheapest < answers.size())
    page.verdict += fmt::format(" Fewest GPU-hours: {} ({}).",
                                grouped(answers[cheapest]["gpu_hours"].get<double>()),
                                point_text(sweep, cheapest));
  if (planned == 0) page.meets = false;
  strip_plans(page.answer["points"]);
  page.figures["axes"] = axes(sweep);
  page.figures["metric"] = metric;
  return page;
}

PageContent codesign_page(const Codesign& c, const Answers& answers, CostMetric metric) {
  PageContent page{
      .command = "codesign",
      .title = name_of(c.sweep),
      .headline = fmt::format("{} shapes, of which {} keep to the targets; {} points with machines",
                              grouped(static_cast<double>(c.shapes)), c.kept, answers.size()),
      .meets = any_meets(answers),
      .verdict = codesign_verdict(c, answers, metric),
      .answer = codesign_json(c, answers, metric)};
  if (fronts(c, answers, metric).flops.empty()) page.meets = false;
  strip_plans(page.answer["points"]);
  page.figures["axes"] = axes(c.sweep);
  page.figures["cost"] = metric == CostMetric::GpuHours ? "gpu_hours"
                         : metric == CostMetric::Days   ? "days"
                                                        : "money";
  return page;
}

}  // namespace reckon::plan

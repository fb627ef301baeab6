#include "planner/codesign_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "planner/gnuplot.h"
#include "planner/report.h"
#include "planner/sweep_report.h"
#include "planner/table.h"

namespace reckon::plan {

namespace {

constexpr std::size_t kPointRows = 40;  // points in the text; all are in the files

const char* cost_title(CostMetric m) {
  return m == CostMetric::GpuHours ? "GPU-hours" : m == CostMetric::Days ? "days" : "money";
}

// Which fronts each point is on: F(lops), A(ctivated), T(otal).
std::vector<std::string> marks(const Codesign& c, const Answers& answers, CostMetric metric) {
  const CodesignFronts f = fronts(c, answers, metric);
  std::vector<std::string> out(answers.size());
  for (const auto& [front, mark] :
       {std::pair(&f.flops, 'F'), std::pair(&f.activated, 'A'), std::pair(&f.total, 'T')})
    for (const std::size_t i : *front) out[i] += mark;
  return out;
}

bool met(const nlohmann::ordered_json& a) {
  return a.is_object() && a.contains("meets_budget") && a["meets_budget"].get<bool>();
}

std::string shape_text(const Codesign& c, std::size_t i) {
  std::string out;
  const std::vector<std::string> names = titles(c.sweep);
  for (std::size_t k = 0; k < names.size(); ++k)
    out += fmt::format("{}{} {}", k > 0 ? ", " : "", names[k], value_text(c.sweep.chosen[i][k]));
  return out;
}

}  // namespace

std::string codesign_verdict(const Codesign& c, const Answers& answers, CostMetric metric) {
  const CodesignFronts f = fronts(c, answers, metric);
  if (f.flops.empty()) return "No shape has a plan that runs and fits.";
  const bool budget = std::any_of(answers.begin(), answers.end(), [](const auto& a) {
    return a.is_object() && a.contains("meets_budget");
  });
  const auto point = [&](std::size_t i) {
    const double v = *cost_of(answers[i], metric);
    return fmt::format("{} ({}), {} {}.", short_count(c.figures[i].per_token.si), shape_text(c, i),
                       metric == CostMetric::Days ? days_text(v) : grouped(v), cost_title(metric));
  };
  if (!budget) return "No budget is given. Most flops per token: " + point(f.flops.back());
  for (auto it = f.flops.rbegin(); it != f.flops.rend(); ++it)
    if (met(answers[*it])) return "Most training flops per token within the budget: " + point(*it);
  return "NO SHAPE MEETS THE BUDGET. The cheapest: " + point(f.flops.front());
}

std::string codesign_text(const Codesign& c, const Answers& answers, CostMetric metric) {
  std::string out = fmt::format("{} shapes, of which {} stay; {} points with their machines\n",
                                grouped(static_cast<double>(c.shapes)), c.kept, answers.size());
  for (const auto& [why, n] : c.dropped)
    out += fmt::format("  {} dropped: {}\n", grouped(static_cast<double>(n)), why);
  out += "\n" + wrapped(codesign_verdict(c, answers, metric), 0) + "\n";

  Table t;
  for (const std::string& title : titles(c.sweep)) t.columns.push_back({title});
  for (const char* title : {"total", "activated", "flops/token"}) t.columns.push_back({title});
  t.columns.push_back({"plan", Align::Left});
  for (const char* title : {"step", "GPU-hours", "days"}) t.columns.push_back({title});
  const bool money = std::any_of(answers.begin(), answers.end(), [](const auto& a) {
    return a.is_object() && a.contains("money");
  });
  if (money) t.columns.push_back({"money"});
  t.columns.push_back({"budget", Align::Left});
  t.columns.push_back({"front", Align::Left});

  const std::vector<std::string> on = marks(c, answers, metric);
  std::vector<std::size_t> order(answers.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  // Those of a front first, by flops.
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(on[a].empty(), c.figures[a].per_token.si) <
           std::pair(on[b].empty(), c.figures[b].per_token.si);
  });
  const std::size_t shown = std::min(kPointRows, order.size());
  for (std::size_t k = 0; k < shown; ++k) {
    const std::size_t i = order[k];
    const auto& a = answers[i];
    std::vector<std::string> row;
    for (const auto& v : c.sweep.chosen[i]) row.push_back(value_text(v));
    const ShapeFigures& f = c.figures[i];
    row.push_back(short_count(static_cast<double>(f.total)));
    row.push_back(short_count(static_cast<double>(f.activated)));
    row.push_back(short_count(f.per_token.si));
    row.push_back(a.is_null()          ? "(not computed yet)"
                  : a.contains("plan") ? a["plan"].get<std::string>()
                                       : "no: " + a["reason"].get<std::string>());
    const auto cell = [&](const char* key, auto text) {
      row.push_back(a.is_object() && a.contains(key) ? text(a[key].get<double>()) : "");
    };
    cell("step_s", [](double v) { return duration(Seconds(v)); });
    cell("gpu_hours", [](double v) { return grouped(v); });
    cell("days", [](double v) { return days_text(v); });
    if (money) cell("money", [](double v) { return grouped(v); });
    row.push_back(!a.is_object() || !a.contains("meets_budget") ? "" : met(a) ? "met" : "not met");
    row.push_back(on[i]);
    t.rows.push_back(std::move(row));
  }
  out += text(t);
  if (shown < order.size())
    out += fmt::format("  and {} more (--output has all)\n", order.size() - shown);
  return out + wrapped(fmt::format("On a front, no other point has more for less {}: F flops per "
                                   "token, A activated, T total parameters.",
                                   cost_title(metric)));
}

nlohmann::ordered_json codesign_json(const Codesign& c, const Answers& answers, CostMetric metric) {
  nlohmann::ordered_json out = {{"shapes", c.shapes},
                                {"dropped", nlohmann::ordered_json::object()}};
  for (const auto& [why, n] : c.dropped) out["dropped"][why] = n;
  const CodesignFronts f = fronts(c, answers, metric);
  out["cost"] = cost_title(metric);
  out["fronts"] = {{"flops", f.flops}, {"activated", f.activated}, {"total", f.total}};
  out["points"] = sweep_json(c.sweep, answers);
  for (std::size_t i = 0; i < c.figures.size(); ++i)
    out["points"][i].update({{"total_parameters", c.figures[i].total},
                             {"activated_parameters", c.figures[i].activated},
                             {"train_flops_per_token", c.figures[i].per_token.si}});
  return out;
}

std::string codesign_csv(const Codesign& c, const Answers& answers, CostMetric metric) {
  // The sweep's table with figures of the shapes before it.
  const std::string rows = sweep_csv(c.sweep, answers);
  const std::vector<std::string> on = marks(c, answers, metric);
  std::string out;
  std::size_t from = 0;
  for (std::size_t line = 0; from < rows.size(); ++line) {
    const std::size_t end = rows.find('\n', from);
    if (line == 0)
      out += "total_parameters,activated_parameters,train_flops_per_token,fronts,";
    else
      out += fmt::format("{},{},{},{},", c.figures[line - 1].total, c.figures[line - 1].activated,
                         c.figures[line - 1].per_token.si, on[line - 1]);
    out += rows.substr(from, end - from + 1);
    from = end + 1;
  }
  return out;
}

std::string codesign_chart(const Codesign& c, const Answers& answers, CostMetric metric,
                           const std::string& file) {
  const CodesignFronts f = fronts(c, answers, metric);
  std::string script = fmt::format(
      "set terminal svg size 900,540 font \"sans,14\" background \"white\"\n"
      "set output \"{}\"\nset colorsequence podo\nset termoption noenhanced\n"
      "set grid\nset key outside below\nset xlabel \"{}\"\nset ylabel \"training flops per "
      "token\"\n"
      "set format \"%.3s%c\"\n",
      gnuplot_text(file), cost_title(metric));
  const auto data = [&](const char* name, auto each) {
    script += fmt::format("${} << END_OF_DATA\n", name);
    each([&](std::size_t i) {
      if (const auto cost = cost_of(answers[i], metric))
        script += fmt::format("{} {}\n", *cost, c.figures[i].per_token.si);
    });
    script += "END_OF_DATA\n";
  };
  std::size_t within = 0, beyond = 0;
  data("met", [&](auto add) {
    for (std::size_t i = 0; i < answers.size(); ++i)
      if (met(answers[i])) add(i), ++within;
  });
  data("others", [&](auto add) {
    for (std::size_t i = 0; i < answers.size(); ++i)
      if (!met(answers[i]) && cost_of(answers[i], metric)) add(i), ++beyond;
  });
  data("front", [&](auto add) {
    for (const std::size_t i : f.flops) add(i);
  });
  std::string plots;
  const auto plot = [&](bool any, const char* what) {
    if (any) plots += (plots.empty() ? "" : ", ") + std::string(what);
  };
  plot(beyond > 0, "$others with points pt 6 lc 1 title \"points\"");
  plot(within > 0, "$met with points pt 7 lc 3 title \"within the budget\"");
  plot(!f.flops.empty(), "$front with steps lw 2 lc 2 title \"front\"");
  return script + "plot " + (plots.empty() ? "NaN notitle" : plots) + "\n";
}

}  // namespace reckon::plan

#include "planner/sweep_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>

#include "planner/gnuplot.h"
#include "planner/report.h"
#include "planner/table.h"

namespace reckon::plan {

namespace {

using Answers = std::vector<nlohmann::ordered_json>;

constexpr const char* kFigures[] = {"step_s", "gpu_hours",       "days",
                                    "money",  "peak_memory_GiB", "mfu"};

std::optional<double> figure(const nlohmann::ordered_json& answer, const char* key) {
  if (!answer.is_object() || !answer.contains(key)) return std::nullopt;
  return answer[key].get<double>();
}

const char* axis_title(const std::string& metric) {
  return metric == "gpu_hours"         ? "GPU-hours"
         : metric == "step_s"          ? "step (s)"
         : metric == "peak_memory_GiB" ? "peak memory (GiB)"
         : metric == "mfu"             ? "model flops utilisation"
                                       : metric.c_str();
}

std::string csv_word(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  std::string out = "\"";
  for (char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + "\"";
}

}  // namespace

std::string value_text(const nlohmann::json& v) {
  if (v.is_null()) return "-";
  return v.is_string() ? v.get<std::string>() : v.dump();
}

std::vector<std::string> titles(const Sweep& sweep) {
  std::vector<std::string> names;
  for (const Variation& v : sweep.variations) {
    const std::string last = v.path.substr(v.path.rfind('.') + 1);
    const auto same = std::count_if(
        sweep.variations.begin(), sweep.variations.end(),
        [&](const Variation& o) { return o.path.substr(o.path.rfind('.') + 1) == last; });
    names.push_back(same > 1 ? v.path : last);
  }
  return names;
}

std::string sweep_table(const Sweep& sweep, const Answers& answers) {
  Table t;
  for (const std::string& title : titles(sweep)) t.columns.push_back({title, Align::Right});
  t.columns.push_back({"plan", Align::Left});
  const char* heads[] = {"step", "GPU-hours", "days", "money", "memory"};
  bool money = false, budget = false;
  for (const auto& a : answers) {
    money = money || figure(a, "money");
    budget = budget || (a.is_object() && a.contains("meets_budget"));
  }
  for (const char* head : heads)
    if (std::string(head) != "money" || money) t.columns.push_back({head, Align::Right});
  if (budget) t.columns.push_back({"budget", Align::Left});

  const auto all = points(sweep);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& a = answers[i];
    std::vector<std::string> row;
    for (const auto& v : all[i]) row.push_back(value_text(v));
    const auto cell = [&](const char* key, auto text) {
      const auto f = figure(a, key);
      row.push_back(f ? text(*f) : "");
    };
    row.push_back(a.is_null()          ? "(not computed yet)"
                  : a.contains("plan") ? a["plan"].get<std::string>()
                                       : "no: " + a["reason"].get<std::string>());
    cell("step_s", [](double v) { return duration(Seconds{v}); });
    cell("gpu_hours", [](double v) { return grouped(v); });
    cell("days", [](double v) { return days_text(v); });
    if (money) cell("money", [](double v) { return grouped(v); });
    const bool fits = !a.is_object() || !a.contains("fits") || a["fits"].get<bool>();
    cell("peak_memory_GiB",
         [&](double v) { return fmt::format("{:.1f} GiB{}", v, fits ? "" : ", too much"); });
    if (budget)
      row.push_back(!a.is_object() || !a.contains("meets_budget") ? ""
                    : a["meets_budget"].get<bool>()               ? "met"
                                                                  : "not met");
    t.rows.push_back(std::move(row));
  }
  return text(t);
}

std::string sweep_csv(const Sweep& sweep, const Answers& answers) {
  std::string out;
  for (const Variation& v : sweep.variations) out += csv_word(v.path) + ",";
  out += "plan";
  for (const char* key : kFigures) out += fmt::format(",{}", key);
  out += ",fits,meets_budget,reason\n";
  const auto all = points(sweep);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& a = answers[i];
    for (const auto& v : all[i]) out += csv_word(v.is_null() ? "" : value_text(v)) + ",";
    const auto word = [&](const char* key) {
      return a.is_object() && a.contains(key) ? csv_word(value_text(a[key])) : "";
    };
    out += word("plan");
    for (const char* key : kFigures) out += "," + word(key);
    out += "," + word("fits") + "," + word("meets_budget") + "," + word("reason") + "\n";
  }
  return out;
}

nlohmann::ordered_json sweep_json(const Sweep& sweep, const Answers& answers) {
  auto rows = nlohmann::ordered_json::array();
  const auto all = points(sweep);
  for (std::size_t i = 0; i < all.size(); ++i) {
    nlohmann::ordered_json row;
    for (std::size_t k = 0; k < all[i].size(); ++k)
      row["values"][sweep.variations[k].path] = all[i][k];
    row["answer"] = answers[i];
    rows.push_back(row);
  }
  return rows;
}

std::string sweep_chart(const Sweep& sweep, const Answers& answers, const std::string& metric,
                        const std::string& file) {
  const auto all = points(sweep);
  const std::vector<std::string> names = titles(sweep);
  const auto named = [&](std::size_t k, const nlohmann::json& v) {
    return fmt::format("{} {}", names[k], value_text(v));
  };
  // Where each point stands on the axis, and to which line it belongs.
  std::vector<std::string> x(all.size()), line(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (sweep.one_at_a_time) {
      x[i] = "as given";
      for (std::size_t k = 0; k < all[i].size(); ++k)
        if (!all[i][k].is_null()) x[i] = named(k, all[i][k]);
      continue;
    }
    x[i] = value_text(all[i][0]);
    for (std::size_t k = 1; k < all[i].size(); ++k)
      line[i] += (k > 1 ? ", " : "") + named(k, all[i][k]);
  }
  // Numbers (with their units) along the axis where all of them are, else places in their order.
  const auto number = [](const std::string& text) -> std::optional<double> {
    char* end = nullptr;
    const double v = std::strtod(text.c_str(), &end);
    return end == text.c_str() ? std::nullopt : std::optional(v);
  };
  const bool numeric = std::all_of(x.begin(), x.end(), [&](const auto& t) { return number(t); });
  double least = 0, most = 0;
  std::vector<std::string> places, order;
  std::map<std::string, std::string> series;
  for (std::size_t i = 0; i < all.size(); ++i) {
    auto place = std::find(places.begin(), places.end(), x[i]);
    if (place == places.end()) place = places.insert(place, x[i]);
    const double at = numeric ? *number(x[i]) : static_cast<double>(place - places.begin());
    least = i == 0 ? at : std::min(least, at);
    most = i == 0 ? at : std::max(most, at);
    if (series.emplace(line[i], "").second) order.push_back(line[i]);
    if (const auto y = figure(answers[i], metric.c_str()))
      series[line[i]] += fmt::format("{} {}\n", at, *y);
  }

  std::string script = fmt::format(
      "set terminal svg size 900,540 font \"sans,14\" background \"white\"\n"
      "set output \"{}\"\n"
      "set colorsequence podo\n"  // told apart by colour-blind readers
      "set termoption noenhanced\n"
      "set grid ytics\nset key outside below\nset yrange [0:*]\nset ylabel \"{}\"\n"
      "set format y \"%.3s%c\"\nset boxwidth 0.7\n",
      gnuplot_text(file), axis_title(metric));
  if (!sweep.one_at_a_time) {
    const std::string& some = x.front();  // "25 GB/s": the unit is the axis's
    const std::size_t space = numeric ? some.find(' ') : std::string::npos;
    script += fmt::format(
        "set xlabel \"{}{}\"\n", gnuplot_text(sweep.variations[0].path),
        space == std::string::npos ? "" : " (" + gnuplot_text(some.substr(space + 1)) + ")");
  }
  if (numeric && least > 0 && most / least >= 8) script += "set logscale x 2\n";
  if (!numeric) {
    script += "set xtics rotate by -30 (";
    for (std::size_t i = 0; i < places.size(); ++i)
      script += fmt::format("{}\"{}\" {}", i > 0 ? ", " : "", gnuplot_text(places[i]), i);
    script += fmt::format(")\nset xrange [-0.6:{}]\n", static_cast<double>(places.size()) - 0.4);
  }
  for (std::size_t i = 0; i < order.size(); ++i)
    script += fmt::format("$d{} << END_OF_DATA\n{}END_OF_DATA\n", i, series[order[i]]);
  script += "plot ";
  for (std::size_t i = 0; i < order.size(); ++i)
    script += fmt::format(
        "{}$d{} with {} {}", i > 0 ? ", \\\n  " : "", i,
        numeric             ? "linespoints lw 2 pt 7"
        : order.size() == 1 ? "boxes lc 3 fs solid 0.7"
                            : "points pt 7",
        order[i].empty() ? "notitle" : fmt::format("title \"{}\"", gnuplot_text(order[i])));
  return script + "\n";
}

}  // namespace reckon::plan

#include <fmt/format.h>

#include <algorithm>

#include "planner/backtest.h"
#include "planner/table.h"

namespace reckon::plan {

namespace {

using nlohmann::ordered_json;

ordered_json json(const ErrorSummary& s) {
  return {{"scored", s.scored},         {"skipped", s.skipped}, {"mape", s.mape},
          {"median_ape", s.median_ape}, {"p90_ape", s.p90_ape}, {"bias", s.bias}};
}

ordered_json json(const std::map<std::string, ErrorSummary>& parts) {
  ordered_json o = ordered_json::object();
  for (const auto& [name, s] : parts) o[name.empty() ? "none" : name] = json(s);
  return o;
}

std::string percent(double x, int digits = 1) {
  return fmt::format("{:.{}f} %", 100 * x, digits);
}
std::string signed_percent(double x) {
  return fmt::format("{:+.1f} %", 100 * x);
}

std::vector<std::string> cells(const std::string& name, const ErrorSummary& s) {
  if (s.scored == 0) return {name, "0", std::to_string(s.skipped), "", "", "", ""};
  return {name,
          std::to_string(s.scored),
          std::to_string(s.skipped),
          percent(s.median_ape),
          percent(s.mape),
          percent(s.p90_ape),
          signed_percent(s.bias)};
}

std::vector<Column> error_columns(const char* what) {
  return {{what, Align::Left}, {"scored"}, {"skipped"}, {"median"}, {"mean"}, {"p90"}, {"bias"}};
}

void add_errors(std::string& out, const char* what,
                const std::map<std::string, ErrorSummary>& parts) {
  Table t{.columns = error_columns(what)};
  for (const auto& [name, s] : parts) t.rows.push_back(cells(name.empty() ? "none" : name, s));
  out += '\n';
  out += text(t);
}

struct Ranking {
  int groups = 0, correlated = 0;
  double regret = 0, worst = 0, spearman = 0, lowest = 1;
};

std::map<std::string, Ranking> rankings(const std::vector<PlanGroup>& groups) {
  std::map<std::string, Ranking> by_source;
  for (const PlanGroup& g : groups) {
    Ranking& r = by_source[g.source];
    ++r.groups;
    r.regret += g.regret;
    r.worst = std::max(r.worst, g.regret);
    if (!g.spearman) continue;
    ++r.correlated;
    r.spearman += *g.spearman;
    r.lowest = std::min(r.lowest, *g.spearman);
  }
  for (auto& [source, r] : by_source) {
    r.regret /= r.groups;
    if (r.correlated > 0) r.spearman /= r.correlated;
  }
  return by_source;
}

}  // namespace

ordered_json to_json(const Backtest& b) {
  ordered_json rows = ordered_json::array();
  for (const BacktestRow& r : b.rows) {
    ordered_json o{{"id", r.id},     {"source", r.source},
                   {"gpu", r.gpu},   {"family", r.family},
                   {"tier", r.tier}, {"status", r.scored ? "scored" : "skipped"}};
    o["reason"] = r.reason.empty() ? ordered_json() : ordered_json(r.reason);
    o["measured_s"] = r.measured_s > 0 ? ordered_json(r.measured_s) : ordered_json();
    o["predicted_s"] = r.scored ? ordered_json(r.predicted_s) : ordered_json();
    o["error"] = r.scored ? ordered_json(r.error()) : ordered_json();
    if (!r.stack.empty()) {
      o["stack"] = r.stack;
      o["plan"] = r.plan;
      o["group"] = r.group;
      o["assumed"] = r.assumed;
    }
    if (r.scored) {
      o["calibrated"] = r.calibrated;
      o["peak_memory_GiB"] = r.peak_gib;
      o["fits"] = r.fits;
    }
    if (r.left_out_s) {
      o["predicted_without_source_s"] = *r.left_out_s;
      o["error_without_source"] = *r.left_out_s / r.measured_s - 1;
    }
    rows.push_back(std::move(o));
  }
  ordered_json out{{"summary", json(b.all)}};
  out["summary"]["tiers_ab_ampere_hopper"] = json(b.core);
  if (b.left_out) out["summary"]["cross_validated"] = json(*b.left_out);
  out["by_source"] = json(b.by_source);
  out["by_gpu"] = json(b.by_gpu);
  out["by_family"] = json(b.by_family);
  out["by_tier"] = json(b.by_tier);
  out["by_stack"] = json(b.by_stack);
  out["groups"] = ordered_json::array();
  for (const PlanGroup& g : b.groups)
    out["groups"].push_back({{"name", g.name},
                             {"source", g.source},
                             {"plans", g.plans},
                             {"spearman", g.spearman ? ordered_json(*g.spearman) : ordered_json()},
                             {"regret", g.regret}});
  if (!b.fitted.empty()) {
    ordered_json stacks = ordered_json::object();
    for (const FittedStack& f : b.fitted)
      stacks[f.name] = {{"rows", f.rows},
                        {"gemm_efficiency", f.stack.gemm_efficiency},
                        {"attention_efficiency", f.stack.attention_efficiency},
                        {"memory_efficiency", f.stack.memory_efficiency},
                        {"comm_efficiency", f.stack.comm_efficiency},
                        {"host_per_kernel", fmt::format("{:.3g} us", f.stack.host_per_kernel / us)},
                        {"host_per_step", fmt::format("{:.3g} ms", f.stack.host_per_step / ms)}};
    out["fitted_stacks"] = std::move(stacks);
    for (const auto& [architecture, rate] : b.sustained_matmul)
      out["sustained_matmul"][architecture] = rate;
  }
  out["rows"] = std::move(rows);
  return out;
}

std::string to_text(const Backtest& b, bool with_rows) {
  std::string out;
  if (with_rows) {
    Table t{.columns = {{"run", Align::Left},
                        {"stack", Align::Left},
                        {"measured s"},
                        {"predicted s"},
                        {"error"},
                        {"plan", Align::Left}}};
    for (const BacktestRow& r : b.rows)
      if (r.scored)
        t.rows.push_back({r.id, r.stack, fmt::format("{:.4g}", r.measured_s),
                          fmt::format("{:.4g}", r.predicted_s), signed_percent(r.error()), r.plan});
    {
      out += text(t);
      out += '\n';
    }
  }
  Table skipped{.columns = {{"not scored", Align::Left}, {"why", Align::Left}}};
  for (const BacktestRow& r : b.rows)
    if (!r.scored) skipped.rows.push_back({r.id, r.reason});
  if (!skipped.rows.empty()) {
    out += text(skipped);
    out += '\n';
  }

  Table total{.columns = error_columns("errors of step time")};
  total.rows.push_back(cells("all rows", b.all));
  if (b.core.scored + b.core.skipped > 0)
    total.rows.push_back(cells("tiers A and B, A100 to H200", b.core));
  if (b.left_out)
    total.rows.push_back(cells("the same, each source left out of its fit", *b.left_out));
  out += text(total);
  add_errors(out, "by tier", b.by_tier);
  add_errors(out, "by GPU", b.by_gpu);
  add_errors(out, "by family", b.by_family);
  add_errors(out, "by stack", b.by_stack);
  add_errors(out, "by source", b.by_source);

  Table rank{.columns = {{"where plans compete", Align::Left},
                         {"groups"},
                         {"regret"},
                         {"worst"},
                         {"of 4 or more"},
                         {"rank corr."},
                         {"lowest"}}};
  for (const auto& [source, r] : rankings(b.groups))
    rank.rows.push_back({source, std::to_string(r.groups), percent(r.regret), percent(r.worst),
                         std::to_string(r.correlated),
                         r.correlated ? fmt::format("{:.2f}", r.spearman) : "",
                         r.correlated ? fmt::format("{:.2f}", r.lowest) : ""});
  if (!rank.rows.empty()) {
    out += '\n';
    out += text(rank);
  }

  if (!b.fitted.empty()) {
    Table fit{.columns = {{"fitted stack", Align::Left},
                          {"rows"},
                          {"gemm"},
                          {"attention"},
                          {"memory"},
                          {"comm"},
                          {"us/kernel"},
                          {"ms/step"}}};
    std::size_t constants = 0;
    for (const FittedStack& f : b.fitted) {
      constants += f.constants.size();
      fit.rows.push_back({f.name, std::to_string(f.rows),
                          fmt::format("{:.3f}", f.stack.gemm_efficiency),
                          fmt::format("{:.3f}", f.stack.attention_efficiency),
                          fmt::format("{:.3f}", f.stack.memory_efficiency),
                          fmt::format("{:.3f}", f.stack.comm_efficiency),
                          fmt::format("{:.2f}", f.stack.host_per_kernel / us),
                          fmt::format("{:.1f}", f.stack.host_per_step / ms)});
    }
    out += '\n';
    out += text(fit);
    for (const auto& [architecture, rate] : b.sustained_matmul)
      out += fmt::format("  matrix products on {} keep {:.3f} of their rate through a step\n",
                         architecture, rate);
    out += fmt::format("  {} fitted constants\n", constants + b.sustained_matmul.size());
  }
  return out;
}

}  // namespace reckon::plan

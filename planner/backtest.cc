#include "planner/backtest.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hw-models/catalog.h"
#include "planner/parallel.h"
#include "planner/predict.h"
#include "planner/stack_fit.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

std::vector<double> ranks(const std::vector<double>& values) {
  std::vector<std::size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return values[a] < values[b]; });
  std::vector<double> r(values.size());
  for (std::size_t i = 0; i < order.size();) {
    std::size_t j = i;
    while (j < order.size() && values[order[j]] == values[order[i]]) ++j;
    for (std::size_t k = i; k < j; ++k)
      r[order[k]] = (static_cast<double>(i) + static_cast<double>(j) - 1) / 2;
    i = j;
  }
  return r;
}

std::string group_of(const PublishedRun& run, const RunCase& c) {
  if (!run.group.empty()) return run.group;
  return fmt::format("{}, {} GPUs, {} x {}, {}", c.model.name, c.cluster.gpus, c.step.global_batch,
                     c.step.seq, run.source);
}

template <class Key>
std::map<std::string, ErrorSummary> summaries(const std::vector<BacktestRow>& rows, Key key) {
  std::map<std::string, std::pair<std::vector<double>, int>> parts;
  for (const BacktestRow& r : rows) {
    auto& [ratios, skipped] = parts[key(r)];
    if (r.scored)
      ratios.push_back(r.predicted_s / r.measured_s);
    else
      ++skipped;
  }
  std::map<std::string, ErrorSummary> out;
  for (const auto& [name, part] : parts) out[name] = summary(part.first, part.second);
  return out;
}

// Plans of a group, each with its best row: a slower one of the same plan is an older release of
// the software.
struct Contender {
  double measured = 0, predicted = 0;
};

std::vector<PlanGroup> plan_groups(const std::vector<BacktestRow>& rows) {
  std::map<std::string, std::map<std::string, Contender>> groups;
  std::map<std::string, std::string> sources;
  for (const BacktestRow& r : rows) {
    if (!r.scored) continue;
    sources[r.group] = r.source;
    const auto [it, fresh] = groups[r.group].try_emplace(r.plan);
    if (fresh || r.measured_s < it->second.measured)
      it->second = {.measured = r.measured_s, .predicted = r.predicted_s};
  }
  std::vector<PlanGroup> out;
  for (const auto& [name, plans] : groups) {
    if (plans.size() < 2) continue;
    PlanGroup g{.name = name, .source = sources[name], .plans = static_cast<int>(plans.size())};
    std::vector<double> measured, predicted;
    for (const auto& [plan, c] : plans) {
      measured.push_back(c.measured);
      predicted.push_back(c.predicted);
    }
    const auto first = std::min_element(predicted.begin(), predicted.end()) - predicted.begin();
    g.regret = measured[static_cast<std::size_t>(first)] /
                   *std::min_element(measured.begin(), measured.end()) -
               1;
    if (plans.size() >= 4) g.spearman = spearman(predicted, measured);
    out.push_back(g);
  }
  return out;
}

}  // namespace

bool is_core(const BacktestRow& row) {
  const bool gpu = row.gpu == "A100" || row.gpu == "H800" || row.gpu == "H100" || row.gpu == "H200";
  return gpu && (row.tier == "A" || row.tier == "B");
}

ErrorSummary summary(const std::vector<double>& ratios, int skipped) {
  ErrorSummary s{.scored = static_cast<int>(ratios.size()), .skipped = skipped};
  if (ratios.empty()) return s;
  std::vector<double> errors;
  double log_sum = 0;
  for (double r : ratios) {
    errors.push_back(std::abs(r - 1));
    log_sum += std::log(r);
  }
  std::sort(errors.begin(), errors.end());
  const auto n = static_cast<double>(errors.size());
  // Quantiles between the two nearest order statistics.
  const auto quantile = [&](double q) {
    const double at = q * (n - 1);
    const auto below = static_cast<std::size_t>(at);
    const auto above = std::min(below + 1, errors.size() - 1);
    return errors[below] + (at - std::floor(at)) * (errors[above] - errors[below]);
  };
  s.mape = std::accumulate(errors.begin(), errors.end(), 0.0) / n;
  s.median_ape = quantile(0.5);
  s.p90_ape = quantile(0.9);
  s.bias = std::exp(log_sum / n) - 1;
  return s;
}

double spearman(const std::vector<double>& a, const std::vector<double>& b) {
  check(a.size() == b.size() && a.size() >= 2, "spearman compares two equally long lists");
  const std::vector<double> ra = ranks(a), rb = ranks(b);
  const double mean = (static_cast<double>(a.size()) - 1) / 2;
  double cov = 0, va = 0, vb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    cov += (ra[i] - mean) * (rb[i] - mean);
    va += (ra[i] - mean) * (ra[i] - mean);
    vb += (rb[i] - mean) * (rb[i] - mean);
  }
  return va > 0 && vb > 0 ? cov / std::sqrt(va * vb) : 0;
}

std::variant<CaseTime, NoCase> folded_prediction(const RunCase& c, const hw::Stack& stack) {
  if (const auto no = why_illegal(c.model, c.cluster, stack, c.plan, c.step))
    return NoCase{no->detail.empty() ? std::string(no->why)
                                     : fmt::format("{} ({})", no->why, no->detail)};
  const Prediction p = predict(c.model, c.cluster, stack, c.plan, c.step);
  return CaseTime{.step = p.step, .peak = p.memory.peak, .calibrated = p.calibrated};
}

void summarise(Backtest& b) {
  b.by_source = summaries(b.rows, [](const BacktestRow& r) { return r.source; });
  b.by_gpu = summaries(b.rows, [](const BacktestRow& r) { return r.gpu; });
  b.by_family = summaries(b.rows, [](const BacktestRow& r) { return r.family; });
  b.by_tier = summaries(b.rows, [](const BacktestRow& r) { return r.tier; });
  b.by_stack = summaries(b.rows, [](const BacktestRow& r) { return r.stack; });
  const auto total = summaries(b.rows, [](const BacktestRow&) { return std::string(); });
  if (!total.empty()) b.all = total.begin()->second;
  std::vector<double> core, left_out;
  int core_skipped = 0, left_out_skipped = 0;
  for (const BacktestRow& r : b.rows) {
    if (!is_core(r)) continue;
    if (r.scored)
      core.push_back(r.predicted_s / r.measured_s);
    else
      ++core_skipped;
    if (r.left_out_s)
      left_out.push_back(*r.left_out_s / r.measured_s);
    else
      ++left_out_skipped;
  }
  b.core = summary(core, core_skipped);
  if (!left_out.empty()) b.left_out = summary(left_out, left_out_skipped);
  b.groups = plan_groups(b.rows);
}

Backtest backtest(const std::vector<PublishedRun>& runs, const StackByName& stacks,
                  const PredictCase& predict_case, int threads) {
  Backtest b;
  b.rows.resize(runs.size());
  for_each_index(runs.size(), threads, [&](std::size_t i) {
    const PublishedRun& run = runs[i];
    BacktestRow& row = b.rows[i];
    row.id = run.id;
    row.source = run.source;
    row.gpu = run.gpu;
    row.family = run.family;
    row.tier = run.tier;
    row.measured_s = run.step_s.value_or(0);
    const auto built = run_case(run);
    if (const auto* no = std::get_if<NoCase>(&built)) {
      row.reason = no->reason;
      return;
    }
    const RunCase& c = std::get<RunCase>(built);
    row.stack = c.stack;
    row.group = group_of(run, c);
    row.plan = describe(c.plan);
    row.assumed = c.assumed;
    const auto time = predict_case(c, stack_of(c, stacks(c.stack)));
    if (const auto* no = std::get_if<NoCase>(&time)) {
      row.reason = no->reason;
      return;
    }
    const CaseTime& t = std::get<CaseTime>(time);
    row.scored = true;
    row.predicted_s = t.step.si;
    row.peak_gib = t.peak / GiB;
    row.fits = t.peak <= c.cluster.gpu.memory;
    row.calibrated = t.calibrated;
  });
  summarise(b);
  return b;
}

Backtest backtest_file(const std::string& path, const BacktestOptions& options) {
  const std::vector<PublishedRun> runs = published_runs(hw::read_json_file(path));
  const StackByName catalogue = [](const std::string& name) { return hw::stack(name); };
  const int threads = std::max(1, options.threads);
  if (!options.fit && !options.cross_validate)
    return backtest(runs, catalogue, folded_prediction, threads);
  return fitted_backtest(runs, catalogue, folded_prediction,
                         {.cross_validate = options.cross_validate,
                          .all_hardware = options.all_hardware,
                          .threads = threads});
}

}  // namespace reckon::plan

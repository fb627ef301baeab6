#include "planner/scaling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>

#include "planner/stragglers.h"
#include "planner/table.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

constexpr double kClose = 0.03;  // of a loss: 3 points

// A run and what is needed to predict it with other interruptions.
struct ScalingPoint {
  const PublishedRun* run = nullptr;
  const BacktestRow* row = nullptr;
  double alone = 0;   // step without interruptions, seconds
  double number = 0;  // of interruptions that the step waits for

  double step(double seconds) const { return alone + number * seconds; }
};

// The step without the interruptions that its prediction has: by halving, as it grows with them.
ScalingPoint point_of(const PublishedRun& run, const BacktestRow& row) {
  const Plan plan = std::get<RunCase>(run_case(run)).plan;
  const double each = interruption(row.stack).si;
  double low = 0, high = row.predicted_s;
  for (int i = 0; each > 0 && i < 60; ++i) {
    const double middle = (low + high) / 2;
    (middle + each * interruptions(plan, Seconds(middle)) < row.predicted_s ? low : high) = middle;
  }
  return {&run, &row, high, interruptions(plan, Seconds(high))};
}

struct Pair {
  const ScalingPoint* base = nullptr;
  const ScalingPoint* run = nullptr;
  double work =
      0;  // throughput per GPU over the base's is this times the base's step over the run's

  double measured() const { return 1 - work * base->row->measured_s / run->row->measured_s; }
  double predicted(double seconds) const {
    return 1 - work * base->step(seconds) / run->step(seconds);
  }
};

auto shape_parts(const PublishedModel& m) {
  return std::tie(m.name, m.mlp, m.attention, m.layers, m.hidden, m.heads, m.kv_heads, m.head_dim,
                  m.ffn, m.seq_len, m.vocab, m.experts, m.top_k, m.moe_ffn, m.shared_ffn,
                  m.dense_layers, m.moe_every, m.q_lora, m.kv_lora, m.qk_nope, m.qk_rope, m.v_dim,
                  m.mtp_layers, m.tied_embeddings);
}

// All but dp and the batch.
auto shape_parts(const PublishedPlan& p) {
  return std::tie(p.tp, p.pp, p.vpp, p.cp, p.ep, p.etp, p.micro_batch, p.sequence_parallel,
                  p.schedule, p.recompute, p.recompute_modules, p.zero, p.precision, p.overlap,
                  p.dispatcher, p.routing, p.other);
}

bool same_series(const PublishedRun& a, const PublishedRun& b) {
  return a.source == b.source && a.gpu == b.gpu && a.memory_gb == b.memory_gb &&
         a.network == b.network && shape_parts(a.model) == shape_parts(b.model) &&
         shape_parts(a.plan) == shape_parts(b.plan);
}

// Least squares over steps of 5 ms up to 3 s; 0 for no pairs.
double fitted_seconds(const std::vector<Pair>& pairs) {
  double best = 0, least = 0;
  for (int i = 0; i <= 600; ++i) {
    const double seconds = 0.005 * i;
    double sum = 0;
    for (const Pair& p : pairs) sum += std::pow(p.predicted(seconds) - p.measured(), 2);
    if (i == 0 || sum < least) best = seconds, least = sum;
  }
  return pairs.empty() ? 0 : best;
}

double left_out(const ScalingLoss& l) {
  return l.left_out.value_or(l.without);  // a stack with one series is predicted without
}

bool close(double loss, const ScalingLoss& l) {
  return std::abs(loss - l.measured) <= kClose;
}

std::string summary(const std::vector<ScalingLoss>& losses, double (*value)(const ScalingLoss&)) {
  if (losses.empty()) return "no runs";
  std::vector<double> sizes;
  for (const ScalingLoss& l : losses) sizes.push_back(std::abs(value(l) - l.measured));
  std::sort(sizes.begin(), sizes.end());
  const auto within =
      std::count_if(sizes.begin(), sizes.end(), [](double d) { return d <= kClose; });
  return fmt::format("{:>3} of {} within 3 points; median {:.1f}, p90 {:.1f}, worst {:.1f} points",
                     within, sizes.size(), 100 * sizes[sizes.size() / 2],
                     100 * sizes[sizes.size() * 9 / 10], 100 * sizes.back());
}

}  // namespace

Scaling scaling(const std::vector<PublishedRun>& runs, const Backtest& backtest) {
  check(runs.size() == backtest.rows.size(), "a backtest has a row for each run");
  std::vector<ScalingPoint> points;
  for (std::size_t i = 0; i < runs.size(); ++i)
    if (backtest.rows[i].scored && runs[i].plan.global_batch && runs[i].gpus)
      points.push_back(point_of(runs[i], backtest.rows[i]));
  std::vector<std::vector<const ScalingPoint*>> series;
  for (const ScalingPoint& p : points) {
    const auto known = std::find_if(series.begin(), series.end(), [&](const auto& s) {
      return same_series(*s.front()->run, *p.run);
    });
    if (known == series.end())
      series.push_back({&p});
    else
      known->push_back(&p);
  }

  struct StackPairs {
    std::string stack;
    std::vector<std::vector<Pair>> series;
  };
  std::vector<StackPairs> stacks;
  for (auto& s : series) {
    std::stable_sort(s.begin(), s.end(), [](const ScalingPoint* a, const ScalingPoint* b) {
      return *a->run->gpus < *b->run->gpus;
    });
    const ScalingPoint& base = *s.front();
    const double gpus = *base.run->gpus, batch = static_cast<double>(*base.run->plan.global_batch);
    std::vector<Pair> pairs;
    for (const ScalingPoint* p : s) {
      const double n = *p->run->gpus, b = static_cast<double>(*p->run->plan.global_batch);
      const bool weak = b * gpus == batch * n, strong = b == batch;
      if (n != gpus && (weak || strong)) pairs.push_back({&base, p, b / batch * gpus / n});
    }
    if (pairs.empty()) continue;
    auto it = std::find_if(stacks.begin(), stacks.end(),
                           [&](const StackPairs& k) { return k.stack == base.row->stack; });
    if (it == stacks.end()) it = stacks.insert(it, {base.row->stack, {}});
    it->series.push_back(std::move(pairs));
  }

  Scaling out;
  for (const StackPairs& k : stacks) {
    std::set<std::string> models;
    for (const auto& s : k.series) models.insert(s.front().run->run->model.name);
    // Every other model, by name; or every other series.
    const auto half_of = [&](std::size_t i) -> std::size_t {
      if (models.size() == 1) return i % 2;
      const auto at = models.find(k.series[i].front().run->run->model.name);
      return static_cast<std::size_t>(std::distance(models.begin(), at)) % 2;
    };
    std::vector<Pair> all, halves[2];
    for (std::size_t i = 0; i < k.series.size(); ++i)
      for (const Pair& p : k.series[i]) all.push_back(p), halves[half_of(i)].push_back(p);
    InterruptionFit fit{
        .stack = k.stack,
        .models = static_cast<int>(models.size()),
        .series = static_cast<int>(k.series.size()),
        .runs = static_cast<int>(all.size()),
        .catalogue = interruption(k.stack),
        .all = Seconds(fitted_seconds(all)),
        .halves = {Seconds(fitted_seconds(halves[0])), Seconds(fitted_seconds(halves[1]))}};
    for (std::size_t i = 0; i < k.series.size(); ++i)
      for (const Pair& p : k.series[i]) {
        const std::size_t other = 1 - half_of(i);
        out.losses.push_back({.id = p.run->row->id,
                              .stack = k.stack,
                              .gpus = *p.run->run->gpus,
                              .base = *p.base->run->gpus,
                              .measured = p.measured(),
                              .predicted = p.predicted(fit.catalogue.si),
                              .without = p.predicted(0),
                              .fitted = p.predicted(fit.all.si)});
        if (!halves[other].empty()) out.losses.back().left_out = p.predicted(fit.halves[other].si);
      }
    out.fits.push_back(fit);
  }
  return out;
}

nlohmann::ordered_json to_json(const Scaling& s) {
  nlohmann::ordered_json losses = nlohmann::ordered_json::array();
  auto fits = losses;
  for (const ScalingLoss& l : s.losses) {
    losses.push_back({{"id", l.id},
                      {"stack", l.stack},
                      {"gpus", l.gpus},
                      {"base_gpus", l.base},
                      {"measured", l.measured},
                      {"predicted", l.predicted},
                      {"without_interruptions", l.without},
                      {"fitted", l.fitted}});
    losses.back()["left_out"] = l.left_out ? nlohmann::ordered_json(*l.left_out) : nullptr;
  }
  for (const InterruptionFit& f : s.fits)
    fits.push_back({{"stack", f.stack},
                    {"models", f.models},
                    {"series", f.series},
                    {"runs", f.runs},
                    {"catalogue_s", f.catalogue.si},
                    {"fitted_s", f.all.si},
                    {"halves_s", {f.halves[0].si, f.halves[1].si}}});
  return {{"losses", std::move(losses)}, {"interruptions", std::move(fits)}};
}

std::string to_text(const Scaling& s) {
  if (s.losses.empty()) return "";
  std::vector<ScalingLoss> named;  // of stacks for which the catalogue has interruptions
  for (const ScalingLoss& l : s.losses)
    if (interruption(l.stack).si > 0) named.push_back(l);
  std::string out = "Scaling losses (one plan on more GPUs), predicted less measured\n";
  const auto line = [&](const char* what, const std::vector<ScalingLoss>& losses,
                        double (*value)(const ScalingLoss&)) {
    out += fmt::format("  {:41} {}\n", what, summary(losses, value));
  };
  line("all runs", s.losses, [](const ScalingLoss& l) { return l.predicted; });
  line("without interruptions", s.losses, [](const ScalingLoss& l) { return l.without; });
  line("stacks with interruptions", named, [](const ScalingLoss& l) { return l.predicted; });
  line("without them", named, [](const ScalingLoss& l) { return l.without; });
  line("fitted to the other half of the models", named, left_out);
  Table t{.columns = {{"interruptions", Align::Left},
                      {"models"},
                      {"series"},
                      {"catalogue"},
                      {"fitted"},
                      {"to one half"},
                      {"the other"},
                      {"runs"},
                      {"within 3 points"},
                      {"without"},
                      {"left out"}}};
  for (const InterruptionFit& f : s.fits) {
    int predicted = 0, without = 0, without_half = 0;
    for (const ScalingLoss& l : s.losses) {
      if (l.stack != f.stack) continue;
      predicted += close(l.predicted, l), without += close(l.without, l);
      without_half += close(left_out(l), l);
    }
    t.rows.push_back({f.stack, std::to_string(f.models), std::to_string(f.series),
                      fmt::format("{:.2f} s", f.catalogue.si), fmt::format("{:.2f} s", f.all.si),
                      fmt::format("{:.2f} s", f.halves[0].si),
                      f.series > 1 ? fmt::format("{:.2f} s", f.halves[1].si) : "",
                      std::to_string(f.runs), std::to_string(predicted), std::to_string(without),
                      std::to_string(without_half)});
  }
  return out + text(t);
}

}  // namespace reckon::plan

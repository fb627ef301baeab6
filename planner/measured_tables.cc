#include "planner/measured_tables.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "sim/check.h"

namespace reckon::plan {

namespace {

std::vector<double> as_doubles(const std::vector<std::int64_t>& x) {
  return {x.begin(), x.end()};
}

// Products whose work was too large to measure go at the rate of the next smaller one.
hw::MeasuredProduct product_table(const Measurements& m, sim::Pass pass) {
  const real::CalibrationAxes axes = real::calibration_axes(m.quick);
  hw::MeasuredProduct table{.pass = pass,
                            .dtype = sim::DType::Fp32,
                            .m = as_doubles(axes.m),
                            .n = as_doubles(axes.n),
                            .k = as_doubles(axes.k)};
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, double> measured;
  for (const real::Sample& s : m.products)
    if (const auto& op = std::get<sim::MatMul>(s.work); op.pass == pass)
      measured[{op.m, op.n, op.k}] = s.seconds;
  std::map<std::array<std::size_t, 3>, double> filled;
  for (std::size_t i = 0; i < axes.m.size(); ++i)
    for (std::size_t j = 0; j < axes.n.size(); ++j)
      for (std::size_t l = 0; l < axes.k.size(); ++l) {
        double& seconds = filled[{i, j, l}];
        if (const auto it = measured.find({axes.m[i], axes.n[j], axes.k[l]});
            it != measured.end()) {
          seconds = it->second;
        } else if (axes.m[i] >= axes.n[j] && axes.m[i] >= axes.k[l] && i > 0) {
          seconds = filled.at({i - 1, j, l}) * table.m[i] / table.m[i - 1];
        } else if (axes.n[j] >= axes.k[l] && j > 0) {
          seconds = filled.at({i, j - 1, l}) * table.n[j] / table.n[j - 1];
        } else {
          check(l > 0, "the smallest products were measured");
          seconds = filled.at({i, j, l - 1}) * table.k[l] / table.k[l - 1];
        }
        table.seconds.push_back(seconds);
      }
  return table;
}

hw::MeasuredAttention attention_table(const Measurements& m, bool backward) {
  const real::CalibrationAxes axes = real::calibration_axes(m.quick);
  hw::MeasuredAttention table{
      .backward = backward, .seq = as_doubles(axes.seq), .width = as_doubles(axes.width)};
  for (const real::Sample& s : m.attention) {
    const auto& op = std::get<sim::Attention>(s.work);
    if (op.backward == backward)  // in the order of the axes
      table.seconds.push_back(s.seconds /
                              (sim::visible_pairs(op) * static_cast<double>(op.batch * op.heads)));
  }
  return table;
}

// Mean time over mean traffic, in bins of a factor of two.
hw::MeasuredCurve curve(std::vector<std::pair<double, double>> points) {
  std::sort(points.begin(), points.end());
  hw::MeasuredCurve c;
  for (std::size_t i = 0; i < points.size();) {
    double bytes = 0, seconds = 0;
    const double from = points[i].first;
    std::size_t n = 0;
    for (; i < points.size() && points[i].first < 2 * from; ++i, ++n)
      bytes += points[i].first, seconds += points[i].second;
    c.bytes.push_back(bytes / static_cast<double>(n));
    c.seconds.push_back(seconds / static_cast<double>(n));
  }
  return c;
}

using Models = std::vector<const std::vector<real::Sample>*>;

std::vector<hw::MeasuredMemory> memory_tables(const Models& models) {
  std::map<std::pair<sim::MemoryKind, int>, std::vector<std::pair<double, double>>> points;
  for (const auto* model : models)
    for (const real::Sample& s : *model)
      if (const auto* op = std::get_if<sim::MemoryBound>(&s.work))
        points[{op->kind, op->kernels}].push_back({std::max(1.0, op->traffic.si), s.seconds});
  std::vector<hw::MeasuredMemory> tables;
  for (auto& [key, list] : points)
    tables.push_back({.kind = key.first, .kernels = key.second, .curve = curve(std::move(list))});
  return tables;
}

// Isolated kernels run on warmer caches than those of a step, whose operands another op has just
// written and whose results are fresh memory. What a step's own products and attentions take, by
// family, as seconds = factor * table + more: least squares of relative errors.
void to_training_regime(hw::MeasuredLevel& level, const Models& models) {
  hw::MeasuredLevel bare = level;
  bare.gap = Seconds(0);
  struct Sums {
    double tt = 0, t1 = 0, t = 0, one = 0, n = 0;  // of table / measured and 1 / measured
    void add(double table, double calls, double measured) {
      const double x = table / measured, y = calls / measured;
      tt += x * x, t1 += x * y, t += x, one += y * y, n += y;
    }
    // Neither is negative.
    std::pair<double, double> solve() const {
      if (tt <= 0) return {1, 0};
      const double det = tt * one - t1 * t1;
      double factor = det > 1e-12 * tt * one ? (t * one - n * t1) / det : t / tt;
      double more = det > 1e-12 * tt * one ? (n * tt - t * t1) / det : 0;
      if (more < 0) factor = t / tt, more = 0;
      if (factor <= 0) factor = 1, more = 0;
      return {factor, more};
    }
  };
  std::map<sim::Pass, Sums> products;
  std::map<bool, Sums> attention;
  for (const auto* model : models)
    for (const real::Sample& s : *model) {
      const double table =
          hw::measured_cost(bare, s.work) ? hw::measured_cost(bare, s.work)->alone.si : 0;
      if (const auto* p = std::get_if<sim::MatMul>(&s.work))
        products[p->pass].add(table, 1, s.seconds);
      if (const auto* g = std::get_if<sim::GroupedMatMul>(&s.work))
        products[g->pass].add(table, static_cast<double>(g->groups), s.seconds);
      if (const auto* a = std::get_if<sim::Attention>(&s.work))
        attention[a->backward].add(table, 1, s.seconds);
    }
  for (hw::MeasuredProduct& t : level.products) {
    const auto [factor, more] = products[t.pass].solve();
    for (double& x : t.seconds) x = factor * x + more;
  }
  for (hw::MeasuredAttention& t : level.attention) {
    const auto [factor, more] = attention[t.backward].solve();
    for (double& x : t.seconds) x *= factor;
    t.call = Seconds(more);
  }
}

hw::MeasuredLevel level_from(const Measurements& m, const Models& models) {
  hw::MeasuredLevel level{
      .active = m.ranks, .gap = Seconds(m.steps.gap), .per_step = Seconds(m.steps.per_step)};
  for (const sim::Pass pass : {sim::Pass::Forward, sim::Pass::InputGrad, sim::Pass::WeightGrad})
    level.products.push_back(product_table(m, pass));
  for (const bool backward : {false, true}) level.attention.push_back(attention_table(m, backward));
  level.memory = memory_tables(models);
  std::map<sim::CollectiveKind, hw::MeasuredCurve> curves;
  for (const real::Sample& s : m.exchanges) {
    hw::MeasuredCurve* c = nullptr;
    double bytes = 0;
    if (const auto* op = std::get_if<sim::Collective>(&s.work)) {
      c = &curves[op->kind];
      bytes = op->bytes.si;
    } else {
      if (!level.transfer) level.transfer.emplace();
      c = &*level.transfer;
      bytes = std::get<sim::Transfer>(s.work).bytes.si;
    }
    c->bytes.push_back(bytes);
    c->seconds.push_back(s.seconds);
  }
  for (auto& [kind, c] : curves)
    level.collectives.push_back({.kind = kind, .ranks = m.ranks, .curve = std::move(c)});
  to_training_regime(level, models);
  return level;
}

Models pointers(const std::vector<std::vector<real::Sample>>& models) {
  Models out;
  for (const auto& m : models) out.push_back(&m);
  return out;
}

// One sample per op of the model: the median over its calls.
std::vector<std::vector<real::Sample>> medians(
    const std::vector<std::vector<real::Sample>>& models) {
  std::vector<std::vector<real::Sample>> out;
  for (const auto& model : models) {
    std::vector<std::pair<sim::Work, std::vector<double>>> calls;
    for (const real::Sample& s : model) {
      const auto it = std::find_if(calls.begin(), calls.end(),
                                   [&](const auto& c) { return c.first == s.work; });
      if (it == calls.end())
        calls.push_back({s.work, {s.seconds}});
      else
        it->second.push_back(s.seconds);
    }
    out.emplace_back();
    for (auto& [work, seconds] : calls) {
      const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
      std::nth_element(seconds.begin(), middle, seconds.end());
      out.back().push_back({work, *middle});
    }
  }
  return out;
}

struct Pair {
  double predicted, measured;
};

TableError error_of(std::string what, const std::vector<Pair>& pairs) {
  TableError e{.what = std::move(what), .samples = static_cast<int>(pairs.size())};
  std::vector<double> errors;
  double predicted = 0, measured = 0;
  for (const Pair& p : pairs) {
    errors.push_back(std::abs(p.predicted / p.measured - 1));
    predicted += p.predicted, measured += p.measured;
  }
  std::sort(errors.begin(), errors.end());
  if (errors.empty()) return e;
  e.median = errors[errors.size() / 2];
  e.p90 = errors[errors.size() * 9 / 10];
  e.total = predicted / measured - 1;
  return e;
}

const char* family(const sim::Work& work) {
  if (std::holds_alternative<sim::MatMul>(work)) return "matrix products";
  if (std::holds_alternative<sim::GroupedMatMul>(work)) return "expert products";
  if (const auto* a = std::get_if<sim::Attention>(&work))
    return a->backward ? "attention, backward" : "attention, forward";
  if (std::holds_alternative<sim::MemoryBound>(work)) return "memory-bound ops";
  return "exchanges";
}

}  // namespace

hw::MeasuredLevel measured_level(const Measurements& m) {
  const auto models = medians(m.steps.models);
  return level_from(m, pointers(models));
}

std::vector<TableError> table_errors(const Measurements& m) {
  std::vector<TableError> out;
  // Shapes that are no points of the tables, alone as the tables' are.
  hw::MeasuredLevel alone = level_from(m, {});
  alone.gap = Seconds(0);
  std::map<std::string, std::vector<Pair>> pairs;
  for (const real::Sample& s : m.others)
    pairs[std::string("other shapes: ") + family(s.work)].push_back(
        {hw::measured_cost(alone, s.work)->alone.si, s.seconds});
  // Each model's steps by tables made without it.
  const auto models = medians(m.steps.models);
  for (std::size_t left = 0; left < models.size(); ++left) {
    Models rest;
    for (std::size_t i = 0; i < models.size(); ++i)
      if (i != left) rest.push_back(&models[i]);
    hw::MeasuredLevel level = level_from(m, rest);
    level.gap = Seconds(0);
    for (const real::Sample& s : models[left])
      if (const auto cost = hw::measured_cost(level, s.work))
        if (s.seconds > 0 && !std::holds_alternative<sim::Collective>(s.work))
          pairs[std::string("steps of a left-out model: ") + family(s.work)].push_back(
              {cost->alone.si, s.seconds});
  }
  for (const auto& [what, list] : pairs) out.push_back(error_of(what, list));
  return out;
}

}  // namespace reckon::plan

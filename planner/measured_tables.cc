#include "planner/measured_tables.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "sim/check.h"

namespace reckon::plan {

namespace {

std::vector<double> as_doubles(const std::vector<std::int64_t>& x) {
  return {x.begin(), x.end()};
}

// Products whose work was too large to measure go at the rate of the next smaller one.
hw::MeasuredProduct product_table(const Measurements& m, sim::Pass pass, sim::DType dtype) {
  const real::CalibrationAxes& axes = m.axes;
  hw::MeasuredProduct table{.pass = pass,
                            .dtype = dtype,
                            .m = as_doubles(axes.m),
                            .n = as_doubles(axes.n),
                            .k = as_doubles(axes.k)};
  std::map<std::tuple<std::int64_t, std::int64_t, std::int64_t>, double> measured;
  for (const real::Sample& s : m.products)
    if (const auto& op = std::get<sim::MatMul>(s.work); op.pass == pass && op.dtype == dtype)
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
  hw::MeasuredAttention table{
      .backward = backward, .seq = as_doubles(m.axes.seq), .width = as_doubles(m.axes.width)};
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

// Least squares of t = sum_j x_j f_j with no x_j below 0, by trying every set of features: they are
// few. Rows count by 1 / t, between relative errors (small ops) and absolute ones (large ops).
Eigen::VectorXd nonnegative_fit(const Eigen::MatrixXd& features, const Eigen::VectorXd& t) {
  const Eigen::VectorXd weight = t.cwiseInverse().cwiseSqrt();
  const Eigen::Index n = features.cols();
  Eigen::VectorXd best = Eigen::VectorXd::Zero(n);
  double smallest = std::numeric_limits<double>::infinity();
  for (unsigned set = 1; set < (1u << n); ++set) {
    std::vector<Eigen::Index> used;
    for (Eigen::Index j = 0; j < n; ++j)
      if ((set >> j) & 1) used.push_back(j);
    const Eigen::MatrixXd part = weight.asDiagonal() * features(Eigen::all, used);
    const Eigen::VectorXd wanted = weight.cwiseProduct(t);
    const Eigen::VectorXd x = part.colPivHouseholderQr().solve(wanted);
    const double error = (part * x - wanted).squaredNorm();
    if (x.minCoeff() < 0 || error >= smallest) continue;
    smallest = error;
    best.setZero();
    for (std::size_t j = 0; j < used.size(); ++j) best[used[j]] = x[static_cast<Eigen::Index>(j)];
  }
  return best;
}

// Rows of a fit.
struct Rows {
  std::vector<std::array<double, 3>> features;
  std::vector<double> seconds;
  void add(const std::array<double, 3>& f, double t) {
    features.push_back(f);
    seconds.push_back(t);
  }
  // The table as it is where there are no rows.
  Eigen::VectorXd solve() const {
    if (seconds.size() < 6) return Eigen::Vector3d(1, 0, 0);
    Eigen::MatrixXd f(seconds.size(), 3);
    Eigen::VectorXd t(seconds.size());
    for (std::size_t i = 0; i < seconds.size(); ++i) {
      const auto row = static_cast<Eigen::Index>(i);
      for (Eigen::Index j = 0; j < 3; ++j) f(row, j) = features[i][static_cast<std::size_t>(j)];
      t[row] = seconds[i];
    }
    // Columns of one size, so that the solver sees none as noise.
    const Eigen::VectorXd size = f.colwise().norm().transpose().cwiseMax(1e-30);
    return nonnegative_fit(f * size.cwiseInverse().asDiagonal(), t).cwiseQuotient(size);
  }
};

// Isolated kernels run on warmer caches than those of a step, whose operands another op has just
// written, whose weights were last read a pass ago, and whose results are fresh memory. What the
// steps' own products and attentions take:  factor * table + per_call + per_byte * operands.
void to_training_regime(hw::MeasuredLevel& level, const Models& models) {
  hw::MeasuredLevel bare = level;
  bare.gap = Seconds(0);
  std::map<std::pair<sim::Pass, sim::DType>, Rows> products;
  std::map<bool, Rows> attention;
  for (const auto* model : models)
    for (const real::Sample& s : *model) {
      const auto cost = hw::measured_cost(bare, s.work);
      if (!cost) continue;
      if (const auto* p = std::get_if<sim::MatMul>(&s.work))
        products[{p->pass, p->dtype}].add({cost->alone.si, 1, hw::operand_bytes(*p)}, s.seconds);
      if (const auto* g = std::get_if<sim::GroupedMatMul>(&s.work)) {
        const double groups = static_cast<double>(g->groups);
        const sim::MatMul one{.m = g->m / g->groups, .n = g->n, .k = g->k, .pass = g->pass};
        products[{g->pass, g->dtype}].add({cost->alone.si, groups, groups * hw::operand_bytes(one)},
                                          s.seconds);
      }
      if (const auto* a = std::get_if<sim::Attention>(&s.work))
        attention[a->backward].add({cost->alone.si, 1, 0}, s.seconds);
    }
  for (hw::MeasuredProduct& t : level.products) {
    const Eigen::VectorXd x = products[{t.pass, t.dtype}].solve();
    if (x[0] > 0)
      for (double& seconds : t.seconds) seconds *= x[0];
    t.per_call = Seconds(x[1]);
    t.per_byte = x[2];
  }
  for (hw::MeasuredAttention& t : level.attention) {
    const Eigen::VectorXd x = attention[t.backward].solve();
    if (x[0] > 0)
      for (double& seconds : t.seconds) seconds *= x[0];
    t.per_call = Seconds(x[1]);
  }
}

const real::StepSamples::Regime& regime(const Measurements& m, bool recompute) {
  return recompute ? m.steps.recomputing : m.steps.usual;
}

// `models`: of that regime.
hw::MeasuredLevel level_from(const Measurements& m, bool recompute, const Models& models) {
  hw::MeasuredLevel level{.active = m.ranks,
                          .gap = Seconds(regime(m, recompute).gap),
                          .per_step = Seconds(regime(m, recompute).per_step),
                          .recompute = recompute,
                          .reference = Seconds(m.steps.reference)};
  // Products and attention are fitted to the steps below; exchanges are brought to their speed.
  const double speed = m.exchanges_reference > 0 ? m.steps.reference / m.exchanges_reference : 1;
  for (const sim::Pass pass : {sim::Pass::Forward, sim::Pass::InputGrad, sim::Pass::WeightGrad})
    for (const sim::DType dtype : m.axes.dtypes)
      level.products.push_back(product_table(m, pass, dtype));
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
    c->seconds.push_back(speed * s.seconds);
  }
  for (auto& [kind, c] : curves)
    level.collectives.push_back({.kind = kind, .ranks = m.ranks, .curve = std::move(c)});
  to_training_regime(level, models);
  double waited = 0, since = 0;  // least squares of wait = drift sqrt(since)
  for (const real::StepSamples::Meeting& e : m.steps.meetings) {
    const auto cost = hw::measured_cost(level, e.work);
    if (!cost) continue;
    waited += std::max(0.0, e.seconds - cost->alone.si) * std::sqrt(e.since);
    since += e.since;
  }
  if (since > 0) level.drift = waited / since;
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

hw::MeasuredLevel measured_level(const Measurements& m, bool recompute) {
  const auto models = medians(regime(m, recompute).models);
  return level_from(m, recompute, pointers(models));
}

std::vector<TableError> table_errors(const Measurements& m) {
  std::vector<TableError> out;
  // Shapes that are no points of the tables, alone as the tables' are.
  hw::MeasuredLevel alone = level_from(m, false, {});
  alone.gap = Seconds(0);
  std::map<std::string, std::vector<Pair>> pairs;
  for (const real::Sample& s : m.others)
    pairs[std::string("other shapes: ") + family(s.work)].push_back(
        {hw::measured_cost(alone, s.work)->alone.si, s.seconds});
  // Each model's steps by tables made without it.
  for (const bool recompute : {false, true}) {
    const auto models = medians(regime(m, recompute).models);
    for (std::size_t left = 0; left < models.size(); ++left) {
      Models rest;
      for (std::size_t i = 0; i < models.size(); ++i)
        if (i != left) rest.push_back(&models[i]);
      hw::MeasuredLevel level = level_from(m, recompute, rest);
      level.gap = Seconds(0);
      for (const real::Sample& s : models[left])
        if (const auto cost = hw::measured_cost(level, s.work))
          if (s.seconds > 0 && !std::holds_alternative<sim::Collective>(s.work))
            pairs[std::string("steps of a left-out model: ") + family(s.work) +
                  (recompute ? ", recomputing" : "")]
                .push_back({cost->alone.si, s.seconds});
    }
  }
  for (const auto& [what, list] : pairs) out.push_back(error_of(what, list));
  return out;
}

}  // namespace reckon::plan

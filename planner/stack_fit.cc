#include "planner/stack_fit.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "planner/parallel.h"
#include "sim/check.h"

namespace reckon::plan {

namespace {

constexpr int kConstants = 6;
const char* const kConstantNames[kConstants] = {"gemm_efficiency",   "attention_efficiency",
                                                "memory_efficiency", "comm_efficiency",
                                                "host_per_kernel",   "host_per_step"};

// Logarithms of the efficiencies, and of the host's times over kHostPerKernel and kHostPerStep.
using Logs = std::array<double, kConstants>;

// Where the fit starts and what its priors are centred on: fixed here, so that a fit does not
// depend on what an earlier one has left in the catalogue.
constexpr Seconds kHostPerKernel = 6 * us;
constexpr Seconds kHostPerStep = 30 * ms;

constexpr double kRowSigma = 0.06;
// Widths of the priors. Efficiencies multiply measured kernel and network tables, and differ from
// 1 together more than from stack to stack; the narrow widths of the latter are those, of a few
// tried, that predict left-out sources best. The host's times are each stack's own affair: 0 means
// not shared.
constexpr Logs kSharedSigma{0.15, 0.15, 0.3, 0.3, 0, 0};
constexpr Logs kOwnSigma{0.02, 0.03, 0.08, 0.08, 0.6, 0.6};
// Of the rate that an architecture's matrix products keep through a step (Gpu::sustained_matmul).
constexpr double kSustainedSigma = 0.1;

hw::Stack with_constants(hw::Stack s, const Logs& logs) {
  s.gemm_efficiency = std::exp(logs[0]);
  s.attention_efficiency = std::exp(logs[1]);
  s.memory_efficiency = std::exp(logs[2]);
  s.comm_efficiency = std::exp(logs[3]);
  s.host_per_kernel = kHostPerKernel * std::exp(logs[4]);
  if (s.host_per_step.si > 0) s.host_per_step = kHostPerStep * std::exp(logs[5]);
  return s;
}

struct FitRow {
  std::size_t run = 0;  // index into runs
  int stack = 0;        // index into the fit's stacks
  int source = 0;
  int architecture = 0;
  RunCase run_case;
  double log_measured = 0;
  double log_predicted = 0;    // at the last linearisation
  Logs slope{};                // of log predicted, by constant
  double sustained_slope = 0;  // and by the architecture's
};

struct Fit {
  std::vector<std::string> stacks, sources, architectures;
  std::vector<FitRow> rows;
  // Parameters: kConstants shared ones, then kConstants of each stack, then one per architecture.
  Eigen::VectorXd at;  // where the rows were linearised

  Eigen::Index size() const {
    return kConstants * (1 + static_cast<Eigen::Index>(stacks.size())) +
           static_cast<Eigen::Index>(architectures.size());
  }
  Eigen::Index sustained(int architecture) const {
    return kConstants * (1 + static_cast<Eigen::Index>(stacks.size())) + architecture;
  }
  static Eigen::Index shared(int c) { return c; }
  static Eigen::Index own(int stack, int c) { return kConstants * (1 + stack) + c; }
  static Logs logs(const Eigen::VectorXd& x, int stack) {
    Logs l;
    for (int c = 0; c < kConstants; ++c) {
      l[static_cast<std::size_t>(c)] = x[shared(c)];
      if (stack >= 0) l[static_cast<std::size_t>(c)] += x[own(stack, c)];
    }
    return l;
  }
};

struct Point {
  Logs logs{};
  double sustained = 0;  // logarithm
};

Point point(const Fit& fit, const Eigen::VectorXd& x, const FitRow& row) {
  return {Fit::logs(x, row.stack), x[fit.sustained(row.architecture)]};
}

std::optional<double> log_step(const FitRow& row, const hw::Stack& entry, const Point& at,
                               const PredictCase& predict) {
  RunCase c = row.run_case;
  c.cluster.gpu.sustained_matmul = std::exp(at.sustained);
  const auto t = predict(c, stack_of(c, with_constants(entry, at.logs)));
  const auto* time = std::get_if<CaseTime>(&t);
  if (!time || !(time->step.si > 0)) return {};
  return std::log(time->step.si);
}

void linearise(Fit& fit, const std::vector<hw::Stack>& entries, const PredictCase& predict,
               int threads) {
  constexpr double kStep = 0.02;
  for_each_index(fit.rows.size(), threads, [&](std::size_t i) {
    FitRow& row = fit.rows[i];
    const hw::Stack& entry = entries[static_cast<std::size_t>(row.stack)];
    const Point at = point(fit, fit.at, row);
    row.log_predicted = log_step(row, entry, at, predict).value();
    const auto slope = [&](const Point& moved) {
      return (log_step(row, entry, moved, predict).value() - row.log_predicted) / kStep;
    };
    for (std::size_t c = 0; c < kConstants; ++c) {
      Point moved = at;
      moved.logs[c] += kStep;
      row.slope[c] = slope(moved);
    }
    row.sustained_slope = slope({at.logs, at.sustained + kStep});
  });
}

double cost_of_residual(double r) {
  return std::log1p(r * r / (2 * kRowSigma * kRowSigma));
}

// The host's time per kernel matters only where launches are slower than kernels, so at a small
// value no row has a slope in it. Each stack starts from the best of a few values.
void start_host_times(Fit& fit, const std::vector<hw::Stack>& entries, const PredictCase& predict,
                      int threads) {
  constexpr double kFactors[] = {0.7, 1, 1.5, 2.25, 3.4, 5, 7.5, 11};
  constexpr int kConstant = 4;
  std::vector<std::array<double, std::size(kFactors)>> cost(fit.rows.size());
  for_each_index(fit.rows.size(), threads, [&](std::size_t i) {
    const FitRow& row = fit.rows[i];
    for (std::size_t f = 0; f < std::size(kFactors); ++f) {
      Point start;
      start.logs[kConstant] = std::log(kFactors[f]);
      cost[i][f] = cost_of_residual(
          log_step(row, entries[static_cast<std::size_t>(row.stack)], start, predict).value() -
          row.log_measured);
    }
  });
  const double sigma = kOwnSigma[kConstant];
  for (int s = 0; s < static_cast<int>(fit.stacks.size()); ++s) {
    std::array<double, std::size(kFactors)> total{};
    for (std::size_t f = 0; f < total.size(); ++f) {
      const double d = std::log(kFactors[f]) / sigma;
      total[f] = d * d / 2;
      for (std::size_t i = 0; i < fit.rows.size(); ++i)
        if (fit.rows[i].stack == s) total[f] += cost[i][f];
    }
    const auto best =
        static_cast<std::size_t>(std::min_element(total.begin(), total.end()) - total.begin());
    fit.at[Fit::own(s, kConstant)] = std::log(kFactors[best]);
  }
}

double residual(const Fit& fit, const FitRow& row, const Eigen::VectorXd& x) {
  double r = row.log_predicted - row.log_measured;
  for (int c = 0; c < kConstants; ++c) {
    const auto i = static_cast<std::size_t>(c);
    r += row.slope[i] * (x[Fit::shared(c)] - fit.at[Fit::shared(c)] + x[Fit::own(row.stack, c)] -
                         fit.at[Fit::own(row.stack, c)]);
  }
  const Eigen::Index a = fit.sustained(row.architecture);
  r += row.sustained_slope * (x[a] - fit.at[a]);
  return r;
}

// The minimum of the linearised problem without the rows of `left_out` (-1: with all). Steps are
// kept within `reach` of the linearisation.
Eigen::VectorXd solve(const Fit& fit, int left_out, double damping) {
  Eigen::VectorXd x = fit.at;
  for (int round = 0; round < 12; ++round) {  // of reweighting
    Eigen::MatrixXd a = Eigen::MatrixXd::Zero(fit.size(), fit.size());
    Eigen::VectorXd b = Eigen::VectorXd::Zero(fit.size());
    for (const FitRow& row : fit.rows) {
      if (row.source == left_out) continue;
      const double r = residual(fit, row, x);
      // rho'(u) / u of Cauchy's loss.
      const double weight = 1 / (kRowSigma * kRowSigma) / (1 + r * r / (2 * kRowSigma * kRowSigma));
      std::array<Eigen::Index, 2 * kConstants + 1> at;
      std::array<double, 2 * kConstants + 1> slope;
      at.back() = fit.sustained(row.architecture);
      slope.back() = row.sustained_slope;
      for (int c = 0; c < kConstants; ++c) {
        const auto i = static_cast<std::size_t>(c);
        at[2 * i] = Fit::shared(c);
        at[2 * i + 1] = Fit::own(row.stack, c);
        slope[2 * i] = slope[2 * i + 1] = row.slope[i];
      }
      for (std::size_t i = 0; i < at.size(); ++i) {
        b[at[i]] -= weight * slope[i] * r;
        for (std::size_t j = 0; j < at.size(); ++j) a(at[i], at[j]) += weight * slope[i] * slope[j];
      }
    }
    const auto prior = [&](Eigen::Index i, double sigma) {
      sigma = std::max(sigma, 1e-4);  // 0: held at its centre
      a(i, i) += 1 / (sigma * sigma);
      b[i] -= x[i] / (sigma * sigma);
    };
    for (int c = 0; c < kConstants; ++c) {
      const auto i = static_cast<std::size_t>(c);
      prior(Fit::shared(c), kSharedSigma[i]);
      for (int s = 0; s < static_cast<int>(fit.stacks.size()); ++s)
        prior(Fit::own(s, c), kOwnSigma[i]);
    }
    for (int k = 0; k < static_cast<int>(fit.architectures.size()); ++k)
      prior(fit.sustained(k), kSustainedSigma);
    // Damping towards the point of linearisation.
    for (Eigen::Index i = 0; i < fit.size(); ++i) {
      a(i, i) += damping;
      b[i] -= damping * (x[i] - fit.at[i]);
    }
    const Eigen::VectorXd step = a.ldlt().solve(b);
    x += step;
    if (step.lpNorm<Eigen::Infinity>() < 1e-6) break;
  }
  return x;
}

}  // namespace

Backtest fitted_backtest(const std::vector<PublishedRun>& runs, const StackByName& stacks,
                         const PredictCase& predict, const FitOptions& options) {
  // Rows that the catalogue's constants can score are the data.
  Backtest first = backtest(runs, stacks, predict, options.threads);
  Fit fit;
  const auto index_of = [](std::vector<std::string>& names, const std::string& name) {
    const auto it = std::find(names.begin(), names.end(), name);
    if (it != names.end()) return static_cast<int>(it - names.begin());
    names.push_back(name);
    return static_cast<int>(names.size() - 1);
  };
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const BacktestRow& row = first.rows[i];
    if (!row.scored || (!options.all_hardware && !is_core(row))) continue;
    RunCase c = std::get<RunCase>(run_case(runs[i]));
    const int architecture = index_of(fit.architectures, c.cluster.gpu.architecture);
    fit.rows.push_back({.run = i,
                        .stack = index_of(fit.stacks, row.stack),
                        .source = index_of(fit.sources, row.source),
                        .architecture = architecture,
                        .run_case = std::move(c),
                        .log_measured = std::log(row.measured_s)});
  }
  if (fit.rows.empty()) return first;
  std::vector<hw::Stack> entries;
  for (const std::string& name : fit.stacks) entries.push_back(stacks(name));

  fit.at = Eigen::VectorXd::Zero(fit.size());
  start_host_times(fit, entries, predict, options.threads);
  for (int i = 0; i < options.iterations; ++i) {
    linearise(fit, entries, predict, options.threads);
    fit.at = solve(fit, -1, i == 0 ? 10.0 : 1.0);
  }

  const auto fitted = [&](const std::string& name) {
    const auto it = std::find(fit.stacks.begin(), fit.stacks.end(), name);
    const int s = it == fit.stacks.end() ? -1 : static_cast<int>(it - fit.stacks.begin());
    return with_constants(stacks(name), Fit::logs(fit.at, s));
  };
  // Fitted rates instead of the catalogue's; architectures without a row keep those.
  const PredictCase sustained = [&](const RunCase& given, const hw::Stack& stack) {
    RunCase c = given;
    hw::Gpu& gpu = c.cluster.gpu;
    const auto it = std::find(fit.architectures.begin(), fit.architectures.end(), gpu.architecture);
    if (it != fit.architectures.end())
      gpu.sustained_matmul =
          std::exp(fit.at[fit.sustained(static_cast<int>(it - fit.architectures.begin()))]);
    return predict(c, stack);
  };
  Backtest result = backtest(runs, fitted, sustained, options.threads);
  for (std::size_t a = 0; a < fit.architectures.size(); ++a)
    result.sustained_matmul[fit.architectures[a]] =
        std::exp(fit.at[fit.sustained(static_cast<int>(a))]);
  for (std::size_t s = 0; s < fit.stacks.size(); ++s) {
    FittedStack f{.name = fit.stacks[s], .stack = fitted(fit.stacks[s])};
    for (const FitRow& row : fit.rows) f.rows += row.stack == static_cast<int>(s);
    for (int c = 0; c < kConstants; ++c)
      if (c != 5 || entries[s].host_per_step.si > 0) f.constants.push_back(kConstantNames[c]);
    result.fitted.push_back(std::move(f));
  }

  if (options.cross_validate) {
    linearise(fit, entries, predict, options.threads);
    std::vector<Eigen::VectorXd> without;
    for (int s = 0; s < static_cast<int>(fit.sources.size()); ++s)
      without.push_back(solve(fit, s, 1.0));
    for_each_index(fit.rows.size(), options.threads, [&](std::size_t i) {
      const FitRow& row = fit.rows[i];
      const auto log_s =
          log_step(row, entries[static_cast<std::size_t>(row.stack)],
                   point(fit, without[static_cast<std::size_t>(row.source)], row), predict);
      if (log_s) result.rows[row.run].left_out_s = std::exp(*log_s);
    });
    summarise(result);
  }
  return result;
}

}  // namespace reckon::plan

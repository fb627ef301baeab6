#include "hw-models/fit/least_squares.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <map>

namespace reckon::fit {

namespace {

constexpr double kHuber = 0.1;

double loss(const std::vector<double>& r, const std::vector<double>& weights) {
  double sum = 0;
  for (std::size_t i = 0; i < r.size(); ++i) {
    const double a = std::abs(r[i]);
    sum += weights[i] * (a <= kHuber ? a * a / 2 : kHuber * (a - kHuber / 2));
  }
  return sum;
}

std::vector<double> exps(const Eigen::VectorXd& x) {
  std::vector<double> v;
  for (const double e : x) v.push_back(std::exp(e));
  return v;
}

}  // namespace

std::vector<double> minimise(const Residuals& residuals, const std::vector<double>& row_weights,
                             std::vector<double> start) {
  const auto n = static_cast<Eigen::Index>(start.size());
  Eigen::VectorXd x(n);
  for (Eigen::Index i = 0; i < n; ++i) x[i] = std::log(start[static_cast<std::size_t>(i)]);
  std::vector<double> r = residuals(start);
  double current = loss(r, row_weights), damping = 1e-2;
  for (int iteration = 0; iteration < 100; ++iteration) {
    const auto rows = static_cast<Eigen::Index>(r.size());
    Eigen::MatrixXd jacobian(rows, n);
    constexpr double kStep = 1e-4;
    for (Eigen::Index j = 0; j < n; ++j) {
      Eigen::VectorXd moved = x;
      moved[j] += kStep;
      const std::vector<double> rj = residuals(exps(moved));
      for (Eigen::Index i = 0; i < rows; ++i) {
        const auto u = static_cast<std::size_t>(i);
        jacobian(i, j) = (rj[u] - r[u]) / kStep;
      }
    }
    Eigen::VectorXd weighted(rows), weights(rows);
    for (Eigen::Index i = 0; i < rows; ++i) {
      const auto u = static_cast<std::size_t>(i);
      const double ri = r[u];
      weights[i] = row_weights[u] * (std::abs(ri) <= kHuber ? 1 : kHuber / std::abs(ri));
      weighted[i] = weights[i] * ri;
    }
    const Eigen::MatrixXd normal = jacobian.transpose() * weights.asDiagonal() * jacobian;
    const Eigen::VectorXd gradient = jacobian.transpose() * weighted;
    bool better = false;
    while (damping < 1e8 && !better) {
      Eigen::MatrixXd damped = normal;
      damped.diagonal() += damping * (normal.diagonal().array() + 1e-9).matrix();
      Eigen::VectorXd step = damped.ldlt().solve(-gradient);
      step = step.cwiseMax(-0.7).cwiseMin(0.7);  // at most a factor of two per constant
      const Eigen::VectorXd candidate = x + step;
      const std::vector<double> rc = residuals(exps(candidate));
      const double lc = loss(rc, row_weights);
      if (lc < current * (1 - 1e-9)) {
        better = true;
        x = candidate, r = rc, current = lc;
        damping = std::max(1e-9, damping / 5);
      } else {
        damping *= 5;
      }
    }
    if (!better) break;
  }
  return exps(x);
}

std::vector<double> equal_tables(const std::vector<std::string>& table_of_row) {
  std::map<std::string, double> rows;
  for (const std::string& t : table_of_row) rows[t] += 1;
  std::vector<double> w;
  for (const std::string& t : table_of_row) w.push_back(1 / rows[t]);
  return w;
}

Errors errors_of(const std::vector<double>& log_residuals) {
  Errors e{.rows = log_residuals.size()};
  if (log_residuals.empty()) return e;
  std::vector<double> error, sign;
  for (const double r : log_residuals) {
    error.push_back(std::abs(std::expm1(r)));
    sign.push_back(std::expm1(r));
  }
  std::sort(error.begin(), error.end());
  std::sort(sign.begin(), sign.end());
  e.median = error[error.size() / 2];
  e.p90 = error[error.size() * 9 / 10];
  e.bias = sign[sign.size() / 2];
  return e;
}

}  // namespace reckon::fit

// Nonlinear least squares on log time over few positive constants.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace reckon::fit {

// log(modelled / measured) of every row, for these constants.
using Residuals = std::function<std::vector<double>(const std::vector<double>& constants)>;

// The constants > 0 that minimise the Huber loss of the residuals: squares up to 10 %, absolute
// values beyond, so that rows of another regime pull little. `weights`: per row.
// Levenberg-Marquardt on the logarithms of the constants, Jacobian by differences.
std::vector<double> minimise(const Residuals& residuals, const std::vector<double>& weights,
                             std::vector<double> start);

// Weights with which every table counts the same, however many rows it has.
std::vector<double> equal_tables(const std::vector<std::string>& table_of_row);

// Of |modelled / measured - 1|.
struct Errors {
  std::size_t rows = 0;
  double median = 0, p90 = 0;
  double bias = 0;  // median of modelled / measured - 1
};
Errors errors_of(const std::vector<double>& log_residuals);

}  // namespace reckon::fit

// Fits the constants of software stacks to published step times.
//
// A stack has up to six free constants: the efficiencies e of matrix products, attention,
// memory-bound kernels and collectives (log e = g + d: g shared by all stacks, d of this one), and
// the host's time per kernel and per step (a guess times exp(d)). An architecture has one: log a of
// the rate that its matrix products keep through a step (Gpu::sustained_matmul). The fit minimises
//   sum over rows of rho(log(predicted / measured) / 0.06)
//   + (sum (g / sigma_g)^2 + sum (d / sigma_d)^2 + sum (log a / sigma_a)^2) / 2
// (sigmas: stack_fit.cc)
// with rho(x) = log(1 + x^2 / 2) (Cauchy's), so that a row that contradicts the others counts
// little, and a stack with few rows stays near the rest. Levenberg-Marquardt on iteratively
// reweighted squares, derivatives by forward differences.
//
// A source that is left out is predicted with g and d of a fit without its rows; that fit starts
// from the full one's derivatives (one linearisation), the predictions are made anew.
#pragma once

#include "planner/backtest.h"

namespace reckon::plan {

struct FitOptions {
  bool cross_validate = false;
  bool all_hardware = false;
  int threads = 1;
  int iterations = 4;
};

// Fits, then scores every row with the fitted stacks.
Backtest fitted_backtest(const std::vector<PublishedRun>& runs, const StackByName& stacks,
                         const PredictCase& predict, const FitOptions& options);

}  // namespace reckon::plan

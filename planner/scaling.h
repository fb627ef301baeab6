// Scaling losses of published runs, measured and predicted, and what they say of interruptions
// (stragglers.h).
//
// A series is one plan at several GPU counts: data parallelism grows, the batch is kept (strong
// scaling) or grows with it (weak). A run's loss is what its throughput per GPU lacks of that of
// the smallest run of its series.
//
// The fit gives each stack the seconds of an interruption that minimise the squares of the
// differences of its losses. To check it the stack's models (its series, if it has one model) are
// split into two halves, and each is predicted with the seconds fitted to the other alone.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "planner/backtest.h"

namespace reckon::plan {

struct ScalingLoss {
  std::string id, stack;
  int gpus = 0, base = 0;  // base: of the series' smallest run
  double measured = 0;
  double predicted = 0;            // with the catalogue's seconds
  double without = 0;              // without interruptions
  double fitted = 0;               // with those fitted to all
  std::optional<double> left_out;  // with those of the other half; nothing: there is none
};

struct InterruptionFit {
  std::string stack;
  int models = 0, series = 0, runs = 0;
  Seconds catalogue, all, halves[2];
};

struct Scaling {
  std::vector<ScalingLoss> losses;
  std::vector<InterruptionFit> fits;  // by stack, in the order of the file
};

// REQUIRES: backtest is of these runs.
Scaling scaling(const std::vector<PublishedRun>& runs, const Backtest& backtest);

nlohmann::ordered_json to_json(const Scaling& scaling);
std::string to_text(const Scaling& scaling);  // for people: summary and fits

}  // namespace reckon::plan

// The backtest on the project's own table: published step times of tiers A and B on A100, H800,
// H100 and H200 (each row names its source), vTrain's multi-node plans (VIA-Research/vTrain,
// ground_truth_multi.csv) and eight groups of competing plans on one node
// (ground_truth_single.csv).
#include <fmt/format.h>

#include <catch2/catch.hpp>

#include "hw-models/catalog.h"
#include "planner/backtest.h"

using namespace reckon;
using namespace reckon::plan;

TEST_CASE("published step times are predicted within the stated errors") {
  const Backtest b = backtest_file(RECKON_SOURCE "/tests/planner/data/published_runs.json", {});
  fmt::print("{}\n", to_text(b, false));
  CHECK(b.core.scored >= 9 * (b.core.scored + b.core.skipped) / 10);
  CHECK(b.core.median_ape < 0.08);
  CHECK(b.core.mape < 0.12);
  for (const BacktestRow& r : b.rows) {
    INFO(r.id);
    CHECK(r.scored == r.reason.empty());
    if (r.scored) CHECK(r.predicted_s > 0);
  }
}

TEST_CASE("a backtest is the same on any number of threads") {
  const std::string path = RECKON_SOURCE "/tests/planner/data/published_runs.json";
  const Backtest one = backtest_file(path, {.threads = 1});
  const Backtest three = backtest_file(path, {.threads = 3});
  CHECK(to_json(one).dump() == to_json(three).dump());
}

// Scaling of published runs (planner/scaling.h): predicted and measured losses.
#include "planner/scaling.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "planner/stragglers.h"

using namespace reckon;
using namespace reckon::plan;

TEST_CASE("published scaling losses beside predicted ones") {
  const std::string path = RECKON_SOURCE "/tests/planner/data/published_runs.json";
  const Scaling s = scaling(published_runs(hw::read_json_file(path)), backtest_file(path, {}));
  fmt::print("{:44} {:>6} {:>6}  {:>9} {:>9} {:>8}\n", "run", "of", "GPUs", "measured", "predicted",
             "points");
  int within = 0, left_out = 0, without = 0;  // the latter two: of stacks with interruptions
  for (const ScalingLoss& l : s.losses) {
    const auto close = [&](double loss) { return std::abs(loss - l.measured) <= 0.03; };
    within += close(l.predicted);
    if (interruption(l.stack).si > 0) {
      left_out += close(l.left_out.value_or(l.without));
      without += close(l.without);
    }
    fmt::print("{:44} {:>6} {:>6}  {:>7.1f} % {:>7.1f} % {:>+8.1f}\n", l.id, l.base, l.gpus,
               100 * l.measured, 100 * l.predicted, 100 * (l.predicted - l.measured));
  }
  fmt::print("{}", to_text(s));
  const auto runs = static_cast<double>(s.losses.size());
  CHECK(runs >= 80);
  CHECK(within >= 0.85 * runs);
  // Interruptions fitted to other models predict better than none.
  CHECK(left_out > without);
}

// Against drawing: the mean of the largest of n, over many draws.
TEST_CASE("the mean of the largest of some Poisson numbers") {
  std::mt19937 random(3);
  for (const double mean : {0.01, 0.3, 4.0})
    for (const int n : {1, 8, 256}) {
      std::poisson_distribution<int> draw(mean);
      constexpr int kDraws = 4000;
      double sum = 0;
      for (int i = 0; i < kDraws; ++i) {
        int most = 0;
        for (int j = 0; j < n; ++j) most = std::max(most, draw(random));
        sum += most;
      }
      CAPTURE(mean, n);
      CHECK(largest_poisson(mean, n) == Approx(sum / kDraws).epsilon(0.03).margin(0.005));
    }
}

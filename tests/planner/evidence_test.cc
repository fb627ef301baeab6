#include "planner/evidence.h"

#include <fmt/format.h>

#include <catch2/catch.hpp>
#include <cmath>
#include <set>

#include "hw-models/catalog.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

EvidenceRow published(const char* gpu, const char* stack, bool mixture, double ratio) {
  static int sources = 0;
  return {.source = fmt::format("source {}", ++sources),
          .model = "m",
          .gpu = gpu,
          .stack = stack,
          .mixture = mixture,
          .parameters = 1e9,
          .gpus = 8,
          .measured_s = ratio,
          .predicted_s = 1};
}

const RunTraits kTraits{.gpu = "H100",
                        .architecture = "hopper",
                        .stack = "a",
                        .mixture = true,
                        .parameters = 1e9,
                        .gpus = 8};

}  // namespace

TEST_CASE("the interval's ends are the order statistics that hold 4 of 5") {
  // n = 19: ranks floor(0.1 * 20) = 2 and ceil(0.9 * 20) = 18.
  std::vector<EvidenceRow> rows;
  for (int i = 0; i < 19; ++i)
    rows.push_back(published("H100", "a", true, 1 + (i * 7 % 19) * 0.01));
  const auto range = interval(rows);
  REQUIRE(range);
  CHECK(range->low == Approx(1.01));
  CHECK(range->high == Approx(1.17));
  rows.resize(9);  // ranks 1 and 9: the least and the largest
  CHECK(interval(rows)->low == Approx(1));
  rows.resize(8);
  CHECK_FALSE(interval(rows));
}

TEST_CASE("similar runs come from the narrowest class that has enough, nearest first") {
  std::vector<EvidenceRow> rows;
  for (int i = 0; i < 5; ++i) rows.push_back(published("H100", "a", true, 1));
  for (int i = 0; i < 5; ++i) rows.push_back(published("H100", "b", true, 1));
  for (int i = 0; i < 40; ++i) rows.push_back(published("A100", "a", false, 1));
  rows[7].gpus = 64;
  SimilarRuns s = similar_runs(rows, kTraits);
  CHECK(s.alike == "mixtures of experts on H100, any software");
  CHECK(s.rows.size() == 10);
  CHECK(s.rows.back().gpus == 64);
  for (int i = 0; i < 4; ++i) rows.push_back(published("H100", "a", true, 1));
  s = similar_runs(rows, kTraits);
  CHECK(s.alike == "mixtures of experts on H100 with software a");
  CHECK(s.rows.size() == 9);
  RunTraits dense = kTraits;
  dense.mixture = false;
  CHECK(similar_runs(rows, dense).rows.size() == kMost);
  // Ten runs of one source are one.
  for (EvidenceRow& r : rows)
    if (r.gpu == "H100") r.source = "the same";
  CHECK(similar_runs(rows, kTraits).alike == "any model, software and GPU");
}

// The embedded rows against themselves: each run's interval from the runs of other sources. The
// promise is 4 of 5.
TEST_CASE("intervals from other sources hold most published runs") {
  const std::vector<EvidenceRow>& rows = evidence();
  REQUIRE(rows.size() > 300);
  int inside = 0, asked = 0;
  double width = 0;
  for (const EvidenceRow& r : rows) {
    std::vector<EvidenceRow> others;
    for (const EvidenceRow& o : rows)
      if (o.source != r.source) others.push_back(o);
    const SimilarRuns s = similar_runs(others, {.gpu = r.gpu,
                                                .stack = r.stack,
                                                .mixture = r.mixture,
                                                .parameters = r.parameters,
                                                .gpus = r.gpus});
    const auto range = interval(s.rows);
    if (!range) continue;
    ++asked;
    width += std::log(range->high / range->low);
    inside += r.ratio() >= range->low && r.ratio() <= range->high;
  }
  const double covered = static_cast<double>(inside) / asked;
  fmt::print("intervals: {} of {} published runs inside ({:.1f} %), mean width {:.1f} %\n", inside,
             asked, 100 * covered, 100 * (std::exp(width / asked) - 1));
  CHECK(asked == static_cast<int>(rows.size()));
  CHECK(covered > 0.75);
}

// The embedded errors are this program's: a sample is predicted again. They were made with
// constants fitted without each source, so single rows may differ; their middle may not. Written by
// the command that evidence.h names.
TEST_CASE("the embedded errors are those of this program") {
  const auto runs =
      published_runs(hw::read_json_file(RECKON_SOURCE "/tests/planner/data/published_runs.json"));
  std::vector<PublishedRun> sample;
  std::set<std::string> sources;
  for (std::size_t i = 0; i < runs.size(); i += 8) sample.push_back(runs[i]);
  const Backtest now = backtest(
      sample, [](const std::string& name) { return hw::stack(name); }, folded_prediction, 2);
  std::vector<double> then_over_now;
  for (const BacktestRow& r : now.rows) {
    if (!r.scored || !is_core(r)) continue;
    for (const EvidenceRow& e : evidence())
      if (e.source == r.source && std::abs(e.measured_s / r.measured_s - 1) < 1e-5) {
        then_over_now.push_back(e.predicted_s / r.predicted_s);
        break;
      }
  }
  REQUIRE(then_over_now.size() > 40);
  std::sort(then_over_now.begin(), then_over_now.end());
  CHECK(then_over_now[then_over_now.size() / 2] == Approx(1).epsilon(0.03));
}

// How wrong this program was on published runs like a given one, and the interval that follows for
// a prediction.
//
// The figures travel inside the program (catalog/published_errors.json): the rows of `reckon
// backtest RUNS.json --cross-validate --evidence FILE`, each predicted with constants fitted
// without its source, so that an error is that of a run which the program had not seen.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "planner/backtest.h"
#include "planner/scenario.h"

namespace reckon::plan {

struct EvidenceRow {
  std::string source, model, gpu, stack;
  bool mixture = false;
  double parameters = 0;  // activated
  int gpus = 0;
  double measured_s = 0, predicted_s = 0;

  double ratio() const { return measured_s / predicted_s; }
};

// What runs are compared by.
struct RunTraits {
  std::string gpu, architecture, stack;
  bool mixture = false;
  double parameters = 0;
  int gpus = 0;
};
RunTraits run_traits(const Scenario& s);

// Published runs like the one in question, most alike first: at most one of each source, its
// nearest, since runs of one source share hardware, software and the hand that measured them.
// Taken from the first of these classes in which at least kFewest sources have one, and of it the
// kMost nearest by model size and GPUs (sum of the two |log ratios|):
//   same class of model (dense, mixture), software and GPU; class and GPU; class and software;
//   class; any.
// Nothing for CPUs, of which there are none.
struct SimilarRuns {
  std::string alike;  // in words, e.g. "mixtures of experts on H800 with the same software"
  std::vector<EvidenceRow> rows;
};
inline constexpr std::size_t kFewest = 9, kMost = 24;
SimilarRuns similar_runs(const std::vector<EvidenceRow>& rows, const RunTraits& q);

// Factors on a prediction between which the measured step lies for 4 of 5 runs like these: order
// statistics of measured / predicted, at ranks floor(0.1 (n + 1)) and ceil(0.9 (n + 1)). If the new
// run is one more draw of the same kind the interval holds it with at least that probability (split
// conformal prediction, Vovk et al. 2005). Nothing below 9 rows, where it would be unbounded. How
// many published runs are inside the interval from all other sources: evidence_test.cc.
struct Interval {
  double low = 1, high = 1;
};
std::optional<Interval> interval(const std::vector<EvidenceRow>& rows);

// The embedded rows.
const std::vector<EvidenceRow>& evidence();
// What `reckon backtest --evidence` writes. REQUIRES: a cross-validated backtest of `runs`.
std::string evidence_json(const std::vector<PublishedRun>& runs, const Backtest& backtest);
std::vector<EvidenceRow> evidence_from_json(const nlohmann::json& file);

// For the report: {alike, interval [low, high] or null, rows [...]}.
nlohmann::ordered_json evidence_figure(const Scenario& s);

}  // namespace reckon::plan

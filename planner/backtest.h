// Predicted against measured step times of published runs: row by row, summed up by source, GPU,
// family, tier and stack, and, where plans compete, how well the prediction ranks them.
#pragma once

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "planner/run_case.h"

namespace reckon::plan {

// What a cost model says of one case: the step, or why it can't run.
struct CaseTime {
  Seconds step;
  Bytes peak;  // memory of the fullest rank; 0: not modelled
  bool calibrated = true;
};
using PredictCase =
    std::function<std::variant<CaseTime, NoCase>(const RunCase& run, const hw::Stack& stack)>;

// The engine of this program: why_illegal, then predict.
std::variant<CaseTime, NoCase> folded_prediction(const RunCase& run, const hw::Stack& stack);

// Stack entries by name: the catalogue's, or fitted ones.
using StackByName = std::function<hw::Stack(const std::string& name)>;

struct BacktestRow {
  std::string id, source, gpu, family, tier, stack, group;
  std::string plan;  // in one line, for reports and to tell plans apart
  bool scored = false;
  std::string reason;     // why not
  double measured_s = 0;  // 0: none
  double predicted_s = 0;
  double peak_gib = 0;
  bool fits = true;  // false: predicted not to fit the memory it ran in
  bool calibrated = true;
  std::optional<double> left_out_s;  // prediction after a fit without this row's source
  std::vector<std::string> assumed;

  double error() const { return predicted_s / measured_s - 1; }
};

// Errors are |predicted / measured - 1|.
struct ErrorSummary {
  int scored = 0, skipped = 0;
  double mape = 0, median_ape = 0, p90_ape = 0;
  double bias = 0;  // exp(mean log(predicted / measured)) - 1
};

// Plans that compete: equal model, GPUs, batch, sequence and source.
struct PlanGroup {
  std::string name, source;
  int plans = 0;
  std::optional<double> spearman;  // of predicted against measured; from 4 plans on
  double regret = 0;  // measured time of our first choice over the best measured, less 1
};

// Constants of one stack's entry that a fit has set.
struct FittedStack {
  std::string name;
  int rows = 0;
  hw::Stack stack;
  std::vector<std::string> constants;  // names of those that were free
};

struct Backtest {
  std::vector<BacktestRow> rows;  // in the order of the file
  ErrorSummary all;
  ErrorSummary core;                     // rows of is_core
  std::optional<ErrorSummary> left_out;  // of the same rows, with cross-validation
  std::map<std::string, ErrorSummary> by_source, by_gpu, by_family, by_tier, by_stack;
  std::vector<PlanGroup> groups;
  std::vector<FittedStack> fitted;                 // empty: no fit in this run
  std::map<std::string, double> sustained_matmul;  // of Gpu, by architecture; likewise
};

// Tiers A and B (the plan is known) on A100, H800, H100 and H200: what the stacks are fitted to.
bool is_core(const BacktestRow& row);

// Predictions run on `threads` threads; the answer does not depend on their number.
Backtest backtest(const std::vector<PublishedRun>& runs, const StackByName& stacks,
                  const PredictCase& predict, int threads);

// The summaries and groups of rows that are filled in already.
void summarise(Backtest& result);

ErrorSummary summary(const std::vector<double>& predicted_over_measured, int skipped);
// Rank correlation with ties at their mean rank. REQUIRES: equal sizes, at least 2.
double spearman(const std::vector<double>& a, const std::vector<double>& b);

struct BacktestOptions {
  bool fit = false;             // fit the stacks' constants to the rows first
  bool cross_validate = false;  // also predict each source with constants fitted without it
  bool all_hardware = false;    // fit and summarise rows of any GPU and tier, not only
                                // tiers A and B on A100, H800, H100 and H200
  int threads = 2;
};

// The whole command. Errors: InputError.
Backtest backtest_file(const std::string& path, const BacktestOptions& options);

nlohmann::ordered_json to_json(const Backtest& result);
// For people: the error tables; `rows`: also row by row.
std::string to_text(const Backtest& result, bool rows);

}  // namespace reckon::plan

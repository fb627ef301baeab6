// `reckon backtest`: predictions against published runs.
#include <fmt/format.h>

#include "planner/backtest.h"
#include "planner/cli.h"
#include "planner/evidence.h"
#include "planner/file.h"
#include "planner/scaling.h"
#include "sim/input_error.h"

namespace reckon::plan {

int backtest_command(const BacktestCommandOptions& options, const CommonOptions& common) {
  if (!options.evidence.empty() && !options.cross_validate)
    throw InputError("--evidence: expected --cross-validate beside it");
  const Backtest result = backtest_file(options.runs, {.fit = options.fit,
                                                       .cross_validate = options.cross_validate,
                                                       .all_hardware = options.all_hardware,
                                                       .threads = thread_count(common)});
  if (result.rows.empty()) throw InputError(options.runs + ":1: expected at least one run");
  if (!options.evidence.empty())
    write_file(options.evidence,
               evidence_json(published_runs(hw::read_json_file(options.runs)), result));
  std::optional<Scaling> losses;
  if (options.cross_validate)
    losses = scaling(published_runs(hw::read_json_file(options.runs)), result);
  if (common.json) {
    nlohmann::ordered_json j = to_json(result);
    if (losses) j["scaling"] = to_json(*losses);
    fmt::print("{}\n", j.dump(2));
  } else {
    fmt::print("{}", to_text(result, options.rows));
    if (losses) fmt::print("\n{}", to_text(*losses));
  }
  return kDone;
}

}  // namespace reckon::plan

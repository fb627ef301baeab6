// `reckon backtest`: predictions against published runs.
#include <fmt/format.h>

#include "planner/backtest.h"
#include "planner/cli.h"
#include "planner/evidence.h"
#include "planner/file.h"
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
  if (common.json)
    fmt::print("{}\n", to_json(result).dump(2));
  else
    fmt::print("{}", to_text(result, options.rows));
  return kDone;
}

}  // namespace reckon::plan

// `reckon sweep`: the scenario priced again with some of its parts varied.
#include <fmt/format.h>

#include "planner/cli.h"
#include "planner/cli_points.h"
#include "planner/file.h"
#include "planner/gnuplot.h"
#include "planner/points_page.h"
#include "planner/scenario_json.h"
#include "planner/sweep_report.h"

namespace reckon::plan {

int sweep_command(const SweepCommandOptions& options, const CommonOptions& common) {
  Sweep sweep{.scenario = hw::read_json_file(options.scenario),
              .one_at_a_time = options.one_at_a_time,
              .search = options.plan == "search"};
  for (const std::string& text : options.vary) sweep.variations.push_back(read_variation(text));
  scenario_from_json(sweep.scenario);  // errors of the scenario itself, with their places
  check_output_name(options.output);
  check_pictures(options.chart, options.report);

  require_some_scenario(sweep);

  const PointsRun r = run_points(sweep, options.output, options.part, common);
  if (r.others_go_on) return kDone;
  if (r.whole()) {
    if (options.output.ends_with(".csv")) write_file(options.output, sweep_csv(sweep, r.answers));
    if (options.output.ends_with(".json"))
      write_file(options.output, sweep_json(sweep, r.answers).dump(2) + "\n");
    if (!options.chart.empty())
      draw_with_gnuplot(options.chart, [&](const std::string& file) {
        return sweep_chart(sweep, r.answers, options.metric, file);
      });
    if (!options.report.empty())
      write_file(options.report, report_page(sweep_page(sweep, r.answers, options.metric)));
  }
  if (common.json)
    fmt::print("{}\n", sweep_json(sweep, r.answers).dump(2));
  else
    fmt::print("{}", sweep_table(sweep, r.answers));
  if (!r.whole()) return kInfeasible;
  forget_points(options.output);
  return r.with_plan > 0 ? kDone : kInfeasible;
}

}  // namespace reckon::plan

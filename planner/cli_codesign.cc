// `reckon codesign`: the model's shape, the machines and the plan chosen together.
#include "planner/cli_codesign.h"

#include <fmt/format.h>

#include "planner/cli_points.h"
#include "planner/codesign_report.h"
#include "planner/file.h"
#include "planner/gnuplot.h"
#include "planner/points_page.h"

namespace reckon::plan {

int codesign_command(const CodesignOptions& options, const CommonOptions& common) {
  std::vector<Variation> more;
  for (const std::string& text : options.vary) more.push_back(read_variation(text));
  const Codesign c = codesign(hw::read_json_file(options.scenario), more);
  check_output_name(options.output);
  check_pictures(options.chart, options.report);
  require_some_scenario(c.sweep);
  const CostMetric metric = options.cost == "days"    ? CostMetric::Days
                            : options.cost == "money" ? CostMetric::Money
                                                      : CostMetric::GpuHours;
  const PointsRun r = run_points(c.sweep, options.output, options.part, common);
  if (r.others_go_on) return kDone;
  if (r.whole()) {
    if (options.output.ends_with(".csv"))
      write_file(options.output, codesign_csv(c, r.answers, metric));
    if (options.output.ends_with(".json"))
      write_file(options.output, codesign_json(c, r.answers, metric).dump(2) + "\n");
    if (!options.chart.empty())
      draw_with_gnuplot(options.chart, [&](const std::string& file) {
        return codesign_chart(c, r.answers, metric, file);
      });
    if (!options.report.empty())
      write_file(options.report, report_page(codesign_page(c, r.answers, metric)));
  }
  if (common.json)
    fmt::print("{}\n", codesign_json(c, r.answers, metric).dump(2));
  else
    fmt::print("{}", codesign_text(c, r.answers, metric));
  if (!r.whole()) return kInfeasible;
  forget_points(options.output);
  return fronts(c, r.answers, metric).flops.empty() ? kInfeasible : kDone;
}

}  // namespace reckon::plan

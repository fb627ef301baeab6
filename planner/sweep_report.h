// A sweep's answers as a table, as CSV, as JSON and as a chart.
#pragma once

#include <string>
#include <vector>

#include "planner/sweep.h"

namespace reckon::plan {

// "nic" for "cluster.fabric.nic"; in full where two paths end alike. One a variation.
std::vector<std::string> titles(const Sweep& sweep);
std::string value_text(const nlohmann::json& value);

std::string sweep_table(const Sweep& sweep, const std::vector<nlohmann::ordered_json>& answers);
std::string sweep_csv(const Sweep& sweep, const std::vector<nlohmann::ordered_json>& answers);
nlohmann::ordered_json sweep_json(const Sweep& sweep,
                                  const std::vector<nlohmann::ordered_json>& answers);

// A gnuplot script, data included, that draws `metric` into `file` (SVG): the first varied part
// along the axis, one line for each combination of the others; one-at-a-time sweeps as bars.
std::string sweep_chart(const Sweep& sweep, const std::vector<nlohmann::ordered_json>& answers,
                        const std::string& metric, const std::string& file);

}  // namespace reckon::plan

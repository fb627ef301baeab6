// What a co-design answers: the fronts, every point, a chart.
#pragma once

#include <string>

#include "planner/codesign.h"

namespace reckon::plan {

using Answers = std::vector<nlohmann::ordered_json>;

// The largest value of a front within the budget, else of all of it; in a sentence or two.
std::string codesign_verdict(const Codesign& c, const Answers& answers, CostMetric metric);
std::string codesign_text(const Codesign& c, const Answers& answers, CostMetric metric);
nlohmann::ordered_json codesign_json(const Codesign& c, const Answers& answers, CostMetric metric);
std::string codesign_csv(const Codesign& c, const Answers& answers, CostMetric metric);
// gnuplot's script: training flops per token over the cost, the front as a line.
std::string codesign_chart(const Codesign& c, const Answers& answers, CostMetric metric,
                           const std::string& file);

}  // namespace reckon::plan

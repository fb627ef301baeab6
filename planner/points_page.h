// The pages of `reckon sweep --report` and `reckon codesign --report`.
#pragma once

#include <string>

#include "planner/codesign_report.h"
#include "planner/report_page.h"

namespace reckon::plan {

// `metric`: what the chart shows at first, e.g. "gpu_hours".
PageContent sweep_page(const Sweep& sweep, const Answers& answers, const std::string& metric);
PageContent codesign_page(const Codesign& c, const Answers& answers, CostMetric metric);

}  // namespace reckon::plan

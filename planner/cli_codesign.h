// `reckon codesign`; see cli.h.
#pragma once

#include <string>
#include <vector>

#include "planner/cli.h"

namespace reckon::plan {

struct CodesignOptions {
  std::string scenario;
  std::vector<std::string> vary;            // PATH=VALUES, beside what the scenario says
  std::string cost = "gpu_hours";           // or "days", "money"
  std::string output, chart, report, part;  // as of sweep
};
int codesign_command(const CodesignOptions& options, const CommonOptions& common);

}  // namespace reckon::plan

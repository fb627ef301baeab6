// `reckon explain`; see cli.h.
#pragma once

#include <string>

#include "planner/cli.h"

namespace reckon::plan {

struct ExplainOptions {
  std::string scenario;
  std::string plan;     // file; empty: the best plan of the search
  bool given = false;   // the scenario's own plan instead of the best
  std::string phase;    // of the campaign; empty: the first that is predicted
  std::string why_not;  // "tp=8,pp=8"; empty: not asked
  std::string report;   // page to write; empty: none
};
int explain_command(const ExplainOptions& options, const CommonOptions& common);

}  // namespace reckon::plan

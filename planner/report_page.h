// A report as one HTML page that needs nothing else: style, script, the charting library (D3) and
// the figures are inside it.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "planner/elasticity.h"
#include "planner/step_figures.h"

namespace reckon::plan {

// What the page shows. `answer` is what --json prints, but for wall_s.
struct PageContent {
  std::string command;  // "plan"; what is shown besides the verdict follows from it
  std::string title, headline;
  std::optional<bool> meets;  // the verdict; nothing: there was nothing to meet
  std::string verdict;        // in words
  nlohmann::ordered_json answer;
  nlohmann::ordered_json figures = nlohmann::ordered_json::object();
};

// Figures of one step: timeline, memory, roofline, sensitivity, evidence.
nlohmann::ordered_json step_figures(const SimulatedStep& s,
                                    const std::vector<Elasticity>& elasticities);

// Errors: InputError where this program was built without D3. Call it before long work.
void require_page_library();
std::string report_page(const PageContent& content);

}  // namespace reckon::plan

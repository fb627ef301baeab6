// `reckon explain`: why a plan takes the time it takes, and why it is this one.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/elasticity.h"
#include "planner/ladder.h"
#include "planner/report.h"
#include "planner/report_page.h"
#include "planner/why_not.h"

namespace reckon::plan {

// A plan beside the explained one.
struct Rival {
  std::string label;  // "runner-up"
  Plan plan;
  VariantResult result;
};

struct Explanation {
  std::size_t phase = 0;  // of the campaign
  Plan plan;
  bool found = true;  // by the search; else given
  VariantResult result;
  std::vector<Rival> rivals;
  std::vector<Elasticity> elasticities;
  std::optional<MemoryElasticity> memory;  // nothing: no plan was searched for
  Ladder ladder;
  bool interrupted = false;
};

ordered_json to_json(const Explanation& e, const Scenario& s);
std::string to_text(const Explanation& e, const Scenario& s);

// For a report: the figures of the step, and of what is in the explanation.
PageContent explain_page(const Explanation& e, const Scenario& s);

// `best`: what why_not() was asked beside.
ordered_json to_json(const WhyNot& w, const FoundPlan& best, const Scenario& s);
std::string to_text(const WhyNot& w, const FoundPlan& best, const Scenario& s,
                    const StepShape& step);

}  // namespace reckon::plan

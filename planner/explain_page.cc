// The page of `reckon explain --report`: the step's own figures, what its time goes to by cause,
// and what each optimisation saves.
#include <fmt/format.h>

#include <algorithm>

#include "planner/bill.h"
#include "planner/explain.h"

namespace reckon::plan {

namespace {

// Compute that a step does, against what holds it up.
bool waits(std::size_t cause) {
  return cause >= static_cast<std::size_t>(StepCause::Gaps);
}

// "the longest of them": of the critical path, work or waiting.
std::string longest(const Causes& path, bool waiting) {
  std::size_t most = kStepCauses;
  for (std::size_t c = 0; c < kStepCauses; ++c)
    if (waits(c) == waiting && path[c].si > 0 && (most == kStepCauses || path[c] > path[most]))
      most = c;
  if (most == kStepCauses) return "nothing";
  return fmt::format("{} ({})", description(static_cast<StepCause>(most)),
                     percent(path[most] / sum(path)));
}

std::string verdict_of(const Explanation& e, const Scenario& s) {
  const Prediction& p = e.result.prediction;
  return fmt::format(
      "{} takes {} a step{}. On its critical path most work is {}, most waiting {}.{}",
      e.found ? "The best plan" : "The plan", duration(p.step),
      p.memory.peak <= memory_limit(s) ? "" : " and does not fit in memory",
      longest(e.result.account.path, false), longest(e.result.account.path, true),
      e.interrupted ? " The search was interrupted: a faster plan may exist." : "");
}

}  // namespace

PageContent explain_page(const Explanation& e, const Scenario& s) {
  const StepShape step = step_shape(s.campaign[e.phase]);
  const Variant v = variant(s, e.plan);
  Predictor predictor(v.model, v.cluster, v.stack);
  const Predictor::Run run = predictor.run(e.plan, step);
  PageContent page{
      .command = "explain",
      .title = s.name,
      .headline = headline(s, step) + "; " + describe(e.plan),
      .verdict = verdict_of(e, s),
      .answer = to_json(e, s),
      .figures = step_figures(
          {.scenario = s, .plan = e.plan, .step = step, .run = run, .predictor = predictor},
          e.elasticities)};
  if (run.prediction.memory.peak > memory_limit(s)) page.meets = false;
  if (e.memory)
    page.figures["sensitivity"].push_back(
        {{"key", "memory"},
         {"what", "memory, the best plan with it"},
         {"less", e.memory->less},
         {"half_s", nullptr},
         {"twice_s",
          e.memory->gains.empty() ? run.prediction.step.si : e.memory->gains.back().step.si}});
  page.figures["step"] = to_json(StepAnswer{.plan = e.plan,
                                            .prediction = run.prediction,
                                            .step = step,
                                            .use = step_use(run, predictor),
                                            .memory_limit = memory_limit(s)});
  page.figures["causes"] = ordered_json::array();
  for (std::size_t c = 0; c < kStepCauses; ++c)
    page.figures["causes"].push_back({{"key", key(static_cast<StepCause>(c))},
                                      {"what", description(static_cast<StepCause>(c))},
                                      {"waits", waits(c)},
                                      {"path_s", e.result.account.path[c].si},
                                      {"mean_s", e.result.account.mean[c].si}});
  return page;
}

}  // namespace reckon::plan

#include "planner/step_use.h"

#include <algorithm>
#include <array>
#include <utility>

namespace reckon::plan {

StepUse step_use(const Predictor::Run& run, Predictor& predictor) {
  const Phases& p = run.prediction.phases;
  const Seconds passes = p.f + p.b + p.w + p.fb;
  Seconds busy;
  double ranks = 0;
  for (std::size_t r = 0; r < run.program.roles.size(); ++r) {
    const sim::Role& role = run.program.roles[r];
    sim::SimTime sum;
    for (std::size_t i = 0; i < role.slots.size(); ++i) {
      const sim::SlotSpan span = run.folded.slots[r][i];
      sum += std::min(predictor.block_time(run.program.blocks[role.slots[i].block]).compute_busy,
                      span.end - span.start);
    }
    busy += static_cast<double>(role.ranks) * sim::seconds(sum);
    ranks += role.ranks;
  }
  busy /= ranks;
  return {.compute = busy / run.prediction.step,
          .exposed = (passes - busy) / run.prediction.step,
          .bubble = p.bubble / run.prediction.step,
          .gradients = p.gradients / run.prediction.step,
          .optimizer = p.optimizer / run.prediction.step,
          .host = p.host / run.prediction.step};
}

std::string largest_loss(const StepUse& u) {
  const std::array<std::pair<double, const char*>, 5> losses = {{
      {u.bubble, "the pipeline bubble"},
      {u.exposed, "communication inside the passes that no compute hides"},
      {u.gradients, "gradient reductions that no compute hides"},
      {u.optimizer, "the optimizer and its parameter gathers"},
      {u.host, "the host's work between steps and its interruptions"},
  }};
  return std::max_element(losses.begin(), losses.end(),
                          [](const auto& a, const auto& b) { return a.first < b.first; })
      ->second;
}

}  // namespace reckon::plan

// DeepSeek-V3's published step and its phases (arXiv 2505.09343, table 4) beside the cluster engine
// with the scenario's disturbances, whose sizes are those of the public profile.
#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <string>

#include "planner/bill.h"
#include "planner/cluster_report.h"
#include "planner/disturbances.h"
#include "planner/predict.h"
#include "planner/scenario_json.h"

using namespace reckon;
using namespace reckon::plan;

TEST_CASE("DeepSeek-V3's step with disturbances, and each published phase") {
  const std::string folder = RECKON_SOURCE_DIR "/scenarios/";
  const Scenario s = read_scenario(folder + "deepseek-v3-2048-h800.json");
  Predictor predictor(s.model, s.cluster, s.stack);
  const Predictor::Run run = predictor.run(*s.plan, step_shape(s.campaign.front()));
  constexpr double kPublished = 19.926;
  for (const std::uint64_t seed : {1, 2, 3}) {
    const ClusterAnswer a =
        cluster_answer(run, predictor, *s.plan, disturbances(s, *s.plan, folder, seed));
    fmt::print("seed {}: step {:.3f} s, published {:.3f} s, {:+.2f} %; undisturbed {:.3f} s\n",
               seed, a.step.si, kPublished, 100 * (a.step.si / kPublished - 1), a.undisturbed.si);
    for (const auto& c : a.causes)
      fmt::print("  {:28} {:+.3f} s, {:+.2f} % of the step\n", c.name, c.cost.si,
                 100 * c.cost.si / a.step.si);
    CHECK(std::abs(a.step.si / kPublished - 1) <= 0.03);
    const Phases &p = a.first_phases, &m = a.phases;
    const struct {
      const char* name;
      double published;
      Seconds first, mean;
    } phases[] = {{"F", 1.13, p.f, m.f},
                  {"B", 1.99, p.b, m.b},
                  {"W", 0.48, p.w, m.w},
                  {"F&B pairs", 13.95, p.fb, m.fb},
                  {"bubble", 2.06, p.bubble, m.bubble},
                  {"optimizer", 0.29, p.gradients + p.optimizer, m.gradients + m.optimizer}};
    fmt::print("  {:12} {:>9} {:>9} {:>9}\n", "phase", "published", "GPU 0", "mean");
    for (const auto& x : phases) {
      fmt::print("  {:12} {:>8.2f}s {:>8.2f}s {:>8.2f}s\n", x.name, x.published, x.first.si,
                 x.mean.si);
      INFO(x.name << ": published " << x.published << " s, GPU 0 " << x.first.si << " s");
      // Which rank the published phases are of is not said. GPU 0 has the head, the longest passes
      // and the least bubble: what is published lies between its bubble and the mean one.
      if (x.name == std::string("bubble"))
        CHECK((x.first.si <= x.published && x.published <= x.mean.si + 0.15));
      else
        CHECK(std::abs(x.first.si - x.published) <= std::max(0.15, 0.1 * x.published));
    }
  }
}

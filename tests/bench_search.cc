// How fast plans are bounded, simulated and searched. Not a test: prints, judges nothing.
//   bench_search SCENARIO.json [threads]
#include <fmt/format.h>

#include <cstdlib>
#include <ctime>

#include "planner/candidates.h"
#include "planner/scenario_json.h"
#include "planner/search.h"
#include "planner/step_bound.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

// CPU seconds of this process: the machine may be busy with other things.
double cpu() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

template <class Each>
void rate(const char* what, const std::vector<Plan>& plans, Each each) {
  const double start = cpu();
  for (const Plan& p : plans) each(p);
  const double seconds = cpu() - start;
  fmt::print("{:<34} {:>10.0f} plans/CPU-s  ({} plans, {:.2f} CPU-s)\n", what,
             static_cast<double>(plans.size()) / seconds, plans.size(), seconds);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: bench_search SCENARIO.json [threads]\n");
    return 2;
  }
  const Scenario s = read_scenario(argv[1]);
  const StepShape step{.seq = s.campaign[0].seq, .global_batch = s.campaign[0].global_batch};

  double start = cpu();
  const Candidates space(s, step);
  Tally rejected;
  const auto legal = space.legal(rejected);
  fmt::print("{} combinations, {} legal, walked in {:.2f} s\n", space.combinations(), legal.size(),
             cpu() - start);

  // Every n-th legal plan, in order, so that neighbours share what they share in a search.
  std::vector<Plan> sample, neighbours;
  for (std::size_t i = 0; i < legal.size(); i += legal.size() / 4000 + 1)
    sample.push_back(space.plan(legal[i]));
  for (std::size_t i = legal.size() / 2; i < legal.size() && neighbours.size() < 4000; ++i)
    neighbours.push_back(space.plan(legal[i]));
  const auto micro_batches = [&](const Plan& p) {
    return static_cast<int>(step.global_batch / (static_cast<std::int64_t>(p.dp) * p.micro_batch));
  };
  rate("make_schedule, scattered", sample,
       [&](const Plan& p) { make_schedule(p.schedule, p.pp, p.vpp, micro_batches(p)); });
  rate("memory_use, scattered", sample, [&](const Plan& p) {
    memory_use(s.model, p, s.stack, step, make_schedule(p.schedule, p.pp, p.vpp, micro_batches(p)));
  });
  StepBound bound(s.model, s.cluster, s.stack);
  rate("bound, scattered", sample, [&](const Plan& p) { bound.of(p, step); });
  rate("bound, neighbours", neighbours, [&](const Plan& p) { bound.of(p, step); });
  Predictor predictor(s.model, s.cluster, s.stack);
  rate("simulate, neighbours, first time", neighbours,
       [&](const Plan& p) { predictor.step(p, step); });
  rate("simulate, neighbours, again", neighbours, [&](const Plan& p) { predictor.step(p, step); });
  if (s.plan) {
    const std::vector<Plan> published(2000, *s.plan);
    rate("simulate, the scenario's plan", published,
         [&](const Plan& p) { predictor.step(p, step); });
    fmt::print("the scenario's plan: bound {:.3f} s, step {:.3f} s\n", bound.of(*s.plan, step).si,
               predictor.predict(*s.plan, step).step.si);
  }

  {
    const int threads = argc > 2 ? std::atoi(argv[2]) : 1;
    start = cpu();
    const SearchResult r = search(s, step, {.threads = threads});
    const SearchStatistics& t = r.statistics;
    fmt::print(
        "search, {} threads: {:.2f} s ({:.2f} CPU-s); {} candidates, {} feasible, {} simulated, {} "
        "pruned\n",
        threads, t.wall_s, cpu() - start, t.candidates, t.feasible, t.simulated, t.pruned_by_bound);
    fmt::print("best {:.4f} s, smallest unexplored bound {:.4f} s\n", t.best_step.si,
               t.smallest_unexplored_bound.si);
    for (const auto& [reason, count] : t.rejected) fmt::print("  {:>10} {}\n", count, reason);
    for (const auto* list : {&r.best, &r.pareto}) {
      fmt::print("{}\n", list == &r.best ? "best" : "pareto");
      for (const FoundPlan& f : *list)
        fmt::print("  {:8.4f} s {:6.1f} GiB  bound {:8.4f}  {}\n", f.prediction.step.si,
                   f.prediction.memory.peak / GiB, bound.of(f.plan, step).si, describe(f.plan));
    }
  }
}

// The search: every legal plan of a scenario's space, best first by a proved lower bound of the
// step, with the certificate that nothing unexplored can be faster.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "planner/candidates.h"
#include "planner/predict.h"
#include "planner/scenario.h"

namespace reckon::plan {

struct FoundPlan {
  Plan plan;
  Prediction prediction;
};

// Counts and names do not depend on the number of threads; wall_s does.
struct SearchStatistics {
  std::int64_t candidates = 0;  // combinations looked at
  // Legal, and not found to exceed the memory (a plan that its bound rules out is not asked).
  std::int64_t feasible = 0;         // candidates - rejected = simulated + pruned_by_bound
  std::int64_t memory_checked = 0;   // of candidates - other rejections; the rest their bound cut
  std::int64_t simulated = 0;        // run in the folded engine
  std::int64_t pruned_by_bound = 0;  // their bound said enough
  std::map<std::string, std::int64_t> rejected;  // by reason
  std::vector<Dimension> searched;               // the space, loop by loop
  std::vector<std::string> not_searched;         // what may be legal and is in no loop
  double wall_s = 0;
  Seconds best_step;
  Seconds smallest_unexplored_bound;  // certificate: no unexplored plan is faster. 0: all explored
  bool interrupted = false;  // stopped early; the certificate still holds, except that 0 may mean
                             // that not all bounds were known
};

struct SearchResult {
  std::vector<FoundPlan> best;  // fastest first, at most SearchOptions::keep
  // Step time against peak memory, fastest first, up to front_within times the best step.
  std::vector<FoundPlan> pareto;
  SearchStatistics statistics;
};

struct SearchProgress {
  std::int64_t plans = 0;    // legal ones
  std::int64_t bounded = 0;  // of them; all, once any is settled
  std::int64_t settled = 0;  // of them, in order of their bounds
  std::int64_t simulated = 0;
  Seconds best_step;  // 0: none yet
};

struct SearchOptions {
  int threads = 1;
  int keep = 10;
  double front_within = 1.5;
  const std::atomic<bool>* stop = nullptr;  // when it turns true the search ends with what it has
  std::function<void(const SearchProgress&)> progress;  // called now and then, from one thread
  std::function<bool(const Plan&)> only;  // plans that it refuses count as rejected; none: all
};

// Plans of the whole cluster for one step shape.
SearchResult search(const Scenario& scenario, const StepShape& step, const SearchOptions& options);

}  // namespace reckon::plan

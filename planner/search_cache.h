// What searches of one model on one machine can share.
#pragma once

#include "planner/search.h"
#include "planner/step_bound.h"

namespace reckon::plan {

// Bounds of layers, blocks and their times, which depend on the model, the software and the machine
// but not on how much memory a GPU has, on prices, budgets, campaigns or the space that is
// searched. One thread.
struct SearchCache {
  explicit SearchCache(const Scenario& s)
      : bound(s.model, s.cluster, s.stack), predictor(s.model, s.cluster, s.stack) {}
  StepBound bound;
  Predictor predictor;
};

// search() on one thread: the same result, sooner where `cache` has been used before. REQUIRES: the
// cache was made from a scenario that differs in nothing but the above.
SearchResult search(const Scenario& scenario, const StepShape& step, const SearchOptions& options,
                    SearchCache& cache);

}  // namespace reckon::plan

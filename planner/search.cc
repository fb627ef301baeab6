// The space is walked and the legal combinations noted; each gets a lower bound of its step. Then
// they are taken best-first by that bound: those that fit in memory are simulated.
//
// Work is dealt to threads by what layers a plan runs, so that each thread keeps its own blocks and
// no two write the same.
#include "planner/search.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <limits>
#include <memory>

#include "planner/best_first.h"
#include "planner/candidates.h"
#include "planner/search_cache.h"

namespace reckon::plan {

namespace {

// Peak memory of many plans. Once the pipeline is full, more micro-batches hold no more memory,
// except in GPipe, which keeps them all: 4 pp are enough to fill any
// (tests/planner/search_test.cc).
class PeakMemory {
 public:
  explicit PeakMemory(const Scenario& s) : s_(s) {}

  Bytes of(const Plan& plan, const StepShape& step) {
    auto m = static_cast<int>(step.global_batch /
                              (static_cast<std::int64_t>(plan.dp) * plan.micro_batch));
    if (plan.schedule != ScheduleKind::GPipe) m = std::min(m, 4 * plan.pp);
    auto [it, fresh] =
        schedules_.try_emplace({static_cast<int>(plan.schedule), plan.pp, plan.vpp, m});
    if (fresh) it->second = make_schedule(plan.schedule, plan.pp, plan.vpp, m);
    return memory_use(s_.model, plan, s_.stack, step, it->second).peak;
  }

 private:
  const Scenario& s_;
  std::map<std::array<int, 4>, Schedule> schedules_;
};

// Whether two choices have one bound: it does not look at ZeRO (step_bound.cc, segments).
bool same_bound(Candidate a, const Candidate& b) {
  a.id = b.id;
  a.zero = b.zero;
  return a == b;
}

// Numbers the distinct layer keys in the order of their first use.
std::vector<std::uint32_t> affinities(const std::vector<Candidate>& choices) {
  std::map<Candidates::LayerKey, std::uint32_t> numbers;
  std::vector<std::uint32_t> result;
  result.reserve(choices.size());
  const Candidates::LayerKey* last = nullptr;  // neighbours mostly share it
  for (const Candidate& c : choices) {
    if (last != nullptr && *last == Candidates::layer_key(c)) {
      result.push_back(result.back());
      continue;
    }
    const auto it =
        numbers.try_emplace(Candidates::layer_key(c), static_cast<std::uint32_t>(numbers.size()))
            .first;
    last = &it->first;
    result.push_back(it->second);
  }
  return result;
}

// `workers`: one a thread.
SearchResult search_with(const Scenario& s, const StepShape& step, const SearchOptions& options,
                         const std::vector<SearchCache*>& workers) {
  const auto start = std::chrono::steady_clock::now();
  SearchResult result;
  SearchStatistics& stats = result.statistics;
  const Candidates space(s, step);
  stats.candidates = space.combinations();
  stats.searched = space.dimensions();
  stats.not_searched = space.not_searched();
  std::vector<Candidate> legal = space.legal(stats.rejected);
  if (options.only) {
    const auto asked = std::erase_if(
        legal, [&](const Candidate& choice) { return !options.only(space.plan(choice)); });
    if (asked > 0) stats.rejected["not asked for"] += static_cast<std::int64_t>(asked);
  }
  const std::vector<std::uint32_t> affinity = affinities(legal);
  const auto plans = static_cast<std::int64_t>(legal.size());
  const auto report_bounds = [&](std::size_t done) {
    if (options.progress)
      options.progress({.plans = plans, .bounded = static_cast<std::int64_t>(done)});
  };
  const auto report = [&](const BestFirst& found) {
    if (options.progress)
      options.progress(
          {.plans = plans,
           .bounded = plans,
           .settled = static_cast<std::int64_t>(found.sized),
           .simulated = static_cast<std::int64_t>(found.explored),
           .best_step = Seconds(found.best.empty() ? 0 : found.cost[found.best.front()])});
  };

  const auto threads = static_cast<std::uint32_t>(workers.size());
  std::vector<Bounded> candidates(legal.size(), {.bound = std::numeric_limits<double>::infinity()});
  on_threads(options.threads, [&](int thread) {
    StepBound& bound = workers[static_cast<std::size_t>(thread)]->bound;
    for (std::size_t i = 0; i < legal.size(); ++i) {
      if (affinity[i] % threads != static_cast<std::uint32_t>(thread)) continue;
      if (options.stop && options.stop->load()) return;
      const bool known = i > 0 && same_bound(legal[i - 1], legal[i]);
      candidates[i] = {
          .bound = known ? candidates[i - 1].bound : bound.of(space.plan(legal[i]), step).si,
          .affinity = affinity[i]};
      if (thread == 0 && i % 1024 < threads) report_bounds(i);
    }
  });
  const bool all_bounded = std::none_of(candidates.begin(), candidates.end(),
                                        [](const Bounded& c) { return std::isinf(c.bound); });

  std::vector<PeakMemory> peaks(threads, PeakMemory(s));
  const BestFirst found = best_first(
      candidates,
      {.threads = options.threads,
       .keep = static_cast<std::size_t>(options.keep),
       .max_size = (s.cluster.gpu.memory - s.constraints.memory_margin).si,
       .front_within = options.front_within,
       .stop = options.stop,
       .progress = report},
      [&](int thread, std::size_t c) {
        return peaks[static_cast<std::size_t>(thread)].of(space.plan(legal[c]), step).si;
      },
      [&](int thread, std::size_t c) {
        return workers[static_cast<std::size_t>(thread)]
            ->predictor.step(space.plan(legal[c]), step)
            .si;
      });

  const auto full_prediction = [&](const std::vector<std::size_t>& members) {
    std::vector<FoundPlan> list;
    for (std::size_t c : members) {
      Plan plan = space.plan(legal[c]);
      Prediction prediction = workers[affinity[c] % threads]->predictor.predict(plan, step);
      list.push_back({std::move(plan), std::move(prediction)});
    }
    return list;
  };
  result.best = full_prediction(found.best);
  result.pareto = full_prediction(found.front);
  if (found.too_large > 0)
    stats.rejected["does not fit in memory"] += static_cast<std::int64_t>(found.too_large);
  stats.feasible = static_cast<std::int64_t>(legal.size() - found.too_large);
  stats.memory_checked = static_cast<std::int64_t>(found.sized);
  stats.simulated = static_cast<std::int64_t>(found.explored);
  stats.pruned_by_bound = stats.feasible - stats.simulated;
  stats.interrupted = found.interrupted || !all_bounded;
  if (!found.best.empty()) stats.best_step = result.best.front().prediction.step;
  if (all_bounded)
    stats.smallest_unexplored_bound = Seconds(found.smallest_unexplored_bound.value_or(0));
  stats.wall_s = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace

SearchResult search(const Scenario& s, const StepShape& step, const SearchOptions& options) {
  std::vector<std::unique_ptr<SearchCache>> caches;
  std::vector<SearchCache*> workers;
  for (int i = 0; i < options.threads; ++i) {
    caches.push_back(std::make_unique<SearchCache>(s));
    workers.push_back(caches.back().get());
  }
  return search_with(s, step, options, workers);
}

SearchResult search(const Scenario& s, const StepShape& step, const SearchOptions& options,
                    SearchCache& cache) {
  SearchOptions alone = options;
  alone.threads = 1;
  return search_with(s, step, alone, {&cache});
}

}  // namespace reckon::plan

// Best-first search with a lower bound, over anything that has a cost and a size.
//
// Candidates are looked at in order of their bounds, a batch at a time. One is explored (its cost
// evaluated) unless it is too large, or can't matter any more: its bound is above the worst of the
// best ones kept, and something explored is at least as fast as its bound and at least as small.
// What is explored and found depends neither on the number of threads nor on time.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

namespace reckon::plan {

struct Bounded {
  double bound = 0;            // at most the cost; infinity: unknown, not to be looked at
  std::uint32_t affinity = 0;  // candidates with the same one are evaluated on the same thread
};

struct BestFirst {
  enum class State : std::uint8_t {
    Pruned,    // its bound said enough
    TooLarge,  // found to be above max_size
    Explored
  };
  std::vector<State> state;  // per candidate
  std::vector<double> cost;  // of the explored ones
  std::size_t sized = 0;     // looked at: their size is known
  std::size_t explored = 0, too_large = 0;
  std::vector<std::size_t> best;  // explored, at most `keep`, by cost, then index
  // Explored, within front_within of the best; nothing is as cheap and as small. By cost.
  std::vector<std::size_t> front;
  // Of the pruned ones. Any plan that is neither explored nor too large costs at least this.
  std::optional<double> smallest_unexplored_bound;
  bool interrupted = false;
};

struct BestFirstOptions {
  int threads = 1;
  std::size_t keep = 1;
  double max_size = std::numeric_limits<double>::infinity();
  double front_within = 1;  // the front reaches up to this multiple of the smallest cost
  // When it turns true the search ends with what it has. True from the start: after one batch.
  const std::atomic<bool>* stop = nullptr;
  std::function<void(const BestFirst&)> progress;  // after each batch
};

// Calls run(0) ... run(threads - 1), each on its own thread.
template <class Run>
void on_threads(int threads, Run run) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back([&run, t] { run(t); });
  run(0);
  for (std::thread& other : others) other.join();
}

// size(thread, candidate), cost(thread, candidate) >= its bound. Calls with the same thread never
// overlap.
template <class Size, class Cost>
BestFirst best_first(const std::vector<Bounded>& candidates, const BestFirstOptions& options,
                     Size size_of, Cost cost_of) {
  constexpr std::size_t kBatch = 512;  // large against the cost of starting threads, small against
                                       // the thousands that a search looks at
  using State = BestFirst::State;
  BestFirst result;
  result.state.resize(candidates.size(), State::Pruned);
  result.cost.resize(candidates.size());
  std::vector<double> size(candidates.size());
  std::vector<std::size_t> order(candidates.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  // In order as far as it was looked at: most candidates never are.
  std::size_t sorted = 0;
  const auto sort_up_to = [&](std::size_t end) {
    if (end <= sorted) return;
    const auto by_bound = [&](std::size_t a, std::size_t b) {
      return std::pair(candidates[a].bound, a) < std::pair(candidates[b].bound, b);
    };
    const auto at = [&](std::size_t i) { return order.begin() + static_cast<std::ptrdiff_t>(i); };
    const std::size_t upto = std::min(order.size(), std::max({end, 4 * sorted, 32 * kBatch}));
    std::nth_element(at(sorted), at(upto), order.end(), by_bound);
    std::sort(at(sorted), at(upto), by_bound);
    sorted = upto;
  };
  const auto stopped = [&] { return options.stop && options.stop->load(); };
  const bool stopped_before = stopped();
  const auto by_cost = [&](std::size_t a, std::size_t b) {
    return std::pair(result.cost[a], a) < std::pair(result.cost[b], b);
  };

  // cost -> the first candidate that is smaller than all cheaper ones.
  std::map<double, std::size_t> front;
  const auto dominated = [&](double cost, double its_size) {
    const auto above = front.upper_bound(cost);
    return above != front.begin() && size[std::prev(above)->second] <= its_size;
  };

  std::vector<std::size_t> batch;
  for (std::size_t next = 0; next < order.size() && !result.interrupted;) {
    // The state in which the whole batch is judged.
    const bool full = result.best.size() >= options.keep;
    constexpr double kAny = std::numeric_limits<double>::infinity();
    const double worst_kept = full ? result.cost[result.best.back()] : kAny;
    const double horizon =
        full ? std::max(worst_kept, options.front_within * result.cost[result.best.front()]) : kAny;
    batch.clear();
    sort_up_to(std::min(order.size(), next + kBatch));
    for (; next < order.size() && batch.size() < kBatch; ++next) {
      const double bound = candidates[order[next]].bound;
      if (bound > horizon || std::isinf(bound)) break;
      batch.push_back(order[next]);
    }
    if (batch.empty()) break;
    on_threads(options.threads, [&](int thread) {
      for (std::size_t c : batch) {
        const auto its_thread =
            candidates[c].affinity % static_cast<std::uint32_t>(options.threads);
        if (its_thread != static_cast<std::uint32_t>(thread)) continue;
        if (stopped() && !stopped_before) return;
        size[c] = size_of(thread, c);
        const double bound = candidates[c].bound;
        if (size[c] > options.max_size) {
          result.state[c] = State::TooLarge;
        } else if (bound <= worst_kept || !dominated(bound, size[c])) {
          result.cost[c] = cost_of(thread, c);
          result.state[c] = State::Explored;
        }
      }
    });
    result.sized += batch.size();
    std::sort(batch.begin(), batch.end());  // ties go to the first
    for (std::size_t c : batch) {
      if (result.state[c] == State::TooLarge) ++result.too_large;
      if (result.state[c] != State::Explored) continue;
      ++result.explored;
      result.best.push_back(c);
      if (dominated(result.cost[c], size[c])) continue;
      auto at = front.insert_or_assign(result.cost[c], c).first;
      for (++at; at != front.end() && size[at->second] >= size[c];) at = front.erase(at);
    }
    std::sort(result.best.begin(), result.best.end(), by_cost);
    if (result.best.size() > options.keep) result.best.resize(options.keep);
    result.interrupted = stopped();
    if (options.progress) options.progress(result);
  }

  for (const auto& [cost, c] : front)
    if (cost <= options.front_within * front.begin()->first) result.front.push_back(c);
  for (std::size_t c = 0; c < candidates.size(); ++c) {
    if (result.state[c] != State::Pruned) continue;
    const double bound = candidates[c].bound;
    if (!result.smallest_unexplored_bound || bound < *result.smallest_unexplored_bound)
      result.smallest_unexplored_bound = bound;
  }
  return result;
}

}  // namespace reckon::plan

#include "tests/planner/schedule_reference.h"

#include <algorithm>
#include <map>

namespace reckon::plan {

using sim::Phase;

namespace {

using Key = std::pair<int, int>;  // chunk, micro-batch

// F of (chunk, micro_batch) needs F of the chunk before; its B needs its own F and B of the chunk
// after; its W needs its B. Split a task into what it runs.
struct Parts {
  std::optional<Key> f, b, w;
};
Parts parts(const Task& t) {
  const Key first{t.chunk, t.micro_batch}, second{t.chunk2, t.micro_batch2};
  switch (t.phase) {
    case Phase::F: return {.f = first};
    case Phase::B: return {.b = first};
    case Phase::W: return {.w = first};
    case Phase::BW: return {.b = first, .w = first};
    case Phase::FB: return {.f = first, .b = second, .w = second};
    case Phase::Optimizer: break;
  }
  return {};
}

std::int64_t duration(const Task& t, UniformCosts c) {
  switch (t.phase) {
    case Phase::F: return c.f;
    case Phase::B: return c.b;
    case Phase::W: return c.w;
    case Phase::BW: return c.b + c.w;
    case Phase::FB: return c.fb;
    case Phase::Optimizer: break;
  }
  return 0;
}

}  // namespace

std::optional<std::vector<RankRun>> run_in_order(const Schedule& schedule, UniformCosts costs) {
  std::map<Key, std::int64_t> f_end, b_end;
  const std::size_t ranks = schedule.order.size();
  std::vector<RankRun> run(ranks);
  std::vector<std::size_t> next(ranks, 0);
  std::vector<int> alive(ranks, 0);
  bool progress = true;
  while (progress) {
    progress = false;
    for (std::size_t r = 0; r < ranks; ++r) {
      while (next[r] < schedule.order[r].size()) {
        const Task& t = schedule.order[r][next[r]];
        const Parts p = parts(t);
        std::int64_t start = run[r].last_end;
        bool ready = true;
        auto need = [&](const std::map<Key, std::int64_t>& ends, Key key) {
          const auto it = ends.find(key);
          if (it == ends.end())
            ready = false;
          else
            start = std::max(start, it->second);
        };
        if (p.f && p.f->first > 0) need(f_end, {p.f->first - 1, p.f->second});
        if (p.b) need(f_end, *p.b);
        if (p.b && p.b->first + 1 < schedule.chunks) need(b_end, {p.b->first + 1, p.b->second});
        if (p.w && !p.b) need(b_end, *p.w);
        if (!ready) break;
        const std::int64_t end = start + duration(t, costs);
        if (next[r] == 0) run[r].first_start = start;
        run[r].last_end = end;
        run[r].busy += end - start;
        if (p.f) f_end[*p.f] = end, ++alive[r];
        run[r].in_flight = std::max(run[r].in_flight, alive[r]);
        if (p.b) b_end[*p.b] = end;
        if (p.w) --alive[r];
        ++next[r];
        progress = true;
      }
    }
  }
  for (std::size_t r = 0; r < ranks; ++r)
    if (next[r] < schedule.order[r].size()) return std::nullopt;
  return run;
}

std::string breach(const Schedule& schedule, ScheduleKind kind, int pp, int vpp) {
  std::map<Key, std::string> done;  // phases of each (chunk, micro-batch), in order
  for (std::size_t r = 0; r < schedule.order.size(); ++r)
    for (const Task& t : schedule.order[r]) {
      const Parts p = parts(t);
      auto add = [&](const std::optional<Key>& key, const char* phase) {
        if (!key) return true;
        done[*key] += phase;
        return rank_of(kind, pp, vpp, schedule.micro_batches, key->first, key->second) ==
               static_cast<int>(r);
      };
      if (!add(p.f, "F") || !add(p.b, "B") || !add(p.w, "W"))
        return "rank " + std::to_string(r) + " runs a chunk that it does not hold";
    }
  for (int c = 0; c < schedule.chunks; ++c)
    for (int m = 0; m < schedule.micro_batches; ++m)
      if (done[{c, m}] != "FBW")
        return "chunk " + std::to_string(c) + ", micro-batch " + std::to_string(m) + " runs " +
               done[{c, m}];
  if (done.size() != static_cast<std::size_t>(schedule.chunks * schedule.micro_batches))
    return "tasks of chunks or micro-batches that do not exist";
  return "";
}

}  // namespace reckon::plan

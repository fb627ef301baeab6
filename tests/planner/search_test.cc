#include "planner/search.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "hw-models/catalog.h"
#include "planner/candidates.h"
#include "planner/step_bound.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

struct SearchCase {
  const char* name;
  Scenario scenario;
  StepShape step;
};

ModelShape nine_layers() {
  ModelShape m{.name = "dense",
               .layers = 9,
               .hidden = 2048,
               .ffn = 6144,
               .heads = 16,
               .kv_heads = 4,
               .head_dim = 128};
  m.vocab = 32000;
  return m;
}

ModelShape mixture_model() {
  ModelShape m = nine_layers();
  m.name = "mixture";
  m.mla = Mla{.q_lora = 512, .kv_lora = 256, .qk_nope = 64, .qk_rope = 32, .v = 64};
  m.kv_heads = 16;
  m.moe = Moe{.experts = 32,
              .top_k = 4,
              .ffn = 768,
              .shared_ffn = 768,
              .layers = std::vector<bool>(9, true)};
  m.moe->layers[0] = false;
  m.mtp_depth = 1;
  return m;
}

// Spaces small enough to simulate every plan, with memory that some plans exceed.
std::vector<SearchCase> small_cases() {
  std::vector<SearchCase> cases;
  const auto scenario = [](const char* gpu, const char* stack, int gpus, ModelShape model) {
    Scenario s;
    s.model = std::move(model);
    s.cluster = hw::cluster("h800-2048");
    s.cluster.gpu = hw::gpu(gpu);
    s.cluster.gpus = gpus;
    s.stack = hw::stack(stack);
    s.search.cp = {1, 2};
    s.search.micro_batch = {1, 2};
    s.search.etp = {1, 2};
    return s;
  };

  SearchCase mixture{"mixture, 16 H800, DeepSeek's stack",
                     scenario("H800", "deepseek", 16, mixture_model()),
                     {.seq = 4096, .global_batch = 64}};
  mixture.scenario.search.tp = {1, 2};
  mixture.scenario.search.pp = {1, 2, 4};
  mixture.scenario.search.ep = {8};
  mixture.scenario.search.cp = {1};
  mixture.scenario.search.precision = {Precision::Bf16, Precision::Fp8DeepSeek};
  mixture.scenario.constraints.memory_margin = 66 * GiB;
  cases.push_back(mixture);

  SearchCase megatron = mixture;
  megatron.name = "mixture, 16 H100, Megatron Bridge";
  megatron.scenario.cluster.gpu = hw::gpu("H100");
  megatron.scenario.stack = hw::stack("megatron-bridge-2025");
  cases.push_back(megatron);

  SearchCase dense{"dense, 24 A100, Megatron 2021",
                   scenario("A100-80GB", "megatron-2021", 24, nine_layers()),
                   {.seq = 2048, .global_batch = 96}};
  dense.scenario.constraints.memory_margin = 60 * GiB;
  cases.push_back(dense);
  return cases;
}

struct Found {
  Plan plan;
  double step, memory;
};

// Every legal plan that fits, simulated, fastest first; ties in order of the enumeration.
std::vector<Found> brute_force(const SearchCase& c) {
  const Candidates space(c.scenario, c.step);
  Tally rejected;
  Predictor predictor(c.scenario.model, c.scenario.cluster, c.scenario.stack);
  std::vector<Found> all;
  for (const Candidate& choice : space.legal(rejected)) {
    const Plan plan = space.plan(choice);
    const Prediction p = predictor.predict(plan, c.step);
    if (p.memory.peak <= c.scenario.cluster.gpu.memory - c.scenario.constraints.memory_margin)
      all.push_back({plan, p.step.si, p.memory.peak.si});
  }
  std::stable_sort(all.begin(), all.end(),
                   [](const Found& a, const Found& b) { return a.step < b.step; });
  return all;
}

bool same(const SearchResult& a, const SearchResult& b) {
  const auto same_list = [](const std::vector<FoundPlan>& x, const std::vector<FoundPlan>& y) {
    return std::equal(x.begin(), x.end(), y.begin(), y.end(),
                      [](const FoundPlan& p, const FoundPlan& q) {
                        return p.plan == q.plan && p.prediction.step == q.prediction.step &&
                               p.prediction.memory.peak == q.prediction.memory.peak;
                      });
  };
  const SearchStatistics &s = a.statistics, &t = b.statistics;
  return same_list(a.best, b.best) && same_list(a.pareto, b.pareto) &&
         s.candidates == t.candidates && s.feasible == t.feasible && s.simulated == t.simulated &&
         s.pruned_by_bound == t.pruned_by_bound && s.rejected == t.rejected &&
         s.best_step == t.best_step && s.smallest_unexplored_bound == t.smallest_unexplored_bound;
}

}  // namespace

TEST_CASE("the search finds what simulating every plan finds") {
  for (const SearchCase& c : small_cases()) {
    INFO(c.name);
    const std::vector<Found> all = brute_force(c);
    REQUIRE(all.size() > 100);
    const SearchResult r = search(c.scenario, c.step, {.keep = 5});
    REQUIRE(r.best.size() == 5);
    for (std::size_t i = 0; i < 5; ++i) {
      CHECK(r.best[i].plan == all[i].plan);
      CHECK(r.best[i].prediction.step.si == all[i].step);
      CHECK(r.best[i].prediction.memory.peak.si == all[i].memory);
    }
    std::vector<std::pair<double, double>> front, found;
    for (const Found& f : all)
      if (f.step <= 1.5 * all[0].step && (front.empty() || f.memory < front.back().second)) {
        if (!front.empty() && front.back().first == f.step) front.pop_back();
        front.push_back({f.step, f.memory});
      }
    for (const FoundPlan& f : r.pareto)
      found.push_back({f.prediction.step.si, f.prediction.memory.peak.si});
    CHECK(found == front);

    const SearchStatistics& s = r.statistics;
    std::int64_t rejected = 0;
    for (const auto& [reason, count] : s.rejected) rejected += count;
    CHECK(s.candidates == rejected + s.feasible);
    CHECK(s.feasible == s.simulated + s.pruned_by_bound);
    CHECK(s.rejected.at("does not fit in memory") > 0);
    CHECK(s.simulated < static_cast<std::int64_t>(all.size()));
    CHECK(s.best_step == r.best[0].prediction.step);
    CHECK(s.smallest_unexplored_bound > s.best_step);
    CHECK_FALSE(s.interrupted);
  }
}

TEST_CASE("the bound is below the simulated step of every plan, and not idle") {
  for (const SearchCase& c : small_cases()) {
    INFO(c.name);
    const Candidates space(c.scenario, c.step);
    Tally rejected;
    StepBound bound(c.scenario.model, c.scenario.cluster, c.scenario.stack);
    Predictor predictor(c.scenario.model, c.scenario.cluster, c.scenario.stack);
    double ratios = 0;
    const auto legal = space.legal(rejected);
    for (const Candidate& choice : legal) {
      const Plan plan = space.plan(choice);
      const Seconds step = predictor.step(plan, c.step), least = bound.of(plan, c.step);
      INFO(describe(plan));
      REQUIRE(least <= step);
      ratios += least / step;
    }
    CHECK(ratios / static_cast<double>(legal.size()) > 0.75);
  }
}

TEST_CASE("a search does not depend on the number of threads") {
  const SearchCase c = small_cases()[0];
  const SearchResult one = search(c.scenario, c.step, {.threads = 1});
  CHECK(same(one, search(c.scenario, c.step, {.threads = 2})));
  CHECK(same(one, search(c.scenario, c.step, {.threads = 4})));
}

TEST_CASE("a stopped search says so and answers with what it has") {
  SearchCase c = small_cases()[0];  // more than one batch of it
  c.scenario.search.ep = {4, 8};
  c.scenario.search.cp = {1, 2};
  std::atomic<bool> stop = true;
  const SearchResult none = search(c.scenario, c.step, {.stop = &stop});
  CHECK(none.statistics.interrupted);
  CHECK(none.best.empty());
  CHECK(none.statistics.smallest_unexplored_bound.si == 0);

  // While bounds are worked out: those that are known are enough for an answer.
  stop = false;
  const SearchResult early =
      search(c.scenario, c.step,
             {.front_within = 100, .stop = &stop, .progress = [&](const SearchProgress& p) {
                if (p.bounded > 0) stop = true;
              }});
  CHECK(early.statistics.interrupted);
  CHECK(early.best.size() == 10);
  CHECK(early.statistics.memory_checked < early.statistics.feasible);
  CHECK(early.statistics.smallest_unexplored_bound.si == 0);

  stop = false;
  const SearchResult some = search(
      c.scenario, c.step,
      {.keep = 3, .front_within = 100, .stop = &stop, .progress = [&](const SearchProgress& p) {
         if (p.simulated > 0) stop = true;
       }});
  CHECK(some.statistics.interrupted);
  CHECK(some.best.size() == 3);
}

TEST_CASE("every candidate that the walk calls legal is, and what it drops is not counted twice") {
  for (const SearchCase& c : small_cases()) {
    INFO(c.name);
    const Candidates space(c.scenario, c.step);
    Tally rejected;
    std::int64_t count = 0, last = -1;
    for (const Candidate& choice : space.legal(rejected)) {
      const Plan p = space.plan(choice);
      const auto why =
          why_illegal(c.scenario.model, c.scenario.cluster, c.scenario.stack, p, c.step);
      INFO(describe(p));
      REQUIRE_FALSE(why);
      REQUIRE(world_size(p) == c.scenario.cluster.gpus);
      // The walk drops micro-batches by this floor: it must be one.
      const int m = static_cast<int>(c.step.global_batch / (p.dp * p.micro_batch));
      REQUIRE(space.least_memory(p) <= memory_use(c.scenario.model, p, c.scenario.stack, c.step,
                                                  make_schedule(p.schedule, p.pp, p.vpp, m))
                                           .peak);
      REQUIRE(choice.id > last);
      last = choice.id;
      ++count;
    }
    for (const auto& [reason, n] : rejected) count += n;
    CHECK(count == space.combinations());
  }
}

TEST_CASE("4 pp micro-batches hold as much memory as any number") {
  // What search.cc relies on to judge memory. GPipe keeps all of them and is left out there.
  SearchCase c = small_cases()[0];
  for (ScheduleKind kind :
       {ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1, ScheduleKind::ZbH2,
        ScheduleKind::ZbV, ScheduleKind::DualPipe, ScheduleKind::DualPipeV}) {
    const bool v = kind == ScheduleKind::ZbV || kind == ScheduleKind::DualPipeV;
    for (int pp : {2, 4})
      for (int vpp : {1, 2}) {
        if (why_illegal(kind, pp, vpp, 4 * pp) || (v && vpp == 1)) continue;
        Plan p{.pp = pp, .vpp = vpp, .dp = 2, .ep = 2, .schedule = kind};
        p.layout = balanced_layout({.layers = 9, .mtp = 1}, pp * vpp);
        const auto peak = [&](int m) {
          return memory_use(c.scenario.model, p, c.scenario.stack, c.step,
                            make_schedule(kind, pp, vpp, m))
              .peak.si;
        };
        INFO(describe(p));
        CHECK(peak(4 * pp) == peak(8 * pp));
        CHECK(peak(4 * pp) == peak(40 * pp));
      }
  }
}

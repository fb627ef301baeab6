// The cluster engine beside SimGrid actors that walk the same Program on the same platform
// (reference/simgrid_ranks.h): random plans of a few layers of catalogue models on 8 to 64 ranks,
// every schedule in turn, with and without sharing of links and SMs, most on ranks of unequal speed
// and load.
//
// Alone both do the same arithmetic, but for the engine's ticks and for when the buckets of a
// reduction between the first and the last are ready. Shared, the engine slows messages and
// data-parallel collectives by what passes leave of the NICs on average, and passes by the SMs that
// reductions take, but not by what those take of the links: it sees half or less of what such
// sharing costs.
#include "reference/simgrid_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <random>

#include "hw-models/catalog.h"
#include "hw-models/cost.h"
#include "hw-models/hardware_fields.h"
#include "planner/lower.h"
#include "planner/model_fields.h"
#include "planner/predict.h"
#include "planner/schedule.h"
#include "sim/cluster.h"

using namespace reckon;
using namespace reckon::plan;

namespace {

struct Case {
  ModelShape model;
  hw::Cluster cluster;
  hw::Stack stack;
  Plan plan;
  StepShape step;
  sim::Disturbances disturbances;
};

constexpr ScheduleKind kSchedules[] = {
    ScheduleKind::GPipe, ScheduleKind::OneFOneB, ScheduleKind::Interleaved, ScheduleKind::ZbH1,
    ScheduleKind::ZbV,   ScheduleKind::DualPipe, ScheduleKind::DualPipeV};

class RandomCases {
 public:
  Case next(ScheduleKind schedule) {
    for (;;)
      if (auto c = draw(schedule)) return *c;
  }

 private:
  template <class T>
  T any_of(std::initializer_list<T> list) {
    return list.begin()[random_() % list.size()];
  }

  std::optional<Case> draw(ScheduleKind schedule) {
    Case c;
    c.model = hw::Catalogue<ModelShape>::entries().at(
        any_of({"deepseek-v3", "qwen3-30b-a3b", "mixtral-8x7b", "llama3.1-8b"}));
    c.cluster = hw::cluster(any_of({"dgx-h100", "h800-2048", "dgx-a100"}));
    // Slow NICs are fuller: more is shared.
    c.cluster.fabric.nic = any_of({1., 1., 0.25}) * c.cluster.fabric.nic;
    c.stack = hw::stack(any_of({"megatron-bridge-2026", "deepseek", "megatron-core-2024"}));
    Plan& p = c.plan;
    p.tp = any_of({1, 1, 2, 4});
    p.pp = any_of({1, 2, 4, 8});
    p.dp = any_of({1, 2, 4, 8, 16});
    c.cluster.gpus = world_size(p);
    if (c.cluster.gpus < 8 || c.cluster.gpus > 64) return std::nullopt;
    if (c.model.moe) p.ep = any_of({4, 8, 16, 16});
    p.schedule = schedule;
    if (p.pp == 1 && schedule != ScheduleKind::OneFOneB) return std::nullopt;
    const bool two = p.schedule == ScheduleKind::Interleaved || p.schedule == ScheduleKind::ZbV ||
                     p.schedule == ScheduleKind::DualPipeV;
    p.vpp = two ? 2 : 1;
    // A layer or two a chunk, the first dense.
    c.model.layers = p.pp * p.vpp * any_of({1, 2});
    c.model.windows.clear();
    if (c.model.moe) {
      c.model.moe->layers.assign(static_cast<std::size_t>(c.model.layers), true);
      c.model.moe->layers[0] = any_of({true, false});
    }
    c.model.mtp_depth = 0;
    p.layout = balanced_layout({.layers = c.model.layers}, p.pp * p.vpp);
    p.precision = any_of({Precision::Bf16, Precision::Bf16, Precision::Fp8DeepSeek});
    p.recompute.mode = any_of({Recompute::Mode::None, Recompute::Mode::Full});
    p.zero = any_of({Zero::None, Zero::Optimizer, Zero::Full});
    p.overlap = {.grad_reduce = any_of({true, false}),
                 .param_gather = any_of({true, false}),
                 .tp = any_of({true, false}),
                 .p2p = any_of({true, true, false}),
                 .expert = any_of(
                     {Overlap::Expert::None, Overlap::Expert::OneFOneB, Overlap::Expert::Pair})};
    c.step = {.seq = 4096, .global_batch = std::int64_t{p.dp} * p.pp * any_of({1, 2, 3})};
    if (why_illegal(c.model, c.cluster, c.stack, p, c.step)) return std::nullopt;
    c.disturbances.seed = random_();
    if (any_of({true, false})) c.disturbances.device.spread = 0.02;
    if (any_of({true, false})) c.disturbances.slot.spread = 0.02;
    if (p.ep > 1 && any_of({true, false}))
      c.disturbances.load = {.kind = sim::Load::Kind::Dirichlet, .spread = 0.1};
    return c;
  }

  std::mt19937 random_{5};
};

enum class Shares { None, Links, All };  // NICs and NVLink; and SMs

sim::CostOf costs(const Case& c, Shares shares) {
  return [&c, shares](const sim::Work& w) {
    sim::OpCost cost = hw::cost(w, c.cluster, c.stack);
    cost.hbm_share = cost.drift = 0;
    cost.beside_compute = 1;
    if (shares != Shares::All) cost.sm_share = 0;
    if (shares == Shares::None) cost.nvlink_share = cost.nic_share = 0;
    return cost;
  };
}

sim::Program lowered(const Case& c) {
  const auto m = static_cast<int>(c.step.global_batch / c.plan.dp);
  return Lowering(c.model, c.cluster, c.stack)
      .lower(c.plan, c.step, make_schedule(c.plan.schedule, c.plan.pp, c.plan.vpp, m));
}

// On all ranks.
std::size_t ops(const sim::Program& program) {
  std::size_t n = 0;
  for (const sim::Role& role : program.roles) {
    for (const sim::Slot& s : role.slots) n += program.blocks[s.block]->ops.size() * role.ranks;
    n += program.blocks[role.tail]->ops.size() * role.ranks;
  }
  return n;
}

struct Compared {
  double step = 0;     // ours over SimGrid's, less 1
  double slots = 0;    // largest difference of any slot's end on any rank, over the step
  double simgrid = 0;  // step in seconds
  double cpu_seconds = 0;
};

Compared compared(const Case& c, const sim::Program& program, bool shared) {
  const Seconds host = c.stack.cuda_graphs ? Seconds(0) : c.stack.host_per_kernel;
  // Alone: communications that fill their links, which nobody shares.
  sim::BlockTimes times(costs(c, shared ? Shares::All : Shares::None), host);
  sim::BlockTimes theirs(costs(c, shared ? Shares::All : Shares::Links), host);
  const sim::ClusterRun ours = sim::run_cluster(program, times, c.disturbances);
  const auto truth = reference::run_simgrid_ranks({program, theirs, host, c.disturbances}, shared);
  REQUIRE(truth);
  Compared out{.step = sim::seconds(ours.end).si / truth->end - 1,
               .simgrid = truth->end,
               .cpu_seconds = truth->cpu_seconds};
  for (std::size_t r = 0; r < program.roles.size(); ++r)
    for (std::size_t s = 0; s < program.roles[r].slots.size(); ++s)
      for (std::uint32_t k = 0; k < ours.members; ++k) {
        const double end = sim::seconds(ours.slots[r][s * ours.members + k].end).si;
        out.slots = std::max(out.slots, std::abs(end - truth->ends[r][s][k]) / truth->end);
      }
  return out;
}

}  // namespace

TEST_CASE("the cluster engine beside SimGrid actors", "[simgrid]") {
  RandomCases random;
  constexpr int kCases = 35;
  constexpr std::size_t kMostOps = 30'000;  // SimGrid does some 50,000 a second
  Compared worst[2];
  double simgrid_s = 0;
  int contended = 0, disturbed = 0, plans = 0;
  fmt::print("{:>5} {:>6} {:>9} | {:>8} {:>8} | {:>8} {:>8} {:>8} | {}\n", "ranks", "ops",
             "disturbed", "alone", "slots", "sharing", "shared", "slots", "plan");
  while (plans < kCases) {
    const Case c = random.next(kSchedules[static_cast<std::size_t>(plans) % std::size(kSchedules)]);
    const sim::Program program = lowered(c);
    if (ops(program) > kMostOps) continue;
    ++plans;
    const Compared alone = compared(c, program, false), shared = compared(c, program, true);
    // What the disturbances and the sharing are worth, in SimGrid's own times.
    const double sharing = shared.simgrid / alone.simgrid - 1;
    contended += sharing > 0.01;
    disturbed +=
        c.disturbances.device.any() || c.disturbances.slot.any() || c.disturbances.load.any();
    fmt::print(
        "{:>5} {:>6} {:>9} | {:>+6.2f} % {:>6.2f} % | {:>+6.1f} % {:>+6.2f} % {:>6.2f} % | {} "
        "{} {}\n",
        world_size(c.plan), ops(program),
        fmt::format("{}{}{}", c.disturbances.device.any() ? "GPU " : "",
                    c.disturbances.slot.any() ? "op " : "", c.disturbances.load.any() ? "EP" : ""),
        100 * alone.step, 100 * alone.slots, 100 * sharing, 100 * shared.step, 100 * shared.slots,
        c.model.name, c.cluster.name, describe(c.plan));
    simgrid_s += alone.cpu_seconds + shared.cpu_seconds;
    for (const auto& [w, x] : {std::pair(&worst[0], &alone), std::pair(&worst[1], &shared)}) {
      w->step = std::max(w->step, std::abs(x->step));
      w->slots = std::max(w->slots, x->slots);
    }
  }
  fmt::print(
      "largest error of {} plans, {} of them disturbed, {} lengthened by sharing by more than 1 %: "
      "alone {:.2f} % of the step, {:.2f} % of it in any slot's end; shared {:.2f} %, {:.2f} %; "
      "SimGrid took {:.1f} s\n",
      plans, disturbed, contended, 100 * worst[0].step, 100 * worst[0].slots, 100 * worst[1].step,
      100 * worst[1].slots, simgrid_s);
  CHECK(contended >= 10);
  CHECK(disturbed >= 20);
  CHECK(worst[0].step <= 0.01);
  CHECK(worst[0].slots <= 0.001);
  CHECK(worst[1].step <= 0.05);
  CHECK(worst[1].slots <= 0.05);
}
